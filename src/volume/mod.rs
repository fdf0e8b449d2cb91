//! The virtual disk: head, takeover, view and tip, checkpoint, states, snapshots, clones.

mod catalog;
mod checkpoint;
mod handle;
mod head;
mod read;
mod session;
mod space;
#[cfg(test)]
mod tests;

pub use catalog::{
    Copied, Copying, Flattened, HistoryMark, MapWalk, OpenMode, Salvaged, SnapshotView, Trash, TrashedSnapshot, TrashedVolume,
    Unreadable, Volumes, copy_snapshot, end_all, rename, snapshot_group,
};
pub use checkpoint::{CheckReport, Flattening};
pub use handle::Volume;
pub use head::{
    BootTrace, Direction, FlushMode, Host, Limits, Parent, SnapshotInfo, TakeOver, VolumeInfo, VolumeSettings,
};
pub use read::{EngineContext, Memory, Since, Tuning};
pub use space::{Freed, Sweeps};

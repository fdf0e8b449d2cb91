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
    MapWalk, OpenMode, Salvaged, SnapshotView, Unreadable, Volumes, end_all, rename, snapshot_group,
};
pub use checkpoint::CheckReport;
pub use handle::Volume;
pub use head::{FlushMode, Host, Parent, SnapshotInfo, TakeOver, VolumeInfo, VolumeSettings};
pub use read::{EngineContext, Memory, Tuning};
pub use space::Sweeps;

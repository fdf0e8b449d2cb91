//! The virtual disk: head, takeover, view and tip, checkpoint, states, snapshots, clones.

mod catalog;
mod checkpoint;
mod copies;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handle;
mod head;
mod mirror;
mod mirroring;
mod read;
mod session;
mod space;
#[cfg(test)]
mod tests;

pub use catalog::{
    CloneAs, DataKeyUse, Emptied, Finished, Flattened, HistoryMark, LockEnd, MapWalk, OpenMode, Removal,
    Salvaged, TakenIn, Trash, TrashedSnapshot, TrashedVolume, Unreadable, Volumes, VolumesUsage,
    check_unread, end_all, lost_midway, rename, snapshot_as, snapshot_group,
};
pub use checkpoint::{CheckReport, Flattening};
pub use copies::{
    Copied, Copying, MovedVolume, Moving, MovingClients, applied_mark, check_other, copy_mark, copy_snapshot,
    finish_move, give_up_move, is_applied_mark, move_volume, moved_to, while_moved,
};
pub use handle::{Attachment, Filling, Passage, Reading, SnapshotView, Volume};
pub use head::{
    BootTrace, Clients, Direction, FlushMode, Host, Limits, MirrorInfo, MirrorLoss, Parent, Rotation,
    SnapshotInfo, TakeOver, VolumeInfo, VolumeSettings,
};
pub use mirror::{Begin, MirrorHost};
pub use mirroring::serve_mirror;
pub use read::{EngineContext, Memory, Since, Tuning};
pub use space::{Freed, SnapshotId, Sweeps};

//! A pool's volumes: names, clones, groups, reports, and what scrub and salvage ask of them.

mod alter;
mod check_volume;
mod create_clone_remove;
mod loss;
mod marks_in_log;
mod names;
mod new_stores;
mod readers;
mod report;
mod snapshots;
mod space;
mod trash;
mod volume_keys;
mod volumes;

pub use alter::Flattened;
pub use create_clone_remove::{CloneAs, check_unread, end_all};
pub use loss::{MapWalk, Salvaged, Unreadable};
pub use names::rename;
pub use new_stores::{Finished, TakenIn, lost_midway};
pub use snapshots::{HistoryMark, LockEnd, Removal, snapshot_as, snapshot_group};
pub use space::VolumesUsage;
pub use trash::{Emptied, Trash, TrashedSnapshot, TrashedVolume};
pub use volume_keys::DataKeyUse;
pub use volumes::{OpenMode, Volumes};

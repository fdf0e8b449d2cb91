//! A pool's volumes: names, clones, groups, reports, and what scrub and salvage ask of them.

mod alter;
mod create_clone_remove;
mod gates;
mod names;
mod readers;
mod report;
mod salvage_journal;
mod snapshots;
mod space;
mod trash;
mod unreadable_ranges;
mod volume_keys;
mod volumes;
mod walk_for_new_stores;

pub use alter::Flattened;
pub use create_clone_remove::{CloneAs, end_all};
pub use names::rename;
pub use readers::Reading;
pub use salvage_journal::Salvaged;
pub use snapshots::{HistoryMark, LockEnd, snapshot_as, snapshot_group};
pub use trash::{Trash, TrashedSnapshot, TrashedVolume};
pub use unreadable_ranges::{MapWalk, Unreadable};
pub use volume_keys::DataKeyUse;
pub use volumes::{OpenMode, Volumes};

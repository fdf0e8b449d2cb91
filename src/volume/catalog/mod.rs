//! A pool's volumes: names, clones, groups, reports, and what scrub and salvage ask of them.

mod admit_witness;
mod alter;
mod clone_and_remove;
mod end_all;
mod group;
mod holders;
mod inventory;
mod moments;
mod names;
mod report;
mod salvage;
mod trash;
mod unreadable;
mod usage;
mod volumes;

pub use alter::Flattened;
pub use end_all::end_all;
pub use group::snapshot_group;
pub use moments::HistoryMark;
pub use names::rename;
pub use salvage::Salvaged;
pub use trash::{TrashedSnapshot, TrashedVolume};
pub use unreadable::{MapWalk, Unreadable};
pub use volumes::{OpenMode, SnapshotView, Volumes};

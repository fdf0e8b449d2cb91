//! A pool's volumes: names, clones, groups, reports, and what scrub and salvage ask of them.

mod admit_witness;
mod clone_and_remove;
mod group;
mod holders;
mod inventory;
mod report;
mod salvage;
mod settings;
mod template;
mod unreadable;
mod usage;
mod volumes;

pub use group::snapshot_group;
pub use salvage::Salvaged;
pub use unreadable::{MapWalk, Unreadable};
pub use volumes::{OpenMode, SnapshotView, Volumes};

//! The virtual disk: head, takeover, view and tip, checkpoint, states, snapshots, clones.

mod admit;
mod build;
pub mod cell;
mod check;
mod checkpoint;
mod collect;
mod confirm;
mod cutter;
mod degrade;
mod deps;
mod family;
mod group;
mod handle;
pub mod head;
mod info;
mod inventory;
mod logbook;
mod open;
mod overlay;
mod pending;
mod ranges;
mod release;
mod report;
mod rounds;
mod salvage;
mod session;
mod settings;
mod snapshot;
mod space;
mod states;
mod stop;
pub mod takeover;
#[cfg(test)]
mod tests;
mod tip;
mod view;
mod volumes;
mod write;

pub use check::CheckReport;
pub use deps::{Deps, Memory, Tuning};
pub use group::snapshot_group;
pub use handle::Volume;
pub use info::{Parent, SnapshotInfo, TakeOver, VolumeInfo};
pub use salvage::Salvaged;
pub use settings::{FlushMode, Host, Settings};
pub use volumes::{OpenMode, SnapshotView, Volumes};

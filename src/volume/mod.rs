//! The virtual disk: head, takeover, view and tip, checkpoint, states, snapshots, clones.

pub mod cell;
pub mod head;
mod info;
mod settings;
pub mod takeover;
mod volumes;

pub use info::{Parent, SnapshotInfo, TakeOver, VolumeInfo};
pub use settings::{FlushMode, Host, Settings};
pub use volumes::{Deps, Memory, OpenMode, SnapshotView, Volume, Volumes, snapshot_group};

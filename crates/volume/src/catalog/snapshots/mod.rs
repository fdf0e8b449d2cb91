//! Snapshots of the catalog's volumes: groups at one instant, moments of the past, locks, and the clones that need them.

mod group;
mod holders;
mod moments;
mod open_snapshot;
mod snapshot_locks;

pub use group::{snapshot_as, snapshot_group};
pub use holders::Removal;
pub use moments::HistoryMark;
pub use open_snapshot::{not_built_yet, tables_with};
pub use snapshot_locks::{LockEnd, end_locks};

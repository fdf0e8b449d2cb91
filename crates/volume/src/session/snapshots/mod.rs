//! Snapshots of a volume that is open, and what else changes its states.

mod automatic_snapshots;
mod roll_back_rename_grow;
mod snapshot;

pub use automatic_snapshots::keep_history;
pub use roll_back_rename_grow::drop_base;
pub use snapshot::{Group, frozen_by_take_over, no_snapshot};

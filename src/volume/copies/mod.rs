//! Copies of snapshots in other volumes, of any pool that this engine has open.

mod copy_note;
mod copy_sides;
mod copy_snapshot;

pub use copy_snapshot::{Copied, Copying, copy_snapshot};

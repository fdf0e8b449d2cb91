//! Checkpoints of a session: the new map, the change of the head, compaction, deletion, and the check.

mod build;
mod check;
mod checkpointer;
mod compaction;
mod delete_objects;
mod flatten;
mod recompress;
mod rotation;
mod sweep;

pub use check::{CheckReport, check};
pub use checkpointer::make_checkpoints;
pub use compaction::compact;
pub use delete_objects::delete_retired;
pub use flatten::Flattening;
pub use sweep::sweep_when_due;

//! The bucket as the filesystem asks it: deadlines, settled outcomes, deletes many at a time, and a circuit breaker for
//! a store that does not answer.

mod act_copy;
mod below;
mod circuit_breaker;
mod client;
mod copy_etags;
mod deferred_deletes;
mod late_puts;
mod remover;

pub use act_copy::{ActCopy, SeenObject};
pub use below::is_marker;
pub use client::{BucketClient, UploadNotes, is_of_disk};
pub use remover::Doomed;

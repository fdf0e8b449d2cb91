//! Every change of a head as a pure function, each file with those of one concern.
//!
//! Owns the conditions of protocol.md §1 and §2.5: who may claim, when a record, a checkpoint or a release is allowed, what a
//! standing claim freezes. Does no I/O and draws nothing: nonces and times come in as arguments. Each change recognises that it
//! has happened already (`Move::Already`), because a register calls it again after an unknown outcome.

mod checkpoint;
mod copy_round;
mod flatten;
mod handover;
#[cfg(test)]
pub(super) mod heads_for_tests;
mod holds;
mod mirror;
mod ownership;
mod release_and_leave;
mod removal;
mod rename;
mod settings_and_size;

pub use checkpoint::Back;
pub use ownership::{Claimer, Recording};
pub use removal::Removal;

//! The register: a small linearizable value kept by a majority of stores. CASPaxos with one object a store as
//! acceptor, changed by conditional put on its etag; no server, no clock (protocol.md §2).
//!
//! Owns the acceptor object (`object`), one acceptor's verbs with what makes an answer count (`acceptor`), the
//! rounds (`round`) and the register itself (`proposer`). A value is opaque here.
//!
//! Invariants, each found necessary by `register_model.py`:
//! - A ballot is used by one attempt for one value: every attempt of two rounds draws a proposer id of its own.
//! - Both rounds are puts; a get promises nothing. A put has a fresh nonce, so that an etag stands for one put.
//! - An accept promises the next ballot to its own attempt. Only that ballot may skip the first round, only once, only
//!   after the accept was known chosen, only on acceptors whose etag is the one which that accept's put returned.
//! - A chosen write may be put on acceptors that took no part in its first round, where a look, and the put's
//!   if-match, show no promise above it.
//! - What can't be read counts for nothing; it is replaced only by a value known chosen without it (`mending`).
//! - After any other outcome the next attempt takes both rounds, above everything read.
//! - What an acceptor shows (also: nothing) and what an if-absent put stored count only when the store attested
//!   after it; an if-match that matched, or an own etag, needs nothing more.
//!
//! - A generation of the pool's membership ends a register's with a seal, a change like any other: who meets one gets it
//!   known chosen, then goes on among the stores that it lists, beginning with its value (`generation`).
//!
//! It does not know what a value means, does not change the membership, and never deletes an acceptor.

mod acceptor;
mod damaged_copies;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod gather_answers;
mod generation;
mod object;
mod proposer;
mod set_back;

pub(crate) use damaged_copies::{Copy, Progressed};
pub(crate) use object::{Told, description_in};
pub use proposer::{Change, Register, Veto};
pub use set_back::Compared;

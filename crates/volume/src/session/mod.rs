//! An open volume's session: one epoch of ownership, from take-over to release, and every write in it.

mod chunker;
mod confirm_and_flush;
mod degrade;
mod pending;
mod range_lock;
mod release;
mod session_core;
mod snapshots;
pub mod takeover;
mod tip;
mod write;
mod write_gate;
mod write_throttle;

pub use chunker::cut_chunks;
pub use confirm_and_flush::{confirm, confirm_when_asked, mend_journal, store_upto, trim_journal};
pub use degrade::watch_stores;
pub use range_lock::Arrivals;
pub use release::{LastAct, Released};
pub use session_core::Session;
pub use snapshots::{Group, drop_base, frozen_by_take_over, keep_history, no_snapshot};
pub use tip::{Kept, Tip};
pub use write::{watch_quota, write_again};
pub use write_gate::{Gate, close_gate};

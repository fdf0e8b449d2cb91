//! An open volume's session: one epoch of ownership, from take-over to release, and every write in it.

mod active;
mod chunker;
mod confirm;
mod confirm_rounds;
mod degrade;
mod history;
mod pending;
mod range_lock;
mod release;
mod snapshot;
pub mod takeover;
mod tip;
mod write;
mod write_throttle;

pub use active::Session;
pub use chunker::cut_chunks;
pub use confirm::{confirm_when_asked, mend_journal};
pub use degrade::watch_stores;
pub use history::keep_history;
pub use range_lock::Arrivals;
pub use release::{LastAct, Released};
pub use snapshot::{Group, frozen_by_take_over, no_snapshot};
pub use tip::{Kept, Tip};
pub use write::{watch_quota, write_again};

//! What a session promises: confirm rounds, flushes that wait for them, and the journal that failed.

mod confirm;
mod confirm_rounds;
mod flush;
mod journal_restart_signals;
mod mend_journal;
mod other_hosts;

pub use confirm::{confirm, confirm_when_asked};
pub use confirm_rounds::ConfirmRounds;
pub use flush::store_upto;
pub use journal_restart_signals::JournalRestart;
pub use mend_journal::{mend_journal, trim_journal};

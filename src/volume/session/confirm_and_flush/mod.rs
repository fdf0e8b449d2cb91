//! What a session promises: confirm rounds, flushes that wait for them, and the journal that failed.

mod confirm;
mod confirm_rounds;
mod journal_restart;
mod other_hosts;

pub use confirm::{Gate, confirm_when_asked, mend_journal};
pub use confirm_rounds::ConfirmRounds;
pub use journal_restart::JournalRestart;

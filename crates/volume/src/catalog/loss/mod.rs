//! After a loss: a volume that is taken over, one from a journal that was put aside, and which bytes lie in chunks that are gone.

mod salvage_journal;
mod take_over;
mod unreadable_ranges;

pub use salvage_journal::Salvaged;
pub use unreadable_ranges::{MapWalk, Unreadable};

//! After a loss: a volume from a journal that was put aside, and which bytes lie in chunks that are gone.

mod salvage_journal;
mod unreadable_ranges;

pub use salvage_journal::Salvaged;
pub use unreadable_ranges::{MapWalk, Unreadable};

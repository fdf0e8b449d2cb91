//! Local durability: segments, group commit, replay. Needs neither log nor map.

mod format;
mod handle;
mod recover;
mod replay;
mod ring;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use handle::{Journal, JournalConfig, Recovered, Room, Usage};
pub use replay::Replay;

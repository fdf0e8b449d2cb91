//! Local durability: segments, group commit, replay. Needs neither log nor map.

mod handle;

pub use handle::{Journal, JournalConfig, Recovered, Replay, Room, Usage};

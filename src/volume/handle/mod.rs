//! The handle that clients use, and how a volume is opened.

mod open;
mod start;
mod volume;

pub use open::lineage;
pub use volume::{Known, Volume};

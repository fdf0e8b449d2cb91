//! What a host knows of its pool and keeps on the local disk: missed shards and deletions, what a scrub found and where it was.

mod findings;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod missed_deletes;
mod missing_shards;
mod scrub_cursor;
mod scrub_options;

pub use findings::{Finding, Located, Progress, RepairReport, ScrubReport, Watch};
pub use missing_shards::{Damage, MissingShards};
pub use scrub_cursor::{LastScrub, ScrubCursor};
pub use scrub_options::ScrubOptions;

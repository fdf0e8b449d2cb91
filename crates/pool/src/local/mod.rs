//! What a host knows of its pool and keeps on the local disk: missed shards and deletions, what a scrub found and where it was,
//! the time.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host_clock;
mod missed_deletes;
mod missing_shards;
mod proven_servers;
mod scrub_cursor;
mod scrub_options;
mod scrub_repair_report;

pub use host_clock::{HostClock, about_jump};
pub use missing_shards::{Damage, MissingShards};
pub use proven_servers::ProvenServers;
pub use scrub_cursor::{LastScrub, ScrubCursor};
pub use scrub_options::ScrubOptions;
pub use scrub_repair_report::{Finding, Located, Progress, RepairReport, ScrubReport, Watch};

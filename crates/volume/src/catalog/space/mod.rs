//! What volumes take of a pool: what would be freed, the quota, and which chunks are needed.

mod freed_space;
mod inventory;
mod log_end;
mod log_ends;
mod pool_quota_usage;
mod tally;
mod usage;

pub use freed_space::shared;
pub use log_end::LogEnd;
pub use tally::{Tally, VolumesUsage};

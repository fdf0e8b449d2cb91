//! Read cache: decoded frames in memory, below them frames as stored on local disk.

mod disk;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod memory;

pub use disk::{DiskCache, DiskCacheConfig, DiskStats};
pub use memory::{Flight, FrameCache, FrameKey, Lookup, MemoryStats, Waiter};

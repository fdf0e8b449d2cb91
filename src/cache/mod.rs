//! Read cache: decoded frames in memory (later: frames as stored, on local disk).

mod memory;

pub use memory::{Flight, FrameCache, FrameKey, Lookup, MemoryStats, Waiter};

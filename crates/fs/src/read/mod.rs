//! Reading objects: read-ahead, and a cache of what was read on the local disk.

mod disk_cache;
mod read_ahead;

#[cfg(test)]
pub use disk_cache::BLOCK;
pub use disk_cache::BlockCache;
pub use read_ahead::{ReadAhead, Reader};

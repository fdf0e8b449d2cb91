//! What the stores hold of one chunk: counted for takeovers, fetched and completed.

use bytes::Bytes;

use super::chunk::Chunk;
use super::footer::About;

/// What the stores answered about a chunk. `good + unknown + absent` = N.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// D: stores that are in and hold a shard whose footer is right.
    pub good: usize,
    /// Stores that are in, count as witnesses, and have none.
    pub absent: usize,
    /// U: no answer, out, not a witness, or an object that can't be read as the chunk's shard (it was written once).
    pub unknown: usize,
    /// From the footers, when there is a good one.
    pub about: Option<About>,
}

/// A chunk's contents as the stores hold them, verified by the payload hash.
#[derive(Clone, Debug)]
pub struct Payload {
    pub chunk: Chunk,
}

impl Payload {
    /// The bytes at a virtual offset, when the shard has them.
    pub fn slice(&self, _offset: u64, _len: u32) -> Option<Bytes> {
        None
    }
}

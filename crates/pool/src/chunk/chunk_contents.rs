//! A chunk as it is given to the pool to keep.

use bytes::Bytes;

use windlass_base::{ChunkId, Era};

/// Kind of a chunk, by what its frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    Data = 0,
    Map = 1,
    /// A pack: what is left of several chunks. It is not part of the log.
    Pack = 2,
}

/// A chunk, cut into data shards at frame boundaries: shard i holds the virtual bytes from `i * SHARD_SPAN` on.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub id: ChunkId,
    pub era: Era,
    pub kind: ChunkKind,
    /// The k data shards, each at most `SHARD_SPAN` long, the last ones perhaps empty. One whose buffer is not shared and has
    /// `FOOTER_MAX` bytes of spare capacity is sent without a copy.
    pub shards: Vec<Bytes>,
    /// The table of contents: a virtual offset in the last data shard, and its length.
    pub toc_offset: u64,
    pub toc_len: u32,
}

//! What is given to the pool to keep, and what callers answer about it.

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::{ChunkId, Era, Result};

/// What a chunk's frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    Data = 0,
    Map = 1,
    /// What is left of several chunks: not part of the log.
    Pack = 2,
}

/// A chunk, cut into data shards at frame boundaries: shard i holds the virtual bytes from `i * SHARD_SPAN` on.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub id: ChunkId,
    pub era: Era,
    pub kind: ChunkKind,
    /// k of them, each at most `SHARD_SPAN` long, the last ones perhaps empty. One whose buffer is not shared and has
    /// `FOOTER_MAX` bytes of spare capacity is sent without a copy.
    pub shards: Vec<Bytes>,
    /// The table of contents: a virtual offset in the last data shard, and its length.
    pub toc_offset: u64,
    pub toc_len: u32,
}

/// Is a chunk needed?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A recorded state of a volume needs it.
    Live,
    /// No recorded state needs it or ever will.
    Dead,
    /// The same, but readers may still come for it: its volume's owner deletes it when its grace is over.
    Leaving,
    /// Not decided: of an epoch that nobody closed yet, or of a volume that can't be read now.
    Unknown,
}

impl Fate {
    /// What is missing of it is no loss.
    pub fn is_over(self) -> bool {
        matches!(self, Fate::Dead | Fate::Leaving)
    }
}

/// What scrub and repair ask about chunks; whoever knows the volumes answers.
#[async_trait]
pub trait Inventory: Send + Sync {
    async fn fate(&self, id: ChunkId) -> Result<Fate>;
    /// The chunks after this one that are certainly live, in order, at most `max`; fewer only at the end.
    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>>;
}

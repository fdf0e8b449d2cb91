//! Which chunks there are to be: what scrub and repair ask of whoever knows the volumes.

use std::collections::BTreeSet;

use async_trait::async_trait;

use windlass_base::{ChunkId, Error, Result, VolumeId};

/// The answer to whether a chunk is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A recorded state of a volume needs it.
    Live,
    /// No recorded state needs the chunk or ever will.
    Dead,
    /// No recorded state needs the chunk or ever will, but readers may still come for it: its volume's owner deletes it when
    /// its grace period is over.
    Leaving,
    /// Nobody can tell yet: the chunk belongs to an epoch that nobody closed yet, or to a volume that can't be read now.
    Unknown,
}

impl Fate {
    /// Tells whether nobody will need the chunk again, so that a shard missing of it is no loss.
    pub fn is_over(self) -> bool {
        matches!(self, Fate::Dead | Fate::Leaving)
    }
}

/// The questions about chunks that scrub and repair ask of whoever knows the volumes.
#[async_trait]
pub trait Inventory: Send + Sync {
    async fn fate(&self, id: ChunkId) -> Result<Fate>;
    /// Returns the chunks after this one that are certainly live, in order, at most `max`; fewer only at the end.
    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>>;
    /// Learns what owners have stored since the last checkpoints of their volumes, as far as it can be followed without a gap:
    /// `fate` and `live_after` know it from now on. Returns an error for each volume of which that can't be told, with the
    /// reason. Changes nothing in the stores.
    async fn learn_log_ends(&self) -> Result<Vec<Error>>;
    /// Returns an error, with the reason, for each volume whose newest part can't be told with the stores that answer now;
    /// none if every volume's can be.
    async fn undecided(&self) -> Result<Vec<Error>>;
    /// Volumes of which nothing could be told when that was asked for last, and why. Of their chunks nobody knows which are live.
    fn unread(&self) -> Vec<(VolumeId, String)>;
}

/// The question that the pool asks right before it deletes chunks which were found dead earlier, however long ago that was.
/// The stores may have been put back from a backup since, and need the chunks.
#[async_trait]
pub trait DeletionCheck: std::fmt::Debug + Send + Sync {
    /// Judges the chunks by heads that are read after this call began, and that are not behind what this host has seen
    /// recorded.
    async fn check(&self, ids: &BTreeSet<ChunkId>) -> Checked;
}

/// The caches of whoever reads the pool's chunks. A cache trusts checksums that a false shard had as well.
#[async_trait]
pub trait ReadCaches: std::fmt::Debug + Send + Sync {
    /// Drops all that was read, now and for who starts next, and keeps nothing that is being read. The pool calls this when a
    /// shard's contents were replaced by others.
    async fn empty(&self);
}

/// The chunks in question whose fate is certain now. A chunk is in neither set where its fate can't be told.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// No recorded state needs these, or ever will.
    pub dead: BTreeSet<ChunkId>,
    /// A recorded state needs these.
    pub live: BTreeSet<ChunkId>,
}

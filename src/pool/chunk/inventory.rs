//! Which chunks there are to be: what scrub and repair ask of whoever knows the volumes.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::base::{ChunkId, Error, Result, VolumeId};

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
    /// From now on `fate` and `live_after` know of what owners have stored since the last checkpoints of their volumes, as far as it
    /// can be followed without a gap. Volumes of which that can't be told, and why. Changes nothing in the stores.
    async fn learn_log_ends(&self) -> Result<Vec<Error>>;
    /// Whether the newest part of every volume can be told with the stores that answer now; why not, for each of which it can't.
    async fn undecided(&self) -> Result<Vec<Error>>;
    /// Volumes of which nothing could be told when that was asked for last, and why. Of their chunks nobody knows which are live.
    fn unread(&self) -> Vec<(VolumeId, String)>;
}

/// What the pool asks right before it deletes chunks that were found dead earlier, however long ago that was: the stores may
/// have been put back from a backup since, and need the chunks.
#[async_trait]
pub trait DeletionCheck: std::fmt::Debug + Send + Sync {
    /// By heads that are read after this call, and that are not behind what this host has seen recorded.
    async fn check(&self, ids: &BTreeSet<ChunkId>) -> Checked;
}

/// What of the chunks is certain now. A chunk is in neither set where that can't be told.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// No recorded state needs these, or ever will.
    pub dead: BTreeSet<ChunkId>,
    /// A recorded state needs these.
    pub live: BTreeSet<ChunkId>,
}

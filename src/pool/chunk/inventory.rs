//! Which chunks there are to be: what scrub and repair ask of whoever knows the volumes.

use async_trait::async_trait;

use crate::base::{ChunkId, Result};

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

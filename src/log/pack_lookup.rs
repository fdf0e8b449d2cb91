//! Where a chunk's frames lie by now: in the chunk itself, or in a pack.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;

use super::pack::Slice;
use crate::base::{ChunkId, Result, VolumeId};

/// A slice of a pack: where its index lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InPack {
    pub pack: ChunkId,
    pub at: u64,
    pub len: u32,
}

/// Who knows the chunk tables of a volume and its ancestors.
#[async_trait]
pub trait Places: Send + Sync + std::fmt::Debug {
    /// What is known of a chunk; none: it lies where it was written, as far as is known.
    fn find(&self, chunk: &ChunkId) -> Option<InPack>;
    /// Something was sealed by a data key of this volume that is not known here: takes in those that its head has by now.
    /// Whether there was a new one.
    async fn look_for_keys(&self, volume: VolumeId) -> Result<bool>;
    /// It was not there. Whether by the newest table it is elsewhere.
    async fn look_again(&self, chunk: &ChunkId, was: Option<InPack>) -> Result<bool>;
}

/// Indexes of slices in memory, shared by all volumes of a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Slices(Arc<Mutex<LruCache<InPack, Arc<Slice>>>>);

/// Slices kept: each a few thousand frames of 24 bytes.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");

impl Default for Slices {
    fn default() -> Slices {
        Slices(Arc::new(Mutex::new(LruCache::new(KEPT))))
    }
}

impl Slices {
    pub(super) fn get(&self, at: &InPack) -> Option<Arc<Slice>> {
        self.0.lock().get(at).cloned()
    }

    pub(super) fn put(&self, at: InPack, slice: Arc<Slice>) {
        self.0.lock().put(at, slice);
    }
}

//! Where a chunk's frames lie by now: in the chunk itself, or in a pack.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;

use super::pack::Slice;
use windlass_base::{ChunkId, Result, VolumeId};

/// The place of the index of a slice: pack, offset and length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InPack {
    pub pack: ChunkId,
    pub at: u64,
    pub len: u32,
}

/// Knowledge of where the chunks of a volume and its ancestors lie by now, taken from their chunk tables.
#[async_trait]
pub trait Places: Send + Sync + std::fmt::Debug {
    /// Returns the slice that has the frames of a chunk; `None` when the chunk lies where it was written, as
    /// far as is known.
    fn find(&self, chunk: &ChunkId) -> Option<InPack>;
    /// Looks for data keys of this volume that are not known here, since something is sealed by one: takes in
    /// those that its head has by now. Returns whether there was a new one.
    async fn look_for_keys(&self, volume: VolumeId) -> Result<bool>;
    /// Looks for a chunk in the newest chunk table, since it was not where `was` says. Returns whether the
    /// chunk is known to be elsewhere by now.
    async fn look_again(&self, chunk: &ChunkId, was: Option<InPack>) -> Result<bool>;
}

/// Indexes of slices in memory, shared by all volumes of a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Slices(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    slices: LruCache<InPack, Arc<Slice>>,
    /// Number of times that the cache was emptied.
    emptied: u64,
}

/// Number of slices that are kept: each has a few thousand frames of 24 bytes.
const SLICES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");

impl Default for Slices {
    fn default() -> Slices {
        Slices(Arc::new(Mutex::new(Kept { slices: LruCache::new(SLICES_MAX), emptied: 0 })))
    }
}

impl Slices {
    pub(super) fn get(&self, at: &InPack) -> Option<Arc<Slice>> {
        self.0.lock().slices.get(at).cloned()
    }

    /// Returns how often the cache was emptied, for `put_since`.
    pub(super) fn emptied(&self) -> u64 {
        self.0.lock().emptied
    }

    /// Keeps a slice, unless the cache was emptied since the slice was asked for.
    pub(super) fn put_since(&self, emptied: u64, at: InPack, slice: Arc<Slice>) {
        let mut kept = self.0.lock();
        if kept.emptied == emptied {
            kept.slices.put(at, slice);
        }
    }

    /// Drops all slices, and keeps none that is on its way: stores may have given false ones.
    pub fn empty(&self) {
        let mut kept = self.0.lock();
        kept.slices.clear();
        kept.emptied += 1;
    }
}

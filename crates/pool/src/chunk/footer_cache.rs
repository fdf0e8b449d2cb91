//! Footers read lately: while a store is away, each degraded read needs k of them.
//!
//! A footer is kept once bytes that it covers were decoded and verified, so that the footer of a false shard is not. The rest
//! of that shard may be false even so, and a repair then replaces the shard: a footer that does not cover what its store answers
//! is forgotten and read again.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::footer::Footer;
use windlass_base::ChunkId;

/// Number of footers that are kept at most, each of at most about 1.5 KiB.
const KEPT: NonZeroUsize = NonZeroUsize::new(2048).expect("it is not zero");

type Hasher = std::hash::BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>;

pub struct FooterCache(Mutex<LruCache<(ChunkId, usize), Arc<Footer>, Hasher>>);

impl Default for FooterCache {
    fn default() -> FooterCache {
        FooterCache(Mutex::new(LruCache::with_hasher(KEPT, Hasher::default())))
    }
}

impl std::fmt::Debug for FooterCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FooterCache")
    }
}

impl FooterCache {
    pub(crate) fn get(&self, id: &ChunkId, shard: usize) -> Option<Arc<Footer>> {
        self.0.lock().get(&(*id, shard)).cloned()
    }
    pub(crate) fn put(&self, id: &ChunkId, shard: usize, footer: &Arc<Footer>) {
        self.0.lock().put((*id, shard), footer.clone());
    }
    /// Drops the footers of these shards of a chunk.
    pub(crate) fn forget(&self, id: &ChunkId, shards: impl IntoIterator<Item = usize>) {
        let mut kept = self.0.lock();
        for shard in shards {
            kept.pop(&(*id, shard));
        }
    }
}

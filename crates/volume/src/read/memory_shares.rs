//! The daemon's memory, shared out: what writes, encoding, requests and each cache may take of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::boot_templates::Boots;
use super::read_ahead::Ahead;
use crate::space::PackIndex;
use windlass_base::Budget;
use windlass_cache::{DiskCache, DiskCacheConfig, FrameCache};
use windlass_map::PageCache;

/// The daemon's one memory budget, split between the uses; shared by all its volumes and mounts. Cheap to clone.
///
/// Half of the memory for writes and half of that for encoding are guaranteed to the pools (`for_pool`), in equal parts:
/// while the stores of one are away its volumes hold what they have, and those of others must go on meanwhile. Of the other
/// parts nobody is guaranteed any.
///
/// What nobody needs for writes and encoding, up to half of each, is lent to the cache of frames, which gives it back before
/// it is handed out (`base::loan`).
#[derive(Clone, Debug)]
pub struct Memory {
    total: u64,
    /// Writes that are not yet stored.
    pub overlay: Budget,
    /// What of that the entries of stored chunks hold until a checkpoint has merged them; of one pool.
    pub kept: Arc<AtomicU64>,
    /// Chunks under way, and parts of files on their way into buckets.
    pub encode: Budget,
    /// Requests of block clients: payloads that arrive and replies on their way out.
    pub requests: Budget,
    pub frames: FrameCache,
    /// Below them: frames on the local disk.
    pub disk: DiskCache,
    /// What is read ahead, by volumes and by mounts.
    pub ahead: Ahead,
    /// By what clones' first boots are fetched ahead.
    pub boots: Boots,
    pub pages: Arc<PageCache>,
    pub places: PackIndex,
}

fn caches_of(total: u64) -> u64 {
    total / 8 * 3
}

impl Memory {
    /// A quarter each for writes under way and for encoding, an eighth for requests, the rest for caches: of that a
    /// quarter for map pages, and a sixth for what is on its way into the cache before it is asked for.
    pub fn new(total: u64) -> Memory {
        Memory::with_disk(total, DiskCache::off(), 0)
    }

    /// What a cache of so many bytes on disk may take of the memory for frames.
    pub fn disk_share(total: u64, disk_bytes: u64) -> u64 {
        DiskCacheConfig::memory_for(disk_bytes).min(caches_of(total) / 8)
    }

    /// With frames on the local disk, which takes so much of it.
    pub fn with_disk(total: u64, disk: DiskCache, share: u64) -> Memory {
        let (quarter, caches) = (total / 4, caches_of(total));
        let (overlay, encode) = (Budget::new(quarter), Budget::new(quarter));
        let own = caches - caches / 4 - caches / 6 - share;
        Memory {
            total,
            frames: FrameCache::borrowing(own, vec![overlay.lend(), encode.lend()]),
            overlay,
            kept: Arc::default(),
            encode,
            requests: Budget::new(total / 8),
            disk,
            ahead: Ahead::new(caches / 6),
            boots: Boots::default(),
            pages: Arc::new(PageCache::new((caches / 4) as usize)),
            places: PackIndex::default(),
        }
    }

    /// The same, for all volumes of one more pool, which has its guaranteed share as long as any of these lives.
    pub fn for_pool(&self) -> Memory {
        let (overlay, encode) = (self.overlay.party(), self.encode.party());
        Memory { overlay, encode, kept: Arc::default(), ..self.clone() }
    }

    /// The same, for volumes whose frames the disk does not keep.
    pub fn without_disk(&self) -> Memory {
        Memory { disk: DiskCache::off(), ..self.clone() }
    }

    /// Drops all that was read from stores, and keeps nothing of what is being read: some of it may be false. Memory comes
    /// last, since it is filled from the disk.
    pub async fn empty_caches(&self) {
        self.disk.empty().await;
        self.places.slices.empty();
        self.pages.empty();
        self.frames.empty();
    }

    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use windlass_base::{ChunkId, Epoch, Seq, VolumeId};
    use windlass_cache::{FrameKey, Lookup};

    #[test]
    fn a_disk_of_a_quarter_of_the_memory_stays_in_it_while_nobody_needs_it_otherwise() {
        const BLOCKS: u64 = 8192;
        let memory = Memory::new(4 * BLOCKS * 4096);
        let key = |n| FrameKey {
            chunk: ChunkId { volume: VolumeId(1), epoch: Epoch(1), seq: Seq(n / 2048) },
            offset: n % 2048 * 4112,
        };
        let has = |n| matches!(memory.frames.lookup(key(n)), Lookup::Hit { .. });
        (0..BLOCKS).for_each(|n| memory.frames.insert(key(n), Bytes::from(vec![1; 4096])));
        assert!((0..BLOCKS).all(has), "all single blocks");
        let (a, b) = (memory.overlay.try_take(1 << 40), memory.encode.try_take(1 << 40));
        assert_eq!([a, b].map(|held| held.expect("nobody holds any").bytes()), [BLOCKS * 4096; 2]);
        assert!(memory.frames.bytes() <= caches_of(memory.total()), "and gives way to who needs it");
    }
}

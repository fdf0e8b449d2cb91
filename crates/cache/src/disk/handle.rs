//! Frames that were fetched from stores, on local disk, below the cache in memory: they survive a restart, and clones of
//! one parent find the parent's.
//!
//! Nothing depends on it. What it gives is verified here and, bound to its place, by whoever asked; what does not verify
//! is not there. When its disk fails, is full or hangs it turns itself off with a warning; a full one also gives its
//! space back, since the journal needs it more. It never waits: what comes faster than the disk takes it is left out.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::format;
use super::index::{INDEX_ENTRY, Index, SEGMENT_MAX, SEGMENTS_MAX};
use super::segment_rings::Segments;
use super::shared::{DiskStats, Shared, Work};
use crate::FrameKey;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Kind, Result};

/// Bounds of the bytes that may wait to be written. Within them that is half of the cache's memory.
const QUEUE_MIN: u64 = 256 << 10;
const QUEUE_MAX: u64 = 16 << 20;
/// Typical bytes of a frame. By them is decided how many frames that went are remembered.
const FRAME_TYPICAL: u64 = 16 << 10;
const GONE_MIN: u64 = 4 << 10;
const GONE_MAX: u64 = 1 << 20;

/// Size and place of a cache on disk.
#[derive(Clone, Debug)]
pub struct DiskCacheConfig {
    /// The folder of the cache, which holds nothing else.
    pub dir: PathBuf,
    /// Bytes of the file, at most.
    pub bytes_max: u64,
    /// Bytes of memory at most, for its index and for what waits to be written.
    pub memory_max: u64,
    /// Bytes of a segment. `None`: as fits the size of the file.
    pub segment: Option<u64>,
}

/// A handle on the cache, see the module. Cheap to clone; one that is off costs nothing.
#[derive(Clone, Debug, Default)]
pub struct DiskCache(Option<Arc<Owner>>);

/// The owner of the cache's task, which ends when this is dropped.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl DiskCacheConfig {
    /// Returns the bytes of a segment: a power of two, so that another size of the file keeps what is in it.
    fn segment(&self) -> u64 {
        let fitting = (self.bytes_max / 64).max(1).next_power_of_two().clamp(4 << 20, SEGMENT_MAX);
        self.segment.unwrap_or(fitting)
    }

    /// Returns the bytes of memory that a cache of so many bytes takes if all its frames are single blocks.
    pub fn memory_for(bytes_max: u64) -> u64 {
        bytes_max / 4096 * INDEX_ENTRY + QUEUE_MAX
    }

    fn queue(&self) -> u64 {
        (self.memory_max / 2).clamp(QUEUE_MIN, QUEUE_MAX)
    }
}

impl DiskCache {
    pub fn off() -> DiskCache {
        DiskCache(None)
    }

    /// Starts the cache. It returns at once; what the file has is found again meanwhile.
    pub fn start(rt: &Rt, disk: Arc<dyn Disk>, config: DiskCacheConfig) -> DiskCache {
        let segment = config.segment();
        let count = (config.bytes_max / segment).min(SEGMENTS_MAX - 1) as u16;
        // One to fill of each ring, one to move things to, one to read; and an index.
        if count < 4 || config.memory_max < config.queue() + INDEX_ENTRY {
            return DiskCache::off();
        }
        let gone = (config.bytes_max / FRAME_TYPICAL).clamp(GONE_MIN, GONE_MAX) as usize;
        let queue = config.queue();
        let index = Index::new(config.memory_max.saturating_sub(queue), gone);
        let shared = Shared::new(rt, disk, config.dir, (segment, count, queue), index);
        rt.spawn(run(shared.clone())).detach();
        DiskCache(Some(Arc::new(Owner(shared))))
    }

    fn shared(&self) -> Option<&Arc<Shared>> {
        self.0.as_ref().map(|owner| &owner.0)
    }

    /// Tells whether the cache was turned on. A cache that is off keeps nothing and costs nothing.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells whether the cache may have the frame. A "no" counts as a miss.
    pub fn has(&self, key: &FrameKey) -> bool {
        self.shared().is_some_and(|s| s.has(key))
    }

    /// Returns the frame as it was put in, if it is there.
    pub async fn get(&self, key: &FrameKey) -> Option<Bytes> {
        self.shared()?.get(key).await
    }

    /// Takes the frame in, if there is room and time.
    pub fn put(&self, key: &FrameKey, frame: &[u8]) {
        if let Some(shared) = self.shared() {
            shared.put(key, frame, None);
        }
    }

    /// Returns how often the cache was emptied, for `put_since`.
    pub fn emptied(&self) -> u64 {
        self.shared().map_or(0, |s| s.emptied())
    }

    /// Takes the frame in as `put` does, unless the cache was emptied since the frame was asked for.
    pub fn put_since(&self, emptied: u64, key: &FrameKey, frame: &[u8]) {
        if let Some(shared) = self.shared() {
            shared.put(key, frame, Some(emptied));
        }
    }

    /// Drops all frames, also for who starts the cache next: stores may have given false ones.
    pub async fn empty(&self) {
        if let Some(shared) = self.shared() {
            shared.empty().await;
        }
    }

    /// Forgets a frame: the one that the cache gave is not what belongs there.
    pub fn forget(&self, key: &FrameKey) {
        if let Some(shared) = self.shared() {
            shared.damaged(format::hash(key));
        }
    }

    /// Returns the cache's counts. `None`: there is no such cache.
    pub fn stats(&self) -> Option<DiskStats> {
        self.shared().map(|s| s.stats())
    }
}

/// Runs the one task that writes.
async fn run(shared: Arc<Shared>) {
    let mut segments = match Segments::open(&shared).await {
        Ok(segments) => segments,
        Err(e) => return shared.fail(&e),
    };
    shared.begin(segments.file());
    while let Some(work) = shared.work().await {
        let items = match work {
            Work::Write(items) => items,
            Work::Empty(those) => {
                match begin_anew(&shared).await {
                    Ok(begun) => segments = begun,
                    Err(e) => return shared.fail(&e),
                }
                for waits in those {
                    // Whoever went away needs to know nothing.
                    let _ = waits.send(());
                }
                continue;
            }
        };
        let bytes = items.iter().map(|i| format::room(i.frame.len())).sum::<u64>();
        if let Err(e) = segments.take(items).await {
            shared.fail(&e);
            if e.is(Kind::NoSpace) {
                remove(&shared).await;
            }
            return;
        }
        if !shared.is_off() {
            shared.done(bytes);
        }
    }
}

async fn begin_anew(shared: &Arc<Shared>) -> Result<Segments> {
    shared.remove_file().await?;
    let segments = Segments::open(shared).await?;
    shared.begin(segments.file());
    Ok(segments)
}

/// Removes the file, which gives its space back.
async fn remove(shared: &Shared) {
    if let Err(e) = shared.remove_file().await {
        tracing::warn!("{e}");
    }
}

//! Decoded frames in memory: bounded by bytes, sharded so that cores don't meet at one lock, and each missing frame
//! fetched by one reader while the others wait for it.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::{ChunkId, FastMap};

/// A frame, by where it is: chunks are never written with two contents, so an entry is right for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameKey {
    pub chunk: ChunkId,
    pub offset: u64,
}

const SHARDS: usize = 16;
/// Counted for every entry beside its bytes: key, links, map slot, the allocation's head.
const ENTRY_COST: u64 = 160;

#[derive(Debug)]
struct Shard {
    kept: LruCache<FrameKey, Bytes>,
    bytes: u64,
    /// Frames that somebody is fetching now.
    flights: FastMap<FrameKey, watch::Receiver<()>>,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FrameCache {
    shards: Arc<[Mutex<Shard>]>,
    shard_max: u64,
}

/// What a look-up found.
#[derive(Debug)]
pub enum Lookup {
    Hit(Bytes),
    /// Another reader fetches it: wait, then look again.
    Wait(Waiter),
    /// The caller fetches it and says so by `Flight::land`; dropping the flight lets another try.
    Fetch(Flight),
}

/// Resolves when the flight has landed or was given up.
#[derive(Debug)]
pub struct Waiter(watch::Receiver<()>);

impl Waiter {
    pub async fn landed(mut self) {
        // An error is the sender's end, which is what is waited for.
        while self.0.changed().await.is_ok() {}
    }
}

/// The duty to fetch one frame.
#[derive(Debug)]
pub struct Flight {
    cache: FrameCache,
    key: FrameKey,
    _done: watch::Sender<()>,
}

impl Flight {
    pub fn key(&self) -> &FrameKey {
        &self.key
    }

    pub fn land(self, frame: Bytes) {
        self.cache.insert(self.key, frame);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cache.shard(&self.key).lock().flights.remove(&self.key);
    }
}

fn cost(frame: &Bytes) -> u64 {
    frame.len() as u64 + ENTRY_COST
}

impl FrameCache {
    /// Keeps about so many bytes, what their bookkeeping takes included.
    pub fn new(bytes_max: u64) -> FrameCache {
        let shard =
            || Mutex::new(Shard { kept: LruCache::unbounded(), bytes: 0, flights: FastMap::default() });
        FrameCache { shards: (0..SHARDS).map(|_| shard()).collect(), shard_max: bytes_max / SHARDS as u64 }
    }

    fn shard(&self, key: &FrameKey) -> &Mutex<Shard> {
        let mut word = [0; 24];
        word[..8].copy_from_slice(&key.chunk.seq.0.to_le_bytes());
        word[8..16].copy_from_slice(&key.offset.to_le_bytes());
        word[16..].copy_from_slice(&(key.chunk.volume.0 as u64).to_le_bytes());
        &self.shards[xxh3_64(&word) as usize % SHARDS]
    }

    pub fn get(&self, key: &FrameKey) -> Option<Bytes> {
        self.shard(key).lock().kept.get(key).cloned()
    }

    /// The frame, or who fetches it.
    pub fn lookup(&self, key: FrameKey) -> Lookup {
        let mut shard = self.shard(&key).lock();
        if let Some(frame) = shard.kept.get(&key) {
            return Lookup::Hit(frame.clone());
        }
        if let Some(flight) = shard.flights.get(&key) {
            return Lookup::Wait(Waiter(flight.clone()));
        }
        let (done, seen) = watch::channel(());
        shard.flights.insert(key, seen);
        drop(shard);
        Lookup::Fetch(Flight { cache: self.clone(), key, _done: done })
    }

    /// `frame` should own its memory: a slice of something large would keep all of it.
    pub fn insert(&self, key: FrameKey, frame: Bytes) {
        let added = cost(&frame);
        if added > self.shard_max {
            return;
        }
        let mut shard = self.shard(&key).lock();
        if let Some(old) = shard.kept.put(key, frame) {
            shard.bytes -= cost(&old);
        }
        shard.bytes += added;
        while shard.bytes > self.shard_max {
            let Some((_, old)) = shard.kept.pop_lru() else { break };
            shard.bytes -= cost(&old);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::base::{Epoch, Seq, VolumeId};

    fn key(offset: u64) -> FrameKey {
        FrameKey { chunk: ChunkId { volume: VolumeId(1), epoch: Epoch(1), seq: Seq(1) }, offset }
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_go() {
        let cache = FrameCache::new(16 * 10_000);
        for i in 0..1000 {
            cache.insert(key(i), Bytes::from(vec![1; 1000]));
            assert!(cache.bytes() <= 16 * 10_000);
        }
        assert!(cache.get(&key(999)).is_some());
        assert!(cache.get(&key(0)).is_none());
        let before = cache.bytes();
        cache.insert(key(999), Bytes::from(vec![2; 1000]));
        assert_eq!(cache.bytes(), before);
        assert_eq!(cache.get(&key(999)).unwrap()[0], 2);
        cache.insert(key(5000), Bytes::from(vec![0; 20_000]));
        assert!(cache.get(&key(5000)).is_none(), "larger than a shard's share");
    }

    #[tokio::test]
    async fn one_fetches_and_the_others_wait() {
        let cache = FrameCache::new(1 << 20);
        let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("nobody has it") };
        let Lookup::Wait(waiter) = cache.lookup(key(1)) else { panic!("it is being fetched") };
        let mut waiting = Box::pin(waiter.landed());
        assert!((&mut waiting).now_or_never().is_none());
        drop(flight);
        waiting.await;
        let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("the first gave up") };
        let Lookup::Wait(waiter) = cache.lookup(key(1)) else { panic!("it is being fetched") };
        flight.land(Bytes::from_static(b"x"));
        waiter.landed().await;
        assert!(matches!(cache.lookup(key(1)), Lookup::Hit(b) if b == "x"));
    }
}

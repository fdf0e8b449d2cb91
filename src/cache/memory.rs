//! Decoded frames in memory: bounded by bytes, sharded so that cores don't meet at one lock, and each missing frame
//! fetched by one reader while the others wait for it, whichever volume they read.
//!
//! Who waits gets what the one that fetched got: the frame itself, also if the cache has no room for it, or the reason why
//! there is none. One that was stopped midway tells nothing, and the next reader fetches.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::{ChunkId, Error, FastMap, Result};

/// A frame, by where it is: chunks are never written with two contents, so an entry is right for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameKey {
    pub chunk: ChunkId,
    pub offset: u64,
}

const SHARDS: usize = 16;
/// Counted for every entry beside its bytes: key, links, map slot, the allocation's head.
const ENTRY_COST: u64 = 160;

/// How a flight ended; none while it is under way, or when it was given up.
type Landing = Option<Result<Bytes, Arc<Error>>>;

#[derive(Debug, Default)]
struct Shard {
    kept: Kept,
    bytes: u64,
    hits: u64,
    misses: u64,
    /// Frames that somebody is fetching now.
    flights: FastMap<FrameKey, watch::Receiver<Landing>>,
}

#[derive(Debug)]
struct Kept(LruCache<FrameKey, Bytes>);

impl Default for Kept {
    fn default() -> Kept {
        Kept(LruCache::unbounded())
    }
}

/// What became of look-ups so far, and what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct MemoryStats {
    /// Frames that were there, or on their way for another reader.
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
    pub bytes_max: u64,
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
pub struct Waiter(watch::Receiver<Landing>);

impl Waiter {
    /// What the other reader got; none when it was stopped midway: then look again.
    pub async fn landed(mut self) -> Option<Result<Bytes>> {
        // An error is the sender's end: whatever it said is seen.
        while self.0.borrow_and_update().is_none() && self.0.changed().await.is_ok() {}
        let landing = self.0.borrow();
        Some(landing.as_ref()?.clone().map_err(|e| e.share()))
    }
}

/// The duty to fetch one frame.
#[derive(Debug)]
pub struct Flight {
    cache: FrameCache,
    key: FrameKey,
    landing: Landing,
    done: watch::Sender<Landing>,
}

impl Flight {
    pub fn key(&self) -> &FrameKey {
        &self.key
    }

    pub fn land(mut self, frame: Bytes) {
        self.cache.insert(self.key, frame.clone());
        self.landing = Some(Ok(frame));
    }

    /// Those who wait get this error.
    pub fn fail(mut self, error: &Error) {
        self.landing = Some(Err(Arc::new(error.share())));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Who comes from now on finds the frame, or begins anew.
        self.cache.shard(&self.key).lock().flights.remove(&self.key);
        self.done.send_replace(self.landing.take());
    }
}

fn cost(frame: &Bytes) -> u64 {
    frame.len() as u64 + ENTRY_COST
}

impl FrameCache {
    /// Keeps about so many bytes, what their bookkeeping takes included.
    pub fn new(bytes_max: u64) -> FrameCache {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        FrameCache { shards, shard_max: bytes_max / SHARDS as u64 }
    }

    fn shard(&self, key: &FrameKey) -> &Mutex<Shard> {
        let mut word = [0; 24];
        word[..8].copy_from_slice(&key.chunk.seq.0.to_le_bytes());
        word[8..16].copy_from_slice(&key.offset.to_le_bytes());
        word[16..].copy_from_slice(&(key.chunk.volume.0 as u64).to_le_bytes());
        &self.shards[xxh3_64(&word) as usize % SHARDS]
    }

    pub fn get(&self, key: &FrameKey) -> Option<Bytes> {
        self.shard(key).lock().kept.0.get(key).cloned()
    }

    /// The frame, or who fetches it.
    pub fn lookup(&self, key: FrameKey) -> Lookup {
        let mut shard = self.shard(&key).lock();
        if let Some(frame) = shard.kept.0.get(&key).cloned() {
            shard.hits += 1;
            return Lookup::Hit(frame);
        }
        if let Some(flight) = shard.flights.get(&key).cloned() {
            shard.hits += 1;
            return Lookup::Wait(Waiter(flight));
        }
        let (done, seen) = watch::channel(None);
        shard.flights.insert(key, seen);
        shard.misses += 1;
        drop(shard);
        Lookup::Fetch(Flight { cache: self.clone(), key, landing: None, done })
    }

    /// Whether it is here or on its way.
    pub fn expects(&self, key: &FrameKey) -> bool {
        let shard = self.shard(key).lock();
        shard.kept.0.contains(key) || shard.flights.contains_key(key)
    }

    /// `frame` should own its memory: a slice of something large would keep all of it.
    pub fn insert(&self, key: FrameKey, frame: Bytes) {
        let added = cost(&frame);
        if added > self.shard_max {
            return;
        }
        let mut shard = self.shard(&key).lock();
        if let Some(old) = shard.kept.0.put(key, frame) {
            shard.bytes -= cost(&old);
        }
        shard.bytes += added;
        while shard.bytes > self.shard_max {
            let Some((_, old)) = shard.kept.0.pop_lru() else { break };
            shard.bytes -= cost(&old);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.lock().bytes).sum()
    }

    pub fn stats(&self) -> MemoryStats {
        let bytes_max = self.shard_max * SHARDS as u64;
        self.shards.iter().fold(MemoryStats { bytes_max, ..MemoryStats::default() }, |all, shard| {
            let shard = shard.lock();
            let (hits, misses) = (all.hits + shard.hits, all.misses + shard.misses);
            MemoryStats { hits, misses, bytes: all.bytes + shard.bytes, ..all }
        })
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
    async fn one_fetches_and_the_others_get_what_it_got() {
        // Too small for any frame: who waits gets it nevertheless.
        for size in [1 << 20, 0] {
            let cache = FrameCache::new(size);
            let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("nobody has it") };
            let Lookup::Wait(waiter) = cache.lookup(key(1)) else { panic!("it is being fetched") };
            let mut waiting = Box::pin(waiter.landed());
            assert!((&mut waiting).now_or_never().is_none());
            drop(flight);
            assert!(waiting.await.is_none(), "stopped midway");
            let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("the first gave up") };
            let Lookup::Wait(waiter) = cache.lookup(key(1)) else { panic!("it is being fetched") };
            flight.fail(&Error::new(crate::base::Kind::Timeout, "too slow"));
            let told = waiter.landed().await.unwrap().unwrap_err();
            assert_eq!((told.kind(), told.to_string().as_str()), (crate::base::Kind::Timeout, "too slow"));
            let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("an error is not kept") };
            let Lookup::Wait(waiter) = cache.lookup(key(1)) else { panic!("it is being fetched") };
            assert!(cache.expects(&key(1)) && !cache.expects(&key(2)));
            flight.land(Bytes::from_static(b"x"));
            assert_eq!(waiter.landed().await.unwrap().unwrap(), "x");
            assert_eq!(matches!(cache.lookup(key(1)), Lookup::Hit(b) if b == "x"), size > 0);
        }
    }

    #[tokio::test]
    async fn what_ended_does_not_take_a_later_flight_with_it() {
        let cache = FrameCache::new(0);
        let Lookup::Fetch(first) = cache.lookup(key(1)) else { panic!("nobody has it") };
        first.land(Bytes::from_static(b"x"));
        let Lookup::Fetch(_second) = cache.lookup(key(1)) else { panic!("there was no room for it") };
        assert!(matches!(cache.lookup(key(1)), Lookup::Wait(_)));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.bytes), (1, 2, 0));
    }
}

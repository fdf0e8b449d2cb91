//! Decoded frames in memory: bounded by bytes, some of its own and what budgets lend it at the moment; sharded so that cores don't meet at one lock, and each missing frame
//! fetched by one reader while the others wait for it, whichever volume they read.
//!
//! Who waits gets what the one that fetched got: the frame itself, also if the cache has no room for it, or the reason why
//! there is none. One that was stopped midway tells nothing, and the next reader fetches.
//!
//! Frames that were fetched ahead and that nobody has read yet are kept apart, in a quarter of the room: what was guessed
//! wrong never pushes out what was read.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use windlass_base::{Borrower, ChunkId, Error, FastMap, Loan, Result};

/// A frame, by where it is: chunks are never written with two contents, so an entry is right for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameKey {
    pub chunk: ChunkId,
    pub offset: u64,
}

const SHARDS: usize = 16;
/// Bytes that every entry counts beside its frame: key, links, map slot, the allocation's head.
const ENTRY_COST: u64 = 160;

/// A frame that was fetched ahead is unread until somebody asks for it. What is unread takes at most this part of a shard.
const UNREAD: u64 = 4;

/// Result of a flight. It is `None` while the flight is under way, and when the flight was given up.
type Landing = Option<Result<Bytes, Arc<Error>>>;

#[derive(Debug, Default)]
struct Shard {
    read: Kept,
    unread: Kept,
    hits: u64,
    misses: u64,
    ahead_bytes: u64,
    ahead_used_bytes: u64,
    /// Frames that somebody is fetching now.
    flights: FastMap<FrameKey, Flying>,
    /// Number of times that the cache was emptied: a flight that began before lands nowhere.
    emptied: u64,
}

/// A frame on its way.
#[derive(Debug)]
struct Flying {
    landing: watch::Receiver<Landing>,
    /// It is fetched before anybody has asked for it.
    ahead: bool,
    /// Whether somebody has asked for it, or it is only fetched ahead.
    read: bool,
}

/// Frames in order of use, the one that was not used for longest first, and the bytes that they take.
#[derive(Debug)]
struct Kept {
    frames: LruCache<FrameKey, Bytes>,
    bytes: u64,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { frames: LruCache::unbounded(), bytes: 0 }
    }
}

impl Kept {
    fn put(&mut self, key: FrameKey, frame: Bytes) {
        self.bytes += cost(&frame);
        if let Some(old) = self.frames.put(key, frame) {
            self.bytes -= cost(&old);
        }
    }

    fn take(&mut self, key: &FrameKey) -> Option<Bytes> {
        let frame = self.frames.pop(key)?;
        self.bytes -= cost(&frame);
        Some(frame)
    }

    fn drop_oldest(&mut self) {
        if let Some((_, old)) = self.frames.pop_lru() {
            self.bytes -= cost(&old);
        }
    }
}

impl Shard {
    fn contains(&self, key: &FrameKey) -> bool {
        self.read.frames.contains(key) || self.unread.frames.contains(key)
    }

    /// Drops frames until the rest take no more than `bytes_max`. Each round drops one frame, so that the
    /// loop ends: all bytes belong to frames.
    fn shrink(&mut self, bytes_max: u64) {
        while self.read.bytes + self.unread.bytes > bytes_max {
            match self.unread.bytes > bytes_max / UNREAD || self.read.bytes == 0 {
                true => self.unread.drop_oldest(),
                false => self.read.drop_oldest(),
            }
        }
    }
}

/// Counts of look-ups so far, and the bytes that are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct MemoryStats {
    /// Look-ups whose frame was there, or on its way for another reader.
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
    /// As of now: what nobody else needs at the moment is in it.
    pub bytes_max: u64,
    /// Contents that were fetched before anybody asked for them, and what of that was read.
    #[serde(default)]
    pub ahead_bytes: u64,
    #[serde(default)]
    pub ahead_used_bytes: u64,
}

/// The cache in memory, see the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FrameCache(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes that are the cache's alone; beside them it has what is lent.
    own: u64,
    loans: Vec<Arc<Loan>>,
}

impl Shards {
    /// Bytes of a shard at most, now. Asked under the shard's lock where something is taken in (`Loan::bytes`).
    fn shard_max(&self) -> u64 {
        (self.own + self.loans.iter().map(|loan| loan.bytes()).sum::<u64>()) / SHARDS as u64
    }
}

impl Borrower for Shards {
    fn give_back(&self) {
        for shard in &self.shards {
            shard.lock().shrink(self.shard_max());
        }
    }
}

/// Result of a look-up. `first`: the frame was fetched ahead, and nobody has asked for it before.
#[derive(Debug)]
pub enum Lookup {
    Hit {
        frame: Bytes,
        first: bool,
    },
    /// Another reader fetches the frame: the caller waits, then looks again.
    Wait {
        waiter: Waiter,
        first: bool,
    },
    /// The caller fetches the frame and says so by `Flight::land`; dropping the flight lets another try.
    Fetch(Flight),
}

/// Resolves when the flight has landed or was given up.
#[derive(Debug)]
pub struct Waiter(watch::Receiver<Landing>);

impl Waiter {
    /// Waits for the result of the other reader. `None`: that reader was stopped midway, and the caller looks
    /// up again.
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
    /// `Shard::emptied` when the flight began.
    emptied: u64,
    landing: Landing,
    done: watch::Sender<Landing>,
}

impl Flight {
    pub fn key(&self) -> &FrameKey {
        &self.key
    }

    pub fn land(mut self, frame: Bytes) {
        self.cache.land(self.key, self.emptied, frame.clone());
        self.landing = Some(Ok(frame));
    }

    /// Ends the flight with an error, which everybody who waits for the frame gets.
    pub fn fail(mut self, error: &Error) {
        self.landing = Some(Err(Arc::new(error.share())));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Who comes from now on finds the frame, or begins anew.
        let mut shard = self.cache.shard(&self.key).lock();
        if shard.emptied == self.emptied {
            shard.flights.remove(&self.key);
        }
        drop(shard);
        self.done.send_replace(self.landing.take());
    }
}

fn cost(frame: &Bytes) -> u64 {
    frame.len() as u64 + ENTRY_COST
}

impl FrameCache {
    /// Makes a cache of about so many bytes, bookkeeping included.
    pub fn new(bytes_max: u64) -> FrameCache {
        FrameCache::borrowing(bytes_max, Vec::new())
    }

    /// The same, and what is lent beside them. It is the one borrower of these.
    pub fn borrowing(own: u64, loans: Vec<Arc<Loan>>) -> FrameCache {
        let shards = Arc::new(Shards { shards: std::array::from_fn(|_| Mutex::default()), own, loans });
        shards.loans.iter().for_each(|loan| loan.lend_to(&shards));
        FrameCache(shards)
    }

    fn shard(&self, key: &FrameKey) -> &Mutex<Shard> {
        let mut word = [0; 24];
        word[..8].copy_from_slice(&key.chunk.seq.0.to_le_bytes());
        word[8..16].copy_from_slice(&key.offset.to_le_bytes());
        word[16..].copy_from_slice(&(key.chunk.volume.0 as u64).to_le_bytes());
        &self.0.shards[xxh3_64(&word) as usize % SHARDS]
    }

    /// Looks up a frame. The caller gets it, waits for another reader, or has to fetch it.
    pub fn lookup(&self, key: FrameKey) -> Lookup {
        let mut shard = self.shard(&key).lock();
        if let Some(frame) = shard.read.frames.get(&key).cloned() {
            shard.hits += 1;
            return Lookup::Hit { frame, first: false };
        }
        if let Some(frame) = shard.unread.take(&key) {
            shard.hits += 1;
            shard.ahead_used_bytes += frame.len() as u64;
            shard.read.put(key, frame.clone());
            return Lookup::Hit { frame, first: true };
        }
        if let Some(flight) = shard.flights.get_mut(&key) {
            let first = !mem::replace(&mut flight.read, true);
            let waiter = Waiter(flight.landing.clone());
            shard.hits += 1;
            return Lookup::Wait { waiter, first };
        }
        shard.misses += 1;
        Lookup::Fetch(self.take_off(&mut shard, key, true))
    }

    /// Returns the duty to fetch the frame ahead, if it is neither here nor on its way.
    pub fn lookup_ahead(&self, key: FrameKey) -> Option<Flight> {
        let mut shard = self.shard(&key).lock();
        let expected = shard.contains(&key) || shard.flights.contains_key(&key);
        (!expected).then(|| self.take_off(&mut shard, key, false))
    }

    fn take_off(&self, shard: &mut Shard, key: FrameKey, read: bool) -> Flight {
        let (done, landing) = watch::channel(None);
        shard.flights.insert(key, Flying { landing, ahead: !read, read });
        Flight { cache: self.clone(), key, emptied: shard.emptied, landing: None, done }
    }

    /// Tells whether the frame is here or on its way.
    pub fn expects(&self, key: &FrameKey) -> bool {
        let shard = self.shard(key).lock();
        shard.contains(key) || shard.flights.contains_key(key)
    }

    /// Drops all frames, and keeps none that is on its way: stores may have given false ones.
    pub fn empty(&self) {
        for shard in &self.0.shards {
            let mut shard = shard.lock();
            (shard.read, shard.unread) = Default::default();
            shard.flights.clear();
            shard.emptied += 1;
        }
    }

    fn land(&self, key: FrameKey, emptied: u64, frame: Bytes) {
        let mut shard = self.shard(&key).lock();
        if shard.emptied != emptied {
            return;
        }
        let flight = shard.flights.get(&key);
        let (ahead, read) = flight.map_or((false, true), |flight| (flight.ahead, flight.read));
        if ahead {
            shard.ahead_bytes += frame.len() as u64;
            shard.ahead_used_bytes += if read { frame.len() as u64 } else { 0 };
        }
        self.keep(&mut shard, key, frame, read);
    }

    /// Keeps a frame that somebody has read. `frame` should own its memory: a slice of something large would
    /// keep all of it.
    pub fn insert(&self, key: FrameKey, frame: Bytes) {
        self.keep(&mut self.shard(&key).lock(), key, frame, true);
    }

    fn keep(&self, shard: &mut Shard, key: FrameKey, frame: Bytes, read: bool) {
        let shard_max = self.0.shard_max();
        if cost(&frame) > shard_max {
            return;
        }
        shard.unread.take(&key);
        match read || shard.read.frames.contains(&key) {
            true => shard.read.put(key, frame),
            false => shard.unread.put(key, frame),
        }
        shard.shrink(shard_max);
    }

    pub fn bytes(&self) -> u64 {
        self.stats().bytes
    }

    pub fn stats(&self) -> MemoryStats {
        let bytes_max = self.0.shard_max() * SHARDS as u64;
        self.0.shards.iter().fold(MemoryStats::default(), |all, shard| {
            let shard = shard.lock();
            MemoryStats {
                hits: all.hits + shard.hits,
                misses: all.misses + shard.misses,
                bytes: all.bytes + shard.read.bytes + shard.unread.bytes,
                bytes_max,
                ahead_bytes: all.ahead_bytes + shard.ahead_bytes,
                ahead_used_bytes: all.ahead_used_bytes + shard.ahead_used_bytes,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use windlass_base::{Epoch, Seq, VolumeId};

    impl FrameCache {
        fn get(&self, key: &FrameKey) -> Option<Bytes> {
            match self.lookup(*key) {
                Lookup::Hit { frame, .. } => Some(frame),
                _ => None,
            }
        }
    }

    fn key(offset: u64) -> FrameKey {
        FrameKey { chunk: ChunkId { volume: VolumeId(1), epoch: Epoch(1), seq: Seq(1) }, offset }
    }

    #[test]
    fn an_emptied_cache_keeps_nothing_that_was_on_its_way() {
        let cache = FrameCache::new(16 * 10_000);
        cache.insert(key(1), Bytes::from_static(b"false"));
        cache.lookup_ahead(key(2)).unwrap().land(Bytes::from_static(b"false"));
        let Lookup::Fetch(late) = cache.lookup(key(3)) else { panic!("it is not there") };
        cache.empty();
        assert_eq!(cache.bytes(), 0);
        let Lookup::Fetch(newer) = cache.lookup(key(3)) else { panic!("nobody waits for what is false") };
        late.land(Bytes::from_static(b"false"));
        assert!(cache.get(&key(1)).is_none() && cache.bytes() == 0);
        assert!(matches!(cache.lookup(key(3)), Lookup::Wait { .. }), "the newer one is under way");
        newer.land(Bytes::from_static(b"right"));
        assert_eq!(cache.get(&key(3)).unwrap(), "right");
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

    #[test]
    fn what_is_fetched_ahead_in_vain_pushes_nothing_out_that_was_read() {
        let cache = FrameCache::new(16 * 20_000);
        let ahead = |i| cache.lookup_ahead(key(i)).unwrap().land(Bytes::from(vec![2; 1000]));
        for i in 0..100 {
            cache.insert(key(i), Bytes::from(vec![1; 1000]));
        }
        for i in 1000..5000 {
            ahead(i);
            assert!(cache.bytes() <= 16 * 20_000);
        }
        assert!((0..100).all(|i| matches!(cache.lookup(key(i)), Lookup::Hit { first: false, .. })));
        assert!(cache.lookup_ahead(key(4999)).is_none() && cache.lookup_ahead(key(7)).is_none());
        assert!(matches!(cache.lookup(key(4999)), Lookup::Hit { first: true, .. }));
        assert!(matches!(cache.lookup(key(4999)), Lookup::Hit { first: false, .. }), "it is the first once");
        // Asked for on its way, it is read when it comes.
        let flight = cache.lookup_ahead(key(6000)).unwrap();
        assert!(matches!(cache.lookup(key(6000)), Lookup::Wait { first: true, .. }));
        assert!(matches!(cache.lookup(key(6000)), Lookup::Wait { first: false, .. }));
        flight.land(Bytes::from_static(b"x"));
        assert!(matches!(cache.lookup(key(6000)), Lookup::Hit { first: false, .. }));
        let stats = cache.stats();
        assert_eq!((stats.ahead_bytes, stats.ahead_used_bytes), (4_000_001, 1001));
        // What was read gives way to what is read.
        for i in 10_000..12_000 {
            cache.insert(key(i), Bytes::from(vec![3; 1000]));
        }
        assert!(cache.get(&key(0)).is_none() && cache.bytes() <= 16 * 20_000);
    }

    #[test]
    fn what_is_lent_is_filled_and_given_back_at_once() {
        let budget = windlass_base::Budget::new(16 * 40_960);
        let cache = FrameCache::borrowing(16 * 10_000, vec![budget.lend()]);
        let fill = || (0..2000).for_each(|i| cache.insert(key(i), Bytes::from(vec![1; 1000])));
        fill();
        let full = cache.stats();
        assert_eq!(full.bytes_max, 16 * (10_000 + 20_480));
        assert!(full.bytes > 16 * 27_000 && full.bytes <= full.bytes_max);
        let held = budget.try_take(16 * 40_960).unwrap();
        let own = cache.stats();
        assert!(
            own.bytes_max == 16 * 10_000 && own.bytes > 16 * 8_000 && own.bytes <= own.bytes_max,
            "{own:?}"
        );
        assert!(cache.get(&key(1999)).is_some() && cache.get(&key(1000)).is_none(), "the newest stay");
        drop(held);
        fill();
        assert!(cache.bytes() > 16 * 27_000);
    }

    #[tokio::test]
    async fn one_fetches_and_the_others_get_what_it_got() {
        // Too small for any frame: who waits gets it nevertheless.
        for size in [1 << 20, 0] {
            let cache = FrameCache::new(size);
            let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("nobody has it") };
            let Lookup::Wait { waiter, .. } = cache.lookup(key(1)) else { panic!("it is being fetched") };
            let mut waiting = Box::pin(waiter.landed());
            assert!((&mut waiting).now_or_never().is_none());
            drop(flight);
            assert!(waiting.await.is_none(), "stopped midway");
            let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("the first gave up") };
            let Lookup::Wait { waiter, .. } = cache.lookup(key(1)) else { panic!("it is being fetched") };
            flight.fail(&Error::new(windlass_base::Kind::Timeout, "too slow"));
            let told = waiter.landed().await.unwrap().unwrap_err();
            assert_eq!((told.kind(), told.to_string().as_str()), (windlass_base::Kind::Timeout, "too slow"));
            let Lookup::Fetch(flight) = cache.lookup(key(1)) else { panic!("an error is not kept") };
            let Lookup::Wait { waiter, .. } = cache.lookup(key(1)) else { panic!("it is being fetched") };
            assert!(cache.expects(&key(1)) && !cache.expects(&key(2)));
            flight.land(Bytes::from_static(b"x"));
            assert_eq!(waiter.landed().await.unwrap().unwrap(), "x");
            assert_eq!(matches!(cache.lookup(key(1)), Lookup::Hit { frame, .. } if frame == "x"), size > 0);
        }
    }

    #[tokio::test]
    async fn what_ended_does_not_take_a_later_flight_with_it() {
        let cache = FrameCache::new(0);
        let Lookup::Fetch(first) = cache.lookup(key(1)) else { panic!("nobody has it") };
        first.land(Bytes::from_static(b"x"));
        let Lookup::Fetch(_second) = cache.lookup(key(1)) else { panic!("there was no room for it") };
        assert!(matches!(cache.lookup(key(1)), Lookup::Wait { .. }));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.bytes), (1, 2, 0));
    }
}

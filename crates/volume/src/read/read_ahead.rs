//! Who reads on in order gets ever larger parts fetched before they are asked for; who jumps about gets exactly what is
//! asked.
//!
//! A *run* is a range that was read without gaps, in whatever order its requests came (clients keep many under way, on
//! several connections). Three requests make one, or two large ones. No more is fetched ahead of a run than twice what it
//! has read, so that guessing wrong costs no more than what was right before.
//!
//! Who finds in memory what others have read gets nothing ahead: only a frame that is read for the first time, be it
//! fetched for that or ahead, says that what comes next may be missing.
//!
//! What is fetched ahead lies in the cache of frames, where requests find it or wait for it. The budget counts it twice,
//! as stored and as contents, from the moment when it is asked for until it is read, so that all runs of a daemon
//! together never push out of the cache what they fetched themselves. Nobody waits for that budget: without it nothing is
//! fetched ahead, and runs that stand still lose their share to others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS, SHARD_TARGET};
use windlass_base::rt::Instant;
use windlass_base::units::MIB;
use windlass_base::{Budget, Held};

/// Requests that make a run. `BYTES_MIN` bytes in fewer requests, but more than one, make a run too.
const REQUESTS_MIN: u32 = 3;
const BYTES_MIN: u64 = 512 << 10;
/// Fewest bytes that are fetched ahead of one run. `WINDOW_MAX` is the most.
const WINDOW_MIN: u64 = 128 << 10;
const WINDOW_MAX: u64 = 64 * MIB;
/// Part of what is ahead that has been read when it is filled up, as a divisor: rarely enough for large
/// requests, often enough that the stores always have most of it to do.
const REFILL: u64 = 4;
/// Bytes that a request of a run may be late or early.
const STRAY: u64 = 4 * MIB;
/// Most pieces of one reader that may yet become runs. `RUNS` is the most runs of a daemon.
const PIECES: usize = 64;
const RUNS: usize = 64;
/// Time that a run may stand still before others get its share.
const IDLE: Duration = Duration::from_secs(2);
/// Multiple of bytes at which fetches end: frames don't cross these.
const GRID: u64 = FRAME_BLOCKS * BLOCK;
/// Copies as which what is fetched ahead is counted: as stored, and as contents.
const COPIES: u64 = 2;
/// Bytes from which on a fetch may leave what lies in one object with what comes behind it to the next fetch.
/// So objects are got whole: fewer requests, and stores read on by themselves behind a range that ends
/// midway.
const LEAVES_MIN: u64 = SHARD_TARGET / 2;
/// Bytes of the disk whose map is fetched as one, a few KiB for each MiB: its pages lie side by side.
const MAPPED: u64 = 16 * MIB;

/// All runs of a daemon, and the memory that is theirs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ahead {
    pub budget: Budget,
    window_max: u64,
    runs: Arc<Mutex<VecDeque<Run>>>,
    readers: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Run {
    reader: u64,
    read: Range<u64>,
    /// Bytes asked for in the run. It is not the run's length: a run that chance began would grow with every
    /// request that happens to fall near it.
    asked: u64,
    /// Place where the next fetch begins.
    fetched: u64,
    /// Is true if the last fetch may have left some to the next.
    left: bool,
    /// Place up to which the map is known, or will be.
    mapped: u64,
    used: Instant,
    /// Memory of what is fetched and not yet read, by where it ends.
    held: VecDeque<(u64, Arc<Held>)>,
}

/// Requests that lie side by side.
#[derive(Clone, Debug)]
struct Piece {
    read: Range<u64>,
    requests: u32,
}

/// A range that is to be fetched now. Its memory is kept at least as long as this.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub range: Range<u64>,
    /// Place from which on some may have been left by earlier fetches, up to the start of `range`.
    since: u64,
    /// Is true if the fetch may leave what lies in one object with the block behind it.
    pub leaves: bool,
    /// Range of which the map alone is to be fetched, for the next ones.
    pub map: Option<Range<u64>>,
    _held: Arc<Held>,
}

/// The ranges that one reader (an open volume, a snapshot) has read lately.
#[derive(Debug)]
pub struct Trail {
    ahead: Ahead,
    reader: u64,
    pieces: Mutex<VecDeque<Piece>>,
}

impl Ahead {
    pub fn new(bytes: u64) -> Ahead {
        let window_max = (bytes / COPIES / 2).clamp(0, WINDOW_MAX);
        Ahead {
            budget: Budget::new(bytes).party(),
            window_max,
            runs: Arc::default(),
            readers: Arc::default(),
        }
    }

    pub fn trail(&self) -> Trail {
        let reader = self.readers.fetch_add(1, Ordering::Relaxed);
        Trail { ahead: self.clone(), reader, pieces: Mutex::default() }
    }

    /// Takes memory for what is to be fetched, from runs that stand still if there is no other.
    fn take(&self, runs: &mut VecDeque<Run>, bytes: u64, now: Instant) -> Option<Held> {
        let bytes = bytes * COPIES;
        if bytes > self.budget.total() {
            return None;
        }
        if let Some(held) = self.budget.try_take(bytes) {
            return Some(held);
        }
        runs.iter_mut().filter(|r| now.since(r.used) > IDLE).for_each(|r| r.held.clear());
        self.budget.try_take(bytes)
    }

    /// Returns what the run at `index` should fetch next, if anything.
    fn plan(&self, runs: &mut VecDeque<Run>, index: usize, size: u64, now: Instant) -> Option<Fetch> {
        let run = &mut runs[index];
        let window = (2 * run.asked).clamp(WINDOW_MIN, WINDOW_MAX).min(self.window_max);
        let from = run.fetched.max(run.read.end);
        let to = (run.read.end + window).next_multiple_of(GRID).min(size);
        if from - run.read.end > window / REFILL * (REFILL - 1) || to <= from {
            return None;
        }
        let held = Arc::new(self.take(runs, to - from, now)?);
        let run = &mut runs[index];
        let since = if run.left { run.read.end } else { from };
        (run.fetched, run.left) = (to, to < size && to - from >= LEAVES_MIN);
        run.held.push_back((to, held.clone()));
        Some(Fetch {
            range: from..to,
            since,
            leaves: run.left,
            map: run.map_ahead(window, size),
            _held: held,
        })
    }
}

impl Fetch {
    /// Returns the blocks that are looked for: the range, what was left before it, and the block behind it if
    /// that matters.
    pub fn blocks(&self) -> Range<u64> {
        self.since / BLOCK..self.range.end.div_ceil(BLOCK) + u64::from(self.leaves)
    }
}

impl Run {
    fn has(&self, at: u64) -> bool {
        at <= self.fetched.max(self.read.end) + self.asked.min(STRAY)
            && at >= self.read.end.saturating_sub(STRAY).max(self.read.start)
    }

    /// Returns the part of the map that comes next, when it is near and the run worth it.
    fn map_ahead(&mut self, window: u64, size: u64) -> Option<Range<u64>> {
        let from = self.mapped.max(self.fetched);
        let worth = window >= MIB && from < size && from - self.fetched < MAPPED / 2;
        worth.then(|| {
            self.mapped = (from + MAPPED).next_multiple_of(MAPPED).min(size);
            from..self.mapped
        })
    }

    /// Takes in another run of the same reader that it has met.
    fn absorb(&mut self, other: Run) {
        self.read = self.read.start.min(other.read.start)..self.read.end.max(other.read.end);
        self.asked += other.asked;
        self.left |= other.left;
        (self.fetched, self.mapped) = (self.fetched.max(other.fetched), self.mapped.max(other.mapped));
        self.held.extend(other.held);
        self.held.make_contiguous().sort_by_key(|(to, _)| *to);
    }

    fn meets(&self, other: &Run) -> bool {
        let reach = |r: &Run| r.fetched.max(r.read.end) + STRAY;
        self.reader == other.reader && self.read.start <= reach(other) && other.read.start <= reach(self)
    }

    fn goes_on(&mut self, read: Range<u64>, now: Instant) {
        self.asked += read.end - read.start;
        self.read.end = self.read.end.max(read.end);
        self.used = now;
        while self.held.front().is_some_and(|(to, _)| *to <= self.read.end) {
            self.held.pop_front();
        }
    }
}

impl Trail {
    /// Takes in a request for these bytes.
    pub fn step(&self, read: Range<u64>, now: Instant) {
        let mut runs = self.ahead.runs.lock();
        let known = runs.iter().position(|r| r.reader == self.reader && r.has(read.start));
        if let Some(mut run) = known.and_then(|at| runs.remove(at)) {
            run.goes_on(read, now);
            runs.push_back(run);
        } else if let Some(read) = self.joined(read) {
            let (fetched, asked, held) = (read.end, read.end - read.start, VecDeque::new());
            let mut run =
                Run { reader: self.reader, read, asked, fetched, left: false, mapped: 0, used: now, held };
            while let Some(other) = runs.iter().position(|r| r.meets(&run)).and_then(|at| runs.remove(at)) {
                run.absorb(other);
            }
            if runs.len() >= RUNS {
                runs.pop_front();
            }
            runs.push_back(run);
        }
    }

    /// Returns what is to be fetched ahead of later requests. The request for `read`, of a volume of `size`,
    /// was taken in before, and reads a frame for the first time.
    pub fn fetch(&self, read: &Range<u64>, size: u64, now: Instant) -> Option<Fetch> {
        let mut runs = self.ahead.runs.lock();
        let within = |r: &Run| r.read.start <= read.start && read.end <= r.read.end;
        let at = runs.iter().rposition(|r| r.reader == self.reader && within(r))?;
        self.ahead.plan(&mut runs, at, size, now)
    }

    /// Returns the run that this request makes with those before it, if it does.
    fn joined(&self, read: Range<u64>) -> Option<Range<u64>> {
        let mut pieces = self.pieces.lock();
        let mut new = Piece { read, requests: 1 };
        let beside = |new: &Piece, p: &Piece| p.read.end == new.read.start || p.read.start == new.read.end;
        while let Some(at) = pieces.iter().position(|p| beside(&new, p)) {
            let old = pieces.remove(at)?;
            new.read = new.read.start.min(old.read.start)..new.read.end.max(old.read.end);
            new.requests += old.requests;
        }
        let large = new.requests > 1 && new.read.end - new.read.start >= BYTES_MIN;
        if new.requests >= REQUESTS_MIN || large {
            return Some(new.read);
        }
        if pieces.len() >= PIECES {
            pieces.pop_front();
        }
        pieces.push_back(new);
        None
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.ahead.runs.lock().retain(|r| r.reader != self.reader);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant(Duration::ZERO);

    impl Trail {
        /// Makes a request for bytes that nobody has read, and returns what is to be fetched.
        fn news(&self, read: Range<u64>, size: u64, now: Instant) -> Option<Fetch> {
            self.step(read.clone(), now);
            self.fetch(&read, size, now)
        }
    }

    proptest! {
        /// Whatever the requests' sizes and however they are shuffled: what is fetched never leaves the volume, is
        /// never far ahead, and a reader that goes on gets nearly all of it ahead.
        #[test]
        fn who_reads_on_is_read_ahead(
            sizes in prop::collection::vec(1u64..200_000, 50..300), shuffle in 1usize..12, seed: u64, start in 0u64..1 << 30,
        ) {
            let ahead = Ahead::new(64 * MIB);
            let trail = ahead.trail();
            let mut requests = Vec::new();
            let mut at = start;
            for size in sizes {
                requests.push(at..at + size);
                at += size;
            }
            let (size, all) = (at, at - start);
            let mut state = seed | 1;
            for some in requests.chunks_mut(shuffle) {
                for i in (1..some.len()).rev() {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    some.swap(i, (state >> 33) as usize % (i + 1));
                }
            }
            // `known`: as far as the map is, or the data themselves.
            let (mut fetched, mut highest, mut known) = (0, start, start);
            for request in requests {
                highest = highest.max(request.end);
                let Some(Fetch { range, map, .. }) = trail.news(request, size, NOW) else { continue };
                prop_assert!(range.start < range.end && range.end <= size);
                prop_assert!(range.end <= highest + WINDOW_MAX + GRID);
                fetched += range.end - range.start;
                known = known.max(range.end);
                if let Some(map) = map {
                    prop_assert!(map.start < map.end && map.end <= size && map.start >= range.end);
                    known = known.max(map.end);
                }
            }
            prop_assert!(fetched + 14 * 200_000 + WINDOW_MIN >= all, "{fetched} of {all}");
            prop_assert!(fetched <= all + all / 4, "{fetched} of {all}");
            prop_assert!(all < 24 * MIB || known == size, "{known} of {size}");
            drop(trail);
            prop_assert_eq!(ahead.budget.used(), 0);
        }

        #[test]
        fn who_jumps_about_is_not(seed: u64) {
            let trail = Ahead::new(64 * MIB).trail();
            let mut state = seed | 1;
            let mut fetched = 0;
            for _ in 0..5_000 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) % (1 << 18) * BLOCK;
                fetched += trail.news(at..at + BLOCK, 1 << 30, NOW).map_or(0, |f| f.range.end - f.range.start);
            }
            // 20 MB were read; once in a while neighbours are, by chance.
            prop_assert!(fetched <= 4 * WINDOW_MIN, "{fetched}");
        }
    }

    #[test]
    fn what_a_fetch_may_have_left_is_looked_for_by_the_next() {
        let trail = Ahead::new(256 * MIB).trail();
        let (size, mut left, mut leaves) = (1 << 30, false, 0);
        for i in 0..1024 {
            let Some(fetch) = trail.news(i * MIB..(i + 1) * MIB, size, NOW) else { continue };
            let read = if left { (i + 1) * MIB } else { fetch.range.start };
            assert_eq!(fetch.blocks().start, read / BLOCK);
            assert_eq!(fetch.blocks().end, fetch.range.end / BLOCK + u64::from(fetch.leaves));
            assert!(!fetch.leaves || fetch.range.end < size, "nothing comes behind the end");
            (left, leaves) = (fetch.leaves, leaves + u64::from(fetch.leaves));
        }
        assert!(leaves > 20, "{leaves}");
    }

    #[test]
    fn what_stands_still_gives_way_and_what_is_read_is_free_again() {
        let ahead = Ahead::new(8 * MIB);
        let (a, b) = (ahead.trail(), ahead.trail());
        let read = |trail: &Trail, from: u64, now| {
            (from..from + 64).filter_map(|i| trail.news(i * MIB..(i + 1) * MIB, 1 << 40, now)).count()
        };
        assert!(read(&a, 0, NOW) > 10);
        let used = ahead.budget.used();
        assert!(used > 0 && used <= 8 * MIB);
        let idle = ahead.budget.try_take(8 * MIB - used).unwrap();
        assert_eq!(read(&b, 0, NOW), 0, "no memory is left");
        assert!(read(&b, 64, Instant(IDLE * 2)) > 0, "the other stood still");
        drop((a, b, idle));
        assert_eq!(ahead.budget.used(), 0);
        let none = Ahead::new(1);
        assert_eq!(read(&none.trail(), 0, NOW), 0);
    }
}

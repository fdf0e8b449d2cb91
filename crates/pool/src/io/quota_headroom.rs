//! What the pool's quota leaves this host to write until the pool's volumes are counted again.
//!
//! Bytes of data, without parity. What is written over counts as well until the next count, which sees what it took: so room is
//! told too small rather than too large, but for what other hosts write meanwhile, and nobody is refused before a count that began
//! after he asked. While this host writes nothing, nothing is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use windlass_base::rt::Instant;

/// Time between two counts; `AGAIN` is the shortest time between them when somebody has no room.
const EVERY: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(2);
/// Shortest time between the beginnings of two passes of collection for want of room.
const COLLECT_AGAIN: Duration = Duration::from_secs(60);
/// Number of bytes that stands for "no end", where there is no quota.
const NO_END: u64 = u64::MAX;

/// The bytes that the pool's quota leaves this host to write, and the counts that find them.
#[derive(Debug)]
pub struct QuotaRoom {
    left: AtomicU64,
    counts: Mutex<Counts>,
    done: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    /// A count is under way.
    counting: bool,
    /// Somebody waits for the next count.
    asked: bool,
    begun: u64,
    /// Number of the last count that came to an end.
    ended: u64,
    /// Bytes that the last count left, before anything was taken of them.
    found: u64,
    /// Bytes that this host had written when the last count began.
    written: u64,
    /// The time at which the last count ended or failed.
    last: Option<Instant>,
    /// The time at which collection that makes room last began.
    collected: Option<Instant>,
    collecting: bool,
}

/// A count that is under way.
#[derive(Debug)]
pub struct Count {
    number: u64,
    /// Bytes that were left when the count began.
    before: u64,
    /// Somebody waits for this count.
    asked: bool,
    written: u64,
}

impl Default for QuotaRoom {
    fn default() -> QuotaRoom {
        let counts = Counts { found: NO_END, ..Counts::default() };
        QuotaRoom { left: AtomicU64::new(NO_END), counts: Mutex::new(counts), done: Notify::new() }
    }
}

impl QuotaRoom {
    /// Takes so much of what is left. False: there is not so much.
    pub fn take(&self, bytes: u64) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left == NO_END {
            return true;
        }
        let take = |left: u64| if left == NO_END { Some(left) } else { left.checked_sub(bytes) };
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Tells whether there is room for so many bytes, by a count that began after this call. The answer comes at once where so
    /// much is left by now, or where the last count, less than `AGAIN` ago, found too little. While nobody can count, this
    /// waits.
    pub async fn has(&self, now: Instant, bytes: u64) -> bool {
        let enough = || self.left.load(Ordering::Relaxed) >= bytes;
        let wanted = {
            let mut counts = self.counts.lock();
            let recent = counts.last.is_some_and(|last| now.since(last) < AGAIN);
            // What the last one found was another quota's, when the quota was changed since.
            let holds = recent && !counts.asked && counts.ended == counts.begun;
            if enough() || holds && counts.found < bytes {
                return enough();
            }
            counts.asked = true;
            counts.begun + 1
        };
        loop {
            let mut done = std::pin::pin!(self.done.notified());
            // Enabled before the look: a count that ends between the look and the wait would else wake nobody.
            done.as_mut().enable();
            if self.counts.lock().ended >= wanted || enough() {
                return enough();
            }
            done.await;
        }
    }

    /// Has it counted at once: the quota was changed, and nobody is refused by what an earlier count found.
    pub fn ask(&self) {
        let mut counts = self.counts.lock();
        (counts.asked, counts.last) = (true, None);
    }

    /// Tells whether collection is to begin that makes room, since the last count found less than `least`; `has_collected`
    /// ends it.
    pub fn must_collect(&self, now: Instant, least: u64) -> bool {
        let mut counts = self.counts.lock();
        let recent = counts.collected.is_some_and(|last| now.since(last) < COLLECT_AGAIN);
        let must = counts.found < least && !counts.collecting && !recent;
        if must {
            (counts.collecting, counts.collected) = (true, Some(now));
        }
        must
    }

    pub fn has_collected(&self) {
        self.counts.lock().collecting = false;
    }

    /// Begins a count, if one is due now. `counted` or `failed` ends it. `written`: how much this host has written by now.
    pub fn begin(&self, now: Instant, written: u64) -> Option<Count> {
        let mut counts = self.counts.lock();
        let after = if counts.asked { AGAIN } else { EVERY };
        let idle = counts.ended > 0 && !counts.asked && counts.written == written;
        if counts.counting || idle || counts.last.is_some_and(|last| now.since(last) < after) {
            return None;
        }
        let asked = std::mem::take(&mut counts.asked);
        (counts.counting, counts.begun) = (true, counts.begun + 1);
        Some(Count { number: counts.begun, before: self.left.load(Ordering::Relaxed), asked, written })
    }

    /// Ends a count that found so much left, less what was taken meanwhile. `None`: there is no quota.
    pub fn counted(&self, now: Instant, count: Count, left: Option<u64>) {
        let found = left.unwrap_or(NO_END);
        let set = |seen: u64| {
            let meanwhile = if count.before == NO_END { 0 } else { count.before.saturating_sub(seen) };
            Some(left.map_or(NO_END, |left| left.saturating_sub(meanwhile)))
        };
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        let mut counts = self.counts.lock();
        (counts.counting, counts.ended, counts.found, counts.last) = (false, count.number, found, Some(now));
        counts.written = count.written;
        drop(counts);
        self.done.notify_waiters();
    }

    /// Ends a count that could not be made: what was known stays, and whoever waits for this count waits for the next.
    pub fn failed(&self, now: Instant, count: Count) {
        let mut counts = self.counts.lock();
        (counts.counting, counts.last) = (false, Some(now));
        counts.asked |= count.asked;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn count(room: &QuotaRoom, now: Instant, left: Option<u64>) {
        // Each time more was written.
        let count = room.begin(now, now.0.as_millis() as u64).unwrap();
        room.counted(now, count, left);
    }

    #[test]
    fn what_is_taken_while_it_is_counted_counts() {
        let (room, at) = (QuotaRoom::default(), |s| Instant::default() + Duration::from_secs(s));
        assert!(room.take(u64::MAX), "no quota");
        count(&room, at(0), Some(100));
        assert!(room.take(60) && !room.take(41) && room.take(40) && !room.take(1) && room.take(0));
        assert!(room.begin(at(3), 3).is_none(), "nobody has asked");
        assert!(room.begin(at(99), 0).is_none(), "nothing was written");
        count(&room, at(30), Some(100));
        let under_way = room.begin(at(60), 60).unwrap();
        assert!(room.take(30) && room.begin(at(99), 99).is_none(), "one at a time");
        room.counted(at(61), under_way, Some(50));
        assert!(!room.take(21) && room.take(20));
        count(&room, at(100), None);
        assert!(room.take(1 << 60));
    }

    #[test]
    fn nobody_is_refused_by_a_quota_that_was_raised() {
        let (room, at) = (QuotaRoom::default(), |ms| Instant::default() + Duration::from_millis(ms));
        count(&room, at(0), Some(0));
        assert_eq!(room.has(at(500), 1).now_or_never(), Some(false), "counted a moment ago");
        room.ask();
        let mut waits = Box::pin(room.has(at(500), 1));
        assert_eq!(waits.as_mut().now_or_never(), None, "of the quota that is no more");
        count(&room, at(500), None);
        assert_eq!(waits.now_or_never(), Some(true));
    }

    #[test]
    fn want_of_room_collects_now_and_then() {
        let (room, at) = (QuotaRoom::default(), |s| Instant::default() + Duration::from_secs(s));
        assert!(!room.must_collect(at(0), 10), "no quota");
        count(&room, at(0), Some(9));
        assert!(
            !room.must_collect(at(0), 9) && room.must_collect(at(0), 10) && !room.must_collect(at(90), 10)
        );
        room.has_collected();
        assert!(!room.must_collect(at(59), 10) && room.must_collect(at(61), 10));
    }

    #[test]
    fn nobody_is_refused_but_by_a_count_of_his_own() {
        let (room, at) = (QuotaRoom::default(), |s| Instant::default() + Duration::from_secs(s));
        count(&room, at(0), Some(100));
        assert!(room.take(95), "written over, perhaps");
        // One that had begun before, and one that fails, tell nothing.
        let old = room.begin(at(30), 30).unwrap();
        let mut asks = Box::pin(room.has(at(31), 10));
        assert!(asks.as_mut().now_or_never().is_none());
        room.counted(at(32), old, Some(4));
        assert!(asks.as_mut().now_or_never().is_none());
        let fails = room.begin(at(34), 34).unwrap();
        room.failed(at(35), fails);
        assert!(asks.as_mut().now_or_never().is_none() && room.begin(at(36), 36).is_none());
        count(&room, at(37), Some(90));
        assert_eq!(asks.now_or_never(), Some(true));
        // What was found full a moment ago is full.
        assert!(room.take(90));
        let mut asks = Box::pin(room.has(at(38), 10));
        assert!(asks.as_mut().now_or_never().is_none(), "it was taken since: perhaps written over");
        count(&room, at(39), Some(3));
        assert_eq!(asks.now_or_never(), Some(false));
        assert_eq!(room.has(at(40), 10).now_or_never(), Some(false));
        assert_eq!(room.has(at(42), 10).now_or_never(), None);
    }
}

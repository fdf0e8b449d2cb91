//! Who is merging which blocks: a write of part of a block reads the rest first, and nobody may change those blocks
//! in between. And in which order writes that overlap are done.
//!
//! A range is locked whole or not at all, so that two can't wait for each other. Writes of whole blocks lock nothing: they
//! look, inside the step that makes them visible, whether somebody holds their blocks.
//!
//! `Arrivals` comes before all that: a write that has to wait, for whatever, goes before those that come later and overlap
//! it. A later one doesn't begin before, so it holds nothing that the earlier one could wait for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

#[derive(Debug, Default)]
pub struct Ranges {
    /// Held ranges of blocks, each as its first block and its end; they are disjoint.
    held: Mutex<BTreeMap<u64, u64>>,
    freed: Notify,
}

/// Blocks that one writer holds until this is dropped.
#[derive(Debug)]
pub struct Guard<'a> {
    ranges: &'a Ranges,
    first: u64,
}

fn overlaps(held: &BTreeMap<u64, u64>, range: &Range<u64>) -> bool {
    held.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
}

impl Ranges {
    /// Tells whether somebody holds one of these blocks.
    pub fn is_held(&self, range: &Range<u64>) -> bool {
        overlaps(&self.held.lock(), range)
    }

    pub async fn lock(&self, range: Range<u64>) -> Guard<'_> {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            {
                let mut held = self.held.lock();
                if !overlaps(&held, &range) {
                    held.insert(range.start, range.end);
                    return Guard { ranges: self, first: range.start };
                }
            }
            freed.await;
        }
    }

    /// Waits until nobody holds one of these blocks. When this returns, somebody else may hold them again.
    pub async fn free(&self, range: &Range<u64>) {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if !self.is_held(range) {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.ranges.held.lock().remove(&self.first);
        self.ranges.freed.notify_waiters();
    }
}

/// The writes that wait, in the order in which they came.
///
/// Writes under way at the same time may be done in any order, as long as whoever asked for both still waits
/// for both. A client whose connection broke without this side noticing doesn't: it sends again elsewhere
/// what was not answered, is answered there, and goes on. What it had sent first must not land on that.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Number of writes that wait. Mostly none does, and then nobody looks further.
    many: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Number of the next write that waits.
    next: u64,
    writes: BTreeMap<u64, Write>,
}

#[derive(Debug)]
struct Write {
    blocks: Range<u64>,
    /// Number of earlier writes that overlap this one and are not done.
    before: usize,
    /// Wakes the write by being dropped, when no such write is left.
    turn: Option<oneshot::Sender<()>>,
}

impl Write {
    fn overlaps(&self, blocks: &Range<u64>) -> bool {
        self.blocks.start < blocks.end && blocks.start < self.blocks.end
    }
}

/// A place among the writes that wait, until it is dropped.
struct Place<'a> {
    arrivals: &'a Arrivals,
    number: u64,
    turn: oneshot::Receiver<()>,
}

impl Arrivals {
    /// Does the write, after those that came earlier, have to wait, and overlap it. A write that is dropped
    /// before its end holds up nobody. It is taken by reference, as `unless_outage` takes its work.
    pub async fn in_order<T>(&self, blocks: Range<u64>, mut write: Pin<&mut impl Future<Output = T>>) -> T {
        let behind = self.anyone_before(&blocks);
        if !behind && let Poll::Ready(done) = futures::poll!(write.as_mut()) {
            return done;
        }
        let mut place = self.enter(blocks);
        // What has begun waits for no place: it may hold what those wait for that have begun as well.
        if behind {
            let _ = (&mut place.turn).await;
        }
        write.await
    }

    fn anyone_before(&self, blocks: &Range<u64>) -> bool {
        self.many.load(Ordering::Acquire) > 0
            && self.waiting.lock().writes.values().any(|write| write.overlaps(blocks))
    }

    fn enter(&self, blocks: Range<u64>) -> Place<'_> {
        let (sender, turn) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        let before = waiting.writes.values().filter(|write| write.overlaps(&blocks)).count();
        let sender = (before > 0).then_some(sender);
        waiting.writes.insert(number, Write { blocks, before, turn: sender });
        self.many.store(waiting.writes.len(), Ordering::Release);
        Place { arrivals: self, number, turn }
    }

    /// Removes a write that no longer waits. Returns the senders of those whose turn it is now.
    fn leave(&self, number: u64) -> Vec<oneshot::Sender<()>> {
        let mut waiting = self.waiting.lock();
        let Some(gone) = waiting.writes.remove(&number) else { return Vec::new() };
        self.many.store(waiting.writes.len(), Ordering::Release);
        let mut next = Vec::new();
        for (_, later) in waiting.writes.range_mut(number..) {
            if later.overlaps(&gone.blocks) {
                later.before -= 1;
                if later.before == 0 {
                    next.extend(later.turn.take());
                }
            }
        }
        next
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // They are woken here, outside of the lock.
        drop(self.arrivals.leave(self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    async fn in_order<T>(arrivals: &Arrivals, blocks: Range<u64>, write: impl Future<Output = T>) -> T {
        arrivals.in_order(blocks, pin!(write)).await
    }

    /// A write waits for earlier ones that overlap it, in the order in which they came, whatever the first
    /// one waits for. Others pass.
    #[tokio::test]
    async fn writes_that_overlap_one_that_waits_are_done_after_it() {
        let arrivals = Arrivals::default();
        let (done, waits) = oneshot::channel::<()>();
        let mut first = Box::pin(in_order(&arrivals, 0..4, async { waits.await.map_or(0, |()| 1) }));
        assert!((&mut first).now_or_never().is_none());
        let mut second = Box::pin(in_order(&arrivals, 3..6, async { 2 }));
        let mut third = Box::pin(in_order(&arrivals, 5..7, async { 3 }));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert_eq!(in_order(&arrivals, 7..9, async { 4 }).now_or_never(), Some(4));
        assert_eq!(arrivals.many.load(Ordering::Relaxed), 3);
        done.send(()).unwrap();
        assert!((&mut third).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        assert_eq!((&mut first).now_or_never(), Some(1));
        assert!((&mut third).now_or_never().is_none());
        assert_eq!((&mut second).now_or_never(), Some(2));
        assert_eq!((&mut third).now_or_never(), Some(3));
        assert_eq!(arrivals.many.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_write_that_is_given_up_lets_those_behind_it_go() {
        let arrivals = Arrivals::default();
        let mut first = Box::pin(in_order(&arrivals, 0..2, std::future::pending::<u8>()));
        let mut second = Box::pin(in_order(&arrivals, 0..1, std::future::pending::<u8>()));
        let mut third = Box::pin(in_order(&arrivals, 0..2, async { 3 }));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(second);
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert_eq!((&mut third).now_or_never(), Some(3));
    }

    /// Two writes begin when nobody waits, on two threads, and one waits for the other.
    #[tokio::test]
    async fn what_has_begun_waits_for_no_place() {
        let arrivals = Arrivals::default();
        let (done, waits) = oneshot::channel::<()>();
        let write = async {
            // In the middle of its first step another one enters.
            let other = arrivals.enter(0..2);
            waits.await.map(|()| drop(other))
        };
        let mut first = Box::pin(in_order(&arrivals, 0..2, write));
        assert!((&mut first).now_or_never().is_none());
        done.send(()).unwrap();
        assert_eq!((&mut first).now_or_never(), Some(Ok(())));
        assert_eq!(arrivals.many.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn overlapping_ranges_wait_and_others_do_not() {
        let ranges = Ranges::default();
        let a = ranges.lock(10..20).await;
        assert!(ranges.is_held(&(19..30)) && ranges.is_held(&(0..11)) && ranges.is_held(&(12..13)));
        assert!(!ranges.is_held(&(20..30)) && !ranges.is_held(&(0..10)));
        let b = ranges.lock(20..30).await;
        let mut c = Box::pin(ranges.lock(19..21));
        assert!((&mut c).now_or_never().is_none());
        drop(a);
        assert!((&mut c).now_or_never().is_none());
        drop(b);
        let c = c.await;
        assert!(ranges.free(&(20..21)).now_or_never().is_none());
        drop(c);
        ranges.free(&(20..21)).await;
    }
}

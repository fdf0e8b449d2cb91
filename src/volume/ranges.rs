//! Who is merging which blocks: a write of part of a block reads the rest first, and nobody may change those blocks
//! in between.
//!
//! A range is locked whole or not at all, so that two can't wait for each other. Writes of whole blocks lock nothing: they
//! look, inside the step that makes them visible, whether somebody holds their blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Ranges {
    /// First block to end; disjoint.
    held: Mutex<BTreeMap<u64, u64>>,
    freed: Notify,
}

/// Blocks that one writer holds.
#[derive(Debug)]
pub struct Guard<'a> {
    ranges: &'a Ranges,
    first: u64,
}

fn overlaps(held: &BTreeMap<u64, u64>, range: &Range<u64>) -> bool {
    held.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
}

impl Ranges {
    /// Whether somebody holds one of these blocks.
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

    /// Waits until nobody holds one of these blocks; by then somebody else may.
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

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

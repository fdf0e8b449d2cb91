//! What the pool's quota leaves this host to write until the pool's volumes are counted again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::rt::{Instant, Rt};

/// How often it is counted, and how often at most when somebody has no room.
const EVERY: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(2);
/// How long whoever has no room waits for a count.
const WAIT: Duration = Duration::from_secs(10);
/// Without a quota.
const NO_END: u64 = u64::MAX;

/// Bytes of data, without parity. What is written over counts as well until the next count, which sees what it took: room is
/// told too small rather than too large, but for what other hosts write meanwhile.
#[derive(Debug)]
pub struct QuotaRoom {
    left: AtomicU64,
    asked: AtomicBool,
    counted: Notify,
    last: Mutex<Option<Instant>>,
}

impl Default for QuotaRoom {
    fn default() -> QuotaRoom {
        let (asked, counted, last) = Default::default();
        QuotaRoom { left: AtomicU64::new(NO_END), asked, counted, last }
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

    /// Whether there is room for so much, by a count that is no older than `AGAIN` where the one before left too little. What can't be
    /// counted now is full.
    pub async fn has(&self, rt: &Rt, bytes: u64) -> bool {
        let enough = || self.left.load(Ordering::Relaxed) >= bytes;
        let now = rt.now();
        if enough() || self.last.lock().is_some_and(|last| now.since(last) < AGAIN) {
            return enough();
        }
        let mut counted = std::pin::pin!(self.counted.notified());
        counted.as_mut().enable();
        self.asked.store(true, Ordering::Relaxed);
        rt.timeout(WAIT, counted).await;
        enough()
    }

    /// Whether it should be counted now.
    pub fn is_due(&self, now: Instant) -> bool {
        let after = if self.asked.load(Ordering::Relaxed) { AGAIN } else { EVERY };
        self.last.lock().is_none_or(|last| now.since(last) >= after)
    }

    /// Before a count: what it must be told of.
    pub fn before(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// After a count that left so much, less what was taken meanwhile. `None`: there is no quota.
    pub fn counted(&self, now: Instant, left: Option<u64>, before: u64) {
        let set = |seen: u64| {
            let meanwhile = if before == NO_END { 0 } else { before.saturating_sub(seen) };
            Some(left.map_or(NO_END, |left| left.saturating_sub(meanwhile)))
        };
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        *self.last.lock() = Some(now);
        self.asked.store(false, Ordering::Relaxed);
        self.counted.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_while_it_is_counted_counts() {
        let (room, now) = (QuotaRoom::default(), Instant::default());
        assert!(room.take(u64::MAX) && room.is_due(now), "no quota");
        room.counted(now, Some(100), room.before());
        assert!(room.take(60) && !room.take(41) && room.take(40) && !room.take(1) && room.take(0));
        room.counted(now, Some(100), room.before());
        let before = room.before();
        assert!(room.take(30));
        room.counted(now, Some(50), before);
        assert!(!room.take(21) && room.take(20));
        assert!(!room.is_due(now + AGAIN) && room.is_due(now + EVERY));
        room.counted(now, None, room.before());
        assert!(room.take(1 << 60));
    }
}

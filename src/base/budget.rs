//! A shared allowance of memory: who wants more than is left waits; nobody fails for want of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for, in bytes. Small enough for a block, so that the sums stay honest.
const UNIT: u64 = 1024;

/// So many bytes for all who share it. First come, first served. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<Semaphore>,
    units: u32,
    waiting: Arc<AtomicU64>,
}

/// A part of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Held(OwnedSemaphorePermit);

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        let units = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Budget { left: Arc::new(Semaphore::new(units as usize)), units, waiting: Arc::default() }
    }

    pub fn total(&self) -> u64 {
        u64::from(self.units) * UNIT
    }

    pub fn used(&self) -> u64 {
        self.total() - self.left.available_permits() as u64 * UNIT
    }

    /// Whether somebody waits: those who hold memory may hurry.
    pub fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    // A request above the whole allowance waits for all of it: it could never be met otherwise.
    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
    }

    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        self.left.clone().try_acquire_many_owned(self.units_of(bytes)).ok().map(Held)
    }

    /// Waits until so much is free. A holder must never wait for more of the same budget.
    pub async fn take(&self, bytes: u64) -> Held {
        if let Some(held) = self.try_take(bytes) {
            return held;
        }
        let _waiting = Waiting::new(&self.waiting);
        let permit = self.left.clone().acquire_many_owned(self.units_of(bytes)).await;
        Held(permit.expect("the semaphore is never closed"))
    }
}

impl Held {
    pub fn bytes(&self) -> u64 {
        self.0.num_permits() as u64 * UNIT
    }

    /// Both as one.
    pub fn join(&mut self, other: Held) {
        if Arc::ptr_eq(self.0.semaphore(), other.0.semaphore()) {
            self.0.merge(other.0);
        }
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let keep = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        drop(self.0.split(self.0.num_permits().saturating_sub(keep)));
    }
}

struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Waiting<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn who_wants_too_much_waits_for_all_and_gets_it() {
        let budget = Budget::new(10 * 1024);
        let mut a = budget.take(4096).await;
        assert_eq!(budget.used(), 4096);
        let mut b = Box::pin(budget.take(1 << 40));
        assert!((&mut b).now_or_never().is_none());
        assert!(budget.is_short());
        a.shrink(1000);
        assert_eq!(a.bytes(), 1024);
        drop(a);
        let b = b.await;
        assert_eq!((b.bytes(), budget.used()), (10 * 1024, 10 * 1024));
        assert!(!budget.is_short() && budget.try_take(1).is_none());
        drop(b);
        assert_eq!(budget.used(), 0);
    }
}

//! Who waits for an open volume: operations that wait for stores, and those who want it let go.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use windlass_base::rt::Instant;

/// Operations that wait for stores, and why.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Number of operations that wait.
    waiters: usize,
    /// Time since when they wait, and why.
    pub said: Option<(Instant, String)>,
}

/// An operation that waits. There is no trouble when the last of them has gone, whether it was done or given up.
pub struct Waiter<'a>(&'a Mutex<Trouble>);

impl<'a> Waiter<'a> {
    pub fn new(trouble: &'a Mutex<Trouble>) -> Waiter<'a> {
        trouble.lock().waiters += 1;
        Waiter(trouble)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut trouble = self.0.lock();
        trouble.waiters -= 1;
        if trouble.waiters == 0 {
            trouble.said = None;
        }
    }
}

/// Count of those who want the volume let go.
#[derive(Debug, Default)]
pub struct Leavers {
    many: AtomicUsize,
    came: Notify,
}

/// One who wants the volume let go, until that is done.
pub struct Leaver<'a>(&'a Leavers);

impl<'a> Leaver<'a> {
    pub fn new(leavers: &'a Leavers) -> Leaver<'a> {
        leavers.many.fetch_add(1, Ordering::Relaxed);
        leavers.came.notify_waiters();
        Leaver(leavers)
    }
}

impl Drop for Leaver<'_> {
    fn drop(&mut self) {
        self.0.many.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Leavers {
    pub fn any(&self) -> bool {
        self.many.load(Ordering::Relaxed) > 0
    }

    /// Waits until somebody wants the volume let go.
    pub async fn come(&self) {
        loop {
            // Registered before the look: one who comes in between must not be missed.
            let came = self.came.notified();
            let mut came = pin!(came);
            came.as_mut().enable();
            if self.any() {
                return;
            }
            came.await;
        }
    }
}

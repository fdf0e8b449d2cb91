//! A small state under a lock that tasks can wait on.
//!
//! tokio's `watch` picks its wait queue at random, so simulated runs would differ; `Notify` wakes in order.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A value, and a bell that rings when it changes.
#[derive(Debug, Default)]
pub struct Watched<S> {
    state: Mutex<S>,
    changed: Notify,
}

impl<S> Watched<S> {
    pub fn new(state: S) -> Watched<S> {
        Watched { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Reads the state, or makes a change for which nobody waits.
    pub fn with<T>(&self, f: impl FnOnce(&mut S) -> T) -> T {
        f(&mut self.state.lock())
    }

    /// Changes the state and wakes all who wait.
    pub fn update<T>(&self, f: impl FnOnce(&mut S) -> T) -> T {
        let out = f(&mut self.state.lock());
        self.changed.notify_waiters();
        out
    }

    /// Waits until `f` finds what it looks for. Safe to drop midway.
    pub async fn until<T>(&self, mut f: impl FnMut(&mut S) -> Option<T>) -> T {
        loop {
            let woken = self.changed.notified();
            futures::pin_mut!(woken);
            // From here on no change is missed.
            woken.as_mut().enable();
            let found = self.with(&mut f);
            if let Some(found) = found {
                return found;
            }
            woken.await;
        }
    }
}

//! A connection's part of the memory for requests.
//!
//! The first `FLOOR` bytes are the connection's own: within them every request goes on, whatever others hold. What it
//! holds above is taken from the budget before a request is started, and makes it faster. It waits for more while it
//! holds some: that is safe, since what is held is given back by finished work and by the client's reading alone,
//! neither of which waits for the budget. A client that does not read is hung up on while somebody waits.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

use windlass_base::rt::Rt;
use windlass_base::{Budget, Held};

/// Bytes that every connection may hold without asking.
pub const FLOOR: u64 = 256 << 10;
/// A client that takes less than `FLOOR` bytes of its replies in so long is dropped, while others wait for memory that
/// its replies hold.
pub const STALL: Duration = Duration::from_secs(10);

pub struct Share {
    memory: Budget,
    held: Option<Held>,
    waiting: Option<BoxFuture<'static, Held>>,
    stall: Option<BoxFuture<'static, ()>>,
    /// Bytes that went to the client since `stall` began.
    moved: u64,
}

impl Share {
    pub fn new(memory: Budget) -> Share {
        Share { memory, held: None, waiting: None, stall: None, moved: 0 }
    }

    fn has(&self) -> u64 {
        self.held.as_ref().map_or(0, Held::bytes)
    }

    /// Takes note of how many bytes the connection holds; the memory above that goes back. What it waited for
    /// is given up unless it still `asks`.
    pub fn holds(&mut self, bytes: u64, asks: bool) {
        if !asks {
            self.waiting = None;
        }
        match (&mut self.held, bytes.saturating_sub(FLOOR)) {
            (None, _) => {}
            (held, 0) => *held = None,
            (Some(held), above) => held.shrink(above),
        }
    }

    /// Reserves room for `more` bytes beside the `holds` bytes. `false`: there is no room, and the task is
    /// woken when there is.
    pub fn reserve(&mut self, holds: u64, more: u64, cx: &mut Context<'_>) -> bool {
        // A request above the whole budget has it when it has all of it.
        let needs = (holds + more).saturating_sub(FLOOR).min(self.memory.total());
        // What is held may have grown since the wait began (a reply is longer than its data): then for the rest again,
        // since no one would wake a task that waits for nothing.
        while more > 0 && self.has() < needs {
            let missing = needs - self.has();
            if self.waiting.is_none()
                && let Some(more) = self.memory.try_take(missing)
            {
                self.join(more);
                continue;
            }
            let memory = self.memory.clone();
            let wait = self.waiting.get_or_insert_with(|| async move { memory.take(missing).await }.boxed());
            let Poll::Ready(more) = wait.poll_unpin(cx) else { return false };
            self.waiting = None;
            self.join(more);
        }
        self.waiting = None;
        true
    }

    fn join(&mut self, more: Held) {
        match &mut self.held {
            Some(held) => held.join(more),
            none => *none = Some(more),
        }
    }

    /// Counts bytes that went to the client.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
    }

    /// Forgets the time and the bytes so far: the client has all its replies, or the connection holds no memory
    /// beyond its own.
    pub fn rest(&mut self) {
        (self.stall, self.moved) = (None, 0);
    }

    /// Tells whether the client is to be dropped for taking too little. It may be asked only while replies
    /// wait for the client.
    pub fn poll_stall(&mut self, rt: &Rt, cx: &mut Context<'_>) -> bool {
        if self.held.is_none() {
            self.rest();
            return false;
        }
        loop {
            let stall = self.stall.get_or_insert_with(|| rt.sleep(STALL));
            if stall.poll_unpin(cx).is_pending() {
                return false;
            }
            let took = self.moved;
            self.rest();
            if took < FLOOR && self.memory.is_short() {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_more_by_the_time_it_is_served_is_not_forgotten() {
        let memory = Budget::new(1 << 20);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let others = memory.try_take(1 << 20).unwrap();
        let mut share = Share::new(memory.clone());
        assert!(share.reserve(0, FLOOR, &mut cx), "the floor is its own");
        assert!(!share.reserve(FLOOR, 10 << 10, &mut cx));
        assert!(memory.is_short());
        drop(others);
        // A reply's header came to what it holds meanwhile.
        assert!(share.reserve(FLOOR + 16, 10 << 10, &mut cx));
        share.holds(FLOOR, true);
        assert_eq!(memory.used(), 0);
        // More than there is: all of it will do.
        assert!(share.reserve(FLOOR, 1 << 30, &mut cx));
        assert_eq!(memory.used(), memory.total());
    }
}

//! A connection's part of the memory for requests.
//!
//! The first `FLOOR` bytes are the connection's own, so that small requests go on whatever others hold. What it holds
//! above is taken from the budget before a request is taken in. It waits for more while it holds some: that is safe,
//! since what is held is given back by finished work and by the client's reading alone, neither of which waits for
//! the budget, and a client that does not read is hung up on while somebody waits.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

use crate::base::rt::Rt;
use crate::base::{Budget, Held};

/// Bytes that every connection may hold without asking.
pub const FLOOR: u64 = 256 << 10;
/// A client that moves nothing for so long, while others wait for memory that it holds, is dropped.
pub const STALL: Duration = Duration::from_secs(30);

pub struct Share {
    memory: Budget,
    held: Option<Held>,
    waiting: Option<BoxFuture<'static, Held>>,
    stall: Option<BoxFuture<'static, ()>>,
}

impl Share {
    pub fn new(memory: Budget) -> Share {
        Share { memory, held: None, waiting: None, stall: None }
    }

    fn has(&self) -> u64 {
        self.held.as_ref().map_or(0, Held::bytes)
    }

    /// The connection holds so much now: what is above that goes back.
    pub fn holds(&mut self, bytes: u64) {
        match (&mut self.held, bytes.saturating_sub(FLOOR)) {
            (None, _) => {}
            (held, 0) => *held = None,
            (Some(held), above) => held.shrink(above),
        }
    }

    /// Room for `more` beside what is held; if there is none, the task is woken when there is.
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

    /// Bytes went to or came from the client.
    pub fn moved(&mut self) {
        self.stall = None;
    }

    /// Whether the client is to be dropped for moving nothing; asked only while it is its turn.
    pub fn poll_stall(&mut self, rt: &Rt, cx: &mut Context<'_>) -> bool {
        if self.held.is_none() {
            self.stall = None;
            return false;
        }
        loop {
            let stall = self.stall.get_or_insert_with(|| rt.sleep(STALL));
            if stall.poll_unpin(cx).is_pending() {
                return false;
            }
            self.stall = None;
            if self.memory.is_short() {
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
        share.holds(FLOOR);
        assert_eq!(memory.used(), 0);
        // More than there is: all of it will do.
        assert!(share.reserve(FLOOR, 1 << 30, &mut cx));
        assert_eq!(memory.used(), memory.total());
    }
}

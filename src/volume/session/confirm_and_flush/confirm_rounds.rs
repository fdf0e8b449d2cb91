//! The bookkeeping of confirm reads: which rounds were asked for, began, succeeded; which writes none has covered.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::other_hosts::Others;
use crate::base::Lsn;
use crate::base::rt::Instant;

/// A `local` volume confirms within 5 s of the first acknowledged write that no confirm has covered; this leaves a
/// second for the read itself.
const CONFIRM_EVERY: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
struct State {
    begun: u64,
    /// The last one that succeeded.
    done: u64,
    /// Rounds up to here are waited for.
    asked: u64,
    /// The first write that no round has covered.
    dirty: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ConfirmRounds {
    /// The pool's generation in which all that is stored was counted.
    pub counted_in: AtomicU64,
    /// Whom their heads tell of.
    pub others: Others,
    state: Mutex<State>,
    asked: Notify,
    done: Notify,
    /// Up to here all is stored, and a round that began after that succeeded.
    confirmed: watch::Sender<Lsn>,
}

impl ConfirmRounds {
    /// A write was acknowledged.
    pub fn dirty(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.dirty.is_none() {
            state.dirty = Some(now);
            drop(state);
            self.asked.notify_one();
        }
    }

    /// Asks for a round that begins from now on; its number.
    pub fn ask(&self) -> u64 {
        let mut state = self.state.lock();
        let round = state.begun + 1;
        state.asked = state.asked.max(round);
        drop(state);
        self.asked.notify_one();
        round
    }

    /// When a round is due may have changed.
    pub fn poke(&self) {
        self.asked.notify_one();
    }

    /// Another host had the volume a moment ago, and may want it back: rounds are due often from now on.
    pub fn expect_others(&self, now: Instant) {
        self.others.expect(now);
        self.poke();
    }

    pub async fn wait(&self, round: u64) {
        loop {
            let done = self.done.notified();
            let mut done = std::pin::pin!(done);
            done.as_mut().enable();
            if self.state.lock().done >= round {
                return;
            }
            done.await;
        }
    }

    /// Something was asked for.
    pub async fn news(&self) {
        self.asked.notified().await;
    }

    /// When the next round is to begin.
    pub fn due(&self) -> Option<Instant> {
        let state = self.state.lock();
        match state.asked > state.done {
            true => Some(Instant::default()),
            false => state.dirty.map(|at| at + CONFIRM_EVERY),
        }
    }

    pub fn begin(&self) -> (u64, Option<Instant>) {
        let mut state = self.state.lock();
        state.begun += 1;
        (state.begun, state.dirty.take())
    }

    /// `stored`: all up to here was, when it began.
    pub fn succeeded(&self, round: u64, stored: Lsn) {
        let mut state = self.state.lock();
        state.done = round;
        drop(state);
        self.confirmed.send_if_modified(|known| std::mem::replace(known, stored.max(*known)) < stored);
        self.done.notify_waiters();
    }

    /// Tells how far all is stored and confirmed.
    pub fn confirmed(&self) -> watch::Receiver<Lsn> {
        self.confirmed.subscribe()
    }

    /// The writes before the round are still not covered.
    pub fn failed(&self, dirty: Option<Instant>) {
        let mut state = self.state.lock();
        state.dirty = dirty.or(state.dirty);
    }
}

//! The bookkeeping of confirm reads: which rounds were asked for, began, succeeded; which writes none has covered.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::other_hosts::Others;
use windlass_base::Lsn;
use windlass_base::rt::Instant;

/// Longest time between rounds that are needed. A `local` volume confirms within 5 s of the first
/// acknowledged write that no confirm has covered. Any volume confirms within 5 s of a read or flush that
/// finds the last look at the head older than that. The constant leaves a second for the read itself.
const CONFIRM_EVERY: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
struct State {
    begun: u64,
    /// Number of the last round that succeeded.
    done: u64,
    /// Number of the last round for which somebody waits.
    asked: u64,
    /// Time of the first write that no round has covered.
    dirty: Option<Instant>,
    /// Start of the last look at the head that has shown the volume to be this session's.
    looked: Instant,
}

/// The bookkeeping of confirm rounds, as the module describes it.
#[derive(Debug, Default)]
pub struct ConfirmRounds {
    /// The pool's generation in which all that is stored was counted.
    pub counted_in: AtomicU64,
    /// The other hosts of which the heads tell that the rounds read.
    pub others: Others,
    state: Mutex<State>,
    asked: Notify,
    done: Notify,
    /// Record up to which all is stored, and a round that began after that succeeded.
    confirmed: watch::Sender<Lsn>,
}

impl ConfirmRounds {
    /// Notes that a write was acknowledged.
    pub fn dirty(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.dirty.is_none() {
            state.dirty = Some(now);
            drop(state);
            self.asked.notify_one();
        }
    }

    /// Notes that the head was seen to be this session's, by a look that began at `at`.
    pub fn looked(&self, at: Instant) {
        let mut state = self.state.lock();
        state.looked = state.looked.max(at);
    }

    /// Asks for a round if the last look is old, since somebody reads or flushes. Who relies on what is told
    /// here must hear in time that the volume is another host's. Nothing is asked while nobody relies on it,
    /// and nobody waits for the round.
    pub fn relied_on(&self, now: Instant) {
        let mut state = self.state.lock();
        if now.since(state.looked) < CONFIRM_EVERY || state.asked > state.done {
            return;
        }
        state.asked = state.begun + 1;
        drop(state);
        self.asked.notify_one();
    }

    /// Asks for a round that begins from now on, and returns its number.
    pub fn ask(&self) -> u64 {
        let mut state = self.state.lock();
        let round = state.begun + 1;
        state.asked = state.asked.max(round);
        drop(state);
        self.asked.notify_one();
        round
    }

    /// Wakes the task that runs the rounds, since the time at which a round is due may have changed.
    pub fn poke(&self) {
        self.asked.notify_one();
    }

    /// Makes rounds due often from now on: another host had the volume a moment ago, and may want it back.
    pub fn expect_others(&self, now: Instant) {
        self.others.expect(now);
        self.poke();
    }

    pub async fn wait(&self, round: u64) {
        loop {
            // Registered before the state is read: a round that ends in between wakes this waiter too.
            let done = self.done.notified();
            let mut done = std::pin::pin!(done);
            done.as_mut().enable();
            if self.state.lock().done >= round {
                return;
            }
            done.await;
        }
    }

    /// Waits until something was asked for.
    pub async fn news(&self) {
        self.asked.notified().await;
    }

    /// Returns when the next round is to begin.
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

    /// Notes that a round succeeded. `at`: when it began; `stored`: all up to this record was stored by then.
    pub fn succeeded(&self, round: u64, at: Instant, stored: Lsn) {
        let mut state = self.state.lock();
        (state.done, state.looked) = (round, state.looked.max(at));
        drop(state);
        self.confirmed.send_if_modified(|known| std::mem::replace(known, stored.max(*known)) < stored);
        self.done.notify_waiters();
    }

    /// Returns a receiver of the last record up to which all is stored and confirmed.
    pub fn confirmed(&self) -> watch::Receiver<Lsn> {
        self.confirmed.subscribe()
    }

    /// Notes that a round failed, so the writes before it are still not covered.
    pub fn failed(&self, dirty: Option<Instant>) {
        let mut state = self.state.lock();
        state.dirty = dirty.or(state.dirty);
    }
}

//! The bookkeeping of confirm reads: which rounds were asked for, began, succeeded; which writes none has covered.

use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::base::rt::Instant;
use crate::base::{HostId, Nonce};
use crate::volume::head::Head;

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

    pub fn succeeded(&self, round: u64) {
        let mut state = self.state.lock();
        state.done = round;
        drop(state);
        self.done.notify_waiters();
    }

    /// The writes before the round are still not covered.
    pub fn failed(&self, dirty: Option<Instant>) {
        let mut state = self.state.lock();
        state.dirty = dirty.or(state.dirty);
    }
}

/// How long a host counts that has said that it has the volume attached.
const ATTACHED: Duration = Duration::from_secs(120);
/// How often the owner of a volume that it may be asked for looks at the head: while another host has it attached, and else.
const LOOK_OFTEN: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(4);

/// Other hosts that have the volume attached, or ask for it, as the head tells.
#[derive(Debug, Default)]
pub struct Others {
    /// The last word of one of them, and until when it counts.
    attached: Mutex<(Nonce, Option<Instant>)>,
    asks: watch::Sender<bool>,
}

impl Others {
    /// What a head says of them. Whether one has come.
    pub fn saw(&self, head: &Head, me: HostId, now: Instant) -> bool {
        let wanted = head.wanted.as_ref().filter(|wanted| wanted.host.id != me);
        let asks = head.asked().is_some_and(|wanted| wanted.host.id != me);
        self.asks.send_if_modified(|asked| std::mem::replace(asked, asks) != asks);
        let mut attached = self.attached.lock();
        let Some(wanted) = wanted.filter(|wanted| wanted.nonce != attached.0) else { return false };
        let has_come = attached.1.is_none_or(|until| until <= now);
        *attached = (wanted.nonce, Some(now + ATTACHED));
        has_come
    }

    fn expect(&self, now: Instant) {
        self.attached.lock().1 = Some(now + ATTACHED);
    }

    pub fn is_there(&self, now: Instant) -> bool {
        self.attached.lock().1.is_some_and(|until| now < until)
    }

    /// Returns when one asks.
    pub async fn asked(&self) {
        // The sender lives as long as this.
        let _ = self.asks.subscribe().wait_for(|asks| *asks).await;
    }

    /// How long after a look at the head the next one is due.
    pub fn look_after(&self, now: Instant) -> Duration {
        if self.is_there(now) { LOOK_OFTEN } else { LOOK }
    }
}

/// What those who wait for a journal that failed, and who begins it anew, tell each other. A journal that failed takes no
/// records. It is begun anew when everything is stored and confirmed; where its disk takes no files it is given up
/// meanwhile (void), and a flush means the pool.
#[derive(Debug, Default)]
pub struct JournalRestart {
    /// The journal failed.
    pub wanted: Notify,
    /// It was begun anew or given up, or neither can be for now.
    pub news: Notify,
    /// Since when only its disk is in the way.
    pub held_up: Mutex<Option<Instant>>,
    /// Of an encrypted volume: all records that are in the journal are sealed by this data key or newer ones; 0: that is not
    /// known.
    pub key: AtomicU8,
    /// Why the end of a rotation of the data keys waits, where only a user can help: an older one opens a journal that was kept.
    pub kept: Mutex<Option<String>>,
}

impl JournalRestart {
    pub fn want(&self) {
        self.wanted.notify_one();
    }
}

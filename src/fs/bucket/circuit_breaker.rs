//! Whether the store answers at all.
//!
//! The kernel does the operations of one directory one after another: on a store that hangs, each would wait a whole
//! deadline for itself, and the tenth process for ten of them. So what one request has learned holds for those behind it.
//! The store is *silent* once a request has timed out and nothing has come since that request began. Requests to a silent
//! store are not sent. They fail at once while it was waited for within the last `SOON`; else after `SOON`, unless
//! something comes before. A small request of our own is sent again and again meanwhile, and whatever answer it gets, also an error, ends the silence. A store that is slow, but answers within
//! the deadline, is never silent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::rt::{Instant, Rt};
use crate::base::{Error, Kind, Result};
use crate::store::{BucketRef, Cause};

/// How long a request waits for a silent store's return.
const SOON: Duration = Duration::from_secs(1);
/// How often a silent store is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Requests of our own that wait for an answer at a time.
const PROBES: u32 = 16;
/// Asked for; whether it exists is no matter.
const PROBE: &str = "label";

#[derive(Debug)]
struct BreakerState {
    /// When the last answer came.
    came: Instant,
    /// The request that timed out began then; none: the store is not silent.
    silent: Option<Instant>,
    /// When the store was last waited for in vain.
    waited: Instant,
    /// Requests of our own under way.
    probes: u32,
    /// The task that sends them runs.
    asking: bool,
}

#[derive(Debug)]
pub struct CircuitBreaker {
    rt: Rt,
    bucket: BucketRef,
    deadline: Duration,
    state: Mutex<BreakerState>,
    /// An answer came.
    ended: Notify,
    /// Somebody waits for one.
    hurry: Notify,
}

impl CircuitBreaker {
    pub fn new(rt: Rt, bucket: BucketRef, deadline: Duration) -> Arc<CircuitBreaker> {
        let now = rt.now();
        let state = BreakerState { came: now, silent: None, waited: now, probes: 0, asking: false };
        let (state, ended, hurry) = (Mutex::new(state), Notify::new(), Notify::new());
        Arc::new(CircuitBreaker { rt, bucket, deadline, state, ended, hurry })
    }

    /// Returns at once unless the store is silent.
    pub async fn over(&self) -> Result<()> {
        let ended = self.ended.notified();
        let mut ended = std::pin::pin!(ended);
        ended.as_mut().enable();
        let waited = {
            let state = self.state.lock();
            if state.silent.is_none() {
                return Ok(());
            }
            state.waited
        };
        self.hurry.notify_one();
        // Those that come one behind the other do not wait in a row.
        if self.rt.now().since(waited) >= SOON && self.rt.timeout(SOON, ended).await.is_none() {
            self.state.lock().waited = self.rt.now();
        }
        let Some(since) = self.state.lock().silent else { return Ok(()) };
        let secs = self.rt.now().since(since).as_secs();
        let url = self.bucket.url();
        Err(Error::new(
            Kind::Timeout,
            format!("{url} has given no answer for {secs} s and is asked no more until it does"),
        ))
    }

    /// Something came.
    pub fn heard(&self) {
        let mut state = self.state.lock();
        state.came = self.rt.now();
        if state.silent.take().is_some() {
            drop(state);
            tracing::info!(store = self.bucket.url(), "the store answers again");
            self.ended.notify_waiters();
        }
    }

    /// A request that began at `since` timed out.
    pub fn missed(self: &Arc<Self>, since: Instant) {
        let mut state = self.state.lock();
        if state.silent.is_some() || state.came > since {
            return;
        }
        (state.silent, state.waited) = (Some(since), self.rt.now());
        tracing::warn!(
            store = self.bucket.url(),
            "the store gives no answer: requests fail soon until it does"
        );
        if !std::mem::replace(&mut state.asking, true) {
            self.rt.spawn(ask(Arc::downgrade(self))).detach();
        }
    }

    fn begin_probe(&self) -> bool {
        let mut state = self.state.lock();
        let room = state.probes < PROBES;
        state.probes += u32::from(room);
        room
    }
}

/// Asks a silent store until it answers or nobody cares.
async fn ask(breaker: Weak<CircuitBreaker>) {
    loop {
        let Some(this) = breaker.upgrade() else { return };
        {
            let mut state = this.state.lock();
            if state.silent.is_none() {
                state.asking = false;
                return;
            }
        }
        if this.begin_probe() {
            let (bucket, rt, deadline) = (this.bucket.clone(), this.rt.clone(), this.deadline);
            let weak = breaker.clone();
            let probe = async move {
                let answer = rt.timeout(deadline, bucket.head(PROBE, Cause::File)).await;
                let Some(this) = weak.upgrade() else { return };
                this.state.lock().probes -= 1;
                if answer.is_some_and(|answer| !is_silence(&answer)) {
                    this.heard();
                }
            };
            this.rt.spawn(probe).detach();
        }
        let wait = this.rt.timeout(EVERY, this.hurry.notified());
        wait.await;
    }
}

/// The store said nothing.
pub fn is_silence<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(e) if e.is(Kind::Timeout))
}

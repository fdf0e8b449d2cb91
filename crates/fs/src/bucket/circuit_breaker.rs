//! Whether the store answers at all.
//!
//! The kernel does the operations of one directory one after another: on a store that hangs, each would wait a whole
//! deadline for itself, and the tenth process for ten of them. So what one request has learned holds for those behind it.
//! The store is *silent* once a request has timed out and nothing has come since that request began. Requests to a silent
//! store are not sent. They fail after `SOON`, or after `BRIEFLY` where it was waited for in vain a moment ago, unless
//! something comes before. A small request of our own is sent again and again meanwhile, one more for whoever waits, and
//! whatever answer it gets, also an error, ends the silence. A store that is slow, but answers within the deadline, is
//! never silent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use windlass_base::rt::{Instant, Rt, Task};
use windlass_base::{Error, Kind, Result};
use windlass_store::{BucketRef, Cause};

/// Time for which a request waits for a silent store to answer again.
const SOON: Duration = Duration::from_secs(1);
/// Waiting time of requests that come soon after one that waited in vain. A store that is back has answered a
/// probe by then.
const BRIEFLY: Duration = Duration::from_millis(100);
/// Interval at which a silent store is probed while nobody waits.
const EVERY: Duration = Duration::from_secs(1);
/// Largest number of requests of our own that wait for an answer at a time.
const PROBES: u32 = 16;
/// Key for which probes ask; whether it exists does not matter.
const PROBE: &str = "label";

#[derive(Debug)]
struct BreakerState {
    /// Time of the store's last answer.
    came: Instant,
    /// Time at which the request began that timed out; `None`: the store is not silent.
    silent: Option<Instant>,
    /// Time at which the store was last waited for in vain.
    waited: Instant,
    /// The task that probes the store is running.
    asking: bool,
}

#[derive(Debug)]
pub struct CircuitBreaker {
    rt: Rt,
    bucket: BucketRef,
    deadline: Duration,
    state: Mutex<BreakerState>,
    /// Wakes requests that wait: an answer came.
    ended: Notify,
    /// Wakes the probing task: a request waits for an answer.
    hurry: Notify,
}

impl CircuitBreaker {
    pub fn new(rt: Rt, bucket: BucketRef, deadline: Duration) -> Arc<CircuitBreaker> {
        let now = rt.now();
        let state = BreakerState { came: now, silent: None, waited: now, asking: false };
        let (state, ended, hurry) = (Mutex::new(state), Notify::new(), Notify::new());
        Arc::new(CircuitBreaker { rt, bucket, deadline, state, ended, hurry })
    }

    /// Returns at once unless the store is silent. A silent store is waited for a moment; if it stays silent,
    /// the call fails with `Timeout`.
    pub async fn over(&self) -> Result<()> {
        // Registered before the state is read: an answer that came in between would wake nobody.
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
        // Those that come one behind the other do not wait long in a row.
        let limit = if self.rt.now().since(waited) >= SOON { SOON } else { BRIEFLY };
        if self.rt.timeout(limit, ended).await.is_none() {
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

    /// Notes that an answer came, which ends a silence.
    pub fn heard(&self) {
        let mut state = self.state.lock();
        state.came = self.rt.now();
        if state.silent.take().is_some() {
            drop(state);
            tracing::info!(store = self.bucket.url(), "the store answers again");
            self.ended.notify_waiters();
        }
    }

    /// Notes that a request that began at `since` timed out. The store is silent from now on if nothing came
    /// since.
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

    /// Tells whether the store is still to be probed; if not, the probing task counts as ended.
    fn still_asks(&self) -> bool {
        let mut state = self.state.lock();
        // Looked at and struck out under one lock: a request that times out right after must find that no
        // task asks, and start one.
        state.asking = state.silent.is_some();
        state.asking
    }
}

/// Probes a silent store until it answers or the breaker is dropped. Each request that begins to wait has a
/// new probe sent, in place of the last one. Every so often a probe is left to run for as long as any request
/// may, so that a slow answer is heard too.
async fn ask(breaker: Weak<CircuitBreaker>) {
    let mut left_to_run: Option<Instant> = None;
    let mut last: Option<(Instant, Task<()>)> = None;
    loop {
        let Some(this) = breaker.upgrade() else { return };
        if !this.still_asks() {
            return;
        }
        if let Some((began, mut probe)) = last.take() {
            let apart = EVERY.max(this.deadline / PROBES);
            match left_to_run.is_some_and(|before| began.since(before) < apart) {
                true => probe.abort(),
                false => left_to_run = Some(began),
            }
        }
        last = Some((this.rt.now(), this.rt.spawn(probe(breaker.clone()))));
        this.rt.timeout(EVERY, this.hurry.notified()).await;
    }
}

async fn probe(breaker: Weak<CircuitBreaker>) {
    let Some(this) = breaker.upgrade() else { return };
    let answer = this.rt.timeout(this.deadline, this.bucket.head(PROBE, Cause::File)).await;
    if answer.is_some_and(|answer| !is_silence(&answer)) {
        this.heard();
    }
}

/// Tells whether the answer is a timeout: the store said nothing.
pub fn is_silence<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(e) if e.is(Kind::Timeout))
}

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

use crate::base::rt::{Instant, Rt};
use crate::base::{Error, Kind, Result};
use crate::store::{BucketRef, Cause};

/// How long a request waits for a silent store's return.
const SOON: Duration = Duration::from_secs(1);
/// The same of those that come one behind the other: a small request is answered by then where the store is back.
const BRIEFLY: Duration = Duration::from_millis(100);
/// How often a silent store is asked, at most.
const EVERY: Duration = Duration::from_secs(1);
/// Requests of our own that wait for an answer at a time, at most.
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
        let state = BreakerState { came: now, silent: None, waited: now, asking: false };
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

    /// Asks the store. Whether it answered in time.
    async fn ask_once(&self, limit: Duration) -> bool {
        let answer = self.rt.timeout(limit, self.bucket.head(PROBE, Cause::File)).await;
        answer.is_some_and(|answer| !is_silence(&answer))
    }

    /// Forgets to ask where the store is not silent.
    fn still_asks(&self) -> bool {
        let mut state = self.state.lock();
        state.asking = state.silent.is_some();
        state.asking
    }
}

/// Asks a silent store until it answers or nobody cares. Each request waits for as long as any other may, so that a slow
/// answer is heard; those for whoever waits are given up by the time that he does.
async fn ask(breaker: Weak<CircuitBreaker>) {
    let mut next = None;
    loop {
        let Some(this) = breaker.upgrade() else { return };
        if !this.still_asks() {
            return;
        }
        let now = this.rt.now();
        if next.is_none_or(|next| now >= next) {
            next = Some(now + EVERY.max(this.deadline / PROBES));
            let weak = breaker.clone();
            let probe = async move {
                let Some(this) = weak.upgrade() else { return };
                if this.ask_once(this.deadline).await {
                    this.heard();
                }
            };
            this.rt.spawn(probe).detach();
        } else if this.ask_once(BRIEFLY).await {
            this.heard();
        }
        let left = next.map_or(EVERY, |next| next.since(this.rt.now()));
        this.rt.timeout(left, this.hurry.notified()).await;
    }
}

/// The store said nothing.
pub fn is_silence<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(e) if e.is(Kind::Timeout))
}

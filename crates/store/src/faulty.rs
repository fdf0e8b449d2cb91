//! Breaks any bucket on purpose: latency, failures, lost answers, late effects, outages. What `SimStore` is for the
//! simulated world, around real buckets and on any runtime. Its randomness is the runtime's.
//!
//! A request whose answer is lost may have taken effect, may still, or never will. A put of that kind is
//! `Unknown` after `patience`, everything else a time-out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::sim::{Reach, StoreFaults, foreign};
use super::{Bucket, BucketAnswer, BucketRef, BucketRequest, Cause, Put, Store, When};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// The fate of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestFate {
    /// The request takes effect and is answered.
    Answered,
    /// The request is certainly without effect, and the asker is told.
    Failed(Kind),
    /// The request has no effect, and the answer says nothing: another server gave it.
    Foreign,
    /// The request gets no answer. It takes effect after this time, if at all.
    Lost(Option<Duration>),
}

/// A bucket that breaks on purpose.
#[derive(Debug)]
pub struct Faulty {
    rt: Rt,
    inner: BucketRef,
    faults: Mutex<StoreFaults>,
    script: Mutex<VecDeque<RequestFate>>,
}

impl Faulty {
    /// Wraps a bucket, without faults at first, and without latency.
    pub fn new(rt: &Rt, inner: BucketRef) -> Arc<Faulty> {
        let faults = StoreFaults { latency: (Duration::ZERO, Duration::ZERO), ..StoreFaults::default() };
        Arc::new(Faulty { rt: rt.clone(), inner, faults: Mutex::new(faults), script: Mutex::default() })
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut StoreFaults)) {
        change(&mut self.faults.lock());
    }

    /// Sets the fates of the next requests, in the order in which they begin; those after them meet what `faults` draws.
    pub fn next(&self, fates: impl IntoIterator<Item = RequestFate>) {
        self.script.lock().extend(fates);
    }

    fn between(&self, (from, to): (Duration, Duration)) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.rt.below(span + 1))
    }

    fn per_mille(&self, n: u32) -> bool {
        n > 0 && self.rt.below(1000) < u64::from(n)
    }

    fn draw(&self, faults: &StoreFaults, request: &BucketRequest) -> RequestFate {
        if let Some(fate) = self.script.lock().pop_front() {
            return fate;
        }
        match faults.reach {
            reach if reach.swallows(request) => return RequestFate::Lost(None),
            Reach::Up | Reach::Silent | Reach::Frozen => {}
            Reach::Refuses => return RequestFate::Failed(Kind::Unavailable),
            Reach::Denies => return RequestFate::Failed(Kind::Denied),
            Reach::Foreign => return RequestFate::Foreign,
        }
        if self.per_mille(faults.errors) {
            return RequestFate::Failed(Kind::Unavailable);
        }
        if !self.per_mille(faults.lost) {
            return RequestFate::Answered;
        }
        match self.rt.below(3) {
            0 => RequestFate::Lost(None),
            1 => RequestFate::Lost(Some(Duration::ZERO)),
            _ => RequestFate::Lost(Some(self.between((Duration::ZERO, faults.late)))),
        }
    }
}

impl Faulty {
    /// Carries the request out; where the store races, its effect comes a while after its condition was judged.
    async fn land(
        &self,
        request: &Arc<BucketRequest>,
        races: Duration,
        cause: Cause,
    ) -> Result<BucketAnswer> {
        let bare = request.without_condition().filter(|_| !races.is_zero());
        let (Some(bare), BucketRequest::Put { key, when, .. }) = (bare, &**request) else {
            return self.inner.call(request, cause).await;
        };
        let there = self.inner.head(key, cause).await?.map(|head| head.etag);
        let holds = match when {
            When::Matches(etag) => there.as_ref() == Some(etag),
            _ => there.is_none(),
        };
        if !holds {
            return Ok(Put::Refused.into());
        }
        self.rt.sleep(self.between((Duration::ZERO, races))).await;
        self.inner.call(&Arc::new(bare), cause).await
    }
}

impl Store for Faulty {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn inner(&self) -> Option<&BucketRef> {
        Some(&self.inner)
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            let faults = *self.faults.lock();
            let (url, pause) = (self.inner.url(), || self.rt.sleep(self.between(faults.latency)));
            match self.draw(&faults, request) {
                RequestFate::Answered => {
                    pause().await;
                    let out = self.land(request, faults.races, cause).await;
                    pause().await;
                    out
                }
                RequestFate::Failed(kind) => {
                    pause().await;
                    Err(Error::new(kind, format!("{url} is told to fail")))
                }
                RequestFate::Foreign => {
                    pause().await;
                    request.unanswered(foreign(url))
                }
                RequestFate::Lost(landing) => {
                    if let Some(after) = landing {
                        let (wait, inner, request) =
                            (self.rt.sleep(after), self.inner.clone(), request.clone());
                        let land = async move {
                            wait.await;
                            drop(inner.call(&request, cause).await);
                        };
                        self.rt.spawn(land).detach();
                    }
                    self.rt.sleep(faults.patience).await;
                    let why = format!("{url} did not answer in {:?}", faults.patience);
                    request.unanswered(Error::new(Kind::Timeout, why))
                }
            }
        }
        .boxed()
    }
}

impl Bucket for Faulty {
    fn server(&self) -> Option<Arc<str>> {
        self.faults.lock().server.map(Arc::from).or_else(|| self.inner.server())
    }
}

//! Counts every request: by verb and cause, with its bytes, outcome and latency.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Bucket, BucketAnswer, BucketRef, BucketRequest, Cause, Put, Store};
use windlass_base::latency::Latencies;
use windlass_base::rt::{Instant, Rt};
use windlass_base::trace::{Side, Span, fact};
use windlass_base::{Kind, Result};

/// Kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Get,
    Head,
    Put,
    Delete,
    List,
    Copy,
    MultipartCreate,
    MultipartPut,
    MultipartCopy,
    MultipartComplete,
    MultipartAbort,
    MultipartList,
    /// A listing of versions, or the question whether the bucket keeps versions.
    Versions,
    Restore,
}

/// The way in which a request ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    Done,
    /// The store says that there is no such object.
    Absent,
    /// A precondition did not hold.
    Refused,
    Unknown,
    Failed(Kind),
    /// The asker stopped waiting.
    Dropped,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    requests: u64,
    sent_bytes: u64,
    received_bytes: u64,
    outcomes: BTreeMap<Outcome, u64>,
    latencies: Latencies,
}

/// A store's counts since it was opened.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<(Verb, Cause), Tally>>);

/// The counts of one verb for one cause.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Line {
    pub verb: Verb,
    pub cause: Cause,
    pub requests: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub absent: u64,
    pub refused: u64,
    pub dropped: u64,
    /// Requests that ended with an error, or without an answer that says what became of them.
    pub failed: u64,
    /// Requests that ended with an error, by the error's kind.
    pub failed_by: BTreeMap<Kind, u64>,
    pub latency_ms_p50: f64,
    pub latency_ms_p99: f64,
    pub latency_ms_max: f64,
    #[serde(skip)]
    pub latencies: Latencies,
}

fn ms(d: Option<Duration>) -> f64 {
    d.unwrap_or_default().as_micros() as f64 / 1000.0
}

impl Counters {
    pub fn requests(&self) -> u64 {
        self.0.lock().values().map(|t| t.requests).sum()
    }

    /// Returns the latency within which `percent` of all requests ended; `None` before the first one ended.
    pub fn latency(&self, percent: u64) -> Option<Duration> {
        let mut all = Latencies::default();
        for tally in self.0.lock().values() {
            all.merge(&tally.latencies);
        }
        all.percentile(percent)
    }

    pub fn snapshot(&self) -> Vec<Line> {
        self.0.lock().iter().map(|((verb, cause), tally)| line(*verb, *cause, tally)).collect()
    }

    fn count(&self, verb: Verb, cause: Cause, took: Duration, bytes: (u64, u64), outcome: Outcome) {
        let mut table = self.0.lock();
        let tally = table.entry((verb, cause)).or_default();
        tally.requests += 1;
        tally.sent_bytes += bytes.0;
        tally.received_bytes += bytes.1;
        *tally.outcomes.entry(outcome).or_default() += 1;
        tally.latencies.add(took);
    }
}

fn line(verb: Verb, cause: Cause, tally: &Tally) -> Line {
    let of = |outcome: Outcome| tally.outcomes.get(&outcome).copied().unwrap_or(0);
    let kinds = tally.outcomes.iter().filter_map(|(outcome, n)| match outcome {
        Outcome::Failed(kind) => Some((*kind, *n)),
        _ => None,
    });
    let failed_by: BTreeMap<Kind, u64> = kinds.collect();
    Line {
        verb,
        cause,
        requests: tally.requests,
        sent_bytes: tally.sent_bytes,
        received_bytes: tally.received_bytes,
        absent: of(Outcome::Absent),
        refused: of(Outcome::Refused),
        dropped: of(Outcome::Dropped),
        failed: of(Outcome::Unknown) + failed_by.values().sum::<u64>(),
        failed_by,
        latency_ms_p50: ms(tally.latencies.percentile(50)),
        latency_ms_p99: ms(tally.latencies.percentile(99)),
        latency_ms_max: ms(Some(tally.latencies.max())),
        latencies: tally.latencies.clone(),
    }
}

/// A bucket whose every request is counted: by verb and cause, with its bytes, outcome and latency.
#[derive(Debug)]
pub struct Counted {
    rt: Rt,
    inner: BucketRef,
    counters: Arc<Counters>,
}

/// A request under way; counted when it ends, however it does.
struct Running<'a> {
    of: &'a Counted,
    verb: Verb,
    /// The object, or the beginning of the keys, for the log.
    key: &'a str,
    cause: Cause,
    start: Instant,
    sent: u64,
    received: u64,
    outcome: Outcome,
    /// The request's span, where traces are on.
    span: Option<Span>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let took = self.of.rt.now().since(self.start);
        if let Some(span) = self.span.take() {
            self.end(span);
        }
        tracing::debug!(
            store = self.of.url(), verb = ?self.verb, key = self.key, cause = ?self.cause,
            took_ms = took.as_millis() as u64, outcome = ?self.outcome, "asked a store"
        );
        self.of.counters.count(self.verb, self.cause, took, (self.sent, self.received), self.outcome);
    }
}

impl Running<'_> {
    #[cold]
    fn end(&self, span: Span) {
        let failed = matches!(self.outcome, Outcome::Failed(_) | Outcome::Unknown);
        let outcome = format!("{:?}", self.outcome);
        let why = failed.then_some(&outcome as &dyn std::fmt::Display);
        let facts = [fact("received_bytes", self.received as i64), fact("outcome", outcome.clone())];
        span.end(facts, why);
    }

    /// Begins the request's span, with what is told of the request before it is made; none where traces are off.
    fn span(of: &Counted, verb: Verb, key: &str, cause: Cause, sent: u64) -> Option<Span> {
        let facts = || {
            vec![
                fact("store", of.url().to_owned()),
                fact("key", key.to_owned()),
                fact("cause", format!("{cause:?}").to_lowercase()),
                fact("sent_bytes", sent as i64),
            ]
        };
        Span::begin(Side::Asked, || format!("store {}", format!("{verb:?}").to_lowercase()), facts)
    }
}

/// Returns the verb that a request is counted under.
fn verb(request: &BucketRequest) -> Verb {
    match request {
        BucketRequest::Get { .. } => Verb::Get,
        BucketRequest::Head { .. } => Verb::Head,
        BucketRequest::Put { .. } => Verb::Put,
        BucketRequest::Delete { .. } | BucketRequest::DeleteSame { .. } => Verb::Delete,
        BucketRequest::List(_) => Verb::List,
        BucketRequest::Copy { .. } => Verb::Copy,
        BucketRequest::MultipartCreate { .. } => Verb::MultipartCreate,
        BucketRequest::MultipartPut { .. } => Verb::MultipartPut,
        BucketRequest::MultipartCopy { .. } => Verb::MultipartCopy,
        BucketRequest::MultipartComplete { .. } => Verb::MultipartComplete,
        BucketRequest::MultipartAbort { .. } => Verb::MultipartAbort,
        BucketRequest::MultipartList { .. } => Verb::MultipartList,
        BucketRequest::Versioned | BucketRequest::ListVersions(_) => Verb::Versions,
        BucketRequest::Restore { .. } => Verb::Restore,
    }
}

/// Returns what an answer says of its outcome, and how many bytes it brought.
fn judged(out: &Result<BucketAnswer>) -> (Outcome, u64) {
    match out {
        Err(e) => (Outcome::Failed(e.kind()), 0),
        Ok(BucketAnswer::Found(Some(found))) => (Outcome::Done, found.body.len() as u64),
        Ok(BucketAnswer::Found(None) | BucketAnswer::Head(None)) => (Outcome::Absent, 0),
        Ok(BucketAnswer::Put(Put::Refused)) => (Outcome::Refused, 0),
        Ok(BucketAnswer::Put(Put::Unknown(_))) => (Outcome::Unknown, 0),
        Ok(_) => (Outcome::Done, 0),
    }
}

impl Counted {
    pub fn new(rt: &Rt, inner: BucketRef) -> Arc<Counted> {
        Arc::new(Counted { rt: rt.clone(), inner, counters: Arc::default() })
    }
}

impl Store for Counted {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn inner(&self) -> Option<&BucketRef> {
        Some(&self.inner)
    }
    fn counters(&self) -> Option<&Counters> {
        Some(&self.counters)
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        let sent = match &**request {
            BucketRequest::Put { body, .. } | BucketRequest::MultipartPut { body, .. } => body.len() as u64,
            _ => 0,
        };
        async move {
            let (verb, start, outcome) = (verb(request), self.rt.now(), Outcome::Dropped);
            let key = request.key();
            let span = Running::span(self, verb, key, cause, sent);
            let mut running = Running { of: self, verb, key, cause, start, sent, received: 0, outcome, span };
            let out = self.inner.call(request, cause).await;
            (running.outcome, running.received) = judged(&out);
            out
        }
        .boxed()
    }
}

#[async_trait]
impl Bucket for Counted {
    /// Requests by each address are counted with the others.
    async fn each_address(&self) -> Result<Vec<(IpAddr, BucketRef)>> {
        let (rt, counters) = (&self.rt, &self.counters);
        let counted =
            |inner| -> BucketRef { Arc::new(Counted { rt: rt.clone(), inner, counters: counters.clone() }) };
        let all = self.inner.each_address().await?;
        Ok(all.into_iter().map(|(address, inner)| (address, counted(inner))).collect())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{ByteRange, SimStore, When};
    use windlass_base::rt::sim::Sim;

    #[test]
    fn every_request_is_counted_however_it_ends() {
        let sim = Sim::new(3);
        let (rt, store) = (sim.rt(), SimStore::new(&sim, "s"));
        store.faults(|f| f.latency = (Duration::from_millis(5), Duration::from_millis(5)));
        sim.run(async move {
            let bucket = Counted::new(&rt, store.clone());
            let put = |when| bucket.put("k", Bytes::from_static(b"abc"), when, Cause::Write);
            put(When::Absent).await.unwrap();
            put(When::Absent).await.unwrap();
            assert!(rt.timeout(Duration::from_millis(1), put(When::Always)).await.is_none());
            bucket.get("k", ByteRange::Last(2), Cause::Read).await.unwrap();
            bucket.get("none", ByteRange::Last(2), Cause::Read).await.unwrap();
            store.faults(|f| f.reach = crate::Reach::Refuses);
            bucket.get("k", ByteRange::Last(2), Cause::Read).await.unwrap_err();
            let lines = bucket.counters().unwrap().snapshot();
            assert_eq!(lines.len(), 2);
            let (get, put) = (&lines[0], &lines[1]);
            assert_eq!(
                (get.verb, get.cause, get.requests, get.received_bytes),
                (Verb::Get, Cause::Read, 3, 2)
            );
            assert_eq!((get.absent, get.failed, get.failed_by[&Kind::Unavailable]), (1, 1, 1));
            assert_eq!((put.requests, put.sent_bytes, put.refused, put.dropped), (3, 9, 1, 1));
            assert!((9.0..13.0).contains(&put.latency_ms_p99), "{put:?}");
            assert_eq!(bucket.counters().unwrap().requests(), 6);
        })
        .unwrap();
    }
}

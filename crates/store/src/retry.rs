//! Repeats what is safe to repeat, and nothing else: the one retry layer.
//!
//! - Reads, listings, deletes by name, parts and unconditional puts are repeated after throttling, a lost connection or a
//!   time-out, with full-jitter pauses, under a deadline and a budget.
//! - A delete of objects that are known by their etags is not repeated: of a store that heeds no condition it would take
//!   what somebody has put there since. Its caller looks first.
//! - A conditional put whose answer was lost is `Unknown` and never repeated: its second attempt would be refused by
//!   its own first. One that certainly was not stored may be sent again.
//! - Once an attempt's outcome is unknown, no later answer makes the whole a sure failure.
//!
//! The budget keeps retries from multiplying the load on a store that is in trouble: a request that succeeds at
//! once earns a tenth of a retry.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Bucket, BucketAnswer, BucketRef, BucketRequest, ByteRange, Cause, Put, Store, When};
use windlass_base::rt::{Instant, Rt};
use windlass_base::{Error, Kind, Result};

/// Limits to how long and how often a request is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Number of attempts, without those that fail by throttling.
    pub attempts: u32,
    /// Time since the beginning after which no other attempt is waited for.
    pub deadline: Duration,
    /// The first pause lasts up to this, each further one up to twice as long.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// An attempt takes at most this, and a second for every so many bytes that it carries.
    pub answer: Duration,
    pub bytes_a_second: u64,
    /// Number of retries that may be outstanding before successes have earned more.
    pub budget: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            attempts: 4,
            deadline: Duration::from_secs(20),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            answer: Duration::from_secs(15),
            bytes_a_second: 256 << 10,
            budget: 100,
        }
    }
}

impl Patience {
    /// Returns the patience of programs that use files: a server that is started anew, or a line that is gone for a few
    /// seconds, is no reason for an error of read(2).
    pub fn of_files() -> Patience {
        let first_pause = Duration::from_millis(100);
        Patience { attempts: 8, first_pause, budget: 1000, ..Patience::default() }
    }
}

/// A file's parts, and files, leave side by side: each has a share of the line, and time for so many.
const SIDE_BY_SIDE: u64 = 8;

/// Price of a retry, in units of what one success earns.
const RETRY_COST: u64 = 10;

/// A bucket whose requests are repeated where that is safe.
#[derive(Debug)]
pub struct Retrying {
    rt: Rt,
    inner: BucketRef,
    patience: Patience,
    budget: AtomicU64,
}

/// One request's history.
struct Trial {
    start: Instant,
    failed: u32,
    pauses: u32,
}

fn may_pass(e: &Error) -> bool {
    matches!(e.kind(), Kind::Throttled | Kind::Unavailable | Kind::Timeout)
}

impl Retrying {
    pub fn new(rt: &Rt, inner: BucketRef, patience: Patience) -> Arc<Retrying> {
        let budget = AtomicU64::new(patience.budget * RETRY_COST);
        Arc::new(Retrying { rt: rt.clone(), inner, patience, budget })
    }

    fn earn(&self, trial: &Trial) {
        if trial.pauses == 0 {
            let max = self.patience.budget * RETRY_COST;
            let more = |b: u64| (b < max).then_some(b + 1);
            let _ = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// Waits before another attempt; false when there is to be none.
    async fn pause(&self, trial: &mut Trial, e: &Error) -> bool {
        if !may_pass(e) {
            return false;
        }
        trial.failed += u32::from(!e.is(Kind::Throttled));
        let spent = |b: u64| b.checked_sub(RETRY_COST);
        if trial.failed >= self.patience.attempts
            || self.rt.now().since(trial.start) >= self.patience.deadline
            || self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_err()
        {
            return false;
        }
        let most = self.patience.first_pause * (1 << trial.pauses.min(16));
        let most = most.min(self.patience.longest_pause);
        trial.pauses += 1;
        self.rt.sleep(Duration::from_micros(self.rt.below(most.as_micros() as u64 + 1))).await;
        true
    }

    fn limit(&self, bytes: u64) -> Duration {
        self.patience.answer + Duration::from_secs(bytes / self.patience.bytes_a_second)
    }

    fn no_answer(&self) -> Error {
        Error::new(Kind::Timeout, format!("{} did not answer in time", self.inner.url()))
    }
}

/// Returns how many bytes an attempt is given time for.
fn bytes(request: &BucketRequest) -> u64 {
    match request {
        BucketRequest::Get { range, .. } => expected(*range),
        BucketRequest::Put { body, attrs: None, .. } => body.len() as u64,
        BucketRequest::Put { body, .. } | BucketRequest::MultipartPut { body, .. } => {
            body.len() as u64 * SIDE_BY_SIDE
        }
        // A thousand keys are one request of S3's, but as many of a folder's.
        BucketRequest::Delete { keys } => keys.len() as u64 * 1024,
        BucketRequest::DeleteSame { objects } => objects.len() as u64 * 1024,
        // The size isn't known here; a server copies about as fast as it reads.
        BucketRequest::Copy { .. } | BucketRequest::MultipartComplete { .. } => 1 << 30,
        BucketRequest::MultipartCopy { len, .. } => *len,
        _ => 0,
    }
}

/// Returns how many bytes an answer is given time for, at most 64 MiB: a reader that allows for any size doesn't mean to wait
/// for ever.
fn expected(range: ByteRange) -> u64 {
    let bytes = match range {
        ByteRange::Whole { max } => max,
        ByteRange::At { len, .. } | ByteRange::Last(len) => len,
    };
    bytes.min(64 << 20)
}

/// Tells whether an attempt of unknown outcome is the last one. Everything else may happen twice: a second multipart upload is
/// shown by lists and ended by lifecycle rules, a second restoring only says that the first is under way.
fn once(request: &BucketRequest) -> bool {
    match request {
        BucketRequest::Put { when, .. } | BucketRequest::Copy { when, .. } => *when != When::Always,
        // A second attempt would only hear that there is no such upload any more.
        BucketRequest::MultipartComplete { .. } => true,
        _ => false,
    }
}

impl Store for Retrying {
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
            let mut trial = Trial { start: self.rt.now(), failed: 0, pauses: 0 };
            let mut doubt = None;
            loop {
                let out = self.rt.timeout(self.limit(bytes(request)), self.inner.call(request, cause)).await;
                let e = match out.unwrap_or_else(|| request.unanswered(self.no_answer())) {
                    // Perhaps by its own earlier attempt.
                    Ok(BucketAnswer::Put(Put::Refused)) => {
                        return Ok(doubt.map_or(Put::Refused, Put::Unknown).into());
                    }
                    Ok(BucketAnswer::Put(Put::Unknown(e))) if once(request) => {
                        return Ok(Put::Unknown(e).into());
                    }
                    Ok(BucketAnswer::Put(Put::Unknown(e))) => {
                        doubt = Some(e.share());
                        e
                    }
                    Ok(answer) => {
                        self.earn(&trial);
                        return Ok(answer);
                    }
                    Err(e) if matches!(**request, BucketRequest::DeleteSame { .. }) => return Err(e),
                    Err(e) => e,
                };
                if !self.pause(&mut trial, &e).await {
                    return doubt.map_or(Err(e), |doubt| Ok(Put::Unknown(doubt).into()));
                }
            }
        }
        .boxed()
    }
}

#[async_trait]
impl Bucket for Retrying {
    async fn each_address(&self) -> Result<Vec<(IpAddr, BucketRef)>> {
        let retrying = |inner| -> BucketRef { Retrying::new(&self.rt, inner, self.patience) };
        let all = self.inner.each_address().await?;
        Ok(all.into_iter().map(|(address, inner)| (address, retrying(inner))).collect())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Attrs, Counted, Etag, Faulty, MemStore, RequestFate};
    use windlass_base::rt::sim::Sim;

    const LOST_DONE: RequestFate = RequestFate::Lost(Some(Duration::ZERO));

    /// Runs `test` on a bucket whose first requests meet these fates; returns its result, and how many reached the faults.
    fn with<T: Send + 'static, F>(
        fates: impl IntoIterator<Item = RequestFate>,
        test: impl FnOnce(Arc<Retrying>, Arc<Counted>) -> F,
    ) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let sim = Sim::new(7);
        let rt = sim.rt();
        let faulty = Faulty::new(&rt, MemStore::new("m"));
        faulty.faults(|f| f.patience = Duration::from_secs(3600));
        faulty.next(fates);
        let counted = Counted::new(&rt, faulty);
        sim.run(test(Retrying::new(&rt, counted.clone(), Patience::default()), counted)).unwrap()
    }

    fn put(when: When, fates: &[RequestFate]) -> (Result<Put>, u64) {
        with(fates.to_vec(), |bucket, counted| async move {
            let out = bucket.put("k", Bytes::from_static(b"x"), when, Cause::Write).await;
            (out, counted.counters().unwrap().requests())
        })
    }

    #[test]
    fn a_conditional_put_is_repeated_only_when_it_was_not_stored() {
        let busy = RequestFate::Failed(Kind::Throttled);
        let (out, sent) = put(When::Absent, &[busy, busy, RequestFate::Failed(Kind::Unavailable)]);
        assert!(matches!(out, Ok(Put::Stored(_))) && sent == 4, "{out:?} after {sent}");
        for lost in [LOST_DONE, RequestFate::Lost(None), RequestFate::Lost(Some(Duration::from_secs(60)))] {
            let (out, sent) = put(When::Absent, &[busy, lost]);
            assert!(matches!(out, Ok(Put::Unknown(_))) && sent == 2, "{out:?} after {sent}");
        }
        let (out, sent) = put(When::Matches(Etag("e".into())), &[busy]);
        assert!(matches!(out, Ok(Put::Refused)) && sent == 2, "{out:?} after {sent}");
        let (out, sent) = put(When::Absent, &[RequestFate::Failed(Kind::Denied)]);
        assert!(out.unwrap_err().is(Kind::Denied) && sent == 1);
    }

    #[test]
    fn an_unconditional_put_is_repeated_but_never_surely_failed_after_doubt() {
        let (out, sent) = put(When::Always, &[LOST_DONE, RequestFate::Failed(Kind::Timeout)]);
        assert!(matches!(out, Ok(Put::Stored(_))) && sent == 3, "{out:?} after {sent}");
        let (out, sent) = put(When::Always, &[LOST_DONE, RequestFate::Failed(Kind::Denied)]);
        assert!(matches!(out, Ok(Put::Unknown(_))) && sent == 2, "{out:?} after {sent}");
        let (out, sent) = put(When::Always, &[RequestFate::Failed(Kind::Unavailable); 9]);
        assert!(out.unwrap_err().is(Kind::Unavailable) && sent == 4);
    }

    #[test]
    fn a_delete_of_what_is_known_is_not_repeated() {
        for fate in [LOST_DONE, RequestFate::Failed(Kind::Unavailable), RequestFate::Failed(Kind::Throttled)]
        {
            let (out, sent) = with([fate], |bucket, counted| async move {
                let out = bucket.delete_same(&[("k".into(), Etag("e".into()))], Cause::File).await;
                (out, counted.counters().unwrap().requests())
            });
            assert!(out.is_err() && sent == 1, "{out:?} after {sent}");
        }
    }

    #[test]
    fn completing_an_upload_is_not_repeated_after_doubt() {
        let (out, sent) = with([], |bucket, counted| async move {
            let upload = bucket.multipart_create("k", &Attrs::default(), Cause::File).await.unwrap();
            let part =
                bucket.multipart_put("k", &upload, 1, Bytes::from_static(b"x"), Cause::File).await.unwrap();
            let inner = Faulty::new(&bucket.rt, bucket.inner.clone());
            inner.next([LOST_DONE]);
            let again = Retrying::new(&bucket.rt, inner, Patience::default());
            let out = again.multipart_complete("k", &upload, &[part], When::Always, Cause::File).await;
            (out, counted.counters().unwrap().requests())
        });
        assert!(matches!(out, Ok(Put::Unknown(_))) && sent == 3, "{out:?} after {sent}");
    }

    #[test]
    fn reads_give_up_after_their_attempts_and_throttling_at_the_deadline() {
        let get = |fates: Vec<RequestFate>| {
            with(fates, |bucket, counted| async move {
                let start = bucket.rt.now();
                let out = bucket.get("k", ByteRange::Last(1), Cause::Read).await;
                (out, counted.counters().unwrap().requests(), bucket.rt.now().since(start))
            })
        };
        let (out, sent, _) = get(vec![RequestFate::Failed(Kind::Unavailable); 3]);
        assert!(out.unwrap().is_none() && sent == 4);
        let (out, sent, _) = get(vec![RequestFate::Failed(Kind::Unavailable); 4]);
        assert!(out.unwrap_err().is(Kind::Unavailable) && sent == 4);
        let (out, sent, took) = get(vec![RequestFate::Lost(None); 2]);
        assert!(
            out.unwrap_err().is(Kind::Timeout) && sent == 2 && took >= Duration::from_secs(30),
            "{took:?}"
        );
        let (out, sent, took) = get(vec![RequestFate::Failed(Kind::Throttled); 1000]);
        let slow = Duration::from_secs(20)..Duration::from_secs(23);
        assert!(
            out.unwrap_err().is(Kind::Throttled) && (10..60).contains(&sent) && slow.contains(&took),
            "{sent}"
        );
    }

    #[test]
    fn the_budget_ends_retries_and_successes_earn_them_back() {
        with(vec![RequestFate::Failed(Kind::Unavailable); 400], |bucket, counted| async move {
            let sent = || counted.counters().unwrap().requests();
            let get = || bucket.get("k", ByteRange::Last(1), Cause::Read);
            for _ in 0..40 {
                get().await.unwrap_err();
            }
            assert_eq!(sent(), 140, "100 retries were in the budget");
            for _ in 0..260 {
                get().await.unwrap_err();
            }
            assert_eq!(sent(), 400);
            for _ in 0..20 {
                get().await.unwrap();
            }
            assert_eq!(bucket.budget.load(Ordering::Relaxed), 20);
        });
    }
}

//! Repeats what is safe to repeat, and nothing else: the one retry layer.
//!
//! - Reads, listings, deletes, parts and unconditional puts are repeated after throttling, a lost connection or a
//!   time-out, with full-jitter pauses, under a deadline and a budget.
//! - A conditional put whose answer was lost is `Unknown` and never repeated: its second attempt would be refused by
//!   its own first. One that certainly was not stored may be sent again.
//! - Once an attempt's outcome is unknown, no later answer makes the whole a sure failure.
//!
//! The budget keeps retries from multiplying the load on a store that is in trouble: a request that succeeds at
//! once earns a tenth of a retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    Attrs, Bucket, BucketRef, ByteRange, Cause, Conditions, Counters, Etag, Found, Head, List, Page, Part,
    Put, Restore, Store, VersionList, VersionPage, When,
};
use crate::base::rt::{Instant, Rt};
use crate::base::{Error, Kind, Result};

/// How long and how often a request is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Attempts that fail otherwise than by throttling.
    pub attempts: u32,
    /// No attempt begins after this.
    pub deadline: Duration,
    /// The first pause lasts up to this, each further one up to twice as long.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// An attempt takes at most this, and a second for every so many bytes that it carries.
    pub answer: Duration,
    pub bytes_a_second: u64,
    /// Retries that may be outstanding before successes have earned more.
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
    /// A server that is started anew, or a line that is gone for a few seconds, is no reason for an error of read(2).
    pub fn of_files() -> Patience {
        let first_pause = Duration::from_millis(100);
        Patience { attempts: 8, first_pause, budget: 1000, ..Patience::default() }
    }
}

/// A file's parts, and files, leave side by side: each has a share of the line, and time for so many.
const SIDE_BY_SIDE: u64 = 8;

/// What a retry costs, in what one success earns.
const RETRY_COST: u64 = 10;

/// See the module.
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

    fn begin(&self) -> Trial {
        Trial { start: self.rt.now(), failed: 0, pauses: 0 }
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

    /// Repeats what has the same effect however often it happens.
    async fn again<'a, T>(&self, bytes: u64, run: impl Fn() -> BoxFuture<'a, Result<T>> + Send) -> Result<T> {
        let mut trial = self.begin();
        loop {
            let out = self.rt.timeout(self.limit(bytes), run()).await;
            match out.unwrap_or_else(|| Err(self.no_answer())) {
                Ok(out) => {
                    self.earn(&trial);
                    return Ok(out);
                }
                Err(e) => {
                    if !self.pause(&mut trial, &e).await {
                        return Err(e);
                    }
                }
            }
        }
    }

    /// Repeats a put as far as that is safe. `once`: not after an attempt whose outcome is unknown.
    async fn put_again<'a>(
        &self,
        bytes: u64,
        once: bool,
        run: impl Fn() -> BoxFuture<'a, Result<Put>> + Send,
    ) -> Result<Put> {
        let mut trial = self.begin();
        let mut doubt = None;
        loop {
            let out = self.rt.timeout(self.limit(bytes), run()).await;
            let e = match out.unwrap_or_else(|| Ok(Put::Unknown(self.no_answer()))) {
                Ok(Put::Stored(etag)) => {
                    self.earn(&trial);
                    return Ok(Put::Stored(etag));
                }
                // Perhaps by its own earlier attempt.
                Ok(Put::Refused) => return Ok(doubt.map_or(Put::Refused, Put::Unknown)),
                Ok(Put::Unknown(e)) if once => return Ok(Put::Unknown(e)),
                Ok(Put::Unknown(e)) => {
                    doubt = Some(e.share());
                    e
                }
                Err(e) => e,
            };
            if !self.pause(&mut trial, &e).await {
                return doubt.map_or(Err(e), |doubt| Ok(Put::Unknown(doubt)));
            }
        }
    }
}

/// How many bytes an answer is given time for: a reader that allows for any size doesn't mean to wait for ever.
fn expected(range: ByteRange) -> u64 {
    let bytes = match range {
        ByteRange::Whole { max } => max,
        ByteRange::At { len, .. } | ByteRange::Last(len) => len,
    };
    bytes.min(64 << 20)
}

#[async_trait]
impl Store for Retrying {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn counters(&self) -> Option<&Counters> {
        self.inner.counters()
    }
    async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        self.again(expected(range), || self.inner.get(key, range, cause)).await
    }
    async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        self.again(0, || self.inner.head(key, cause)).await
    }
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        let once = when != When::Always;
        let run = || self.inner.put(key, body.clone(), when.clone(), cause);
        self.put_again(body.len() as u64, once, run).await
    }
    async fn delete(&self, keys: &[String], cause: Cause) -> Result<()> {
        // A thousand keys are one request of S3's, but as many of a folder's.
        self.again(keys.len() as u64 * 1024, || self.inner.delete(keys, cause)).await
    }
    async fn list(&self, list: &List, cause: Cause) -> Result<Page> {
        self.again(0, || self.inner.list(list, cause)).await
    }
}

#[async_trait]
impl Bucket for Retrying {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, cause: Cause) -> Result<Put> {
        let once = when != When::Always;
        let run = || self.inner.put_with(key, body.clone(), attrs, when.clone(), cause);
        self.put_again(body.len() as u64 * SIDE_BY_SIDE, once, run).await
    }
    async fn copy(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        let once = when != When::Always;
        let run = || self.inner.copy(from, to, from_match, attrs, when.clone(), cause);
        // The size isn't known here; a server copies about as fast as it reads.
        self.put_again(1 << 30, once, run).await
    }
    async fn delete_same(&self, objects: &[(String, Etag)], cause: Cause) -> Result<bool> {
        self.again(objects.len() as u64 * 1024, || self.inner.delete_same(objects, cause)).await
    }
    async fn multipart_create(&self, key: &str, attrs: &Attrs, cause: Cause) -> Result<String> {
        // A lost answer leaves an upload that nobody knows; lists show it, and lifecycle rules end it.
        self.again(0, || self.inner.multipart_create(key, attrs, cause)).await
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        cause: Cause,
    ) -> Result<Part> {
        let run = || self.inner.multipart_put(key, upload, number, body.clone(), cause);
        self.again(body.len() as u64 * SIDE_BY_SIDE, run).await
    }
    async fn multipart_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        from_match: Option<&Etag>,
        offset: u64,
        len: u64,
        cause: Cause,
    ) -> Result<Part> {
        let run = || self.inner.multipart_copy(key, upload, number, from, from_match, offset, len, cause);
        self.again(len, run).await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        // A second attempt would only hear that there is no such upload any more.
        let run = || self.inner.multipart_complete(key, upload, parts, when.clone(), cause).boxed();
        self.put_again(1 << 30, true, run).await
    }
    async fn multipart_abort(&self, key: &str, upload: &str, cause: Cause) -> Result<()> {
        self.again(0, || self.inner.multipart_abort(key, upload, cause)).await
    }
    async fn presign(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        self.inner.presign(key, version, valid).await
    }
    fn identity(&self) -> String {
        self.inner.identity()
    }
    fn looks_first(&self, conditions: Conditions) {
        self.inner.looks_first(conditions);
    }
    async fn versioned(&self, cause: Cause) -> Result<bool> {
        self.again(0, || self.inner.versioned(cause)).await
    }
    async fn list_versions(&self, list: &VersionList, cause: Cause) -> Result<VersionPage> {
        self.again(0, || self.inner.list_versions(list, cause)).await
    }
    async fn get_version(
        &self,
        key: &str,
        version: &str,
        range: ByteRange,
        cause: Cause,
    ) -> Result<Option<Found>> {
        self.again(expected(range), || self.inner.get_version(key, version, range, cause)).await
    }
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
        cause: Cause,
    ) -> Result<Option<Head>> {
        self.again(0, || self.inner.head_version(key, version, checksums, cause)).await
    }
    async fn restore(&self, key: &str, version: Option<&str>, how: Restore, cause: Cause) -> Result<bool> {
        // Asked for twice it is still one; the second answer says that it is under way.
        self.again(0, || self.inner.restore(key, version, how, cause)).await
    }
    async fn multipart_list(&self, prefix: &str, cause: Cause) -> Result<Vec<(String, String)>> {
        self.again(0, || self.inner.multipart_list(prefix, cause)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::sim::Sim;
    use crate::store::{Counted, Fate, Faulty, MemStore};

    const LOST_DONE: Fate = Fate::Lost(Some(Duration::ZERO));

    /// What `test` sees of a bucket whose first requests meet these fates, and how many reached the faults.
    fn with<T: Send + 'static, F>(
        fates: impl IntoIterator<Item = Fate>,
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

    fn put(when: When, fates: &[Fate]) -> (Result<Put>, u64) {
        with(fates.to_vec(), |bucket, counted| async move {
            let out = bucket.put("k", Bytes::from_static(b"x"), when, Cause::Write).await;
            (out, counted.counters().unwrap().requests())
        })
    }

    #[test]
    fn a_conditional_put_is_repeated_only_when_it_was_not_stored() {
        let busy = Fate::Failed(Kind::Throttled);
        let (out, sent) = put(When::Absent, &[busy, busy, Fate::Failed(Kind::Unavailable)]);
        assert!(matches!(out, Ok(Put::Stored(_))) && sent == 4, "{out:?} after {sent}");
        for lost in [LOST_DONE, Fate::Lost(None), Fate::Lost(Some(Duration::from_secs(60)))] {
            let (out, sent) = put(When::Absent, &[busy, lost]);
            assert!(matches!(out, Ok(Put::Unknown(_))) && sent == 2, "{out:?} after {sent}");
        }
        let (out, sent) = put(When::Matches(Etag("e".into())), &[busy]);
        assert!(matches!(out, Ok(Put::Refused)) && sent == 2, "{out:?} after {sent}");
        let (out, sent) = put(When::Absent, &[Fate::Failed(Kind::Denied)]);
        assert!(out.unwrap_err().is(Kind::Denied) && sent == 1);
    }

    #[test]
    fn an_unconditional_put_is_repeated_but_never_surely_failed_after_doubt() {
        let (out, sent) = put(When::Always, &[LOST_DONE, Fate::Failed(Kind::Timeout)]);
        assert!(matches!(out, Ok(Put::Stored(_))) && sent == 3, "{out:?} after {sent}");
        let (out, sent) = put(When::Always, &[LOST_DONE, Fate::Failed(Kind::Denied)]);
        assert!(matches!(out, Ok(Put::Unknown(_))) && sent == 2, "{out:?} after {sent}");
        let (out, sent) = put(When::Always, &[Fate::Failed(Kind::Unavailable); 9]);
        assert!(out.unwrap_err().is(Kind::Unavailable) && sent == 4);
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
        let get = |fates: Vec<Fate>| {
            with(fates, |bucket, counted| async move {
                let start = bucket.rt.now();
                let out = bucket.get("k", ByteRange::Last(1), Cause::Read).await;
                (out, counted.counters().unwrap().requests(), bucket.rt.now().since(start))
            })
        };
        let (out, sent, _) = get(vec![Fate::Failed(Kind::Unavailable); 3]);
        assert!(out.unwrap().is_none() && sent == 4);
        let (out, sent, _) = get(vec![Fate::Failed(Kind::Unavailable); 4]);
        assert!(out.unwrap_err().is(Kind::Unavailable) && sent == 4);
        let (out, sent, took) = get(vec![Fate::Lost(None); 2]);
        assert!(
            out.unwrap_err().is(Kind::Timeout) && sent == 2 && took >= Duration::from_secs(30),
            "{took:?}"
        );
        let (out, sent, took) = get(vec![Fate::Failed(Kind::Throttled); 1000]);
        let slow = Duration::from_secs(20)..Duration::from_secs(23);
        assert!(
            out.unwrap_err().is(Kind::Throttled) && (10..60).contains(&sent) && slow.contains(&took),
            "{sent}"
        );
    }

    #[test]
    fn the_budget_ends_retries_and_successes_earn_them_back() {
        with(vec![Fate::Failed(Kind::Unavailable); 400], |bucket, counted| async move {
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

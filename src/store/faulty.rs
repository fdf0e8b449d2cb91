//! Breaks any bucket on purpose: latency, failures, lost answers, late effects, outages. What `SimStore` is for the
//! simulated world, around real buckets and on any runtime. Its randomness is the runtime's.
//!
//! A request whose answer is lost may have taken effect, may still, or never will. A put of that kind is
//! `Unknown` after `patience`, everything else a time-out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::sim::{Reach, StoreFaults, foreign};
use super::{
    Attrs, Bucket, BucketRef, ByteRange, Cause, Counters, Etag, Found, Head, List, Page, Part, Put, Restore,
    Store, VersionList, VersionPage, When,
};
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};

/// What becomes of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Takes effect and is answered.
    Answered,
    /// Certainly without effect; the asker is told.
    Failed(Kind),
    /// Without effect, and the answer says nothing: another server gave it.
    Foreign,
    /// No answer. It takes effect after this time, if at all.
    Lost(Option<Duration>),
}

/// See the module.
#[derive(Debug)]
pub struct Faulty {
    rt: Rt,
    inner: BucketRef,
    faults: Mutex<StoreFaults>,
    script: Mutex<VecDeque<Fate>>,
}

enum Reply<T> {
    Answer(Result<T>),
    Nothing(Error),
}

impl Faulty {
    /// Without faults at first, and without latency.
    pub fn new(rt: &Rt, inner: BucketRef) -> Arc<Faulty> {
        let faults = StoreFaults { latency: (Duration::ZERO, Duration::ZERO), ..StoreFaults::default() };
        Arc::new(Faulty { rt: rt.clone(), inner, faults: Mutex::new(faults), script: Mutex::default() })
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut StoreFaults)) {
        change(&mut self.faults.lock());
    }

    /// The next requests meet these, in the order in which they begin; those after them what `faults` draws.
    pub fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.script.lock().extend(fates);
    }

    fn between(&self, (from, to): (Duration, Duration)) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.rt.below(span + 1))
    }

    fn per_mille(&self, n: u32) -> bool {
        n > 0 && self.rt.below(1000) < u64::from(n)
    }

    fn draw(&self, faults: &StoreFaults) -> Fate {
        if let Some(fate) = self.script.lock().pop_front() {
            return fate;
        }
        match faults.reach {
            Reach::Up => {}
            Reach::Refuses => return Fate::Failed(Kind::Unavailable),
            Reach::Denies => return Fate::Failed(Kind::Denied),
            Reach::Silent => return Fate::Lost(None),
            Reach::Foreign => return Fate::Foreign,
        }
        if self.per_mille(faults.errors) {
            return Fate::Failed(Kind::Unavailable);
        }
        if !self.per_mille(faults.lost) {
            return Fate::Answered;
        }
        match self.rt.below(3) {
            0 => Fate::Lost(None),
            1 => Fate::Lost(Some(Duration::ZERO)),
            _ => Fate::Lost(Some(self.between((Duration::ZERO, faults.late)))),
        }
    }

    async fn ask<T: Send + 'static>(&self, run: BoxFuture<'static, Result<T>>) -> Reply<T> {
        let faults = *self.faults.lock();
        let url = self.inner.url();
        match self.draw(&faults) {
            Fate::Answered => {
                self.rt.sleep(self.between(faults.latency)).await;
                let out = run.await;
                self.rt.sleep(self.between(faults.latency)).await;
                Reply::Answer(out)
            }
            Fate::Failed(kind) => {
                self.rt.sleep(self.between(faults.latency)).await;
                Reply::Answer(Err(Error::new(kind, format!("{url} is told to fail"))))
            }
            Fate::Foreign => {
                self.rt.sleep(self.between(faults.latency)).await;
                Reply::Nothing(foreign(url))
            }
            Fate::Lost(landing) => {
                if let Some(after) = landing {
                    let wait = self.rt.sleep(after);
                    self.rt
                        .spawn(async move {
                            wait.await;
                            drop(run.await);
                        })
                        .detach();
                }
                self.rt.sleep(faults.patience).await;
                let why = format!("{url} did not answer in {:?}", faults.patience);
                Reply::Nothing(Error::new(Kind::Timeout, why))
            }
        }
    }

    async fn verb<T: Send + 'static>(&self, run: BoxFuture<'static, Result<T>>) -> Result<T> {
        match self.ask(run).await {
            Reply::Answer(out) => out,
            Reply::Nothing(e) => Err(e),
        }
    }

    async fn putting(&self, run: BoxFuture<'static, Result<Put>>) -> Result<Put> {
        match self.ask(run).await {
            Reply::Answer(out) => out,
            Reply::Nothing(e) => Ok(Put::Unknown(e)),
        }
    }
}

#[async_trait]
impl Store for Faulty {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn counters(&self) -> Option<&Counters> {
        self.inner.counters()
    }
    async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        self.verb(async move { inner.get(&key, range, cause).await }.boxed()).await
    }
    async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        self.verb(async move { inner.head(&key, cause).await }.boxed()).await
    }
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        self.putting(async move { inner.put(&key, body, when, cause).await }.boxed()).await
    }
    async fn delete(&self, keys: &[String], cause: Cause) -> Result<()> {
        let (inner, keys) = (self.inner.clone(), keys.to_vec());
        self.verb(async move { inner.delete(&keys, cause).await }.boxed()).await
    }
    async fn list(&self, list: &List, cause: Cause) -> Result<Page> {
        let (inner, list) = (self.inner.clone(), list.clone());
        self.verb(async move { inner.list(&list, cause).await }.boxed()).await
    }
}

#[async_trait]
impl Bucket for Faulty {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, cause: Cause) -> Result<Put> {
        let (inner, key, attrs) = (self.inner.clone(), key.to_owned(), attrs.clone());
        self.putting(async move { inner.put_with(&key, body, &attrs, when, cause).await }.boxed()).await
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
        let (inner, from, to) = (self.inner.clone(), from.to_owned(), to.to_owned());
        let (from_match, attrs) = (from_match.cloned(), attrs.cloned());
        let run =
            async move { inner.copy(&from, &to, from_match.as_ref(), attrs.as_ref(), when, cause).await };
        self.putting(run.boxed()).await
    }
    async fn delete_same(&self, objects: &[(String, Etag)], cause: Cause) -> Result<bool> {
        let (inner, objects) = (self.inner.clone(), objects.to_vec());
        self.verb(async move { inner.delete_same(&objects, cause).await }.boxed()).await
    }
    async fn multipart_create(&self, key: &str, attrs: &Attrs, cause: Cause) -> Result<String> {
        let (inner, key, attrs) = (self.inner.clone(), key.to_owned(), attrs.clone());
        self.verb(async move { inner.multipart_create(&key, &attrs, cause).await }.boxed()).await
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        cause: Cause,
    ) -> Result<Part> {
        let (inner, key, upload) = (self.inner.clone(), key.to_owned(), upload.to_owned());
        self.verb(async move { inner.multipart_put(&key, &upload, number, body, cause).await }.boxed()).await
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
        let (inner, key, upload) = (self.inner.clone(), key.to_owned(), upload.to_owned());
        let (from, from_match) = (from.to_owned(), from_match.cloned());
        let run = async move {
            inner.multipart_copy(&key, &upload, number, &from, from_match.as_ref(), offset, len, cause).await
        };
        self.verb(run.boxed()).await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        let (inner, key, upload) = (self.inner.clone(), key.to_owned(), upload.to_owned());
        let parts = parts.to_vec();
        let run = async move { inner.multipart_complete(&key, &upload, &parts, when, cause).await };
        self.putting(run.boxed()).await
    }
    async fn multipart_abort(&self, key: &str, upload: &str, cause: Cause) -> Result<()> {
        let (inner, key, upload) = (self.inner.clone(), key.to_owned(), upload.to_owned());
        self.verb(async move { inner.multipart_abort(&key, &upload, cause).await }.boxed()).await
    }
    async fn presign(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        self.inner.presign(key, version, valid).await
    }
    async fn versioned(&self, cause: Cause) -> Result<bool> {
        let inner = self.inner.clone();
        self.verb(async move { inner.versioned(cause).await }.boxed()).await
    }
    async fn list_versions(&self, list: &VersionList, cause: Cause) -> Result<VersionPage> {
        let (inner, list) = (self.inner.clone(), list.clone());
        self.verb(async move { inner.list_versions(&list, cause).await }.boxed()).await
    }
    async fn get_version(
        &self,
        key: &str,
        version: &str,
        range: ByteRange,
        cause: Cause,
    ) -> Result<Option<Found>> {
        let (inner, key, version) = (self.inner.clone(), key.to_owned(), version.to_owned());
        self.verb(async move { inner.get_version(&key, &version, range, cause).await }.boxed()).await
    }
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
        cause: Cause,
    ) -> Result<Option<Head>> {
        let (inner, key, version) = (self.inner.clone(), key.to_owned(), version.map(str::to_owned));
        let run = async move { inner.head_version(&key, version.as_deref(), checksums, cause).await };
        self.verb(run.boxed()).await
    }
    async fn restore(&self, key: &str, version: Option<&str>, how: Restore, cause: Cause) -> Result<bool> {
        let (inner, key, version) = (self.inner.clone(), key.to_owned(), version.map(str::to_owned));
        self.verb(async move { inner.restore(&key, version.as_deref(), how, cause).await }.boxed()).await
    }
    async fn multipart_list(&self, prefix: &str, cause: Cause) -> Result<Vec<(String, String)>> {
        let (inner, prefix) = (self.inner.clone(), prefix.to_owned());
        self.verb(async move { inner.multipart_list(&prefix, cause).await }.boxed()).await
    }
}

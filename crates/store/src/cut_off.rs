//! Cuts a bucket off for a while, as if its server were away: for drills. In memory only: it is there again when the guard
//! is dropped, or the process ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Bucket, BucketAnswer, BucketRef, BucketRequest, Cause, Store};
use windlass_base::{Error, Kind, Result};

/// A bucket that can be cut off (`CutOff`).
#[derive(Debug)]
pub struct Switched {
    inner: BucketRef,
    off: Arc<AtomicBool>,
}

/// A bucket that is cut off for as long as this lives.
#[derive(Debug)]
pub struct CutOff(Arc<AtomicBool>);

impl CutOff {
    /// Cuts a bucket off. `None`: the bucket can't be cut off, or is so already.
    pub fn begin(bucket: &dyn Store) -> Option<CutOff> {
        let off = bucket.switch()?;
        (!off.swap(true, Ordering::SeqCst)).then(|| CutOff(off.clone()))
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Switched {
    pub fn new(inner: BucketRef) -> Arc<Switched> {
        Arc::new(Switched { inner, off: Arc::default() })
    }
}

impl Store for Switched {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn inner(&self) -> Option<&BucketRef> {
        Some(&self.inner)
    }
    fn switch(&self) -> Option<&Arc<AtomicBool>> {
        Some(&self.off)
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        if !self.off.load(Ordering::SeqCst) {
            return self.inner.call(request, cause);
        }
        let why = format!("{} is cut off by a drill (`windlass drill`)", self.inner.url());
        // Certainly without effect: a put is an error then, and not of unknown outcome.
        futures::future::ready(Err(Error::new(Kind::Unavailable, why))).boxed()
    }
}

#[async_trait]
impl Bucket for Switched {
    /// Requests by each address are cut off with the bucket.
    async fn each_address(&self) -> Result<Vec<(IpAddr, BucketRef)>> {
        let switched = |inner| -> BucketRef { Arc::new(Switched { inner, off: self.off.clone() }) };
        let all = self.inner.each_address().await?;
        Ok(all.into_iter().map(|(address, inner)| (address, switched(inner))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{List, SimStore};
    use windlass_base::rt::sim::Sim;

    #[test]
    fn a_bucket_is_cut_off_while_the_guard_lives() {
        let sim = Sim::new(1);
        let store = SimStore::new(&sim, "s");
        sim.run(async move {
            let bucket = Switched::new(store.clone());
            let list = List { max: 1, ..List::default() };
            let cut = CutOff::begin(&*bucket).unwrap();
            assert!(CutOff::begin(&*bucket).is_none(), "twice");
            let error = bucket.list(&list, Cause::Probe).await.unwrap_err();
            assert!(error.is(Kind::Unavailable) && error.to_string().contains("drill"));
            drop(cut);
            bucket.list(&list, Cause::Probe).await.unwrap();
            assert!(CutOff::begin(&*store).is_none(), "it has no switch");
        })
        .unwrap();
    }
}

//! One look at a store: its ways, its objects, and how much is asked.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;

use crate::{Bucket, BucketRef, Cause, Etag, Put, When};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// How much is asked of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Writers at the same moment, for each address of the store's server.
    pub writers: usize,
    /// Writers at the same moment over all addresses, at most.
    pub writers_max: usize,
    /// Rounds of each condition, at least.
    pub rounds: usize,
    /// Rounds of a condition go on for so long.
    pub time: Duration,
}

impl Effort {
    /// What a store is asked before a pool uses it: some 600 small requests where its server has one address.
    pub const SHORT: Effort = Effort { writers: 16, writers_max: 64, rounds: 8, time: Duration::ZERO };
    /// Next to nothing: for who makes pools by the thousand on stores that are known.
    pub const LEAST: Effort = Effort { writers: 2, writers_max: 2, rounds: 1, time: Duration::ZERO };
}

/// Addresses of one name that are tried, at most.
const ADDRESSES_MAX: usize = 16;
/// An address that answers nothing within this is left out, as connections leave it out.
const ADDRESS_WAIT: Duration = Duration::from_secs(2);
pub(super) const BODY: &[u8] = b"windlass probe: which bytes are these? ";

/// Pauses of a single writer who is told to slow down.
const SLOW_DOWN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

pub(super) fn stored(put: Put) -> Result<Option<Etag>> {
    match put {
        Put::Stored(etag) => Ok(Some(etag)),
        Put::Refused => Ok(None),
        Put::Unknown(e) => Err(e),
    }
}

/// See the module.
pub(super) struct Trial<'a> {
    pub rt: &'a Rt,
    pub bucket: &'a dyn Bucket,
    pub effort: Effort,
    stem: String,
    /// The same bucket by each address that answers. None: it has but one way.
    ways: Vec<(IpAddr, BucketRef)>,
    keys: Mutex<Vec<String>>,
    bodies: AtomicUsize,
}

impl<'a> Trial<'a> {
    pub fn new(rt: &'a Rt, bucket: &'a dyn Bucket, prefix: &str, effort: Effort) -> Trial<'a> {
        let stem = format!("{prefix}windlass-probe-{:032x}", rt.random128());
        let (ways, keys) = (Vec::new(), Mutex::default());
        Trial { rt, bucket, effort, stem, ways, keys, bodies: AtomicUsize::new(0) }
    }

    /// Looks by which addresses the bucket is reached; those that don't answer.
    pub async fn find_ways(&mut self) -> Result<Vec<IpAddr>> {
        let all = self.bucket.each_address().await?;
        let looks = all.into_iter().take(ADDRESSES_MAX).map(|(address, way)| {
            let (key, rt) = (self.stem.clone(), self.rt);
            async move {
                let answer = rt.timeout(ADDRESS_WAIT, way.head(&key, Cause::Probe)).await;
                let silent = answer.is_none_or(|answer| answer.is_err_and(|e| e.is_transient()));
                (address, way, silent)
            }
        });
        let mut silent = Vec::new();
        for (address, way, is_silent) in join_all(looks).await {
            match is_silent {
                true => silent.push(address),
                false => self.ways.push((address, way)),
            }
        }
        Ok(silent)
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ways.iter().map(|(address, _)| *address).collect()
    }

    /// How many write at the same moment.
    pub fn writers(&self) -> usize {
        let Effort { writers, writers_max, .. } = self.effort;
        (writers * self.ways.len().max(1)).min(writers_max.max(self.ways.len()))
    }

    /// The way of a writer: each is as many writers' way.
    pub fn way(&self, writer: usize) -> &dyn Bucket {
        match self.ways.len() {
            0 => self.bucket,
            n => &*self.ways[writer % n].1,
        }
    }

    /// A name that no object has had.
    pub fn fresh_key(&self) -> String {
        let mut keys = self.keys.lock();
        let key = format!("{}-{}", self.stem, keys.len());
        keys.push(key.clone());
        key
    }

    /// A longer name, which is removed at the end too.
    pub fn below(&self, key: &str, end: &str) -> String {
        let key = format!("{key}{end}");
        self.keys.lock().push(key.clone());
        key
    }

    /// Bytes that no other object has, all of one size.
    pub fn body(&self) -> Bytes {
        let number = self.bodies.fetch_add(1, Ordering::Relaxed);
        [BODY, format!("{number:08}").as_bytes()].concat().into()
    }

    /// One writer's conditional put; `None`: the condition did not hold.
    pub async fn put(&self, key: &str, body: &Bytes, when: When) -> Result<Option<Etag>> {
        for pause in SLOW_DOWN {
            match self.bucket.put(key, body.clone(), when.clone(), Cause::Probe).await {
                // It has certainly not stored: writers of this key were many a moment ago.
                Err(e) if e.is(Kind::Throttled) => self.rt.sleep(pause).await,
                done => return stored(done?),
            }
        }
        stored(self.bucket.put(key, body.clone(), when, Cause::Probe).await?)
    }

    /// Makes an object where none is.
    pub async fn make(&self, key: &str, body: &Bytes) -> Result<Etag> {
        let why = "a write that must create an object is refused although none is there";
        self.put(key, body, When::Absent).await?.ok_or_else(|| Error::new(Kind::Refused, why))
    }

    /// Puts an object, whatever is there: what data need.
    pub async fn write(&self, key: &str, body: &Bytes) -> Result<Etag> {
        let why = "a write without a condition is refused as if it had one";
        self.put(key, body, When::Always).await?.ok_or_else(|| Error::new(Kind::Refused, why))
    }

    /// Puts another object in the place of this one.
    pub async fn replace(&self, key: &str, etag: Etag, body: &Bytes) -> Result<Etag> {
        let why = "it refuses to replace an object whose version was named rightly";
        self.put(key, body, When::Matches(etag)).await?.ok_or_else(|| Error::new(Kind::Refused, why))
    }

    /// Removes what was written.
    pub async fn clean(&self) -> Result<()> {
        let keys = std::mem::take(&mut *self.keys.lock());
        match self.bucket.delete(&keys, Cause::Probe).await {
            // No promise that a pool stands on: without that right its objects pile up, these too.
            Err(e) if e.is(Kind::Denied) => Ok(()),
            cleaned => cleaned,
        }
    }
}

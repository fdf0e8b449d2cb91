//! A store's verbs behind its breaker, and what is asked of it beside them: its room and its clock.
//!
//! A request is given up when the store turns out to be out or down, or when its answer takes far too long; a put whose
//! wait ends early may have happened. A failed or slow one makes the label be read, and does no more to the standing.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};

use super::{LABEL_WAIT_MAX, LABEL_WAIT_MIN, Member, Standing};
use crate::stores::response_stats::SizeClass;
use windlass_base::rt::Instant;
use windlass_base::{Error, Kind, Result};
use windlass_store::{Asked, BucketRef, ByteRange, Cause, Found, Head, List, Page, Put, When};

/// A request without an answer for so long makes the label be read.
const SUSPECT: Duration = Duration::from_secs(1);
/// Before a deletion the label was read within this.
const LABEL_FRESH: Duration = Duration::from_secs(5);
/// And before a put that could land on whatever is there. Such a put counts only when the label is read once more after it, so
/// this look only spares an unlabelled place the object: a volume whose history is kept by the minute need not repeat it.
const LABEL_FRESH_FOR_PUTS: Duration = Duration::from_secs(90);
/// No answer to a request for so long, though the label answers: given up.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// And so much longer for each byte sent: 128 KiB/s is the slowest link that works.
const BYTES_A_SECOND: u64 = 128 << 10;
/// A put without an answer for so long, and so much longer for each byte: the store takes no writes for now.
const SLOW_PUT: Duration = Duration::from_secs(3);
/// From then on it is looked so often whether the puts of its bucket hang.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Why the puts of a bucket hang that can tell it.
const HANGING_FOLDER: &str = "its filesystem is frozen, or its disk or server does not answer";

/// A request under way. One that nobody waits for any more took at least as long: left out, a store would look the
/// quicker the more often others are asked in its stead.
struct Timed<'a> {
    member: &'a Member,
    start: Instant,
    /// A get of data, of this size.
    read: Option<SizeClass>,
    failed: bool,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let took = self.member.rt.now().since(self.start);
        self.member.traffic.count(took, self.read, self.failed);
    }
}

/// Tells an answer from none, where the type of a success says it.
trait Answer {
    fn trouble(&self) -> Option<&Error> {
        None
    }
}

impl Answer for Option<Found> {}
impl Answer for Option<Head> {}
impl Answer for Page {}
impl Answer for () {}
impl Answer for Put {
    fn trouble(&self) -> Option<&Error> {
        match self {
            Put::Unknown(e) => Some(e),
            Put::Stored(_) | Put::Refused => None,
        }
    }
}

impl Member {
    /// Ends when the store turns out to be out or down, or when an answer has taken far too long.
    async fn lost_patience(&self, bytes: u64) -> Error {
        let limit = REQUEST_WAIT + Duration::from_secs(bytes / BYTES_A_SECOND);
        let start = self.rt.now();
        loop {
            let gone = self.state.until(|s| s.standing.reason().map(str::to_owned));
            futures::pin_mut!(gone);
            match select(gone, self.rt.sleep(SUSPECT)).await {
                Either::Left((why, _)) => return Error::new(Kind::Unavailable, why),
                Either::Right(_) if self.rt.now().since(start) >= limit => {
                    return Error::new(Kind::Timeout, format!("store {} does not answer", self.entry.url));
                }
                Either::Right(_) => self.suspect(),
            }
        }
    }

    /// Runs one request behind the breaker. The outer error: given up before there was an answer.
    async fn ask<T: Answer>(
        &self,
        bytes: u64,
        read: Option<SizeClass>,
        request: impl Future<Output = Result<T>>,
    ) -> Result<Result<T>> {
        let mut timed = Timed { member: self, start: self.rt.now(), read, failed: false };
        let patience = self.lost_patience(bytes);
        futures::pin_mut!(request, patience);
        let out = match select(request, patience).await {
            Either::Left((out, _)) => out,
            Either::Right((e, _)) => {
                timed.failed = true;
                return Err(e);
            }
        };
        let trouble = out.as_ref().map_or_else(Some, T::trouble);
        timed.failed = trouble.is_some_and(|e| e.is(Kind::Throttled) || is_trouble(e));
        match trouble {
            None => self.state.with(|s| s.last_answer = self.rt.now()),
            Some(e) if is_trouble(e) => self.suspect(),
            Some(_) => {}
        }
        Ok(out)
    }

    fn bucket(&self) -> Result<&BucketRef> {
        let why = self.state.with(|s| s.standing.reason().map(str::to_owned));
        match why {
            Some(why) => Err(Error::new(Kind::Unavailable, why)),
            None => {
                self.bucket.as_ref().ok_or_else(|| self.trouble("this host does not know how to reach it"))
            }
        }
    }

    /// `None` says only that the store has none *now*; it counts when the store attests after it.
    pub async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        // Registers and labels are got whole; of data a part is.
        let read = match range {
            ByteRange::At { len, .. } | ByteRange::Last(len) => Some(SizeClass::of(len)),
            ByteRange::Whole { .. } => None,
        };
        let got = self.ask(0, read, self.bucket()?.get(key, range, cause)).await?;
        self.learn_archived(key, &got);
        got
    }

    pub async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        self.ask(0, None, self.bucket()?.head(key, cause)).await?
    }

    pub async fn list(&self, list: &List, cause: Cause) -> Result<Page> {
        self.ask(0, None, self.bucket()?.list(list, cause)).await?
    }

    pub async fn delete(&self, keys: &[String], cause: Cause) -> Result<()> {
        self.attested(Some(LABEL_FRESH)).await?;
        self.ask(0, None, self.bucket()?.delete(keys, cause)).await?
    }

    /// A conditional put. Reads the label first where it was not read yet; an `Err` is certainly not stored.
    /// `Stored` of an if-absent put counts when the store attests after it.
    ///
    /// One that holds data only is asked for no condition: a shard's key is never used with two contents (protocol §2.15). A
    /// register is refused there.
    pub async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        if self.is_data_only() && cause == Cause::Register {
            return Err(Error::new(
                Kind::Refused,
                format!("store {} holds data only, no registers", self.url()),
            ));
        }
        let when = self.asked(when);
        // A put with an etag can only land on what was read.
        let fresh = (!matches!(when, When::Matches(_))).then_some(LABEL_FRESH_FOR_PUTS);
        self.attested(fresh).await?;
        let bucket = self.bucket()?;
        let bytes = body.len() as u64;
        let start = self.rt.now();
        // Whatever ends the wait early, the put may have happened.
        let put = self.ask(bytes, None, bucket.put(key, body, when, cause));
        let out = self.told_when_slow(bucket, bytes, put).await;
        let out = out.unwrap_or_else(|e| Ok(Put::Unknown(e)));
        let why = match &out {
            Ok(Put::Unknown(e)) | Err(e) if is_trouble(e) => Some(e.to_string()),
            _ => None,
        };
        self.state.with(|s| match why {
            None => s.writes_failing = None,
            Some(why) => {
                let text = || (start, format!("store {} takes no writes: {why}", self.entry.url));
                s.writes_failing.get_or_insert_with(text);
            }
        });
        out
    }

    /// What was put, and had no answer, is there.
    pub(crate) fn takes_writes(&self) {
        self.state.with(|s| s.writes_failing = None);
    }

    /// A put that has no answer for long makes the store one that takes no writes, until one has: its label may answer all the
    /// while, as that of a folder whose filesystem is frozen. How long that is depends on the bytes that the line has to
    /// carry, unless the bucket itself tells that its puts hang. The put goes on.
    async fn told_when_slow<T>(&self, bucket: &BucketRef, bytes: u64, put: impl Future<Output = T>) -> T {
        let (start, slow) = (self.rt.now(), SLOW_PUT + Duration::from_secs(bytes / BYTES_A_SECOND));
        futures::pin_mut!(put);
        let mut wait = SLOW_PUT;
        loop {
            if let Some(out) = self.rt.timeout(wait, put.as_mut()).await {
                return out;
            }
            let why = match bucket.hangs() {
                Some(time) => format!("none got on for {} s: {HANGING_FOLDER}", time.as_secs()),
                None if self.rt.now().since(start) >= slow => format!("one has no answer for {slow:?}"),
                None => {
                    wait = LOOK_EVERY;
                    continue;
                }
            };
            self.state.with(|s| {
                let text = || (start, format!("store {} takes no writes: {why}", self.entry.url));
                s.writes_failing.get_or_insert_with(text);
            });
            return put.await;
        }
    }

    /// `Ok` when the label was read since the store was last out or down, and within `fresh`.
    async fn attested(&self, fresh: Option<Duration>) -> Result<()> {
        let now = self.rt.now();
        let read = self.state.with(|s| match s.standing {
            Standing::Unknown => false,
            _ => fresh.is_none_or(|fresh| now.since(s.attested) <= fresh),
        });
        if read { Ok(()) } else { self.attest().await }
    }

    /// Asks the store for the room that is left on it, where it can tell.
    pub(crate) async fn measure(&self) {
        let space = match self.bucket() {
            Ok(bucket) => self.rt.timeout(LABEL_WAIT_MIN, bucket.space()).await.flatten(),
            Err(_) => None,
        };
        self.state.with(|s| s.space = space);
    }

    /// How far its clock is ahead of this host's. `None`: it has none of its own.
    pub(crate) async fn ahead_ms(&self) -> Option<Asked<i64>> {
        // Any answer tells the time, also of one that is out.
        let asked = self.rt.timeout(LABEL_WAIT_MAX, self.bucket.as_ref()?.ahead_ms()).await;
        asked.unwrap_or(Some(Err("silent")))
    }
}

/// Does this error say that something is wrong with the store (and not with the request)?
fn is_trouble(e: &Error) -> bool {
    !matches!(e.kind(), Kind::Throttled | Kind::Invalid | Kind::Exists | Kind::Refused | Kind::Archived)
}

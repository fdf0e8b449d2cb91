//! The bucket as the filesystem asks it: every request has a deadline, a put's outcome is settled.
//!
//! Owns no state but what is known of a store that says nothing (`breaker`). A put whose answer was lost is looked up
//! by its signature.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::circuit_breaker::{CircuitBreaker, is_silence};
use super::copy_etags::CopyEtags;
use super::deferred_deletes::Deletes;
use super::late_puts::LatePut;
use super::remover::{Doomed, Removed, Remover};
use crate::object::{Base, UploadToken, is_same_write};
use windlass_base::rt::{Instant, Rt};
use windlass_base::{Error, Kind, Result};
use windlass_store::{
    Attrs, BucketRef, ByteRange, Cause, Etag, Found, Head, List, Page, Part, Put, Restore, VersionList,
    VersionMark, VersionPage, When,
};

/// Size above which objects are copied in parts, in bytes: S3 copies at most 5 GiB at once.
pub(super) const COPY_MAX: u64 = 4 << 30;
const COPY_PART: u64 = 1 << 30;
const COPIES_AT_ONCE: usize = 8;
/// Size of the parts in which bytes pass through this host where the store copies no parts.
const SENT_PART: u64 = 16 << 20;
const SENDS_AT_ONCE: usize = 2;
/// Largest number of parts that S3 takes for one upload.
const PARTS_MAX: u64 = 10_000;
/// Largest number of attempts at a put whose outcome stays unknown.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes a second at which a part is reckoned to travel: such a request may last longer than the deadline by
/// the time of its bytes. The rate is a part's share of a line of 1 MiB a second that it shares with seven
/// others. `COPIED_A_SECOND` is the rate of copies within the store.
const SENT_A_SECOND: u64 = 128 << 10;
pub(super) const COPIED_A_SECOND: u64 = 16 << 20;
/// Number of bytes that make no request late.
const SMALL: u64 = 64 << 10;
const LONGER_MAX: Duration = Duration::from_secs(15 * 60);
/// Beginning of the key of a pool's label, an object by which a store says that it belongs to the pool. The
/// key goes on with `-` and the pool's id; once it was this word alone.
const LABEL: &str = "label";
/// Number of keys beginning with `LABEL` that are looked at. Labels come early among them: a key that goes on
/// with anything but an id after `-` sorts behind most.
const LABELS_MAX: usize = 100;
const LABEL_MAX: u64 = 256 << 10;

/// Record of multipart uploads that no file has: a crash must not leave their parts in the bucket for good.
#[async_trait]
pub trait UploadNotes: Send + Sync + std::fmt::Debug {
    async fn begun(&self, key: &str, upload: &str) -> Result<()>;
    async fn ended(&self, key: &str, upload: &str);
}

#[derive(Clone, Debug)]
pub struct BucketClient {
    pub(super) rt: Rt,
    pub(super) bucket: BucketRef,
    pub(super) deadline: Duration,
    /// Objects that are deleted together. A request about one of them waits until it is deleted.
    pub deletes: Arc<Deletes>,
    pub(super) remover: Remover,
    pub(super) copies: Arc<CopyEtags>,
    notes: Arc<OnceLock<Arc<dyn UploadNotes>>>,
    breaker: Arc<CircuitBreaker>,
    no_part_copies: Arc<AtomicBool>,
    /// True if the store keeps the metadata of keys that end with a slash; unset as long as nobody has
    /// looked.
    keeps_markers: Arc<OnceLock<bool>>,
}

/// Makes the parts of an upload of `size` bytes, up to `at_once` side by side. `make` gets number, offset and
/// length of each.
async fn in_pieces<'a>(
    size: u64,
    part: u64,
    at_once: usize,
    make: impl Fn(u32, u64, u64) -> BoxFuture<'a, Result<Part>>,
) -> Result<Vec<Part>> {
    let one = |at: u64| make(at as u32 + 1, at * part, part.min(size - at * part));
    futures::stream::iter((0..size.div_ceil(part)).map(one)).buffered(at_once).try_collect().await
}

fn changed(key: &str) -> Error {
    Error::new(Kind::Refused, format!("object {key} was changed by somebody else since it was opened here"))
}

/// Adds to an error what was being done, and what can be done here about an archived object.
fn explain(e: Error, doing: &str, key: &str) -> Error {
    let e = e.context(format_args!("{doing} {key}").to_string().trim_end());
    if e.is(Kind::Archived) {
        return Error::new(e.kind(), format!("{e}, with `setfattr -n s3.restore -v DAYS FILE`"));
    }
    e
}

/// Tells whether the store is a folder whose disk has failed: what can be seen there may not be kept.
pub fn is_of_disk(why: &Error) -> bool {
    matches!(why.kind(), Kind::Io | Kind::NoSpace | Kind::ReadOnly)
}

/// Returns how much longer than a deadline a request may take for the bytes that it carries.
pub(super) fn longer(bytes: u64, a_second: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / a_second).min(LONGER_MAX)
}

impl BucketClient {
    pub fn new(rt: Rt, bucket: BucketRef, deadline: Duration) -> BucketClient {
        let breaker = CircuitBreaker::new(rt.clone(), bucket.clone(), deadline);
        let (rt_too, bucket_too, breaker_too) = (rt.clone(), bucket.clone(), breaker.clone());
        let late = Arc::default();
        let remover = Remover { rt: rt_too, bucket: bucket_too, deadline, breaker: breaker_too, late };
        let deletes = Deletes::new(remover.clone());
        BucketClient {
            rt,
            bucket,
            deadline,
            deletes,
            remover,
            copies: Arc::default(),
            notes: Arc::default(),
            breaker,
            no_part_copies: Arc::default(),
            keeps_markers: Arc::default(),
        }
    }

    /// Returns the put of an object that was removed or moved away here, if that put may still come.
    pub fn late_put(&self, key: &str) -> Option<LatePut> {
        self.remover.late.watched(key)
    }

    /// Notes that a put by an earlier mount, whose answer nobody heard, may still come.
    pub fn expect_put(&self, key: &str, put: &UploadToken) {
        self.remover.late.expect(key, &put.attrs(), put.size, self.rt.now());
    }

    /// Sets where uploads are written down that no file has; called once.
    pub fn note_uploads(&self, notes: Arc<dyn UploadNotes>) {
        let _ = self.notes.set(notes);
    }

    /// Tells whether nothing was copied yet: the first copy shows whether others need a mark.
    pub fn copies_are_unknown(&self) -> bool {
        self.copies.are_unknown()
    }

    pub fn url(&self) -> &str {
        self.bucket.url()
    }

    fn late(&self, limit: Duration, doing: &str, key: &str) -> Error {
        let secs = limit.as_secs_f64();
        Error::new(
            Kind::Timeout,
            format!("{doing} {key}: {} gave no answer within {secs:.0} s", self.bucket.url()),
        )
    }

    /// Makes a link to an object, or to one of its versions, that is valid for this time.
    pub async fn link(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        self.ask("making a link to", key, self.bucket.presign(key, version, valid)).await
    }

    async fn ask<T>(&self, doing: &str, key: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.ask_within(self.deadline, doing, key, request).await
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        doing: &str,
        key: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.ready(key).await.map_err(|e| explain(e, doing, key))?;
        let began = self.rt.now();
        let answer = self.rt.timeout(limit, request).await;
        self.learn(began, limit, answer.as_ref().is_none_or(is_silence));
        match answer {
            Some(answer) => answer.map_err(|e| explain(e, doing, key)),
            None => Err(self.late(limit, doing, key)),
        }
    }

    /// Waits until a request about this key may be sent.
    async fn ready(&self, key: &str) -> Result<()> {
        self.breaker.over().await?;
        self.deletes.wait_for_delete(key).await;
        self.breaker.over().await
    }

    /// Tells the circuit breaker whether an answer came. A request that carries many bytes may be late for
    /// its own reasons, so its silence says nothing of the store.
    fn learn(&self, began: Instant, limit: Duration, silent: bool) {
        if !silent {
            self.breaker.heard();
        } else if limit <= self.deadline + longer(SMALL, SENT_A_SECOND) {
            self.breaker.missed(began);
        }
    }

    /// Sends a put as `ask` sends a request. A put that gave no answer may have happened: it comes back as
    /// `Put::Unknown`.
    pub(super) async fn try_put(
        &self,
        key: &str,
        limit: Duration,
        request: impl Future<Output = Result<Put>>,
    ) -> Result<Put> {
        self.ready(key).await.map_err(|e| explain(e, "writing", key))?;
        let began = self.rt.now();
        let answer = self.rt.timeout(limit, request).await;
        match &answer {
            // An attempt's own limit, which is shorter than the deadline: nothing came, and it is too early to say more.
            Some(Ok(Put::Unknown(e)) | Err(e)) if e.is(Kind::Timeout) => {}
            answer => self.learn(began, limit, answer.is_none()),
        }
        match answer {
            Some(answer) => answer.map_err(|e| explain(e, "writing", key)),
            None => Ok(Put::Unknown(self.late(limit, "writing", key))),
        }
    }

    pub async fn list(
        &self,
        prefix: &str,
        after: Option<String>,
        delimited: bool,
        max: usize,
    ) -> Result<Page> {
        self.deletes.settled_below(prefix).await;
        let list = List { prefix: prefix.to_owned(), after, delimited, max };
        self.ask("listing", prefix, self.bucket.list(&list, Cause::File)).await
    }

    /// Returns the first page that has a name, or the last page. Each page has a deadline of its own.
    pub async fn list_some(&self, prefix: &str, delimited: bool, max: usize) -> Result<Page> {
        let mut after = None;
        loop {
            let page = self.list(prefix, after, delimited, max).await?;
            if !page.is_empty() || page.next.is_none() {
                return Ok(page);
            }
            after = page.next;
        }
    }

    pub async fn head(&self, key: &str) -> Result<Option<Head>> {
        self.ask("looking at", key, self.bucket.head(key, Cause::File)).await
    }

    pub async fn get(&self, key: &str, offset: u64, len: u64) -> Result<Option<Found>> {
        self.ask("reading", key, self.bucket.get(key, ByteRange::At { offset, len }, Cause::File)).await
    }

    pub async fn versioned(&self) -> Result<bool> {
        self.ask("looking for versions in", self.url(), self.bucket.versioned(Cause::File)).await
    }

    /// Lists a page of the versions below a prefix.
    pub async fn versions(
        &self,
        prefix: &str,
        after: Option<VersionMark>,
        delimited: bool,
        max: usize,
    ) -> Result<VersionPage> {
        self.deletes.settled_below(prefix).await;
        let list = VersionList { prefix: prefix.to_owned(), after, delimited, max };
        self.ask("listing versions of", prefix, self.bucket.list_versions(&list, Cause::File)).await
    }

    /// Returns the first page of versions that has a name, or the last page.
    pub async fn versions_some(&self, prefix: &str, delimited: bool, max: usize) -> Result<VersionPage> {
        let mut after = None;
        loop {
            let page = self.versions(prefix, after, delimited, max).await?;
            if !page.versions.is_empty() || !page.prefixes.is_empty() || page.next.is_none() {
                return Ok(page);
            }
            after = page.next;
        }
    }

    /// Looks at an object, or at one of its versions.
    pub async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
    ) -> Result<Option<Head>> {
        let request = self.bucket.head_version(key, version, checksums, Cause::File);
        self.ask("looking at", key, request).await
    }

    pub async fn get_version(
        &self,
        key: &str,
        version: &str,
        offset: u64,
        len: u64,
    ) -> Result<Option<Found>> {
        let range = ByteRange::At { offset, len };
        self.ask("reading", key, self.bucket.get_version(key, version, range, Cause::File)).await
    }

    /// Tells whether the store keeps the metadata of directories' markers; `None` as long as nobody has
    /// looked.
    pub fn keeps_markers(&self) -> Option<bool> {
        self.keeps_markers.get().copied()
    }

    pub fn learn_markers(&self, keeps: bool) {
        // Who looked at the same time saw the same.
        let _ = self.keeps_markers.set(keeps);
    }

    /// Asks for a readable copy of an archived object. Returns false if one is on its way already.
    pub async fn restore(&self, key: &str, version: Option<&str>, how: Restore) -> Result<bool> {
        self.ask("restoring", key, self.bucket.restore(key, version, how, Cause::File)).await
    }

    /// Reads exactly these bytes of the object, or of its version, which must have this etag. Fails with
    /// `Refused` when another object is there now.
    pub async fn get_of(
        &self,
        (key, version): (&str, Option<&str>),
        base: &Base,
        offset: u64,
        len: u64,
    ) -> Result<Bytes> {
        let found = match version {
            Some(version) => self.get_version(key, version, offset, len).await?,
            None => self.get(key, offset, len).await?,
        };
        match found {
            Some(found) if found.head.etag == base.etag && found.body.len() as u64 == len => Ok(found.body),
            Some(found) if found.head.etag == base.etag => {
                Err(Error::new(Kind::Corrupt, format!("reading {key}: fewer bytes came than the object has")))
            }
            _ => Err(changed(key)),
        }
    }

    /// Deletes the objects that still are what they were, as far as the store can tell. A store that heeds no
    /// condition deletes whatever is there, so callers that care look just before. Returns the keys that
    /// other objects have by now, which stay.
    pub async fn remove(&self, objects: &[Doomed]) -> Result<Vec<String>> {
        self.try_remove(objects).await?.all()
    }

    /// Deletes objects as `remove` does. What could not be deleted is no error.
    pub(super) async fn try_remove(&self, objects: &[Doomed]) -> Result<Removed> {
        let first = objects.first().map_or("", |object| object.key.as_str());
        self.ready(first).await.map_err(|e| explain(e, "deleting", first))?;
        let removed = self.remover.remove(objects).await;
        Ok(Removed { why: removed.why.map(|e| explain(e, "deleting", first)), ..removed })
    }

    /// Deletes whatever has this name. What was `seen` there is deleted without another look if it is still
    /// there.
    pub async fn remove_seen(&self, key: &str, seen: Option<Doomed>) -> Result<()> {
        if let Some(seen) = seen
            && self.remove(&[seen]).await?.is_empty()
        {
            return Ok(());
        }
        self.remove_named(key).await
    }

    /// Deletes whatever has this name.
    pub async fn remove_named(&self, key: &str) -> Result<()> {
        const ROUNDS: usize = 5;
        for _ in 0..ROUNDS {
            let Some(head) = self.head(key).await? else {
                self.remover.watch_late_put(key);
                return Ok(());
            };
            if self.remove(&[Doomed::of(key, &head)]).await?.is_empty() {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Refused, format!("{key} changes all the time: it can't be deleted now")))
    }

    /// Returns the etag of the object at `key` if it is what we have just tried to write.
    async fn is_ours(&self, key: &str, attrs: &Attrs, size: u64) -> Result<Option<Etag>> {
        let Some(head) = self.head(key).await? else { return Ok(None) };
        Ok((head.size == size && is_same_write(attrs, &head.attrs)).then_some(head.etag))
    }

    /// Repeats `attempt` until its outcome is known, a limited number of times. Fails with `Refused` when the
    /// condition of the put does not hold. `more` is the time beyond the deadline that an attempt may take
    /// for its bytes.
    async fn resolve_put<F: Future<Output = Result<Put>>>(
        &self,
        key: &str,
        attrs: &Attrs,
        size: u64,
        more: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<Etag> {
        self.remover.late.unwatch(key);
        let mut doubt = None;
        let limit = self.deadline + more;
        let until = self.rt.now() + (self.deadline * 11 / 6 + more);
        for _ in 0..ATTEMPTS {
            let left = until.since(self.rt.now());
            if left.is_zero() {
                break;
            }
            let mut gone = None;
            let refused = match self.try_put(key, left.min(limit), attempt()).await {
                Ok(Put::Stored(etag)) => {
                    if doubt.is_some() {
                        self.remover.late.expect(key, attrs, size, self.rt.now());
                    }
                    return Ok(etag);
                }
                // What carries requests may have repeated one that was done: then our own object refuses it.
                Ok(Put::Refused) => true,
                // A folder on a disk that fails: the object can be seen, and may not be there after a loss of power.
                Ok(Put::Unknown(why)) if is_of_disk(&why) => return Err(why),
                Ok(Put::Unknown(why)) => {
                    doubt = Some(why);
                    false
                }
                // A repeated completion of an upload that is completed is an error, not a refusal.
                Err(why) if doubt.is_none() && !why.is(Kind::NotFound) => return Err(why),
                Err(why) => {
                    gone = Some(why);
                    false
                }
            };
            let left = until.since(self.rt.now());
            match self.rt.timeout(left, self.is_ours(key, attrs, size)).await {
                Some(ours) => {
                    if let Some(etag) = ours? {
                        return Ok(etag);
                    }
                }
                None => break,
            }
            if refused {
                return Err(changed(key));
            }
            if let Some(why) = gone.filter(|_| doubt.is_none()) {
                return Err(why);
            }
            self.rt.sleep(PAUSE).await;
        }
        // An attempt may have been stored, or will be.
        self.remover.late.expect(key, attrs, size, self.rt.now());
        Err(doubt.unwrap_or_else(|| self.late(limit, "writing", key)))
    }

    /// Stores an object. `attrs` must carry an upload token (`add_upload_token`).
    pub async fn put(&self, key: &str, body: Bytes, attrs: &Attrs, when: &When) -> Result<Etag> {
        let size = body.len() as u64;
        self.resolve_put(key, attrs, size, longer(size, SENT_A_SECOND), || {
            self.bucket.put_with(key, body.clone(), attrs, when.clone(), Cause::File)
        })
        .await
    }

    /// Replaces an object's metadata by `attrs`, which must carry an upload token, if it is still that
    /// object.
    pub async fn put_attrs(&self, key: &str, base: &Base, attrs: &Attrs) -> Result<Etag> {
        // The condition on the source is looked at when the copy begins, this one when it ends.
        self.copy_with(key, key, base, attrs, &When::Matches(base.etag.clone())).await
    }

    /// Stores an object's bytes under another key with metadata of their own, which must carry a token or a
    /// mark. Fails with `Refused` when either key has another object by now.
    pub async fn copy_with(
        &self,
        from: &str,
        to: &str,
        base: &Base,
        attrs: &Attrs,
        when: &When,
    ) -> Result<Etag> {
        if base.size > COPY_MAX {
            return self.copy_parts(from, to, base, attrs, when).await;
        }
        self.resolve_put(to, attrs, base.size, longer(base.size, COPIED_A_SECOND), || {
            self.bucket.copy(from, to, Some(&base.etag), Some(attrs), when.clone(), Cause::File)
        })
        .await
    }

    async fn verified(&self, to: &str, etag: &Etag, base: &Base) -> Result<Etag> {
        match self.head(to).await? {
            Some(head) if head.etag == *etag && head.size == base.size => Ok(head.etag),
            Some(head) if head.etag == *etag => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the copy {to} has {} bytes instead of {}: nothing was deleted",
                    head.size, base.size
                ),
            )),
            _ => Err(changed(to)),
        }
    }

    async fn copy_parts(
        &self,
        from: &str,
        to: &str,
        base: &Base,
        attrs: &Attrs,
        when: &When,
    ) -> Result<Etag> {
        let upload = self.begin(to, attrs).await?;
        if let Some(notes) = self.notes.get()
            && let Err(why) = notes.begun(to, &upload).await
        {
            self.abort(to, &upload).await;
            return Err(why);
        }
        let done = self.copy_parts_to(&upload, from, to, base, (attrs, when)).await;
        if let Some(notes) = self.notes.get() {
            notes.ended(to, &upload).await;
        }
        done
    }

    async fn copy_parts_to(
        &self,
        upload: &str,
        from: &str,
        to: &str,
        base: &Base,
        (attrs, when): (&Attrs, &When),
    ) -> Result<Etag> {
        let copy = |number, offset, len| self.part_copy(to, upload, number, from, base, offset, len).boxed();
        let send = |number, offset, len| {
            let get = self.get_of((from, None), base, offset, len);
            async move { self.part(to, upload, number, get.await?).await }.boxed()
        };
        let mut copied = if self.copies_no_parts() {
            Err(Error::new(Kind::Unsupported, ""))
        } else {
            in_pieces(base.size, COPY_PART, COPIES_AT_ONCE, copy).await
        };
        if copied.as_ref().is_err_and(|why| why.is(Kind::Unsupported)) {
            let part = SENT_PART.max(base.size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20));
            copied = in_pieces(base.size, part, SENDS_AT_ONCE, send).await;
        }
        let parts = match copied {
            Ok(parts) => parts,
            Err(why) => {
                self.abort(to, upload).await;
                return Err(why);
            }
        };
        match self.complete(to, upload, &parts, attrs, base.size, when).await {
            Ok(etag) => self.verified(to, &etag, base).await,
            Err(why) => {
                self.abort(to, upload).await;
                Err(why)
            }
        }
    }

    pub async fn begin(&self, key: &str, attrs: &Attrs) -> Result<String> {
        self.ask("beginning to write", key, self.bucket.multipart_create(key, attrs, Cause::File)).await
    }

    pub async fn part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<Part> {
        let limit = self.deadline + longer(body.len() as u64, SENT_A_SECOND);
        let request = self.bucket.multipart_put(key, upload, number, body, Cause::File);
        self.ask_within(limit, "writing a part of", key, request).await
    }

    #[allow(clippy::too_many_arguments)]
    pub async fn part_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        base: &Base,
        offset: u64,
        len: u64,
    ) -> Result<Part> {
        let etag = Some(&base.etag);
        let request = self.bucket.multipart_copy(key, upload, number, from, etag, offset, len, Cause::File);
        let limit = self.deadline + longer(len, COPIED_A_SECOND);
        let copied = self.ask_within(limit, "copying a part of", key, request).await;
        if copied.as_ref().is_err_and(|why| why.is(Kind::Unsupported)) {
            self.no_part_copies.store(true, Ordering::Relaxed);
        }
        copied
    }

    /// Tells whether the store has said that it copies no parts of objects: they are read and sent instead.
    pub fn copies_no_parts(&self) -> bool {
        self.no_part_copies.load(Ordering::Relaxed)
    }

    /// Puts the parts together. If this fails, the upload stays, for the caller to ask again or to give up.
    pub async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        attrs: &Attrs,
        size: u64,
        when: &When,
    ) -> Result<Etag> {
        // Some stores answer when they have put the parts together, which is a copy.
        self.resolve_put(key, attrs, size, longer(size, COPIED_A_SECOND), || {
            self.bucket.multipart_complete(key, upload, parts, when.clone(), Cause::File)
        })
        .await
    }

    pub async fn abort(&self, key: &str, upload: &str) {
        let request = self.bucket.multipart_abort(key, upload, Cause::File);
        if let Err(why) = self.ask("giving up the upload of", key, request).await {
            tracing::warn!(key, upload, %why, "an unfinished upload stays in the bucket");
        }
    }

    /// Returns an error where these credentials may not list. S3 then refuses what is absent, too, as if
    /// another right were lacking.
    pub async fn lacks_listing(&self) -> Option<Error> {
        let why = self.list("", None, true, 1).await.err().filter(|why| why.is(Kind::Denied))?;
        let lacks = format!(
            "{} can't be listed, without which it can't be mounted: it takes keys with the right s3:ListBucket (`windlass policy mount` \
             prints all rights that a mount needs)",
            self.url()
        );
        Some(Error::new(Kind::Denied, lacks).because(why))
    }

    /// Refuses a prefix that holds a pool, which is no filesystem: one wrong `rm` would cost disks.
    pub async fn refuse_pool(&self) -> Result<()> {
        let labels = match self.list(LABEL, None, false, LABELS_MAX).await {
            Err(denied) if denied.is(Kind::Denied) => {
                return Err(self.lacks_listing().await.unwrap_or(denied));
            }
            found => found?,
        };
        for object in labels.objects.iter().filter(|object| is_label(&object.key)) {
            let Some(found) = self.get(&object.key, 0, LABEL_MAX).await? else { continue };
            let label = serde_json::from_slice::<serde_json::Value>(&found.body).unwrap_or_default();
            if ["format", "pool", "incarnation"].iter().all(|field| label.get(field).is_some()) {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "{} holds a windlass pool and can't be mounted: mount another prefix, or use its volumes",
                        self.url()
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn is_label(key: &str) -> bool {
    let rest = key.strip_prefix(LABEL);
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_id))
}

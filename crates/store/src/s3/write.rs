//! Put, copy and delete.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::copy_object::CopyObjectInput;
use aws_sdk_s3::operation::delete_object::DeleteObjectInput;
use aws_sdk_s3::operation::put_object::PutObjectInput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, MetadataDirective, ObjectIdentifier};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer_trust::Bare;
use super::carried::{Description, class_of};
use super::errors::Trouble;
use super::quoting::{Quoting, Told};
use super::read::is_odd;
use super::{COPIES, COPIES_NOT, COPIES_UNKNOWN, S3Store, sealed, send, summed, with_extra};
use crate::{Attrs, Etag, Heeds, Put, When};
use windlass_base::sum::crc32;
use windlass_base::{Error, Kind, Result};

/// Number of keys that DeleteObjects takes at once.
const BATCH: usize = 1000;
const SINGLE_DELETES: usize = 16;
/// Characters that stay as they are in the name of a copy's source, apart from letters and digits.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// The largest object that one CopyObject takes.
const COPY_MAX: u64 = 5 << 30;

/// Returns the headers of a condition, with or without quotes around the etag.
pub(super) fn condition(when: &When, quoting: Quoting) -> (Option<String>, Option<String>) {
    match when {
        When::Always => (None, None),
        When::Absent => (None, Some("*".into())),
        When::Matches(etag) => (Some(quoting.etag(etag)), None),
    }
}

/// The source that a copy must have, and the attributes that it is to carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copying<'a> {
    pub from_match: Option<&'a Etag>,
    pub source: Quoting,
    pub attrs: Option<&'a Attrs>,
}

impl S3Store {
    pub(super) fn copy_source(&self, key: &str) -> String {
        format!("{}/{}", self.place.bucket, utf8_percent_encode(&self.full(key), PLAIN))
    }

    pub(super) async fn put_now(&self, key: &str, body: Bytes, attrs: &Attrs, when: &When) -> Result<Put> {
        let about = self.describe(key, attrs).await?;
        self.put_described(key, body, &about, when).await
    }

    pub(super) async fn put_described(
        &self,
        key: &str,
        body: Bytes,
        about: &Description,
        when: &When,
    ) -> Result<Put> {
        let attempt = |quoting, when| self.put_once(key, &body, about, when, quoting).boxed();
        self.conditionally(key, when, (Told::Puts, self.conditions().puts), attempt).await
    }

    async fn put_once(
        &self,
        key: &str,
        body: &Bytes,
        about: &Description,
        when: &When,
        quoting: Quoting,
    ) -> Result<Put> {
        let mut out = self.put_request(self.checks(), key, body, about, when, quoting).await;
        if out.as_ref().is_err_and(Trouble::dislikes_checksums) && self.checks() {
            out = self.put_request(false, key, body, about, when, quoting).await;
            self.learn_plain(out.is_ok());
        }
        out.map_or_else(|t| t.put(when), |etag| Ok(Put::Stored(etag)))
    }

    async fn put_request(
        &self,
        checked: bool,
        key: &str,
        body: &Bytes,
        about: &Description,
        when: &When,
        quoting: Quoting,
    ) -> Result<Etag, Trouble> {
        let (if_match, if_none_match) = condition(when, quoting);
        macro_rules! described {
            ($ask:expr) => {
                sealed!(self, $ask, about.class.clone())
                    .bucket(&self.place.bucket)
                    .key(self.full(key))
                    .set_content_type(about.content_type.clone())
                    .set_metadata(about.user.clone())
                    .set_tagging(about.tags.clone())
                    .set_if_match(if_match)
                    .set_if_none_match(if_none_match)
                    .body(ByteStream::from(body.clone()))
            };
        }
        let sent = match self.direct() {
            Some(direct) => {
                let ask = described!(PutObjectInput::builder());
                direct.with(&about.extra).put(summed!(checked, body, ask).build()).await
            }
            None => {
                let ask = with_extra!(described!(self.sdk(checked).put_object()), about.extra);
                if self.hides_payload { ask.disable_payload_signing() } else { ask }.send().await
            }
        };
        let doing = format!("writing {key:?}");
        let out = sent.map_err(|e| Trouble::of(&self.url, &doing, e))?;
        let marker = body.is_empty() && key.ends_with('/');
        self.written(&doing, out.e_tag(), Some((Bare::Stored, out.request_id())), marker)
    }

    pub(super) async fn copy_now(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: &When,
    ) -> Result<Put> {
        let sources = self.conditions().sources;
        if let Some(wanted) = from_match.filter(|_| sources != Heeds::Yes) {
            match self.head_now(from).await.map_err(|t| t.error)? {
                Some(head) if head.etag != *wanted => return Ok(Put::Refused),
                // What isn't there is an error of the copy's.
                _ => {}
            }
        }
        let from_match = from_match.filter(|_| sources != Heeds::Refuses);
        let about = self.describe_copy(from, attrs).await?;
        let copy = |source: Quoting| {
            let how = Copying { from_match, source, attrs };
            let about = &about;
            let attempt =
                move |quoting, told| self.copy_once(from, to, how, about, (when, told), quoting).boxed();
            self.conditionally(to, when, (Told::Copies, self.conditions().copies), attempt)
        };
        let quoting = self.quotings.of(Told::Sources);
        let out = copy(quoting).await?;
        let Some(wanted) = from_match.filter(|_| self.quotings.is_open(Told::Sources, quoting)) else {
            return Ok(out);
        };
        match out {
            Put::Stored(_) => self.quotings.learn(Told::Sources, quoting),
            // The source is what it should be: the server may want its etag without quotes.
            Put::Refused if self.has_etag(from, wanted).await? => {
                let second = copy(Quoting::Bare).await?;
                if matches!(second, Put::Stored(_)) {
                    self.quotings.learn(Told::Sources, Quoting::Bare);
                }
                return Ok(second);
            }
            Put::Refused | Put::Unknown(_) => {}
        }
        Ok(out)
    }

    /// Returns the description that a copy is to have. The server keeps by itself what the source carries, unless attributes
    /// replace that; the class it never keeps.
    async fn describe_copy(&self, from: &str, attrs: Option<&Attrs>) -> Result<Description> {
        if attrs.is_none() && !self.classes.load(Ordering::Relaxed) {
            return Ok(Description::default());
        }
        let looked = self.looked_at((from, None), false).await.map_err(|t| t.error)?;
        let head = looked.map(|looked| self.described(&looked)).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{}: there is no object {from:?}", self.url))
        })?;
        match attrs {
            Some(attrs) => Description::of(attrs, &head.attrs.carried),
            None => {
                let class = head.storage_class.as_deref().and_then(class_of);
                Ok(Description { class, ..Description::default() })
            }
        }
    }

    async fn copy_once(
        &self,
        from: &str,
        to: &str,
        how: Copying<'_>,
        about: &Description,
        (when, told): (&When, &When),
        quoting: Quoting,
    ) -> Result<Put> {
        if self.copies.load(Ordering::Relaxed) == COPIES_NOT {
            return self.copy_by_hand(from, to, how, when).await;
        }
        let (if_match, if_none_match) = condition(told, quoting);
        macro_rules! described {
            ($ask:expr) => {
                // Replacing drops all of the old description: what isn't ours goes along.
                sealed!(self, $ask, about.class.clone())
                    .bucket(&self.place.bucket)
                    .key(self.full(to))
                    .copy_source(self.copy_source(from))
                    .set_copy_source_if_match(how.from_match.map(|e| how.source.etag(e)))
                    .set_copy_source_sse_customer_algorithm(self.seal().algorithm.clone())
                    .set_copy_source_sse_customer_key(self.seal().key.clone())
                    .set_copy_source_sse_customer_key_md5(self.seal().key_md5.clone())
                    .set_if_match(if_match)
                    .set_if_none_match(if_none_match)
                    .set_metadata_directive(how.attrs.map(|_| MetadataDirective::Replace))
                    .set_metadata(about.user.clone())
                    .set_content_type(about.content_type.clone())
            };
        }
        let doing = format!("copying {from:?} to {to:?}");
        let sent = match self.direct() {
            Some(direct) => {
                direct.with(&about.extra).copy(described!(CopyObjectInput::builder()).build()).await
            }
            None => with_extra!(described!(self.client().copy_object()), about.extra).send().await,
        };
        match sent {
            Ok(out) => {
                self.copies.store(COPIES, Ordering::Relaxed);
                let etag =
                    self.written(&doing, out.copy_object_result().and_then(|r| r.e_tag()), None, false);
                etag.map_or_else(|t| t.put(when), |etag| Ok(Put::Stored(etag)))
            }
            Err(e) => match Trouble::of(&self.url, &doing, e) {
                t if t.is_absent() => self.missing(from, to, how, when, t).await,
                // One that has copied before knows the request, and not its condition.
                t if t.is_not_known() && self.copies.load(Ordering::Relaxed) == COPIES_UNKNOWN => {
                    let copied = self.copy_by_hand(from, to, how, when).await;
                    if matches!(copied, Ok(Put::Stored(_))) {
                        self.copies.store(COPIES_NOT, Ordering::Relaxed);
                    }
                    copied
                }
                t if t.status == 400 => self.copy_large(from, to, how, when, t).await,
                t => t.put(when),
            },
        }
    }

    /// Goes on with a copy that found something missing: its source, or the object that it was to replace. Where the source is
    /// there and is a directory's marker, which SeaweedFS doesn't copy, the marker is put anew: it holds nothing.
    async fn missing(&self, from: &str, to: &str, how: Copying<'_>, when: &When, t: Trouble) -> Result<Put> {
        let Some(head) = self.head_now(from).await.map_err(|t| t.error)? else { return Err(t.error) };
        if from.ends_with('/') && head.size == 0 {
            if how.from_match.is_some_and(|etag| *etag != head.etag) {
                return Ok(Put::Refused);
            }
            let attrs = how.attrs.unwrap_or(&head.attrs);
            // Nothing can be lost by a marker that isn't there.
            let when = if from == to && is_made_by_keys(&head.etag) { &When::Always } else { when };
            return self.put_now(to, Bytes::new(), attrs, when).await;
        }
        if matches!(when, When::Matches(_)) { Ok(Put::Refused) } else { Err(t.error) }
    }

    /// Copies an object in parts that one CopyObject refused for its size.
    async fn copy_large(
        &self,
        from: &str,
        to: &str,
        how: Copying<'_>,
        when: &When,
        t: Trouble,
    ) -> Result<Put> {
        let Some(head) = self.head_now(from).await.map_err(|t| t.error)? else { return Err(t.error) };
        if head.size <= COPY_MAX {
            return t.put(when);
        }
        if how.from_match.is_some_and(|m| *m != head.etag) {
            return Ok(Put::Refused);
        }
        let attrs = Attrs { carried: head.attrs.carried.clone(), ..how.attrs.unwrap_or(&head.attrs).clone() };
        self.copy_in_parts(from, to, &head, &attrs, when).await
    }

    pub(super) async fn delete_now(&self, keys: &[String]) -> Result<()> {
        let (odd, plain): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| is_odd(key));
        self.delete_singly(&odd).await?;
        for batch in plain.chunks(BATCH) {
            if batch.len() == 1 || self.single_deletes.load(Ordering::Relaxed) {
                self.delete_singly(batch).await?;
                continue;
            }
            match self.delete_batch(batch).await {
                Err(t) if matches!(t.status, 400 | 405 | 501) => {
                    self.delete_singly(batch).await?;
                    self.single_deletes.store(true, Ordering::Relaxed);
                }
                other => other.map_err(|t| t.error)?,
            }
        }
        Ok(())
    }

    async fn delete_batch(&self, keys: &[&String]) -> Result<(), Trouble> {
        let name =
            |key: &&String| ObjectIdentifier::builder().key(self.full(key)).build().expect("it has a key");
        let what = Delete::builder().set_objects(Some(keys.iter().map(name).collect())).quiet(true).build();
        let ask =
            self.client().delete_objects().bucket(&self.place.bucket).delete(what.expect("it has objects"));
        let out = ask.send().await.map_err(|e| Trouble::of(&self.url, "deleting", e))?;
        let bad = out.errors().iter().find(|e| e.code() != Some("NoSuchKey"));
        bad.map_or(Ok(()), |e| Err(Trouble::of_one(&self.url, e)))
    }

    async fn delete_singly(&self, keys: &[&String]) -> Result<()> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).clone()).collect();
        let one = |key: String| self.delete_one(key).boxed();
        let mut running = futures::stream::iter(keys).map(one).buffer_unordered(SINGLE_DELETES);
        while let Some(out) = running.next().await {
            out?;
        }
        Ok(())
    }

    async fn delete_one(&self, key: String) -> Result<()> {
        let ask = DeleteObjectInput::builder().bucket(&self.place.bucket).key(self.full(&key));
        let doing = format!("deleting {key:?}");
        match send!(self, delete, ask) {
            Ok(out) if self.trust.is_own(Bare::Deleted, out.request_id()) => Ok(()),
            Ok(_) => Err(Trouble::foreign(&self.url, &doing, "the answer is not the store's").error),
            Err(e) => match Trouble::of(&self.url, &doing, e) {
                t if t.is_absent() => Ok(()),
                t => Err(t.error),
            },
        }
    }
}

/// Tells whether SeaweedFS shows a directory here because keys lie below it. Such an etag, of no parts, is no object's, and a
/// write on that condition is refused.
fn is_made_by_keys(etag: &Etag) -> bool {
    etag.0.ends_with("-0")
}

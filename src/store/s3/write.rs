//! Put, copy and delete.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::copy_object::CopyObjectInput;
use aws_sdk_s3::operation::delete_object::DeleteObjectInput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::put_object::PutObjectInput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, MetadataDirective, ObjectIdentifier, StorageClass};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::HashMap;

use super::answer_trust::Bare;
use super::errors::Trouble;
use super::read::{described, is_odd};
use super::{Quoting, S3Store, carried, sealed, send, summed};
use crate::base::sum::crc32;
use crate::base::{Error, Kind, Result};
use crate::store::{Attrs, Etag, Heeds, Put, When};

/// What DeleteObjects takes at once.
const BATCH: usize = 1000;
const SINGLE_DELETES: usize = 16;
/// What stays as it is in the name of a copy's source.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// The largest object that one CopyObject takes.
const COPY_MAX: u64 = 5 << 30;

/// User metadata as the SDK takes it.
type User = Option<HashMap<String, String>>;

pub(super) fn user_out(attrs: &Attrs) -> Result<User> {
    for (name, value) in &attrs.user {
        let fine = |b: u8| (0x20..0x7f).contains(&b);
        if !value.bytes().all(fine)
            || value.trim() != value
            || name.is_empty()
            || !name.bytes().all(|b| fine(b) && b != b' ')
        {
            return Err(Error::new(
                Kind::Invalid,
                format!("the attribute {name:?} can't be kept by an S3 store: only printable ASCII can"),
            ));
        }
    }
    Ok((!attrs.user.is_empty()).then(|| attrs.user.clone().into_iter().collect()))
}

/// The headers of a condition, with or without quotes around the etag.
pub(super) fn condition(when: &When, quoting: Quoting) -> (Option<String>, Option<String>) {
    match when {
        When::Always => (None, None),
        When::Absent => (None, Some("*".into())),
        When::Matches(etag) => (Some(quoting.etag(etag)), None),
    }
}

impl S3Store {
    pub(super) fn copy_source(&self, key: &str) -> String {
        format!("{}/{}", self.place.bucket, utf8_percent_encode(&self.full(key), PLAIN))
    }

    pub(super) async fn put_now(&self, key: &str, body: Bytes, attrs: &Attrs, when: &When) -> Result<Put> {
        let user = user_out(attrs)?;
        let attempt = |quoting, when| self.put_once(key, &body, (attrs, &user), when, quoting).boxed();
        self.conditionally(key, when, self.conditions().puts, attempt).await
    }

    async fn put_once(
        &self,
        key: &str,
        body: &Bytes,
        attrs: (&Attrs, &User),
        when: &When,
        quoting: Quoting,
    ) -> Result<Put> {
        let mut out = self.put_request(self.checks(), key, body, attrs, when, quoting).await;
        if out.as_ref().is_err_and(Trouble::dislikes_checksums) && self.checks() {
            out = self.put_request(false, key, body, attrs, when, quoting).await;
            self.learn_plain(out.is_ok());
        }
        out.map_or_else(|t| t.put(when), |etag| Ok(Put::Stored(etag)))
    }

    async fn put_request(
        &self,
        checked: bool,
        key: &str,
        body: &Bytes,
        (attrs, user): (&Attrs, &User),
        when: &When,
        quoting: Quoting,
    ) -> Result<Etag, Trouble> {
        let (if_match, if_none_match) = condition(when, quoting);
        macro_rules! described {
            ($ask:expr) => {
                sealed!(self, $ask)
                    .bucket(&self.place.bucket)
                    .key(self.full(key))
                    .set_content_type(attrs.content_type.clone())
                    .set_metadata(user.clone())
                    .set_if_match(if_match)
                    .set_if_none_match(if_none_match)
                    .body(ByteStream::from(body.clone()))
            };
        }
        let sent = match self.direct() {
            Some(direct) => {
                let ask = described!(PutObjectInput::builder());
                direct.put(summed!(checked, body, ask).build()).await
            }
            None => {
                let ask = described!(self.sdk(checked).put_object()).customize();
                if self.hides_payload { ask.disable_payload_signing() } else { ask }.send().await
            }
        };
        let doing = format!("writing {key:?}");
        let out = sent.map_err(|e| Trouble::of(&self.url, &doing, e))?;
        let marker = body.is_empty() && key.ends_with('/');
        self.written(&doing, out.e_tag(), Some((Bare::Stored, out.request_id())), marker)
    }

    /// Sends a write that has a condition as far as this server heeds it; what it doesn't is looked for just before.
    /// `attempt` is given the condition that the server is to be told.
    pub(super) async fn conditionally<'a>(
        &self,
        key: &str,
        when: &'a When,
        heeds: Heeds,
        attempt: impl Fn(Quoting, &'a When) -> BoxFuture<'a, Result<Put>> + Send,
    ) -> Result<Put> {
        if heeds == Heeds::Yes || *when == When::Always {
            return self.with_quoting(key, when, move |quoting| attempt(quoting, when)).await;
        }
        let there = self.head_now(key).await.map_err(|t| t.error)?.map(|head| head.etag);
        let holds = match when {
            When::Matches(etag) => there.as_ref() == Some(etag),
            _ => there.is_none(),
        };
        match heeds {
            _ if !holds => Ok(Put::Refused),
            Heeds::Refuses => attempt(self.quoting(), &When::Always).await,
            _ => self.with_quoting(key, when, move |quoting| attempt(quoting, when)).await,
        }
    }

    /// Sends a conditional write as this server wants etags. One that refuses a quoted etag that is right (Ceph
    /// RGW 16) gets it without quotes from then on: a refused write was not stored, so that another is harmless.
    async fn with_quoting<'a>(
        &self,
        key: &str,
        when: &When,
        attempt: impl Fn(Quoting) -> BoxFuture<'a, Result<Put>> + Send,
    ) -> Result<Put> {
        let quoting = self.quoting();
        let out = attempt(quoting).await?;
        let When::Matches(wanted) = when else { return Ok(out) };
        if !self.quoting_is_open() {
            return Ok(out);
        }
        match out {
            Put::Stored(_) => self.learn(quoting),
            Put::Refused => {
                let head = self.head_now(key).await.map_err(|t| t.error)?;
                if head.is_some_and(|head| head.etag == *wanted) {
                    let second = attempt(Quoting::Bare).await?;
                    if matches!(second, Put::Stored(_)) {
                        self.learn(Quoting::Bare);
                    }
                    return Ok(second);
                }
            }
            Put::Unknown(_) => {}
        }
        Ok(out)
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
        let kept = match attrs {
            Some(attrs) => Some((user_out(attrs)?, self.whole_head(from).await?)),
            None => None,
        };
        let how = (from_match, attrs);
        let attempt =
            |quoting, told| self.copy_once(from, to, how, kept.as_ref(), (when, told), quoting).boxed();
        self.conditionally(to, when, self.conditions().copies, attempt).await
    }

    async fn copy_once(
        &self,
        from: &str,
        to: &str,
        how: (Option<&Etag>, Option<&Attrs>),
        kept: Option<&(User, HeadObjectOutput)>,
        (when, told): (&When, &When),
        quoting: Quoting,
    ) -> Result<Put> {
        let (if_match, if_none_match) = condition(told, quoting);
        let mut ask = sealed!(self, CopyObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(to))
            .copy_source(self.copy_source(from))
            .set_copy_source_if_match(how.0.map(|e| quoting.etag(e)))
            .set_copy_source_sse_customer_algorithm(self.seal().algorithm.clone())
            .set_copy_source_sse_customer_key(self.seal().key.clone())
            .set_copy_source_sse_customer_key_md5(self.seal().key_md5.clone())
            .set_if_match(if_match)
            .set_if_none_match(if_none_match);
        if let (Some(attrs), Some((user, head))) = (how.1, kept) {
            // Replacing drops all of the old description: what isn't ours goes along.
            ask = ask
                .metadata_directive(MetadataDirective::Replace)
                .set_metadata(user.clone())
                .set_content_type(attrs.content_type.clone());
            ask = carried!(ask, head);
            if self.place.storage_class.is_none() {
                // Else a change of mode would move an object into the standard class.
                ask = ask.set_storage_class(class_of(head));
            }
        }
        let doing = format!("copying {from:?} to {to:?}");
        match send!(self, copy, ask) {
            Ok(out) => {
                let etag =
                    self.written(&doing, out.copy_object_result().and_then(|r| r.e_tag()), None, false);
                etag.map_or_else(|t| t.put(when), |etag| Ok(Put::Stored(etag)))
            }
            Err(e) => match Trouble::of(&self.url, &doing, e) {
                t if t.is_absent() => self.missing(from, to, how, when, t).await,
                t if t.status == 400 => self.copy_large(from, to, how, when, t).await,
                t => t.put(when),
            },
        }
    }

    /// A copy that found something missing: its source, or the object that it was to replace? Or is the source there
    /// and a directory's marker, which SeaweedFS doesn't copy? It holds nothing, so it is put anew.
    async fn missing(
        &self,
        from: &str,
        to: &str,
        how: (Option<&Etag>, Option<&Attrs>),
        when: &When,
        t: Trouble,
    ) -> Result<Put> {
        let Some(head) = self.head_now(from).await.map_err(|t| t.error)? else { return Err(t.error) };
        if from.ends_with('/') && head.size == 0 {
            if how.0.is_some_and(|etag| *etag != head.etag) {
                return Ok(Put::Refused);
            }
            let attrs = how.1.unwrap_or(&head.attrs);
            // Nothing can be lost by a marker that isn't there.
            let when = if from == to && is_made_by_keys(&head.etag) { &When::Always } else { when };
            return self.put_now(to, Bytes::new(), attrs, when).await;
        }
        if matches!(when, When::Matches(_)) { Ok(Put::Refused) } else { Err(t.error) }
    }

    /// What one CopyObject refused for its size is copied in parts.
    async fn copy_large(
        &self,
        from: &str,
        to: &str,
        how: (Option<&Etag>, Option<&Attrs>),
        when: &When,
        t: Trouble,
    ) -> Result<Put> {
        let found = self.looked_at((from, None), false).await.map_err(|t| t.error)?;
        let Some(whole) = found else { return Err(t.error) };
        let head = described(&whole);
        if head.size <= COPY_MAX {
            return t.put(when);
        }
        if how.0.is_some_and(|m| *m != head.etag) {
            return Ok(Put::Refused);
        }
        self.copy_in_parts(from, to, (&head, &whole), how.1.unwrap_or(&head.attrs), when).await
    }

    async fn whole_head(&self, key: &str) -> Result<HeadObjectOutput> {
        let found = self.looked_at((key, None), false).await.map_err(|t| t.error)?;
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("{}: there is no object {key:?}", self.url)))
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

/// The class that a copy of an object is to have. One of an archive is not kept: the copy of what was restored would be
/// unreadable again.
fn class_of(head: &HeadObjectOutput) -> Option<StorageClass> {
    let class = head.storage_class.clone()?;
    (!matches!(class, StorageClass::Glacier | StorageClass::DeepArchive)).then_some(class)
}

/// Whether SeaweedFS shows a directory here because keys lie below it. Such an etag, of no parts, is no object's, and a write
/// on that condition is refused.
fn is_made_by_keys(etag: &Etag) -> bool {
    etag.0.ends_with("-0")
}

/// None where it is no date.
pub(super) fn expires_of(head: &HeadObjectOutput) -> Option<DateTime> {
    DateTime::from_str(head.expires_string()?, DateTimeFormat::HttpDate).ok()
}

/// How the bytes are encoded. `aws-chunked` is of an upload's transport; some servers keep it by mistake.
pub(super) fn encoding_of(head: &HeadObjectOutput) -> Option<String> {
    let kept: Vec<&str> = head
        .content_encoding()?
        .split(',')
        .map(str::trim)
        .filter(|e| *e != "aws-chunked" && !e.is_empty())
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

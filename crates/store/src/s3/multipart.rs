//! Multipart uploads, and copies too large for one request.

use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::create_multipart_upload::CreateMultipartUploadInput;
use aws_sdk_s3::operation::upload_part::UploadPartInput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use md5::{Digest as _, Md5};

use super::answer_trust::Bare;
use super::carried::Description;
use super::errors::Trouble;
use super::quoting::{Quoting, Told};
use super::read::etag_in;
use super::write::condition;
use super::{S3Store, read_sealed, sealed, summed, with_extra};
use crate::{Attrs, Etag, Head, Heeds, Part, Put, When};
use windlass_base::sum::crc32;
use windlass_base::{Error, Kind, Result};

const COPY_PART: u64 = 1 << 30;
const COPIES_AT_ONCE: usize = 8;

/// Returns a part's number in the SDK's type. Part numbers reach 10,000: they fit.
fn number_out(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Returns the etag that most servers give an upload: the MD5 of its parts' MD5s, and their number.
fn etag_of(parts: &[CompletedPart]) -> Option<Etag> {
    let mut all = Md5::new();
    for part in parts {
        let sum = etag_in(part.e_tag()).0;
        let bytes: Option<Vec<u8>> =
            (0..sum.len()).step_by(2).map(|at| u8::from_str_radix(sum.get(at..at + 2)?, 16).ok()).collect();
        all.update(bytes.filter(|bytes| bytes.len() == 16)?);
    }
    let hex = all.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(Etag(format!("{hex}-{}", parts.len())))
}

impl S3Store {
    pub(super) async fn create_now(&self, key: &str, attrs: &Attrs) -> Result<String> {
        self.create_described(key, &self.describe(key, attrs).await?).await
    }

    pub(super) async fn create_described(&self, key: &str, about: &Description) -> Result<String> {
        let mut out = self.create_request(self.checks(), key, about).await;
        if out.as_ref().is_err_and(Trouble::dislikes_checksums) && self.checks() {
            out = self.create_request(false, key, about).await;
            self.learn_plain(out.is_ok());
        }
        out.map_err(|t| t.error)
    }

    async fn create_request(&self, checked: bool, key: &str, about: &Description) -> Result<String, Trouble> {
        macro_rules! described {
            ($ask:expr) => {
                sealed!(self, $ask, about.class.clone())
                    .bucket(&self.place.bucket)
                    .key(self.full(key))
                    .set_content_type(about.content_type.clone())
                    .set_metadata(about.user.clone())
                    .set_tagging(about.tags.clone())
            };
        }
        let sent = match self.direct() {
            Some(direct) => {
                let ask = described!(CreateMultipartUploadInput::builder());
                direct.with(&about.extra).create(ask.build()).await
            }
            None => {
                let ask = described!(self.sdk(checked).create_multipart_upload());
                with_extra!(ask, about.extra).send().await
            }
        };
        let doing = format!("beginning the upload of {key:?}");
        let out = sent.map_err(|e| Trouble::of(&self.url, &doing, e))?;
        let id = out.upload_id().filter(|id| !id.is_empty()).map(str::to_owned);
        id.ok_or_else(|| Trouble::foreign(&self.url, &doing, "the answer names no upload"))
    }

    pub(super) async fn part_now(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<Part> {
        let mut out = self.part_request(self.checks(), key, upload, number, &body).await;
        if out.as_ref().is_err_and(Trouble::dislikes_checksums) && self.checks() {
            out = self.part_request(false, key, upload, number, &body).await;
            self.learn_plain(out.is_ok());
        }
        Ok(Part { number, etag: out.map_err(|t| t.error)? })
    }

    async fn part_request(
        &self,
        checked: bool,
        key: &str,
        upload: &str,
        number: u32,
        body: &Bytes,
    ) -> Result<Etag, Trouble> {
        macro_rules! described {
            ($ask:expr) => {
                read_sealed!(self, $ask)
                    .bucket(&self.place.bucket)
                    .key(self.full(key))
                    .upload_id(upload)
                    .part_number(number_out(number))
                    .body(ByteStream::from(body.clone()))
            };
        }
        let sent = match self.direct() {
            Some(direct) => {
                let ask = described!(UploadPartInput::builder());
                direct.part(summed!(checked, body, ask).build()).await
            }
            None => {
                let ask = described!(self.sdk(checked).upload_part()).customize();
                if self.hides_payload { ask.disable_payload_signing() } else { ask }.send().await
            }
        };
        let doing = format!("uploading part {number} of {key:?}");
        let out = sent.map_err(|e| Trouble::of(&self.url, &doing, e))?;
        self.written(&doing, out.e_tag(), Some((Bare::Stored, out.request_id())), false)
    }

    pub(super) async fn part_copy_now(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: (&str, Option<&Etag>),
        range: (u64, u64),
    ) -> Result<Part> {
        if range.1 == 0 {
            return Err(Error::new(Kind::Invalid, format!("part {number} of {key:?} would be empty")));
        }
        // Where that isn't heeded, the upload's completion looks whether the object is still the same.
        let from_match = from.1.filter(|_| self.conditions().sources != Heeds::Refuses);
        let copy = |quoting| self.part_copy_once((key, upload, number), (from.0, from_match), range, quoting);
        let quoting = self.quotings.of(Told::PartSources);
        let out = copy(quoting).await;
        let Some(wanted) = from_match.filter(|_| self.quotings.is_open(Told::PartSources, quoting)) else {
            return out.map_err(|t| t.error);
        };
        match out {
            Ok(part) => {
                self.quotings.learn(Told::PartSources, quoting);
                Ok(part)
            }
            // The source is what it should be: the server may want its etag without quotes.
            Err(t) if t.status == 412 && self.has_etag(from.0, wanted).await? => {
                let part = copy(Quoting::Bare).await.map_err(|t| t.error)?;
                self.quotings.learn(Told::PartSources, Quoting::Bare);
                Ok(part)
            }
            Err(t) => Err(t.error),
        }
    }

    async fn part_copy_once(
        &self,
        (key, upload, number): (&str, &str, u32),
        (from, from_match): (&str, Option<&Etag>),
        (offset, len): (u64, u64),
        quoting: Quoting,
    ) -> Result<Part, Trouble> {
        let ask = read_sealed!(self, self.client().upload_part_copy())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .upload_id(upload)
            .part_number(number_out(number))
            .copy_source(self.copy_source(from))
            .set_copy_source_if_match(from_match.map(|etag| quoting.etag(etag)))
            .copy_source_range(format!("bytes={offset}-{}", offset.saturating_add(len - 1)))
            .set_copy_source_sse_customer_algorithm(self.seal().algorithm.clone())
            .set_copy_source_sse_customer_key(self.seal().key.clone())
            .set_copy_source_sse_customer_key_md5(self.seal().key_md5.clone());
        let doing = format!("copying part {number} of {key:?} from {from:?}");
        let out = ask.send().await.map_err(|e| Trouble::of(&self.url, &doing, e))?;
        let etag = self.written(&doing, out.copy_part_result().and_then(|r| r.e_tag()), None, false)?;
        Ok(Part { number, etag })
    }

    pub(super) async fn complete_now(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: &When,
    ) -> Result<Put> {
        let part_out = |part: &Part| {
            CompletedPart::builder()
                .part_number(number_out(part.number))
                .e_tag(Quoting::Quoted.etag(&part.etag))
                .build()
        };
        let parts: Vec<_> = parts.iter().map(part_out).collect();
        let attempt = |quoting, when| self.complete_once(key, upload, &parts, when, quoting).boxed();
        self.conditionally(key, when, (Told::Completions, self.conditions().completions), attempt).await
    }

    async fn complete_once(
        &self,
        key: &str,
        upload: &str,
        parts: &[CompletedPart],
        when: &When,
        quoting: Quoting,
    ) -> Result<Put> {
        let (if_match, if_none_match) = condition(when, quoting);
        let what = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let ask = read_sealed!(self, self.client().complete_multipart_upload())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .upload_id(upload)
            .multipart_upload(what)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match);
        let doing = format!("completing the upload of {key:?}");
        let done = match ask.send().await {
            Ok(out) if out.e_tag().is_none_or(|etag| etag_in(Some(etag)).0.is_empty()) => {
                self.completed_as(key, &doing, parts).await
            }
            Ok(out) => self.written(&doing, out.e_tag(), None, false),
            Err(e) => Err(Trouble::of(&self.url, &doing, e)),
        };
        done.map_or_else(|t| t.put(when), |etag| Ok(Put::Stored(etag)))
    }

    /// Returns the etag of an upload whose completion does not tell it, as Ceph RGW 16 answers: where the object has the etag
    /// that these parts make, it is theirs.
    async fn completed_as(&self, key: &str, doing: &str, parts: &[CompletedPart]) -> Result<Etag, Trouble> {
        let made = etag_of(parts);
        match self.head_now(key).await? {
            Some(head) if made.as_ref() == Some(&head.etag) => Ok(head.etag),
            _ => Err(Trouble::foreign(&self.url, doing, "the answer has no etag of what was stored")),
        }
    }

    pub(super) async fn abort_now(&self, key: &str, upload: &str) -> Result<()> {
        let ask = self
            .client()
            .abort_multipart_upload()
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .upload_id(upload);
        match ask.send().await {
            Ok(_) => Ok(()),
            Err(e) => match Trouble::of(&self.url, &format!("aborting the upload of {key:?}"), e) {
                t if t.is_no_upload() => Ok(()),
                t => Err(t.error),
            },
        }
    }

    pub(super) async fn uploads_now(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let mut out = Vec::new();
        let (mut after_key, mut after_upload) = (None, None);
        loop {
            let ask = self
                .client()
                .list_multipart_uploads()
                .bucket(&self.place.bucket)
                .prefix(self.full(prefix))
                .set_key_marker(after_key.take())
                .set_upload_id_marker(after_upload.take());
            let doing = "listing uploads";
            let page = ask.send().await.map_err(|e| Trouble::of(&self.url, doing, e).error)?;
            // moto repeats no prefix here.
            let asked = page.prefix().map_or_else(String::new, |_| self.full(prefix));
            self.echoed(doing, page.bucket(), page.prefix(), &asked).map_err(|t| t.error)?;
            for upload in page.uploads() {
                let key = upload.key().and_then(|key| key.strip_prefix(&self.base));
                if let (Some(key), Some(id)) = (key, upload.upload_id()) {
                    out.push((key.to_owned(), id.to_owned()));
                }
            }
            after_key = page.next_key_marker().map(str::to_owned);
            after_upload = page.next_upload_id_marker().map(str::to_owned);
            match page.is_truncated() {
                Some(true) if after_key.is_none() => {
                    let why = "the store says that there is more, and not where";
                    return Err(Trouble::foreign(&self.url, doing, why).error);
                }
                Some(true) => {}
                _ => return Ok(out),
            }
        }
    }

    pub(super) async fn copy_in_parts(
        &self,
        from: &str,
        to: &str,
        head: &Head,
        attrs: &Attrs,
        when: &When,
    ) -> Result<Put> {
        let upload = self.create_now(to, attrs).await?;
        let count = u32::try_from(head.size.div_ceil(COPY_PART)).unwrap_or(u32::MAX);
        let one = |at: u32| {
            let offset = u64::from(at) * COPY_PART;
            let len = COPY_PART.min(head.size - offset);
            self.part_copy_now(to, &upload, at + 1, (from, Some(&head.etag)), (offset, len)).boxed()
        };
        let copied: Result<Vec<Part>> =
            futures::stream::iter((0..count).map(one)).buffered(COPIES_AT_ONCE).try_collect().await;
        let out = match copied {
            Ok(parts) => self.complete_now(to, &upload, &parts, when).await,
            // The source changed: that is the condition's refusal.
            Err(e) if e.is(Kind::Refused) => Ok(Put::Refused),
            Err(e) => Err(e),
        };
        if !matches!(out, Ok(Put::Stored(_) | Put::Unknown(_))) {
            // Left behind, it costs money until the bucket's lifecycle rule takes it.
            let _ = self.abort_now(to, &upload).await;
        }
        out
    }
}

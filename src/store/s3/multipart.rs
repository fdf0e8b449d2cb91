//! Multipart uploads, and copies too large for one request.

use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::upload_part::UploadPartInput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::answer_trust::Bare;
use super::errors::Trouble;
use super::write::{condition, user_out};
use super::{Quoting, S3Store, carried, read_sealed, sealed, summed};
use crate::base::sum::crc32;
use crate::base::{Error, Kind, Result};
use crate::store::{Attrs, Etag, Head, Heeds, Part, Put, When};

const COPY_PART: u64 = 1 << 30;
const COPIES_AT_ONCE: usize = 8;

/// Part numbers reach 10,000: they fit.
fn number_out(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl S3Store {
    pub(super) async fn create_now(&self, key: &str, attrs: &Attrs) -> Result<String> {
        self.create_like(key, attrs, None).await
    }

    /// `like`: what the new object is a copy of.
    async fn create_like(&self, key: &str, attrs: &Attrs, like: Option<&HeadObjectOutput>) -> Result<String> {
        let mut ask = sealed!(self, self.client().create_multipart_upload())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_content_type(attrs.content_type.clone())
            .set_metadata(user_out(attrs)?);
        if let Some(head) = like {
            ask = carried!(ask, head);
        }
        let doing = format!("beginning the upload of {key:?}");
        let out = ask.send().await.map_err(|e| Trouble::of(&self.url, &doing, e).error)?;
        out.upload_id().filter(|id| !id.is_empty()).map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::Unavailable, format!("{}: {doing}: the answer names no upload", self.url))
        })
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
        let (offset, len) = range;
        if len == 0 {
            return Err(Error::new(Kind::Invalid, format!("part {number} of {key:?} would be empty")));
        }
        // Where that isn't heeded, the upload's completion looks whether the object is still the same.
        let from_match = from.1.filter(|_| self.conditions().sources != Heeds::Refuses);
        let ask = read_sealed!(self, self.client().upload_part_copy())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .upload_id(upload)
            .part_number(number_out(number))
            .copy_source(self.copy_source(from.0))
            .set_copy_source_if_match(from_match.map(|etag| self.quoting().etag(etag)))
            .copy_source_range(format!("bytes={offset}-{}", offset.saturating_add(len - 1)))
            .set_copy_source_sse_customer_algorithm(self.seal().algorithm.clone())
            .set_copy_source_sse_customer_key(self.seal().key.clone())
            .set_copy_source_sse_customer_key_md5(self.seal().key_md5.clone());
        let doing = format!("copying part {number} of {key:?} from {:?}", from.0);
        let out = ask.send().await.map_err(|e| Trouble::of(&self.url, &doing, e).error)?;
        let etag = self.written(&doing, out.copy_part_result().and_then(|r| r.e_tag()), None, false);
        Ok(Part { number, etag: etag.map_err(|t| t.error)? })
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
        self.conditionally(key, when, self.conditions().completions, attempt).await
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
            Ok(out) => self.written(&doing, out.e_tag(), None, false),
            Err(e) => Err(Trouble::of(&self.url, &doing, e)),
        };
        done.map_or_else(|t| t.put(when), |etag| Ok(Put::Stored(etag)))
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
            if page.is_truncated() != Some(true) || after_key.is_none() {
                return Ok(out);
            }
        }
    }

    pub(super) async fn copy_in_parts(
        &self,
        from: &str,
        to: &str,
        (head, whole): (&Head, &HeadObjectOutput),
        attrs: &Attrs,
        when: &When,
    ) -> Result<Put> {
        let upload = self.create_like(to, attrs, Some(whole)).await?;
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

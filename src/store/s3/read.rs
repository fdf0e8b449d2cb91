//! Get, head and list.

use aws_sdk_s3::operation::get_object::{GetObjectInput, GetObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObjectInput, HeadObjectOutput};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Input;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, EncodingType};
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_types::base64;
use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use std::collections::HashMap;
use std::time::Duration;

use super::trouble::Trouble;
use super::{S3Store, read_sealed, send};
use crate::base::{Error, Kind, Result};
use crate::store::mem::too_large;
use crate::store::{Attrs, ByteRange, Etag, Found, Head, List, Listed, Page, Restored};

/// Offsets beyond this are out of every object, and no number to some servers.
const FARTHEST: u64 = i64::MAX as u64;

/// Marks a page's `next` that is the server's own word for where to go on. No name begins so.
///
/// Going on behind the last name instead loses names on servers that list in the order of a tree.
const TOKEN: char = '\0';

/// An object, or one version of it.
pub(super) type Versioned<'a> = (&'a str, Option<&'a str>);

/// What is being done, for messages.
pub(super) fn doing(what: &str, (key, version): Versioned<'_>) -> String {
    match version {
        Some(version) => format!("{what} version {version:?} of {key:?}"),
        None => format!("{what} {key:?}"),
    }
}

/// Quotes are of the transport, not of the etag.
pub(super) fn etag_in(text: Option<&str>) -> Etag {
    let text = text.unwrap_or_default();
    Etag(text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text).to_owned())
}

pub(super) fn millis(time: Option<&DateTime>) -> u64 {
    time.and_then(|t| t.to_millis().ok()).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)
}

fn attrs_in(content_type: Option<&str>, user: Option<&HashMap<String, String>>) -> Attrs {
    // Some servers return the names capitalized.
    let lower = |(k, v): (&String, &String)| (k.to_ascii_lowercase(), v.clone());
    Attrs {
        content_type: content_type.map(str::to_owned),
        user: user.into_iter().flatten().map(lower).collect(),
    }
}

/// `x-amz-restore`: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn restored_in(text: &str) -> Option<Restored> {
    let field =
        |name: &str| text.split_once(name)?.1.strip_prefix("=\"")?.split_once('"').map(|(value, _)| value);
    match field("ongoing-request")? {
        "true" => Some(Restored::Underway),
        _ => {
            let until = DateTime::from_str(field("expiry-date")?, DateTimeFormat::HttpDate).ok()?;
            Some(Restored::Until(millis(Some(&until))))
        }
    }
}

/// Every checksum that came with an answer. That of an upload in parts may be one of the parts' checksums: it ends in
/// `-` and their number.
fn checksum_in(out: &HeadObjectOutput) -> Option<String> {
    let all = [
        ("CRC64NVME", out.checksum_crc64_nvme()),
        ("CRC32C", out.checksum_crc32_c()),
        ("CRC32", out.checksum_crc32()),
        ("SHA256", out.checksum_sha256()),
        ("SHA1", out.checksum_sha1()),
        ("SHA512", out.checksum_sha512()),
        ("MD5", out.checksum_md5()),
        ("XXHASH64", out.checksum_xxhash64()),
        ("XXHASH3", out.checksum_xxhash3()),
        ("XXHASH128", out.checksum_xxhash128()),
    ];
    let told = all.iter().filter_map(|(name, value)| Some(format!("{name}:{}", (*value)?)));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join(" "))
}

/// The checksum to check a body by: the cheapest that came with it. That of an upload in parts, which ends in their
/// number, is none of the bytes.
fn announced(out: &GetObjectOutput) -> Option<(ChecksumAlgorithm, &str)> {
    let all = [
        (ChecksumAlgorithm::Crc64Nvme, out.checksum_crc64_nvme()),
        (ChecksumAlgorithm::Crc32c, out.checksum_crc32_c()),
        (ChecksumAlgorithm::Crc32, out.checksum_crc32()),
        (ChecksumAlgorithm::Sha1, out.checksum_sha1()),
        (ChecksumAlgorithm::Sha256, out.checksum_sha256()),
    ];
    let (algorithm, sum) = all.into_iter().find_map(|(algorithm, sum)| Some((algorithm, sum?)))?;
    (!sum.contains('-')).then_some((algorithm, sum))
}

fn has_sum(body: &[u8], algorithm: ChecksumAlgorithm, sum: &str) -> bool {
    // What isn't in base 64 is no checksum of ours to judge.
    let Ok(sum) = base64::decode(sum) else { return true };
    let mut is = algorithm.into_impl();
    is.update(body);
    is.finalize() == sum
}

fn range_header(range: ByteRange) -> Option<String> {
    match range {
        ByteRange::Whole { .. } => None,
        ByteRange::At { offset, len } => {
            Some(format!("bytes={offset}-{}", offset.saturating_add(len - 1).min(FARTHEST)))
        }
        ByteRange::Last(n) => Some(format!("bytes=-{}", n.min(FARTHEST))),
    }
}

/// `bytes 5-9/100`: where the body begins, and the object's size.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()?))
}

impl S3Store {
    pub(super) async fn head_now(&self, key: &str) -> Result<Option<Head>, Trouble> {
        self.head_of((key, None), false).await
    }

    /// An object or one of its versions.
    pub(super) async fn head_of(
        &self,
        what: Versioned<'_>,
        checksums: bool,
    ) -> Result<Option<Head>, Trouble> {
        let (key, version) = what;
        let ask = read_sealed!(self, HeadObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .set_checksum_mode(checksums.then_some(ChecksumMode::Enabled));
        match send!(self, head, ask) {
            Ok(out) => Ok(Some(Head {
                size: u64::try_from(out.content_length().unwrap_or(0)).unwrap_or(0),
                etag: etag_in(out.e_tag()),
                modified_ms: millis(out.last_modified()),
                attrs: attrs_in(out.content_type(), out.metadata()),
                version: out.version_id().map(str::to_owned),
                storage_class: out.storage_class().map(|c| c.as_str().to_owned()),
                restored: out.restore().and_then(restored_in),
                checksum: checksum_in(&out),
            })),
            Err(e) => match Trouble::of(&self.url, &doing("looking at", what), e) {
                t if t.is_absent() || version.is_some() && t.is_no_version() => Ok(None),
                t => Err(t),
            },
        }
    }

    /// Made here: the server isn't asked.
    pub(super) async fn presign_now(
        &self,
        key: &str,
        version: Option<&str>,
        valid: Duration,
    ) -> Result<String> {
        let doing = doing("making a link to", (key, version));
        if self.place.requester_pays == Some(true) {
            let why = "a link can't make whoever follows it pay, as this bucket's readers do";
            return Err(Error::new(Kind::Unsupported, format!("{doing}: {why}")));
        }
        let how = PresigningConfig::expires_in(valid)
            .map_err(|e| Error::new(Kind::Invalid, doing.clone()).because(e))?;
        let ask = self.client().get_object().bucket(&self.place.bucket).key(self.full(key));
        let ask = ask.set_version_id(version.map(str::to_owned));
        let link = ask.presigned(how).await.map_err(|e| Trouble::of(&self.url, &doing, e).error)?;
        Ok(link.uri().to_owned())
    }

    pub(super) async fn get_now(&self, what: Versioned<'_>, range: ByteRange) -> Result<Option<Found>> {
        let (key, version) = what;
        let nothing = match range {
            ByteRange::At { offset, len } => len == 0 || offset >= FARTHEST,
            ByteRange::Last(n) => n == 0,
            ByteRange::Whole { .. } => false,
        };
        if nothing {
            return self.nothing_of(what, range).await;
        }
        let ask = read_sealed!(self, GetObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .set_checksum_mode((!self.connection.plain_reads).then_some(ChecksumMode::Enabled))
            .set_range(range_header(range));
        match send!(self, get, ask) {
            Ok(out) => self.body_of(key, range, out).await.map(Some),
            Err(e) => match Trouble::of(&self.url, &doing("reading", what), e) {
                // The range lies behind the end.
                t if t.status == 416 => self.nothing_of(what, range).await,
                t if t.is_absent() || version.is_some() && t.is_no_version() => Ok(None),
                t => Err(t.error),
            },
        }
    }

    /// The answer where no bytes are to be had.
    async fn nothing_of(&self, what: Versioned<'_>, range: ByteRange) -> Result<Option<Found>> {
        let head = self.head_of(what, false).await.map_err(|t| t.error)?;
        Ok(head.map(|head| {
            let offset = match range {
                ByteRange::At { offset, .. } => offset.min(head.size),
                _ => head.size,
            };
            Found { body: Bytes::new(), offset, head }
        }))
    }

    async fn body_of(&self, key: &str, range: ByteRange, out: GetObjectOutput) -> Result<Found> {
        let length = u64::try_from(out.content_length().unwrap_or(0)).unwrap_or(0);
        let (offset, size) = out.content_range().and_then(content_range).unwrap_or((0, length));
        // A server that ignores ranges sends everything; that is cut here, if it isn't out of all proportion.
        let max = match range {
            ByteRange::Whole { max } => max,
            ByteRange::At { len, .. } if out.content_range().is_some() => len,
            ByteRange::Last(n) if out.content_range().is_some() => n,
            _ => 64 << 20,
        };
        if length > max {
            return Err(too_large(key, length, max));
        }
        let head = Head {
            size,
            etag: etag_in(out.e_tag()),
            modified_ms: millis(out.last_modified()),
            attrs: attrs_in(out.content_type(), out.metadata()),
            version: out.version_id().map(str::to_owned),
            storage_class: out.storage_class().map(|c| c.as_str().to_owned()),
            restored: out.restore().and_then(restored_in),
            checksum: None,
        };
        let whole = out.content_range().is_none();
        let body = self.collect(key, out, length).await?;
        Ok(match range {
            ByteRange::At { offset, len } if whole => {
                let from = offset.min(size);
                let to = offset.saturating_add(len).min(size);
                Found { body: body.slice(from as usize..to as usize), offset: from, head }
            }
            ByteRange::Last(n) if whole => {
                let from = size.saturating_sub(n);
                Found { body: body.slice(from as usize..), offset: from, head }
            }
            _ => Found { body, offset, head },
        })
    }

    /// The body, exactly as long as was announced, and with the checksum that came with it.
    async fn collect(&self, key: &str, mut out: GetObjectOutput, length: u64) -> Result<Bytes> {
        let broken = |why: String| {
            Error::new(Kind::Unavailable, format!("{}: reading {key:?}: {why}; try again", self.url))
        };
        let mut all = BytesMut::new();
        let mut only = Bytes::new();
        while let Some(piece) = out.body.next().await {
            let piece = piece.map_err(|e| broken(e.to_string()))?;
            if all.is_empty() && piece.len() as u64 == length {
                only = piece;
                continue;
            }
            if all.is_empty() {
                all.reserve(length as usize);
            }
            if (all.len() + only.len() + piece.len()) as u64 > length {
                return Err(broken("more bytes came than were announced".into()));
            }
            all.extend_from_slice(&piece);
        }
        let body = if only.is_empty() { all.freeze() } else { only };
        if body.len() as u64 != length {
            return Err(broken(format!("the answer ended after {} of {length} bytes", body.len())));
        }
        match announced(&out).filter(|_| !self.connection.plain_reads) {
            Some((algorithm, sum)) if !has_sum(&body, algorithm, sum) => Err(broken(format!(
                "what came does not have the {} {sum} that was sent with it",
                algorithm.as_str()
            ))),
            _ => Ok(body),
        }
    }

    pub(super) async fn list_now(&self, list: &List) -> Result<Page> {
        match self.list_page(list, false).await {
            // Control characters in keys are no XML: ask for them in a form that is.
            Err(t) if t.garbled => self.list_page(list, true).await.map_err(|t| t.error),
            other => other.map_err(|t| t.error),
        }
    }

    /// Where the server is to go on.
    fn start_after(&self, list: &List) -> Option<String> {
        let after = list.after.as_ref()?;
        let is_group = list.delimited && after.len() > list.prefix.len() && after.ends_with('/');
        // Behind everything that the group stands for: a server would begin inside it and show it again.
        let last = if is_group { "\u{10FFFF}" } else { "" };
        Some(self.full(&format!("{after}{last}")))
    }

    async fn list_page(&self, list: &List, encoded: bool) -> Result<Page, Trouble> {
        let max = list.max.clamp(1, 1000);
        let token = list.after.as_deref().and_then(|after| after.strip_prefix(TOKEN));
        let ask = ListObjectsV2Input::builder()
            .bucket(&self.place.bucket)
            .prefix(self.full(&list.prefix))
            .set_delimiter(list.delimited.then(|| "/".to_owned()))
            .set_start_after(token.is_none().then(|| self.start_after(list)).flatten())
            .set_continuation_token(token.map(str::to_owned))
            .set_encoding_type(encoded.then_some(EncodingType::Url))
            .max_keys(max as i32);
        let doing = format!("listing {:?}", list.prefix);
        let out = send!(self, list, ask).map_err(|e| Trouble::of(&self.url, &doing, e))?;
        let decode = out.encoding_type() == Some(&EncodingType::Url);
        let name = |text: &str| -> Option<String> {
            let text = if decode {
                percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
            } else {
                text.to_owned()
            };
            let key = text.strip_prefix(&self.base)?;
            (token.is_some() || list.after.as_deref().is_none_or(|after| key > after)).then(|| key.to_owned())
        };
        let mut page = Page::default();
        for object in out.contents() {
            let Some(key) = object.key().and_then(name) else { continue };
            let size = u64::try_from(object.size().unwrap_or(0)).unwrap_or(0);
            let (etag, modified_ms) = (etag_in(object.e_tag()), millis(object.last_modified()));
            page.objects.push(Listed { key, size, etag, modified_ms });
        }
        page.prefixes.extend(out.common_prefixes().iter().filter_map(|p| p.prefix().and_then(name)));
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.prefixes.sort();
        if out.is_truncated() == Some(true) {
            let last = page.objects.last().map(|o| &o.key).max(page.prefixes.last());
            let token = out.next_continuation_token().map(|token| format!("{TOKEN}{token}"));
            page.next = token.or(last.cloned());
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(etag_in(Some("\"ab-2\"")).0, "ab-2");
        assert_eq!(etag_in(Some("ab")).0, "ab");
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 100)));
        for bad in ["", "bytes */100", "bytes 5/9", "5-9/100"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(range_header(ByteRange::At { offset: 5, len: 5 }).unwrap(), "bytes=5-9");
        let far = ByteRange::At { offset: 7, len: u64::MAX };
        assert_eq!(range_header(far).unwrap(), format!("bytes=7-{FARTHEST}"));
    }

    #[test]
    fn the_state_of_a_restore_is_read() {
        assert_eq!(restored_in(r#"ongoing-request="true""#), Some(Restored::Underway));
        let done = r#"ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT""#;
        assert_eq!(restored_in(done), Some(Restored::Until(1_356_048_000_000)));
        for bad in [
            "",
            "ongoing-request",
            r#"ongoing-request="false""#,
            r#"ongoing-request="false", expiry-date="x""#,
        ] {
            assert_eq!(restored_in(bad), None, "{bad}");
        }
    }
}

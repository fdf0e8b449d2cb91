//! Get, head and list.

use aws_sdk_s3::operation::RequestId as _;
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

use super::answer_trust::Bare;
use super::errors::Trouble;
use super::{S3Store, read_sealed, send};
use crate::base::{Error, Kind, Result};
use crate::store::too_large;
use crate::store::{Attrs, ByteRange, Etag, Found, Head, List, Listed, Page, Restored};

/// Offsets beyond this are out of every object, and no number to some servers.
const FARTHEST: u64 = i64::MAX as u64;

/// Marks a page's `next` that is the server's own word for where to go on. No name begins so.
///
/// Going on behind the last name instead loses names on servers that list in the order of a tree.
const TOKEN: char = '\0';

const IGNORES_RANGES: &str =
    "the store answers a request for a part of an object with all of it; choose one that heeds ranges";

/// An object, or one version of it.
pub(super) type Versioned<'a> = (&'a str, Option<&'a str>);

/// What is being done, for messages.
pub(super) fn doing(what: &str, (key, version): Versioned<'_>) -> String {
    match version {
        Some(version) => format!("{what} version {version:?} of {key:?}"),
        None => format!("{what} {key:?}"),
    }
}

/// A key that XML can't carry.
pub(super) fn is_odd(key: &str) -> bool {
    key.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

pub(super) fn described(out: &HeadObjectOutput) -> Head {
    Head {
        size: u64::try_from(out.content_length().unwrap_or(0)).unwrap_or(0),
        etag: etag_in(out.e_tag()),
        modified_ms: millis(out.last_modified()),
        attrs: attrs_in(out.content_type(), out.metadata()),
        version: out.version_id().map(str::to_owned),
        storage_class: out.storage_class().map(|c| c.as_str().to_owned()),
        restored: out.restore().and_then(restored_in),
        checksum: checksum_in(out),
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

/// `bytes 5-9/100`: the first and the last byte of the body, and the object's size.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

/// Whether these are the bytes of an object of this size that were asked for.
fn is_asked(range: ByteRange, (first, last, size): (u64, u64, u64)) -> bool {
    let fits = first <= last && last < size;
    fits && match range {
        ByteRange::Whole { .. } => false,
        ByteRange::At { offset, len } => {
            first == offset && last == offset.saturating_add(len - 1).min(size - 1)
        }
        ByteRange::Last(n) => first == size.saturating_sub(n) && last == size - 1,
    }
}

/// Whether a listing of `asked` may call its bucket so. Aliases and ARNs of access points stand for a bucket of another name.
fn is_named(asked: &str, name: &str) -> bool {
    let is_alias = asked.contains(':') || asked.ends_with("-s3alias") || asked.ends_with("--ol-s3");
    name == asked || is_alias && !name.is_empty()
}

/// The same text but for what may be lost on its way through XML.
fn is_same_text(a: &str, b: &str) -> bool {
    let kept = |c: &char| !c.is_control() && !c.is_whitespace();
    a.chars().filter(kept).eq(b.chars().filter(kept))
}

pub(super) fn url_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
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
        Ok(self.looked_at(what, checksums).await?.map(|out| described(&out)))
    }

    /// HEAD. That there is no such object is believed as `answer_trust.rs` says.
    pub(super) async fn looked_at(
        &self,
        what: Versioned<'_>,
        checksums: bool,
    ) -> Result<Option<HeadObjectOutput>, Trouble> {
        let ((key, version), doing) = (what, doing("looking at", what));
        let ask = read_sealed!(self, HeadObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .set_checksum_mode(checksums.then_some(ChecksumMode::Enabled));
        match send!(self, head, ask) {
            Ok(out) => {
                let has_etag = out.e_tag().is_some_and(|etag| !etag.is_empty());
                match has_etag && self.trust.is_own(Bare::Head, out.request_id()) {
                    true => Ok(Some(out)),
                    false => Err(Trouble::foreign(&self.url, &doing, "the answer describes no object of S3")),
                }
            }
            Err(e) => {
                let id = e.request_id().map(str::to_owned);
                let t = Trouble::of(&self.url, &doing, e);
                if !t.may_be_absent(version) {
                    return Err(t);
                }
                let is_own = self.trust.is_own(Bare::Missing, id.as_deref());
                if t.status != 404 || !is_own || !self.trust.is_fresh() {
                    self.surely_absent(what).await?;
                }
                Ok(None)
            }
        }
    }

    /// Asks again what a HEAD found missing, by a request whose answer says in its body whether it is S3's.
    async fn surely_absent(&self, what: Versioned<'_>) -> Result<(), Trouble> {
        let ((key, version), doing) = (what, doing("looking at", what));
        let ask = read_sealed!(self, GetObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .range("bytes=0-0");
        let there = || Trouble::foreign(&self.url, &doing, "it was found missing and there within a moment");
        match send!(self, get, ask) {
            Ok(_) => Err(there()),
            Err(e) => match Trouble::of(&self.url, &doing, e) {
                t if t.is_absent() || version.is_some() && t.is_no_version() => {
                    self.trust.show();
                    Ok(())
                }
                t if t.status == 416 => Err(there()),
                t => Err(t),
            },
        }
    }

    /// The etag of an answer to a write, which has one. `marker`: of an empty object whose name ends with a slash, for
    /// which SeaweedFS before 4.18 gives none.
    pub(super) fn written(
        &self,
        doing: &str,
        etag: Option<&str>,
        kind: Option<(Bare, Option<&str>)>,
        marker: bool,
    ) -> Result<Etag, Trouble> {
        let etag = etag_in(etag);
        let bare = etag.0.is_empty();
        if bare && !marker || kind.is_some_and(|(kind, id)| !self.trust.is_own(kind, id)) {
            return Err(Trouble::foreign(&self.url, doing, "the answer is not S3's to a write"));
        }
        if !bare {
            self.trust.show();
        }
        Ok(etag)
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
                t if t.is_absent() || version.is_some() && t.is_no_version() => {
                    self.trust.show();
                    Ok(None)
                }
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
        let (offset, size) = self.extent(key, range, length, &out)?;
        if let ByteRange::Whole { max } = range
            && length > max
        {
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
        let body = self.collect(key, out, length).await?;
        Ok(Found { body, offset, head })
    }

    /// Where the body begins, and the object's size. An error unless these are the bytes that were asked for.
    fn extent(&self, key: &str, range: ByteRange, length: u64, out: &GetObjectOutput) -> Result<(u64, u64)> {
        let doing = format!("reading {key:?}");
        let foreign = |why: &str| Trouble::foreign(&self.url, &doing, why).error;
        let has_etag = out.e_tag().is_some_and(|etag| !etag.is_empty());
        if !has_etag || !self.trust.is_own(Bare::Read, out.request_id()) {
            return Err(foreign("the answer is no object of S3"));
        }
        let extent = match (range, out.content_range()) {
            (ByteRange::Whole { .. }, None) => (0, length),
            // An empty object has no part.
            (_, None) if length == 0 => (0, 0),
            (_, None) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{}: {doing}: {IGNORES_RANGES}", self.url),
                ));
            }
            (_, Some(text)) => match content_range(text) {
                Some(got) if is_asked(range, got) && got.1 - got.0 + 1 == length => (got.0, got.2),
                _ => return Err(foreign(&format!("other bytes came than were asked for ({text})"))),
            },
        };
        self.trust.show();
        Ok(extent)
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
        let asked = self.full(&list.prefix);
        self.echoed(&doing, out.name(), out.prefix(), &asked)?;
        let decode = out.encoding_type() == Some(&EncodingType::Url);
        let name = |text: &str| -> Result<Option<String>, Trouble> {
            let text = if decode { url_decoded(text) } else { text.to_owned() };
            if !text.starts_with(&asked) {
                let mut t = Trouble::foreign(&self.url, &doing, &format!("{text:?} was not asked for"));
                // Control characters of the prefix are not what they were, as in XML that can't be read.
                t.garbled = !decode && is_odd(&asked);
                return Err(t);
            }
            let key = &text[self.base.len()..];
            let is_after = token.is_some() || list.after.as_deref().is_none_or(|after| key > after);
            Ok(is_after.then(|| key.to_owned()))
        };
        let mut page = Page::default();
        for object in out.contents() {
            let Some(key) = name(object.key().unwrap_or_default())? else { continue };
            let size = u64::try_from(object.size().unwrap_or(0)).unwrap_or(0);
            let (etag, modified_ms) = (etag_in(object.e_tag()), millis(object.last_modified()));
            page.objects.push(Listed { key, size, etag, modified_ms });
        }
        for group in out.common_prefixes() {
            page.prefixes.extend(name(group.prefix().unwrap_or_default())?);
        }
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.prefixes.sort();
        if out.is_truncated() == Some(true) {
            let last = page.objects.last().map(|o| &o.key).max(page.prefixes.last());
            let token = out.next_continuation_token().map(|token| format!("{TOKEN}{token}"));
            page.next = token.or(last.cloned());
            // Taken for the end, it would hide all the names that are to come.
            if page.next.is_none() || page.next == list.after {
                return Err(Trouble::foreign(
                    &self.url,
                    &doing,
                    "the store says that there is more, and not where",
                ));
            }
        }
        self.trust.show();
        Ok(page)
    }

    /// Refuses what is no answer to this listing: it names another bucket, or another prefix.
    pub(super) fn echoed(
        &self,
        doing: &str,
        name: Option<&str>,
        prefix: Option<&str>,
        asked: &str,
    ) -> Result<(), Trouble> {
        let (name, prefix) = (name.unwrap_or_default(), prefix.unwrap_or_default());
        let foreign = |why: String| Err(Trouble::foreign(&self.url, doing, &why));
        if !is_named(&self.place.bucket, name) {
            return foreign(format!("the answer is of a bucket {name:?}"));
        }
        // Whether it is encoded when names are depends on the server.
        if !is_same_text(prefix, asked) && !is_same_text(&url_decoded(prefix), asked) {
            return foreign(format!("the answer is of what begins with {prefix:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(etag_in(Some("\"ab-2\"")).0, "ab-2");
        assert_eq!(etag_in(Some("ab")).0, "ab");
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 9, 100)));
        for bad in ["", "bytes */100", "bytes 5/9", "5-9/100"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(range_header(ByteRange::At { offset: 5, len: 5 }).unwrap(), "bytes=5-9");
        let far = ByteRange::At { offset: 7, len: u64::MAX };
        assert_eq!(range_header(far).unwrap(), format!("bytes=7-{FARTHEST}"));
    }

    #[test]
    fn other_bytes_than_were_asked_for_are_told() {
        let at = |offset, len| ByteRange::At { offset, len };
        for (range, got, fine) in [
            (at(5, 5), (5, 9, 100), true),
            (at(5, 500), (5, 99, 100), true),
            (at(5, u64::MAX), (5, 99, 100), true),
            (at(5, 5), (0, 4, 100), false),
            (at(5, 5), (5, 8, 100), false),
            (at(5, 5), (5, 9, 9), false),
            (ByteRange::Last(7), (93, 99, 100), true),
            (ByteRange::Last(700), (0, 99, 100), true),
            (ByteRange::Last(7), (0, 6, 100), false),
            (ByteRange::Last(7), (93, 92, 0), false),
            (ByteRange::Whole { max: 100 }, (0, 99, 100), false),
        ] {
            assert_eq!(is_asked(range, got), fine, "{range:?} {got:?}");
        }
    }

    #[test]
    fn a_listing_says_whose_it_is() {
        for (asked, name, fine) in [
            ("bucket", "bucket", true),
            ("bucket", "", false),
            ("bucket", "other", false),
            ("tenant:bucket", "bucket", true),
            ("arn:aws:s3:eu-west-1:1:accesspoint/p", "bucket", true),
            ("point-abc-s3alias", "bucket", true),
            ("point-abc-s3alias", "", false),
        ] {
            assert_eq!(is_named(asked, name), fine, "{asked} {name}");
        }
        assert!(is_same_text("a b\rc", "a bc") && !is_same_text("a/b", "a/c") && !is_same_text("", "a"));
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

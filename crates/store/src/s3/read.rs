//! Get, head and list.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::get_object::{GetObjectInput, GetObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObjectInput, HeadObjectOutput};
use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Input, ListObjectsV2Output};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, EncodingType};
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_types::base64;
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use percent_encoding::percent_decode_str;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::answer_trust::Bare;
use super::carried::carried_in;
use super::errors::Trouble;
use super::{S3Store, read_sealed, send};
use crate::too_large;
use crate::{Attrs, ByteRange, Carried, Etag, Found, Head, List, Listed, Page, Restored};
use windlass_base::{Error, Kind, Result};

/// Largest offset that is asked for: those beyond this are out of every object, and no number to some servers.
const FARTHEST: u64 = i64::MAX as u64;

/// Marks a page's `next` that is the server's own word for where to go on. No name begins so.
///
/// Going on behind the last name instead loses names on servers that list in the order of a tree.
const TOKEN: char = '\0';

const IGNORES_RANGES: &str =
    "the store answers a request for a part of an object with all of it; choose one that heeds ranges";

/// An object, or one version of it.
pub(super) type Versioned<'a> = (&'a str, Option<&'a str>);

/// Says what is being done, for messages.
pub(super) fn doing(what: &str, (key, version): Versioned<'_>) -> String {
    match version {
        Some(version) => format!("{what} version {version:?} of {key:?}"),
        None => format!("{what} {key:?}"),
    }
}

/// Tells whether XML can't carry a key.
pub(super) fn is_odd(key: &str) -> bool {
    key.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// The answer of a HEAD for an object, and the object's size. The answer may lack the length, which is asked for otherwise
/// then.
#[derive(Debug)]
pub(super) struct Looked {
    pub out: HeadObjectOutput,
    pub size: u64,
}

/// Quotes are of the transport, not of the etag.
pub(super) fn etag_in(text: Option<&str>) -> Etag {
    let text = text.unwrap_or_default();
    Etag(text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text).to_owned())
}

/// Returns a time in milliseconds since 1970. None: the answer does not tell it.
pub(super) fn millis(time: Option<&DateTime>) -> Option<u64> {
    u64::try_from(time?.to_millis().ok()?).ok()
}

/// Returns a length as an answer tells it. None: it does not.
pub(super) fn length_in(told: Option<i64>) -> Option<u64> {
    u64::try_from(told?).ok()
}

fn attrs_in(content_type: Option<&str>, user: Option<&HashMap<String, String>>, carried: Carried) -> Attrs {
    // Some servers return the names capitalized.
    let lower = |(k, v): (&String, &String)| (k.to_ascii_lowercase(), v.clone());
    Attrs {
        content_type: content_type.map(str::to_owned),
        user: user.into_iter().flatten().map(lower).collect(),
        carried,
    }
}

/// Reads `x-amz-restore`: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn restored_in(text: &str) -> Option<Restored> {
    let field =
        |name: &str| text.split_once(name)?.1.strip_prefix("=\"")?.split_once('"').map(|(value, _)| value);
    match field("ongoing-request")? {
        "true" => Some(Restored::Underway),
        _ => {
            let until = DateTime::from_str(field("expiry-date")?, DateTimeFormat::HttpDate).ok()?;
            Some(Restored::Until(millis(Some(&until))?))
        }
    }
}

/// Returns every checksum that came with an answer. That of an upload in parts may be one of the parts' checksums: it ends in
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

/// Returns the checksum to check a body by: the cheapest that came with it. That of an upload in parts, which ends in their
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

/// Reads `bytes 5-9/100`: the first and the last byte of the body, and the object's size.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

/// Tells whether these are the bytes of an object of this size that were asked for.
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

/// Tells whether a listing of `asked` may call its bucket so. Aliases and ARNs of access points stand for a bucket of another
/// name.
fn is_named(asked: &str, name: &str) -> bool {
    let is_alias = asked.contains(':') || asked.ends_with("-s3alias") || asked.ends_with("--ol-s3");
    name == asked || is_alias && !name.is_empty()
}

/// Tells whether two texts are the same but for what may be lost on the way through XML.
fn is_same_text(a: &str, b: &str) -> bool {
    let kept = |c: &char| !c.is_control() && !c.is_whitespace();
    a.chars().filter(kept).eq(b.chars().filter(kept))
}

pub(super) fn url_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// An object of a listing, as far as the listing tells.
#[derive(Debug)]
struct Told {
    key: String,
    size: Option<u64>,
    etag: Etag,
    modified_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct ToldPage {
    objects: Vec<Told>,
    prefixes: Vec<String>,
    next: Option<String>,
}

impl S3Store {
    pub(super) fn described(&self, Looked { out, size }: &Looked) -> Head {
        let storage_class = out.storage_class().map(|c| c.as_str().to_owned());
        self.learn_class(storage_class.as_deref());
        Head {
            size: *size,
            etag: etag_in(out.e_tag()),
            modified_ms: millis(out.last_modified()),
            attrs: attrs_in(out.content_type(), out.metadata(), carried_in!(self, out)),
            version: out.version_id().map(str::to_owned),
            storage_class,
            restored: out.restore().and_then(restored_in),
            checksum: checksum_in(out),
        }
    }

    pub(super) fn learn_class(&self, class: Option<&str>) {
        if class.is_some_and(|class| class != "STANDARD") {
            self.classes.store(true, Ordering::Relaxed);
        }
    }

    pub(super) async fn head_now(&self, key: &str) -> Result<Option<Head>, Trouble> {
        self.head_of((key, None), false).await
    }

    /// Describes an object or one of its versions; `None` if there is none.
    pub(super) async fn head_of(
        &self,
        what: Versioned<'_>,
        checksums: bool,
    ) -> Result<Option<Head>, Trouble> {
        Ok(self.looked_at(what, checksums).await?.map(|looked| self.described(&looked)))
    }

    /// Sends a HEAD. That there is no such object is believed as `answer_trust.rs` says.
    pub(super) async fn looked_at(
        &self,
        what: Versioned<'_>,
        checksums: bool,
    ) -> Result<Option<Looked>, Trouble> {
        let ((key, version), doing) = (what, doing("looking at", what));
        let ask = read_sealed!(self, HeadObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .set_checksum_mode(checksums.then_some(ChecksumMode::Enabled));
        match send!(self, head, ask) {
            Ok(out) => {
                let has_etag = out.e_tag().is_some_and(|etag| !etag.is_empty());
                if !has_etag || !self.trust.is_own(Bare::Head, out.request_id()) {
                    return Err(Trouble::foreign(&self.url, &doing, "the answer describes no object of S3"));
                }
                let size = match length_in(out.content_length()) {
                    Some(size) => size,
                    None => self.size_of(what, &etag_in(out.e_tag())).await?,
                };
                Ok(Some(Looked { out, size }))
            }
            Err(e) => {
                let id = e.request_id().map(str::to_owned);
                let t = Trouble::of(&self.url, &doing, e);
                if t.is_mute() && version.is_none() {
                    return Err(self.told(what, t).await);
                }
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

    /// Finds out why a HEAD failed: its answer has no body that could say so, that of a GET has one.
    async fn told(&self, what: Versioned<'_>, mute: Trouble) -> Trouble {
        let ((key, _), doing) = (what, doing("looking at", what));
        let ask =
            read_sealed!(self, GetObjectInput::builder()).bucket(&self.place.bucket).key(self.full(key));
        match send!(self, get, ask.range("bytes=0-0")) {
            Err(e) => match Trouble::of(&self.url, &doing, e) {
                t if t.status == mute.status => self.may_not_look(t),
                _ => mute,
            },
            Ok(_) => mute,
        }
    }

    /// Finds the size of an object whose HEAD does not tell it, as edges and proxies answer: a part of the object comes with
    /// the size, or the object's listing does.
    async fn size_of(&self, what: Versioned<'_>, etag: &Etag) -> Result<u64, Trouble> {
        let ((key, version), doing) = (what, doing("looking at", what));
        let changed = || Trouble::foreign(&self.url, &doing, "it was changed while it was looked at");
        let ask = read_sealed!(self, GetObjectInput::builder())
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .range("bytes=0-0");
        let told = match send!(self, get, ask) {
            Ok(out) if etag_in(out.e_tag()) != *etag => return Err(changed()),
            Ok(out) => match out.content_range() {
                Some(range) => content_range(range).map(|(.., size)| size),
                None => length_in(out.content_length()),
            },
            Err(e) => match Trouble::of(&self.url, &doing, e) {
                // Only an object without bytes lacks its first one.
                t if t.status == 416 && t.code == "InvalidRange" => Some(0),
                t => return Err(t),
            },
        };
        let told = match told {
            None if version.is_none() => {
                let list = List { prefix: key.to_owned(), max: 1, ..List::default() };
                let page = self.list_page(&list, is_odd(key)).await?;
                let its = page.objects.into_iter().find(|o| o.key == key && o.etag == *etag);
                its.and_then(|o| o.size)
            }
            told => told,
        };
        told.ok_or_else(|| {
            Trouble::foreign(&self.url, &doing, "no answer of the store says how large the object is")
        })
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

    /// Returns the etag of an answer to a write, which has one. `marker`: the write is of an empty object whose name ends with
    /// a slash, for which SeaweedFS before 4.18 gives none.
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

    /// Makes a link to an object that is valid for a time. It is made here: the server isn't asked.
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
            Ok(out) => match self.body_of(key, range, out).await? {
                Some(found) => Ok(Some(found)),
                None => self.without_length(what, range).await,
            },
            Err(e) => match Trouble::of(&self.url, &doing("reading", what), e) {
                // The range lies behind the end.
                t if t.status == 416 => self.nothing_of(what, range).await,
                t if t.is_absent() || version.is_some() && t.is_no_version() => {
                    self.trust.show();
                    Ok(None)
                }
                t => Err(self.may_not_look(t).error),
            },
        }
    }

    /// Returns the answer where no bytes are to be had.
    async fn nothing_of(&self, what: Versioned<'_>, range: ByteRange) -> Result<Option<Found>> {
        let Some(head) = self.head_of(what, false).await.map_err(|t| t.error)? else { return Ok(None) };
        let (wants, offset) = match range {
            ByteRange::At { offset, len } => (len > 0 && offset < head.size, offset.min(head.size)),
            ByteRange::Last(n) => (n > 0 && head.size > 0, head.size),
            ByteRange::Whole { .. } => (head.size > 0, head.size),
        };
        if wants {
            let why = "the store has no such bytes of it, and says that there are some";
            return Err(Trouble::foreign(&self.url, &doing("reading", what), why).error);
        }
        Ok(Some(Found { body: Bytes::new(), offset, head }))
    }

    /// Gets the bytes again where an answer does not say how many it has: the answer to a part of an object does. A part's
    /// answer that has neither a length nor a range is an empty object's, or comes from a store that ignores ranges.
    fn without_length<'a>(
        &'a self,
        what: Versioned<'a>,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<Found>>> {
        async move {
            let ByteRange::Whole { max } = range else {
                let head = self.head_of(what, false).await.map_err(|t| t.error)?;
                return match head {
                    Some(head) if head.size > 0 => Err(self.no_ranges(what.0)),
                    head => Ok(head.map(|head| Found { body: Bytes::new(), offset: 0, head })),
                };
            };
            let part = ByteRange::At { offset: 0, len: max.saturating_add(1) };
            match self.get_now(what, part).await? {
                Some(found) if found.head.size > max => Err(too_large(what.0, found.head.size, max)),
                found => Ok(found),
            }
        }
        .boxed()
    }

    fn no_ranges(&self, key: &str) -> Error {
        Error::new(Kind::Unsupported, format!("{}: reading {key:?}: {IGNORES_RANGES}", self.url))
    }

    /// Reads the body of an answer. None: the answer does not say how many bytes it has.
    async fn body_of(&self, key: &str, range: ByteRange, out: GetObjectOutput) -> Result<Option<Found>> {
        let Some((offset, size, length)) = self.extent(key, range, &out)? else { return Ok(None) };
        if let ByteRange::Whole { max } = range
            && length > max
        {
            return Err(too_large(key, length, max));
        }
        let head = Head {
            size,
            etag: etag_in(out.e_tag()),
            modified_ms: millis(out.last_modified()),
            attrs: attrs_in(out.content_type(), out.metadata(), carried_in!(self, out)),
            version: out.version_id().map(str::to_owned),
            storage_class: out.storage_class().map(|c| c.as_str().to_owned()),
            restored: out.restore().and_then(restored_in),
            checksum: None,
        };
        let body = self.collect(key, out, length).await?;
        Ok(Some(Found { body, offset, head }))
    }

    /// Returns where the body begins, the object's size and the body's; none where the answer does not tell. An error unless
    /// these are the bytes that were asked for.
    fn extent(&self, key: &str, range: ByteRange, out: &GetObjectOutput) -> Result<Option<(u64, u64, u64)>> {
        let doing = format!("reading {key:?}");
        let foreign = |why: &str| Trouble::foreign(&self.url, &doing, why).error;
        let has_etag = out.e_tag().is_some_and(|etag| !etag.is_empty());
        if !has_etag || !self.trust.is_own(Bare::Read, out.request_id()) {
            return Err(foreign("the answer is no object of S3"));
        }
        let length = length_in(out.content_length());
        let extent = match (range, out.content_range(), length) {
            (_, None, None) => return Ok(None),
            (ByteRange::Whole { .. }, None, Some(length)) => (0, length, length),
            // An empty object has no part.
            (_, None, Some(0)) => (0, 0, 0),
            (_, None, Some(_)) => return Err(self.no_ranges(key)),
            (_, Some(text), length) => {
                let got = content_range(text).filter(|got| is_asked(range, *got));
                let told = got.map(|(first, last, size)| (first, size, last - first + 1));
                match told.filter(|(.., part)| length.is_none_or(|length| length == *part)) {
                    Some(told) => told,
                    None => return Err(foreign(&format!("other bytes came than were asked for ({text})"))),
                }
            }
        };
        self.trust.show();
        Ok(Some(extent))
    }

    /// Collects the body, exactly as long as was announced, and with the checksum that came with it.
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
        let page = match self.list_page(list, false).await {
            // Control characters in keys are no XML: ask for them in a form that is.
            Err(t) if t.garbled => self.list_page(list, true).await,
            other => other,
        };
        let ToldPage { objects, prefixes, next } = page.map_err(|t| t.error)?;
        let mut page = Page { prefixes, next, ..Page::default() };
        for Told { key, size, etag, modified_ms } in objects {
            // A marker has nothing that its size or etag could be needed for.
            let whole = !etag.0.is_empty() || key.ends_with('/');
            page.objects.push(match size {
                Some(size) if whole => Listed { key, size, etag, modified_ms },
                _ => match self.head_now(&key).await.map_err(|t| t.error)? {
                    Some(head) => Listed { key, size: head.size, etag: head.etag, modified_ms },
                    // It is gone by now.
                    None => continue,
                },
            });
        }
        Ok(page)
    }

    /// Adds to the error of a denied look what it may mean.
    fn may_not_look(&self, mut t: Trouble) -> Trouble {
        if t.status == 403 && t.code == "AccessDenied" {
            let why = "without the right s3:ListBucket the store says so also where there is no such object";
            t.error = Error::new(Kind::Denied, format!("{}; {why}", t.error));
        }
        t
    }

    fn may_not_list<E>(&self, doing: &str, e: SdkError<E, HttpResponse>) -> Trouble
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let mut t = Trouble::of(&self.url, doing, e);
        if t.status == 403 && t.code == "AccessDenied" {
            t.error = Error::new(Kind::Denied, format!("{}; listing needs the right s3:ListBucket", t.error));
        }
        t
    }

    /// Returns the name behind which the server is to go on with a listing; none at its beginning.
    fn start_after(&self, list: &List) -> Option<String> {
        let after = list.after.as_ref()?;
        let is_group = list.delimited && after.len() > list.prefix.len() && after.ends_with('/');
        // Behind everything that the group stands for: a server would begin inside it and show it again.
        let last = if is_group { "\u{10FFFF}" } else { "" };
        Some(self.full(&format!("{after}{last}")))
    }

    async fn list_page(&self, list: &List, encoded: bool) -> Result<ToldPage, Trouble> {
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
        let out = send!(self, list, ask).map_err(|e| self.may_not_list(&doing, e))?;
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
        let nameless = || Trouble::foreign(&self.url, &doing, "the store lists something without a name");
        let mut page = ToldPage::default();
        for object in out.contents() {
            let Some(key) = name(object.key().ok_or_else(nameless)?)? else { continue };
            let (etag, modified_ms) = (etag_in(object.e_tag()), millis(object.last_modified()));
            self.learn_class(object.storage_class().map(|class| class.as_str()));
            page.objects.push(Told { key, size: length_in(object.size()), etag, modified_ms });
        }
        for group in out.common_prefixes() {
            page.prefixes.extend(name(group.prefix().ok_or_else(nameless)?)?);
        }
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.prefixes.sort();
        page.next = self.next_page(&doing, list, &page, &out)?;
        self.trust.show();
        Ok(page)
    }

    /// Returns where the next page begins; none at the end. Where an answer does not say whether there is more, the next page
    /// is asked for behind its last name, until one has no name.
    fn next_page(
        &self,
        doing: &str,
        list: &List,
        page: &ToldPage,
        out: &ListObjectsV2Output,
    ) -> Result<Option<String>, Trouble> {
        if out.is_truncated() == Some(false) {
            return Ok(None);
        }
        let last = page.objects.last().map(|o| &o.key).max(page.prefixes.last());
        let token = out.next_continuation_token().map(|token| format!("{TOKEN}{token}"));
        let next = token.or(last.cloned());
        match &next {
            None if out.is_truncated().is_none() => Ok(None),
            // Taken for the end, it would hide all the names that are to come.
            Some(next) if list.after.as_ref() != Some(next) => Ok(Some(next.clone())),
            _ => {
                let why = "the store says that there is more, and not where";
                Err(Trouble::foreign(&self.url, doing, why))
            }
        }
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

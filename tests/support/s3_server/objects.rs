//! The bucket: everything happens at one instant under one lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use s3s::dto::{ContentType, ETag, ETagCondition, Expires, Metadata, StorageClass};
use s3s::{S3Result, s3_error};

/// Differences of other servers from S3.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Conditions are accepted and ignored.
    pub ignores_conditions: bool,
    /// A request that has one is refused, whatever it says (Swift's S3 interface).
    pub refuses_conditions: bool,
    /// A put's condition is judged, and the put done so much later, whatever is there by then.
    pub races: Option<Duration>,
    /// An object's etag is made of its size and the second in which it was written.
    pub etag_of_second: bool,
    /// An etag in quotes never matches.
    pub wants_bare_etags: bool,
    /// Bodies with a checksum in a header are refused, by this status and code.
    pub refuses_checksums: Option<Refusal>,
    /// DeleteObjects isn't known.
    pub no_batch_delete: bool,
    /// Listings come in the order of a tree: `a/b` before `a-`.
    pub lists_as_tree: bool,
    /// Objects whose name ends with a slash can't be copied.
    pub copies_no_markers: bool,
    /// All of an object is sent to who asks for a part of it.
    pub ignores_ranges: bool,
    /// The answer to a PUT of an object whose name ends with a slash has no etag (SeaweedFS before 4.18).
    pub no_etag_of_markers: bool,
    /// Answers do not say how many bytes they, or an object, have (edges and proxies).
    pub no_lengths: bool,
    /// Answers do not say when an object was stored.
    pub no_times: bool,
    /// Listings have neither sizes nor etags.
    pub lists_names_only: bool,
    /// The first page of a listing has no names, and says that there are more.
    pub empty_first_pages: bool,
    /// Listings do not say whether there is more.
    pub no_truncation_told: bool,
    /// Objects whose name ends with a slash lose their metadata (SeaweedFS).
    pub forgets_markers: bool,
    /// Copies, and parts that are copied, are made whatever their conditions say (Ceph RGW 16).
    pub copies_ignore_conditions: bool,
    /// The completion of an upload that has a condition has an empty etag (Ceph RGW 16).
    pub empty_etag_of_completions: bool,
    /// A part that is copied must say that its request has no body (Ceph RGW 16).
    pub needs_length: bool,
    /// Objects are not copied.
    pub no_copies: Option<Refusal>,
    /// Parts of objects are not copied.
    pub no_part_copies: Option<Refusal>,
    /// Etags are weak, and none is ever right in a condition (a proxy that packs).
    pub weak_etags: bool,
    /// Answers tell how many tags an object has.
    pub tells_tags: bool,
    /// Nothing is known of tags.
    pub no_tags: bool,
}

/// A status and one of S3's codes.
pub type Refusal = (u16, &'static str);

pub fn refusal((status, code): Refusal) -> s3s::S3Error {
    let mut error =
        s3s::S3Error::with_message(s3s::S3ErrorCode::from_bytes(code.as_bytes()).unwrap(), "not here");
    error.set_status_code(http::StatusCode::from_u16(status).unwrap());
    error
}

#[derive(Clone, Debug)]
pub struct Object {
    pub body: Bytes,
    pub etag: String,
    pub about: About,
    pub modified: SystemTime,
}

/// Metadata and headers that an object carries beside its bytes.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub metadata: Option<Metadata>,
    pub content_type: Option<ContentType>,
    pub content_encoding: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub expires: Option<Expires>,
    pub storage_class: Option<StorageClass>,
    /// Tags as the header has them: `a=b&c=d`.
    pub tags: Option<String>,
}

#[derive(Debug)]
pub struct Upload {
    pub key: String,
    pub about: About,
    pub parts: BTreeMap<i32, (Bytes, String)>,
}

#[derive(Debug, Default)]
pub struct Contents {
    pub objects: BTreeMap<String, Object>,
    pub uploads: BTreeMap<String, Upload>,
}

#[derive(Debug)]
pub struct Objects {
    pub quirks: Quirks,
    contents: Mutex<Contents>,
    uploads: AtomicU64,
    /// The bucket was deleted.
    gone: AtomicBool,
}

/// The conditions of one request.
#[derive(Debug, Default)]
pub struct Conditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    /// The header as it was sent, for servers that care.
    pub if_match_text: Option<String>,
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

pub fn etag_of(body: &[u8]) -> String {
    hex(Md5::digest(body))
}

pub fn strong(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

impl Quirks {
    /// Returns an object's etag as answers have it.
    pub fn etag(&self, etag: &str) -> ETag {
        if self.weak_etags { ETag::Weak(etag.to_owned()) } else { strong(etag) }
    }
}

fn hits(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

#[allow(clippy::disallowed_methods)] // the server's clock is its own
pub fn now() -> SystemTime {
    SystemTime::now()
}

impl Object {
    /// Gives the object an etag of its size and second, as a gateway over files does, which has nothing
    /// better.
    pub fn named_by_second(self) -> Object {
        let second = self.modified.duration_since(UNIX_EPOCH).unwrap().as_secs();
        Object { etag: format!("{:x}-{second}", self.body.len()), ..self }
    }

    pub fn new(body: Bytes, about: About) -> Object {
        Object { etag: etag_of(&body), body, about, modified: now() }
    }

    pub fn check_source(&self, if_match: Option<&ETagCondition>, quirks: Quirks) -> S3Result<()> {
        match if_match {
            Some(_) if quirks.refuses_conditions => Err(s3_error!(NotImplemented)),
            _ if quirks.ignores_conditions || quirks.copies_ignore_conditions => Ok(()),
            Some(condition) if !hits(condition, self) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }
}

impl Objects {
    pub fn new(quirks: Quirks) -> Objects {
        Objects {
            quirks,
            contents: Mutex::default(),
            uploads: AtomicU64::new(1),
            gone: AtomicBool::new(false),
        }
    }

    /// Deletes the bucket with all that is in it, or makes it anew.
    pub fn set_gone(&self, gone: bool) {
        *self.contents.lock() = Contents::default();
        self.gone.store(gone, Ordering::Relaxed);
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub fn keys(&self) -> Vec<String> {
        self.contents.lock().objects.keys().cloned().collect()
    }

    pub fn new_upload(&self) -> String {
        format!("upload-{}", self.uploads.fetch_add(1, Ordering::Relaxed))
    }

    pub fn with<R>(&self, run: impl FnOnce(&mut Contents) -> S3Result<R>) -> S3Result<R> {
        run(&mut self.contents.lock())
    }

    pub fn get(&self, key: &str) -> S3Result<Object> {
        self.with(|c| c.objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey)))
    }

    /// Compares, for compare-and-set; the caller holds the lock.
    fn check(&self, current: Option<&Object>, conditions: &Conditions) -> S3Result<()> {
        if self.quirks.ignores_conditions {
            return Ok(());
        }
        if self.quirks.refuses_conditions
            && (conditions.if_match.is_some() || conditions.if_none_match.is_some())
        {
            return Err(s3_error!(NotImplemented));
        }
        if let Some(condition) = &conditions.if_match {
            let quoted = conditions.if_match_text.as_ref().is_some_and(|t| t.starts_with('"'));
            match current {
                None => return Err(s3_error!(NoSuchKey)),
                Some(_) if quoted && self.quirks.wants_bare_etags => {
                    return Err(s3_error!(PreconditionFailed));
                }
                Some(object) if self.quirks.weak_etags || !hits(condition, object) => {
                    return Err(s3_error!(PreconditionFailed));
                }
                Some(_) => {}
            }
        }
        match (&conditions.if_none_match, current) {
            (Some(condition), Some(object)) if hits(condition, object) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }

    /// Checks whether the conditions of a put hold now.
    pub fn judge(&self, key: &str, conditions: &Conditions) -> S3Result<()> {
        self.with(|contents| self.check(contents.objects.get(key), conditions))
    }

    pub fn put(&self, key: String, mut object: Object, conditions: &Conditions) -> S3Result<()> {
        if self.quirks.forgets_markers && key.ends_with('/') {
            object.about = About::default();
        }
        self.with(|contents| {
            self.check(contents.objects.get(&key), conditions)?;
            contents.objects.insert(key, object);
            Ok(())
        })
    }

    pub fn put_part(&self, key: &str, upload: &str, number: i32, body: Bytes) -> S3Result<String> {
        self.with(|contents| {
            let found = contents.uploads.get_mut(upload).filter(|u| u.key == key);
            let etag = etag_of(&body);
            found.ok_or_else(|| s3_error!(NoSuchUpload))?.parts.insert(number, (body, etag.clone()));
            Ok(etag)
        })
    }

    pub fn complete(
        &self,
        key: &str,
        upload: &str,
        wanted: &[(i32, String)],
        conditions: &Conditions,
    ) -> S3Result<String> {
        self.with(|contents| {
            let found = contents.uploads.get(upload).filter(|u| u.key == key);
            let found = found.ok_or_else(|| s3_error!(NoSuchUpload))?;
            let (mut body, mut sums) = (BytesMut::new(), Md5::new());
            for (at, (number, etag)) in wanted.iter().enumerate() {
                let part = found.parts.get(number).filter(|(_, e)| e == etag);
                let (bytes, _) = part.ok_or_else(|| s3_error!(InvalidPart))?;
                if at + 1 < wanted.len() && bytes.len() < 5 << 20 {
                    return Err(s3_error!(EntityTooSmall));
                }
                body.extend_from_slice(bytes);
                sums.update(Md5::digest(bytes));
            }
            self.check(contents.objects.get(key), conditions)?;
            let upload = contents.uploads.remove(upload).unwrap();
            let etag = format!("{}-{}", hex(sums.finalize()), wanted.len());
            let object = Object { etag: etag.clone(), ..Object::new(body.freeze(), upload.about) };
            contents.objects.insert(key.to_owned(), object);
            Ok(etag)
        })
    }
}

//! One bucket: the verbs that pools and filesystems need, and the kinds of places that give them.

mod bucket_settings;
mod conditional_write_probe;
mod counted;
mod cut_off;
mod faulty;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keyring;
mod mem;
mod open;
mod permission_probe;
mod prove;
mod request_and_answer;
mod restore;
mod retry;
mod s3;
mod sim;
mod url;
mod version_listing;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use request_and_answer::ask;
use windlass_base::{Error, Kind, Result};

pub use bucket_settings::{Asked, BucketRules, LifecycleRule};
pub use conditional_write_probe::{Conditions, Heeds, conditions};
pub use counted::{Counted, Counters, Line, Verb};
pub use cut_off::{CutOff, Switched};
pub use faulty::{Faulty, RequestFate};
pub use file::FileStore;
pub use keyring::{AccessKeys, KEYS_TEXT_MAX, KeySource, KeyTarget, Keyring, keyring};
pub use mem::{Backup, EtagRule, MemStore};
pub use open::{adopt, expect, open, open_patiently};
pub use permission_probe::{Right, TriedRight, is_public, try_rights};
pub use prove::{
    ConditionalPuts, Effort, FileNeed, Fitness, Promise, Proof, Tried, TriedNeed, Verdict, probe, probe_data,
    probe_fitness, probe_with, prove, prove_files,
};
pub use request_and_answer::{BucketAnswer, BucketRequest};
pub use restore::{Restore, Restored, Tier};
pub use retry::{Patience, Retrying};
pub use s3::{S3Store, passwd_keys, web_client};
pub use sim::{Reach, SimConditions, SimStore, StoreFaults};
pub use url::{S3Place, Sse, StoreSpec, StoreUrl};
pub use version_listing::{Version, VersionList, VersionMark, VersionPage};

/// Any kind of bucket, behind whatever decorators.
pub type BucketRef = Arc<dyn Bucket>;

/// Changes whenever an object's content does; compared for equality only. Kept without quotes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Etag(pub String);

/// Which bytes a get wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteRange {
    /// Everything; an object larger than `max` is `Kind::Invalid`, refused before its body is read.
    Whole { max: u64 },
    /// Fewer bytes come back (perhaps none) where the object ends earlier.
    At { offset: u64, len: u64 },
    /// The last bytes; the whole object when it is shorter.
    Last(u64),
}

impl ByteRange {
    /// From where to where that is in an object of `size` bytes.
    fn within(self, key: &str, size: u64) -> Result<(u64, u64)> {
        Ok(match self {
            ByteRange::Whole { max } if size > max => return Err(too_large(key, size, max)),
            ByteRange::Whole { .. } => (0, size),
            ByteRange::At { offset, len } => (offset.min(size), offset.saturating_add(len).min(size)),
            ByteRange::Last(n) => (size.saturating_sub(n), size),
        })
    }
}

/// The error for an object that is larger than its reader allows.
fn too_large(key: &str, size: u64, max: u64) -> Error {
    Error::new(Kind::Invalid, format!("object {key} has {size} bytes where at most {max} are expected"))
}

/// A put's precondition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    Always,
    /// The key has no object.
    Absent,
    /// The key's object has this etag.
    Matches(Etag),
}

/// What became of a put. An `Err` beside it means: certainly not stored.
#[derive(Debug)]
pub enum Put {
    Stored(Etag),
    /// The precondition did not hold; nothing was stored by this attempt.
    Refused,
    /// No answer, or one that says nothing: it may have been stored, or may be later.
    Unknown(Error),
}

/// Why a request is made; every request is counted under it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Read,
    Write,
    /// A read that others are asked for, because the store asked first is slow.
    Hedge,
    /// The same, because that store is away or its bytes are bad.
    Degraded,
    Register,
    Label,
    Walk,
    Repair,
    Scrub,
    Checkpoint,
    Delete,
    Probe,
    File,
}

/// What an object carries beside its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attrs {
    pub content_type: Option<String>,
    /// User metadata, names in lowercase without any `x-amz-meta-` prefix.
    pub user: BTreeMap<String, String>,
    pub carried: Carried,
}

/// What other programs need of an object, and nobody here: whatever replaces the object carries the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Carried {
    /// Cache-Control, Content-Disposition, Content-Encoding, Content-Language and Expires, names in lowercase, values as
    /// the store gave them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// The object may have tags: another request tells them, just before it is replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_have_tags: bool,
}

impl Carried {
    pub fn is_nothing(&self) -> bool {
        *self == Carried::default()
    }
}

/// What an object of a pool carries.
const NO_ATTRS: &Attrs = &Attrs {
    content_type: None,
    user: BTreeMap::new(),
    carried: Carried { headers: BTreeMap::new(), storage_class: None, may_have_tags: false },
};

/// An object's description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub size: u64,
    pub etag: Etag,
    /// Milliseconds since 1970, where the store tells.
    pub modified_ms: Option<u64>,
    pub attrs: Attrs,
    /// Of a versioned bucket.
    pub version: Option<String>,
    /// Where it isn't the standard one.
    pub storage_class: Option<String>,
    /// Of an archived object that is being restored, or was.
    pub restored: Option<Restored>,
    /// As `ALGORITHM:VALUE`, several with a space between. Only where it was asked for.
    pub checksum: Option<String>,
}

/// A get's answer: the asked-for bytes, and the whole object's description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub body: Bytes,
    /// Where `body` begins in the object.
    pub offset: u64,
    pub head: Head,
}

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List {
    pub prefix: String,
    /// Names after this one, or what the page before gave as `next`.
    pub after: Option<String>,
    /// Group what lies below the next `/` into `prefixes`.
    pub delimited: bool,
    /// At most this many names, 1..=1000.
    pub max: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub key: String,
    pub size: u64,
    pub etag: Etag,
    /// As in a `Head`.
    pub modified_ms: Option<u64>,
}

/// One page of a listing, each part in byte order of its names. From page to page the order is the server's own:
/// that of bytes, or (SeaweedFS) of a tree, where `a/b` comes before `a-`. A page without names is not the end while
/// there is a `next`: some servers begin so, or stop at names that they have passed over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    pub objects: Vec<Listed>,
    pub prefixes: Vec<String>,
    /// Give this as `after` for the next page; `None` at the end. It need not be a name.
    pub next: Option<String>,
}

/// A part of a multipart upload that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub number: u32,
    pub etag: Etag,
}

impl Page {
    /// It has no names; there may be more behind it.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.prefixes.is_empty()
    }
}

/// The verbs of a pool's store. Reads are strongly consistent after writes (probed when a pool is opened).
/// Everything is safe to drop midway; a dropped put is one of unknown outcome.
///
/// A bucket implements `call`; callers use the typed verbs, here and in `Bucket`, which say what each request promises.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// How users name this place; never holds secrets.
    fn url(&self) -> &str;
    /// Sends one request. The answer's variant belongs to the request's verb.
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>>;
    /// The bucket that a decorator stands around: what is no request passes through to it.
    fn inner(&self) -> Option<&BucketRef> {
        None
    }
    /// What was asked of it so far, where that is counted (every store that `open` opens).
    fn counters(&self) -> Option<&Counters> {
        self.inner().and_then(|inner| inner.counters())
    }
    /// How many ms its clock is ahead of ours, if by so much that it refuses what we sign by ours; else 0.
    fn clock_ahead_ms(&self) -> i64 {
        self.inner().map_or(0, |inner| inner.clock_ahead_ms())
    }
    /// What cuts it off, where that can be done (every store that `open` opens).
    fn switch(&self) -> Option<&Arc<AtomicBool>> {
        self.inner().and_then(|inner| inner.switch())
    }
    /// `None`: the store says that there is no such object.
    async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        ask(self, BucketRequest::Get { key: key.into(), version: None, range }, cause).await
    }
    async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        ask(self, BucketRequest::Head { key: key.into(), version: None, checksums: false }, cause).await
    }
    /// Atomic: the whole body or nothing is ever seen.
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        ask(self, BucketRequest::Put { key: key.into(), body, attrs: None, when }, cause).await
    }
    /// Deleting what isn't there is no error.
    async fn delete(&self, keys: &[String], cause: Cause) -> Result<()> {
        ask(self, BucketRequest::Delete { keys: keys.to_vec() }, cause).await
    }
    async fn list(&self, list: &List, cause: Cause) -> Result<Page> {
        ask(self, BucketRequest::List(list.clone()), cause).await
    }
    /// The first page that has a name, or the end: what answers "is there anything".
    async fn list_some(&self, list: &List, cause: Cause) -> Result<Page> {
        let mut list = list.clone();
        loop {
            let page = self.list(&list, cause).await?;
            if !page.is_empty() || page.next.is_none() {
                return Ok(page);
            }
            list.after = page.next;
        }
    }
}

/// Room on the filesystem that a store's folder is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Tells one filesystem from another on this host.
    pub filesystem: u64,
    /// By whatever is on it, the store's objects among it.
    pub used_bytes: u64,
    /// For who writes to the store.
    pub free_bytes: u64,
}

/// What a filesystem needs beside that.
#[async_trait]
pub trait Bucket: Store {
    /// The room that is left for the store, where it can tell.
    async fn space(&self) -> Option<Space> {
        match self.inner() {
            Some(inner) => inner.space().await,
            None => None,
        }
    }
    /// For how long no put has got on, where the bucket can tell that they hang. Gets may be answered all the while.
    fn hangs(&self) -> Option<Duration> {
        self.inner().and_then(|inner| inner.hangs())
    }
    /// What its owner has set for the whole bucket. `None`: it is no bucket of a server.
    async fn rules(&self) -> Option<BucketRules> {
        match self.inner() {
            Some(inner) => inner.rules().await,
            None => None,
        }
    }
    /// How far its clock is ahead of this host's, in milliseconds. `None`: it has no clock of its own.
    async fn ahead_ms(&self) -> Option<Asked<i64>> {
        match self.inner() {
            Some(inner) => inner.ahead_ms().await,
            None => None,
        }
    }
    /// The same bucket asked by each address that its server's name has. Empty: it has but one way, the bucket itself.
    async fn each_address(&self) -> Result<Vec<(IpAddr, BucketRef)>> {
        match self.inner() {
            Some(inner) => inner.each_address().await,
            None => Ok(Vec::new()),
        }
    }
    /// What the server called itself in its last answer. `None`: it does not say, or has not answered yet.
    fn server(&self) -> Option<Arc<str>> {
        self.inner().and_then(|inner| inner.server())
    }
    /// Says which objects these are and nothing of how they are reached: it stays the same with other keys.
    fn identity(&self) -> String {
        self.inner().map_or_else(|| self.url().to_owned(), |inner| inner.identity())
    }
    /// From now on the store is not trusted with the conditions that it doesn't heed: it is looked at just before such
    /// a write, which leaves a moment for others. For who has to write there all the same.
    fn looks_first(&self, conditions: Conditions) {
        self.inner().into_iter().for_each(|inner| inner.looks_first(conditions));
    }
    /// A link by which anybody can get the object, or one of its versions, for so long.
    async fn presign(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        match self.inner() {
            Some(inner) => inner.presign(key, version, valid).await,
            None => {
                let why = format!("{} makes no links to {key:?}: S3 stores do", self.url());
                Err(Error::new(Kind::Unsupported, why))
            }
        }
    }
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, cause: Cause) -> Result<Put> {
        ask(self, BucketRequest::Put { key: key.into(), body, attrs: Some(attrs.clone()), when }, cause).await
    }
    /// Server-side copy; `from_match`: only if the source still has this etag (`Refused` otherwise, also when
    /// `when` refuses). `attrs`: replaces the copy's, `None` keeps the source's. `NotFound` without a source.
    async fn copy(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        let (from, to) = (from.into(), to.into());
        let (from_match, attrs) = (from_match.cloned(), attrs.cloned());
        ask(self, BucketRequest::Copy { from, to, from_match, attrs, when }, cause).await
    }
    /// Deletes the objects that still have these etags. False: some have others, and stay. A store that can't delete
    /// on a condition (S3 servers differ) deletes whatever is there: who cares has listed just before.
    async fn delete_same(&self, objects: &[(String, Etag)], cause: Cause) -> Result<bool> {
        ask(self, BucketRequest::DeleteSame { objects: objects.to_vec() }, cause).await
    }
    /// Begins a multipart upload and names it. Parts but the last are at least 5 MiB.
    async fn multipart_create(&self, key: &str, attrs: &Attrs, cause: Cause) -> Result<String> {
        ask(self, BucketRequest::MultipartCreate { key: key.into(), attrs: attrs.clone() }, cause).await
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        cause: Cause,
    ) -> Result<Part> {
        let (key, upload) = (key.into(), upload.into());
        ask(self, BucketRequest::MultipartPut { key, upload, number, body }, cause).await
    }
    /// A part copied server-side from `len` bytes at `offset` of `from`.
    #[allow(clippy::too_many_arguments)]
    async fn multipart_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        from_match: Option<&Etag>,
        offset: u64,
        len: u64,
        cause: Cause,
    ) -> Result<Part> {
        let (key, upload, from, from_match) = (key.into(), upload.into(), from.into(), from_match.cloned());
        let request = BucketRequest::MultipartCopy { key, upload, number, from, from_match, offset, len };
        ask(self, request, cause).await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        let (key, upload, parts) = (key.into(), upload.into(), parts.to_vec());
        ask(self, BucketRequest::MultipartComplete { key, upload, parts, when }, cause).await
    }
    async fn multipart_abort(&self, key: &str, upload: &str, cause: Cause) -> Result<()> {
        ask(self, BucketRequest::MultipartAbort { key: key.into(), upload: upload.into() }, cause).await
    }
    /// Uploads under way below a prefix, as (key, upload).
    async fn multipart_list(&self, prefix: &str, cause: Cause) -> Result<Vec<(String, String)>> {
        ask(self, BucketRequest::MultipartList { prefix: prefix.into() }, cause).await
    }
    /// Whether what is overwritten or deleted is kept as a version. True also where that can't be asked: the listing
    /// tells then.
    async fn versioned(&self, cause: Cause) -> Result<bool> {
        ask(self, BucketRequest::Versioned, cause).await
    }
    /// `Unsupported` where there are none.
    async fn list_versions(&self, list: &VersionList, cause: Cause) -> Result<VersionPage> {
        ask(self, BucketRequest::ListVersions(list.clone()), cause).await
    }
    /// `None`: there is no such version, or it marks that the object was deleted.
    async fn get_version(
        &self,
        key: &str,
        version: &str,
        range: ByteRange,
        cause: Cause,
    ) -> Result<Option<Found>> {
        ask(self, BucketRequest::Get { key: key.into(), version: Some(version.into()), range }, cause).await
    }
    /// An object or one of its versions, with its checksums if they are asked for and the store has any.
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
        cause: Cause,
    ) -> Result<Option<Head>> {
        let (key, version) = (key.into(), version.map(str::to_owned));
        ask(self, BucketRequest::Head { key, version, checksums }, cause).await
    }
    /// Asks for a readable copy of an archived object, or for longer of one that is there. False: one is on its way.
    /// `Invalid` for what isn't archived.
    async fn restore(&self, key: &str, version: Option<&str>, how: Restore, cause: Cause) -> Result<bool> {
        let (key, version) = (key.into(), version.map(str::to_owned));
        ask(self, BucketRequest::Restore { key, version, how }, cause).await
    }
}

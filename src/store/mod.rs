//! One bucket: the verbs that pools and filesystems need, and the kinds of places that give them.

mod conditions;
mod counted;
#[cfg(any(test, feature = "sim"))]
mod faulty;
mod file;
#[cfg(any(test, feature = "sim"))]
mod mem;
mod open;
mod past;
mod probe;
mod retry;
mod s3;
#[cfg(any(test, feature = "sim"))]
mod sim;
mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::{Error, Kind, Result};

pub use conditions::{Conditions, Heeds, conditions};
pub use counted::{Counted, Counters, Line, Verb};
#[cfg(any(test, feature = "sim"))]
pub use faulty::{Fate, Faulty};
pub use file::FileStore;
#[cfg(any(test, feature = "sim"))]
pub use mem::MemStore;
pub use open::{adopt, expect, open, open_patiently};
pub use past::{Restore, Restored, Tier, Version, VersionList, VersionMark, VersionPage};
pub use probe::probe;
pub use retry::{Patience, Retrying};
pub use s3::S3Store;
#[cfg(any(test, feature = "sim"))]
pub use sim::{Reach, SimStore, StoreFaults};
pub use url::{S3Place, Sse, StoreSpec, StoreUrl};

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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
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
}

/// An object's description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub size: u64,
    pub etag: Etag,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
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
    pub modified_ms: u64,
}

/// One page of a listing, each part in byte order of its names. From page to page the order is the server's own:
/// that of bytes, or (SeaweedFS) of a tree, where `a/b` comes before `a-`.
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

/// The verbs of a pool's store. Reads are strongly consistent after writes (probed when a pool is opened).
/// Everything is safe to drop midway; a dropped put is one of unknown outcome.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// How users name this place; never holds secrets.
    fn url(&self) -> &str;
    /// What was asked of it so far, where that is counted (every store that `open` opens).
    fn counters(&self) -> Option<&Counters> {
        None
    }
    /// `None`: the store says that there is no such object.
    async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>>;
    async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>>;
    /// Atomic: the whole body or nothing is ever seen.
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put>;
    /// Deleting what isn't there is no error.
    async fn delete(&self, keys: &[String], cause: Cause) -> Result<()>;
    async fn list(&self, list: &List, cause: Cause) -> Result<Page>;
}

/// What a filesystem needs beside that.
#[async_trait]
pub trait Bucket: Store {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, cause: Cause) -> Result<Put>;
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
    ) -> Result<Put>;
    /// Deletes the objects that still have these etags. False: some have others, and stay. A store that can't delete
    /// on a condition (S3 servers differ) deletes whatever is there: who cares has listed just before.
    async fn delete_same(&self, objects: &[(String, Etag)], cause: Cause) -> Result<bool> {
        let keys: Vec<String> = objects.iter().map(|(key, _)| key.clone()).collect();
        self.delete(&keys, cause).await.map(|()| true)
    }
    /// Says which objects these are and nothing of how they are reached: it stays the same with other keys.
    fn identity(&self) -> String {
        self.url().to_owned()
    }
    /// From now on the store is not trusted with the conditions that it doesn't heed: it is looked at just before such
    /// a write, which leaves a moment for others. For who has to write there all the same.
    fn looks_first(&self, _: Conditions) {}
    /// Begins a multipart upload and names it. Parts but the last are at least 5 MiB.
    async fn multipart_create(&self, key: &str, attrs: &Attrs, cause: Cause) -> Result<String>;
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        cause: Cause,
    ) -> Result<Part>;
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
    ) -> Result<Part>;
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        cause: Cause,
    ) -> Result<Put>;
    async fn multipart_abort(&self, key: &str, upload: &str, cause: Cause) -> Result<()>;
    /// A link by which anybody can get the object, or one of its versions, for so long.
    async fn presign(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        let _ = (version, valid);
        Err(Error::new(Kind::Unsupported, format!("{} makes no links to {key:?}: S3 stores do", self.url())))
    }
    /// Whether what is overwritten or deleted is kept as a version. True also where that can't be asked: the listing
    /// tells then.
    async fn versioned(&self, cause: Cause) -> Result<bool> {
        let _ = cause;
        Ok(false)
    }
    /// `Unsupported` where there are none.
    async fn list_versions(&self, list: &VersionList, cause: Cause) -> Result<VersionPage> {
        let _ = (list, cause);
        Err(no_versions(self.url()))
    }
    /// `None`: there is no such version, or it marks that the object was deleted.
    async fn get_version(
        &self,
        key: &str,
        version: &str,
        range: ByteRange,
        cause: Cause,
    ) -> Result<Option<Found>> {
        let _ = (key, version, range, cause);
        Err(no_versions(self.url()))
    }
    /// An object or one of its versions, with its checksums if they are asked for and the store has any.
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
        cause: Cause,
    ) -> Result<Option<Head>> {
        let _ = checksums;
        match version {
            Some(_) => Err(no_versions(self.url())),
            None => self.head(key, cause).await,
        }
    }
    /// Asks for a readable copy of an archived object, or for longer of one that is there. False: one is on its way.
    /// `Invalid` for what isn't archived.
    async fn restore(&self, key: &str, version: Option<&str>, how: Restore, cause: Cause) -> Result<bool> {
        let _ = (version, how, cause);
        Err(Error::new(
            Kind::Unsupported,
            format!("{} archives nothing, so {key:?} needs no restoring", self.url()),
        ))
    }
    /// Uploads under way below a prefix, as (key, upload).
    async fn multipart_list(&self, prefix: &str, cause: Cause) -> Result<Vec<(String, String)>>;
}

fn no_versions(url: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{url} keeps no versions of its objects"))
}

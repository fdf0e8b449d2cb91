//! Earlier versions of objects, as a bucket keeps and lists them.

use super::Etag;

/// A version of an object, or the mark that it was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub key: String,
    /// The version's id. Opaque; `null` of what was put before the bucket kept versions.
    pub id: String,
    /// Size of the version in bytes; 0 of a mark.
    pub size: u64,
    /// Etag of the version; none of a mark.
    pub etag: Option<Etag>,
    /// The time at which the version became the object, in milliseconds since 1970; some stores tell whole seconds only.
    pub modified_ms: u64,
    /// True if the version is what the key shows now.
    pub latest: bool,
    /// True if the object was deleted: there are no bytes.
    pub deleted: bool,
}

/// The place at which a listing of versions goes on, in the store's own words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionMark {
    pub key: String,
    pub version: Option<String>,
}

/// A request for a page of versions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionList {
    pub prefix: String,
    /// The mark that the page before gave as `next`.
    pub after: Option<VersionMark>,
    /// True if what lies below the next `/` is grouped into `prefixes`.
    pub delimited: bool,
    /// Number of versions and groups that are listed at most, 1..=1000.
    pub max: usize,
}

/// One page: versions by key, those of a key newest first; groups by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionPage {
    pub versions: Vec<Version>,
    pub prefixes: Vec<String>,
    pub next: Option<VersionMark>,
}

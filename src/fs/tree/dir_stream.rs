//! A directory's listing on its way to a reader: what was listed and not yet read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::metadata_sample::Metadata;
use super::name_cache::{CachedName, ChangeSeq, LISTING_MAX};
use super::parallel_listing::ParallelListing;
use super::version_nodes::VersionPlace;
use crate::base::rt::Instant;
use crate::fs::file::OpenFile;
use crate::fs::object::Attributes;
use crate::store::VersionMark;

/// Entries handed out at once; more than fit a reply.
pub const BATCH: usize = 512;

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub name: Vec<u8>,
    pub key: String,
    pub dir: bool,
    pub attributes: Attributes,
    pub until: Instant,
    /// When the listing began.
    pub seq: Option<ChangeSeq>,
    /// Of earlier versions.
    pub version: Option<VersionPlace>,
}

#[derive(Debug)]
pub struct DirHandle {
    pub ino: u64,
    /// Empty where versions are listed.
    pub prefix: String,
    /// Of earlier versions: which.
    pub versions: Option<VersionPlace>,
    pub stream: tokio::sync::Mutex<Stream>,
}

#[derive(Debug, Default)]
pub struct Stream {
    /// Once it has begun.
    pub listing: Option<ParallelListing>,
    pub ended: bool,
    /// The first window entry's cookie.
    pub base: u64,
    pub window: VecDeque<Item>,
    /// The entries before this cookie were looked at, as far as that was needed. The kernel takes a few of a batch at a
    /// time: what was found stays in the window, so that no name is asked for again.
    pub looked: u64,
    pub waiting: Vec<(String, Attributes)>,
    /// Local names that the listing has not shown.
    pub local: BTreeMap<String, Arc<OpenFile>>,
    pub kept: BTreeSet<String>,
    pub last_piece: Vec<u8>,
    pub metadata: Metadata,
    /// The whole directory, for `NameCache`, as long as it is small; from the listing's beginning on.
    pub whole: Option<BTreeMap<String, CachedName>>,
    pub until: Instant,
    pub seq: Option<ChangeSeq>,
    /// Of versions: where the next page begins.
    pub after: Option<VersionMark>,
    /// Of versions: names listed that may come again.
    pub shown: Vec<String>,
}

impl Stream {
    /// Whether the entry at `cookie` is here, or the end; the window begins there then.
    pub fn seek(&mut self, cookie: u64) -> bool {
        let Some(skip) = cookie.checked_sub(self.base) else { return false };
        let skip = skip as usize;
        if skip > self.window.len() || skip == self.window.len() && !self.ended {
            return false;
        }
        self.window.drain(..skip);
        self.base = cookie;
        true
    }

    /// The window's first entries; those alone that were `looked` at, if that is asked for.
    pub fn first(&self, looked: bool) -> Vec<Item> {
        let known = self.looked.saturating_sub(self.base) as usize;
        let count = if looked { known.min(BATCH) } else { BATCH };
        self.window.iter().take(count).cloned().collect()
    }

    /// Drops the entries before a cookie that lies further on: who seeks there lets them go page by page.
    pub fn skip(&mut self, cookie: u64) {
        let gone = (self.window.len() as u64).min(cookie - self.base);
        self.window.drain(..gone as usize);
        self.base += gone;
    }

    /// Whoever reads from this cookie on begins again.
    pub fn is_passed(&self, cookie: u64) -> bool {
        cookie < self.base || cookie == 0 && self.base == 0 && self.ended
    }

    pub fn push(&mut self, name: Vec<u8>, key: String, dir: bool, attributes: Attributes) {
        let (until, seq) = (self.until, self.seq);
        self.window.push_back(Item { name, key, dir, attributes, until, seq, version: None });
    }

    pub fn remember(&mut self, component: &str, change: impl FnOnce(&mut CachedName)) {
        if let Some(whole) = &mut self.whole {
            change(whole.entry(component.to_owned()).or_default());
            if whole.len() > LISTING_MAX {
                self.whole = None;
            }
        }
    }
}

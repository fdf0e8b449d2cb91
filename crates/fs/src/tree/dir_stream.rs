//! A directory's listing on its way to a reader: what was listed and not yet read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::metadata_sample::Metadata;
use super::name_cache::{CachedName, ChangeSeq, LISTING_MAX};
use super::parallel_listing::ParallelListing;
use super::version_nodes::VersionPlace;
use crate::file::OpenFile;
use crate::object::Attributes;
use windlass_base::FastMap;
use windlass_base::rt::Instant;
use windlass_store::VersionMark;

/// Largest number of entries handed out at once; more than fit a reply.
pub const BATCH: usize = 512;

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub name: Vec<u8>,
    pub key: String,
    pub dir: bool,
    pub attributes: Attributes,
    pub until: Instant,
    /// Change sequence at which the listing began.
    pub seq: Option<ChangeSeq>,
    /// Place of an earlier version, or of a directory of them; `None` for other names.
    pub version: Option<VersionPlace>,
    /// The entry's place in the stream, from 1 on; 0 before it has one (`Stream::number`).
    pub cookie: u64,
}

#[derive(Debug)]
pub struct DirHandle {
    pub ino: u64,
    /// Prefix of the directory when it was opened; empty where versions are listed.
    pub prefix: String,
    /// The directory of earlier versions that is listed; `None` for others.
    pub versions: Option<VersionPlace>,
    pub stream: tokio::sync::Mutex<Stream>,
}

#[derive(Debug, Default)]
pub struct Stream {
    /// The listing under way; `None` before it has begun.
    pub listing: Option<ParallelListing>,
    pub ended: bool,
    /// Prefix of the directory that is listed, once the listing has begun.
    pub prefix: String,
    /// Cookie of the entry behind which the window begins.
    pub base: u64,
    pub window: VecDeque<Item>,
    /// Number of entries in the window that have their cookies.
    numbered: usize,
    /// Hashes of the names that have had cookies, in the order of these.
    names: Vec<u64>,
    /// Hashes of names as in `names`, of the listing before, where a reader went back: its cookies count on.
    /// The directory is listed to its end then, before anything is given.
    before: Vec<u64>,
    /// Cookie up to which entries were looked at, as far as that was needed. The kernel takes a few of a
    /// batch at a time. What was found stays in the window, so that no name is asked for again.
    pub looked: u64,
    pub waiting: Vec<(String, Attributes)>,
    /// Local names that the listing has not shown.
    pub local: BTreeMap<String, Arc<OpenFile>>,
    pub kept: BTreeSet<String>,
    pub last_piece: Vec<u8>,
    pub metadata: Metadata,
    /// The whole directory for `NameCache`, from the listing's beginning on, as long as it is small; else
    /// `None`.
    pub whole: Option<BTreeMap<String, CachedName>>,
    pub until: Instant,
    pub seq: Option<ChangeSeq>,
    /// Beginning of the next page, where versions are listed.
    pub after: Option<VersionMark>,
    /// Names that were listed and may come again, where versions are listed.
    pub shown: Vec<String>,
}

impl Stream {
    /// Makes a new listing in which names that were given keep their cookies.
    pub fn again(self) -> Stream {
        let before = if self.before.is_empty() { self.names } else { self.before };
        Stream { before, ..Stream::default() }
    }

    /// Gives cookies to what was listed since the last call.
    pub fn number(&mut self) {
        if self.before.is_empty() {
            for item in self.window.iter_mut().skip(self.numbered) {
                self.names.push(xxh3_64(&item.name));
                item.cookie = self.names.len() as u64;
            }
            self.numbered = self.window.len();
        } else if self.ended {
            self.names = std::mem::take(&mut self.before);
            let at = |(at, name): (usize, &u64)| (*name, at as u64 + 1);
            let had: FastMap<u64, u64> = self.names.iter().enumerate().map(at).collect();
            for item in &mut self.window {
                let name = xxh3_64(&item.name);
                item.cookie = had.get(&name).copied().unwrap_or_else(|| {
                    self.names.push(name);
                    self.names.len() as u64
                });
            }
            self.window.make_contiguous().sort_by_key(|item| item.cookie);
            self.numbered = self.window.len();
        }
    }

    /// Tells whether the entry behind `cookie` is here, or the end. If so, the window begins there now.
    pub fn seek(&mut self, cookie: u64) -> bool {
        if cookie < self.base || self.numbered < self.window.len() {
            return false;
        }
        let last = self.window.back().map_or(self.base, |item| item.cookie);
        if !self.ended && cookie >= last {
            return false;
        }
        self.skip(cookie);
        true
    }

    /// Returns the window's first entries; only those that were `looked` at, if that is asked for.
    pub fn first(&self, looked: bool) -> Vec<Item> {
        let known = |item: &&Item| !looked || item.cookie <= self.looked;
        self.window.iter().take_while(known).take(BATCH).cloned().collect()
    }

    /// Drops the entries up to a cookie. A reader that seeks there lets them go page by page.
    pub fn skip(&mut self, cookie: u64) {
        let gone = self.window.iter().take_while(|item| item.cookie != 0 && item.cookie <= cookie).count();
        let base = self.base;
        let last = self.window.drain(..gone).next_back().map_or(base, |item| item.cookie);
        self.numbered -= gone;
        self.base = if self.window.is_empty() && !self.ended { last } else { cookie.max(self.base) };
    }

    /// Tells whether a reader from this cookie on must begin again.
    pub fn is_passed(&self, cookie: u64) -> bool {
        cookie < self.base || cookie == 0 && self.base == 0 && self.ended
    }

    pub fn push(&mut self, name: Vec<u8>, key: String, dir: bool, attributes: Attributes) {
        let (until, seq) = (self.until, self.seq);
        let (version, cookie) = (None, 0);
        self.window.push_back(Item { name, key, dir, attributes, until, seq, version, cookie });
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

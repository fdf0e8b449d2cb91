//! Earlier versions as read-only files: lookups, attributes, reading.
//!
//! Who may read a version is what its own metadata says, without the right to write; who may enter the versions of
//! what is in a directory, what that directory says or last said: what was private does not become public by being
//! old. A version's bytes and metadata never change, so that what was looked up once is believed as long as the kernel
//! knows it; that it is still there is asked anew as of any name.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::filesystem::{Entry, Fs, fail};
use super::lookup::{Looked, place_among};
use super::open::Opened;
use crate::base::Kind;
use crate::fs::object::{
    Base, Errno, Facts, Ns, Op, S_IFDIR, S_IFMT, S_IFREG, VERSIONS, VersionName, Wanted,
};
use crate::fs::read::{Ahead, Reader};
use crate::fs::tree::{How, PastFile, PastNode, PastPlace, is_past};
use crate::store::{Head, VersionMark};

/// Permission bits that are left of a version's.
const READS: u32 = 0o444;
const ENTERS: u32 = 0o555;
/// What comes with the answer to open(2).
const FIRST_READ: u64 = 128 << 10;
/// Versions of a key, or names like it, that a lookup asks for.
const FEW: usize = 8;
const PAGE: usize = 1000;

impl Fs {
    /// The name of the directory of earlier versions, which is in every directory and not listed.
    pub(super) fn is_versions(&self, name: &[u8]) -> bool {
        self.options().versions && name == VERSIONS.as_bytes()
    }

    pub(super) fn past_place(&self, ino: u64) -> Op<PastPlace> {
        let nodes = self.past.nodes.lock();
        nodes.get(ino).map(|n| n.place.clone()).ok_or_else(|| Errno::STALE.into())
    }

    fn past_entry(&self, node: &PastNode) -> Entry {
        let ttl = if node.facts.exact { self.options().ttl } else { Duration::ZERO };
        Entry { ino: node.ino, gone: false, facts: node.facts.clone(), ttl }
    }

    /// A place becomes a node that the kernel is told of, which is counted.
    pub(super) fn past_adopt(&self, place: &PastPlace, facts: &Facts) -> Entry {
        self.past_entry(self.past.nodes.lock().looked_up(place, facts))
    }

    /// A directory of versions that nobody may write to. `of`: the directory whose rights it has.
    pub(super) fn past_dir_facts(&self, of: Option<Facts>) -> Facts {
        let of = of.unwrap_or_else(|| self.default_facts(true));
        Facts { size: 4096, mode: S_IFDIR | of.mode & ENTERS, exact: true, xattrs: false, etag: None, ..of }
    }

    /// What a listing tells of a version; `exact` of a mark, which has no metadata.
    pub(super) fn past_listed(&self, size: u64, at_ms: u64, deleted: bool) -> Facts {
        let facts = Facts::listed(self.options(), false, size, None, Ns::from_ms(at_ms));
        Facts { mode: S_IFREG | facts.mode & READS, exact: deleted, ..facts }
    }

    fn past_facts(&self, head: &Head) -> Facts {
        let facts = Facts::of_head(self.options(), false, head);
        Facts { mode: S_IFREG | facts.mode & !S_IFMT & READS, ..facts }
    }

    /// `EOPNOTSUPP` where the store has no versions.
    async fn keeps_versions(&self) -> Op<()> {
        if self.past.kept.load(Ordering::Relaxed) {
            return Ok(());
        }
        let remote = &self.engine.remote;
        if !remote.versioned().await? {
            let what = "keeps no versions of its objects: turn versioning on for the bucket, or mount without -o versions";
            return Err(fail(Kind::Unsupported, format!("{} {what}", remote.url())));
        }
        self.past.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The same as `past_lookup`, from memory or not at all.
    pub(super) fn past_lookup_now(&self, parent: u64) -> Option<Op<Looked>> {
        if is_past(parent) || !self.past.kept.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.prefix(parent).map(|prefix| {
            let facts = self.inodes.lock().at(&prefix, true).map(|n| n.facts.clone());
            Looked::Found(self.past_adopt(&PastPlace::Names(prefix), &self.past_dir_facts(facts)))
        }))
    }

    pub(super) async fn past_lookup(&self, parent: u64, name: &[u8]) -> Op<Looked> {
        if !is_past(parent) {
            self.keeps_versions().await?;
            return self.past_lookup_now(parent).unwrap_or_else(|| Err(Errno::STALE.into()));
        }
        let place = match self.past_place(parent)? {
            PastPlace::Names(prefix) => self.name_among(&prefix, name).await?,
            PastPlace::Versions(key) if name == VERSIONS.as_bytes() => {
                Some(PastPlace::Names(format!("{key}/")))
            }
            PastPlace::Versions(key) => VersionName::read(name).map(|name| PastPlace::One { key, name }),
            PastPlace::One { .. } => return Err(Errno::NOTDIR.into()),
        };
        let place = place.ok_or(Errno::NOENT)?;
        let facts = self.past_look(&place).await?.ok_or(Errno::NOENT)?;
        Ok(Looked::Found(self.past_adopt(&place, &facts)))
    }

    /// What has versions below a prefix under this name.
    async fn name_among(&self, prefix: &str, name: &[u8]) -> Op<Option<PastPlace>> {
        let place = place_among(self.naming(), prefix, name)?;
        Ok(match place.wanted {
            Wanted::Any(_) => Some(PastPlace::Versions(place.stem)),
            Wanted::Piece(_) => Some(PastPlace::Names(place.stem)),
            Wanted::Object(_) => None,
        })
    }

    /// What the store says of a place; none: it is not there.
    async fn past_look(&self, place: &PastPlace) -> Op<Option<Facts>> {
        match place {
            PastPlace::Names(prefix) => self.past_directory(prefix).await,
            PastPlace::Versions(key) => Ok(self.has_versions(key).await?.then(|| self.past_dir_facts(None))),
            PastPlace::One { key, name } if name.deleted => {
                let there = self.is_marked(key, name).await?;
                Ok(there.then(|| self.past_listed(0, name.at_ms, true)))
            }
            PastPlace::One { key, name } => {
                let head = self.engine.remote.head_version(key, Some(&name.id), false).await?;
                // To the second: some stores list milliseconds, and none tells them with an object.
                let same = |head: &Head| head.modified_ms / 1000 == name.at_ms / 1000;
                Ok(head.filter(same).map(|head| self.past_facts(&head)))
            }
        }
    }

    /// A directory, by the marker that it has or last had; a piece has none.
    async fn past_directory(&self, prefix: &str) -> Op<Option<Facts>> {
        let now = self.now();
        let known = {
            let inodes = self.inodes.lock();
            let node = inodes.at(prefix, true).filter(|n| n.facts.exact && n.until > now);
            node.map(|n| n.facts.clone())
        };
        if known.is_some() {
            return Ok(Some(self.past_dir_facts(known)));
        }
        let page = self.engine.remote.versions(prefix, None, false, FEW).await?;
        if page.versions.is_empty() {
            return Ok(None);
        }
        let marker = page.versions.iter().find(|v| v.key == prefix && prefix.ends_with('/') && !v.deleted);
        let head = match marker {
            Some(marker) => self.engine.remote.head_version(prefix, Some(&marker.id), false).await?,
            None => None,
        };
        let facts = head.map(|head| Facts::of_head(self.options(), true, &head));
        Ok(Some(self.past_dir_facts(facts)))
    }

    /// An object of this name is or was there, or a directory.
    async fn has_versions(&self, key: &str) -> Op<bool> {
        let (remote, dir) = (&self.engine.remote, format!("{key}/"));
        let page = remote.versions(key, None, true, FEW).await?;
        if page.versions.iter().any(|v| v.key == key) || page.prefixes.contains(&dir) {
            return Ok(true);
        }
        Ok(page.next.is_some() && !remote.versions(&dir, None, false, 1).await?.versions.is_empty())
    }

    /// Whether a version marks that the object was deleted: only a listing tells.
    async fn is_marked(&self, key: &str, name: &VersionName) -> Op<bool> {
        let mut after: Option<VersionMark> = None;
        loop {
            let page = self.engine.remote.versions(key, after, true, PAGE).await?;
            let is_it = |v: &&crate::store::Version| v.key == key && v.id == name.id && v.deleted;
            if let Some(found) = page.versions.iter().find(is_it) {
                return Ok(found.modified_ms == name.at_ms);
            }
            let others = page.versions.iter().any(|v| v.key != key) || !page.prefixes.is_empty();
            match page.next {
                Some(next) if !others => after = Some(next),
                _ => return Ok(false),
            }
        }
    }

    pub(super) fn past_getattr_now(&self, ino: u64) -> Option<Op<Entry>> {
        let nodes = self.past.nodes.lock();
        match nodes.get(ino) {
            Some(node) => node.facts.exact.then(|| Ok(self.past_entry(node))),
            None => Some(Err(Errno::STALE.into())),
        }
    }

    pub(super) async fn past_getattr(&self, ino: u64) -> Op<Entry> {
        if let Some(known) = self.past_getattr_now(ino) {
            return known;
        }
        let facts = self.past_look(&self.past_place(ino)?).await?.ok_or(Errno::NOENT)?;
        let mut nodes = self.past.nodes.lock();
        let node = nodes.get_mut(ino).ok_or(Errno::STALE)?;
        node.facts = facts;
        Ok(self.past_entry(node))
    }

    pub(super) async fn past_open(&self, ino: u64, how: How) -> Op<Opened> {
        if how.write || how.truncate {
            return Err(Errno::ROFS.into());
        }
        let PastPlace::One { key, name } = self.past_place(ino)? else { return Err(Errno::ISDIR.into()) };
        let (reader, remote) = (Reader::default(), &self.engine.remote);
        let base = match name.deleted {
            true => None,
            false => {
                let found = remote.get_version(&key, &name.id, 0, FIRST_READ).await?.ok_or(Errno::NOENT)?;
                let base = Base { etag: found.head.etag, size: found.head.size };
                reader.prime(&key, &base, 0, found.body);
                Some(base)
            }
        };
        let keep_cache = {
            let mut nodes = self.past.nodes.lock();
            let node = nodes.get_mut(ino).ok_or(Errno::STALE)?;
            let etag = base.as_ref().map(|base| base.etag.clone());
            std::mem::replace(&mut node.cached, etag) == node.cached
        };
        let ahead = Ahead { version: Some(name.id), ..self.engine.ahead.clone() };
        let handle = self.handle();
        self.handles.lock().past_files.insert(handle, Arc::new(PastFile { key, base, reader, ahead }));
        Ok(Opened { handle, keep_cache })
    }

    pub(super) fn past_file(&self, handle: u64) -> Option<Arc<PastFile>> {
        self.handles.lock().past_files.get(&handle).cloned()
    }
}

impl PastFile {
    /// What of a request lies within the version.
    fn part(&self, offset: u64, len: u64) -> Option<(&Base, std::ops::Range<u64>)> {
        let base = self.base.as_ref()?;
        let range = offset..offset.saturating_add(len).min(base.size);
        (range.start < range.end).then_some((base, range))
    }

    pub fn read_now(&self, offset: u64, len: u64) -> Option<Bytes> {
        let Some((base, range)) = self.part(offset, len) else { return Some(Bytes::new()) };
        self.reader.read_now(&self.ahead, &self.key, base, &range)
    }

    pub async fn read(&self, offset: u64, len: u64) -> Op<Bytes> {
        let Some((base, range)) = self.part(offset, len) else { return Ok(Bytes::new()) };
        Ok(self.reader.read(&self.ahead, &self.key, base, range).await?)
    }
}

//! Earlier versions as read-only files: lookups, attributes, reading.
//!
//! Who may read a version is what its own metadata says, without the right to write; who may enter the versions of
//! what is in a directory, what that directory says or last said: what was private does not become public by being
//! old. A version's bytes and metadata never change, so that what was looked up once is believed as long as the kernel
//! knows it; that it is still there is asked anew as of any name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::filesystem::{Entry, Fs, fail};
use super::handle_io::Opened;
use super::lookup::{Looked, place_among};
use crate::object::{
    Attributes, Base, Errno, Ns, Op, S_IFDIR, S_IFMT, S_IFREG, VERSIONS, VersionName, Wanted,
};
use crate::read::{ReadAhead, Reader};
use crate::tree::{OpenMode, VersionFile, VersionPlace, is_version};
use windlass_base::Kind;
use windlass_store::{Head, VersionMark};

/// Permission bits that a version keeps of its own.
const READS: u32 = 0o444;
const ENTERS: u32 = 0o555;
/// Number of a version's first bytes that come with the answer to open(2).
const FIRST_READ: u64 = 128 << 10;
/// Number of versions of a key, or names like it, for which a lookup asks.
const FEW: usize = 8;
const PAGE: usize = 1000;

impl Fs {
    /// Returns the attributes of a directory of versions, to which nobody may write. `of`: attributes of the
    /// directory whose rights it has.
    pub(super) fn version_dir_attributes(&self, of: Option<Attributes>) -> Attributes {
        let of = of.unwrap_or_else(|| self.default_attributes(true));
        Attributes {
            size: 4096,
            mode: S_IFDIR | of.mode & ENTERS,
            exact: true,
            xattrs: false,
            etag: None,
            ..of
        }
    }

    /// Returns what a listing tells of a version; exact for a mark of a deletion, which has no metadata.
    pub(super) fn version_listed(&self, size: u64, at_ms: u64, deleted: bool) -> Attributes {
        let attributes = Attributes::listed(self.options(), false, size, None, Ns::from_ms(at_ms));
        Attributes { mode: S_IFREG | attributes.mode & READS, exact: deleted, ..attributes }
    }

    fn version_attributes(&self, head: &Head) -> Attributes {
        let attributes = Attributes::of_head(self.options(), false, head);
        Attributes { mode: S_IFREG | attributes.mode & !S_IFMT & READS, ..attributes }
    }

    /// Fails with `EOPNOTSUPP` where the store keeps no versions.
    async fn keeps_versions(&self) -> Op<()> {
        if self.version_tree.kept.load(Ordering::Relaxed) {
            return Ok(());
        }
        let remote = &self.context.remote;
        if !remote.versioned().await? {
            let what = "keeps no versions of its objects: turn versioning on for the bucket, or mount without -o versions";
            return Err(fail(Kind::Unsupported, format!("{} {what}", remote.url())));
        }
        self.version_tree.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Answers as `version_lookup` does, from memory or not at all.
    pub(super) fn version_lookup_now(&self, parent: u64) -> Option<Op<Looked>> {
        if is_version(parent) || !self.version_tree.kept.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.prefix(parent).map(|prefix| {
            let attributes = self.inodes.lock().at(&prefix, true).map(|n| n.attributes.clone());
            Looked::Found(
                self.version_adopt(&VersionPlace::Names(prefix), &self.version_dir_attributes(attributes)),
            )
        }))
    }

    pub(super) async fn version_lookup(&self, parent: u64, name: &[u8]) -> Op<Looked> {
        if !is_version(parent) {
            self.keeps_versions().await?;
            return self.version_lookup_now(parent).unwrap_or_else(|| Err(Errno::STALE.into()));
        }
        let place = match self.version_place(parent)? {
            VersionPlace::Names(prefix) => self.name_among(&prefix, name).await?,
            VersionPlace::Versions(key) if name == VERSIONS.as_bytes() => {
                Some(VersionPlace::Names(format!("{key}/")))
            }
            VersionPlace::Versions(key) => {
                VersionName::read(name).map(|name| VersionPlace::One { key, name })
            }
            VersionPlace::One { .. } => return Err(Errno::NOTDIR.into()),
        };
        let place = place.ok_or(Errno::NOENT)?;
        let attributes = self.version_look(&place).await?.ok_or(Errno::NOENT)?;
        Ok(Looked::Found(self.version_adopt(&place, &attributes)))
    }

    /// Returns the place of what has versions below a prefix under this name.
    async fn name_among(&self, prefix: &str, name: &[u8]) -> Op<Option<VersionPlace>> {
        let place = place_among(self.naming(), prefix, name)?;
        Ok(match place.wanted {
            Wanted::Any(_) => Some(VersionPlace::Versions(place.stem)),
            Wanted::Piece(_) => Some(VersionPlace::Names(place.stem)),
            Wanted::Object(_) => None,
        })
    }

    /// Returns what the store says of a place; `None`: it is not there.
    async fn version_look(&self, place: &VersionPlace) -> Op<Option<Attributes>> {
        match place {
            VersionPlace::Names(prefix) => self.version_directory(prefix).await,
            VersionPlace::Versions(key) => {
                Ok(self.has_versions(key).await?.then(|| self.version_dir_attributes(None)))
            }
            VersionPlace::One { key, name } if name.deleted => {
                let there = self.is_marked(key, name).await?;
                Ok(there.then(|| self.version_listed(0, name.at_ms, true)))
            }
            VersionPlace::One { key, name } => {
                let head = self.context.remote.head_version(key, Some(&name.id), false).await?;
                // To the second: some stores list milliseconds, and none tells them with an object.
                let same = |head: &Head| head.modified_ms.is_none_or(|ms| ms / 1000 == name.at_ms / 1000);
                Ok(head.filter(same).map(|head| self.version_attributes(&head)))
            }
        }
    }

    /// Returns a directory's attributes by the marker that it has or last had; a piece has none. `None` if
    /// nothing has versions below it.
    async fn version_directory(&self, prefix: &str) -> Op<Option<Attributes>> {
        let now = self.now();
        let known = {
            let inodes = self.inodes.lock();
            let node = inodes.at(prefix, true).filter(|n| n.attributes.exact && n.until > now);
            node.map(|n| n.attributes.clone())
        };
        if known.is_some() {
            return Ok(Some(self.version_dir_attributes(known)));
        }
        let page = self.context.remote.versions_some(prefix, false, FEW).await?;
        if page.versions.is_empty() {
            return Ok(None);
        }
        let marker = page.versions.iter().find(|v| v.key == prefix && prefix.ends_with('/') && !v.deleted);
        let head = match marker {
            Some(marker) => self.context.remote.head_version(prefix, Some(&marker.id), false).await?,
            None => None,
        };
        let attributes = head.map(|head| Attributes::of_head(self.options(), true, &head));
        Ok(Some(self.version_dir_attributes(attributes)))
    }

    /// Tells whether an object of this name is or was there, or a directory.
    async fn has_versions(&self, key: &str) -> Op<bool> {
        let (remote, dir) = (&self.context.remote, format!("{key}/"));
        let page = remote.versions_some(key, true, FEW).await?;
        if page.versions.iter().any(|v| v.key == key) || page.prefixes.contains(&dir) {
            return Ok(true);
        }
        Ok(page.next.is_some() && !remote.versions_some(&dir, false, 1).await?.versions.is_empty())
    }

    /// Tells whether a version marks that the object was deleted: only a listing says so.
    async fn is_marked(&self, key: &str, name: &VersionName) -> Op<bool> {
        let mut after: Option<VersionMark> = None;
        loop {
            let page = self.context.remote.versions(key, after, true, PAGE).await?;
            let is_it = |v: &&windlass_store::Version| v.key == key && v.id == name.id && v.deleted;
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

    pub(super) fn version_getattr_now(&self, ino: u64) -> Option<Op<Entry>> {
        let nodes = self.version_tree.nodes.lock();
        match nodes.get(ino) {
            Some(node) => node.attributes.exact.then(|| Ok(self.version_entry(node))),
            None => Some(Err(Errno::STALE.into())),
        }
    }

    pub(super) async fn version_getattr(&self, ino: u64) -> Op<Entry> {
        if let Some(known) = self.version_getattr_now(ino) {
            return known;
        }
        let attributes = self.version_look(&self.version_place(ino)?).await?.ok_or(Errno::NOENT)?;
        let mut nodes = self.version_tree.nodes.lock();
        let node = nodes.get_mut(ino).ok_or(Errno::STALE)?;
        node.attributes = attributes;
        Ok(self.version_entry(node))
    }

    pub(super) async fn version_open(&self, ino: u64, how: OpenMode) -> Op<Opened> {
        if how.write || how.truncate {
            return Err(Errno::ROFS.into());
        }
        let VersionPlace::One { key, name } = self.version_place(ino)? else {
            return Err(Errno::ISDIR.into());
        };
        let (reader, remote) = (Reader::default(), &self.context.remote);
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
            let mut nodes = self.version_tree.nodes.lock();
            let node = nodes.get_mut(ino).ok_or(Errno::STALE)?;
            let etag = base.as_ref().map(|base| base.etag.clone());
            std::mem::replace(&mut node.cached, etag) == node.cached
        };
        let ahead = ReadAhead { version: Some(name.id), ..self.context.ahead.clone() };
        let handle = self.handle();
        self.handles.lock().version_files.insert(handle, Arc::new(VersionFile { key, base, reader, ahead }));
        Ok(Opened { handle, keep_cache })
    }
}

impl VersionFile {
    /// Returns the part of a request that lies within the version.
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

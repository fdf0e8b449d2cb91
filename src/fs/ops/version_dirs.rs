//! Listing earlier versions: a page of the store's listing at a time, as of any directory.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::filesystem::Fs;
use crate::base::rt::Instant;
use crate::fs::object::{Attributes, Errno, Op, S_IFDIR, Shown, VERSIONS, VersionName, belongs};
use crate::fs::tree::{Item, VersionDir, VersionPlace, VersionStream};

const PAGE: usize = 1000;

impl Fs {
    pub(super) fn version_opendir(&self, ino: u64) -> Op<u64> {
        let place = self.version_place(ino)?;
        if matches!(place, VersionPlace::One { .. }) {
            return Err(Errno::NOTDIR.into());
        }
        let handle = self.handle();
        self.handles
            .lock()
            .version_dirs
            .insert(handle, Arc::new(VersionDir { place, stream: Default::default() }));
        Ok(handle)
    }

    pub(super) fn version_dir(&self, handle: u64) -> Option<Arc<VersionDir>> {
        self.handles.lock().version_dirs.get(&handle).cloned()
    }

    pub(super) async fn version_readdir(&self, dir: &VersionDir, cookie: u64) -> Op<Vec<Item>> {
        let mut at = dir.stream.lock().await;
        if at.stream.is_passed(cookie) {
            *at = VersionStream::default();
        }
        loop {
            if let Some(batch) = at.stream.batch(cookie) {
                return Ok(batch);
            }
            if at.stream.ended {
                return Ok(Vec::new());
            }
            at.stream.skip(cookie);
            match &dir.place {
                VersionPlace::Names(prefix) => self.names_page(prefix, &mut at).await?,
                VersionPlace::Versions(key) => self.versions_page(key, &mut at).await?,
                VersionPlace::One { .. } => return Err(Errno::NOTDIR.into()),
            }
        }
    }

    /// Each name once, however many versions it has and though it is an object and a directory: those two may come
    /// pages apart, with only names between them that begin like theirs.
    async fn names_page(&self, prefix: &str, at: &mut VersionStream) -> Op<()> {
        let page = self.context.remote.versions(prefix, at.after.take(), true, PAGE).await?;
        // A marker of no bytes is the directory itself.
        let objects = page.versions.iter().filter(|v| v.key != prefix || v.size > 0);
        let mut names: BTreeSet<&str> = objects.map(|v| &v.key[prefix.len()..]).collect();
        names.extend(page.prefixes.iter().map(|p| &p[prefix.len()..]));
        for name in names {
            let component = name.strip_suffix('/').unwrap_or(name);
            at.shown.retain(|c| component.starts_with(c.as_str()) || c.starts_with(component));
            if at.shown.iter().any(|c| c == component) {
                continue;
            }
            at.shown.push(component.to_owned());
            match self.naming().show(component) {
                Shown::Name(name) if belongs(prefix, component) => {
                    at.push_dir(self, name, VersionPlace::Versions(format!("{prefix}{component}")));
                }
                Shown::Name(_) => {}
                // All that begin with one piece come one after another.
                Shown::Piece { name, .. } if at.stream.last_piece == name => {}
                Shown::Piece { name, len } => {
                    at.stream.last_piece.clone_from(&name);
                    at.push_dir(self, name, VersionPlace::Names(format!("{prefix}{}", &component[..len])));
                }
            }
        }
        at.stream.ended = page.next.is_none();
        at.after = page.next;
        Ok(())
    }

    async fn versions_page(&self, key: &str, at: &mut VersionStream) -> Op<()> {
        let (remote, dir) = (&self.context.remote, format!("{key}/"));
        let page = remote.versions(key, at.after.take(), true, PAGE).await?;
        for v in page.versions.iter().filter(|v| v.key == key) {
            let name = VersionName { at_ms: v.modified_ms, id: v.id.clone(), deleted: v.deleted };
            let Some(shown) = name.show() else {
                tracing::warn!(key, version = v.id, "a version with so long an id can't be shown");
                continue;
            };
            let attributes = self.version_listed(v.size, v.modified_ms, v.deleted);
            at.push(shown, attributes, VersionPlace::One { key: key.to_owned(), name });
        }
        let others = page.versions.iter().any(|v| v.key != key) || !page.prefixes.is_empty();
        if page.next.is_some() && !others {
            at.after = page.next;
            return Ok(());
        }
        // Its directory comes behind names like `key-1`, perhaps pages later.
        let nested = page.prefixes.contains(&dir)
            || page.next.is_some() && !remote.versions(&dir, None, false, 1).await?.versions.is_empty();
        if nested {
            at.push_dir(self, VERSIONS.into(), VersionPlace::Names(dir));
        }
        at.stream.ended = true;
        Ok(())
    }
}

impl VersionStream {
    fn push_dir(&mut self, fs: &Fs, name: Vec<u8>, place: VersionPlace) {
        let mut attributes = fs.version_dir_attributes(None);
        if matches!(place, VersionPlace::Names(_)) {
            // Whose it is tells only a look at the directory: until then it is nobody's.
            (attributes.mode, attributes.exact) = (S_IFDIR, false);
        }
        self.push(name, attributes, place);
    }

    fn push(&mut self, name: Vec<u8>, attributes: Attributes, place: VersionPlace) {
        let (VersionPlace::Names(key) | VersionPlace::Versions(key) | VersionPlace::One { key, .. }) = &place;
        let (key, dir, version) = (key.clone(), attributes.is_dir(), Some(place));
        let (until, seq) = (Instant::default(), None);
        self.stream.window.push_back(Item { name, key, dir, attributes, until, seq, version });
    }
}

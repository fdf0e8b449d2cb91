//! Listing earlier versions: a page of the store's listing at a time, as of any directory.

use std::collections::BTreeSet;

use super::filesystem::Fs;
use crate::object::{Attributes, Errno, Op, S_IFDIR, Shown, VERSIONS, VersionName, belongs};
use crate::tree::{Item, Stream, VersionPlace};
use windlass_base::rt::Instant;

const PAGE: usize = 1000;

impl Fs {
    /// Lists the next page of the versions, or names that have versions, at a place.
    pub(super) async fn version_page(&self, place: &VersionPlace, stream: &mut Stream) -> Op<()> {
        match place {
            VersionPlace::Names(prefix) => self.names_page(prefix, stream).await,
            VersionPlace::Versions(key) => self.versions_page(key, stream).await,
            VersionPlace::One { .. } => Err(Errno::NOTDIR.into()),
        }
    }

    /// Lists each name once, however many versions it has and though it is an object and a directory. Those
    /// two may come pages apart, with only names between them that begin like theirs.
    async fn names_page(&self, prefix: &str, stream: &mut Stream) -> Op<()> {
        let page = self.context.remote.versions(prefix, stream.after.clone(), true, PAGE).await?;
        // A marker of no bytes is the directory itself.
        let objects = page.versions.iter().filter(|v| v.key != prefix || v.size > 0);
        let mut names: BTreeSet<&str> = objects.map(|v| &v.key[prefix.len()..]).collect();
        names.extend(page.prefixes.iter().map(|p| &p[prefix.len()..]));
        for name in names {
            let component = name.strip_suffix('/').unwrap_or(name);
            stream.shown.retain(|c| component.starts_with(c.as_str()) || c.starts_with(component));
            if stream.shown.iter().any(|c| c == component) {
                continue;
            }
            stream.shown.push(component.to_owned());
            match self.naming().show(component) {
                Shown::Name(name) if belongs(prefix, component) => {
                    push_dir(self, stream, name, VersionPlace::Versions(format!("{prefix}{component}")));
                }
                Shown::Name(_) => {}
                // All that begin with one piece come one after another.
                Shown::Piece { name, .. } if stream.last_piece == name => {}
                Shown::Piece { name, len } => {
                    stream.last_piece.clone_from(&name);
                    push_dir(
                        self,
                        stream,
                        name,
                        VersionPlace::Names(format!("{prefix}{}", &component[..len])),
                    );
                }
            }
        }
        stream.ended = page.next.is_none();
        stream.after = page.next;
        Ok(())
    }

    async fn versions_page(&self, key: &str, stream: &mut Stream) -> Op<()> {
        let (remote, dir) = (&self.context.remote, format!("{key}/"));
        let page = remote.versions(key, stream.after.clone(), true, PAGE).await?;
        let others = page.versions.iter().any(|v| v.key != key) || !page.prefixes.is_empty();
        let goes_on = page.next.is_some() && !others;
        // Its directory comes behind names like `key-1`, perhaps pages later. Who asks again after an error must find
        // nothing of this page shown.
        let nested = !goes_on
            && (page.prefixes.contains(&dir)
                || page.next.is_some() && !remote.versions_some(&dir, false, 1).await?.versions.is_empty());
        for v in page.versions.iter().filter(|v| v.key == key) {
            let name = VersionName { at_ms: v.modified_ms, id: v.id.clone(), deleted: v.deleted };
            let Some(shown) = name.show() else {
                tracing::warn!(key, version = v.id, "a version with so long an id can't be shown");
                continue;
            };
            let attributes = self.version_listed(v.size, v.modified_ms, v.deleted);
            push(stream, shown, attributes, VersionPlace::One { key: key.to_owned(), name });
        }
        if nested {
            push_dir(self, stream, VERSIONS.into(), VersionPlace::Names(dir));
        }
        (stream.after, stream.ended) = (page.next, !goes_on);
        Ok(())
    }
}

fn push_dir(fs: &Fs, stream: &mut Stream, name: Vec<u8>, place: VersionPlace) {
    let mut attributes = fs.version_dir_attributes(None);
    if matches!(place, VersionPlace::Names(_)) {
        // Whose it is tells only a look at the directory: until then it is nobody's.
        (attributes.mode, attributes.exact) = (S_IFDIR, false);
    }
    push(stream, name, attributes, place);
}

fn push(stream: &mut Stream, name: Vec<u8>, attributes: Attributes, place: VersionPlace) {
    let (VersionPlace::Names(key) | VersionPlace::Versions(key) | VersionPlace::One { key, .. }) = &place;
    let (key, dir, version) = (key.clone(), attributes.is_dir(), Some(place));
    let (until, seq) = (Instant::default(), None);
    stream.window.push_back(Item { name, key, dir, attributes, until, seq, version, cookie: 0 });
}

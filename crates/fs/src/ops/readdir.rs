//! Listing a directory as a stream: a page of the bucket's listing at a time, whatever the directory's size.
//!
//! An entry's cookie is its place in the stream. A handle holds only what was listed and not yet read, and a hash of each name
//! that it has given: who seeks back makes it list anew, and finds the names at their cookies. An object `a` and objects `a/…` may come pages apart: an object is shown once the listing is
//! past `a/`, until when it waits (`waiting`, never more than a chain of names that begin with each other).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};

use super::filesystem::{Entry, Fs};
use super::lookup::Target;
use crate::bucket::BucketClient;
use crate::object::{Attributes, Errno, Fail, Op, Shown, Wanted, belongs, last, show_beside, want};
use crate::tree::{
    BATCH, DirHandle, Item, ListedEntry, Metadata, PageSource, ParallelListing, SAMPLE, Stream, VersionPlace,
    is_version,
};
use windlass_base::Result;
use windlass_store::Page;

const PAGE: usize = 1000;
const HEADS_AT_ONCE: usize = 64;
/// Number of entries of about one reply. So many are looked at for the first reply, in which the kernel wants
/// attributes whether or not a program does (`ls` beside `ls -l`). So many come before another sample is
/// tried where none could be looked at.
const REPLY: usize = 32;

/// Source of a directory's pages that asks the store.
struct Directory {
    remote: BucketClient,
    prefix: String,
}

#[async_trait]
impl PageSource for Directory {
    async fn page(&self, after: Option<String>) -> Result<Page> {
        self.remote.list(&self.prefix, after, true, PAGE).await
    }
    fn prefix(&self) -> &str {
        &self.prefix
    }
    fn most(&self) -> u64 {
        PAGE as u64
    }
}

impl Fs {
    pub fn opendir(&self, ino: u64) -> Op<u64> {
        let (prefix, versions) = match is_version(ino) {
            true => (String::new(), Some(self.version_place(ino)?)),
            false => (self.prefix(ino)?, None),
        };
        if matches!(versions, Some(VersionPlace::One { .. })) {
            return Err(Errno::NOTDIR.into());
        }
        let handle = self.handle();
        let dir = DirHandle { ino, prefix, versions, stream: Default::default() };
        // The table has no node of a version, and counts none.
        self.inodes.lock().opened(ino);
        self.handles.lock().dirs.insert(handle, Arc::new(dir));
        Ok(handle)
    }

    pub fn releasedir(&self, handle: u64) {
        let dir = self.handles.lock().dirs.remove(&handle);
        if let Some(dir) = dir {
            self.inodes.lock().closed(dir.ino);
        }
    }

    /// Makes sure, for fsync(2) of a directory, that the names that are gone here are gone in the bucket.
    /// Fails with `EIO` where some can't be deleted.
    pub async fn fsync_dir(&self, ino: u64) -> Op<()> {
        if is_version(ino) {
            return Ok(());
        }
        let prefix = self.prefix(ino)?;
        let removed = self.context.remote.deletes.retry_below(&prefix).await;
        removed.map_err(|why| Fail {
            errno: Errno::IO,
            why: Some(why.context("removed names could not be deleted")),
        })?;
        self.context.staging.folder.sync_removals().await?;
        Ok(())
    }

    fn dir(&self, handle: u64) -> Op<Arc<DirHandle>> {
        self.handles.lock().dirs.get(&handle).cloned().ok_or_else(|| Errno::BADF.into())
    }

    /// Returns entries from `cookie` on, without `.` and `..`, and none at the end. Their attributes are
    /// exact if `plus` asks for that and the directory's objects carry metadata.
    pub async fn readdir(&self, handle: u64, cookie: u64, plus: bool) -> Op<Vec<Item>> {
        let dir = self.dir(handle)?;
        let mut stream = dir.stream.lock().await;
        // Of versions their listing tells enough.
        let plus = plus && dir.versions.is_none();
        let prefix = self.listed_prefix(&dir);
        if cookie == 0 && stream.is_passed(cookie) {
            *stream = Stream::default();
        } else if stream.is_passed(cookie) || stream.listing.is_some() && stream.prefix != prefix {
            *stream = std::mem::take(&mut *stream).again();
        }
        loop {
            if stream.seek(cookie) {
                if plus && stream.looked <= cookie {
                    self.enrich(&prefix, &mut stream).await?;
                }
                return Ok(stream.first(plus));
            }
            if stream.ended {
                return Ok(Vec::new());
            }
            stream.skip(cookie);
            match &dir.versions {
                Some(place) => self.version_page(place, &mut stream).await?,
                None => self.next_page(&prefix, &mut stream).await?,
            }
            stream.number();
        }
    }

    /// Returns entries as `readdir` does, if they are here and need no look at their metadata.
    pub fn readdir_now(&self, handle: u64, cookie: u64, plus: bool) -> Option<Vec<Item>> {
        let dir = self.dir(handle).ok()?;
        let mut stream = dir.stream.try_lock().ok()?;
        let (plain, options) = (stream.metadata == Metadata::None, self.options());
        if dir.versions.is_some()
            || cookie == 0
            || stream.prefix != self.listed_prefix(&dir)
            || plus && !(plain && options.sampled && !options.allow_other)
        {
            return None;
        }
        stream.seek(cookie).then(|| stream.first(false))
    }

    /// Returns the number that a listed name has, or would have. The kernel is told nothing else of the name,
    /// and neither is its node.
    pub fn number_of(&self, item: &Item) -> u64 {
        if item.version.is_some() {
            let entry = self.adopt_item(item);
            self.forget(entry.ino, 1);
            return entry.ino;
        }
        let mut inodes = self.inodes.lock();
        let ino = inodes.meet(&item.key, item.dir, &item.attributes).ino;
        inodes.forget(ino, 0);
        ino
    }

    /// Makes a node of a listed name and counts that the kernel is told of it: `forget` the node if that
    /// isn't done.
    pub fn adopt_item(&self, item: &Item) -> Entry {
        if let Some(place) = &item.version {
            return self.version_adopt(place, &item.attributes);
        }
        let beside = !item.dir && matches!(want(&item.name), Some(Wanted::Object(_)));
        let (key, attributes) = (item.key.clone(), item.attributes.clone());
        self.adopt(Target { key, dir: item.dir, beside, attributes, until: item.until, seq: item.seq })
    }

    /// Returns the prefix that a handle lists: its directory may have been renamed since it was opened.
    fn listed_prefix(&self, dir: &DirHandle) -> String {
        let inodes = self.inodes.lock();
        let node = inodes.get(dir.ino).filter(|node| node.dir && !node.gone && dir.versions.is_none());
        node.map_or_else(|| dir.prefix.clone(), |node| node.key.clone())
    }

    fn begin(&self, prefix: &str, stream: &mut Stream) -> ParallelListing {
        prefix.clone_into(&mut stream.prefix);
        stream.seq = Some(self.name_cache.seq());
        (stream.until, stream.whole) = (self.until(self.now()), Some(BTreeMap::new()));
        let inodes = self.inodes.lock();
        let direct = |key: &str| Some(key[prefix.len()..].to_owned()).filter(|c| !c.contains('/'));
        let local = inodes.local_below(prefix).into_iter();
        stream.local = local.filter_map(|(key, file)| Some((direct(&key)?, file))).collect();
        stream.kept = inodes.kept_in(prefix, self.now()).into_iter().collect();
        let directory = Directory { remote: self.context.remote.clone(), prefix: prefix.to_owned() };
        ParallelListing::new(self.context.rt.clone(), Arc::new(directory))
    }

    async fn next_page(&self, prefix: &str, stream: &mut Stream) -> Op<()> {
        if stream.listing.is_none() {
            stream.listing = Some(self.begin(prefix, stream));
        }
        let listing = stream.listing.as_mut().expect("made above");
        let (lines, ended) = listing.next().await?;
        for listed in lines {
            let name = &listed.key()[prefix.len()..];
            // Waiting objects whose directory, if there were one, would have come by now.
            while stream.waiting.first().is_some_and(|(c, _)| *name > *format!("{c}/")) {
                let (component, attributes) = stream.waiting.remove(0);
                self.show_object(prefix, stream, component, attributes, false);
            }
            self.take(prefix, stream, listed);
        }
        if ended {
            self.end(prefix, stream).await?;
        }
        Ok(())
    }

    fn take(&self, prefix: &str, stream: &mut Stream, listed: ListedEntry) {
        match listed {
            // A marker of no bytes is the directory itself.
            ListedEntry::Object(o) if o.key == prefix && o.size == 0 => {}
            ListedEntry::Object(o) => {
                let component = o.key[prefix.len()..].to_owned();
                stream.local.remove(&component);
                stream.waiting.push((component, Attributes::of_listed(self.options(), o)));
            }
            ListedEntry::Prefix(p) => {
                let component = p[prefix.len()..p.len() - 1].to_owned();
                stream.kept.remove(&component);
                if let Some(at) = stream.waiting.iter().position(|(c, _)| *c == component) {
                    let (component, attributes) = stream.waiting.remove(at);
                    self.show_object(prefix, stream, component, attributes, true);
                }
                self.show_dir(prefix, stream, component);
            }
        }
    }

    async fn end(&self, prefix: &str, stream: &mut Stream) -> Op<()> {
        for (component, attributes) in std::mem::take(&mut stream.waiting) {
            self.show_object(prefix, stream, component, attributes, false);
        }
        for (component, file) in std::mem::take(&mut stream.local) {
            let key = format!("{prefix}{component}");
            let attributes = if file.key() == key && !file.is_unlinked() {
                Some(file.attributes(self.options()))
            } else {
                // Removed since the listing began; or another has its name, which came too late for the listing.
                let head = self.context.remote.head(&key).await?;
                head.map(|head| Attributes::of_head(self.options(), false, &head))
            };
            // Its node tells, now and later: what it is while it is written is not remembered.
            if let (Some(attributes), Shown::Name(name)) = (attributes, self.naming().show(&component)) {
                let (dir, until, seq) = (false, stream.until, None);
                let (version, cookie) = (None, 0);
                stream.window.push_back(Item { name, key, dir, attributes, until, seq, version, cookie });
            }
        }
        for component in std::mem::take(&mut stream.kept) {
            self.show_dir(prefix, stream, component);
        }
        stream.ended = true;
        if let (Some(whole), Some(seq)) = (stream.whole.take(), stream.seq)
            && last(prefix).is_empty()
        {
            self.name_cache.learn_listing(prefix, whole, stream.until, stream.metadata, seq);
        }
        Ok(())
    }

    fn show_object(
        &self,
        prefix: &str,
        stream: &mut Stream,
        component: String,
        attributes: Attributes,
        beside: bool,
    ) {
        stream.remember(&component, |seen| seen.object = Some(attributes.clone()));
        let (key, naming) = (format!("{prefix}{component}"), self.naming());
        let shown =
            if beside { show_beside(&component).map(Shown::Name) } else { Some(naming.show(&component)) };
        match shown {
            Some(shown) => self.show(prefix, stream, &component, shown, (key, false, attributes)),
            None => tracing::warn!(key, "an object beside a directory of the same long name can't be shown"),
        }
    }

    fn show_dir(&self, prefix: &str, stream: &mut Stream, component: String) {
        let attributes = self.default_attributes(true);
        stream.remember(&component, |seen| seen.dir = Some(attributes.clone()));
        let (key, shown) = (format!("{prefix}{component}/"), self.naming().show(&component));
        self.show(prefix, stream, &component, shown, (key, true, attributes));
    }

    fn show(
        &self,
        prefix: &str,
        stream: &mut Stream,
        component: &str,
        shown: Shown,
        (key, dir, attributes): (String, bool, Attributes),
    ) {
        match shown {
            Shown::Name(name) if belongs(prefix, component) => stream.push(name, key, dir, attributes),
            // All that begin with one piece come one after another.
            Shown::Piece { name, len } if stream.last_piece != name => {
                stream.last_piece.clone_from(&name);
                let key = format!("{prefix}{}", &component[..len]);
                stream.push(name, key, true, self.default_attributes(true));
            }
            Shown::Name(_) | Shown::Piece { .. } => {}
        }
    }

    /// Fills in what a listing doesn't show of the next entries, as far as this directory's objects carry it.
    /// Each entry stays as it is found: a call that is cut off midway is repeated for the others only.
    async fn enrich(&self, prefix: &str, stream: &mut Stream) -> Op<()> {
        let now = self.now();
        let Stream { base, window, looked, metadata, .. } = stream;
        let count = window.len().min(if *base == 0 && *looked == 0 { REPLY } else { BATCH });
        for item in window.iter_mut().take(count).filter(|i| !i.attributes.exact) {
            let inodes = self.inodes.lock();
            let Some(node) = inodes.at(&item.key, item.dir) else { continue };
            if !node.attributes.outlives(&item.attributes) || item.dir && node.until <= now {
                continue;
            }
            item.attributes = Attributes { stored: item.attributes.stored, ..node.attributes.clone() };
            // The listing says nothing of a directory's metadata: what is known of it grows no younger.
            item.until = if item.dir { item.until.min(node.until) } else { item.until };
        }
        // An item without a sequence number was looked at in vain.
        let is_vague = |i: &&mut Item| !i.attributes.exact && i.seq.is_some();
        let mut vague: Vec<&mut Item> = window.iter_mut().take(count).filter(is_vague).collect();
        if self.options().sampled && *metadata == Metadata::Unknown && !vague.is_empty() {
            // Small ones first: they may be links.
            vague.sort_by_key(|i| (i.attributes.size, i.key.clone()));
            let rest = vague.split_off(vague.len().min(SAMPLE));
            *metadata = self.look_at(vague).await;
            vague = rest;
        }
        // None of the sample could be looked at: the next one's turn comes with the next batch.
        let kind = if *metadata == Metadata::Unknown { Metadata::Defaults } else { *metadata };
        let (sticky, all) = (self.is_sticky(prefix), vague.len());
        vague.retain(|i| sticky || !kind.tells(&i.attributes, self.options()));
        let guessed = *metadata == Metadata::Unknown && vague.len() < all;
        self.look_at(vague).await;
        let shown = if guessed { count.min(REPLY) } else { count };
        *looked = window.iter().take(shown).next_back().map_or(*base, |item| item.cookie);
        Ok(())
    }

    /// Fills in the items' metadata and returns what kind of metadata that is.
    async fn look_at(&self, items: Vec<&mut Item>) -> Metadata {
        let mut looks = Vec::with_capacity(items.len());
        for item in items {
            looks.push(self.look(item).boxed());
        }
        let looks: Vec<Metadata> = futures::stream::iter(looks).buffered(HEADS_AT_ONCE).collect().await;
        looks.into_iter().max().unwrap_or(Metadata::Unknown)
    }

    /// Looks at one item's object. One that can't be looked at is shown as the listing has it, to be believed
    /// for no time; who opens it is told why.
    async fn look(&self, item: &mut Item) -> Metadata {
        let head = match self.context.remote.head(&item.key).await {
            Ok(Some(head)) if !item.dir || head.size == 0 => head,
            // Without a marker it has nothing but defaults.
            Ok(_) if item.dir => {
                item.attributes.exact = true;
                return Metadata::Unknown;
            }
            _ => {
                item.seq = None;
                return Metadata::Unknown;
            }
        };
        let attributes = Attributes::of_head(self.options(), item.dir, &head);
        let listed = std::mem::replace(&mut item.attributes, attributes);
        Metadata::of(&listed, &item.attributes, &head.attrs)
    }
}

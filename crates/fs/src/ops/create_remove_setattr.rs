//! Making and removing names, and changing what a file has beside its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::directory_metadata::{Change, DIRECTORY_TYPE, changed, check_size};
use super::filesystem::{Entry, Fs, fail};
use super::handle_io::Caller;
use super::lookup::{NamedKey, Need, Target, stem_of};
use crate::bucket::{Doomed, is_marker};
use crate::file::{OpenFile, Stood};
use crate::object::{
    Attributes, Errno, Meta as _, Ns, Op, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, Sighting,
    add_upload_token, last, lies_in,
};
use crate::staging::Stage;
use crate::tree::{Metadata, OpenMode, Pass, ROOT, split};
use windlass_base::{Kind, Result};
use windlass_store::{Attrs, Etag, Listed, When};

const PAGE: usize = 1000;

/// Changes that setattr(2) asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Ns>,
    pub mtime: Option<Ns>,
}

impl Changes {
    fn touch_attrs(&self) -> bool {
        let Changes { mode, uid, gid, size: _, atime, mtime } = self;
        mode.is_some() || uid.is_some() || gid.is_some() || atime.is_some() || mtime.is_some()
    }

    pub(super) fn apply(&self, attrs: &mut Attrs, now: Attributes, at: Ns) {
        // What is not set here stays whose it is: another client may set it before this arrives.
        self.mode.into_iter().for_each(|mode| attrs.set_mode(now.mode & S_IFMT | mode & 0o7777));
        self.uid.into_iter().for_each(|uid| attrs.set_id("uid", uid));
        self.gid.into_iter().for_each(|gid| attrs.set_id("gid", gid));
        self.mtime.into_iter().for_each(|mtime| attrs.set_time("mtime", mtime));
        self.atime.into_iter().for_each(|atime| attrs.set_time("atime", atime));
        attrs.set_time("ctime", at);
    }
}

impl Fs {
    /// Puts a small object that must not be there yet, and makes a node of it.
    async fn make(&self, place: &NamedKey, dir: bool, body: Bytes, mut attrs: Attrs) -> Op<Entry> {
        add_upload_token(&self.context.rt, &mut attrs);
        let key = if dir { place.prefix() } else { place.stem.clone() };
        let size = body.len() as u64;
        let asked = self.now();
        let mut put = self.context.remote.put(&key, body, &attrs, &When::Absent).await;
        if dir
            && put.as_ref().is_err_and(|why| why.is(Kind::Refused))
            && matches!(self.context.remote.head(&key).await, Ok(None))
        {
            // A bucket with versions (SeaweedFS) takes a marker that was deleted for one. It has no bytes to lose.
            put = self.context.remote.put(&key, Bytes::new(), &attrs, &When::Always).await;
        }
        let etag = match put {
            Ok(etag) => etag,
            Err(why) => {
                self.doubt(&place.stem);
                let exists = why.is(Kind::Refused);
                return Err(if exists { Errno::EXIST.into() } else { why.into() });
            }
        };
        if dir {
            let kept = self.kept_of_marker(&key, attrs).await;
            attrs = kept.inspect_err(|_| self.doubt(&place.stem))?;
        }
        let until = self.until(asked);
        let attributes = Attributes::of(self.options(), dir, size, Some(etag), self.context.now(), &attrs);
        let mut inodes = self.inodes.lock();
        self.name_cache.changed(&place.stem, self.now(), until, |seen| match dir {
            true => seen.dir = Some(attributes.clone()),
            false => seen.object = Some(attributes.clone()),
        });
        let node = inodes.learn(&key, dir, attributes, until);
        node.beside = false;
        let entry = self.entry(node);
        node.last_reply = Some(entry.attributes.rights());
        inodes.looked_up(entry.ino);
        Ok(entry)
    }

    /// Passes the gate with a name that stands for nothing. Fails with `EEXIST` when it stands for something.
    async fn vacant(&self, parent: u64, name: &[u8]) -> Op<(NamedKey, Pass)> {
        self.writable_in(parent, name)?;
        let pass = self.pass_names(&[(parent, name)]).await?;
        let place = self.new_place(parent, name)?;
        match self.target(&place, Need::Presence).await? {
            (None, _) => Ok((place, pass)),
            (Some(_), _) => Err(Errno::EXIST.into()),
        }
    }

    pub async fn mkdir(&self, parent: u64, name: &[u8], mode: u32, caller: Caller) -> Op<Entry> {
        let (place, _pass) = self.vacant(parent, name).await?;
        let mut attrs = self.new_attrs(parent, S_IFDIR | mode & 0o7777, caller, self.context.now());
        attrs.content_type = Some(DIRECTORY_TYPE.into());
        let prefix = place.prefix();
        let (asked, seq) = (self.now(), self.name_cache.seq());
        let entry = self.make(&place, true, Bytes::new(), attrs).await?;
        // Nobody else had the marker, so nothing is known to be below it.
        self.name_cache.learn_listing(&prefix, BTreeMap::new(), self.until(asked), Metadata::None, seq);
        Ok(entry)
    }

    pub async fn symlink(&self, parent: u64, name: &[u8], target: &[u8], caller: Caller) -> Op<Entry> {
        let (place, _pass) = self.vacant(parent, name).await?;
        let attrs = self.new_attrs(parent, S_IFLNK | 0o777, caller, self.context.now());
        self.make(&place, false, Bytes::copy_from_slice(target), attrs).await
    }

    /// Makes an empty file, or a pipe or socket, for which a mode is enough.
    pub async fn mknod(&self, parent: u64, name: &[u8], mode: u32, caller: Caller) -> Op<Entry> {
        if ![S_IFREG, S_IFIFO, S_IFSOCK].contains(&(mode & S_IFMT)) {
            return Err(Errno::PERM.into());
        }
        let (place, _pass) = self.vacant(parent, name).await?;
        let attrs = self.new_attrs(parent, mode & (S_IFMT | 0o7777), caller, self.context.now());
        self.make(&place, false, Bytes::new(), attrs).await
    }

    pub(super) async fn existing(&self, parent: u64, name: &[u8]) -> Op<(NamedKey, Target)> {
        let place = self.place(parent, name)?;
        match self.target(&place, Need::Presence).await? {
            (Some(target), _) => Ok((place, target)),
            (None, _) => Err(Errno::NOENT.into()),
        }
    }

    pub async fn unlink(self: &Arc<Self>, parent: u64, name: &[u8]) -> Op<()> {
        self.writable_in(parent, name)?;
        let _pass = self.pass_names(&[(parent, name)]).await?;
        let seq = self.name_cache.seq();
        let (_, target) = self.existing(parent, name).await?;
        if target.dir {
            return Err(Errno::ISDIR.into());
        }
        // What is on its way arrives first, before what its handles need is fetched; nothing sets out after it.
        let _held = self.lock_name(&target.key).await;
        let open = self.open_at(&target.key);
        let file = open.as_ref().map(|(_, _, file)| file.clone());
        if let Some(file) = &file {
            self.detach(file).await?;
        }
        // The name is the file's until it is gone: a close or fsync meanwhile waits for what becomes of it.
        let now = self.now();
        let is_one_of_many = file.is_none() && self.unlink_bursts.goes_on(split(&target.key).0, now);
        // Whoever removes what was just made goes on by its absence, as SQLite does once its journal is gone.
        let may_wait = is_one_of_many && !self.name_cache.is_written_lately(&target.key, now);
        // What has arrived since it was looked at has another etag, and so may what is open have: whatever has the name goes.
        let is_as_seen = file.is_none() && self.name_cache.is_current(&target.key, seq);
        let seen = doomed_of(&target).filter(|_| is_as_seen);
        let waits = match seen.clone().filter(|_| may_wait) {
            Some(doomed) => self.remove_soon(doomed).await,
            None => false,
        };
        if !waits && file.as_ref().is_none_or(|f| f.may_be_object()) {
            let deleted = self.context.remote.remove_seen(&target.key, seen).await;
            if let Err(why) = deleted {
                self.doubt(&target.key);
                return Err(why.into());
            }
        }
        let file = self.dropped(&target.key, None);
        self.keep_parent(&target.key);
        if let Some(file) = file {
            file.discard(&self.context).await;
        }
        if let Some((_, ino, file)) = &open {
            self.release_unread_fds(*ino, file);
        }
        Ok(())
    }

    /// Has the object deleted with others, a moment later, and writes that down. Returns false if that can't
    /// be done.
    async fn remove_soon(&self, doomed: Doomed) -> bool {
        if self.context.remote.deletes.doomed(&doomed.key).is_some() {
            // One at a time of a name.
            return false;
        }
        let noted = self.context.staging.removals.note(std::slice::from_ref(&doomed)).await;
        match &noted {
            Ok(()) => self.context.remote.deletes.add(doomed),
            Err(why) => tracing::warn!(key = doomed.key, %why, "a removal can't wait for others"),
        }
        noted.is_ok()
    }

    /// Locks a name: while this is held nobody here changes the object under it, and what was being sent
    /// there has arrived.
    pub(super) async fn lock_name(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        let changing = self.inodes.lock().at(key, false).map(|n| n.changing.clone())?;
        Some(changing.lock_owned().await)
    }

    /// Records that an object is gone, by our hand, or that another has its name now. The file that was open
    /// under the name, which is returned, has nowhere to be sent to.
    pub(super) fn dropped(&self, key: &str, other: Option<&Attributes>) -> Option<Arc<OpenFile>> {
        let mut inodes = self.inodes.lock();
        let file = inodes.at(key, false).and_then(|n| n.file.clone());
        file.as_ref().inspect(|file| file.unlink());
        inodes.remove(key, false);
        let (now, ttl) = (self.now(), self.options().negative_ttl);
        let until = if other.is_some() { self.until(now) } else { now + ttl };
        self.name_cache.changed(key, now, until, |seen| seen.object = other.cloned());
        file
    }

    /// Tells whether nothing but its marker stands in a directory; and returns the marker, an object of no
    /// bytes whose key ends in a slash.
    pub(super) async fn emptiness(&self, prefix: &str) -> Op<(bool, Option<Listed>)> {
        // What is stored while the store looks for it is in neither of the later two.
        let before = self.inodes.lock().local_below(prefix).is_empty();
        let (mut after, mut marker, piece) = (None, None, !last(prefix).is_empty());
        let max = if piece { PAGE } else { 2 };
        loop {
            let page = self.context.remote.list(prefix, after, false, max).await?;
            let is_own = |o: &Listed| o.key == prefix && is_marker(o);
            if page.objects.iter().any(|o| !is_own(o) && lies_in(prefix, &o.key)) {
                return Ok((false, marker));
            }
            marker = marker.or(page.objects.into_iter().find(is_own));
            after = page.next;
            if after.is_none() {
                return Ok((before && self.inodes.lock().local_below(prefix).is_empty(), marker));
            }
        }
    }

    pub async fn rmdir(&self, parent: u64, name: &[u8]) -> Op<()> {
        self.writable_in(parent, name)?;
        let _pass = self.pass_names(&[(parent, name)]).await?;
        let (place, target) = self.existing(parent, name).await?;
        if !target.dir {
            return Err(Errno::NOTDIR.into());
        }
        let (empty, marker) = self.emptiness(&target.key).await?;
        if !empty {
            return Err(Errno::NOTEMPTY.into());
        }
        // Also where no marker is listed: a server with real folders (SeaweedFS) goes on showing one that keys have made. What
        // holds the rest of longer names is no directory of the bucket's, and has none.
        if target.key.ends_with('/') {
            let deleted = self.remove_marker(&target.key, marker).await;
            deleted.inspect_err(|_| self.doubt(&place.stem))?;
        }
        let until = self.now() + self.options().negative_ttl;
        let mut inodes = self.inodes.lock();
        self.name_cache.forget_below(&target.key);
        inodes.remove(&target.key, true);
        self.name_cache.changed(&place.stem, self.now(), until, |seen| seen.dir = None);
        drop(inodes);
        self.keep_parent(&place.stem);
        Ok(())
    }

    /// Deletes a directory's marker. An object of that key which has bytes is none, and stays.
    async fn remove_marker(&self, key: &str, marker: Option<Listed>) -> Result<()> {
        let remote = &self.context.remote;
        let marker = match marker {
            Some(marker) => Some(Doomed::of_listed(marker)),
            None => remote.head(key).await?.filter(|head| head.size == 0).map(|head| Doomed::of(key, &head)),
        };
        match marker {
            Some(marker) => remote.remove(&[marker]).await.map(drop),
            None => Ok(()),
        }
    }

    pub async fn setattr(self: &Arc<Self>, ino: u64, changes: Changes, handle: Option<u64>) -> Op<Entry> {
        self.writable_at(ino)?;
        if let Some(size) = changes.size {
            self.set_size(ino, size, handle).await?;
        }
        if changes.touch_attrs() {
            let at = self.context.now();
            let change = move |attrs: &mut Attrs, attributes| {
                changes.apply(attrs, attributes, at);
                Ok(())
            };
            self.change_attrs(ino, &change).await?;
        }
        self.getattr(ino).await
    }

    async fn set_size(self: &Arc<Self>, ino: u64, size: u64, handle: Option<u64>) -> Op<()> {
        let handle = handle.and_then(|h| self.file(h).ok()).filter(|h| h.how.write);
        if let Some(handle) = handle {
            return self.truncate_handle(&handle, size).await;
        }
        // truncate(2) by name: its result is the upload's, so that it opens and closes by itself.
        let how = OpenMode { write: true, ..Default::default() };
        let opened = self.open_file(ino, how).await?;
        let done = async {
            let handle = self.file(opened.handle)?;
            self.truncate_handle(&handle, size).await?;
            self.flush(opened.handle).await
        };
        let done = done.await;
        self.release(opened.handle).await;
        done
    }

    /// Changes a node's metadata: with the next upload when one is due, at once otherwise.
    pub(super) async fn change_attrs(&self, ino: u64, change: Change<'_>) -> Op<()> {
        let (changing, told, seq) = {
            let inodes = self.inodes.lock();
            let node = inodes.get(ino).ok_or(Errno::STALE)?;
            (node.changing.clone(), node.last_reply, self.name_cache.seq())
        };
        if let Some(file) = self.change_file(ino, change)? {
            return Ok(file.keep_attrs(&self.context).await?);
        }
        let _pass = self.pass_node(ino).await?;
        // What is on its way arrives first, and finds no other object there than it knows of.
        let _held = changing.lock_owned().await;
        if let Some(file) = self.change_file(ino, change)? {
            return Ok(file.keep_attrs(&self.context).await?);
        }
        let (key, dir, told) = {
            let inodes = self.inodes.lock();
            let node = inodes.get(ino).ok_or(Errno::STALE)?;
            // A change of ours meanwhile has told the kernel.
            let told = if self.name_cache.is_current(stem_of(&node.key, node.dir), seq) {
                told
            } else {
                node.last_reply
            };
            (node.key.clone(), node.dir, told)
        };
        if key.is_empty() {
            return self.change_root(change);
        }
        if dir && !key.ends_with('/') {
            return Err(Errno::OPNOTSUPP.into());
        }
        let file = self.inodes.lock().get(ino).and_then(|node| node.file.clone());
        if let Some(file) = &file {
            // The object is about to be another than its stage says was sent.
            file.refresh_note(&self.context).await?;
        }
        let asked = self.now();
        let head = self.context.remote.head(&key).await?;
        if dir && head.as_ref().is_some_and(|head| head.size > 0) {
            let said =
                format!("the object {key} has bytes: nothing can carry the attributes of its directory");
            return Err(fail(Kind::Unsupported, said));
        }
        // Whose it is decides who may; some stores forget what directories carry.
        if let Some(head) = head.as_ref().filter(|_| !dir) {
            let is = Attributes::of_head(self.options(), dir, head);
            let told = told.filter(|told| !told.same_owner(&is.rights()));
            self.check_shown_rights(ino, told, &key, &is)?;
        }
        let stem = stem_of(&key, dir);
        let changed = match &head {
            head if dir => self.change_directory(&key, head.as_ref(), change).await,
            Some(head) => self.change_object(&key, file.as_deref(), dir, head, change).await.map(Some),
            None => return Err(Errno::NOENT.into()),
        };
        let Some((base, attrs, modified)) = changed.inspect_err(|_| self.doubt(stem))? else {
            self.doubt(stem);
            return Ok(());
        };
        let was = head.map(|head| head.etag);
        let stood = Stood { base, attrs, modified, asked };
        if let Some(old) = self.changed_object(ino, (&key, dir), was, stood, change) {
            old.remove_or_warn().await;
        }
        Ok(())
    }

    /// Changes a file's metadata if it will be sent, or never will, and returns the file. `None`: the
    /// metadata of its object must be changed.
    fn change_file(&self, ino: u64, change: Change<'_>) -> Op<Option<Arc<OpenFile>>> {
        // Under the lock, so that no last close takes the file away.
        let inodes = self.inodes.lock();
        let node = inodes.get(ino).ok_or(Errno::STALE)?;
        let Some(file) = node.file.as_ref().filter(|f| node.gone || f.overrides_cache()) else {
            return Ok(None);
        };
        let attributes = file.attributes(self.options());
        let mut attrs = file.attrs();
        change(&mut attrs, attributes.clone())?;
        add_upload_token(&self.context.rt, &mut attrs);
        check_size(&node.key, &attrs)?;
        let mut done = Ok(());
        file.change_attrs(|attrs| done = change(attrs, attributes));
        done.map(|()| Some(file.clone()))
    }

    /// Enters in all tables that the object has other metadata now, by our hand. Returns a stage that is of
    /// no use any more.
    fn changed_object(
        &self,
        ino: u64,
        (key, dir): (&str, bool),
        was: Option<Etag>,
        stood: Stood,
        change: Change<'_>,
    ) -> Option<Stage> {
        let Stood { base, attrs, modified, asked } = &stood;
        let (etag, until, now) = (base.etag.clone(), self.until(*asked), self.now());
        let attributes = Attributes::of(self.options(), dir, base.size, Some(etag.clone()), *modified, attrs);
        let mut inodes = self.inodes.lock();
        self.name_cache.changed(stem_of(key, dir), now, until, |seen| match dir {
            true => seen.dir = Some(attributes.clone()),
            false => seen.object = Some(attributes.clone()),
        });
        let node = inodes.get_mut(ino).filter(|n| n.key == key)?;
        // The answer will tell; who changes it meanwhile builds on this.
        node.last_reply = Some(attributes.rights());
        node.known_size = Some(attributes.size);
        (node.attributes, node.until) = (attributes, until);
        // The bytes are the same, whatever became of the etag.
        node.cached = node.cached.take().filter(|cached| Some(cached) == was.as_ref()).map(|_| etag.clone());
        let file = node.file.as_ref()?;
        if !file.overrides_cache() {
            return file.refresh(Stood { asked: now, ..stood });
        }
        // It was written to meanwhile.
        if file.base().map(|base| base.etag) == was {
            file.moved(&etag, now);
        }
        let attributes = file.attributes(self.options());
        // What the object took, the file takes, or has by now.
        file.change_attrs(|attrs| drop(change(attrs, attributes)));
        None
    }

    /// Changes the mount's own directory until the mount ends: it has no object that could carry metadata.
    fn change_root(&self, change: Change<'_>) -> Op<()> {
        let mut attrs = Attrs::default();
        let attributes = self.root.lock().clone();
        changed(&mut attrs, attributes, change)?;
        if !attrs.xattrs().is_empty() {
            return Err(Errno::OPNOTSUPP.into());
        }
        let attributes = Attributes::of(self.options(), true, 4096, None, self.context.now(), &attrs);
        *self.root.lock() = attributes.clone();
        if let Some(node) = self.inodes.lock().get_mut(ROOT) {
            node.attributes = attributes;
        }
        Ok(())
    }

    /// Gives a directory without a marker a plain one, if nobody else gives it one.
    pub(super) async fn put_marker(&self, key: &str) -> Op<()> {
        let at = self.context.now();
        let change = move |attrs: &mut Attrs, attributes: Attributes| {
            Changes::default().apply(attrs, attributes, at);
            Ok(())
        };
        match self.change_implied(key, &change).await {
            Err(fail) if fail.errno == Errno::STALE => Ok(()),
            made => made.map(|_| ()),
        }
    }
}

/// Returns the object that a name leads to, as it was seen last.
fn doomed_of(target: &Target) -> Option<Doomed> {
    let Attributes { etag, stored, upload, .. } = &target.attributes;
    let object = Sighting { etag: etag.clone()?, modified_ms: stored.and_then(Ns::ms), upload: *upload };
    Some(Doomed { key: target.key.clone(), object, look_first: false })
}

//! Open files: create, open, read, write, copy_file_range, fallocate, flush, fsync, release; and reading links.

use std::sync::Arc;

use bytes::Bytes;

use super::filesystem::{Entry, Fs, fail};
use super::lookup::{Need, ROUNDS};
use crate::file::{OpenFile, Purpose, Stood};
use crate::object::{
    Attributes, Base, Errno, Fail, Flush, Meta as _, Ns, Op, S_IFDIR, S_IFMT, S_IFREG, type_of,
};
use crate::read::Reader;
use crate::staging::Stage;
use crate::tree::{Callers, ChangeSeq, FileHandle, Inodes, OpenMode, ROOT, Wrote, is_version};
use windlass_base::rt::Instant;
use windlass_base::{Error, Kind, Result};
use windlass_store::{Attrs, Etag, Head};

/// Number of bytes that come with the answer to open(2): a whole small file, or a large one's beginning.
const FIRST_READ: u64 = 128 << 10;

/// An answer to open(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub handle: u64,
    /// True if the object is the one whose pages the kernel holds.
    pub keep_cache: bool,
}

/// User and group of the process that asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// An open under way, or a change of the file by its name. It counts from its first look at the node, so that no release in
/// between takes the file away; dropped midway it lets go again.
pub(super) struct Opening {
    fs: Arc<Fs>,
    ino: u64,
    done: bool,
}

impl Opening {
    /// Makes an opening that is counted already: `Inodes::opened` was called under the lock that gave the caller what it knows
    /// of the node.
    fn counted(fs: &Arc<Fs>, ino: u64) -> Opening {
        Opening { fs: fs.clone(), ino, done: false }
    }

    fn finish(mut self, file: Arc<OpenFile>, how: OpenMode, reader: Reader) -> u64 {
        self.done = true;
        let handle = self.fs.handle();
        // A new or truncated file is a change of this handle's, whether it writes or not.
        let wrote = Wrote::default();
        if how.truncate || how.exclusive {
            wrote.add();
        }
        let opened = FileHandle { ino: self.ino, file, how, wrote, reader, callers: Callers::default() };
        self.fs.handles.lock().files.insert(handle, Arc::new(opened));
        handle
    }
}

/// State of the node when the store was asked about an object that is opened.
struct Before {
    /// Number of times that the kernel had been told of others' rights (`Node::learned`).
    learned: u64,
    /// Etag of the object of which the kernel may have pages.
    cached: Option<Etag>,
    asked: Instant,
    seq: ChangeSeq,
}

/// Outcome of an open: the node's file as the store's answer made it.
struct ObjectOpened {
    file: Arc<OpenFile>,
    /// Stage of what was written over an object that is gone, for removal.
    old: Option<Stage>,
    /// True if the kernel's size and times are those of another object.
    changed: bool,
    keep_cache: bool,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.done {
            let (fs, ino, busy) = (self.fs.clone(), self.ino, self.fs.busy());
            let leave = async move {
                fs.handle_closed(ino, false).await;
                drop(busy);
            };
            self.fs.context.rt.spawn(leave).detach();
        }
    }
}

impl Fs {
    pub fn file(&self, handle: u64) -> Op<Arc<FileHandle>> {
        self.handles.lock().files.get(&handle).cloned().ok_or_else(|| Errno::BADF.into())
    }

    /// Returns the metadata of what is made in a directory. In one with the setgid bit all belongs to its group, and
    /// directories have the bit.
    pub(super) fn new_attrs(&self, parent: u64, mode: u32, caller: Caller, now: Ns) -> Attrs {
        const SETGID: u32 = 0o2000;
        let dir = match parent {
            ROOT => Some(self.root.lock().clone()),
            _ => self.inodes.lock().get(parent).map(|node| node.attributes.clone()),
        };
        let group = dir.filter(|dir| dir.mode & SETGID != 0).map(|dir| dir.gid);
        let inherits = group.is_some() && mode & S_IFMT == S_IFDIR;
        let mut attrs = Attrs::default();
        attrs.set_mode(if inherits { mode | SETGID } else { mode });
        attrs.set_id("uid", caller.uid);
        attrs.set_id("gid", group.unwrap_or(caller.gid));
        for which in ["mtime", "ctime", "atime"] {
            attrs.set_time(which, now);
        }
        attrs
    }

    /// Makes a file where there is none yet; the object comes with the first close. Where there is one, fails with `EEXIST`, or
    /// with `ESTALE` so that the kernel looks again and opens it.
    pub async fn create(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        mode: u32,
        caller: Caller,
        how: OpenMode,
    ) -> Op<(Entry, Opened)> {
        self.writable_in(parent, name)?;
        let _pass = self.pass_names(&[(parent, name)]).await?;
        let place = self.new_place(parent, name)?;
        for _ in 0..ROUNDS {
            let seq = self.name_cache.seq();
            if let (Some(target), _) = self.target(&place, Need::Attributes).await? {
                if how.exclusive {
                    return Err(Errno::EXIST.into());
                }
                if target.dir {
                    return Err(Errno::ISDIR.into());
                }
                // The kernel thinks that there is nothing, and has judged nothing: it looks again, and opens.
                self.doubt(&place.stem);
                return Err(Errno::STALE.into());
            }
            let now = self.context.now();
            let mut attrs = self.new_attrs(parent, S_IFREG | mode & 0o7777, caller, now);
            attrs.content_type = type_of(&place.stem).map(str::to_owned);
            if let Some((entry, file)) = self.create_new(&place.stem, seq, attrs, now) {
                let how = OpenMode { exclusive: true, ..how };
                let handle = Opening::counted(self, entry.ino).finish(file, how, Reader::default());
                return Ok((entry, Opened { handle, keep_cache: false }));
            }
        }
        Err(Errno::STALE.into())
    }

    /// Makes a node with a file that is no object yet; `None` if the name was made here since `seq`.
    fn create_new(&self, key: &str, seq: ChangeSeq, attrs: Attrs, now: Ns) -> Option<(Entry, Arc<OpenFile>)> {
        let mut inodes = self.inodes.lock();
        let open = inodes.at(key, false).and_then(|n| n.file.as_ref());
        if !self.name_cache.is_current(key, seq) || open.is_some_and(|file| file.has_local_changes()) {
            return None;
        }
        if open.is_some() {
            // Its object was removed elsewhere: who has it open goes on with what it was.
            inodes.remove(key, false);
        }
        self.name_cache.touched(key, self.now());
        let node = inodes.meet(key, false, &self.default_attributes(false));
        (node.until, node.cached) = (Default::default(), None);
        let file = OpenFile::fresh(key, attrs, now, node.changing.clone());
        file.follow_removed(&self.context, key);
        node.file = Some(file.clone());
        let entry = self.entry(node);
        node.last_reply = Some(entry.attributes.rights());
        inodes.opened(entry.ino);
        inodes.looked_up(entry.ino);
        Some((entry, file))
    }

    pub async fn open_file(self: &Arc<Self>, ino: u64, how: OpenMode) -> Op<Opened> {
        if is_version(ino) {
            return self.version_open(ino, how).await;
        }
        if how.write || how.truncate {
            self.writable()?;
        }
        {
            let mut inodes = self.inodes.lock();
            let node = inodes.get(ino).ok_or(Errno::STALE)?;
            if node.dir {
                return Err(Errno::ISDIR.into());
            }
            inodes.opened(ino);
        }
        let (opening, reader) = (Opening::counted(self, ino), Reader::default());
        let (file, keep_cache) = self.open_object(ino, how, &reader).await?;
        if how.truncate {
            file.truncate(&self.context, 0).await?;
        }
        let how = OpenMode { exclusive: false, ..how };
        Ok(Opened { handle: opening.finish(file, how, reader), keep_cache: keep_cache && !how.truncate })
    }

    /// Asks the store, whatever is known, for the object that is opened (close-to-open). Who will read gets the beginning with
    /// the answer.
    async fn open_object(&self, ino: u64, how: OpenMode, reader: &Reader) -> Op<(Arc<OpenFile>, bool)> {
        // The kernel has let this process in by what it knew by then, whatever it is told meanwhile of other clients' changes.
        let mut learned_first = None;
        for _ in 0..ROUNDS {
            let (key, cached, told) = {
                let inodes = self.inodes.lock();
                let node = inodes.get(ino).ok_or(Errno::STALE)?;
                let learned = *learned_first.get_or_insert(node.learned);
                // Our own changes are newer than anything the store could say.
                if let Some(file) = node.file.clone().filter(|f| f.has_local_changes() || node.gone) {
                    return Ok((file, true));
                }
                if node.gone {
                    return Err(Errno::STALE.into());
                }
                let has_first = self.has_first(&node.key, &node.attributes);
                (node.key.clone(), (node.cached.clone(), has_first), (node.last_reply, learned))
            };
            let (asked, seq) = (self.now(), self.name_cache.seq());
            let ((cached, has_first), (told, learned)) = (cached, told);
            let reads = how.read && !how.write && cached.is_none() && !has_first;
            let head = match reads {
                true => self.first_read(&key, reader).await?,
                false => self.context.remote.head(&key).await?,
            };
            if let Some(head) = head.as_ref().filter(|_| self.name_cache.is_current(&key, seq)) {
                self.check_shown_rights(ino, told, &key, &Attributes::of_head(self.options(), false, head))?;
                if !how.truncate {
                    self.check_known_size(ino, &key, head.size)?;
                }
            }
            let before = Before { learned, cached, asked, seq };
            if let Some(opened) = self.object_opened(ino, &key, head, before)? {
                if let Some(old) = opened.old {
                    old.remove_or_warn().await;
                }
                if opened.changed {
                    self.recall(ino);
                }
                return Ok((opened.file, opened.keep_cache));
            }
        }
        Err(Errno::STALE.into())
    }

    /// Makes the store's answer the node's file; `None` when a change of ours overtook the answer.
    fn object_opened(
        &self,
        ino: u64,
        key: &str,
        head: Option<Head>,
        Before { learned, cached, asked, seq }: Before,
    ) -> Op<Option<ObjectOpened>> {
        let mut inodes = self.inodes.lock();
        let (holds, others) = (self.name_cache.is_current(key, seq), inodes.opens(ino) > 1);
        let node = inodes.get_mut(ino).ok_or(Errno::STALE)?;
        if node.learned != learned {
            return Err(Errno::STALE.into());
        }
        let overtaken = !holds || node.key != key || node.gone;
        let shown = (node.attributes.etag.clone(), node.attributes.size);
        let (file, old) = match (node.file.clone(), head) {
            // What a change of ours made of it after the store was asked is as good an answer.
            (Some(file), _) if overtaken && file.is_as_of(asked) => (file, None),
            _ if overtaken => return Ok(None),
            (_, None) => {
                drop(inodes);
                self.doubt(key);
                return Err(Errno::STALE.into());
            }
            // Who reads it goes on with the object that it was, or is told: never with parts of both.
            (Some(file), Some(head)) if others && file.is_other(&head) => {
                inodes.remove(key, false);
                self.name_cache.forget(key);
                return Err(Errno::STALE.into());
            }
            (file, Some(head)) => {
                let until = self.until(asked);
                if until >= node.until {
                    let attributes = Attributes::of_head(self.options(), false, &head);
                    (node.attributes, node.until) = (attributes, until);
                }
                let base = Base { etag: head.etag, size: head.size };
                let modified = Ns::of_store(head.modified_ms);
                let stood = Stood { base, attrs: head.attrs, modified, asked };
                match file {
                    Some(file) => (file.clone(), file.refresh(stood)),
                    None => (self.opened_anew(key, stood, node.changing.clone()), None),
                }
            }
        };
        let etag = file.base().map(|base| base.etag);
        // Pages that the kernel had before the store was asked: of what another open has found meanwhile it may not have heard.
        let keep_cache = etag.is_some() && cached == etag && node.cached == etag;
        (node.file, node.cached) = (Some(file.clone()), etag);
        let changed = shown != (node.attributes.etag.clone(), node.attributes.size);
        Ok(Some(ObjectOpened { file, old, changed, keep_cache }))
    }

    fn opened_anew(&self, key: &str, stood: Stood, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        let file = OpenFile::of(key, stood, changing);
        // A removal of this object that failed is tried again.
        self.context.remote.deletes.doomed(key).into_iter().for_each(|was| file.follows_removal(was));
        file
    }

    async fn first_read(&self, key: &str, reader: &Reader) -> Result<Option<Head>> {
        let Some(found) = self.context.remote.get(key, 0, FIRST_READ).await? else { return Ok(None) };
        let base = Base { etag: found.head.etag.clone(), size: found.head.size };
        self.context.ahead.blocks.put(key, &base, 0, &found.body);
        reader.prime(key, &base, 0, found.body);
        Ok(Some(found.head))
    }

    /// Tells whether the beginning of the object for which the name stood lately is on the local disk.
    fn has_first(&self, key: &str, attributes: &Attributes) -> bool {
        let base = |etag: &Etag| Base { etag: etag.clone(), size: attributes.size };
        attributes.etag.as_ref().is_some_and(|etag| self.context.ahead.blocks.has_first(key, &base(etag)))
    }

    pub fn read_now(&self, handle: u64, offset: u64, len: u64) -> Option<Op<Bytes>> {
        if let Some(past) = self.version_file(handle) {
            return past.read_now(offset, len).map(Ok);
        }
        match self.file(handle) {
            Ok(h) => h.file.read_now(&self.context, &h.reader, offset, len).map(Ok),
            Err(fail) => Some(Err(fail)),
        }
    }

    pub async fn read(&self, handle: u64, offset: u64, len: u64) -> Op<Bytes> {
        if let Some(past) = self.version_file(handle) {
            return past.read(offset, len).await;
        }
        let h = self.file(handle)?;
        h.file.read(&self.context, &h.reader, offset, len).await
    }

    /// Writes at `offset`, or at the end where there is none.
    pub async fn write_at(&self, handle: u64, offset: Option<u64>, data: Bytes) -> Op<()> {
        let h = self.file(handle)?;
        if !h.how.write {
            return Err(Errno::BADF.into());
        }
        let _changing = h.wrote.changing();
        h.file.write(&self.context, offset, data).await
    }

    /// Makes the file longer, or a range of it zeros, for fallocate(2).
    pub async fn allocate(&self, handle: u64, offset: u64, len: u64, zero: bool, keep_size: bool) -> Op<()> {
        let h = self.file(handle)?;
        if !h.how.write {
            return Err(Errno::BADF.into());
        }
        let _changing = h.wrote.changing();
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        if zero {
            h.file.zero(&self.context, offset..end).await?;
        }
        let size = h.file.attributes(self.options()).size;
        if !keep_size && end > size {
            h.file.truncate(&self.context, end).await?;
        }
        Ok(())
    }

    /// Has the store copy a whole object to a new file for copy_file_range(2): not a byte moves. Fails with `EOPNOTSUPP`
    /// otherwise, and the program reads and writes. The kernel asks for at most 4 GiB in one call: a larger file is never
    /// whole.
    pub async fn copy_range(self: &Arc<Self>, from: u64, to: u64, at: (u64, u64), len: u64) -> Op<u64> {
        if self.version_file(from).is_some() {
            return Err(Errno::OPNOTSUPP.into());
        }
        let (from, to) = (self.file(from)?, self.file(to)?);
        if !to.how.write || !from.how.read {
            return Err(Errno::BADF.into());
        }
        let size = from.file.size();
        if at.0 >= size || len == 0 {
            return Ok(0);
        }
        let source = from.file.clean().filter(|_| at == (0, 0) && len >= size);
        let Some(source) = source.filter(|source| source.base.size == size) else {
            return Err(Errno::OPNOTSUPP.into());
        };
        // What is set of the copy meanwhile is sent by the handle's close.
        to.wrote.add();
        let (fs, busy) = (self.clone(), self.busy());
        let copying = self.context.rt.spawn(async move {
            let _pass = fs.pass_file(&to.file).await;
            let publish = |arrive: &dyn Fn() -> Attributes| fs.publish_sent(to.ino, &to.file, arrive);
            let copied = to.file.copy_from(&fs.context, &source, publish).await;
            if copied.is_err() {
                fs.doubt(&to.file.key());
            }
            drop(busy);
            copied
        });
        if copying.await?? { Ok(size) } else { Err(Errno::OPNOTSUPP.into()) }
    }

    /// Changes the file's length for ftruncate(2): the handle's close answers for it.
    pub(super) async fn truncate_handle(&self, handle: &FileHandle, size: u64) -> Op<()> {
        let _changing = handle.wrote.changing();
        // What failed may have been done in part.
        handle.file.truncate(&self.context, size).await.inspect_err(|_| self.recall(handle.ino))
    }

    /// Remembers a thread that has opened the handle, or writes through it.
    pub fn met_caller(&self, handle: u64, thread: u32) {
        if let Ok(h) = self.file(handle)
            && h.how.write
        {
            h.callers.met(thread);
        }
    }

    /// Returns the threads that have opened the handle or written through it.
    pub fn callers(&self, handle: u64) -> Vec<u32> {
        self.file(handle).map(|h| h.callers.all()).unwrap_or_default()
    }

    /// Tells whether close(2) has something to wait for.
    pub fn flush_needed(&self, handle: u64) -> bool {
        self.file(handle).is_ok_and(|h| h.wrote.unflushed() && h.file.is_dirty())
    }

    /// Tells whether nothing was written since the handle made the file or emptied it, and no other handle has it open.
    pub fn is_begun(&self, handle: u64) -> bool {
        let Ok(h) = self.file(handle) else { return false };
        let empty = h.how.truncate || h.how.exclusive;
        empty && h.wrote.now() == 1 && h.file.size() == 0 && self.inodes.lock().opens(h.ino) == 1
    }

    /// Answers close(2): returns when the object is stored, or why it isn't; with `flush=local`, when this host's disk has it.
    pub async fn flush(self: &Arc<Self>, handle: u64) -> Op<()> {
        if !self.flush_needed(handle) {
            return Ok(());
        }
        let h = self.file(handle)?;
        let wrote = h.wrote.now();
        match self.options().flush {
            Flush::Local => {
                self.mark_closed_and_queue(h.ino, &h.file, false).await.map_err(close_failed)?;
                self.send_freed(h.ino, &h.file).await?;
            }
            Flush::Bucket => {
                // Before the store is waited for: who writes the file anew meanwhile leaves what is closed as it is. The send writes
                // it down too, or says why it can't.
                let _ = h.file.mark_closed(&self.context, false).await;
                self.send_for(h.ino, &h.file, Purpose::Close).await.map_err(close_failed)?;
            }
        }
        h.wrote.flushed(wrote);
        Ok(())
    }

    /// Answers fsync(2) for whatever was written, by whomever.
    pub async fn fsync(self: &Arc<Self>, handle: u64) -> Op<()> {
        if self.version_file(handle).is_some() {
            return Ok(());
        }
        let h = self.file(handle)?;
        match self.options().flush {
            Flush::Bucket => {
                // As for a close.
                let _ = h.file.mark_closed(&self.context, false).await;
                self.send(h.ino, &h.file).await.map_err(close_failed)?;
            }
            Flush::Local if h.file.is_dirty() => {
                self.mark_closed_and_queue(h.ino, &h.file, true).await.map_err(close_failed)?;
                self.send_freed(h.ino, &h.file).await?;
            }
            Flush::Local => {}
        }
        Ok(())
    }

    /// Sends a file of which bytes were freed, for `flush=local`: this host does not have all its bytes. Of a file that was
    /// marked closed nothing is freed afterwards.
    async fn send_freed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> Op<()> {
        if !file.is_freed() {
            return Ok(());
        }
        self.send(ino, file).await.map_err(close_failed)
    }

    /// Marks the file closed on this host's disk and queues it, even if the mark can't be written. With `durable`, its
    /// bytes survive a loss of power too.
    async fn mark_closed_and_queue(
        self: &Arc<Self>,
        ino: u64,
        file: &Arc<OpenFile>,
        durable: bool,
    ) -> Result<()> {
        let sealed = file.mark_closed(&self.context, durable).await;
        if sealed.is_ok() || file.has_unsent_close() {
            self.queue_send(ino, file);
        }
        sealed
    }

    /// Sends every open file's changes; what can't be sent, and half of a file that is being written anew, stays staged.
    pub async fn send_all(self: &Arc<Self>) {
        for (ino, file) in self.open_below("") {
            if file.is_unfinished_rewrite() {
                continue;
            }
            if let Err(why) = self.send(ino, &file).await {
                tracing::error!(key = file.key(), %why, "not stored");
            }
        }
    }

    /// Makes the object what the file is.
    async fn send(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> Result<()> {
        self.send_for(ino, file, Purpose::Close).await
    }

    pub(super) async fn send_for(
        self: &Arc<Self>,
        ino: u64,
        file: &Arc<OpenFile>,
        purpose: Purpose,
    ) -> Result<()> {
        if !file.is_dirty() {
            return Ok(());
        }
        // An upload goes on and is entered in the tables though the waiting process was told that it is late.
        let (fs, file, busy) = (self.clone(), file.clone(), self.busy());
        let sending = self.context.rt.spawn(async move {
            let _pass = fs.pass_file(&file).await;
            let sent = fs.send_passed(ino, &file, purpose).await;
            drop(busy);
            sent
        });
        sending.await?
    }

    /// Sends the file for a caller that has passed the gate with it.
    pub(super) async fn send_passed(
        self: &Arc<Self>,
        ino: u64,
        file: &Arc<OpenFile>,
        purpose: Purpose,
    ) -> Result<()> {
        let freed = file.is_freed();
        let publish = |arrive: &dyn Fn() -> Attributes| {
            self.publish_sent(ino, file, arrive);
            if freed && let Some(node) = self.inodes.lock().get_mut(ino) {
                // The kernel keeps pages of a mapping though writing them was refused: the next open drops them.
                node.cached = None;
            }
        };
        let sent = file.send(&self.context, purpose, publish).await;
        if sent.is_ok() {
            self.removal_replaced(&file.key()).await;
        }
        if sent.is_err() {
            // A file of which an older version was refused goes on: its own close will be told.
            if file.is_failed() {
                self.abandoned(ino, file);
                file.kept().inspect(|kept| self.doubt(kept));
            }
            self.doubt(&file.key());
        }
        sent
    }

    /// Ends the removal of an object that could not be deleted: a file of ours has its name now.
    async fn removal_replaced(&self, key: &str) {
        if self.context.remote.deletes.replaced(key) {
            self.context.staging.removals.ended(&[key.to_owned()]).await;
        }
    }

    /// Takes the file from its node, since somebody else's object has the name now. Who opens it from here on gets that, though
    /// handles of ours live on.
    fn abandoned(&self, ino: u64, file: &Arc<OpenFile>) {
        {
            let mut inodes = self.inodes.lock();
            self.name_cache.forget(&file.key());
            if let Some(node) = inodes.get_mut(ino)
                && node.file.as_ref().is_some_and(|now| Arc::ptr_eq(now, file))
            {
                node.file = None;
                node.until = Default::default();
                node.cached = None;
            }
        }
        self.recall(ino);
    }

    /// Releases a handle, which is gone.
    pub async fn release(self: &Arc<Self>, handle: u64) {
        let _busy = self.busy();
        let gone = {
            let mut handles = self.handles.lock();
            handles.version_files.remove(&handle);
            handles.files.remove(&handle)
        };
        if let Some(gone) = gone {
            self.handle_closed(gone.ino, false).await;
        }
    }

    /// Counts a handle less. Before the last one goes, what its close could not store is sent once more, as is what was written
    /// through a mapping after it. What can't be sent now is the queue's. `give_up`: what isn't sent stays staged.
    pub(super) async fn handle_closed(self: &Arc<Self>, ino: u64, mut give_up: bool) {
        let mut tried = self.options().flush == Flush::Local;
        let stage = loop {
            let unsent = {
                let mut inodes = self.inodes.lock();
                let last = inodes.opens(ino) <= 1;
                let file = inodes.get(ino).filter(|_| last).and_then(|n| n.file.clone());
                // The queue may have been the last to have it, and a program that was cut off the one before.
                let is_cut_off = |file: &Arc<OpenFile>| {
                    *self.writeback.unmounting.borrow() && file.is_unfinished_rewrite()
                };
                give_up |= file.as_ref().is_some_and(is_cut_off);
                match file.filter(|f| f.is_dirty() && !give_up) {
                    Some(file) => file,
                    None => break count_closed(&mut inodes, ino, last),
                }
            };
            if !tried {
                tried = true;
                if let Err(why) = self.send_for(ino, &unsent, Purpose::Close).await {
                    tracing::warn!(key = unsent.key(), %why, "a file that was closed is not stored yet");
                }
                continue;
            }
            unsent.seal_freed(&self.context).await;
            match unsent.mark_closed(&self.context, false).await {
                Ok(()) => self.queue_send(ino, &unsent),
                Err(why) => {
                    tracing::error!(key = unsent.key(), %why, "a file that was closed can't be staged");
                    give_up = !unsent.has_unsent_close();
                    if !give_up {
                        self.queue_send(ino, &unsent);
                    }
                }
            }
        };
        if give_up {
            self.recall(ino);
        }
        if let Some(stage) = stage {
            stage.remove_or_warn().await;
        }
    }

    /// Counts as an open of the file, if its node has it still. Until this is dropped, the file and its stage stay.
    pub(super) fn pin(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> Option<Opening> {
        let mut inodes = self.inodes.lock();
        inodes.get(ino)?.file.as_ref().filter(|its| Arc::ptr_eq(its, file))?;
        inodes.opened(ino);
        Some(Opening::counted(self, ino))
    }

    /// Returns the file that is open under a name, which stays so until the first value is dropped.
    pub(super) fn open_at(self: &Arc<Self>, key: &str) -> Option<(Opening, u64, Arc<OpenFile>)> {
        let (ino, file) = {
            let inodes = self.inodes.lock();
            let node = inodes.at(key, false)?;
            (node.ino, node.file.clone()?)
        };
        Some((self.pin(ino, &file)?, ino, file))
    }

    /// Prepares a file for the loss of its name: its handles will need what is still only in the object. The file is pinned.
    pub(super) async fn detach(&self, file: &OpenFile) -> Op<()> {
        if file.is_local() {
            return Ok(());
        }
        match file.detach(&self.context).await {
            // Another client has replaced or removed the object: its handles are told when they read, and the name may go.
            Err(fail)
                if fail.why.as_ref().is_some_and(|why| why.is(Kind::Refused) || why.is(Kind::NotFound)) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Returns a symbolic link's target. The kernel keeps none: it would not notice that the object is another by now.
    pub async fn readlink(&self, ino: u64) -> Op<Bytes> {
        const TARGET_MAX: u64 = 4096;
        let (key, dir) = {
            let inodes = self.inodes.lock();
            let node = inodes.get(ino).ok_or(Errno::STALE)?;
            if let Some((etag, target)) = node.leads_to.as_ref().filter(|_| node.until > self.now())
                && node.attributes.etag.as_ref() == Some(etag)
            {
                return Ok(target.clone());
            }
            (node.key.clone(), node.dir)
        };
        if dir {
            return Err(Errno::INVAL.into());
        }
        match self.context.remote.get(&key, 0, TARGET_MAX).await? {
            Some(found) if !Attributes::of_head(self.options(), false, &found.head).is_link() => {
                self.doubt(&key);
                Err(Errno::STALE.into())
            }
            Some(found) if !found.body.is_empty() => {
                let target = Bytes::copy_from_slice(&found.body);
                if let Some(node) = self.inodes.lock().get_mut(ino).filter(|node| node.key == key) {
                    node.leads_to = Some((found.head.etag, target.clone()));
                }
                Ok(target)
            }
            Some(_) => Err(fail(Kind::Invalid, format!("{key} is a symbolic link without a target"))),
            None => Err(Errno::NOENT.into()),
        }
    }
}

/// Returns what close(2) and fsync(2) say of a bucket that fails: mostly `EIO`, whatever the reason, which the log explains.
fn close_failed(why: Error) -> Fail {
    match why.kind() {
        Kind::Refused | Kind::NoSpace | Kind::ReadOnly | Kind::Archived => why.into(),
        _ => Fail { errno: Errno::IO, why: Some(why) },
    }
}

/// Counts a handle less. After the last one the file's state goes, and with it what was staged and is stored.
fn count_closed(inodes: &mut Inodes, ino: u64, last: bool) -> Option<Stage> {
    let mut stage = None;
    if inodes.opens(ino) == 2
        && let Some(file) = inodes.get(ino).and_then(|n| n.file.as_ref()).filter(|f| f.has_unsent_close())
    {
        // The queue alone has it open.
        file.release_fds();
    }
    if let Some(node) = inodes.get_mut(ino).filter(|_| last)
        && let Some(file) = node.file.take()
    {
        stage = file.take_stage();
        if file.is_dirty() {
            // What the bucket has is shown from now on.
            node.until = Default::default();
            node.cached = None;
        }
    }
    inodes.closed(ino);
    stage
}

//! What is sent without anybody waiting: files that are closed on this host's disk (`flush=local`), files whose close
//! failed, and what an earlier mount left.
//!
//! Each such file is held open by the queue, which tries until the bucket has it, or somebody else's object has its
//! name, or the mount ends: then its stage stays for the next mount.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::filesystem::Fs;
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};
use crate::fs::file::{CONFLICT, OpenFile, Purpose, UNFINISHED};
use crate::fs::object::{Base, Meta as _, Ns, UploadToken};
use crate::fs::staging::{FoundFile, FoundStages, Mark, Note, Stage, StagingDir, UNKNOWN, Unsent};
use crate::fs::tree::{Pending, QueuedFile};
use crate::store::Head;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What waits for so long is synced, as the kernel would write it by then without being asked.
const SYNC_STAGE_AFTER: Duration = Duration::from_secs(30);
/// Removals from the staging folder are synced after this time, as a journal would.
const SYNC_REMOVALS_AFTER: Duration = Duration::from_secs(5);

/// The right to send one file. Dropping it frees the place; `start_sends` gives the place to the next file.
struct SendPermit(Arc<Fs>);

impl Drop for SendPermit {
    fn drop(&mut self) {
        self.0.writeback.queue.lock().ended();
    }
}

impl Fs {
    pub fn pending(&self) -> Pending {
        let queue = self.writeback.queue.lock();
        let bytes = queue.files.values().map(|file| file.size()).sum();
        Pending { files: queue.files.len() as u64, bytes }
    }

    /// What the mount's end left staged.
    pub fn kept(&self) -> Pending {
        *self.writeback.left_unsent.lock()
    }

    pub(super) fn spawn_removal_syncer(self: &Arc<Self>) {
        let (rt, folder) = (self.context.rt.clone(), self.context.staging.folder().clone());
        rt.clone().spawn(sync_what_was_removed(rt, Arc::downgrade(self), folder)).detach();
    }

    /// After the mount's end nothing waits, unless a send was cut off: its file counts as unsent too.
    pub(super) fn count_unsent(&self) {
        let rest = self.pending();
        let mut kept = self.writeback.left_unsent.lock();
        kept.files += rest.files;
        kept.bytes += rest.bytes;
    }

    /// The mount ends: what can't be sent at once stays staged. Once one file finds the store away, those that still wait
    /// are not tried.
    pub(super) fn begin_shutdown(self: &Arc<Self>) {
        self.writeback.unmounting.send_replace(true);
        self.start_sends();
    }

    /// Another mount takes the folder over: what has not begun to be sent stays staged for it.
    pub fn hand_over(&self) {
        let why = || Error::new(Kind::Closed, "the mount that comes next sends it");
        self.writeback.store_away.lock().get_or_insert_with(why);
    }

    /// Queues a file to be sent. Its changes are closed (`OpenFile::has_unsent_close`).
    pub(super) fn queue_send(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) {
        {
            let mut queue = self.writeback.queue.lock();
            queue.closed(self.now());
            self.sync_stage_later(file);
            if queue.files.contains_key(&ino) {
                return;
            }
            queue.files.insert(ino, file.clone());
            self.inodes.lock().opened(ino);
        }
        self.enqueue(ino, file.clone(), FIRST_PAUSE);
    }

    /// One at a time looks after each large file.
    fn sync_stage_later(self: &Arc<Self>, file: &Arc<OpenFile>) {
        if !file.is_small() && !file.has_syncer.swap(true, Ordering::AcqRel) {
            let (fs, file) = (Arc::downgrade(self), Arc::downgrade(file));
            self.context.rt.spawn(sync_waiting_stage(self.context.rt.clone(), fs, file)).detach();
        }
    }

    /// A file without a name that only the queue and the caller have: nobody reads it any more.
    pub(super) fn release_unread_fds(&self, ino: u64, file: &OpenFile) {
        let queued = self.writeback.queue.lock().files.contains_key(&ino);
        if queued && self.inodes.lock().opens(ino) <= 2 {
            file.release_fds();
        }
    }

    fn enqueue(self: &Arc<Self>, ino: u64, file: Arc<OpenFile>, pause: Duration) {
        let (bytes, since) = (file.size(), self.now());
        self.writeback.queue.lock().push(QueuedFile { ino, file, bytes, since, pause });
        self.start_sends();
    }

    /// Starts as many sends as the queue permits.
    fn start_sends(self: &Arc<Self>) {
        let unmounting = *self.writeback.unmounting.borrow();
        loop {
            let (next, watch) = {
                let (mut queue, now) = (self.writeback.queue.lock(), self.now());
                // Counted before it is no longer seen to wait: see `idle`.
                let next =
                    queue.next(now, unmounting).map(|next| (next, self.busy(), SendPermit(self.clone())));
                (next, queue.watch(now, unmounting))
            };
            if watch {
                let (fs, busy) = (self.clone(), self.busy());
                let watch = async move {
                    fs.watch_burst().await;
                    drop(busy);
                };
                self.context.rt.spawn(watch).detach();
            }
            let Some((next, busy, permit)) = next else { return };
            let fs = self.clone();
            let work = async move {
                fs.send_queued(next, permit).await;
                drop(busy);
            };
            self.context.rt.spawn(work).detach();
        }
    }

    async fn watch_burst(self: &Arc<Self>) {
        let mut unmounting = self.writeback.unmounting.subscribe();
        loop {
            let pause = self.writeback.queue.lock().look(self.now(), *unmounting.borrow());
            self.start_sends();
            let Some(pause) = pause else { return };
            let _ = self.context.rt.timeout(pause, unmounting.wait_for(|unmounting| *unmounting)).await;
        }
    }

    async fn send_queued(self: &Arc<Self>, waiting: QueuedFile, permit: SendPermit) {
        let QueuedFile { ino, file, pause, .. } = waiting;
        let sent = self.send_closed(ino, &file).await;
        let mut unmounting = self.writeback.unmounting.subscribe();
        let again = {
            let mut queue = self.writeback.queue.lock();
            // A close in between found it in the queue.
            let again = !sent || file.has_unsent_close() && !*unmounting.borrow();
            if !again {
                queue.files.remove(&ino);
            }
            again
        };
        drop(permit);
        self.start_sends();
        if !again {
            // What was stored may have changed since, as by a chmod.
            let give_up = *unmounting.borrow() && (file.has_unsent_close() || file.is_failed());
            return self.handle_closed(ino, give_up).await;
        }
        if sent {
            return self.enqueue(ino, file, FIRST_PAUSE);
        }
        let _ = self.context.rt.timeout(pause, unmounting.wait_for(|unmounting| *unmounting)).await;
        self.enqueue(ino, file, (pause * 2).min(LONGEST_PAUSE));
    }

    /// Sends what was closed; false: it is to be tried again.
    async fn send_closed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> bool {
        while file.has_unsent_close() {
            let Err(why) = self.try_send_closed(ino, file).await else { continue };
            file.release_fds();
            let at = file.staged_at();
            if why.is(Kind::Refused) {
                tracing::error!(key = file.key(), %why, "somebody else changed this object");
                break;
            }
            if *self.writeback.unmounting.borrow() {
                match why.kind() {
                    Kind::Closed => tracing::debug!(key = file.key(), kept = at, "left to the next mount"),
                    _ => {
                        tracing::error!(key = file.key(), kept = at, %why, "not stored: it is kept, and sent at the next mount")
                    }
                }
                if let Err(why) = file.sync_stage(&self.context).await {
                    tracing::warn!(key = file.key(), %why, "a loss of power may take what is kept");
                }
                if !why.is(Kind::Closed) {
                    let mut kept = self.writeback.left_unsent.lock();
                    kept.files += 1;
                    kept.bytes += file.size();
                }
                break;
            }
            tracing::warn!(key = file.key(), kept = at, %why, "not stored yet: trying again");
            return false;
        }
        true
    }

    /// Sends it once, unless the mount ends and the store is known to be away: each of thousands would wait for its
    /// deadline, a few at a time, and all are as safe on this disk as the one that was tried.
    async fn try_send_closed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> Result<()> {
        let writeback = &self.writeback;
        let away = writeback.store_away.lock().as_ref().map(Error::share);
        if let Some(why) = away {
            return Err(why);
        }
        let before = writeback.sent_files.load(Ordering::Relaxed);
        let sent = self.send_for(ino, file, Purpose::ClosedVersion).await;
        let unmounting = *writeback.unmounting.borrow();
        // A store that took another file meanwhile is not away.
        let none = writeback.sent_files.load(Ordering::Relaxed) == before;
        match &sent {
            Ok(()) => {
                writeback.sent_files.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) if unmounting && none && matches!(why.kind(), Kind::Unavailable | Kind::Timeout) => {
                writeback.store_away.lock().get_or_insert_with(|| why.share());
            }
            Err(_) => {}
        }
        sent
    }

    /// Recovers the files that an earlier mount left staged; returns those that can't be sent.
    pub(super) async fn recover_staged(self: &Arc<Self>, found: FoundStages) -> Vec<Unsent> {
        let FoundStages { files: all, lost, mut unsent, .. } = found;
        let over = self.superseded(&all, &lost).await;
        for (stage, note) in lost {
            if over.contains(&stage.id()) || self.is_stored(note.as_ref()).await {
                if !self.options().read_only {
                    self.context.staging.done(stage).await;
                }
                continue;
            }
            let (key, bytes) = note.map_or((UNKNOWN.to_owned(), 0), |note| (note.key, note.size));
            let path = stage.path();
            tracing::error!(path = %path.display(), key, "this disk has lost what was staged here, as by a loss of power");
            unsent.push(Unsent { path, key, bytes });
        }
        // What nobody needs goes first: a crash must not leave it without what took its place.
        let (all, spent): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|left| left.note.mark != Mark::Sent && !over.contains(&left.stage.id()));
        for left in spent.into_iter().filter(|_| !self.options().read_only) {
            self.drop_stage(left).await;
        }
        let (mut named, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for left in self.by_precedence(all).await {
            let (path, key, bytes) = (left.stage.path(), left.note.key.clone(), left.edits.size);
            let first = !named.contains(&key);
            // The name is the first one's: those that follow wait with it.
            if self.options().read_only || kept.contains(&key) {
                unsent.push(Unsent { path, key, bytes });
                continue;
            }
            match self.recover_file(left, first).await {
                Ok(false) => {}
                Ok(true) => {
                    named.insert(key);
                }
                Err(why) => {
                    tracing::warn!(path = %path.display(), key, %why, "what an earlier mount could not store is kept");
                    kept.insert(key.clone());
                    unsent.push(Unsent { path, key, bytes });
                }
            }
        }
        unsent
    }

    /// The stages whose place others have taken: a version that was closed later stands on this disk, durably from here on,
    /// whatever the earlier mount could still do for that.
    async fn superseded(&self, all: &[FoundFile], lost: &[(Stage, Option<Note>)]) -> BTreeSet<String> {
        let lost = lost.iter().map(|(stage, _)| stage.id());
        let here: BTreeSet<String> = all.iter().map(|left| left.stage.id()).chain(lost).collect();
        let outgrown_slot: BTreeSet<&String> =
            all.iter().filter_map(|left| left.note.outgrown_slot.as_ref()).collect();
        let mut over = BTreeSet::new();
        // What may be torn takes nobody's place.
        for left in all.iter().filter(|left| !left.may_be_torn) {
            let replaced = left.note.replaces().filter(|_| !outgrown_slot.contains(&left.stage.id()));
            let gone = replaced
                .into_iter()
                .chain(left.note.outgrown_slot.as_deref())
                .filter(|id| here.contains(*id));
            let gone: Vec<String> = gone.map(str::to_owned).collect();
            if gone.is_empty() {
                continue;
            }
            let kept = if self.options().read_only { Ok(()) } else { left.stage.sync_recovered().await };
            match kept {
                Ok(()) => over.extend(gone),
                Err(why) => {
                    tracing::warn!(path = %left.stage.path().display(), %why, "what this takes the place of is kept too");
                }
            }
        }
        over
    }

    /// Of several that a loss of power left of one file, the one that has its name comes first: it was closed, it follows
    /// the object that is there, and it is the latest.
    async fn by_precedence(&self, mut all: Vec<FoundFile>) -> Vec<FoundFile> {
        let (mut seen, mut there) = (BTreeSet::new(), BTreeMap::new());
        for key in all.iter().map(|left| &left.note.key) {
            if !seen.insert(key) && !there.contains_key(key) {
                let Ok(head) = self.context.remote.head(key).await else { continue };
                there.insert(key.clone(), head);
            }
        }
        all.sort_by_cached_key(|left| {
            let Note { key, base, mark, unsent_close, generation, .. } = &left.note;
            let follows = there.get(key).is_none_or(|head| {
                let etag = head.as_ref().map(|head| &head.etag);
                base.as_ref().map(|base| &base.etag) == etag
                    || head.as_ref().is_some_and(|h| is_unanswered_send(left, h))
            });
            (
                left.may_be_torn,
                *mark == Mark::Open && !unsent_close,
                !follows,
                Reverse((*generation, left.note.attrs().time("ctime"))),
            )
        });
        all
    }

    /// The bucket has what this disk has lost.
    async fn is_stored(&self, note: Option<&Note>) -> bool {
        let Some(note) = note else { return false };
        let head = self.context.remote.head(&note.key).await;
        head.is_ok_and(|head| head.is_some_and(|head| is_closed_version(note, &head)))
    }

    /// Nobody needs it.
    async fn drop_stage(&self, left: FoundFile) {
        if let Some(upload) = &left.note.upload {
            // Completed, it is not there any more; otherwise its parts cost money.
            self.context.remote.abort(&left.note.key, upload).await;
        }
        self.context.staging.done(left.stage).await;
    }

    /// `first`: no other staged file of its name was recovered before. True: it has its name, or would have.
    async fn recover_file(self: &Arc<Self>, left: FoundFile, first: bool) -> Result<bool> {
        if let Some(upload) = &left.note.upload {
            self.context.remote.abort(&left.note.key, upload).await;
        }
        let head = self.context.remote.head(&left.note.key).await?;
        let whole = head.as_ref().is_some_and(|head| is_closed_version(&left.note, head));
        let came = head.as_ref().filter(|h| whole || is_unanswered_send(&left, h));
        if came.is_some() && whole {
            self.context.staging.done(left.stage).await;
            return Ok(false);
        }
        let was = left.note.base.is_some() || left.note.rewrites.is_some();
        let rewritten = was && left.edits.base_len == 0;
        let beside = rewritten && left.note.mark == Mark::Open && !left.note.unsent_close;
        let key = left.note.key.clone();
        let taken = !first || self.inodes.lock().at(&key, false).is_some_and(|n| n.file.is_some());
        // Its own send would be refused: until then nobody is to see it for what the bucket has.
        let based = left.note.base.as_ref().map(|base| &base.etag);
        let refused = came.is_none() && head.as_ref().map(|head| &head.etag) != based;
        let aside = beside || taken || refused || left.may_be_torn;
        let may_be_torn = left.may_be_torn;
        let changing = match aside {
            true => Arc::default(),
            false => self.inodes.lock().meet(&key, false, &self.default_attributes(false)).changing.clone(),
        };
        if let Some(from) = &left.note.borrowed {
            self.register_lender(from.key.clone());
        }
        let file = OpenFile::recovered(left, Ns::from_ms(self.context.rt.wall_ms()), changing);
        if let Some(head) = came {
            file.rebase(Base { etag: head.etag.clone(), size: head.size });
        }
        if aside {
            if may_be_torn {
                self.store_copy_behind(key, file, UNFINISHED);
                return Ok(false);
            }
            if !beside && refused {
                self.store_copy_behind(key, file, CONFLICT);
                return Ok(true);
            }
            let kept = file.store_conflict_copy(&self.context, UNFINISHED).await?;
            tracing::warn!(
                key,
                kept,
                "an earlier mount ended while this was being written: it is stored as a conflict copy"
            );
            return Ok(true);
        }
        tracing::info!(
            key,
            bytes = file.attributes(self.options()).size,
            "sending what an earlier mount could not"
        );
        let ino = {
            let mut inodes = self.inodes.lock();
            let node = inodes.meet(&key, false, &file.attributes(self.options()));
            node.file = Some(file.clone());
            node.ino
        };
        self.queue_send(ino, &file);
        Ok(true)
    }

    /// Stores a conflict copy in the background: another client's object refuses the file, or its bytes may be torn.
    fn store_copy_behind(self: &Arc<Self>, key: String, file: Arc<OpenFile>, word: &'static str) {
        let (fs, busy) = (self.clone(), self.busy());
        let work = async move {
            match file.store_conflict_copy(&fs.context, word).await {
                Ok(kept) if word == CONFLICT => {
                    tracing::error!(key, kept, "somebody else changed this object")
                }
                Ok(kept) => {
                    tracing::error!(
                        key,
                        kept,
                        "this was not synced when the machine ended, and may be torn: compare"
                    );
                }
                Err(why) => {
                    let at = file.staged_at();
                    tracing::error!(key, at, %why, "a conflict copy can't be stored yet: the next mount tries again");
                }
            }
            drop(busy);
        };
        self.context.rt.spawn(work).detach();
    }
}

/// Makes durable what left the staging folder, not long after it did.
async fn sync_what_was_removed(rt: Rt, fs: Weak<Fs>, folder: StagingDir) {
    loop {
        folder.wait_for_removal().await;
        rt.sleep(SYNC_REMOVALS_AFTER).await;
        let Some(fs) = fs.upgrade() else { return };
        let busy = fs.busy();
        if *fs.writeback.unmounting.borrow() {
            return;
        }
        folder.sync_removals_or_warn().await;
        drop(busy);
    }
}

/// Makes what goes on waiting survive a loss of power: after that nobody could tell whether it has.
async fn sync_waiting_stage(rt: Rt, fs: Weak<Fs>, file: Weak<OpenFile>) {
    loop {
        rt.sleep(SYNC_STAGE_AFTER).await;
        let (Some(fs), Some(file)) = (fs.upgrade(), file.upgrade()) else { return };
        // The mount's end waits for whoever is busy, or has begun and is seen here.
        let busy = fs.busy();
        if *fs.writeback.unmounting.borrow() || !file.has_unsent_close() {
            file.has_syncer.store(false, Ordering::Release);
            // Closed again in between it would be left to nobody.
            if *fs.writeback.unmounting.borrow()
                || !file.has_unsent_close()
                || file.has_syncer.swap(true, Ordering::AcqRel)
            {
                return;
            }
        }
        if let Err(why) = file.sync_stage(&fs.context).await {
            tracing::warn!(key = file.key(), %why, "a loss of power may take what waits to be sent");
        }
        drop(busy);
    }
}

/// The object is the file as it was closed.
fn is_closed_version(note: &Note, head: &Head) -> bool {
    let signed = UploadToken::of(&note.attrs(), note.size);
    note.mark == Mark::Closed && signed.is_some() && UploadToken::of(&head.attrs, head.size) == signed
}

/// The store got one of the last sends, though nobody was told.
pub(super) fn is_unanswered_send(left: &FoundFile, head: &Head) -> bool {
    UploadToken::of(&head.attrs, head.size).is_some_and(|signature| left.note.sending.contains(&signature))
}

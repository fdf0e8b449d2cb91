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
use crate::fs::object::{Base, Meta as _, Ns, Signature};
use crate::fs::staging::{Folder, Found, Left, Mark, Note, Stage, UNKNOWN, Unsent};
use crate::fs::tree::{Pending, Waiting};
use crate::store::Head;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What waits for so long is synced, as the kernel would write it by then without being asked.
const HARDEN_AFTER: Duration = Duration::from_secs(30);
/// What has left is settled after this, as a journal would.
const SETTLE_AFTER: Duration = Duration::from_secs(5);

/// A file's turn, which is over when this is dropped; the next one's begins with `take_turns`.
struct Turn(Arc<Fs>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.behind.queue.lock().ended();
    }
}

impl Fs {
    pub fn pending(&self) -> Pending {
        let queue = self.behind.queue.lock();
        let bytes = queue.files.values().map(|file| file.size()).sum();
        Pending { files: queue.files.len() as u64, bytes }
    }

    /// What the mount's end left staged.
    pub fn kept(&self) -> Pending {
        *self.behind.kept.lock()
    }

    pub(super) fn settle_what_leaves(self: &Arc<Self>) {
        let (rt, folder) = (self.engine.rt.clone(), self.engine.staging.folder().clone());
        rt.clone().spawn(settle_what_left(rt, Arc::downgrade(self), folder)).detach();
    }

    /// After the mount's end nothing waits, unless a turn did not come to its own end: that is kept as well.
    pub(super) fn keep_the_rest(&self) {
        let rest = self.pending();
        let mut kept = self.behind.kept.lock();
        kept.files += rest.files;
        kept.bytes += rest.bytes;
    }

    /// The mount ends: what can't be sent at once stays staged. Once one file finds the store away, those that still wait
    /// are not tried.
    pub(super) fn leave_off(self: &Arc<Self>) {
        self.behind.leaving.send_replace(true);
        self.take_turns();
    }

    /// Another mount takes the folder over: what has not begun to be sent stays staged for it.
    pub fn leave_to_next(&self) {
        let why = || Error::new(Kind::Closed, "the mount that comes next sends it");
        self.behind.away.lock().get_or_insert_with(why);
    }

    /// Sends the file when its turn comes. Its changes are closed (`OpenFile::owes`).
    pub(super) fn send_behind(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) {
        {
            let mut queue = self.behind.queue.lock();
            queue.closed(self.now());
            self.harden_later(file);
            if queue.files.contains_key(&ino) {
                return;
            }
            queue.files.insert(ino, file.clone());
            self.inodes.lock().opened(ino);
        }
        self.wait_for_turn(ino, file.clone(), FIRST_PAUSE);
    }

    /// One at a time looks after each large file.
    fn harden_later(self: &Arc<Self>, file: &Arc<OpenFile>) {
        if !file.is_small() && !file.looked_after.swap(true, Ordering::AcqRel) {
            let (fs, file) = (Arc::downgrade(self), Arc::downgrade(file));
            self.engine.rt.spawn(harden_what_waits(self.engine.rt.clone(), fs, file)).detach();
        }
    }

    /// A file without a name that only the queue and the caller have: nobody reads it any more.
    pub(super) fn rest_unread(&self, ino: u64, file: &OpenFile) {
        let queued = self.behind.queue.lock().files.contains_key(&ino);
        if queued && self.inodes.lock().opens(ino) <= 2 {
            file.rest();
        }
    }

    fn wait_for_turn(self: &Arc<Self>, ino: u64, file: Arc<OpenFile>, pause: Duration) {
        let (bytes, since) = (file.size(), self.now());
        self.behind.queue.lock().push(Waiting { ino, file, bytes, since, pause });
        self.take_turns();
    }

    /// Begins to send those whose turn it is.
    fn take_turns(self: &Arc<Self>) {
        let leaving = *self.behind.leaving.borrow();
        loop {
            let (next, watch) = {
                let (mut queue, now) = (self.behind.queue.lock(), self.now());
                // Counted before it is no longer seen to wait: see `idle`.
                let next = queue.next(now, leaving).map(|next| (next, self.busy(), Turn(self.clone())));
                (next, queue.watch(now, leaving))
            };
            if watch {
                let (fs, busy) = (self.clone(), self.busy());
                let watch = async move {
                    fs.watch_burst().await;
                    drop(busy);
                };
                self.engine.rt.spawn(watch).detach();
            }
            let Some((next, busy, turn)) = next else { return };
            let fs = self.clone();
            let work = async move {
                fs.turn(next, turn).await;
                drop(busy);
            };
            self.engine.rt.spawn(work).detach();
        }
    }

    async fn watch_burst(self: &Arc<Self>) {
        let mut leaving = self.behind.leaving.subscribe();
        loop {
            let pause = self.behind.queue.lock().look(self.now(), *leaving.borrow());
            self.take_turns();
            let Some(pause) = pause else { return };
            let _ = self.engine.rt.timeout(pause, leaving.wait_for(|leaving| *leaving)).await;
        }
    }

    async fn turn(self: &Arc<Self>, waiting: Waiting, turn: Turn) {
        let Waiting { ino, file, pause, .. } = waiting;
        let sent = self.send_owed(ino, &file).await;
        let mut leaving = self.behind.leaving.subscribe();
        let again = {
            let mut queue = self.behind.queue.lock();
            // A close in between found it in the queue.
            let again = !sent || file.owes() && !*leaving.borrow();
            if !again {
                queue.files.remove(&ino);
            }
            again
        };
        drop(turn);
        self.take_turns();
        if !again {
            // What was stored may have changed since, as by a chmod.
            let give_up = *leaving.borrow() && (file.owes() || file.is_failed());
            return self.left(ino, give_up).await;
        }
        if sent {
            return self.wait_for_turn(ino, file, FIRST_PAUSE);
        }
        let _ = self.engine.rt.timeout(pause, leaving.wait_for(|leaving| *leaving)).await;
        self.wait_for_turn(ino, file, (pause * 2).min(LONGEST_PAUSE));
    }

    /// Sends what is owed; false: it is to be tried again.
    async fn send_owed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> bool {
        while file.owes() {
            let Err(why) = self.try_owed(ino, file).await else { continue };
            file.rest();
            let at = file.staged_at();
            if why.is(Kind::Refused) {
                tracing::error!(key = file.key(), %why, "somebody else changed this object");
                break;
            }
            if *self.behind.leaving.borrow() {
                match why.kind() {
                    Kind::Closed => tracing::debug!(key = file.key(), kept = at, "left to the next mount"),
                    _ => {
                        tracing::error!(key = file.key(), kept = at, %why, "not stored: it is kept, and sent at the next mount")
                    }
                }
                if let Err(why) = file.harden(&self.engine).await {
                    tracing::warn!(key = file.key(), %why, "a loss of power may take what is kept");
                }
                if !why.is(Kind::Closed) {
                    let mut kept = self.behind.kept.lock();
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
    async fn try_owed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> Result<()> {
        let behind = &self.behind;
        let away = behind.away.lock().as_ref().map(Error::share);
        if let Some(why) = away {
            return Err(why);
        }
        let before = behind.stored.load(Ordering::Relaxed);
        let sent = self.send_for(ino, file, Purpose::Owed).await;
        let leaving = *behind.leaving.borrow();
        // A store that took another file meanwhile is not away.
        let none = behind.stored.load(Ordering::Relaxed) == before;
        match &sent {
            Ok(()) => {
                behind.stored.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) if leaving && none && matches!(why.kind(), Kind::Unavailable | Kind::Timeout) => {
                behind.away.lock().get_or_insert_with(|| why.share());
            }
            Err(_) => {}
        }
        sent
    }

    /// Takes up what an earlier mount left staged; what can't be is named.
    pub(super) async fn take_up(self: &Arc<Self>, found: Found) -> Vec<Unsent> {
        let Found { left: all, lost, mut unsent, .. } = found;
        let over = self.superseded(&all, &lost).await;
        for (stage, note) in lost {
            if over.contains(&stage.id()) || self.is_stored(note.as_ref()).await {
                if !self.options().read_only {
                    self.engine.staging.done(stage).await;
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
            self.give_up(left).await;
        }
        let (mut named, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for left in self.by_claim(all).await {
            let (path, key, bytes) = (left.stage.path(), left.note.key.clone(), left.edits.size);
            let first = !named.contains(&key);
            // The name is the first one's: those that follow wait with it.
            if self.options().read_only || kept.contains(&key) {
                unsent.push(Unsent { path, key, bytes });
                continue;
            }
            match self.take_up_one(left, first).await {
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
    async fn superseded(&self, all: &[Left], lost: &[(Stage, Option<Note>)]) -> BTreeSet<String> {
        let lost = lost.iter().map(|(stage, _)| stage.id());
        let here: BTreeSet<String> = all.iter().map(|left| left.stage.id()).chain(lost).collect();
        let outgrown: BTreeSet<&String> = all.iter().filter_map(|left| left.note.outgrown.as_ref()).collect();
        let mut over = BTreeSet::new();
        // What may be torn takes nobody's place.
        for left in all.iter().filter(|left| !left.unsure) {
            let replaced = left.note.replaces().filter(|_| !outgrown.contains(&left.stage.id()));
            let gone =
                replaced.into_iter().chain(left.note.outgrown.as_deref()).filter(|id| here.contains(*id));
            let gone: Vec<String> = gone.map(str::to_owned).collect();
            if gone.is_empty() {
                continue;
            }
            let kept = if self.options().read_only { Ok(()) } else { left.stage.harden().await };
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
    async fn by_claim(&self, mut all: Vec<Left>) -> Vec<Left> {
        let (mut seen, mut there) = (BTreeSet::new(), BTreeMap::new());
        for key in all.iter().map(|left| &left.note.key) {
            if !seen.insert(key) && !there.contains_key(key) {
                let Ok(head) = self.engine.remote.head(key).await else { continue };
                there.insert(key.clone(), head);
            }
        }
        all.sort_by_cached_key(|left| {
            let Note { key, base, mark, owed, life, .. } = &left.note;
            let follows = there.get(key).is_none_or(|head| {
                let etag = head.as_ref().map(|head| &head.etag);
                base.as_ref().map(|base| &base.etag) == etag
                    || head.as_ref().is_some_and(|h| arrived(left, h))
            });
            (
                left.unsure,
                *mark == Mark::Open && !owed,
                !follows,
                Reverse((*life, left.note.attrs().time("ctime"))),
            )
        });
        all
    }

    /// The bucket has what this disk has lost.
    async fn is_stored(&self, note: Option<&Note>) -> bool {
        let Some(note) = note else { return false };
        let head = self.engine.remote.head(&note.key).await;
        head.is_ok_and(|head| head.is_some_and(|head| is_as_closed(note, &head)))
    }

    /// Nobody needs it.
    async fn give_up(&self, left: Left) {
        if let Some(upload) = &left.note.upload {
            // Completed, it is not there any more; otherwise its parts cost money.
            self.engine.remote.abort(&left.note.key, upload).await;
        }
        self.engine.staging.done(left.stage).await;
    }

    /// `first`: none of its name was taken up before. True: it has its name, or would have.
    async fn take_up_one(self: &Arc<Self>, left: Left, first: bool) -> Result<bool> {
        if let Some(upload) = &left.note.upload {
            self.engine.remote.abort(&left.note.key, upload).await;
        }
        let head = self.engine.remote.head(&left.note.key).await?;
        let whole = head.as_ref().is_some_and(|head| is_as_closed(&left.note, head));
        let came = head.as_ref().filter(|h| whole || arrived(&left, h));
        if came.is_some() && whole {
            self.engine.staging.done(left.stage).await;
            return Ok(false);
        }
        let was = left.note.base.is_some() || left.note.over.is_some();
        let rewritten = was && left.edits.base_len == 0;
        let beside = rewritten && left.note.mark == Mark::Open && !left.note.owed;
        let key = left.note.key.clone();
        let taken = !first || self.inodes.lock().at(&key, false).is_some_and(|n| n.file.is_some());
        // Its own send would be refused: until then nobody is to see it for what the bucket has.
        let based = left.note.base.as_ref().map(|base| &base.etag);
        let refused = came.is_none() && head.as_ref().map(|head| &head.etag) != based;
        let aside = beside || taken || refused || left.unsure;
        let unsure = left.unsure;
        let changing = match aside {
            true => Arc::default(),
            false => self.inodes.lock().meet(&key, false, &self.default_facts(false)).changing.clone(),
        };
        if let Some(from) = &left.note.borrowed {
            self.lends(from.key.clone());
        }
        let file = OpenFile::left(left, Ns::from_ms(self.engine.rt.wall_ms()), changing);
        if let Some(head) = came {
            file.rebase(Base { etag: head.etag.clone(), size: head.size });
        }
        if aside {
            if unsure {
                self.keep_behind(key, file, UNFINISHED);
                return Ok(false);
            }
            if !beside && refused {
                self.keep_behind(key, file, CONFLICT);
                return Ok(true);
            }
            let kept = file.rescue(&self.engine, UNFINISHED).await?;
            tracing::warn!(
                key,
                kept,
                "an earlier mount ended while this was being written: it is kept beside"
            );
            return Ok(true);
        }
        tracing::info!(
            key,
            bytes = file.facts(self.options()).size,
            "sending what an earlier mount could not"
        );
        let ino = {
            let mut inodes = self.inodes.lock();
            let node = inodes.meet(&key, false, &file.facts(self.options()));
            node.file = Some(file.clone());
            node.ino
        };
        self.send_behind(ino, &file);
        Ok(true)
    }

    /// Stores beside it, which nobody waits for, what somebody else's object refuses, or may be torn.
    fn keep_behind(self: &Arc<Self>, key: String, file: Arc<OpenFile>, word: &'static str) {
        let (fs, busy) = (self.clone(), self.busy());
        let work = async move {
            match file.rescue(&fs.engine, word).await {
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
                    tracing::error!(key, at, %why, "what is to be kept beside can't be stored yet: the next mount tries again");
                }
            }
            drop(busy);
        };
        self.engine.rt.spawn(work).detach();
    }
}

/// Makes durable what left the staging folder, not long after it did.
async fn settle_what_left(rt: Rt, fs: Weak<Fs>, folder: Folder) {
    loop {
        folder.rings().await;
        rt.sleep(SETTLE_AFTER).await;
        let Some(fs) = fs.upgrade() else { return };
        let busy = fs.busy();
        if *fs.behind.leaving.borrow() {
            return;
        }
        folder.settle_or_say().await;
        drop(busy);
    }
}

/// Makes what goes on waiting survive a loss of power: after that nobody could tell whether it has.
async fn harden_what_waits(rt: Rt, fs: Weak<Fs>, file: Weak<OpenFile>) {
    loop {
        rt.sleep(HARDEN_AFTER).await;
        let (Some(fs), Some(file)) = (fs.upgrade(), file.upgrade()) else { return };
        // The mount's end waits for whoever is busy, or has begun and is seen here.
        let busy = fs.busy();
        if *fs.behind.leaving.borrow() || !file.owes() {
            file.looked_after.store(false, Ordering::Release);
            // Closed again in between it would be left to nobody.
            if *fs.behind.leaving.borrow() || !file.owes() || file.looked_after.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        if let Err(why) = file.harden(&fs.engine).await {
            tracing::warn!(key = file.key(), %why, "a loss of power may take what waits to be sent");
        }
        drop(busy);
    }
}

/// The object is the file as it was closed.
fn is_as_closed(note: &Note, head: &Head) -> bool {
    let signed = Signature::of(&note.attrs(), note.size);
    note.mark == Mark::Closed && signed.is_some() && Signature::of(&head.attrs, head.size) == signed
}

/// The store got one of the last sends, though nobody was told.
pub(super) fn arrived(left: &Left, head: &Head) -> bool {
    Signature::of(&head.attrs, head.size).is_some_and(|signature| left.note.sending.contains(&signature))
}

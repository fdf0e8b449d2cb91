//! What is sent without anybody waiting: files that are closed on this host's disk (`flush=local`), files whose close
//! failed, and what an earlier mount left.
//!
//! Each such file is held open by the queue, which tries until the bucket has it, or somebody else's object has its
//! name, or the mount ends: then its stage stays for the next mount.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::Fs;
use super::file::OpenFile;
use super::meta::Ns;
use super::queue::Pending;
use super::remote::Base;
use super::send::Purpose;
use super::signature::Signature;
use super::stage::{Mark, Note};
use super::staging::{Left, Unsent};
use crate::base::{Error, Kind, Result};
use crate::store::Head;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Fs {
    pub fn pending(&self) -> Pending {
        let queued = self.behind.queued.lock();
        let bytes = queued.values().map(|file| file.facts(self.options()).size).sum();
        Pending { files: queued.len() as u64, bytes }
    }

    /// What the mount's end left staged.
    pub fn kept(&self) -> Pending {
        *self.behind.kept.lock()
    }

    /// The mount ends: what can't be sent at once stays staged. Once one file finds the store away, those that still wait
    /// are not tried.
    pub(super) fn leave_off(&self) {
        self.behind.leaving.send_replace(true);
    }

    /// Sends the file when its turn comes. Its changes are closed (`OpenFile::owes`).
    pub(super) fn send_behind(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) {
        {
            let mut queued = self.behind.queued.lock();
            if queued.contains_key(&ino) {
                return;
            }
            queued.insert(ino, file.clone());
            self.inodes.lock().opened(ino);
        }
        let (fs, file, busy) = (self.clone(), file.clone(), self.busy());
        let work = async move {
            while !fs.send_owed(ino, &file).await {}
            let give_up = *fs.behind.leaving.borrow();
            fs.left(ino, give_up).await;
            drop(busy);
        };
        self.engine.rt.spawn(work).detach();
    }

    /// Tries until nothing is owed or nothing can be done; true when the file is out of the queue.
    async fn send_owed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> bool {
        let mut pause = FIRST_PAUSE;
        while file.owes() {
            let sent = {
                let _turn = self.behind.permits.acquire().await;
                self.try_owed(ino, file).await
            };
            let why = match sent {
                Ok(()) => continue,
                Err(why) => why,
            };
            file.rest();
            let at = file.staged_at();
            if why.is(Kind::Refused) {
                tracing::error!(key = file.key(), %why, "somebody else changed this object");
                break;
            }
            if *self.behind.leaving.borrow() {
                tracing::error!(key = file.key(), kept = at, %why, "not stored: it is kept, and sent at the next mount");
                let mut kept = self.behind.kept.lock();
                kept.files += 1;
                kept.bytes += file.facts(self.options()).size;
                break;
            }
            tracing::warn!(key = file.key(), kept = at, %why, "not stored yet: trying again");
            let mut leaving = self.behind.leaving.subscribe();
            let _ = self.engine.rt.timeout(pause, leaving.wait_for(|leaving| *leaving)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let mut queued = self.behind.queued.lock();
        // A close in between found it in the queue.
        if file.owes() && !*self.behind.leaving.borrow() {
            return false;
        }
        queued.remove(&ino);
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
    pub(super) async fn take_up(self: &Arc<Self>, all: Vec<Left>) -> Vec<Unsent> {
        let mut unsent = Vec::new();
        let mut over: BTreeSet<String> = BTreeSet::new();
        // A version that was closed later stands on this disk.
        let closed = |note: &Note| note.mark != Mark::Open || note.owed;
        over.extend(all.iter().filter(|left| closed(&left.note)).filter_map(|left| left.note.over.clone()));
        for mut left in all {
            if over.contains(&left.stage.id()) {
                left.note.mark = Mark::Sent;
            }
            let (path, key, bytes) = (left.stage.path().to_owned(), left.note.key.clone(), left.edits.size);
            if self.options().read_only {
                unsent.push(Unsent { path, key, bytes });
            } else if let Err(why) = self.take_up_one(left).await {
                tracing::warn!(path = %path.display(), key, %why, "what an earlier mount could not store is kept");
                unsent.push(Unsent { path, key, bytes });
            }
        }
        unsent
    }

    async fn take_up_one(self: &Arc<Self>, left: Left) -> Result<()> {
        if let Some(upload) = &left.note.upload {
            // Completed, it is not there any more; otherwise its parts cost money.
            self.engine.remote.abort(&left.note.key, upload).await;
        }
        if left.note.mark == Mark::Sent {
            self.engine.staging.done(left.stage).await;
            return Ok(());
        }
        let head = self.engine.remote.head(&left.note.key).await?;
        let signed = Signature::of(&left.note.attrs(), left.note.size);
        let is_it = |h: &Head| {
            left.note.mark == Mark::Closed && signed.is_some() && Signature::of(&h.attrs, h.size) == signed
        };
        let whole = head.as_ref().is_some_and(is_it);
        let came = head.as_ref().filter(|h| whole || arrived(&left, h));
        if came.is_some() && whole {
            self.engine.staging.done(left.stage).await;
            return Ok(());
        }
        let was = left.note.base.is_some() || left.note.over.is_some();
        let rewritten = was && left.edits.base_len == 0;
        let beside = rewritten && left.note.mark == Mark::Open && !left.note.owed;
        let key = left.note.key.clone();
        let taken = self.inodes.lock().at(&key, false).is_some_and(|n| n.file.is_some());
        let aside = beside || taken;
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
            let kept = file.rescue(&self.engine).await?;
            tracing::warn!(
                key,
                kept,
                "an earlier mount ended while this was being written: it is kept beside"
            );
            return Ok(());
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
        Ok(())
    }
}

/// The store got one of the last sends, though nobody was told.
fn arrived(left: &Left, head: &Head) -> bool {
    Signature::of(&head.attrs, head.size).is_some_and(|signature| left.note.sending.contains(&signature))
}

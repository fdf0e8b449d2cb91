//! Write-back: files are sent in the background when they are closed on this host's disk (`flush=local`), when their
//! close failed, and when an earlier mount left them (`recovery`).
//!
//! Each such file is held open by the queue, which tries until the bucket has it, or somebody else's object has its
//! name, or the mount ends: then its stage stays for the next mount.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::filesystem::Fs;
use crate::file::{OpenFile, Purpose};
use crate::staging::StagingDir;
use crate::tree::{Pending, QueuedFile};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Time after which what still waits is synced, as the kernel would write it by then without being asked.
const SYNC_STAGE_AFTER: Duration = Duration::from_secs(30);
/// Time after which removals from the staging folder are synced, as a journal would do.
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
        let (waiting, left) = (self.waiting(), self.kept());
        let (files, bytes) = (waiting.files + left.files, waiting.bytes + left.bytes);
        Pending { files, bytes, removals: self.context.remote.deletes.count() as u64, lost: left.lost }
    }

    /// Counts the files and bytes in the queue.
    fn waiting(&self) -> Pending {
        let queue = self.writeback.queue.lock();
        let bytes = queue.files.values().map(|file| file.size()).sum();
        Pending { files: queue.files.len() as u64, bytes, ..Pending::default() }
    }

    /// Counts a file that stays staged, and is the next mount's.
    pub(super) fn left_staged(&self, bytes: u64) {
        let mut left = self.writeback.left_unsent.lock();
        left.files += 1;
        left.bytes += bytes;
    }

    /// Returns why files that wait to be sent are not sent, while the bucket takes none.
    pub fn not_sent(&self) -> Option<String> {
        if self.pending().files == 0 {
            return None;
        }
        self.writeback.not_sent.lock().clone()
    }

    /// Asks whether the bucket answers, and may be listed; the error says why not.
    pub async fn ask_bucket(&self) -> Result<()> {
        self.context.remote.list("", None, true, 1).await.map(drop)
    }

    /// Returns what is left staged for the next mount.
    pub fn kept(&self) -> Pending {
        *self.writeback.left_unsent.lock()
    }

    pub(super) fn spawn_removal_syncer(self: &Arc<Self>) {
        let (rt, folder) = (self.context.rt.clone(), self.context.staging.folder.clone());
        rt.clone().spawn(sync_what_was_removed(rt, Arc::downgrade(self), folder)).detach();
    }

    /// Counts files of sends that were cut off as unsent: after the mount's end nothing else waits.
    fn count_unsent(&self) {
        let rest = self.waiting();
        let mut kept = self.writeback.left_unsent.lock();
        kept.files += rest.files;
        kept.bytes += rest.bytes;
    }

    /// Tells the queue that the mount ends: what can't be sent at once stays staged. Once one file finds the
    /// store away, those that still wait are not tried.
    fn begin_shutdown(self: &Arc<Self>) {
        self.writeback.unmounting.send_replace(true);
        self.start_sends();
    }

    /// Sends what handles that were never released still hold, and what waits, once the mount is gone. Half
    /// of a file that was being written anew stays staged: the kernel cut its writer off (`umount -f`), or
    /// the daemon ends before it.
    pub async fn finish(self: &Arc<Self>) {
        let left: Vec<u64> = self.handles.lock().files.keys().copied().collect();
        self.writeback.unmounting.send_replace(true);
        for handle in left {
            self.release(handle).await;
        }
        self.begin_shutdown();
        self.idle().await;
        self.count_unsent();
        self.end_removals().await;
        self.context.staging.close().await;
    }

    /// Ends the deletes with the mount: what a store that doesn't answer has not deleted by then is the next
    /// mount's.
    async fn end_removals(&self) {
        let left = self.context.remote.deletes.end(self.options().deadline).await;
        self.idle().await;
        if left > 0 {
            tracing::error!(names = left, "removed names are not deleted: the next mount goes on with that");
        }
        self.writeback.left_unsent.lock().removals = left as u64;
    }

    /// Leaves what has not begun to be sent staged for another mount, which takes the folder over.
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
                file.asked_again.notify_one();
                return;
            }
            queue.files.insert(ino, file.clone());
            self.inodes.lock().opened(ino);
        }
        self.enqueue(ino, file.clone(), FIRST_PAUSE);
    }

    /// Has a large file's stage synced after a while. One task at a time looks after each large file.
    fn sync_stage_later(self: &Arc<Self>, file: &Arc<OpenFile>) {
        if !file.is_small() && !file.has_syncer.swap(true, Ordering::AcqRel) {
            let (fs, file) = (Arc::downgrade(self), Arc::downgrade(file));
            self.context.rt.spawn(sync_waiting_stage(self.context.rt.clone(), fs, file)).detach();
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
        let mut unmounting = self.writeback.unmounting.subscribe();
        if self.gate.is_held(&[file.key()]) && !*unmounting.borrow() {
            // Its directory is being renamed, which may take long: others go first.
            drop(permit);
            self.start_sends();
            let _ = self.context.rt.timeout(FIRST_PAUSE, unmounting.wait_for(|unmounting| *unmounting)).await;
            return self.enqueue(ino, file, pause);
        }
        let sent = self.send_closed(ino, &file).await;
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
            if file.waits_for_close() {
                let asked = std::pin::pin!(file.asked_again.notified());
                let end = std::pin::pin!(unmounting.wait_for(|unmounting| *unmounting));
                let _ = self.context.rt.timeout(FIRST_PAUSE, futures::future::select(asked, end)).await;
            }
            return self.enqueue(ino, file, FIRST_PAUSE);
        }
        let _ = self.context.rt.timeout(pause, unmounting.wait_for(|unmounting| *unmounting)).await;
        self.enqueue(ino, file, (pause * 2).min(LONGEST_PAUSE));
    }

    /// Tells whether a program has the file open for writing, and will close it.
    fn is_being_written(&self, ino: u64) -> bool {
        self.handles.lock().files.values().any(|handle| handle.ino == ino && handle.how.write)
    }

    /// Sends what was closed, unless it is being overwritten. Returns false if it is to be tried again.
    async fn send_closed(self: &Arc<Self>, ino: u64, file: &Arc<OpenFile>) -> bool {
        while file.has_unsent_close() {
            if file.waits_for_close() {
                if self.is_being_written(ino) && !*self.writeback.unmounting.borrow() {
                    return true;
                }
                // No close will come, as when it was written through a mapping after the last one.
                if let Err(why) = file.mark_closed(&self.context, false).await
                    && file.waits_for_close()
                {
                    tracing::warn!(key = file.key(), %why, "not stored yet: trying again");
                    return false;
                }
                continue;
            }
            let Err(why) = self.try_send_closed(ino, file).await else { continue };
            file.release_fds();
            let at = file.staged_at();
            if file.is_failed() && !why.is(Kind::Refused) {
                // The log has it already.
                break;
            }
            if why.is(Kind::Refused) {
                tracing::error!(key = file.key(), %why, "somebody else changed this object");
                if at.is_some() && file.is_failed() {
                    // Not even a copy beside could be stored.
                    self.left_staged(file.size());
                }
                break;
            }
            if *self.writeback.unmounting.borrow() {
                match why.kind() {
                    _ if file.is_freed() => {
                        self.writeback.left_unsent.lock().lost += 1;
                        tracing::error!(key = file.key(), %why, "not stored: bytes of it were freed, as the disk of the state folder was nearly full, so that the next mount can't send it")
                    }
                    Kind::Closed => tracing::debug!(key = file.key(), kept = at, "left to the next mount"),
                    _ => {
                        tracing::error!(key = file.key(), kept = at, %why, "not stored: it is kept, and sent at the next mount")
                    }
                }
                if let Err(why) = file.sync_stage(&self.context).await {
                    tracing::warn!(key = file.key(), %why, "a loss of power may take what is kept");
                }
                if !why.is(Kind::Closed) && !file.is_freed() {
                    self.left_staged(file.size());
                }
                break;
            }
            tracing::warn!(key = file.key(), kept = at, %why, "not stored yet: trying again");
            *self.writeback.not_sent.lock() = Some(why.to_string());
            return false;
        }
        true
    }

    /// Sends the file once, unless the mount ends and the store is known to be away. Each of thousands would
    /// wait for its deadline, a few at a time, and all are as safe on this disk as the one that was tried.
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
            Ok(()) if file.waits_for_close() => {}
            Ok(()) => {
                writeback.sent_files.fetch_add(1, Ordering::Relaxed);
                *writeback.not_sent.lock() = None;
            }
            Err(why) if unmounting && none && matches!(why.kind(), Kind::Unavailable | Kind::Timeout) => {
                writeback.store_away.lock().get_or_insert_with(|| why.share());
            }
            Err(_) => {}
        }
        sent
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

/// Makes a stage that goes on waiting survive a loss of power: after a loss nobody could tell whether it has.
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

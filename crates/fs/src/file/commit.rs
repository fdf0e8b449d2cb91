//! A file's way into the bucket: what it is now becomes the object, once, and whose the object is afterwards is known
//! whatever became of the answer.

use tokio::sync::MutexGuard;

use super::closed_version::ClosedVersion;
use super::conflict_copy;
use super::context::MountContext;
use super::freed::send_freed;
use super::open_file::{FileParts, OpenFile, bytes_missing};
use super::own_send::OwnSend;
use super::rewrite::drop_version;
use super::stage_lifecycle::note_unpromised;
use super::state::{Event, Life, Purpose, SENDS};
use super::streaming_upload::StreamingUpload;
use super::upload::{self, Snapshot};
use crate::bucket::{UploadNotes, is_of_disk};
use crate::object::{
    Attributes, Base, Source, UploadToken, add_upload_token, differ_in_time_only, merge_attrs,
};
use crate::staging::{Mark, Note};
use windlass_base::{Error, Kind, Result};
use windlass_store::{Attrs, Etag};

/// Ends an upload that becomes no object, once its parts have ended: one that arrives later would stay.
pub(super) fn give_up(e: &MountContext, key: &str, streaming: StreamingUpload) {
    let (remote, removals, key) = (e.remote.clone(), e.staging.removals.clone(), key.to_owned());
    let work = async move {
        streaming.ended().await;
        remote.abort(&key, &streaming.upload).await;
        UploadNotes::ended(&*removals, &key, &streaming.upload).await;
    };
    e.rt.spawn(work).detach();
}

/// Ends an upload for a name that the file's note is about to leave. Until it has ended, it is written down
/// in the removal log.
async fn give_up_noted(e: &MountContext, key: &str, streaming: StreamingUpload) {
    if let Err(why) = e.staging.removals.begun(key, &streaming.upload).await {
        tracing::warn!(key, %why, "after a crash an unfinished upload would stay in the bucket");
    }
    give_up(e, key, streaming);
}

/// Number of attempts to send a file that is truncated while it is being sent.
const TRIES: u32 = 16;

impl OpenFile {
    /// Takes a snapshot of the file, which is to be the next object, and writes it down as closed.
    async fn note_as_closed(&self, e: &MountContext, durable: bool) -> Result<Snapshot> {
        let snapshot = self.snapshot(e);
        {
            let mut s = self.state.lock();
            s.apply(Event::Asked(snapshot.changes));
            s.apply(Event::Signed(snapshot.changes, snapshot.attrs.clone()));
        }
        self.note(e, durable).await?;
        Ok(snapshot)
    }

    /// Takes a snapshot of what is to be sent, and writes it down as on its way. Parts that have left early
    /// carry older metadata: newer ones are returned apart.
    async fn prepare_send(
        &self,
        e: &MountContext,
        purpose: Purpose,
        writing: MutexGuard<'_, ()>,
    ) -> Result<Option<(Snapshot, Option<StreamingUpload>, Option<Attrs>)>> {
        let (mut snapshot, mut streaming, dated) = {
            let _one = writing;
            let mut s = self.state.lock();
            let Some(snapshot) = s.snapshot_for(e, purpose) else { return Ok(None) };
            // From here on whoever rewrites the file leaves these staged bytes as they are.
            s.apply(Event::Asked(snapshot.changes));
            s.stream_failed = false;
            let mut streaming = s.streaming.take();
            if snapshot.size == 0 {
                // Nothing has no parts.
                streaming.take().into_iter().for_each(|streaming| give_up(e, &snapshot.key, streaming));
            }
            (snapshot, streaming, s.file.dated)
        };
        if streaming.is_none() && snapshot.in_parts() {
            streaming = Some(StreamingUpload::begin(e, &snapshot.key, snapshot.attrs.clone()).await?);
        }
        let mut newer = None;
        if let Some(streaming) = &streaming {
            let old = std::mem::replace(&mut snapshot.attrs, streaming.attrs.clone());
            newer = Some(old).filter(|old| dated || !differ_in_time_only(old, &streaming.attrs));
        }
        let told = {
            let mut s = self.state.lock();
            s.upload = streaming.as_ref().map(|streaming| streaming.upload.clone());
            // A note that says what is closed says by what it is known.
            let signed = s.file.signed().is_some();
            let told = s.noted == Some(Mark::Closed) && signed && s.upload.is_none();
            s.remember_upload(&snapshot);
            let attrs = newer.as_ref().unwrap_or(&snapshot.attrs).clone();
            s.apply(Event::Signed(snapshot.changes, attrs));
            told && s.file.changes == snapshot.changes
        };
        if !told && let Err(why) = self.note(e, false).await {
            // What this disk can't promise can be stored all the same.
            if !self.is_rewriting() || note_unpromised(self, e).await.is_err() {
                if let Some(streaming) = &streaming {
                    self.state.lock().upload = None;
                    e.remote.abort(&snapshot.key, &streaming.upload).await;
                }
                return Err(why);
            }
        }
        Ok(Some((snapshot, streaming, newer)))
    }

    /// Brings the stage's note up to date on what of it was sent, before the file's name changes.
    pub async fn refresh_note(&self, e: &MountContext) -> Result<()> {
        let stale = {
            let s = self.state.lock();
            s.stage.is_some() && s.noted != Some(s.file.mark())
        };
        if stale { self.note(e, false).await } else { Ok(()) }
    }

    /// Writes down that the file has another name now, and gives up what had left for the old name.
    async fn follow(&self, e: &MountContext) -> Result<()> {
        // A stage that is just being made has its note under the old name.
        drop(self.noting.lock().await);
        let (stage, version, useless) = {
            let mut s = self.state.lock();
            let (base, sending) = (s.file.base.clone(), s.file.uploading.clone());
            let version = s.closed_version.as_mut().map(|unsent| {
                unsent.note = Note { base, sending, ..unsent.note.clone() };
                (unsent.stage.clone(), unsent.note.clone())
            });
            // With its next write it begins to leave for this name.
            s.stream_failed = false;
            (s.stage.is_some(), version, std::mem::take(&mut s.useless))
        };
        for (key, streaming) in useless {
            give_up_noted(e, &key, streaming).await;
        }
        if let Some((stage, note)) = version {
            stage.note(&note, stage.is_durable()).await?;
        }
        if stage { self.note(e, false).await } else { Ok(()) }
    }

    /// Writes down that the stage belongs to this copy of its object, at the name that the file is about to
    /// have. When the old name goes, a crash must not find the stage there alone.
    pub async fn note_copy(&self, e: &MountContext, of: &Etag, key: &str, copy: Base) -> Result<()> {
        let _one = self.noting.lock().await;
        let useless = {
            let mut s = self.state.lock();
            let (old, left) = (s.file.key.clone(), s.streaming.take().zip(s.upload.take()));
            // Whatever becomes of the rename: none begins for the old name while it lasts.
            s.stream_failed |= left.is_some();
            left.map(|(streaming, _)| (old, streaming))
        };
        if let Some((old, streaming)) = useless {
            give_up_noted(e, &old, streaming).await;
        }
        let (stage, note) = {
            let mut s = self.state.lock();
            let is_of = s.file.base.as_ref().is_some_and(|base| base.etag == *of) && !s.file.is_unlinked();
            let Some(stage) = s.stage.clone().filter(|_| is_of) else { return Ok(()) };
            // Should the old name stay, that is written down once more.
            s.noted = None;
            let note = s.note(&e.staging, stage.partly());
            (stage, Note { key: key.to_owned(), base: Some(copy), ..note })
        };
        stage.note(&note, stage.is_durable()).await
    }

    /// Follows the file's new name, so that bytes written during a rename are known by it after a crash too;
    /// or the log says why not.
    pub async fn follow_or_warn(&self, e: &MountContext) {
        if let Err(why) = self.follow(e).await {
            tracing::warn!(key = self.key(), %why, "after a crash this would become a conflict copy");
        }
    }

    /// Tells a file that is no object yet, and has this name now, what it replaces: what was removed here and
    /// may be there still, or may still come.
    pub fn follow_removed(&self, e: &MountContext, key: &str) {
        e.remote.deletes.doomed(key).into_iter().for_each(|was| self.follows_removal(was));
        e.remote.late_put(key).into_iter().for_each(|put| self.follows_late_put(&put.attrs, put.size));
    }

    /// Asks the store whether an upload whose answer nobody heard has made an object of a file that is none
    /// yet.
    pub async fn recall_unheard(&self, e: &MountContext) -> Result<()> {
        let unheard = {
            let s = self.state.lock();
            s.file.base.is_none() && !s.file.uploading.is_empty()
        };
        if !unheard {
            return Ok(());
        }
        let Some(head) = e.remote.head(&self.key()).await? else { return Ok(()) };
        let mut s = self.state.lock();
        let ours = UploadToken::of(&head.attrs, head.size).is_some_and(|t| s.file.uploading.contains(&t));
        if ours {
            s.apply(Event::Recalled(Some(Base { etag: head.etag, size: head.size })));
        }
        Ok(())
    }

    /// Makes what the file is now survive this process, for `flush=local`; with `durable`, a loss of power
    /// too.
    pub async fn mark_closed(&self, e: &MountContext, durable: bool) -> Result<()> {
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why);
        }
        let (done, staged, size) = {
            let s = self.state.lock();
            if s.is_freed() {
                // This host can't answer for it.
                return Ok(());
            }
            // A send asks for what it takes with it, before that is written down.
            let sealed = s.file.asked == s.file.changes && s.noted == Some(Mark::Closed);
            let done = !s.file.is_dirty() || sealed && !durable;
            (done, s.stage.is_some(), s.file.size)
        };
        if done {
            return Ok(());
        }
        if !staged {
            self.stage(e, size).await?;
        }
        loop {
            self.note_as_closed(e, durable).await?;
            // A change of its metadata in between makes a note that doesn't say so.
            let s = self.state.lock();
            let waits = s.file.is_dirty() && s.stage.is_some();
            if !waits || s.noted != Some(Mark::Open) {
                return Ok(());
            }
        }
    }

    /// Makes what was changed beside the bytes of a file that is not stored yet survive this process. A file
    /// that was closed stays closed: no close will come for a chmod by name, and the next mount must not take
    /// its bytes for unfinished.
    pub async fn keep_attrs(&self, e: &MountContext) -> Result<()> {
        let _one = self.writing.lock().await;
        let closed = {
            let s = self.state.lock();
            s.file.is_unwritten_since_asked()
                && s.file.is_asked()
                && s.closed_version.is_none()
                && matches!(s.file.life, Life::Linked)
        };
        if closed { self.note_as_closed(e, false).await.map(drop) } else { self.note(e, false).await }
    }

    /// Makes what is closed and waits to be sent survive a loss of power, unless it is being written again.
    pub async fn sync_stage(&self, e: &MountContext) -> Result<()> {
        let Ok(_one) = self.writing.try_lock() else { return Ok(()) };
        {
            let s = self.state.lock();
            // Its metadata may have changed since.
            let closed = s.file.is_unwritten_since_asked() && s.closed_version.is_none();
            let waits = s.file.is_dirty() && !s.file.is_failed();
            if !closed || !waits || s.stage.as_ref().is_none_or(|stage| stage.is_sure()) {
                return Ok(());
            }
        }
        self.note(e, true).await
    }

    /// Tells whether all of the file is staged in a slot.
    pub fn is_small(&self) -> bool {
        self.state.lock().stage.as_ref().is_some_and(|stage| stage.is_slot())
    }

    /// Returns the path of the file's bytes on this host.
    pub fn staged_at(&self) -> Option<String> {
        self.state.lock().stage.as_ref().map(|stage| stage.path().display().to_string())
    }

    /// Closes the stage's file descriptors until the file is sent, since nobody has it open.
    pub fn release_fds(&self) {
        let s = self.state.lock();
        for stage in s.stage.iter().chain(s.closed_version.as_ref().map(|unsent| &unsent.stage)) {
            stage.release_fds();
        }
    }

    /// Makes the object what the file is. Returns once the bucket has it, or why it hasn't. `publish` calls
    /// the function that it is given, which makes the file clean and returns what the object shows. From then
    /// on the tables answer for the file, so both must be one step.
    pub async fn send(
        &self,
        e: &MountContext,
        purpose: Purpose,
        publish: impl FnOnce(&dyn Fn() -> Attributes),
    ) -> Result<()> {
        let _one = self.sending.lock().await;
        if !self.is_dirty() {
            return Ok(());
        }
        if let Some(why) = self.failure() {
            return Err(why);
        }
        self.recall_sends(e).await?;
        self.meet_attrs(e).await?;
        let mut tries = 0;
        let (mut snapshot, newer, stored) = loop {
            // A rewrite checks under this lock whether the file is being sent.
            let writing = self.writing.lock().await;
            if self.is_freed() {
                return send_freed(self, e, purpose, writing, publish).await;
            }
            // What was closed, and is being written anew: no close or sync since has asked for more.
            if let Some(unsent) = self.version_to_send() {
                drop(writing);
                return self.send_version(e, unsent, purpose, publish).await;
            }
            let Some((mut snapshot, streaming, newer)) = self.prepare_send(e, purpose, writing).await? else {
                // It was sent while this waited, or overwritten: what is left goes with its own close.
                return Ok(());
            };
            let stored = self.deliver(e, &mut snapshot, streaming).await;
            tries += 1;
            if stored.is_ok() || !snapshot.is_torn() || tries == TRIES {
                break (snapshot, newer, stored);
            }
        };
        if stored.as_ref().is_err_and(is_of_disk) {
            self.forget_token(e).await;
        }
        if let Err(why) = stored.as_ref()
            && why.is(Kind::Refused)
        {
            let why = why.share();
            return Err(self.fail_with_conflict(e, snapshot, why).await);
        }
        self.record_upload(&snapshot, stored?);
        self.state.lock().upload = None;
        if let Some(newer) = newer {
            let base = self.base().ok_or_else(|| bytes_missing(&snapshot.key))?;
            snapshot.attrs = newer;
            self.state.lock().remember_upload(&snapshot);
            let etag = e.remote.put_attrs(&snapshot.key, &base, &snapshot.attrs).await?;
            self.record_upload(&snapshot, etag);
        }
        publish(&|| self.mark_clean(e, &snapshot));
        drop_version(self).await;
        // Somebody may hold the file open for long: by then another client's object may have its name.
        if let Err(why) = self.refresh_note(e).await {
            tracing::warn!(%why, "a file was stored, but this host's disk can't be told");
        }
        Ok(())
    }

    /// Gives the file another token, since the store is a folder whose disk failed while it took the file.
    /// The object there is no proof: the file is to be sent over it, by the next mount too.
    async fn forget_token(&self, e: &MountContext) {
        let version = {
            let mut s = self.state.lock();
            s.apply(Event::NotKept);
            if let Some(asked) = &mut s.asked_version {
                add_upload_token(&e.rt, &mut asked.attrs);
            }
            s.closed_version.as_mut().map(|unsent| {
                add_upload_token(&e.rt, &mut unsent.snapshot.attrs);
                unsent.note.user = unsent.snapshot.attrs.user.clone();
                (unsent.stage.clone(), unsent.note.clone())
            })
        };
        let noted = match version {
            Some((stage, note)) => stage.note(&note, stage.is_durable()).await,
            None => self.keep_attrs(e).await,
        };
        if let Err(why) = noted {
            tracing::warn!(key = self.key(), %why, "after a crash this may be taken for stored");
        }
    }

    /// Stores the closed version. If another client's object refuses it, it becomes a conflict copy, and the
    /// file goes on: its own close will be told.
    async fn send_version(
        &self,
        e: &MountContext,
        unsent: ClosedVersion,
        purpose: Purpose,
        publish: impl FnOnce(&dyn Fn() -> Attributes),
    ) -> Result<()> {
        let mut refused = None;
        let ClosedVersion { mut snapshot, stage, mut note } = unsent;
        let mut streaming = None;
        if snapshot.in_parts() {
            let begun = StreamingUpload::begin(e, &snapshot.key, snapshot.attrs.clone()).await?;
            note.upload = Some(begun.upload.clone());
            streaming = Some(begun);
        }
        stage.note(&note, false).await?;
        match self.deliver(e, &mut snapshot, streaming).await {
            Ok(etag) => {
                self.record_upload(&snapshot, etag);
                publish(&|| self.mark_clean(e, &snapshot));
            }
            Err(why) if why.is(Kind::Refused) => {
                let kept = conflict_copy::store(e, &snapshot, conflict_copy::CONFLICT).await?;
                tracing::error!(key = snapshot.key, kept = kept.as_deref(), %why, "another client changed the object: the closed version is stored as a conflict copy");
                let mut s = self.state.lock();
                s.apply(Event::CopiedAside(snapshot.changes));
                refused = Some(match kept {
                    Some(name) => why.context(format_args!("what was closed here is kept as {name}")),
                    None => why,
                });
            }
            Err(why) => {
                if is_of_disk(&why) {
                    self.forget_token(e).await;
                }
                return Err(why);
            }
        }
        drop((snapshot, stage));
        drop_version(self).await;
        // Whose close has long been answered is told by the log alone.
        refused.filter(|_| purpose == Purpose::Close).map_or(Ok(()), Err)
    }

    /// Stores the snapshot, if the object is still what the file was made of, or an earlier send of ours.
    pub(super) async fn deliver(
        &self,
        e: &MountContext,
        snapshot: &mut Snapshot,
        streaming: Option<StreamingUpload>,
    ) -> Result<Etag> {
        let mut stored = upload::upload(e, snapshot, streaming).await;
        for _ in 1..TRIES {
            if !stored.as_ref().is_err_and(|why| why.is(Kind::Refused)) {
                break;
            }
            match self.find_own_send(e, snapshot).await? {
                Some(OwnSend::This(etag)) => return Ok(etag),
                Some(OwnSend::Before) => stored = upload::upload(e, snapshot, None).await,
                None => break,
            }
        }
        stored
    }

    /// Takes over what another client has set of the object since it was opened (`chmod`), so that our upload
    /// does not undo it. The etag says nothing of it, so the store is asked.
    async fn meet_attrs(&self, e: &MountContext) -> Result<()> {
        let base = {
            let s = self.state.lock();
            s.file.base.clone().filter(|_| s.file.base_attrs.is_some())
        };
        let Some(base) = base else { return Ok(()) };
        let head = e.remote.head(&self.key()).await?;
        if let Some(head) = head.filter(|head| head.etag == base.etag) {
            let mut s = self.state.lock();
            let FileParts { file, closed_version, asked_version, .. } = &mut *s;
            let closed = closed_version.as_mut().map(|unsent| &mut unsent.snapshot);
            for version in closed.into_iter().chain(asked_version) {
                if let Some(was) = &file.base_attrs {
                    merge_attrs(was, &head.attrs, &mut version.attrs);
                }
            }
            s.apply(Event::AttrsElsewhere(head.attrs));
        }
        Ok(())
    }

    /// Asks the store which of the remembered sends has arrived, once there is no room to remember more: a
    /// later send finds that object there.
    async fn recall_sends(&self, e: &MountContext) -> Result<()> {
        if self.state.lock().file.uploading.len() < SENDS {
            return Ok(());
        }
        let head = e.remote.head(&self.key()).await?;
        let there = head.as_ref().and_then(|head| UploadToken::of(&head.attrs, head.size));
        let mut s = self.state.lock();
        let arrived = head.filter(|head| {
            there.is_some_and(|there| s.file.uploading.contains(&there)) && head.size >= s.file.base_len
        });
        // What has not arrived in so many turns won't.
        s.apply(Event::Recalled(arrived.map(|head| Base { etag: head.etag, size: head.size })));
        Ok(())
    }

    /// Makes the object a copy of `from`, if nothing was written to the file, and the file what the object
    /// is. Returns false if the program is to copy by itself. `publish`: see `send`.
    pub async fn copy_from(
        &self,
        e: &MountContext,
        from: &Source,
        publish: impl FnOnce(&dyn Fn() -> Attributes),
    ) -> Result<bool> {
        let _one = self.sending.lock().await;
        let _writing = self.writing.lock().await;
        let snapshot = {
            let mut s = self.state.lock();
            let untouched = s.file.size == 0 && s.stage.is_none() && s.closed_version.is_none();
            if !untouched || !matches!(s.file.life, Life::Linked) || from.key == s.file.key {
                return Ok(false);
            }
            let mut snapshot = s.snapshot(e);
            snapshot.size = from.base.size;
            s.remember_upload(&snapshot);
            snapshot
        };
        let Snapshot { key, when, attrs, .. } = &snapshot;
        let base = match e.remote.copy_with(&from.key, key, &from.base, attrs, when).await {
            Ok(etag) => Base { etag, size: from.base.size },
            // One of the two objects is another by now: who reads the one and closes the other is told.
            Err(why) if why.is(Kind::Refused) || why.is(Kind::NotFound) => return Ok(false),
            Err(why) => return Err(why),
        };
        let copied = Event::Copied { at: snapshot.changes, base, attrs: snapshot.attrs.clone() };
        self.state.lock().apply(copied);
        publish(&|| self.mark_clean(e, &snapshot));
        Ok(true)
    }

    /// Records that the object has the snapshot's bytes.
    pub(super) fn record_upload(&self, snapshot: &Snapshot, etag: Etag) {
        let base = Base { etag, size: snapshot.size };
        self.state.lock().apply(Event::Stored { at: snapshot.changes, base });
    }

    pub(super) fn mark_clean(&self, e: &MountContext, snapshot: &Snapshot) -> Attributes {
        let mut s = self.state.lock();
        let attrs = snapshot.attrs.clone();
        s.apply(Event::Published { at: snapshot.changes, attrs, now: e.rt.now() });
        let etag = s.file.base.as_ref().map(|base| base.etag.clone());
        Attributes::of(&e.options, false, snapshot.size, etag, s.file.modified, &snapshot.attrs)
    }

    /// Fails the file, since another client's object has the name; our bytes are stored as a conflict copy.
    async fn fail_with_conflict(&self, e: &MountContext, snapshot: Snapshot, why: Error) -> Error {
        let mut kept = conflict_copy::store(e, &snapshot, conflict_copy::CONFLICT).await;
        // Nothing is written in between.
        let _still = self.writing.lock().await;
        // What was closed meanwhile, and what was written, with success, is kept too.
        let newer = {
            let s = self.state.lock();
            let closed = s.closed_version.as_ref().map(|unsent| unsent.snapshot.clone());
            let now = s.snapshot(e);
            let newer = |other: &Snapshot| other.changes > snapshot.changes;
            [closed.filter(newer), Some(now).filter(newer)]
        };
        for newer in newer.iter().flatten() {
            kept = match kept {
                Ok(before) => {
                    conflict_copy::store(e, newer, conflict_copy::CONFLICT).await.map(|name| name.or(before))
                }
                failed => failed,
            };
        }
        let (why, stages) = {
            let mut s = self.state.lock();
            let stored = kept.is_ok();
            let (why, copy) = match kept {
                Ok(Some(name)) => {
                    (why.context(format_args!("what was written here is kept as {name}")), Some(name))
                }
                Ok(None) => (why, None),
                Err(also) => {
                    let at = s.stage.as_ref().map(|stage| stage.path().display().to_string());
                    let key = &s.file.key;
                    tracing::error!(key, at, %also, "a conflict can't be stored yet: the next mount tries again");
                    (why, None)
                }
            };
            // The version before goes with the one that is kept.
            let before = s.closed_version.take_if(|_| copy.is_some()).map(|unsent| unsent.stage);
            let stage = s.apply(Event::Refused { why: why.share(), copy, stored });
            (why, [stage, before])
        };
        for stage in stages.into_iter().flatten() {
            stage.remove_or_warn().await;
        }
        why
    }

    /// Stores the staged bytes as a conflict copy instead of as the object.
    pub async fn store_conflict_copy(&self, e: &MountContext, word: &str) -> Result<Option<String>> {
        let _one = self.sending.lock().await;
        let snapshot = self.snapshot(e);
        let kept = conflict_copy::store(e, &snapshot, word).await?;
        let stage = self.state.lock().stage.take();
        if let Some(stage) = stage {
            stage.remove_or_warn().await;
        }
        Ok(kept)
    }
}

//! A file that is open, shared by all its handles on this mount: the object it was, what was written over it since,
//! and how the two become the next object.
//!
//! What the file is stands in `state`, a value without I/O; here stand the handles beside it and the waiting. The stage
//! holds the bytes of `FileState::local` (zeros where it ends early), and its note says on disk what of that is closed, sent
//! or neither. Once another client's object has refused an upload, what was written is stored beside that object, every
//! further read, write, flush and fsync of the file's handles fails (the kernel keeps pages by inode: a read of ours would
//! be shown to others), and whoever opens the name from then on sees the other client's object.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};

use super::closed_version::ClosedVersion;
use super::context::MountContext;
use super::state::{Effect, Event, FileState, Life, Stood};
use super::streaming_upload::StreamingUpload;
use super::upload::{self, Cuts, Snapshot};
use crate::object::{
    Attributes, Base, Errno, FileLock, Meta as _, MountOptions, Ns, Op, Sighting, Source, UploadToken,
    add_upload_token, said_otherwise, with_otherwise,
};
use crate::read::Reader;
use crate::staging::{FoundFile, Mark, NOTE_FORMAT, Note, Stage, StagingArea};
use windlass_base::rt::Instant;
use windlass_base::{Error, Kind};
use windlass_store::{Attrs, Etag, Head};

/// The file's state and the handles that belong to it.
#[derive(Debug)]
pub(super) struct FileParts {
    pub(super) file: FileState,
    pub(super) stage: Option<Stage>,
    pub(super) cuts: Cuts,
    /// The stage's note says this of the bytes; `None` where it is out of date.
    pub(super) noted: Option<Mark>,
    /// The version that was closed before the rewrite began.
    pub(super) closed_version: Option<ClosedVersion>,
    /// The version that was asked for last, once something was written behind it. `None` where it was
    /// overwritten, or is the file as it is.
    pub(super) asked_version: Option<Snapshot>,
    /// Counts how often staged bytes were overwritten or cut away.
    pub(super) overwrites: Cuts,
    /// Id of the stage whose version this stage replaced; a loss of power may bring that version back.
    pub(super) replaced: Option<String>,
    /// Upload whose parts left before the file's end was known.
    pub(super) streaming: Option<StreamingUpload>,
    /// Id of the multipart upload that is under way.
    pub(super) upload: Option<String>,
    /// Beginning to send the file before its end has failed: it is sent at its end.
    pub(super) stream_failed: bool,
    /// Uploads that were begun for a name which the file no longer has, each with that name.
    pub(super) useless: Vec<(String, StreamingUpload)>,
    /// Number of holds by which nothing of the file is freed (`freed`).
    pub(super) holds_bytes: u32,
}

#[derive(Debug)]
pub struct OpenFile {
    pub(super) state: FileLock<FileParts>,
    /// Held while the stage's note is written.
    pub(crate) noting: tokio::sync::Mutex<()>,
    /// Held while staged bytes change: appends and truncations come one after another.
    pub(super) writing: tokio::sync::Mutex<()>,
    /// True while somebody is to sync what waits in the stage.
    pub has_syncer: AtomicBool,
    /// Tells the queue, which has the file, that the file was closed or synced again.
    pub asked_again: tokio::sync::Notify,
    /// Lock of the file's node (`Node::changing`). Held while the file is sent: one upload at a time.
    pub(super) sending: Arc<tokio::sync::Mutex<()>>,
}

impl OpenFile {
    /// Opens a file that is an object.
    pub fn of(key: &str, stood: Stood, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        Self::new(FileParts::new(FileState::of(key, stood)), changing)
    }

    /// Makes a file that is no object yet.
    pub fn fresh(key: &str, attrs: Attrs, now: Ns, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        Self::new(FileParts::new(FileState::fresh(key, attrs, now)), changing)
    }

    /// Records that the object that had the file's name before was removed here, and may be there still.
    pub fn follows_removal(&self, removed: Sighting) {
        self.state.lock().apply(Event::FollowsRemoval(removed));
    }

    /// Records that this put, of an object that had the file's name before and that nobody wants, may still
    /// come: it is to be replaced then.
    pub fn follows_late_put(&self, attrs: &Attrs, size: u64) {
        self.state.lock().apply(Event::Uploading { attrs: attrs.clone(), size });
    }

    fn new(state: FileParts, sending: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        let (noting, writing, has_syncer, asked_again) = Default::default();
        Arc::new(OpenFile { state: FileLock::new(state), noting, writing, has_syncer, asked_again, sending })
    }

    /// Opens a file that an earlier mount staged and that the bucket may not have.
    pub fn recovered(left: FoundFile, modified: Ns, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        let FoundFile { stage, note, edits, .. } = left;
        let modified = note.attrs().time("mtime").unwrap_or(modified);
        let object = (note.key.as_str(), note.base.clone());
        let file =
            FileState::recovered(object, edits, (note.attrs(), modified), note.mark, note.sending.clone());
        let replaced = note.replaces().map(str::to_owned);
        let mut file = file;
        if let Some(said) = note.base_said.clone() {
            file.apply(Event::BaseSaid(with_otherwise(&note.attrs(), said)));
        }
        if let Some(removed) = note.removed_object.clone() {
            file.apply(Event::FollowsRemoval(removed));
        }
        let state =
            FileParts { stage: Some(stage), replaced, noted: Some(note.mark), ..FileParts::new(file) };
        Self::new(state, changing)
    }

    /// Records that the object is this one now, put there by a send of ours that was never answered.
    pub fn rebase(&self, base: Base) {
        self.state.lock().apply(Event::Rebased(base));
    }

    /// Records that the file has the name of this object, of which it has nothing.
    pub fn replaces(&self, there: Base) {
        self.state.lock().apply(Event::Replaces(there));
    }

    pub fn key(&self) -> String {
        self.state.lock().file.key.clone()
    }

    /// Changes the file's name. What of the file has left for the old name is of no use any more: see
    /// `follow`.
    pub fn set_key(&self, key: &str) {
        let mut s = self.state.lock();
        s.fail_if_freed();
        if let (Some(streaming), Some(_)) = (s.streaming.take(), s.upload.take()) {
            let old = s.file.key.clone();
            s.useless.push((old, streaming));
        }
        s.apply(Event::Renamed(key.to_owned()));
        if let Some(unsent) = &mut s.closed_version {
            unsent.set_key(key);
        }
    }

    /// Returns the object as it was opened or last sent.
    pub fn base(&self) -> Option<Base> {
        self.state.lock().file.base.clone()
    }

    /// Tells whether the store has another object there than the file is made of, and not by a send whose
    /// answer has yet to come.
    pub fn is_other(&self, head: &Head) -> bool {
        self.state.lock().file.is_other(head)
    }

    /// Records that the object has this etag now, and the same bytes.
    pub fn moved(&self, etag: &Etag, now: Instant) {
        self.state.lock().apply(Event::Moved { etag: etag.clone(), now });
    }

    /// Tells whether the object is known as it was at that time, or later.
    pub fn is_as_of(&self, asked: Instant) -> bool {
        self.state.lock().file.is_as_of(asked)
    }

    /// Tells whether the file's name may stand for an object: a known one, or one of a send whose answer has
    /// not come.
    pub fn may_be_object(&self) -> bool {
        let s = self.state.lock();
        s.file.base.is_some() || !s.file.uploading.is_empty()
    }

    /// Returns the last send whose answer may not have come.
    pub fn unheard_put(&self) -> Option<UploadToken> {
        self.state.lock().file.uploading.last().cloned()
    }

    pub fn attrs(&self) -> Attrs {
        self.state.lock().file.attrs.clone()
    }

    pub fn is_dirty(&self) -> bool {
        self.state.lock().file.is_dirty()
    }

    /// Tells whether the file answers for itself, since the tables do not show what it is yet.
    pub fn overrides_cache(&self) -> bool {
        let s = self.state.lock();
        !s.file.is_sent() || s.file.base.is_none() || s.file.is_unlinked()
    }

    /// Tells whether the file, which has its name, has changes that the bucket lacks, or is no object yet.
    pub fn has_local_changes(&self) -> bool {
        self.is_dirty() || self.is_local()
    }

    /// Tells whether only this mount knows the file: it has a name here, and no object yet.
    pub fn is_local(&self) -> bool {
        let s = self.state.lock();
        s.file.base.is_none() && !s.file.is_unlinked()
    }

    pub fn size(&self) -> u64 {
        self.state.lock().file.size
    }

    pub fn is_failed(&self) -> bool {
        self.state.lock().file.is_failed()
    }

    pub fn attributes(&self, options: &MountOptions) -> Attributes {
        self.state.lock().file.attributes(options)
    }

    /// Tells whether a close or fsync asked for what the bucket does not have yet.
    pub fn has_unsent_close(&self) -> bool {
        self.state.lock().file.has_unsent_close()
    }

    /// Returns the key under which the bucket has the bytes of a failed file, if it has them.
    pub fn kept(&self) -> Option<String> {
        match &self.state.lock().file.life {
            Life::Failed { copy, .. } => copy.clone(),
            _ => None,
        }
    }

    /// Takes over what the store says at another open, unless there are changes of ours, or more is known.
    /// Returns the stage, for removal, if what was staged over an object that is gone is of no use to anybody
    /// now.
    #[must_use]
    pub fn refresh(&self, stood: Stood) -> Option<Stage> {
        self.state.lock().apply(Event::Seen(stood))
    }

    pub(super) fn failure(&self) -> Option<Error> {
        match &self.state.lock().file.life {
            Life::Failed { why, .. } => Some(why.share()),
            _ => None,
        }
    }

    /// Reads up to `len` bytes at `offset`; fewer at the end of the file.
    pub async fn read(&self, e: &MountContext, reader: &Reader, offset: u64, len: u64) -> Op<Bytes> {
        const TRIES: u32 = 8;
        self.read_again(e, reader, offset, len, TRIES).await
    }

    async fn read_again(
        &self,
        e: &MountContext,
        reader: &Reader,
        offset: u64,
        len: u64,
        tries: u32,
    ) -> Op<Bytes> {
        let (source, stage, pieces, was) = {
            let s = self.state.lock();
            if let Life::Failed { why, .. } = &s.file.life {
                return Err(why.share().into());
            }
            let (file, end) = (&s.file, offset.saturating_add(len).min(s.file.size));
            (file.source(), s.stage.clone(), file.local.split(offset.min(end)..end), file.version())
        };
        match self.collect(e, reader, source, stage, pieces).await {
            Err(why) if why.errno == Errno::STALE && tries > 0 => {
                // Perhaps a send of ours has replaced the object while it was read.
                drop(self.sending.lock().await);
                if self.state.lock().file.version() == was {
                    return Err(why);
                }
                Box::pin(self.read_again(e, reader, offset, len, tries - 1)).await
            }
            done => done,
        }
    }

    async fn collect(
        &self,
        e: &MountContext,
        reader: &Reader,
        source: Option<Source>,
        stage: Option<Stage>,
        pieces: Vec<(Range<u64>, bool)>,
    ) -> Op<Bytes> {
        let mut out = BytesMut::new();
        let only = pieces.len() == 1;
        for (piece, local) in pieces {
            let bytes = match &source {
                _ if local => {
                    upload::staged(stage.as_ref(), piece.start, (piece.end - piece.start) as usize).await?
                }
                Some(Source { key, base }) => reader.read(&e.ahead, key, base, piece).await?,
                None => return Err(bytes_missing(&self.key()).into()),
            };
            if only {
                return Ok(bytes);
            }
            out.extend_from_slice(&bytes);
        }
        Ok(out.freeze())
    }

    /// Reads as `read` does, but without waiting: returns `None` unless all of it has been fetched.
    pub fn read_now(&self, e: &MountContext, reader: &Reader, offset: u64, len: u64) -> Option<Bytes> {
        let (Source { key, base }, range) = {
            let s = self.state.lock();
            let end = offset.saturating_add(len).min(s.file.size);
            let range = offset.min(end)..end;
            if s.file.is_failed() {
                return None;
            }
            if range.is_empty() {
                return Some(Bytes::new());
            }
            if s.file.local.within(range.clone()).next().is_some() {
                return None;
            }
            (s.file.source()?, range)
        };
        reader.read_now(&e.ahead, &key, &base, &range)
    }

    /// Changes metadata that goes with the next upload.
    pub fn change_attrs(&self, change: impl FnOnce(&mut Attrs)) {
        let mut s = self.state.lock();
        let mut attrs = s.file.attrs.clone();
        change(&mut attrs);
        s.apply(Event::AttrsChanged(attrs));
    }

    /// Returns the object as long as nothing here differs from it.
    pub fn clean(&self) -> Option<Source> {
        let s = self.state.lock();
        (s.file.is_sent() && matches!(s.file.life, Life::Linked)).then(|| s.file.source()).flatten()
    }

    /// Takes the file's name away: nothing of the file is ever sent again.
    pub fn unlink(&self) {
        self.state.lock().apply(Event::Unlinked);
    }

    pub fn is_unlinked(&self) -> bool {
        self.state.lock().file.is_unlinked()
    }

    /// Records that the object is about to get these metadata from us, with the bytes of `object`. Nothing is
    /// recorded if the file is made of another object.
    pub fn remember_upload(&self, attrs: &Attrs, object: &Base) {
        let mut s = self.state.lock();
        if s.file.base.as_ref() == Some(object) {
            s.apply(Event::Uploading { attrs: attrs.clone(), size: object.size });
        }
    }

    pub(super) fn snapshot(&self, e: &MountContext) -> Snapshot {
        self.state.lock().snapshot(e)
    }
}

impl FileParts {
    fn new(file: FileState) -> FileParts {
        let (stage, cuts, noted, closed_version, replaced) = Default::default();
        let (asked_version, overwrites) = Default::default();
        let (streaming, upload, stream_failed, useless, holds_bytes) = Default::default();
        FileParts {
            file,
            stage,
            cuts,
            noted,
            closed_version,
            asked_version,
            overwrites,
            replaced,
            streaming,
            upload,
            stream_failed,
            useless,
            holds_bytes,
        }
    }

    /// Makes the change and does what comes with it; returns the stage that is of no use any more, for removal.
    pub(super) fn apply(&mut self, event: Event) -> Option<Stage> {
        match self.file.apply(event) {
            Effect::Nothing | Effect::HideStage => {}
            Effect::DropStage => return self.stage.take(),
            Effect::NoteStale => self.noted = None,
            Effect::StageSent => self.stage.iter().for_each(|stage| stage.mark_sent()),
        }
        None
    }

    pub(super) fn remember_upload(&mut self, snapshot: &Snapshot) {
        self.apply(Event::Uploading { attrs: snapshot.attrs.clone(), size: snapshot.size });
    }

    pub(super) fn snapshot(&self, e: &MountContext) -> Snapshot {
        let (options, now) = (&e.options, e.now());
        let file = &self.file;
        let mut attrs = file.attrs.clone();
        add_upload_token(&e.rt, &mut attrs);
        // Every change has set it; whoever looks must not see it change again because the file is sent.
        if attrs.time("ctime").is_none() {
            attrs.set_time("ctime", now);
        }
        if attrs.time("mtime").is_none() {
            attrs.set_time("mtime", file.modified);
        }
        // Others take metadata without a mode for mode 0.
        let shown = Attributes::of(options, false, file.size, None, file.modified, &file.attrs);
        attrs.set_mode(shown.mode);
        attrs.set_id("uid", shown.uid);
        attrs.set_id("gid", shown.gid);
        if let Some(signed) = file.signed() {
            attrs = signed.clone();
        }
        Snapshot {
            key: file.key.clone(),
            when: file.when(),
            source: file.source(),
            base_len: file.base_len,
            size: file.size,
            local: file.local.clone(),
            dirty: file.dirty.clone(),
            stage: self.stage.clone(),
            attrs,
            changes: file.changes,
            cuts: (self.cuts.clone(), self.cuts.now()),
        }
    }

    /// Tells whether the file's bytes are still staged there. Another client's object that comes takes away
    /// what was staged over the one before.
    pub(super) fn uses_stage(&self, stage: &Stage) -> bool {
        self.stage.as_ref().is_some_and(|its| Arc::ptr_eq(its, stage))
    }

    pub(super) fn note(&self, staging: &StagingArea, partly: bool) -> Note {
        let file = &self.file;
        let attrs = file.signed().unwrap_or(&file.attrs);
        let rewrites = self.closed_version.as_ref().map(|unsent| unsent.stage.id());
        Note {
            format: NOTE_FORMAT,
            url: staging.url.clone(),
            key: file.key.clone(),
            base: file.base.clone(),
            upload: self.upload.clone(),
            size: file.size,
            partly,
            begun_anew: Some(file.is_begun_anew()),
            mark: file.mark(),
            // While the version before stands, no close of this one has succeeded.
            unsent_close: file.is_asked() && self.closed_version.is_none(),
            rewrites: rewrites.or_else(|| self.replaced.clone()),
            outgrown_slot: None,
            checksum: None,
            generation: staging.generation,
            boot: staging.boot.clone(),
            synced: false,
            sending: file.uploading.clone(),
            removed_object: file.removed.clone(),
            content_type: attrs.content_type.clone(),
            user: attrs.user.clone(),
            base_said: file.base_attrs.as_ref().map(|base| said_otherwise(base, attrs)),
            carried: attrs.carried.clone(),
        }
    }
}

pub(super) fn bytes_missing(key: &str) -> Error {
    Error::new(Kind::Internal, format!("{key}: bytes that are neither staged nor in the object"))
}

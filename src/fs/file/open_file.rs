//! A file that is open, shared by all its handles on this mount: the object it was, what was written over it since,
//! and how the two become the next object.
//!
//! Invariants: every byte from `base_len` to `size` is in `local`; `dirty` is a part of `local`; the stage holds the
//! bytes of `local` (zeros where it ends early), and its note says on disk what of that is closed, sent or neither.
//! `changes` counts what `sent` has to catch up with; `asked` is where it was when a close or fsync last asked for
//! that. Once an upload was refused because somebody else changed the object, the file is `failed`: what was written
//! is stored beside the object, every further read, write, flush and fsync of its handles fails (the kernel keeps
//! pages by inode: a read of ours would be shown to others), and whoever opens the name from then on sees the other's
//! object.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::context::MountContext;
use super::streaming_upload::{BEGIN, StreamingUpload};
use super::unsent_version::{UnsentVersion, remove_stage};
use super::upload::{self, Cuts, Snapshot};
use crate::base::rt::Instant;
use crate::base::{Error, Kind};
use crate::fs::object::{
    Attributes, Base, ByteRanges, Errno, Fail, Meta as _, MountOptions, Ns, Op, Source, UploadToken,
    add_upload_token,
};
use crate::fs::read::Reader;
use crate::fs::staging::{FoundFile, Mark, NOTE_FORMAT, Note, Stage, StagingArea};
use crate::store::{Attrs, Etag, Head, When};

/// Largest file: what S3 takes in one object.
pub const SIZE_MAX: u64 = 5 << 40;

/// Longest hole that one call makes: its zeros are sent when the file is closed.
pub const HOLE_MAX: u64 = 64 << 30;

#[derive(Debug)]
pub(super) struct FileState {
    pub(super) key: String,
    /// The object as it was opened or last sent; none while there is no object.
    pub(super) base: Option<Base>,
    /// Whose bytes the file has instead, copied and not yet sent.
    pub(super) borrowed: Option<Source>,
    /// So many of their bytes still count.
    pub(super) base_len: u64,
    pub(super) size: u64,
    pub(super) local: ByteRanges,
    pub(super) dirty: ByteRanges,
    pub(super) stage: Option<Stage>,
    pub(super) cuts: Cuts,
    /// The version that was closed before the rewrite began.
    pub(super) unsent_version: Option<UnsentVersion>,
    /// The version whose place the stage took; a loss of power may bring it back.
    pub(super) replaced: Option<String>,
    pub(super) attrs: Attrs,
    pub(super) modified: Ns,
    /// When the store was asked for `base`, or took it.
    pub(super) as_of: Instant,
    /// Somebody set the times, after the last write.
    pub(super) dated: bool,
    pub(super) changes: u64,
    /// Where `changes` was when the bytes changed last.
    pub(super) wrote: u64,
    pub(super) sent: u64,
    pub(super) asked: u64,
    /// The metadata that a send gives the object, and at which change: a repeated one gives the same.
    pub(super) signed: Option<(u64, Attrs)>,
    /// What the store may know sends by whose answer has not come, the latest last.
    pub(super) sending: Vec<UploadToken>,
    /// What the stage's note says.
    pub(super) noted: Option<Mark>,
    /// The parts that left before the end.
    pub(super) streaming: Option<StreamingUpload>,
    /// The multipart upload that is under way.
    pub(super) upload: Option<String>,
    pub(super) unlinked: bool,
    /// And for good: what is staged is for its handles only.
    pub(super) discarded: bool,
    /// Beginning to send it before its end failed: it leaves at its end.
    pub(super) stream_failed: bool,
    pub(super) failed: Option<Error>,
    /// The object in which a failed file's bytes are.
    pub(super) conflict_copy: Option<String>,
}

#[derive(Debug)]
pub struct OpenFile {
    pub(super) state: Mutex<FileState>,
    /// Held while the stage's note is written.
    pub(in crate::fs) noting: tokio::sync::Mutex<()>,
    /// Held while staged bytes change: appends and truncations come one after another.
    pub(super) writing: tokio::sync::Mutex<()>,
    /// Somebody will sync what waits.
    pub has_syncer: AtomicBool,
    /// Its node's (`Node::changing`). Held while the file is sent: one upload at a time.
    pub(super) sending: Arc<tokio::sync::Mutex<()>>,
}

/// An object as the store said it is.
#[derive(Clone, Debug)]
pub struct Stood {
    pub base: Base,
    pub attrs: Attrs,
    pub modified: Ns,
    /// When it was asked.
    pub asked: Instant,
}

impl OpenFile {
    /// A file that is an object.
    pub fn of(key: &str, stood: Stood, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        let Stood { base, attrs, modified, asked } = stood;
        let size = base.size;
        let state = FileState { as_of: asked, ..Self::state(key, Some(base), size, attrs, modified, 0) };
        Self::new(state, changing)
    }

    /// A file that is no object yet.
    pub fn fresh(key: &str, attrs: Attrs, now: Ns, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        Self::new(Self::state(key, None, 0, attrs, now, 1), changing)
    }

    fn new(state: FileState, sending: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        let (noting, writing, has_syncer) = Default::default();
        Arc::new(OpenFile { state: Mutex::new(state), noting, writing, has_syncer, sending })
    }

    fn state(
        key: &str,
        base: Option<Base>,
        size: u64,
        attrs: Attrs,
        modified: Ns,
        changes: u64,
    ) -> FileState {
        FileState {
            key: key.to_owned(),
            base,
            borrowed: None,
            base_len: size,
            size,
            local: ByteRanges::default(),
            dirty: ByteRanges::default(),
            stage: None,
            cuts: Cuts::default(),
            unsent_version: None,
            replaced: None,
            attrs,
            modified,
            as_of: Instant::default(),
            dated: false,
            changes,
            wrote: changes,
            sent: 0,
            asked: 0,
            signed: None,
            sending: Vec::new(),
            noted: None,
            streaming: None,
            upload: None,
            unlinked: false,
            discarded: false,
            stream_failed: false,
            failed: None,
            conflict_copy: None,
        }
    }

    /// A file that an earlier mount staged and the bucket may not have.
    pub fn recovered(left: FoundFile, modified: Ns, changing: Arc<tokio::sync::Mutex<()>>) -> Arc<OpenFile> {
        let FoundFile { stage, note, edits, .. } = left;
        let modified = note.attrs().time("mtime").unwrap_or(modified);
        let state = Self::state(&note.key, note.base.clone(), edits.size, note.attrs(), modified, 1);
        let file = Self::new(state, changing);
        let mut s = file.state.lock();
        s.borrowed = note.borrowed.clone();
        s.base_len = edits.base_len;
        s.dirty = edits.local.clone();
        s.local = edits.local;
        s.stage = Some(stage);
        s.replaced = note.replaces().map(str::to_owned);
        s.asked = 1;
        s.noted = Some(note.mark);
        if note.mark == Mark::Closed {
            s.signed = Some((1, note.attrs()));
        }
        s.sending = note.sending;
        drop(s);
        file
    }

    /// The object is this now, put there by a send of ours that was never answered.
    pub fn rebase(&self, base: Base) {
        self.state.lock().base = Some(base);
    }

    pub fn key(&self) -> String {
        self.state.lock().key.clone()
    }

    pub fn set_key(&self, key: &str) {
        let mut s = self.state.lock();
        s.key = key.to_owned();
        // Its note says another.
        s.noted = None;
        if let Some(unsent) = &mut s.unsent_version {
            unsent.set_key(key);
        }
    }

    /// The object as it was opened or last sent.
    pub fn base(&self) -> Option<Base> {
        self.state.lock().base.clone()
    }

    /// The store has another object there than the file is made of, and not by a send whose answer has yet to come.
    pub fn is_other(&self, head: &Head) -> bool {
        let s = self.state.lock();
        let ours = || UploadToken::of(&head.attrs, head.size).is_some_and(|there| s.sending.contains(&there));
        s.base.as_ref().is_some_and(|base| base.etag != head.etag) && !ours()
    }

    /// The object has this etag now, and the same bytes.
    pub fn moved(&self, etag: &Etag, now: Instant) {
        let mut s = self.state.lock();
        if let Some(base) = &mut s.base {
            base.etag = etag.clone();
            s.as_of = now;
        }
    }

    /// The object is known as it was then, or later.
    pub fn is_as_of(&self, asked: Instant) -> bool {
        self.state.lock().as_of >= asked
    }

    /// Its name may stand for an object: for one that is known, or by a send whose answer has not come.
    pub fn may_be_object(&self) -> bool {
        let s = self.state.lock();
        s.base.is_some() || !s.sending.is_empty()
    }

    pub fn attrs(&self) -> Attrs {
        self.state.lock().attrs.clone()
    }

    pub fn is_dirty(&self) -> bool {
        let s = self.state.lock();
        s.changes != s.sent && !s.unlinked
    }

    /// What the file is has not reached the tables yet: it answers for itself.
    pub fn overrides_cache(&self) -> bool {
        let s = self.state.lock();
        s.changes != s.sent || s.base.is_none() || s.unlinked
    }

    /// The same of a file that has its name.
    pub fn has_local_changes(&self) -> bool {
        self.is_dirty() || self.is_local()
    }

    /// No object yet, and a name here: only this mount knows the file.
    pub fn is_local(&self) -> bool {
        let s = self.state.lock();
        s.base.is_none() && !s.unlinked
    }

    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    pub fn is_failed(&self) -> bool {
        self.state.lock().failed.is_some()
    }

    pub fn attributes(&self, options: &MountOptions) -> Attributes {
        let s = self.state.lock();
        Attributes::of(options, false, s.size, s.base.as_ref().map(|b| b.etag.clone()), s.modified, &s.attrs)
    }

    /// A close or fsync asked for what the bucket does not have yet.
    pub fn has_unsent_close(&self) -> bool {
        let s = self.state.lock();
        s.asked > s.sent && !s.unlinked && s.failed.is_none()
    }

    /// Where the bytes of a failed file are, when they are in the bucket.
    pub fn kept(&self) -> Option<String> {
        self.state.lock().conflict_copy.clone()
    }

    /// What the store says at another open: taken over unless there are changes of ours, or more is known. What was
    /// staged over an object that is gone is of no use to anybody then.
    #[must_use]
    pub fn refresh(&self, stood: Stood) -> Option<Stage> {
        let mut s = self.state.lock();
        let Stood { base, attrs, modified, asked } = stood;
        if s.changes != s.sent || s.unlinked || s.failed.is_some() || asked < s.as_of {
            return None;
        }
        s.as_of = asked;
        let mut old = None;
        if s.base.as_ref() != Some(&base) {
            (s.base_len, s.size) = (base.size, base.size);
            s.local.clear();
            s.base = Some(base);
            old = s.stage.take();
        }
        (s.attrs, s.modified) = (attrs, modified);
        old
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().failed.as_ref().map(Error::share)
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file.
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
            if let Some(why) = &s.failed {
                return Err(why.share().into());
            }
            let end = offset.saturating_add(len).min(s.size);
            (s.source(), s.stage.clone(), s.local.split(offset.min(end)..end), s.version())
        };
        match self.collect(e, reader, source, stage, pieces).await {
            Err(why) if why.errno == Errno::STALE && tries > 0 => {
                // Perhaps a send of ours has replaced the object while it was read.
                drop(self.sending.lock().await);
                if self.state.lock().version() == was {
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

    /// The same without waiting, where all of it has been fetched.
    pub fn read_now(&self, e: &MountContext, reader: &Reader, offset: u64, len: u64) -> Option<Bytes> {
        let (Source { key, base }, range) = {
            let s = self.state.lock();
            let end = offset.saturating_add(len).min(s.size);
            let range = offset.min(end)..end;
            if s.failed.is_some() {
                return None;
            }
            if range.is_empty() {
                return Some(Bytes::new());
            }
            if s.local.touches(&range) {
                return None;
            }
            (s.source()?, range)
        };
        reader.read_now(&e.ahead, &key, &base, &range)
    }

    /// Writes at `offset`, or at the end.
    pub async fn write(&self, e: &MountContext, offset: Option<u64>, data: Bytes) -> Op<()> {
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why.into());
        }
        let (stale, begins) = loop {
            let offset = offset.unwrap_or_else(|| self.state.lock().size);
            let end = offset + data.len() as u64;
            self.may_reach(offset, end)?;
            let stage = self.stage(e, end).await?;
            stage.write(offset, data.clone()).await.map_err(|w| staging_failed(&stage, w))?;
            let now = e.now();
            let mut s = self.state.lock();
            if !s.uses_stage(&stage) {
                continue;
            }
            let hole = s.size..offset;
            s.local.insert(hole.clone());
            s.dirty.insert(hole);
            s.local.insert(offset..end);
            s.dirty.insert(offset..end);
            s.size = s.size.max(end);
            s.touch(now);
            let begins = s.streams(e, &stage, offset..end);
            break (s.noted != Some(Mark::Open), begins);
        };
        if begins {
            self.begin_streaming(e).await;
        }
        if stale || begins {
            self.note(e, false).await?;
        }
        Ok(())
    }

    /// `EFBIG` for a file that would be too long, or get too long a hole where it ends now.
    fn may_reach(&self, start: u64, end: u64) -> Op<()> {
        let s = self.state.lock();
        let hole = start.saturating_sub(s.size);
        let (bytes, what, limit) = match (end > SIZE_MAX, hole > HOLE_MAX) {
            (true, _) => (end, "long", SIZE_MAX),
            (_, true) => (hole, "of zeros longer, which an object holds like any bytes", HOLE_MAX),
            _ => return Ok(()),
        };
        let said = format!("{} would be {} GiB {what}: at most {} GiB", s.key, bytes >> 30, limit >> 30);
        Err(Fail { errno: Errno::FBIG, why: Some(Error::new(Kind::Usage, said)) })
    }

    /// A large new file begins to leave. Failing costs nothing: it leaves at its end.
    async fn begin_streaming(&self, e: &MountContext) {
        let (key, attrs) = {
            let snapshot = self.snapshot(e);
            (snapshot.key, snapshot.attrs)
        };
        let begun = StreamingUpload::begin(e, &key, attrs).await;
        let mut s = self.state.lock();
        match begun {
            Ok(streaming) => {
                s.upload = Some(streaming.upload.clone());
                s.streaming = Some(streaming);
            }
            // Each further write would wait for the same.
            Err(_) => s.stream_failed = true,
        }
    }

    /// Makes a range read as zeros without changing the file's length.
    pub async fn zero(&self, e: &MountContext, range: Range<u64>) -> Op<()> {
        const CHUNK: u64 = 1 << 20;
        let zeros = Bytes::from(vec![0; CHUNK as usize]);
        let end = range.end.min(self.state.lock().size);
        let mut at = range.start;
        while at < end {
            let n = CHUNK.min(end - at);
            self.write(e, Some(at), zeros.slice(..n as usize)).await?;
            at += n;
        }
        Ok(())
    }

    pub async fn truncate(&self, e: &MountContext, size: u64) -> Op<()> {
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why.into());
        }
        self.may_reach(size, size)?;
        let anew = if size == 0 { self.begin_rewrite(e).await? } else { None };
        let useless = loop {
            let mut stage = self.state.lock().stage.clone().filter(|_| anew.is_none());
            if let Some(stage) = &mut stage {
                if !stage.takes(size) {
                    *stage = self.stage(e, size).await?;
                }
                {
                    let s = self.state.lock();
                    if size < s.size {
                        s.cuts.add();
                    }
                }
                stage.cut(size).await.map_err(|w| staging_failed(stage, w))?;
            }
            let now = e.now();
            let mut s = self.state.lock();
            if stage.is_some_and(|stage| !s.uses_stage(&stage)) {
                continue;
            }
            let useless = anew.and_then(|anew| s.detach_version(e, anew));
            let grown = s.size..size;
            s.local.cut(size);
            s.dirty.cut(size);
            s.local.insert(grown.clone());
            s.dirty.insert(grown);
            s.base_len = s.base_len.min(size);
            s.size = size;
            s.touch(now);
            if let Some(streaming) = &mut s.streaming {
                streaming.spoil(&(size..u64::MAX));
            }
            break useless;
        };
        self.note(e, false).await?;
        if let Some(useless) = useless {
            remove_stage(&useless).await;
        }
        Ok(())
    }

    /// Changes metadata that goes with the next upload.
    pub fn change_attrs(&self, change: impl FnOnce(&mut Attrs)) {
        let mut s = self.state.lock();
        let before = (s.attrs.time("mtime"), s.attrs.time("atime"));
        change(&mut s.attrs);
        s.dated |= before != (s.attrs.time("mtime"), s.attrs.time("atime"));
        s.changes += 1;
    }

    /// What the object has, as long as nothing here differs from it.
    pub fn clean(&self) -> Option<Source> {
        let s = self.state.lock();
        (s.changes == s.sent && !s.unlinked && s.failed.is_none()).then(|| s.source()).flatten()
    }

    /// Takes `len` bytes at `offset` of another object for the same bytes of this file, which ends there and has
    /// nothing else. False: that isn't so, or it is being sent: what the object has of it then is known afterwards.
    pub async fn borrow(&self, e: &MountContext, from: &Source, offset: u64, len: u64) -> Op<bool> {
        let Ok(_unsent) = self.sending.try_lock() else { return Ok(false) };
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why.into());
        }
        let now = e.now();
        let mut s = self.state.lock();
        let goes_on = s.borrowed.as_ref() == Some(from) && s.base_len == s.size;
        if offset != s.size || !(s.size == 0 || goes_on) || s.stage.is_some() || s.unlinked {
            return Ok(false);
        }
        s.borrowed = Some(from.clone());
        (s.base_len, s.size) = (offset + len, offset + len);
        s.touch(now);
        Ok(true)
    }

    /// Some of its bytes are another object's: this host has them not.
    pub fn is_borrowed(&self) -> bool {
        self.state.lock().borrowed.is_some()
    }

    /// The object whose bytes it has borrowed.
    pub fn borrows(&self, key: &str) -> bool {
        let s = self.state.lock();
        let before = s.unsent_version.as_ref().is_some_and(|unsent| unsent.borrows(key));
        before || s.borrowed.as_ref().is_some_and(|from| from.key == key)
    }

    /// Fetches all that is still only in the object: its name is about to go, its handles go on.
    pub async fn detach(&self, e: &MountContext) -> Op<()> {
        let _one = self.writing.lock().await;
        loop {
            self.fetch_missing(e).await?;
            let mut s = self.state.lock();
            // Another's object may have come meanwhile.
            if s.local.split(0..s.size).iter().all(|(_, local)| *local) {
                s.base_len = 0;
                s.borrowed = None;
                return Ok(());
            }
        }
    }

    async fn fetch_missing(&self, e: &MountContext) -> Op<()> {
        let snapshot = self.snapshot(e);
        let borrowed = self.is_borrowed();
        let missing = snapshot.local.split(0..snapshot.size);
        for (range, _) in missing.into_iter().filter(|(_, local)| !local) {
            let stage = self.stage(e, snapshot.size).await?;
            let bytes = upload::bytes(e, &snapshot, range.clone()).await?;
            stage.write(range.start, bytes).await.map_err(|w| staging_failed(&stage, w))?;
            let mut s = self.state.lock();
            if !s.uses_stage(&stage) {
                return Ok(());
            }
            if borrowed {
                // No object of this name ever had them.
                s.dirty.insert(range.clone());
            }
            s.local.insert(range);
        }
        Ok(())
    }

    /// Its name is gone: nothing of it is ever sent again.
    pub fn unlink(&self) {
        self.state.lock().unlinked = true;
    }

    pub fn is_unlinked(&self) -> bool {
        self.state.lock().unlinked
    }

    /// The object is about to have these, put there by us; with its bytes, which are the file's where it was made of it.
    pub fn remember_upload(&self, attrs: &Attrs, object: &Base) {
        let mut s = self.state.lock();
        if s.base.as_ref() == Some(object) {
            s.push_unanswered(attrs, object.size);
        }
    }

    /// While this is held nothing is sent, and what was being sent has arrived.
    pub async fn lock_uploads(&self) -> OwnedMutexGuard<()> {
        self.sending.clone().lock_owned().await
    }

    pub(super) fn snapshot(&self, e: &MountContext) -> Snapshot {
        self.state.lock().snapshot(e)
    }
}

/// Sends that are remembered by their signatures.
pub(super) const SENDS: usize = 32;

impl FileState {
    pub(super) fn remember_upload(&mut self, snapshot: &Snapshot) {
        self.push_unanswered(&snapshot.attrs, snapshot.size);
    }

    fn push_unanswered(&mut self, attrs: &Attrs, size: u64) {
        let Some(sending) = UploadToken::of(attrs, size) else { return };
        self.sending.retain(|other| *other != sending);
        self.sending.push(sending);
        let many = self.sending.len().saturating_sub(SENDS);
        self.sending.drain(..many);
    }

    pub(super) fn mark(&self) -> Mark {
        match self.changes {
            changes if changes == self.sent => Mark::Sent,
            changes if changes == self.asked => Mark::Closed,
            _ => Mark::Open,
        }
    }

    pub(super) fn snapshot(&self, e: &MountContext) -> Snapshot {
        let (options, now) = (&e.options, e.now());
        let mut attrs = self.attrs.clone();
        add_upload_token(&e.rt, &mut attrs);
        // Every change has set it; whoever looks must not see it change again because the file is sent.
        if attrs.time("ctime").is_none() {
            attrs.set_time("ctime", now);
        }
        if attrs.time("mtime").is_none() {
            attrs.set_time("mtime", self.modified);
        }
        if attrs.mode().is_none() {
            // Others take metadata without a mode for mode 0.
            let shown = Attributes::of(options, false, self.size, None, self.modified, &self.attrs);
            attrs.set_mode(shown.mode);
            attrs.set_id("uid", shown.uid);
            attrs.set_id("gid", shown.gid);
        }
        if let Some((_, signed)) = self.signed.as_ref().filter(|(at, _)| *at == self.changes) {
            attrs = signed.clone();
        }
        Snapshot {
            key: self.key.clone(),
            when: self.when(),
            source: self.source(),
            base_len: self.base_len,
            size: self.size,
            local: self.local.clone(),
            dirty: self.dirty.clone(),
            stage: self.stage.clone(),
            attrs,
            changes: self.changes,
            cuts: (self.cuts.clone(), self.cuts.now()),
        }
    }

    /// What must hold of the object for the file to replace it.
    pub(super) fn when(&self) -> When {
        self.base.as_ref().map_or(When::Absent, |b| When::Matches(b.etag.clone()))
    }

    /// What changes when the file or its object does.
    fn version(&self) -> (u64, String, Option<Base>) {
        (self.changes, self.key.clone(), self.base.clone())
    }

    /// Whose bytes the file's are, but for those in `local`.
    fn source(&self) -> Option<Source> {
        self.borrowed.clone().or_else(|| self.own_object())
    }

    pub(super) fn own_object(&self) -> Option<Source> {
        self.base.clone().map(|base| Source { key: self.key.clone(), base })
    }

    /// Sends what is whole of a new file; true when it is time to begin with that.
    fn streams(&mut self, e: &MountContext, stage: &Stage, written: Range<u64>) -> bool {
        let (key, size) = (&self.key, self.size);
        let Some(streaming) = &mut self.streaming else {
            let may = !self.unlinked && !self.stream_failed && self.upload.is_none();
            return may && self.base_len == 0 && size >= BEGIN;
        };
        streaming.spoil(&written);
        streaming.advance(e, key, stage, size);
        false
    }

    /// Its bytes are staged there still. Another's object that comes takes what was staged over the one before away.
    pub(super) fn uses_stage(&self, stage: &Stage) -> bool {
        self.stage.as_ref().is_some_and(|its| its.is(stage))
    }

    pub(super) fn note(&self, staging: &StagingArea, partly: bool) -> Note {
        let signed = self.signed.as_ref().filter(|(at, _)| *at == self.changes);
        let attrs = signed.map_or(&self.attrs, |(_, attrs)| attrs);
        Note {
            format: NOTE_FORMAT,
            url: staging.url().to_owned(),
            key: self.key.clone(),
            base: self.base.clone(),
            borrowed: self.borrowed.clone(),
            upload: self.upload.clone(),
            size: self.size,
            partly,
            mark: self.mark(),
            // While the version before stands, no close of this one has succeeded.
            unsent_close: self.asked > self.sent && self.unsent_version.is_none(),
            rewrites: self
                .unsent_version
                .as_ref()
                .map(|unsent| unsent.stage.id())
                .or_else(|| self.replaced.clone()),
            outgrown_slot: None,
            checksum: None,
            generation: staging.generation(),
            boot: staging.boot().map(str::to_owned),
            synced: false,
            sending: self.sending.clone(),
            content_type: attrs.content_type.clone(),
            user: attrs.user.clone(),
        }
    }

    fn touch(&mut self, now: Ns) {
        self.changes += 1;
        self.wrote = self.changes;
        self.dated = false;
        self.modified = now;
        self.attrs.set_time("mtime", now);
        self.attrs.set_time("ctime", now);
    }
}

pub(super) fn staging_failed(stage: &Stage, why: Error) -> Error {
    why.context(format_args!("staging at {}", stage.path().display()))
}

pub(super) fn bytes_missing(key: &str) -> Error {
    Error::new(Kind::Internal, format!("{key}: bytes that are neither staged nor in the object"))
}

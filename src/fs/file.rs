//! A file that is open, shared by all its handles on this mount: the object it was, what was written over it since,
//! and how the two become the next object.
//!
//! Invariants: every byte from `base_len` to `size` is in `local`; `dirty` is a part of `local`; the stage holds the
//! bytes of `local` (zeros where it ends early). `changes` counts what `sent` has to catch up with. Once an upload was
//! refused because somebody else changed the object, the file is `failed`: its bytes stay in the stage, every further
//! read, write, flush and fsync of its handles fails (the kernel keeps pages by inode: a read of ours would be shown
//! to others), and whoever opens the name from then on sees the other's object.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::engine::Engine;
use super::errno::{Errno, Op};
use super::facts::Facts;
use super::meta::{Meta as _, Ns};
use super::options::MountOptions;
use super::ranges::Ranges;
use super::reader::Reader;
use super::remote::Base;
use super::staging::{Stage, read_staged};
use super::upload::{self, Snapshot};
use crate::base::{Error, Kind, Result};
use crate::store::{Attrs, Etag};

/// Largest file: what S3 takes in one object.
pub const SIZE_MAX: u64 = 5 << 40;

#[derive(Debug)]
struct State {
    key: String,
    /// The object as it was opened or last sent; none while there is no object.
    base: Option<Base>,
    /// So many of the base's bytes still count.
    base_len: u64,
    size: u64,
    local: Ranges,
    dirty: Ranges,
    stage: Option<Stage>,
    attrs: Attrs,
    modified: Ns,
    changes: u64,
    sent: u64,
    unlinked: bool,
    failed: Option<Error>,
}

#[derive(Debug)]
pub struct OpenFile {
    state: Mutex<State>,
    /// Held while staged bytes change: appends and truncations come one after another.
    writing: tokio::sync::Mutex<()>,
    /// Held while the file is sent: one upload at a time.
    sending: Arc<tokio::sync::Mutex<()>>,
}

impl OpenFile {
    /// A file that is an object.
    pub fn of(key: &str, base: Base, attrs: Attrs, modified: Ns) -> Arc<OpenFile> {
        let size = base.size;
        Self::new(key, Some(base), size, attrs, modified, 0)
    }

    /// A file that is no object yet.
    pub fn fresh(key: &str, attrs: Attrs, now: Ns) -> Arc<OpenFile> {
        Self::new(key, None, 0, attrs, now, 1)
    }

    fn new(
        key: &str,
        base: Option<Base>,
        size: u64,
        attrs: Attrs,
        modified: Ns,
        changes: u64,
    ) -> Arc<OpenFile> {
        let state = State {
            key: key.to_owned(),
            base,
            base_len: size,
            size,
            local: Ranges::default(),
            dirty: Ranges::default(),
            stage: None,
            attrs,
            modified,
            changes,
            sent: 0,
            unlinked: false,
            failed: None,
        };
        let (writing, sending) = Default::default();
        Arc::new(OpenFile { state: Mutex::new(state), writing, sending })
    }

    pub fn key(&self) -> String {
        self.state.lock().key.clone()
    }

    pub fn set_key(&self, key: &str) {
        self.state.lock().key = key.to_owned();
    }

    /// The object as it was opened or last sent.
    pub fn base(&self) -> Option<Base> {
        self.state.lock().base.clone()
    }

    /// The object has this etag now, and the same bytes.
    pub fn moved(&self, etag: &Etag) {
        if let Some(base) = &mut self.state.lock().base {
            base.etag = etag.clone();
        }
    }

    pub fn attrs(&self) -> Attrs {
        self.state.lock().attrs.clone()
    }

    pub fn is_dirty(&self) -> bool {
        let s = self.state.lock();
        s.changes != s.sent && !s.unlinked
    }

    /// No object yet, and a name here: only this mount knows the file.
    pub fn is_local(&self) -> bool {
        let s = self.state.lock();
        s.base.is_none() && !s.unlinked
    }

    pub fn facts(&self, options: &MountOptions) -> Facts {
        let s = self.state.lock();
        Facts::of(options, false, s.size, s.base.as_ref().map(|b| b.etag.clone()), s.modified, &s.attrs)
    }

    /// What the store says at another open: taken over unless there are changes of ours.
    pub fn refresh(&self, base: Base, attrs: Attrs, modified: Ns) {
        let mut s = self.state.lock();
        if s.changes != s.sent || s.unlinked || s.failed.is_some() {
            return;
        }
        if s.base.as_ref() != Some(&base) {
            (s.base_len, s.size) = (base.size, base.size);
            s.local.clear();
            s.base = Some(base);
        }
        (s.attrs, s.modified) = (attrs, modified);
    }

    fn failure(&self) -> Option<Error> {
        self.state.lock().failed.as_ref().map(Error::share)
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file.
    pub async fn read(&self, e: &Engine, reader: &Reader, offset: u64, len: u64) -> Op<Bytes> {
        let (key, base, stage, pieces) = {
            let s = self.state.lock();
            if let Some(why) = &s.failed {
                return Err(why.share().into());
            }
            let end = offset.saturating_add(len).min(s.size);
            (s.key.clone(), s.base.clone(), s.stage.clone(), s.local.split(offset.min(end)..end))
        };
        let mut out = BytesMut::new();
        let only = pieces.len() == 1;
        for (piece, local) in pieces {
            let bytes = match &base {
                _ if local => {
                    read_staged(stage.as_ref(), piece.start, (piece.end - piece.start) as usize).await?
                }
                Some(base) => reader.read(&e.ahead, &key, base, piece).await?,
                None => return Err(lost(&key).into()),
            };
            if only {
                return Ok(bytes);
            }
            out.extend_from_slice(&bytes);
        }
        Ok(out.freeze())
    }

    /// The same without waiting, where all of it has been fetched.
    pub fn read_now(&self, e: &Engine, reader: &Reader, offset: u64, len: u64) -> Option<Bytes> {
        let (key, base, range) = {
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
            (s.key.clone(), s.base.clone()?, range)
        };
        reader.read_now(&e.ahead, &key, &base, &range)
    }

    async fn stage(&self, e: &Engine) -> Result<Stage> {
        let (key, base) = {
            let s = self.state.lock();
            if let Some(stage) = &s.stage {
                return Ok(stage.clone());
            }
            (s.key.clone(), s.base.clone())
        };
        let stage = e.staging.stage(&key, base.as_ref()).await?;
        self.state.lock().stage = Some(stage.clone());
        Ok(stage)
    }

    /// Writes at `offset`, or at the end.
    pub async fn write(&self, e: &Engine, offset: Option<u64>, data: Bytes) -> Op<()> {
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why.into());
        }
        let offset = offset.unwrap_or_else(|| self.state.lock().size);
        let end = offset + data.len() as u64;
        if end > SIZE_MAX {
            return Err(Errno::FBIG.into());
        }
        let stage = self.stage(e).await?;
        stage.file.pwrite(offset, vec![data], false).await.map_err(|w| staging_failed(&stage, w))?;
        let now = e.now();
        let mut s = self.state.lock();
        let hole = s.size..offset;
        s.local.insert(hole.clone());
        s.dirty.insert(hole);
        s.local.insert(offset..end);
        s.dirty.insert(offset..end);
        s.size = s.size.max(end);
        s.touch(now);
        Ok(())
    }

    /// Makes a range read as zeros without changing the file's length.
    pub async fn zero(&self, e: &Engine, range: Range<u64>) -> Op<()> {
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

    pub async fn truncate(&self, e: &Engine, size: u64) -> Op<()> {
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why.into());
        }
        if size > SIZE_MAX {
            return Err(Errno::FBIG.into());
        }
        let stage = self.state.lock().stage.clone();
        if let Some(stage) = stage {
            stage.file.set_len(size).await.map_err(|w| staging_failed(&stage, w))?;
        }
        let now = e.now();
        let mut s = self.state.lock();
        let grown = s.size..size;
        s.local.cut(size);
        s.dirty.cut(size);
        s.local.insert(grown.clone());
        s.dirty.insert(grown);
        s.base_len = s.base_len.min(size);
        s.size = size;
        s.touch(now);
        Ok(())
    }

    /// Changes metadata that goes with the next upload.
    pub fn change_attrs(&self, change: impl FnOnce(&mut Attrs)) {
        let mut s = self.state.lock();
        change(&mut s.attrs);
        s.changes += 1;
    }

    /// Fetches all that is still only in the object: its name is about to go, its handles go on.
    pub async fn detach(&self, e: &Engine) -> Op<()> {
        let _one = self.writing.lock().await;
        let snapshot = self.snapshot(&e.options, e.now());
        let missing = snapshot.local.split(0..snapshot.size);
        for (range, _) in missing.into_iter().filter(|(_, local)| !local) {
            let stage = self.stage(e).await?;
            let bytes = upload::bytes(e, &snapshot, range.clone()).await?;
            stage
                .file
                .pwrite(range.start, vec![bytes], false)
                .await
                .map_err(|w| staging_failed(&stage, w))?;
            self.state.lock().local.insert(range);
        }
        self.state.lock().base_len = 0;
        Ok(())
    }

    /// Its name is gone: nothing of it is ever sent again.
    pub fn unlink(&self) {
        self.state.lock().unlinked = true;
    }

    /// Its name was not removed after all.
    pub fn relink(&self) {
        self.state.lock().unlinked = false;
    }

    /// While this is held nothing is sent, and what was being sent has arrived.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        self.sending.clone().lock_owned().await
    }

    fn snapshot(&self, options: &MountOptions, now: Ns) -> Snapshot {
        let s = self.state.lock();
        let mut attrs = s.attrs.clone();
        attrs.set_time("ctime", now);
        if attrs.time("mtime").is_none() {
            attrs.set_time("mtime", s.modified);
        }
        if attrs.mode().is_none() {
            // Others take metadata without a mode for mode 0.
            let shown = Facts::of(options, false, s.size, None, s.modified, &s.attrs);
            attrs.set_mode(shown.mode);
            attrs.set_id("uid", shown.uid);
            attrs.set_id("gid", shown.gid);
        }
        Snapshot {
            key: s.key.clone(),
            base: s.base.clone(),
            base_len: s.base_len,
            size: s.size,
            local: s.local.clone(),
            dirty: s.dirty.clone(),
            stage: s.stage.clone(),
            attrs,
            changes: s.changes,
        }
    }

    /// Makes the object what the file is. Returns once the bucket has it, or why it hasn't.
    pub async fn send(&self, e: &Engine) -> Result<()> {
        let _one = self.sending.lock().await;
        if !self.is_dirty() {
            return Ok(());
        }
        if let Some(why) = self.failure() {
            return Err(why);
        }
        let snapshot = self.snapshot(&e.options, e.now());
        match upload::upload(e, &snapshot).await {
            Ok(etag) => {
                self.arrived(snapshot, etag);
                Ok(())
            }
            Err(why) if why.is(Kind::Refused) => {
                self.state.lock().failed = Some(why.share());
                self.keep(e, &why).await;
                Err(why)
            }
            Err(why) => Err(why),
        }
    }

    fn arrived(&self, snapshot: Snapshot, etag: Etag) {
        let mut s = self.state.lock();
        s.base = Some(Base { etag, size: snapshot.size });
        s.sent = snapshot.changes;
        if s.changes == snapshot.changes {
            s.base_len = s.size;
            s.dirty.clear();
            s.attrs = snapshot.attrs;
        }
    }

    /// Says where bytes lie that the bucket doesn't have.
    pub async fn keep(&self, e: &Engine, why: &Error) {
        let snapshot = self.snapshot(&e.options, e.now());
        let here = snapshot.local.split(0..snapshot.size).into_iter().filter(|(_, local)| *local);
        let here = here.map(|(r, _)| (r.start, r.end)).collect();
        let Some(stage) = &snapshot.stage else {
            tracing::error!(key = snapshot.key, %why, "a change of the file's length or attributes was not stored");
            return;
        };
        let base = snapshot.base.as_ref();
        let kept = e.staging.keep(stage, &snapshot.key, base, &why.to_string(), snapshot.size, here).await;
        let path = stage.data.display();
        match kept {
            Ok(()) => {
                tracing::error!(key = snapshot.key, kept = %path, %why, "not stored: what was written is kept")
            }
            Err(also) => {
                tracing::error!(key = snapshot.key, kept = %path, %why, %also, "not stored: what was written is kept, perhaps not durably")
            }
        }
    }

    /// After the last close: gives back the staged bytes for removal, unless they are nowhere else.
    pub fn take_stage(&self) -> Option<Stage> {
        let mut s = self.state.lock();
        if !s.unlinked && (s.failed.is_some() || s.changes != s.sent) {
            return None;
        }
        // The object has it all now.
        s.local.clear();
        s.stage.take()
    }
}

impl State {
    fn touch(&mut self, now: Ns) {
        self.changes += 1;
        self.modified = now;
        self.attrs.set_time("mtime", now);
        self.attrs.set_time("ctime", now);
    }
}

fn staging_failed(stage: &Stage, why: std::io::Error) -> Error {
    Error::from(why).context(format_args!("staging at {}", stage.data.display()))
}

fn lost(key: &str) -> Error {
    Error::new(Kind::Internal, format!("{key}: bytes that are neither staged nor in the object"))
}

//! A file that is larger than what the disk of the state folder has left: staged bytes that the store has as parts of the
//! file's upload are freed.
//!
//! Bytes are freed only when the disk is nearly full, and only bytes that nobody counts on here: no close or fsync has been
//! answered for them, no object has them, and the file keeps its name. From then on only one upload has all bytes of the
//! file (`free_model.py`), so that:
//!
//! - Freed bytes can neither be read nor changed, and the file can't be renamed.
//! - A close or fsync seals the file: nothing is written to it until it is known whether the upload has become the object.
//!   A completion names the same parts each time that it is asked for. This host answers for none of them, with
//!   `flush=local` neither.
//! - Once the object is known to be ours, the stage is given up, and the file is an ordinary one, made of that object.
//! - When the upload is gone, or another client's object has the name, the file fails for good.
//! - What a killed mount leaves of it is dropped by the next one (`recovery`).

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::context::MountContext;
use super::open_file::{FileParts, OpenFile, bytes_missing};
use super::own_send::OwnSend;
use super::part_plan::on_grid;
use super::rewrite::drop_version;
use super::state::{Event, Life, Purpose};
use super::streaming_upload::StreamingUpload;
use super::upload::{self, Snapshot};
use crate::bucket::is_of_disk;
use crate::object::{Attributes, Base, Errno, Fail, Op, differ_in_time_only};
use crate::staging::Stage;
use windlass_base::{Error, Kind, Result};
use windlass_store::{Attrs, Etag};

/// Number of written bytes between two looks at the disk's room.
const LOOK_EVERY: u64 = 4 << 20;
/// Number of parts; with room for fewer of them, what has arrived is freed.
const FREE_BELOW: u64 = 2;
/// Number of parts; with room for fewer of them, a write waits for one to arrive.
const WAIT_BELOW: u64 = 1;
/// Number of times that a completion is asked for over earlier sends of ours.
const TRIES: u32 = 4;

/// Outcome of completing an upload.
enum Completed {
    Stored(Etag),
    /// The upload will never be the object.
    Lost(Error),
}

/// A hold on the file's staged bytes: none is freed until this is dropped. The file's name is about to
/// change, and an upload can't follow.
#[derive(Debug)]
pub struct BytesHeld(Arc<OpenFile>);

impl BytesHeld {
    /// Holds the file's staged bytes. Fails with `EBUSY` for a file of which bytes were freed.
    pub async fn of(file: &Arc<OpenFile>) -> Op<BytesHeld> {
        // Bytes are freed while this is held.
        let _one = file.writing.lock().await;
        let mut s = file.state.lock();
        if s.is_freed() {
            let key = &s.file.key;
            let said =
                format!("{key} is larger than the disk of the state folder: close it before it is renamed");
            return Err(Fail { errno: Errno::BUSY, why: Some(Error::new(Kind::Usage, said)) });
        }
        s.holds_bytes += 1;
        Ok(BytesHeld(file.clone()))
    }
}

impl Drop for BytesHeld {
    fn drop(&mut self) {
        self.0.state.lock().holds_bytes -= 1;
    }
}

impl FileParts {
    /// Tells whether bytes of the file are only in its upload.
    pub(super) fn is_freed(&self) -> bool {
        self.stage.as_ref().is_some_and(|stage| !stage.freed().is_empty())
    }

    /// Tells whether a close or fsync of a file of which bytes were freed has begun, and its outcome is not
    /// known yet.
    fn is_sealed(&self) -> bool {
        self.is_freed() && self.file.is_asked()
    }

    /// Returns the bytes before `below` that can be freed now.
    fn may_free(&self, stage: &Stage, below: u64) -> Option<Range<u64>> {
        // Nobody was told that this host has the bytes, and no version before them waits for what becomes of them.
        let promised = self.file.is_asked() || self.closed_version.is_some() || self.file.base_len > 0;
        let named = matches!(self.file.life, Life::Linked) && self.holds_bytes == 0;
        if promised || !named || !self.uses_stage(stage) {
            return None;
        }
        // The first part stays: many formats write their head last.
        let start = stage.freed().end.max(on_grid(0).end);
        let arrived = self.streaming.as_ref()?.arrived(start);
        // The part that is about to be written to stays.
        let end = if arrived <= below { arrived } else { start };
        (start < end).then_some(start..end)
    }

    /// Fails a file whose name changes though only an upload to the old name has its bytes. Nothing lets that
    /// happen.
    pub(super) fn fail_if_freed(&mut self) {
        if self.is_freed() {
            let why = Error::new(
                Kind::Internal,
                format!("{}: renamed while bytes of it were freed", self.file.key),
            );
            tracing::error!(%why, "the file is lost");
            self.apply(Event::Refused { why, copy: None, stored: false });
        }
    }

    /// Seals the file: from here on no byte changes until the outcome is known. `None`: nothing of the file
    /// is to be sent.
    fn seal(&mut self, e: &MountContext) -> Option<(Snapshot, StreamingUpload, Option<Attrs>)> {
        let streaming = self.streaming.clone()?;
        let mut snapshot = self.snapshot(e);
        let attrs = std::mem::replace(&mut snapshot.attrs, streaming.attrs.clone());
        let newer = self.file.dated || !differ_in_time_only(&attrs, &streaming.attrs);
        let newer = newer.then_some(attrs);
        self.apply(Event::Asked(snapshot.changes));
        self.remember_upload(&snapshot);
        let signed = newer.as_ref().unwrap_or(&snapshot.attrs).clone();
        self.apply(Event::Signed(snapshot.changes, signed));
        Some((snapshot, streaming, newer))
    }
}

impl OpenFile {
    /// Tells whether bytes of the file are only in its upload.
    pub fn is_freed(&self) -> bool {
        self.state.lock().is_freed()
    }

    /// Seals a file of which bytes were freed and which nobody is left to close: it is sent as it is now.
    pub async fn seal_freed(&self, e: &MountContext) {
        let _one = self.writing.lock().await;
        let mut s = self.state.lock();
        if s.is_freed() {
            s.seal(e);
        }
    }

    /// Fails with `EIO` for a file that is sealed, and with `ENOSPC` for bytes that were freed. `writing` is
    /// held.
    pub(super) fn may_change(&self, range: Range<u64>) -> Op<()> {
        let s = self.state.lock();
        let freed = s.stage.as_ref().map_or(0..0, |stage| stage.freed());
        if freed.is_empty() {
            return Ok(());
        }
        let key = &s.file.key;
        let (errno, said) = if s.is_sealed() {
            let said =
                "its close or fsync failed and may have been done: it can be changed when an fsync succeeds";
            (Errno::IO, format!("{key}: {said}"))
        } else if range.start < freed.end && freed.start < range.end {
            let said = "only the bucket has these bytes, as the disk of the state folder is nearly full: make room there";
            (Errno::NOSPC, format!("{key}: {said}, or change the file after it was closed"))
        } else {
            return Ok(());
        };
        Err(Fail { errno, why: Some(Error::new(Kind::Io, said)) })
    }

    /// Prepares a file of which bytes were freed for this length: one that is emptied begins another upload.
    /// `writing` is held.
    pub(super) async fn begin_anew_if_freed(&self, e: &MountContext, size: u64) -> Op<()> {
        if size > 0 {
            return self.may_change(size..u64::MAX);
        }
        // A sealed one can't be emptied either.
        self.may_change(0..0)?;
        let useless = {
            let mut s = self.state.lock();
            let streaming = if s.is_freed() { s.streaming.take() } else { None };
            if streaming.is_some() {
                s.upload = None;
            }
            streaming
        };
        if let Some(streaming) = useless {
            end_upload(e, &self.key(), &streaming).await;
        }
        Ok(())
    }
}

/// Makes the file's upload the object, or finds out that it can't be. `writing` is held until that is known: whoever
/// writes meanwhile waits. For the rest see `send`.
pub(super) async fn send_freed(
    file: &OpenFile,
    e: &MountContext,
    purpose: Purpose,
    writing: MutexGuard<'_, ()>,
    publish: impl FnOnce(&dyn Fn() -> Attributes),
) -> Result<()> {
    let (mut snapshot, streaming, newer) = {
        let mut s = file.state.lock();
        if purpose == Purpose::ClosedVersion && !s.is_sealed() {
            return Ok(());
        }
        s.seal(e).ok_or_else(|| bytes_missing(&s.file.key))?
    };
    if let Err(why) = file.note(e, false).await {
        // The next mount says of a file that is stored that it may be lost.
        tracing::warn!(key = snapshot.key, %why, "this host's disk can't be told what is being sent");
    }
    let etag = match complete_freed(file, e, &mut snapshot, &streaming).await? {
        Completed::Stored(etag) => etag,
        Completed::Lost(why) => return Err(fail_freed(file, e, why).await),
    };
    let spent = {
        let mut s = file.state.lock();
        let at = s.file.changes;
        s.apply(Event::Stored { at, base: Base { etag, size: snapshot.size } });
        (s.streaming, s.upload, s.noted, s.replaced) = Default::default();
        s.apply(Event::StageSpent)
    };
    if let Some(spent) = spent {
        spent.remove_or_warn().await;
    }
    drop(writing);
    if let Some(newer) = newer {
        let base = file.base().ok_or_else(|| bytes_missing(&snapshot.key))?;
        snapshot.attrs = newer;
        file.state.lock().remember_upload(&snapshot);
        let etag = e.remote.put_attrs(&snapshot.key, &base, &snapshot.attrs).await?;
        file.record_upload(&snapshot, etag);
    }
    publish(&|| file.mark_clean(e, &snapshot));
    drop_version(file).await;
    Ok(())
}

/// Completes the upload, or finds out that it was. An error means that nobody knows whether it has become the
/// object, or will.
async fn complete_freed(
    file: &OpenFile,
    e: &MountContext,
    snapshot: &mut Snapshot,
    streaming: &StreamingUpload,
) -> Result<Completed> {
    for _ in 0..TRIES {
        let why = match upload::put_together(e, snapshot, streaming).await {
            Ok(etag) => return Ok(Completed::Stored(etag)),
            Err(why) => why,
        };
        if is_of_disk(&why) {
            // The store may have the object and lose it: an upload can be completed only once.
            return Ok(Completed::Lost(why));
        }
        if !why.is(Kind::Refused) && !why.is(Kind::NotFound) {
            return Err(why);
        }
        // An upload that was completed is gone, and the object is there: that alone tells.
        match file.find_own_send(e, snapshot).await? {
            Some(OwnSend::This(etag)) => return Ok(Completed::Stored(etag)),
            Some(OwnSend::Before) if why.is(Kind::Refused) => {}
            _ => return Ok(Completed::Lost(why)),
        }
    }
    Err(Error::new(Kind::Unavailable, format!("{} changes all the time", snapshot.key)))
}

/// Fails the file, whose freed bytes are lost, and tells its writer: no close or fsync has answered for them.
async fn fail_freed(file: &OpenFile, e: &MountContext, why: Error) -> Error {
    let key = file.key();
    let said = "bytes of this file were freed, as the disk of the state folder was nearly full, and its upload can't be \
                completed: write it again";
    let why = match why.kind() {
        Kind::Refused => why.context(said),
        _ => Error::new(Kind::Io, format!("{key}: {said}: {why}")),
    };
    tracing::error!(key, %why, "a file that was being written is lost");
    let (spent, streaming) = {
        let mut s = file.state.lock();
        let spent = s.apply(Event::Refused { why: why.share(), copy: None, stored: true });
        s.upload = None;
        (spent, s.streaming.take())
    };
    if let Some(streaming) = streaming {
        end_upload(e, &key, &streaming).await;
    }
    if let Some(spent) = spent {
        spent.remove_or_warn().await;
    }
    why
}

/// Ends an upload that becomes no object, before the note that names it goes: nobody would know of the upload after a kill.
async fn end_upload(e: &MountContext, key: &str, streaming: &StreamingUpload) {
    // A part that arrives later would stay.
    streaming.ended().await;
    e.remote.abort(key, &streaming.upload).await;
}

/// Tells whether a write of this range is due to look at the disk's room.
pub(super) fn is_time_to_look(written: Range<u64>) -> bool {
    written.start / LOOK_EVERY != written.end / LOOK_EVERY
}

/// Frees what has arrived when the disk is nearly full, and waits for parts that are on their way. `full`: a
/// write has just found no room. Nothing is freed from `below` on. Returns true if there is more room now.
/// `writing` is held.
pub(super) async fn make_room(
    file: &OpenFile,
    e: &MountContext,
    stage: &Stage,
    below: u64,
    full: bool,
) -> bool {
    let mut again = full;
    if file.state.lock().streaming.is_none() {
        return false;
    }
    loop {
        let room = if full { 0 } else { e.staging.room().await.unwrap_or(u64::MAX) };
        let part = on_grid_of(below);
        if room >= FREE_BELOW * part {
            return false;
        }
        match free_arrived(file, e, stage, below).await {
            Ok(true) if full => return true,
            Ok(true) => continue,
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(key = file.key(), %why, "the disk of the state folder is nearly full, and nothing can be freed");
                return false;
            }
        }
        if room >= WAIT_BELOW * part {
            return false;
        }
        let next = {
            let mut s = file.state.lock();
            let (key, size) = (s.file.key.clone(), s.file.size);
            let Some(streaming) = s.streaming.as_mut() else { return false };
            // Once: a store that takes none of them leaves no room.
            if std::mem::take(&mut again) {
                streaming.send_failed_again(e, &key, stage);
            }
            streaming.advance(e, &key, stage, size);
            streaming.next_end()
        };
        match next {
            Some(next) => next.await,
            None => return false,
        }
    }
}

/// Returns the length of parts at this place.
fn on_grid_of(at: u64) -> u64 {
    let part = on_grid(at);
    part.end - part.start
}

/// Frees what has arrived, and returns true when that was anything.
async fn free_arrived(file: &OpenFile, e: &MountContext, stage: &Stage, below: u64) -> Result<bool> {
    let _one = file.noting.lock().await;
    let (note, range) = {
        let s = file.state.lock();
        let Some(range) = s.may_free(stage, below) else { return Ok(false) };
        (s.note(&e.staging, stage.partly()), range)
    };
    let freed = stage.free(&note, range).await;
    if !matches!(freed, Ok(true)) {
        let mut s = file.state.lock();
        s.noted = None;
        // It would fail again with each write.
        s.holds_bytes += 1;
    }
    freed
}

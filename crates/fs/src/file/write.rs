//! What changes an open file's bytes: write, truncate, and fetching what only the object has.

use std::ops::Range;

use bytes::Bytes;

use super::commit::give_up;
use super::context::MountContext;
use super::freed::{is_time_to_look, make_room};
use super::open_file::{FileParts, OpenFile};
use super::rewrite::begin_rewrite;
use super::stage_lifecycle::staging_failed;
use super::state::Event;
use super::streaming_upload::{BEGIN, StreamingUpload};
use super::upload;
use crate::object::{Errno, Fail, Op};
use crate::staging::{Mark, Stage};
use windlass_base::{Error, Kind};

/// Size of the largest file, in bytes: S3 takes no larger object.
const SIZE_MAX: u64 = 5 << 40;

/// Bytes of an object that are fetched at once for a file that is about to lose its name.
const FETCH: u64 = 8 << 20;

/// Length of the longest hole that one call makes, in bytes: its zeros are sent when the file is closed.
const HOLE_MAX: u64 = 64 << 30;

impl OpenFile {
    /// Writes at `offset`, or at the end where there is none.
    pub async fn write(&self, e: &MountContext, offset: Option<u64>, data: Bytes) -> Op<()> {
        let _one = self.writing.lock().await;
        if let Some(why) = self.failure() {
            return Err(why.into());
        }
        let (stale, begins) = loop {
            let offset = offset.unwrap_or_else(|| self.size());
            let end = offset + data.len() as u64;
            self.may_reach(offset, end)?;
            self.may_change(offset..end)?;
            let stage = self.stage(e, end).await?;
            if is_time_to_look(offset..end) {
                make_room(self, e, &stage, offset, false).await;
            }
            self.state.lock().keep_asked_version(e, offset);
            if let Err(why) = stage.write(offset, data.clone()).await {
                self.take_back(&stage, end).await;
                if why.is(Kind::NoSpace) && make_room(self, e, &stage, offset, true).await {
                    continue;
                }
                return Err(staging_failed(&stage, why).into());
            }
            let now = e.now();
            let mut s = self.state.lock();
            if !s.uses_stage(&stage) {
                continue;
            }
            s.apply(Event::Written { range: offset..end, now });
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

    /// Removes what a failed write up to `end` may have left behind the file's end.
    async fn take_back(&self, stage: &Stage, end: u64) {
        let size = self.size();
        if size < end
            && let Err(error) = stage.take_back(size).await
        {
            let path = stage.path();
            let path = path.display();
            tracing::error!(%error, "{path} may end with bytes of a write that failed: do not make the file longer");
        }
    }

    /// Fails with `EFBIG` for a file that would be too long, or get too long a hole where it ends now.
    fn may_reach(&self, start: u64, end: u64) -> Op<()> {
        let s = self.state.lock();
        let hole = start.saturating_sub(s.file.size);
        let (bytes, what, limit) = match (end > SIZE_MAX, hole > HOLE_MAX) {
            (true, _) => (end, "long", SIZE_MAX),
            (_, true) => (hole, "of zeros longer, which an object holds like any bytes", HOLE_MAX),
            _ => return Ok(()),
        };
        let said = format!("{} would be {} GiB {what}: at most {} GiB", s.file.key, bytes >> 30, limit >> 30);
        Err(Fail { errno: Errno::FBIG, why: Some(Error::new(Kind::Usage, said)) })
    }

    /// Begins to send a large new file while it is written. A failure costs nothing: the file is sent at its
    /// end.
    async fn begin_streaming(&self, e: &MountContext) {
        let (key, attrs) = {
            let snapshot = self.snapshot(e);
            (snapshot.key, snapshot.attrs)
        };
        let begun = StreamingUpload::begin(e, &key, attrs).await;
        let mut s = self.state.lock();
        match begun {
            // Renamed meanwhile: it begins with the next write. Removed meanwhile: nothing of it is sent.
            Ok(streaming) if s.file.key != key || s.file.is_unlinked() => give_up(e, &key, streaming),
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
        let end = range.end.min(self.size());
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
        self.begin_anew_if_freed(e, size).await?;
        let anew = if size == 0 { begin_rewrite(self, e).await? } else { None };
        let useless = loop {
            let mut stage = self.state.lock().stage.clone().filter(|_| anew.is_none());
            if let Some(stage) = &mut stage {
                if !stage.takes(size) {
                    *stage = self.stage(e, size).await?;
                }
                {
                    let mut s = self.state.lock();
                    s.keep_asked_version(e, size);
                    if size < s.file.size {
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
            s.apply(Event::Resized { size, now });
            if let Some(streaming) = &mut s.streaming {
                streaming.spoil(&(size..u64::MAX));
            }
            break useless;
        };
        self.note(e, false).await?;
        if let Some(useless) = useless {
            useless.remove_or_warn().await;
        }
        Ok(())
    }

    /// Fetches all bytes that are still only in the object: the file's name is about to go, its handles go
    /// on.
    pub async fn detach(&self, e: &MountContext) -> Op<()> {
        let _one = self.writing.lock().await;
        loop {
            self.fetch_missing(e).await?;
            let mut s = self.state.lock();
            // Another's object may have come meanwhile.
            if s.file.local.covers(0..s.file.size) {
                s.apply(Event::Detached);
                return Ok(());
            }
        }
    }

    async fn fetch_missing(&self, e: &MountContext) -> Op<()> {
        let snapshot = self.snapshot(e);
        let missing = snapshot.local.split(0..snapshot.size);
        let missing = missing.into_iter().filter(|(_, local)| !local).map(|(range, _)| range);
        // What has come stays, should the rest fail: who tries again goes on from there.
        let pieces = missing.flat_map(|Range { start, end }| {
            (start..end).step_by(FETCH as usize).map(move |at| at..end.min(at + FETCH))
        });
        for range in pieces {
            let stage = self.stage(e, snapshot.size).await?;
            let bytes = upload::bytes(e, &snapshot, range.clone()).await?;
            stage.write(range.start, bytes).await.map_err(|w| staging_failed(&stage, w))?;
            let mut s = self.state.lock();
            if !s.uses_stage(&stage) {
                return Ok(());
            }
            s.apply(Event::Fetched(range));
        }
        Ok(())
    }
}

impl FileParts {
    /// Sends the whole parts of a new file. Returns true when it is time to begin with that.
    fn streams(&mut self, e: &MountContext, stage: &Stage, written: Range<u64>) -> bool {
        let (key, size) = (&self.file.key, self.file.size);
        let Some(streaming) = &mut self.streaming else {
            let may = !self.file.is_unlinked() && !self.stream_failed && self.upload.is_none();
            return may && self.file.base_len == 0 && size >= BEGIN;
        };
        streaming.spoil(&written);
        streaming.advance(e, key, stage, size);
        false
    }
}

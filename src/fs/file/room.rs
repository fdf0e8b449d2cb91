//! Room for a file that is larger than what the disk of the state folder has left: staged bytes that the store has as parts
//! of the file's upload are freed.
//!
//! That is done only when the disk is nearly full, and only with bytes that nobody counts on here: no close or fsync has
//! been answered for them, and the file keeps its name until it is closed. Freed bytes can neither be read nor changed
//! before the upload is complete, as S3 gives back no part of one. What the stage has freed is written down beside it, so
//! that the next mount completes the upload.

use std::ops::Range;

use super::context::MountContext;
use super::open_file::{FileParts, OpenFile};
use super::state::{Event, Life};
use crate::base::{Kind, Result};
use crate::fs::staging::{PartsUpload, Stage, StoredPart};

/// With less left on the disk, stored parts are freed: parts of several files may be on their way to it meanwhile.
const ROOM_LEAST: u64 = 64 << 20;
/// How many written bytes lie between two looks at the disk.
const LOOK_EVERY: u64 = 4 << 20;

impl FileParts {
    /// The stored parts that may be freed now, and their upload.
    fn begin_freeing(&mut self, e: &MountContext, stage: &Stage) -> Option<(PartsUpload, Vec<StoredPart>)> {
        // Nobody was told that this host has the bytes, and no version before them waits for what becomes of them.
        let unpromised = !self.file.is_asked() && self.closed_version.is_none();
        let stays = matches!(self.file.life, Life::Linked) && !e.moving.holds(&self.file.key);
        if !unpromised || !stays || !self.uses_stage(stage) || self.file.base_len > 0 {
            return None;
        }
        let streaming = self.streaming.as_ref()?;
        let mut parts = streaming.stored();
        parts.retain(|part| part.end <= self.file.size && !stage.has_freed(&part.range()));
        if parts.is_empty() {
            return None;
        }
        // From here on the file's name can't change.
        self.freed = true;
        Some((streaming.known_as(), parts))
    }

    /// The object has every byte of the file as it was at this change, freed ones among them: a stage that lacks bytes is
    /// of no use any more.
    pub(super) fn spend_freed(&mut self, at: u64) -> Option<Stage> {
        if !self.freed {
            return None;
        }
        let spent = self.apply(Event::StageSpent { at });
        if spent.is_some() {
            (self.freed, self.noted, self.replaced) = (false, None, None);
        }
        spent
    }
}

impl OpenFile {
    /// Bytes of it were freed: only its upload has them.
    pub fn is_freed(&self) -> bool {
        self.state.lock().freed
    }
}

/// Frees what is stored when the disk is nearly full; looked at now and then while the file is written. `writing` is held.
pub(super) async fn free_if_short(file: &OpenFile, e: &MountContext, stage: &Stage, written: Range<u64>) {
    let looks = written.start / LOOK_EVERY != written.end / LOOK_EVERY;
    if !looks || file.state.lock().streaming.is_none() {
        return;
    }
    let short = e.staging.room().await.is_some_and(|room| room < ROOM_LEAST);
    if short && let Err(why) = free_stored(file, e, stage).await {
        tracing::warn!(key = file.key(), %why, "the disk of the state folder is nearly full, and nothing can be freed");
    }
}

/// The disk has no room for a write: frees what is stored, and waits for parts that are on their way. False: there is
/// nothing to free. `writing` is held.
pub(super) async fn make_room(file: &OpenFile, e: &MountContext, stage: &Stage) -> Result<bool> {
    let mut again = true;
    loop {
        if free_stored(file, e, stage).await? {
            return Ok(true);
        }
        let next = {
            let mut s = file.state.lock();
            let (key, size) = (s.file.key.clone(), s.file.size);
            let Some(streaming) = s.streaming.as_mut() else { return Ok(false) };
            // Once: a store that takes none of them leaves no room.
            if std::mem::take(&mut again) {
                streaming.send_failed_again(e, &key, stage);
            }
            streaming.advance(e, &key, stage, size);
            streaming.next_end()
        };
        match next {
            Some(next) => drop(next.await),
            None => return Ok(false),
        }
    }
}

/// Frees the parts that have arrived; true when there were some.
async fn free_stored(file: &OpenFile, e: &MountContext, stage: &Stage) -> Result<bool> {
    let _one = file.noting.lock().await;
    let (note, upload, parts) = {
        let mut s = file.state.lock();
        let Some((upload, parts)) = s.begin_freeing(e, stage) else { return Ok(false) };
        (s.note(&e.staging, stage.partly()), upload, parts)
    };
    let freed = stage.free(&note, &upload, &parts).await;
    if !matches!(freed, Ok(true)) {
        file.state.lock().freed = stage.freed().is_some();
    }
    match freed {
        Err(why) if why.is(Kind::NoSpace) => {
            tracing::warn!(key = file.key(), %why, "the disk is too full to free anything");
            Ok(false)
        }
        freed => freed,
    }
}

//! An open file and its stage: made with the first change, changed for one that takes more, given back in the end; and
//! what is written down of the file meanwhile.

use std::sync::Arc;

use super::context::MountContext;
use super::open_file::OpenFile;
use super::state::{Effect, Event, Life};
use crate::staging::{Edits, Mark, Note, Stage};
use windlass_base::{Error, Result};

impl OpenFile {
    /// Returns the stage that takes a file of `len` bytes: the first change makes it, and a file that
    /// outgrows its slot gets a larger one. `writing` is held.
    pub(super) async fn stage(&self, e: &MountContext, len: u64) -> Result<Stage> {
        let _one = self.noting.lock().await;
        self.drop_doubtful().await;
        let (note, edits, outgrown_slot) = {
            let s = self.state.lock();
            if let Some(stage) = s.stage.as_ref().filter(|stage| stage.takes(len)) {
                return Ok(stage.clone());
            }
            let (local, base_len, size) = (s.file.local.clone(), s.file.base_len, s.file.size);
            let partly = base_len > 0 && s.stage.is_none();
            let edits = partly.then_some(Edits { local, base_len, size });
            let mut note = s.note(&e.staging, partly);
            if matches!(s.file.life, Life::Discarded) {
                note.mark = Mark::Sent;
            } else if s.closed_version.is_some() {
                // What is about to change takes no place.
                note.mark = Mark::Open;
            }
            (note, edits, s.stage.clone())
        };
        let (stage, noted) = match &outgrown_slot {
            Some(old) => (e.staging.larger(&note, old).await?, Mark::Sent),
            None => (e.staging.stage(&note, edits.as_ref(), len).await?, note.mark),
        };
        let (before, discarded) = {
            let mut s = self.state.lock();
            s.stage = Some(stage.clone());
            (s.noted.replace(noted), matches!(s.file.life, Life::Discarded))
        };
        if discarded {
            // No name leads to it: the next mount must not find it.
            stage.remove_or_warn().await;
        } else if let Some(old) = &outgrown_slot {
            let durable = note.mark != Mark::Sent && old.must_survive();
            if let Err(why) = stage.note(&note, durable).await {
                old.freeze();
                {
                    let mut s = self.state.lock();
                    (s.stage, s.noted) = (outgrown_slot, before);
                }
                stage.remove_or_warn().await;
                return Err(staging_failed(&stage, why));
            }
            self.state.lock().noted = Some(note.mark);
        }
        if let Some(old) = &outgrown_slot {
            old.remove_or_warn().await;
        }
        Ok(stage)
    }

    /// Lets go of a stage whose bytes the disk may have lost, if the bucket has all of them: the file goes on
    /// in another stage.
    async fn drop_doubtful(&self) {
        let spent = {
            let mut s = self.state.lock();
            // A file that is about to lose its name counts on its stage: its object is about to go.
            let stored = s.file.is_whole_in_object();
            let doubtful = s.stage.as_ref().is_some_and(|stage| stage.is_doubtful());
            if !stored || !doubtful {
                return;
            }
            s.apply(Event::StageReleased)
        };
        if let Some(spent) = spent {
            spent.remove_or_warn().await;
        }
    }

    /// Brings the stage's note up to date.
    pub(super) async fn note(&self, e: &MountContext, durable: bool) -> Result<()> {
        self.write_note(e, durable, true).await
    }

    async fn write_note(&self, e: &MountContext, mut durable: bool, promised: bool) -> Result<()> {
        let _one = self.noting.lock().await;
        loop {
            let (stage, note, before) = {
                let s = self.state.lock();
                let Some(stage) = s.stage.clone().filter(|_| !s.file.is_unlinked()) else { return Ok(()) };
                let mut note = s.note(&e.staging, stage.partly());
                if !promised {
                    note.mark = Mark::Open;
                }
                let before = s.closed_version.as_ref().map(|unsent| unsent.stage.clone());
                let before = before.filter(|before| note.replaces() == Some(&before.id()));
                (stage, note, before)
            };
            // What takes the place of a version that survives a loss of power must survive it too.
            let durably = durable || before.as_ref().is_some_and(|before| before.is_durable());
            if let Err(why) = stage.note(&note, durably).await {
                if before.is_some() {
                    // A disk that fails tells once: the next mount must not take it for what it was to be.
                    let not = Note { mark: Mark::Open, unsent_close: false, ..note };
                    let _ = stage.note(&not, false).await;
                }
                self.state.lock().noted = None;
                return Err(staging_failed(&stage, why));
            }
            let settled = {
                let mut s = self.state.lock();
                s.noted = Some(note.mark);
                if let Some(before) = &before {
                    s.closed_version.take_if(|unsent| Arc::ptr_eq(&unsent.stage, before));
                    s.replaced = Some(before.id()).filter(|_| s.uses_stage(&stage));
                }
                // A write in between found that the note before said enough.
                !promised || s.file.mark() == note.mark
            };
            if let Some(before) = &before {
                before.remove_or_warn().await;
            }
            if settled {
                return Ok(());
            }
            durable = false;
        }
    }

    /// Hides what is staged of an unlinked file from the next mount, and gives up what had left for the
    /// bucket early. The handles go on.
    pub async fn discard(&self, e: &MountContext) {
        let hidden;
        let upload = {
            let mut s = self.state.lock();
            hidden = s.file.apply(Event::Discarded) == Effect::HideStage;
            s.streaming.take().and(s.upload.take())
        };
        if let Some(upload) = upload {
            e.remote.abort(&self.key(), &upload).await;
        }
        if !hidden {
            // What a failed file has staged, and could be stored nowhere, is the next mount's.
            return;
        }
        let _one = self.noting.lock().await;
        let stages = {
            let mut s = self.state.lock();
            [s.stage.clone(), s.closed_version.take().map(|unsent| unsent.stage)]
        };
        for stage in stages.iter().flatten() {
            stage.remove_or_warn().await;
        }
    }

    /// Returns the staged bytes for removal after the last close, unless they are nowhere else.
    pub fn take_stage(&self) -> Option<Stage> {
        self.state.lock().apply(Event::StageReleased)
    }
}

pub(super) fn staging_failed(stage: &Stage, why: Error) -> Error {
    why.context(format_args!("staging at {}", stage.path().display()))
}

/// Brings the note up to date of a file that is sent without having been closed: it takes no version's place
/// on this disk.
pub(super) async fn note_unpromised(file: &OpenFile, e: &MountContext) -> Result<()> {
    file.write_note(e, false, false).await
}

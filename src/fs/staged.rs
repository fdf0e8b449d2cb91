//! An open file and its stage: made with the first change, changed for one that takes more, given back in the end; and
//! what is written down of the file meanwhile.

use super::earlier::remove;
use super::engine::Engine;
use super::file::{OpenFile, staging_failed};
use super::note::{Mark, Note};
use super::own::Edits;
use super::stage::Stage;
use crate::base::Result;

impl OpenFile {
    /// Where the file's bytes are staged, to be changed to so many; made with the first change. `writing` is held.
    pub(super) async fn stage(&self, e: &Engine, len: u64) -> Result<Stage> {
        let _one = self.noting.lock().await;
        let (note, edits, outgrown) = {
            let s = self.state.lock();
            if let Some(stage) = s.stage.as_ref().filter(|stage| stage.takes(len)) {
                return Ok(stage.clone());
            }
            let (local, base_len, size) = (s.local.clone(), s.base_len, s.size);
            let partly = base_len > 0 && s.stage.is_none();
            let edits = partly.then_some(Edits { local, base_len, size });
            let mut note = s.note(e.staging.url(), partly);
            if s.disowned {
                note.mark = Mark::Sent;
            }
            (note, edits, s.stage.clone())
        };
        let (stage, noted) = match &outgrown {
            Some(old) => (e.staging.larger(&note, old).await?, Mark::Sent),
            None => (e.staging.stage(&note, edits.as_ref(), len).await?, note.mark),
        };
        let (before, disowned) = {
            let mut s = self.state.lock();
            s.stage = Some(stage.clone());
            (s.noted.replace(noted), s.disowned)
        };
        if disowned {
            // No name leads to it: the next mount must not find it.
            remove(&stage).await;
        } else if let Some(old) = &outgrown {
            let durable = note.mark != Mark::Sent && old.must_survive() || self.must_outlive(&note);
            if let Err(why) = stage.note(&note, durable).await {
                old.keep();
                {
                    let mut s = self.state.lock();
                    (s.stage, s.noted) = (outgrown, before);
                }
                remove(&stage).await;
                return Err(staging_failed(&stage, why));
            }
            self.state.lock().noted = Some(note.mark);
        }
        if let Some(old) = &outgrown {
            remove(old).await;
        }
        Ok(stage)
    }

    /// The note takes the place of a version that survives a loss of power: so must what it stands for.
    fn must_outlive(&self, note: &Note) -> bool {
        let s = self.state.lock();
        note.replaces() && s.earlier.as_ref().is_some_and(|earlier| earlier.stage.is_durable())
    }

    /// Brings the stage's note up to date.
    pub(super) async fn note(&self, e: &Engine, mut durable: bool) -> Result<()> {
        let _one = self.noting.lock().await;
        loop {
            let (stage, note) = {
                let s = self.state.lock();
                let Some(stage) = s.stage.clone().filter(|_| !s.unlinked) else { return Ok(()) };
                let note = s.note(e.staging.url(), stage.partly());
                (stage, note)
            };
            let durably = durable || self.must_outlive(&note);
            stage.note(&note, durably).await.map_err(|w| staging_failed(&stage, w))?;
            let mut s = self.state.lock();
            s.noted = Some(note.mark);
            // A write in between found that the note before said enough.
            if s.mark() == note.mark {
                return Ok(());
            }
            durable = false;
        }
    }

    /// The same is true after a crash, and of what had left early.
    pub async fn disown(&self, e: &Engine) {
        let upload = {
            let mut s = self.state.lock();
            s.disowned = true;
            s.early.take().and(s.upload.take())
        };
        if let Some(upload) = upload {
            e.remote.abort(&self.key(), &upload).await;
        }
        let _one = self.noting.lock().await;
        let stages = {
            let mut s = self.state.lock();
            [s.stage.clone(), s.earlier.take().map(|earlier| earlier.stage)]
        };
        for stage in stages.iter().flatten() {
            remove(stage).await;
        }
    }

    /// After the last close: gives back the staged bytes for removal, unless they are nowhere else.
    pub fn take_stage(&self) -> Option<Stage> {
        let mut s = self.state.lock();
        if !s.unlinked && s.changes != s.sent {
            return None;
        }
        // The object has it all now.
        s.local.clear();
        s.stage.take()
    }
}

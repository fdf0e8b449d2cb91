//! Writing a file anew over a version that is still to be sent, and sending that one (see `earlier`).

use super::conflict_copy;
use super::context::Engine;
use super::open_file::{OpenFile, State};
use super::streaming_upload::Early;
use super::unsent_version::{Earlier, remove};
use super::upload::Snapshot;
use crate::base::{Kind, Result};
use crate::fs::object::Facts;
use crate::fs::staging::{Mark, Note, Stage};
use crate::store::Attrs;

impl State {
    /// Bytes that a close or fsync answered for are nowhere but in the stage.
    fn holds_owed(&self) -> bool {
        self.asked > self.sent && self.earlier.is_none() && self.stage.is_some() && !self.unlinked
    }

    /// What a failed close or a send asked for stands beside a version that it could not replace.
    fn holds_asked(&self) -> bool {
        let asked = self.earlier.as_ref().is_some_and(|earlier| self.asked > earlier.snapshot.changes);
        asked && self.stage.is_some() && !self.unlinked
    }

    /// The file has `anew` for its stage from now on. What was staged stands aside while it is still owed; otherwise
    /// it comes back for removal, and what is owed is the version before.
    pub(super) fn step_aside(&mut self, e: &Engine, anew: Stage) -> Option<Stage> {
        let owed = self.holds_owed();
        let Some(stage) = self.stage.clone() else { return Some(anew) };
        let before = owed.then(|| {
            let note = self.note(&e.staging, stage.partly());
            Earlier { snapshot: self.snapshot(e), stage: stage.clone(), note }
        });
        self.stage = Some(anew);
        self.cuts = Default::default();
        self.replaced = None;
        self.noted = Some(Mark::Open);
        if before.is_none() {
            if let Some(earlier) = &self.earlier {
                self.asked = self.asked.min(earlier.snapshot.changes);
            }
            return Some(stage);
        }
        self.earlier = before;
        None
    }

    /// The one before, if nobody needs it any more: it is stored.
    fn outlived(&mut self) -> Option<Stage> {
        let at = self.earlier.as_ref()?.snapshot.changes;
        if self.sent < at {
            return None;
        }
        self.earlier.take().map(|earlier| earlier.stage)
    }

    /// The one before, to be sent: no close since asked for more.
    fn owed_before(&mut self) -> Option<Earlier> {
        let mut earlier = self.earlier.clone().filter(|earlier| self.asked <= earlier.snapshot.changes)?;
        let Snapshot { key, when, source, attrs, .. } = &mut earlier.snapshot;
        // A send that was under way may have been stored meanwhile.
        *when = self.when();
        if source.as_ref().is_none_or(|source| source.key == *key) {
            *source = self.own();
        }
        let Attrs { content_type, user } = attrs.clone();
        self.sets_out(&earlier.snapshot);
        // By this it is known again, should the answer be lost with this mount; what was stored since is ours.
        let (mark, base, sending) = (Mark::Closed, self.base.clone(), self.sending.clone());
        earlier.note = Note { mark, base, sending, content_type, user, ..earlier.note };
        Some(earlier)
    }
}

impl OpenFile {
    /// A stage for the file that is about to be emptied, when its own must stay as it is.
    pub(super) async fn anew(&self, e: &Engine) -> Result<Option<Stage>> {
        let note = {
            let s = self.state.lock();
            let over = match (&s.stage, &s.earlier) {
                (Some(old), None) if s.holds_owed() => old.id(),
                // It may be on its way, or on the disk as closed: it stays as it is.
                (Some(_), Some(earlier)) if s.holds_asked() => earlier.stage.id(),
                _ => return Ok(None),
            };
            let (size, partly, mark, owed, over) = (0, false, Mark::Open, false, Some(over));
            Note { size, partly, mark, owed, over, ..s.note(&e.staging, false) }
        };
        e.staging.stage(&note, None, 0).await.map(Some)
    }

    /// Removes the version before, if nobody needs it any more.
    pub(super) async fn retire(&self) {
        let outlived = self.state.lock().outlived();
        if let Some(stage) = outlived {
            remove(&stage).await;
        }
    }

    pub(super) fn owed_before(&self) -> Option<Earlier> {
        self.state.lock().owed_before()
    }

    /// The file is being written anew over a version that is still to be sent.
    pub fn is_anew(&self) -> bool {
        self.state.lock().earlier.is_some()
    }

    /// Stores the version before. One that somebody else's object refuses is kept beside, and the file goes on: its
    /// own close will be told.
    pub(super) async fn send_before(
        &self,
        e: &Engine,
        earlier: Earlier,
        publish: impl FnOnce(&dyn Fn() -> Facts),
    ) -> Result<()> {
        let Earlier { mut snapshot, stage, mut note } = earlier;
        let mut early = None;
        if snapshot.in_parts() {
            let begun = Early::begin(e, &snapshot.key, snapshot.attrs.clone()).await?;
            note.upload = Some(begun.upload.clone());
            early = Some(begun);
        }
        stage.note(&note, false).await?;
        match self.deliver(e, &mut snapshot, early).await {
            Ok(etag) => {
                self.stored(&snapshot, etag);
                publish(&|| self.arrived(e, &snapshot));
            }
            Err(why) if why.is(Kind::Refused) => {
                let kept = conflict_copy::keep(e, &snapshot, conflict_copy::CONFLICT).await?;
                tracing::error!(key = snapshot.key, kept, %why, "a version that was closed is kept beside");
                let mut s = self.state.lock();
                s.sent = s.sent.max(snapshot.changes);
            }
            Err(why) => return Err(why),
        }
        drop((snapshot, stage));
        self.retire().await;
        Ok(())
    }
}

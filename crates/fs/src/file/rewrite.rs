//! Writing to a file while what was closed of it is still unsent. A file that is emptied leaves its closed version in the
//! stage that it has (see `closed_version`). Elsewhere the stage is written in place: what was closed can be sent as long as
//! nothing of it is overwritten, and what is there by then goes with the next close.

use super::closed_version::ClosedVersion;
use super::context::MountContext;
use super::open_file::{FileParts, OpenFile};
use super::state::{Bytes, Event, Purpose};
use super::upload::Snapshot;
use crate::object::said_otherwise;
use crate::staging::{Mark, Note, Stage};
use windlass_base::Result;
use windlass_store::Attrs;

impl FileParts {
    /// Tells whether bytes that a close or fsync answered for are nowhere but in the stage.
    fn holds_unsent_close(&self) -> bool {
        self.file.is_asked()
            && self.closed_version.is_none()
            && self.stage.is_some()
            && !self.file.is_unlinked()
    }

    /// Tells whether a failed close or a send asked for bytes that could not replace the closed version: both
    /// are staged.
    fn holds_asked_bytes(&self) -> bool {
        let asked =
            self.closed_version.as_ref().is_some_and(|unsent| self.file.asked > unsent.snapshot.changes);
        asked && self.stage.is_some() && !self.file.is_unlinked()
    }

    /// Makes `anew` the file's stage. The old stage becomes the closed version while a close still counts on it;
    /// otherwise it is returned for removal, and the closed version stays the one before.
    pub(super) fn detach_version(&mut self, e: &MountContext, anew: Stage) -> Option<Stage> {
        let unsent_close = self.holds_unsent_close();
        let Some(stage) = self.stage.clone() else { return Some(anew) };
        let before = unsent_close.then(|| {
            let note = self.note(&e.staging, stage.partly());
            let snapshot = self.version_asked_for().cloned().unwrap_or_else(|| self.snapshot(e));
            ClosedVersion { snapshot, stage: stage.clone(), note }
        });
        self.asked_version = None;
        self.stage = Some(anew);
        (self.cuts, self.overwrites) = Default::default();
        self.replaced = None;
        self.noted = Some(Mark::Open);
        if before.is_none() {
            if let Some(unsent) = &self.closed_version {
                let at = unsent.snapshot.changes;
                self.file.apply(Event::AskedAtMost(at));
            }
            return Some(stage);
        }
        self.closed_version = before;
        None
    }

    /// Keeps what was asked for last as far as it stays whole: the stage is about to be changed from `from`
    /// on. `writing` is held.
    pub(super) fn keep_asked_version(&mut self, e: &MountContext, from: u64) {
        if from < self.file.size {
            self.overwrites.add();
            self.asked_version = None;
        } else if self.file.is_asked() && self.file.is_unwritten_since_asked() {
            self.asked_version = Some(self.snapshot(e));
        }
    }

    /// Returns what was asked for last, where something was written behind it since.
    fn version_asked_for(&self) -> Option<&Snapshot> {
        self.asked_version.as_ref().filter(|version| version.changes >= self.file.asked)
    }

    /// Returns what a close, an fsync or a send asked for, to be sent. `None`: the bucket has it, or it was
    /// overwritten.
    fn snapshot_as_asked(&self, e: &MountContext) -> Option<Snapshot> {
        if !self.file.has_unsent_close() {
            return None;
        }
        let asked = match self.file.is_unwritten_since_asked() {
            true => self.snapshot(e),
            false => self.version_asked_for().cloned()?,
        };
        let (key, when, source) = (self.file.key.clone(), self.file.when(), self.file.source());
        // What is overwritten from here on is no longer what was asked for.
        let cuts = (self.overwrites.clone(), self.overwrites.now());
        Some(Snapshot { key, when, source, cuts, ..asked })
    }

    /// Returns what a send with this purpose takes of the file. `None`: nothing, until the next close.
    pub(super) fn snapshot_for(&self, e: &MountContext, purpose: Purpose) -> Option<Snapshot> {
        match purpose {
            Purpose::Close => Some(self.snapshot(e)),
            Purpose::ClosedVersion => self.snapshot_as_asked(e),
        }
    }

    /// Takes the stage of the closed version, for removal, if that version or a later one is stored.
    fn take_sent_version(&mut self) -> Option<Stage> {
        let sent = self.file.sent;
        self.asked_version.take_if(|asked| asked.changes <= sent);
        let at = self.closed_version.as_ref()?.snapshot.changes;
        if self.file.sent < at {
            return None;
        }
        self.closed_version.take().map(|unsent| unsent.stage)
    }

    /// Returns the closed version, to be sent, if no close since has asked for more.
    fn version_to_send(&mut self) -> Option<ClosedVersion> {
        let mut unsent =
            self.closed_version.clone().filter(|unsent| self.file.asked <= unsent.snapshot.changes)?;
        let Snapshot { when, source, attrs, .. } = &mut unsent.snapshot;
        // A send that was under way may have been stored meanwhile.
        (*when, *source) = (self.file.when(), self.file.source());
        let Attrs { content_type, user, carried } = attrs.clone();
        let base_said = self.file.base_attrs.as_ref().map(|base| said_otherwise(base, attrs));
        self.remember_upload(&unsent.snapshot);
        // By this it is known again, should the answer be lost with this mount; what was stored since is ours.
        let (base, sending) = (self.file.base.clone(), self.file.uploading.clone());
        unsent.note =
            Note { mark: Mark::Closed, base, sending, content_type, user, base_said, carried, ..unsent.note };
        Some(unsent)
    }
}

impl OpenFile {
    pub(super) fn version_to_send(&self) -> Option<ClosedVersion> {
        self.state.lock().version_to_send()
    }

    /// Tells whether the file is being rewritten while its closed version is unsent.
    pub fn is_rewriting(&self) -> bool {
        self.state.lock().closed_version.is_some()
    }

    /// Tells whether what a close or fsync asked for was overwritten before the bucket had it. The next close
    /// is then waited for: half of an edit must not become the object.
    pub fn waits_for_close(&self) -> bool {
        let s = self.state.lock();
        let version = s.closed_version.as_ref().is_some_and(|unsent| s.file.asked <= unsent.snapshot.changes);
        let whole = version || s.file.is_unwritten_since_asked() || s.version_asked_for().is_some();
        s.file.has_unsent_close() && !whole
    }

    /// Tells whether a whole object is being written anew, and no close or sync has asked for what is there
    /// by now. Half of it must not take the object's place. The next mount judges what it finds in the same
    /// way (`recovery`).
    pub fn is_unfinished_rewrite(&self) -> bool {
        let s = self.state.lock();
        let was_object = s.file.base.as_ref().is_some_and(|base| base.size > 0) || s.closed_version.is_some();
        let asked_for = s.holds_unsent_close() || s.file.bytes() != Bytes::Staged;
        was_object && s.file.is_begun_anew() && !asked_for
    }
}

/// Makes a stage for the file that is about to be emptied, when its own stage must stay as it is; else
/// returns `None`.
pub(super) async fn begin_rewrite(file: &OpenFile, e: &MountContext) -> Result<Option<Stage>> {
    let note = {
        let s = file.state.lock();
        let rewrites = match (&s.stage, &s.closed_version) {
            (Some(old), None) if s.holds_unsent_close() => old.id(),
            // It may be on its way, or on the disk as closed: it stays as it is.
            (Some(_), Some(unsent)) if s.holds_asked_bytes() => unsent.stage.id(),
            _ => return Ok(None),
        };
        Note {
            size: 0,
            begun_anew: Some(true),
            mark: Mark::Open,
            unsent_close: false,
            rewrites: Some(rewrites),
            ..s.note(&e.staging, false)
        }
    };
    e.staging.stage(&note, None, 0).await.map(Some)
}

/// Removes the stage of the closed version, if nobody needs it any more.
pub(super) async fn drop_version(file: &OpenFile) {
    let outlived = file.state.lock().take_sent_version();
    if let Some(stage) = outlived {
        stage.remove_or_warn().await;
    }
}

//! Whose the object is that stands in the way of a send: an earlier send's, whose answer was lost, is ours.

use super::context::MountContext;
use super::open_file::OpenFile;
use super::state::Event;
use super::upload::Snapshot;
use crate::object::{Base, Source, UploadToken};
use windlass_base::Result;
use windlass_store::{Etag, When};

/// A send of ours that arrived although its answer was lost.
pub(super) enum OwnSend {
    /// The object was stored by this very send.
    This(Etag),
    /// The object was stored by a send of an earlier state of the file, or was removed here before the file
    /// was made.
    Before,
}

impl OpenFile {
    /// Finds out whether the object that refused ours is ours. An earlier send's answer may be lost, perhaps
    /// with the mount that sent it, or a removal of ours has not been done, or has been done since. The
    /// snapshot is then made to replace what is there.
    pub(super) async fn find_own_send(
        &self,
        e: &MountContext,
        snapshot: &mut Snapshot,
    ) -> Result<Option<OwnSend>> {
        let head = e.remote.head(&snapshot.key).await?;
        let mut s = self.state.lock();
        // Where the file was opened though its name had been removed, that object is what it was made of.
        let of_removed = |etag: &Etag| s.file.base.as_ref().is_none_or(|base| base.etag == *etag);
        let removed = s.file.removed.clone().filter(|removed| of_removed(&removed.etag));
        let Some(head) = head else {
            let done = removed.is_some() && snapshot.when != When::Absent && snapshot.base_len == 0;
            if done {
                (snapshot.when, snapshot.source) = (When::Absent, None);
            }
            return Ok(done.then_some(OwnSend::Before));
        };
        let there = UploadToken::of(&head.attrs, head.size);
        if there.is_some() && there == UploadToken::of(&snapshot.attrs, snapshot.size) {
            return Ok(Some(OwnSend::This(head.etag)));
        }
        if snapshot.when == When::Matches(head.etag.clone()) {
            // It has refused what was to replace just this.
            return Ok(None);
        }
        if removed.is_some_and(|removed| removed.is(&head)) {
            // It is not what the file is made of: it goes at any moment.
            snapshot.when = When::Matches(head.etag);
            return Ok(Some(OwnSend::Before));
        }
        let ours = there.is_some_and(|there| s.file.uploading.contains(&there));
        let base = Base { etag: head.etag, size: head.size };
        if !ours || base.size < snapshot.base_len {
            return Ok(None);
        }
        s.apply(Event::Rebased(base.clone()));
        snapshot.when = When::Matches(base.etag.clone());
        snapshot.source = Some(Source { key: snapshot.key.clone(), base });
        Ok(Some(OwnSend::Before))
    }
}

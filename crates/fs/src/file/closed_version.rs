//! A version that was closed or synced and is not in the bucket yet, while the file is being rewritten: its bytes
//! stay in their stage until it is stored, or a later close stands on disk in its place.
//!
//! The new stage's note names the old one (`Note::rewrites`): of two that a crash leaves, the one that was closed last
//! counts, and a new one that was not closed becomes a conflict copy.

use super::upload::Snapshot;
use crate::staging::{Note, Stage};

#[derive(Clone, Debug)]
pub struct ClosedVersion {
    pub snapshot: Snapshot,
    pub stage: Stage,
    pub note: Note,
}

impl ClosedVersion {
    pub fn set_key(&mut self, key: &str) {
        for its in [&mut self.snapshot.key, &mut self.note.key] {
            key.clone_into(its);
        }
    }
}

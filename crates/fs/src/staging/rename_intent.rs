//! What is written down of a directory's rename: `ID.rename` in the staging folder, JSON. From it alone the next mount
//! goes on with the rename. What was copied is not in it: the copies say themselves of what they are copies (`act_mark`).

use serde::{Deserialize, Serialize};

use super::note::Note;
use crate::object::ActToken;
use windlass_base::rt::Rt;

pub const INTENT_FORMAT: u32 = 2;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RenameIntent {
    pub format: u32,
    /// Token of the rename, which its copies carry.
    pub act: ActToken,
    /// Prefix of the directory's keys before the rename; `to` is the one after it.
    pub from: String,
    pub to: String,
    /// True if `to` was there, empty and with a marker of its own, which the marker of `from` replaces.
    pub over: bool,
    pub stage: RenameStage,
    /// `Note::generation` of the mount that began the rename. What later mounts staged keeps the name under
    /// which it was made, though an earlier mount could not end the rename. Older intents do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl RenameIntent {
    pub fn new(rt: &Rt, from: &str, to: &str, over: bool, generation: u64) -> RenameIntent {
        let (act, from, to) = (ActToken::new(rt), from.to_owned(), to.to_owned());
        let (format, stage, generation) = (INTENT_FORMAT, RenameStage::Copying, Some(generation));
        RenameIntent { format, act, from, to, over, stage, generation }
    }

    /// Tells whether the note is from before the rename's end: by the mount that began it, or by an earlier
    /// one.
    pub fn is_of(&self, note: &Note) -> bool {
        self.generation.is_none_or(|generation| note.generation <= generation)
    }
}

/// Stage to which a directory's rename has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenameStage {
    /// Nothing was deleted at the old name.
    Copying,
    /// The rename failed while it copied: the copies are taken away again.
    Back,
    /// All is copied, and this host's names are the new ones, but for notes of staged files.
    Moved,
    /// Notes of staged files have the new names too. What is left to do is to delete at the old name what was
    /// copied.
    Deleting,
}

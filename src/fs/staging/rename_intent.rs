//! What is written down of a directory's rename: `ID.rename` in the staging folder, JSON. From it alone the next mount
//! goes on with the rename. What was copied is not in it: the copies say themselves of what they are copies (`act_mark`).

use serde::{Deserialize, Serialize};

use crate::base::rt::Rt;
use crate::fs::object::ActToken;

pub const INTENT_FORMAT: u32 = 2;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RenameIntent {
    pub format: u32,
    /// Its copies carry this.
    pub act: ActToken,
    /// Prefixes.
    pub from: String,
    pub to: String,
    /// `to` was there, empty and with a marker of its own, which that of `from` replaces.
    pub over: bool,
    pub stage: RenameStage,
}

impl RenameIntent {
    pub fn new(rt: &Rt, from: &str, to: &str, over: bool) -> RenameIntent {
        let (act, from, to) = (ActToken::new(rt), from.to_owned(), to.to_owned());
        RenameIntent { format: INTENT_FORMAT, act, from, to, over, stage: RenameStage::Copying }
    }
}

/// How far a rename has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenameStage {
    /// Nothing was deleted at the old name.
    Copying,
    /// It failed while it copied: the copies are taken away again.
    Back,
    /// All is copied, and this host's names are the new ones, but for notes of staged files.
    Moved,
    /// These too: what is left to do is to delete at the old name what was copied.
    Deleting,
}

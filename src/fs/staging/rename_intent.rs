//! What is written down of a directory's rename before it begins: `ID.rename` in the staging folder, JSON.

use serde::{Deserialize, Serialize};

pub const INTENT_FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RenameIntent {
    pub format: u32,
    /// Prefixes.
    pub from: String,
    pub to: String,
    /// It failed and is being undone.
    pub back: bool,
    /// `to` was there, empty and with a marker of its own, which that of `from` replaces.
    pub over: bool,
}

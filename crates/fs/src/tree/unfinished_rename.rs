//! A directory's rename that could not be ended at once: it is tried again until the store answers.
//!
//! What is left of it is to delete one of each pair: an object and this rename's copy of just that. Whatever anybody
//! changes at either name makes another object of it, which is in no pair: so nothing has to be remembered of what was
//! written, renamed or removed here since.

use std::path::PathBuf;

use crate::staging::{RenameIntent, RenameStage};

#[derive(Debug)]
pub struct UnfinishedRename {
    /// Path of the rename's intent.
    pub path: PathBuf,
    pub intent: RenameIntent,
    /// Number of passes that are still to be made; locked by whoever makes one. A copy whose answer nobody
    /// heard may come after the first pass.
    pub passes: tokio::sync::Mutex<u32>,
}

impl UnfinishedRename {
    pub fn new(path: PathBuf, intent: RenameIntent) -> UnfinishedRename {
        let passes = if intent.stage == RenameStage::Back { 2 } else { 1 };
        UnfinishedRename { path, intent, passes: tokio::sync::Mutex::new(passes) }
    }

    /// Tells whether all copies were deleted once, and are to be looked for once more.
    pub async fn is_done_once(&self) -> bool {
        self.intent.stage == RenameStage::Back && *self.passes.lock().await == 1
    }

    /// Tells whether the rename changes what is below a prefix.
    pub fn overlaps(&self, prefix: &str) -> bool {
        [&self.intent.from, &self.intent.to]
            .iter()
            .any(|its| its.starts_with(prefix) || prefix.starts_with(its.as_str()))
    }
}

//! A directory's rename that could not be ended at once: it is tried again until the store answers.
//!
//! What is left of it is to delete one of each pair: an object and this rename's copy of just that. Whatever anybody
//! changes at either name makes another object of it, which is in no pair: so nothing has to be remembered of what was
//! written, renamed or removed here since.

use std::path::PathBuf;

use crate::fs::staging::{RenameIntent, RenameStage};

#[derive(Debug)]
pub struct UnfinishedRename {
    /// Of the intent.
    pub path: PathBuf,
    pub intent: RenameIntent,
    /// Held by who ends it: how often that is still to be done. A copy whose answer nobody heard may come after the
    /// first time.
    pub passes: tokio::sync::Mutex<u32>,
}

impl UnfinishedRename {
    pub fn new(path: PathBuf, intent: RenameIntent) -> UnfinishedRename {
        let passes = if intent.stage == RenameStage::Back { 2 } else { 1 };
        UnfinishedRename { path, intent, passes: tokio::sync::Mutex::new(passes) }
    }

    /// All was deleted once, and is to be looked at once more.
    pub async fn is_done_once(&self) -> bool {
        self.intent.stage == RenameStage::Back && *self.passes.lock().await == 1
    }

    /// Whether it changes what is below a prefix.
    pub fn overlaps(&self, prefix: &str) -> bool {
        [&self.intent.from, &self.intent.to]
            .iter()
            .any(|its| its.starts_with(prefix) || prefix.starts_with(its.as_str()))
    }
}

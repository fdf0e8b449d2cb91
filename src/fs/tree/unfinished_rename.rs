//! A directory's rename that failed and could not be ended at once: it is tried again until the store answers.
//!
//! Meanwhile both names are there, and whoever sees that may act on it: repeat the rename, copy by hand, remove either
//! name. So another rename of these directories ends the failed one first, and an object that was written, renamed or
//! removed here since is left alone by it, at both names.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// What is below `delete_from` and also below `present_at` is to be deleted there.
#[derive(Debug)]
pub struct UnfinishedRename {
    /// Of the intent.
    pub path: PathBuf,
    pub delete_from: String,
    pub present_at: String,
    pub marker: Marker,
    /// Held by who ends it.
    pub progress: tokio::sync::Mutex<Progress>,
}

/// What becomes of the marker of `delete_from` itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// What becomes of any object.
    AsAll,
    /// It replaces the marker of `present_at`, whose directory the rename replaced.
    Replaces,
    /// It stays: the directory was there before the rename that is undone.
    Stays,
}

impl Marker {
    /// Of a rename that goes `back` or forward, and was `over` a directory with a marker.
    pub fn of(over: bool, back: bool) -> Marker {
        match (over, back) {
            (false, _) => Marker::AsAll,
            (true, false) => Marker::Replaces,
            (true, true) => Marker::Stays,
        }
    }
}

#[derive(Debug, Default)]
pub struct Progress {
    pub done: bool,
    /// Keys below `delete_from` that stay.
    pub exempted: BTreeSet<String>,
}

impl UnfinishedRename {
    pub fn new(path: PathBuf, delete_from: &str, present_at: &str, marker: Marker) -> UnfinishedRename {
        UnfinishedRename {
            path,
            delete_from: delete_from.into(),
            present_at: present_at.into(),
            marker,
            progress: Default::default(),
        }
    }

    /// The key below `delete_from` of the object that `key` names there or below `present_at`.
    pub fn key(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.delete_from).or_else(|| key.strip_prefix(&self.present_at))?;
        Some(format!("{}{rest}", self.delete_from))
    }

    /// Whether it changes what is below a prefix.
    pub fn overlaps(&self, prefix: &str) -> bool {
        [&self.delete_from, &self.present_at]
            .iter()
            .any(|its| its.starts_with(prefix) || prefix.starts_with(its.as_str()))
    }
}

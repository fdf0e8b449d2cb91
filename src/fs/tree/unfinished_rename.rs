//! A directory's rename that failed and could not be ended at once: it is tried again until the store answers.
//!
//! Meanwhile both names are there, and whoever sees that may act on it: repeat the rename, copy by hand, remove either
//! name. So another rename of these directories ends the failed one first, and an object that was written, renamed or
//! removed here since is left alone by it, at both names.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// What is below `have` and also below `lack` is to be deleted there.
#[derive(Debug)]
pub struct Ending {
    /// Of the intent.
    pub path: PathBuf,
    pub have: String,
    pub lack: String,
    pub marker: Marker,
    /// Held by who ends it.
    pub turn: tokio::sync::Mutex<Turn>,
}

/// What becomes of the marker of `have` itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// What becomes of any object.
    AsAll,
    /// It replaces the marker of `lack`, whose directory the rename replaced.
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
pub struct Turn {
    pub done: bool,
    /// Keys below `have` that stay.
    pub spared: BTreeSet<String>,
}

impl Ending {
    pub fn new(path: PathBuf, have: &str, lack: &str, marker: Marker) -> Ending {
        Ending { path, have: have.into(), lack: lack.into(), marker, turn: Default::default() }
    }

    /// The key below `have` of the object that `key` names there or below `lack`.
    pub fn key(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.have).or_else(|| key.strip_prefix(&self.lack))?;
        Some(format!("{}{rest}", self.have))
    }

    /// Whether it changes what is below a prefix.
    pub fn overlaps(&self, prefix: &str) -> bool {
        [&self.have, &self.lack].iter().any(|its| its.starts_with(prefix) || prefix.starts_with(its.as_str()))
    }
}

//! The object that a file's changes stand on, as in a three-way merge: what it was when last looked at, and from which key
//! its unchanged bytes are taken.

use serde::{Deserialize, Serialize};

use windlass_store::Etag;

/// An object as it was when last looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    pub etag: Etag,
    pub size: u64,
}

/// An object that has bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub key: String,
    pub base: Base,
}

//! Putting a chunk's shards: all at once, until they are stored.

use crate::base::{Error, Kind, Result};

/// A chunk on its way to the stores. Dropping it stops what is not stored yet.
#[derive(Debug)]
pub struct Upload {}

impl Upload {
    /// Shards stored, each attested after its put.
    pub fn stored(&self) -> usize {
        0
    }

    /// Returns when `w` shards are stored and the others had their hedge delay; never gives up by itself. An error
    /// says that it can't be stored (two contents under one id), not that stores are away.
    pub async fn wait(&self, _w: usize) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "not yet"))
    }

    /// Returns when the upload holds none of the chunk's bytes any more.
    pub async fn settled(&self) {}
}

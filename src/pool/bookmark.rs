//! How far a scrub has come, on the local disk: one that is cut off is taken up where it was.
//!
//! File `scrub` in the pool's folder, JSON: `{"format": 1, "pool": ID, "generation": N, "after": {"volume": ID, "epoch": N,
//! "seq": N}, "doubtful": [[{"volume": …}, SHARD]…], "shards": N, "bytes": N}`. Chunks up to `after` were read; those shards
//! of them that were not right are read again. A file that can't be read is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::rt::Disk;
use crate::base::{ChunkId, Generation, PoolId, Result};

const FORMAT: u32 = 1;
const FILE_MAX: usize = 4 << 20;
/// With more than this it would be no help.
const DOUBTFUL_MAX: usize = 10_000;

/// What a scrub has behind it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    format: u32,
    pool: PoolId,
    generation: Generation,
    pub after: ChunkId,
    pub doubtful: Vec<(ChunkId, usize)>,
    pub shards: u64,
    pub bytes: u64,
}

/// Where it is kept.
#[derive(Debug)]
pub(super) struct Bookmark {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    pool: PoolId,
}

impl Bookmark {
    pub(super) fn new(disk: Arc<dyn Disk>, folder: &Path, pool: PoolId) -> Bookmark {
        Bookmark { disk, path: folder.join("scrub"), pool }
    }

    /// What an earlier run left in this generation of the pool.
    pub(super) async fn load(&self, generation: Generation) -> Option<Mark> {
        let bytes = self.disk.read(&self.path, FILE_MAX).await.ok()?;
        let mark: Mark = serde_json::from_slice(&bytes).ok()?;
        let ours = mark.format == FORMAT && mark.pool == self.pool && mark.generation == generation;
        ours.then_some(mark)
    }

    pub(super) async fn save(
        &self,
        generation: Generation,
        after: ChunkId,
        doubtful: &[(ChunkId, usize)],
        (shards, bytes): (u64, u64),
    ) -> Result<()> {
        if doubtful.len() > DOUBTFUL_MAX {
            return Ok(());
        }
        let (format, pool, doubtful) = (FORMAT, self.pool, doubtful.to_vec());
        let mark = Mark { format, pool, generation, after, doubtful, shards, bytes };
        let text = serde_json::to_vec(&mark).expect("it has only string keys");
        Ok(self.disk.write_atomic(&self.path, text.into()).await?)
    }

    /// The next scrub begins at the beginning.
    pub(super) async fn clear(&self) {
        // Left behind, it saves the next one work that was done not long ago.
        let _ = self.disk.remove(&self.path).await;
    }
}

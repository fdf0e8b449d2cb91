//! How far a scrub has come, on the local disk: one that is cut off is taken up where it was. And what the last one that
//! came to its end found (`scrubbed`, JSON: `LastScrub`).
//!
//! File `scrub` in the pool's folder, JSON: `{"format": 1, "pool": ID, "generation": N, "after": {"volume": ID, "epoch": N,
//! "seq": N}, "doubtful": [[{"volume": …}, SHARD]…], "shards": N, "bytes": N}`. Chunks up to `after` were read; those shards
//! of them that were not right are read again. A file that can't be read is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::scrub_repair_report::ScrubReport;
use windlass_base::rt::Disk;
use windlass_base::{ChunkId, Generation, PoolId, Result};

const FORMAT: u32 = 1;
const FILE_MAX: usize = 4 << 20;
/// Number of doubtful shards with which a cursor is saved at most: with more it would be no help.
const DOUBTFUL_MAX: usize = 10_000;

/// Record of a scrub's progress: all up to `after` was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    format: u32,
    pool: PoolId,
    generation: Generation,
    pub after: ChunkId,
    pub doubtful: Vec<(ChunkId, usize)>,
    pub shards: u64,
    pub bytes: u64,
}

/// The last scrub or repair of this host that came to its end, and what it found or left wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastScrub {
    /// Time at which it ended, in milliseconds since 1970.
    pub ended_ms: u64,
    pub rotten: u64,
    pub missing: u64,
    pub misplaced: u64,
    pub foreign: u64,
    pub orphans: u64,
    /// Stores that could not be looked through.
    pub unreachable: u64,
    /// Volumes whose tables could not be read.
    #[serde(default)]
    pub unread_volumes: u64,
    pub checked_shards: u64,
    pub checked_bytes: u64,
}

impl LastScrub {
    fn of(report: &ScrubReport, ended_ms: u64) -> LastScrub {
        LastScrub {
            ended_ms,
            rotten: report.rotten.len() as u64,
            missing: report.missing.len() as u64,
            misplaced: report.misplaced.len() as u64,
            foreign: report.foreign.len() as u64,
            orphans: report.orphans.len() as u64,
            unreachable: report.unreachable.len() as u64,
            unread_volumes: report.unread_volumes.len() as u64,
            checked_shards: report.checked_shards,
            checked_bytes: report.checked_bytes,
        }
    }

    /// Describes what was found, for people.
    pub fn found(&self) -> String {
        let all = [
            (self.rotten, "rotten"),
            (self.missing, "missing"),
            (self.misplaced, "misplaced"),
            (self.foreign, "foreign"),
            (self.orphans, "orphaned"),
            (self.unreachable, "stores not looked through"),
            (self.unread_volumes, "volumes that can't be read"),
        ];
        let wrong: Vec<String> =
            all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if wrong.is_empty() { "nothing wrong".into() } else { wrong.join(", ") }
    }
}

/// The files that keep a scrub's progress, and what the last whole one found.
#[derive(Debug)]
pub struct ScrubCursor {
    disk: Arc<dyn Disk>,
    last: PathBuf,
    path: PathBuf,
    pool: PoolId,
}

impl ScrubCursor {
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: &Path, pool: PoolId) -> ScrubCursor {
        ScrubCursor { disk, path: folder.join("scrub"), last: folder.join("scrubbed"), pool }
    }

    /// Writes down what a whole scrub found. Nothing but the telling of it needs the file.
    pub(crate) async fn ended(&self, report: &ScrubReport, now_ms: u64) {
        let text = serde_json::to_vec(&LastScrub::of(report, now_ms)).expect("it has only string keys");
        if let Err(error) = self.disk.write_atomic(&self.last, text.into()).await {
            tracing::warn!(path = %self.last.display(), %error, "what a scrub found could not be noted on this host");
        }
    }

    /// Returns what the last whole scrub found. None: none has ended on this host, or what it found can't be read.
    pub(crate) async fn last(&self) -> Option<LastScrub> {
        let bytes = self.disk.read(&self.last, FILE_MAX).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Returns the progress that an earlier run left in this generation of the pool.
    pub(crate) async fn load(&self, generation: Generation) -> Option<Mark> {
        let bytes = self.disk.read(&self.path, FILE_MAX).await.ok()?;
        let mark: Mark = serde_json::from_slice(&bytes).ok()?;
        let ours = mark.format == FORMAT && mark.pool == self.pool && mark.generation == generation;
        ours.then_some(mark)
    }

    pub(crate) async fn save(
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

    /// Removes the cursor, so that the next scrub begins at the beginning.
    pub(crate) async fn clear(&self) {
        // Left behind, it saves the next one work that was done not long ago.
        let _ = self.disk.remove(&self.path).await;
    }
}

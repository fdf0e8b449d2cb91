//! How far the copying of a snapshot into another volume has come: in the state folder, so that the next attempt goes on.
//!
//! File `copy` in the local folder of the volume that is written, JSON: `{"format": 1, "source": VOLUME, "snapshot": STATE,
//! "base": STATE, "position": BYTES}`. `base` is the snapshot of the written volume on which the copy stands (absent: none,
//! it began empty). What lies before `position` was written and flushed. A file that can't be read is none: then a volume
//! that was copied in part counts as one that somebody has changed.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::read::EngineContext;
use windlass_base::rt::Disk;
use windlass_base::{Error, Kind, Result, ResultExt as _, StateId, VolumeId};

const FORMAT: u32 = 1;
const FILE_MAX: usize = 4096;
const FILE: &str = "copy";

/// Note of how far a copy has come. The head of the module describes its file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyNote {
    format: u32,
    source: VolumeId,
    snapshot: StateId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<StateId>,
    pub position: u64,
}

impl CopyNote {
    /// Makes the note of a copy that begins.
    pub fn begin(source: VolumeId, snapshot: StateId, base: Option<StateId>) -> CopyNote {
        CopyNote { format: FORMAT, source, snapshot, base, position: 0 }
    }

    /// Tells whether both notes are of one copy, however far that has come.
    pub fn is_of(&self, other: &CopyNote) -> bool {
        let same = |note: &CopyNote| CopyNote { position: 0, ..note.clone() };
        same(self) == same(other)
    }

    /// Tells whether the noted copy was to stand on the same snapshot. A copy of another snapshot may have left other blocks
    /// behind.
    pub fn stands_on(&self, other: &CopyNote) -> bool {
        (self.source, self.base) == (other.source, other.base)
    }
}

/// File that holds the note.
#[derive(Debug)]
pub struct CopyFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl CopyFile {
    pub fn of(engine: &EngineContext, written: VolumeId) -> CopyFile {
        CopyFile { disk: engine.disk.clone(), dir: engine.folder(written) }
    }

    pub fn load(&self) -> BoxFuture<'_, Option<CopyNote>> {
        Box::pin(async move {
            let bytes = self.disk.read(&self.dir.join(FILE), FILE_MAX).await.ok()?;
            serde_json::from_slice::<CopyNote>(&bytes).ok().filter(|note| note.format == FORMAT)
        })
    }

    /// Writes the note, which is durable on return.
    pub fn store<'f>(&'f self, note: &'f CopyNote) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let bytes = serde_json::to_vec(note)
                .map_err(|e| Error::new(Kind::Internal, "the note of a copy cannot be written").because(e))?;
            let written = async {
                self.disk.create_dir(&self.dir).await?;
                self.disk.write_atomic(&self.dir.join(FILE), bytes.into()).await
            };
            written.await.context(|| format!("noting how far a copy has come in {}", self.dir.display()))
        })
    }

    /// Removes the file. One that stays says of a copy that is whole how far it had come: harmless.
    pub fn remove(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.disk.remove(&self.dir.join(FILE)).await {
                tracing::debug!(dir = %self.dir.display(), %error, "the note of a copy stays");
            }
        })
    }
}

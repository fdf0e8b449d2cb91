//! Where an import stands: a small file in the state folder, by which the same command goes on after it was cut off.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::daemon::StateDir;
use crate::daemon::api::VolumePath;
use windlass_base::rt::{Disk, DiskLock, RealDisk};
use windlass_base::{Error, Kind, Result, ResultExt as _};

const FILE_MAX: usize = 64 << 10;

/// The state of an import, as it is written down. All bytes before the position were flushed first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// A text that tells the image from others. `None`: the image can't be read again.
    pub source: Option<String>,
    /// Format that the image is read as.
    #[serde(default)]
    pub format: String,
    /// The snapshot that the volume is a clone of.
    pub base: Option<String>,
    /// The volume is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// The volume's id. `None`: it was not there yet.
    pub volume: Option<String>,
    pub position: u64,
    /// Bytes before the position that are no zeros. If the volume holds less, its stores were put back since.
    #[serde(default)]
    pub written: u64,
}

/// The notes of one volume, and the right to import into it.
#[derive(Debug)]
pub struct Notes {
    disk: Arc<RealDisk>,
    dir: PathBuf,
    file: PathBuf,
    _lock: Box<dyn DiskLock>,
}

impl Notes {
    /// Opens the notes of one volume. `Owned`: another process imports into it.
    pub async fn open(home: &StateDir, path: &VolumePath) -> Result<Notes> {
        let (disk, dir) = (RealDisk::start(), home.imports());
        disk.create_dir(&dir).await.context(|| dir.display().to_string())?;
        // A name has dots, but no plus.
        let stem = format!("{}+{}", path.pool, path.volume);
        let note = format!("process {}\n", std::process::id());
        let lock = disk.lock(&dir.join(format!("{stem}.lock")), &note).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => {
                Error::new(Kind::Owned, format!("{path} is being imported by another process: {e}"))
            }
            _ => Error::from(e).context(dir.display()),
        })?;
        Ok(Notes { disk, file: dir.join(format!("{stem}.json")), dir, _lock: lock })
    }

    /// Reads the last note. One that can't be read counts as none.
    pub async fn read(&self) -> Option<Note> {
        let text = self.disk.read(&self.file, FILE_MAX).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub async fn write(&self, note: &Note) -> Result<()> {
        let text = serde_json::to_vec(note).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        let done = self.disk.write_atomic(&self.file, Bytes::from(text)).await;
        done.context(|| format!("writing {}", self.file.display()))
    }

    pub async fn remove(&self) -> Result<()> {
        match self.disk.remove(&self.file).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from(e).context(self.file.display()))
            }
            _ => self.disk.sync_dir(&self.dir).await.context(|| self.dir.display().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_with_dots_share_no_note() {
        let dir = tempfile::tempdir().unwrap();
        let home = StateDir::at(dir.path());
        let one = Notes::open(&home, &"a/b.c".parse().unwrap()).await.unwrap();
        let other = Notes::open(&home, &"a.b/c".parse().unwrap()).await.unwrap();
        assert_ne!(one.file, other.file);
        let again = Notes::open(&home, &"a/b.c".parse().unwrap()).await.unwrap_err();
        assert!(again.is(Kind::Owned), "{again}");
    }
}

//! The folder where staged bytes stand; and which of its files were removed in a way that a loss of power would undo.
//!
//! A file that comes back so is taken for one that was never sent, and is sent again. Therefore whoever owns the folder
//! syncs removals some time after `wait_for_removal` returns.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use windlass_base::Result;
use windlass_base::rt::Disk;

/// A file that itself records which files in it left, as a slab does.
#[async_trait]
pub trait UnsyncedRemovals: Send + Sync + fmt::Debug {
    /// Makes durable that these files left.
    async fn sync_removals(&self) -> Result<()>;
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    /// Folders in which names were removed, each with the number of removals.
    dirs: Mutex<BTreeMap<PathBuf, u64>>,
    marked: Mutex<Vec<Weak<dyn UnsyncedRemovals>>>,
    removed: Notify,
    /// Held while removals are made durable.
    syncing: tokio::sync::Mutex<()>,
}

/// The folder in which staged bytes stand. Clones are the same folder.
#[derive(Clone, Debug)]
pub struct StagingDir(Arc<Inner>);

impl StagingDir {
    pub fn on(disk: &Arc<dyn Disk>) -> StagingDir {
        let (dirs, marked, removed, syncing) = Default::default();
        StagingDir(Arc::new(Inner { disk: disk.clone(), dirs, marked, removed, syncing }))
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    pub async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove(path).await?;
        let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        *self.0.dirs.lock().entry(dir).or_default() += 1;
        self.0.removed.notify_one();
        Ok(())
    }

    /// Registers a file of the folder that holds a removal which is not durable: once until it is synced.
    pub fn register_unsynced(&self, marked: Weak<dyn UnsyncedRemovals>) {
        self.0.marked.lock().push(marked);
        self.0.removed.notify_one();
    }

    /// Returns when something was removed since the last return.
    pub async fn wait_for_removal(&self) {
        self.0.removed.notified().await;
    }

    /// Wakes the task that waits for a removal, which is to wait no longer.
    pub fn wake(&self) {
        self.0.removed.notify_one();
    }

    /// Makes removals durable. What can't be made durable may come back, and is tried again the next time.
    pub async fn sync_removals(&self) -> Result<()> {
        // Whoever asks while another does it waits for that.
        let _one = self.0.syncing.lock().await;
        // One that can't be synced keeps no other from it.
        let mut result = Ok(());
        let marked = self.0.marked.lock().clone();
        for marked in marked {
            if let Some(marked) = marked.upgrade()
                && let Err(why) = marked.sync_removals().await
            {
                result = result.and(Err(why));
                continue;
            }
            let mut all = self.0.marked.lock();
            // What left since stands behind it.
            let at = all.iter().position(|other| other.ptr_eq(&marked));
            at.map(|at| all.remove(at));
        }
        let dirs = self.0.dirs.lock().clone();
        for (dir, times) in dirs {
            if let Err(why) = self.0.disk.sync_dir(&dir).await {
                result = result.and(Err(why.into()));
                continue;
            }
            let mut all = self.0.dirs.lock();
            // Not if something was removed meanwhile.
            if all.get(&dir) == Some(&times) {
                all.remove(&dir);
            }
        }
        result
    }

    /// Makes removals durable where nobody asked for it. A failure is logged.
    pub async fn sync_removals_or_warn(&self) {
        if let Err(why) = self.sync_removals().await {
            tracing::warn!(%why, "what was sent may be sent again after a loss of power");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::{OpenHow, RealDisk};

    #[tokio::test]
    async fn one_that_cannot_be_synced_keeps_no_other_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = RealDisk::start();
        let staging = StagingDir::on(&disk);
        for name in ["a", "b"] {
            let folder = dir.path().join(name);
            disk.create_dir(&folder).await.unwrap();
            drop(disk.open(&folder.join("file"), OpenHow::Create).await.unwrap());
            staging.remove(&folder.join("file")).await.unwrap();
        }
        disk.remove_dir(&dir.path().join("a")).await.unwrap();
        staging.sync_removals().await.unwrap_err();
        let left: Vec<PathBuf> = staging.0.dirs.lock().keys().cloned().collect();
        assert_eq!(left, [dir.path().join("a")]);
    }
}

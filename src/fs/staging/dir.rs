//! The folder where staged bytes stand, as they see it; and which of them left in a way that a loss of power would undo.
//!
//! What comes back is taken for what was never sent. So that this can't be for long, whoever owns the folder settles it some
//! time after it rings.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::Result;
use crate::base::rt::Disk;

/// What says by itself that files in it left.
#[async_trait]
pub trait Marked: Send + Sync + fmt::Debug {
    /// Makes durable that they did.
    async fn settle(&self) -> Result<()>;
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    /// Where names were removed, and how many.
    dirs: Mutex<BTreeMap<PathBuf, u64>>,
    marked: Mutex<Vec<Weak<dyn Marked>>>,
    bell: Notify,
    /// Held while what has left is made durable.
    settling: tokio::sync::Mutex<()>,
}

/// See the module. Clones are the same folder.
#[derive(Clone, Debug)]
pub struct Folder(Arc<Inner>);

impl Folder {
    pub fn on(disk: &Arc<dyn Disk>) -> Folder {
        let (dirs, marked, bell, settling) = Default::default();
        Folder(Arc::new(Inner { disk: disk.clone(), dirs, marked, bell, settling }))
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    pub async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove(path).await?;
        let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        *self.0.dirs.lock().entry(dir).or_default() += 1;
        self.0.bell.notify_one();
        Ok(())
    }

    /// Something in it says that a file left: once until it is settled.
    pub fn marks(&self, marked: Weak<dyn Marked>) {
        self.0.marked.lock().push(marked);
        self.0.bell.notify_one();
    }

    /// Returns when something has left since it did last.
    pub async fn rings(&self) {
        self.0.bell.notified().await;
    }

    /// Nobody is to wait for that any more.
    pub fn ring(&self) {
        self.0.bell.notify_one();
    }

    /// Makes durable what has left: what can't be made so may come back, and is tried again the next time.
    pub async fn settle(&self) -> Result<()> {
        // Whoever asks while another does it waits for that.
        let _one = self.0.settling.lock().await;
        let marked = self.0.marked.lock().clone();
        for marked in marked {
            if let Some(marked) = marked.upgrade() {
                marked.settle().await?;
            }
            let mut all = self.0.marked.lock();
            // What left since stands behind it.
            let at = all.iter().position(|other| other.ptr_eq(&marked));
            at.map(|at| all.remove(at));
        }
        let dirs = self.0.dirs.lock().clone();
        for (dir, times) in dirs {
            self.0.disk.sync_dir(&dir).await?;
            let mut all = self.0.dirs.lock();
            // Not if something was removed meanwhile.
            if all.get(&dir) == Some(&times) {
                all.remove(&dir);
            }
        }
        Ok(())
    }

    /// The same where nobody asked for it.
    pub async fn settle_or_say(&self) {
        if let Err(why) = self.settle().await {
            tracing::warn!(%why, "what was sent may be sent again after a loss of power");
        }
    }
}

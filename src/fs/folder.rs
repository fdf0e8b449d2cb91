//! The folder where staged bytes stand, as they see it; and which of them left in a way that a loss of power would undo.
//!
//! What comes back is taken for what was never sent. So that this can't be for long, whoever owns the folder settles it some
//! time after it rings.

use std::collections::BTreeSet;
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
    /// Where names were removed.
    dirs: Mutex<BTreeSet<PathBuf>>,
    marked: Mutex<Vec<Weak<dyn Marked>>>,
    bell: Notify,
}

/// See the module. Clones are the same folder.
#[derive(Clone, Debug)]
pub struct Folder(Arc<Inner>);

impl Folder {
    pub fn on(disk: &Arc<dyn Disk>) -> Folder {
        let (dirs, marked, bell) = Default::default();
        Folder(Arc::new(Inner { disk: disk.clone(), dirs, marked, bell }))
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    pub async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove(path).await?;
        self.0.dirs.lock().insert(path.parent().unwrap_or(Path::new(".")).to_owned());
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

    /// Makes durable what has left. What can't be made so may come back.
    pub async fn settle(&self) {
        let (dirs, marked) =
            (std::mem::take(&mut *self.0.dirs.lock()), std::mem::take(&mut *self.0.marked.lock()));
        for marked in marked.iter().filter_map(Weak::upgrade) {
            if let Err(why) = marked.settle().await {
                tracing::warn!(?marked, %why, "what was sent from there may be sent again after a loss of power");
            }
        }
        for dir in dirs {
            if let Err(why) = self.0.disk.sync_dir(&dir).await {
                tracing::warn!(dir = %dir.display(), %why, "what was sent from there may be sent again after a loss of power");
            }
        }
    }
}

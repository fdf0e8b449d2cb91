//! Names that were removed with others and are deleted a moment later: what becomes of them is told here, at fsync of their
//! directory, at the mount's end, and by the next mount.

use std::sync::Arc;

use super::filesystem::Fs;
use crate::base::Result;
use crate::fs::bucket::Doomed;
use crate::fs::object::{Errno, Fail, Op};
use crate::fs::staging::{FoundStages, Left};

impl Fs {
    /// What could not be deleted shows again; what has ended is struck out on this host's disk.
    pub(super) fn watch_removals(self: &Arc<Self>) {
        let fs = Arc::downgrade(self);
        let on_end = move |gone: &[String], left: &[Doomed]| {
            let Some(fs) = fs.upgrade() else { return };
            for doomed in left {
                fs.doubt(&doomed.key);
            }
            let (gone, busy, rt) = (gone.to_vec(), fs.busy(), fs.context.rt.clone());
            rt.spawn(async move {
                fs.context.staging.removals.ended(&gone).await;
                drop(busy);
            })
            .detach();
        };
        self.context.remote.deletes.tell(Box::new(on_end));
        self.context.remote.note_uploads(self.context.staging.removals.clone());
    }

    /// Goes on with the removals that an earlier mount had answered.
    pub(super) async fn recover_removals(&self, found: &mut FoundStages) -> Result<()> {
        for (path, Left { removals, uploads }) in std::mem::take(&mut found.removals) {
            for (key, upload) in uploads {
                self.context.remote.abort(&key, &upload).await;
            }
            if !removals.is_empty() {
                self.context.staging.removals.note(&removals).await?;
            }
            if let Err(why) = self.context.staging.folder.remove(&path).await {
                tracing::warn!(path = %path.display(), %why, "a log of removals can't be removed");
            }
            for doomed in removals {
                self.context.remote.deletes.add(doomed);
            }
        }
        Ok(())
    }

    /// A file of ours has the name of an object that could not be deleted: its removal has ended.
    pub(super) async fn removal_replaced(&self, key: &str) {
        if self.context.remote.deletes.replaced(key) {
            self.context.staging.removals.ended(&[key.to_owned()]).await;
        }
    }

    /// fsync(2) of a directory: the names that are gone here are gone in the bucket.
    pub(super) async fn settle_removals(&self, prefix: &str) -> Op<()> {
        let settled = self.context.remote.deletes.retry_below(prefix).await;
        settled.map_err(|why| {
            Fail { errno: Errno::IO, why: Some(why.context("removed names could not be deleted")) }
        })
    }

    /// The mount ends: what a store that doesn't answer has not deleted by then is the next mount's.
    pub(super) async fn end_removals(&self) {
        let left = self.context.remote.deletes.end(self.options().deadline).await;
        self.idle().await;
        if left > 0 {
            tracing::error!(names = left, "removed names are not deleted: the next mount goes on with that");
        }
        self.writeback.left_unsent.lock().removals = left as u64;
    }
}

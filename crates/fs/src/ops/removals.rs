//! Names that were removed with others and are deleted a moment later: what becomes of them is told here, and the next mount
//! goes on with those that are left.

use std::sync::Arc;

use super::filesystem::Fs;
use crate::bucket::Doomed;
use crate::staging::{FoundStages, Left};
use windlass_base::Result;

impl Fs {
    /// Sets what happens at the end of each batch of deletes: what could not be deleted shows again, and what
    /// has ended is struck out on this host's disk.
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
}

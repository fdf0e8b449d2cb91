//! What ends a directory's rename that was cut off or failed: of each pair of an object and its copy, one is deleted.
//!
//! That needs no memory of what was copied, and nobody who changes either name has to be remembered: both are looked at
//! just before, and what is no pair by then stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use crate::bucket::is_marker;
use crate::object::{Fail, Op};
use crate::ops::filesystem::{Fs, fail};
use crate::staging::{RenameIntent, RenameStage};
use crate::tree::UnfinishedRename;
use windlass_base::Kind;
use windlass_store::{Head, Listed};

const AT_ONCE: usize = 32;
/// Time between attempts to end a rename.
const PAUSE: Duration = Duration::from_secs(10);

/// Ends the rename: at once if the store can, or when it can again. The caller holds both names.
pub(super) async fn end_behind(fs: &Arc<Fs>, path: PathBuf, intent: RenameIntent) {
    let unfinished = Arc::new(UnfinishedRename::new(path, intent));
    fs.unfinished_renames.lock().push(unfinished.clone());
    if fs.try_end(&unfinished, false).await.is_ok_and(|ended| ended) {
        return;
    }
    let (rt, fs, busy) = (fs.context.rt.clone(), fs.clone(), fs.busy());
    let work = async move {
        let mut unmounting = fs.writeback.unmounting.subscribe();
        while fs.context.rt.timeout(PAUSE, unmounting.wait_for(|unmounting| *unmounting)).await.is_none() {
            let _hold = fs.gate.hold([&unfinished.intent.from, &unfinished.intent.to]).await;
            if fs.try_end(&unfinished, false).await.is_ok_and(|ended| ended) {
                break;
            }
        }
        if unfinished.is_done_once().await {
            // The mount ends: it is looked at once more now.
            let _hold = fs.gate.hold([&unfinished.intent.from, &unfinished.intent.to]).await;
            let _ = fs.try_end(&unfinished, true).await;
        }
        drop(busy);
    };
    rt.spawn(work).detach();
}

/// Ends whatever is unfinished at these names before directories are renamed. The caller holds the names.
pub(super) async fn end_before(fs: &Fs, prefixes: [&str; 2]) -> Op<()> {
    let overlaps =
        |unfinished: &&Arc<UnfinishedRename>| prefixes.iter().any(|prefix| unfinished.overlaps(prefix));
    let all: Vec<_> = fs.unfinished_renames.lock().iter().filter(overlaps).cloned().collect();
    for unfinished in all {
        fs.try_end(&unfinished, true).await.map_err(|failed| {
            let why = failed.why.map_or_else(String::new, |why| format!(": {why}"));
            let RenameIntent { from, to, .. } = &unfinished.intent;
            let said = format!("a rename of {from} to {to} failed and can't be ended yet{why}; try again");
            fail(Kind::Unavailable, said)
        })?;
    }
    Ok(())
}

impl Fs {
    /// Makes one pass; returns true when there is no other to come. The caller holds both names. `last`: what
    /// comes late is left.
    async fn try_end(&self, unfinished: &Arc<UnfinishedRename>, last: bool) -> Op<bool> {
        let mut passes = unfinished.passes.lock().await;
        if *passes > 0 {
            self.delete_pairs(&unfinished.intent).await?;
            *passes = if last { 0 } else { *passes - 1 };
            if *passes > 0 {
                return Ok(false);
            }
            self.context.staging.remove_intent(&unfinished.path).await;
        }
        self.unfinished_renames.lock().retain(|other| !Arc::ptr_eq(other, unfinished));
        Ok(true)
    }

    /// Deletes one of each pair: the copy of a rename that goes back, the source of one that goes on.
    async fn delete_pairs(&self, intent: &RenameIntent) -> Op<()> {
        let (remote, back) = (&self.context.remote, intent.stage == RenameStage::Back);
        let (delete_from, present_at) = match back {
            true => (&intent.to, &intent.from),
            false => (&intent.from, &intent.to),
        };
        // The directory that was to be replaced was there before.
        let mut stays =
            |object: &Listed| futures::future::ready(!(back && intent.over && object.key == *delete_from));
        let ends = remote.all_below(delete_from).err_into::<Fail>().try_filter(&mut stays);
        let ends = ends.map_ok(|object| self.doomed_of_pair(intent, object, delete_from, present_at).boxed());
        let ends = ends.try_buffer_unordered(AT_ONCE);
        let doomed = ends.try_filter_map(|object| futures::future::ready(Ok(object)));
        // A few at a time: what was looked at is deleted before others can have changed much of it.
        let mut doomed = std::pin::pin!(doomed.try_chunks(AT_ONCE));
        while let Some(some) = doomed.next().await {
            remote.remove_listed(some.map_err(|failed| failed.1)?).await?;
        }
        remote.remove_empty_folders(delete_from).await?;
        let _nodes = self.inodes.lock();
        self.name_cache.forget_below(delete_from);
        Ok(())
    }

    /// Returns the object, to be deleted, if it is one of a pair.
    async fn doomed_of_pair(
        &self,
        intent: &RenameIntent,
        object: Listed,
        delete_from: &str,
        present_at: &str,
    ) -> Op<Option<Listed>> {
        let remote = &self.context.remote;
        let there = format!("{present_at}{}", &object.key[delete_from.len()..]);
        let (its, other) = futures::future::try_join(remote.head(&object.key), remote.head(&there)).await?;
        let (Some(its), Some(other)) = (its, other) else { return Ok(None) };
        let back = intent.stage == RenameStage::Back;
        let (source, copy) = if back { (&other, &its) } else { (&its, &other) };
        // A server that has real folders makes them of itself for what lies in them, and keeps none of their metadata.
        let folders = is_marker(&object) && other.size == 0 && (!back || is_bare(copy));
        let is_pair = folders || intent.act.is_pair(source, copy);
        if !is_pair && !back {
            tracing::warn!(key = object.key, also = there, "two objects want one name: both stay");
        }
        // Deleted as it is now: what changes from here on stays.
        let now = Listed { etag: its.etag, size: its.size, modified_ms: its.modified_ms, ..object };
        Ok(is_pair.then_some(now))
    }
}

fn is_bare(marker: &Head) -> bool {
    marker.attrs.user.is_empty()
}

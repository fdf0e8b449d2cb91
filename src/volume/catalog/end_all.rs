//! The end of all volumes of a pool that is to be destroyed as a whole.
//!
//! Only their heads are changed, each to *removed*, after which no host can write to the volume any more; names and objects
//! are deleted with the pool. A clone ends before its parent, as with any removal. Broken off, it is done again.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream;

use super::volumes::Volumes;
use crate::base::{Name, Result, VolumeId};
use crate::volume::head::{Head, VolumeSettings};

/// Volumes looked at or ended at a time.
const AT_ONCE: usize = 16;

/// Ends every volume of the pool. `Owned` where another host owns one; those that were ended before stay so.
pub async fn end_all(volumes: &Volumes, watch: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
    let mut ended = 0;
    loop {
        let there = living(volumes).await?;
        // Those that no other is a clone of: there is one, since a clone is younger than its parent.
        let parents: BTreeSet<VolumeId> =
            there.iter().flat_map(|(_, head)| head.volumes().into_iter().rev().skip(1)).collect();
        let leaves: Vec<_> = there.into_iter().filter(|(_, head)| !parents.contains(&head.volume)).collect();
        if leaves.is_empty() {
            return Ok(());
        }
        let ends = stream::iter(leaves).map(|(name, head)| async move { end(volumes, &name, head).await });
        let mut ends = ends.buffer_unordered(AT_ONCE);
        while let Some(done) = ends.next().await {
            done?;
            ended += 1;
            watch(ended);
        }
    }
}

/// The pool's volumes by name and head; what is being created is cancelled.
async fn living(volumes: &Volumes) -> Result<Vec<(Name, Head)>> {
    let names = volumes.engine.pool.list().await?;
    let looks = stream::iter(names).map(|(name, id)| async move {
        let cell = volumes.engine.cell(id);
        let head = match cell.read().await? {
            Some(head) => Some(head),
            None if cell.cancel(&volumes.new_head(id, 512, VolumeSettings::default())?).await? => None,
            None => cell.read().await?,
        };
        Ok(head.filter(|head| !head.removed).map(|head| (name, head)))
    });
    let looks: Vec<Result<_>> = looks.buffer_unordered(AT_ONCE).collect().await;
    looks.into_iter().filter_map(Result::transpose).collect()
}

async fn end(volumes: &Volumes, name: &Name, head: Head) -> Result<()> {
    let id = head.volume;
    volumes.mark_removed(name, &volumes.engine.cell(id), head).await?;
    volumes.let_go_of_removed(id).await;
    volumes.forget_journal(id).await;
    Ok(())
}

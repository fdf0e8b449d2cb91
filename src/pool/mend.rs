//! Putting missing shards back: in the background by hints, and one chunk at a time for repair.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;

use super::fleet::Fleet;
use super::hints::Hints;
use super::mask::Mask;
use super::probe::Probe;
use super::seal::seal;
use super::shard::{At, How};
use crate::base::rt::Rt;
use crate::base::{ChunkId, Kind, Result};
use crate::store::Cause;

/// Chunks mended at a time: each is held in memory whole, with its parity.
pub(super) const AT_ONCE: usize = 2;
const BATCH: usize = 64;
/// Pause after a pass over all hints that could do nothing.
const IDLE: Duration = Duration::from_secs(1);

/// Mends in the background as long as the pool lives.
pub(super) fn start(fleet: &Arc<Fleet>) {
    let task = run(fleet.rt().clone(), Arc::downgrade(fleet), fleet.hints().clone());
    fleet.rt().spawn(task).detach();
}

async fn run(rt: Rt, fleet: Weak<Fleet>, hints: Arc<Hints>) {
    while hints.any().await {
        let Some(fleet) = fleet.upgrade() else { return };
        let mended = pass(&fleet).await;
        drop(fleet);
        if mended == 0 {
            rt.sleep(IDLE).await;
        }
    }
}

/// One look at every hint whose store is well; how many shards were put.
async fn pass(fleet: &Arc<Fleet>) -> usize {
    let (mut after, mut mended) = (None, 0);
    loop {
        let batch = fleet.hints().after(after, BATCH);
        let Some((last, _)) = batch.last() else { return mended };
        after = Some(*last);
        let ready = batch.into_iter().filter_map(|(id, mask)| {
            let well: Mask = mask.iter().filter(|i| fleet.holder(&id, *i).standing().usable()).collect();
            (!well.is_empty()).then_some((id, well))
        });
        let done = stream::iter(ready).map(|(id, mask)| hinted(fleet, id, mask)).buffer_unordered(AT_ONCE);
        mended += done.fold(0, |sum, n| async move { sum + n }).await;
        if fleet.hints().closed() {
            return mended;
        }
    }
}

async fn hinted(fleet: &Arc<Fleet>, id: ChunkId, mask: Mask) -> usize {
    match put_back(fleet, &id, mask, Mask::default(), Cause::Repair).await {
        Ok(put) => {
            fleet.hints().remove(&id, put);
            put.count()
        }
        // Deleted meanwhile, most likely; if it is damaged, scrub says so.
        Err(e) if e.is(Kind::Corrupt) => {
            tracing::debug!("no longer mended: {e}");
            fleet.hints().remove(&id, mask);
            0
        }
        Err(e) => {
            tracing::debug!("mending waits: {e}");
            0
        }
    }
}

/// Rebuilds and puts these shards of a chunk, one attempt each; the ones that are stored now. `verify`: those of which
/// every byte is looked at, because the footer may be right and the rest not.
pub(super) async fn put_back(
    fleet: &Arc<Fleet>,
    id: &ChunkId,
    mask: Mask,
    verify: Mask,
    cause: Cause,
) -> Result<Mask> {
    let payload = fleet.payload(id, &Probe::all_but(mask, fleet.layout()), cause).await?;
    let codec = fleet.codec().clone();
    let sealed = fleet.rt().cpu(move || seal(&codec, payload.chunk, mask)).await??;
    let about = &sealed.about;
    let puts =
        sealed.objects.iter().enumerate().filter_map(|(index, object)| Some((index, object.as_ref()?)));
    let puts = puts.map(|(index, object)| async move {
        let member = fleet.holder(id, index);
        let how = if verify.has(index) { How::Verify } else { How::Look };
        let out = At { member: &member, id, index }.store(about, object, how, cause).await;
        (index, out)
    });
    let mut stored = Mask::default();
    for (index, out) in futures::future::join_all(puts).await {
        match out {
            Ok(()) => stored = stored.with(index),
            Err(e) => tracing::debug!("shard {index} of {id} is not mended yet: {e}"),
        }
    }
    Ok(stored)
}

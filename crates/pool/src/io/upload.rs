//! Putting a chunk's shards: all at once, each again and again until it is stored.
//!
//! One task a shard, which waits while its store is out or down and never gives up by itself. When enough are stored
//! and the others had their hedge delay, what is missing is noted for repair; what is under way on a store that seems
//! well may still end, the rest is dropped, and with it its bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::context::PoolContext;
use crate::chunk::About;
use crate::chunk::Chunk;
use crate::chunk::ShardSet;
use crate::chunk::seal;
use crate::stores::{At, How};
use windlass_base::rt::Instant;
use windlass_base::spare_buffers::SHARDS;
use windlass_base::watched_state::Watched;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_store::Cause;

/// Until labels are read again that were not what they should be.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shards that come later than the others are waited for as long again as the others took, within these bounds.
const HEDGE_MIN: Duration = Duration::from_millis(50);
const HEDGE_MAX: Duration = Duration::from_secs(2);
/// How long a put that is under way may go on after that.
const LINGER: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    stored: ShardSet,
    /// Shards whose bytes are still held.
    held: ShardSet,
    failed: Option<Error>,
    /// Enough are stored: the rest is repair's.
    released: bool,
    /// Nobody wants it any more.
    dropped: bool,
}

#[derive(Debug)]
struct Shared {
    context: Arc<PoolContext>,
    id: ChunkId,
    cause: Cause,
    state: Watched<State>,
}

/// A chunk on its way to the stores. Dropping it before `wait` returned stops what is not stored yet.
#[derive(Debug)]
pub struct Upload {
    shared: Arc<Shared>,
    begun: Instant,
}

/// What is known about a chunk's shards before it is put.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Stored and attested already.
    pub(crate) stored: ShardSet,
    /// There, but not what they should be.
    pub(crate) rotten: ShardSet,
    /// Looked for before they are put: somebody may have put them.
    pub(crate) look: bool,
}

impl Upload {
    pub(crate) fn start(context: &Arc<PoolContext>, chunk: Chunk, known: Known, cause: Cause) -> Upload {
        let held = ShardSet::all(context.layout().n()).minus(known.stored);
        let state = State { stored: known.stored, held, ..State::default() };
        let shared =
            Arc::new(Shared { context: context.clone(), id: chunk.id, cause, state: Watched::new(state) });
        let upload = Upload { shared: shared.clone(), begun: context.rt().now() };
        context.rt().spawn(shared.run(chunk, known, held)).detach();
        upload
    }

    /// Shards stored, each attested after its put.
    pub fn stored(&self) -> usize {
        self.shared.state.with(|s| s.stored.count())
    }

    /// Returns when `w` shards are stored and the others had their hedge delay; never gives up by itself. An error
    /// says that it can't be stored (two contents under one id), not that stores are away.
    ///
    /// With k, all of them must be there at one instant: w was lowered because a store is out, and what another had taken
    /// before may be lost with it. So their stores' labels are read once more when the last is stored.
    pub async fn wait(&self, w: usize) -> Result<()> {
        let (state, rt, layout) =
            (&self.shared.state, self.shared.context.rt(), self.shared.context.layout());
        loop {
            let enough = |s: &mut State| match &s.failed {
                Some(e) => Some(Err(e.share())),
                None => (s.stored.count() >= w).then_some(Ok(s.stored)),
            };
            let stored = state.until(enough).await?;
            // One alone is there when it attested.
            if w > layout.k() || layout.m() == 0 || w == 1 || self.shared.are_there(stored, w).await {
                break;
            }
            rt.sleep(LOOK_EVERY).await;
        }
        let hedge = rt.now().since(self.begun).clamp(HEDGE_MIN, HEDGE_MAX);
        // Stores that are known to be in trouble are not waited for.
        let slow: ShardSet = state.with(|s| s.held).iter().filter(|i| self.shared.is_well(*i)).collect();
        let all = state.until(|s| slow.minus(s.stored).is_empty().then_some(()));
        futures::pin_mut!(all);
        let _ = select(all, rt.sleep(hedge)).await;
        self.shared.release();
        Ok(())
    }

    /// Returns when the upload holds none of the chunk's bytes any more.
    pub async fn settled(&self) {
        self.shared.state.until(|s| s.held.is_empty().then_some(())).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.shared.state.update(|s| s.dropped = !s.released);
    }
}

impl Shared {
    async fn run(self: Arc<Self>, chunk: Chunk, known: Known, wanted: ShardSet) {
        let codec = self.context.codec().clone();
        let sealed =
            self.context.rt().cpu(move || seal(&codec, chunk, wanted)).await.and_then(|sealed| sealed);
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(e) => return self.fail(e),
        };
        let about = Arc::new(sealed.about);
        for (index, object) in sealed.objects.into_iter().enumerate() {
            let Some(object) = object else { continue };
            let how = match (known.rotten.has(index), known.look) {
                (true, _) => How::Verify,
                (false, true) => How::Look,
                (false, false) => How::Absent,
            };
            let shared = self.clone();
            let about = about.clone();
            self.context.rt().spawn(async move { shared.shard(about, index, object, how).await }).detach();
        }
    }

    fn fail(&self, e: Error) {
        self.state.update(|s| {
            s.failed.get_or_insert(e);
            s.held = ShardSet::default();
        });
    }

    /// Whether so many of them are on stores that are what they were.
    async fn are_there(&self, stored: ShardSet, w: usize) -> bool {
        let attest = |index| {
            let member = self.context.holder(&self.id, index);
            async move { member.attest().await.is_ok() }
        };
        let attested: FuturesUnordered<_> = stored.iter().map(attest).collect();
        attested.filter(|there| std::future::ready(*there)).take(w).count().await >= w
    }

    fn is_well(&self, index: usize) -> bool {
        self.context.holder(&self.id, index).well()
    }

    /// From now on what is missing is repair's. Under one lock with the shards' ends, so that none is forgotten.
    fn release(&self) {
        self.state.update(|s| {
            if !std::mem::replace(&mut s.released, true) {
                let missing = ShardSet::all(self.context.layout().n()).minus(s.stored);
                self.context.missing_shards().add_under_way(self.id, missing);
            }
        });
    }

    /// Puts one shard until it is stored, or until it isn't this upload's any more.
    async fn shard(&self, about: Arc<About>, index: usize, object: Bytes, how: How) {
        let out = {
            let put = self.put(&about, index, &object, how);
            let stop = self.told_to_stop(index);
            futures::pin_mut!(put, stop);
            match select(stop, put).await {
                Either::Left(_) => None,
                Either::Right((out, _)) => Some(out),
            }
        };
        // Nobody but a request that was given up may still have its bytes.
        SHARDS.give_bytes(object);
        self.state.update(|s| {
            s.held = s.held.without(index);
            let stored = matches!(out, Some(Ok(())));
            match out {
                Some(Ok(())) => s.stored = s.stored.with(index),
                Some(Err(e)) => drop(s.failed.get_or_insert(e)),
                None => {}
            }
            match (s.released, stored) {
                (false, _) => {}
                (true, true) => {
                    self.context.missing_shards().stored(&self.id, ShardSet::default().with(index))
                }
                (true, false) => self.context.missing_shards().left(self.id, index),
            }
        });
    }

    async fn put(&self, about: &About, index: usize, object: &Bytes, mut how: How) -> Result<()> {
        let rt = self.context.rt();
        let mut pause = RETRY_FIRST;
        loop {
            let member = self.context.holder(&self.id, index);
            let at = At { member: &member, id: &self.id, index };
            // Another store may have taken its place by then.
            if rt.timeout(RETRY_LAST, member.usable()).await.is_none() {
                continue;
            }
            match at.store(about, object, how, self.cause).await {
                Ok(()) => return Ok(()),
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unsupported) => return Err(e),
                Err(e) => tracing::debug!("shard {}: {e}", at.key()),
            }
            if how == How::Absent {
                how = How::Look;
            }
            rt.sleep(pause + Duration::from_millis(rt.below(pause.as_millis() as u64 / 2 + 1))).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    async fn told_to_stop(&self, index: usize) {
        let lingers = self.state.until(|s| {
            if s.dropped || s.failed.is_some() { Some(false) } else { s.released.then_some(true) }
        });
        if lingers.await && self.is_well(index) {
            self.context.rt().sleep(LINGER).await;
        }
    }
}

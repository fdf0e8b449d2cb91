//! A snapshot that is open for reading.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::head::Head;
use crate::read::{EngineContext, Run, Since, Trail, View, blocks_of, in_bytes};
use crate::session::no_snapshot;
use crate::space::{SnapshotId, State};
use windlass_base::{Error, Kind, Name, PoolId, Result, Rope, VolumeId};
use windlass_map::Tree;

/// A snapshot's contents; they never change.
#[derive(Debug)]
pub struct SnapshotView {
    engine: Arc<EngineContext>,
    volume: VolumeId,
    /// Name of the snapshot, for messages.
    name: String,
    /// Identity of the snapshot, and never its name: that may be another's by now.
    snapshot: SnapshotId,
    view: View,
    tree: Tree,
    size: u64,
    trail: Trail,
}

impl SnapshotView {
    /// Opens a state for reading; `name` is for messages.
    pub(crate) fn new(engine: Arc<EngineContext>, name: String, head: &Head, state: &State) -> SnapshotView {
        let (view, trail) = (engine.view(head), engine.memory.ahead.trail());
        let (volume, tree, size) = (head.volume, state.tree, state.size);
        SnapshotView { engine, volume, name, snapshot: state.snapshot_id(), view, tree, size, trail }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn pool(&self) -> PoolId {
        self.engine.pool.id()
    }

    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Returns the identity of the snapshot, whatever has its name by now.
    pub fn id(&self) -> SnapshotId {
        self.snapshot
    }

    pub(crate) fn gone(&self) -> Error {
        Error::new(Kind::Removed, format!("snapshot {} was removed", self.name))
    }

    /// Reads as `read_parts` does, into one piece.
    pub fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { Ok(self.read_parts(offset, len).await?.into_bytes()) })
    }

    pub fn read_parts(&self, offset: u64, len: u64) -> impl Future<Output = Result<Rope>> + Send {
        async move {
            self.check(offset, len)?;
            if len == 0 {
                return Ok(Rope::default());
            }
            let (read, found) = (offset..offset + len, vec![(blocks_of(offset, len), None)]);
            self.trail.step(read.clone(), self.engine.rt.now());
            let news = || self.read_ahead(&read);
            match self.view.read(found, &self.tree, (offset, len), &news).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.removed().await.unwrap_or(e)),
                done => done,
            }
        }
    }

    /// Returns which parts of a range are data, as `Volume::allocation` does.
    pub fn allocation(
        &self,
        offset: u64,
        len: u64,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Run>>> + Send {
        async move {
            self.check(offset, len)?;
            let found = vec![(blocks_of(offset, len), None)];
            match self.view.allocation(found, &self.tree, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.removed().await.unwrap_or(e)),
                done => Ok(in_bytes(done?, offset, len)),
            }
        }
    }

    /// Returns an older snapshot of the volume, to ask `changed_since` of. `NotFound`: there is none of this name, or it is not
    /// older.
    pub fn since(&self, snapshot: &Name) -> impl Future<Output = Result<Since>> + Send {
        async move {
            let newest = self.engine.newest(self.volume).await?;
            let since = newest.and_then(|(_, tables)| Since::of(&tables, snapshot));
            // Whatever is older had its map when this one got its own.
            match since {
                Some(since) if since.snapshot.state < self.snapshot.state => Ok(since),
                Some(_) => {
                    let why = format!("snapshot {snapshot} is not older than {}", self.name);
                    Err(Error::new(Kind::NotFound, why))
                }
                None => Err(no_snapshot(&self.name, snapshot)),
            }
        }
    }

    /// Returns the very snapshot that a client compares to, as `Volume::since_again` does.
    pub fn since_again<'f>(&'f self, snapshot: &'f SnapshotId) -> BoxFuture<'f, Result<Since>> {
        Box::pin(async move {
            let newest = self.engine.newest(self.volume).await?;
            let since = newest.and_then(|(_, tables)| Since::again(&tables, snapshot));
            since.filter(|since| since.snapshot.state < self.snapshot.state).ok_or_else(|| {
                let why =
                    format!("what changed in {} since a snapshot that was removed cannot be told", self.name);
                Error::new(Kind::Removed, why)
            })
        })
    }

    /// Returns which bytes may read otherwise than in an older snapshot, as `Volume::changed_since` does.
    pub fn changed_since(
        &self,
        since: &Since,
        offset: u64,
        len: u64,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Run>>> + Send {
        async move {
            self.check(offset, len)?;
            let found = vec![(blocks_of(offset, len), None)];
            match self.view.changes(found, &self.tree, &since.tree, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.removed_or(since).await.unwrap_or(e)),
                done => Ok(in_bytes(done?, offset, len)),
            }
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        let why = format!("{len} bytes at {offset} are beyond the snapshot's end");
        Err(Error::new(Kind::Invalid, why))
    }

    fn read_ahead(&self, read: &Range<u64>) {
        let rt = &self.engine.rt;
        let Some(fetch) = self.trail.fetch(read, self.size, rt.now()) else { return };
        if let Some(map) = fetch.map.clone() {
            let (view, tree, blocks) =
                (self.view.clone(), self.tree, blocks_of(map.start, map.end - map.start));
            rt.spawn(async move { view.prefetch_map(&tree, blocks).await }).detach();
        }
        let (view, tree) = (self.view.clone(), self.tree);
        rt.spawn(async move { view.prefetch(&fetch, vec![(fetch.blocks(), None)], &tree).await }).detach();
    }

    async fn removed_or(&self, since: &Since) -> Option<Error> {
        let (_, tables) = self.engine.newest(self.volume).await.ok()??;
        match since.is_in(&tables) {
            true => self.removed().await,
            false => Some(since.removed()),
        }
    }

    async fn removed(&self) -> Option<Error> {
        let newest = self.engine.newest(self.volume).await.ok()?;
        let gone = newest.is_none_or(|(head, tables)| head.removed || tables.find(&self.snapshot).is_none());
        gone.then(|| self.gone())
    }
}

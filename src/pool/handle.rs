//! A pool that is open: its members, its registers, its chunks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::chunk::Chunk;
use super::config::{PoolConfig, Settings};
use super::layout::Layout;
use super::member::Member;
use super::probe::{Payload, Probe};
use super::upload::Upload;
use crate::base::rt::{Disk, Rt};
use crate::base::{ChunkId, Error, Generation, Incarnation, Kind, Name, PoolId, Result, VolumeId};
use crate::store::{BucketRef, Cause};

/// A store as the user names it.
#[derive(Clone, Debug)]
pub struct StoreSpec {
    pub url: String,
    pub zone: Option<String>,
    pub bucket: BucketRef,
}

/// What a pool needs of its host.
#[derive(Clone, Debug)]
pub struct PoolHost {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    /// A folder of this pool's own, made if absent: hints of shards that are still to be put.
    pub folder: PathBuf,
}

#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub settings: Settings,
    /// Also with a layout that the loss of one zone breaks.
    pub force: bool,
}

/// The stores of one generation.
#[derive(Debug)]
pub struct Membership {
    pub generation: Generation,
    pub members: Vec<Arc<Member>>,
    /// Indices of those that hold registers.
    pub acceptors: Vec<usize>,
}

impl Membership {
    pub fn acceptor_members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.acceptors.iter().filter_map(|i| self.members.get(*i))
    }
    /// Acceptors that decide.
    pub fn majority(&self) -> usize {
        self.acceptors.len() / 2 + 1
    }
}

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    pub(super) host: PoolHost,
    pub(super) config: PoolConfig,
    pub(super) membership: Arc<Membership>,
}

fn not_yet<T>() -> Result<T> {
    Err(Error::new(Kind::Unsupported, "not yet"))
}

impl Pool {
    /// Makes a pool of stores whose places are empty.
    pub async fn create(
        _host: PoolHost,
        _name: Name,
        _layout: Layout,
        _stores: Vec<StoreSpec>,
        _options: CreateOptions,
    ) -> Result<Arc<Pool>> {
        not_yet()
    }

    /// Opens a pool from its stores' labels.
    pub async fn open(_host: PoolHost, _stores: Vec<StoreSpec>) -> Result<Arc<Pool>> {
        not_yet()
    }

    pub fn id(&self) -> PoolId {
        self.config.pool
    }
    pub fn name(&self) -> &Name {
        &self.config.name
    }
    pub fn layout(&self) -> Layout {
        self.config.layout
    }
    pub fn settings(&self) -> &Settings {
        &self.config.settings
    }
    /// Shards that make a chunk stored while the pool isn't degraded.
    pub fn w(&self) -> usize {
        self.config.w()
    }
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.clone()
    }
    pub fn generation(&self) -> Generation {
        self.membership.generation
    }
    /// The incarnations of this generation, by index: the witnesses of what is recorded in it.
    pub fn incarnations(&self) -> Vec<Incarnation> {
        self.membership.members.iter().map(|m| m.incarnation()).collect()
    }
    pub fn rt(&self) -> &Rt {
        &self.host.rt
    }

    /// Begins to store a chunk; encoding and puts go on in the background.
    pub fn put_chunk(&self, _chunk: Chunk) -> Upload {
        Upload {}
    }

    /// The bytes at a virtual offset, inside one data shard. `verify` judges them last. `Corrupt`: more than m shards are
    /// gone or rotten for sure; `Unavailable`: too few stores answer.
    pub async fn read(
        &self,
        _id: &ChunkId,
        _offset: u64,
        _len: u32,
        _cause: Cause,
        _verify: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> Result<Bytes> {
        not_yet()
    }

    /// Asks every store for the chunk's footer, then for its label. `witnesses`: the incarnations whose absence counts.
    pub async fn probe(&self, _id: &ChunkId, _witnesses: &[Incarnation], _cause: Cause) -> Probe {
        Probe::default()
    }

    /// Fetches and verifies the whole chunk.
    pub async fn payload(&self, _id: &ChunkId, _probe: &Probe, _cause: Cause) -> Result<Payload> {
        not_yet()
    }

    /// Puts what is missing or rotten of a chunk that was fetched; shards that are good already count as stored.
    pub fn complete(&self, _payload: &Payload) -> Upload {
        Upload {}
    }

    /// Deletes all shards of these chunks from the stores that are in; the others' are left to scrub.
    pub async fn delete(&self, _ids: &[ChunkId]) -> Result<()> {
        not_yet()
    }

    /// Stores that have been failing for at least so long.
    pub fn out_for(&self, d: Duration) -> usize {
        let now = self.host.rt.now();
        let members = self.membership.members.iter();
        members.filter(|m| m.failing().is_some_and(|(since, _)| now.since(since) >= d)).count()
    }

    /// The id of the volume of this name.
    pub async fn lookup(&self, _name: &Name) -> Result<Option<VolumeId>> {
        not_yet()
    }
    /// Gives a volume a name; `Exists` when another has it, nothing when this one does.
    pub async fn insert(&self, _name: &Name, _id: VolumeId) -> Result<()> {
        not_yet()
    }
    /// Takes a name from a volume; nothing when it isn't that volume's.
    pub async fn remove(&self, _name: &Name, _id: VolumeId) -> Result<()> {
        not_yet()
    }
    /// All names, sorted.
    pub async fn list(&self) -> Result<Vec<(Name, VolumeId)>> {
        not_yet()
    }
}

//! A pool that is open: its members, its registers, its chunks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::chunk::Chunk;
use super::codec::Codec;
use super::config::{PoolConfig, Settings};
use super::footers::Footers;
use super::hints::Hints;
use super::key::{place, shard_key};
use super::layout::{Layout, Zoning};
use super::mask::Mask;
use super::member::Member;
use super::register::Register;
use super::upload::{Known, Upload};
use crate::base::rt::{Disk, Rt};
use crate::base::{ChunkId, Generation, Incarnation, Name, PoolId, RegisterId, Result};
use crate::store::{BucketRef, Cause};

/// Keys that one delete request names at most.
const DELETE_MAX: usize = 1000;

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

    pub fn register(&self, rt: &Rt, id: RegisterId) -> Register {
        let acceptors = self.acceptor_members().cloned().collect();
        Register::new(rt.clone(), acceptors, self.generation, id)
    }
}

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    host: PoolHost,
    id: PoolId,
    name: Name,
    layout: Layout,
    zoning: Zoning,
    settings: Mutex<Settings>,
    membership: Arc<Membership>,
    /// The registers that map names to volumes.
    directory: Vec<Register>,
    codec: Arc<Codec>,
    hints: Arc<Hints>,
    footers: Footers,
}

impl Pool {
    pub(super) fn assemble(
        host: PoolHost,
        config: &PoolConfig,
        membership: Arc<Membership>,
        hints: Arc<Hints>,
    ) -> Result<Arc<Pool>> {
        let directory =
            super::names::registers(config.pool).map(|id| membership.register(&host.rt, id)).collect();
        let pool = Arc::new(Pool {
            id: config.pool,
            name: config.name.clone(),
            layout: config.layout,
            zoning: config.zoning()?,
            settings: Mutex::new(config.settings.clone()),
            membership,
            directory,
            codec: Arc::new(Codec::new(config.layout)),
            hints,
            footers: Footers::default(),
            host,
        });
        super::mend::start(&pool);
        Ok(pool)
    }

    pub fn id(&self) -> PoolId {
        self.id
    }
    pub fn name(&self) -> &Name {
        &self.name
    }
    pub fn layout(&self) -> Layout {
        self.layout
    }
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }
    /// Shards that make a chunk stored while the pool isn't degraded.
    pub fn w(&self) -> usize {
        if self.settings.lock().ack_zone { self.zoning.w_zone() } else { self.layout.w() }
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
    /// What the pool survives, for people, a line each.
    pub fn survives(&self) -> Vec<String> {
        self.zoning.survives(self.w())
    }
    pub fn rt(&self) -> &Rt {
        &self.host.rt
    }
    pub(super) fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }
    pub(super) fn hints(&self) -> &Arc<Hints> {
        &self.hints
    }
    pub(super) fn footers(&self) -> &Footers {
        &self.footers
    }
    pub(super) fn directory(&self) -> &[Register] {
        &self.directory
    }

    /// The store that holds a chunk's shard.
    pub(super) fn holder(&self, id: &ChunkId, shard: usize) -> Arc<Member> {
        self.membership.members[place(id, shard, self.layout.n())].clone()
    }

    /// A handle on a register. Keep it: a handle that wrote last writes again in one round trip.
    pub fn register(&self, id: RegisterId) -> Register {
        self.membership.register(&self.host.rt, id)
    }

    /// Changes the settings for all hosts.
    pub async fn set(&self, change: impl Fn(&mut Settings) + Send + Sync) -> Result<()> {
        let register = self.register(PoolConfig::register(self.id));
        let now = super::open::change_settings(&register, change).await?;
        *self.settings.lock() = now;
        Ok(())
    }

    /// Begins to store a chunk; encoding and puts go on in the background.
    pub fn put_chunk(self: &Arc<Self>, chunk: Chunk) -> Upload {
        Upload::start(self, chunk, Known::default(), Cause::Write)
    }

    /// Deletes all shards of these chunks from the stores that answer; what others keep is left to scrub.
    pub async fn delete(&self, ids: &[ChunkId]) -> Result<()> {
        let n = self.layout.n();
        for id in ids {
            self.hints.remove(id, Mask::all(n));
            self.footers.forget(id, n);
        }
        for part in ids.chunks(DELETE_MAX) {
            let members = self.membership.members.iter().filter(|m| m.standing().usable());
            let deletes = members.map(|member| async move {
                let shard = |id: &ChunkId| super::key::shard_on(id, member.index(), n);
                let keys: Vec<String> = part.iter().map(|id| shard_key(id, shard(id))).collect();
                let out = member.delete(&keys, Cause::Delete).await;
                // One that went away meanwhile is like one that was away before.
                if member.standing().usable() { out } else { Ok(()) }
            });
            futures::future::join_all(deletes).await.into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }

    /// Stores that have been failing for at least so long.
    pub fn out_for(&self, d: Duration) -> usize {
        let now = self.host.rt.now();
        let members = self.membership.members.iter();
        members.filter(|m| m.failing().is_some_and(|(since, _)| now.since(since) >= d)).count()
    }

    /// Shards that are known to be missing.
    pub fn pending(&self) -> usize {
        self.hints.pending().0
    }

    /// Ends what runs in the background, after what is to be remembered is on disk.
    pub async fn close(&self) {
        self.hints.flushed().await;
        self.hints.close();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.hints.close();
    }
}

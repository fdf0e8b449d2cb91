//! The stores of an open pool and how chunks lie on them: what reading, putting, counting and mending share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::chunk::Codec;
use crate::chunk::FooterCache;
use crate::chunk::Layout;
use crate::chunk::ShardSet;
use crate::chunk::{Checked, DeletionCheck, ReadCaches};
use crate::local::HostClock;
use crate::local::MissingShards;
use crate::local::ProvenServers;
use crate::local::ScrubCursor;
use crate::register::Register;
use crate::stores::Hedges;
use crate::stores::Member;
use crate::stores::guesses;
use crate::stores::{Membership, Roster};
use crate::stores::{place, shard_key, shard_on};
use windlass_base::rt::Rt;
use windlass_base::{ChunkId, Error, Incarnation, Kind, RegisterId, Result};
use windlass_store::Cause;

/// Number of keys that one delete request names at most.
pub const DELETE_MAX: usize = 1000;

/// An open pool's stores, and how chunks lie on them.
#[derive(Debug)]
pub struct PoolContext {
    rt: Rt,
    layout: Layout,
    roster: Arc<Roster>,
    codec: Arc<Codec>,
    missing_shards: Arc<MissingShards>,
    scrub_cursor: ScrubCursor,
    proven_servers: ProvenServers,
    clock: HostClock,
    footers: FooterCache,
    hedges: Hedges,
    /// The check of whoever knows the volumes; none before the volumes are known.
    deletion_check: Mutex<Option<Weak<dyn DeletionCheck>>>,
    /// The caches of whoever reads the volumes; none before the volumes are known.
    read_caches: Mutex<Option<Weak<dyn ReadCaches>>>,
    /// Number of shards whose contents were replaced by others.
    replaced: AtomicU64,
}

impl PoolContext {
    pub(crate) fn new(
        rt: Rt,
        layout: Layout,
        roster: Arc<Roster>,
        missing_shards: Arc<MissingShards>,
        scrub_cursor: ScrubCursor,
        proven_servers: ProvenServers,
        clock: HostClock,
    ) -> Arc<PoolContext> {
        Arc::new(PoolContext {
            rt,
            layout,
            roster,
            codec: Arc::new(Codec::new(layout)),
            missing_shards,
            scrub_cursor,
            proven_servers,
            clock,
            footers: FooterCache::default(),
            hedges: Hedges::default(),
            deletion_check: Mutex::default(),
            read_caches: Mutex::default(),
            replaced: AtomicU64::new(0),
        })
    }

    pub(crate) fn rt(&self) -> &Rt {
        &self.rt
    }
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }
    pub(crate) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }
    /// Returns the membership as of now: ask again for each operation.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        self.roster.current()
    }
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.membership().members.clone()
    }
    pub(crate) fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }
    pub(crate) fn missing_shards(&self) -> &Arc<MissingShards> {
        &self.missing_shards
    }
    pub(crate) fn scrub_cursor(&self) -> &ScrubCursor {
        &self.scrub_cursor
    }
    pub(crate) fn proven_servers(&self) -> &ProvenServers {
        &self.proven_servers
    }
    pub(crate) fn clock(&self) -> &HostClock {
        &self.clock
    }
    pub(crate) fn hedges(&self) -> &Hedges {
        &self.hedges
    }
    pub(crate) fn footers(&self) -> &FooterCache {
        &self.footers
    }

    pub(crate) fn register(&self, id: RegisterId) -> Register {
        Register::new(self.rt.clone(), self.roster.clone(), id)
    }

    /// Returns the store that holds a chunk's shard.
    pub(crate) fn holder(&self, id: &ChunkId, shard: usize) -> Arc<Member> {
        self.membership().members[place(id, shard, self.layout.n())].clone()
    }

    /// Tells whether the shard can be read: from its store, or from the store that is read beside it (`former_holder`).
    pub(crate) fn answers(&self, id: &ChunkId, shard: usize) -> bool {
        self.holder(id, shard).well() || self.former_holder(id, shard).is_some()
    }

    /// Returns the store from which the shard can be read where its own store lacks it or does not answer
    /// (`Membership::also_read`).
    pub(crate) fn former_holder(&self, id: &ChunkId, shard: usize) -> Option<Arc<Member>> {
        self.membership().also_read(place(id, shard, self.layout.n()))
    }

    /// Tells whether the shard's store is new, so that what belongs on it has yet to come along.
    pub(crate) fn is_coming(&self, id: &ChunkId, shard: usize) -> bool {
        self.membership().is_new(place(id, shard, self.layout.n()))
    }

    pub(crate) fn check_deletions_by(&self, check: Weak<dyn DeletionCheck>) {
        *self.deletion_check.lock() = Some(check);
    }

    pub(crate) fn empties(&self, caches: Weak<dyn ReadCaches>) {
        *self.read_caches.lock() = Some(caches);
    }

    /// Empties the caches of whoever reads the volumes, since that many shards have other contents now than they had: what was
    /// read of them may be false.
    pub(crate) async fn contents_replaced(&self, shards: usize) {
        if shards == 0 {
            return;
        }
        self.replaced.fetch_add(shards as u64, Ordering::Relaxed);
        let caches = self.read_caches.lock().as_ref().and_then(Weak::upgrade);
        if let Some(caches) = caches {
            caches.empty().await;
        }
    }

    /// Returns of how many shards the contents were replaced since the pool was opened.
    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Tells which of these chunks may be deleted now. An error: nobody is there who could tell.
    pub(crate) async fn check_deletion(&self, ids: &BTreeSet<ChunkId>) -> Result<Checked> {
        let check = self.deletion_check.lock().as_ref().and_then(Weak::upgrade);
        let nobody = || Error::new(Kind::Unavailable, "nobody can tell which chunks are needed");
        Ok(check.ok_or_else(nobody)?.check(ids).await)
    }

    /// Deletes all shards of these chunks from the stores that answer and let us. What those that are away keep is remembered
    /// (`leaving`), and deleted when they are back.
    pub(crate) async fn delete(&self, ids: &[ChunkId]) -> Result<()> {
        let (n, guesses) = (self.layout.n(), self.guesses());
        self.missing_shards.dead(ids);
        ids.iter().for_each(|id| self.footers.forget(id, 0..n));
        for part in ids.chunks(DELETE_MAX) {
            let deletes = self.members().into_iter().map(|member| async move {
                let shards: Vec<usize> = part.iter().map(|id| shard_on(id, member.index(), n)).collect();
                let keys: Vec<String> = part.iter().zip(&shards).map(|(id, i)| shard_key(id, *i)).collect();
                if member.standing().usable() {
                    match self.delete_from(&member, &keys).await {
                        // One that went away meanwhile is like one that was away before.
                        Err(_) if !member.standing().usable() => {}
                        out => return out,
                    }
                }
                self.missing_shards.change_leaving(|l| {
                    for (id, shard) in part.iter().zip(shards) {
                        l.missed(*id, ShardSet::default().with(shard), guesses);
                    }
                });
                Ok(())
            });
            futures::future::join_all(deletes).await.into_iter().collect::<Result<()>>()?;
        }
        // A look may have come in between.
        ids.iter().for_each(|id| self.missing_shards.remove_damage(id, ShardSet::all(n)));
        Ok(())
    }

    /// Deletes these keys from one store. Also returns `Ok` where the store does not let us delete.
    pub(crate) async fn delete_from(&self, member: &Member, keys: &[String]) -> Result<()> {
        match member.delete(keys, Cause::Delete).await {
            // Who may not delete can do all else: what stays is told, and scrub finds it.
            Err(e) if e.is(Kind::Denied) => {
                if member.traffic().not_deleted(keys.len() as u64) {
                    tracing::warn!("objects that nobody needs stay in the store: {e}");
                }
                Ok(())
            }
            Ok(()) if !keys.is_empty() => {
                member.traffic().deleted();
                Ok(())
            }
            out => out,
        }
    }

    /// Returns how often the pool had been decided by guess, as far as this host has heard.
    pub(crate) fn guesses(&self) -> u64 {
        guesses(self.membership().generation)
    }

    /// Stores that have been failing for at least so long.
    pub(crate) fn out_for(&self, d: Duration) -> usize {
        let now = self.rt.now();
        self.members().iter().filter(|m| m.failing().is_some_and(|(since, _)| now.since(since) >= d)).count()
    }

    /// Returns the incarnations of this generation's stores, by index.
    pub(crate) fn incarnations(&self) -> Vec<Incarnation> {
        self.members().iter().map(|m| m.incarnation()).collect()
    }
}

impl Drop for PoolContext {
    fn drop(&mut self) {
        self.missing_shards.close();
    }
}

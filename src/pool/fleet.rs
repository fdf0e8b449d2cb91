//! The stores of an open pool and how chunks lie on them: what reading, putting, counting and mending share.

use std::sync::Arc;
use std::time::Duration;

use super::bookmark::Bookmark;
use super::codec::Codec;
use super::config::guesses;
use super::footers::Footers;
use super::hedge::Hedges;
use super::hints::Hints;
use super::key::{place, shard_key, shard_on};
use super::layout::Layout;
use super::mask::Mask;
use super::member::Member;
use super::register::Register;
use super::roster::{Membership, Roster};
use crate::base::rt::Rt;
use crate::base::{ChunkId, Incarnation, Kind, RegisterId, Result};
use crate::store::Cause;

/// Keys that one delete request names at most.
pub(super) const DELETE_MAX: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Fleet {
    rt: Rt,
    layout: Layout,
    roster: Arc<Roster>,
    codec: Arc<Codec>,
    hints: Arc<Hints>,
    bookmark: Bookmark,
    footers: Footers,
    hedges: Hedges,
}

impl Fleet {
    pub(super) fn new(
        rt: Rt,
        layout: Layout,
        roster: Arc<Roster>,
        hints: Arc<Hints>,
        bookmark: Bookmark,
    ) -> Arc<Fleet> {
        Arc::new(Fleet {
            rt,
            layout,
            roster,
            codec: Arc::new(Codec::new(layout)),
            hints,
            bookmark,
            footers: Footers::default(),
            hedges: Hedges::default(),
        })
    }

    pub(super) fn rt(&self) -> &Rt {
        &self.rt
    }
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }
    /// As of now: ask again for each operation.
    pub(super) fn membership(&self) -> Arc<Membership> {
        self.roster.current()
    }
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.membership().members.clone()
    }
    pub(super) fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }
    pub(super) fn hints(&self) -> &Arc<Hints> {
        &self.hints
    }
    pub(super) fn bookmark(&self) -> &Bookmark {
        &self.bookmark
    }
    pub(super) fn hedges(&self) -> &Hedges {
        &self.hedges
    }
    pub(super) fn footers(&self) -> &Footers {
        &self.footers
    }

    pub(super) fn register(&self, id: RegisterId) -> Register {
        Register::new(self.rt.clone(), self.roster.clone(), id)
    }

    /// The store that holds a chunk's shard.
    pub(super) fn holder(&self, id: &ChunkId, shard: usize) -> Arc<Member> {
        self.membership().members[place(id, shard, self.layout.n())].clone()
    }

    /// The store that held it before, while not all has come along from there; none that is away.
    pub(super) fn former_holder(&self, id: &ChunkId, shard: usize) -> Option<Arc<Member>> {
        let now = self.membership();
        let old = now.predecessor(place(id, shard, self.layout.n()))?;
        old.standing().usable().then(|| old.clone())
    }

    /// Whether all that belongs on the shard's store has yet to come along to it.
    pub(super) fn is_coming(&self, id: &ChunkId, shard: usize) -> bool {
        self.membership().is_new(place(id, shard, self.layout.n()))
    }

    /// Deletes all shards of these chunks from the stores that answer and let us. What those that are away keep is remembered
    /// (`leaving`), and deleted when they are back.
    pub(super) async fn delete(&self, ids: &[ChunkId]) -> Result<()> {
        let (n, guesses) = (self.layout.n(), self.guesses());
        self.hints.dead(ids);
        ids.iter().for_each(|id| self.footers.forget(id, n));
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
                self.hints.change_leaving(|l| {
                    for (id, shard) in part.iter().zip(shards) {
                        l.missed(*id, Mask::default().with(shard), guesses);
                    }
                });
                Ok(())
            });
            futures::future::join_all(deletes).await.into_iter().collect::<Result<()>>()?;
        }
        // A look may have come in between.
        ids.iter().for_each(|id| self.hints.remove_damage(id, Mask::all(n)));
        Ok(())
    }

    /// `Ok` also where the store does not let us.
    pub(super) async fn delete_from(&self, member: &Member, keys: &[String]) -> Result<()> {
        match member.delete(keys, Cause::Delete).await {
            // Who may not delete can do all else: what stays is told, and scrub finds it.
            Err(e) if e.is(Kind::Denied) => {
                if member.traffic().not_deleted(keys.len() as u64) {
                    tracing::warn!("what nobody needs piles up: {e}");
                }
                Ok(())
            }
            out => out,
        }
    }

    /// How often the pool had been decided by guess, as far as this host has heard.
    pub(super) fn guesses(&self) -> u64 {
        guesses(self.membership().generation)
    }

    /// Stores that have been failing for at least so long.
    pub(super) fn out_for(&self, d: Duration) -> usize {
        let now = self.rt.now();
        self.members().iter().filter(|m| m.failing().is_some_and(|(since, _)| now.since(since) >= d)).count()
    }

    /// The incarnations of this generation, by index.
    pub(super) fn incarnations(&self) -> Vec<Incarnation> {
        self.members().iter().map(|m| m.incarnation()).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.hints.close();
    }
}

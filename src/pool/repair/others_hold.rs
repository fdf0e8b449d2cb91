//! Before a store's place is taken in anew: do the stores that answer hold enough of everything (protocol.md §2.8)?
//!
//! A store that seems emptied may be one whose disk is not mounted. Taken in as it is, it counts for nothing any more until
//! everything has come along to it from the others; where those lack what only its disk holds, nothing ends.
//!
//! By listings alone: what a store lists it holds. What a place lists that is to be taken in stays there, and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scrub::{Listing, list_all};
use crate::base::{ChunkId, Result, VolumeId};
use crate::pool::chunk::{Inventory, ShardSet};
use crate::pool::stores::{Member, Membership};
use crate::pool::stores::{Named, parse, place};
use crate::store::{BucketRef, Cause, List};

const LIVE_PAGE: usize = 1024;
/// Names a page.
const PAGE: usize = 1000;

/// What the stores that answer hold.
#[derive(Debug, Default)]
pub struct Holdings {
    n: usize,
    present: BTreeMap<ChunkId, ShardSet>,
    /// Stores (indices) that could be listed whole: what they do not list is not there.
    complete: ShardSet,
    /// Why others could not.
    pub silent: Vec<String>,
}

impl Holdings {
    /// `also`: places beside the members, each with the index of the store whose shards in it count too. What lies in a member's
    /// place and was the pool's once counts anyway.
    pub async fn look(members: &[Arc<Member>], also: &[(usize, BucketRef)]) -> Holdings {
        let n = members.len();
        let Listing { present, complete, unreachable, .. } = list_all(members).await;
        let mut all = Holdings { n, present, complete, silent: unreachable };
        let other_lives = members.iter().filter_map(|m| Some((m.index(), m.other_life()?.raw()?.clone())));
        let other_lives: Vec<_> = other_lives.collect();
        for (index, bucket) in also.iter().chain(&other_lives) {
            // What the store in the place had, and the place does not list, may be on a disk that is not mounted.
            all.complete = all.complete.without(*index);
            if let Err(e) = all.add(*index, bucket).await {
                all.silent.push(e.to_string());
            }
        }
        all
    }

    async fn add(&mut self, index: usize, bucket: &BucketRef) -> Result<()> {
        let mut list = List { max: PAGE, ..List::default() };
        loop {
            let page = bucket.list(&list, Cause::Repair).await?;
            for object in page.objects {
                if let Named::Shard(id, shard) = parse(&object.key)
                    && shard < self.n
                    && place(&id, shard, self.n) == index
                {
                    let known = self.present.entry(id).or_default();
                    *known = known.with(shard);
                }
            }
            list.after = page.next;
            if list.after.is_none() {
                return Ok(());
            }
        }
    }

    /// The shards of a chunk that are there, and those that may be on stores which could not be listed.
    fn of(&self, id: &ChunkId) -> (usize, usize) {
        let there = self.present.get(id).copied().unwrap_or_default();
        let open = |shard: &usize| !there.has(*shard) && !self.complete.has(place(id, *shard, self.n));
        (there.count(), (0..self.n).filter(open).count())
    }

    /// Live chunks that can't be read by what is there, and could by what may be elsewhere. Some of them may have been stored
    /// since the stores were listed.
    pub async fn short_of(&self, k: usize, inventory: &dyn Inventory) -> Result<BTreeSet<ChunkId>> {
        let (mut after, mut short) = (None, BTreeSet::new());
        loop {
            let page = inventory.live_after(after, LIVE_PAGE).await?;
            short.extend(page.iter().copied().filter(|id| {
                let (there, elsewhere) = self.of(id);
                there < k && there + elsewhere >= k
            }));
            match page.last() {
                Some(last) if page.len() >= LIVE_PAGE => after = Some(*last),
                _ => return Ok(short),
            }
        }
    }

    /// Stores that lack what all others hold: without knowing what is needed, those that are not filled yet. `of`: the stores
    /// in question.
    pub fn unfilled(&self, of: ShardSet) -> ShardSet {
        let others = self.complete.minus(of);
        let lacking = |store: &usize| {
            self.present.iter().any(|(id, shards)| {
                let stores: ShardSet = shards.iter().map(|shard| place(id, shard, self.n)).collect();
                others.minus(stores).is_empty() && !stores.has(*store)
            })
        };
        of.iter().filter(lacking).collect()
    }

    /// Chunks of these volumes that any store lists.
    pub fn chunks_of(&self, volumes: &BTreeSet<VolumeId>) -> Vec<ChunkId> {
        self.present.keys().filter(|id| volumes.contains(&id.volume)).copied().collect()
    }
}

/// Where the predecessors of stores that are to be filled lie, as far as they answer.
pub fn predecessors(now: &Membership) -> Vec<(usize, BucketRef)> {
    let old = (0..now.members.len()).filter_map(|index| now.predecessor(index));
    let usable = old.filter(|old| old.standing().usable());
    usable.filter_map(|old| Some((old.index(), old.raw()?.clone()))).collect()
}

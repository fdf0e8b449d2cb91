//! Before a store's place is taken in anew: do the stores that answer hold enough of everything (protocol.md §2.8)?
//!
//! A store that seems emptied may be one whose disk is not mounted. Taken in as it is, it counts for nothing any more until
//! everything has come along to it from the others; where those lack what only its disk holds, nothing ends.
//!
//! By listings alone: what a store lists it holds. What a place lists that is to be taken in stays there, and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scrub::{Listing, list_all};
use crate::chunk::{Inventory, ShardSet};
use crate::stores::{Member, Membership};
use crate::stores::{Named, parse, place};
use windlass_base::{ChunkId, Result, VolumeId};
use windlass_store::{BucketRef, Cause, List};

const LIVE_PAGE: usize = 1024;
/// Names a page.
const PAGE: usize = 1000;

/// The shards that the stores which answer hold.
#[derive(Debug, Default)]
pub struct Holdings {
    n: usize,
    present: BTreeMap<ChunkId, ShardSet>,
    /// Stores (indices) that could be listed whole: what they do not list is not there.
    complete: ShardSet,
    /// Shards on stores that were replaced, and to whose successors not all has come along: they count for nothing in the next
    /// generation. `former_silent` are the places of such stores that could not be listed.
    former: BTreeMap<ChunkId, ShardSet>,
    former_silent: ShardSet,
    /// Bytes that a store's shards take, by store.
    bytes: BTreeMap<usize, u64>,
    /// The reasons why other stores could not be listed.
    pub silent: Vec<String>,
}

impl Holdings {
    /// Lists what the members hold. `also`: places beside the members, each with the index of the store whose shards in it
    /// count too. What lies in a member's place and was the pool's once counts anyway.
    pub async fn look(members: &[Arc<Member>], also: &[(usize, BucketRef)]) -> Holdings {
        let n = members.len();
        let Listing { present, complete, bytes, unreachable, .. } = list_all(members).await;
        let mut all = Holdings { n, present, complete, bytes, silent: unreachable, ..Holdings::default() };
        let other_lives = members.iter().filter_map(|m| Some((m.index(), m.other_life()?.raw()?.clone())));
        let other_lives: Vec<_> = other_lives.collect();
        for (index, bucket) in also.iter().chain(&other_lives) {
            // What the store in the place had, and the place does not list, may be on a disk that is not mounted.
            all.complete = all.complete.without(*index);
            if let Err(e) = add(&mut all.present, n, *index, bucket).await {
                all.silent.push(e.to_string());
            }
        }
        all
    }

    /// Lists also what the next generation would leave behind: stores that were replaced, and are needed until all has come
    /// along. What is taken in (by URL) counts.
    pub async fn look_at_former(&mut self, now: &Membership, taken: &[&str]) {
        for index in 0..self.n {
            let Some(old) = now.may_still_have(index) else { continue };
            let to = if taken.contains(&old.url()) { &mut self.present } else { &mut self.former };
            let listed = match old.raw() {
                Some(bucket) => add(to, self.n, index, bucket).await.map_err(|e| e.to_string()),
                None => Err(format!("{}: it does not answer", old.url())),
            };
            if let Err(why) = listed {
                self.former_silent = self.former_silent.with(index);
                self.silent.push(why);
            }
        }
    }

    /// Takes what does not answer as gone for good.
    pub fn give_up_silent(&mut self) {
        (self.complete, self.former_silent) = (ShardSet::all(self.n), ShardSet::default());
    }

    /// Counts the shards of a chunk that are there, and those that may be on stores which could not be listed.
    fn of(&self, id: &ChunkId) -> (usize, usize) {
        let there = self.present.get(id).copied().unwrap_or_default();
        let former = self.former.get(id).copied().unwrap_or_default();
        let open = |shard: &usize| {
            let store = place(id, *shard, self.n);
            let may_be = !self.complete.has(store) || self.former_silent.has(store) || former.has(*shard);
            may_be && !there.has(*shard)
        };
        (there.count(), (0..self.n).filter(open).count())
    }

    /// Returns live chunks that can't be read by what is there, and could by what may be elsewhere. Some of them may have been
    /// stored since the stores were listed.
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

    /// Returns how many bytes come to another store in this one's place, at least. That is as much as this store has. Where
    /// that is not known, or not all has come to it yet, it is the least that any of the other stores is known to have.
    pub fn bytes_for(&self, index: usize, now: &Membership) -> u64 {
        let of = |store: usize| self.bytes.get(&store).copied().unwrap_or_default();
        let is_known = |store: &usize| self.complete.has(*store) && !now.is_new(*store);
        match is_known(&index) {
            true => of(index),
            false => (0..self.n).filter(is_known).map(of).min().unwrap_or_default(),
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

/// Adds the shards that belong in this place and that the bucket lists.
async fn add(to: &mut BTreeMap<ChunkId, ShardSet>, n: usize, index: usize, bucket: &BucketRef) -> Result<()> {
    let mut list = List { max: PAGE, ..List::default() };
    loop {
        let page = bucket.list(&list, Cause::Repair).await?;
        for object in page.objects {
            if let Named::Shard(id, shard) = parse(&object.key)
                && shard < n
                && place(&id, shard, n) == index
            {
                let known = to.entry(id).or_default();
                *known = known.with(shard);
            }
        }
        list.after = page.next;
        if list.after.is_none() {
            return Ok(());
        }
    }
}

/// Returns the buckets in which the predecessors of stores that are to be filled lie, by index, as far as they answer.
pub fn predecessors(now: &Membership) -> Vec<(usize, BucketRef)> {
    let old = (0..now.members.len()).filter_map(|index| now.predecessor(index));
    let usable = old.filter(|old| old.standing().usable());
    usable.filter_map(|old| Some((old.index(), old.raw()?.clone()))).collect()
}

//! Shards that are to be deleted and are not yet: their stores were away when nobody needed the chunk any more, or a put of
//! one went on then and may still land. Kept in the file of missing shards, done by `handoff` when the store is back.
//!
//! A chunk that is dead under one recorded head is dead for ever, and its id is never used again (protocol.md §5.7), so a
//! deletion may come as late as it likes, with two exceptions. `force-recover` may decide by guess for a head that needs
//! the chunk: what was missed before such a guess is forgotten (`guesses`). All stores may be put back from a backup, whose
//! head needs the chunk: so `handoff` asks whoever knows the volumes right before it deletes (`DeletionCheck`).

use std::collections::BTreeMap;

use crate::chunk::ShardSet;
use windlass_base::{ChunkId, VolumeId};

/// Number of chunks that are remembered at most, of each kind of hint.
pub const ENTRIES_MAX: usize = 100_000;

/// A put by `mend` or repair that goes on.
#[derive(Debug)]
struct Put {
    id: ChunkId,
    shards: ShardSet,
    dead: bool,
}

#[derive(Debug, Default)]
pub struct Leaving {
    /// Shards to be deleted when their stores take the deletion.
    pub(crate) missed: BTreeMap<ChunkId, ShardSet>,
    /// Shards of dead chunks for which puts of an upload go on: they are not deleted before the puts have ended.
    landing: BTreeMap<ChunkId, ShardSet>,
    puts: BTreeMap<u64, Put>,
    number: u64,
    /// True if more is to be deleted than is known here; `overflowed` is the change of that file since which it is so.
    pub(crate) overflow: bool,
    pub(crate) overflowed: u64,
    /// The last change of the file of missing shards.
    pub(crate) now: u64,
    /// Number of guesses that had decided the pool when these deletions were missed.
    pub(crate) guesses: u64,
}

impl Leaving {
    fn add(&mut self, id: ChunkId, shards: ShardSet) {
        if shards.is_empty() {
            return;
        }
        if self.missed.len() >= ENTRIES_MAX && !self.missed.contains_key(&id) {
            return self.lose();
        }
        let known = self.missed.entry(id).or_default();
        *known = known.or(shards);
    }

    /// Notes that something is to be deleted that is not listed here: scrub finds it.
    pub(crate) fn lose(&mut self) {
        (self.overflow, self.overflowed) = (true, self.now);
    }

    /// Stores missed the deletion of these shards.
    pub(crate) fn missed(&mut self, id: ChunkId, shards: ShardSet, guesses: u64) {
        if guesses < self.guesses {
            // Decided before a guess that is known here.
            return self.lose();
        }
        self.fence(guesses);
        self.add(id, shards);
    }

    /// Learns how often the pool was decided by guess by now. What was missed before the last guess may be needed again, and
    /// is forgotten.
    pub(crate) fn fence(&mut self, guesses: u64) {
        if guesses > self.guesses {
            self.guesses = guesses;
            if !self.missed.is_empty() {
                self.missed.clear();
                self.lose();
            }
        }
    }

    /// Notes that nobody needs the chunk any more, while an upload's puts of these shards go on.
    pub(crate) fn dead(&mut self, id: &ChunkId, uploads: ShardSet) {
        if !uploads.is_empty() {
            let known = self.landing.entry(*id).or_default();
            *known = known.or(uploads);
        }
        self.puts.values_mut().filter(|p| p.id == *id).for_each(|p| p.dead = true);
    }

    /// Notes that an upload's puts have ended. Returns whether their chunk was dead: what they brought is to be deleted then.
    pub(crate) fn put_ended(&mut self, id: &ChunkId, shards: ShardSet) -> bool {
        let ended = self.landing.get(id).copied().unwrap_or_default().and(shards);
        take(&mut self.landing, id, ended);
        self.add(*id, ended);
        !ended.is_empty()
    }

    /// Shards are put again; the number of this.
    pub(crate) fn put_begins(&mut self, id: ChunkId, shards: ShardSet) -> u64 {
        self.number += 1;
        self.puts.insert(self.number, Put { id, shards, dead: false });
        self.number
    }

    /// Ends the put that `put_begins` numbered; returns whether its chunk had died meanwhile. If so, its shards are to be
    /// deleted.
    pub(crate) fn put_again_ended(&mut self, number: u64) -> bool {
        let dead = self.puts.remove(&number).filter(|p| p.dead);
        dead.map(|put| self.add(put.id, put.shards)).is_some()
    }

    /// Chunks of which shards are being put again.
    pub(crate) fn putting(&self) -> impl Iterator<Item = &ChunkId> {
        self.puts.values().map(|put| &put.id)
    }

    /// Shards of a chunk that are on their way out.
    pub(crate) fn of(&self, id: &ChunkId) -> ShardSet {
        let of = |known: &BTreeMap<ChunkId, ShardSet>| known.get(id).copied().unwrap_or_default();
        of(&self.missed).or(of(&self.landing))
    }

    /// Returns all that is to be deleted should this process end now.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ChunkId, ShardSet)> {
        self.missed.iter().chain(&self.landing).map(|(id, mask)| (*id, *mask))
    }

    /// Returns the next chunks after this one, in order.
    pub(crate) fn after(&self, after: Option<ChunkId>, max: usize) -> Vec<(ChunkId, ShardSet)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let next = self.missed.range((after.map_or(Unbounded, Excluded), Unbounded));
        next.take(max).map(|(id, mask)| (*id, *mask)).collect()
    }

    /// Forgets what is to be deleted of a volume: all of it stays.
    pub(crate) fn forget(&mut self, volume: VolumeId) {
        let known = self.missed.len() + self.landing.len();
        self.missed.retain(|id, _| id.volume != volume);
        self.landing.retain(|id, _| id.volume != volume);
        if self.missed.len() + self.landing.len() < known {
            self.lose();
        }
    }

    /// Forgets shards that are gone, or that stay because a recorded state needs them.
    pub(crate) fn deleted(&mut self, id: &ChunkId, shards: ShardSet) {
        take(&mut self.missed, id, shards);
    }

    /// Shards whose deletion was missed.
    pub(crate) fn count(&self) -> usize {
        self.missed.values().map(|mask| mask.count()).sum()
    }
}

/// Takes shards out of an entry; was one of them there?
pub fn take(from: &mut BTreeMap<ChunkId, ShardSet>, id: &ChunkId, shards: ShardSet) -> bool {
    let Some(known) = from.get_mut(id) else { return false };
    let left = known.minus(shards);
    let changed = left != *known;
    *known = left;
    if left.is_empty() {
        from.remove(id);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq};

    fn id(seq: u64) -> ChunkId {
        ChunkId { volume: VolumeId(7), epoch: Epoch(1), seq: Seq(seq) }
    }

    #[test]
    fn what_lands_after_a_chunk_died_is_to_be_deleted() {
        let mut leaving = Leaving::default();
        leaving.dead(&id(1), ShardSet::all(2));
        assert_eq!((leaving.count(), leaving.of(&id(1))), (0, ShardSet::all(2)), "not before it has landed");
        assert!(leaving.put_ended(&id(1), ShardSet::default().with(1)));
        assert!(!leaving.put_ended(&id(1), ShardSet::default().with(1)), "once");
        assert!(!leaving.put_ended(&id(2), ShardSet::default().with(1)));
        assert_eq!(leaving.after(None, 9), [(id(1), ShardSet::default().with(1))]);
        let (one, other) =
            (leaving.put_begins(id(3), ShardSet::all(1)), leaving.put_begins(id(4), ShardSet::all(1)));
        leaving.dead(&id(3), ShardSet::default());
        assert!(leaving.put_again_ended(one) && !leaving.put_again_ended(other));
        assert_eq!(leaving.after(Some(id(1)), 9), [(id(3), ShardSet::all(1))]);
        leaving.deleted(&id(3), ShardSet::all(2));
        assert_eq!(
            leaving.all().collect::<Vec<_>>(),
            [(id(1), ShardSet::default().with(1)), (id(1), ShardSet::all(1))]
        );
    }

    #[test]
    fn what_was_missed_before_a_guess_is_forgotten_and_a_full_list_says_so() {
        let mut leaving = Leaving::default();
        leaving.missed(id(1), ShardSet::all(1), 0);
        leaving.fence(0);
        assert_eq!((leaving.count(), leaving.overflow), (1, false));
        leaving.missed(id(2), ShardSet::all(1), 1);
        assert_eq!((leaving.after(None, 9), leaving.overflow), (vec![(id(2), ShardSet::all(1))], true));
        // What was decided before it comes late, and sets nothing back.
        leaving.missed(id(3), ShardSet::all(1), 0);
        leaving.fence(0);
        assert_eq!(leaving.after(None, 9), [(id(2), ShardSet::all(1))]);
        let mut leaving = Leaving::default();
        (0..ENTRIES_MAX as u64).for_each(|n| leaving.missed(id(n), ShardSet::all(1), 0));
        assert!(!leaving.overflow);
        leaving.missed(id(0), ShardSet::all(2), 0);
        assert!(!leaving.overflow);
        leaving.missed(id(ENTRIES_MAX as u64), ShardSet::all(1), 0);
        assert!(leaving.overflow && leaving.missed.len() == ENTRIES_MAX);
    }
}

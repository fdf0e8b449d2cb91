//! Deleting what nobody needs and nobody remembers: unfinished packs and chunks past a recorded end, of owners that were
//! killed or shut out, and deletions that this host had no room to remember (protocol.md §5.9; model `collect`, K1).
//!
//! Lists one store, page by page, and deletes the shards of the caller's volumes that the caller's tables tell dead. Memory:
//! a page of names. A store that holds far more than these volumes is listed only where their keys are, so a look costs at
//! most about 512 requests a volume, whatever else the pool keeps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::chunk::ShardSet;
use crate::io::PoolContext;
use crate::stores::Member;
use crate::stores::PoolConfig;
use crate::stores::{Named, parse, place};
use windlass_base::{ChunkId, Error, Kind, Result, VolumeId};
use windlass_store::{Cause, List, Page};

/// Names a page.
const PAGE: usize = 1000;
/// Pause between two pages.
const PACE: Duration = Duration::from_millis(100);
/// Number of pages of a whole listing, for each volume: as many as listing the volume's own keys takes at least (`hh/` of
/// 256).
const WHOLE_MAX: usize = 256;

/// The chunks that a sweep deletes.
pub struct Unneeded<'a> {
    pub volumes: BTreeSet<VolumeId>,
    /// Tells whether a chunk of these volumes is dead for ever, by heads that were read with the tables under them.
    pub is_dead: &'a (dyn Fn(&ChunkId) -> bool + Send + Sync),
    /// Number of guesses that had decided the pool when the heads were read: a guess may need what was dead before.
    pub guesses: u64,
}

impl Unneeded<'_> {
    fn has(&self, id: &ChunkId) -> bool {
        self.volumes.contains(&id.volume) && (self.is_dead)(id)
    }
}

/// The names that a sweep asks for: all of a store, and those of single volumes where that would be too many.
struct Course<'a> {
    volumes: &'a BTreeSet<VolumeId>,
    list: List,
    /// Pages that may still be asked for without a prefix.
    whole: usize,
    /// Prefixes that are still to be listed, the last first.
    prefixes: Vec<String>,
}

impl Course<'_> {
    fn new(volumes: &BTreeSet<VolumeId>, whole: usize) -> Course<'_> {
        let list = List { max: PAGE, ..List::default() };
        Course { volumes, list, whole: whole * volumes.len(), prefixes: Vec::new() }
    }

    /// Goes on after this page; false at the end.
    fn go_on(&mut self, page: &Page) -> bool {
        if page.next.is_none() {
            return self.next_prefix();
        }
        self.list.after.clone_from(&page.next);
        if !self.list.prefix.is_empty() {
            return true;
        }
        self.whole = self.whole.saturating_sub(1);
        match page.objects.last() {
            Some(last) if self.whole == 0 => {
                self.prefixes = self.prefixes_from(last.key.get(..2).unwrap_or_default());
                self.next_prefix()
            }
            _ => true,
        }
    }

    /// Returns the prefixes of these volumes' keys, from the hash prefix `hh` on: every server lists shards' keys in that
    /// order.
    fn prefixes_from(&self, hh: &str) -> Vec<String> {
        let hashes = (0..=255u8).rev().map(|byte| format!("{byte:02x}")).filter(|own| own.as_str() >= hh);
        hashes.flat_map(|own| self.volumes.iter().map(move |volume| format!("{own}/{volume}/"))).collect()
    }

    fn next_prefix(&mut self) -> bool {
        let Some(prefix) = self.prefixes.pop() else { return false };
        (self.list.prefix, self.list.after) = (prefix, None);
        true
    }
}

/// Looks through the store of this index; how many shards were deleted. An error: not all of it was looked through.
pub async fn sweep(context: &Arc<PoolContext>, index: usize, unneeded: &Unneeded<'_>) -> Result<u64> {
    let member = context.members()[index].clone();
    member.attest().await?;
    // Or mending would put shards of the dead where the listing has passed.
    context.missing_shards().bury(|id| unneeded.has(id));
    let mut course = Course::new(&unneeded.volumes, WHOLE_MAX);
    let mut deleted = 0;
    loop {
        let page = match member.list(&course.list, Cause::Delete).await {
            // Whoever asks may not list: nothing can be found here.
            Err(e) if e.is(Kind::Denied) => return Ok(deleted),
            page => page?,
        };
        let named = page.objects.iter().map(|o| (parse(&o.key), o.key.clone()));
        let dead = named.filter_map(|(named, key)| match named {
            Named::Shard(id, shard) if unneeded.has(&id) => Some((id, shard, key)),
            _ => None,
        });
        let dead: Vec<_> = dead.collect();
        if !dead.is_empty() {
            if !delete(context, &member, &dead, unneeded.guesses).await? {
                return Ok(deleted);
            }
            deleted += dead.len() as u64;
        }
        if !course.go_on(&page) {
            // It may have been emptied while it was listed.
            return member.attest().await.map(|()| deleted);
        }
        context.rt().sleep(PACE).await;
    }
}

/// Deletes these shards, once it is certain that their chunks are dead still. `false`: the store does not let us.
async fn delete(
    context: &Arc<PoolContext>,
    member: &Member,
    dead: &[(ChunkId, usize, String)],
    guesses: u64,
) -> Result<bool> {
    context.register(PoolConfig::register(context.missing_shards().pool())).hear_of_newer().await?;
    if context.guesses() != guesses {
        let why =
            "the pool was decided by guess meanwhile (`pool force-recover`): it is looked through again";
        return Err(Error::new(Kind::Unavailable, why));
    }
    let n = context.layout().n();
    let ids: BTreeSet<ChunkId> = dead.iter().map(|(id, ..)| *id).collect();
    // The heads were read when the listing began.
    if context.check_deletion(&ids).await?.dead != ids {
        let why = "it can't be told now that nobody needs what was found: it is looked through again";
        return Err(Error::new(Kind::Unavailable, why));
    }
    let ids: Vec<ChunkId> = ids.into_iter().collect();
    context.missing_shards().dead(&ids);
    ids.iter().for_each(|id| context.footers().forget(id, 0..n));
    let keys: Vec<String> = dead.iter().map(|(.., key)| key.clone()).collect();
    match member.delete(&keys, Cause::Delete).await {
        Err(e) if e.is(Kind::Denied) => {
            if member.traffic().not_deleted(keys.len() as u64) {
                tracing::warn!("objects that nobody needs stay in the store: {e}");
            }
            return Ok(false);
        }
        done => done?,
    }
    member.traffic().deleted();
    let in_place = |(id, shard, _): &&(ChunkId, usize, String)| place(id, *shard, n) == member.index();
    context.missing_shards().change_leaving(|l| {
        dead.iter()
            .filter(in_place)
            .for_each(|(id, shard, _)| l.deleted(id, ShardSet::default().with(*shard)));
    });
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::shard_key;
    use windlass_base::{Epoch, Seq};
    use windlass_store::{MemStore, Store as _, When};

    async fn names(store: &MemStore, volumes: &BTreeSet<VolumeId>, whole: usize) -> (Vec<String>, usize) {
        let (mut course, mut names, mut pages) = (Course::new(volumes, whole), Vec::new(), 0);
        course.list.max = 10;
        loop {
            let page = store.list(&course.list, Cause::Delete).await.unwrap();
            names.extend(page.objects.iter().map(|o| o.key.clone()));
            pages += 1;
            if !course.go_on(&page) {
                return (names, pages);
            }
        }
    }

    #[tokio::test]
    async fn a_store_of_many_others_is_listed_where_a_volumes_keys_are() {
        let store = MemStore::new("s");
        let volumes: BTreeSet<VolumeId> = [VolumeId(7), VolumeId(9)].into();
        let mut own = BTreeSet::new();
        for (volume, chunks) in [(1, 4000), (7, 30), (9, 300), (12, 4000)] {
            for seq in 1..=chunks {
                let id = ChunkId { volume: VolumeId(volume), epoch: Epoch(1), seq: Seq(seq) };
                let key = shard_key(&id, 0);
                store.put(&key, bytes::Bytes::new(), When::Absent, Cause::Write).await.unwrap();
                if volumes.contains(&id.volume) {
                    own.insert(key);
                }
            }
        }
        for (whole, most) in [(usize::MAX / 2, 834), (1, 2 + 512), (100, 200 + 512), (416, 834)] {
            let (names, pages) = names(&store, &volumes, whole).await;
            assert!(pages <= most, "{pages} pages");
            let seen: BTreeSet<String> = names.into_iter().filter(|n| own.contains(n)).collect();
            assert_eq!(seen.len(), own.len(), "after {whole} pages");
        }
    }
}

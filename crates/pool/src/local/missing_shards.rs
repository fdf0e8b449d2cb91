//! What this host knows to be missing, on the local disk: shards that were left out when their chunk was stored, put when their
//! store is back; and shards that were stored and then found gone or rotten, which `pool repair` rebuilds. Also what should
//! not be there: shards whose deletion a store missed, which are deleted when it is back (`leaving`).
//!
//! A hint saves time, it is not the truth: scrub finds without it what is missing, and what nobody needs. File `pending.ID`,
//! of the pool's id, in the folder of its name, which may have been another pool's:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `WLHINTS3` |
//! | 8 | 16 | pool id |
//! | 24 | 1 | 1: more is missing than is written here, scrub finds it; 2: so with deletions that were missed |
//! | 25 | 8 | how often the pool had been decided by guess when the deletions were missed |
//! | 33 | 4 | number of entries |
//! | 37 | 64 each | volume id (16), epoch (8), sequence (8), bit sets of shards: left out (8), found gone (8), found rotten (8), to be deleted (8) |
//! | −4 | 4 | CRC32C of all before |
//!
//! All little-endian. Written as a whole, a moment after a change; a damaged file counts as "more is missing".

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::missed_deletes::{ENTRIES_MAX, Leaving, take};
use crate::chunk::ShardSet;
use windlass_base::codec::{Reader, Writer};
use windlass_base::rt::{Disk, Rt};
use windlass_base::sum::crc32c;
use windlass_base::watched_state::Watched;
use windlass_base::{ChunkId, Epoch, PoolId, Result, Seq, VolumeId};

const MAGIC: u64 = u64::from_le_bytes(*b"WLHINTS3");
const HEADER: usize = 37;
const ENTRY: usize = 64;
const MORE_MISSING: u8 = 1;
const MORE_TO_DELETE: u8 = 2;
/// Number of entries in the file at most, which makes it 20 MB.
const FILE_ENTRIES: usize = 3 * ENTRIES_MAX;
const FILE_MAX: usize = HEADER + ENTRY * FILE_ENTRIES + 4;
/// Shards that reads could not use and that wait for a closer look; others are met again.
const DOUBTS_MAX: usize = 64;
/// Time within which changes are written together.
const GATHER: Duration = Duration::from_millis(200);
/// Number of entries for which the pause before a write is longer by another `GATHER`, up to `GATHER_MAX`.
const GATHER_ENTRIES: usize = 10_000;
const GATHER_MAX: Duration = Duration::from_secs(1);

/// Shards of one chunk that were stored, and are not what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    pub(crate) gone: ShardSet,
    pub(crate) rotten: ShardSet,
}

impl Damage {
    pub(crate) fn gone(shard: usize) -> Damage {
        Damage { gone: ShardSet::default().with(shard), ..Damage::default() }
    }
    pub(crate) fn rotten(shard: usize) -> Damage {
        Damage { rotten: ShardSet::default().with(shard), ..Damage::default() }
    }
    pub(crate) fn all(self) -> ShardSet {
        self.gone.or(self.rotten)
    }
    fn minus(self, shards: ShardSet) -> Damage {
        Damage { gone: self.gone.minus(shards), rotten: self.rotten.minus(shards) }
    }
}

/// A copy of what was known to be missing at some time, and the number of the last change by then.
#[derive(Debug)]
pub struct SeenMissing {
    missing: BTreeMap<ChunkId, ShardSet>,
    changes: u64,
}

#[derive(Debug, Default)]
struct State {
    missing: BTreeMap<ChunkId, ShardSet>,
    /// Shards found gone or rotten. They are not mended without being asked: what looks damaged may be what somebody still
    /// wants to see.
    damaged: BTreeMap<ChunkId, Damage>,
    /// Number of times that something was added to the damaged shards.
    news: u64,
    /// Shards that a read could not use and that nobody has looked at since. They are not written to the file.
    doubts: BTreeSet<(ChunkId, usize)>,
    /// Puts that still go on though their chunk is stored: written down like the missing, but not mended yet.
    under_way: BTreeMap<ChunkId, ShardSet>,
    /// True if more is missing than is known here; `overflowed` is the change since which it is so.
    overflow: bool,
    overflowed: u64,
    /// The deletions that stores have missed (`missed_deletes`).
    leaving: Leaving,
    /// Number of changes; `written` is how many of them are on disk.
    changes: u64,
    written: u64,
    closed: bool,
}

impl State {
    fn not_stored(&self, id: &ChunkId) -> ShardSet {
        let of = |known: &BTreeMap<ChunkId, ShardSet>| known.get(id).copied().unwrap_or_default();
        of(&self.missing).or(of(&self.under_way))
    }

    /// Takes what was found damaged out; was one of them there?
    fn right(&mut self, id: &ChunkId, shards: ShardSet) -> bool {
        let Some(known) = self.damaged.get_mut(id) else { return false };
        let before = std::mem::replace(known, known.minus(shards));
        let (changed, over) = (before != *known, known.all().is_empty());
        if over {
            self.damaged.remove(id);
        }
        changed
    }
}

/// The shards that are missing or to be deleted in one pool, as far as this host knows.
#[derive(Debug)]
pub struct MissingShards {
    pool: PoolId,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Watched<State>,
}

impl MissingShards {
    /// Reads what an earlier run left, and keeps the file up to date from now on.
    pub(crate) async fn open(
        rt: &Rt,
        disk: Arc<dyn Disk>,
        folder: &Path,
        pool: PoolId,
    ) -> Result<Arc<MissingShards>> {
        disk.create_dir(folder).await?;
        let path = folder.join(format!("pending.{pool}"));
        let mut state = State::default();
        match disk.read(&path, FILE_MAX).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) if e.kind() != std::io::ErrorKind::InvalidData => return Err(e.into()),
            other => match other.map_err(Into::into).and_then(|bytes| decode(&bytes, pool)) {
                Ok(known) => {
                    (state.missing, state.damaged, state.overflow, state.leaving) =
                        (known.missing, known.damaged, known.overflow, known.leaving);
                }
                Err(e) => {
                    tracing::warn!("{}: {e}; run `pool repair` to find what is missing", path.display());
                    state.overflow = true;
                    state.leaving.lose();
                }
            },
        }
        let missing_shards = Arc::new(MissingShards { pool, disk, path, state: Watched::new(state) });
        rt.spawn(keep_written(rt.clone(), missing_shards.clone())).detach();
        Ok(missing_shards)
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.pool
    }

    /// Notes shards that are not stored yet; each is reported by `remove` or `left` later.
    pub(crate) fn add_under_way(&self, id: ChunkId, shards: ShardSet) {
        if !shards.is_empty() {
            self.state.update(|s| {
                s.under_way.insert(id, shards);
                s.changes += 1;
            });
        }
    }

    /// Notes shards that were found missing: they are for mending.
    pub(crate) fn found(&self, id: ChunkId, shards: ShardSet) {
        shards.iter().for_each(|shard| self.left(id, shard));
    }

    /// Notes shards that were stored, and are gone or rotten now.
    pub(crate) fn damaged(&self, id: ChunkId, found: Damage) {
        if found.all().is_empty() {
            return;
        }
        self.state.update(|s| {
            // A list that is full is alarming enough; scrub names them all.
            if s.damaged.len() < ENTRIES_MAX || s.damaged.contains_key(&id) {
                let before = s.damaged.get(&id).copied().unwrap_or_default();
                let known = before.minus(found.all());
                let now = Damage { gone: known.gone.or(found.gone), rotten: known.rotten.or(found.rotten) };
                s.damaged.insert(id, now);
                (s.changes, s.news) = (s.changes + 1, s.news + u64::from(now != before));
            }
        });
    }

    /// Grows with everything that is found damaged anew.
    pub(crate) fn news(&self) -> u64 {
        self.state.with(|s| s.news)
    }

    /// Notes that a read could not use this shard: somebody should look at it.
    pub(crate) fn doubt(&self, id: ChunkId, shard: usize) {
        let news = |s: &mut State| {
            let damaged = s.damaged.get(&id).is_some_and(|d| d.all().has(shard));
            // What was left out is missed, and mended, without a look.
            !damaged
                && !s.not_stored(&id).has(shard)
                && s.doubts.len() < DOUBTS_MAX
                && !s.doubts.contains(&(id, shard))
        };
        if self.state.with(news) {
            self.state.update(|s| s.doubts.insert((id, shard)));
        }
    }

    /// Waits until a shard is in doubt; false when closed.
    pub(crate) async fn any_doubts(&self) -> bool {
        self.state.until(|s| (s.closed || !s.doubts.is_empty()).then_some(!s.closed)).await
    }

    /// Takes out all shards that are in doubt.
    pub(crate) fn doubts(&self) -> BTreeSet<(ChunkId, usize)> {
        self.state.with(|s| std::mem::take(&mut s.doubts))
    }

    /// Returns all shards that were found damaged.
    pub(crate) fn all_damaged(&self) -> Vec<(ChunkId, Damage)> {
        self.state.with(|s| s.damaged.iter().map(|(id, damage)| (*id, *damage)).collect())
    }

    /// Returns the chunks of which shards were found gone, after this one, in order.
    pub(crate) fn gone_after(&self, after: Option<ChunkId>, max: usize) -> Vec<(ChunkId, Damage)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.state.with(|s| {
            let next = s.damaged.range((after.map_or(Unbounded, Excluded), Unbounded));
            let gone = next.filter(|(_, damage)| !damage.gone.is_empty());
            gone.take(max).map(|(id, damage)| (*id, *damage)).collect()
        })
    }

    /// Shards of a chunk that are not stored yet, as far as is known.
    pub(crate) fn not_stored(&self, id: &ChunkId) -> ShardSet {
        self.state.with(|s| s.not_stored(id))
    }

    /// Returns the shards of a chunk that were found damaged.
    pub(crate) fn damage(&self, id: &ChunkId) -> Damage {
        self.state.with(|s| s.damaged.get(id).copied().unwrap_or_default())
    }

    /// Shards found gone or rotten that are not for mending anyway.
    pub(crate) fn damaged_shards(&self) -> usize {
        self.state.with(|s| s.damaged.iter().map(|(id, d)| d.all().minus(s.not_stored(id)).count()).sum())
    }

    /// Notes that a shard's upload was given up: from now on it is for mending.
    pub(crate) fn left(&self, id: ChunkId, shard: usize) {
        self.state.update(|s| {
            take(&mut s.under_way, &id, ShardSet::default().with(shard));
            s.changes += 1;
            if s.leaving.put_ended(&id, ShardSet::default().with(shard)) {
                return;
            }
            if s.missing.len() >= ENTRIES_MAX && !s.missing.contains_key(&id) {
                (s.overflow, s.overflowed) = (true, s.changes);
            } else {
                let known = s.missing.entry(id).or_default();
                *known = known.with(shard);
            }
        });
    }

    /// Notes that these shards are stored. Those that were rotten stay so: perhaps only their footers were looked at.
    pub(crate) fn stored(&self, id: &ChunkId, shards: ShardSet) {
        self.state.update(|s| {
            let rotten = s.damaged.get(id).map(|d| d.rotten).unwrap_or_default();
            let sound = shards.minus(rotten);
            s.changes += u64::from(s.leaving.put_ended(id, shards));
            if take(&mut s.missing, id, shards) | take(&mut s.under_way, id, shards) | s.right(id, sound) {
                s.changes += 1;
            }
        });
    }

    /// Notes that these shards are stored and right in every byte, or not wanted any more.
    pub(crate) fn remove(&self, id: &ChunkId, shards: ShardSet) {
        self.state.update(|s| {
            if take(&mut s.missing, id, shards) | take(&mut s.under_way, id, shards) | s.right(id, shards) {
                s.changes += 1;
            }
        });
    }

    /// Notes that these shards are not damaged after all.
    pub(crate) fn remove_damage(&self, id: &ChunkId, shards: ShardSet) {
        // Asked for each shard that a scrub finds right: nobody is woken for those.
        if !self.damage(id).all().and(shards).is_empty() {
            self.state.update(|s| s.changes += u64::from(s.right(id, shards)));
        }
    }

    /// Returns what is known to be missing now, for `all_is_there`.
    pub(crate) fn hints(&self) -> SeenMissing {
        self.state.with(|s| SeenMissing { missing: s.missing.clone(), changes: s.changes })
    }

    /// Notes that everything but these chunks was looked at since `hints` were all that was known, and that nothing is left.
    /// What was found missing since then stays.
    pub(crate) fn all_is_there(&self, hints: &SeenMissing, but: &BTreeSet<ChunkId>) {
        self.state.update(|s| {
            s.overflow &= s.overflowed > hints.changes;
            s.leaving.overflow &= s.leaving.overflowed > hints.changes;
            for (id, shards) in hints.missing.iter().filter(|(id, _)| !but.contains(id)) {
                take(&mut s.missing, id, *shards);
            }
            s.changes += 1;
        });
    }

    /// Shards known to be left out, and whether more may be missing.
    pub(crate) fn pending(&self) -> (usize, bool) {
        self.state.with(|s| {
            let all = s.missing.values().chain(s.under_way.values());
            (all.map(|mask| mask.count()).sum(), s.overflow)
        })
    }

    /// Waits until nothing is known to be left out.
    pub(crate) async fn none(&self) {
        self.state.until(|s| (s.missing.is_empty() && s.under_way.is_empty()).then_some(())).await;
    }

    /// Calls `f` for each chunk that lacks shards, as far as is known, with those left out and those damaged.
    pub(crate) fn each_lacking(&self, mut f: impl FnMut(&ChunkId, ShardSet, ShardSet)) {
        self.state.with(|s| {
            let under_way = s.under_way.keys().filter(|id| !s.missing.contains_key(id));
            let rest = s.damaged.keys().filter(|id| s.not_stored(id).is_empty());
            for id in s.missing.keys().chain(under_way).chain(rest) {
                let damaged = s.damaged.get(id).map(|d| d.all()).unwrap_or_default();
                f(id, s.not_stored(id), damaged);
            }
        });
    }

    /// Returns the next chunks after this one that lack shards, in order.
    pub(crate) fn after(&self, after: Option<ChunkId>, max: usize) -> Vec<(ChunkId, ShardSet)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.state.with(|s| {
            let from = after.map_or(Unbounded, Excluded);
            s.missing.range((from, Unbounded)).take(max).map(|(id, mask)| (*id, *mask)).collect()
        })
    }

    /// Waits until something is missing or to be deleted; false when closed.
    pub(crate) async fn any(&self) -> bool {
        let any = |s: &State| !s.missing.is_empty() || !s.leaving.missed.is_empty();
        self.state.until(|s| (s.closed || any(s)).then_some(!s.closed)).await
    }

    /// Looks at what is remembered of deletions.
    pub(crate) fn leaving<T>(&self, look: impl FnOnce(&Leaving) -> T) -> T {
        self.state.with(|s| look(&s.leaving))
    }

    /// Notes that nobody needs these chunks any more: nothing of them is missing, and what a put that goes on may bring is to
    /// be deleted.
    pub(crate) fn dead(&self, ids: &[ChunkId]) {
        self.state.update(|s| {
            for id in ids {
                let known = s.missing.remove(id).is_some() | s.damaged.remove(id).is_some();
                let put = s.under_way.remove(id);
                s.changes += u64::from(known || put.is_some());
                s.leaving.dead(id, put.unwrap_or_default());
            }
        });
    }

    /// Does what `dead` does for each chunk with shards missing or being put that `is_dead` tells to be dead.
    pub(crate) fn bury(&self, is_dead: impl Fn(&ChunkId) -> bool) {
        let known = self.state.with(|s| {
            let all = s.missing.keys().chain(s.under_way.keys()).chain(s.leaving.putting());
            all.filter(|id| is_dead(id)).copied().collect::<BTreeSet<_>>()
        });
        if !known.is_empty() {
            self.dead(&known.into_iter().collect::<Vec<_>>());
        }
    }

    /// Shards are put again; the number of this, for `put_ended`. Should their chunk die meanwhile, they must not stay.
    pub(crate) fn put_begins(&self, id: ChunkId, shards: ShardSet) -> u64 {
        self.state.with(|s| s.leaving.put_begins(id, shards))
    }

    pub(crate) fn put_ended(&self, number: u64) {
        self.state.update(|s| s.changes += u64::from(s.leaving.put_again_ended(number)));
    }

    /// Changes what is remembered of deletions.
    pub(crate) fn change_leaving<T>(&self, change: impl FnOnce(&mut Leaving) -> T) -> T {
        self.state.update(|s| {
            s.changes += 1;
            s.leaving.now = s.changes;
            change(&mut s.leaving)
        })
    }

    /// Waits until everything known now is on disk, or this is closed.
    pub(crate) async fn flushed(&self) {
        let goal = self.state.with(|s| s.changes);
        self.state.until(|s| (s.written >= goal || s.closed).then_some(())).await;
    }

    pub(crate) fn close(&self) {
        self.state.update(|s| s.closed = true);
    }

    pub(crate) fn closed(&self) -> bool {
        self.state.with(|s| s.closed)
    }

    fn encode(&self) -> (u64, Bytes) {
        self.state.with(|s| {
            let mut all: BTreeMap<ChunkId, (ShardSet, Damage, ShardSet)> = BTreeMap::new();
            for (id, mask) in s.missing.iter().chain(&s.under_way) {
                let (known, ..) = all.entry(*id).or_default();
                *known = known.or(*mask);
            }
            for (id, damage) in &s.damaged {
                all.entry(*id).or_default().1 = *damage;
            }
            for (id, mask) in s.leaving.all() {
                let (_, _, known) = all.entry(id).or_default();
                *known = known.or(mask);
            }
            // What is under way is little; a list that is full anyway says so.
            let cut = all.len() > FILE_ENTRIES;
            let flag = |on: bool, bit: u8| if on || cut { bit } else { 0 };
            let flags = flag(s.overflow, MORE_MISSING) | flag(s.leaving.overflow, MORE_TO_DELETE);
            let count = all.len().min(FILE_ENTRIES);
            let mut w = Writer::with_capacity(HEADER + 4 + ENTRY * count);
            w.u64(MAGIC).u128(self.pool.0).u8(flags).u64(s.leaving.guesses).u32(count as u32);
            for (id, (left_out, damage, delete)) in all.iter().take(count) {
                w.u128(id.volume.0).u64(id.epoch.0).u64(id.seq.0);
                w.u64(left_out.0).u64(damage.gone.0).u64(damage.rotten.0).u64(delete.0);
            }
            let check = crc32c(&w.buf);
            w.u32(check);
            (s.changes, w.buf.into())
        })
    }
}

/// The contents of a file of missing shards.
#[derive(Debug, Default)]
pub(super) struct Known {
    missing: BTreeMap<ChunkId, ShardSet>,
    damaged: BTreeMap<ChunkId, Damage>,
    overflow: bool,
    leaving: Leaving,
}

pub(super) fn decode(bytes: &[u8], pool: PoolId) -> Result<Known> {
    let mut r = Reader::new(bytes, "the list of pending shards");
    if bytes.len() < 4 || crc32c(&bytes[..bytes.len() - 4]).to_le_bytes() != bytes[bytes.len() - 4..] {
        return Err(r.bad("its checksum is wrong"));
    }
    if r.u64()? != MAGIC {
        return Err(r.bad("it is another file"));
    }
    if r.u128()? != pool.0 {
        return Err(r.bad("it is another pool's"));
    }
    let flags = r.u8()?;
    let mut known = Known { overflow: flags & MORE_MISSING != 0, ..Known::default() };
    (known.leaving.overflow, known.leaving.guesses) = (flags & MORE_TO_DELETE != 0, r.u64()?);
    let count = r.u32()? as usize;
    if count.checked_mul(ENTRY).and_then(|n| n.checked_add(4)) != Some(r.left()) {
        return Err(r.bad("its length is wrong"));
    }
    for _ in 0..count {
        let id = ChunkId { volume: VolumeId(r.u128()?), epoch: Epoch(r.u64()?), seq: Seq(r.u64()?) };
        let left_out = ShardSet(r.u64()?);
        if !left_out.is_empty() {
            known.missing.insert(id, left_out);
        }
        let damage = Damage { gone: ShardSet(r.u64()?), rotten: ShardSet(r.u64()?) };
        if !damage.all().is_empty() {
            known.damaged.insert(id, damage);
        }
        let delete = ShardSet(r.u64()?);
        if !delete.is_empty() {
            known.leaving.missed.insert(id, delete);
        }
    }
    Ok(known)
}

async fn keep_written(rt: Rt, missing_shards: Arc<MissingShards>) {
    loop {
        let more =
            missing_shards.state.until(|s| (s.closed || s.changes > s.written).then_some(!s.closed)).await;
        if !more {
            return;
        }
        let entries =
            missing_shards.state.with(|s| s.missing.len() + s.damaged.len() + s.leaving.missed.len());
        rt.sleep((GATHER * (1 + (entries / GATHER_ENTRIES) as u32)).min(GATHER_MAX)).await;
        // The number is taken with the bytes: a change that comes during the write must count as unwritten.
        let (changes, bytes) = missing_shards.encode();
        match missing_shards.disk.write_atomic(&missing_shards.path, bytes).await {
            Ok(()) => missing_shards.state.update(|s| s.written = changes),
            Err(e) => {
                // Only time is lost: scrub finds what is missing.
                tracing::warn!("{} can't be written: {e}", missing_shards.path.display());
                rt.sleep(Duration::from_secs(10)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::{RealDisk, RealRuntime};

    fn id(seq: u64) -> ChunkId {
        ChunkId { volume: VolumeId(7), epoch: Epoch(1), seq: Seq(seq) }
    }

    #[tokio::test]
    async fn hints_survive_a_restart_and_a_damaged_file_says_scrub() {
        let dir = tempfile::tempdir().unwrap();
        let rt = Rt::new(RealRuntime::current());
        let disk = RealDisk::start();
        let of = |pool| MissingShards::open(&rt, disk.clone(), dir.path(), PoolId(pool));
        let open = || of(1);
        let missing_shards = open().await.unwrap();
        missing_shards.add_under_way(id(1), ShardSet::all(2));
        missing_shards.add_under_way(id(2), ShardSet::default().with(5));
        assert!(missing_shards.after(None, 9).is_empty(), "what is under way is not mended");
        missing_shards.left(id(2), 5);
        missing_shards.remove(&id(1), ShardSet::default().with(0));
        assert_eq!(missing_shards.pending(), (2, false));
        let damage = Damage { gone: ShardSet::default().with(3), rotten: ShardSet::default().with(5) };
        missing_shards.damaged(id(2), damage);
        missing_shards.damaged(id(9), damage);
        missing_shards.damaged(id(9), Damage { gone: ShardSet::default().with(5), ..Damage::default() });
        missing_shards.remove(&id(9), ShardSet::default().with(3));
        assert_eq!(
            (missing_shards.pending(), missing_shards.damaged_shards()),
            ((2, false), 2),
            "one is for mending anyway"
        );
        let mut lacking = Vec::new();
        missing_shards.each_lacking(|id, left_out, damaged| lacking.push((*id, left_out.0, damaged.0)));
        assert_eq!(lacking, [(id(2), 0b100000, 0b101000), (id(1), 0b10, 0), (id(9), 0, 0b100000)]);
        missing_shards.stored(&id(2), ShardSet::default().with(3).with(5));
        assert_eq!(missing_shards.damage(&id(2)), Damage::rotten(5), "a footer alone says nothing of rot");
        assert_eq!(missing_shards.pending().0, 1, "but the shard is stored");
        missing_shards.left(id(2), 5);
        missing_shards.damaged(id(2), damage);
        missing_shards.flushed().await;
        missing_shards.close();
        let other = of(2).await.unwrap();
        assert_eq!(other.pending(), (0, false), "another pool of that name knows nothing of them");
        other.left(id(3), 0);
        other.flushed().await;
        other.close();
        let path = dir.path().join(format!("pending.{}", PoolId(1)));
        let missing_shards = open().await.unwrap();
        assert_eq!(missing_shards.pending(), (2, false));
        assert_eq!(missing_shards.after(Some(id(1)), 9), [(id(2), ShardSet::default().with(5))]);
        let last = Damage { gone: ShardSet::default().with(5), ..Damage::default() };
        assert_eq!(missing_shards.all_damaged(), [(id(2), damage), (id(9), last)]);
        missing_shards.close();
        let mut bytes = disk.read(&path, 1000).await.unwrap().to_vec();
        bytes[40] ^= 1;
        disk.write_atomic(&path, bytes.into()).await.unwrap();
        assert_eq!(open().await.unwrap().pending(), (0, true));
    }

    #[test]
    fn golden_bytes_and_bad_input() {
        let mut w = Writer::default();
        w.u64(MAGIC).u128(1).u8(MORE_TO_DELETE).u64(3).u32(1).u128(7).u64(1).u64(2);
        w.u64(0).u64(4).u64(1).u64(10);
        let check = crc32c(&w.buf);
        w.u32(check);
        assert_eq!(w.buf.len(), 37 + 64 + 4);
        let hex: String = w.buf.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "574c48494e545333010000000000000000000000000000000203000000000000000100000007000000000000000000000000000000",
                "010000000000000002000000000000000000000000000000040000000000000001000000000000000a00000000000000",
                "8aec4eaf"
            )
        );
        let known = decode(&w.buf, PoolId(1)).unwrap();
        let damage = Damage { gone: ShardSet(4), rotten: ShardSet(1) };
        assert_eq!(
            (known.missing.len(), known.damaged, known.overflow),
            (0, [(id(2), damage)].into(), false)
        );
        let leaving = known.leaving;
        assert_eq!(
            (leaving.missed, leaving.guesses, leaving.overflow),
            ([(id(2), ShardSet(10))].into(), 3, true)
        );
        for cut in 0..w.buf.len() {
            assert!(decode(&w.buf[..cut], PoolId(1)).is_err());
        }
        assert!(decode(&w.buf, PoolId(2)).is_err());
    }
}

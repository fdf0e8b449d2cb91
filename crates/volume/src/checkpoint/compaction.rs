//! What is left of objects that are mostly dead is packed: several into one, when a volume takes more space than it should
//! (protocol.md §5.5; which ones: docs/decisions.md).
//!
//! Objects with the fewest survivors come first; those that were packed before hold what is cold, and a share is added for
//! that, as far as it shows: by how much more slowly they die. What a pack takes was live by the recorded table; what
//! dies meanwhile is dead in it. Its sources are retired by the checkpoint that names it.
//!
//! On the way, and where there is nothing to pack, what older data keys sealed is sealed anew (`rotation`), and what is cold is
//! compressed anew if the volume is to (`recompress`).

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use parking_lot::Mutex;

use super::recompress::{AWAY_AGAIN, Cold, ColdWork, LOOK_AGAIN, gains};
use super::rotation::{RotationWork, sealed_anew};
use crate::head::Stop;
use crate::read::passes;
use crate::session::Session;
use crate::space::{
    Alteration, ChunkTable, Cursor, Entry, Home, Object, PACKINGS_MAX, Repacked, RunIndex, Survivors,
};
use windlass_base::rt::Instant;
use windlass_base::{ChunkId, Error, Kind, Result, Seq};
use windlass_frame::{FRAME_MAX, Place};
use windlass_keys::{ChunkSeal, KeyAccess};
use windlass_log::{FrameRef, PackDraft, PackFrame, Placing, Slice, Toc, chunk_target};
use windlass_map::Pages;
use windlass_pool::{ChunkKind, Need, Payload};
use windlass_store::Cause;

/// Pause after packing that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// Packs made at the same time.
const AT_ONCE: usize = 4;
/// Time for which the stores are waited for before w is looked at again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Amount by which the share of survivors counts as less, when objects of an age die e (2.718) times more slowly than new ones.
const COLDER: f64 = 0.15;
const COLDER_MAX: f64 = 0.45;
/// Per mille of what is live that all objects may take when somebody asked for collection.
const URGED: u64 = 1200;
/// Divisor of a pack's room: an object that holds at most this part of it is small.
const SMALL: u64 = 16;
/// Small objects that become one, at most: each of them is read whole.
const MERGED_MAX: usize = 2048;
/// Small objects read at the same time for one pack.
const READ_AT_ONCE: usize = 16;
/// Factor by which earlier deaths still count when more are seen.
const FADE: f64 = 0.9;

/// Rates at which objects die, by how often they were packed.
#[derive(Debug, Default)]
pub struct DeathRates {
    /// Dead bytes counted last, by object.
    seen: BTreeMap<Object, u64>,
    died: [f64; PACKINGS_MAX as usize + 1],
    colder: [f64; PACKINGS_MAX as usize + 1],
}

/// An object, as a source of a pack.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// Bytes as stored, about.
    total: u64,
    live: u64,
    /// Bytes that what is left of the object takes in a pack, at most.
    most: u64,
    packings: usize,
}

fn sources(chunk_table: &ChunkTable) -> BTreeMap<Object, Source> {
    let mut all: BTreeMap<Object, Source> = BTreeMap::new();
    for (seq, e) in chunk_table.packable() {
        let source = all.entry(e.object(seq)).or_default();
        let (total, live) = e.stored();
        source.total += total;
        source.live += live;
        source.most += e.live();
        source.packings = source.packings.max(e.packings().into());
    }
    all
}

impl DeathRates {
    /// Counts what died since the last table.
    fn look(&mut self, all: &BTreeMap<Object, Source>) {
        let mut live = [0.0; PACKINGS_MAX as usize + 1];
        self.died.iter_mut().for_each(|d| *d *= FADE);
        for (object, s) in all {
            let dead = s.total - s.live.min(s.total);
            live[s.packings] += s.live as f64;
            // What is seen first died before its pace was watched.
            let before = self.seen.get(object).copied().unwrap_or(dead);
            self.died[s.packings] += dead.saturating_sub(before) as f64;
        }
        self.seen = all.iter().map(|(o, s)| (*o, s.total - s.live.min(s.total))).collect();
        let pace = |n: usize| (self.died[n] / live[n]).max(1e-9);
        let all: f64 = live.iter().sum();
        for n in 1..self.colder.len() {
            // Of little, little is known.
            let known = self.died[0] > 0.0 && live[0] > 0.02 * all && live[n] > 0.02 * all;
            let slower = if known { (pace(0) / pace(n)).max(1.0).ln() } else { 0.0 };
            self.colder[n] = (COLDER * slower).min(COLDER_MAX);
        }
    }

    fn score(&self, s: &Source) -> f64 {
        s.live as f64 / s.total.max(1) as f64 - self.colder[s.packings]
    }

    /// Returns the space, per mille of what is live, that all objects may take: the more, the less of it a pack could spare.
    fn space_max(&self, (skewed, even): (u64, u64)) -> u64 {
        let skew = self.colder.iter().fold(0.0, |a: f64, b| a.max(*b)) / COLDER_MAX;
        even - ((even - skewed) as f64 * skew) as u64
    }

    /// Returns the sources of the next packs, best first; none when there is nothing to gain.
    fn choose(&self, all: &BTreeMap<Object, Source>, space: u64, aim: Aim) -> Vec<BTreeSet<Object>> {
        let live: u64 = all.values().map(|s| s.live).sum();
        let enough = u64::try_from(u128::from(live) * u128::from(aim.space_max) / 1000).unwrap_or(u64::MAX);
        let mut excess = space.saturating_sub(enough);
        let mut best: Vec<_> = all.iter().filter(|(_, s)| s.live < s.total).collect();
        best.sort_by(|a, b| self.score(a.1).total_cmp(&self.score(b.1)).then(a.0.cmp(b.0)));
        let mut packs = Vec::new();
        // Where the age of the best one frees too little, that of the next best one may free enough.
        while let (true, Some(alike)) = (packs.is_empty(), best.first().map(|(_, s)| s.packings)) {
            let (of_one_age, others): (Vec<_>, Vec<_>) =
                best.into_iter().partition(|(_, s)| s.packings == alike);
            best = others;
            packs = packs_of(of_one_age, &mut excess, aim);
        }
        if packs.is_empty() { aim.merged(all).into_iter().collect() } else { packs }
    }
}

/// Aim of packing.
#[derive(Clone, Copy, Debug)]
struct Aim {
    /// Space that is enough, per mille of what is live.
    space_max: u64,
    /// Most live bytes of a pack.
    room: u64,
    /// Least bytes that a pack must free.
    gain_min: u64,
    /// Least number of small objects that are made one.
    small_min: usize,
}

impl Aim {
    /// Chooses small objects, to be made one. Merging frees no bytes, but requests, and entries of the table. It takes
    /// `small_min` objects at least, so that what is in one is written again a logarithmic number of times.
    fn merged(&self, all: &BTreeMap<Object, Source>) -> Option<BTreeSet<Object>> {
        let mut room = self.room;
        let small = all.iter().filter(|(_, s)| s.live > 0 && s.total <= self.room / SMALL);
        let fitting = small.take_while(|(_, s)| {
            let fits = s.most <= room;
            room = room.saturating_sub(s.most);
            fits
        });
        let taken: BTreeSet<_> = fitting.map(|(object, _)| *object).take(MERGED_MAX).collect();
        (taken.len() >= self.small_min).then_some(taken)
    }
}

/// Returns packs of sources of one age, best first, until the excess is gone or another one would free too little.
fn packs_of(sources: Vec<(&Object, &Source)>, excess: &mut u64, aim: Aim) -> Vec<BTreeSet<Object>> {
    let Aim { room, gain_min, .. } = aim;
    let mut best = sources.into_iter().peekable();
    let mut packs = Vec::new();
    while *excess > 0 && packs.len() < AT_ONCE {
        let (mut taken, mut bytes, mut gain) = (BTreeSet::new(), 0, 0);
        while let Some((object, s)) = best.next_if(|(_, s)| bytes + s.most <= room || taken.is_empty()) {
            bytes += s.most;
            gain += s.total - s.live;
            taken.insert(*object);
        }
        // Else packing would go on for ever about what it writes itself.
        if gain < gain_min.max(bytes / 20) || taken.is_empty() {
            break;
        }
        *excess = excess.saturating_sub(gain);
        packs.push(taken);
    }
    packs
}

/// Reader of runs' pages that reads each once a pack.
struct Memo<'a> {
    pages: &'a dyn Pages,
    read: Mutex<BTreeMap<FrameRef, Bytes>>,
}

#[async_trait]
impl Pages for Memo<'_> {
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        self.pages.chunk(at)
    }

    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes> {
        let known = self.read.lock().get(at).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let bytes = self.pages.load(at, address).await?;
        self.read.lock().insert(*at, bytes.clone());
        Ok(bytes)
    }
}

type Frames = Vec<PackFrame>;

/// Result of a look for something to pack.
enum Look {
    Done,
    /// Nothing is to be packed; with the time to look again, whatever happens.
    Nothing(Option<Instant>),
}

/// Reason why objects are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Space,
    /// Objects are packed to seal them by the newest data key.
    Keys,
    /// Objects are packed for what compression saves: one that gains little stays as it is.
    Compression,
}

/// Packs objects while the volume takes more space than it should.
pub async fn compact(session: Arc<Session>) {
    let (mut pace, mut cold) = (DeathRates::default(), ColdWork::default());
    let mut rotation = RotationWork::default();
    loop {
        // Registered before the look: a notice that comes while it goes on must not be lost.
        let news = session.collect.notified();
        let mut news = std::pin::pin!(news);
        news.as_mut().enable();
        let asked = session.pace.last_asked();
        match session.look_for_work(&mut pace, &mut cold, &mut rotation).await {
            Ok(Look::Done) => {}
            Ok(Look::Nothing(again)) => {
                session.pace.found_nothing(asked);
                session.set_pace();
                match again {
                    Some(at) => {
                        let rt = session.context.rt();
                        rt.timeout(at.since(rt.now()), news).await;
                    }
                    None => news.await,
                }
            }
            Err(stop) => {
                tracing::warn!(volume = %session.context.name(), error = %stop.error(), "objects could not be packed; it is tried again");
                session.context.rt().sleep(AGAIN).await;
            }
        }
    }
}

impl Session {
    async fn look_for_work(
        self: &Arc<Self>,
        pace: &mut DeathRates,
        cold: &mut ColdWork,
        rotation: &mut RotationWork,
    ) -> Result<Look, Stop> {
        // What packs for space leaves dead may be worth the next pack, for as long as nobody writes; and it may fail each time. A
        // rotation has its turn beside it.
        let packed = self.pack_once(pace).await;
        let sealed = self.seal_anew(rotation).await?;
        if packed? {
            return Ok(Look::Done);
        }
        match (sealed, self.recompress(cold).await?) {
            (Look::Done, _) | (_, Look::Done) => Ok(Look::Done),
            (Look::Nothing(one), Look::Nothing(other)) => {
                Ok(Look::Nothing(one.into_iter().chain(other).min()))
            }
        }
    }

    /// Packs once for space. Returns whether there was something to pack.
    async fn pack_once(self: &Arc<Self>, pace: &mut DeathRates) -> Result<bool, Stop> {
        let chunk_table = self.chunk_table.lock().clone();
        let all = sources(&chunk_table);
        pace.look(&all);
        let chosen = pace.choose(&all, self.stored_bytes(), self.aim(pace));
        if chosen.is_empty() {
            return Ok(false);
        }
        let repack = |sources| self.repack(&chunk_table, sources, Purpose::Space);
        let packs = join_all(chosen.into_iter().map(repack));
        let (mut moved, mut failed) = (Vec::new(), None);
        for pack in self.or_end(packs).await? {
            pack.map_or_else(|e| failed = Some(e), |pack| moved.push(pack));
        }
        if !moved.is_empty() {
            self.publish_packs(moved).await?;
        }
        match failed {
            Some(e) => Err(self.end_by_absence(e).await),
            None => Ok(true),
        }
    }

    /// Makes one pack of what is cold, when its turn has come; at once while somebody waits for collection.
    async fn recompress(self: &Arc<Self>, work: &mut ColdWork) -> Result<Look, Stop> {
        let Some(cold) = self.cold() else { return Ok(Look::Nothing(None)) };
        let now = self.context.rt().now();
        let urged = self.pace.urged.load(Ordering::Relaxed) > 0;
        if work.turn > now && !urged {
            return Ok(Look::Nothing(Some(work.turn)));
        }
        if self.context.engine.pool.condition().lacks(Need::Store) {
            return Ok(Look::Nothing(Some(now + AWAY_AGAIN)));
        }
        let chunk_table = self.chunk_table.lock().clone();
        let chosen = cold.choose(&chunk_table, self.pack_room(), &work.failed);
        if chosen.is_empty() {
            return Ok(Look::Nothing(Some(now + LOOK_AGAIN)));
        }
        work.went_through(whole_objects(&chunk_table, &chosen).values().sum(), now);
        let pack = self.repack(&chunk_table, chosen.clone(), Purpose::Compression);
        match self.or_end(pack).await? {
            Ok(pack) => self.publish_packs(vec![pack]).await.map(|()| Look::Done),
            Err(e) => {
                if !passes(&e) {
                    work.failed.extend(chosen);
                }
                Err(self.end_by_absence(e).await)
            }
        }
    }

    /// Does a step of a rotation, while one is under way: a pack of what older data keys have sealed; where there is none, a
    /// checkpoint that passes what they sealed of the log; at last its end.
    async fn seal_anew(self: &Arc<Self>, work: &mut RotationWork) -> Result<Look, Stop> {
        let Some(key) = self.learn_keys()? else { return Ok(Look::Nothing(None)) };
        let now = self.context.rt().now();
        if self.context.engine.pool.condition().lacks(Need::Store) {
            return Ok(Look::Nothing(Some(now + AWAY_AGAIN)));
        }
        let chunk_table = self.chunk_table.lock().clone();
        let chosen = work.choose(&chunk_table, key, self.pack_room());
        if !chosen.is_empty() {
            let pack = self.repack(&chunk_table, chosen.clone(), Purpose::Keys);
            return match self.or_end(pack).await? {
                Ok(pack) => self.publish_packs(vec![pack]).await.map(|()| Look::Done),
                Err(e) => {
                    if !passes(&e) {
                        work.could_not(chosen);
                        work.again = now + LOOK_AGAIN;
                    }
                    Err(self.end_by_absence(e).await)
                }
            };
        }
        if self.is_sealed_by(&chunk_table, key) {
            return self.end_rotation(key).await.map(|()| Look::Done);
        }
        if work.wants_checkpoint() {
            self.make_checkpoint(&[], Some(Alteration::Names)).await?;
            return Ok(Look::Done);
        }
        if work.again <= now {
            work.begin_again();
            work.again = now + LOOK_AGAIN;
        }
        Ok(Look::Nothing(Some(work.again)))
    }

    /// Returns the aim of packing. While somebody waits for collection, it is less space and fewer objects than writes alone
    /// would make worth it.
    fn aim(&self, pace: &DeathRates) -> Aim {
        let tuning = &self.context.engine.tuning;
        let aim = Aim {
            space_max: pace.space_max(tuning.space_max),
            room: self.pack_room(),
            gain_min: tuning.gain_min,
            small_min: tuning.small_min,
        };
        match self.pace.urged.load(Ordering::Relaxed) {
            0 => aim,
            _ => Aim { space_max: aim.space_max.min(URGED), small_min: (aim.small_min / 4).max(4), ..aim },
        }
    }

    /// Returns how many bytes of frames a pack holds at most.
    fn pack_room(&self) -> u64 {
        self.writer.chunk_target().min(self.context.engine.tuning.pack_max)
    }

    async fn repack(
        &self,
        chunk_table: &ChunkTable,
        sources: BTreeSet<Object>,
        purpose: Purpose,
    ) -> Result<Repacked> {
        let mut inside: BTreeMap<Object, Entries> = BTreeMap::new();
        for (seq, e) in
            chunk_table.entries().filter(|(seq, e)| sources.contains(&e.object(*seq)) && e.live() > 0)
        {
            inside.entry(e.object(seq)).or_default().push((seq, *e));
        }
        let (cold, all) = (self.cold(), || inside.values().flatten());
        let live: u64 = all().map(|(_, e)| e.live()).sum();
        // What is, or was, compressed anew takes less than the table counts.
        let known = all().all(|(_, e)| e.saved == 0 && !cold.is_some_and(|cold| cold.wants(e)));
        // Beside what is left and its parity: one source at a time, whole, or several small ones.
        let (k, n) = (self.writer.k(), self.context.engine.pool.layout().n());
        let gathered = if known { 0 } else { live };
        let laid_out = live * n.div_ceil(k) as u64;
        let held = self.context.engine.memory.encode.take(chunk_target(k) + gathered + laid_out).await;
        let dead = Arc::new(self.dead(chunk_table, all()).await?);
        let n = self.packs.fetch_add(1, Ordering::Relaxed) + 1;
        let pack = Object { epoch: self.epoch, seq: Seq::pack(n) };
        let id = pack.of(self.context.id);
        let seal = self.context.key.as_ref().map(|key| key.chunk(&id, self.context.rt().random128()));
        let sealed_by = seal.as_ref().map_or(0, ChunkSeal::number);
        let draft = if known { PackDraft::new(id, k, live, seal) } else { PackDraft::gathering(id, k, seal) };
        let whole = whole_objects(chunk_table, &sources);
        let mut filling = Filling { draft, sources, slices: Vec::new(), settled: Vec::new() };
        for group in in_groups(inside, &whole, chunk_target(k)) {
            let payloads = try_join_all(group.iter().map(|(object, _)| self.whole(*object))).await?;
            for ((object, entries), payload) in group.into_iter().zip(payloads) {
                let left = self.left_of(payload, entries, dead.clone(), cold).await?;
                let after = left.iter().flat_map(|left| &left.frames).map(|f| f.data.len() as u64).sum();
                let before = whole.get(&object).copied().unwrap_or(after);
                let worth = purpose != Purpose::Compression || gains(before, after);
                filling = self.context.rt().cpu(move || filling.with(object, left, worth)).await?;
            }
        }
        let Filling { draft, sources, slices, settled } = filling;
        let mut chunks = Vec::new();
        // Before the put begins: shards may land on stores that are replaced while it goes on.
        let counted_in = self.context.engine.pool.generation();
        if !slices.is_empty() {
            let era = slices.iter().map(|slice| slice.entry.era).max().unwrap_or_default();
            let (chunk, placings) = self.context.rt().cpu(move || draft.finish(era)).await?;
            let survivors = |(packed, at): (Packed, Placing)| {
                let Packed { seq, entry, settled, key } = packed;
                let Placing { at, len, bytes, saved, .. } = at;
                Survivors { seq, at, len, bytes, saved, dead: entry.dead, settled, key: key.min(sealed_by) }
            };
            chunks = slices.into_iter().zip(placings).map(survivors).collect();
            let stored = chunks.iter().map(|c| c.bytes - c.saved).sum();
            self.packed_bytes.fetch_add(stored, Ordering::Relaxed);
            self.put_pack(chunk).await?;
        }
        drop(held);
        Ok(Repacked { pack, counted_in, sources, chunks, settled })
    }

    /// Returns what is left of an object, chunk by chunk; what older data keys sealed is sealed anew, what is cold compressed
    /// anew.
    async fn left_of(
        &self,
        payload: Payload,
        entries: Entries,
        dead: Arc<BTreeMap<Seq, BTreeSet<u64>>>,
        cold: Option<Cold>,
    ) -> Result<Vec<Left>> {
        let (access, volume) = (self.context.access(), self.context.id);
        let seal_of = |(seq, entry): &(Seq, Entry)| {
            let key = self.context.key.as_ref().filter(|key| entry.key < key.number())?;
            let chunk = ChunkId { volume, epoch: entry.epoch, seq: *seq };
            Some(key.chunk(&chunk, self.context.rt().random128()))
        };
        let seals: Vec<Option<ChunkSeal>> = entries.iter().map(seal_of).collect();
        let find = move || -> Result<Vec<Left>> {
            let left = |((seq, entry), seal): ((Seq, Entry), Option<ChunkSeal>)| {
                let mut frames = survivors(&payload, seq, &entry, dead.get(&seq), &access)?;
                let chunk = ChunkId { volume, epoch: entry.epoch, seq };
                check_tags(&frames, chunk, &access)?;
                if let Some(seal) = seal {
                    sealed_anew(&mut frames, chunk, &access, &seal)?;
                }
                Ok(Left { seq, entry, frames, tried: false })
            };
            entries.into_iter().zip(seals).map(left).collect()
        };
        let mut all = self.context.rt().cpu(find).await??;
        for left in all.iter_mut().filter(|left| cold.is_some_and(|cold| cold.wants(&left.entry))) {
            let chunk = ChunkId { volume: self.context.id, epoch: left.entry.epoch, seq: left.seq };
            left.frames = self.compress_anew(chunk, take(&mut left.frames)).await?;
            left.tried = true;
        }
        Ok(all)
    }

    async fn put_pack(&self, chunk: windlass_pool::Chunk) -> Result<()> {
        let (pool, rt, id) = (&self.context.engine.pool, self.context.rt(), chunk.id);
        // With too few stores for w somebody must find out, also while nothing is written.
        let _putting = self.writer.puts();
        let upload = pool.put_chunk(chunk);
        loop {
            let w = *self.w.borrow();
            if let Some(stored) = rt.timeout(PATIENCE, upload.wait(w)).await {
                stored?;
                break;
            }
        }
        if upload.stored() < pool.w() {
            // Completed with the chunks when stores are back.
            self.writer.completed(&id, upload.stored());
        }
        Ok(())
    }

    async fn whole(&self, object: Object) -> Result<Payload> {
        let pool = &self.context.engine.pool;
        let witnesses = self.head.lock().witnesses.clone();
        let id = object.of(self.context.id);
        let probe = pool.probe(&id, &witnesses, Cause::Checkpoint).await;
        pool.payload(&id, &probe, Cause::Checkpoint).await
    }

    /// Returns the offsets of these chunks' dead frames.
    async fn dead(
        &self,
        chunk_table: &ChunkTable,
        entries: impl Iterator<Item = &(Seq, Entry)>,
    ) -> Result<BTreeMap<Seq, BTreeSet<u64>>> {
        let memo = Memo { pages: self.context.view.pages(), read: Mutex::default() };
        let wanted: Vec<(Seq, Entry)> = entries.copied().collect();
        let mut dead: BTreeMap<Seq, BTreeSet<u64>> = BTreeMap::new();
        for folded in &chunk_table.folded {
            let index = RunIndex::load(&memo, &folded.part.run).await?;
            for (seq, entry) in &wanted {
                let mut cursor = Cursor::of_chunk(&memo, folded.part, &index, entry.era, *seq);
                while let Some(d) = cursor.next().await? {
                    if d.seq == *seq {
                        dead.entry(*seq).or_default().insert(d.offset);
                    }
                }
                self.context.rt().give_way().await;
            }
        }
        Ok(dead)
    }
}

type Entries = Vec<(Seq, Entry)>;

/// Frames that are left of one chunk.
struct Left {
    seq: Seq,
    entry: Entry,
    frames: Frames,
    /// True if the frames were compressed anew where that makes them smaller.
    tried: bool,
}

/// A pack that is being made.
struct Filling {
    draft: PackDraft,
    sources: BTreeSet<Object>,
    /// Chunks in the pack, in order.
    slices: Vec<Packed>,
    settled: Vec<(Seq, Object)>,
}

/// A chunk in a pack that is being made.
struct Packed {
    seq: Seq,
    entry: Entry,
    settled: bool,
    /// The oldest data key that sealed one of its frames.
    key: u8,
}

impl Filling {
    /// Adds what is left of an object, unless that is not worth its while: then the object is no source.
    fn with(mut self, object: Object, left: Vec<Left>, worth: bool) -> Filling {
        if !worth {
            self.sources.remove(&object);
            self.settled.extend(left.iter().filter(|left| left.tried).map(|left| (left.seq, object)));
            return self;
        }
        for Left { seq, entry, frames, tried } in left {
            self.draft.add(entry.epoch, seq, &frames);
            let key = frames.iter().map(|f| windlass_frame::data_key_of(&f.data)).min().unwrap_or(u8::MAX);
            self.slices.push(Packed { seq, entry, settled: entry.settled || tried, key });
        }
        self
    }
}

/// Returns the bytes of these objects as stored, of their dead chunks as well: a source is read whole.
fn whole_objects(chunk_table: &ChunkTable, sources: &BTreeSet<Object>) -> BTreeMap<Object, u64> {
    let mut whole = BTreeMap::new();
    for (seq, e) in chunk_table.entries().filter(|(seq, e)| sources.contains(&e.object(*seq))) {
        *whole.entry(e.object(seq)).or_insert(0) += e.stored().0;
    }
    whole
}

/// Divides objects into groups that are read together: at most `bytes` in each, unless one alone is larger. `whole`: bytes of
/// each, dead ones as well.
fn in_groups(
    objects: BTreeMap<Object, Entries>,
    whole: &BTreeMap<Object, u64>,
    bytes: u64,
) -> Vec<Vec<(Object, Entries)>> {
    let mut groups: Vec<Vec<(Object, Entries)>> = Vec::new();
    let mut room = 0;
    for (object, entries) in objects {
        let total = whole.get(&object).copied().unwrap_or(bytes);
        match groups.last_mut() {
            Some(group) if total <= room && group.len() < READ_AT_ONCE => group.push((object, entries)),
            _ => {
                groups.push(vec![(object, entries)]);
                room = bytes;
            }
        }
        room = room.saturating_sub(total);
    }
    groups
}

/// Returns a chunk's live frames, as they are stored. They must be what the table counts.
fn survivors(
    payload: &Payload,
    seq: Seq,
    entry: &Entry,
    dead: Option<&BTreeSet<u64>>,
    access: &KeyAccess,
) -> Result<Frames> {
    let unsound = || {
        let why =
            format!("chunk {seq} does not hold what the volume's table counts: run `windlass volume check`");
        Error::new(Kind::Corrupt, why)
    };
    let lies = |offset: u64| dead.is_some_and(|d| d.contains(&offset));
    let mut frames = Frames::new();
    match entry.home {
        Home::Own => {
            let chunk = &payload.chunk;
            let toc = payload.slice(chunk.toc_offset, chunk.toc_len).ok_or_else(unsound)?;
            let Toc { kind, frames: all, .. } = Toc::open(&toc, &chunk.id, chunk.toc_offset, access)?;
            for f in all.iter().filter(|f| !lies(f.offset)) {
                let data = payload.slice(f.offset, f.len).ok_or_else(unsound)?;
                let (address, is_data) = (Some(f.block), kind == ChunkKind::Data);
                frames.push(PackFrame { from: f.offset, was: f.len, address, is_data, data });
            }
        }
        Home::Pack { at, len, .. } => {
            let index = payload.slice(at, len).ok_or_else(unsound)?;
            let slice = Slice::open(&index, &payload.chunk.id, at, access)?;
            let (was, is) = slice
                .frames
                .iter()
                .fold((0, 0), |(was, is), f| (was + u64::from(f.was), is + u64::from(f.len)));
            if (slice.seq, was, was - is) != (seq, entry.total, entry.saved) {
                return Err(unsound());
            }
            for (n, f) in slice.frames.iter().enumerate().filter(|(_, f)| !lies(f.from)) {
                let data = payload.slice(f.to, f.len).ok_or_else(unsound)?;
                let (address, is_data) = (slice.addresses.get(n).copied(), slice.is_data);
                frames.push(PackFrame { from: f.from, was: f.was, address, is_data, data });
            }
        }
    }
    frames.sort_by_key(|f| f.from);
    let bytes: u64 = frames.iter().map(|f| u64::from(f.was)).sum();
    if bytes == entry.live() { Ok(frames) } else { Err(unsound()) }
}

/// Checks that the owner of an encrypted volume sealed each frame at its place. What takes a frame's place in a pack takes it
/// on all stores, so a false one that one store has slipped in is not to be moved.
fn check_tags(frames: &Frames, chunk: ChunkId, access: &KeyAccess) -> Result<()> {
    if !matches!(access, KeyAccess::Sealed(_)) {
        return Ok(());
    }
    for frame in frames {
        let Some(address) = frame.address else { continue };
        let place = Place { chunk, offset: frame.from, address };
        windlass_frame::open(&frame.data, &place, FRAME_MAX, access)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, VolumeId};
    use windlass_frame::{Codec, FrameKind, Packer};
    use windlass_keys::{Secret, VolumeKey};

    #[test]
    fn a_frame_that_its_owner_did_not_seal_is_not_moved() {
        let key = VolumeKey::new(VolumeId(1), [(1, Secret::new([7; 32]))]).unwrap();
        let other = VolumeKey::new(VolumeId(1), [(1, Secret::new([8; 32]))]).unwrap();
        let chunk = ChunkId { volume: VolumeId(1), epoch: Epoch(1), seq: Seq(4) };
        let frame = |key: &VolumeKey, at: u64| {
            let mut packer = Packer::new(Codec::None, Some(key.chunk(&chunk, 5)));
            let body = packer.pack(FrameKind::Data, Bytes::from(vec![3; 4096]));
            let mut out = Vec::new();
            packer.finish(&body, &Place { chunk, offset: at, address: 9 }, &mut out);
            let (was, address, is_data) = (out.len() as u32, Some(9), true);
            PackFrame { from: 96, was, address, is_data, data: out.into() }
        };
        let access = KeyAccess::Sealed(key.clone());
        check_tags(&vec![frame(&key, 96)], chunk, &access).unwrap();
        // Right in its checksum, by another's key; and of another place.
        for false_one in [frame(&other, 96), frame(&key, 8288)] {
            assert!(check_tags(&vec![frame(&key, 96), false_one], chunk, &access).is_err());
        }
    }

    fn object(n: u64) -> Object {
        Object { epoch: Epoch(1), seq: Seq(n) }
    }

    fn aim(space_max: u64, room: u64, gain_min: u64) -> Aim {
        Aim { space_max, room, gain_min, small_min: 100 }
    }

    #[test]
    fn small_objects_that_live_are_made_one() {
        let source = |total, packings| Source { total, live: total, most: total, packings };
        let mut all: BTreeMap<_, _> = (0..20).map(|n| (object(n), source(10, (n % 3) as usize))).collect();
        all.insert(object(20), source(300, 0));
        let choose = |all: &BTreeMap<_, _>, small_min| {
            DeathRates::default().choose(all, 500, Aim { small_min, ..aim(1300, 1600, 100) })
        };
        assert_eq!(choose(&all, 20), [(0..20).map(object).collect()]);
        assert!(choose(&all, 21).is_empty(), "too few of them");
        all.values_mut().for_each(|s| *s = source(s.total * 20, s.packings));
        assert!(choose(&all, 4).is_empty(), "they are large enough");
    }

    #[test]
    fn the_emptiest_of_one_age_are_taken_until_a_pack_is_full() {
        let source = |total, live, packings| Source { total, live, most: live, packings };
        let all: BTreeMap<_, _> = [
            (object(1), source(100, 90, 0)),
            (object(2), source(100, 20, 0)),
            (object(3), source(100, 10, 1)),
            (object(4), source(100, 30, 0)),
            (object(5), source(100, 5, 0)),
        ]
        .into();
        let pace = DeathRates::default();
        let (five, two, four) = (object(5), object(2), object(4));
        assert_eq!(pace.choose(&all, 500, aim(1450, 60, 0)), [[five, two, four].into(), [object(1)].into()]);
        assert_eq!(
            pace.choose(&all, 500, aim(1450, 25, 0)),
            [[five, two].into(), [four].into(), [object(1)].into()]
        );
        assert_eq!(pace.choose(&all, 350, aim(1450, 25, 0)), [[five, two].into()], "no more than needed");
        assert_eq!(pace.choose(&all, 300, aim(1450, 1, 0)), [[five].into()], "one at least");
        assert!(pace.choose(&all, 220, aim(1450, 60, 0)).is_empty(), "space enough");
        assert!(pace.choose(&all, 500, aim(1450, 60, 1000)).is_empty(), "it would free too little");
    }

    #[test]
    fn an_age_that_frees_too_little_does_not_keep_the_others_from_being_packed() {
        let source = |total, live, packings| Source { total, live, most: live, packings };
        let all: BTreeMap<_, _> = [
            (object(1), source(40, 1, 0)),
            (object(2), source(500, 500, 0)),
            (object(3), source(300, 150, 1)),
            (object(4), source(300, 100, 1)),
        ]
        .into();
        // The best one of all would free 39.
        let packs = DeathRates::default().choose(&all, 1140, aim(1200, 500, 100));
        assert_eq!(packs, [[object(3), object(4)].into()]);
    }

    #[test]
    fn what_is_colder_is_packed_earlier_and_skew_makes_it_tighter() {
        let source = |live, packings| Source { total: 1000, live, most: live, packings };
        let mut pace = DeathRates::default();
        let at = |new, cold| -> BTreeMap<_, _> {
            [(object(1), source(new, 0)), (object(2), source(cold, 1))].into()
        };
        pace.look(&at(1000, 1000));
        pace.look(&at(700, 700));
        assert_eq!((pace.colder[1], pace.space_max((1300, 1450))), (0.0, 1450), "all die alike");
        let mut pace = DeathRates::default();
        pace.look(&at(1000, 1000));
        pace.look(&at(700, 990));
        assert!(pace.colder[1] > 0.4 && pace.space_max((1300, 1450)) < 1320, "{pace:?}");
        assert_eq!(pace.choose(&at(700, 300), 2000, aim(1000, 10, 0)), [[object(2)].into()]);
    }
}

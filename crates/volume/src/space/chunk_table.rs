//! The chunk table and the lists of deaths, as one value: a checkpoint works on a copy and publishes it.
//!
//! Held whole in memory, about 120 bytes a chunk; pages of the table are shared between copies and written when they
//! changed. Invariants, checked by `volume check`: an entry's dead bytes are the sum of its deaths in folded runs since it
//! was last written; no frame is in two lists.
//!
//! All bytes are counted by the lengths that frames were first stored with, as maps and lists of deaths name them: sums stay
//! exact whatever a pack makes of the frames. How much less they take by now is kept beside that.
//!
//! # Bytes of a page of the chunk table
//!
//! The chunks whose sequence number divided by 4096 is n; a frame of kind table with address 3 << 60 | n.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | format: 1 |
//! | varint | number of entries |
//! | … | entries, in order of their sequence numbers |
//!
//! An entry, as varints: sequence number less n × 4096 or less that of the entry before; epoch; era; flags (map 1,
//! counted 2, in a pack 4, hour known 8, settled 16, saved 32, sealed 64); bytes of its frames (when counted), bytes of those that are
//! dead; in a pack: the pack's epoch, number with the highest bit set, place and length of the slice's index in it, how
//! often it was packed (1 or 2); when known, the hour since 1970 in which the position passed it; with `saved`, how many of
//! the bytes of its frames compression has saved since they were first stored; when sealed, the number of the oldest data key that
//! may have sealed something of it (of a map chunk in the newest table it may be left out). *Settled*: there is nothing left in it to
//! compress anew. Not counted: a map chunk behind the checkpoint's position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::dead_runs::{DeadFrame, Part};
use super::new_chunks::NewChunk;
use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::{SHARD_SPAN, SHARDS_MAX};
use windlass_base::{ChunkId, Epoch, Era, Error, Generation, Kind, Result, Seq, StateId, VolumeId};
use windlass_log::{FrameRef, InPack, Prefix};
use windlass_pool::ChunkKind;

/// Sequence numbers that a page of the table covers.
const SLAB: u64 = 4096;
const SLAB_FORMAT: u8 = 1;
const MAP: u64 = 1;
const COUNTED: u64 = 2;
const PACKED: u64 = 4;
const AGED: u64 = 8;
const SETTLED: u64 = 16;
const SAVED: u64 = 32;
const SEALED: u64 = 64;
const FLAGS: u64 = 127;
/// Most bytes of a chunk, and most bytes that died in it, with much to spare.
const BYTES_MAX: u64 = 1024 * SHARDS_MAX as u64 * SHARD_SPAN;

/// The object of a chunk or pack, whatever its volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Object {
    pub epoch: Epoch,
    pub seq: Seq,
}

impl Object {
    pub fn of(self, volume: VolumeId) -> ChunkId {
        ChunkId { volume, epoch: self.epoch, seq: self.seq }
    }
}

/// The place of a chunk's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// The frames lie in the chunk's own object.
    Own,
    /// The frames that were live at the last packing lie in a slice of a pack. `at` and `len` tell where the
    /// slice's index lies there.
    Pack { pack: Object, at: u64, len: u32, packed: Packings },
}

/// Number of times that what is left of a chunk has been packed, `PACKINGS_MAX` at most: what is still there
/// then is cold.
pub type Packings = u8;
pub const PACKINGS_MAX: Packings = 2;

/// An entry of the table: a chunk that somebody needs, or that waits behind the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub epoch: Epoch,
    pub era: Era,
    pub kind: ChunkKind,
    /// Is true if the position has passed the chunk, so that `total` is known.
    pub counted: bool,
    /// Bytes of the chunk's frames that its object holds, as they were first stored.
    pub total: u64,
    pub dead: u64,
    pub home: Home,
    /// Hour in which the position passed the chunk, counted from 1970; 0: it is not known.
    pub hour: u32,
    /// Is true if nothing in the chunk is left to be compressed anew.
    pub settled: bool,
    /// Bytes that the chunk's frames take less than `total` in its object, since they were compressed anew.
    pub saved: u64,
    /// The oldest data key that may have sealed something of the chunk; 0: it is not known, or the volume is
    /// not encrypted.
    pub key: u8,
}

impl Entry {
    pub fn object(&self, seq: Seq) -> Object {
        match self.home {
            Home::Own => Object { epoch: self.epoch, seq },
            Home::Pack { pack, .. } => pack,
        }
    }

    pub fn packings(&self) -> Packings {
        match self.home {
            Home::Own => 0,
            Home::Pack { packed, .. } => packed,
        }
    }

    pub fn live(&self) -> u64 {
        self.total.saturating_sub(self.dead)
    }

    /// Returns the bytes that the chunk's frames take in its object, and those of them that somebody needs.
    /// The second number is an estimate where frames were compressed anew, since deaths don't tell how much
    /// each frame had saved.
    pub fn stored(&self) -> (u64, u64) {
        let stored = self.total.saturating_sub(self.saved);
        if self.saved == 0 {
            return (stored, self.live());
        }
        let live = u128::from(stored) * u128::from(self.live()) / u128::from(self.total.max(1));
        (stored, u64::try_from(live).unwrap_or(stored))
    }
}

/// A pack that is stored, and what it holds.
#[derive(Clone, Debug)]
pub struct Repacked {
    pub pack: Object,
    /// The pool's generation on whose stores the pack was put, or counted again.
    pub counted_in: Generation,
    /// Objects whose survivors are in the pack, all of them.
    pub sources: BTreeSet<Object>,
    pub chunks: Vec<Survivors>,
    /// Chunks that stay where they are, and in which there is nothing to compress anew.
    pub settled: Vec<(Seq, Object)>,
}

impl Repacked {
    /// Tells whether the pack's shards were counted on the stores of this generation. A pack into which
    /// nothing went was not stored, and needs no count.
    pub fn is_counted_in(&self, generation: Generation) -> bool {
        self.chunks.is_empty() || self.counted_in == generation
    }
}

/// The frames that were left of one chunk when it was packed.
#[derive(Clone, Copy, Debug)]
pub struct Survivors {
    pub seq: Seq,
    /// Offset of the slice's index in the pack.
    pub at: u64,
    pub len: u32,
    /// Bytes of the slice's frames, as they were first stored. `saved` is how many bytes less they take in
    /// the pack.
    pub bytes: u64,
    pub saved: u64,
    /// Dead bytes that the chunk's entry counted when it was packed.
    pub dead: u64,
    /// Is true if nothing in the chunk is left to be compressed anew.
    pub settled: bool,
    /// The oldest data key that sealed something of the chunk in the pack; 0: the volume is not encrypted.
    pub key: u8,
}

/// A part of a run of deaths that is counted in the chunk table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folded {
    pub part: Part,
    pub deaths: u64,
    pub bytes: u64,
}

/// Lists of deaths by state: each names the frames that the state's parent holds and the state does not.
pub type Deaths = BTreeMap<StateId, Vec<Part>>;

/// Places of pages that are yet to be read, with their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PagePlaces {
    pub slabs: Vec<(u64, FrameRef)>,
    pub states: Vec<(u64, FrameRef)>,
}

/// A page of states as it was last written: where it lies, and the checksum that tells whether it has changed
/// since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct StatePage {
    at: FrameRef,
    sum: u128,
}

#[derive(Clone, Debug, Default)]
struct Slab {
    /// The page as it was last written; `None`: it has changed since.
    at: Option<FrameRef>,
    entries: BTreeMap<Seq, Entry>,
}

/// The chunk table and the lists of deaths, as the module describes them.
#[derive(Clone, Debug, Default)]
pub struct ChunkTable {
    slabs: BTreeMap<u64, Arc<Slab>>,
    /// Pages of the table that were replaced since it was read or published.
    stale: Vec<FrameRef>,
    pub deaths: Deaths,
    /// Pages of states, where those are many.
    state_pages: BTreeMap<u64, StatePage>,
    /// Parts of runs whose frames nobody holds, and which the table does not count yet.
    pub free: Vec<Part>,
    pub folded: Vec<Folded>,
    /// Objects that nobody needs, which may not all be deleted yet.
    pub retired: BTreeSet<Object>,
    /// The page that names the rest of the table, once it is published.
    pub root: Option<FrameRef>,
    /// Position of the checkpoint that published the table.
    pub position: Prefix,
}

impl ChunkTable {
    pub fn slab_address(n: u64) -> u64 {
        3 << 60 | n
    }

    pub fn entry(&self, seq: Seq) -> Option<&Entry> {
        self.slabs.get(&(seq.0 / SLAB))?.entries.get(&seq)
    }

    pub fn entries(&self) -> impl Iterator<Item = (Seq, &Entry)> {
        self.slabs.values().flat_map(|s| s.entries.iter().map(|(seq, e)| (*seq, e)))
    }

    /// Returns the chunks that may be packed: the position has passed them, and no page of the tables is read
    /// from them.
    pub fn packable(&self) -> impl Iterator<Item = (Seq, &Entry)> {
        let direct: BTreeSet<Seq> = self.own_pages().iter().map(|at| at.seq).collect();
        self.entries().filter(move |(seq, e)| e.counted && !direct.contains(seq))
    }

    fn slab(&mut self, seq: Seq) -> &mut Slab {
        let slab = Arc::make_mut(self.slabs.entry(seq.0 / SLAB).or_default());
        self.stale.extend(slab.at.take());
        slab
    }

    pub fn change(&mut self, seq: Seq) -> Option<&mut Entry> {
        self.entry(seq)?;
        self.slab(seq).entries.get_mut(&seq)
    }

    pub fn insert(&mut self, seq: Seq, entry: Entry) {
        self.slab(seq).entries.insert(seq, entry);
    }

    pub fn remove(&mut self, seq: Seq) -> Option<Entry> {
        self.entry(seq)?;
        self.slab(seq).entries.remove(&seq)
    }

    /// Makes the entry of a chunk that the position hasn't passed.
    pub fn young(birth: &NewChunk) -> Entry {
        let &NewChunk { epoch, era, kind, key, .. } = birth;
        let (counted, settled, home) = (false, false, Home::Own);
        Entry { epoch, era, kind, counted, total: 0, dead: 0, home, hour: 0, settled, saved: 0, key }
    }

    /// Counts a chunk that the position has passed, in this hour.
    pub fn count(&mut self, seq: Seq, birth: &NewChunk, hour: u32) {
        let dead = self.entry(seq).map_or(0, |e| e.dead);
        let entry = Entry { counted: true, total: birth.bytes, dead, hour, ..ChunkTable::young(birth) };
        self.insert(seq, entry);
    }

    /// Adds the chunks of the newest checkpoint's own table pages, since no page that the checkpoint wrote
    /// can name them. `key_of`: the oldest data key that may have sealed something in one, 0 where it is not
    /// known.
    pub fn add_direct(&mut self, era: Era, key_of: impl Fn(Seq) -> u8) {
        for at in self.own_pages() {
            if self.entry(at.seq).is_none() {
                let (kind, counted, settled, home) = (ChunkKind::Map, false, false, Home::Own);
                let (epoch, key) = (at.epoch, key_of(at.seq));
                let entry = Entry {
                    epoch,
                    era,
                    kind,
                    counted,
                    total: 0,
                    dead: 0,
                    home,
                    hour: 0,
                    settled,
                    saved: 0,
                    key,
                };
                // Not a change: the page that holds it will be written with the next one.
                let slab = Arc::make_mut(self.slabs.entry(at.seq.0 / SLAB).or_default());
                slab.entries.insert(at.seq, entry);
            }
        }
    }

    /// Returns the table's pages, the pages of states, and the page that names them, as published.
    pub fn own_pages(&self) -> Vec<FrameRef> {
        let states = self.state_pages.values().map(|page| page.at);
        self.slabs.values().filter_map(|s| s.at).chain(states).chain(self.root).collect()
    }

    /// Counts the death of a frame.
    pub fn bury(&mut self, death: &DeadFrame) -> Result<()> {
        self.bury_bytes(death.seq, death.len.into())
    }

    pub fn bury_bytes(&mut self, seq: Seq, bytes: u64) -> Result<()> {
        let Some(entry) = self.change(seq) else {
            let why = format!("something died in a part of the volume ({seq}) that nobody needs");
            return Err(Error::new(Kind::Internal, why));
        };
        entry.dead += bytes;
        Ok(())
    }

    /// Hands the deaths of a state that is gone to its only child, which stands below `parent_era`'s state
    /// from now on. What nobody holds any more becomes free.
    pub fn inherit(&mut self, gone: StateId, child: StateId, parent_era: Era) {
        let mut kept = Vec::new();
        for part in self.deaths.remove(&child).unwrap_or_default() {
            let (old, new) = part.split(parent_era);
            kept.extend(old);
            self.free.extend(new);
        }
        kept.extend(self.deaths.remove(&gone).unwrap_or_default());
        if !kept.is_empty() {
            self.deaths.insert(child, kept);
        }
    }

    /// Returns the chunks that were packed, and where each one is.
    pub fn packed(&self, volume: VolumeId) -> BTreeMap<Seq, InPack> {
        let place = |(seq, e): (Seq, &Entry)| match e.home {
            Home::Pack { pack, at, len, .. } => Some((seq, InPack { pack: pack.of(volume), at, len })),
            Home::Own => None,
        };
        self.entries().filter_map(place).collect()
    }

    /// Gives what is left of chunks its new home. What died since the pack was made is dead there too.
    ///
    /// # Errors
    /// `Internal`: an entry has fewer dead bytes than when it was packed.
    pub fn adopt(&mut self, moved: &Repacked) -> Result<()> {
        let mut used = false;
        for m in &moved.chunks {
            // It may have died altogether meanwhile.
            let here = self.entry(m.seq).filter(|e| e.counted && moved.sources.contains(&e.object(m.seq)));
            let Some(packed) = here.map(|e| PACKINGS_MAX.min(e.packings() + 1)) else { continue };
            let Some(entry) = self.change(m.seq) else { continue };
            let Some(dead) = entry.dead.checked_sub(m.dead) else {
                return Err(Error::new(Kind::Internal, format!("chunk {} lost what was dead in it", m.seq)));
            };
            let home = Home::Pack { pack: moved.pack, at: m.at, len: m.len, packed };
            (entry.total, entry.dead, entry.home) = (m.bytes, dead, home);
            (entry.saved, entry.settled, entry.key) = (m.saved, m.settled, m.key);
            used = true;
        }
        for (seq, object) in &moved.settled {
            if self.entry(*seq).is_some_and(|e| e.counted && e.object(*seq) == *object) {
                self.change(*seq).into_iter().for_each(|entry| entry.settled = true);
            }
        }
        let left: BTreeSet<Object> = self.entries().map(|(seq, e)| e.object(seq)).collect();
        let unused = !used && !moved.sources.is_empty();
        let all = moved.sources.iter().chain(unused.then_some(&moved.pack));
        self.retired.extend(all.filter(|o| !left.contains(o)));
        Ok(())
    }

    /// Tells whether the chunk's own object is not needed any more.
    pub fn has_left(&self, seq: Seq) -> bool {
        seq <= self.position.seq && self.entry(seq).is_none_or(|e| e.home != Home::Own)
    }

    /// Returns all runs that a list names.
    pub fn runs(&self) -> BTreeSet<FrameRef> {
        let lists = self.deaths.values().flatten().chain(&self.free);
        lists.chain(self.folded.iter().map(|f| &f.part)).map(|p| p.run).collect()
    }

    /// Returns each object's bytes, and how many of them somebody needs. Only counted chunks are among them.
    pub fn objects(&self) -> BTreeMap<Object, (u64, u64)> {
        let mut all = BTreeMap::new();
        for (seq, e) in self.entries().filter(|(_, e)| e.counted) {
            let (total, live) = all.entry(e.object(seq)).or_insert((0, 0));
            *total += e.total;
            *live += e.live();
        }
        all
    }

    /// Returns the live bytes of these objects, about as they are stored.
    pub fn live_of(&self, objects: &BTreeSet<Object>) -> BTreeMap<Object, u64> {
        let mut live = BTreeMap::new();
        for (seq, e) in self.entries().filter(|(seq, e)| objects.contains(&e.object(*seq))) {
            *live.entry(e.object(seq)).or_insert(0) += e.stored().1;
        }
        live
    }

    /// Returns the live bytes as they are stored, by the oldest data key that may have sealed something of
    /// their chunk.
    pub fn sealed_bytes(&self) -> BTreeMap<u8, u64> {
        let mut all = BTreeMap::new();
        self.entries().for_each(|(_, e)| *all.entry(e.key).or_insert(0) += e.stored().1);
        all
    }

    /// Takes the objects that nobody needs any more out of the table, and lists them as retired.
    pub fn retire(&mut self) {
        let dead: BTreeSet<Object> =
            self.objects().into_iter().filter(|(_, (_, live))| *live == 0).map(|(o, _)| o).collect();
        if dead.is_empty() {
            return;
        }
        // More dead than there is would be a miscount: nothing is deleted on its word.
        let gone = |e: &Entry| e.counted && e.dead == e.total;
        let all: Vec<_> = self.entries().map(|(seq, e)| (seq, *e)).collect();
        let odd: BTreeSet<_> =
            all.iter().filter(|(_, e)| e.counted && !gone(e)).map(|(s, e)| e.object(*s)).collect();
        for (seq, entry) in all {
            let object = entry.object(seq);
            if entry.counted && dead.contains(&object) && !odd.contains(&object) {
                self.remove(seq);
                self.retired.insert(object);
            }
        }
    }

    /// Returns the bytes of all objects, and those of them that somebody needs, as they are stored.
    pub fn space(&self) -> (u64, u64) {
        let counted = self.entries().filter(|(_, e)| e.counted).map(|(_, e)| e.stored());
        counted.fold((0, 0), |(all_stored, all_live), (stored, live)| (all_stored + stored, all_live + live))
    }

    /// Marks the pages of the table that older data keys than this one may have signed, so that they are
    /// written again.
    pub fn renew_pages(&mut self, key: u8) {
        let is_old = |at: &FrameRef| self.entry(at.seq).is_none_or(|e| e.key < key);
        let slabs: Vec<u64> =
            self.slabs.iter().filter(|(_, s)| s.at.as_ref().is_some_and(is_old)).map(|(n, _)| *n).collect();
        let states: Vec<u64> =
            self.state_pages.iter().filter(|(_, page)| is_old(&page.at)).map(|(n, _)| *n).collect();
        for slab in slabs {
            self.stale.extend(self.slabs.get_mut(&slab).and_then(|s| Arc::make_mut(s).at.take()));
        }
        for page in states {
            self.stale.extend(self.state_pages.remove(&page).map(|page| page.at));
        }
    }

    /// Returns the entries that may have something sealed by an older data key than this one.
    pub fn sealed_before(&self, key: u8) -> impl Iterator<Item = (Seq, &Entry)> {
        self.entries().filter(move |(_, e)| e.key < key)
    }

    /// Takes the pages of the table that were replaced since the last call. They count as dead once they are
    /// told here.
    pub fn take_stale(&mut self) -> Vec<FrameRef> {
        std::mem::take(&mut self.stale)
    }

    /// Returns the numbers and bytes of the pages that have changed; empty pages are dropped.
    pub fn changed(&mut self) -> Vec<(u64, Bytes)> {
        self.slabs.retain(|_, s| !s.entries.is_empty());
        let changed = self.slabs.iter().filter(|(_, s)| s.at.is_none());
        changed.map(|(n, s)| (*n, encode_slab(*n, &s.entries))).collect()
    }

    pub fn written(&mut self, n: u64, at: FrameRef) {
        if let Some(slab) = self.slabs.get_mut(&n) {
            Arc::make_mut(slab).at = Some(at);
        }
    }

    pub fn has_state_pages(&self) -> bool {
        !self.state_pages.is_empty()
    }

    /// Returns which of these pages of states must be written. `pages`: all that there are now. The written
    /// pages that they replace become stale.
    pub fn changed_states(&mut self, pages: BTreeMap<u64, Bytes>) -> Vec<(u64, Bytes)> {
        let gone = |n: &u64, page: &mut StatePage| pages.get(n).is_none_or(|now| xxh3_128(now) != page.sum);
        self.stale.extend(self.state_pages.extract_if(.., gone).map(|(_, page)| page.at));
        pages.into_iter().filter(|(n, _)| !self.state_pages.contains_key(n)).collect()
    }

    /// Notes where a page of states was written, or read.
    pub fn state_page_is(&mut self, n: u64, at: FrameRef, bytes: &[u8]) {
        self.state_pages.insert(n, StatePage { at, sum: xxh3_128(bytes) });
    }

    /// Encodes all but the pages and the lists of deaths, which stand with their states.
    pub fn encode(&self, w: &mut Writer) {
        w.varint(self.slabs.len() as u64);
        for (n, slab) in &self.slabs {
            w.varint(*n);
            slab.at.expect("a table is written after its pages").encode(w);
        }
        w.varint(self.state_pages.len() as u64);
        for (n, page) in &self.state_pages {
            w.varint(*n);
            page.at.encode(w);
        }
        encode_parts(w, &self.free);
        w.varint(self.folded.len() as u64);
        for f in &self.folded {
            f.part.encode(w);
            w.varint(f.deaths).varint(f.bytes);
        }
        w.varint(self.retired.len() as u64);
        for o in &self.retired {
            w.varint(o.epoch.0).varint(o.seq.0);
        }
    }

    /// Decodes a table without its pages. Their numbers and places are returned: the caller reads them.
    pub fn decode(r: &mut Reader<'_>) -> Result<(ChunkTable, PagePlaces)> {
        let page = |r: &mut Reader<'_>| Ok((r.varint()?, FrameRef::decode(r)?));
        let places = PagePlaces { slabs: list(r, 6, page)?, states: list(r, 6, page)? };
        let free = decode_parts(r)?;
        let folded =
            list(r, 9, |r| Ok(Folded { part: Part::decode(r)?, deaths: r.varint()?, bytes: r.varint()? }))?;
        let retired = list(r, 2, |r| Ok(Object { epoch: Epoch(r.varint()?), seq: Seq(r.varint()?) }))?;
        let retired = retired.into_iter().collect();
        Ok((ChunkTable { free, folded, retired, ..ChunkTable::default() }, places))
    }

    /// Adds a page of the table that was read.
    pub fn add_page(&mut self, n: u64, at: FrameRef, bytes: &[u8]) -> Result<()> {
        let entries = decode_slab(n, bytes).map_err(|e| Error::new(Kind::Corrupt, e.to_string()))?;
        self.slabs.insert(n, Arc::new(Slab { at: Some(at), entries }));
        Ok(())
    }
}

pub fn encode_parts(w: &mut Writer, parts: &[Part]) {
    w.varint(parts.len() as u64);
    parts.iter().for_each(|p| p.encode(w));
}

pub fn decode_parts(r: &mut Reader<'_>) -> Result<Vec<Part>> {
    list(r, 7, Part::decode)
}

/// Reads a list behind its length. `min`: bytes that an item takes at least, by which impossible lengths are
/// refused.
fn list<T>(r: &mut Reader<'_>, min: usize, item: impl Fn(&mut Reader<'_>) -> Result<T>) -> Result<Vec<T>> {
    let n = r.varint()?;
    if n > (r.left() / min) as u64 {
        return Err(r.bad("it claims too many entries"));
    }
    (0..n).map(|_| item(r)).collect()
}

fn encode_slab(n: u64, entries: &BTreeMap<Seq, Entry>) -> Bytes {
    let mut w = Writer::with_capacity(16 + 16 * entries.len());
    w.u8(SLAB_FORMAT).varint(entries.len() as u64);
    let mut last = n * SLAB;
    for (seq, e) in entries {
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let flags = flag(e.kind == ChunkKind::Map, MAP)
            | flag(e.counted, COUNTED)
            | flag(e.home != Home::Own, PACKED)
            | flag(e.hour != 0, AGED)
            | flag(e.settled, SETTLED)
            | flag(e.saved != 0, SAVED)
            | flag(e.key != 0, SEALED);
        w.varint(seq.0 - last).varint(e.epoch.0).varint(e.era.0).varint(flags);
        if e.counted {
            w.varint(e.total);
        }
        w.varint(e.dead);
        if let Home::Pack { pack, at, len, packed } = e.home {
            w.varint(pack.epoch.0).varint(pack.seq.0).varint(at).varint(len.into()).varint(packed.into());
        }
        if e.hour != 0 {
            w.varint(e.hour.into());
        }
        if e.saved != 0 {
            w.varint(e.saved);
        }
        if e.key != 0 {
            w.varint(e.key.into());
        }
        last = seq.0;
    }
    w.buf.into()
}

fn decode_slab(n: u64, bytes: &[u8]) -> Result<BTreeMap<Seq, Entry>> {
    let mut r = Reader::new(bytes, "a page of a volume's chunk table");
    if r.u8()? != SLAB_FORMAT {
        return Err(r.bad("its format is unknown"));
    }
    let count = r.varint()?;
    let mut entries = BTreeMap::new();
    let mut last = n.checked_mul(SLAB).ok_or_else(|| r.bad("its number is impossible"))?;
    for _ in 0..count {
        let seq = last.checked_add(r.varint()?).ok_or_else(|| r.bad("an entry is impossible"))?;
        let (epoch, era, flags) = (Epoch(r.varint()?), Era(r.varint()?), r.varint()?);
        let total = if flags & COUNTED != 0 { r.varint()? } else { 0 };
        let dead = r.varint()?;
        let home = match flags & PACKED {
            0 => Home::Own,
            _ => {
                let pack = Object { epoch: Epoch(r.varint()?), seq: Seq(r.varint()?) };
                let (at, len) = (r.varint()?, u32::try_from(r.varint()?).ok());
                let packed = Packings::try_from(r.varint()?).ok().filter(|p| *p <= PACKINGS_MAX);
                let (Some(len), Some(packed)) = (len, packed) else {
                    return Err(r.bad("an entry is impossible"));
                };
                Home::Pack { pack, at, len, packed }
            }
        };
        let kind = if flags & MAP != 0 { ChunkKind::Map } else { ChunkKind::Data };
        let hour = if flags & AGED != 0 { u32::try_from(r.varint()?).ok() } else { Some(0) };
        let Some(hour) = hour else { return Err(r.bad("an entry is impossible")) };
        let saved = if flags & SAVED != 0 { r.varint()? } else { 0 };
        let key = if flags & SEALED != 0 { u8::try_from(r.varint()?).ok() } else { Some(0) };
        let Some(key) = key else { return Err(r.bad("an entry is impossible")) };
        let (counted, settled) = (flags & COUNTED != 0, flags & SETTLED != 0);
        let entry = Entry { epoch, era, kind, counted, total, dead, home, hour, settled, saved, key };
        // Sums of so many bytes don't overflow, however many entries there are.
        let fits = total <= BYTES_MAX && dead <= BYTES_MAX;
        let sound = seq / SLAB == n && flags <= FLAGS && saved <= total && fits;
        if !sound || entries.insert(Seq(seq), entry).is_some() {
            return Err(r.bad("an entry is impossible"));
        }
        last = seq;
    }
    r.end()?;
    Ok(entries)
}

//! Cutting: records become frames, frames get their places, and a chunk is ready for the pool.
//!
//! Overwrites are absorbed inside one chunk only: dropping a write because a later chunk has its successor would break
//! the prefix. Frames lie on a grid of 16 blocks, so that none crosses a leaf and rewriting the same area gives the same
//! frames again.

use bytes::Bytes;

use super::frame_ref::FrameRef;
use super::toc::{TOC_ITEMS_MAX, Toc, TocFrame};
use windlass_base::format_limits::{BLOCK, CHUNK_TARGET, FRAME_BLOCKS, SHARD_SPAN, SHARD_TARGET};
use windlass_base::interval_map::{Cut, Intervals};
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::spare_buffers::SHARDS;
use windlass_base::{ChunkId, Era, JournalId, Lsn};
use windlass_frame::{Body, Codec, FRAME_HEADER, FrameKind, Packer, Place, SEALED_MORE};
use windlass_keys::ChunkSeal;
use windlass_pool::{Chunk, ChunkKind};

/// Spare capacity that lets the pool append its footer without a copy.
const FOOTER_ROOM: usize = 4 << 10;
/// Records a chunk may hold: without a bound, small ones would let the table of contents grow as large as the payload.
const RECORDS_MAX: usize = 16 << 10;

/// Bytes of a map chunk's pages that go to one shard before another is taken.
const SIDE_BY_SIDE: usize = 4 << 10;

/// Payload bytes that a chunk over `k` data shards is cut at under load.
pub fn chunk_target(k: usize) -> u64 {
    (k as u64 * SHARD_TARGET).min(CHUNK_TARGET)
}

/// Records on their way into one chunk, in lsn order without gaps.
#[derive(Debug, Default)]
pub struct Draft {
    records: Vec<Record>,
    bytes: u64,
}

impl Draft {
    /// Whether a record of this payload still fits a chunk that is cut at `target` bytes; a mark ends its chunk.
    pub fn takes(&self, payload: u64, target: u64) -> bool {
        let marked = matches!(self.records.last(), Some(Record { op: Op::Mark(_), .. }));
        let full = self.bytes + payload > target || self.records.len() >= RECORDS_MAX;
        !marked && (self.records.is_empty() || !full)
    }

    pub fn push(&mut self, record: Record) {
        if let Some(before) = self.records.last() {
            assert!(record.lsn > before.lsn, "records come in order");
        }
        self.bytes += record.op.payload().len() as u64;
        self.records.push(record);
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Payload before absorption.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lsns of the first and last record.
    pub fn span(&self) -> Option<(Lsn, Lsn)> {
        Some((self.records.first()?.lsn, self.records.last()?.lsn))
    }
}

/// What one chunk is told beside its records.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub id: ChunkId,
    /// The own volume's index in the list of ancestors and itself.
    pub volume: u16,
    pub era: Era,
    pub journal: JournalId,
    /// Data shards.
    pub k: usize,
    pub codec: Codec,
    /// Of an encrypted volume's: of this stamp alone, whose chunk is made once.
    pub seal: Option<ChunkSeal>,
}

impl Stamp {
    fn frame_ref(&self, offset: u64, len: u32) -> FrameRef {
        FrameRef { volume: self.volume, epoch: self.id.epoch, seq: self.id.seq, offset, len }
    }
}

/// A run of blocks and the frame that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub block: u64,
    pub count: u8,
    pub at: FrameRef,
}

/// A chunk ready for the pool.
#[derive(Debug)]
pub struct Encoded {
    pub chunk: Chunk,
    pub placed: Vec<Placed>,
    /// The contents of each, in the same order, each its own memory: for the cache.
    pub raw: Vec<Bytes>,
    /// Runs of zeros.
    pub zeros: usize,
}

impl Encoded {
    /// Bytes stored, without parity and footers.
    pub fn stored_bytes(&self) -> u64 {
        self.chunk.shards.iter().map(|s| s.len() as u64).sum()
    }
}

#[derive(Clone, Debug)]
enum Content {
    /// `whole`: all that its record wrote.
    Data {
        data: Bytes,
        whole: bool,
    },
    Zero,
}

impl Cut for Content {
    fn part(&self, skip: u64, count: u64) -> Self {
        match self {
            Content::Data { data, whole } => {
                let (from, to) = ((skip * BLOCK) as usize, ((skip + count) * BLOCK) as usize);
                Content::Data { data: data.slice(from..to), whole: *whole && to - from == data.len() }
            }
            Content::Zero => Content::Zero,
        }
    }
    fn joins(&self, _count: u64, next: &Self) -> bool {
        matches!((self, next), (Content::Zero, Content::Zero))
    }
}

/// What is left after absorption.
struct Plan {
    frames: Vec<(u64, Bytes)>,
    zeros: Vec<(u64, u64)>,
    mark: Option<Mark>,
}

fn plan(records: Vec<Record>) -> Plan {
    let mut contents = Intervals::default();
    let mut mark = None;
    for record in records {
        let (block, count) = record.op.blocks();
        match record.op {
            Op::Write { data, .. } => {
                contents.insert(block..block + count, Content::Data { data, whole: true })
            }
            Op::Zero { .. } => contents.insert(block..block + count, Content::Zero),
            Op::Mark(m) => mark = Some(m),
        }
    }
    let mut cells = Cells::default();
    let mut zeros = Vec::new();
    for (range, content) in contents.iter() {
        match content {
            Content::Data { data, whole } => cells.add(range.start, data, *whole),
            Content::Zero => zeros.push((range.start, range.end - range.start)),
        }
    }
    Plan { frames: cells.finish(), zeros, mark }
}

/// Gathers neighbouring blocks into frames, one cell of the grid at most each.
#[derive(Default)]
struct Cells {
    done: Vec<(u64, Bytes)>,
    start: u64,
    /// What lies in the open one, in order.
    open: Vec<Bytes>,
    /// It is a record as it was written.
    whole: bool,
    blocks: u64,
}

impl Cells {
    fn add(&mut self, mut block: u64, data: &Bytes, whole: bool) {
        let mut rest = data.clone();
        while !rest.is_empty() {
            if self.start + self.blocks != block || block.is_multiple_of(FRAME_BLOCKS) {
                self.close();
                self.start = block;
            }
            let room = (FRAME_BLOCKS - block % FRAME_BLOCKS) * BLOCK;
            let part = rest.split_to(rest.len().min(room as usize));
            let blocks = part.len() as u64 / BLOCK;
            block += blocks;
            self.blocks += blocks;
            self.whole = whole && self.open.is_empty() && part.len() == data.len();
            self.open.push(part);
        }
    }

    fn close(&mut self) {
        if self.blocks > 0 {
            // Parts are copied: buffers of a writer are larger than what is kept of them.
            let frame = match (self.whole, &self.open[..]) {
                (true, [record]) => record.clone(),
                (_, parts) => parts.concat().into(),
            };
            self.done.push((self.start, frame));
            self.open.clear();
            self.blocks = 0;
        }
    }

    fn finish(mut self) -> Vec<(u64, Bytes)> {
        self.close();
        self.done
    }
}

/// Makes a data chunk. CPU-bound: compresses, copies, checksums.
pub fn encode(stamp: &Stamp, draft: Draft) -> Encoded {
    let (first, last) = draft.span().expect("a chunk is cut of at least one record");
    let Plan { frames, zeros, mark } = plan(draft.records);
    let mut packer = Packer::new(stamp.codec, stamp.seal.clone());
    let all: usize = frames.iter().map(|(_, raw)| raw.len()).sum();
    // Of one shard each frame's place is known at once: nothing waits to be copied there.
    let bodies: Vec<Body> = if stamp.k == 1 {
        Vec::new()
    } else {
        packer.reserve(all);
        frames.iter().map(|(_, raw)| packer.pack(FrameKind::Data, raw.clone())).collect()
    };
    let total = match stamp.k {
        1 => (all + (FRAME_HEADER + SEALED_MORE) * frames.len()) as u64,
        _ => bodies.iter().map(|b| b.stored_len() as u64).sum(),
    };
    // The table of contents goes to the last shard; ten bytes an entry is near enough to balance it.
    let share = (total + 10 * (frames.len() + zeros.len()) as u64).div_ceil(stamp.k as u64).max(1);
    let mut shards: Vec<Vec<u8>> = (0..stamp.k).map(|_| Vec::new()).collect();
    let mut toc_frames = Vec::with_capacity(frames.len());
    let mut placed = Vec::with_capacity(frames.len());
    let mut before = 0;
    for (n, (block, raw)) in frames.iter().enumerate() {
        let body = match bodies.get(n) {
            Some(body) => body.clone(),
            None => {
                packer.clear();
                packer.pack(FrameKind::Data, raw.clone())
            }
        };
        let shard = ((before / share) as usize).min(stamp.k - 1);
        before += body.stored_len() as u64;
        let out = &mut shards[shard];
        if out.capacity() == 0 {
            *out = SHARDS.take(share as usize + body.stored_len() + FOOTER_ROOM);
            out.clear();
        }
        let offset = shard as u64 * SHARD_SPAN + out.len() as u64;
        packer.finish(&body, &Place { chunk: stamp.id, offset, address: *block }, out);
        let (count, len) = ((raw.len() as u64 / BLOCK) as u8, body.stored_len() as u32);
        toc_frames.push(TocFrame { block: *block, count, offset, len });
        placed.push(Placed { block: *block, count, at: stamp.frame_ref(offset, len) });
    }
    let runs = zeros.len();
    let toc = Toc {
        kind: ChunkKind::Data,
        epoch: stamp.id.epoch,
        seq: stamp.id.seq,
        era: stamp.era,
        journal: stamp.journal,
        first,
        last,
        frames: toc_frames,
        zeros,
        mark,
    };
    let raw = frames.into_iter().map(|(_, raw)| raw).collect();
    Encoded { chunk: seal(stamp, &toc, shards), placed, raw, zeros: runs }
}

/// The table of contents goes to the end of the last data shard.
fn seal(stamp: &Stamp, toc: &Toc, mut shards: Vec<Vec<u8>>) -> Chunk {
    let last = shards.last_mut().expect("a layout has a data shard");
    let toc_offset = (stamp.k - 1) as u64 * SHARD_SPAN + last.len() as u64;
    let bytes = match &stamp.seal {
        Some(seal) => {
            let place = Place { chunk: stamp.id, offset: toc_offset, address: 0 };
            windlass_frame::seal_list(FrameKind::Contents, &toc.encode(), &place, seal)
        }
        None => toc.encode(),
    };
    last.reserve(bytes.len() + FOOTER_ROOM);
    last.extend_from_slice(&bytes);
    for shard in &shards {
        assert!(shard.len() as u64 <= SHARD_SPAN, "a shard of {} bytes", shard.len());
    }
    Chunk {
        id: stamp.id,
        era: stamp.era,
        kind: toc.kind,
        shards: shards.into_iter().map(Bytes::from).collect(),
        toc_offset,
        toc_len: bytes.len() as u32,
    }
}

/// A map chunk that is being filled: each page's place is known as soon as it is in.
#[derive(Debug)]
pub struct MapDraft {
    stamp: Stamp,
    packer: Packer,
    shards: Vec<Vec<u8>>,
    /// The shard that is filled.
    shard: usize,
    frames: Vec<TocFrame>,
    bytes: u64,
}

impl MapDraft {
    pub fn new(stamp: Stamp) -> MapDraft {
        let shards = (0..stamp.k).map(|_| Vec::new()).collect();
        let packer = Packer::new(stamp.codec, stamp.seal.clone());
        MapDraft { stamp, packer, shards, shard: 0, frames: Vec::new(), bytes: 0 }
    }

    pub fn era(&self) -> Era {
        self.stamp.era
    }

    /// By its bytes, or by its pages: the map of scattered single blocks has tiny ones.
    pub fn is_full(&self, target: u64) -> bool {
        self.bytes >= target / 2 || self.frames.len() >= TOC_ITEMS_MAX
    }

    /// Tiny pages that come one after another lie side by side, so that one get brings them; else the shard that has least
    /// gets it.
    pub fn append(&mut self, kind: FrameKind, address: u64, raw: Bytes) -> FrameRef {
        let body = self.packer.pack(kind, raw);
        let shards = self.shards.iter().enumerate();
        let (least, len) = shards.map(|(i, s)| (i, s.len())).min_by_key(|(_, len)| *len).unwrap_or_default();
        if self.shards[self.shard].len() >= len + SIDE_BY_SIDE {
            self.shard = least;
        }
        let out = &mut self.shards[self.shard];
        let offset = self.shard as u64 * SHARD_SPAN + out.len() as u64;
        self.packer.finish(&body, &Place { chunk: self.stamp.id, offset, address }, out);
        self.packer.clear();
        let len = body.stored_len() as u32;
        self.bytes += u64::from(len);
        self.frames.push(TocFrame { block: address, count: 0, offset, len });
        self.stamp.frame_ref(offset, len)
    }

    /// `last`: the last lsn of the data chunks before this one.
    pub fn finish(mut self, last: Lsn) -> Chunk {
        self.frames.sort_by_key(|f| f.offset);
        let toc = Toc {
            kind: ChunkKind::Map,
            epoch: self.stamp.id.epoch,
            seq: self.stamp.id.seq,
            era: self.stamp.era,
            journal: self.stamp.journal,
            first: last.next(),
            last,
            frames: self.frames,
            zeros: Vec::new(),
            mark: None,
        };
        seal(&self.stamp, &toc, self.shards)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use windlass_base::{Epoch, Seq, VolumeId};
    use windlass_keys::{KeyAccess, Secret, VolumeKey};

    const GOLDEN_CHUNK: (usize, &str) =
        (4277, "c86d4facce6822738a4afdcafec632656012ac983462743b657acd87ed34e1a8");

    fn stamp(k: usize) -> Stamp {
        let id = ChunkId { volume: VolumeId(3), epoch: Epoch(1), seq: Seq(4) };
        Stamp { id, volume: 2, era: Era(1), journal: JournalId(8), k, codec: Codec::Lz4, seal: None }
    }

    /// Bytes at a virtual offset.
    fn at(chunk: &Chunk, offset: u64, len: u32) -> Bytes {
        let shard = &chunk.shards[(offset / SHARD_SPAN) as usize];
        let from = (offset % SHARD_SPAN) as usize;
        shard.slice(from..from + len as usize)
    }

    /// What a reader of the chunk sees at each block.
    fn contents(e: &Encoded) -> BTreeMap<u64, u8> {
        let toc = Toc::decode(&at(&e.chunk, e.chunk.toc_offset, e.chunk.toc_len)).unwrap();
        assert_eq!((toc.epoch, toc.seq), (e.chunk.id.epoch, e.chunk.id.seq));
        let mut out = BTreeMap::new();
        for (f, raw) in toc.frames.iter().zip(&e.raw) {
            let place = Place { chunk: e.chunk.id, offset: f.offset, address: f.block };
            let opened =
                windlass_frame::open(&at(&e.chunk, f.offset, f.len), &place, 64 << 10, &KeyAccess::Plain)
                    .unwrap();
            assert_eq!(&opened, raw);
            for i in 0..u64::from(f.count) {
                let block = &opened[(i * BLOCK) as usize..((i + 1) * BLOCK) as usize];
                assert!(block.iter().all(|b| *b == block[0]));
                out.insert(f.block + i, block[0]);
            }
        }
        for (first, count) in toc.zeros {
            out.extend((first..first + count).map(|b| (b, 0)));
        }
        out
    }

    fn write(lsn: u64, block: u64, blocks: u64, fill: u8) -> Record {
        let data = vec![fill; (blocks * BLOCK) as usize].into();
        Record { lsn: Lsn(lsn), op: Op::Write { block, data } }
    }

    /// Sealed by another hand (Python's `cryptography`): one frame and the table of contents.
    #[test]
    fn golden_bytes_of_a_sealed_chunk() {
        let key = VolumeKey::new(VolumeId(3), [(1, Secret::new([0x42; 32]))]).unwrap();
        let stamp = Stamp { codec: Codec::None, volume: 0, ..stamp(1) };
        let stamp = Stamp { seal: Some(key.chunk(&stamp.id, 5)), ..stamp };
        let mut draft = Draft::default();
        draft.push(write(1, 9, 1, 7));
        let chunk = encode(&stamp, draft).chunk;
        let sum: String = Sha256::digest(&chunk.shards[0]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((chunk.shards[0].len(), sum.as_str()), (GOLDEN_CHUNK.0, GOLDEN_CHUNK.1));
        let toc = at(&chunk, chunk.toc_offset, chunk.toc_len);
        let access = KeyAccess::Sealed(key);
        assert!(Toc::verify(&toc, &chunk.id, chunk.toc_offset, &access));
        let opened = Toc::open(&toc, &chunk.id, chunk.toc_offset, &access).unwrap();
        assert_eq!((opened.frames[0].block, opened.frames[0].len), (9, 4096 + 48));
        // Not at another place, not of another chunk, not without the key.
        let other = ChunkId { seq: Seq(5), ..chunk.id };
        assert!(Toc::open(&toc, &other, chunk.toc_offset, &access).is_err());
        assert!(Toc::open(&toc, &chunk.id, chunk.toc_offset + 1, &access).is_err());
        assert!(Toc::open(&toc, &chunk.id, chunk.toc_offset, &KeyAccess::Locked).is_err());
        assert!(Toc::open(&toc, &chunk.id, chunk.toc_offset, &KeyAccess::Plain).is_err());
    }

    proptest! {
        #[test]
        fn a_chunk_says_what_its_records_said(
            k in 1usize..6,
            steps in prop::collection::vec((0u64..600, 1u64..40, any::<u8>()), 1..40),
        ) {
            let mut draft = Draft::default();
            let mut model = BTreeMap::new();
            for (i, (block, blocks, fill)) in steps.into_iter().enumerate() {
                let lsn = i as u64 + 1;
                let record = match fill {
                    0..64 => Record { lsn: Lsn(lsn), op: Op::Zero { block, blocks } },
                    _ => write(lsn, block, blocks, fill),
                };
                model.extend((block..block + blocks).map(|b| (b, if fill < 64 { 0 } else { fill })));
                draft.push(record);
            }
            let e = encode(&stamp(k), draft);
            prop_assert_eq!(contents(&e), model);
            prop_assert_eq!(e.chunk.shards.len(), k);
            for p in &e.placed {
                prop_assert_eq!(p.at.volume, 2);
                prop_assert_eq!(p.block / FRAME_BLOCKS, (p.block + u64::from(p.count) - 1) / FRAME_BLOCKS);
            }
        }
    }

    /// Bytes that half repeat, as much as fits a frame.
    fn frames(seed: u64, count: u64) -> Draft {
        let mut draft = Draft::default();
        for n in 0..count {
            let word = |i: u64| {
                if i % 8 < 4 { 0 } else { xxhash_rust::xxh3::xxh3_64(&(seed + (n << 20) + i).to_le_bytes()) }
            };
            let data =
                (0..FRAME_BLOCKS * BLOCK / 8).flat_map(|i| word(i).to_le_bytes()).collect::<Vec<_>>().into();
            draft.push(Record { lsn: Lsn(n + 1), op: Op::Write { block: n * FRAME_BLOCKS, data } });
        }
        draft
    }

    #[test]
    fn a_chunk_takes_the_buffers_of_one_before_and_copies_no_whole_frame() {
        for k in [1, 2] {
            let allocated = |turn: u64| {
                let draft = frames(turn, 48);
                let mut made = None;
                let allocated = allocation_counter::measure(|| made = Some(encode(&stamp(k), draft)));
                made.into_iter().flat_map(|e| e.chunk.shards).for_each(|shard| SHARDS.give_bytes(shard));
                allocated.bytes_total
            };
            // Tests beside this one may have taken them.
            let least = (0..50).map(allocated).min().unwrap();
            assert!(least < 512 << 10, "{least} bytes for 3 MiB");
        }
    }

    #[test]
    fn load_is_balanced_over_the_shards() {
        let mut draft = Draft::default();
        let mut noise = 1u64;
        for i in 0..2048u64 {
            let mut data = vec![0u8; 4096];
            for b in &mut data {
                noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *b = (noise >> 56) as u8;
            }
            assert!(draft.takes(BLOCK, chunk_target(4)));
            draft.push(Record { lsn: Lsn(i + 1), op: Op::Write { block: i * 7, data: data.into() } });
        }
        let e = encode(&stamp(4), draft);
        let lens: Vec<_> = e.chunk.shards.iter().map(|s| s.len()).collect();
        let (min, max) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
        assert!(max - min < 16 << 10, "{lens:?}");
        assert!(e.chunk.shards.iter().all(|s| !s.is_empty()));
    }

    #[test]
    fn a_draft_knows_when_it_is_full() {
        let target = chunk_target(1);
        let mut draft = Draft::default();
        assert!(draft.takes(1 << 40, target), "one record fits always");
        draft.push(write(1, 0, 1024, 1));
        assert!(draft.takes(4 << 20, target));
        assert!(!draft.takes((4 << 20) + 1, target));
        let mark = Mark {
            state: windlass_base::StateId(1),
            name: "a".parse().unwrap(),
            group: windlass_base::Nonce(1),
            group_size: 1,
            created_ms: 0,
            size: 1 << 20,
            history: false,
        };
        draft.push(Record { lsn: Lsn(2), op: Op::Mark(mark.clone()) });
        assert!(!draft.takes(0, target));
        let e = encode(&stamp(1), draft);
        let toc = Toc::decode(&at(&e.chunk, e.chunk.toc_offset, e.chunk.toc_len)).unwrap();
        assert_eq!((toc.mark, toc.first, toc.last), (Some(mark), Lsn(1), Lsn(2)));
    }

    #[test]
    fn a_chunk_of_tiny_pages_has_a_table_that_can_be_read() {
        let mut draft = MapDraft::new(stamp(1));
        let mut pages = 0u64;
        while !draft.is_full(chunk_target(2)) {
            draft.append(FrameKind::Map, u64::MAX >> 8 | pages, Bytes::from(vec![7; 20]));
            pages += 1;
        }
        let chunk = draft.finish(Lsn(9));
        let toc = Toc::decode(&at(&chunk, chunk.toc_offset, chunk.toc_len)).unwrap();
        assert_eq!(toc.frames.len() as u64, pages);
    }

    #[test]
    fn tiny_pages_lie_side_by_side_and_large_ones_apart() {
        for (len, apart) in [(20, 1), (SIDE_BY_SIDE, 3)] {
            let mut draft = MapDraft::new(stamp(3));
            let noise = |n: usize| {
                let bytes = (0..len).map(|i| xxhash_rust::xxh3::xxh3_64(&(n << 32 | i).to_le_bytes()) as u8);
                Bytes::from(bytes.collect::<Vec<_>>())
            };
            let shards: BTreeSet<u64> = (0..9)
                .map(|n| draft.append(FrameKind::Map, n as u64, noise(n)).offset / SHARD_SPAN)
                .collect();
            assert_eq!(shards.len(), apart);
            let most = draft.shards.iter().map(Vec::len).max().unwrap();
            let least = draft.shards.iter().map(Vec::len).min().unwrap();
            assert!(most - least <= SIDE_BY_SIDE + len + windlass_frame::FRAME_HEADER, "{least} to {most}");
        }
    }

    #[test]
    fn pages_are_placed_at_once() {
        let mut draft = MapDraft::new(stamp(3));
        let mut places = Vec::new();
        for i in 0..10u64 {
            let raw = Bytes::from(vec![i as u8; 100 + 37 * i as usize]);
            places.push((draft.append(FrameKind::Map, i << 40, raw.clone()), i << 40, raw));
        }
        let chunk = draft.finish(Lsn(9));
        for (r, address, raw) in places {
            let place = Place { chunk: chunk.id, offset: r.offset, address };
            assert_eq!(
                windlass_frame::open(&at(&chunk, r.offset, r.len), &place, 1 << 20, &KeyAccess::Plain)
                    .unwrap(),
                raw
            );
        }
        let toc = Toc::decode(&at(&chunk, chunk.toc_offset, chunk.toc_len)).unwrap();
        assert_eq!((toc.kind, toc.frames.len(), toc.first, toc.last), (ChunkKind::Map, 10, Lsn(10), Lsn(9)));
    }
}

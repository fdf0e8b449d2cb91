//! Packs: what is left of several chunks in one object, each frame found by its old place (protocol.md §5.5).
//!
//! A *slice* is what is left of one chunk: an index, then the frames in order of their old offsets. Frames keep the place
//! that their checksum binds, so that a reader verifies them as if they had never moved. A frame is as it was, or was
//! compressed anew to fewer bytes; maps and lists of deaths name the length that it was first stored with.
//!
//! # Bytes of a slice's index
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `WLSL`, or `WLSD`: of a data chunk whose frames' first blocks it tells, or `WLSM`: of a map chunk whose pages' addresses it tells |
//! | 4 | 8 | epoch of the chunk |
//! | 12 | 8 | its sequence number |
//! | 20 | … | varint: number of frames; then each: offset in the chunk less the end of the frame before, length × 2 + 1 when it is the first in the pack's next data shard, else length × 2; with `WLSD` also by how much shorter it is than it was, and its first block less that of the frame before; with `WLSM` also its address |
//! | end−4 | 4 | CRC32C of all before |
//!
//! Addresses of map pages are told where the volume is encrypted: what is sealed can't be sealed anew without them.
//!
//! Of an encrypted volume these bytes are the contents of a frame of kind index, whose place is where it lies in the pack; the
//! frames follow that.
//!
//! Offsets and ends in the chunk are those of the frames as they were. The first frame follows the index (or begins the
//! next data shard), each other one the frame before it.
//!
//! The pack's table of contents: magic `WLPK`, number of slices (varint), then each: epoch, sequence number, place and
//! length of its index (varints); CRC32C of all before.

use bytes::Bytes;

use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::{SHARD_SPAN, SHARDS_MAX};
use windlass_base::sum::crc32c;
use windlass_base::{ChunkId, Epoch, Era, Result, Seq};
use windlass_frame::{FRAME_MAX, FrameKind, Place};
use windlass_keys::{ChunkSeal, KeyAccess};
use windlass_pool::{Chunk, ChunkKind};

const SLICE: u32 = u32::from_le_bytes(*b"WLSL");
const DATA_SLICE: u32 = u32::from_le_bytes(*b"WLSD");
const MAP_SLICE: u32 = u32::from_le_bytes(*b"WLSM");
const PACK: u32 = u32::from_le_bytes(*b"WLPK");
/// Bytes of the longest index: that of as many frames as a chunk may have.
const INDEX_MAX: usize = 4 << 20;
/// Spare capacity that lets the pool append its footer without a copy.
const FOOTER_ROOM: usize = 4 << 10;

/// The old and the new place of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Virtual offset in the chunk, and that in the pack.
    pub from: u64,
    pub to: u64,
    /// Bytes of the frame in the pack, and those that it was first stored with: maps name it by these.
    pub len: u32,
    pub was: u32,
}

/// A frame on its way into a pack.
#[derive(Clone, Debug)]
pub struct PackFrame {
    /// Virtual offset in its chunk, and the length that it was first stored with.
    pub from: u64,
    pub was: u32,
    /// First block of a data frame, or address of a page, where that is known.
    pub address: Option<u64>,
    /// Is true if the frame holds blocks of the disk, not a page.
    pub is_data: bool,
    /// The frame as it will be stored in the pack.
    pub data: Bytes,
}

/// The index of a slice: the frames that are left of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    pub epoch: Epoch,
    pub seq: Seq,
    /// The frames in order of their places in the chunk, which is also their order in the pack.
    pub frames: Vec<Moved>,
    /// First block or address of each frame; empty where the index doesn't tell.
    pub addresses: Vec<u64>,
    /// Is true if the addresses are first blocks of data frames.
    pub is_data: bool,
}

impl Slice {
    /// Returns the places of the frame that began at `from` in the chunk; `None` when the slice does not have it.
    pub fn find(&self, from: u64) -> Option<&Moved> {
        let at = self.frames.binary_search_by_key(&from, |m| m.from).ok()?;
        self.frames.get(at)
    }

    /// Tells whether these bytes, at this offset of the pack, are an index. Without the key of an encrypted
    /// volume only their checksum tells.
    pub fn verify(bytes: &[u8], pack: &ChunkId, at: u64, access: &KeyAccess) -> bool {
        match access {
            KeyAccess::Plain => Slice::decode(bytes, at).is_ok(),
            KeyAccess::Sealed(_) => Slice::open(&Bytes::copy_from_slice(bytes), pack, at, access).is_ok(),
            KeyAccess::Locked => {
                windlass_frame::verify(bytes, &Place { chunk: *pack, offset: at, address: 0 })
            }
        }
    }

    /// Opens and decodes an index that is stored at this offset of the pack.
    pub fn open(bytes: &Bytes, pack: &ChunkId, at: u64, access: &KeyAccess) -> Result<Slice> {
        match access {
            KeyAccess::Plain => Slice::decode(bytes, at),
            _ => {
                let place = Place { chunk: *pack, offset: at, address: 0 };
                let index = windlass_frame::open(bytes, &place, INDEX_MAX, access)?;
                Slice::decode_before(&index, at.saturating_add(bytes.len() as u64))
            }
        }
    }

    /// Decodes an index that is not sealed. `at` is the offset in the pack at which it lies.
    pub fn decode(bytes: &[u8], at: u64) -> Result<Slice> {
        Slice::decode_before(bytes, at.saturating_add(bytes.len() as u64))
    }

    /// Decodes an index. `end` is the offset in the pack at which begins what follows the index.
    fn decode_before(bytes: &[u8], end: u64) -> Result<Slice> {
        const WHAT: &str = "the index of a pack";
        let mut r = Reader::new(bytes, WHAT);
        let Some(body) = bytes.len().checked_sub(4).map(|n| &bytes[..n]) else {
            return Err(r.bad("it is too short"));
        };
        if crc32c(body).to_le_bytes() != bytes[body.len()..] {
            return Err(r.bad("its checksum is wrong"));
        }
        r = Reader::new(body, WHAT);
        let kind = r.u32()?;
        // Least number of bytes that each frame takes.
        let (is_data, is_map, least) = match kind {
            SLICE => (false, false, 2),
            DATA_SLICE => (true, false, 4),
            MAP_SLICE => (false, true, 3),
            _ => return Err(r.bad("it is of another kind")),
        };
        let (epoch, seq, n) = (Epoch(r.u64()?), Seq(r.u64()?), r.varint()?);
        if n > (r.left() / least) as u64 {
            return Err(r.bad("it names too many frames"));
        }
        let mut frames = Vec::with_capacity(n as usize);
        let mut addresses = Vec::with_capacity(if is_data || is_map { n as usize } else { 0 });
        let (mut from, mut to, mut block) = (0u64, end, 0u64);
        for _ in 0..n {
            let (gap, len) = (r.varint()?, r.varint()?);
            if len & 1 == 1 {
                to = (to / SHARD_SPAN).saturating_add(1).saturating_mul(SHARD_SPAN);
            }
            let len = u32::try_from(len >> 1).map_err(|_| r.bad("a length is impossible"))?;
            let (less, blocks_on) = if is_data { (r.varint()?, r.varint()?) } else { (0, 0) };
            let was = u32::try_from(less).ok().and_then(|less| len.checked_add(less));
            let (Some(was), Some(first)) = (was, block.checked_add(blocks_on)) else {
                return Err(r.bad("a length or a block is impossible"));
            };
            let begin = from.checked_add(gap).filter(|b| *b < SHARDS_MAX as u64 * SHARD_SPAN);
            let Some(begin) = begin.filter(|_| to < SHARDS_MAX as u64 * SHARD_SPAN) else {
                return Err(r.bad("a place is impossible"));
            };
            frames.push(Moved { from: begin, to, len, was });
            if is_data {
                addresses.push(first);
            } else if is_map {
                addresses.push(r.varint()?);
            }
            (from, to, block) = (begin + u64::from(was), to + u64::from(len), first);
        }
        r.end()?;
        Ok(Slice { epoch, seq, frames, addresses, is_data })
    }
}

/// The place of the index of a slice in its pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placing {
    pub epoch: Epoch,
    pub seq: Seq,
    pub at: u64,
    pub len: u32,
    /// Bytes of the frames as they were, and how many of them compression has saved since.
    pub bytes: u64,
    pub saved: u64,
}

/// A pack that is being filled, slice by slice.
#[derive(Debug)]
pub struct PackDraft {
    id: ChunkId,
    k: usize,
    shards: Vec<Vec<u8>>,
    /// Index of the shard that is being filled, and how many bytes each shard is to get.
    current: usize,
    share: u64,
    slices: Vec<Placing>,
    /// The key of this draft alone; `None` when the volume is not encrypted.
    seal: Option<ChunkSeal>,
    /// Slices that are laid out at the end, since their total size is not known before. `None`: slices are laid
    /// out as they come.
    gathered: Option<Vec<Gathered>>,
}

/// The frames that are left of one chunk, and are yet to be laid out.
#[derive(Debug)]
struct Gathered {
    epoch: Epoch,
    seq: Seq,
    frames: Vec<PackFrame>,
}

impl PackDraft {
    /// Begins a pack for `bytes` bytes of frames, as they will be stored: each slice is laid out at once.
    pub fn new(id: ChunkId, k: usize, bytes: u64, seal: Option<ChunkSeal>) -> PackDraft {
        let mut draft = PackDraft::gathering(id, k, seal);
        draft.gathered = None;
        draft.begin(bytes);
        draft
    }

    /// Begins a pack for frames whose total size is not known yet. The draft holds a copy of all of them, and
    /// two copies when it is finished.
    pub fn gathering(id: ChunkId, k: usize, seal: Option<ChunkSeal>) -> PackDraft {
        let gathered = Some(Vec::new());
        PackDraft { id, k, shards: Vec::new(), current: 0, share: 1, slices: Vec::new(), seal, gathered }
    }

    fn begin(&mut self, bytes: u64) {
        self.share = bytes.div_ceil(self.k as u64).max(1);
        // Indexes, and the frame that goes over its share, come on top. A vector that grows would hold all bytes twice.
        let room = self.share as usize + self.share as usize / 8 + FRAME_MAX + FOOTER_ROOM;
        self.shards = (0..self.k).map(|_| Vec::with_capacity(room)).collect();
    }

    /// Adds the frames that are left of one chunk, in order of their offsets in it.
    pub fn add(&mut self, epoch: Epoch, seq: Seq, frames: &[PackFrame]) {
        let Some(gathered) = &mut self.gathered else { return self.lay_out(epoch, seq, frames) };
        // The frames may be slices of whole chunks, which nobody else needs any more: copies let those go.
        let own = |f: &PackFrame| PackFrame { data: Bytes::copy_from_slice(&f.data), ..f.clone() };
        gathered.push(Gathered { epoch, seq, frames: frames.iter().map(own).collect() });
    }

    fn lay_out(&mut self, epoch: Epoch, seq: Seq, frames: &[PackFrame]) {
        // The index tells which frames begin a shard, and comes before them: so the frames alone decide that.
        let (mut shard, mut fill) = (self.current, self.shards[self.current].len() as u64);
        let told = !frames.is_empty() && frames.iter().all(|f| f.address.is_some());
        let is_data = told && frames.iter().all(|f| f.is_data);
        let is_map = told && !is_data && self.seal.is_some();
        let kind = match (is_data, is_map) {
            (true, _) => DATA_SLICE,
            (_, true) => MAP_SLICE,
            _ => SLICE,
        };
        let mut w = Writer::with_capacity(32 + 8 * frames.len());
        w.u32(kind).u64(epoch.0).u64(seq.0).varint(frames.len() as u64);
        let (mut end, mut last) = (0, 0);
        let mut turns = Vec::with_capacity(frames.len());
        for PackFrame { from, was, address, data, .. } in frames {
            let turn = fill >= self.share && shard + 1 < self.shards.len();
            if turn {
                (shard, fill) = (shard + 1, 0);
            }
            fill += data.len() as u64;
            turns.push(turn);
            w.varint(from - end).varint((data.len() as u64) << 1 | u64::from(turn));
            let less = u64::from(*was) - data.len() as u64;
            assert!(is_data || less == 0, "a frame became smaller whose block is not known");
            if let Some(block) = address.filter(|_| is_data) {
                w.varint(less).varint(block - last);
                last = block;
            }
            if let Some(address) = address.filter(|_| is_map) {
                w.varint(address);
            }
            end = from + u64::from(*was);
        }
        let sum = crc32c(&w.buf);
        w.u32(sum);
        let at = self.current as u64 * SHARD_SPAN + self.shards[self.current].len() as u64;
        let bytes = frames.iter().map(|f| u64::from(f.was)).sum();
        let stored: u64 = frames.iter().map(|f| f.data.len() as u64).sum();
        let index = match &self.seal {
            Some(seal) => {
                let place = Place { chunk: self.id, offset: at, address: 0 };
                windlass_frame::seal_list(FrameKind::Index, &w.buf, &place, seal)
            }
            None => w.buf,
        };
        let placing = Placing { epoch, seq, at, len: index.len() as u32, bytes, saved: bytes - stored };
        self.shards[self.current].extend_from_slice(&index);
        for (frame, turn) in frames.iter().zip(turns) {
            self.current += usize::from(turn);
            self.shards[self.current].extend_from_slice(&frame.data);
        }
        self.slices.push(placing);
    }

    /// Returns the pack, and the place of each slice in it, in the order in which they were added.
    pub fn finish(mut self, era: Era) -> (Chunk, Vec<Placing>) {
        if let Some(gathered) = self.gathered.take() {
            let all = gathered.iter().flat_map(|one| &one.frames);
            self.begin(all.map(|f| f.data.len() as u64).sum());
            gathered.iter().for_each(|one| self.lay_out(one.epoch, one.seq, &one.frames));
        }
        let mut w = Writer::with_capacity(16 + 24 * self.slices.len());
        w.u32(PACK).varint(self.slices.len() as u64);
        for s in &self.slices {
            w.varint(s.epoch.0).varint(s.seq.0).varint(s.at).varint(s.len.into());
        }
        let sum = crc32c(&w.buf);
        w.u32(sum);
        let k = self.shards.len();
        let last = self.shards.last_mut().expect("a layout has a data shard");
        let toc_offset = (k - 1) as u64 * SHARD_SPAN + last.len() as u64;
        last.extend_from_slice(&w.buf);
        for shard in &self.shards {
            assert!(shard.len() as u64 <= SHARD_SPAN, "a shard of {} bytes", shard.len());
        }
        let shards = self.shards.into_iter().map(Bytes::from).collect();
        let toc_len = w.buf.len() as u32;
        (Chunk { id: self.id, era, kind: ChunkKind::Pack, shards, toc_offset, toc_len }, self.slices)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use windlass_base::VolumeId;
    use windlass_keys::{Secret, VolumeKey};

    fn id() -> ChunkId {
        ChunkId { volume: VolumeId(3), epoch: Epoch(2), seq: Seq::pack(5) }
    }

    fn frame(from: u64, data: Bytes) -> PackFrame {
        PackFrame { from, was: data.len() as u32, address: None, is_data: false, data }
    }

    fn at(chunk: &Chunk, offset: u64, len: u32) -> Bytes {
        let start = (offset % SHARD_SPAN) as usize;
        chunk.shards[(offset / SHARD_SPAN) as usize].slice(start..start + len as usize)
    }

    #[test]
    fn golden_bytes() {
        let mut draft = PackDraft::new(id(), 2, 6, None);
        let frame = |from, data: &'static [u8]| frame(from, Bytes::from_static(data));
        draft.add(Epoch(1), Seq(9), &[frame(300, b"abc"), frame(400, b"d"), frame(401, b"ef")]);
        let (chunk, placings) = draft.finish(Era(4));
        let placing = placings[0];
        let index = b"WLSL\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x03\xac\x02\x06\x61\x03\0\x04";
        assert_eq!((placing.at, placing.len, placing.bytes), (0, index.len() as u32 + 4, 6));
        assert_eq!(&chunk.shards[0][..index.len()], index);
        assert_eq!(&chunk.shards[0][index.len() + 4..], b"abc");
        let toc = b"defWLPK\x01\x01\x09\0\x20";
        assert_eq!((&chunk.shards[1][..toc.len()], chunk.toc_len), (&toc[..], toc.len() as u32 + 1));
        assert_eq!((chunk.toc_offset, chunk.kind), (SHARD_SPAN + 3, ChunkKind::Pack));
    }

    #[test]
    fn golden_bytes_of_what_was_compressed_anew() {
        let mut draft = PackDraft::gathering(id(), 1, None);
        let frame = |from, was, block, data: &'static [u8]| PackFrame {
            from,
            was,
            address: Some(block),
            is_data: true,
            data: Bytes::from_static(data),
        };
        draft.add(Epoch(1), Seq(9), &[frame(300, 5, 200, b"ab"), frame(305, 1, 216, b"c")]);
        let (chunk, placings) = draft.finish(Era(4));
        let placing = placings[0];
        let index = b"WLSD\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\xac\x02\x04\x03\xc8\x01\0\x02\0\x10";
        assert_eq!((placing.bytes, placing.saved), (6, 3));
        assert_eq!(&chunk.shards[0][..index.len()], index);
        let slice = Slice::decode(&at(&chunk, placing.at, placing.len), placing.at).unwrap();
        let to = u64::from(placing.len);
        let moved = |from, to, len, was| Moved { from, to, len, was };
        assert_eq!(slice.frames, [moved(300, to, 2, 5), moved(305, to + 2, 1, 1)]);
        assert_eq!((slice.addresses, slice.is_data), (vec![200, 216], true));
    }

    /// Pages of an encrypted volume could not be sealed anew without their addresses.
    #[test]
    fn pages_keep_their_addresses() {
        let key = VolumeKey::new(VolumeId(3), [(1, Secret::new([7; 32]))]).unwrap();
        let page = |from, address, data: &'static [u8]| PackFrame {
            address: Some(address),
            ..frame(from, Bytes::from_static(data))
        };
        let pages = [page(300, 9 << 60, b"abc"), page(400, 2, b"d"), page(401, u64::MAX, b"ef")];
        let mut draft = PackDraft::new(id(), 1, 6, Some(key.chunk(&id(), 5)));
        draft.add(Epoch(1), Seq(9), &pages);
        let (chunk, placings) = draft.finish(Era(4));
        let Placing { at: place, len, .. } = placings[0];
        let access = KeyAccess::Sealed(key);
        let slice = Slice::open(&at(&chunk, place, len), &id(), place, &access).unwrap();
        assert_eq!((slice.addresses.clone(), slice.is_data), (vec![9 << 60, 2, u64::MAX], false));
        assert_eq!(at(&chunk, slice.find(401).unwrap().to, 2), &b"ef"[..]);
        // The index of a plain volume has no addresses, since nobody needs them.
        let mut draft = PackDraft::new(id(), 1, 6, None);
        draft.add(Epoch(1), Seq(9), &pages);
        assert_eq!(draft.finish(Era(4)).0.shards[0][..4], *b"WLSL");
        let bytes = b"WLSM\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\xac\x02\x06\x05";
        let sum = crc32c(bytes).to_le_bytes();
        let slice = Slice::decode(&[&bytes[..], &sum].concat(), 0).unwrap();
        assert_eq!((slice.addresses, slice.frames[0].from), (vec![5], 300));
    }

    proptest! {
        #[test]
        fn frames_are_found(
            (k, share) in (1..5usize, 1..3000u64),
            slices in prop::collection::vec(prop::collection::vec((0..5000u64, 1..300usize), 1..20), 1..8),
            (told, gathers) in any::<(bool, bool)>(),
        ) {
            let mut draft = match gathers {
                true => PackDraft::gathering(id(), k, None),
                false => PackDraft::new(id(), k, share * k as u64, None),
            };
            let mut wanted = Vec::new();
            for (n, gaps) in slices.into_iter().enumerate() {
                let mut end = 0;
                let mut frames = Vec::new();
                for (gap, len) in gaps {
                    let data: Bytes = vec![(end + len as u64) as u8; len].into();
                    let (from, block) = (end + gap, told.then_some((end + gap) * 3));
                    let was = if told { (len as u64 + gap % 7) as u32 } else { len as u32 };
                    end = from + u64::from(was);
                    frames.push(PackFrame { from, was, address: block, is_data: told, data });
                }
                draft.add(Epoch(1), Seq(n as u64), &frames);
                wanted.push(frames);
            }
            let (chunk, placings) = draft.finish(Era(1));
            prop_assert_eq!(placings.len(), wanted.len());
            for (n, (placing, frames)) in placings.into_iter().zip(wanted).enumerate() {
                let index = at(&chunk, placing.at, placing.len);
                let slice = Slice::decode(&index, placing.at).unwrap();
                prop_assert_eq!((slice.seq, slice.frames.len()), (Seq(n as u64), frames.len()));
                for PackFrame { from, was, data, .. } in &frames {
                    let moved = slice.find(*from).unwrap();
                    prop_assert_eq!(moved.was, *was);
                    prop_assert_eq!(&at(&chunk, moved.to, moved.len), data);
                }
                let blocks: Vec<u64> = frames.iter().filter_map(|f| f.address).collect();
                prop_assert_eq!(slice.addresses, blocks);
                for cut in 0..index.len() {
                    prop_assert!(Slice::decode(&index[..cut], placing.at).is_err());
                }
            }
        }

        #[test]
        fn any_bytes_are_harmless(
            mut bytes in prop::collection::vec(any::<u8>(), 24..100),
            at in 0..1u64 << 40,
            kind in 0..3usize,
        ) {
            bytes[..4].copy_from_slice([b"WLSD", b"WLSL", b"WLSM"][kind]);
            let n = bytes.len() - 4;
            let sum = crc32c(&bytes[..n]);
            bytes[n..].copy_from_slice(&sum.to_le_bytes());
            let _ = Slice::decode(&bytes, at);
        }
    }
}

//! A chunk's table of contents: what a walk of the log needs to rebuild what the chunk changed, without its frames.
//!
//! # Bytes
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `WLTC` |
//! | 4 | 2 | version: 2 |
//! | 6 | 1 | kind: 0 data, 1 map |
//! | 7 | 1 | 0 |
//! | 8 | 8 | epoch |
//! | 16 | 8 | sequence |
//! | 24 | 8 | era of all its frames |
//! | 32 | 16 | id of the journal whose records it holds |
//! | 48 | 8 | first lsn (in a chunk without records: last lsn + 1) |
//! | 56 | 8 | last lsn of the log up to and with this chunk |
//! | 64 | 4 | number of frames |
//! | 68 | 4 | number of zero ranges |
//! | 72 | 4 | number of marks: 0 or 1 |
//! | 76 | … | frames, zero ranges, marks |
//! | end−4 | 4 | CRC32C of all before |
//!
//! Little-endian; the lists are varints (LEB128). A frame of a data chunk: its first block less the end of the frame
//! before, its blocks, its offset less the end of the frame before, its length; sorted by block, which is also their order
//! in the chunk. A frame of a map chunk: address, 0, then offset and length the same way, in order of offset. A zero range:
//! first block less the end of the range before, blocks. Frames and zero ranges of a data chunk don't overlap: overwrites
//! were absorbed inside the chunk. A mark is the last record of its chunk.
//!
//! Of an encrypted volume these bytes are the contents of a frame of kind table of contents, whose place is where it lies in
//! the chunk.

use bytes::Bytes;

use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS, LEAF_BLOCKS, SHARD_SPAN, SHARDS_MAX, VOLUME_MAX};
use windlass_base::log_record::Mark;
use windlass_base::sum::crc32c;
use windlass_base::{ChunkId, Epoch, Era, JournalId, Lsn, Result, Seq};
use windlass_frame::Place;
use windlass_keys::KeyAccess;
use windlass_pool::ChunkKind;

/// Longest table of contents, in bytes, before it is sealed; chunks are cut before theirs gets there.
pub const TOC_MAX: usize = 4 << 20;
/// Frames and zero ranges a chunk may have: each takes at most 34 bytes.
pub const TOC_ITEMS_MAX: usize = 64 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"WLTC");
const VERSION: u16 = 2;
const HEAD: usize = 76;
const CRC: usize = 4;

/// One frame of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TocFrame {
    /// First block; in a map chunk the page's address.
    pub block: u64,
    /// Number of blocks, 1..=16; 0 in a map chunk.
    pub count: u8,
    /// Virtual offset and stored length, in bytes.
    pub offset: u64,
    pub len: u32,
}

/// A table of contents. See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Toc {
    pub kind: ChunkKind,
    pub epoch: Epoch,
    pub seq: Seq,
    pub era: Era,
    pub journal: JournalId,
    pub first: Lsn,
    pub last: Lsn,
    pub frames: Vec<TocFrame>,
    /// Ranges of zeros: first block, and number of blocks.
    pub zeros: Vec<(u64, u64)>,
    pub mark: Option<Mark>,
}

impl Toc {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(HEAD + 12 * self.frames.len() + 8 * self.zeros.len() + 128);
        w.u32(MAGIC).u16(VERSION).u8(self.kind as u8).u8(0);
        w.u64(self.epoch.0).u64(self.seq.0).u64(self.era.0).u128(self.journal.0);
        w.u64(self.first.0).u64(self.last.0);
        w.u32(self.frames.len() as u32).u32(self.zeros.len() as u32).u32(self.mark.iter().len() as u32);
        let (mut block, mut offset) = (0, 0);
        for f in &self.frames {
            match self.kind {
                ChunkKind::Data => w.varint(f.block - block),
                _ => w.varint(f.block),
            };
            w.varint(f.count.into()).varint(f.offset - offset).varint(f.len.into());
            block = f.block + u64::from(f.count);
            offset = f.offset + u64::from(f.len);
        }
        let mut block = 0;
        for &(first, count) in &self.zeros {
            w.varint(first - block).varint(count);
            block = first + count;
        }
        if let Some(mark) = &self.mark {
            mark.encode(&mut w);
        }
        let sum = crc32c(&w.buf);
        w.u32(sum);
        w.buf
    }

    /// Tells whether these bytes, at this offset of the chunk, are the table of contents that was written
    /// there. Without the key of an encrypted volume only their checksum tells.
    pub fn verify(bytes: &[u8], chunk: &ChunkId, offset: u64, access: &KeyAccess) -> bool {
        match access {
            KeyAccess::Plain => Toc::decode(bytes).is_ok(),
            KeyAccess::Sealed(_) => Toc::open(&Bytes::copy_from_slice(bytes), chunk, offset, access).is_ok(),
            KeyAccess::Locked => windlass_frame::verify(bytes, &Place { chunk: *chunk, offset, address: 0 }),
        }
    }

    /// Opens and decodes a table of contents that is stored at this offset of the chunk. `Denied` when the
    /// volume is encrypted and the key is not here.
    pub fn open(bytes: &Bytes, chunk: &ChunkId, offset: u64, access: &KeyAccess) -> Result<Toc> {
        match access {
            KeyAccess::Plain => Toc::decode(bytes),
            _ => {
                let place = Place { chunk: *chunk, offset, address: 0 };
                Toc::decode(&windlass_frame::open(bytes, &place, TOC_MAX, access)?)
            }
        }
    }

    /// Decodes a table of contents and checks all of it: what this returns can be replayed without a second look.
    pub fn decode(bytes: &[u8]) -> Result<Toc> {
        let mut r = Reader::new(bytes, "a chunk's table of contents");
        if bytes.len() < HEAD + CRC || bytes.len() > TOC_MAX {
            return Err(r.bad("its length is impossible"));
        }
        let (body, sum) = bytes.split_at(bytes.len() - CRC);
        if crc32c(body).to_le_bytes() != sum {
            return Err(r.bad("its checksum is wrong"));
        }
        r = Reader::new(body, "a chunk's table of contents");
        if r.u32()? != MAGIC || r.u16()? != VERSION {
            return Err(r.bad("it is of another kind or version"));
        }
        let kind = match (r.u8()?, r.u8()?) {
            (0, 0) => ChunkKind::Data,
            (1, 0) => ChunkKind::Map,
            _ => return Err(r.bad("its kind is unknown")),
        };
        let (epoch, seq, era) = (Epoch(r.u64()?), Seq(r.u64()?), Era(r.u64()?));
        let journal = JournalId(r.u128()?);
        let (first, last) = (Lsn(r.u64()?), Lsn(r.u64()?));
        if first.0 == 0 || last.0 == u64::MAX || first.0 > last.0 + 1 {
            return Err(r.bad("its range of records is impossible"));
        }
        let (frames, zeros, marks) = (r.u32()? as usize, r.u32()? as usize, r.u32()?);
        let frames = decode_frames(&mut r, kind, frames)?;
        let zeros = decode_zeros(&mut r, zeros)?;
        let mark = match marks {
            0 => None,
            1 => Some(Mark::decode(&mut r)?),
            _ => return Err(r.bad("it has several marks")),
        };
        r.end()?;
        let toc = Toc { kind, epoch, seq, era, journal, first, last, frames, zeros, mark };
        match toc.is_sound() {
            true => Ok(toc),
            false => Err(r.bad("its parts contradict each other")),
        }
    }

    fn is_sound(&self) -> bool {
        let empty = self.frames.is_empty() && self.zeros.is_empty() && self.mark.is_none();
        match self.kind {
            ChunkKind::Map => self.zeros.is_empty() && self.mark.is_none() && self.first.0 == self.last.0 + 1,
            ChunkKind::Pack => false,
            ChunkKind::Data => empty == (self.first.0 > self.last.0) && disjoint(&self.frames, &self.zeros),
        }
    }
}

/// Tells whether no zero range overlaps a frame. Both lists must be sorted.
fn disjoint(frames: &[TocFrame], zeros: &[(u64, u64)]) -> bool {
    let mut zeros = zeros.iter().peekable();
    frames.iter().all(|f| {
        while zeros.next_if(|&&(first, count)| first + count <= f.block).is_some() {}
        zeros.peek().is_none_or(|&&(first, _)| first >= f.block + u64::from(f.count))
    })
}

fn decode_frames(r: &mut Reader<'_>, kind: ChunkKind, n: usize) -> Result<Vec<TocFrame>> {
    const BLOCKS_MAX: u64 = VOLUME_MAX / BLOCK;
    // Four varints, a byte each at least: a larger count lies, and would take memory.
    if n > TOC_ITEMS_MAX || n > r.left() / 4 {
        return Err(r.bad("it names too many frames"));
    }
    let mut frames = Vec::with_capacity(n);
    let (mut end, mut offset) = (0u64, 0u64);
    for _ in 0..n {
        let (gap, count, skip, len) = (r.varint()?, r.varint()?, r.varint()?, r.varint()?);
        let from = offset.checked_add(skip);
        let to = from.and_then(|o| o.checked_add(len));
        let (Some(from), Some(to), Ok(len)) = (from, to, u32::try_from(len)) else {
            return Err(r.bad("a frame's place is impossible"));
        };
        if len == 0 || from / SHARD_SPAN != (to - 1) / SHARD_SPAN || to > SHARDS_MAX as u64 * SHARD_SPAN {
            return Err(r.bad("a frame's place is impossible"));
        }
        let block = match kind {
            ChunkKind::Data => end.checked_add(gap).filter(|&b| b < BLOCKS_MAX),
            _ => Some(gap),
        };
        let Some(block) = block else { return Err(r.bad("a frame's block is impossible")) };
        match kind {
            ChunkKind::Data if !(1..=FRAME_BLOCKS).contains(&count) => {
                return Err(r.bad("a frame's size is impossible"));
            }
            ChunkKind::Data if block / LEAF_BLOCKS != (block + count - 1) / LEAF_BLOCKS => {
                return Err(r.bad("a frame crosses a leaf"));
            }
            ChunkKind::Map if count != 0 => return Err(r.bad("a page has blocks")),
            _ => end = block.saturating_add(count),
        }
        frames.push(TocFrame { block, count: count as u8, offset: from, len });
        offset = to;
    }
    Ok(frames)
}

fn decode_zeros(r: &mut Reader<'_>, n: usize) -> Result<Vec<(u64, u64)>> {
    if n > TOC_ITEMS_MAX || n > r.left() / 2 {
        return Err(r.bad("it names too many zero ranges"));
    }
    let mut zeros = Vec::with_capacity(n);
    let mut end = 0u64;
    for _ in 0..n {
        let (gap, count) = (r.varint()?, r.varint()?);
        let first = end.checked_add(gap);
        let last = first.and_then(|f| f.checked_add(count)).filter(|&e| e <= VOLUME_MAX / BLOCK);
        let (Some(first), Some(last)) = (first, last.filter(|_| count > 0)) else {
            return Err(r.bad("a zero range is impossible"));
        };
        zeros.push((first, count));
        end = last;
    }
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use windlass_base::{Nonce, StateId};

    fn sample() -> Toc {
        Toc {
            kind: ChunkKind::Data,
            epoch: Epoch(2),
            seq: Seq(9),
            era: Era(1),
            journal: JournalId(0x0102),
            first: Lsn(5),
            last: Lsn(8),
            frames: vec![
                TocFrame { block: 0, count: 16, offset: 0, len: 100 },
                TocFrame { block: 300, count: 1, offset: SHARD_SPAN, len: 4112 },
            ],
            zeros: vec![(16, 4), (1000, 1 << 30)],
            mark: Some(Mark {
                state: StateId(1),
                name: "s1".parse().unwrap(),
                group: Nonce(7),
                group_size: 1,
                created_ms: 1000,
                size: 1 << 30,
                history: true,
            }),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..8], b"WLTC\x02\0\0\0");
        assert_eq!(bytes[48..64], [5, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        let (frames, rest) = bytes[76..].split_at(13);
        // 300 - 16 = 284; 16 MiB - 100.
        assert_eq!(frames, [0, 16, 0, 100, 0x9c, 2, 1, 0x9c, 0xff, 0xff, 7, 0x90, 0x20]);
        // 1000 - 20 = 980; 2^30.
        assert_eq!(rest[..9], [16, 4, 0xd4, 7, 0x80, 0x80, 0x80, 0x80, 4]);
        assert_eq!(rest[9..17], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(rest.len(), 9 + 51 + 4);
        assert_eq!(crc32c(&bytes[..bytes.len() - 4]).to_le_bytes(), bytes[bytes.len() - 4..]);
        assert_eq!(Toc::decode(&bytes).unwrap(), sample());
    }

    fn forged(change: impl FnOnce(&mut Toc)) -> bool {
        let mut toc = sample();
        change(&mut toc);
        Toc::decode(&toc.encode()).is_err()
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(!forged(|_| {}));
        assert!(forged(|t| t.frames[0].count = 17));
        assert!(forged(|t| t.frames[0].count = 0));
        assert!(forged(|t| t.frames[1] = TocFrame { block: 255, count: 2, ..t.frames[1] }), "crosses a leaf");
        assert!(forged(|t| t.frames[1].offset = SHARD_SPAN - 1), "crosses a shard");
        assert!(forged(|t| t.zeros[0] = (15, 1)), "both written and zero");
        assert!(forged(|t| t.zeros[1] = (299, 2)), "both written and zero");
        assert!(forged(|t| t.zeros[1].1 = VOLUME_MAX));
        assert!(forged(|t| t.first = Lsn(10)));
        assert!(forged(|t| t.first = Lsn(9)), "records without a range");
        assert!(forged(|t| t.kind = ChunkKind::Map));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(mut bytes in prop::collection::vec(any::<u8>(), 0..300), right: bool) {
            if right && bytes.len() > 80 {
                bytes[..8].copy_from_slice(b"WLTC\x02\0\0\0");
                bytes[66..68].fill(0);
                bytes[70..72].fill(0);
                let n = bytes.len() - 4;
                let sum = crc32c(&bytes[..n]);
                bytes[n..].copy_from_slice(&sum.to_le_bytes());
            }
            let _ = Toc::decode(&bytes);
        }
    }
}

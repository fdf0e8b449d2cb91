//! The file of the block cache: what was fetched from stores, as it is stored there, so that it needs no second request.
//!
//! One file, `cache/frames` in the state folder, of equal *segments*; nothing in it is ever needed, and nothing of it is
//! believed without its checksum, so it is never synced. A segment is filled from its front, then closed by a table at its
//! end, by which a restart finds again what is in it. One that was not closed is walked instead, entry by entry.
//!
//! Segment:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `WNDLCACH` |
//! | 8 | 4 | format, 1 |
//! | 12 | 4 | ring: 0 new, 1 proven |
//! | 16 | 8 | generation: grows with every segment that is begun; tells what is of this filling |
//! | 24 | 8 | bytes of a segment |
//! | 32 | 28 | zeros |
//! | 60 | 4 | CRC32C of these 60 |
//! | 64 | | entries, each on a multiple of 8 |
//! | | 16 each | table: hash of the key, offset in the segment (u32), bytes of the frame (u32) |
//! | size − 64 | 64 | end: `WNDLCEND`, generation (8), entries (4), offset of the table (4), CRC32C of the table (4), zeros (32), CRC32C of these 60 (4) |
//!
//! Entry:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | `FRAM` |
//! | 4 | 4 | bytes of the frame |
//! | 8 | 8 | the segment's generation |
//! | 16 | 40 | key: volume (16), epoch (8), number of the chunk (8), offset in the chunk (8) |
//! | 56 | 4 | CRC32C of these 56 and of the frame |
//! | 60 | 4 | zeros |
//! | 64 | | the frame as stored, which has a checksum of its own, bound to its place |

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::FrameKey;
use windlass_base::codec::{Reader, Writer};
use windlass_base::ids::COUNT_MAX;
use windlass_base::sum::{crc32c, crc32c_of};
use windlass_base::{ChunkId, Epoch, Result, Seq, VolumeId};

pub const HEAD: usize = 64;
pub const ENTRY: usize = 64;
pub const END: usize = 64;
pub const ROW: usize = 16;
/// Entries lie on multiples of this.
pub const ALIGN: u64 = 8;

const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"WNDLCACH";
const MAGIC_END: &[u8; 8] = b"WNDLCEND";
const MAGIC_ENTRY: &[u8; 4] = b"FRAM";
const SUMMED: usize = 60;
const ENTRY_SUMMED: usize = 56;

/// The two queues that a segment can be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// The frames were asked for once, as far as is known.
    New,
    /// The frames were asked for again.
    Proven,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub ring: Ring,
    pub generation: u64,
    pub size: u64,
}

/// A segment table's entry for one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub hash: u64,
    pub at: u32,
    pub len: u32,
}

/// The end of a closed segment, which tells where its table lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub generation: u64,
    pub count: u32,
    pub at: u32,
    sum: u32,
}

fn key_bytes(key: &FrameKey) -> [u8; 40] {
    let mut w = Writer::with_capacity(40);
    w.u128(key.chunk.volume.0).u64(key.chunk.epoch.0).u64(key.chunk.seq.0).u64(key.offset);
    w.buf.try_into().expect("the fields above are 40 bytes")
}

pub fn hash(key: &FrameKey) -> u64 {
    xxh3_64(&key_bytes(key))
}

/// Pads to 60 bytes and adds their checksum.
fn closed(mut w: Writer) -> Vec<u8> {
    w.buf.resize(SUMMED, 0);
    let sum = crc32c(&w.buf);
    w.u32(sum);
    w.buf
}

/// Returns the fields before the checksum, if the checksum is right.
fn opened(bytes: &[u8]) -> Option<&[u8]> {
    let (fields, sum) = bytes.get(..SUMMED + 4)?.split_at(SUMMED);
    (crc32c(fields).to_le_bytes() == sum).then_some(fields)
}

impl Head {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(HEAD);
        w.raw(MAGIC)
            .u32(FORMAT)
            .u32(u32::from(self.ring == Ring::Proven))
            .u64(self.generation)
            .u64(self.size);
        closed(w)
    }

    /// Decodes a segment's head. `None`: it is nothing that this version can use.
    pub fn decode(bytes: &[u8]) -> Option<Head> {
        let mut r = Reader::new(opened(bytes)?.strip_prefix(MAGIC)?, "a cache segment");
        let mut fields = || -> Result<_> { Ok((r.u32()?, r.u32()?, r.u64()?, r.u64()?)) };
        let (format, ring, generation, size) = fields().ok()?;
        let ring = [Ring::New, Ring::Proven].into_iter().nth(ring as usize)?;
        (format == FORMAT && generation <= COUNT_MAX).then_some(Head { ring, generation, size })
    }
}

pub fn encode_table(rows: &[Row]) -> Vec<u8> {
    let mut w = Writer::with_capacity(rows.len() * ROW);
    for row in rows {
        w.u64(row.hash).u32(row.at).u32(row.len);
    }
    w.buf
}

impl End {
    /// Makes the end of a segment whose table lies at `at`.
    pub fn of(generation: u64, at: u32, table: &[u8]) -> End {
        End { generation, count: (table.len() / ROW) as u32, at, sum: crc32c(table) }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(END);
        w.raw(MAGIC_END).u64(self.generation).u32(self.count).u32(self.at).u32(self.sum);
        closed(w)
    }

    pub fn decode(bytes: &[u8]) -> Option<End> {
        let mut r = Reader::new(opened(bytes)?.strip_prefix(MAGIC_END)?, "a cache segment's end");
        let mut fields = || -> Result<End> {
            Ok(End { generation: r.u64()?, count: r.u32()?, at: r.u32()?, sum: r.u32()? })
        };
        fields().ok()
    }

    pub fn table_len(&self) -> u64 {
        u64::from(self.count) * ROW as u64
    }

    /// Decodes the table's rows. `None`: these are not the bytes that were written.
    pub fn rows(&self, table: &[u8]) -> Option<Vec<Row>> {
        if table.len() as u64 != self.table_len() || crc32c(table) != self.sum {
            return None;
        }
        let mut r = Reader::new(table, "a cache segment's table");
        let mut row = || -> Result<Row> { Ok(Row { hash: r.u64()?, at: r.u32()?, len: r.u32()? }) };
        (0..self.count).map(|_| row().ok()).collect()
    }
}

/// Returns the bytes that a frame takes in a segment.
pub fn room(len: usize) -> u64 {
    ((ENTRY + len) as u64).next_multiple_of(ALIGN)
}

/// Appends an entry.
pub fn put_entry(out: &mut Vec<u8>, generation: u64, key: &FrameKey, frame: &[u8]) {
    let mut w = Writer::with_capacity(ENTRY);
    w.raw(MAGIC_ENTRY).u32(frame.len() as u32).u64(generation).raw(&key_bytes(key));
    let sum = crc32c_of(&[&w.buf, frame]);
    w.u32(sum).u32(0);
    out.extend_from_slice(&w.buf);
    out.extend_from_slice(frame);
    out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
}

/// Decodes an entry's head as a walk meets it: key and length, not yet verified.
pub fn entry_head(bytes: &[u8], generation: u64) -> Option<(FrameKey, u32)> {
    let mut r = Reader::new(bytes.strip_prefix(MAGIC_ENTRY)?, "a cache entry");
    let mut fields = || -> Result<_> {
        let (len, of) = (r.u32()?, r.u64()?);
        let volume = VolumeId(r.u128()?);
        let chunk = ChunkId { volume, epoch: Epoch(r.u64()?), seq: Seq(r.u64()?) };
        Ok((len, of, FrameKey { chunk, offset: r.u64()? }))
    };
    let (len, of, key) = fields().ok()?;
    (of == generation).then_some((key, len))
}

/// Returns key and frame, if these bytes are a whole entry and verify.
pub fn entry(bytes: &Bytes) -> Option<(FrameKey, Bytes)> {
    let head = bytes.get(..ENTRY)?;
    let generation = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let (key, len) = entry_head(head, generation)?;
    let end = ENTRY.checked_add(len as usize)?;
    let frame = bytes.get(ENTRY..end)?;
    let sum = crc32c_of(&[&head[..ENTRY_SUMMED], frame]);
    (sum.to_le_bytes() == head[ENTRY_SUMMED..SUMMED]).then(|| (key, bytes.slice(ENTRY..end)))
}

/// Returns an entry whose checksum is made right, if these bytes are the rest of one.
#[cfg(any(test, fuzzing))]
pub(super) fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let len = bytes.get(4..8).map_or(0, |len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize);
    if let Some(frame) = bytes.get(ENTRY..).and_then(|rest| rest.get(..len)) {
        let sum = crc32c_of(&[&bytes[..ENTRY_SUMMED], frame]);
        out[ENTRY_SUMMED..SUMMED].copy_from_slice(&sum.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(offset: u64) -> FrameKey {
        FrameKey { chunk: ChunkId { volume: VolumeId(7), epoch: Epoch(2), seq: Seq(9) }, offset }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        // Summed by another hand.
        let head = Head { ring: Ring::Proven, generation: 5, size: 1 << 20 };
        let should = concat!(
            "574e444c43414348010000000100000005000000000000000000100000000000",
            "000000000000000000000000000000000000000000000000000000006ae0199b"
        );
        assert_eq!(hex(&head.encode()), should);
        let table = encode_table(&[Row { hash: 0x1122_3344_5566_7788, at: 64, len: 3 }]);
        assert_eq!(hex(&table), "88776655443322114000000003000000");
        let should = concat!(
            "574e444c43454e44050000000000000001000000880000000f2dd31400000000",
            "00000000000000000000000000000000000000000000000000000000df099eb1"
        );
        assert_eq!(hex(&End::of(5, 136, &table).encode()), should);
        let mut out = Vec::new();
        put_entry(&mut out, 5, &key(16), b"abc");
        let should = concat!(
            "4652414d03000000050000000000000007000000000000000000000000000000",
            "020000000000000009000000000000001000000000000000234cc5fb00000000",
            "6162630000000000"
        );
        assert_eq!(hex(&out), should);
    }

    proptest! {
        #[test]
        fn what_is_written_comes_back_and_damage_is_seen(
            frame in prop::collection::vec(any::<u8>(), 0..300), generation in 0..=COUNT_MAX, offset: u64, flip: prop::sample::Index,
        ) {
            let mut out = Vec::new();
            put_entry(&mut out, generation, &key(offset), &frame);
            prop_assert_eq!(out.len() as u64, room(frame.len()));
            let good = Bytes::from(out.clone());
            prop_assert_eq!(entry(&good), Some((key(offset), frame.clone().into())));
            prop_assert_eq!(entry_head(&good, generation), Some((key(offset), frame.len() as u32)));
            prop_assert_eq!(entry_head(&good, generation ^ 1), None);
            // Zeros behind the checksum, and behind the frame, are nobody's.
            let bit = flip.index((ENTRY_SUMMED + 4) * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(entry(&out.clone().into()), None);
            let table = encode_table(&[Row { hash: offset, at: 64, len: 7 }, Row { hash: 1, at: 8, len: 0 }]);
            let end = End::of(generation, 80, &table);
            prop_assert_eq!(End::decode(&end.encode()), Some(end));
            prop_assert_eq!(end.rows(&table).unwrap()[0], Row { hash: offset, at: 64, len: 7 });
            let mut bad = end.encode();
            let bit = flip.index(bad.len() * 8);
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(End::decode(&bad), None);
            let mut bad = table.clone();
            let bit = flip.index(bad.len() * 8);
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(end.rows(&bad).is_none() && end.rows(&table[1..]).is_none());
            let head = Head { ring: Ring::New, generation, size: offset };
            prop_assert_eq!(Head::decode(&head.encode()), Some(head));
        }

        #[test]
        fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Head::decode(&bytes).is_none() && End::decode(&bytes).is_none());
            let mut forged = MAGIC_ENTRY.to_vec();
            forged.extend_from_slice(&bytes);
            let _ = entry_head(&forged, 0);
            prop_assert!(entry(&forged.into()).is_none());
        }
    }
}

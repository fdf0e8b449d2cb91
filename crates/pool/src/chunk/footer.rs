//! The footer that ends every shard, so that one shard can be judged without the others.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 2 | version (1) |
//! | 2 | 1 | kind: 0 data, 1 map, 2 pack |
//! | 3 | 1 | k |
//! | 4 | 1 | m |
//! | 5 | 1 | this shard's index, data shards first |
//! | 6 | 2 | 0 |
//! | 8 | 16 | volume id |
//! | 24 | 8 | epoch |
//! | 32 | 8 | sequence; of a pack its number and the highest bit |
//! | 40 | 8 | era |
//! | 48 | 8 | table of contents: virtual offset |
//! | 56 | 4 | table of contents: length |
//! | 60 | 4 | number of checksums |
//! | 64 | 16 | payload hash |
//! | 80 | 16 | shard hash: xxh3-128 of the shard's bytes before the footer |
//! | 96 | 4 × k | lengths of the data shards |
//! | … | 4 each | CRC32C of each 64 KiB of the shard, the last one perhaps shorter |
//! | −16 | 4 | length of the footer, all of it |
//! | −12 | 4 | CRC32C of the footer up to here |
//! | −8 | 8 | magic `WLSHARD1` |
//!
//! All little-endian. A parity shard is as long as the longest data shard. Payload hash = xxh3-128 of: kind, k (1 byte
//! each), volume (16), epoch, sequence, era, table offset (8 each), table length (4), then of each data shard its length
//! (4) and shard hash (16). It is the same in all shards of a chunk, so shards of different contents never mix.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::chunk_contents::{Chunk, ChunkKind};
use super::redundancy::Layout;
use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::{SHARD_SPAN, SHARDS_MAX};
use windlass_base::sum::crc32c;
use windlass_base::{ChunkId, Epoch, Era, Error, Kind, Result, Seq, VolumeId};

/// Bytes under one checksum; degraded reads align to it.
pub const CHECK_SPAN: usize = 64 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"WLSHARD1");
const VERSION: u16 = 1;
const FIXED: usize = 96;
const TAIL: usize = 16;
/// The longest footer.
pub const FOOTER_MAX: usize = FIXED + 4 * SHARDS_MAX + 4 * (SHARD_SPAN as usize / CHECK_SPAN) + TAIL;
/// Number of bytes that one suffix get fetches to have any footer whole.
pub const FOOTER_GET: u64 = 4096;
const _: () = assert!(FOOTER_MAX as u64 <= FOOTER_GET);

/// The facts about a chunk that the footers of all its shards repeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    pub id: ChunkId,
    pub era: Era,
    pub kind: ChunkKind,
    pub layout: Layout,
    /// Lengths of the data shards in bytes, without their footers.
    pub lengths: Vec<u32>,
    pub toc_offset: u64,
    pub toc_len: u32,
    pub payload_hash: u128,
}

impl About {
    /// Computes the payload hash from the data shards' hashes.
    pub(crate) fn of(chunk: &Chunk, layout: Layout, hashes: &[u128]) -> About {
        let mut about = About {
            id: chunk.id,
            era: chunk.era,
            kind: chunk.kind,
            layout,
            lengths: chunk.shards.iter().map(|s| s.len() as u32).collect(),
            toc_offset: chunk.toc_offset,
            toc_len: chunk.toc_len,
            payload_hash: 0,
        };
        about.payload_hash = about.hash(hashes);
        about
    }

    /// Returns the payload hash that these shard hashes would give.
    pub(crate) fn hash(&self, hashes: &[u128]) -> u128 {
        let mut w = Writer::with_capacity(62 + 20 * hashes.len());
        w.u8(self.kind as u8).u8(self.layout.k() as u8).u128(self.id.volume.0);
        w.u64(self.id.epoch.0).u64(self.id.seq.0).u64(self.era.0).u64(self.toc_offset).u32(self.toc_len);
        for (len, hash) in self.lengths.iter().zip(hashes) {
            w.u32(*len).u128(*hash);
        }
        xxh3_128(&w.buf)
    }

    /// Returns the number of real bytes of shard i, without its footer.
    pub fn shard_len(&self, index: usize) -> usize {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        self.lengths.get(index).copied().unwrap_or(longest) as usize
    }
}

/// One shard's footer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    pub(crate) about: About,
    pub(crate) index: usize,
    pub(crate) shard_hash: u128,
    pub(crate) checks: Vec<u32>,
}

/// A shard's hash and checksums, as its bytes pass.
#[derive(Clone, Default)]
pub struct Tally {
    hash: Xxh3,
    checks: Vec<u32>,
}

impl Tally {
    /// Adds the shard's next `CHECK_SPAN` bytes, or its last; nothing comes after a shorter part.
    pub(crate) fn add(&mut self, part: &[u8]) {
        if !part.is_empty() {
            self.hash.update(part);
            self.checks.push(crc32c(part));
        }
    }

    pub(crate) fn end(self) -> (u128, Vec<u32>) {
        (self.hash.digest128(), self.checks)
    }
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let a = &self.about;
        let mut w = Writer::with_capacity(FOOTER_MAX);
        w.u16(VERSION)
            .u8(a.kind as u8)
            .u8(a.layout.k() as u8)
            .u8(a.layout.m() as u8)
            .u8(self.index as u8)
            .u16(0);
        w.u128(a.id.volume.0).u64(a.id.epoch.0).u64(a.id.seq.0).u64(a.era.0);
        w.u64(a.toc_offset).u32(a.toc_len).u32(self.checks.len() as u32);
        w.u128(a.payload_hash).u128(self.shard_hash);
        for len in &a.lengths {
            w.u32(*len);
        }
        for check in &self.checks {
            w.u32(*check);
        }
        let len = w.buf.len() + TAIL;
        w.u32(len as u32);
        let check = crc32c(&w.buf);
        w.u32(check).u64(MAGIC);
        assert!(w.buf.len() <= FOOTER_MAX, "lengths and checksums are bounded by SHARDS_MAX and SHARD_SPAN");
        w.buf
    }

    /// Reads the footer at the end of `tail`, the last bytes of an object of `size` bytes. `Unsupported`: a newer
    /// version wrote it; any other error: rot.
    pub(crate) fn decode(tail: &[u8], size: u64) -> Result<Footer> {
        let rot = |why: &str| Error::new(Kind::Corrupt, format!("a shard's footer is damaged: {why}"));
        let at = tail.len().checked_sub(TAIL).ok_or_else(|| rot("the object is too short"))?;
        let mut end = Reader::new(&tail[at..], "a shard's footer");
        let (len, check, magic) = (end.u32()? as usize, end.u32()?, end.u64()?);
        if magic != MAGIC {
            return Err(rot("it is not there"));
        }
        if len > tail.len() || len < FIXED + TAIL {
            return Err(rot("its length is impossible"));
        }
        let bytes = &tail[tail.len() - len..];
        if crc32c(&bytes[..len - TAIL + 4]) != check {
            return Err(rot("its checksum is wrong"));
        }
        let footer = Footer::fields(&bytes[..len - TAIL])?;
        if footer.about.shard_len(footer.index) as u64 + len as u64 != size {
            return Err(rot("the object's size is not the shard's"));
        }
        Ok(footer)
    }

    fn fields(bytes: &[u8]) -> Result<Footer> {
        let mut r = Reader::new(bytes, "a shard's footer");
        let version = r.u16()?;
        if version != VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("a shard has format {version}, this version knows {VERSION}: use a newer windlass"),
            ));
        }
        let kind = match r.u8()? {
            0 => ChunkKind::Data,
            1 => ChunkKind::Map,
            2 => ChunkKind::Pack,
            _ => return Err(r.bad("its kind is unknown")),
        };
        let layout = Layout::new(r.u8()?.into(), r.u8()?.into())?;
        let index = usize::from(r.u8()?);
        r.u16()?;
        let volume = VolumeId(r.u128()?);
        let (epoch, seq, era) = (Epoch(r.u64()?), Seq(r.u64()?), Era(r.u64()?));
        let (toc_offset, toc_len, count) = (r.u64()?, r.u32()?, r.u32()? as usize);
        let (payload_hash, shard_hash) = (r.u128()?, r.u128()?);
        let lengths = (0..layout.k()).map(|_| r.u32()).collect::<Result<Vec<_>>>()?;
        let id = ChunkId { volume, epoch, seq };
        let about = About { id, era, kind, layout, lengths, toc_offset, toc_len, payload_hash };
        if index >= layout.n() || about.lengths.iter().any(|l| u64::from(*l) > SHARD_SPAN) {
            return Err(r.bad("an index or length is out of range"));
        }
        if count != about.shard_len(index).div_ceil(CHECK_SPAN) {
            return Err(r.bad("the number of checksums does not fit the length"));
        }
        let checks = (0..count).map(|_| r.u32()).collect::<Result<Vec<_>>>()?;
        r.end()?;
        Ok(Footer { about, index, shard_hash, checks })
    }

    /// Tells whether these are the shard's bytes from `at` on, by their checksums. `at` is a multiple of `CHECK_SPAN`; the
    /// bytes go up to a multiple of it or to the shard's end.
    pub(crate) fn covers(&self, at: usize, bytes: &[u8]) -> bool {
        debug_assert!(at.is_multiple_of(CHECK_SPAN));
        let first = at / CHECK_SPAN;
        bytes
            .chunks(CHECK_SPAN)
            .enumerate()
            .all(|(i, part)| self.checks.get(first + i) == Some(&crc32c(part)))
    }

    /// Tells whether this is the whole shard, by its hash and checksums.
    pub(crate) fn is_whole(&self, shard: &[u8]) -> bool {
        if shard.len() != self.about.shard_len(self.index) {
            return false;
        }
        let mut tally = Tally::default();
        shard.chunks(CHECK_SPAN).for_each(|part| tally.add(part));
        let (hash, checks) = tally.end();
        hash == self.shard_hash && checks == self.checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Footer {
        let about = About {
            id: ChunkId { volume: VolumeId(0x1122), epoch: Epoch(3), seq: Seq(77) },
            era: Era(5),
            kind: ChunkKind::Map,
            layout: Layout::new(2, 1).unwrap(),
            lengths: vec![100_000, 7],
            toc_offset: SHARD_SPAN,
            toc_len: 7,
            payload_hash: 0xaabb,
        };
        Footer { about, index: 2, shard_hash: 0xccdd, checks: vec![1, 2] }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        let expected = concat!(
            "0100010201020000221100000000000000000000000000000300000000000000",
            "4d00000000000000050000000000000000000001000000000700000002000000",
            "bbaa0000000000000000000000000000ddcc0000000000000000000000000000",
            "a086010007000000010000000200000080000000ff4087d9574c534841524431",
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn what_is_written_is_read_and_sizes_must_fit() {
        let mut bytes = vec![9; 50];
        bytes.extend(sample().encode());
        let size = 100_000 + bytes.len() as u64 - 50;
        assert_eq!(Footer::decode(&bytes, size).unwrap(), sample());
        assert!(Footer::decode(&bytes, size + 1).unwrap_err().is(Kind::Corrupt));
        let mut newer = sample().encode();
        newer[0] = 2;
        let at = newer.len() - 12;
        let check = crc32c(&newer[..at]);
        newer[at..at + 4].copy_from_slice(&check.to_le_bytes());
        assert!(Footer::decode(&newer, size).unwrap_err().is(Kind::Unsupported));
    }

    proptest! {
        #[test]
        fn a_changed_footer_is_never_taken(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = sample().encode();
            let size = 100_000 + bytes.len() as u64;
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Footer::decode(&bytes, size).is_err());
        }

        #[test]
        fn any_bytes_are_an_error_and_no_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), fix in any::<bool>(), len in 0u32..1500) {
            if fix && bytes.len() >= TAIL {
                let end = bytes.len() - TAIL;
                bytes[end..end + 4].copy_from_slice(&len.to_le_bytes());
                let start = bytes.len().saturating_sub(len as usize).min(end);
                let check = crc32c(&bytes[start..end + 4]);
                bytes[end + 4..end + 8].copy_from_slice(&check.to_le_bytes());
                bytes[end + 8..].copy_from_slice(&MAGIC.to_le_bytes());
            }
            let _ = Footer::decode(&bytes, 1 << 20);
        }
    }
}

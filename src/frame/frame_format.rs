//! One frame: made in two steps, since its place is known only once the lengths of those before it are.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use lz4_flex::block::{CompressTable, compress_into_with_table};
use zstd::bulk;
use zstd::zstd_safe::compress_bound;

use crate::base::codec::Reader;
use crate::base::size::{BLOCK, FRAME_BLOCKS};
use crate::base::sum::crc32c_of;
use crate::base::{ChunkId, Error, Kind, Result};

/// Bytes before a frame's body.
pub const FRAME_HEADER: usize = 16;
/// Contents of a frame, at most: a data frame holds 64 KiB, pages of maps and tables stay below this as well.
pub const FRAME_MAX: usize = 1 << 20;

const CHECKED: usize = 12;
const PLACE: usize = 48;

/// How a frame's contents are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Codec {
    None = 0,
    #[default]
    Lz4 = 1,
    /// About twice the gain of lz4 for text and tables, at about twice the time.
    Zstd = 2,
}

/// What a frame holds; said in its header for those who read a chunk without its map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Blocks of the disk.
    Data = 0,
    /// A page of a map.
    Map = 1,
    /// A page of the tables under the checkpoint.
    Table = 2,
}

/// Where a frame is; its checksum binds it to this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub chunk: ChunkId,
    /// Virtual offset in the chunk.
    pub offset: u64,
    /// First block of a data frame, page address of a map page.
    pub address: u64,
}

impl Place {
    fn bytes(&self) -> [u8; PLACE] {
        let mut out = [0; PLACE];
        out[..16].copy_from_slice(&self.chunk.volume.0.to_le_bytes());
        let words = [self.chunk.epoch.0, self.chunk.seq.0, self.offset, self.address];
        for (to, word) in out[16..].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

/// A frame that has no place yet; its packer has its bytes.
#[derive(Clone, Debug)]
pub struct Body {
    kind: FrameKind,
    raw_len: u32,
    codec: Codec,
    body: Kept,
}

/// Where a body is.
#[derive(Clone, Debug)]
enum Kept {
    Raw(Bytes),
    /// In its packer's buffer.
    Packed(Range<usize>),
}

/// Frames in a row that compression gained little on before most of the next ones are not tried, and how many of these
/// there are to each that is: media, archives and encrypted disks would cost its time for nothing.
const FUTILE: u32 = 4;
const UNTRIED: u32 = 7;

/// What compression must gain at least, as a part of the frame: less is not worth decompressing it at each read.
const GAIN: usize = 16;

/// What zstd takes for its own default: higher levels gain little on 64 KiB.
const ZSTD_LEVEL: i32 = 3;

/// For what is compressed once and kept: 6 % less than level 3 leaves of a mix of programs and text, at 2.5 times its time;
/// level 9 gains 1 % more for half as much time again.
const ZSTD_LEVEL_COLD: i32 = 6;

/// The packer's buffer grows by so much: what was just zeroed is still in the processor's cache when it is written.
const GROWTH: usize = 64 << 10;

/// How a packer compresses.
enum Compressor {
    None,
    /// Tables for inputs of less than 64 KiB, and for all.
    Lz4([CompressTable; 2]),
    Zstd(bulk::Compressor<'static>),
}

impl Compressor {
    fn new(codec: Codec, level: i32) -> Compressor {
        match codec {
            Codec::None => Compressor::None,
            Codec::Lz4 => Compressor::Lz4([CompressTable::small(), CompressTable::large()]),
            Codec::Zstd => Compressor::Zstd(bulk::Compressor::new(level).expect("zstd knows this level")),
        }
    }

    /// Bytes that this many may become.
    fn most(&self, raw: usize) -> usize {
        match self {
            Compressor::None => raw,
            Compressor::Lz4(_) => lz4_flex::block::get_maximum_output_size(raw),
            Compressor::Zstd(_) => compress_bound(raw),
        }
    }

    /// Compresses into `out`, which has room for the most that may become of it; how many bytes.
    fn compress(&mut self, raw: &[u8], out: &mut [u8]) -> usize {
        match self {
            Compressor::None => raw.len(),
            Compressor::Lz4(tables) => {
                let table = &mut tables[usize::from(raw.len() >= usize::from(u16::MAX))];
                compress_into_with_table(raw, out, table).expect("there is room for the worst case")
            }
            // Out of memory for its tables: the contents stay as they are.
            Compressor::Zstd(zstd) => zstd.compress_to_buffer(raw, out).unwrap_or(raw.len()),
        }
    }
}

/// Makes frames, one after another.
pub struct Packer {
    codec: Codec,
    /// What was compressed, up to `used`, and room behind it.
    packed: Vec<u8>,
    used: usize,
    compressor: Compressor,
    /// Frames in a row that it gained little on, or that were not tried.
    futile: u32,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Packer {
    pub fn new(codec: Codec) -> Packer {
        Packer::at_level(codec, ZSTD_LEVEL)
    }

    fn at_level(codec: Codec, level: i32) -> Packer {
        Packer { codec, packed: Vec::new(), used: 0, compressor: Compressor::new(codec, level), futile: 0 }
    }

    /// Makes room for so many bytes of contents, whose bodies are all kept until they have their places.
    pub fn reserve(&mut self, raw: usize) {
        if self.codec != Codec::None {
            self.packed.reserve(raw + GROWTH);
        }
    }

    /// Bodies made so far have their places: their bytes are dropped.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Compresses a frame's contents; keeps them as they are where that gains little, or did for those before. `raw`
    /// is 1..=`FRAME_MAX` bytes, whole blocks (16 at most) for data.
    pub fn pack(&mut self, kind: FrameKind, raw: Bytes) -> Body {
        assert!(!raw.is_empty() && raw.len() <= FRAME_MAX, "a frame of {} bytes", raw.len());
        if kind == FrameKind::Data {
            let len = raw.len() as u64;
            assert!(len.is_multiple_of(BLOCK) && len <= FRAME_BLOCKS * BLOCK, "a data frame of {len} bytes");
        }
        let raw_len = raw.len() as u32;
        match self.smaller(&raw) {
            Some(range) => Body { kind, raw_len, codec: self.codec, body: Kept::Packed(range) },
            None => Body { kind, raw_len, codec: Codec::None, body: Kept::Raw(raw) },
        }
    }

    fn smaller(&mut self, raw: &[u8]) -> Option<Range<usize>> {
        if self.codec == Codec::None {
            return None;
        }
        self.futile = self.futile.saturating_add(1);
        if self.futile > FUTILE && !(self.futile - FUTILE).is_multiple_of(UNTRIED + 1) {
            return None;
        }
        let most = self.compressor.most(raw.len());
        if self.packed.len() - self.used < most {
            self.packed.resize(self.used + most.max(GROWTH), 0);
        }
        let len = self.compressor.compress(raw, &mut self.packed[self.used..]);
        if len > raw.len() - raw.len() / GAIN {
            return None;
        }
        self.futile = 0;
        self.used += len;
        Some(self.used - len..self.used)
    }

    /// Appends a frame of its own, made since it was cleared, as stored at `place`.
    pub fn finish(&self, frame: &Body, place: &Place, out: &mut Vec<u8>) {
        let body = match &frame.body {
            Kept::Raw(raw) => &raw[..],
            Kept::Packed(range) => &self.packed[range.clone()],
        };
        out.reserve(FRAME_HEADER + body.len());
        out.extend_from_slice(&frame.header(place, body));
        out.extend_from_slice(body);
    }
}

/// Compresses data frames that are stored already anew, by zstd: for what is cold.
#[derive(Debug)]
pub struct Recompressor {
    packer: Packer,
}

impl Default for Recompressor {
    fn default() -> Recompressor {
        Recompressor { packer: Packer::at_level(Codec::Zstd, ZSTD_LEVEL_COLD) }
    }
}

impl Recompressor {
    /// The frame of the same place and contents in fewer bytes. `None`: that would gain little, or the frame is damaged or
    /// of a newer version, and stays as it is.
    pub fn smaller(&mut self, stored: &Bytes, place: &Place) -> Option<Bytes> {
        let (codec, kind) = (*stored.first()?, *stored.get(3)?);
        if codec == Codec::Zstd as u8 || kind != FrameKind::Data as u8 {
            return None;
        }
        let raw = open(stored, place, (FRAME_BLOCKS * BLOCK) as usize).ok()?;
        self.packer.clear();
        let body = self.packer.pack(FrameKind::Data, raw);
        if body.stored_len() > stored.len() - stored.len() / GAIN {
            return None;
        }
        let mut out = Vec::new();
        self.packer.finish(&body, place, &mut out);
        Some(out.into())
    }
}

impl Body {
    /// Bytes that the frame will have, the header among them.
    pub fn stored_len(&self) -> usize {
        FRAME_HEADER
            + match &self.body {
                Kept::Raw(raw) => raw.len(),
                Kept::Packed(range) => range.len(),
            }
    }

    fn header(&self, place: &Place, body: &[u8]) -> [u8; FRAME_HEADER] {
        let blocks = match self.kind {
            FrameKind::Data => (u64::from(self.raw_len) / BLOCK) as u8,
            FrameKind::Map | FrameKind::Table => 0,
        };
        let mut head = [0; FRAME_HEADER];
        head[..4].copy_from_slice(&[self.codec as u8, 0, blocks, self.kind as u8]);
        head[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[8..CHECKED].copy_from_slice(&self.raw_len.to_le_bytes());
        let sum = checksum(&head[..CHECKED], place, body);
        head[CHECKED..].copy_from_slice(&sum.to_le_bytes());
        head
    }
}

fn checksum(head: &[u8], place: &Place, body: &[u8]) -> u32 {
    crc32c_of(&[head, &place.bytes(), body])
}

/// Whether these bytes are the frame of this place, whole and unchanged. Decompresses nothing.
pub fn verify(stored: &[u8], place: &Place) -> bool {
    let Some((header, body)) = stored.split_at_checked(FRAME_HEADER) else { return false };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    word(4) as usize == body.len() && word(CHECKED) == checksum(&header[..CHECKED], place, body)
}

fn corrupt(place: &Place, why: &str) -> Error {
    let (chunk, offset) = (place.chunk, place.offset);
    Error::new(Kind::Corrupt, format!("the data at offset {offset} of {chunk} are damaged: {why}"))
}

/// A stored frame's contents, of at most `raw_max` bytes. Uncompressed ones are a slice of `stored`, not a copy.
pub fn open(stored: &Bytes, place: &Place, raw_max: usize) -> Result<Bytes> {
    if !verify(stored, place) {
        return Err(corrupt(place, "their checksum is wrong; run `pool scrub`"));
    }
    open_verified(stored, place, raw_max)
}

/// `open` for bytes that `verify` has judged: what the checksum can't tell is still looked at.
pub fn open_verified(stored: &Bytes, place: &Place, raw_max: usize) -> Result<Bytes> {
    let corrupt = |why: &str| corrupt(place, why);
    let mut r = Reader::new(stored.get(..FRAME_HEADER).unwrap_or_default(), "a frame");
    let (codec, key, blocks, kind) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
    let (_body_len, raw_len) = (r.u32()?, r.u32()? as usize);
    if raw_len == 0 || raw_len > raw_max.min(FRAME_MAX) {
        return Err(corrupt(&format!("{raw_len} bytes where at most {raw_max} belong")));
    }
    if kind == FrameKind::Data as u8 && raw_len as u64 != u64::from(blocks) * BLOCK {
        return Err(corrupt("their length is not that of their blocks"));
    }
    let body = stored.slice(FRAME_HEADER..);
    match (key, codec) {
        (0, 0) if body.len() == raw_len => Ok(body),
        (0, 0) => Err(corrupt("their length is wrong")),
        (0, 1) => unpack(&body, raw_len, unpack_lz4).ok_or_else(|| corrupt("they do not decompress")),
        (0, 2) => unpack(&body, raw_len, unpack_zstd).ok_or_else(|| corrupt("they do not decompress")),
        _ => Err(Error::new(
            Kind::Unsupported,
            format!("{} was written by a newer version of windlass: use that one or newer", place.chunk),
        )),
    }
}

fn unpack(body: &[u8], raw_len: usize, how: fn(&[u8], &mut [u8]) -> Option<usize>) -> Option<Bytes> {
    let mut raw = vec![0; raw_len];
    (how(body, &mut raw)? == raw_len).then(|| raw.into())
}

fn unpack_lz4(body: &[u8], raw: &mut [u8]) -> Option<usize> {
    lz4_flex::block::decompress_into(body, raw).ok()
}

thread_local! {
    /// To make one takes ten times as long as to decompress a frame.
    static UNZSTD: RefCell<Option<bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn unpack_zstd(body: &[u8], raw: &mut [u8]) -> Option<usize> {
    UNZSTD.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = bulk::Decompressor::new().ok();
        }
        kept.as_mut()?.decompress_to_buffer(body, raw).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{Epoch, Seq, VolumeId};

    #[test]
    fn what_is_compressed_anew_is_smaller_and_the_same() {
        let raw: Bytes = (0..4096u32)
            .flat_map(|i| format!("{:08}-{:07}", i / 7, i * i % 10_000_000).into_bytes())
            .collect();
        assert_eq!(raw.len(), 1 << 16);
        let (place, elsewhere) = (place(96, 3), place(112, 3));
        let stored = |codec| {
            let mut packer = Packer::new(codec);
            let body = packer.pack(FrameKind::Data, raw.clone());
            let mut out = Vec::new();
            packer.finish(&body, &place, &mut out);
            Bytes::from(out)
        };
        let (none, lz4, zstd) = (stored(Codec::None), stored(Codec::Lz4), stored(Codec::Zstd));
        let mut anew = Recompressor::default();
        for old in [&none, &lz4] {
            let new = anew.smaller(old, &place).unwrap();
            assert!(new.len() < old.len() * 4 / 5, "{} of {}", new.len(), old.len());
            assert_eq!((new[0], new[3]), (Codec::Zstd as u8, FrameKind::Data as u8));
            assert_eq!(open(&new, &place, raw.len()).unwrap(), raw);
            assert!(anew.smaller(&new, &place).is_none(), "once");
            assert!(anew.smaller(old, &elsewhere).is_none(), "it is not of that place");
        }
        assert!(anew.smaller(&zstd, &place).is_none());
        assert!(
            anew.smaller(&Bytes::new(), &place).is_none() && anew.smaller(&lz4.slice(..20), &place).is_none()
        );
    }

    fn place(offset: u64, address: u64) -> Place {
        Place { chunk: ChunkId { volume: VolumeId(7), epoch: Epoch(2), seq: Seq(9) }, offset, address }
    }

    fn stored(codec: Codec, kind: FrameKind, raw: &[u8], at: &Place) -> Bytes {
        let mut packer = Packer::new(codec);
        let body = packer.pack(kind, Bytes::copy_from_slice(raw));
        let mut out = vec![0xee; 3];
        packer.finish(&body, at, &mut out);
        assert_eq!(out.len(), 3 + body.stored_len());
        Bytes::from(out).slice(3..)
    }

    #[test]
    fn golden_bytes() {
        let at = place(16, 5);
        let plain = stored(Codec::None, FrameKind::Map, b"windlass", &at);
        assert_eq!(plain, &b"\0\0\0\x01\x08\0\0\0\x08\0\0\0\x86\x4e\xb6\xe6windlass"[..]);
        // 4096 times 0x55, packed and summed by hand: one literal, one match, the last five literals.
        let packed = "010001001a0000000010000069d2e7c71f550100fffffffffffffffffffffffffffffff6505555555555";
        let digit = |at: usize| u8::from_str_radix(&packed[at..at + 2], 16).unwrap();
        let packed: Vec<u8> = (0..packed.len()).step_by(2).map(digit).collect();
        assert_eq!(open(&packed.into(), &at, 4096).unwrap(), vec![0x55; 4096]);
        for codec in [Codec::Lz4, Codec::Zstd] {
            let ours = stored(codec, FrameKind::Data, &[0x55; 4096], &at);
            assert_eq!(ours[..4], [codec as u8, 0, 1, 0]);
            assert_eq!(ours[8..12], [0, 16, 0, 0]);
        }
        // The same by zstd 1.5.7, whatever a later one makes of it.
        let zstd = "28b52ffd60000f4d00001055550100fbf70116";
        let body: Vec<u8> =
            (0..zstd.len()).step_by(2).map(|at| u8::from_str_radix(&zstd[at..at + 2], 16).unwrap()).collect();
        let mut frame = vec![2, 0, 1, 0, body.len() as u8, 0, 0, 0, 0, 16, 0, 0];
        frame.extend_from_slice(&checksum(&frame[..12], &at, &body).to_le_bytes());
        frame.extend_from_slice(&body);
        assert_eq!(open(&frame.into(), &at, 4096).unwrap(), vec![0x55; 4096]);
    }

    #[test]
    fn what_does_not_shrink_is_seldom_tried_and_what_does_is_soon_found() {
        let mut state = 1u64;
        let mut noise = || -> Bytes {
            let step = |_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            };
            (0..4096).map(step).collect()
        };
        let mut packer = Packer::new(Codec::Lz4);
        for _ in 0..100 {
            assert_eq!(packer.pack(FrameKind::Data, noise()).codec, Codec::None);
        }
        let mut text = || packer.pack(FrameKind::Data, vec![7; 4096].into()).codec;
        let found = (0..UNTRIED + 1).position(|_| text() == Codec::Lz4);
        assert!(found.is_some_and(|n| n > 0), "{found:?}");
        assert!((0..100).all(|_| text() == Codec::Lz4));
        for _ in 0..FUTILE - 1 {
            assert_eq!(packer.pack(FrameKind::Data, noise()).codec, Codec::None);
        }
        assert_eq!(packer.pack(FrameKind::Data, vec![7; 4096].into()).codec, Codec::Lz4);
    }

    #[test]
    fn newer_and_oversized_frames_are_refused() {
        let at = place(0, 0);
        let forge = |at_byte: usize, value: u8| {
            let mut bytes = stored(Codec::None, FrameKind::Map, &[1; 64], &at).to_vec();
            bytes[at_byte] = value;
            let sum = checksum(&bytes[..12], &at, &bytes[16..]);
            bytes[12..16].copy_from_slice(&sum.to_le_bytes());
            open(&bytes.into(), &at, 4096).map_err(|e| e.kind())
        };
        assert_eq!(forge(0, 3), Err(Kind::Unsupported));
        assert_eq!(forge(1, 1), Err(Kind::Unsupported));
        assert_eq!(forge(0, 1), Err(Kind::Corrupt));
        assert_eq!(forge(0, 2), Err(Kind::Corrupt));
        for high in 8..12 {
            assert_eq!(forge(high, 0xff), Err(Kind::Corrupt), "{high}");
        }
        assert_eq!(forge(3, 0), Err(Kind::Corrupt), "64 bytes are no blocks");
        assert!(open(&Bytes::new(), &at, 4096).unwrap_err().is(Kind::Corrupt));
        let page = stored(Codec::Lz4, FrameKind::Map, &[1; 64], &at);
        assert!(open(&page, &at, 63).unwrap_err().is(Kind::Corrupt));
    }

    proptest! {
        #[test]
        fn frames_come_back_and_damage_is_seen(
            (blocks, fill, noise) in (1usize..=16, any::<u8>(), prop::collection::vec(any::<(u16, u8)>(), 0..2000)),
            codec in prop::sample::select(vec![Codec::None, Codec::Lz4, Codec::Zstd]), offset: u64, address: u64, flip: prop::sample::Index, other in 1u64..,
        ) {
            let mut raw = vec![fill; blocks * 4096];
            for (at, byte) in noise {
                let at = at as usize % raw.len();
                raw[at] = byte;
            }
            let at = place(offset, address);
            let good = stored(codec, FrameKind::Data, &raw, &at);
            prop_assert!(good.len() <= FRAME_HEADER + raw.len());
            prop_assert_eq!(&open(&good, &at, raw.len()).unwrap()[..], &raw[..]);

            let mut bad = good.to_vec();
            let bit = flip.index(bad.len() * 8);
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open(&bad.into(), &at, raw.len()).unwrap_err().is(Kind::Corrupt));
            let cut = good.slice(..flip.index(good.len()));
            prop_assert!(open(&cut, &at, raw.len()).unwrap_err().is(Kind::Corrupt));
            for elsewhere in [place(offset ^ other, address), place(offset, address ^ other)] {
                prop_assert!(!verify(&good, &elsewhere));
                prop_assert!(open(&good, &elsewhere, raw.len()).unwrap_err().is(Kind::Corrupt));
            }
        }

        #[test]
        fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200), codec in 1u8..=2) {
            let at = place(0, 0);
            prop_assert!(open(&bytes.clone().into(), &at, 4096).is_err());
            // With a right checksum, so that the decoder itself is reached.
            if bytes.len() >= FRAME_HEADER {
                let mut forged = bytes;
                forged[..3].copy_from_slice(&[codec, 0, 0]);
                forged[3] = 1;
                let len = (forged.len() - FRAME_HEADER) as u32;
                forged[4..8].copy_from_slice(&len.to_le_bytes());
                forged[10..12].fill(0);
                let sum = checksum(&forged[..12], &at, &forged[16..]);
                forged[12..16].copy_from_slice(&sum.to_le_bytes());
                let _ = open(&forged.into(), &at, FRAME_MAX);
            }
        }
    }
}

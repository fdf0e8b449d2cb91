//! One frame: made in two steps, since its place is known only once the lengths of those before it are.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use lz4_flex::block::{CompressTable, compress_into_with_table};
use zstd::bulk;
use zstd::zstd_safe::compress_bound;

use windlass_base::codec::Reader;
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS};
use windlass_base::spare_buffers::SpareBuffers;
use windlass_base::sum::crc32c_of;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_keys::{ChunkSeal, KeyAccess, SALT, TAG, VolumeKey};

/// Bytes before a frame's body.
pub const FRAME_HEADER: usize = 16;
/// Contents of a frame, at most: a data frame holds 64 KiB, pages of maps and tables stay below this as well.
pub const FRAME_MAX: usize = 1 << 20;
/// Bytes that a frame of an encrypted volume takes beside its body: a salt before it, a tag behind it.
pub const SEALED_MORE: usize = SALT + TAG;

pub(super) const CHECKED: usize = 12;
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
    /// A page of the tables under the checkpoint. Of an encrypted volume signed only: who has no key must learn from it which
    /// objects are needed.
    Table = 2,
    /// A chunk's table of contents, of an encrypted volume.
    Contents = 3,
    /// The index of a slice of a pack, of an encrypted volume.
    Index = 4,
}

impl FrameKind {
    /// Whether its contents may be larger than `FRAME_MAX`; they are not compressed.
    fn is_list(kind: u8) -> bool {
        kind == FrameKind::Contents as u8 || kind == FrameKind::Index as u8
    }
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
    sealed: bool,
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

/// What packers compress into. Each is given back with all that was written to it, so that nobody needs to zero it again.
static PACKED: SpareBuffers = SpareBuffers::new(20 << 20);

/// Makes frames, one after another.
pub struct Packer {
    codec: Codec,
    /// Of an encrypted volume's frames.
    seal: Option<ChunkSeal>,
    /// What was compressed, up to `used`, and behind it room that may hold anything.
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

impl Drop for Packer {
    fn drop(&mut self) {
        PACKED.give(std::mem::take(&mut self.packed));
    }
}

impl Packer {
    /// For frames of one chunk, sealed by this if it is given.
    pub fn new(codec: Codec, seal: Option<ChunkSeal>) -> Packer {
        Packer::at_level(codec, ZSTD_LEVEL, seal)
    }

    fn at_level(codec: Codec, level: i32, seal: Option<ChunkSeal>) -> Packer {
        let compressor = Compressor::new(codec, level);
        Packer { codec, seal, packed: Vec::new(), used: 0, compressor, futile: 0 }
    }

    /// Makes room for so many bytes of contents, whose bodies are all kept until they have their places.
    pub fn reserve(&mut self, raw: usize) {
        if self.codec != Codec::None && self.packed.is_empty() {
            self.packed = PACKED.take(raw + GROWTH);
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
        let (raw_len, sealed) = (raw.len() as u32, self.seal.is_some());
        match self.smaller(&raw) {
            Some(range) => Body { kind, raw_len, codec: self.codec, body: Kept::Packed(range), sealed },
            None => Body { kind, raw_len, codec: Codec::None, body: Kept::Raw(raw), sealed },
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

    /// Appends a frame of its own, made since it was cleared, as stored at `place`: once, if it is sealed.
    pub fn finish(&self, frame: &Body, place: &Place, out: &mut Vec<u8>) {
        let body = match &frame.body {
            Kept::Raw(raw) => &raw[..],
            Kept::Packed(range) => &self.packed[range.clone()],
        };
        let number = self.seal.as_ref().map_or(0, ChunkSeal::number);
        put(&frame.fields(number), body, place, self.seal.as_ref(), out);
    }
}

/// Appends a frame of these first bytes of its header.
pub(super) fn put(
    fields: &[u8; CHECKED],
    body: &[u8],
    place: &Place,
    seal: Option<&ChunkSeal>,
    out: &mut Vec<u8>,
) {
    out.reserve(FRAME_HEADER + body.len() + SEALED_MORE);
    out.extend_from_slice(fields);
    let sum_at = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER - CHECKED]);
    out.extend(seal.iter().flat_map(|seal| seal.salt()));
    let start = out.len();
    out.extend_from_slice(body);
    if let Some(seal) = seal {
        let tag = match fields[3] == FrameKind::Table as u8 {
            true => seal.sign(place.offset, &signed(fields, place, body)),
            false => seal.seal(place.offset, &bound(fields, place), &mut out[start..]),
        };
        out.extend_from_slice(&tag);
    }
    let sum = checksum(fields, place, &out[sum_at + 4..]);
    out[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
}

/// What a tag covers beside the body.
fn bound(fields: &[u8; CHECKED], place: &Place) -> [u8; CHECKED + PLACE] {
    let mut out = [0; CHECKED + PLACE];
    out[..CHECKED].copy_from_slice(fields);
    out[CHECKED..].copy_from_slice(&place.bytes());
    out
}

/// What the tag of a page covers that stays readable.
fn signed(fields: &[u8; CHECKED], place: &Place, body: &[u8]) -> Vec<u8> {
    [&bound(fields, place)[..], body].concat()
}

/// Bytes that a list of so many will have.
pub fn list_len(raw: usize) -> usize {
    FRAME_HEADER + SEALED_MORE + raw
}

/// A list of an encrypted volume as stored at `place`: a table of contents or an index.
pub fn seal_list(kind: FrameKind, raw: &[u8], place: &Place, seal: &ChunkSeal) -> Vec<u8> {
    let mut out = Vec::new();
    put(
        &header_of(kind, Codec::None, seal.number(), 0, (raw.len() + SEALED_MORE, raw.len())),
        raw,
        place,
        Some(seal),
        &mut out,
    );
    out
}

fn header_of(
    kind: FrameKind,
    codec: Codec,
    number: u8,
    blocks: u8,
    (body_len, raw_len): (usize, usize),
) -> [u8; CHECKED] {
    let mut fields = [0; CHECKED];
    fields[..4].copy_from_slice(&[codec as u8, number, blocks, kind as u8]);
    fields[4..8].copy_from_slice(&(body_len as u32).to_le_bytes());
    fields[8..].copy_from_slice(&(raw_len as u32).to_le_bytes());
    fields
}

/// Compresses data frames that are stored already anew, by zstd: for what is cold.
#[derive(Debug)]
pub struct Recompressor {
    packer: Packer,
    access: KeyAccess,
}

impl Recompressor {
    /// For frames of one chunk, each once. `salt`: 128 random bits, for those of an encrypted volume, which are sealed anew.
    pub fn new(access: KeyAccess, chunk: &ChunkId, salt: u128) -> Recompressor {
        let seal = match &access {
            KeyAccess::Sealed(key) => Some(key.chunk(chunk, salt)),
            KeyAccess::Plain | KeyAccess::Locked => None,
        };
        Recompressor { packer: Packer::at_level(Codec::Zstd, ZSTD_LEVEL_COLD, seal), access }
    }

    /// The frame of the same place and contents in fewer bytes. `None`: that would gain little, or the frame is damaged or
    /// of a newer version, and stays as it is.
    pub fn smaller(&mut self, stored: &Bytes, place: &Place) -> Option<Bytes> {
        let (codec, kind) = (*stored.first()?, *stored.get(3)?);
        if codec == Codec::Zstd as u8 || kind != FrameKind::Data as u8 {
            return None;
        }
        let raw = open(stored, place, (FRAME_BLOCKS * BLOCK) as usize, &self.access).ok()?;
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

/// The number of the data key that a stored frame says it was sealed by; 0: it is not sealed.
pub fn data_key_of(stored: &[u8]) -> u8 {
    stored.get(1).copied().unwrap_or_default()
}

/// A stored frame of an encrypted volume, of the same place, contents and length, sealed in this pass: once at its offset.
/// Opened first: nobody's forgery is signed.
pub fn seal_anew(stored: &Bytes, place: &Place, access: &KeyAccess, seal: &ChunkSeal) -> Result<Bytes> {
    if !verify(stored, place) {
        return Err(corrupt(place, "their checksum is wrong; run `pool scrub`"));
    }
    access.key()?;
    let body = unsealed(stored, place, access)?;
    let mut fields: [u8; CHECKED] =
        *stored.first_chunk().ok_or_else(|| corrupt(place, "they are cut off"))?;
    fields[1] = seal.number();
    let mut out = Vec::with_capacity(stored.len());
    put(&fields, &body, place, Some(seal), &mut out);
    Ok(out.into())
}

impl Body {
    /// Bytes that the frame will have, the header among them.
    pub fn stored_len(&self) -> usize {
        FRAME_HEADER + self.body_len()
    }

    fn body_len(&self) -> usize {
        let packed = match &self.body {
            Kept::Raw(raw) => raw.len(),
            Kept::Packed(range) => range.len(),
        };
        if self.sealed { packed + SEALED_MORE } else { packed }
    }

    /// Of its header, without the checksum.
    fn fields(&self, number: u8) -> [u8; CHECKED] {
        let blocks = match self.kind {
            FrameKind::Data => (u64::from(self.raw_len) / BLOCK) as u8,
            _ => 0,
        };
        header_of(self.kind, self.codec, number, blocks, (self.body_len(), self.raw_len as usize))
    }
}

/// `stored`: what follows the checksum. Whoever has a checksum and all else that it covers could work out an address: of what
/// is sealed the tag alone covers it.
fn checksum(fields: &[u8], place: &Place, stored: &[u8]) -> u32 {
    let hidden = fields[1] != 0 && fields[3] != FrameKind::Table as u8;
    let shown = if hidden { Place { address: 0, ..*place } } else { *place };
    crc32c_of(&[fields, &shown.bytes(), stored])
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

/// A stored frame's contents, of at most `raw_max` bytes. Uncompressed ones that are not sealed are a slice of `stored`, not
/// a copy. `Denied`: its volume is encrypted, and the key is not here.
pub fn open(stored: &Bytes, place: &Place, raw_max: usize, access: &KeyAccess) -> Result<Bytes> {
    if !verify(stored, place) {
        return Err(corrupt(place, "their checksum is wrong; run `pool scrub`"));
    }
    open_verified(stored, place, raw_max, access)
}

/// `open` for bytes that `verify` has judged: what the checksum can't tell is still looked at.
pub fn open_verified(stored: &Bytes, place: &Place, raw_max: usize, access: &KeyAccess) -> Result<Bytes> {
    let corrupt = |why: &str| corrupt(place, why);
    let header = stored.get(..FRAME_HEADER).unwrap_or_default();
    let mut r = Reader::new(header, "a frame");
    let (codec, number, blocks, kind) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
    let (_body_len, raw_len) = (r.u32()?, r.u32()? as usize);
    let most = if FrameKind::is_list(kind) { raw_max } else { raw_max.min(FRAME_MAX) };
    if raw_len == 0 || raw_len > most {
        return Err(corrupt(&format!("{raw_len} bytes where at most {raw_max} belong")));
    }
    if kind == FrameKind::Data as u8 && raw_len as u64 != u64::from(blocks) * BLOCK {
        return Err(corrupt("their length is not that of their blocks"));
    }
    let body = match (number, access) {
        (0, KeyAccess::Plain) => stored.slice(FRAME_HEADER..),
        (0, _) => return Err(corrupt("they are not encrypted, and the volume is: somebody else wrote them")),
        (_, KeyAccess::Plain) => return Err(corrupt("they are encrypted, and the volume is not")),
        (_, KeyAccess::Locked) if kind != FrameKind::Table as u8 => {
            return access.key().map(|_| Bytes::new()).map_err(|e| e.context(place.chunk));
        }
        _ => unsealed(stored, place, access)?,
    };
    match codec {
        0 if body.len() == raw_len => Ok(body),
        0 => Err(corrupt("their length is wrong")),
        1 => unpack(&body, raw_len, unpack_lz4).ok_or_else(|| corrupt("they do not decompress")),
        2 => unpack(&body, raw_len, unpack_zstd).ok_or_else(|| corrupt("they do not decompress")),
        _ => Err(Error::new(
            Kind::Unsupported,
            format!("{} was written by a newer version of windlass: use that one or newer", place.chunk),
        )),
    }
}

/// The body of a frame of an encrypted volume. Without the key nobody tells whether a page that stays readable is the owner's.
fn unsealed(stored: &Bytes, place: &Place, access: &KeyAccess) -> Result<Bytes> {
    let short = || corrupt(place, "they are cut off");
    let (header, sealed) = stored.split_at_checked(FRAME_HEADER).ok_or_else(short)?;
    let fields: &[u8; CHECKED] = header.first_chunk().ok_or_else(short)?;
    let (salt, rest) = sealed.split_first_chunk::<SALT>().ok_or_else(short)?;
    let (body, tag) = rest.split_last_chunk::<TAG>().ok_or_else(short)?;
    let (number, kind) = (fields[1], fields[3]);
    let key = (number, u128::from_le_bytes(*salt));
    let forged = || corrupt(place, "they are not what was encrypted there; run `pool scrub`");
    let readable = || stored.slice(FRAME_HEADER + SALT..stored.len() - TAG);
    let opened = |keys: &VolumeKey| {
        if kind != FrameKind::Table as u8 {
            let bound = bound(fields, place);
            let raw = keys.open_in_chunk(key, &place.chunk, place.offset, &bound, (body, tag))?;
            return raw.map(Bytes::from).ok_or_else(forged);
        }
        let signed = signed(fields, place, body);
        match keys.is_signed_in_chunk(key, &place.chunk, place.offset, &signed, tag)? {
            true => Ok(readable()),
            false => Err(forged()),
        }
    };
    match access {
        KeyAccess::Sealed(keys) => opened(keys),
        KeyAccess::Plain | KeyAccess::Locked => Ok(readable()),
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
#[path = "tests.rs"]
mod tests;

//! One page: a run of up to 256 slots, each with the frame it points to. See the module for the bytes.
//!
//! A page stays as it was stored and is decoded on the way; every 16th entry is marked, so that finding a slot
//! decodes a few entries and not all. A page is checked whole once, when it is loaded: what iterates later can't fail.

use bytes::Bytes;

use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::FRAME_BLOCKS;
use windlass_base::{Epoch, Error, Kind, Result, Seq};
use windlass_log::FrameRef;

/// Slots of a page: blocks of a leaf, children of an inner page.
pub const SLOTS: u64 = windlass_base::format_limits::LEAF_BLOCKS;
/// Bits of a block number that one level resolves.
pub const LEVEL_BITS: u32 = SLOTS.trailing_zeros();
/// A page's bytes, at most: 256 entries of at most 42 bytes each, and the header.
pub const PAGE_MAX: usize = 16 << 10;
/// The highest level of a root: it covers 2^56 blocks.
pub const LEVEL_MAX: u8 = 6;

const FORMAT: u8 = 1;
/// Format, level, number of entries.
const HEADER: usize = 4;
const MARK_EVERY: usize = 16;

const GAP: u8 = 1;
const COUNT: u8 = 2;
const SKIP: u8 = 4;
const EPOCH: u8 = 8;
const SEQ: u8 = 16;
const OFFSET: u8 = 32;
const LEN: u8 = 64;

/// A page's identity inside its tree, which its frame's checksum binds: the level and the first block it covers.
pub fn address(level: u8, first: u64) -> u64 {
    debug_assert!(level <= LEVEL_MAX && first < 1 << 56);
    u64::from(level) << 56 | first
}

/// Blocks that a page of this level covers.
pub fn span(level: u8) -> u64 {
    1 << (LEVEL_BITS * (u32::from(level) + 1))
}

/// Slots `start..start + count` lie in `frame`, from its block `skip` on. In inner pages `count` is 1 and `skip` 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub start: u16,
    pub count: u16,
    pub skip: u8,
    pub frame: FrameRef,
}

impl Entry {
    pub fn end(&self) -> u16 {
        self.start + self.count
    }
}

/// What an entry is decoded against: the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Before {
    at: usize,
    end: u16,
    frame: FrameRef,
}

const NOTHING: Before =
    Before { at: 0, end: 0, frame: FrameRef { volume: 0, epoch: Epoch(0), seq: Seq(0), offset: 0, len: 0 } };

/// A checked page.
#[derive(PartialEq, Eq, Debug)]
pub struct Page {
    body: Bytes,
    marks: Box<[Before]>,
}

/// Entries of a page, in order.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    body: &'a [u8],
    before: Before,
}

/// A page with these entries (in order, not overlapping, at least one), and its bytes.
pub fn encode(level: u8, entries: &[Entry]) -> (Page, Bytes) {
    assert!(!entries.is_empty() && entries.len() <= SLOTS as usize, "{} entries", entries.len());
    let mut w = Writer::with_capacity(HEADER + entries.len() * 12);
    w.u8(FORMAT).u8(level).u16(entries.len() as u16);
    let mut marks = Vec::with_capacity(entries.len().div_ceil(MARK_EVERY));
    let mut before = NOTHING;
    for (n, entry) in entries.iter().enumerate() {
        assert!(entry.start >= before.end, "entries out of order: {entry:?}");
        check(entry, level).unwrap_or_else(|why| panic!("{why}: {entry:?}"));
        before.at = w.buf.len() - HEADER;
        if n.is_multiple_of(MARK_EVERY) {
            marks.push(before);
        }
        put(&mut w, &before, entry);
        (before.end, before.frame) = (entry.end(), entry.frame);
    }
    assert!(w.buf.len() <= PAGE_MAX, "a page of {} bytes", w.buf.len());
    // A page is kept for long: no room beyond its end.
    let bytes = Bytes::from(w.buf.into_boxed_slice());
    (Page { body: bytes.slice(HEADER..), marks: marks.into() }, bytes)
}

/// Where a frame begins that follows directly on another.
fn following(frame: &FrameRef) -> u64 {
    frame.offset.wrapping_add(u64::from(frame.len))
}

fn put(w: &mut Writer, before: &Before, entry: &Entry) {
    let (old, new) = (&before.frame, &entry.frame);
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = flag(entry.start != before.end, GAP)
        | flag(entry.count != 1, COUNT)
        | flag(entry.skip != 0, SKIP)
        | flag((old.volume, old.epoch) != (new.volume, new.epoch), EPOCH)
        | flag(old.seq != new.seq, SEQ)
        | flag(following(old) != new.offset, OFFSET)
        | flag(old.len != new.len, LEN);
    w.u8(flags);
    if flags & GAP != 0 {
        w.u8((entry.start - before.end) as u8);
    }
    if flags & COUNT != 0 {
        w.u8(entry.count as u8);
    }
    if flags & SKIP != 0 {
        w.u8(entry.skip);
    }
    if flags & EPOCH != 0 {
        w.varint(new.volume.into()).varint(new.epoch.0);
    }
    if flags & SEQ != 0 {
        // Zigzag: near neighbours in the log come out short, whichever is older.
        let delta = new.seq.0.wrapping_sub(old.seq.0) as i64;
        w.varint((delta << 1 ^ delta >> 63) as u64);
    }
    if flags & OFFSET != 0 {
        w.varint(new.offset);
    }
    if flags & LEN != 0 {
        w.varint(new.len.into());
    }
}

fn take(r: &mut Reader<'_>, before: &Before) -> Result<Entry> {
    let flags = r.u8()?;
    let mut frame = before.frame;
    frame.offset = following(&before.frame);
    let start = before.end + if flags & GAP != 0 { u16::from(r.u8()?) } else { 0 };
    let count = if flags & COUNT != 0 { u16::from(r.u8()?) } else { 1 };
    let skip = if flags & SKIP != 0 { r.u8()? } else { 0 };
    if flags & EPOCH != 0 {
        frame.volume = u16::try_from(r.varint()?).map_err(|_| r.bad("a volume index is too large"))?;
        frame.epoch = Epoch(r.varint()?);
    }
    if flags & SEQ != 0 {
        let z = r.varint()?;
        frame.seq.0 = frame.seq.0.wrapping_add(z >> 1 ^ (z & 1).wrapping_neg());
    }
    if flags & OFFSET != 0 {
        frame.offset = r.varint()?;
    }
    if flags & LEN != 0 {
        frame.len = u32::try_from(r.varint()?).map_err(|_| r.bad("a frame length is too large"))?;
    }
    if flags & 128 != 0 {
        return Err(r.bad("a flag is unknown"));
    }
    Ok(Entry { start, count, skip, frame })
}

impl Page {
    /// Checks a page's bytes, of a place where a page of this level belongs.
    pub fn decode(bytes: Bytes, level: u8) -> Result<Page> {
        Self::parse(bytes, level).map_err(|e| Error::new(Kind::Corrupt, e.to_string()))
    }

    fn parse(bytes: Bytes, level: u8) -> Result<Page> {
        let mut r = Reader::new(&bytes, "a page of a map");
        if bytes.len() > PAGE_MAX {
            return Err(r.bad("it is too long"));
        }
        let (format, found, count) = (r.u8()?, r.u8()?, r.u16()? as usize);
        if format != FORMAT {
            let why = format!("a map is of format {format}: use a newer version of windlass");
            return Err(Error::new(Kind::Unsupported, why));
        }
        if found != level || count == 0 || count > SLOTS as usize {
            return Err(r.bad("its level or count is wrong"));
        }
        let body = bytes.slice(HEADER..);
        let mut marks = Vec::with_capacity(count.div_ceil(MARK_EVERY));
        let mut before = NOTHING;
        for n in 0..count {
            before.at = body.len() - r.left();
            if n.is_multiple_of(MARK_EVERY) {
                marks.push(before);
            }
            let entry = take(&mut r, &before)?;
            check(&entry, level).map_err(|why| r.bad(why))?;
            before.end = entry.end();
            before.frame = entry.frame;
        }
        r.end()?;
        Ok(Page { body, marks: marks.into() })
    }

    /// Memory it takes, about.
    pub fn cost(&self) -> usize {
        self.body.len() + self.marks.len() * size_of::<Before>() + 160
    }

    /// Entries that end after `slot`, in order.
    pub fn entries(&self, slot: u16) -> Entries<'_> {
        let n = self.marks.partition_point(|mark| mark.end <= slot);
        let mut entries = Entries { body: &self.body, before: self.marks[n.saturating_sub(1)] };
        while let Some((entry, after)) = entries.step().filter(|(entry, _)| entry.end() <= slot) {
            debug_assert_eq!(entry.end(), after.end);
            entries.before = after;
        }
        entries
    }
}

fn check(entry: &Entry, level: u8) -> Result<(), &'static str> {
    let inside = entry.count > 0 && u64::from(entry.start) + u64::from(entry.count) <= SLOTS;
    let shape = match level {
        0 => u64::from(entry.skip) + u64::from(entry.count) <= FRAME_BLOCKS,
        _ => entry.count == 1 && entry.skip == 0,
    };
    // A frame that ends beyond 2^48 bytes is in no chunk; refused here, sums of offsets can't overflow later.
    let frame = entry.frame.len > 0 && entry.frame.offset < 1 << 48;
    match (inside, shape, frame) {
        (true, true, true) => Ok(()),
        (false, ..) => Err("an entry reaches over its end"),
        (_, false, _) => Err("an entry has no fitting count"),
        (_, _, false) => Err("an entry's frame can't be"),
    }
}

impl<'a> Entries<'a> {
    fn step(&self) -> Option<(Entry, Before)> {
        let rest = &self.body[self.before.at..];
        if rest.is_empty() {
            return None;
        }
        let mut r = Reader::new(rest, "a page of a map");
        let entry = take(&mut r, &self.before).expect("the page was checked when it was loaded");
        let at = self.body.len() - r.left();
        Some((entry, Before { at, end: entry.end(), frame: entry.frame }))
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;
    fn next(&mut self) -> Option<Entry> {
        let (entry, before) = self.step()?;
        self.before = before;
        Some(entry)
    }
}

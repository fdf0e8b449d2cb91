//! Runs of dead frames: their bytes, and reading them page by page.
//!
//! # Bytes of a run
//!
//! Pages (frames of kind table with address 2 << 60) of at most 4096 deaths, and an index (address 1 << 60).
//!
//! | page | field |
//! |---|---|
//! | 1 byte | format: 1 |
//! | varint | number of deaths |
//! | … | deaths, in order of era, chunk's sequence number, offset |
//!
//! A death, as varints: era, as the difference from the death before; sequence number, as the difference where the era is the
//! same; offset, as the difference where the chunk is the same; length. The first is encoded as if a death of zeros came
//! before it.
//!
//! | index | field |
//! |---|---|
//! | 1 byte | format: 1 |
//! | varint | number of eras |
//! | varints | each: era, bytes of its deaths |
//! | varint | number of pages |
//! | varints | each: frame, era and sequence number of its first death |

use std::collections::VecDeque;

use bytes::Bytes;

use windlass_base::codec::{Reader, Writer};
use windlass_base::{Era, Error, Kind, Result, Seq};
use windlass_log::FrameRef;
use windlass_map::Pages;

/// Address of a run's index. `RUN_PAGE` is that of its pages.
pub const RUN_INDEX: u64 = 1 << 60;
pub const RUN_PAGE: u64 = 2 << 60;
/// Most deaths that a page holds.
pub const PAGE_DEATHS: usize = 4096;
/// Most pages of a run: its index is one frame.
pub const PAGES_MAX: usize = 16 << 10;

const FORMAT: u8 = 1;

/// A frame of this volume that a state no longer holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeadFrame {
    /// Era of the frame itself, not that of its death.
    pub era: Era,
    pub seq: Seq,
    pub offset: u64,
    pub len: u32,
}

/// An entry in a state's list of deaths: the deaths of a run whose eras are in a range, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The index of the run.
    pub run: FrameRef,
    pub from: Era,
    pub to: Era,
}

impl Part {
    pub fn whole(run: FrameRef) -> Part {
        Part { run, from: Era(1), to: Era(u64::MAX) }
    }

    /// Splits the part into the eras up to `last` and those after it; `None` where there are none.
    pub fn split(self, last: Era) -> (Option<Part>, Option<Part>) {
        let old = Part { to: self.to.min(last), ..self };
        let new = Part { from: self.from.max(last.next()), ..self };
        (Some(old).filter(|p| p.from <= p.to), Some(new).filter(|p| p.from <= p.to))
    }

    pub fn encode(&self, w: &mut Writer) {
        self.run.encode(w);
        w.varint(self.from.0).varint(self.to.0);
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Part> {
        Ok(Part { run: FrameRef::decode(r)?, from: Era(r.varint()?), to: Era(r.varint()?) })
    }
}

/// Encodes a page of deaths, which must be in order.
pub fn encode_deaths(deaths: &[DeadFrame]) -> Bytes {
    let mut w = Writer::with_capacity(16 + deaths.len() * 6);
    w.u8(FORMAT).varint(deaths.len() as u64);
    let mut last = DeadFrame { era: Era(0), seq: Seq(0), offset: 0, len: 0 };
    for d in deaths {
        assert!(*d >= last, "deaths are sorted");
        w.varint(d.era.0 - last.era.0);
        let seq = if d.era == last.era { last.seq.0 } else { 0 };
        w.varint(d.seq.0 - seq);
        let offset = if (d.era, d.seq) == (last.era, last.seq) { last.offset } else { 0 };
        w.varint(d.offset - offset).varint(d.len.into());
        last = *d;
    }
    w.buf.into()
}

pub fn decode_deaths(bytes: &[u8]) -> Result<Vec<DeadFrame>> {
    let mut r = Reader::new(bytes, "a list of a volume's dead parts");
    if r.u8()? != FORMAT {
        return Err(r.bad("its format is unknown"));
    }
    let n = r.varint()? as usize;
    if n > PAGE_DEATHS || n > r.left() / 4 {
        return Err(r.bad("it claims too many entries"));
    }
    let mut deaths = Vec::with_capacity(n);
    let mut last = DeadFrame { era: Era(0), seq: Seq(0), offset: 0, len: 0 };
    for _ in 0..n {
        let (era, seq, offset) = (r.varint()?, r.varint()?, r.varint()?);
        let sum = |a: u64, b: u64| a.checked_add(b);
        let (Some(e), Some(s)) = (sum(last.era.0, era), sum(if era == 0 { last.seq.0 } else { 0 }, seq))
        else {
            return Err(r.bad("an entry is impossible"));
        };
        let same = era == 0 && s == last.seq.0;
        let Some(o) = sum(if same { last.offset } else { 0 }, offset) else {
            return Err(r.bad("an entry is impossible"));
        };
        let len = u32::try_from(r.varint()?).map_err(|_| r.bad("a length is too large"))?;
        let death = DeadFrame { era: Era(e), seq: Seq(s), offset: o, len };
        if death < last {
            return Err(r.bad("its entries are out of order"));
        }
        last = death;
        deaths.push(death);
    }
    r.end()?;
    Ok(deaths)
}

/// A page of a run, and its first death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunPage {
    pub at: FrameRef,
    pub era: Era,
    pub seq: Seq,
}

/// The index of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunIndex {
    /// Bytes of the run's deaths, by era.
    pub sums: Vec<(Era, u64)>,
    pub pages: Vec<RunPage>,
}

impl RunIndex {
    pub fn add(&mut self, death: &DeadFrame) {
        match self.sums.last_mut() {
            Some((era, bytes)) if *era == death.era => *bytes += u64::from(death.len),
            _ => self.sums.push((death.era, death.len.into())),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(16 + 12 * self.sums.len() + 20 * self.pages.len());
        w.u8(FORMAT).varint(self.sums.len() as u64);
        for (era, bytes) in &self.sums {
            w.varint(era.0).varint(*bytes);
        }
        w.varint(self.pages.len() as u64);
        for page in &self.pages {
            page.at.encode(&mut w);
            w.varint(page.era.0).varint(page.seq.0);
        }
        w.buf.into()
    }

    pub fn decode(bytes: &[u8]) -> Result<RunIndex> {
        let mut r = Reader::new(bytes, "an index of a volume's dead parts");
        if r.u8()? != FORMAT {
            return Err(r.bad("its format is unknown"));
        }
        let n = r.varint()? as usize;
        if n > r.left() / 2 {
            return Err(r.bad("it claims too many entries"));
        }
        let sums = (0..n).map(|_| Ok((Era(r.varint()?), r.varint()?))).collect::<Result<_>>()?;
        let n = r.varint()? as usize;
        if n > r.left() / 7 {
            return Err(r.bad("it claims too many entries"));
        }
        let page = |r: &mut Reader<'_>| {
            Ok(RunPage { at: FrameRef::decode(r)?, era: Era(r.varint()?), seq: Seq(r.varint()?) })
        };
        let pages = (0..n).map(|_| page(&mut r)).collect::<Result<_>>()?;
        r.end()?;
        Ok(RunIndex { sums, pages })
    }

    pub async fn load(pages: &dyn Pages, run: &FrameRef) -> Result<RunIndex> {
        RunIndex::decode(&pages.load(run, RUN_INDEX).await?).map_err(|e| damaged(&e))
    }
}

fn damaged(e: &Error) -> Error {
    Error::new(Kind::Corrupt, e.to_string())
}

/// A reader of a part's deaths in order, a page at a time.
pub struct Cursor<'a> {
    pages: &'a dyn Pages,
    part: Part,
    rest: VecDeque<RunPage>,
    read: VecDeque<DeadFrame>,
}

impl<'a> Cursor<'a> {
    pub async fn open(pages: &'a dyn Pages, part: Part) -> Result<Cursor<'a>> {
        let index = RunIndex::load(pages, &part.run).await?;
        Ok(Cursor::at(pages, part, index.pages.into()))
    }

    /// Makes a cursor that reads only the deaths of one chunk, and perhaps a few others.
    pub fn of_chunk(pages: &'a dyn Pages, part: Part, index: &RunIndex, era: Era, seq: Seq) -> Cursor<'a> {
        let key = (era, seq);
        let end = index.pages.partition_point(|p| (p.era, p.seq) <= key);
        let first = index.pages[..end].partition_point(|p| (p.era, p.seq) < key).saturating_sub(1);
        Cursor::at(pages, part, index.pages[first..end].to_vec().into())
    }

    fn at(pages: &'a dyn Pages, part: Part, rest: VecDeque<RunPage>) -> Cursor<'a> {
        Cursor { pages, part, rest, read: VecDeque::new() }
    }

    pub async fn next(&mut self) -> Result<Option<DeadFrame>> {
        loop {
            while let Some(death) = self.read.pop_front() {
                if (self.part.from..=self.part.to).contains(&death.era) {
                    return Ok(Some(death));
                }
            }
            while self.rest.get(1).is_some_and(|p| p.era < self.part.from) {
                self.rest.pop_front();
            }
            match self.rest.pop_front() {
                Some(page) if page.era <= self.part.to => {
                    let bytes = self.pages.load(&page.at, RUN_PAGE).await?;
                    self.read = decode_deaths(&bytes).map_err(|e| damaged(&e))?.into();
                }
                _ => return Ok(None),
            }
        }
    }
}

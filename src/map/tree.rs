//! A tree as a value: its root, what lies at a block, and what is mapped at all.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::cache::{PageCache, Pages};
use super::page::{Entry, LEVEL_MAX, Page, address, span};
use crate::base::codec::{Reader, Writer};
use crate::base::{Error, Kind, Result};
use crate::log::FrameRef;

/// Pages that a walk loads at once.
const AHEAD: usize = 16;

/// A tree's root page: a leaf at height 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    pub frame: FrameRef,
    pub height: u8,
}

/// One state's map. Copying it is free; it never changes, `merge` makes another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// `None`: nothing is mapped.
    pub root: Option<Root>,
}

/// Blocks of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    pub frame: FrameRef,
    /// Which of the frame's blocks comes first, 0..16.
    pub skip: u8,
}

/// A run of blocks and where it is stored; `None`: nowhere, it reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub block: u64,
    pub count: u64,
    pub at: Option<Mapped>,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.block + self.count
    }
}

/// Bytes before and behind a page of which other pages are loaded along with it: those of neighbouring blocks mostly
/// were written together, and a request costs its latency whatever its length.
const NEAR: u64 = 32 << 10;

/// What a walk meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A page, before what lies below it.
    Page { frame: FrameRef, address: u64 },
    /// Mapped blocks, clipped to the walk's range.
    Mapped(Extent),
}

/// Whether a walk goes into a page.
type Enter<'a> = Box<dyn Fn(&FrameRef) -> bool + Send + Sync + 'a>;

/// What is mapped, in order of its blocks. Holds one path of pages, and a few that were loaded ahead.
pub struct Walk<'a> {
    pages: &'a dyn Pages,
    cache: &'a PageCache,
    root: Option<Root>,
    path: Vec<Level>,
    blocks: Range<u64>,
    /// Pages for which it says no are passed over unread, with all below them.
    enter: Option<Enter<'a>>,
}

struct Level {
    page: Arc<Page>,
    level: u8,
    first: u64,
    /// The next slot to look at.
    slot: u16,
    /// Children loaded ahead, by slot.
    ahead: VecDeque<(u16, Arc<Page>)>,
}

impl Root {
    /// Frame, then height.
    pub fn encode(&self, w: &mut Writer) {
        self.frame.encode(w);
        w.u8(self.height);
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Root> {
        let root = Root { frame: FrameRef::decode(r)?, height: r.u8()? };
        if root.height > LEVEL_MAX {
            return Err(r.bad("a map's root is too high"));
        }
        Ok(root)
    }
}

impl Tree {
    /// What lies at these blocks, without gaps, in order.
    pub async fn lookup(
        &self,
        pages: &dyn Pages,
        cache: &PageCache,
        blocks: Range<u64>,
    ) -> Result<Vec<Extent>> {
        let mut out = Vec::new();
        let mut walk = self.walk(pages, cache, blocks.clone());
        let mut at = blocks.start;
        while let Some(extent) = walk.next().await? {
            if extent.block > at {
                out.push(Extent { block: at, count: extent.block - at, at: None });
            }
            at = extent.end();
            out.push(extent);
        }
        if at < blocks.end {
            out.push(Extent { block: at, count: blocks.end - at, at: None });
        }
        Ok(out)
    }

    /// What is mapped within these blocks.
    pub fn walk<'a>(&self, pages: &'a dyn Pages, cache: &'a PageCache, blocks: Range<u64>) -> Walk<'a> {
        let root = self.root.filter(|_| !blocks.is_empty());
        Walk { pages, cache, root, path: Vec::new(), blocks, enter: None }
    }

    /// As `walk` over all blocks, but pages for which `enter` says no are passed over unread, with all below them.
    pub fn walk_where<'a>(
        &self,
        pages: &'a dyn Pages,
        cache: &'a PageCache,
        enter: impl Fn(&FrameRef) -> bool + Send + Sync + 'a,
    ) -> Walk<'a> {
        let root = self.root.filter(|root| enter(&root.frame));
        Walk { root, enter: Some(Box::new(enter)), ..self.walk(pages, cache, 0..u64::MAX) }
    }
}

impl Walk<'_> {
    /// The next mapped extent.
    pub async fn next(&mut self) -> Result<Option<Extent>> {
        loop {
            match self.step().await? {
                Some(Step::Mapped(extent)) => return Ok(Some(extent)),
                Some(Step::Page { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next mapped extent or page.
    pub async fn step(&mut self) -> Result<Option<Step>> {
        if let Some(root) = self.root.take() {
            if root.height > LEVEL_MAX {
                return Err(Error::new(Kind::Corrupt, "a map's root is too high"));
            }
            if self.blocks.start >= span(root.height) {
                return Ok(None);
            }
            let page = self.cache.get(self.pages, &root.frame, root.height, 0).await?;
            self.enter(page, root.height, 0);
            return Ok(Some(Step::Page { frame: root.frame, address: address(root.height, 0) }));
        }
        while let Some(level) = self.path.last_mut() {
            let entry = level.entries(level.slot, self.blocks.end, self.enter.as_ref()).next();
            let Some(entry) = entry else {
                self.path.pop();
                continue;
            };
            if level.level == 0 {
                level.slot = entry.end();
                return Ok(Some(Step::Mapped(clip(level.first, &entry, &self.blocks))));
            }
            return self.descend(entry).await.map(Some);
        }
        Ok(None)
    }

    async fn descend(&mut self, entry: Entry) -> Result<Step> {
        let level = self.path.last_mut().expect("who descends stands on a page");
        let (child, first) = (level.level - 1, level.first_of(entry.start));
        if level.ahead.front().is_none_or(|(slot, _)| *slot != entry.start) {
            level
                .load_ahead(self.pages, self.cache, entry.start, self.blocks.end, self.enter.as_ref())
                .await?;
        }
        let (_, page) = level.ahead.pop_front().expect("the wanted page is loaded first");
        // Only now: after a failed load the same child comes again.
        level.slot = entry.end();
        self.enter(page, child, first);
        Ok(Step::Page { frame: entry.frame, address: address(child, first) })
    }

    fn enter(&mut self, page: Arc<Page>, level: u8, first: u64) {
        let skipped = self.blocks.start.saturating_sub(first) / slot_span(level);
        self.path.push(Level { page, level, first, slot: skipped as u16, ahead: VecDeque::new() });
    }
}

/// Blocks that one slot of a page of this level covers.
fn slot_span(level: u8) -> u64 {
    if level == 0 { 1 } else { span(level - 1) }
}

impl Level {
    fn first_of(&self, slot: u16) -> u64 {
        self.first + u64::from(slot) * slot_span(self.level)
    }

    fn begins_before(&self, entry: &Entry, end: u64) -> bool {
        self.first_of(entry.start) < end
    }

    /// Entries from `slot` on that begin before `end`; of an inner page those that are entered.
    fn entries<'a>(
        &'a self,
        slot: u16,
        end: u64,
        enter: Option<&'a Enter<'_>>,
    ) -> impl Iterator<Item = Entry> + 'a {
        let enter = enter.filter(|_| self.level > 0);
        let entries = self.page.entries(slot).take_while(move |e| self.begins_before(e, end));
        entries.filter(move |e| enter.is_none_or(|enter| enter(&e.frame)))
    }

    async fn load_ahead(
        &mut self,
        pages: &dyn Pages,
        cache: &PageCache,
        slot: u16,
        end: u64,
        enter: Option<&Enter<'_>>,
    ) -> Result<()> {
        let entries = self.entries(slot, end, enter).take(AHEAD);
        let (slots, mut wanted): (Vec<u16>, Vec<_>) =
            entries.map(|e| (e.start, (e.frame, self.first_of(e.start)))).unzip();
        self.add_near(pages, cache, &slots, &mut wanted)?;
        let loaded = cache.get_many(pages, self.level - 1, &wanted).await?;
        // What lies near is for others: nothing here fails for want of it.
        let loaded = loaded.into_iter().take(slots.len()).collect::<Result<Vec<_>>>()?;
        self.ahead = slots.into_iter().zip(loaded).collect();
        Ok(())
    }

    /// Pages that a request for the first of these brings along at no cost, while the cache has room for them.
    fn add_near(
        &self,
        pages: &dyn Pages,
        cache: &PageCache,
        slots: &[u16],
        wanted: &mut Vec<(FrameRef, u64)>,
    ) -> Result<()> {
        let Some(&(at, first)) = wanted.first() else { return Ok(()) };
        let level = self.level - 1;
        if !cache.is_roomy() || !cache.lacks(pages, &at, level, first)? {
            return Ok(());
        }
        let chunk = |f: &FrameRef| (f.volume, f.epoch, f.seq);
        for entry in self.page.entries(0) {
            let (frame, first) = (entry.frame, self.first_of(entry.start));
            let near = chunk(&frame) == chunk(&at) && frame.offset.abs_diff(at.offset) <= NEAR;
            if near && !slots.contains(&entry.start) && cache.lacks(pages, &frame, level, first)? {
                wanted.push((frame, first));
            }
        }
        Ok(())
    }
}

fn clip(first: u64, entry: &Entry, blocks: &Range<u64>) -> Extent {
    let start = first + u64::from(entry.start);
    let (from, to) = (start.max(blocks.start), (first + u64::from(entry.end())).min(blocks.end));
    let skip = entry.skip + (from - start) as u8;
    Extent { block: from, count: to - from, at: Some(Mapped { frame: entry.frame, skip }) }
}

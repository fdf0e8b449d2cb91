//! A tree as a value: its root, what lies at a block, and what is mapped at all.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::page::{Entry, LEVEL_MAX, Page, address, span};
use super::page_cache::{PageCache, Pages};
use windlass_base::codec::{Reader, Writer};
use windlass_base::{Error, Kind, Result};
use windlass_log::FrameRef;

/// Pages that a walk loads at once, wherever they lie.
const AHEAD: usize = 16;
/// Bytes of the pages below those that are loaded along: where a map is thin, a page has few below it, and each would be waited for
/// by itself.
const BELOW: u64 = 128 << 10;

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
    ahead: VecDeque<Ahead>,
}

struct Ahead {
    slot: u16,
    page: Arc<Page>,
    /// Its own children that were loaded along: all that are wanted, or the first of them.
    below: VecDeque<Ahead>,
}

impl Ahead {
    fn new(slot: u16, page: Arc<Page>) -> Ahead {
        Ahead { slot, page, below: VecDeque::new() }
    }
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
        let known = self.known(pages, cache, blocks.clone())?;
        if !known.lacks {
            return Ok(filled(known.extents, blocks));
        }
        let (mut extents, mut walk) = (Vec::new(), self.walk(pages, cache, blocks.clone()));
        while let Some(extent) = walk.next().await? {
            extents.push(extent);
        }
        Ok(filled(extents, blocks))
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
            self.enter(Ahead::new(0, page), root.height, 0);
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
        if level.ahead.front().is_none_or(|ahead| ahead.slot != entry.start) {
            let reach = Reach {
                pages: self.pages,
                cache: self.cache,
                blocks: &self.blocks,
                enter: self.enter.as_ref(),
            };
            level.load_ahead(entry.start, &reach).await?;
            level.load_below(&reach).await?;
        }
        let ahead = level.ahead.pop_front().expect("the wanted page is loaded first");
        // Only now: after a failed load the same child comes again.
        level.slot = entry.end();
        self.enter(ahead, child, first);
        Ok(Step::Page { frame: entry.frame, address: address(child, first) })
    }

    fn enter(&mut self, Ahead { page, below, .. }: Ahead, level: u8, first: u64) {
        let slot = first_slot(&self.blocks, level, first);
        self.path.push(Level { page, level, first, slot, ahead: below });
    }
}

/// Where a walk over these blocks begins in a page of this level.
pub(super) fn first_slot(blocks: &Range<u64>, level: u8, first: u64) -> u16 {
    (blocks.start.saturating_sub(first) / slot_span(level)) as u16
}

/// What a walk loads with, and how far.
struct Reach<'a> {
    pages: &'a dyn Pages,
    cache: &'a PageCache,
    blocks: &'a Range<u64>,
    enter: Option<&'a Enter<'a>>,
}

/// Blocks that one slot of a page of this level covers.
pub(super) fn slot_span(level: u8) -> u64 {
    if level == 0 { 1 } else { span(level - 1) }
}

fn is_near(one: &FrameRef, other: &FrameRef) -> bool {
    one.same_object(other) && one.offset.abs_diff(other.offset) <= NEAR
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

    async fn load_ahead(&mut self, slot: u16, reach: &Reach<'_>) -> Result<()> {
        let &Reach { pages, cache, blocks, enter } = reach;
        let mut begin = None;
        let entries = self.entries(slot, blocks.end, enter).enumerate().take_while(|(n, entry)| {
            let begin = begin.get_or_insert(entry.frame);
            *n < AHEAD || is_near(&entry.frame, begin)
        });
        let entries = entries.map(|(_, entry)| entry);
        let (slots, mut wanted): (Vec<u16>, Vec<_>) =
            entries.map(|e| (e.start, (e.frame, self.first_of(e.start)))).unzip();
        self.add_near(pages, cache, &slots, &mut wanted)?;
        let loaded = cache.get_many(pages, self.level - 1, &wanted).await?;
        // What lies near is for others: nothing here fails for want of it.
        let loaded = loaded.into_iter().take(slots.len()).collect::<Result<Vec<_>>>()?;
        self.ahead = slots.into_iter().zip(loaded).map(|(slot, page)| Ahead::new(slot, page)).collect();
        Ok(())
    }

    /// The children of those that were loaded ahead, as far as few bytes go. Whether one fails shows when its turn comes.
    async fn load_below(&mut self, reach: &Reach<'_>) -> Result<()> {
        let &Reach { pages, cache, blocks, enter } = reach;
        let Some(child) = self.level.checked_sub(1).filter(|child| *child > 0) else { return Ok(()) };
        let (mut left, mut wanted, mut places) = (BELOW, Vec::new(), Vec::new());
        'full: for (n, ahead) in self.ahead.iter().enumerate() {
            let first = self.first_of(ahead.slot);
            let (page, slot) = (ahead.page.clone(), first_slot(blocks, child, first));
            let level = Level { page, level: child, first, slot, ahead: VecDeque::new() };
            for entry in level.entries(slot, blocks.end, enter) {
                let Some(rest) = left.checked_sub(u64::from(entry.frame.len)) else { break 'full };
                left = rest;
                wanted.push((entry.frame, level.first_of(entry.start)));
                places.push((n, entry.start));
            }
        }
        // One page's children are loaded when it is entered, no worse than here.
        if places.last().is_none_or(|(last, _)| *last == 0) {
            return Ok(());
        }
        let loaded = cache.get_many(pages, child - 1, &wanted).await.unwrap_or_default();
        let sound = places.into_iter().zip(loaded).map_while(|(place, page)| Some((place, page.ok()?)));
        for ((n, slot), page) in sound {
            self.ahead[n].below.push_back(Ahead::new(slot, page));
        }
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
        for entry in self.page.entries(0) {
            let (frame, first) = (entry.frame, self.first_of(entry.start));
            if is_near(&frame, &at)
                && !slots.contains(&entry.start)
                && cache.lacks(pages, &frame, level, first)?
            {
                wanted.push((frame, first));
            }
        }
        Ok(())
    }
}

/// With what is mapped nowhere between these.
fn filled(extents: Vec<Extent>, blocks: Range<u64>) -> Vec<Extent> {
    let (mut out, mut at) = (Vec::with_capacity(extents.len() + 1), blocks.start);
    for extent in extents {
        if extent.block > at {
            out.push(Extent { block: at, count: extent.block - at, at: None });
        }
        at = extent.end();
        out.push(extent);
    }
    if at < blocks.end {
        out.push(Extent { block: at, count: blocks.end - at, at: None });
    }
    out
}

pub(super) fn clip(first: u64, entry: &Entry, blocks: &Range<u64>) -> Extent {
    let start = first + u64::from(entry.start);
    let (from, to) = (start.max(blocks.start), (first + u64::from(entry.end())).min(blocks.end));
    let skip = entry.skip + (from - start) as u8;
    Extent { block: from, count: to - from, at: Some(Mapped { frame: entry.frame, skip }) }
}

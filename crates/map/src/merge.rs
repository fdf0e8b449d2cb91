//! A new tree from an old one and what changed since: streaming in block order, page by page from the leaves up.
//!
//! In memory at any time: one page's slots a level, the pages loaded ahead, and a bounded look at the updates to come.
//! A page that doesn't change is not written, one without entries is dropped, and the tree grows at its root.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, try_join_all};

use super::change_leaf;
use super::page::{Entry, LEVEL_MAX, Page, SLOTS, address, encode, span};
use super::page_cache::{PageCache, Pages};
use super::tree::{Extent, Mapped, Root, Tree};
use windlass_base::format_limits::FRAME_BLOCKS;
use windlass_base::{Error, Kind, Result};
use windlass_log::FrameRef;

/// Number of updates that are looked at before they are applied, to load the pages they need together.
const LOOK_AHEAD: usize = 4096;
/// Number of pages that a merge loads at once.
const AHEAD: usize = 32;

/// The destination of new pages: the map chunks of a checkpoint. A place that `append` returns is never given
/// out again for other contents, also when the merge fails or its tree is thrown away. Pages are cached as soon
/// as they are appended, so that a second page at that place would be taken for the first.
#[async_trait]
pub trait PageSink: Send {
    async fn append(&mut self, address: u64, raw: Bytes) -> Result<FrameRef>;

    /// Notes that the new tree does not hold this frame any more: a page, or data of which no block is left.
    /// The old tree held it, or an earlier version of the new one. Each frame is told once.
    fn died(&mut self, frame: &FrameRef);
}

/// The updates that are left. The first of them are read already.
struct Feed<I> {
    rest: I,
    next: VecDeque<Extent>,
    /// End of the last update that was read: the next must not begin before it.
    end: u64,
}

impl<I: Iterator<Item = Extent>> Feed<I> {
    fn new(rest: I) -> Self {
        Feed { rest, next: VecDeque::new(), end: 0 }
    }

    fn fill(&mut self, wanted: usize) -> Result<()> {
        while self.next.len() < wanted {
            let Some(extent) = self.rest.next() else { break };
            self.check(&extent)?;
            self.end = extent.end();
            if extent.count > 0 {
                self.next.push_back(extent);
            }
        }
        Ok(())
    }

    fn check(&self, extent: &Extent) -> Result<()> {
        let end = extent.block.checked_add(extent.count).filter(|end| *end <= span(LEVEL_MAX));
        let fits = |end: u64, m: Mapped| {
            let blocks = u64::from(m.skip) + extent.count;
            extent.count > 0 && blocks <= FRAME_BLOCKS && extent.block / SLOTS == (end - 1) / SLOTS
        };
        if end.is_some_and(|end| extent.block >= self.end && extent.at.is_none_or(|m| fits(end, m))) {
            return Ok(());
        }
        Err(Error::new(Kind::Internal, format!("a map was given an update that can't be: {extent:?}")))
    }

    fn peek(&mut self) -> Result<Option<Extent>> {
        self.fill(1)?;
        Ok(self.next.front().copied())
    }

    /// Takes and returns the next update's part before `limit`; `None` when it begins behind.
    fn take_before(&mut self, limit: u64) -> Result<Option<Extent>> {
        self.fill(1)?;
        let Some(front) = self.next.front_mut().filter(|e| e.block < limit) else { return Ok(None) };
        if front.end() <= limit {
            return Ok(self.next.pop_front());
        }
        let part = Extent { count: limit - front.block, ..*front };
        front.count -= part.count;
        front.block = limit;
        if let Some(at) = &mut front.at {
            at.skip += part.count as u8;
        }
        Ok(Some(part))
    }
}

/// The outcome of a merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Merged {
    pub tree: Tree,
    /// Number of blocks that the new tree maps, less those that the old tree mapped.
    pub gained: i64,
}

struct Merge<'a, I> {
    pages: &'a dyn Pages,
    cache: &'a PageCache,
    sink: &'a mut dyn PageSink,
    feed: Feed<I>,
    gained: i64,
}

type Children = Vec<Option<FrameRef>>;

impl Tree {
    /// Returns the tree with `updates` applied, which are sorted and do not overlap; `at: None` unmaps. Mapped
    /// updates lie within a frame and a leaf. The old tree stays as it is. After an error nothing refers to
    /// what was appended.
    pub async fn merge(
        &self,
        pages: &dyn Pages,
        cache: &PageCache,
        sink: &mut dyn PageSink,
        updates: impl Iterator<Item = Extent> + Send,
    ) -> Result<Merged> {
        let mut merge = Merge { pages, cache, sink, feed: Feed::new(updates), gained: 0 };
        let mut height = self.root.map_or(0, |r| r.height);
        let mut root = self.root.map(|r| r.frame);
        if merge.feed.peek()?.is_some_and(|e| e.block < span(height)) {
            let page = match &root {
                Some(frame) => Some(cache.get(pages, frame, height, 0).await?),
                None => None,
            };
            root = merge.node(height, 0, root, page).await?;
        }
        while merge.mapped_beyond(span(height))? {
            height += 1;
            let mut children = vec![None; SLOTS as usize];
            children[0] = root;
            merge.apply(height, 0, &mut children).await?;
            root = merge.write_inner(height, 0, &children).await?;
        }
        let tree = Tree { root: root.map(|frame| Root { frame, height }) };
        Ok(Merged { tree, gained: merge.gained })
    }
}

impl<I: Iterator<Item = Extent> + Send> Merge<'_, I> {
    /// Tells whether something is to be mapped from `limit` on. Updates that unmap there are dropped, since
    /// nothing is mapped there.
    fn mapped_beyond(&mut self, limit: u64) -> Result<bool> {
        while let Some(extent) = self.feed.peek()? {
            debug_assert!(extent.block >= limit, "updates below {limit} are done: {extent:?}");
            if extent.at.is_some() {
                return Ok(true);
            }
            self.feed.next.pop_front();
        }
        Ok(false)
    }

    /// Applies the updates within the span of one page, whose old frame is `old` and its contents `page`.
    /// Returns the new frame: the old one when nothing changed, none when nothing is left.
    fn node(
        &mut self,
        level: u8,
        first: u64,
        old: Option<FrameRef>,
        page: Option<Arc<Page>>,
    ) -> BoxFuture<'_, Result<Option<FrameRef>>> {
        async move {
            if level == 0 {
                return self.leaf(first, old, page).await;
            }
            let mut children = vec![None; SLOTS as usize];
            for entry in page.iter().flat_map(|page| page.entries(0)) {
                children[usize::from(entry.start)] = Some(entry.frame);
            }
            drop(page);
            match self.apply(level, first, &mut children).await? {
                true => {
                    old.iter().for_each(|old| self.sink.died(old));
                    self.write_inner(level, first, &children).await
                }
                false => Ok(old),
            }
        }
        .boxed()
    }

    /// Discards a subtree as one: tells the sink that its page and all below have died.
    fn discard(&mut self, level: u8, first: u64, page: FrameRef) -> BoxFuture<'_, Result<()>> {
        async move {
            let entries: Vec<Entry> =
                self.cache.get(self.pages, &page, level, first).await?.entries(0).collect();
            self.sink.died(&page);
            if level == 0 {
                self.gained -= entries.iter().map(|e| i64::from(e.count)).sum::<i64>();
                change_leaf::frames(entries.iter().map(|e| e.frame))
                    .iter()
                    .for_each(|frame| self.sink.died(frame));
                return Ok(());
            }
            for some in entries.chunks(AHEAD) {
                let loads = some.iter().map(|e| {
                    let child_first = first + u64::from(e.start) * span(level - 1);
                    self.cache.get(self.pages, &e.frame, level - 1, child_first)
                });
                // The pages are loaded together. A page that doesn't stay in the cache is loaded again, by itself.
                try_join_all(loads).await?;
                for e in some {
                    let child_first = first + u64::from(e.start) * span(level - 1);
                    self.discard(level - 1, child_first, e.frame).await?;
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// Applies the updates to the children of an inner page. Returns whether any of them changed.
    async fn apply(&mut self, level: u8, first: u64, children: &mut Children) -> Result<bool> {
        let (child_span, end) = (span(level - 1), first + span(level));
        let mut changed = false;
        let mut ahead = VecDeque::new();
        while let Some(update) = self.feed.peek()?.filter(|e| e.block < end) {
            let slot = ((update.block - first) / child_span) as usize;
            let from = first + slot as u64 * child_span;
            let covered = update.block == from && update.end() >= from + child_span;
            let old = children[slot];
            let new = if update.at.is_none() && (covered || old.is_none()) {
                self.feed.take_before(from + child_span)?;
                if let Some(old) = old {
                    self.discard(level - 1, from, old).await?;
                }
                None
            } else {
                let page = self.page_of(level, first, slot, children, &mut ahead).await?;
                self.node(level - 1, from, old, page).await?
            };
            changed |= new != old;
            children[slot] = new;
        }
        Ok(changed)
    }

    /// Returns the page of the child at `slot`. Pages that the next updates need are loaded along with it.
    async fn page_of(
        &mut self,
        level: u8,
        first: u64,
        slot: usize,
        children: &Children,
        ahead: &mut VecDeque<(usize, Arc<Page>)>,
    ) -> Result<Option<Arc<Page>>> {
        if children[slot].is_none() {
            return Ok(None);
        }
        ahead.retain(|(n, _)| *n >= slot);
        if ahead.front().is_none_or(|(n, _)| *n != slot) {
            let (slots, frames): (Vec<_>, Vec<_>) =
                self.wanted(level, first, slot, children)?.into_iter().unzip();
            let firsts = slots.iter().map(|n| first + *n as u64 * span(level - 1));
            let wanted: Vec<_> = frames.into_iter().zip(firsts).collect();
            let loaded = self.cache.get_many(self.pages, level - 1, &wanted).await?;
            *ahead = slots.into_iter().zip(loaded).map(|(n, page)| Ok((n, page?))).collect::<Result<_>>()?;
        }
        Ok(ahead.pop_front().map(|(_, page)| page))
    }

    /// Returns the children from `slot` on that the updates in sight change in part, the nearest first.
    fn wanted(
        &mut self,
        level: u8,
        first: u64,
        slot: usize,
        children: &Children,
    ) -> Result<Vec<(usize, FrameRef)>> {
        self.feed.fill(LOOK_AHEAD)?;
        let (child_span, end) = (span(level - 1), first + span(level));
        let mut out: Vec<(usize, FrameRef)> = Vec::with_capacity(AHEAD);
        for update in self.feed.next.iter().take_while(|e| e.block < end) {
            for block in [update.block, update.end().min(end) - 1] {
                let n = ((block - first) / child_span) as usize;
                let from = first + n as u64 * child_span;
                let covered =
                    update.at.is_none() && update.block <= from && update.end() >= from + child_span;
                let known = out.last().is_some_and(|(last, _)| *last >= n);
                if let Some(frame) = children[n].filter(|_| n >= slot && !covered && !known) {
                    out.push((n, frame));
                }
            }
            if out.len() >= AHEAD {
                break;
            }
        }
        Ok(out)
    }

    async fn leaf(
        &mut self,
        first: u64,
        old: Option<FrameRef>,
        page: Option<Arc<Page>>,
    ) -> Result<Option<FrameRef>> {
        let mut updates = Vec::new();
        while let Some(update) = self.feed.take_before(first + SLOTS)? {
            updates.push(update);
        }
        let entries: Vec<Entry> = page.iter().flat_map(|page| page.entries(0)).collect();
        let Some(change) = change_leaf::change(&entries, first, &updates) else { return Ok(old) };
        self.gained += change.gained;
        old.iter().chain(&change.died).for_each(|frame| self.sink.died(frame));
        self.write(0, first, &change.entries).await
    }

    async fn write_inner(&mut self, level: u8, first: u64, children: &Children) -> Result<Option<FrameRef>> {
        let entry = |(n, frame): (usize, &Option<FrameRef>)| {
            frame.map(|frame| Entry { start: n as u16, count: 1, skip: 0, frame })
        };
        let entries: Vec<_> = children.iter().enumerate().filter_map(entry).collect();
        self.write(level, first, &entries).await
    }

    async fn write(&mut self, level: u8, first: u64, entries: &[Entry]) -> Result<Option<FrameRef>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let (page, raw) = encode(level, entries);
        let frame = self.sink.append(address(level, first), raw).await?;
        self.cache.insert(self.pages, &frame, address(level, first), Arc::new(page))?;
        Ok(Some(frame))
    }
}

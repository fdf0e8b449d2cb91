//! What differs between two trees: their pages side by side, from the roots down.
//!
//! A page that lies at one place of both is passed over unread, with all below it: pages and frames never change where they
//! lie, so equal references mean equal contents. A comparison costs what was changed between the two. Blocks that were written
//! again with the same contents differ.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::page::{Entry, LEVEL_MAX, Page, SLOTS, span};
use super::page_cache::{PageCache, Pages};
use super::tree::{Mapped, Root, Tree};
use windlass_base::{Error, Kind, Result};
use windlass_log::FrameRef;

/// Places of one level whose pages are loaded at once.
const AHEAD: usize = 16;

/// The contents of one tree at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Nothing,
    Page(FrameRef),
    /// The place is larger than the tree, whose root lies at its beginning.
    Above(Root),
}

/// The span of a page, and what both trees have there.
#[derive(Clone, Copy, Debug)]
struct Place {
    first: u64,
    sides: [Side; 2],
}

/// The pages that both trees have at a place.
type Both = [Option<Arc<Page>>; 2];

/// Places of one level that differ and are still to be looked at, in order; and the loaded pages of the first of them.
struct Level {
    level: u8,
    places: VecDeque<Place>,
    ahead: VecDeque<Both>,
}

/// A comparison of two trees under way (see the module). It holds one path of places, and a few pages that were loaded ahead.
pub struct Differences<'a> {
    pages: &'a dyn Pages,
    cache: &'a PageCache,
    blocks: Range<u64>,
    path: Vec<Level>,
    found: VecDeque<Range<u64>>,
}

impl Tree {
    /// Compares two trees: finds which of these blocks lie elsewhere in the other tree, or are mapped in only one of them.
    pub fn differences<'a>(
        &self,
        other: &Tree,
        pages: &'a dyn Pages,
        cache: &'a PageCache,
        blocks: Range<u64>,
    ) -> Differences<'a> {
        let roots = [self.root, other.root];
        let level = roots.iter().flatten().map(|root| root.height).max().unwrap_or(0);
        let sides = roots.map(|root| side(root, level));
        let differs = sides[0] != sides[1] && !blocks.is_empty();
        let places = differs.then_some(Place { first: 0, sides }).into_iter().collect();
        let path = vec![Level { level, places, ahead: VecDeque::new() }];
        Differences { pages, cache, blocks, path, found: VecDeque::new() }
    }
}

/// Returns what a tree has at the first place of a level. Its root must not lie above that level.
fn side(root: Option<Root>, level: u8) -> Side {
    match root {
        None => Side::Nothing,
        Some(root) if root.height == level => Side::Page(root.frame),
        Some(root) => Side::Above(root),
    }
}

impl Differences<'_> {
    /// Returns the next range of blocks that differ, in order. The range after that may follow it directly.
    pub async fn next(&mut self) -> Result<Option<Range<u64>>> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Ok(Some(found));
            }
            let Some(level) = self.path.last_mut() else { return Ok(None) };
            let Some(place) = level.places.front().copied() else {
                self.path.pop();
                continue;
            };
            if level.level > LEVEL_MAX {
                return Err(Error::new(Kind::Corrupt, "a map's root is too high"));
            }
            if level.ahead.is_empty() {
                level.ahead = level.load(self.pages, self.cache).await?;
            }
            // Taken out only now: after a failed load this place comes again.
            level.places.pop_front();
            let pages = level.ahead.pop_front().expect("those of the first place are loaded first");
            let level = level.level;
            match level {
                0 => self.found = differing(place.first, &pages, &self.blocks),
                _ => self.path.push(below(level, &place, &pages, &self.blocks)),
            }
        }
    }
}

impl Level {
    async fn load(&self, pages: &dyn Pages, cache: &PageCache) -> Result<VecDeque<Both>> {
        let places = || self.places.iter().take(AHEAD);
        let page = |place: &Place, side: &Side| match side {
            Side::Page(frame) => Some((*frame, place.first)),
            _ => None,
        };
        let wanted: Vec<_> =
            places().flat_map(|place| place.sides.iter().filter_map(move |side| page(place, side))).collect();
        let mut loaded = cache.get_many(pages, self.level, &wanted).await?.into_iter();
        let mut both = VecDeque::with_capacity(AHEAD);
        for place in places() {
            let mut found = [None, None];
            for (found, side) in found.iter_mut().zip(&place.sides) {
                if let Side::Page(_) = side {
                    *found = loaded.next().transpose()?;
                }
            }
            both.push_back(found);
        }
        Ok(both)
    }
}

/// Returns the places below this one that differ and lie within these blocks.
fn below(level: u8, place: &Place, pages: &Both, blocks: &Range<u64>) -> Level {
    let span = span(level - 1);
    let [mut ours, mut theirs] =
        [0, 1].map(|n| children(level, place.sides[n], pages[n].as_deref()).peekable());
    let mut places = VecDeque::new();
    while let Some(slot) = ours.peek().into_iter().chain(theirs.peek()).map(|(slot, _)| *slot).min() {
        let sides = [&mut ours, &mut theirs]
            .map(|side| side.next_if(|(at, _)| *at == slot).map_or(Side::Nothing, |(_, side)| side));
        let first = place.first + u64::from(slot) * span;
        if sides[0] != sides[1] && first < blocks.end && first + span > blocks.start {
            places.push_back(Place { first, sides });
        }
    }
    Level { level: level - 1, places, ahead: VecDeque::new() }
}

/// Returns what one tree has below a place, by slot.
fn children(level: u8, at: Side, page: Option<&Page>) -> impl Iterator<Item = (u16, Side)> + '_ {
    let above = match at {
        Side::Above(root) => Some((0, side(Some(root), level - 1))),
        _ => None,
    };
    let entries = page.into_iter().flat_map(|page| page.entries(0));
    above.into_iter().chain(entries.map(|entry| (entry.start, Side::Page(entry.frame))))
}

/// Returns the ranges within `blocks` that differ between the two leaves of a place.
fn differing(first: u64, leaves: &Both, blocks: &Range<u64>) -> VecDeque<Range<u64>> {
    let [mut ours, mut theirs] =
        leaves.each_ref().map(|leaf| leaf.iter().flat_map(|leaf| leaf.entries(0)).peekable());
    let (mut found, mut at) = (VecDeque::<Range<u64>>::new(), 0);
    while let (Some(sides), true) = (next_of(ours.peek(), theirs.peek()), u64::from(at) < SLOTS) {
        at = sides.iter().flatten().map(|entry| entry.start).min().unwrap_or(at).max(at);
        // Up to the next slot where an entry of either side begins or ends, each side is one frame or nothing.
        let edge = |entry: &Entry| if entry.start > at { entry.start } else { entry.end() };
        let end = sides.iter().flatten().map(edge).min().unwrap_or(at);
        let [a, b] = sides.map(|entry| entry.and_then(|entry| mapped(&entry, at)));
        let (from, to) = (first + u64::from(at), first + u64::from(end));
        let range = from.max(blocks.start)..to.min(blocks.end);
        if a != b && range.start < range.end {
            match found.back_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => found.push_back(range),
            }
        }
        at = end;
        ours.next_if(|entry| entry.end() <= end);
        theirs.next_if(|entry| entry.end() <= end);
    }
    found
}

/// Returns the next entries of both sides; `None` when neither has one.
fn next_of(ours: Option<&Entry>, theirs: Option<&Entry>) -> Option<[Option<Entry>; 2]> {
    (ours.is_some() || theirs.is_some()).then_some([ours.copied(), theirs.copied()])
}

/// Returns where this entry maps the slot to; `None` when it begins behind the slot. The entry must not end
/// before the slot.
fn mapped(entry: &Entry, slot: u16) -> Option<Mapped> {
    let skip = entry.skip + slot.checked_sub(entry.start)? as u8;
    Some(Mapped { frame: entry.frame, skip })
}

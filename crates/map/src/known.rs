//! What the pages in memory tell of a range of blocks: none is loaded, and nobody waits.
//!
//! Most look-ups find all their pages here. They cost a walk of a few slots, where `Walk` has to be ready to stop at each page.

use std::ops::Range;

use super::page::{LEVEL_MAX, span};
use super::page_cache::{PageCache, Pages};
use super::tree::{Extent, Tree, clip, first_slot, slot_span};
use windlass_base::{Error, Kind, Result};
use windlass_log::FrameRef;

/// What was found.
#[derive(Debug, Default)]
pub struct Known {
    /// What is mapped, in order.
    pub extents: Vec<Extent>,
    /// A page is not here: what lies below it is missing.
    pub lacks: bool,
}

struct Look<'a> {
    pages: &'a dyn Pages,
    cache: &'a PageCache,
    blocks: Range<u64>,
    known: Known,
}

impl Tree {
    /// What is mapped within these blocks, as far as the pages that tell it are in memory.
    pub fn known(&self, pages: &dyn Pages, cache: &PageCache, blocks: Range<u64>) -> Result<Known> {
        let mut look = Look { pages, cache, blocks, known: Known::default() };
        let Some(root) = self.root.filter(|_| !look.blocks.is_empty()) else { return Ok(look.known) };
        if root.height > LEVEL_MAX {
            return Err(Error::new(Kind::Corrupt, "a map's root is too high"));
        }
        if look.blocks.start < span(root.height) {
            look.look_into(&root.frame, root.height, 0)?;
        }
        Ok(look.known)
    }
}

impl Look<'_> {
    /// The page of this level whose first block is `first`, and what lies below it.
    fn look_into(&mut self, at: &FrameRef, level: u8, first: u64) -> Result<()> {
        let Some(page) = self.cache.here(self.pages, at, level, first)? else {
            self.known.lacks = true;
            return Ok(());
        };
        for entry in page.entries(first_slot(&self.blocks, level, first)) {
            let begins = first + u64::from(entry.start) * slot_span(level);
            if begins >= self.blocks.end {
                break;
            }
            match level.checked_sub(1) {
                None => self.known.extents.push(clip(first, &entry, &self.blocks)),
                Some(below) => self.look_into(&entry.frame, below, begins)?,
            }
        }
        Ok(())
    }
}

//! What blocks are, told from the map without their data: data or zeros, inherited or not, changed since a snapshot.

use std::ops::Range;

use super::overlay::Piece;
use super::volume_reader::{Found, View};
use windlass_base::Result;
use windlass_base::format_limits::BLOCK;
use windlass_map::{Mapped, Tree};

/// A number of blocks side by side, and whether they are data, or have changed.
pub type Run = (u64, bool);

/// A list of at most `max` runs, side by side.
struct Runs {
    runs: Vec<Run>,
    max: usize,
}

impl Runs {
    fn new(max: usize) -> Runs {
        Runs { runs: Vec::new(), max }
    }

    /// Adds the blocks that follow. Returns true if there is no room for more.
    fn push(&mut self, blocks: u64, is: bool) -> bool {
        match self.runs.last_mut() {
            Some((before, same)) if *same == is => *before += blocks,
            _ if blocks > 0 => self.runs.push((blocks, is)),
            _ => {}
        }
        self.runs.len() > self.max
    }

    fn cut(mut self) -> Vec<Run> {
        self.runs.truncate(self.max);
        self.runs
    }
}

/// Turns runs of blocks into runs of bytes: of the range of bytes that touches these blocks.
pub fn in_bytes(runs: Vec<Run>, offset: u64, len: u64) -> Vec<Run> {
    let (mut at, end) = (offset / BLOCK * BLOCK, offset + len);
    let mut out = Vec::with_capacity(runs.len());
    for (blocks, is_data) in runs {
        let (from, to) = (at.max(offset), (at + blocks * BLOCK).min(end));
        if from < to {
            out.push((to - from, is_data));
        }
        at += blocks * BLOCK;
    }
    out
}

impl View {
    /// Tells which of these blocks are data and which are zeros without data, as runs side by side from their
    /// start on. There are `max` runs at most, so that they may end before the range does. No data is read
    /// for it.
    pub async fn allocation(&self, found: Vec<Found>, tree: &Tree, max: usize) -> Result<Vec<Run>> {
        self.patiently(|| self.allocation_once(&found, tree, max)).await
    }

    /// Tells which of these blocks lie in frames of a volume below `index` in the list of ancestors, as
    /// `allocation` tells runs: what a clone has of its origin. No data is read for it.
    pub async fn inherited(
        &self,
        found: Vec<Found>,
        tree: &Tree,
        index: u16,
        max: usize,
    ) -> Result<Vec<Run>> {
        let once = || async {
            let mut runs = Runs::new(max);
            for (range, piece) in &found {
                let full = match piece {
                    Some(Piece::Frame { at, .. }) => runs.push(range.end - range.start, at.volume < index),
                    Some(_) => runs.push(range.end - range.start, false),
                    None => self.push_mapped(&mut runs, range, tree, |at| at.frame.volume < index).await?,
                };
                if full {
                    break;
                }
            }
            Ok(runs.cut())
        };
        self.patiently(once).await
    }

    async fn allocation_once(&self, found: &[Found], tree: &Tree, max: usize) -> Result<Vec<Run>> {
        let mut runs = Runs::new(max);
        for (range, piece) in found {
            let full = match piece {
                Some(piece) => runs.push(range.end - range.start, !matches!(piece, Piece::Zero)),
                None => self.push_mapped(&mut runs, range, tree, |_| true).await?,
            };
            if full {
                break;
            }
        }
        Ok(runs.cut())
    }

    /// Tells which of these blocks may hold other bytes than in `before`, a tree of the same volume, as
    /// `allocation` tells runs. Blocks that were written again with the same bytes count as changed. No data
    /// is read for it.
    pub async fn changes(
        &self,
        found: Vec<Found>,
        tree: &Tree,
        before: &Tree,
        max: usize,
    ) -> Result<Vec<Run>> {
        self.patiently(|| self.changes_once(&found, tree, before, max)).await
    }

    async fn changes_once(
        &self,
        found: &[Found],
        tree: &Tree,
        before: &Tree,
        max: usize,
    ) -> Result<Vec<Run>> {
        let mut runs = Runs::new(max);
        for (range, piece) in found {
            let full = match piece {
                // What read as zeros before still does.
                Some(Piece::Zero) => self.push_mapped(&mut runs, range, before, |_| true).await?,
                Some(_) => runs.push(range.end - range.start, true),
                None => self.push_differences(&mut runs, range, tree, before).await?,
            };
            if full {
                break;
            }
        }
        Ok(runs.cut())
    }

    /// Adds these blocks, and whether the tree maps them to a place that counts. Returns true if there is no
    /// room for more.
    async fn push_mapped(
        &self,
        runs: &mut Runs,
        range: &Range<u64>,
        tree: &Tree,
        counts: impl Fn(&Mapped) -> bool,
    ) -> Result<bool> {
        let (mut at, mut walk) = (range.start, tree.walk(self.pages(), self.page_cache(), range.clone()));
        while let Some(extent) = walk.next().await? {
            let is = extent.at.as_ref().is_some_and(&counts);
            if runs.push(extent.block - at, false) || runs.push(extent.count, is) {
                return Ok(true);
            }
            at = extent.end();
        }
        Ok(runs.push(range.end - at, false))
    }

    /// Adds these blocks, and whether the trees differ there. Returns true if there is no room for more.
    async fn push_differences(
        &self,
        runs: &mut Runs,
        range: &Range<u64>,
        tree: &Tree,
        before: &Tree,
    ) -> Result<bool> {
        let mut at = range.start;
        let mut walk = tree.differences(before, self.pages(), self.page_cache(), range.clone());
        while let Some(differs) = walk.next().await? {
            if runs.push(differs.start - at, false) || runs.push(differs.end - differs.start, true) {
                return Ok(true);
            }
            at = differs.end;
        }
        Ok(runs.push(range.end - at, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_blocks_are_told_in_bytes() {
        let runs = in_bytes(vec![(2, true), (3, false)], 2 * BLOCK + 100, 3 * BLOCK);
        assert_eq!(runs, [(2 * BLOCK - 100, true), (BLOCK + 100, false)]);
    }
}

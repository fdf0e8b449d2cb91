//! What of an owned volume is data, and what has changed since a snapshot: from the overlay and the maps, part by part.
//!
//! What was written lately is looked through under the tip's lock, for which writes wait. So parts are of moments one after
//! another.

use std::ops::Range;
use std::sync::Arc;

use super::active::Session;
use crate::base::size::BLOCK;
use crate::base::{Error, Kind, Name, Result};
use crate::map::Tree;
use crate::volume::head::Stop;
use crate::volume::read::{Found, Run, Since, blocks_of};

/// Blocks that are looked up at a time.
const LOOKED_THROUGH: u64 = 16_384;

impl Session {
    /// As `View::allocation`.
    pub async fn allocation(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, Stop> {
        let of = |found, tree, max| async move { self.context.view.allocation(found, &tree, max).await };
        self.in_parts(blocks_of(offset, len), max, of).await
    }

    /// A snapshot, by what it shows; it gets its map first, if it has none yet.
    pub async fn since(self: &Arc<Self>, snapshot: &Name) -> Result<Since, Stop> {
        self.build_snapshot(snapshot).await?;
        let since = Since::of(&self.tip.lock().tables, snapshot);
        since.ok_or_else(|| Stop::Failed(super::no_snapshot(&self.context.title(), snapshot)))
    }

    /// As `View::changes`.
    pub async fn changed_since(
        &self,
        since: &Since,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Run>, Stop> {
        let of = |found, tree, max| async move {
            let changes = self.context.view.changes(found, &tree, &since.tree, max).await;
            let gone = || !since.is_in(&self.tip.lock().tables);
            changes.map_err(|e| if e.is(Kind::Corrupt) && gone() { since.removed() } else { e })
        };
        self.in_parts(blocks_of(offset, len), max, of).await
    }

    async fn in_parts<F>(
        &self,
        mut blocks: Range<u64>,
        max: usize,
        of: impl Fn(Vec<Found>, Tree, usize) -> F,
    ) -> Result<Vec<Run>, Stop>
    where
        F: Future<Output = Result<Vec<Run>, Error>>,
    {
        let mut all = Vec::<Run>::new();
        while !blocks.is_empty() && all.len() < max {
            let part = blocks.start..blocks.end.min(blocks.start + LOOKED_THROUGH);
            for (count, is) in self.part(part, max - all.len(), &of).await? {
                blocks.start += count;
                match all.last_mut() {
                    Some((before, same)) if *same == is => *before += count,
                    _ => all.push((count, is)),
                }
            }
        }
        Ok(all)
    }

    async fn part<F>(
        &self,
        blocks: Range<u64>,
        max: usize,
        of: &impl Fn(Vec<Found>, Tree, usize) -> F,
    ) -> Result<Vec<Run>, Stop>
    where
        F: Future<Output = Result<Vec<Run>, Error>>,
    {
        loop {
            let recorded = self.chunk_table.lock().root;
            let (found, tree) = self.lookup(blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK)?;
            match of(found, tree, max).await {
                Ok(runs) => return Ok(runs),
                // What was looked up was collected meanwhile: it is elsewhere by now.
                Err(e) if e.is(Kind::Corrupt) && self.chunk_table.lock().root != recorded => {}
                Err(e) => return Err(self.explain_absence(e).await),
            }
        }
    }
}

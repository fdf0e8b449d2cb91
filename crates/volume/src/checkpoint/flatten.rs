//! Flattening a clone: what its tip takes from ancestors is written again as its own, until nothing of theirs is left, and
//! the parent can be let go (protocol.md §4.7, model `flatten`).
//!
//! It goes on beside reads and writes. A piece is read and written under a lock on its blocks, as a write of part of a block
//! is, and what was written meanwhile is left as it is. Cut off anywhere, the next one goes on: it looks for what is left.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;

use super::checkpointer::AGAIN;
use crate::head::Stop;
use crate::read::passes;
use crate::session::{Session, write_again};
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::Instant;
use windlass_base::{Error, Kind, Result};
use windlass_map::{Step, Tree};

/// Blocks that are written again at once; those who write to them meanwhile wait.
const PIECE: u64 = 64;
/// Pieces under way at the same time.
const AT_ONCE: usize = 4;
/// Pieces that one look at the map finds.
const BATCH: usize = 64;
/// Steps of a walk before others get their turn: its pages may all be in memory.
const STEPS_AT_ONCE: u64 = 1024;
/// Largest number of times that the map is gone through. Once is enough unless the volume is rolled back meanwhile.
const PASSES: usize = 4;

/// Rate and progress of flattening.
pub struct Flattening<'a> {
    /// Bytes a second, at most.
    pub rate: Option<u64>,
    /// Function that is told how many bytes of the volume were gone through.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// Turns for bytes, given at a rate.
struct Turns {
    rate: Option<u64>,
    next: Mutex<Instant>,
}

impl Turns {
    /// Returns when the turn of so many bytes comes; `None`: there is no rate.
    fn turn(&self, now: Instant, bytes: u64) -> Option<Instant> {
        let took = Duration::from_secs_f64(bytes as f64 / self.rate? as f64);
        let mut next = self.next.lock();
        let turn = (*next).max(now);
        *next = turn + took;
        Some(turn)
    }
}

impl Session {
    /// Writes again what the tip takes from ancestors, until a recorded map of it has nothing of theirs. Returns how many bytes
    /// were written. Waits through an outage.
    pub async fn flatten(self: &Arc<Self>, how: &Flattening<'_>) -> Result<u64, Stop> {
        let mut written = 0;
        let turns = Turns { rate: how.rate, next: Mutex::default() };
        for _ in 0..PASSES {
            self.checkpoint_surely(&[]).await?;
            if self.set_flat().await? {
                return Ok(written);
            }
            written += self.write_foreign(&turns, how).await?;
        }
        let why = "it was rolled back again and again meanwhile: try again";
        Err(Error::new(Kind::Unavailable, why).into())
    }

    /// Writes again all that the map shows of ancestors, from its beginning to its end.
    async fn write_foreign(self: &Arc<Self>, turns: &Turns, how: &Flattening<'_>) -> Result<u64, Stop> {
        let (mut from, mut written) = (0, 0);
        loop {
            let pieces = self.next_foreign(from).await?;
            let Some(end) = pieces.last().map(|piece| piece.end) else { return Ok(written) };
            let each = stream::iter(pieces).map(|blocks| async move {
                let (rt, bytes) = (self.context.rt(), (blocks.end - blocks.start) * BLOCK);
                // Before the blocks are locked: nobody waits for a turn of ours.
                if let Some(turn) = turns.turn(rt.now(), bytes) {
                    self.or_end(rt.sleep(turn.since(rt.now()))).await?;
                }
                write_again(self, blocks).await
            });
            written += each.buffer_unordered(AT_ONCE).try_fold(0, async |sum, bytes| Ok(sum + bytes)).await?;
            from = end;
            (how.progress)(from * BLOCK);
        }
    }

    /// Returns the next blocks of the tip's map that lie with ancestors; none: there are no more.
    async fn next_foreign(self: &Arc<Self>, from: u64) -> Result<Vec<Range<u64>>, Stop> {
        loop {
            let recorded = self.chunk_table.lock().root;
            let tree = {
                let tip = self.tip.lock();
                if let Some(stop) = &tip.closed {
                    return Err(stop.share());
                }
                tip.tables.tip().tree
            };
            match self.foreign_in(&tree, from).await {
                Ok(foreign) => return Ok(foreign.blocks),
                // What was walked was collected meanwhile: there is a newer map.
                Err(e) if e.is(Kind::Corrupt) && self.chunk_table.lock().root != recorded => {}
                Err(e) if passes(&e) => self.or_end(self.context.rt().sleep(AGAIN)).await?,
                Err(e) => return Err(self.end_by_absence(e).await),
            }
        }
    }

    async fn foreign_in(&self, tree: &Tree, from: u64) -> Result<Foreign> {
        let (view, mut foreign, mut steps) = (&self.context.view, Foreign::default(), 0);
        let mut walk = tree.walk(view.pages(), view.page_cache(), from..u64::MAX);
        while let Some(step) = walk.step().await? {
            steps += 1;
            if steps % STEPS_AT_ONCE == 0 {
                self.context.rt().give_way().await;
            }
            let theirs = |volume: u16| volume != self.context.index;
            match step {
                Step::Page { frame, .. } => foreign.pages |= theirs(frame.volume),
                Step::Mapped(extent) if extent.at.is_some_and(|at| theirs(at.frame.volume)) => {
                    if !foreign.add(extent.block..extent.block + extent.count) {
                        break;
                    }
                }
                Step::Mapped(_) => {}
            }
        }
        Ok(foreign)
    }

    /// Notes in the head that the tip stands on its own. Returns false where it does not, or is another by now.
    async fn set_flat(self: &Arc<Self>) -> Result<bool, Stop> {
        let tip = loop {
            let head = self.head.lock().clone();
            if head.base.as_ref().is_none_or(|base| base.flat.is_some()) {
                return Ok(true);
            }
            // A recorded one: what only this host's journal holds, its loss would take back.
            let walked = async {
                let tables = self.context.view.tables(&head).await?;
                let foreign = self.foreign_in(&tables.tip().tree, 0).await?;
                Ok::<_, Error>((tables.tip, foreign))
            };
            match walked.await {
                Ok((tip, foreign)) if foreign.is_none() => break tip,
                Ok(_) => return Ok(false),
                Err(e) if e.is(Kind::Corrupt) && self.head.lock().checkpoint != head.checkpoint => {}
                Err(e) if passes(&e) => self.or_end(self.context.rt().sleep(AGAIN)).await?,
                Err(e) => return Err(self.end_by_absence(e).await),
            }
        };
        // No rollback from here on; one before this may have begun a state that stands on ancestors again.
        let _one = self.altering.lock().await;
        if !self.tip.lock().tables.all_descend_from(tip) {
            return Ok(false);
        }
        let epoch = self.epoch;
        self.change(move |head| head.set_flat(epoch, tip)).await.map(|_| true)
    }
}

/// Parts of ancestors that a walk met.
#[derive(Default)]
struct Foreign {
    pages: bool,
    /// Pieces of blocks that lie with ancestors, `BATCH` at most.
    blocks: Vec<Range<u64>>,
}

impl Foreign {
    fn is_none(&self) -> bool {
        !self.pages && self.blocks.is_empty()
    }

    /// Adds blocks. Returns false where there is no room for more.
    fn add(&mut self, blocks: Range<u64>) -> bool {
        let full = self.blocks.len() == BATCH;
        match self.blocks.last_mut() {
            Some(last) if last.end == blocks.start && blocks.end - last.start <= PIECE => {
                last.end = blocks.end
            }
            _ if full => return false,
            _ => self.blocks.push(blocks),
        }
        true
    }
}

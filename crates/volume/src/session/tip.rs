//! The live end of an owned volume: what was written since the checkpoint, and the tree below it. One lock, never held
//! across I/O: it decides the order of writes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pending::Pending;
use super::takeover::Adopted;
use crate::head::Stop;
use crate::read::Found;
use crate::read::{Frozen, Overlay, Piece};
use crate::space::Tables;
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::rt::Instant;
use windlass_base::{Held, Lsn, Result};
use windlass_log::{FrameRef, Placed, Prefix, Stored};
use windlass_map::Tree;
use windlass_pool::ChunkKind;

/// Memory of a stored chunk's entries, which is counted among all such memory of its pool.
#[derive(Debug)]
pub struct Kept {
    held: Held,
    all: Arc<AtomicU64>,
}

impl Kept {
    pub fn new(held: Held, all: &Arc<AtomicU64>) -> Kept {
        all.fetch_add(held.bytes(), Ordering::Relaxed);
        Kept { held, all: all.clone() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.all.fetch_sub(self.held.bytes(), Ordering::Relaxed);
    }
}

/// Number of mapped blocks, as it was counted at one time.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub blocks: u64,
    /// Number of blocks of data that the tip had taken in by then, raised by those that turned out to
    /// overwrite mapped ones since (`overwrote`).
    pub written: u64,
    pub lsn: Lsn,
}

#[derive(Debug)]
pub struct Tip {
    /// Number of the newest record that was taken in.
    pub lsn: Lsn,
    pub overlay: Overlay,
    /// States of the volume: the tip and all snapshots, also those that no checkpoint has built yet.
    pub tables: Tables,
    pub pending: Pending,
    /// The last data chunk that was cut.
    pub last_cut: Prefix,
    /// Is true while the gate is closed, so that writes wait.
    pub barrier: bool,
    pub closed: Option<Stop>,
    pub last_write: Instant,
    /// Number of blocks of data that were taken in.
    pub written: u64,
    pub counted: Option<Counted>,
    /// Number of rollbacks so far: a count of blocks from before one says nothing.
    pub rollbacks: u64,
    /// Chunks that are cut and not yet in the stored prefix: last lsn, age, payload.
    cut: VecDeque<(Lsn, Instant, u64)>,
    /// Memory of the entries of stored chunks, by the chunk's last lsn: held until they are merged.
    kept: BTreeMap<Lsn, Kept>,
    kept_bytes: u64,
}

impl Tip {
    /// Makes the tip at the start of an epoch, `start` being the log's end.
    pub fn new(tables: Tables, start: Prefix, now: Instant) -> Tip {
        Tip {
            lsn: start.lsn,
            overlay: Overlay::default(),
            tables,
            pending: Pending::default(),
            last_cut: start,
            barrier: false,
            closed: None,
            last_write: now,
            written: 0,
            counted: None,
            rollbacks: 0,
            cut: VecDeque::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
        }
    }

    /// Returns where these blocks lie now, and the tree for what no layer has.
    pub fn lookup(&self, blocks: Range<u64>) -> (Vec<Found>, Tree) {
        (self.overlay.lookup(blocks), self.tables.tip().tree)
    }

    /// Takes in one more change. The record's lsn must be greater than all before it.
    pub fn take(&mut self, record: Record, held: Option<Held>, now: Instant) -> Result<()> {
        assert!(record.lsn > self.lsn, "lsns grow");
        self.lsn = record.lsn;
        self.last_write = now;
        let (block, count) = record.op.blocks();
        if matches!(record.op, Op::Write { .. }) {
            self.written += count;
        }
        let era = self.tables.tip().era;
        let piece = match &record.op {
            Op::Write { data, .. } => Some(Piece::Memory { data: data.clone(), lsn: record.lsn }),
            Op::Zero { .. } => Some(Piece::Zero),
            Op::Mark(_) => None,
        };
        if let Some(piece) = piece.filter(|_| count > 0) {
            self.overlay.active.insert(block..block + count, piece);
        }
        let mark = match &record.op {
            Op::Mark(mark) => Some(mark.clone()),
            _ => None,
        };
        self.pending.push(record, era, held, now);
        match mark {
            Some(mark) => self.freeze_at(&mark),
            None => Ok(()),
        }
    }

    /// Returns a number of blocks of which no more are mapped; `None`: nobody has counted yet. Blocks that
    /// were overwritten since then count twice.
    pub fn mapped_most(&self) -> Option<u64> {
        self.counted.map(|c| c.blocks + (self.written - c.written))
    }

    /// Notes that so many of the blocks that were taken in last had been mapped before, so that they count
    /// once.
    pub fn overwrote(&mut self, blocks: u64) {
        if let Some(counted) = &mut self.counted {
            counted.written += blocks;
        }
    }

    /// Freezes the overlay at a snapshot's mark, which is the newest record.
    fn freeze_at(&mut self, mark: &Mark) -> Result<()> {
        self.freeze();
        self.tables.mark(mark)
    }

    /// Freezes the active layer, which takes no more writes; the next one begins. A chunk ends here.
    pub fn freeze(&mut self) {
        self.pending.end_here();
        let tip = self.tables.tip();
        // A chunk that was taken from the pending ones may still wait for its number.
        let seq = (self.last_cut.lsn == self.lsn).then_some(self.last_cut.seq);
        let layer = Arc::new(std::mem::take(&mut self.overlay.active));
        let (state, era) = (tip.id, tip.era);
        self.overlay.frozen.push(Frozen { layer, state, era, last: self.lsn, seq });
    }

    /// Notes that a data chunk got its number. `oldest`, `bytes`: of its records.
    pub fn was_cut(&mut self, cut: Prefix, oldest: Instant, bytes: u64) {
        self.last_cut = cut;
        self.cut.push_back((cut.lsn, oldest, bytes));
        for f in self.overlay.frozen.iter_mut().filter(|f| f.last == cut.lsn) {
            f.seq = Some(cut.seq);
        }
    }

    /// Notes that a data chunk is stored, so that these of its blocks are where it says.
    pub fn place(&mut self, stored: &Stored, placed: &[Placed]) {
        self.overlay.place(stored.first.0..stored.last.0 + 1, placed);
    }

    /// Keeps the memory of a stored chunk's entries until they are merged. A session that is over keeps none.
    pub fn keep(&mut self, last: Lsn, kept: Kept) {
        if self.closed.is_none() {
            self.kept_bytes += kept.held.bytes();
            self.kept.insert(last, kept);
        }
    }

    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Takes the memory of all entries up to here, which are merged, out of the tip.
    pub fn give_back(&mut self, upto: Lsn) -> BTreeMap<Lsn, Kept> {
        let left = self.kept.split_off(&upto.next());
        let merged = std::mem::replace(&mut self.kept, left);
        self.kept_bytes -= merged.values().map(|kept| kept.held.bytes()).sum::<u64>();
        merged
    }

    /// Takes all that uses memory out of the tip of a session that is over: clients may hold on to the
    /// session for long.
    pub fn let_go(&mut self) -> impl Send + use<> {
        self.kept_bytes = 0;
        self.cut.clear();
        let (pending, kept) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.kept));
        (std::mem::take(&mut self.overlay), pending, kept)
    }

    /// Notes that the stored prefix reaches up to this record.
    pub fn stored_upto(&mut self, lsn: Lsn) {
        while self.cut.front().is_some_and(|(last, ..)| *last <= lsn) {
            self.cut.pop_front();
        }
    }

    /// Returns the bytes of payload that are not in the pool, and when the oldest part was taken in.
    pub fn unsent(&self) -> (u64, Option<Instant>) {
        let bytes = self.cut.iter().map(|(_, _, bytes)| bytes).sum::<u64>() + self.pending.bytes();
        let oldest = self.cut.front().map(|(_, at, _)| *at).or(self.pending.oldest());
        (bytes, oldest)
    }

    /// Takes in a chunk that an earlier epoch left behind the checkpoint.
    pub fn adopt(&mut self, index: u16, adopted: &Adopted) -> Result<()> {
        let (id, toc) = (adopted.id, &adopted.toc);
        if toc.kind == ChunkKind::Map {
            return Ok(());
        }
        for f in &toc.frames {
            let at = FrameRef { volume: index, epoch: id.epoch, seq: id.seq, offset: f.offset, len: f.len };
            let piece = Piece::Frame { at, index: 0 };
            self.overlay.active.insert(f.block..f.block + u64::from(f.count), piece);
        }
        for &(block, count) in &toc.zeros {
            self.overlay.active.insert(block..block + count, Piece::Zero);
        }
        self.lsn = toc.last;
        self.last_cut = Prefix { seq: id.seq, lsn: toc.last };
        match &toc.mark {
            Some(mark) => self.freeze_at(mark),
            None => Ok(()),
        }
    }
}

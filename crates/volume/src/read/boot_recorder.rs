//! Records the order in which a clone's first boot reads what its ancestors hold.
//!
//! Owns what was read so far, in units of a frame's largest length, each once. What the clone itself has written is none
//! of it, nor what was fetched ahead. Bounded in time, in bytes and in ranges.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::overlay::Piece;
use crate::head::Trace;
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS};
use windlass_base::interval_map::Intervals;
use windlass_base::rt::Instant;
use windlass_base::units::GIB;

/// Time from the first read after which nothing is recorded any more.
const TIME_MAX: Duration = Duration::from_secs(120);
const UNITS_MAX: u64 = GIB / (FRAME_BLOCKS * BLOCK);
const RANGES_MAX: usize = 8_192;
/// Number of newest ranges that a read may go on with: a guest reads several files at a time.
const STREAMS: usize = 16;

/// The recorder of one open volume; at first it records nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BootRecorder(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Is true while it records. Every read looks at this.
    on: AtomicBool,
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// The volume's own index: frames with lower ones are ancestors'.
    own: u16,
    began: Option<Instant>,
    seen: Intervals<()>,
    units: u64,
    /// Ranges of units in the order of their first reads.
    ranges: Vec<Range<u64>>,
}

impl BootRecorder {
    /// Begins to record.
    pub fn begin(&self, own: u16) {
        *self.0.recorded.lock() = Recorded { own, ..Recorded::default() };
        self.0.on.store(true, Ordering::Relaxed);
    }

    /// Ends the recording, and returns what was recorded.
    pub fn end(&self) -> Trace {
        self.0.on.store(false, Ordering::Relaxed);
        Trace::of(&std::mem::take(&mut *self.0.recorded.lock()).ranges)
    }

    /// Records the pieces that a client reads, as far as they are an ancestor's.
    pub(super) fn read(&self, pieces: &[(Range<u64>, Piece)], now: Instant) {
        if !self.0.on.load(Ordering::Relaxed) {
            return;
        }
        let mut recorded = self.0.recorded.lock();
        for (range, piece) in pieces {
            if matches!(piece, Piece::Frame { at, .. } if at.volume < recorded.own) {
                recorded.began.get_or_insert(now);
                recorded.add(range.start / FRAME_BLOCKS..range.end.div_ceil(FRAME_BLOCKS));
            }
        }
        if recorded.is_full() {
            self.0.on.store(false, Ordering::Relaxed);
        }
    }

    /// Tells whether the recorder has recorded all that it will.
    pub fn is_over(&self, now: Instant) -> bool {
        let recorded = self.0.recorded.lock();
        recorded.is_full() || recorded.began.is_some_and(|began| now.since(began) >= TIME_MAX)
    }
}

impl Recorded {
    fn is_full(&self) -> bool {
        self.units >= UNITS_MAX || self.ranges.len() >= RANGES_MAX
    }

    fn add(&mut self, units: Range<u64>) {
        let mut from = units.start;
        let seen: Vec<Range<u64>> = self.seen.overlaps(units.clone()).map(|(range, ())| range).collect();
        for known in seen.into_iter().chain(std::iter::once(units.end..units.end)) {
            if from < known.start {
                self.push(from..known.start);
            }
            from = known.end;
        }
        self.seen.insert(units, ());
    }

    fn push(&mut self, new: Range<u64>) {
        self.units += new.end - new.start;
        let streams = self.ranges.iter_mut().rev().take(STREAMS);
        match streams.into_iter().find(|range| range.end == new.start) {
            Some(range) => range.end = new.end,
            None => self.ranges.push(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq};
    use windlass_log::FrameRef;

    const NOW: Instant = Instant(Duration::ZERO);

    fn frame(volume: u16) -> Piece {
        Piece::Frame { at: FrameRef { volume, epoch: Epoch(1), seq: Seq(1), offset: 0, len: 9 }, index: 0 }
    }

    #[test]
    fn each_part_of_ancestors_is_told_once_in_the_order_of_first_reads() {
        let recorder = BootRecorder::default();
        recorder.read(&[(0..16, frame(0))], NOW);
        assert!(recorder.end().is_empty(), "it was not begun");
        recorder.begin(1);
        for (range, piece) in [
            (160..161, frame(0)),
            (0..16, frame(0)),
            (176..192, frame(0)),
            (320..400, Piece::Zero),
            (480..490, frame(1)),
            (0..64, frame(0)),
        ] {
            recorder.read(&[(range, piece)], NOW);
        }
        assert!(!recorder.is_over(NOW) && recorder.is_over(Instant(TIME_MAX)));
        assert_eq!(recorder.end().ranges(), [160..192, 0..64]);
        recorder.begin(1);
        for i in 0..RANGES_MAX as u64 + 9 {
            recorder.read(&[(i * 32..i * 32 + 1, frame(0))], NOW);
        }
        assert!(recorder.is_over(NOW));
        assert!(recorder.end().ranges().len() > 1_000);
    }
}

//! Two states side by side: what of them may differ, and whether it does.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::handle::{SnapshotView, Volume};
use crate::read::{Run, Since};
use windlass_base::interval_map::Intervals;
use windlass_base::{Budget, Result};

/// Bytes that are read or written at once.
pub const PIECE: u64 = 1 << 20;
/// Pieces under way at the same time, at most: their bytes have a budget.
pub const AT_ONCE: usize = 64;
/// Bytes of ranges that are dealt with in one step.
pub const STEP: u64 = 256 << 20;
/// Runs that are looked up at a time.
const RUNS: usize = 4096;

/// A state that is read.
#[derive(Clone, Debug)]
pub enum Side {
    Snapshot(Arc<SnapshotView>),
    Tip(Arc<Volume>),
}

impl Side {
    pub fn size(&self) -> u64 {
        match self {
            Side::Snapshot(view) => view.size(),
            Side::Tip(volume) => volume.size(),
        }
    }

    /// Reads a range; zeros behind the state's end.
    pub fn read<'f>(&'f self, range: &'f Range<u64>) -> BoxFuture<'f, Result<Bytes>> {
        Box::pin(async move {
            let (start, end) = (range.start, range.end.min(self.size()));
            let here = end.saturating_sub(start);
            let data = match self {
                _ if here == 0 => Bytes::new(),
                Side::Snapshot(view) => view.read(start, here).await?,
                Side::Tip(volume) => volume.read(start, here).await?,
            };
            let len = (range.end - range.start) as usize;
            if data.len() == len {
                return Ok(data);
            }
            let mut all = BytesMut::from(&data[..]);
            all.resize(len, 0);
            Ok(all.freeze())
        })
    }

    /// Returns runs that may differ from that snapshot, or that are data where there is none; as `Volume::changed_since`.
    async fn runs(&self, since: Option<&Since>, offset: u64) -> Result<Vec<Run>> {
        let len = self.size() - offset;
        match (self, since) {
            (Side::Snapshot(view), Some(since)) => view.changed_since(since, offset, len, RUNS).await,
            (Side::Snapshot(view), None) => view.allocation(offset, len, RUNS).await,
            (Side::Tip(volume), Some(since)) => volume.changed_since(since, offset, len, RUNS).await,
            (Side::Tip(volume), None) => volume.allocation(offset, len, RUNS).await,
        }
    }

    /// Returns which parts of a range are data, and which take no space.
    pub fn allocation<'f>(&'f self, range: &'f Range<u64>) -> BoxFuture<'f, Result<Vec<(Range<u64>, bool)>>> {
        Box::pin(async move {
            let (mut at, mut all) = (range.start, Vec::new());
            while at < range.end {
                let len = range.end - at;
                let runs = match self {
                    Side::Snapshot(view) => view.allocation(at, len, RUNS).await?,
                    Side::Tip(volume) => volume.allocation(at, len, RUNS).await?,
                };
                for (len, is_data) in runs {
                    all.push((at..at + len, is_data));
                    at += len;
                }
            }
            Ok(all)
        })
    }

    /// Returns, from `at` on, ranges that may differ from that snapshot (all data, where there is none), and where the look
    /// ended.
    pub fn changed<'f>(
        &'f self,
        since: Option<&'f Since>,
        mut at: u64,
    ) -> BoxFuture<'f, Result<(Vec<Range<u64>>, u64)>> {
        Box::pin(async move {
            let mut changed = Vec::new();
            if at < self.size() {
                for (len, is) in self.runs(since, at).await? {
                    changed.extend(is.then_some(at..at + len));
                    at += len;
                }
            }
            Ok((changed, at))
        })
    }
}

/// Cuts a range into parts of `PIECE` bytes at most, between multiples of that.
pub fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let piece = at..range.end.min((at / PIECE + 1) * PIECE);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Part of two states that is looked through in one step; its ranges are in order.
pub struct Step {
    /// Ranges that may differ on our side, and on the other.
    pub ours: Vec<Range<u64>>,
    pub theirs: Vec<Range<u64>>,
    pub end: u64,
}

/// Looks at both sides from `at` on, as far as one look reaches on both.
pub fn step<'f>(
    ours: (&'f Side, Option<&'f Since>),
    theirs: (&'f Side, Option<&'f Since>),
    at: u64,
) -> BoxFuture<'f, Result<Step>> {
    Box::pin(async move {
        let (our_ranges, our_end) = ours.0.changed(ours.1, at).await?;
        let (their_ranges, their_end) = theirs.0.changed(theirs.1, at).await?;
        let end = match (our_end == at, their_end == at) {
            // One of the two ends before the other.
            (true, _) => their_end,
            (_, true) => our_end,
            _ => our_end.min(their_end),
        };
        let cut = |ranges: Vec<Range<u64>>| {
            ranges.into_iter().map(|range| range.start..range.end.min(end)).filter(|range| !range.is_empty())
        };
        Ok(Step { ours: cut(our_ranges).collect(), theirs: cut(their_ranges).collect(), end })
    })
}

/// Cuts ranges to `STEP` bytes at most. Returns them, and where they end: at `end`, if it is all of them.
pub fn bounded(mut ranges: Vec<Range<u64>>, end: u64) -> (Vec<Range<u64>>, u64) {
    let mut left = STEP;
    for n in 0..ranges.len() {
        let range = &mut ranges[n];
        if range.end - range.start > left {
            range.end = range.start + left;
            let end = range.end;
            ranges.truncate(n + 1);
            return (ranges, end);
        }
        left -= range.end - range.start;
    }
    (ranges, end)
}

/// Returns all ranges of both, each byte once, in order.
pub fn union(some: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all = Intervals::default();
    some.iter().chain(others).for_each(|range| all.insert(range.clone(), ()));
    all.iter().map(|(range, ())| range).collect()
}

/// Returns what lies in the first ranges and not in the others.
pub fn without(some: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Intervals::default();
    some.iter().for_each(|range| left.insert(range.clone(), ()));
    others.iter().for_each(|range| left.clear(range.clone()));
    left.iter().map(|(range, ())| range).collect()
}

/// Counts the bytes of these ranges in blocks that differ, and returns where the first of them begins. `None` for a side:
/// zeros.
pub async fn differing(
    a: &Side,
    b: Option<&Side>,
    ranges: Vec<Range<u64>>,
    memory: &Budget,
) -> Result<(u64, Option<u64>)> {
    let compare = |piece: Range<u64>| async move {
        let _held = memory.take(2 * (piece.end - piece.start)).await;
        let left = a.read(&piece).await?;
        let right = match b {
            Some(b) => b.read(&piece).await?,
            None => Bytes::from(vec![0; left.len()]),
        };
        Ok::<_, windlass_base::Error>(differing_bytes(piece.start, &left, &right))
    };
    let all = stream::iter(ranges.into_iter().flat_map(pieces)).map(compare).buffer_unordered(AT_ONCE);
    let add = async |(sum, first): (u64, Option<u64>), (bytes, at): (u64, Option<u64>)| {
        Ok((sum + bytes, first.into_iter().chain(at).min()))
    };
    all.try_fold((0, None), add).await
}

fn differing_bytes(start: u64, a: &[u8], b: &[u8]) -> (u64, Option<u64>) {
    const BLOCK: usize = windlass_base::format_limits::BLOCK as usize;
    let (mut bytes, mut first) = (0, None);
    if a != b {
        for (n, (a, b)) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate().filter(|(_, (a, b))| a != b) {
            debug_assert_eq!(a.len(), b.len(), "both sides gave what was asked for");
            bytes += a.len() as u64;
            first.get_or_insert(start + (n * BLOCK) as u64);
        }
    }
    (bytes, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_joined_and_subtracted() {
        let cut: Vec<_> = pieces(PIECE - 5..2 * PIECE + 7).collect();
        assert_eq!(cut, [PIECE - 5..PIECE, PIECE..2 * PIECE, 2 * PIECE..2 * PIECE + 7]);
        assert_eq!(pieces(7..7).count(), 0);
        assert_eq!(bounded(vec![0..5, 9..STEP], 2 * STEP), (vec![0..5, 9..STEP], 2 * STEP));
        assert_eq!(
            bounded(vec![0..5, 9..3 * STEP, 4 * STEP..5 * STEP], 6 * STEP),
            (vec![0..5, 9..STEP + 4], STEP + 4)
        );
        assert_eq!(union(&[0..5, 10..20], &[5..7, 15..30]), [0..7, 10..30]);
        assert_eq!(without(&[0..5, 10..20], &[3..12, 19..40]), [0..3, 12..19]);
        let (a, mut b) = (vec![1; 10_000], vec![1; 10_000]);
        assert_eq!(differing_bytes(100, &a, &b), (0, None));
        (b[4096], b[9_999]) = (2, 2);
        assert_eq!(differing_bytes(100, &a, &b), (4096 + 10_000 - 8192, Some(100 + 4096)));
    }
}

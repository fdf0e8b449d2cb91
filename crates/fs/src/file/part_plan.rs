//! In which parts an object is stored: what is new is sent, what the source has is copied server-side.
//!
//! S3's rules: at most 10,000 parts, none but the last below 5 MiB or above 5 GiB. A new file's parts lie on a grid
//! that doesn't depend on its length, so that they can leave before its end is known.

use std::ops::Range;

use crate::object::ByteRanges;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Length of S3's smallest part but for the last.
const PART_MIN: u64 = 5 * MIB;
const PARTS_MAX: usize = 10_000;
/// Most bytes that one request copies: S3 allows 5 GiB, but shorter ones go side by side.
const COPY_MAX: u64 = GIB;
/// Offsets at which the grid's parts become larger, each with the length from there on. 5 TiB are fewer than
/// 10,000 parts.
const GRID: [(u64, u64); 4] =
    [(0, 8 * MIB), (8 * GIB, 32 * MIB), (40 * GIB, 128 * MIB), (168 * GIB, 768 * MIB)];

/// One part: its bytes of the file, and whether the source has them all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    pub range: Range<u64>,
    pub copied: bool,
}

impl Piece {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// Returns the grid's part that begins at `start`, which is one of the grid's lines.
pub fn on_grid(start: u64) -> Range<u64> {
    let (_, len) = GRID.iter().rev().find(|(from, _)| *from <= start).expect("the first is 0");
    start..start + len
}

/// Plans the parts of a file of `size` bytes, of which those below `base_len` and not in `dirty` can be
/// copied.
pub fn plan(size: u64, base_len: u64, dirty: &ByteRanges) -> Vec<Piece> {
    let mut least = PART_MIN;
    loop {
        let plan = split(&merged(size, base_len, dirty, least), size);
        if plan.len() <= PARTS_MAX {
            return plan;
        }
        least *= 2;
    }
}

fn runs(size: u64, base_len: u64, dirty: &ByteRanges) -> Vec<Piece> {
    let base_len = base_len.min(size);
    let mut runs: Vec<Piece> =
        dirty.split(0..base_len).into_iter().map(|(range, dirty)| Piece { range, copied: !dirty }).collect();
    if base_len < size {
        runs.push(Piece { range: base_len..size, copied: false });
    }
    runs
}

/// Returns pieces to send and pieces to copy in turn, none below `least` but the last. What is too short to
/// be copied is sent with what is before or behind it.
fn merged(size: u64, base_len: u64, dirty: &ByteRanges, least: u64) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    for run in runs(size, base_len, dirty) {
        let end = run.range.end;
        if let Some(before) = out.last_mut().filter(|p| !p.copied) {
            if !run.copied {
                before.range.end = end;
                continue;
            }
            if before.len() < least {
                before.range.end = end.min(before.range.start + least);
            }
        }
        let start = out.last().map_or(0, |p| p.range.end);
        if start >= end {
            continue;
        }
        let copied = run.copied && (end - start >= least || end == size && !out.is_empty());
        match out.last_mut().filter(|p| p.copied == copied) {
            Some(before) => before.range.end = end,
            None => out.push(Piece { range: start..end, copied }),
        }
    }
    out
}

fn split(pieces: &[Piece], size: u64) -> Vec<Piece> {
    let mut out = Vec::new();
    for piece in pieces {
        let Range { mut start, end } = piece.range;
        if piece.copied {
            let count = (end - start).div_ceil(COPY_MAX);
            let len = (end - start).div_ceil(count).next_multiple_of(MIB);
            while start < end {
                let to = end.min(start + len);
                // A copy's remainder is never too short for a part of its own.
                let to = if end - to < PART_MIN { end } else { to };
                out.push(Piece { range: start..to, copied: true });
                start = to;
            }
            continue;
        }
        while start < end {
            let len = if piece.range.start == 0 { on_grid(start).end - start } else { on_grid(0).end };
            let to = end.min(start + len);
            // Only the file's last part may be short.
            let to = if end < size && end - to < PART_MIN { end } else { to };
            out.push(Piece { range: start..to, copied: false });
            start = to;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(plan: &[Piece]) -> Vec<(u64, u64, bool)> {
        plan.iter().map(|p| (p.range.start / MIB, p.range.end / MIB, p.copied)).collect()
    }

    /// Promise: A change of a large file sends what changed.
    #[test]
    fn edits_and_appends_cost_what_they_change() {
        let edit = |at: u64, len: u64| {
            let mut dirty = ByteRanges::default();
            dirty.insert(at..at + len);
            dirty
        };
        assert_eq!(
            shown(&plan(GIB, GIB, &edit(500 * MIB, 4096))),
            [(0, 500, true), (500, 505, false), (505, 1024, true)]
        );
        assert_eq!(shown(&plan(GIB, GIB, &edit(0, 4096))), [(0, 5, false), (5, 1024, true)]);
        assert_eq!(shown(&plan(GIB, GIB, &edit(GIB - 4096, 4096))), [(0, 1023, true), (1023, 1024, false)]);
        assert_eq!(
            shown(&plan(GIB + MIB, GIB, &ByteRanges::default())),
            [(0, 1024, true), (1024, 1025, false)]
        );
        assert_eq!(shown(&plan(20 * MIB, GIB, &ByteRanges::default())), [(0, 20, true)]);
        assert_eq!(
            shown(&plan(20 * MIB, 0, &edit(0, 20 * MIB))),
            [(0, 8, false), (8, 16, false), (16, 20, false)]
        );
    }

    #[test]
    fn the_grid_reaches_5_tib() {
        let (mut at, mut parts) = (0, 0);
        while at < 5 << 40 {
            at = on_grid(at).end;
            parts += 1;
        }
        assert!(parts <= PARTS_MAX, "{parts}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        #[test]
        fn every_plan_is_a_valid_upload(
            size in 17u64..3000, base in 0u64..3000,
            edits in proptest::collection::vec((0u64..3000, 1u64..50, 0u64..3), 0..12)
        ) {
            let (size, base) = (size * MIB - 77, base * MIB + 5);
            let base_len = base.min(size);
            let mut dirty = ByteRanges::default();
            for (at, len, unit) in edits {
                let unit = [1, 4096, MIB][unit as usize];
                dirty.insert((at * MIB + at).min(base_len)..(at * MIB + at + len * unit).min(base_len));
            }
            let plan = plan(size, base_len, &dirty);
            prop_assert!(plan.len() <= PARTS_MAX);
            let mut at = 0;
            for (i, piece) in plan.iter().enumerate() {
                prop_assert_eq!(piece.range.start, at);
                at = piece.range.end;
                let last = i + 1 == plan.len();
                prop_assert!(piece.len() > 0 && (last || piece.len() >= PART_MIN) && piece.len() <= 5 * GIB, "{:?}", plan);
                if piece.copied {
                    prop_assert!(piece.range.end <= base_len && dirty.within(piece.range.clone()).next().is_none(), "{:?}", plan);
                }
            }
            prop_assert_eq!(at, size);
            // What is sent beyond the changes is bounded by the smallest part around each.
            let sent: u64 = plan.iter().filter(|p| !p.copied).map(Piece::len).sum();
            let changed: u64 = runs(size, base_len, &dirty).iter().filter(|p| !p.copied).map(Piece::len).sum();
            let edits = runs(size, base_len, &dirty).len() as u64;
            prop_assert!(sent <= changed + edits * 2 * PART_MIN, "{sent} for {changed}: {:?}", plan);
        }
    }
}

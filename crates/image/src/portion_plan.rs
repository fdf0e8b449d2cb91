//! Where an image has data and where none: runs in order, put onto a grid, cut into portions that are read apart.
//!
//! Pure. A portion lies inside one aligned `PORTION` of the image, but for a single run without data, which may span many.

use std::collections::VecDeque;

/// Classes of a range of an image, as far as its map tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Data,
    /// The range reads as zeros.
    Zero,
    /// The range is as it was in the state that an increment is counted from.
    Unchanged,
}

/// A run of bytes of one class, side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub offset: u64,
    pub len: u64,
    pub class: Class,
}

/// Most bytes of a portion that has data. A portion is read, summed and compressed as one.
pub const PORTION: u64 = 2 << 20;
/// Most bytes of a portion without data, so that several threads can sum a large hole.
const SPAN_MAX: u64 = 1 << 30;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Portion {
    pub offset: u64,
    pub len: u64,
    pub runs: Vec<Run>,
}

/// A grid that runs are put onto: a unit in which classes meet becomes data.
#[derive(Debug)]
pub struct Grid {
    unit: u64,
    at: u64,
    pending: Option<Run>,
}

impl Grid {
    pub fn new(unit: u64) -> Grid {
        Grid { unit, at: 0, pending: None }
    }

    /// Takes the next `len` bytes; `each` gets the runs that are certain by now.
    pub fn push(&mut self, mut len: u64, class: Class, mut each: impl FnMut(Run)) {
        while len > 0 {
            let into_unit = self.at % self.unit;
            let n = if into_unit == 0 { len } else { len.min(self.unit - into_unit) };
            match &mut self.pending {
                Some(run) if run.class == class || (into_unit > 0 && run.class == Class::Data) => {
                    run.len += n;
                }
                Some(run) if into_unit > 0 => {
                    let unit_start = self.at - into_unit;
                    if unit_start > run.offset {
                        each(Run { len: unit_start - run.offset, ..*run });
                    }
                    *run = Run { offset: unit_start, len: into_unit + n, class: Class::Data };
                }
                pending => {
                    let before = pending.replace(Run { offset: self.at, len: n, class });
                    before.into_iter().for_each(&mut each);
                }
            }
            self.at += n;
            len -= n;
        }
    }

    /// Returns the last run.
    pub fn finish(&mut self) -> Option<Run> {
        self.pending.take()
    }
}

/// Collects runs and cuts them into portions.
#[derive(Debug)]
pub struct Cutter {
    size: u64,
    open: Portion,
    pub ready: VecDeque<Portion>,
}

impl Cutter {
    pub fn new(size: u64) -> Cutter {
        Cutter { size, open: Portion::default(), ready: VecDeque::new() }
    }

    pub fn push(&mut self, run: Run) {
        let (mut at, end) = (run.offset, run.offset + run.len);
        while at < end {
            let whole = (end - at).min(SPAN_MAX - at % SPAN_MAX) / PORTION * PORTION;
            let spans = at.is_multiple_of(PORTION) && whole > 0 && run.class != Class::Data;
            let len = if spans { whole } else { (end - at).min(PORTION - at % PORTION) };
            self.add(Run { offset: at, len, class: run.class });
            at += len;
        }
    }

    fn add(&mut self, run: Run) {
        if self.open.runs.is_empty() {
            self.open.offset = run.offset;
        }
        self.open.len += run.len;
        self.open.runs.push(run);
        let end = run.offset + run.len;
        if end.is_multiple_of(PORTION) || end == self.size {
            self.ready.push_back(std::mem::take(&mut self.open));
        }
    }
}

/// Joins two maps of one range into one, as far as both reach.
///
/// `dirty`: what changed since the state that an increment is counted from; `data`: what is no hole.
pub fn changed(dirty: &[(u64, bool)], data: &[(u64, bool)]) -> Vec<(u64, Class)> {
    let mut out: Vec<(u64, Class)> = Vec::new();
    let (mut dirty, mut data) = (dirty.iter().copied(), data.iter().copied());
    let (mut left, mut right) = (dirty.next(), data.next());
    while let (Some((dirty_len, is_dirty)), Some((data_len, is_data))) = (left, right) {
        let len = dirty_len.min(data_len);
        let class = match (is_dirty, is_data) {
            (false, _) => Class::Unchanged,
            (true, true) => Class::Data,
            (true, false) => Class::Zero,
        };
        match out.last_mut() {
            Some((before, last)) if *last == class => *before += len,
            _ if len > 0 => out.push((len, class)),
            _ => {}
        }
        left = Some((dirty_len - len, is_dirty)).filter(|(rest, _)| *rest > 0).or_else(|| dirty.next());
        right = Some((data_len - len, is_data)).filter(|(rest, _)| *rest > 0).or_else(|| data.next());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn on_grid(unit: u64, runs: &[(u64, Class)]) -> Vec<Run> {
        let (mut grid, mut out) = (Grid::new(unit), Vec::new());
        for (len, class) in runs {
            grid.push(*len, *class, |run| out.push(run));
        }
        out.extend(grid.finish());
        out
    }

    fn run(offset: u64, len: u64, class: Class) -> Run {
        Run { offset, len, class }
    }

    #[test]
    fn units_in_which_classes_meet_are_data() {
        use Class::{Data, Unchanged, Zero};
        let unit = 64 * KIB;
        assert_eq!(on_grid(unit, &[(unit, Zero), (3 * unit, Zero)]), [run(0, 4 * unit, Zero)]);
        assert_eq!(
            on_grid(unit, &[(unit + 512, Zero), (unit, Unchanged), (unit, Unchanged)]),
            [run(0, unit, Zero), run(unit, unit, Data), run(2 * unit, unit + 512, Unchanged)]
        );
        // Three in one unit, the last of which goes on.
        assert_eq!(
            on_grid(unit, &[(KIB, Zero), (KIB, Unchanged), (3 * unit, Zero)]),
            [run(0, unit, Data), run(unit, 2 * unit + 2 * KIB, Zero)]
        );
        // Data is followed by what only begins inside its unit, and next to it.
        assert_eq!(
            on_grid(unit, &[(unit + KIB, Data), (unit, Zero), (2 * unit, Zero)]),
            [run(0, 2 * unit, Data), run(2 * unit, 2 * unit + KIB, Zero)]
        );
        assert_eq!(on_grid(512, &[(512, Data), (512, Zero)]), [run(0, 512, Data), run(512, 512, Zero)]);
    }

    #[test]
    fn random_runs_on_a_grid_cover_all_and_lose_no_data() {
        use Class::{Data, Unchanged, Zero};
        let mut seed = 7_u64;
        let mut draw = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..300 {
            let runs: Vec<(u64, Class)> = (0..draw(12) + 1)
                .map(|_| (draw(40) + 1, [Data, Zero, Unchanged][draw(3) as usize]))
                .collect();
            let plain: Vec<Class> = runs.iter().flat_map(|(n, c)| vec![*c; *n as usize]).collect();
            let seen: Vec<Class> =
                on_grid(8, &runs).iter().flat_map(|r| vec![r.class; r.len as usize]).collect();
            assert_eq!(seen.len(), plain.len());
            for (seen, plain) in seen.chunks(8).zip(plain.chunks(8)) {
                let same = plain.iter().all(|c| *c == plain[0]);
                let wanted = if same { plain[0] } else { Data };
                assert!(seen.iter().all(|c| *c == wanted), "{plain:?} became {seen:?}");
            }
        }
    }

    #[test]
    fn portions_keep_to_their_size_unless_they_hold_nothing() {
        let size = 5 * SPAN_MAX / 2 + 512;
        let mut cutter = Cutter::new(size);
        cutter.push(run(0, PORTION + 4096, Class::Data));
        cutter.push(run(PORTION + 4096, 2 * SPAN_MAX, Class::Zero));
        cutter.push(run(PORTION + 4096 + 2 * SPAN_MAX, size - PORTION - 4096 - 2 * SPAN_MAX, Class::Data));
        let all: Vec<Portion> = cutter.ready.into_iter().collect();
        let mut at = 0;
        for portion in &all {
            assert_eq!(portion.offset, at);
            assert_eq!(portion.len, portion.runs.iter().map(|r| r.len).sum::<u64>());
            let one = portion.offset / PORTION == (portion.offset + portion.len - 1) / PORTION;
            assert!(one || (portion.runs.len() == 1 && portion.runs[0].class == Class::Zero));
            assert!(portion.len <= SPAN_MAX);
            at += portion.len;
        }
        assert_eq!(at, size);
        // All of the first span's holes, then the next one's, and no more pieces than that.
        let spans: Vec<u64> = all.iter().filter(|p| p.len > PORTION).map(|p| p.len).collect();
        assert_eq!(spans, [SPAN_MAX - 2 * PORTION, SPAN_MAX]);
    }

    #[test]
    fn two_maps_become_one() {
        use Class::{Data, Unchanged, Zero};
        let dirty = [(10, false), (10, true), (5, true), (5, false)];
        let data = [(15, true), (7, false), (100, true)];
        let seen = changed(&dirty, &data);
        assert_eq!(seen, [(10, Unchanged), (5, Data), (7, Zero), (3, Data), (5, Unchanged)]);
        assert_eq!(changed(&dirty[..1], &data), [(10, Unchanged)]);
        assert_eq!(changed(&[], &data), []);
    }
}

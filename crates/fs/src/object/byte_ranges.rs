//! A set of byte ranges: which bytes of a file are staged here.

use std::ops::Range;

use windlass_base::interval_map::Intervals;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteRanges(Intervals<()>);

impl ByteRanges {
    pub fn insert(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.0.insert(range, ());
        }
    }

    /// Forgets everything from `at` on.
    pub fn cut(&mut self, at: u64) {
        self.0.clear(at..u64::MAX);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the parts of the range that are in the set.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let some = (!range.is_empty()).then(|| self.0.overlaps(range));
        some.into_iter().flatten().map(|(inside, ())| inside)
    }

    /// Tells whether every byte of the range is in the set.
    pub fn covers(&self, range: Range<u64>) -> bool {
        self.split(range).iter().all(|(_, inside)| *inside)
    }

    /// Splits the range into pieces, in order, each wholly inside (`true`) or outside (`false`) of the set.
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let (mut out, mut at) = (Vec::new(), range.start);
        for inside in self.within(range.clone()) {
            if inside.start > at {
                out.push((at..inside.start, false));
            }
            at = inside.end;
            out.push((inside, true));
        }
        if at < range.end {
            out.push((at..range.end, false));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(ops in proptest::collection::vec((0u64..64, 0u64..20, 0u8..8), 0..40)) {
            let (mut set, mut bits) = (ByteRanges::default(), [false; 96]);
            for (at, len, what) in ops {
                if what == 0 {
                    set.cut(at);
                    bits[at as usize..].fill(false);
                } else {
                    set.insert(at..at + len);
                    bits[at as usize..(at + len) as usize].fill(true);
                }
                let mut seen = [false; 96];
                let mut end = 3;
                for (piece, inside) in set.split(3..90) {
                    prop_assert_eq!(piece.start, end);
                    end = piece.end;
                    seen[piece.start as usize..piece.end as usize].fill(inside);
                }
                prop_assert_eq!(end, 90);
                prop_assert_eq!(&seen[3..90], &bits[3..90]);
                prop_assert_eq!(set.within(3..90).next().is_some(), bits[3..90].contains(&true));
                prop_assert_eq!(set.covers(9..12), !bits[9..12].contains(&false));
                prop_assert!(set.within(9..9).next().is_none() && set.covers(9..9));
            }
        }
    }
}

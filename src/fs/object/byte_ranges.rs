//! A set of byte ranges: which bytes of a file are staged here.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, not touching, none empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteRanges(BTreeMap<u64, u64>);

impl ByteRanges {
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let touching = self.0.range(..=end).rev().take_while(|(_, e)| **e >= start).map(|(s, e)| (*s, *e));
        let touching: Vec<_> = touching.collect();
        for (s, e) in touching {
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    /// Forgets everything from `at` on.
    pub fn cut(&mut self, at: u64) {
        self.0.split_off(&at);
        if let Some((_, end)) = self.0.iter_mut().next_back() {
            *end = (*end).min(at);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.split(range.clone()).iter().any(|(_, inside)| *inside)
    }

    /// The range in pieces, each wholly inside or outside of the set.
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut out = Vec::new();
        let mut at = range.start;
        let first = self.0.range(..=at).next_back().map_or(at, |(s, _)| *s);
        for (s, e) in self.0.range(first..range.end) {
            let (s, e) = ((*s).max(at), (*e).min(range.end));
            if e <= at {
                continue;
            }
            if s > at {
                out.push((at..s, false));
            }
            out.push((s..e, true));
            at = e;
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
                for pair in set.0.iter().zip(set.0.iter().skip(1)) {
                    prop_assert!(pair.0.1 < pair.1.0);
                }
            }
        }
    }
}

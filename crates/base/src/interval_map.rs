//! An interval map: ranges of blocks to values that can be cut at any block. One trim of a whole disk is one entry.

use std::collections::BTreeMap;
use std::ops::Range;

/// A value that stands for a run of blocks and can be cut at any block.
pub trait Cut: Clone {
    /// Returns the value of `count` blocks, beginning `skip` blocks in.
    fn part(&self, skip: u64, count: u64) -> Self;
    /// Tells whether `next` continues this value of `count` blocks, so that one entry can stand for both.
    fn joins(&self, count: u64, next: &Self) -> bool;
}

/// A set: ranges alone, without values.
impl Cut for () {
    fn part(&self, _skip: u64, _count: u64) {}
    fn joins(&self, _count: u64, _next: &()) -> bool {
        true
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span<V> {
    end: u64,
    value: V,
}

/// Disjoint ranges of blocks, each with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervals<V> {
    spans: BTreeMap<u64, Span<V>>,
}

impl<V> Default for Intervals<V> {
    fn default() -> Self {
        Intervals { spans: BTreeMap::new() }
    }
}

impl<V: Cut> Intervals<V> {
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Sets `value` for the whole range; what was there before is cut away.
    pub fn insert(&mut self, range: Range<u64>, value: V) {
        debug_assert!(range.start < range.end, "an empty range has no value");
        // The last one that begins before its end is the only one that can reach into it, if anything lies there.
        if self.spans.range(..range.end).next_back().is_some_and(|(_, span)| span.end > range.start) {
            self.clear(range.clone());
        }
        self.add(range, value);
    }

    /// Returns the parts that overlap the range, cut to it, in order.
    pub fn overlaps(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, V)> + '_ {
        let first = self.spans.range(..range.start).next_back().filter(|(_, s)| s.end > range.start);
        first.into_iter().chain(self.spans.range(range.clone())).map(move |(&start, span)| {
            let cut = start.max(range.start)..span.end.min(range.end);
            let value = span.value.part(cut.start - start, cut.end - cut.start);
            (cut, value)
        })
    }

    /// Returns the end of the longest part of the range, from its start on, in which at most `many` entries
    /// begin.
    pub fn end_of(&self, range: &Range<u64>, many: usize) -> u64 {
        self.spans.range(range.clone()).nth(many).map_or(range.end, |(&start, _)| start)
    }

    /// Returns every entry in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &V)> + '_ {
        self.spans.iter().map(|(&start, span)| (start..span.end, &span.value))
    }

    /// Replaces each part inside the range by `f` of it; neighbours that join become one.
    pub fn change(&mut self, range: Range<u64>, mut f: impl FnMut(Range<u64>, V) -> V) {
        // Most ranges are just what was inserted.
        if let Some(span) = self.spans.get_mut(&range.start).filter(|span| span.end == range.end) {
            span.value = f(range.clone(), span.value.clone());
            return self.join(range);
        }
        let parts: Vec<_> = self.overlaps(range.clone()).collect();
        self.clear(range);
        for (at, value) in parts {
            let value = f(at.clone(), value);
            self.add(at, value);
        }
    }

    /// Makes one entry of this one and the neighbours that it joins.
    fn join(&mut self, Range { mut start, mut end }: Range<u64>) {
        let Some(span) = self.spans.get(&start) else { return };
        let next = self.spans.get(&end).filter(|next| span.value.joins(end - start, &next.value));
        let next = next.map(|next| next.end);
        let joins_before =
            |&(before, it): &(&u64, &Span<V>)| it.end == start && it.value.joins(start - before, &span.value);
        let before = self.spans.range(..start).next_back().filter(joins_before).map(|(before, _)| *before);
        if let Some(next_end) = next {
            self.spans.remove(&end);
            end = next_end;
        }
        if let Some(before) = before {
            self.spans.remove(&start);
            start = before;
        }
        if (next.is_some() || before.is_some())
            && let Some(span) = self.spans.get_mut(&start)
        {
            span.end = end;
        }
    }

    /// Removes everything inside the range.
    pub fn clear(&mut self, range: Range<u64>) {
        if let Some((&start, span)) = self.spans.range_mut(..range.start).next_back()
            && span.end > range.start
        {
            let (end, whole) = (span.end, span.value.clone());
            span.value = whole.part(0, range.start - start);
            span.end = range.start;
            if end > range.end {
                let tail = whole.part(range.end - start, end - range.end);
                self.spans.insert(range.end, Span { end, value: tail });
            }
        }
        while let Some((&start, span)) = self.spans.range(range.clone()).next() {
            let end = span.end;
            let tail = (end > range.end).then(|| span.value.part(range.end - start, end - range.end));
            self.spans.remove(&start);
            if let Some(value) = tail {
                self.spans.insert(range.end, Span { end, value });
            }
        }
    }

    /// Adds a value to a range that is empty.
    fn add(&mut self, range: Range<u64>, value: V) {
        let mut end = range.end;
        if let Some(next) = self.spans.get(&range.end)
            && value.joins(range.end - range.start, &next.value)
        {
            end = next.end;
            self.spans.remove(&range.end);
        }
        if let Some((&start, before)) = self.spans.range_mut(..range.start).next_back()
            && before.end == range.start
            && before.value.joins(range.start - start, &value)
        {
            before.end = end;
            return;
        }
        self.spans.insert(range.start, Span { end, value });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Value n at block b means "base + b", so that cutting and joining can be seen.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Count(u64);

    impl Cut for Count {
        fn part(&self, skip: u64, _count: u64) -> Self {
            Count(self.0 + skip)
        }
        fn joins(&self, count: u64, next: &Self) -> bool {
            self.0 + count == next.0
        }
    }

    fn check(map: &Intervals<Count>, model: &[Option<u64>]) {
        let mut seen = vec![None; model.len()];
        let mut last: Option<(Range<u64>, Count)> = None;
        for (range, value) in map.iter() {
            assert!(range.start < range.end);
            if let Some((before, v)) = last {
                assert!(before.end <= range.start);
                assert!(before.end < range.start || !v.joins(before.end - before.start, value), "not joined");
            }
            for b in range.clone() {
                seen[b as usize] = Some(value.0 + (b - range.start));
            }
            last = Some((range, *value));
        }
        assert_eq!(seen, model);
    }

    #[test]
    fn a_range_is_cut_where_too_many_entries_begin() {
        let mut map = Intervals::default();
        for block in (10..20).step_by(2) {
            map.insert(block..block + 1, ());
        }
        for (range, many, end) in
            [(0..100, 1, 12), (11..100, 4, 100), (0..18, 4, 18), (0..100, 5, 100), (0..9, 1, 9)]
        {
            assert_eq!(map.end_of(&range, many), end, "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn behaves_like_an_array(
            steps in prop::collection::vec((0u64..60, 1u64..20, prop::option::of(0u64..1000)), 1..60)
        ) {
            let mut map = Intervals::default();
            let mut model = vec![None; 100];
            for (start, len, value) in steps {
                let range = start..start + len;
                match value {
                    Some(v) => {
                        map.insert(range.clone(), Count(v));
                        for b in range.clone() {
                            model[b as usize] = Some(v + (b - start));
                        }
                    }
                    None => {
                        map.change(range.clone(), |at, v| {
                            assert_eq!(model[at.start as usize], Some(v.0));
                            Count(v.0 + 7)
                        });
                        for b in range.clone() {
                            if let Some(v) = &mut model[b as usize] {
                                *v += 7;
                            }
                        }
                    }
                }
                check(&map, &model);
                let part: Vec<_> = map.overlaps(range.clone()).collect();
                let count: u64 = part.iter().map(|(r, _)| r.end - r.start).sum();
                prop_assert_eq!(count, range.filter(|&b| model[b as usize].is_some()).count() as u64);
            }
        }
    }
}

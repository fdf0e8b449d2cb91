//! A set of shards or stores of one pool: at most 64.

use std::fmt;

use windlass_base::format_limits::SHARDS_MAX;

const _: () = assert!(SHARDS_MAX <= 64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ShardSet(pub(crate) u64);

impl ShardSet {
    /// Returns the set of the first n shards.
    pub(crate) fn all(n: usize) -> ShardSet {
        (0..n).fold(ShardSet::default(), ShardSet::with)
    }
    #[must_use]
    pub(crate) fn with(self, i: usize) -> ShardSet {
        ShardSet(self.0 | 1 << i)
    }
    #[must_use]
    pub(crate) fn without(self, i: usize) -> ShardSet {
        ShardSet(self.0 & !(1 << i))
    }
    pub(crate) fn minus(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 & !other.0)
    }
    pub(crate) fn and(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 & other.0)
    }
    pub(crate) fn or(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 | other.0)
    }
    pub(crate) fn has(self, i: usize) -> bool {
        self.0 >> i & 1 == 1
    }
    pub(crate) fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |i| self.has(*i))
    }
}

impl FromIterator<usize> for ShardSet {
    fn from_iter<T: IntoIterator<Item = usize>>(items: T) -> ShardSet {
        items.into_iter().fold(ShardSet::default(), ShardSet::with)
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

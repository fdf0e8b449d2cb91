//! A set of shards or stores of one pool: at most 64.

use std::fmt;

use crate::base::size::SHARDS_MAX;

const _: () = assert!(SHARDS_MAX <= 64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Mask(pub(super) u64);

impl Mask {
    /// The first n.
    pub(super) fn all(n: usize) -> Mask {
        (0..n).fold(Mask::default(), Mask::with)
    }
    #[must_use]
    pub(super) fn with(self, i: usize) -> Mask {
        Mask(self.0 | 1 << i)
    }
    #[must_use]
    pub(super) fn without(self, i: usize) -> Mask {
        Mask(self.0 & !(1 << i))
    }
    pub(super) fn minus(self, other: Mask) -> Mask {
        Mask(self.0 & !other.0)
    }
    pub(super) fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }
    pub(super) fn or(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }
    pub(super) fn has(self, i: usize) -> bool {
        self.0 >> i & 1 == 1
    }
    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |i| self.has(*i))
    }
}

impl FromIterator<usize> for Mask {
    fn from_iter<T: IntoIterator<Item = usize>>(items: T) -> Mask {
        items.into_iter().fold(Mask::default(), Mask::with)
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

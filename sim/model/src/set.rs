//! A set of replicas, as bits.

use crate::world::REPLICAS;
use std::fmt;

/// A set of replica indices.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Set(u8);

impl Set {
    pub(crate) const EMPTY: Self = Self(0);
    pub(crate) const ALL: Self = Self((1 << REPLICAS) - 1);

    pub(crate) fn contains(self, member: usize) -> bool {
        self.0 & (1 << member) != 0
    }

    pub(crate) fn with(self, member: usize) -> Self {
        Self(self.0 | (1 << member))
    }

    pub(crate) fn without(self, member: usize) -> Self {
        Self(self.0 & !(1 << member))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..REPLICAS).filter(move |&member| self.contains(member))
    }

    /// Every non-empty subset of this set that contains `member`.
    pub(crate) fn subsets_with(self, member: usize) -> impl Iterator<Item = Self> {
        (1..=Self::ALL.0)
            .map(Self)
            .filter(move |&subset| self.covers(subset) && subset.contains(member))
    }

    /// The same set after replica `i` was renamed to `names[i]`.
    pub(crate) fn renamed(self, names: [usize; REPLICAS]) -> Self {
        self.iter()
            .fold(Self::EMPTY, |set, member| set.with(names[member]))
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, member) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}r{member}")?;
        }
        f.write_str("}")
    }
}

//! Log sequence numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The position of one record in a volume's log.
///
/// Dense per volume, starting at 1. [`Lsn::ZERO`] is a real position ("nothing yet"), never a
/// sentinel for "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);
    /// The highest position there is; used as an upper end only, of searches and of what is lost.
    pub const MAX: Self = Self(u64::MAX);

    /// Makes a position from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next position.
    ///
    /// # Panics
    ///
    /// After 2^64 - 1 records, which no device lives to see.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(value) => Self(value),
            None => panic!("the log sequence ran out"),
        }
    }

    /// The position before this one; none before zero.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// How many records lie in `(after, self]`; zero if `after` is not below.
    #[must_use]
    pub const fn distance_from(self, after: Self) -> u64 {
        self.0.saturating_sub(after.0)
    }

    /// The position `count` records further; `None` on overflow.
    #[must_use]
    pub const fn checked_advance(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The records in `(after, through]`: `after` is outside, `through` is inside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RangeEnds")]
pub struct LsnRange {
    after: Lsn,
    through: Lsn,
}

/// A range as it is read from a peer or a disk, before its ends were compared.
#[derive(Deserialize)]
#[serde(rename = "LsnRange")]
struct RangeEnds {
    after: Lsn,
    through: Lsn,
}

impl TryFrom<RangeEnds> for LsnRange {
    type Error = &'static str;

    fn try_from(ends: RangeEnds) -> Result<Self, Self::Error> {
        Self::new(ends.after, ends.through).ok_or("the range ends before it begins")
    }
}

impl LsnRange {
    /// The range `(after, through]`; `None` when `through` lies before `after`.
    #[must_use]
    pub fn new(after: Lsn, through: Lsn) -> Option<Self> {
        (after <= through).then_some(Self { after, through })
    }

    /// The position before the first record; outside the range.
    #[must_use]
    pub const fn after(self) -> Lsn {
        self.after
    }

    /// The last record; inside the range unless the range is empty.
    #[must_use]
    pub const fn through(self) -> Lsn {
        self.through
    }

    /// How many records lie inside.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.through.0 - self.after.0
    }

    /// Whether no record lies inside.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count() == 0
    }

    /// Whether `lsn` lies inside.
    #[must_use]
    pub fn contains(self, lsn: Lsn) -> bool {
        self.after < lsn && lsn <= self.through
    }
}

impl fmt::Debug for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}]", self.after, self.through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_excludes_after_and_includes_through() {
        let range = LsnRange::new(Lsn::new(3), Lsn::new(5)).unwrap();
        let inside: Vec<u64> = (0..8).filter(|&n| range.contains(Lsn::new(n))).collect();
        assert_eq!(inside, [4, 5]);
        assert_eq!(range.count(), 2);
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_refused() {
        assert!(LsnRange::new(Lsn::new(5), Lsn::new(4)).is_none());
        assert!(LsnRange::new(Lsn::new(5), Lsn::new(5)).unwrap().is_empty());
    }
}

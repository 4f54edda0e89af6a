//! Epochs: the reigns of primaries.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// One reign of one boot of one server over a volume.
///
/// Compared by `assignment`, then by `reign`. The master mints the assignment part; the reign part
/// is 0 under Moorline's own master and raised at each boot where the master cannot mint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Epoch {
    assignment: u64,
    reign: u64,
}

impl Epoch {
    /// Before the first reign: no primary ever had it.
    pub const ZERO: Self = Self {
        assignment: 0,
        reign: 0,
    };

    /// The most by which the assignment part may rise at once; a bigger jump is refused as damage.
    pub const JUMP_MAX: u64 = 1 << 32;

    /// Makes an epoch from its two parts.
    #[must_use]
    pub const fn new(assignment: u64, reign: u64) -> Self {
        Self { assignment, reign }
    }

    /// The part that the master mints.
    #[must_use]
    pub const fn assignment(self) -> u64 {
        self.assignment
    }

    /// The part that counts boots under a master that cannot mint.
    #[must_use]
    pub const fn reign(self) -> u64 {
        self.reign
    }

    /// Whether going from `self` to `to` is a jump that no sane master makes.
    #[must_use]
    pub const fn jump_is_insane(self, to: Self) -> bool {
        to.assignment.saturating_sub(self.assignment) > Self::JUMP_MAX
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reign == 0 {
            write!(f, "{}", self.assignment)
        } else {
            write!(f, "{}.{}", self.assignment, self.reign)
        }
    }
}

/// Orders changes of members, endpoints and the in-sync set within one epoch's line.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default, Debug,
)]
#[serde(transparent)]
pub struct ConfigVersion(u64);

impl ConfigVersion {
    /// Before the first configuration.
    pub const ZERO: Self = Self(0);

    /// Makes a version from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next version.
    ///
    /// # Panics
    ///
    /// After 2^64 - 1 changes.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(value) => Self(value),
            None => panic!("config versions ran out"),
        }
    }

    /// The version that lies so many changes above.
    ///
    /// # Panics
    ///
    /// After 2^64 - 1 changes.
    #[must_use]
    pub const fn above(self, changes: u64) -> Self {
        match self.0.checked_add(changes) {
            Some(value) => Self(value),
            None => panic!("config versions ran out"),
        }
    }
}

impl fmt::Display for ConfigVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One line of a log's epoch history: the records of `epoch` begin at `first`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct EpochStart {
    /// The epoch that wrote the records.
    pub epoch: Epoch,
    /// Its first record (inclusive).
    pub first: Lsn,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assignment_part_decides_before_the_reign() {
        assert!(Epoch::new(2, 0) > Epoch::new(1, 9));
        assert!(Epoch::new(2, 1) > Epoch::new(2, 0));
    }

    #[test]
    fn a_jump_is_insane_only_past_the_limit() {
        let from = Epoch::new(7, 0);
        assert!(!from.jump_is_insane(Epoch::new(7 + Epoch::JUMP_MAX, 0)));
        assert!(from.jump_is_insane(Epoch::new(8 + Epoch::JUMP_MAX, 0)));
        assert!(!from.jump_is_insane(Epoch::ZERO));
    }
}

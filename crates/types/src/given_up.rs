//! Records that a promotion gave up: what is lost for good is said, and kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Epoch, LsnRange};

/// Most ranges that one epoch mark announces: its header stays below one block.
pub const MARK_GIVEN_UP_MAX: usize = 64;

/// Why records were given up, and whether clients must wait for an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GivenUpWhy {
    /// A torn end of a log may have held them, and nobody who answered does (`PROM-7`).
    Doubtful = 1,
    /// They may have been acknowledged from memory that is lost (`PROM-12`). Nobody is served in
    /// the epoch of the mark, nor in a later one whose mark carries this on.
    VolatileStands = 2,
    /// The same, and an operator had said beforehand, or says now, to go on without them.
    VolatileCleared = 3,
}

impl GivenUpWhy {
    /// The reason with this number on disk.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Doubtful),
            2 => Some(Self::VolatileStands),
            3 => Some(Self::VolatileCleared),
            _ => None,
        }
    }

    /// Whether lost memory is the reason.
    #[must_use]
    pub const fn is_volatile(self) -> bool {
        match self {
            Self::Doubtful => false,
            Self::VolatileStands | Self::VolatileCleared => true,
        }
    }
}

impl fmt::Display for GivenUpWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Doubtful => "doubtful",
            Self::VolatileStands => "acknowledged from memory, waiting for an operator",
            Self::VolatileCleared => "acknowledged from memory",
        })
    }
}

/// A range of records that a promotion gave up (`PROM-7`, `PROM-12`).
///
/// Excuses the loss of records in `range` that were written *before* `epoch`. It is *announced* in
/// a log that has a record of `mark`; until then it is only what a store remembers (`CUT-6`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GivenUp {
    /// The epoch whose promotion gave them up first.
    pub epoch: Epoch,
    /// Which records. Lost memory has no known upper end: everything above the best log.
    pub range: LsnRange,
    /// Why.
    pub why: GivenUpWhy,
    /// The epoch whose mark announces it: `epoch`, or a later one that took it over.
    pub mark: Epoch,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            epoch,
            range,
            why,
            mark,
        } = self;
        write!(f, "{range} by epoch {epoch}, mark of {mark}: {why}")
    }
}

//! Bugs that a simulator can plant at run time, to show that it finds them.
//!
//! Without the feature `mutants` there are none: [`Mutants::has`] is constant and the planted
//! branches are gone from the build.

/// A bug to plant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// Reads are answered and writes acknowledged without a live lease.
    LeaseIgnored = 1,
    /// The primary's own flush commits, whatever the policy says.
    PolicyCountIgnored = 2,
    /// Any store votes, be it wiped, swapped or rolled back.
    StoreIdentityIgnored = 4,
    /// A member promises while a lease that it granted still runs.
    PromiseDuringLease = 8,
    /// A promotion commits what it found before its mark commits.
    MarkIgnored = 16,
    /// What was given up is not persisted before the cut into it.
    EvidenceNotPersisted = 32,
    /// Memory lost in restarts is not looked at.
    MemoryLossIgnored = 64,
}

/// The bugs planted in one node. None by default.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    bits: u8,
}

impl Mutants {
    /// No bug.
    pub const NONE: Self = Self {
        #[cfg(feature = "mutants")]
        bits: 0,
    };

    /// These bugs and `mutant`.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub const fn with(self, mutant: Mutant) -> Self {
        Self {
            bits: self.bits | mutant as u8,
        }
    }

    /// Whether `mutant` is planted.
    #[cfg(feature = "mutants")]
    pub(crate) const fn has(self, mutant: Mutant) -> bool {
        self.bits & mutant as u8 != 0
    }

    /// Whether `mutant` is planted: never in this build.
    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn has(self, _mutant: Mutant) -> bool {
        false
    }
}

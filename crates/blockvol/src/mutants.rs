//! Bugs that a simulator plants at run time, to show that it would find them.
//!
//! The type is always here so that callers need no conditions of their own; without the feature
//! `mutants` it is empty and every question about it is answered with no at compile time.

/// A bug to plant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// The flusher applies records up to the head, committed or not.
    FlushUncommitted = 1,
    /// What is to be persisted is answered without being written.
    PromiseNotPersisted = 2,
    /// What is to be persisted is written to one superblock only.
    PromiseInOneSuperblock = 4,
}

/// The bugs planted in one store, its log's included. None by default.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mutants {
    /// Those of the log.
    pub log: moorline_wal::Mutants,
    #[cfg(feature = "mutants")]
    bits: u8,
}

impl Mutants {
    /// No bug.
    pub const NONE: Self = Self {
        log: moorline_wal::Mutants::NONE,
        #[cfg(feature = "mutants")]
        bits: 0,
    };

    /// The log acknowledges what it wrote and has not flushed.
    #[cfg(feature = "mutants")]
    pub const ACK_BEFORE_FLUSH: Self = Self {
        log: moorline_wal::Mutants::NONE.with(moorline_wal::Mutant::AckBeforeFlush),
        ..Self::NONE
    };

    /// These bugs and `mutant`.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub const fn with(self, mutant: Mutant) -> Self {
        Self {
            bits: self.bits | mutant as u8,
            ..self
        }
    }

    /// These bugs, and `log` in the log.
    #[must_use]
    pub const fn with_log(self, log: moorline_wal::Mutants) -> Self {
        let mut mutants = self;
        mutants.log = log;
        mutants
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

//! Bugs that a simulator can plant at run time, to show that it finds them.

moorline_types::mutants! {
    /// A bug to plant.
    pub enum Mutant {
        /// The flusher applies records up to the head, committed or not.
        FlushUncommitted,
        /// What is to be persisted is answered without being written.
        PromiseNotPersisted,
        /// What is to be persisted is written to one superblock only.
        PromiseInOneSuperblock,
        /// Opening may start at the newer superblock's anchor only.
        OlderAnchorForgotten,
        /// A pass names its checkpoint without a flush of what it wrote.
        CheckpointBeforeFlush,
        /// A pass writes into the extents while its applied mark is on its way.
        AppliedMarkNotAwaited,
        /// A page of the block map is written over itself.
        MapPageInPlace,
        /// Of several versions of a block a pass takes the oldest.
        OldestVersionFlushed,
        /// What was read from the extents is not held against its checksum.
        ExtentsNotVerified,
        /// A pass does not tell the block map of zeroes.
        ZeroesNotMapped,
        /// A pass writes blocks that are being read.
        FlushUnderRead,
        /// Opening does not raise the open counter.
        OpenCounterKept,
        /// Of overlapping records that commit together the first one is read.
        OverlapsReordered,
        /// The superblocks do not keep which epoch wrote what was reclaimed.
        EpochHistoryNotKept,
    }

    /// The bugs planted in the store proper. None by default.
    pub struct OwnMutants;
}

/// The bugs planted in one store, its log's included. None by default.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mutants {
    /// Those of the log.
    pub log: moorline_wal::Mutants,
    own: OwnMutants,
}

impl Mutants {
    /// No bug.
    pub const NONE: Self = Self {
        log: moorline_wal::Mutants::NONE,
        own: OwnMutants::NONE,
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
            own: self.own.with(mutant),
            ..self
        }
    }

    /// These bugs, and `log` in the log.
    #[must_use]
    pub const fn with_log(self, log: moorline_wal::Mutants) -> Self {
        Self { log, ..self }
    }

    /// Whether `mutant` is planted.
    pub(crate) const fn has(self, mutant: Mutant) -> bool {
        self.own.has(mutant)
    }
}

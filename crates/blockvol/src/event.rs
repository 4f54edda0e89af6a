//! What a store is asked for and what it answers later.

use moorline_types::{BlockRange, Lsn, Payload};
use moorline_wal::{LogReadError, ReadId, Record};

use crate::{ReadFault, StoreFault};

/// Names one call of `persist`; counts up. A ticket is answered only after every earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// The ticket after `ticket`.
    #[must_use]
    pub const fn next_of(ticket: Self) -> Self {
        Self(ticket.0 + 1)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Chosen by the caller of a read, to find its answer; not used twice at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadToken(u64);

impl ReadToken {
    /// Makes a token from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Which records a read sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadView {
    /// Those through the readable frontier: what clients may be told.
    Readable,
    /// Every record appended, committed or not: for read-modify-write and nothing else.
    Newest,
}

/// One piece of an answered read; the pieces ascend and cover the whole range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Blocks with content.
    Data {
        /// Which blocks.
        range: BlockRange,
        /// Their content, one block each.
        payload: Payload,
    },
    /// Blocks that read as zeroes.
    Zero {
        /// Which blocks.
        range: BlockRange,
        /// Why they do.
        kind: ZeroKind,
    },
}

impl Segment {
    /// The blocks covered.
    #[must_use]
    pub const fn range(&self) -> BlockRange {
        match self {
            Self::Data { range, .. } | Self::Zero { range, .. } => *range,
        }
    }
}

/// Why blocks read as zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroKind {
    /// Never written, or trimmed: no room is taken.
    Hole,
    /// Zeroes were written.
    Written,
}

/// What is known of a run of blocks without reading them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// They have content.
    Data,
    /// They read as zeroes.
    Zero(ZeroKind),
}

/// A run of blocks in one state; runs ascend and cover the whole range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRun {
    /// Which blocks.
    pub range: BlockRange,
    /// What they are.
    pub state: BlockState,
}

/// The answer to a read or status request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum ReadOutcome<T> {
    /// Known at once.
    Ready(Result<T, ReadFault>),
    /// The device was asked; an event brings the answer.
    Pending,
}

/// Which version of a block's content is meant, as the block map knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockVersion {
    /// The record that wrote it.
    pub lsn: Lsn,
    /// The checksum that its content has.
    pub crc: u32,
}

/// What a store tells its owner.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub enum StoreEvent {
    /// Everything persisted up to this ticket is durable in both superblocks.
    Persisted {
        /// The highest ticket answered; all below are too.
        ticket: Ticket,
    },
    /// The log's durable prefix moved up.
    Flushed {
        /// Every record through this one is durable in the log.
        through: Lsn,
    },
    /// A cut is durable in the log.
    CutRecorded {
        /// The last record kept.
        through: Lsn,
    },
    /// The answer to `read_records`.
    RecordsRead {
        /// Whose.
        read: ReadId,
        /// The records, ascending.
        result: Result<Vec<Record>, LogReadError>,
    },
    /// The answer to `read`.
    ReadDone {
        /// Whose.
        token: ReadToken,
        /// The content.
        result: Result<Vec<Segment>, ReadFault>,
    },
    /// The answer to `block_status`.
    StatusDone {
        /// Whose.
        token: ReadToken,
        /// The runs.
        result: Result<Vec<StatusRun>, ReadFault>,
    },
    /// The applied mark is durable in both superblocks and the extents may now change up to it.
    Applied {
        /// The mark.
        through: Lsn,
    },
    /// The extents durably hold every record through the checkpoint.
    CheckpointMoved {
        /// The checkpoint.
        checkpoint: Lsn,
        /// The log's tail (exclusive) after what it allowed to be reclaimed.
        tail: Lsn,
    },
    /// A damaged block was written again with its right content.
    Repaired {
        /// The block.
        block: moorline_types::BlockIndex,
    },
    /// Everything asked for by `shutdown` is durable; nothing is in flight.
    ShutDown,
    /// The store takes no more writes; the durable frontier stays where it is. Told once.
    Failed {
        /// Why.
        fault: StoreFault,
    },
}

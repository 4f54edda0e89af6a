//! What a bridge must offer to an executor: submit-style, never blocking.

use moorline_engine::RebuildSource;
use moorline_types::{BlockIndex, BlockRange, Lsn, LsnRange, Payload};
use moorline_wal::{LogReadError, ReadStart, Record};

/// Reads the primary's own history.
pub trait HistoryReader {
    /// Reads records from the start of `range`, in order, up to `bytes_max` stored bytes or its
    /// end, at least one. When it answers `Pending`, `records_read` of the execution is told later.
    ///
    /// # Errors
    ///
    /// When the records cannot be had; never retried.
    fn read(&mut self, range: LsnRange, bytes_max: usize) -> Result<ReadStart, LogReadError>;
}

/// The one ordered stream to a replica.
pub trait ReplicaLink {
    /// Queues `records`, dense and ascending, behind everything queued before.
    fn ship(&mut self, records: Vec<Record>);
}

/// A link over which a base is laid, too.
///
/// What the replica makes of it: an extent replaces whatever its image held there before this
/// session, whole, blocks that are not listed included. Only a record that the replica logged in
/// this session, and that is newer than the block, wins over it. The replica knows before the first
/// one that its image is incomplete, and answers with its cursor once an extent is durable.
pub trait BaseLink: ReplicaLink {
    /// Queues extents of the base; `first` is the first one's place in it, counted from 0.
    fn lay(&mut self, first: u64, extents: Vec<BaseExtent>);
}

/// Reads the image that a base is made of.
pub trait BaseImage {
    /// Reads the extents of the base from `wanted.first` on, in order, at least one, and no more
    /// than fit. When it answers `Pending`, `Rebuild::base_read` is told later.
    ///
    /// Blocks are read through the source's committed view, log over extents, so that an extent is
    /// whole as of one LSN, which is at or above the base's and at or below what is committed.
    ///
    /// # Errors
    ///
    /// When they cannot be had; never retried.
    fn read(&mut self, wanted: BaseWanted) -> Result<BaseStart, BaseReadError>;
}

/// A piece of a base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseWanted {
    /// What the base is made of: which extents it has follows from this.
    pub source: RebuildSource,
    /// The first extent wanted, counted from 0 in ascending order of address.
    pub first: u64,
    /// The most extents.
    pub extents_max: u64,
    /// The most bytes of payload, but for the first extent.
    pub bytes_max: usize,
}

/// What became of asking for extents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BaseStart {
    /// They were at hand.
    Ready(Vec<BaseExtent>),
    /// They come later.
    Pending,
}

/// One extent of a base, as the source shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseExtent {
    /// Its place in the volume.
    pub range: BlockRange,
    /// Everything through here that was ever written to it is in it, and nothing above.
    pub as_of: Lsn,
    /// Its blocks, ascending. One that is not listed reads as zeroes.
    pub blocks: Vec<BaseBlock>,
}

impl BaseExtent {
    /// What it weighs on its way.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.payload.len()).sum()
    }
}

/// One block of a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseBlock {
    /// Its place in the volume.
    pub block: BlockIndex,
    /// The record that changed it last.
    pub lsn: Lsn,
    /// Its content.
    pub payload: Payload,
}

/// Why a base could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BaseReadError {
    /// A block does not match its checksum. Never laid: this copy of it is lost.
    #[error("block {block} is damaged")]
    Damaged {
        /// The block.
        block: BlockIndex,
    },
    /// The image is not what the plan pinned any more.
    #[error("the image is gone")]
    Gone,
    /// The device did not give the bytes.
    #[error("reading the image failed")]
    Device,
}

//! What a disk's client asks, and what it hears back.

use bytes::Bytes;
use moorline_types::{PageBuf, VolumeId};

/// Names one client connection; made by the driver, never reused within a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(u64);

impl ClientId {
    /// Makes a name from its number.
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

/// Names one request of one client; chosen by the driver and given back with the reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(u64);

impl RequestId {
    /// Makes a name from its number.
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

/// The bytes `[offset, offset + length)` of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

/// Whether a write must be durable before it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// As the volume's ack point says.
    AckPoint,
    /// Forced unit access: durable by policy.
    Forced,
}

/// Whether zeroed blocks may become a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroMode {
    /// They may: reads as zeroes and takes no space.
    HoleAllowed,
    /// They stay allocated.
    Allocated,
}

/// Whether zeroing may be done by writing zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroSpeed {
    /// Any way will do.
    AnyWay,
    /// Only if it costs less than writing zeroes; otherwise it is refused as unsupported.
    FastOnly,
}

/// One request.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub enum ClientOp {
    /// Read the range.
    Read(ByteRange),
    /// Write the range.
    Write {
        /// Where.
        range: ByteRange,
        /// Whole 4 KiB blocks that cover the range; the bytes lie at `offset % 4096`, what is
        /// around them is filled in by read-modify-write.
        buffer: PageBuf,
        /// When to answer.
        durability: Durability,
    },
    /// Everything that was answered before must be durable by policy.
    Flush,
    /// The whole blocks inside the range read as zeroes afterwards; its ragged ends stay.
    Trim {
        /// Where.
        range: ByteRange,
        /// When to answer.
        durability: Durability,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// Where.
        range: ByteRange,
        /// Hole or not.
        mode: ZeroMode,
        /// Whether slow is acceptable.
        speed: ZeroSpeed,
        /// When to answer.
        durability: Durability,
    },
    /// What is allocated and what reads as zeroes.
    BlockStatus(ByteRange),
}

/// A request with its way back.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct ClientRequest {
    /// The volume that the client is attached to.
    pub volume: VolumeId,
    /// The connection.
    pub client: ClientId,
    /// The request.
    pub request: RequestId,
    /// What is asked.
    pub op: ClientOp,
}

/// A piece of what was read, in order, without gaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadPiece {
    /// Bytes.
    Data(Bytes),
    /// So many zero bytes.
    Zeroes(u32),
}

/// One run of bytes with one allocation state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRun {
    /// How many bytes.
    pub length: u64,
    /// What they are.
    pub state: Allocation,
}

/// What is known about a run without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// Content.
    Data,
    /// Allocated, reads as zeroes.
    Zero,
    /// Takes no space, reads as zeroes.
    Hole,
}

/// The answer to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientReply {
    /// The bytes of a read.
    Read(Vec<ReadPiece>),
    /// The runs of a block status request, covering the range.
    Status(Vec<StatusRun>),
    /// Done, as durable as it was asked for.
    Done,
    /// Not done.
    Failed(ClientError),
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// This server is no longer (or not yet) the volume's primary. No effect.
    #[error("this server is not the volume's primary")]
    NotPrimary,
    /// The policy could not be met in the time that the volume's `no_quorum` setting gives. The
    /// request had no effect.
    #[error("too few replicas answered in time")]
    NoQuorum,
    /// It was ordered and then lost sight of: it may or may not have an effect.
    #[error("the outcome is unknown: the primary stepped down")]
    Unknown,
    /// No good copy of a block that was asked for.
    #[error("damaged data and no good copy at hand")]
    Damaged,
    /// The device failed.
    #[error("the device failed")]
    Device,
    /// Zeroing would not be fast.
    #[error("zeroing this range would not be faster than writing it")]
    NotFast,
    /// The range ends beyond the volume. No effect.
    #[error("the range ends beyond the volume")]
    OutOfRange,
}

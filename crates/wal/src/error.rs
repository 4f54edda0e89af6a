//! Why the log refuses or fails.

use moorline_types::{BlockIndex, DeviceError, Epoch, Lsn};

/// Why bytes are no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header has.
    #[error("a record header does not fit in {have} bytes")]
    TooShort {
        /// Bytes given.
        have: usize,
    },
    /// Not the start of a record.
    #[error("no record magic")]
    BadMagic,
    /// Written by a later version.
    #[error("record version {version} is unknown")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// A kind that this version does not have.
    #[error("record kind {kind} is unknown")]
    UnknownKind {
        /// The kind found.
        kind: u8,
    },
    /// A number of blocks that no record of that kind has.
    #[error("{blocks} blocks are none or too many")]
    BadLength {
        /// The number found.
        blocks: u32,
    },
    /// Given-up ranges where none can be, too many of them, or one that makes no sense.
    #[error("{ranges} given-up ranges do not belong there")]
    BadGivenUp {
        /// The number found.
        ranges: usize,
    },
    /// The header is damaged, or of another volume.
    #[error("record header checksum is {have:08x}, not {want:08x}")]
    HeaderCrc {
        /// As stored.
        want: u32,
        /// As computed.
        have: u32,
    },
    /// The payload is longer or shorter than the header says.
    #[error("record {lsn} has {have} bytes of payload, not {want}")]
    PayloadLength {
        /// The record.
        lsn: Lsn,
        /// In bytes, as the header says.
        want: usize,
        /// In bytes, as given.
        have: usize,
    },
    /// Payload that belongs to no record.
    #[error("{blocks} blocks of payload belong to no record")]
    PayloadLeft {
        /// How many.
        blocks: usize,
    },
    /// A block of the payload is damaged, or of another place.
    #[error("block {} of record {lsn} has checksum {have:08x}, not {want:08x}", block.get())]
    BlockCrc {
        /// The record.
        lsn: Lsn,
        /// The block.
        block: BlockIndex,
        /// As the header says.
        want: u32,
        /// As computed.
        have: u32,
    },
    /// Records that do not follow one another.
    #[error("record {have} does not follow record {after}")]
    NotDense {
        /// The record before.
        after: Lsn,
        /// The record found.
        have: Lsn,
    },
}

/// Why bytes are no frame of this log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a frame header has.
    #[error("a frame header does not fit in {have} bytes")]
    TooShort {
        /// Bytes given.
        have: usize,
    },
    /// Not the start of a frame.
    #[error("no frame magic")]
    BadMagic,
    /// Written by a later version.
    #[error("frame version {version} is unknown")]
    UnknownVersion {
        /// The version found.
        version: u16,
    },
    /// A kind that this version does not have.
    #[error("frame kind {kind} is unknown")]
    UnknownKind {
        /// The kind found.
        kind: u8,
    },
    /// Lengths or counts that no frame has.
    #[error("frame lengths contradict each other")]
    BadLength,
    /// The header blocks are damaged or torn.
    #[error("frame header checksum is {have:08x}, not {want:08x}")]
    HeaderCrc {
        /// As stored.
        want: u32,
        /// As computed.
        have: u32,
    },
    /// A record header inside is bad although the frame's checksum is right.
    #[error("a record header in the frame is bad")]
    Record(#[from] RecordError),
}

/// Why a record was not appended. The log is unchanged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// An earlier operation failed; the log takes nothing more until it is opened again.
    #[error("the log takes nothing after a failed operation")]
    Poisoned(#[source] DeviceError),
    /// The log has a damaged piece that must not be written over.
    #[error("the log is damaged after record {after} and is read only")]
    Damaged {
        /// The last record before the damage.
        after: Lsn,
    },
    /// No room until something is reclaimed.
    #[error("the log has no room for {needed} bytes, {free} are free")]
    Full {
        /// In bytes.
        needed: u64,
        /// In bytes, queued records counted as written.
        free: u64,
    },
    /// A record that could never be placed in a ring of this size.
    #[error("a record of {bytes} bytes is too large for this log, which takes {bytes_max}")]
    TooLarge {
        /// In bytes.
        bytes: u64,
        /// In bytes.
        bytes_max: u64,
    },
    /// Not the record after the head.
    #[error("record {have} does not follow the head {head}")]
    NotNext {
        /// The last record.
        head: Lsn,
        /// The record offered.
        have: Lsn,
    },
    /// An epoch below that of the last record.
    #[error("a record of epoch {have} cannot follow one of epoch {last}")]
    EpochWentBack {
        /// The last record's.
        last: Epoch,
        /// The record's.
        have: Epoch,
    },
}

/// Why the log was not cut. The log is unchanged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CutError {
    /// An earlier operation failed.
    #[error("the log takes nothing after a failed operation")]
    Poisoned(#[source] DeviceError),
    /// The log has a damaged piece that must not be written over.
    #[error("the log is damaged after record {after} and is read only")]
    Damaged {
        /// The last record before the damage.
        after: Lsn,
    },
    /// Below what is retained.
    #[error("a cut through {through} is below the tail {tail}")]
    BelowTail {
        /// What was asked for.
        through: Lsn,
        /// The tail (exclusive).
        tail: Lsn,
    },
    /// Above what is there.
    #[error("a cut through {through} is above the head {head}")]
    AboveHead {
        /// What was asked for.
        through: Lsn,
        /// The last record.
        head: Lsn,
    },
}

/// Why records cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogReadError {
    /// Part of the range was reclaimed. Catch-up cannot succeed; the caller escalates to rebuild.
    #[error("records after {after} were reclaimed (tail is {tail})")]
    Reclaimed {
        /// Lower end of the range asked for (exclusive).
        after: Lsn,
        /// The tail (exclusive).
        tail: Lsn,
    },
    /// Part of the range is not there yet.
    #[error("records through {through} are asked for, the head is {head}")]
    AboveHead {
        /// Upper end of the range asked for (inclusive).
        through: Lsn,
        /// The last record.
        head: Lsn,
    },
    /// Checksum mismatch. Not retried: this copy is lost.
    #[error("record {lsn} at byte {position} of the ring is corrupt")]
    Corrupt {
        /// The record.
        lsn: Lsn,
        /// Of its payload, in bytes from the start of the ring.
        position: u64,
        /// What did not match.
        #[source]
        source: RecordError,
    },
    /// The device did not give the bytes.
    #[error("log read failed")]
    Device(#[source] DeviceError),
}

/// Why a log could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogOpenError {
    /// An operation of the opening failed.
    #[error("the log cannot be opened because an operation failed")]
    Device(#[from] DeviceError),
    /// A ring too small to work in, or not whole blocks.
    #[error("a log ring of {bytes} bytes is not whole blocks or below {bytes_min}")]
    BadRegion {
        /// In bytes.
        bytes: u64,
        /// In bytes.
        bytes_min: u64,
    },
    /// The anchor lies outside of the ring.
    #[error("the log's first frame cannot be at byte {position} of {bytes}")]
    BadAnchor {
        /// Where the anchor points.
        position: u64,
        /// Size of the ring in bytes.
        bytes: u64,
    },
    /// Whole frames whose records do not follow one another: a bug, or the wrong anchor.
    #[error("frame {sequence} begins with record {have}, but record {want} is next")]
    Inconsistent {
        /// The frame.
        sequence: u64,
        /// The LSN expected.
        want: Lsn,
        /// The LSN found, or the LSN of a cut below the tail.
        have: Lsn,
    },
    /// A readable frame has a number that leaves none for new ones: a forged frame, or damage.
    #[error("no sequence number is left after {highest}")]
    SequencesRanOut {
        /// The highest one that was read.
        highest: u64,
    },
    /// The ring is full and even its reserve is used up: not even a mark can be written.
    #[error("the log has no room for the mark that opening writes")]
    NoRoom,
}

/// Why nothing was pinned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PinRefused {
    /// The first record needed is gone.
    #[error("cannot pin after {after}: the tail is {tail}")]
    Reclaimed {
        /// What was asked for (exclusive).
        after: Lsn,
        /// The tail (exclusive).
        tail: Lsn,
    },
    /// Nothing is there yet.
    #[error("cannot pin after {after}: the head is {head}")]
    AboveHead {
        /// What was asked for (exclusive).
        after: Lsn,
        /// The last record.
        head: Lsn,
    },
    /// As many pins as the table takes.
    #[error("{count} pins are live, no more are given")]
    TooMany {
        /// Live pins.
        count: usize,
    },
}

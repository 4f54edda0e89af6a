//! What may go wrong, by cause, and what to do about it.

use moorline_types::{
    BlockIndex, BlockRange, ClusterId, DeviceError, Lsn, OpOwner, ServerId, StoreId, VolumeId,
};

/// Why one superblock copy cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CopyFault {
    /// All zero: nothing was ever written here.
    #[error("blank")]
    Blank,
    /// Something else lies here.
    #[error("holds other data than a superblock")]
    BadMagic,
    /// A superblock with damage.
    #[error("its checksum does not match")]
    BadChecksum,
    /// The checksum matches and the content makes no sense.
    #[error("its {field} makes no sense")]
    BadField {
        /// Which field.
        field: &'static str,
    },
    /// Written by a newer version of the format.
    #[error("has format version {version}")]
    UnknownVersion {
        /// The version found.
        version: u32,
    },
    /// Uses features that this version does not know.
    #[error("uses unknown features {bits:#x}")]
    UnknownFeatures {
        /// The unknown bits.
        bits: u64,
    },
    /// The device could not read it.
    #[error("could not be read: {0}")]
    Unreadable(DeviceError),
}

/// Why a store was not opened. Nothing was said in its name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// No superblock at all.
    #[error(
        "no superblock was found: this is no store, or both of its superblocks are ruined; \
         restore it, or keep it for a look and go on with the other replicas"
    )]
    NotAStore,
    /// Neither copy can be used.
    #[error(
        "both superblocks are unusable (first {first}, second {second}); \
         restore the device or wipe it and let the master assign a new store"
    )]
    BothSuperblocksBad {
        /// What is wrong with the first copy.
        first: CopyFault,
        /// What is wrong with the second copy.
        second: CopyFault,
    },
    /// A newer format.
    #[error("the store has format version {found}, this program knows {known}; use a newer one")]
    UnknownVersion {
        /// The version found.
        found: u32,
        /// The version that this program writes.
        known: u32,
    },
    /// Features that this program does not know.
    #[error("the store uses unknown features {bits:#x}; use a newer program")]
    UnknownFeatures {
        /// The unknown bits.
        bits: u64,
    },
    /// The two copies belong to two stores: one was copied over the other.
    #[error("the superblocks name two stores, {first} and {second}; restore the right device")]
    TwoStores {
        /// The first copy's store.
        first: StoreId,
        /// The second copy's store.
        second: StoreId,
    },
    /// A store of another cluster.
    #[error(
        "the store belongs to cluster {found}, this server to {expected}; check the path given"
    )]
    OtherCluster {
        /// In the superblock.
        found: ClusterId,
        /// This server's.
        expected: ClusterId,
    },
    /// A store of another volume.
    #[error("the store holds volume {found} ({name}), not {expected}; check the path given")]
    OtherVolume {
        /// In the superblock.
        found: VolumeId,
        /// Its name.
        name: String,
        /// What was to be opened.
        expected: VolumeId,
    },
    /// A store of another server.
    #[error("the store belongs to server {found}, not {expected}; start that server on it")]
    OtherServer {
        /// In the superblock.
        found: ServerId,
        /// This server.
        expected: ServerId,
    },
    /// The device is smaller than the store on it.
    #[error("the device has {have} bytes, the store on it needs {need}; restore its size")]
    DeviceTooSmall {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The device failed.
    #[error("the device failed while the store was opened ({during:?})")]
    Device {
        /// Which part was being read or written.
        during: OpOwner,
        /// The device's answer.
        #[source]
        source: DeviceError,
    },
    /// The log could not be opened.
    #[error("the log could not be opened")]
    Log(#[source] moorline_wal::LogOpenError),
    /// What must be written at every open no longer fits a superblock.
    #[error("the superblock is full")]
    SuperblockFull,
}

/// Why a device was not formatted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// Too little room.
    #[error(
        "the device has {have} bytes, the volume and its log need {need}; \
         use a larger device, a smaller volume or a smaller log"
    )]
    DeviceTooSmall {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The sizes are impossible.
    #[error(
        "a volume of {size_blocks} blocks with a log of {log_bytes} bytes cannot be laid out; \
         the log needs at least 64 KiB, both are multiples of 4096 bytes"
    )]
    BadSize {
        /// Blocks asked for.
        size_blocks: u64,
        /// Log bytes asked for.
        log_bytes: u64,
    },
    /// A store is there already.
    #[error("the device already holds a store of volume {volume}; nothing was changed")]
    AlreadyFormatted {
        /// Its volume.
        volume: VolumeId,
        /// Its uuid.
        store: StoreId,
    },
    /// Something is there that is no store, or a damaged one.
    #[error("the device is not empty (where a superblock belongs: {fault}); wipe it to use it")]
    LooksFormatted {
        /// Why it cannot be read.
        fault: CopyFault,
    },
    /// The device failed.
    #[error("the device failed while it was formatted")]
    Device(#[source] DeviceError),
    /// The names do not fit a superblock.
    #[error("the superblock is full")]
    SuperblockFull,
}

/// Why a store stopped taking writes. Sticky: only opening it again clears it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreFault {
    /// An operation failed.
    #[error("{kind} of the {owner:?} failed: {error}")]
    Operation {
        /// Which part of the store asked.
        owner: OpOwner,
        /// What it asked for.
        kind: FaultKind,
        /// The device's answer.
        error: DeviceError,
    },
    /// The log failed; it says how in its own event.
    #[error("the log failed: {error}")]
    Log {
        /// The device's answer.
        error: DeviceError,
    },
    /// What must be persisted no longer fits a superblock.
    #[error("the superblock is full")]
    SuperblockFull,
}

/// Which kind of operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// Answered with something else than what was asked for.
    WrongAnswer,
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "a read",
            Self::Write => "a write",
            Self::Flush => "a flush",
            Self::WrongAnswer => "the answer to an operation",
        })
    }
}

/// Why a read has no answer. Not sticky: other blocks may be fine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadFault {
    /// The block's content is not what was written last. A peer whose prefix reaches `lsn` has it.
    #[error("block {block} is damaged: it should hold record {lsn} with checksum {crc:#010x}")]
    Damaged {
        /// The block.
        block: BlockIndex,
        /// The record that wrote it last.
        lsn: Lsn,
        /// The checksum that the right content has.
        crc: u32,
    },
    /// The map page that knows the block is damaged, so what belongs there is not known.
    #[error("the block map's page for block {block} is damaged")]
    MapDamaged {
        /// The first block asked for in that page.
        block: BlockIndex,
    },
    /// The device could not read.
    #[error("the device failed at blocks {range}: {error}")]
    Device {
        /// What was being read: extents' blocks, or those that a map page covers.
        range: BlockRange,
        /// The device's answer.
        error: DeviceError,
    },
    /// The blocks lie outside the volume.
    #[error("blocks {range} lie outside the volume")]
    OutOfRange {
        /// What was asked for.
        range: BlockRange,
    },
}

/// Why a cut was not made. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CutError {
    /// The extents may hold changes above the cut: only a rebuild removes them.
    #[error("cannot cut to {through}: the extents may hold records up to {applied}")]
    BelowApplied {
        /// The cut asked for.
        through: Lsn,
        /// The applied mark.
        applied: Lsn,
    },
    /// There is nothing there to cut to.
    #[error("cannot cut to {through}: the log ends at {head}")]
    AboveHead {
        /// The cut asked for.
        through: Lsn,
        /// The log's head.
        head: Lsn,
    },
    /// The store failed earlier.
    #[error("the store failed")]
    Failed(#[source] StoreFault),
    /// The log refused it.
    #[error("the log refused the cut")]
    Log(#[source] moorline_wal::CutError),
}

/// Why a record was not appended. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The store failed earlier.
    #[error("the store failed")]
    Failed(#[source] StoreFault),
    /// The record's blocks lie outside the volume.
    #[error("the record's blocks {range} lie outside the volume")]
    OutOfRange {
        /// The record's blocks.
        range: BlockRange,
    },
    /// The log refused it.
    #[error("the log refused the record")]
    Log(#[source] moorline_wal::AppendError),
}

/// Why a block was not repaired. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RepairError {
    /// The store failed earlier.
    #[error("the store failed")]
    Failed(#[source] StoreFault),
    /// The block has a newer version or changed in the meantime: there is nothing to repair.
    #[error("block {block} was written again in the meantime")]
    Superseded {
        /// The block.
        block: BlockIndex,
    },
    /// The content is not what the block should hold.
    #[error("the content offered for block {block} does not have its checksum")]
    WrongContent {
        /// The block.
        block: BlockIndex,
    },
}

//! What a store asks of its device, and what it hears back.

use std::fmt;

use crate::{PageBuf, Payload};

/// Which part of a store submitted an operation, so that its completion finds the way back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum OpOwner {
    /// The log ring.
    Log = 1,
    /// The superblocks.
    Superblock = 2,
    /// The block map: {CRC, LSN} per block.
    BlockMap = 3,
    /// The extents: the blocks' contents.
    Extents = 4,
    /// The journal of operations.
    Journal = 5,
}

/// Names one submitted operation; never reused within one open of a store.
///
/// The owner is in the top byte, a serial number below it. A completion whose id is not in its
/// owner's table is late and is dropped: the serial is the generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(u64);

const OWNER_SHIFT: u32 = 56;

impl OpId {
    /// The `serial`-th operation of `owner`.
    ///
    /// # Panics
    ///
    /// If `serial` needs more than 56 bits.
    #[must_use]
    pub const fn new(owner: OpOwner, serial: u64) -> Self {
        assert!(serial >> OWNER_SHIFT == 0, "operation serials ran out");
        Self((owner as u64) << OWNER_SHIFT | serial)
    }

    /// Who submitted it.
    #[must_use]
    pub const fn owner(self) -> OpOwner {
        match self.0 >> OWNER_SHIFT {
            1 => OpOwner::Log,
            2 => OpOwner::Superblock,
            3 => OpOwner::BlockMap,
            4 => OpOwner::Extents,
            5 => OpOwner::Journal,
            _ => unreachable!(),
        }
    }

    /// The number within the owner.
    #[must_use]
    pub const fn serial(self) -> u64 {
        self.0 & ((1 << OWNER_SHIFT) - 1)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.owner(), self.serial())
    }
}

/// What a completed write means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteMode {
    /// The device has it, perhaps in a volatile cache: only a later flush makes it durable.
    Cached,
    /// Durable when it completes (a write with FUA, or O_DSYNC).
    Durable,
}

/// One request to a device. Offsets and lengths are multiples of 4096.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct DeviceOp {
    /// Comes back in the completion.
    pub id: OpId,
    /// Byte position in the store; 0 for a flush.
    pub offset: u64,
    /// What to do.
    pub kind: DeviceOpKind,
}

/// What to do. Buffers travel with the operation and are owned by it until it completes.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub enum DeviceOpKind {
    /// Fill the whole buffer.
    Read(PageBuf),
    /// Write the buffers one after the other.
    Write(Vec<Payload>, WriteMode),
    /// Make every write that completed before this was submitted durable.
    Flush,
    /// Let the device forget `length` bytes; what is read there afterwards is undefined.
    Discard {
        /// In bytes, a multiple of 4096.
        length: u64,
    },
}

impl DeviceOpKind {
    /// How many bytes of the store the operation covers.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Read(buffer) => buffer.as_slice().len() as u64,
            Self::Write(parts, _) => parts.iter().map(|part| part.len() as u64).sum(),
            Self::Flush => 0,
            Self::Discard { length } => *length,
        }
    }
}

/// What a completed operation gives back.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub enum DeviceOutcome {
    /// The filled buffer.
    Read(PageBuf),
    /// The whole write is in the device, as durable as its mode says.
    Written,
    /// Everything written before is durable.
    Flushed,
    /// The range may have been forgotten.
    Discarded,
}

/// One completion.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct DeviceDone {
    /// The operation's id.
    pub id: OpId,
    /// What came of it.
    pub result: Result<DeviceOutcome, DeviceError>,
}

/// Why an operation failed. Sticky for the store that asked: never retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device answered with an error number.
    #[error("the device failed with errno {errno}")]
    Errno {
        /// As the operating system numbers it.
        errno: i32,
    },
    /// The device has no room (ENOSPC).
    #[error("the device is full")]
    Full,
    /// The device stopped making progress within a request.
    #[error("the device moved {done} of {wanted} bytes and then no more")]
    Short {
        /// Bytes moved.
        done: u64,
        /// Bytes asked for.
        wanted: u64,
    },
    /// The operation lies outside the device.
    #[error("the request ends at byte {end} of a device of {size}")]
    OutOfRange {
        /// One past the last byte asked for.
        end: u64,
        /// The device's size in bytes.
        size: u64,
    },
    /// No completion within its deadline: the device hangs.
    #[error("the device did not answer in time")]
    Overdue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_id_names_its_owner() {
        for owner in [
            OpOwner::Log,
            OpOwner::Superblock,
            OpOwner::BlockMap,
            OpOwner::Extents,
            OpOwner::Journal,
        ] {
            let id = OpId::new(owner, 77);
            assert_eq!((id.owner(), id.serial()), (owner, 77));
        }
    }
}

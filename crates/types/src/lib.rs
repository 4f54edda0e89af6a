//! The vocabulary that every Moorline crate speaks.
//!
//! Arithmetic and `Display` only: nothing here acts, reads a clock or owns a thread.
//!
//! | file | holds |
//! |---|---|
//! | `lsn.rs` | [`Lsn`], [`LsnRange`] `(after, through]` |
//! | `epoch.rs` | [`Epoch`] {assignment, reign}, [`ConfigVersion`], [`EpochStart`] |
//! | `ids.rs` | volumes, servers, replicas, stores, boots, sessions |
//! | `time.rs` | [`Instant`], nanoseconds of a clock that the caller reads |
//! | `geometry.rs` | 4 KiB blocks and ranges of them |
//! | `given_up.rs` | [`GivenUp`]: records that a promotion gave up |
//! | `assignment.rs` | [`AssignmentLine`], [`Member`]: the newest recorded line about a volume; [`MasterRun`] |
//! | `openings.rs` | [`Openings`]: which boot made which opening of a store |
//! | `policy.rs` | [`Policy`], [`AckPoint`]: when a write may be acknowledged |
//! | `payload.rs` | [`PageBuf`], [`Payload`], [`BufferPool`]: aligned, pooled, shared bytes |
//! | `device_op.rs` | [`DeviceOp`], [`DeviceDone`]: what a store asks of its device |

#![forbid(unsafe_code)]

mod assignment;
mod device_op;
mod epoch;
mod geometry;
mod given_up;
mod ids;
mod lsn;
mod mutants;
mod openings;
mod payload;
mod policy;
mod time;

pub use assignment::{AssignmentLine, MasterRun, Member, NoQuorum, ParseNoQuorumError};
pub use device_op::{
    DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, OpId, OpOwner, WriteMode,
};
pub use epoch::{ConfigVersion, Epoch, EpochStart};
pub use geometry::{BLOCK_SIZE, BlockCount, BlockIndex, BlockRange, ByteCount};
pub use given_up::{GivenUp, GivenUpWhy, MARK_GIVEN_UP_MAX};
pub use ids::{
    BootId, ClusterId, IdError, OpenCount, ReplicaId, ServerId, SessionId, StoreId, VolumeId,
};
pub use lsn::{Lsn, LsnRange};
pub use openings::{Opening, Openings};
pub use payload::{BufferPool, PageBuf, Payload};
pub use policy::{AckPoint, ParsePolicyError, Policy};
pub use time::Instant;

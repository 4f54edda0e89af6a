//! Replication frames, control messages and their codec.
//!
//! Sans-IO: this crate turns messages into bytes and back; sockets are elsewhere.
//!
//! | file | holds |
//! |---|---|
//! | `message.rs` | [`Message`]: everything that may be said |
//! | `control.rs` | server and master, operator's command and master |
//! | `hello.rs` | the mutual authentication that begins every connection |

#![forbid(unsafe_code)]

pub mod control;
pub mod hello;
pub mod message;

pub use message::{
    Ack, Commit, Fetch, FetchBlock, FetchOutcome, Fetched, FetchedBlock, GivenUpRange, Handshake,
    ImageState, LastShutdown, LeaseAsked, LeaseGrant, LeaseGranted, LeaseRefusal, LeaseRefused,
    LeaseRequest, Message, NeedRecords, PayloadParts, PromiseRefusal, PromiseRefused,
    PromiseRequest, Promised, Records, Refused, RefusedReason, ReplicaFacts, StreamEndReason,
    StreamEnded, Truncate, TruncationRecorded, VolumeHeader, VolumeMessage, VoteClaim,
};

//! Replication frames, control messages and their codec.
//!
//! Sans-IO: [`encode`] gives the bytes of a [`Message`] as pieces for one vectored write, and a
//! [`Decoder`] is fed what a socket gives, payloads straight into aligned buffers. Bytes of a peer
//! yield typed errors, never a panic, and nothing is allocated before a length was checked.
//!
//! | file | holds |
//! |---|---|
//! | `message.rs` | [`Message`]: everything that may be said |
//! | `control.rs` | server and master, operator's command and master |
//! | `hello.rs` | [`Hello`]: the mutual authentication that begins every connection |
//! | `frame.rs` | the preamble of a frame, and the limits |
//! | `codec.rs` | messages to bytes and back |
//! | `decoder.rs` | [`Decoder`]: a stream of bytes to messages |
//! | `error.rs` | what can be wrong with bytes |
//! | `fuzz.rs` | the bodies of the fuzz targets (feature `fuzzing`) |

#![forbid(unsafe_code)]

mod codec;
pub mod control;
mod decoder;
mod error;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod hello;
pub mod message;
#[cfg(test)]
mod samples;

pub use codec::{LSN_MAX, encode};
pub use decoder::Decoder;
pub use error::{DecodeError, EncodeError};
pub use frame::{FRAME_VERSION, Kind, Limits, MAGIC, PREAMBLE_BYTES, Preamble};
pub use hello::Hello;
pub use message::{
    Ack, Commit, Fetch, FetchBlock, FetchOutcome, Fetched, FetchedBlock, Handshake, ImageState,
    LeaseAsked, LeaseGrant, LeaseGranted, LeaseRefusal, LeaseRefused, LeaseRequest, MemoryState,
    Message, NeedRecords, PayloadParts, PromiseRefusal, PromiseRefused, PromiseRequest, Promised,
    Records, Refused, RefusedReason, ReplicaFacts, StreamEndReason, StreamEnded, Truncate,
    TruncationRecorded, VolumeHeader, VolumeMessage, VoteClaim,
};

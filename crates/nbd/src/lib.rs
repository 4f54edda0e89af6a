//! The NBD server protocol, sans-IO: bytes in, requests out; answers in, bytes out.
//!
//! The caller owns the socket. It drives two machines, one after the other:
//!
//! ```text
//!  connected ──> Handshake ──Agreed(Negotiated)──> Session ──Ended──> finish what is in flight, close
//!                    │
//!                    └──Aborted / Refused──> send what is in `Outgoing`, close
//! ```
//!
//! 1. [`Handshake::start`] puts the greeting into an [`Outgoing`]; every read from the socket goes to
//!    [`Handshake::receive`], with an [`Exports`] that knows the volumes.
//! 2. [`Handshake::receive`] leaves in the input what the client sent after its last option: it belongs to the
//!    [`Session`] made from the [`Negotiated`] terms.
//! 3. [`Session::receive`] gives [`Request`]s, one at a time. For the payload of a write it asks for a
//!    buffer first ([`Progress::NeedBuffer`]), which is where a server holds a client back that has too
//!    much in flight; then the rest of the payload is read from the socket straight into
//!    [`Session::payload_space`]. An aligned write's buffer goes to the log as it is.
//! 4. Every [`Request`] carries a [`Responder`], which encodes its one answer, in any order. Reply
//!    data is shared, never copied: [`Outgoing`] is a [`bytes::Buf`] for vectored writes.
//!
//! What is wrong with a request is answered by the session itself, with the error that the protocol
//! names: out of bounds, read-only, unknown commands and flags, payloads beyond the limit. A
//! connection ends early only where the byte stream has lost its frame, or the protocol says so.
//!
//! | file | holds |
//! |---|---|
//! | `handshake.rs` `handshake/answer.rs` | [`Handshake`]: greeting and option haggling · what options are answered |
//! | `option.rs` | the layouts of option data |
//! | `session.rs` | [`Session`]: the byte stream of the transmission phase |
//! | `request.rs` | [`Request`], [`Command`]; what is accepted, and what is answered instead |
//! | `payload.rs` | [`WritePayload`]: a write's bytes, placed for read-modify-write |
//! | `reply.rs` | [`Responder`], [`ReadSegment`], [`Extent`]: one request's answer |
//! | `outgoing.rs` | [`Outgoing`]: bytes on their way to the client |
//! | `export.rs` | [`Export`], [`Exports`], [`Lookup`]: the back end |
//! | `limits.rs` `error.rs` `protocol.rs` | [`Limits`] · [`NbdError`] and why connections end · the numbers |

#![forbid(unsafe_code)]

mod error;
mod export;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gather;
mod handshake;
mod limits;
mod option;
mod outgoing;
mod payload;
mod protocol;
mod reply;
mod request;
mod session;

pub use error::{AnswerMismatch, HandshakeError, NbdError, SessionError};
pub use export::{Access, Export, Exports, ListedExport, Lookup, MultiConn};
pub use handshake::{Contexts, Handshake, HandshakeProgress, Negotiated, ReplyStyle};
pub use limits::Limits;
pub use outgoing::Outgoing;
pub use payload::WritePayload;
pub use protocol::{
    MAXIMUM_BLOCK_BYTES, MINIMUM_BLOCK_BYTES, PREFERRED_BLOCK_BYTES, REQUEST_HEADER_BYTES,
};
pub use reply::{Extent, ExtentState, ReadSegment, Responder};
pub use request::{Command, Cookie, ExtentsWanted, Holes, Persist, Request, Span, ZeroSpeed};
pub use session::{Progress, Session};

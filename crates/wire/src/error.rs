//! What can be wrong with bytes.

use crate::frame::Kind;

/// Bytes that are no message. The connection they came from is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a Moorline peer.
    #[error("the peer does not speak this protocol (a frame begins with {found:02x?})")]
    BadMagic {
        /// What came instead.
        found: [u8; 4],
    },
    /// A peer of another version.
    #[error("the peer speaks version {theirs} of the protocol, this program {ours}")]
    Version {
        /// The peer's.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// The fixed part of a frame was damaged on its way.
    #[error("a frame's preamble is damaged")]
    PreambleDamaged,
    /// No message has this kind.
    #[error("message kind {kind} is unknown")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// Flags that nobody sets.
    #[error("flags {flags:#04x} are unknown")]
    UnknownFlags {
        /// The flags.
        flags: u8,
    },
    /// A header longer than is allowed.
    #[error("a header of {bytes} bytes is over the limit of {max}")]
    HeaderTooLong {
        /// What was announced.
        bytes: u32,
        /// The limit.
        max: u32,
    },
    /// A payload longer than is allowed for the kind.
    #[error("a payload of {bytes} bytes is over the limit of {max} for {kind:?}")]
    PayloadTooLong {
        /// The kind.
        kind: Kind,
        /// What was announced.
        bytes: u32,
        /// The limit.
        max: u32,
    },
    /// A payload that is not whole blocks.
    #[error("a payload of {bytes} bytes is not whole blocks")]
    PayloadNotBlocks {
        /// What was announced.
        bytes: u32,
    },
    /// A header was damaged on its way.
    #[error("the header of a {kind:?} frame is damaged")]
    HeaderDamaged {
        /// The kind.
        kind: Kind,
    },
    /// A header of another length than its kind has.
    #[error("the header of a {kind:?} frame has {bytes} bytes, which does not fit")]
    HeaderLength {
        /// The kind.
        kind: Kind,
        /// Its length.
        bytes: usize,
    },
    /// A field that no honest peer sends.
    #[error("{field} of a {kind:?} frame cannot be")]
    BadField {
        /// The kind.
        kind: Kind,
        /// Which field.
        field: &'static str,
    },
    /// A header that does not decode.
    #[error("a {kind:?} message does not decode")]
    BadBody {
        /// The kind.
        kind: Kind,
        /// Where it went wrong.
        #[source]
        source: postcard::Error,
    },
    /// A control message that does not decode.
    #[error("a {kind:?} message does not decode")]
    BadJson {
        /// The kind.
        kind: Kind,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// An earlier frame of the connection was bad.
    #[error("an earlier frame was bad: the connection must be closed")]
    AfterError,
}

/// A message that no frame can carry: the caller must cut it into smaller ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// The header is too long.
    #[error("a header of {bytes} bytes is over the limit of {max}")]
    HeaderTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: u32,
    },
    /// The payload is too long.
    #[error("a payload of {bytes} bytes is over the limit of {max}")]
    PayloadTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: u32,
    },
}

//! What a client is told, and why connections end.

use thiserror::Error;

/// An error that NBD can carry to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NbdError {
    /// A change of a read-only export.
    #[error("operation not permitted")]
    Perm,
    /// The device failed, or what it holds is damaged.
    #[error("input/output error")]
    Io,
    /// No memory; a server should rather hold the client back.
    #[error("cannot allocate memory")]
    NoMem,
    /// A request that breaks the rules.
    #[error("invalid argument")]
    Inval,
    /// No room, or a write beyond the end of the export.
    #[error("no space left on device")]
    NoSpace,
    /// A read that is too long to be answered in one piece as its DF flag asks.
    #[error("value too large")]
    Overflow,
    /// A fast zeroing that would be no faster than a write.
    #[error("operation not supported")]
    NotSup,
    /// The server, or its reign over this export, is ending: the client should reconnect.
    #[error("server is shutting down")]
    Shutdown,
}

impl NbdError {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::NoMem => 12,
            Self::Inval => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }
}

/// Why a handshake ended without an agreement, beside the client's own ABORT.
///
/// What is in the [`Outgoing`](crate::Outgoing) is still sent; then the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HandshakeError {
    /// The client set flags that the server did not offer; the protocol demands a disconnect.
    #[error("unknown client flags {0:#010x}")]
    UnknownClientFlags(u32),
    /// What should be an option is not: the stream has lost its frame.
    #[error("bad option magic {0:#018x}")]
    BadOptionMagic(u64),
    /// An option other than EXPORT_NAME from a client that does not speak fixed newstyle.
    #[error("option {0} from a client without fixed newstyle")]
    FixedNewstyleRequired(u32),
    /// EXPORT_NAME, which has no error reply, with a name that is too long or not a string.
    #[error("malformed export name")]
    BadExportName,
    /// EXPORT_NAME, which has no error reply, for an export that is not here.
    #[error("export not available")]
    ExportUnavailable,
    /// EXPORT_NAME, which has no error reply, during a shutdown.
    #[error("server is shutting down")]
    ShuttingDown,
    /// Option data beyond what is worth skipping.
    #[error("option {option} with {length} bytes of data")]
    OptionTooLong {
        /// The option's number.
        option: u32,
        /// The length in its header, in bytes.
        length: u32,
    },
    /// The client haggles without end.
    #[error("more than {0} options")]
    TooManyOptions(u32),
    /// The handshake was over before these bytes came.
    #[error("handshake is over")]
    Over,
}

/// Why a session cannot go on.
///
/// Requests in flight may still be answered; then the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SessionError {
    /// What should be a request is not: the stream has lost its frame.
    #[error("bad request magic {0:#010x}")]
    BadMagic(u32),
    /// A write with a payload beyond what is worth skipping.
    #[error("write of {length} bytes")]
    PayloadTooLong {
        /// The length in its header, in bytes.
        length: u32,
    },
}

/// An answer that does not fit its request: a mistake of the server, not of the client.
///
/// The client was told [`NbdError::Io`] instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AnswerMismatch {
    /// The answer's kind is not the request's: data for a write, say.
    #[error("the request takes another kind of answer")]
    Kind,
    /// Read data that is shorter or longer than what was asked for.
    #[error("{got_bytes} bytes of data for a read of {want_bytes}")]
    Length {
        /// What was asked for, in bytes.
        want_bytes: u64,
        /// What was given, in bytes.
        got_bytes: u64,
    },
}

//! Requests: their header, and the judgement whether one is accepted or answered at once.

use std::fmt;

use moorline_types::BlockRange;

use crate::{
    error::{NbdError, SessionError},
    export::Access,
    handshake::{Contexts, Negotiated, ReplyStyle},
    limits::Limits,
    payload::WritePayload,
    protocol::{REQUEST_HEADER_BYTES, command_code, command_flag, magic},
    reply::{Pieces, Responder, Shape},
};

/// The client's name for a request; unique among those in flight on its connection, if the client
/// keeps the rules. Nothing here relies on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cookie(u64);

impl Cookie {
    pub(crate) const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The bytes `[offset, offset + length)` of an export; neither empty nor past its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    offset: u64,
    length: u32,
}

impl Span {
    /// The first byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// How many bytes.
    #[must_use]
    pub const fn length(self) -> u32 {
        self.length
    }

    /// The byte after the last one.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.length as u64
    }

    /// The 4 KiB blocks that the bytes touch.
    #[must_use]
    pub fn blocks(self) -> BlockRange {
        BlockRange::covering(self.offset, u64::from(self.length))
            .expect("a span of 32 bit length ends inside an export")
    }

    /// How many pages a buffer for these blocks has.
    pub(crate) fn pages(self) -> usize {
        usize::try_from(self.blocks().count()).expect("a block count fits memory")
    }
}

/// What a client asks for.
#[derive(Debug)]
pub enum Command {
    /// Read; answered with [`Responder::read`].
    Read(Span),
    /// Write; answered with [`Responder::done`], like all that follow but `BlockStatus`.
    Write {
        /// Where.
        span: Span,
        /// When it may be answered.
        persist: Persist,
        /// What.
        payload: WritePayload,
    },
    /// Make durable whatever was answered before, on any connection of a shared export.
    Flush,
    /// The bytes are not needed any more; what they read as is undefined.
    Trim {
        /// Where.
        span: Span,
        /// When it may be answered.
        persist: Persist,
    },
    /// The bytes read as zero from here on.
    WriteZeroes {
        /// Where.
        span: Span,
        /// When it may be answered.
        persist: Persist,
        /// Whether their space may be given back.
        holes: Holes,
        /// Whether it may be as slow as a write.
        speed: ZeroSpeed,
    },
    /// The bytes will be read soon.
    Cache(Span),
    /// Which bytes are allocated; answered with [`Responder::extents`].
    BlockStatus {
        /// Where; the answer begins with its first byte.
        span: Span,
        /// How much the client will look at.
        wanted: ExtentsWanted,
    },
}

impl Command {
    /// Bytes of memory that this request holds, or that its answer will: what a server counts against
    /// its bound on bytes in flight.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        match self {
            Self::Read(span) | Self::Write { span, .. } => span.blocks().bytes(),
            Self::Flush
            | Self::Trim { .. }
            | Self::WriteZeroes { .. }
            | Self::Cache(_)
            | Self::BlockStatus { .. } => 0,
        }
    }
}

/// When a change may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist {
    /// As the volume's policy says; a later FLUSH makes it durable.
    ByPolicy,
    /// Only when it is durable (FUA).
    BeforeAnswer,
}

/// Whether zeroed space may be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holes {
    /// It may.
    Allowed,
    /// It must stay allocated, so that later writes find room (NO_HOLE).
    Forbidden,
}

/// How fast a zeroing has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroSpeed {
    /// As fast as it goes.
    Any,
    /// Faster than a write of the same length, or else refused with [`NbdError::NotSup`] and nothing
    /// changed (FAST_ZERO).
    FasterThanWrite,
}

/// How many extents a client will look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentsWanted {
    /// As many as there are.
    All,
    /// The first (REQ_ONE).
    One,
}

/// One request, to be answered exactly once through its responder.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// How it is answered.
    pub responder: Responder,
}

/// A request's header, decoded and not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: Cookie,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Result<Self, SessionError> {
        let found = u32::from_be_bytes(field(bytes, 0));
        if found != magic::REQUEST {
            return Err(SessionError::BadMagic(found));
        }
        Ok(Self {
            flags: u16::from_be_bytes(field(bytes, 4)),
            command: u16::from_be_bytes(field(bytes, 6)),
            cookie: Cookie::new(u64::from_be_bytes(field(bytes, 8))),
            offset: u64::from_be_bytes(field(bytes, 16)),
            length: u32::from_be_bytes(field(bytes, 24)),
        })
    }

    /// Bytes that follow the header.
    pub(crate) const fn payload_bytes(&self) -> u32 {
        if self.command == command_code::WRITE {
            self.length
        } else {
            0
        }
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

fn field<const N: usize>(bytes: &[u8; REQUEST_HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("fields lie inside the header")
}

/// What requests are judged by.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) negotiated: Negotiated,
    pub(crate) limits: Limits,
    pub(crate) admission: Admission,
}

/// Whether requests are taken at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Open,
    ShuttingDown,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes to the server.
    Accept(Command, Responder),
    /// It goes to the server once its payload is here.
    AcceptWrite(Span, Persist, Responder),
    /// It is about no byte at all: done.
    Nothing,
    /// It is answered with an error.
    Refuse(Refusal),
    /// The client says good-bye.
    Disconnect,
}

/// An error and its explanation for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) error: NbdError,
    pub(crate) message: &'static str,
}

const fn refuse<T>(error: NbdError, message: &'static str) -> Result<T, Refusal> {
    Err(Refusal { error, message })
}

impl Terms {
    pub(crate) fn judge(&self, header: &Header) -> Verdict {
        if header.command == command_code::DISC {
            return Verdict::Disconnect;
        }
        match self.weigh(header) {
            Ok(verdict) => verdict,
            Err(refusal) => Verdict::Refuse(refusal),
        }
    }

    fn weigh(&self, header: &Header) -> Result<Verdict, Refusal> {
        if self.admission == Admission::ShuttingDown {
            return refuse(NbdError::Shutdown, "server is shutting down");
        }
        if header.flags & !self.allowed_flags(header.command)? != 0 {
            return refuse(
                NbdError::Inval,
                "command flag is unknown, or does not apply here",
            );
        }
        self.check_permission(header.command)?;
        if header.command == command_code::FLUSH {
            if header.offset != 0 || header.length != 0 {
                return refuse(NbdError::Inval, "a flush takes no offset and no length");
            }
            let responder = self.responder(header, Shape::Done);
            return Ok(Verdict::Accept(Command::Flush, responder));
        }
        self.check_length(header)?;
        let span = self.check_bounds(header)?;
        if span.length == 0 {
            return if header.command == command_code::BLOCK_STATUS {
                refuse(NbdError::Inval, "block status of no bytes")
            } else {
                Ok(Verdict::Nothing)
            };
        }
        Ok(self.accept(header, span))
    }

    /// The flags that may come with `command`. FUA is allowed everywhere, and means something only
    /// where something is written.
    fn allowed_flags(&self, command: u16) -> Result<u16, Refusal> {
        let own = match command {
            command_code::READ => match self.negotiated.replies {
                ReplyStyle::Structured => command_flag::DF,
                ReplyStyle::Simple => 0,
            },
            command_code::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            command_code::BLOCK_STATUS => command_flag::REQ_ONE,
            command_code::WRITE
            | command_code::FLUSH
            | command_code::TRIM
            | command_code::CACHE => 0,
            _ => return refuse(NbdError::Inval, "command is not known"),
        };
        Ok(own | command_flag::FUA)
    }

    fn check_permission(&self, command: u16) -> Result<(), Refusal> {
        let changes = matches!(
            command,
            command_code::WRITE | command_code::TRIM | command_code::WRITE_ZEROES
        );
        if changes && self.negotiated.export.access == Access::ReadOnly {
            return refuse(NbdError::Perm, "export is read-only");
        }
        let unselected = self.negotiated.contexts == Contexts::Unselected;
        if command == command_code::BLOCK_STATUS && unselected {
            return refuse(NbdError::Inval, "no metadata context was selected");
        }
        Ok(())
    }

    fn check_length(&self, header: &Header) -> Result<(), Refusal> {
        let most = match header.command {
            command_code::READ | command_code::WRITE | command_code::CACHE => {
                self.limits.request_bytes_max
            }
            command_code::TRIM | command_code::WRITE_ZEROES => self.limits.range_bytes_max,
            // Block status: the answer may be shorter than the question.
            _ => u32::MAX,
        };
        if header.length > most {
            return refuse(
                NbdError::Inval,
                "request is longer than the maximum block size",
            );
        }
        Ok(())
    }

    fn check_bounds(&self, header: &Header) -> Result<Span, Refusal> {
        let end = header.offset.checked_add(u64::from(header.length));
        if end.is_none_or(|end| end > self.negotiated.export.size_bytes) {
            let grows = matches!(
                header.command,
                command_code::WRITE | command_code::WRITE_ZEROES
            );
            let error = if grows {
                NbdError::NoSpace
            } else {
                NbdError::Inval
            };
            return refuse(error, "request goes beyond the end of the export");
        }
        Ok(Span {
            offset: header.offset,
            length: header.length,
        })
    }

    fn accept(&self, header: &Header, span: Span) -> Verdict {
        let persist = if header.has(command_flag::FUA) {
            Persist::BeforeAnswer
        } else {
            Persist::ByPolicy
        };
        let (command, shape) = match header.command {
            command_code::READ => {
                let pieces = if header.has(command_flag::DF) {
                    Pieces::One
                } else {
                    Pieces::Many
                };
                (Command::Read(span), Shape::Read { span, pieces })
            }
            command_code::WRITE => {
                let responder = self.responder(header, Shape::Done);
                return Verdict::AcceptWrite(span, persist, responder);
            }
            command_code::TRIM => (Command::Trim { span, persist }, Shape::Done),
            command_code::CACHE => (Command::Cache(span), Shape::Done),
            command_code::WRITE_ZEROES => self.accept_zeroes(header, span, persist),
            // What is left: judged by `allowed_flags`.
            _ => {
                let wanted = if header.has(command_flag::REQ_ONE) {
                    ExtentsWanted::One
                } else {
                    ExtentsWanted::All
                };
                let shape = Shape::Extents {
                    span,
                    export_bytes: self.negotiated.export.size_bytes,
                    extents_max: match wanted {
                        ExtentsWanted::One => 1,
                        ExtentsWanted::All => self.limits.extents_max,
                    },
                    wanted,
                };
                (Command::BlockStatus { span, wanted }, shape)
            }
        };
        Verdict::Accept(command, self.responder(header, shape))
    }

    fn accept_zeroes(&self, header: &Header, span: Span, persist: Persist) -> (Command, Shape) {
        let holes = if header.has(command_flag::NO_HOLE) {
            Holes::Forbidden
        } else {
            Holes::Allowed
        };
        let (speed, shape) = if header.has(command_flag::FAST_ZERO) {
            (ZeroSpeed::FasterThanWrite, Shape::FastZero)
        } else {
            (ZeroSpeed::Any, Shape::Done)
        };
        let command = Command::WriteZeroes {
            span,
            persist,
            holes,
            speed,
        };
        (command, shape)
    }

    /// A responder in this session's style.
    pub(crate) fn responder(&self, header: &Header, shape: Shape) -> Responder {
        Responder::new(header.cookie, self.negotiated.replies, shape)
    }
}

//! Replies: one request's answer, encoded into headers and shared data.
//!
//! Without structured replies an answer is a number, and for a read the data after it. With them, reads,
//! block status and all errors are chunks; what has neither data nor error stays a simple reply,
//! as the protocol allows, because it is the shorter one.

use bytes::Bytes;

use crate::{
    error::{AnswerMismatch, NbdError},
    handshake::{ReplyStyle, clipped},
    outgoing::Outgoing,
    protocol::{BASE_ALLOCATION_ID, extent_flag, magic, reply_flag, reply_type},
    request::{Cookie, ExtentsWanted, Span},
};

/// A run of bytes in the answer to a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadSegment {
    /// These bytes.
    Data(Bytes),
    /// This many zero bytes.
    Zeroes(u32),
}

impl ReadSegment {
    fn length(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zeroes(length) => u64::from(*length),
        }
    }
}

/// A run of bytes in the answer to BLOCK_STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How many bytes.
    pub length_bytes: u64,
    /// What is there.
    pub state: ExtentState,
}

/// What the volume knows about a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentState {
    /// Allocated; holds data.
    Data,
    /// Allocated, and reads as zero.
    Zero,
    /// Not allocated; reads as zero.
    Hole,
}

impl ExtentState {
    const fn flags(self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Zero => extent_flag::ZERO,
            Self::Hole => extent_flag::HOLE | extent_flag::ZERO,
        }
    }
}

/// Answers one request, once.
///
/// Answers go into the [`Outgoing`] of the request's own connection, in any order. Dropping a
/// responder leaves its request without an answer, which is right only when the connection is gone.
#[derive(Debug)]
#[must_use = "a request has to be answered"]
pub struct Responder {
    cookie: Cookie,
    replies: ReplyStyle,
    shape: Shape,
}

/// What kind of answer a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Done,
    /// As `Done`, and may fail for being slow.
    FastZero,
    Read {
        span: Span,
        pieces: Pieces,
    },
    Extents {
        span: Span,
        export_bytes: u64,
        extents_max: usize,
        wanted: ExtentsWanted,
    },
}

/// Into how many content chunks a read's answer may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pieces {
    Many,
    /// The DF flag.
    One,
}

impl Responder {
    pub(crate) fn new(cookie: Cookie, replies: ReplyStyle, shape: Shape) -> Self {
        Self {
            cookie,
            replies,
            shape,
        }
    }

    /// The request's name.
    #[must_use]
    pub fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Answers that a WRITE, FLUSH, TRIM, WRITE_ZEROES or CACHE is done.
    ///
    /// # Errors
    ///
    /// If the request takes another kind of answer; the client is told EIO.
    pub fn done(self, out: &mut Outgoing) -> Result<(), AnswerMismatch> {
        match self.shape {
            Shape::Done | Shape::FastZero => {
                self.simple(0, out);
                Ok(())
            }
            Shape::Read { .. } | Shape::Extents { .. } => {
                Err(self.mismatch(AnswerMismatch::Kind, out))
            }
        }
    }

    /// Answers a request about no bytes at all, of whatever kind.
    pub(crate) fn nothing(self, is_read: bool, out: &mut Outgoing) {
        match self.replies {
            ReplyStyle::Structured if is_read => {
                self.chunk(reply_flag::DONE, reply_type::NONE, 0, out);
            }
            ReplyStyle::Structured | ReplyStyle::Simple => self.simple(0, out),
        }
    }

    /// Answers a READ with its bytes, in order from the first.
    ///
    /// # Errors
    ///
    /// If the request is no read, or the segments are not as long as it; the client is told EIO.
    pub fn read(self, segments: &[ReadSegment], out: &mut Outgoing) -> Result<(), AnswerMismatch> {
        let Shape::Read { span, pieces } = self.shape else {
            return Err(self.mismatch(AnswerMismatch::Kind, out));
        };
        let want_bytes = u64::from(span.length());
        let got_bytes: u64 = segments.iter().map(ReadSegment::length).sum();
        if got_bytes != want_bytes {
            let mismatch = AnswerMismatch::Length {
                want_bytes,
                got_bytes,
            };
            return Err(self.mismatch(mismatch, out));
        }
        match self.replies {
            ReplyStyle::Simple => {
                self.simple(0, out);
                put_all(segments, out);
            }
            ReplyStyle::Structured => self.read_chunks(span, pieces, segments, out),
        }
        Ok(())
    }

    /// Answers BLOCK_STATUS with extents, in order from the first byte of the request.
    ///
    /// They may end before the request does, or reach beyond it; neighbours that are alike are
    /// merged. None at all says "data" of the whole request, which is always true enough.
    ///
    /// # Errors
    ///
    /// If the request is no BLOCK_STATUS; the client is told EIO.
    pub fn extents(
        self,
        extents: impl IntoIterator<Item = Extent>,
        out: &mut Outgoing,
    ) -> Result<(), AnswerMismatch> {
        let Shape::Extents {
            span,
            export_bytes,
            extents_max,
            wanted,
        } = self.shape
        else {
            return Err(self.mismatch(AnswerMismatch::Kind, out));
        };
        let room_bytes = match wanted {
            ExtentsWanted::One => u64::from(span.length()),
            ExtentsWanted::All => export_bytes - span.offset(),
        };
        let extents = merged(span, extents_max, room_bytes, extents);
        let length = u32::try_from(4 + 8 * extents.len()).expect("extents are few");
        self.chunk(reply_flag::DONE, reply_type::BLOCK_STATUS, length, out);
        out.copy(&BASE_ALLOCATION_ID.to_be_bytes());
        for (length, state) in extents {
            out.copy(&length.to_be_bytes());
            out.copy(&state.flags().to_be_bytes());
        }
        Ok(())
    }

    /// Answers with an error. The message is for people, and reaches those whose client negotiated
    /// structured replies.
    pub fn fail(self, error: NbdError, message: &str, out: &mut Outgoing) {
        self.error(error, None, message, out);
    }

    /// Answers with an error at byte `offset` of the export, inside the request.
    ///
    /// An offset outside the request, or a request that has none, makes it a plain error.
    pub fn fail_at(self, error: NbdError, offset: u64, message: &str, out: &mut Outgoing) {
        let inside = match self.shape {
            Shape::Read { span, .. } | Shape::Extents { span, .. } => {
                (span.offset()..span.end()).contains(&offset)
            }
            Shape::Done | Shape::FastZero => false,
        };
        self.error(error, inside.then_some(offset), message, out);
    }

    fn error(&self, error: NbdError, offset: Option<u64>, message: &str, out: &mut Outgoing) {
        let code = self.permitted(error).code();
        if self.replies == ReplyStyle::Simple {
            return self.simple(code, out);
        }
        let message = clipped(message);
        let (kind, tail) = match offset {
            None => (reply_type::ERROR, 0),
            Some(_) => (reply_type::ERROR_OFFSET, 8),
        };
        let message_bytes = u16::try_from(message.len()).expect("clipped to 4096 bytes");
        let length = 6 + u32::from(message_bytes) + tail;
        self.chunk(reply_flag::DONE, kind, length, out);
        out.copy(&code.to_be_bytes());
        out.copy(&message_bytes.to_be_bytes());
        out.copy(message.as_bytes());
        if let Some(offset) = offset {
            out.copy(&offset.to_be_bytes());
        }
    }

    /// Two errors are reserved for the one request each that they were made for.
    fn permitted(&self, error: NbdError) -> NbdError {
        match (error, self.shape) {
            (NbdError::NotSup, Shape::FastZero)
            | (
                NbdError::Overflow,
                Shape::Read {
                    pieces: Pieces::One,
                    ..
                },
            ) => error,
            (NbdError::NotSup | NbdError::Overflow, _) => NbdError::Inval,
            (
                NbdError::Perm
                | NbdError::Io
                | NbdError::NoMem
                | NbdError::Inval
                | NbdError::NoSpace
                | NbdError::Shutdown,
                _,
            ) => error,
        }
    }

    fn mismatch(self, mismatch: AnswerMismatch, out: &mut Outgoing) -> AnswerMismatch {
        self.error(
            NbdError::Io,
            None,
            "internal error: the answer does not fit the request",
            out,
        );
        mismatch
    }

    fn read_chunks(
        &self,
        span: Span,
        pieces: Pieces,
        segments: &[ReadSegment],
        out: &mut Outgoing,
    ) {
        let mut offset = span.offset();
        for run in runs(segments, pieces) {
            let length: u64 = run.iter().map(ReadSegment::length).sum();
            let length32 = u32::try_from(length).expect("no longer than the request");
            // All bytes are in hand, so nothing can fail after the last chunk's header.
            let flags = if offset + length == span.end() {
                reply_flag::DONE
            } else {
                0
            };
            if run.iter().all(is_zeroes) {
                self.chunk(flags, reply_type::OFFSET_HOLE, 12, out);
                out.copy(&offset.to_be_bytes());
                out.copy(&length32.to_be_bytes());
            } else {
                self.chunk(flags, reply_type::OFFSET_DATA, 8 + length32, out);
                out.copy(&offset.to_be_bytes());
                put_all(run, out);
            }
            offset += length;
        }
    }

    fn simple(&self, code: u32, out: &mut Outgoing) {
        out.copy(&magic::SIMPLE_REPLY.to_be_bytes());
        out.copy(&code.to_be_bytes());
        out.copy(&self.cookie.get().to_be_bytes());
    }

    fn chunk(&self, flags: u16, kind: u16, length: u32, out: &mut Outgoing) {
        out.copy(&magic::STRUCTURED_REPLY.to_be_bytes());
        out.copy(&flags.to_be_bytes());
        out.copy(&kind.to_be_bytes());
        out.copy(&self.cookie.get().to_be_bytes());
        out.copy(&length.to_be_bytes());
    }
}

fn is_zeroes(segment: &ReadSegment) -> bool {
    matches!(segment, ReadSegment::Zeroes(_))
}

/// The segments as the chunks that they become: neighbours of one kind go together, or all do.
/// None of the runs is empty.
fn runs(segments: &[ReadSegment], pieces: Pieces) -> impl Iterator<Item = &[ReadSegment]> {
    segments
        .chunk_by(move |a, b| match pieces {
            Pieces::One => true,
            Pieces::Many => is_zeroes(a) == is_zeroes(b),
        })
        .filter(|run| run.iter().any(|segment| segment.length() > 0))
}

fn put_all(segments: &[ReadSegment], out: &mut Outgoing) {
    for segment in segments {
        match segment {
            ReadSegment::Data(bytes) => out.share(bytes.clone()),
            ReadSegment::Zeroes(length) => {
                out.zeroes(usize::try_from(*length).expect("a length fits memory"));
            }
        }
    }
}

/// Extents as they are sent: at most `extents_max`, none empty, the last one cut at `room_bytes` from
/// the first byte.
///
/// All but the last end inside the request, because nothing is taken once it is covered.
fn merged(
    span: Span,
    extents_max: usize,
    room_bytes: u64,
    extents: impl IntoIterator<Item = Extent>,
) -> Vec<(u32, ExtentState)> {
    /// What one descriptor can say, in whole blocks.
    const LENGTH_MAX: u64 = (u32::MAX - 4095) as u64;
    let mut taken: Vec<(u64, ExtentState)> = Vec::new();
    let mut covered = 0_u64;
    for extent in extents {
        let length = extent.length_bytes.min(room_bytes - covered);
        if length == 0 {
            continue;
        }
        let full = taken.len() == extents_max;
        match taken.last_mut() {
            Some((last, state)) if *state == extent.state => *last += length,
            Some(_) | None if full => break,
            Some(_) | None => taken.push((length, extent.state)),
        }
        covered += length;
        if covered >= u64::from(span.length()) {
            break;
        }
    }
    if taken.is_empty() {
        taken.push((u64::from(span.length()), ExtentState::Data));
    }
    // What follows an extent that had to be cut would lie at the wrong place.
    if let Some(cut) = taken.iter().position(|(length, _)| *length > LENGTH_MAX) {
        taken.truncate(cut + 1);
        taken[cut].0 = LENGTH_MAX;
    }
    let narrow = |length| u32::try_from(length).expect("cut to what fits");
    taken
        .into_iter()
        .map(|(length, state)| (narrow(length), state))
        .collect()
}

//! A stream of bytes to messages.

use bytes::Bytes;
use moorline_types::{BufferPool, PageBuf, Payload};

use crate::{
    codec::decode_message,
    error::DecodeError,
    frame::{Kind, Limits, PREAMBLE_BYTES, Preamble},
    message::Message,
};

/// Bytes read ahead of the frame at hand. What of a payload lands here is copied once more, so it is
/// small; several small frames still come with one read.
const AHEAD_BYTES: usize = 16 << 10;

/// Turns what a socket gives into messages.
///
/// The driver's loop: call [`Decoder::next`] until it has no more, then read into
/// [`Decoder::spare`] (one `readv` of both pieces is best), tell [`Decoder::filled`] how much came,
/// and begin again. A payload is read straight into the aligned buffer that goes to the log.
#[derive(Debug)]
pub struct Decoder {
    pool: BufferPool,
    limits: Limits,
    ahead: Vec<u8>,
    /// The unread bytes of `ahead`: `[start, end)`.
    start: usize,
    end: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Preamble,
    Header(Preamble),
    Payload {
        kind: Kind,
        header: Bytes,
        buffer: PageBuf,
        filled: usize,
    },
    Failed,
}

impl Decoder {
    /// A decoder at the beginning of a connection; payloads come from `pool`.
    #[must_use]
    pub fn new(pool: BufferPool, limits: Limits) -> Self {
        Self {
            pool,
            limits,
            ahead: vec![0; AHEAD_BYTES],
            start: 0,
            end: 0,
            state: State::Preamble,
        }
    }

    /// Allows more, or less, from the next frame on: after the hello, [`Limits::MEMBER`].
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next whole message; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// When the bytes are no message. Every later call then says so too.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end for good at the first `None`"
    )]
    pub fn next(&mut self) -> Result<Option<Message>, DecodeError> {
        let result = self.step();
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn step(&mut self) -> Result<Option<Message>, DecodeError> {
        loop {
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Failed => return Err(DecodeError::AfterError),
                State::Preamble => {
                    let Some(bytes) = self.buffered().first_chunk::<PREAMBLE_BYTES>() else {
                        self.state = State::Preamble;
                        self.make_room(PREAMBLE_BYTES);
                        return Ok(None);
                    };
                    let preamble = Preamble::from_bytes(bytes, self.limits)?;
                    self.start += PREAMBLE_BYTES;
                    self.state = State::Header(preamble);
                }
                State::Header(preamble) => {
                    let length = preamble.header_bytes as usize;
                    if self.buffered().len() < length {
                        self.state = State::Header(preamble);
                        self.make_room(length);
                        return Ok(None);
                    }
                    let header = self.take_header(preamble, length)?;
                    let Some(state) = self.begin_payload(preamble, header.clone()) else {
                        self.state = State::Preamble;
                        return decode_message(preamble.kind, &header, Payload::empty()).map(Some);
                    };
                    self.state = state;
                }
                State::Payload {
                    kind,
                    header,
                    buffer,
                    filled,
                } => {
                    if filled < buffer.as_slice().len() {
                        self.state = State::Payload {
                            kind,
                            header,
                            buffer,
                            filled,
                        };
                        self.make_room(PREAMBLE_BYTES);
                        return Ok(None);
                    }
                    self.state = State::Preamble;
                    return decode_message(kind, &header, buffer.freeze()).map(Some);
                }
            }
        }
    }

    fn take_header(&mut self, preamble: Preamble, length: usize) -> Result<Bytes, DecodeError> {
        let header = &self.ahead[self.start..self.start + length];
        if crc32fast::hash(header) != preamble.header_crc {
            return Err(DecodeError::HeaderDamaged {
                kind: preamble.kind,
            });
        }
        let header = Bytes::copy_from_slice(header);
        self.start += length;
        Ok(header)
    }

    /// The state in which the frame's payload is read, what was read ahead of it taken over; `None`
    /// when it has none.
    fn begin_payload(&mut self, preamble: Preamble, header: Bytes) -> Option<State> {
        let length = preamble.payload_bytes as usize;
        if length == 0 {
            return None;
        }
        let mut buffer = self.pool.dirty(length / moorline_types::BLOCK_SIZE);
        let filled = self.buffered().len().min(length);
        buffer.as_mut_slice()[..filled].copy_from_slice(&self.buffered()[..filled]);
        self.start += filled;
        Some(State::Payload {
            kind: preamble.kind,
            header,
            buffer,
            filled,
        })
    }

    fn buffered(&self) -> &[u8] {
        &self.ahead[self.start..self.end]
    }

    /// Moves the unread bytes to the front and makes room for `needed` bytes, read ones included.
    fn make_room(&mut self, needed: usize) {
        self.ahead.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let wanted = needed.max(AHEAD_BYTES);
        if self.ahead.len() != wanted && self.end <= wanted {
            self.ahead.resize(wanted, 0);
            self.ahead.shrink_to(AHEAD_BYTES);
        }
    }

    /// Where the next bytes go, in this order: the rest of a payload (empty when none is awaited),
    /// and what follows. After [`Decoder::next`] had no more, at least one of them has room.
    #[must_use]
    pub fn spare(&mut self) -> [&mut [u8]; 2] {
        let rest = match &mut self.state {
            State::Payload { buffer, filled, .. } => &mut buffer.as_mut_slice()[*filled..],
            State::Preamble | State::Header(_) | State::Failed => &mut [],
        };
        [rest, &mut self.ahead[self.end..]]
    }

    /// Tells that `count` bytes were put into [`Decoder::spare`], the first piece filled first.
    ///
    /// # Panics
    ///
    /// If there was no room for so many.
    pub fn filled(&mut self, count: usize) {
        let mut rest = count;
        if let State::Payload { buffer, filled, .. } = &mut self.state {
            let taken = rest.min(buffer.as_slice().len() - *filled);
            *filled += taken;
            rest -= taken;
        }
        self.end += rest;
        assert!(
            self.end <= self.ahead.len(),
            "more was filled in than there was room"
        );
    }

    /// Whether the stream may end here: no frame is half read.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Preamble) && self.start == self.end
    }
}

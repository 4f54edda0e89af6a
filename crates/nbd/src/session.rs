//! The transmission phase: the stream of requests.
//!
//! ```text
//!           ┌───────────── refused or without payload: answered, or given out ───────────────┐
//!           v                                                                                │
//!  ──> Header ──write──> AwaitingBuffer ──supply──> Payload ──filled──> Request ──> Header   │
//!           ├──refused write──> Skipping ──skipped, answered─────────────────────────────────┤
//!           └──DISC──> Disconnected        └──lost frame──> Broken                           │
//! ```

use moorline_types::PageBuf;

use crate::{
    error::SessionError,
    gather::{Gather, skip},
    handshake::Negotiated,
    limits::Limits,
    outgoing::Outgoing,
    payload::WritePayload,
    protocol::{REQUEST_HEADER_BYTES, command_code},
    reply::{Responder, Shape},
    request::{Admission, Command, Header, Persist, Refusal, Request, Span, Terms, Verdict},
};

/// Where a session stands after some input.
#[derive(Debug)]
#[must_use]
pub enum Progress {
    /// All input was taken; more is needed, best read into [`Session::payload_space`] if there is any.
    NeedInput,
    /// A write is coming: nothing more is taken until [`Session::supply`] was called.
    NeedBuffer {
        /// How many pages the buffer has to have.
        pages: usize,
    },
    /// A request to be answered. There may be more in the input.
    Request(Request),
    /// The client said good-bye: answer what is in flight, send it, then close.
    Disconnected,
    /// There is no way on: answer what is in flight if that is still possible, then close.
    Broken(SessionError),
}

/// One connection's transmission phase, server side.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    state: State,
}

#[derive(Debug)]
enum State {
    Header(Gather<REQUEST_HEADER_BYTES>),
    AwaitingBuffer(ComingWrite),
    Payload {
        write: ComingWrite,
        payload: WritePayload,
        filled: usize,
    },
    /// Inside the payload of a refused write.
    Skipping {
        left: u32,
        responder: Responder,
        refusal: Refusal,
    },
    Disconnected,
    Broken(SessionError),
}

/// A write that was accepted and whose payload is not all here.
#[derive(Debug)]
struct ComingWrite {
    span: Span,
    persist: Persist,
    responder: Responder,
}

impl ComingWrite {
    fn complete(self, payload: WritePayload) -> Request {
        Request {
            command: Command::Write {
                span: self.span,
                persist: self.persist,
                payload,
            },
            responder: self.responder,
        }
    }
}

impl State {
    const fn header() -> Self {
        Self::Header(Gather::new())
    }
}

impl Session {
    /// Begins the transmission phase on the terms of a handshake.
    ///
    /// # Panics
    ///
    /// If `limits` contradict themselves; see [`Limits::assert_sound`].
    #[must_use]
    pub fn new(negotiated: Negotiated, limits: Limits) -> Self {
        limits.assert_sound();
        Self {
            terms: Terms {
                negotiated,
                limits,
                admission: Admission::Open,
            },
            state: State::header(),
        }
    }

    /// What was agreed on.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.terms.negotiated
    }

    /// From here on new requests are answered with ESHUTDOWN. A write whose payload is already
    /// coming is still given out.
    pub fn shut_down(&mut self) {
        self.terms.admission = Admission::ShuttingDown;
    }

    /// Takes bytes from the front of `input`, up to the end of one request.
    ///
    /// What it answers by itself goes into `out`. Call it until it needs input, with what is left of
    /// the input; a caller that bounds its memory looks at `out` before it reads on.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut Outgoing) -> Progress {
        loop {
            match &mut self.state {
                State::Header(header) => {
                    let Some(bytes) = header.take(input) else {
                        return Progress::NeedInput;
                    };
                    if let Some(request) = self.begin(&bytes, out) {
                        return Progress::Request(request);
                    }
                }
                State::AwaitingBuffer(write) => {
                    let pages = write.span.pages();
                    return Progress::NeedBuffer { pages };
                }
                State::Payload {
                    payload, filled, ..
                } => {
                    let space = &mut payload.bytes_mut()[*filled..];
                    let (taken, rest) = input.split_at(space.len().min(input.len()));
                    space[..taken.len()].copy_from_slice(taken);
                    *input = rest;
                    return match self.payload_filled(taken.len()) {
                        Some(request) => Progress::Request(request),
                        None => Progress::NeedInput,
                    };
                }
                State::Skipping { left, .. } => {
                    *left = skip(input, *left);
                    if *left > 0 {
                        return Progress::NeedInput;
                    }
                    self.end_skipping(out);
                }
                State::Disconnected => return Progress::Disconnected,
                State::Broken(error) => return Progress::Broken(*error),
            }
        }
    }

    /// How many bytes complete the header that is being read; 0 inside a payload.
    ///
    /// Whoever reads no more than that from the socket has every payload byte read in place.
    #[must_use]
    pub fn header_bytes_missing(&self) -> usize {
        match &self.state {
            State::Header(header) => header.missing(),
            State::AwaitingBuffer(_)
            | State::Payload { .. }
            | State::Skipping { .. }
            | State::Disconnected
            | State::Broken(_) => 0,
        }
    }

    /// Gives the buffer that [`Progress::NeedBuffer`] asked for; its content does not matter.
    ///
    /// # Panics
    ///
    /// If none was asked for, or of another size.
    pub fn supply(&mut self, buffer: PageBuf) {
        match std::mem::replace(&mut self.state, State::header()) {
            State::AwaitingBuffer(write) => {
                let payload = WritePayload::new(buffer, write.span);
                self.state = State::Payload {
                    write,
                    payload,
                    filled: 0,
                };
            }
            State::Header(_)
            | State::Payload { .. }
            | State::Skipping { .. }
            | State::Disconnected
            | State::Broken(_) => panic!("no buffer was asked for"),
        }
    }

    /// Where the next bytes from the socket belong; `None` outside a payload. Never empty.
    #[must_use]
    pub fn payload_space(&mut self) -> Option<&mut [u8]> {
        match &mut self.state {
            State::Payload {
                payload, filled, ..
            } => Some(&mut payload.bytes_mut()[*filled..]),
            State::Header(_)
            | State::AwaitingBuffer(_)
            | State::Skipping { .. }
            | State::Disconnected
            | State::Broken(_) => None,
        }
    }

    /// Notes that the first `count` bytes of [`Session::payload_space`] were read from the socket;
    /// gives the request once its payload is whole.
    ///
    /// # Panics
    ///
    /// If there is no such space, or it is smaller.
    pub fn payload_filled(&mut self, count: usize) -> Option<Request> {
        match std::mem::replace(&mut self.state, State::header()) {
            State::Payload {
                write,
                payload,
                filled,
            } => {
                let filled = filled + count;
                let whole = payload.bytes().len();
                assert!(filled <= whole, "more was read than there is space for");
                if filled == whole {
                    return Some(write.complete(payload));
                }
                self.state = State::Payload {
                    write,
                    payload,
                    filled,
                };
                None
            }
            State::Header(_)
            | State::AwaitingBuffer(_)
            | State::Skipping { .. }
            | State::Disconnected
            | State::Broken(_) => panic!("there is no payload space"),
        }
    }

    /// Acts on a whole header.
    fn begin(&mut self, bytes: &[u8; REQUEST_HEADER_BYTES], out: &mut Outgoing) -> Option<Request> {
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(error) => {
                self.state = State::Broken(error);
                return None;
            }
        };
        match self.terms.judge(&header) {
            Verdict::Accept(command, responder) => return Some(Request { command, responder }),
            Verdict::AcceptWrite(span, persist, responder) => {
                self.state = State::AwaitingBuffer(ComingWrite {
                    span,
                    persist,
                    responder,
                });
            }
            Verdict::Nothing => {
                let is_read = header.command == command_code::READ;
                self.terms
                    .responder(&header, Shape::Done)
                    .nothing(is_read, out);
            }
            Verdict::Refuse(refusal) => self.refuse(&header, refusal),
            Verdict::Disconnect => self.state = State::Disconnected,
        }
        None
    }

    /// Refuses a request; a write's payload has to go by first.
    fn refuse(&mut self, header: &Header, refusal: Refusal) {
        let left = header.payload_bytes();
        self.state = if left > self.terms.limits.write_skip_bytes_max {
            State::Broken(SessionError::PayloadTooLong { length: left })
        } else {
            State::Skipping {
                left,
                responder: self.terms.responder(header, Shape::Done),
                refusal,
            }
        };
    }

    fn end_skipping(&mut self, out: &mut Outgoing) {
        if let State::Skipping {
            responder, refusal, ..
        } = std::mem::replace(&mut self.state, State::header())
        {
            responder.fail(refusal.error, refusal.message, out);
        }
    }
}

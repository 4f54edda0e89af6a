//! One NBD connection.
//!
//! ```text
//!  Haggling ──agreed──> Attached ──DISC, bad bytes──> Leaving ──all answered and sent──> ended
//! ```
//!
//! Requests are read ahead as far as the limits allow and given to the node at once, many with one
//! system call; answers of one batch leave with one. Nothing here waits: a client that is held back
//! has its bytes kept, and its socket is not read until there is room.

use std::{
    io::{IoSlice, IoSliceMut},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Buf;
use moorline_nbd::{
    Handshake, HandshakeProgress, Limits, Negotiated, Outgoing, Progress, Request, Responder,
    Session,
};
use moorline_types::{BLOCK_SIZE, BufferPool, VolumeId};
use moorline_volume::{
    Event,
    client::{ClientId, ClientOp, ClientReply, ClientRequest, RequestId},
};

use super::{
    exports::ExportTable,
    load::{Admission, Load, REQUEST_BYTES_MIN, TotalLoad},
    translate,
};
use crate::{ready::Ready, socket::Socket};

/// Most bytes read from one client in one turn of the driver, so that a busy one starves nobody.
const TURN_BYTES_MAX: usize = 2 << 20;

/// Most pieces in one vectored write.
const SLICES_MAX: usize = 128;

/// Looks without a byte moved after which a client stands still: ten seconds.
pub(super) const LOOKS_MAX: u32 = 10;

/// What a turn of a client uses of the front.
pub(super) struct Turn<'a> {
    pub(super) exports: &'a ExportTable,
    pub(super) load: &'a mut TotalLoad,
    pub(super) scratch: &'a mut [u8],
    pub(super) pool: &'a BufferPool,
}

#[derive(Debug)]
enum State {
    Haggling(Handshake),
    Attached {
        volume: VolumeId,
        session: Session,
    },
    /// No more requests are read.
    Leaving {
        volume: Option<VolumeId>,
    },
}

/// A request at the node.
#[derive(Debug)]
struct Waiting {
    responder: Responder,
    /// What it counts for.
    bytes: usize,
}

/// A place for one.
#[derive(Default, Debug)]
struct Slot {
    /// Counts the requests that were here; the high half of their id.
    generation: u32,
    waiting: Option<Waiting>,
}

/// Why reading stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    /// The socket is empty, and wakes the client.
    Empty,
    /// The client is held back; an answer or the front wakes it.
    Full,
    /// The turn is over.
    Again,
    /// The peer is gone.
    Gone,
}

/// What a look at a client found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Worth {
    /// It goes on.
    Kept,
    /// The peer closed its side, nobody reads the socket, and nothing moves.
    Gone,
    /// It neither sends nor takes what is due, and others wait for the room that it holds.
    Stalled,
}

/// What became of a piece of input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    All,
    /// The rest is kept.
    HeldBack,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    id: ClientId,
    socket: Socket,
    state: State,
    out: Outgoing,
    /// Bytes of `out` that count as load.
    out_counted: usize,
    /// Requests at the node, by the low half of their id.
    waiting: Vec<Slot>,
    free: Vec<u32>,
    load: Load,
    /// Read and not looked at.
    kept: Vec<u8>,
    /// Looked at, and there was no room for it.
    held: Option<Request>,
    /// Bytes counted in for the write whose payload is coming.
    coming: usize,
    /// What was in flight when reading stopped for it; less makes reading go on.
    held_back_at: Option<usize>,
    /// Bytes that the client sent or took; whoever stands still is found by it.
    moved: u64,
    /// `moved` at the last look, and how many looks found it there.
    seen: (u64, u32),
    ready: Arc<Ready>,
    waker: Waker,
}

impl Client {
    pub(super) fn new(id: ClientId, socket: Socket, ready: Arc<Ready>, bytes_max: usize) -> Self {
        let mut out = Outgoing::new();
        let handshake = Handshake::start(Limits::default(), &mut out);
        let waker = Waker::from(Arc::clone(&ready));
        // The greeting goes out, and the socket's waker is set, at the next turn.
        ready.list();
        Self {
            id,
            socket,
            state: State::Haggling(handshake),
            out,
            out_counted: 0,
            waiting: Vec::new(),
            free: Vec::new(),
            load: Load::new(id, bytes_max),
            kept: Vec::new(),
            held: None,
            coming: 0,
            held_back_at: None,
            moved: 0,
            seen: (0, 0),
            ready,
            waker,
        }
    }

    pub(super) fn is_haggling(&self) -> bool {
        matches!(self.state, State::Haggling(_))
    }

    pub(super) fn volume(&self) -> Option<VolumeId> {
        match &self.state {
            State::Haggling(_) => None,
            State::Attached { volume, .. } => Some(*volume),
            State::Leaving { volume } => *volume,
        }
    }

    /// Whether no more is to be read for now. A write that was let in is always read to its end.
    fn is_full(&self, total: &TotalLoad) -> bool {
        self.load.is_full(total) && self.coming == 0
    }

    /// Whether the socket is not read, so that a client that goes away is not noticed by that.
    pub(super) fn is_unwatched(&self) -> bool {
        self.held_back_at.is_some() || matches!(self.state, State::Leaving { .. })
    }

    /// Looks whether a client is there, and not in the way of those who wait for room.
    pub(super) fn look(&mut self, total: &TotalLoad) -> Worth {
        let (moved, looks) = self.seen;
        self.seen = if moved == self.moved {
            (moved, looks.saturating_add(1))
        } else {
            (self.moved, 0)
        };
        let stands_still = self.seen.1 >= LOOKS_MAX;
        // What it sent before it closed, a good-bye perhaps, is taken and done as long as that gets on.
        if stands_still && self.is_unwatched() && self.socket.is_hung_up() {
            return Worth::Gone;
        }
        // Its move: bytes of a write that it announced, or room for an answer.
        let is_waited_for = self.coming > 0 || self.has_answers();
        if stands_still && is_waited_for && total.is_wanted() && self.load.beyond(total) > 0 {
            return Worth::Stalled;
        }
        Worth::Kept
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn wake(&self) {
        self.ready.list();
    }

    pub(super) fn shut_down(&mut self) {
        match &mut self.state {
            State::Haggling(handshake) => handshake.shut_down(),
            State::Attached { session, .. } => session.shut_down(),
            State::Leaving { .. } => {}
        }
    }

    /// Ends the connection and gives back what it counted for.
    pub(super) fn close(mut self, total: &mut TotalLoad) {
        let bytes = self.load.bytes();
        self.load.release(bytes, total);
        self.socket.shut_down();
    }

    /// Reads what is there, gives requests to `sink`, sends answers. Says whether the connection has
    /// ended.
    pub(super) fn turn(&mut self, mut turn: Turn<'_>, sink: &mut dyn FnMut(Event)) -> bool {
        let stop = self.read(&mut turn, sink);
        // Before the flush, which may make the room that is waited for.
        self.held_back_at = (stop == Stop::Full).then(|| self.load.bytes());
        match stop {
            Stop::Empty | Stop::Full => {}
            Stop::Again => self.ready.list(),
            Stop::Gone => return true,
        }
        self.flush(turn.load)
    }

    fn read(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FnMut(Event)) -> Stop {
        if !self.kept.is_empty() || self.held.is_some() {
            let kept = std::mem::take(&mut self.kept);
            if self.take(&kept, turn, sink) == Taken::HeldBack {
                return Stop::Full;
            }
        }
        let mut left = TURN_BYTES_MAX;
        loop {
            if self.is_full(turn.load) {
                return Stop::Full;
            }
            let space = match &mut self.state {
                State::Attached { session, .. } => session.payload_space(),
                State::Haggling(_) => None,
                // A client that said good-bye sends nothing; its closing is not waited for.
                State::Leaving { .. } => return Stop::Empty,
            };
            let space = space.unwrap_or(&mut []);
            let in_place = space.len();
            let mut cx = Context::from_waker(&self.waker);
            let mut slices = [IoSliceMut::new(space), IoSliceMut::new(turn.scratch)];
            let first = usize::from(in_place == 0);
            let count = match self.socket.poll_read(&mut cx, &mut slices[first..]) {
                Poll::Pending => return Stop::Empty,
                Poll::Ready(Ok(0) | Err(_)) => return Stop::Gone,
                Poll::Ready(Ok(count)) => count,
            };
            self.moved += count as u64;
            if in_place > 0 {
                self.filled(count.min(in_place), turn.load, sink);
            }
            let scratch = std::mem::take(&mut turn.scratch);
            let taken = self.take(&scratch[..count.saturating_sub(in_place)], turn, sink);
            turn.scratch = scratch;
            if taken == Taken::HeldBack {
                return Stop::Full;
            }
            left = left.saturating_sub(count);
            if left == 0 {
                return Stop::Again;
            }
        }
    }

    /// Notes that bytes of a payload were read in place.
    fn filled(&mut self, count: usize, total: &mut TotalLoad, sink: &mut dyn FnMut(Event)) {
        let State::Attached { volume, session } = &mut self.state else {
            unreachable!("only an attached client has payload space");
        };
        let volume = *volume;
        if let Some(request) = session.payload_filled(count) {
            let bytes = std::mem::take(&mut self.coming);
            self.request(volume, request, bytes, total, sink);
        }
    }

    /// Looks at bytes that were read; keeps what there is no room for.
    fn take(
        &mut self,
        mut input: &[u8],
        turn: &mut Turn<'_>,
        sink: &mut dyn FnMut(Event),
    ) -> Taken {
        while let State::Haggling(handshake) = &mut self.state {
            let progress = handshake.receive(&mut input, turn.exports, &mut self.out);
            self.state = match progress {
                HandshakeProgress::NeedInput => return Taken::All,
                HandshakeProgress::Answered => {
                    // A lost connection is found by the read that follows.
                    let _ = self.flush(turn.load);
                    if self.has_answers() {
                        self.kept = input.to_vec();
                        return Taken::HeldBack;
                    }
                    continue;
                }
                HandshakeProgress::Agreed(negotiated) => {
                    let state = attach(*negotiated, turn.exports);
                    if let State::Attached { volume, .. } = &state {
                        let (client, volume) = (self.id, *volume);
                        sink(Event::ClientAttached { client, volume });
                    }
                    state
                }
                HandshakeProgress::Aborted => State::Leaving { volume: None },
                HandshakeProgress::Refused(error) => {
                    tracing::info!(client = self.id.get(), %error, "an NBD handshake failed");
                    State::Leaving { volume: None }
                }
            };
        }
        loop {
            let State::Attached { volume, session } = &mut self.state else {
                return Taken::All;
            };
            let volume = *volume;
            if self.load.is_full(turn.load) && self.coming == 0 {
                self.kept = input.to_vec();
                return Taken::HeldBack;
            }
            let progress = match self.held.take() {
                Some(request) => Progress::Request(request),
                None => session.receive(&mut input, &mut self.out),
            };
            match progress {
                Progress::NeedInput => {
                    // What was refused is answered already, and counts like any answer.
                    self.count_out(turn.load);
                    return Taken::All;
                }
                Progress::NeedBuffer { pages } => {
                    let bytes = (pages * BLOCK_SIZE).max(REQUEST_BYTES_MIN);
                    match self.load.admit(bytes, turn.load) {
                        Admission::Granted => {
                            session.supply(turn.pool.dirty(pages));
                            self.coming = bytes;
                        }
                        Admission::WaitsForOwn | Admission::WaitsForOthers => {
                            self.kept = input.to_vec();
                            return Taken::HeldBack;
                        }
                    }
                }
                Progress::Request(request) => {
                    if let Some(held) = self.admit(volume, request, turn.load, sink) {
                        self.held = Some(held);
                        self.kept = input.to_vec();
                        return Taken::HeldBack;
                    }
                }
                Progress::Disconnected => self.leave(volume),
                Progress::Broken(error) => {
                    tracing::warn!(client = self.id.get(), %error, "an NBD client lost its frame");
                    self.leave(volume);
                }
            }
        }
    }

    /// Gives a request to the node if there is room for it, and back otherwise. A write with its
    /// payload was counted in before that came.
    fn admit(
        &mut self,
        volume: VolumeId,
        request: Request,
        total: &mut TotalLoad,
        sink: &mut dyn FnMut(Event),
    ) -> Option<Request> {
        let mut bytes = std::mem::take(&mut self.coming);
        if bytes == 0 {
            bytes = usize::try_from(request.command.memory_bytes())
                .expect("a request fits memory")
                .max(REQUEST_BYTES_MIN);
            match self.load.admit(bytes, total) {
                Admission::Granted => {}
                Admission::WaitsForOwn | Admission::WaitsForOthers => return Some(request),
            }
        }
        self.request(volume, request, bytes, total, sink);
        None
    }

    fn leave(&mut self, volume: VolumeId) {
        self.state = State::Leaving {
            volume: Some(volume),
        };
    }

    /// Gives a request to the node.
    fn request(
        &mut self,
        volume: VolumeId,
        Request { command, responder }: Request,
        bytes: usize,
        total: &mut TotalLoad,
        sink: &mut dyn FnMut(Event),
    ) {
        let op: Option<ClientOp> = translate::op(command);
        let request = self.slot(Waiting { responder, bytes });
        match op {
            Some(op) => sink(Event::Requested(ClientRequest {
                volume,
                client: self.id,
                request,
                op,
            })),
            None => self.answer(request, ClientReply::Done, total),
        }
    }

    /// Finds a place for a request; its id is never used twice while an answer may be under way.
    fn slot(&mut self, waiting: Waiting) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(Slot::default());
            u32::try_from(self.waiting.len() - 1).expect("the load bounds the requests")
        });
        let slot = &mut self.waiting[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.waiting = Some(waiting);
        RequestId::new(u64::from(slot.generation) << 32 | u64::from(index))
    }

    /// Encodes the answer to a request; [`Client::flush`] sends it.
    pub(super) fn answer(&mut self, request: RequestId, reply: ClientReply, total: &mut TotalLoad) {
        let index = u32::try_from(request.get() & u64::from(u32::MAX)).expect("masked");
        let slot = &mut self.waiting[index as usize];
        assert!(
            u64::from(slot.generation) == request.get() >> 32,
            "an answer is for the request that it names"
        );
        let waiting = slot.waiting.take();
        let Waiting { responder, bytes } = waiting.expect("each request is answered once");
        self.free.push(index);
        if let Err(mismatch) = translate::answer(responder, reply, &mut self.out) {
            tracing::error!(client = self.id.get(), %mismatch, "an answer did not fit its request");
        }
        // The answer counts instead, until it is sent.
        self.count_out(total);
        self.load.release(bytes, total);
    }

    /// Counts what waits to be sent now instead of what waited before.
    fn count_out(&mut self, total: &mut TotalLoad) {
        let (before, now) = (self.out_counted, self.out.len());
        if now > before {
            self.load.add(now - before, total);
        } else {
            self.load.release(before - now, total);
        }
        self.out_counted = now;
    }

    /// Sends as much as the socket takes. Says whether the connection has ended.
    pub(super) fn flush(&mut self, total: &mut TotalLoad) -> bool {
        while self.out.has_remaining() {
            let mut cx = Context::from_waker(&self.waker);
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.out.chunks_vectored(&mut slices);
            match self.socket.poll_write(&mut cx, &slices[..count]) {
                Poll::Pending => return false,
                Poll::Ready(Ok(sent)) => {
                    self.out.advance(sent);
                    self.moved += sent as u64;
                    self.count_out(total);
                }
                Poll::Ready(Err(_)) => return true,
            }
        }
        if self.held_back_at.is_some_and(|at| self.load.bytes() < at) {
            self.held_back_at = None;
            self.ready.list();
        }
        let is_done = self.free.len() == self.waiting.len();
        matches!(self.state, State::Leaving { .. }) && is_done
    }
}

/// What follows an agreement. The volume may have moved away since it was found.
fn attach(negotiated: Negotiated, exports: &ExportTable) -> State {
    match exports.served(&negotiated.export.name) {
        Some(volume) => State::Attached {
            volume,
            session: Session::new(negotiated, Limits::default()),
        },
        None => State::Leaving { volume: None },
    }
}

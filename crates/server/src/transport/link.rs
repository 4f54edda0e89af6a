//! One authenticated connection to another server: frames in, frames out.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use moorline_types::ServerId;
use moorline_wire::{DecodeError, Decoder, EncodeError, Message, encode};

use crate::{ready::Ready, socket::Socket};

/// Most bytes waiting to be sent. A peer that takes nothing while that much piles up is hung up on:
/// it comes back with a handshake that says what it lacks.
pub(crate) const QUEUED_BYTES_MAX: usize = 256 << 20;

/// Most reads in one turn of the driver; the rest waits its turn, so that a busy peer starves nobody.
const READS_PER_TURN: usize = 16;

/// Most pieces in one vectored write: the kernel's UIO_MAXIOV is 1024, and past a few dozen the call
/// costs less than the bytes.
const SLICES_MAX: usize = 128;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The peer ended it.
    #[error("the peer closed the connection")]
    Closed,
    /// The network did.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error("the peer sent what is no message: {0}")]
    Decode(#[from] DecodeError),
    /// What was to be sent fits no frame.
    #[error("a message fits no frame: {0}")]
    Encode(#[from] EncodeError),
    /// The peer takes nothing.
    #[error("the peer takes nothing: {bytes} bytes wait for it")]
    Stuck {
        /// How many.
        bytes: usize,
    },
}

/// What a turn's reading led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Drained {
    /// The socket is empty; its waker is set.
    Empty,
    /// There may be more.
    More,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Link {
    server: ServerId,
    socket: Socket,
    decoder: Decoder,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    ready: Arc<Ready>,
    waker: Waker,
}

impl Link {
    /// Takes over a connection after its hello, with what was read ahead of it.
    pub(crate) fn new(
        server: ServerId,
        socket: Socket,
        decoder: Decoder,
        ready: Arc<Ready>,
    ) -> Self {
        let waker = Waker::from(Arc::clone(&ready));
        // What the hello read ahead is looked at, and the socket's waker set, at the next turn.
        ready.list();
        Self {
            server,
            socket,
            decoder,
            out: VecDeque::new(),
            out_bytes: 0,
            ready,
            waker,
        }
    }

    /// Who is at the other end.
    pub(crate) fn server(&self) -> &ServerId {
        &self.server
    }

    /// Reads what is there and gives each message to `sink`.
    pub(crate) fn read(&mut self, sink: &mut dyn FnMut(Message)) -> Result<(), LinkError> {
        if self.drain(sink)? == Drained::More {
            self.ready.list();
        }
        Ok(())
    }

    fn drain(&mut self, sink: &mut dyn FnMut(Message)) -> Result<Drained, LinkError> {
        let mut cx = Context::from_waker(&self.waker);
        for _ in 0..READS_PER_TURN {
            while let Some(message) = self.decoder.next()? {
                sink(message);
            }
            let [payload, ahead] = self.decoder.spare();
            let mut slices = [IoSliceMut::new(payload), IoSliceMut::new(ahead)];
            let empty_first = usize::from(slices[0].is_empty());
            match self.socket.poll_read(&mut cx, &mut slices[empty_first..]) {
                Poll::Pending => return Ok(Drained::Empty),
                Poll::Ready(Ok(0)) => return Err(LinkError::Closed),
                Poll::Ready(Ok(count)) => self.decoder.filled(count),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        while let Some(message) = self.decoder.next()? {
            sink(message);
        }
        Ok(Drained::More)
    }

    /// Puts a message behind those that wait; [`Link::flush`] sends them.
    pub(crate) fn queue(
        &mut self,
        message: &Message,
        parts: &mut Vec<Bytes>,
    ) -> Result<(), LinkError> {
        parts.clear();
        encode(message, parts)?;
        for part in parts.drain(..) {
            self.out_bytes += part.len();
            self.out.push_back(part);
        }
        if self.out_bytes > QUEUED_BYTES_MAX {
            return Err(LinkError::Stuck {
                bytes: self.out_bytes,
            });
        }
        Ok(())
    }

    /// Sends as much as the socket takes; it wakes the driver when it takes more.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while self.out_bytes > 0 {
            let mut cx = Context::from_waker(&self.waker);
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            match self.socket.poll_write(&mut cx, &slices[..count]) {
                Poll::Pending => break,
                Poll::Ready(Ok(sent)) => self.sent(sent),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut count: usize) {
        self.out_bytes -= count;
        while count > 0 {
            let front = self.out.front_mut().expect("no more is sent than waits");
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.out.pop_front();
        }
    }

    /// Whether something waits to be sent.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.out_bytes > 0
    }

    /// Ends the connection.
    pub(crate) fn hang_up(&self) {
        self.socket.shut_down();
    }
}

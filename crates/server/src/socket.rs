//! A stream socket of either family, read and written with vectors, without waiting.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags},
    time::Timespec,
};
use tokio::{
    io::{AsyncWrite, Interest},
    net::{TcpStream, UnixStream},
};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Socket {
    /// Takes over a TCP connection; small frames go out at once.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Who is at the other end, for the log.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Reads into `slices`, in order; 0 is the end of the stream.
    ///
    /// Pending means that `cx` is woken when there is more. A read that leaves room has emptied the
    /// socket: the next one is pending without a system call.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        slices: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room: usize = slices.iter().map(|slice| slice.len()).sum();
        debug_assert!(room > 0, "a read needs room");
        loop {
            ready!(match self {
                Self::Tcp(stream) => stream.poll_read_ready(cx),
                Self::Unix(stream) => stream.poll_read_ready(cx),
            })?;
            let mut read = None;
            let attempt = match self {
                Self::Tcp(stream) => stream.try_io(Interest::READABLE, || {
                    read_once(&*stream, slices, room, &mut read)
                }),
                Self::Unix(stream) => stream.try_io(Interest::READABLE, || {
                    read_once(&*stream, slices, room, &mut read)
                }),
            };
            match (read, attempt) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
                (None, Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                (None, Err(error)) => return Poll::Ready(Err(error)),
                (None, Ok(())) => return Poll::Ready(Ok(0)),
            }
        }
    }

    /// Writes from `slices`, in order, as much as fits.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// Whether the peer has closed its side, also when bytes from it were not read.
    pub(crate) fn is_hung_up(&self) -> bool {
        let fd = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
        let no_wait = Timespec::default();
        // A poll that fails has found nothing; the next look tries again.
        rustix::event::poll(&mut polled, Some(&no_wait)).is_ok_and(|found| found > 0)
    }

    /// Tells the peer that nothing more comes; what was sent still arrives.
    pub(crate) fn shut_down(&self) {
        // It fails when the peer is gone already.
        let _ = match self {
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Both),
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Both),
        };
    }
}

/// One read. A short one is reported to the reactor as "would block", which is what it means: the
/// socket is empty, and readiness is asked for anew.
fn read_once(
    stream: &impl AsFd,
    slices: &mut [IoSliceMut<'_>],
    room: usize,
    read: &mut Option<usize>,
) -> io::Result<()> {
    let count = rustix::io::readv(stream, slices)?;
    *read = Some(count);
    if (1..room).contains(&count) {
        return Err(ErrorKind::WouldBlock.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_short_read_leaves_the_socket_waiting_and_the_next_bytes_wake_it() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut near, mut far) = (Socket::Unix(near), Socket::Unix(far));
        for round in 0..3_u8 {
            let sent = poll_fn(|cx| far.poll_write(cx, &[IoSlice::new(&[round; 5])])).await;
            assert_eq!(sent.unwrap(), 5);
            let (mut a, mut b) = ([0; 3], [0; 9]);
            let count = poll_fn(|cx| {
                near.poll_read(cx, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)])
            });
            assert_eq!(count.await.unwrap(), 5);
            assert_eq!((a, &b[..2]), ([round; 3], &[round; 2][..]));
        }
        far.shut_down();
        let mut rest = [0; 8];
        let end = poll_fn(|cx| near.poll_read(cx, &mut [IoSliceMut::new(&mut rest)])).await;
        assert_eq!(end.unwrap(), 0);
    }
}

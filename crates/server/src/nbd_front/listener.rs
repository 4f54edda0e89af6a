//! Where NBD clients come in: over TCP, over a Unix socket, through an inherited listener.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};

use super::Visitor;
use crate::{
    inbox::{News, Teller},
    socket::Socket,
    transport::rest_after,
};

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// On this machine; the file is removed at the end.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Its file.
        _file: SocketFile,
    },
}

/// The file of a Unix socket, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody can connect any more; a file that stays is replaced by the next start.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Why a Unix socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum UnixBindError {
    /// Another process listens there.
    #[error("another process listens on {path}: stop it, or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else than a socket is there.
    #[error("{path} is there and is no socket: remove it, or choose another path")]
    NotSocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot listen on {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on a Unix socket; one that a killed process left behind is replaced.
pub(crate) fn unix(path: &Path) -> Result<Listener, UnixBindError> {
    let fail = |source| UnixBindError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(UnixBindError::NotSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(UnixBindError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(_) => std::fs::remove_file(path).map_err(fail)?,
        },
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    Ok(Listener::Unix {
        listener,
        _file: SocketFile(path.to_owned()),
    })
}

/// Why an inherited listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// There is no such descriptor, or this process may not take it.
    #[error("descriptor {fd} was not inherited")]
    NotThere {
        /// Its number.
        fd: RawFd,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no listening socket.
    #[error("descriptor {fd} is no listening TCP socket")]
    NotListening {
        /// Its number.
        fd: RawFd,
    },
}

/// Takes the listening socket that the parent left as descriptor `fd`.
pub(crate) fn inherited(fd: RawFd, teller: Teller) -> Result<SharedListener, InheritError> {
    let not_there = |source| InheritError::NotThere { fd, source };
    let owned = if fd == io::stdin().as_raw_fd() {
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(not_there)?
    } else {
        // A number alone proves no ownership; a copy made by the kernel does.
        let this = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|e| not_there(e.into()))?;
        pidfd_getfd(&this, fd, PidfdGetfdFlags::empty()).map_err(|e| not_there(e.into()))?
    };
    if !rustix::net::sockopt::socket_acceptconn(&owned).unwrap_or(false) {
        return Err(InheritError::NotListening { fd });
    }
    Ok(SharedListener {
        fd: owned,
        teller,
        accepting: None,
    })
}

/// A listener that several servers share: accepted on only while this one serves. In the meantime
/// clients wait in its queue, and whoever serves next finds them there.
#[derive(Debug)]
pub(crate) struct SharedListener {
    fd: OwnedFd,
    teller: Teller,
    accepting: Option<JoinHandle<()>>,
}

impl SharedListener {
    pub(crate) fn set_open(&mut self, open: bool) {
        match (open, self.accepting.take()) {
            (true, None) => match self.start() {
                Ok(task) => self.accepting = Some(task),
                Err(error) => tracing::error!(%error, "cannot accept on the shared listener"),
            },
            (true, Some(task)) => self.accepting = Some(task),
            (false, Some(task)) => task.abort(),
            (false, None) => {}
        }
    }

    fn start(&self) -> io::Result<JoinHandle<()>> {
        let listener = std::net::TcpListener::from(self.fd.try_clone()?);
        listener.set_nonblocking(true)?;
        let listener = Listener::Tcp(TcpListener::from_std(listener)?);
        Ok(tokio::spawn(accept(listener, self.teller.clone())))
    }
}

impl Drop for SharedListener {
    fn drop(&mut self) {
        if let Some(task) = &self.accepting {
            task.abort();
        }
    }
}

/// Accepts for ever and hands over who comes.
pub(crate) async fn accept(listener: Listener, teller: Teller) {
    while !teller.is_closed() {
        let accepted = match &listener {
            Listener::Tcp(listener) => listener
                .accept()
                .await
                .and_then(|(stream, _)| Socket::tcp(stream)),
            Listener::Unix { listener, .. } => listener
                .accept()
                .await
                .map(|(stream, _)| Socket::Unix(stream)),
        };
        match accepted {
            Ok(socket) => drop(teller.send(News::Visited(Visitor(socket)))),
            Err(error) => rest_after(&error).await,
        }
    }
}

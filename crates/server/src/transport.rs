//! Connections between servers: listeners, dialing, hellos, framing.
//!
//! Listening, dialing and authenticating are tasks of their own; a connection that stands is handed
//! to the driver, which reads and writes it without waiting.

mod hello;
mod link;

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use moorline_types::ServerId;
use moorline_volume::{Event, LinkDirection, LinkId};
use moorline_wire::{
    Message,
    hello::{Channel, Expected, Identity, Serves},
};
use tokio::{net::TcpListener, sync::Semaphore};

pub(crate) use hello::{
    ConnectError, Connected, Introduction, accept, dial, random_bytes, receive, send_message,
};
use link::Link;
use link::LinkError;

use crate::{
    causes::Causes,
    inbox::{News, Teller},
    ready::{ReadyList, Source},
    socket::Socket,
};

/// Most peers at a time that have not proven who they are.
const HELLOS_MAX: usize = 64;

/// How long a listener rests when the process has no descriptor left for who is waiting.
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The standing connections to other servers.
#[derive(Debug)]
pub(crate) struct Links {
    links: HashMap<LinkId, Link>,
    next: u64,
    list: Arc<ReadyList>,
    /// Those that something was queued on since the last flush.
    dirty: Vec<LinkId>,
    /// Reused by every encoding.
    parts: Vec<Bytes>,
}

impl Links {
    pub(crate) fn new(list: Arc<ReadyList>) -> Self {
        Self {
            links: HashMap::new(),
            next: 0,
            list,
            dirty: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Takes in a connection that stands, and says so; nothing when its peer is no server.
    pub(crate) fn add(&mut self, connected: Connected, direction: LinkDirection) -> Option<Event> {
        let Identity::Server { server, boot, .. } = connected.peer.who else {
            return None;
        };
        self.next += 1;
        let id = LinkId::new(self.next);
        let ready = self.list.entry(Source::Link(id));
        let socket = Socket::Tcp(connected.stream);
        tracing::info!(peer = %server, link = id.get(), ?direction, "connected");
        let link = Link::new(server.clone(), socket, connected.decoder, ready);
        self.links.insert(id, link);
        Some(Event::LinkUp {
            link: id,
            server,
            boot,
            direction,
        })
    }

    /// Reads a connection that is ready, and sends what waits for room.
    pub(crate) fn turn(&mut self, id: LinkId, sink: &mut dyn FnMut(Event)) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let mut messages = |message| sink(Event::MessageArrived { link: id, message });
        let result = match link.read(&mut messages) {
            Ok(()) if link.wants_to_send() => link.flush(),
            other => other,
        };
        if let Err(error) = result {
            self.lose(id, &error);
            sink(Event::LinkDown { link: id });
        }
    }

    /// Queues a message. An event comes back when the connection is lost by it.
    pub(crate) fn send(&mut self, id: LinkId, message: &Message) -> Option<Event> {
        let link = self.links.get_mut(&id)?;
        let was_idle = !link.wants_to_send();
        match link.queue(message, &mut self.parts) {
            Ok(()) => {
                if was_idle {
                    self.dirty.push(id);
                }
                None
            }
            Err(error) => {
                self.lose(id, &error);
                Some(Event::LinkDown { link: id })
            }
        }
    }

    /// Sends what was queued, one vectored write a connection.
    pub(crate) fn flush(&mut self, sink: &mut dyn FnMut(Event)) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(link) = self.links.get_mut(&id) else {
                continue;
            };
            if let Err(error) = link.flush() {
                self.lose(id, &error);
                sink(Event::LinkDown { link: id });
            }
        }
    }

    /// Ends a connection; the event says that it has ended.
    pub(crate) fn hang_up(&mut self, id: LinkId) -> Option<Event> {
        let link = self.links.remove(&id)?;
        tracing::info!(peer = %link.server(), link = id.get(), "hung up");
        link.hang_up();
        Some(Event::LinkDown { link: id })
    }

    fn lose(&mut self, id: LinkId, error: &LinkError) {
        if let Some(link) = self.links.remove(&id) {
            tracing::info!(peer = %link.server(), link = id.get(), %error, "disconnected");
            link.hang_up();
        }
    }
}

/// Accepts servers on `listener` for ever and hands over those that prove themselves.
pub(crate) async fn listen(
    listener: TcpListener,
    channel: Channel,
    introduction: Arc<Introduction>,
    teller: Teller,
) {
    let hellos = Arc::new(Semaphore::new(HELLOS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&hellos).acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                rest_after(&error).await;
                continue;
            }
        };
        let (introduction, teller) = (Arc::clone(&introduction), teller.clone());
        drop(tokio::spawn(async move {
            let serves = Serves::AsServer(channel);
            match accept(&introduction, stream, from, serves).await {
                Ok(connected) => tell(&teller, connected, LinkDirection::Accepted),
                Err(error) => {
                    tracing::warn!(%from, error = %Causes(&error), "a peer was not let in")
                }
            }
            drop(permit);
        }));
    }
}

/// Connects to another server's data listener beside the driver.
pub(crate) fn dial_server(
    server: ServerId,
    address: String,
    introduction: Arc<Introduction>,
    teller: Teller,
) {
    drop(tokio::spawn(async move {
        let expected = Expected::Server(server.clone());
        match dial(&introduction, &address, Channel::Data, expected).await {
            Ok(connected) => tell(&teller, connected, LinkDirection::Dialed),
            Err(error) => {
                note_failed_dial(&server, &address, &error);
                // The driver may be gone, and then nobody waits for this.
                drop(teller.send(News::DialFailed { server }));
            }
        }
    }));
}

/// A peer that is down is no news and is dialed often; one that refuses us is for the operator.
fn note_failed_dial(server: &ServerId, address: &str, error: &ConnectError) {
    match error {
        ConnectError::Refused(_) | ConnectError::Decode(_) | ConnectError::NotHello => {
            tracing::warn!(%server, address, error = %Causes(error), "cannot connect to a server");
        }
        ConnectError::Io(_)
        | ConnectError::TimedOut
        | ConnectError::NotServer
        | ConnectError::Encode(_) => {
            tracing::debug!(%server, address, %error, "cannot connect to a server");
        }
    }
}

fn tell(teller: &Teller, connected: Connected, direction: LinkDirection) {
    let connected = Box::new(connected);
    // The driver may be gone, and then nobody waits for this.
    drop(teller.send(News::Linked {
        connected,
        direction,
    }));
}

/// Waits a little after a failed accept: what is short then does not come back at once.
pub(crate) async fn rest_after(error: &io::Error) {
    let is_the_peers = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !is_the_peers {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_REST).await;
    }
}

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else listens there.
    #[error("`{setting}`: {address} is in use: stop what listens there, or choose another address")]
    InUse {
        /// Which address.
        setting: &'static str,
        /// What it is.
        address: SocketAddr,
    },
    /// The address is not of this machine, or may not be used.
    #[error("`{setting}`: cannot listen on {address}")]
    Refused {
        /// Which address.
        setting: &'static str,
        /// What it is.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on `address`.
///
/// # Errors
///
/// If it is in use, or cannot be used.
pub(crate) async fn bind(
    setting: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            BindError::InUse { setting, address }
        } else {
            BindError::Refused {
                setting,
                address,
                source,
            }
        }
    })
}

#[cfg(test)]
mod tests;

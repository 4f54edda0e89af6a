//! The NBD side: listeners, clients, their requests and answers.
//!
//! Translation and bookkeeping only: what a request means, and when it may be answered, is decided by
//! the node. What is decided here is how much a client may have in flight.
//!
//! | file | holds |
//! |---|---|
//! | `nbd_front/exports.rs` | which volumes there are and who serves them |
//! | `nbd_front/listener.rs` | TCP, Unix and inherited listeners |
//! | `nbd_front/client.rs` | one connection: its bytes, its requests, its answers |
//! | `nbd_front/load.rs` | bytes in flight, per connection and in total |
//! | `nbd_front/translate.rs` | NBD's words to the node's and back |

mod client;
mod exports;
mod listener;
mod load;
mod translate;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use moorline_types::{BufferPool, Instant, VolumeId};
use moorline_volume::{
    Event, ExportState,
    client::{ClientId, ClientReply, RequestId},
};

pub use self::listener::{InheritError, UnixBindError};
pub(crate) use self::listener::{Listener, SharedListener, accept, inherited, unix};
use self::{
    client::{Client, Turn, Worth},
    exports::ExportTable,
    load::TotalLoad,
};
use crate::{
    config::NbdLimits,
    ready::{ReadyList, Source},
    socket::Socket,
};

/// Bytes read from a client at once. A page more than sixteen requests of 4 KiB with their headers:
/// what a busy client has ready comes with one call, and it stays in the processor's cache.
const SCRATCH_BYTES: usize = 128 << 10;

/// How often clients whose sockets are not read are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Somebody who connected.
#[derive(Debug)]
pub(crate) struct Visitor(pub(crate) Socket);

/// All NBD clients of this server.
#[derive(Debug)]
pub(crate) struct NbdFront {
    exports: ExportTable,
    clients: HashMap<ClientId, Client>,
    next: u64,
    limits: NbdLimits,
    load: TotalLoad,
    /// Handshakes that are under way, oldest first: all have the same time.
    handshakes: VecDeque<(Instant, ClientId)>,
    /// Clients that were answered since the last flush.
    dirty: Vec<ClientId>,
    /// Whether somebody may be there whose socket is not read.
    has_unwatched: bool,
    /// When all are looked at; only while there is such a one.
    look_at: Option<Instant>,
    /// Accepts while this server serves something; shared with other servers.
    shared: Option<SharedListener>,
    scratch: Box<[u8]>,
    pool: BufferPool,
    list: Arc<ReadyList>,
}

impl NbdFront {
    pub(crate) fn new(
        limits: NbdLimits,
        pool: BufferPool,
        list: Arc<ReadyList>,
        shared: Option<SharedListener>,
    ) -> Self {
        Self {
            exports: ExportTable::default(),
            clients: HashMap::new(),
            next: 0,
            load: TotalLoad::new(limits.total_bytes_max, limits.connections_max),
            limits,
            handshakes: VecDeque::new(),
            dirty: Vec::new(),
            has_unwatched: false,
            look_at: None,
            shared,
            scratch: vec![0; SCRATCH_BYTES].into(),
            pool,
            list,
        }
    }

    /// Greets who connected, if there is room.
    pub(crate) fn visit(&mut self, now: Instant, Visitor(socket): Visitor) {
        let haggling = self.clients.values().filter(|c| c.is_haggling()).count();
        if self.clients.len() >= self.limits.connections_max
            || haggling >= self.limits.handshakes_max
        {
            tracing::warn!(
                peer = ?socket.peer(),
                connections = self.clients.len(),
                haggling,
                "an NBD client was turned away: there are too many"
            );
            return;
        }
        self.next += 1;
        let id = ClientId::new(self.next);
        let ready = self.list.entry(Source::Client(id));
        let patience = Duration::from_millis(self.limits.handshake_ms_max);
        self.handshakes.push_back((now.after(patience), id));
        let client = Client::new(id, socket, ready, self.limits.connection_bytes_max);
        self.clients.insert(id, client);
    }

    /// Reads a client that is ready, and sends what waits for room.
    pub(crate) fn turn(&mut self, id: ClientId, sink: &mut dyn FnMut(Event)) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let turn = Turn {
            exports: &self.exports,
            load: &mut self.load,
            scratch: &mut self.scratch,
            pool: &self.pool,
        };
        let ended = client.turn(turn, sink);
        self.has_unwatched |= client.is_unwatched();
        if ended {
            self.end(id, sink);
        }
    }

    /// Answers a request. A client that is gone is answered by nobody.
    pub(crate) fn reply(&mut self, id: ClientId, request: RequestId, reply: ClientReply) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if !client.has_answers() {
            self.dirty.push(id);
        }
        client.answer(request, reply, &mut self.load);
    }

    /// Sends the answers of a batch, one vectored write a client.
    pub(crate) fn flush(&mut self, now: Instant, sink: &mut dyn FnMut(Event)) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(client) = self.clients.get_mut(&id) else {
                continue;
            };
            if client.flush(&mut self.load) {
                self.end(id, sink);
            }
        }
        // Those who were held back because of others go on as soon as there is room again.
        while let Some(id) = self.load.next_waiting() {
            if let Some(client) = self.clients.get(&id) {
                client.wake();
            }
        }
        if self.has_unwatched && self.look_at.is_none() {
            self.look_at = Some(now.after(LOOK_EVERY));
        }
    }

    /// Opens or closes a volume to clients.
    pub(crate) fn set_export(
        &mut self,
        volume: VolumeId,
        name: String,
        state: ExportState,
        sink: &mut dyn FnMut(Event),
    ) {
        let serves = matches!(state, ExportState::Serving { .. });
        tracing::info!(%volume, name, ?state, "export");
        self.exports.set(volume, name, state);
        if !serves {
            let attached: Vec<ClientId> = self
                .clients
                .iter()
                .filter(|(_, client)| client.volume() == Some(volume))
                .map(|(id, _)| *id)
                .collect();
            for id in attached {
                if let Some(client) = self.clients.get_mut(&id) {
                    // What was answered is sent if there is room for it, and no longer waited for.
                    let _ = client.flush(&mut self.load);
                }
                self.end(id, sink);
            }
        }
        if let Some(shared) = &mut self.shared {
            shared.set_open(self.exports.serves_any());
        }
    }

    /// When [`NbdFront::on_deadline`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        handshake.into_iter().chain(self.look_at).min()
    }

    /// Ends handshakes that take too long, and clients that are gone or in the way of others.
    pub(crate) fn on_deadline(&mut self, now: Instant, sink: &mut dyn FnMut(Event)) {
        while let Some((deadline, id)) = self.handshakes.front().copied()
            && deadline <= now
        {
            self.handshakes.pop_front();
            if self.clients.get(&id).is_some_and(Client::is_haggling) {
                tracing::info!(client = id.get(), "an NBD handshake took too long");
                self.end(id, sink);
            }
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(sink);
            self.look_at = self.has_unwatched.then(|| now.after(LOOK_EVERY));
        }
    }

    fn look(&mut self, sink: &mut dyn FnMut(Event)) {
        self.has_unwatched = false;
        let mut ended = Vec::new();
        for (id, client) in &mut self.clients {
            match client.look(&self.load) {
                Worth::Kept => self.has_unwatched |= client.is_unwatched(),
                worth @ (Worth::Gone | Worth::Stalled) => ended.push((*id, worth)),
            }
        }
        // In the order in which they came: the map has none.
        ended.sort_unstable_by_key(|(id, _)| id.get());
        for (id, worth) in ended {
            if worth == Worth::Stalled {
                tracing::warn!(
                    client = id.get(),
                    "an NBD client was disconnected: it neither sends nor takes what is due, \
                     and others wait for the memory that it holds"
                );
            }
            self.end(id, sink);
        }
    }

    /// Turns everybody away from here on; those that are attached are told with their next request.
    pub(crate) fn shut_down(&mut self) {
        self.exports.shut_down();
        if let Some(shared) = &mut self.shared {
            shared.set_open(false);
        }
        for client in self.clients.values_mut() {
            client.shut_down();
        }
    }

    fn end(&mut self, id: ClientId, sink: &mut dyn FnMut(Event)) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        let was_attached = client.volume().is_some();
        client.close(&mut self.load);
        self.load.forget(id);
        if was_attached {
            sink(Event::ClientLeft { client: id });
        }
    }
}

#[cfg(test)]
mod tests;

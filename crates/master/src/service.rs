//! The master as its connections see it, sans-IO: who may say what, and which answer goes where.
//!
//! A driver accepts connections, runs the hello, and feeds what comes; it makes transactions durable
//! in the order in which they are asked for, and feeds back what came of each.

use std::collections::BTreeMap;

use moorline_types::{BootId, Instant, ServerId};
use moorline_wire::{
    Message,
    control::{MasterToServer, RegisterRefusal, ServerToMaster},
    hello::Identity,
};

use crate::{
    authority::{AskId, Authority, LinkId, MasterAction, MasterEvent, StartFacts},
    config::MasterConfig,
    error::{StartError, StopReason},
    store::{CommitError, Loaded, Txn, TxnId},
};

/// One connection, numbered by the driver; never used twice in one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What may happen to the master.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceEvent {
    /// A connection is open and its peer has proven who it is.
    ConnOpened {
        /// The connection.
        conn: ConnId,
        /// The peer, as the hello named it.
        peer: Identity,
    },
    /// A message came.
    ConnMessage {
        /// The connection.
        conn: ConnId,
        /// The message.
        message: Message,
    },
    /// A connection ended; also after [`ServiceAction::Close`], or not: both are right.
    ConnClosed {
        /// The connection.
        conn: ConnId,
    },
    /// A transaction ended.
    CommitDone {
        /// Which.
        txn: TxnId,
        /// What came of it.
        result: Result<(), CommitError>,
    },
    /// The time that [`Master::next_deadline`] named has come.
    DeadlineReached,
}

/// What the master asks its driver for, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceAction {
    /// Send a message.
    Send {
        /// On which connection; one that ended meanwhile is passed over.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// End a connection once everything sent before is out.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// Make this durable and say what came of it.
    Commit(Txn),
    /// End the process: nothing can be recorded any more.
    Stop(StopReason),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Conn {
    Server {
        server: ServerId,
        boot: BootId,
        registered: Registered,
    },
    Client,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Registered {
    NotYet,
    Yes,
}

/// The whole master but its sockets, its clock and its file.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct Master {
    authority: Authority,
    conns: BTreeMap<ConnId, Conn>,
    asks: BTreeMap<AskId, (ConnId, u64)>,
    next_ask: u64,
    actions: Vec<MasterAction>,
}

impl Master {
    /// A run of the master over what its store holds; the first action records the start.
    ///
    /// # Errors
    ///
    /// When the records do not belong together.
    pub fn start(
        config: MasterConfig,
        start: StartFacts,
        loaded: Loaded,
        out: &mut Vec<ServiceAction>,
    ) -> Result<Self, StartError> {
        let mut actions = Vec::new();
        let authority = Authority::start(config, start, loaded, &mut actions)?;
        let mut this = Self {
            authority,
            conns: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            actions,
        };
        this.pass_on(out);
        Ok(this)
    }

    /// The rules, for looking at.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// When [`ServiceEvent::DeadlineReached`] is due, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.authority.next_deadline()
    }

    /// Handles one event; what it asks for is added to `out`.
    pub fn handle(&mut self, now: Instant, event: ServiceEvent, out: &mut Vec<ServiceAction>) {
        let event = match event {
            ServiceEvent::ConnOpened { conn, peer } => return self.on_opened(conn, peer, out),
            ServiceEvent::ConnMessage { conn, message } => match self.on_message(conn, message) {
                Ok(event) => event,
                Err(refusal) => return self.refuse(now, conn, refusal, out),
            },
            ServiceEvent::ConnClosed { conn } => {
                self.forget(conn);
                Some(MasterEvent::LinkClosed {
                    link: LinkId(conn.0),
                })
            }
            ServiceEvent::CommitDone { txn, result } => Some(match result {
                Ok(()) => MasterEvent::Committed { txn },
                Err(error) => MasterEvent::CommitFailed { txn, error },
            }),
            ServiceEvent::DeadlineReached => Some(MasterEvent::DeadlineReached),
        };
        if let Some(event) = event {
            self.authority.handle(now, event, &mut self.actions);
        }
        self.pass_on(out);
    }

    fn on_opened(&mut self, conn: ConnId, peer: Identity, out: &mut Vec<ServiceAction>) {
        let state = match peer {
            Identity::Server { server, boot, .. } => Conn::Server {
                server,
                boot,
                registered: Registered::NotYet,
            },
            Identity::Client => Conn::Client,
            // A master has no business with another one.
            Identity::Master { .. } => return out.push(ServiceAction::Close { conn }),
        };
        self.conns.insert(conn, state);
    }

    fn on_message(
        &mut self,
        conn: ConnId,
        message: Message,
    ) -> Result<Option<MasterEvent>, Option<RegisterRefusal>> {
        let link = LinkId(conn.0);
        match (self.conns.get_mut(&conn), message) {
            (None, _) => Ok(None),
            (
                Some(Conn::Server {
                    server,
                    boot,
                    registered,
                }),
                Message::ServerToMaster(message),
            ) => match (*message, *registered) {
                (ServerToMaster::Register(register), Registered::NotYet) => {
                    if register.server != *server || register.boot != *boot {
                        let authenticated = server.clone();
                        return Err(Some(RegisterRefusal::WrongIdentity { authenticated }));
                    }
                    *registered = Registered::Yes;
                    let register = Box::new(register);
                    Ok(Some(MasterEvent::Registered { link, register }))
                }
                (ServerToMaster::Register(_), Registered::Yes) | (_, Registered::NotYet) => {
                    Err(Some(RegisterRefusal::OutOfOrder))
                }
                (message, Registered::Yes) => Ok(Some(MasterEvent::Heard {
                    link,
                    message: Box::new(message),
                })),
            },
            (Some(Conn::Client), Message::ClientRequest { id, request }) => {
                self.next_ask += 1;
                let ask = AskId(self.next_ask);
                self.asks.insert(ask, (conn, id));
                Ok(Some(MasterEvent::Asked { ask, request }))
            }
            // Nothing that is said here by such a peer.
            (
                Some(_),
                Message::Hello(_)
                | Message::Volume(..)
                | Message::LeaseRequest(_)
                | Message::LeaseGrant(_)
                | Message::ServerToMaster(_)
                | Message::MasterToServer(_)
                | Message::ClientRequest { .. }
                | Message::ClientResponse { .. },
            ) => Err(None),
        }
    }

    fn refuse(
        &mut self,
        now: Instant,
        conn: ConnId,
        refusal: Option<RegisterRefusal>,
        out: &mut Vec<ServiceAction>,
    ) {
        if let Some(refusal) = refusal {
            let message = MasterToServer::Refused(refusal);
            out.push(ServiceAction::Send {
                conn,
                message: Message::MasterToServer(Box::new(message)),
            });
        }
        out.push(ServiceAction::Close { conn });
        self.forget(conn);
        let event = MasterEvent::LinkClosed {
            link: LinkId(conn.0),
        };
        self.authority.handle(now, event, &mut self.actions);
        self.pass_on(out);
    }

    fn forget(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.asks.retain(|_, (asker, _)| *asker != conn);
    }

    fn pass_on(&mut self, out: &mut Vec<ServiceAction>) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                MasterAction::Commit(txn) => out.push(ServiceAction::Commit(txn)),
                MasterAction::Tell { link, message } => out.push(ServiceAction::Send {
                    conn: ConnId(link.0),
                    message: Message::MasterToServer(message),
                }),
                MasterAction::Close { link } => {
                    let conn = ConnId(link.0);
                    self.forget(conn);
                    out.push(ServiceAction::Close { conn });
                }
                // Its connection may be gone: then nobody waits for it.
                MasterAction::Answer { ask, response } => {
                    if let Some((conn, id)) = self.asks.remove(&ask) {
                        let message = Message::ClientResponse { id, response };
                        out.push(ServiceAction::Send { conn, message });
                    }
                }
                MasterAction::Stop(reason) => out.push(ServiceAction::Stop(reason)),
            }
        }
    }
}

//! One server's whole head: volumes, sessions, leases, the assignment client, all routing.
//!
//! The driver feeds every ready event to [`Node::handle`], then calls [`Node::submit`] once, then
//! carries out the actions in order. That batch, not a timer, is the group commit.

mod action;
mod devices;
mod event;
mod leases;
mod links;
mod master;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use moorline_blockvol::FlusherConfig;
use moorline_types::{BootId, BufferPool, ClusterId, Instant, ServerId, VolumeId, WriteMode};
use moorline_wire::{
    Message, Refused, RefusedReason, VolumeHeader, VolumeMessage, control::ReplicaReport,
};

pub use self::{
    action::{Action, ExportState},
    event::{DeviceCreation, DeviceKey, Event, LinkDirection, LinkId},
};
use self::{devices::Devices, leases::LeaseRounds, master::MasterLink};
pub(crate) use self::{
    links::{Links, Peer},
    master::ReportKey,
};
use crate::{
    client::{ClientError, ClientId, ClientReply},
    journal::{Happening, NodeEvent},
    mutants::Mutants,
    replica::{Ctx, Me, OnVolatileLoss, Replica},
};

/// What a node is told once.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This server's name.
    pub server: ServerId,
    /// This run of its process: 128 random bits.
    pub boot: BootId,
    /// The cluster that it belongs to, if it ever joined one.
    pub cluster: Option<ClusterId>,
    /// Where other servers reach its replication listener.
    pub data_addr: String,
    /// Where its control listener is.
    pub control_addr: String,
    /// Where its clients connect.
    pub nbd_addr: String,
    /// The program's version, for status.
    pub version: String,
    /// Where buffers come from.
    pub pool: BufferPool,
    /// What to do when acknowledged records that were only in memory are gone.
    pub on_volatile_loss: OnVolatileLoss,
    /// How the stores' flushers work.
    pub flusher: FlusherConfig,
    /// A store's device operation without an answer for this long is a fault.
    pub operation_timeout: Duration,
    /// Whether a log frame's write is durable by itself, or a flush follows. Default
    /// [`WriteMode::Durable`]: one operation instead of two in the path of every write, one wake-up
    /// less on every replica, and on a device with forced unit access no flush of what the flusher
    /// has in the device's cache.
    pub log_write_mode: WriteMode,
    /// Planted bugs of this crate; none outside of tests.
    pub mutants: Mutants,
    /// Planted bugs of the recovery machines.
    pub engine_mutants: moorline_engine::Mutants,
    /// Planted bugs of the stores and their logs.
    pub store_mutants: moorline_blockvol::Mutants,
}

impl NodeConfig {
    /// A node with the defaults.
    #[must_use]
    pub fn new(server: ServerId, boot: BootId) -> Self {
        Self {
            server,
            boot,
            cluster: None,
            data_addr: String::new(),
            control_addr: String::new(),
            nbd_addr: String::new(),
            version: String::new(),
            pool: BufferPool::new(),
            on_volatile_loss: OnVolatileLoss::default(),
            flusher: FlusherConfig::default(),
            operation_timeout: Duration::from_secs(5),
            log_write_mode: WriteMode::Durable,
            mutants: Mutants::NONE,
            engine_mutants: moorline_engine::Mutants::NONE,
            store_mutants: moorline_blockvol::Mutants::NONE,
        }
    }
}

/// One server's head. See the module's page for how it is driven.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    me: Me,
    volumes: BTreeMap<VolumeId, Replica>,
    devices: Devices,
    links: Links,
    leases: LeaseRounds,
    master: MasterLink,
    /// Which volume each client is attached to.
    attached: BTreeMap<ClientId, VolumeId>,
    /// Volumes that something happened to since the last `submit`.
    touched: BTreeSet<VolumeId>,
    stopping: Stopping,
}

/// One look at a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeReport {
    /// Whether the master knows this server and boot, over a connection that stands.
    pub registered: bool,
    /// Stores that were found and are not open yet.
    pub stores_opening: u32,
    /// Its replicas, by volume id, each with its volume's name.
    pub volumes: Vec<(String, ReplicaReport)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopping {
    No,
    Asked,
    Done,
}

/// The same node once more: both go on from here without knowing of each other. Buffers come from
/// the same pool; what is shared otherwise never changes.
#[cfg(feature = "simulation")]
impl Clone for Node {
    fn clone(&self) -> Self {
        let volumes = self.volumes.iter();
        Self {
            config: self.config.clone(),
            me: self.me.clone(),
            volumes: volumes
                .map(|(volume, replica)| (*volume, replica.fork()))
                .collect(),
            devices: self.devices.clone(),
            links: self.links.clone(),
            leases: self.leases.clone(),
            master: self.master.clone(),
            attached: self.attached.clone(),
            touched: self.touched.clone(),
            stopping: self.stopping,
        }
    }
}

impl Node {
    /// A node without volumes; stores follow as events.
    #[must_use]
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        let me = Me {
            server: config.server.clone(),
            boot: config.boot,
            pool: config.pool.clone(),
            on_volatile_loss: config.on_volatile_loss,
            mutants: config.mutants,
            engine_mutants: config.engine_mutants,
        };
        Self {
            config,
            me,
            volumes: BTreeMap::new(),
            devices: Devices::default(),
            links: Links::default(),
            leases: LeaseRounds::new(now),
            master: MasterLink::default(),
            attached: BTreeMap::new(),
            touched: BTreeSet::new(),
            stopping: Stopping::No,
        }
    }

    /// Takes in one event. What it asks for is appended to `out`, in order.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::DeviceFound { device, bytes } => self.device_found(now, device, bytes, out),
            Event::DeviceCreated { volume, outcome } => self.device_created(volume, outcome, out),
            Event::DeviceDone { device, done } => self.device_done(now, device, done, out),
            Event::LinkUp {
                link,
                server,
                boot,
                direction,
            } => {
                self.link_up(
                    now,
                    link,
                    Peer {
                        server,
                        boot,
                        direction,
                    },
                    out,
                );
            }
            Event::LinkDown { link } => self.link_down(now, link, out),
            Event::DialFailed { server } => self.links.dial_failed(now, &server),
            Event::MessageArrived { link, message } => self.message(now, link, message, out),
            Event::MasterUp { cluster } => self.master_up(cluster, out),
            Event::MasterDown => self.master.down(),
            Event::MasterSaid(message) => self.master_said(now, message, out),
            Event::Requested(request) => {
                let volume = request.volume;
                if self.volumes.contains_key(&volume) {
                    self.with(now, volume, out, |replica, ctx| {
                        replica.on_client_request(ctx, request);
                    });
                } else {
                    out.push(Action::Reply {
                        client: request.client,
                        request: request.request,
                        reply: ClientReply::Failed(ClientError::NotPrimary),
                    });
                }
            }
            Event::ClientAttached { client, volume } => {
                self.attached.insert(client, volume);
                self.master.hurry(now);
            }
            Event::ClientLeft { client } => {
                self.attached.remove(&client);
                // What it held up may go on.
                self.for_each(now, out, |replica, _| replica.on_client_left(client));
            }
            Event::DeadlineReached => self.deadline(now, out),
            Event::StopRequested => self.stop(now, out),
        }
    }

    /// Ends a batch: log frames are formed, records shipped, clients answered.
    pub fn submit(&mut self, now: Instant, out: &mut Vec<Action>) {
        for volume in std::mem::take(&mut self.touched) {
            let Some(replica) = self.volumes.get_mut(&volume) else {
                continue;
            };
            let links = &mut self.links;
            let mut ctx = Ctx {
                now,
                me: &self.me,
                links,
                out,
            };
            replica.submit(&mut ctx);
            self.leases.urge(replica.take_lease_urge().then_some(now));
            self.master.note_change(now, replica.report_key());
        }
        self.remove_retired(out);
        self.lease_round(now, out);
        self.heartbeat(now, out);
        self.finish_stop(out);
    }

    /// When [`Event::DeadlineReached`] is to be told next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let volumes = self
            .volumes
            .values()
            .filter_map(Replica::next_deadline)
            .min();
        let leases = self.leases.next_deadline(self.volumes.values());
        [
            volumes,
            leases,
            self.links.next_deadline(),
            self.devices.next_deadline(),
            self.master.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The volumes whose stores are open here.
    pub fn volumes(&self) -> impl Iterator<Item = &Replica> {
        self.volumes.values()
    }

    /// Everything that status and metrics say of this node.
    #[must_use]
    pub fn report(&self, now: Instant) -> NodeReport {
        let volumes = self.volumes.values().map(|replica| {
            let clients = self.clients_of(replica.volume());
            let name = replica.store().identity().volume_name.clone();
            (name, replica.report(&self.me, now, clients))
        });
        NodeReport {
            registered: self.master.is_up(),
            stores_opening: self.devices.opening_count(),
            volumes: volumes.collect(),
        }
    }

    /// One volume's replica.
    #[must_use]
    pub fn volume(&self, volume: VolumeId) -> Option<&Replica> {
        self.volumes.get(&volume)
    }

    /// Who this node is.
    #[must_use]
    pub fn server(&self) -> &ServerId {
        &self.me.server
    }

    fn with(
        &mut self,
        now: Instant,
        volume: VolumeId,
        out: &mut Vec<Action>,
        act: impl FnOnce(&mut Replica, &mut Ctx<'_>),
    ) {
        if let Some(replica) = self.volumes.get_mut(&volume) {
            let mut ctx = Ctx {
                now,
                me: &self.me,
                links: &mut self.links,
                out,
            };
            act(replica, &mut ctx);
            self.touched.insert(volume);
        }
    }

    fn for_each(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
        mut act: impl FnMut(&mut Replica, &mut Ctx<'_>),
    ) {
        for (volume, replica) in &mut self.volumes {
            let mut ctx = Ctx {
                now,
                me: &self.me,
                links: &mut self.links,
                out,
            };
            act(replica, &mut ctx);
            self.touched.insert(*volume);
        }
    }

    fn link_up(&mut self, now: Instant, link: LinkId, peer: Peer, out: &mut Vec<Action>) {
        if peer.server == self.me.server {
            out.push(Action::HangUp { link });
            return;
        }
        // A connection with an earlier boot is dead, though nobody has noticed yet.
        for dead in self.links.of_other_boots(&peer) {
            out.push(Action::HangUp { link: dead });
            self.link_down(now, dead, out);
        }
        self.links.up(link, peer.clone(), out);
        self.for_each(now, out, |replica, ctx| replica.on_link_up(ctx, &peer));
    }

    fn link_down(&mut self, now: Instant, link: LinkId, out: &mut Vec<Action>) {
        self.leases.forget(link);
        if let Some(peer) = self.links.down(now, link) {
            self.for_each(now, out, |replica, ctx| {
                replica.on_link_down(ctx, link, &peer)
            });
        }
    }

    fn message(&mut self, now: Instant, link: LinkId, message: Message, out: &mut Vec<Action>) {
        let Some(peer) = self.links.peer(link).cloned() else {
            return;
        };
        match message {
            Message::Volume(header, body) => {
                self.volume_message(now, link, &peer, header, body, out);
            }
            Message::LeaseRequest(request) => self.lease_request(now, link, &peer, &request, out),
            Message::LeaseGrant(grant) => self.lease_grant(now, link, &peer, grant, out),
            Message::Hello(_)
            | Message::ServerToMaster(_)
            | Message::MasterToServer(_)
            | Message::ClientRequest { .. }
            | Message::ClientResponse { .. } => {
                let reason = "its message does not belong on a connection between servers";
                out.push(Action::Note(NodeEvent {
                    volume: None,
                    what: Happening::PeerRefused {
                        peer: peer.server,
                        reason,
                    },
                }));
                out.push(Action::HangUp { link });
            }
        }
    }

    fn volume_message(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: &Peer,
        header: VolumeHeader,
        body: VolumeMessage,
        out: &mut Vec<Action>,
    ) {
        if self.volumes.contains_key(&header.volume) {
            self.with(now, header.volume, out, |replica, ctx| {
                replica.on_message(ctx, link, peer, header, body);
            });
        } else if !matches!(body, VolumeMessage::Refused(_)) {
            let refused = Refused {
                reason: RefusedReason::UnknownVolume,
            };
            let message = Message::Volume(header, VolumeMessage::Refused(refused));
            out.push(Action::Send { link, message });
        }
    }

    fn deadline(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.links.dial_due(now, out);
        self.openings_deadline(now, out);
        let due: Vec<VolumeId> = self
            .volumes
            .iter()
            .filter(|(_, replica)| replica.next_deadline().is_some_and(|at| at <= now))
            .map(|(volume, _)| *volume)
            .collect();
        for volume in due {
            self.with(now, volume, out, |replica, ctx| replica.on_deadline(ctx));
        }
    }

    fn stop(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
            self.for_each(now, out, |replica, ctx| replica.stop(ctx));
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping != Stopping::No
    }

    fn finish_stop(&mut self, out: &mut Vec<Action>) {
        if self.stopping == Stopping::Asked && self.volumes.values().all(Replica::is_at_rest) {
            self.stopping = Stopping::Done;
            out.push(Action::Stopped);
        }
    }

    fn note(volume: Option<VolumeId>, what: Happening, out: &mut Vec<Action>) {
        out.push(Action::Note(NodeEvent { volume, what }));
    }
}

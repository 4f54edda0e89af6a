//! Registrations, heartbeats and silence.

use std::collections::BTreeMap;

use moorline_types::{BootId, Instant, Policy, ServerId, VolumeId};
use moorline_wire::control::{
    Heartbeat, KnownLine, LossConsent, MasterLease, MasterToServer, Register, RegisterRefusal,
    ReplicaReport, ReplicaRole, ServerToMaster, StoreReport,
};

use super::{Actions, Authority, LinkId, MasterAction, RunPhase, Server, Subject, Versioned};
use crate::{
    record::{Key, ServerRecord, Value, VolumePhase},
    store::{Change, Expected, RecordVersion, Stored},
};

const ADDRESS_BYTES_MAX: usize = 255;

/// One server's connection.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) boot: BootId,
    pub(super) register: Box<Register>,
    pub(super) last_heard: Instant,
    pub(super) phase: LinkPhase,
    pub(super) reports: BTreeMap<VolumeId, ReplicaReport>,
    pub(super) stores: BTreeMap<VolumeId, StoreReport>,
    /// The newest lines that its stores persisted, where it said them.
    pub(super) known: BTreeMap<VolumeId, KnownLine>,
    /// Stores that it is still opening, of volumes that it does not know yet; `None` until the first
    /// heartbeat.
    pub(super) stores_opening: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkPhase {
    /// Its registration is being recorded.
    Recording,
    /// It was welcomed.
    Up,
}

impl Server {
    /// The connection, once the server was welcomed on it.
    pub(super) fn up(&self) -> Option<&Link> {
        self.link
            .as_ref()
            .filter(|link| link.phase == LinkPhase::Up)
    }
}

impl Authority {
    pub(super) fn up_link(&self, server: &ServerId) -> Option<&Link> {
        self.servers.get(server).and_then(Server::up)
    }

    pub(super) fn on_registered(&mut self, id: LinkId, register: Box<Register>, out: &mut Actions) {
        match self.phase {
            RunPhase::Starting => return self.early.push((id, register)),
            RunPhase::Stopped => return self.refuse(id, RegisterRefusal::MasterFailed, out),
            RunPhase::Running => {}
        }
        if let Err(refusal) = self.check_register(id, &register) {
            // The connection may be a registered one; it ends either way.
            self.refuse(id, refusal, out);
            return self.on_link_closed(id, out);
        }
        let server = register.server.clone();
        if let Some(old) = self.servers.get(&server).and_then(|s| s.link.as_ref()) {
            // The same boot came again before the end of its old connection was noticed.
            let old = old.id;
            out.push(MasterAction::Close { link: old });
            self.on_link_closed(old, out);
        }
        let stores = register.stores.iter();
        let link = Link {
            id,
            boot: register.boot,
            last_heard: self.now,
            phase: LinkPhase::Recording,
            reports: BTreeMap::new(),
            stores_opening: None,
            known: BTreeMap::new(),
            stores: stores.map(|store| (store.volume, store.clone())).collect(),
            register,
        };
        self.servers.entry(server.clone()).or_default().link = Some(link);
        self.links.insert(id, server.clone());
        if !self.learn_of_old_copy(&server, out) {
            self.reconcile_server(&server, out);
        }
    }

    fn refuse(&self, link: LinkId, refusal: RegisterRefusal, out: &mut Actions) {
        self.tell(link, MasterToServer::Refused(refusal), out);
        out.push(MasterAction::Close { link });
    }

    fn check_register(&self, id: LinkId, register: &Register) -> Result<(), RegisterRefusal> {
        if self.links.contains_key(&id) {
            return Err(RegisterRefusal::OutOfOrder);
        }
        if let Some(theirs) = register.cluster.filter(|c| *c != self.meta.cluster) {
            let ours = self.meta.cluster;
            return Err(RegisterRefusal::WrongCluster { ours, theirs });
        }
        let addresses = addresses(register);
        for address in addresses {
            if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || !address.contains(':') {
                return Err(RegisterRefusal::BadAddress {
                    address: address.chars().take(80).collect(),
                });
            }
        }
        for (server, known) in &self.servers {
            let Some(link) = &known.link else { continue };
            if *server == register.server {
                if link.boot != register.boot {
                    return Err(RegisterRefusal::DuplicateServer { boot: link.boot });
                }
                continue;
            }
            // The NBD listener may be one socket shared by several servers.
            let taken = &self::addresses(&link.register)[..2];
            if let Some(address) = addresses[..2].iter().find(|a| taken.contains(a)) {
                return Err(RegisterRefusal::DuplicateAddress {
                    address: (*address).to_owned(),
                    by: server.clone(),
                });
            }
        }
        Ok(())
    }

    /// Records what a connected server says of itself, or welcomes it when that is recorded.
    fn reconcile_server(&mut self, id: &ServerId, out: &mut Actions) {
        let Some(server) = self.servers.get_mut(id) else {
            return;
        };
        let Some(link) = server.link.as_mut() else {
            return;
        };
        if server.pending.is_some() || link.phase == LinkPhase::Up {
            return;
        }
        let recorded = server.record.as_ref();
        let wanted = next_record(recorded.map(|record| &record.value), &link.register);
        if recorded.is_some_and(|record| record.value == wanted) {
            link.phase = LinkPhase::Up;
            return self.welcome(id, out);
        }
        let change = Change {
            key: Key::Server(id.clone()),
            expected: recorded.map_or(Expected::Absent, |r| Expected::Version(r.version)),
            value: Some(Value::Server(wanted)),
        };
        let txn = self.propose(Subject::Server(id.clone()), vec![change], out);
        if let Some(server) = self.servers.get_mut(id) {
            server.pending = Some(txn);
        }
    }

    pub(super) fn on_server_recorded(
        &mut self,
        id: &ServerId,
        changes: Vec<(Key, Option<Value>)>,
        out: &mut Actions,
    ) {
        let Some(server) = self.servers.get_mut(id) else {
            return;
        };
        server.pending = None;
        for (_, value) in changes {
            if let Some(Value::Server(value)) = value {
                let before = server.record.as_ref().map(|record| record.version);
                let version = before.map_or(RecordVersion::FIRST, RecordVersion::next);
                server.record = Some(Versioned { version, value });
            }
        }
        self.reconcile_server(id, out);
    }

    pub(super) fn on_server_lost(
        &mut self,
        id: &ServerId,
        current: Vec<(Key, Option<Stored>)>,
        out: &mut Actions,
    ) {
        let Some(server) = self.servers.get_mut(id) else {
            return;
        };
        server.pending = None;
        server.record = current.into_iter().find_map(|(_, stored)| match stored {
            Some(Stored {
                version,
                value: Value::Server(value),
            }) => Some(Versioned { version, value }),
            Some(_) | None => None,
        });
        self.reconcile_server(id, out);
    }

    fn welcome(&mut self, id: &ServerId, out: &mut Actions) {
        let Some(link) = self.up_link(id).map(|link| link.id) else {
            return;
        };
        let heartbeat_ms = u32::try_from(self.config.heartbeat.as_millis()).unwrap_or(u32::MAX);
        let welcome = MasterToServer::Registered {
            cluster: self.meta.cluster,
            start: self.meta.start,
            instance: self.meta.instance,
            heartbeat_ms,
        };
        self.tell(link, welcome, out);
        for (volume_id, volume) in &self.volumes {
            if !volume.has_seat(id) || volume.version.is_none() {
                continue;
            }
            match volume.record.phase {
                VolumePhase::Live => self.tell_line(*volume_id, link, out),
                VolumePhase::RollingBack { .. } | VolumePhase::Deleting { .. } => {
                    let volume = *volume_id;
                    self.tell(link, MasterToServer::DeleteStore { volume }, out);
                }
                VolumePhase::Creating { .. } => {}
            }
        }
        self.reconcile_all_of(id, out);
    }

    /// Tells one server the line in force, if the volume ever had a reign.
    pub(super) fn tell_line(&self, id: VolumeId, link: LinkId, out: &mut Actions) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let line = &volume.record.line;
        if line.primary.is_none() || self.is_unsettled(id) {
            return;
        }
        // A best-effort reign is minted only after somebody agreed, or where nothing can be lost.
        let consent = match line.policy {
            Policy::BestEffort => LossConsent::Given,
            Policy::SyncQuorum | Policy::SyncAll => LossConsent::No,
        };
        let message = MasterToServer::Assignment {
            line: line.clone(),
            consent,
            loss_accepted: volume.record.loss_accepted,
        };
        self.tell(link, message, out);
    }

    pub(super) fn on_new_line(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        for member in &volume.record.line.members {
            if let Some(link) = self.up_link(&member.server) {
                self.tell_line(id, link.id, out);
            }
        }
    }

    pub(super) fn on_link_closed(&mut self, id: LinkId, out: &mut Actions) {
        self.early.retain(|(link, _)| *link != id);
        let Some(server) = self.links.remove(&id) else {
            return;
        };
        if let Some(known) = self.servers.get_mut(&server) {
            known.link = None;
        }
        self.reconcile_all_of(&server, out);
    }

    pub(super) fn on_heard(&mut self, id: LinkId, message: ServerToMaster, out: &mut Actions) {
        let Some(server) = self.links.get(&id).cloned() else {
            return;
        };
        let now = self.now;
        let Some(link) = self.servers.get_mut(&server).and_then(|s| s.link.as_mut()) else {
            return;
        };
        link.last_heard = now;
        if link.phase == LinkPhase::Recording {
            // It was not welcomed yet: what it says comes again with its next heartbeat.
            return;
        }
        match message {
            ServerToMaster::Register(_) => {
                self.refuse(id, RegisterRefusal::OutOfOrder, out);
                self.on_link_closed(id, out);
            }
            ServerToMaster::Heartbeat(heartbeat) => self.on_heartbeat(&server, heartbeat, out),
            ServerToMaster::ChangeConfig(change) => self.on_change_config(id, &server, change, out),
            ServerToMaster::ChangeVote(change) => self.on_change_vote(id, &server, change, out),
            ServerToMaster::CreatedStore { volume, store } => {
                self.on_created_store(&server, volume, store, out);
            }
            ServerToMaster::CreateFailed { volume, reason } => {
                self.on_create_failed(&server, volume, reason, out);
            }
            ServerToMaster::DeletedStore { volume } => {
                self.on_deleted_store(&server, volume, out);
            }
            ServerToMaster::PrimaryFault {
                volume,
                epoch,
                reason,
            } => self.on_primary_fault(&server, volume, epoch, reason, out),
            ServerToMaster::PromotionFailed {
                volume,
                epoch,
                reason,
                better,
            } => self.on_promotion_failed(&server, volume, epoch, reason, better, out),
            ServerToMaster::Event(event) => self.note_reported(server, event),
        }
    }

    fn on_heartbeat(&mut self, server: &ServerId, heartbeat: Heartbeat, out: &mut Actions) {
        let Some(link) = self.servers.get_mut(server).and_then(|s| s.link.as_mut()) else {
            return;
        };
        let (link_id, boot) = (link.id, link.boot);
        for report in &heartbeat.volumes {
            link.stores.insert(report.volume, store_of(report));
        }
        link.stores_opening = Some(heartbeat.stores_opening);
        let reports = heartbeat.volumes.into_iter();
        link.reports = reports.map(|report| (report.volume, report)).collect();
        for report in link.reports.values_mut() {
            if let Some(line) = report.known_line.take() {
                link.known.insert(report.volume, *line);
            }
        }
        // A store that is gone takes its word with it.
        let reports = &link.reports;
        link.known.retain(|volume, _| reports.contains_key(volume));
        if self.learn_of_old_copy(server, out) {
            return;
        }
        let Some(link) = self.up_link(server) else {
            return;
        };
        let mut granted = Vec::new();
        let ids: Vec<VolumeId> = link.reports.keys().copied().collect();
        for id in &ids {
            if let Some(lease) = self.grant(server, boot, *id) {
                granted.push(lease);
            }
        }
        let leases = MasterToServer::Leases {
            heartbeat_seq: heartbeat.seq,
            ttl_ms: u32::try_from(self.config.lease.as_millis()).unwrap_or(u32::MAX),
            granted,
        };
        self.tell(link_id, leases, out);
        self.reconcile_all_of(server, out);
        self.adopt_unknown(out);
    }

    /// Grants the master's lease to the (server, boot) of the reign in force, unless that reign is
    /// to end or its successor is being recorded.
    fn grant(&mut self, server: &ServerId, boot: BootId, id: VolumeId) -> Option<MasterLease> {
        let volume = self.volumes.get(&id)?;
        let line = &volume.record.line;
        let epoch = line.epoch;
        let holds = line.primary.as_ref() == Some(&(server.clone(), boot));
        let report = self.up_link(server)?.reports.get(&id)?;
        let able = !matches!(report.role, ReplicaRole::Failed | ReplicaRole::Fenced);
        let lasting = !volume.reign.is_to_end(epoch) && !volume.reign.is_minting();
        let lasting = lasting && volume.record.loss_accepted != Some(epoch);
        if !volume.is_live() || self.is_unsettled(id) || !holds || !able || !lasting {
            return None;
        }
        self.leases.grant(self.now, id, epoch);
        Some(MasterLease {
            volume: id,
            epoch,
            boot,
        })
    }
}

fn store_of(report: &ReplicaReport) -> StoreReport {
    StoreReport {
        volume: report.volume,
        store: report.store,
        open: report.open,
        boot: report.boot,
        openings: report.openings.clone(),
        promised: report.promised,
        line: report.line,
        master: report.master,
    }
}

fn addresses(register: &Register) -> [&str; 3] {
    [
        &register.data_addr,
        &register.control_addr,
        &register.nbd_addr,
    ]
}

fn next_record(recorded: Option<&ServerRecord>, register: &Register) -> ServerRecord {
    let moved = recorded.is_none_or(|record| {
        record.data_addr != register.data_addr
            || record.control_addr != register.control_addr
            || record.nbd_addr != register.nbd_addr
    });
    let version = recorded.map_or(0, |record| record.endpoint_version);
    ServerRecord {
        server: register.server.clone(),
        boot: register.boot,
        data_addr: register.data_addr.clone(),
        control_addr: register.control_addr.clone(),
        nbd_addr: register.nbd_addr.clone(),
        endpoint_version: version + u64::from(moved),
        version: register.version.clone(),
    }
}

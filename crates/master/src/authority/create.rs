//! Making and removing volumes: all or nothing, each step behind a recorded intent.

use std::collections::{BTreeMap, BTreeSet};

use moorline_types::{
    AssignmentLine, BlockCount, ConfigVersion, Epoch, OpenCount, Policy, ServerId, VolumeId,
};
use moorline_wire::control::{
    ClientError, ClientRequest, ClientResponse, CreateStoreError, CreateVolume, EventKind,
    MasterToServer, StoreReport,
};

use super::{Actions, AskId, Authority, MasterAction, Purpose, RunPhase, Volume};
use crate::{
    placement::{Host, place},
    record::{Key, Seen, Trust, Value, VolumePhase, VolumeRecord},
    store::{Change, Expected},
};

/// The largest volume, in bytes.
const SIZE_BYTES_MAX: u64 = 1 << 50;
/// The largest log, in bytes.
const LOG_BYTES_MAX: u64 = 1 << 40;
/// The most replicas of a volume.
const REPLICAS_MAX: u32 = 7;
const NAME_BYTES_MAX: usize = 63;
const BLOCK_BYTES: u64 = 4096;

impl Authority {
    pub(super) fn on_asked(&mut self, ask: AskId, request: ClientRequest, out: &mut Actions) {
        if self.phase != RunPhase::Running {
            return self.answer(ask, ClientResponse::Failed(ClientError::MasterFailed), out);
        }
        let answer = match request {
            ClientRequest::CreateVolume(request) => match self.create(ask, request, out) {
                Ok(answer) => answer,
                Err(error) => Some(ClientResponse::Failed(error)),
            },
            ClientRequest::DeleteVolume { name } => match self.delete(ask, name, out) {
                Ok(()) => None,
                Err(error) => Some(ClientResponse::Failed(error)),
            },
            ClientRequest::ListVolumes => Some(ClientResponse::Volumes(self.summaries())),
            ClientRequest::VolumeStatus { name } => Some(self.volume_status(name)),
            ClientRequest::Status => Some(ClientResponse::Cluster(Box::new(self.cluster_status()))),
            ClientRequest::Events { name, after } => Some(self.events(name, after)),
            ClientRequest::AcceptLoss { name } => match self.accept_loss(ask, name, out) {
                Ok(()) => None,
                Err(error) => Some(ClientResponse::Failed(error)),
            },
            ClientRequest::Overrule { name, consent } => {
                match self.overrule(ask, name, consent, out) {
                    Ok(()) => None,
                    Err(error) => Some(ClientResponse::Failed(error)),
                }
            }
            ClientRequest::Backup { after } => Some(ClientResponse::Backup(self.backup(after))),
        };
        if let Some(response) = answer {
            self.answer(ask, response, out);
        }
    }

    pub(super) fn answer(&self, ask: AskId, response: ClientResponse, out: &mut Actions) {
        out.push(MasterAction::Answer {
            ask,
            response: Box::new(response),
        });
    }

    /// The volume of a name that is made or being made; one that is leaving has no name any more.
    pub(super) fn by_name(&self, name: &str) -> Option<(VolumeId, &Volume)> {
        let named = |volume: &Volume| {
            volume.record.line.name == name
                && matches!(
                    volume.record.phase,
                    VolumePhase::Creating { .. } | VolumePhase::Live
                )
        };
        self.volumes
            .iter()
            .find(|(_, volume)| named(volume))
            .map(|(id, volume)| (*id, volume))
    }

    fn create(
        &mut self,
        ask: AskId,
        request: CreateVolume,
        out: &mut Actions,
    ) -> Result<Option<ClientResponse>, ClientError> {
        let wanted = self.check_create(&request)?;
        if let Some((id, volume)) = self.by_name(&request.name) {
            let record = &volume.record;
            if !has_properties(record, &wanted) {
                return Err(ClientError::Exists { name: request.name });
            }
            if volume.is_live() {
                return Ok(Some(ClientResponse::Created(self.summary(volume))));
            }
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.asks.push(ask);
            }
            return Ok(None);
        }
        if self.is_reported_unknown(&request.name) {
            return Err(ClientError::Exists { name: request.name });
        }
        let seats = self.place_seats(request.replicas)?;
        self.ids += 1;
        let id = VolumeId::new(self.start.seed.wrapping_add(u128::from(self.ids)));
        let operation = self.next_operation();
        let record = self.new_record(id, &request, &wanted, &seats, operation);
        let mut volume = Volume::new(None, record.clone());
        volume.asks.push(ask);
        self.volumes.insert(id, volume);
        let event = EventKind::CreateStarted {
            operation,
            servers: seats,
        };
        self.note(id, event);
        let name = Change {
            key: Key::Name(request.name),
            expected: Expected::Absent,
            value: Some(Value::Name(id)),
        };
        self.propose_volume(id, record, Purpose::Intend, vec![name], out);
        Ok(None)
    }

    fn check_create(&self, request: &CreateVolume) -> Result<Wanted, ClientError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let name = &request.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
            let name = name.chars().take(80).collect();
            return Err(ClientError::BadName { name });
        }
        let size_bytes = request.size_bytes;
        let size_blocks = BlockCount::from_bytes_exact(size_bytes)
            .filter(|size| size.get() > 0 && size_bytes <= SIZE_BYTES_MAX)
            .ok_or(ClientError::BadSize { size_bytes })?;
        let least = self.config.log_bytes_min;
        let log_bytes = request.log_bytes;
        if !log_bytes.is_multiple_of(BLOCK_BYTES) || !(least..=LOG_BYTES_MAX).contains(&log_bytes) {
            return Err(ClientError::BadLogSize { log_bytes, least });
        }
        let replicas = request.replicas;
        let default_copies = replicas.saturating_sub(1).max(1);
        let min_copies = request.min_copies.unwrap_or(default_copies);
        if !(1..=REPLICAS_MAX).contains(&replicas) || !(1..=replicas).contains(&min_copies) {
            return Err(ClientError::BadReplicas {
                replicas,
                min_copies,
                most: REPLICAS_MAX,
            });
        }
        // A majority of two is both, so that two replicas would stop with either.
        let default_policy = match replicas {
            2 => Policy::SyncAll,
            _ => Policy::SyncQuorum,
        };
        Ok(Wanted {
            size_blocks,
            policy: request.policy.unwrap_or(default_policy),
            ack: request.ack,
            min_copies,
            no_quorum: request.no_quorum.unwrap_or(self.config.no_quorum),
            replicas,
            log_bytes,
        })
    }

    fn place_seats(&self, replicas: u32) -> Result<Vec<ServerId>, ClientError> {
        let hosts: Vec<Host> = self
            .servers
            .iter()
            .filter(|(_, server)| server.up().is_some())
            .map(|(server, _)| Host {
                server: server.clone(),
                seats: self.seats_of(server),
            })
            .collect();
        let servers = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let count = usize::try_from(replicas).unwrap_or(usize::MAX);
        place(hosts, count).ok_or(ClientError::TooFewServers { replicas, servers })
    }

    pub(super) fn seats_of(&self, server: &ServerId) -> usize {
        let seated = |volume: &&Volume| volume.has_seat(server);
        self.volumes.values().filter(seated).count()
    }

    fn new_record(
        &self,
        id: VolumeId,
        request: &CreateVolume,
        wanted: &Wanted,
        seats: &[ServerId],
        operation: u64,
    ) -> VolumeRecord {
        let member = |server: &ServerId| {
            let record = self.servers.get(server).and_then(|s| s.record.as_ref());
            let record = record.map(|record| &record.value);
            let text = |pick: fn(&crate::record::ServerRecord) -> &String| {
                record.map(pick).cloned().unwrap_or_default()
            };
            moorline_types::Member {
                server: server.clone(),
                store: None,
                open: OpenCount::default(),
                opened_by: None,
                boot: None,
                data_addr: text(|r| &r.data_addr),
                control_addr: text(|r| &r.control_addr),
                nbd_addr: text(|r| &r.nbd_addr),
                endpoint_version: record.map_or(0, |r| r.endpoint_version),
            }
        };
        let line = AssignmentLine {
            volume: id,
            name: request.name.clone(),
            size_blocks: wanted.size_blocks,
            policy: wanted.policy,
            ack: wanted.ack,
            min_copies: wanted.min_copies,
            epoch: Epoch::ZERO,
            config: ConfigVersion::ZERO,
            primary: None,
            members: seats.iter().map(member).collect(),
            in_sync: Vec::new(),
            no_quorum: wanted.no_quorum,
            lease_ms: u32::try_from(self.config.lease.as_millis()).unwrap_or(u32::MAX),
        };
        VolumeRecord {
            line,
            log_bytes: request.log_bytes,
            phase: VolumePhase::Creating { operation },
            seen: BTreeMap::new(),
            event_seq: 0,
            instance: self.meta.instance,
            epoch_floor: 0,
            loss_accepted: None,
        }
    }

    /// The intent is recorded: the stores may be made.
    pub(super) fn on_intended(&mut self, id: VolumeId, out: &mut Actions) {
        let deadline = self.now.after(self.config.create_deadline);
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.create_deadline = Some(deadline);
        let record = volume.record.clone();
        let VolumePhase::Creating { operation } = record.phase else {
            return;
        };
        for member in &record.line.members {
            if let Some(link) = self.up_link(&member.server) {
                let message = MasterToServer::CreateStore {
                    line: record.line.clone(),
                    log_bytes: record.log_bytes,
                    operation,
                };
                self.tell(link.id, message, out);
            }
        }
    }

    pub(super) fn on_created_store(
        &mut self,
        server: &ServerId,
        id: VolumeId,
        store: StoreReport,
        out: &mut Actions,
    ) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        if !volume.has_seat(server) || store.volume != id {
            return;
        }
        if matches!(volume.record.phase, VolumePhase::Creating { .. }) {
            volume.made.insert(server.clone(), store.clone());
            if let Some(link) = self.servers.get_mut(server).and_then(|s| s.link.as_mut()) {
                link.stores.insert(id, store);
            }
        }
        self.reconcile(id, out);
    }

    pub(super) fn on_create_failed(
        &mut self,
        server: &ServerId,
        id: VolumeId,
        reason: CreateStoreError,
        out: &mut Actions,
    ) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let creating = matches!(volume.record.phase, VolumePhase::Creating { .. });
        if creating && volume.has_seat(server) && volume.failure.is_none() {
            volume.failure = Some(ClientError::CreateFailed {
                server: server.clone(),
                reason,
            });
        }
        self.reconcile(id, out);
    }

    pub(super) fn on_deleted_store(&mut self, server: &ServerId, id: VolumeId, out: &mut Actions) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.gone.insert(server.clone());
            self.reconcile(id, out);
        }
    }

    pub(super) fn reconcile_creating(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let VolumePhase::Creating { operation } = volume.record.phase else {
            return;
        };
        let members = &volume.record.line.members;
        let absent = members
            .iter()
            .find(|member| self.up_link(&member.server).is_none());
        let unmade = members
            .iter()
            .find(|member| !volume.made.contains_key(&member.server));
        // Without a deadline it is what an earlier run of the master left unfinished.
        let overdue = volume.create_deadline.is_none_or(|end| end <= self.now);
        let missing = absent.or(unmade.filter(|_| overdue));
        let lost = missing.map(|member| ClientError::ServerLost {
            server: member.server.clone(),
        });
        if let Some(failure) = volume.failure.clone().or(lost) {
            return self.withdraw(id, operation, failure, out);
        }
        if unmade.is_none() {
            return self.complete(id, operation, out);
        }
        let wake = volume.create_deadline;
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.wake = wake;
        }
    }

    fn complete(&mut self, id: VolumeId, operation: u64, out: &mut Actions) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let mut record = volume.record.clone();
        record.phase = VolumePhase::Live;
        for member in &mut record.line.members {
            let Some(made) = volume.made.get(&member.server) else {
                return;
            };
            member.store = Some(made.store);
            member.open = made.open;
            member.opened_by = Some(made.boot);
            member.boot = Some(made.boot);
            let seen = Seen {
                store: made.store,
                open: made.open,
                boot: made.boot,
                trust: Trust::Trusted,
            };
            record.seen.insert(member.server.clone(), seen);
        }
        record.line.in_sync = record
            .line
            .members
            .iter()
            .map(|m| m.server.clone())
            .collect();
        self.note(id, EventKind::Created { operation });
        self.propose_volume(id, record, Purpose::Complete, Vec::new(), out);
    }

    fn withdraw(&mut self, id: VolumeId, operation: u64, why: ClientError, out: &mut Actions) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.failure = Some(why);
        let mut record = volume.record.clone();
        record.phase = VolumePhase::RollingBack { operation };
        let name = free_name(&record);
        self.note(id, EventKind::CreateRolledBack { operation });
        self.propose_volume(id, record, Purpose::Withdraw, vec![name], out);
    }

    pub(super) fn on_completed(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.made.clear();
        volume.create_deadline = None;
        let asks = std::mem::take(&mut volume.asks);
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let summary = self.summary(volume);
        for ask in asks {
            self.answer(ask, ClientResponse::Created(summary.clone()), out);
        }
    }

    /// The volume is on its way out: every seat is told, and the operators of a failed creation.
    pub(super) fn on_withdrawn(&mut self, id: VolumeId, out: &mut Actions) {
        self.refuse_deferred(id, out);
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.made.clear();
        volume.gone.clear();
        let servers: Vec<ServerId> = volume
            .record
            .line
            .members
            .iter()
            .map(|member| member.server.clone())
            .collect();
        if let Some(failure) = volume.failure.take() {
            for ask in std::mem::take(&mut volume.asks) {
                self.answer(ask, ClientResponse::Failed(failure.clone()), out);
            }
        }
        for server in servers {
            if let Some(link) = self.up_link(&server) {
                self.tell(link.id, MasterToServer::DeleteStore { volume: id }, out);
            }
        }
    }

    fn delete(&mut self, ask: AskId, name: String, out: &mut Actions) -> Result<(), ClientError> {
        let Some((id, volume)) = self.by_name(&name) else {
            return Err(ClientError::NotFound { name });
        };
        if !volume.is_live() || volume.pending.is_some() {
            return Err(ClientError::Busy { name });
        }
        let in_use = volume.record.line.members.iter().any(|member| {
            let link = self.up_link(&member.server);
            link.and_then(|link| link.reports.get(&id))
                .is_some_and(|report| report.clients > 0)
        });
        if in_use {
            return Err(ClientError::InUse { name });
        }
        let mut record = volume.record.clone();
        let operation = self.next_operation();
        record.phase = VolumePhase::Deleting { operation };
        let name = free_name(&record);
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.asks.push(ask);
        }
        self.note(id, EventKind::DeleteStarted { operation });
        self.propose_volume(id, record, Purpose::Withdraw, vec![name], out);
        Ok(())
    }

    /// Forgets the volume once every seat said that it holds nothing of it. Operators are answered as
    /// soon as the connected ones did: the others are told when they come back.
    pub(super) fn reconcile_leaving(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let holds = |server: &ServerId| !volume.gone.contains(server);
        let members = &volume.record.line.members;
        let left: BTreeSet<&ServerId> = members
            .iter()
            .map(|member| &member.server)
            .filter(|server| holds(server))
            .collect();
        let connected_left = left.iter().any(|server| self.up_link(server).is_some());
        let all_gone = left.is_empty();
        if !connected_left {
            self.answer_deleted(id, out);
        }
        if all_gone && let Some(volume) = self.volumes.get(&id) {
            let record = volume.record.clone();
            self.propose_volume(id, record, Purpose::Forget, Vec::new(), out);
        }
    }

    fn answer_deleted(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let name = volume.record.line.name.clone();
        for ask in std::mem::take(&mut volume.asks) {
            self.answer(ask, ClientResponse::Deleted { name: name.clone() }, out);
        }
    }

    pub(super) fn on_forgotten(&mut self, id: VolumeId) {
        self.volumes.remove(&id);
        self.leases.forget(id);
        for server in self.servers.values_mut() {
            if let Some(link) = server.link.as_mut() {
                link.known.remove(&id);
            }
        }
    }

    /// Another master removed the volume, or took the name first.
    pub(super) fn on_vanished(&mut self, id: VolumeId, out: &mut Actions) {
        self.refuse_deferred(id, out);
        let Some(volume) = self.volumes.remove(&id) else {
            return;
        };
        self.leases.forget(id);
        let name = volume.record.line.name;
        for ask in volume.asks {
            let error = ClientError::Busy { name: name.clone() };
            self.answer(ask, ClientResponse::Failed(error), out);
        }
    }

    pub(super) fn fail_all_asks(&mut self, out: &mut Actions) {
        let asks: Vec<AskId> = self
            .volumes
            .values_mut()
            .flat_map(|volume| std::mem::take(&mut volume.asks))
            .collect();
        for ask in asks {
            self.answer(ask, ClientResponse::Failed(ClientError::MasterFailed), out);
        }
    }
}

/// The properties that a request asks for, defaults filled in.
struct Wanted {
    size_blocks: BlockCount,
    policy: Policy,
    ack: moorline_types::AckPoint,
    min_copies: u32,
    no_quorum: moorline_types::NoQuorum,
    replicas: u32,
    log_bytes: u64,
}

fn has_properties(record: &VolumeRecord, wanted: &Wanted) -> bool {
    let line = &record.line;
    line.size_blocks == wanted.size_blocks
        && line.policy == wanted.policy
        && line.ack == wanted.ack
        && line.min_copies == wanted.min_copies
        && line.no_quorum == wanted.no_quorum
        && u32::try_from(line.members.len()) == Ok(wanted.replicas)
        && record.log_bytes == wanted.log_bytes
}

fn free_name(record: &VolumeRecord) -> Change {
    Change {
        key: Key::Name(record.line.name.clone()),
        expected: Expected::Anything,
        value: None,
    }
}

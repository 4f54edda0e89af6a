//! What operators are shown.

use moorline_types::{ServerId, VolumeId};
use moorline_wire::control::{
    ClientError, ClientResponse, ClusterStatus, Health, LogHolder, PeerReport, PinStatus,
    ReplicaReport, ReplicaRole, ReplicaState, ReplicaStatus, ServerState, ServerStatus, Serving,
    SessionReport, SessionStatus, SlowWrites, VolumeStatus, VolumeSummary,
};

use super::{Authority, Volume, reign::has_mark};
use crate::{record::VolumePhase, succession::Hindrance};

impl Authority {
    pub(super) fn summaries(&self) -> Vec<VolumeSummary> {
        let shown = self.volumes.values().filter(|v| v.version.is_some());
        let mut all: Vec<VolumeSummary> = shown.map(|volume| self.summary(volume)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(super) fn summary(&self, volume: &Volume) -> VolumeSummary {
        let line = &volume.record.line;
        VolumeSummary {
            id: line.volume,
            name: line.name.clone(),
            size: line.size_blocks.bytes(),
            policy: line.policy,
            ack: line.ack,
            replicas: u32::try_from(line.members.len()).unwrap_or(u32::MAX),
            health: self.health(volume),
            primary: line.primary.as_ref().map(|(server, _)| server.clone()),
            epoch: line.epoch.assignment(),
        }
    }

    /// The report of the (server, boot) that has the reign, when it is connected.
    fn primary_report(&self, volume: &Volume) -> Option<&ReplicaReport> {
        let (server, boot) = volume.record.line.primary.as_ref()?;
        let link = self.up_link(server).filter(|link| link.boot == *boot)?;
        link.reports.get(&volume.record.line.volume)
    }

    fn is_serving(&self, volume: &Volume) -> bool {
        let epoch = volume.record.line.epoch;
        self.primary_report(volume)
            .is_some_and(|report| has_mark(report, epoch) && report.serving == Serving::Yes)
    }

    /// Whether the primary's epoch is open and it serves nobody all the same: that is so only while
    /// a loss of acknowledged writes stands (`PROM-10`).
    pub(super) fn waits_for_operator(&self, volume: &Volume) -> bool {
        let epoch = volume.record.line.epoch;
        self.primary_report(volume)
            .is_some_and(|report| has_mark(report, epoch) && report.serving == Serving::No)
    }

    fn health(&self, volume: &Volume) -> Health {
        match volume.record.phase {
            VolumePhase::Creating { .. } => return Health::Creating,
            VolumePhase::RollingBack { .. } | VolumePhase::Deleting { .. } => {
                return Health::Deleting;
            }
            VolumePhase::Live => {}
        }
        if !self.is_serving(volume) {
            return Health::Unavailable;
        }
        let whole = |server: &ServerId| {
            matches!(
                self.replica_state(volume, server),
                ReplicaState::Primary | ReplicaState::InSync
            )
        };
        let members = &volume.record.line.members;
        if members.iter().all(|member| whole(&member.server)) {
            Health::Ok
        } else {
            Health::Degraded
        }
    }

    pub(super) fn volume_status(&self, name: String) -> ClientResponse {
        match self.by_name(&name) {
            Some((_, volume)) => ClientResponse::Volume(Box::new(self.status_of(volume))),
            None => ClientResponse::Failed(ClientError::NotFound { name }),
        }
    }

    pub(super) fn events(&self, name: String, after: u64) -> ClientResponse {
        match self.by_name(&name) {
            Some((_, volume)) => {
                let newer = volume.events.iter().filter(|row| row.seq > after);
                ClientResponse::Events(newer.cloned().collect())
            }
            None => ClientResponse::Failed(ClientError::NotFound { name }),
        }
    }

    fn status_of(&self, volume: &Volume) -> VolumeStatus {
        let line = &volume.record.line;
        let primary = line.primary.as_ref().map(|(server, _)| server.clone());
        let report = self.primary_report(volume);
        let serving = self.is_serving(volume);
        let uri = |server: &ServerId| {
            let member = line.member(server)?;
            Some(format!("nbd://{}/{}", member.nbd_addr, line.name))
        };
        VolumeStatus {
            id: line.volume,
            name: line.name.clone(),
            size: line.size_blocks.bytes(),
            policy: line.policy,
            ack: line.ack,
            min_copies: line.min_copies,
            no_quorum: line.no_quorum,
            health: self.health(volume),
            epoch: line.epoch.assignment(),
            reign: line.epoch.reign(),
            config_version: line.config,
            nbd_uri: primary.as_ref().and_then(uri),
            primary,
            serving,
            in_sync_set: line.in_sync.clone(),
            copies: report.filter(|_| serving).and_then(|report| report.copies),
            reason: self.reason(volume, serving),
            committed_lsn: report.map(|report| report.committed),
            replicas: line
                .members
                .iter()
                .map(|member| self.replica_status(volume, &member.server))
                .collect(),
        }
    }

    fn reason(&self, volume: &Volume, serving: bool) -> Option<String> {
        let words = match volume.record.phase {
            VolumePhase::Creating { .. } => "its stores are being made",
            VolumePhase::RollingBack { .. } => "its creation failed and is being undone",
            VolumePhase::Deleting { .. } => "it is being deleted",
            VolumePhase::Live if self.is_unsettled(volume.record.line.volume) => {
                return Some(self.old_copy_words(volume));
            }
            VolumePhase::Live if serving => {
                let slow = self.primary_report(volume)?.writes_slowed?;
                return Some(slow_words(slow));
            }
            VolumePhase::Live => match volume.reign.hindrance() {
                Some(Hindrance::OldCopy { .. } | Hindrance::TwoMasters) => {
                    "the master learns from the replicas what it lost"
                }
                Some(Hindrance::LeaseRuns(_)) => {
                    "the primary is gone and its lease has not run out yet"
                }
                Some(Hindrance::StillFollowed) => {
                    "the primary is not connected to the master, and replicas still follow it"
                }
                Some(Hindrance::TooFewVoters { have, need }) => {
                    return Some(format!(
                        "{have} replicas with a vote are connected and {need} are needed: start the missing servers"
                    ));
                }
                Some(Hindrance::NoCandidate) => {
                    "no connected replica may lead: start the missing servers"
                }
                Some(Hindrance::LeftOut(_)) => {
                    "the last candidate declined; it is tried again soon"
                }
                Some(Hindrance::NeedsConsent) => {
                    "a failover may lose acknowledged writes: start the primary's server, or the master with `--failover lossy`"
                }
                None if self.waits_for_operator(volume) => {
                    "acknowledged writes that were only in memory may be lost: to go on without them, `moorline volume accept-loss`"
                }
                None => "the primary's promotion is under way",
            },
        };
        Some(words.to_owned())
    }

    fn peer_report(&self, volume: &Volume, server: &ServerId) -> Option<&PeerReport> {
        let report = self.primary_report(volume)?;
        report.peers.iter().find(|peer| peer.server == *server)
    }

    fn replica_state(&self, volume: &Volume, server: &ServerId) -> ReplicaState {
        let id = volume.record.line.volume;
        let Some(link) = self.up_link(server) else {
            return ReplicaState::Unreachable;
        };
        let Some(report) = link.reports.get(&id) else {
            let known = link.stores.contains_key(&id);
            return if known
                || link.stores_opening.is_some_and(|opening| opening > 0)
                || !volume.is_live()
            {
                ReplicaState::Opening
            } else {
                ReplicaState::Missing
            };
        };
        let line = &volume.record.line;
        if report.image == moorline_wire::ImageState::NeedsRebuild {
            return ReplicaState::NeedsRebuild;
        }
        if report.role != ReplicaRole::Replica {
            return ReplicaState::from_role(report.role);
        }
        let peer = self.peer_report(volume, server);
        let state = peer.map_or(ReplicaState::Disconnected, |peer| {
            ReplicaState::from_peer(peer.state)
        });
        // In sync is what the record says, not the primary's word alone.
        if state == ReplicaState::InSync && !line.is_in_sync(server) {
            return ReplicaState::Joining;
        }
        state
    }

    fn replica_status(&self, volume: &Volume, server: &ServerId) -> ReplicaStatus {
        let id = volume.record.line.volume;
        let link = self.up_link(server);
        let report = link.and_then(|link| link.reports.get(&id));
        let store = link.and_then(|link| link.stores.get(&id));
        let member = volume.record.line.member(server);
        let peer = self.peer_report(volume, server);
        let leads = report.is_some_and(|report| report.role == ReplicaRole::Primary);
        ReplicaStatus {
            server_id: server.clone(),
            state: self.replica_state(volume, server),
            vote: self.vote_of(volume, server),
            store_uuid: store.map(|store| store.store),
            recorded_store_uuid: member.and_then(|member| member.store),
            last_record_epoch: report.map(|report| report.last_record_epoch),
            head_lsn: report.map(|report| report.head),
            flushed_lsn: report.and_then(|report| report.flushed),
            applied_lsn: report.map(|report| report.applied),
            checkpoint_lsn: report.map(|report| report.checkpoint),
            tail_lsn: report.map(|report| report.tail),
            lag_records: peer.map(|peer| peer.lag_records).or(leads.then_some(0)),
            lag_bytes: peer.map(|peer| peer.lag_bytes).or(leads.then_some(0)),
            session: peer.and_then(|peer| peer.session.as_ref()).map(session),
            pins: report.map_or_else(Vec::new, pins),
            log_fill_percent: report.map(|report| report.log_fill_percent),
            writes_slowed: report.and_then(|report| report.writes_slowed),
            damage: report.map(|report| report.damage),
        }
    }

    pub(super) fn cluster_status(&self) -> ClusterStatus {
        let shown = self.volumes.values().filter(|v| v.version.is_some());
        let mut volumes: Vec<VolumeStatus> = shown.map(|v| self.status_of(v)).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        ClusterStatus {
            cluster: self.meta.cluster,
            master_start: self.meta.start,
            master_instance: format!("{:016x}", self.meta.instance),
            master_restored: self.meta.restored.clone(),
            unknown_volumes: self.unknown_volumes(),
            servers: self
                .servers
                .keys()
                .filter_map(|server| self.server_status(server))
                .collect(),
            volumes,
        }
    }

    fn server_status(&self, id: &ServerId) -> Option<ServerStatus> {
        let server = self.servers.get(id)?;
        let record = &server.record.as_ref()?.value;
        let link = server.up();
        let silent = link.map(|link| self.now.since(link.last_heard).as_millis());
        Some(ServerStatus {
            server_id: id.clone(),
            state: match link {
                Some(_) => ServerState::Up,
                None => ServerState::Down,
            },
            boot: link.map(|link| link.boot),
            data_addr: record.data_addr.clone(),
            control_addr: record.control_addr.clone(),
            nbd_addr: record.nbd_addr.clone(),
            version: record.version.clone(),
            silent_ms: silent.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            seats: u32::try_from(self.seats_of(id)).unwrap_or(u32::MAX),
        })
    }

    /// The id of a volume that is made or being made.
    #[must_use]
    pub fn volume_id(&self, name: &str) -> Option<VolumeId> {
        self.by_name(name).map(|(id, _)| id)
    }
}

/// Without figures, which change from one report to the next: they stand beside the replica.
fn slow_words(slow: SlowWrites) -> String {
    let why = match slow.log_held_by {
        LogHolder::Flusher => "the primary's device takes records slower than clients write",
        LogHolder::Pin => "a replica that catches up needs what it holds (see the pins)",
        LogHolder::Peer => "a replica lags behind and needs what it holds",
    };
    match slow.bytes_per_s {
        0 => format!("writes wait, because the primary's log is full: {why}"),
        _ => format!("writes are slowed, because the primary's log fills up: {why}"),
    }
}

fn session(report: &SessionReport) -> SessionStatus {
    SessionStatus {
        id: report.id.clone(),
        kind: report.kind,
        phase: report.phase,
        target_lsn: report.target_lsn,
        recovered_to: report.recovered_to,
        percent: report.percent,
        rate_bytes_per_s: report.rate_bytes_per_s,
        limited_by: report.limited_by,
        cause: report.cause,
    }
}

fn pins(report: &ReplicaReport) -> Vec<PinStatus> {
    let shown = report.pins.iter().map(|pin| PinStatus {
        kind: pin.kind,
        lsn: pin.lsn,
        holder: pin.holder.clone(),
        age_ms: pin.age_ms,
    });
    shown.collect()
}

//! What a replica reports to the master, and through it to operators.

use moorline_engine::{
    Bucket, Cause as EngineCause, PhaseName, Progress, SenderStatus, SessionKind as EngineKind,
};
use moorline_types::{AssignmentLine, Epoch, Instant, Lsn, ServerId};
use moorline_wal::ReclaimLimit;
use moorline_wire::control::{
    FollowedPrimary, KnownLine, LineVersion, LogHolder, MarkState, PeerReport, PeerState, PinKind,
    PinReport, ReplicaReport, ReplicaRole, Serving, SessionCause, SessionKind, SessionPhase,
    SessionReport, SlowWrites, StoreReport,
};

use super::{
    Me, Replica, Role,
    lines::version_of,
    reign::{Reign, ReignPhase},
};
use crate::{node::ReportKey, pace::Pace};

impl Replica {
    /// Who the store is: part of the registration.
    pub(crate) fn store_report(&self, me: &Me) -> StoreReport {
        StoreReport {
            volume: self.volume,
            store: self.store.identity().store,
            open: self.store.open_count(),
            boot: me.boot,
            openings: self.store.openings().clone(),
            promised: self.store.durable().promised_epoch(),
            line: self.line_version(),
            master: self.store.durable().master,
        }
    }

    fn line_version(&self) -> Option<LineVersion> {
        self.store.durable().line.as_ref().map(version_of)
    }

    /// The newest line that is durable here, when it is news to the master of this connection.
    pub(crate) fn line_unknown_to_master(&self) -> Option<Box<KnownLine>> {
        let line = self.store.durable().line.as_ref()?;
        let known = self.told.is_some_and(|told| told >= version_of(line));
        (!known).then(|| {
            Box::new(KnownLine {
                line: line.clone(),
                log_bytes: self.store.log_bytes(),
            })
        })
    }

    /// What a change of makes a heartbeat due at once.
    pub(crate) fn report_key(&self) -> ReportKey {
        let (serving, in_sync) = match &self.role {
            Role::Reign(reign) => (reign.serves(), in_sync_count(reign)),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => (false, 0),
        };
        ReportKey {
            volume: self.volume,
            role: self.reported_role(),
            serving: if serving { Serving::Yes } else { Serving::No },
            in_sync,
        }
    }

    /// Where the replica stands, with so many clients attached: part of every heartbeat.
    pub(crate) fn report(&self, me: &Me, now: Instant, clients: u32) -> ReplicaReport {
        let frontiers = self.store.frontiers();
        let reign = match &self.role {
            Role::Reign(reign) => Some(&**reign),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => None,
        };
        let serves = reign.is_some_and(Reign::serves);
        ReplicaReport {
            volume: self.volume,
            store: self.store.identity().store,
            open: self.store.open_count(),
            boot: me.boot,
            openings: self.store.openings().clone(),
            role: self.reported_role(),
            promised: self.store.durable().promised_epoch(),
            line: self.line_version(),
            mark: match reign {
                Some(reign) if reign.phase == ReignPhase::Serving => MarkState::Committed,
                Some(_) | None => MarkState::Pending,
            },
            last_record_epoch: self.store.log().last_record_epoch(),
            head: frontiers.head,
            flushed: Some(frontiers.flushed),
            applied: frontiers.applied,
            checkpoint: frontiers.checkpoint,
            tail: frontiers.tail,
            committed: frontiers.committed,
            vote: self.vote_claim(),
            image: self.image(),
            following: self.follows(now).map(|reign| FollowedPrimary {
                epoch: reign.epoch,
                server: reign.server.clone(),
                boot: reign.boot,
            }),
            serving: if serves { Serving::Yes } else { Serving::No },
            clients,
            copies: reign.map(|reign| {
                // The primary's own, too.
                u32::try_from(in_sync_count(reign) + 1).unwrap_or(u32::MAX)
            }),
            peers: reign
                .map(|reign| self.peer_reports(reign))
                .unwrap_or_default(),
            pins: self.pin_reports(now),
            log_fill_percent: self.store.fill(),
            writes_slowed: reign.and_then(|_| self.slow_writes(now)),
            damage: self.mending.report(),
            master: self.store.durable().master,
            known_line: None,
        }
    }

    fn slow_writes(&self, now: Instant) -> Option<SlowWrites> {
        let bytes_per_s = match self.log_room(now).pace() {
            Pace::Free => return None,
            Pace::Slowed { bytes_per_s } => bytes_per_s,
            Pace::Stopped => 0,
        };
        let log_held_by = match self.store.log_limit() {
            ReclaimLimit::Checkpoint => LogHolder::Flusher,
            ReclaimLimit::Pin => LogHolder::Pin,
            ReclaimLimit::Peer(_) => LogHolder::Peer,
        };
        Some(SlowWrites {
            bytes_per_s,
            log_held_by,
        })
    }

    fn reported_role(&self) -> ReplicaRole {
        if self.store.failed().is_some() {
            return ReplicaRole::Failed;
        }
        match &self.role {
            // It led the epoch in force and does no more: the master must not wait for it, though
            // the message that said so was lost.
            Role::Idle if self.has_given_up_the_reign() => ReplicaRole::Fenced,
            Role::Idle => ReplicaRole::Idle,
            Role::Follower(_) => ReplicaRole::Replica,
            Role::Candidate(_) => ReplicaRole::Candidate,
            Role::Reign(_) => ReplicaRole::Primary,
        }
    }

    fn has_given_up_the_reign(&self) -> bool {
        let led = |line: &AssignmentLine| line.epoch == self.led;
        self.led != Epoch::ZERO && self.line.as_ref().is_some_and(led)
    }

    fn peer_reports(&self, reign: &Reign) -> Vec<PeerReport> {
        let head = self.store.log().head();
        let statuses = reign.registry.status();
        statuses
            .iter()
            .map(|status| self.peer_report(reign, head, status))
            .collect()
    }

    fn peer_report(&self, reign: &Reign, head: Lsn, status: &SenderStatus) -> PeerReport {
        let server: &ServerId = &status.replica.server;
        let stream = reign.streams.get(server);
        let received = stream.map_or(Lsn::ZERO, |stream| stream.received);
        let flushed = stream.map_or(Lsn::ZERO, |stream| stream.flushed);
        let tail = self.store.log().tail();
        PeerReport {
            server: server.clone(),
            state: peer_state(status.bucket),
            received,
            flushed,
            lag_records: head.distance_from(flushed),
            lag_bytes: self.store.log().bytes_after(flushed.max(tail)),
            session: session_report(status),
        }
    }

    fn pin_reports(&self, now: Instant) -> Vec<PinReport> {
        self.store
            .log()
            .pins()
            .into_iter()
            .map(|pin| PinReport {
                kind: match pin.kind {
                    moorline_wal::PinKind::Retention => PinKind::Retention,
                    moorline_wal::PinKind::Snapshot => PinKind::Snapshot,
                    moorline_wal::PinKind::FullBase => PinKind::FullBase,
                },
                lsn: pin.lsn,
                holder: pin.holder.to_string(),
                age_ms: u64::try_from(now.since(pin.since).as_millis()).unwrap_or(u64::MAX),
            })
            .collect()
    }
}

/// Peers that are on the live stream and in the ack path.
fn in_sync_count(reign: &Reign) -> usize {
    let senders = reign.registry.senders();
    senders
        .filter(|(_, sender)| sender.bucket() == Bucket::InSync)
        .count()
}

const fn peer_state(bucket: Bucket) -> PeerState {
    match bucket {
        Bucket::Disconnected => PeerState::Disconnected,
        Bucket::Connecting => PeerState::Connecting,
        Bucket::CatchingUp => PeerState::CatchingUp,
        Bucket::Rebuilding => PeerState::Rebuilding,
        Bucket::Joining => PeerState::Joining,
        Bucket::InSync => PeerState::InSync,
        Bucket::Degraded => PeerState::Degraded,
        Bucket::NeedsRebuild => PeerState::NeedsRebuild,
        Bucket::Stopped => PeerState::Stopped,
    }
}

/// The live session; one that ended is history.
fn session_report(status: &SenderStatus) -> Option<SessionReport> {
    let session = status.session.as_ref()?;
    let phase = session_phase(session.phase)?;
    let (recovered_to, target) = match session.progress {
        Some(Progress::Records {
            recovered_to,
            target,
            ..
        }) => (recovered_to, target),
        Some(Progress::Extents { .. }) | None => (Lsn::ZERO, Lsn::ZERO),
    };
    Some(SessionReport {
        id: session.stamp.session.to_string(),
        kind: session_kind(session.kind),
        phase,
        target_lsn: target,
        recovered_to,
        percent: session.progress.map_or(0, Progress::percent),
        rate_bytes_per_s: 0,
        limited_by: None,
        cause: session_cause(session.cause),
    })
}

/// The phase of a live session; none of an ended one.
const fn session_phase(phase: PhaseName) -> Option<SessionPhase> {
    match phase {
        PhaseName::Init => Some(SessionPhase::Init),
        PhaseName::Connecting => Some(SessionPhase::Connecting),
        PhaseName::Handshake => Some(SessionPhase::Handshake),
        PhaseName::Truncating => Some(SessionPhase::Truncating),
        PhaseName::CatchingUp => Some(SessionPhase::CatchingUp),
        PhaseName::SourceSelected => Some(SessionPhase::SourceSelected),
        PhaseName::Joining => Some(SessionPhase::Joining),
        PhaseName::Transferring => Some(SessionPhase::Transferring),
        PhaseName::Replaying => Some(SessionPhase::Replaying),
        PhaseName::Completed | PhaseName::Invalidated => None,
    }
}

pub(super) const fn session_kind(kind: EngineKind) -> SessionKind {
    match kind {
        EngineKind::CatchUp => SessionKind::CatchUp,
        EngineKind::Rebuild => SessionKind::Rebuild,
    }
}

pub(super) const fn session_cause(cause: EngineCause) -> SessionCause {
    match cause {
        EngineCause::Bootstrap => SessionCause::Bootstrap,
        EngineCause::Assignment => SessionCause::Assignment,
        EngineCause::Reassignment => SessionCause::Reassignment,
        EngineCause::Reconnect => SessionCause::Reconnect,
        EngineCause::Operator => SessionCause::Operator,
        EngineCause::Poller => SessionCause::Poller,
    }
}

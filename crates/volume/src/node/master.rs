//! The assignment client: registration, heartbeats, and what the master asks for.

use std::{collections::VecDeque, time::Duration};

use moorline_types::{ClusterId, Instant, MasterRun, VolumeId};
use moorline_wire::control::{
    Heartbeat, MasterToServer, Register, ReplicaReport, ReplicaRole, ServerToMaster, Serving,
};

use super::{Action, Node};
use crate::{journal::Happening, replica::Replica};

/// Between heartbeats until the master says otherwise.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Heartbeats that report a change follow each other no closer than this.
const CHANGE_GAP: Duration = Duration::from_millis(20);

/// Whole lines in one heartbeat: a message has a limit.
const KNOWN_LINES_MAX: usize = 64;

/// Heartbeats without an answer that are remembered.
const UNANSWERED_MAX: usize = 64;

/// What a change of makes a heartbeat due at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReportKey {
    pub(crate) volume: VolumeId,
    pub(crate) role: ReplicaRole,
    pub(crate) serving: Serving,
    pub(crate) in_sync: usize,
}

/// The connection to the master.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct MasterLink {
    state: LinkState,
    interval: Duration,
    sequence: u64,
    next: Instant,
    last: Instant,
    keys: Vec<ReportKey>,
    /// Heartbeats of this boot without an answer: number and send time, oldest first.
    unanswered: VecDeque<(u64, Instant)>,
    /// The master that was heard of last.
    run: Option<MasterRun>,
    /// The first volume whose line found no place in the last heartbeat.
    next_known: Option<VolumeId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LinkState {
    Down,
    /// For stores to be opened.
    Waiting,
    Registering,
    Up,
}

impl Default for MasterLink {
    fn default() -> Self {
        Self {
            state: LinkState::Down,
            interval: HEARTBEAT,
            sequence: 0,
            next: Instant::ZERO,
            last: Instant::ZERO,
            keys: Vec::new(),
            unanswered: VecDeque::new(),
            run: None,
            next_known: None,
        }
    }
}

impl MasterLink {
    pub(super) fn down(&mut self) {
        self.state = LinkState::Down;
        self.unanswered.clear();
    }

    pub(super) const fn run(&self) -> Option<MasterRun> {
        self.run
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    fn note_sent(&mut self, now: Instant) {
        self.unanswered.push_back((self.sequence, now));
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
    }

    /// When the heartbeat that is answered was sent; once per heartbeat.
    fn take_sent(&mut self, sequence: u64) -> Option<Instant> {
        let place = self
            .unanswered
            .iter()
            .position(|(sent, _)| *sent == sequence)?;
        self.unanswered
            .drain(..=place)
            .next_back()
            .map(|(_, at)| at)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.state == LinkState::Up).then_some(self.next)
    }

    /// A replica's role, serving state or set of peers in sync changed: the master hears soon.
    pub(super) fn note_change(&mut self, now: Instant, key: ReportKey) {
        match self
            .keys
            .iter_mut()
            .find(|known| known.volume == key.volume)
        {
            Some(known) if *known == key => return,
            Some(known) => *known = key,
            None => self.keys.push(key),
        }
        self.hurry(now);
    }

    /// The next heartbeat carries a change that the master should not wait for.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(self.last.after(CHANGE_GAP)).max(now);
    }
}

impl Node {
    pub(super) fn master_up(&mut self, cluster: ClusterId, out: &mut Vec<Action>) {
        if self.config.cluster.is_some_and(|known| known != cluster) {
            let reason = "it leads another cluster than this server's";
            Self::note(
                None,
                Happening::MasterRefused {
                    reason: reason.into(),
                },
                out,
            );
            return;
        }
        self.master.state = LinkState::Waiting;
        self.register_when_opened(out);
    }

    /// Registers once every store that was found is open, refused or late: what opens later joins
    /// with the next heartbeat.
    pub(super) fn register_when_opened(&mut self, out: &mut Vec<Action>) {
        if self.master.state != LinkState::Waiting || self.devices.any_opening() {
            return;
        }
        self.master.state = LinkState::Registering;
        let stores = self
            .volumes
            .values()
            .map(|replica| replica.store_report(&self.me))
            .collect();
        let register = Register {
            server: self.me.server.clone(),
            boot: self.me.boot,
            cluster: self.config.cluster,
            data_addr: self.config.data_addr.clone(),
            control_addr: self.config.control_addr.clone(),
            nbd_addr: self.config.nbd_addr.clone(),
            version: self.config.version.clone(),
            stores,
        };
        out.push(Action::TellMaster(ServerToMaster::Register(register)));
    }

    pub(super) fn master_said(
        &mut self,
        now: Instant,
        message: MasterToServer,
        out: &mut Vec<Action>,
    ) {
        match message {
            MasterToServer::Registered {
                cluster,
                start,
                instance,
                heartbeat_ms,
            } => {
                self.config.cluster = Some(cluster);
                self.master.state = LinkState::Up;
                self.master.interval = Duration::from_millis(u64::from(heartbeat_ms.max(10)));
                self.master.next = now;
                let run = MasterRun { instance, start };
                self.master.run = Some(run);
                self.for_each(now, out, |replica, _| replica.on_master(run));
            }
            MasterToServer::Refused(refusal) => {
                let reason = refusal.to_string().into();
                Self::note(None, Happening::MasterRefused { reason }, out);
            }
            MasterToServer::Assignment {
                line,
                consent: _,
                loss_accepted,
            } => {
                let volume = line.volume;
                self.with(now, volume, out, |replica, ctx| {
                    if let Some(through) = loss_accepted {
                        replica.on_loss_accepted(through);
                    }
                    replica.on_assignment(ctx, line);
                });
            }
            MasterToServer::Leases {
                heartbeat_seq,
                ttl_ms,
                granted,
            } => {
                let Some(sent) = self.master.take_sent(heartbeat_seq) else {
                    return;
                };
                let term = Duration::from_millis(u64::from(ttl_ms));
                for lease in granted {
                    self.with(now, lease.volume, out, |replica, ctx| {
                        replica.on_master_lease(ctx.me, (lease.epoch, lease.boot), sent, term);
                    });
                }
            }
            MasterToServer::CreateStore {
                line,
                log_bytes,
                operation: _,
            } => {
                self.create_store(line, log_bytes, out);
            }
            MasterToServer::DeleteStore { volume } => self.delete_store(now, volume, out),
            MasterToServer::ChangeConfigDone {
                request_id,
                volume,
                result,
            } => {
                self.with(now, volume, out, |replica, ctx| {
                    replica.on_change_done(ctx, request_id, result);
                });
            }
        }
    }

    pub(super) fn clients_of(&self, volume: VolumeId) -> u32 {
        let attached = self.attached.values().filter(|to| **to == volume).count();
        u32::try_from(attached).unwrap_or(u32::MAX)
    }

    /// Sends a heartbeat when one is due.
    pub(super) fn heartbeat(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.master.state != LinkState::Up || now < self.master.next {
            return;
        }
        self.master.last = now;
        self.master.next = now.after(self.master.interval);
        self.master.sequence += 1;
        self.master.note_sent(now);
        let volumes = self.volumes.values();
        let mut volumes: Vec<ReplicaReport> = volumes
            .map(|replica| replica.report(&self.me, now, self.clients_of(replica.volume())))
            .collect();
        self.add_known_lines(&mut volumes);
        let heartbeat = Heartbeat {
            seq: self.master.sequence,
            sent_ns: now.as_nanos(),
            volumes,
            stores_opening: self.devices.opening_count(),
        };
        out.push(Action::TellMaster(ServerToMaster::Heartbeat(heartbeat)));
    }

    /// Adds lines that the master does not seem to know: a bounded number to each heartbeat, in turn.
    fn add_known_lines(&mut self, reports: &mut [ReplicaReport]) {
        let next = self.master.next_known;
        let first = reports.partition_point(|report| next.is_some_and(|next| report.volume < next));
        let (before, behind) = reports.split_at_mut(first);
        let mut added = 0;
        self.master.next_known = None;
        for report in behind.iter_mut().chain(before) {
            let Some(replica) = self.volumes.get(&report.volume) else {
                continue;
            };
            let Some(line) = replica.line_unknown_to_master() else {
                continue;
            };
            if added == KNOWN_LINES_MAX {
                self.master.next_known = Some(report.volume);
                return;
            }
            report.known_line = Some(line);
            added += 1;
        }
    }

    /// Tells the master of a store as soon as it is there.
    pub(super) fn tell_created(&mut self, replica: &Replica, out: &mut Vec<Action>) {
        let store = replica.store_report(&self.me);
        let created = ServerToMaster::CreatedStore {
            volume: replica.volume(),
            store,
        };
        out.push(Action::TellMaster(created));
    }
}

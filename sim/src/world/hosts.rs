//! Servers: a `volume::Node` each, driven as a real server drives it.
//!
//! What is ready waits in the inbox; a step handles all of it, submits once, and carries out the
//! actions in order. That batch is the group commit.

use std::{collections::BTreeMap, time::Duration};

use moorline_types::{BootId, ClusterId, DeviceOp, DeviceOpKind, Epoch, Lsn, ServerId, WriteMode};
use moorline_volume::{
    Action, DeviceCreation, DeviceKey, Event, ExportState, LinkDirection, LinkId, Node, NodeConfig,
    OnVolatileLoss, journal::Happening,
};
use moorline_wal::RecordAt;
use moorline_wire::{
    Message,
    control::{ReplicaReport, ServerToMaster},
};

use super::{Address, Happens, Timeline, World};
use crate::{
    checkers::{Rule, Violation},
    clock::Clock,
    disk::{EverDurable, SimDisk},
    network::{ConnNo, End, Party, Seat},
    plan::{LogFlush, MS, OnLoss},
    watch::{Sample, SpotKind},
};

/// Steps of one server without time passing, after which it is called a loop.
const STEPS_MAX: u32 = 10_000;

/// One machine with a server on it.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) server: ServerId,
    pub(super) node: Option<Node>,
    /// Counts its processes' runs.
    pub(super) life: u32,
    pub(super) boot: BootId,
    pub(super) clock: Clock,
    pub(super) disks: BTreeMap<DeviceKey, SimDisk>,
    devices: u32,
    inbox: Vec<Event>,
    step_at: Option<u64>,
    pub(super) wake_at: Option<u64>,
    pub(super) paused_until: u64,
    links: BTreeMap<LinkId, (ConnNo, End)>,
    links_made: u64,
    pub(super) master: Option<ConnNo>,
    pub(super) cluster: Option<ClusterId>,
    pub(super) export: Option<ExportState>,
    /// The epoch that it serves, as it said.
    pub(super) serving: Option<Epoch>,
    /// The epoch that it began to serve in this step.
    began: Option<Epoch>,
    pub(super) slow: u64,
    /// What each disk operation takes longer, in nanoseconds.
    pub(super) stall: u64,
    /// What each read takes at least, in nanoseconds.
    pub(super) late_reads: u64,
    /// Its store was replaced: it has no vote, and what its disk holds counts for nothing.
    pub(super) replaced: bool,
    /// Records of its log up to here were seen.
    seen: Lsn,
    /// What its log had durably when its process ended: opening must find it.
    proven: Option<Lsn>,
    /// The highest head since its log was last cut: what was cut must not come back.
    head_since_cut: Option<Lsn>,
    /// What its replaced store ever held durably: the answers of that time stand.
    pub(super) buried: Option<EverDurable>,
    pub(super) old_image: Option<BTreeMap<u64, bytes::Bytes>>,
    /// Since its process began its disk failed, or is not its own.
    pub(super) struck: bool,
    /// Whose disk it finds instead of its own.
    pub(super) swapped_with: Option<usize>,
    /// Its disk damaged data that was at rest, or on its way there.
    pub(super) corrupted: bool,
    /// How its replica stood when it last told the master.
    pub(super) reported: Option<ReplicaReport>,
    /// The block at rest that will rot, what it held, and in which run of the process.
    pub(super) rot_marked: Option<(u32, u64, bytes::Bytes)>,
    idle_steps: (u64, u32),
    /// How often it got another address.
    pub(super) moves: u32,
}

impl Host {
    pub(super) fn new(index: usize, clock: Clock) -> Self {
        Self {
            server: World::server_name(index),
            node: None,
            life: 0,
            boot: BootId::new(0),
            clock,
            disks: BTreeMap::new(),
            devices: 0,
            inbox: Vec::new(),
            step_at: None,
            wake_at: None,
            paused_until: 0,
            links: BTreeMap::new(),
            links_made: 0,
            master: None,
            cluster: None,
            export: None,
            serving: None,
            began: None,
            slow: 1,
            stall: 0,
            late_reads: 0,
            replaced: false,
            seen: Lsn::ZERO,
            proven: None,
            head_since_cut: None,
            buried: None,
            old_image: None,
            struck: false,
            swapped_with: None,
            corrupted: false,
            reported: None,
            rot_marked: None,
            idle_steps: (0, 0),
            moves: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// Where other servers find it.
    pub(super) fn data_addr(&self) -> String {
        match self.moves {
            0 => format!("{}:1", self.server),
            moves => format!("{}:{}", self.server, 100 + moves),
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        self.is_up() && matches!(self.export, Some(ExportState::Serving { .. }))
    }

    /// Which requests' sectors were ever durable in the store that has the seat's vote.
    pub(super) fn ever_durable(&self) -> Option<&EverDurable> {
        match &self.buried {
            Some(buried) => Some(buried),
            None => self.disks.values().next().map(|disk| &disk.ever_durable),
        }
    }

    fn lost_since(&self, head: Lsn) -> bool {
        self.proven.is_some_and(|proven| head < proven)
            && !self.corrupted
            && self.swapped_with.is_none()
    }

    fn link_of(&self, conn: ConnNo, end: End) -> Option<LinkId> {
        self.links
            .iter()
            .find(|(_, at)| **at == (conn, end))
            .map(|(link, _)| *link)
    }
}

impl World {
    /// The process starts: a new boot, its stores found.
    pub(super) fn start_host(&mut self, index: usize) {
        if self.hosts[index].is_up() {
            return;
        }
        let boot = BootId::new(self.dice.wide());
        let replicas = self.plan.replicas;
        let host = &mut self.hosts[index];
        host.life += 1;
        host.boot = boot;
        let mut config = NodeConfig::new(host.server.clone(), boot);
        config.cluster = host.cluster;
        config.data_addr = host.data_addr();
        config.control_addr = format!("{}:2", host.server);
        config.nbd_addr = format!("{}:3", host.server);
        config.version = "0".into();
        config.pool = self.pool.clone();
        config.flusher.dirty_time_max = Duration::from_millis(self.plan.limits.dirty_time_ms);
        config.flusher.pass_bytes_max = self.plan.limits.pass_bytes;
        config.operation_timeout = Duration::from_millis(self.plan.limits.operation_timeout_ms);
        config.log_write_mode = match self.plan.log_flush {
            LogFlush::AfterWrite => WriteMode::Cached,
            LogFlush::WithWrite => WriteMode::Durable,
        };
        config.on_volatile_loss = match self.plan.on_loss {
            OnLoss::Continue => OnVolatileLoss::Continue,
            OnLoss::Stop => OnVolatileLoss::Stop,
        };
        config.mutants = self.planted.volume;
        config.engine_mutants = self.planted.engine;
        config.store_mutants = self.planted.store;
        host.node = Some(Node::new(config, host.clock.read(self.now)));
        host.inbox.clear();
        host.paused_until = 0;
        host.struck =
            host.disks.values().any(|disk| disk.flaws.any()) || host.swapped_with.is_some();
        let found: Vec<(DeviceKey, u64)> = host
            .disks
            .iter()
            .map(|(key, disk)| (*key, disk.size()))
            .collect();
        let life = host.life;
        debug_assert!(index < replicas);
        self.line(|| format!("s{} starts, run {life}", index + 1));
        self.spot(Some(index), SpotKind::Up, || format!("starts, run {life}"));
        for (device, bytes) in found {
            self.tell(index, Event::DeviceFound { device, bytes });
        }
        let delay = MS * self.dice.between(1, 20);
        self.after(delay, Happens::DialsMaster { host: index, life });
    }

    /// The process ends, by a kill or by a loss of power.
    pub(super) fn end_host(&mut self, index: usize) {
        self.memories_lost += usize::from(self.hosts[index].is_up());
        self.spot(Some(index), SpotKind::Down, || "ends".into());
        let volume = self.volume;
        let host = &mut self.hosts[index];
        let replica = host.node.as_ref().zip(volume);
        let replica = replica.and_then(|(node, volume)| node.volume(volume));
        if let Some(replica) = replica {
            host.proven = Some(replica.store().frontiers().flushed);
        }
        host.seen = Lsn::ZERO;
        host.began = None;
        host.node = None;
        host.inbox.clear();
        host.step_at = None;
        host.wake_at = None;
        host.links.clear();
        host.master = None;
        host.reported = None;
        host.export = None;
        host.serving = None;
        self.detach_clients(index);
    }

    /// Puts an event into a server's inbox.
    pub(super) fn tell(&mut self, index: usize, event: Event) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.node.is_none() {
            return;
        }
        host.inbox.push(event);
        if host.step_at.is_none() {
            let life = host.life;
            let delay = self.dice.between(1_000, 20_000);
            let at = (now + delay).max(self.hosts[index].paused_until);
            self.hosts[index].step_at = Some(at);
            self.at(at, Happens::Step { host: index, life });
        }
    }

    pub(super) fn wake(&mut self, index: usize, life: u32) {
        let host = &mut self.hosts[index];
        if host.life != life || host.wake_at != Some(self.now) {
            return;
        }
        host.wake_at = None;
        if host.step_at.is_none() && host.node.is_some() {
            let at = self.now.max(host.paused_until);
            host.step_at = Some(at);
            self.at(at, Happens::Step { host: index, life });
        }
    }

    /// A stopped process goes on.
    pub(super) fn resume(&mut self, index: usize, life: u32) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.step_at.is_some_and(|at| at > now) {
            host.step_at = Some(now);
            self.at(now, Happens::Step { host: index, life });
        }
    }

    pub(super) fn step(&mut self, index: usize, life: u32) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.life != life || host.step_at != Some(now) {
            return;
        }
        if host.paused_until > now {
            let at = host.paused_until;
            host.step_at = Some(at);
            self.at(at, Happens::Step { host: index, life });
            return;
        }
        host.step_at = None;
        let Some(node) = host.node.as_mut() else {
            return;
        };
        let (local, mut out) = (host.clock.read(now), Vec::new());
        let batch = std::mem::take(&mut host.inbox);
        let worked = !batch.is_empty();
        for event in batch {
            node.handle(local, event, &mut out);
        }
        if node.next_deadline().is_some_and(|due| due <= local) {
            node.handle(local, Event::DeadlineReached, &mut out);
        }
        node.submit(local, &mut out);
        if self.counts.events.is_multiple_of(64) {
            node.volumes().for_each(|v| v.store().assert_invariants());
        }
        self.watch_for_loops(index, worked);
        for action in out {
            if !self.hosts[index].is_up() {
                break;
            }
            self.carry_out(index, action);
        }
        self.watch_log(index);
        self.schedule_wake(index);
    }

    /// What was cut stays cut, what is pinned stays.
    pub(super) fn watch_log(&mut self, index: usize) {
        let (volume, host) = (self.volume, &mut self.hosts[index]);
        let (Some(node), Some(volume)) = (&host.node, volume) else {
            return;
        };
        let Some(replica) = node.volume(volume) else {
            return;
        };
        let log = replica.store().log();
        if let Some(since) = host.head_since_cut {
            host.head_since_cut = Some(since.max(log.head()));
        }
        let head = log.head();
        let mut verdict = Ok(());
        if host.seen != head {
            let mut lsn = host.seen.min(head).max(log.tail());
            while lsn < head && verdict.is_ok() {
                lsn = lsn.next();
                let Some(header) = log.header(lsn) else {
                    continue;
                };
                let record = match log.record(lsn) {
                    Some(RecordAt::Memory(record)) => Some(record),
                    Some(RecordAt::Ring) | None => None,
                };
                verdict = self.lineage.saw(header, record.as_ref());
            }
            host.seen = head;
        }
        if let Some(epoch) = host.began.take() {
            let at = self.seq + 1;
            self.seq = at;
            self.lineage.serves(at, epoch, log.history());
        }
        let tail = log.tail();
        if self.timeline == Timeline::Kept {
            let at = replica.store().frontiers();
            self.watch.sample(Sample {
                at_ns: self.now,
                server: index,
                head: at.head.get(),
                flushed: at.flushed.get(),
                committed: at.committed.get(),
                checkpoint: at.checkpoint.get(),
                tail: at.tail.get(),
                epoch: replica.store().durable().promised_epoch().assignment(),
            });
        }
        if let Some(pin) = log.pins().into_iter().find(|pin| pin.lsn < tail) {
            let reason = format!("s{} reclaimed through {tail} past {pin:?}", index + 1);
            self.broken(Violation::new(Rule::Invariant, reason));
        }
        self.check(verdict);
    }

    fn watch_for_loops(&mut self, index: usize, worked: bool) {
        let host = &mut self.hosts[index];
        let (since, steps) = host.idle_steps;
        host.idle_steps = match worked || self.now > since + MS {
            true => (self.now, 0),
            false => (since, steps + 1),
        };
        if steps > STEPS_MAX {
            let reason = format!(
                "s{} is busy without an event: a deadline stays due",
                index + 1
            );
            self.broken(Violation::new(Rule::Liveness, reason));
        }
    }

    pub(super) fn schedule_wake(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(due) = host.node.as_ref().and_then(Node::next_deadline) else {
            return;
        };
        let at = host.clock.world_at(due).max(now + 100);
        if host.wake_at.is_none_or(|known| at < known) {
            host.wake_at = Some(at);
            let life = host.life;
            self.at(at, Happens::Wake { host: index, life });
        }
    }

    fn carry_out(&mut self, index: usize, action: Action) {
        match action {
            Action::Device { device, op } => self.submit_op(index, device, op),
            Action::CreateDevice { volume, bytes } => {
                let host = &mut self.hosts[index];
                host.devices += 1;
                let device = DeviceKey::new(host.devices);
                let mut disk = SimDisk::new(bytes);
                disk.flaws.honesty = self.planted.disks;
                host.disks.insert(device, disk);
                let outcome = DeviceCreation::Made { device, bytes };
                self.tell(index, Event::DeviceCreated { volume, outcome });
            }
            Action::RemoveDevice { device } => {
                self.hosts[index].disks.remove(&device);
            }
            Action::Dial { server, address } => {
                let Some(to) = self.hosts.iter().position(|host| host.server == server) else {
                    return;
                };
                let life = self.hosts[index].life;
                let reaches = self
                    .network
                    .reaches(Party::Server(index), Party::Server(to));
                let address = match self.hosts[to].data_addr() == address {
                    true => Address::Current,
                    false => Address::Former,
                };
                let delay = match reaches {
                    true => self.net_delay() * 3,
                    false => MS * self.dice.between(200, 1_000),
                };
                self.after(
                    delay,
                    Happens::Dialed {
                        host: index,
                        life,
                        to,
                        address,
                    },
                );
            }
            Action::HangUp { link } => {
                if let Some((conn, _)) = self.hosts[index].links.get(&link).copied() {
                    self.break_conn(conn);
                }
            }
            Action::Send { link, message } => {
                if let Some((conn, end)) = self.hosts[index].links.get(&link).copied() {
                    self.send(conn, end.other(), &message);
                }
            }
            Action::TellMaster(message) => {
                if let ServerToMaster::Heartbeat(heartbeat) = &message {
                    let ours = |report: &&ReplicaReport| Some(report.volume) == self.volume;
                    self.hosts[index].reported = heartbeat.volumes.iter().find(ours).cloned();
                }
                if let Some(conn) = self.hosts[index].master {
                    let message = Message::ServerToMaster(Box::new(message));
                    self.send(conn, End::Acceptor, &message);
                }
            }
            Action::Reply {
                client,
                request,
                reply,
            } => self.replied(index, client, request, reply),
            Action::SetExport { state, .. } => self.set_export(index, state),
            Action::Note(note) => self.noted(index, &note),
            Action::Stopped => {}
        }
    }

    fn set_export(&mut self, index: usize, state: ExportState) {
        self.line(|| format!("s{} export {state:?}", index + 1));
        let serves = matches!(state, ExportState::Serving { .. });
        let kind = if serves {
            SpotKind::Serves
        } else {
            SpotKind::Rests
        };
        self.spot(Some(index), kind, || format!("export {state:?}"));
        self.hosts[index].export = Some(state);
        if !serves {
            self.detach_clients(index);
        }
    }

    fn noted(&mut self, index: usize, note: &moorline_volume::journal::NodeEvent) {
        *self.counts.notes.entry(note.what.name()).or_default() += 1;
        self.line(|| format!("s{} {note}", index + 1));
        let kind = match matches!(note.what, Happening::Recovery(_)) {
            true => SpotKind::Session,
            false => SpotKind::Event,
        };
        self.spot(Some(index), kind, || note.to_string());
        let reason = match &note.what {
            Happening::ServingStarted { epoch } => {
                self.hosts[index].serving = Some(*epoch);
                self.hosts[index].began = Some(*epoch);
                return;
            }
            Happening::Cut { through } => {
                let host = &mut self.hosts[index];
                host.head_since_cut = Some(*through);
                host.seen = host.seen.min(*through);
                return;
            }
            Happening::StoreOpened { head, .. } if self.hosts[index].lost_since(*head) => {
                let proven = self.hosts[index].proven;
                format!("it had {proven:?} durably and opens at {head}")
            }
            Happening::StoreOpened { head, .. } => match self.hosts[index].head_since_cut {
                Some(since) if *head > since => {
                    format!("its log was cut, reached {since}, and opens at {head}")
                }
                Some(_) | None => return,
            },
            Happening::DamagedBlock { block } => format!("block {block} is damaged"),
            Happening::CommittedDataMissing(missing) => format!("{missing:?}"),
            Happening::StoreFailed { reason } => format!("its store failed: {reason}"),
            Happening::StoreRefused { reason } => format!("its store is refused: {reason}"),
            Happening::StoreCreated { .. }
            | Happening::StoreOpeningLate { .. }
            | Happening::BlockRepaired { .. }
            | Happening::BlockNotRepaired { .. }
            | Happening::LineTaken { .. }
            | Happening::LineRefused { .. }
            | Happening::Promised { .. }
            | Happening::PromotionStarted { .. }
            | Happening::PromotionDeclined { .. }
            | Happening::DoubtGivenUp { .. }
            | Happening::VolatileTailLost { .. }
            | Happening::EpochOpened { .. }
            | Happening::SteppedDown { .. }
            | Happening::Recovery(_)
            | Happening::MasterRefused { .. }
            | Happening::PeerRefused { .. } => return,
        };
        let host = &self.hosts[index];
        let damage = matches!(
            note.what,
            Happening::DamagedBlock { .. } | Happening::StoreRefused { .. }
        );
        let failure = matches!(
            note.what,
            Happening::StoreFailed { .. } | Happening::StoreRefused { .. }
        );
        let excused = (damage && host.corrupted) || (failure && host.struck);
        if !host.replaced && !excused {
            let reason = format!("s{}: {reason}", index + 1);
            self.broken(Violation::new(Rule::Invariant, reason));
        }
    }

    fn submit_op(&mut self, index: usize, device: DeviceKey, op: DeviceOp) {
        let Some(op) = self.passes(index, device, op) else {
            return;
        };
        let usual = self.plan.disk_us * 1_000;
        let base = match &op.kind {
            DeviceOpKind::Flush => usual * 2,
            DeviceOpKind::Read(_) | DeviceOpKind::Write(..) => usual,
            DeviceOpKind::Discard { .. } => usual,
        };
        let stall = if self.dice.percent(1) { 20 } else { 1 };
        let host = &mut self.hosts[index];
        let (life, slow) = (host.life, host.slow);
        let (hold, late) = match &op.kind {
            DeviceOpKind::Read(_) => (host.stall, host.late_reads),
            DeviceOpKind::Write(..) | DeviceOpKind::Flush | DeviceOpKind::Discard { .. } => {
                (host.stall, 0)
            }
        };
        let Some(disk) = host.disks.get_mut(&device) else {
            return;
        };
        let token = disk.submit(op);
        if disk.flaws.hangs {
            disk.flaws.kept.push(token);
            return;
        }
        let delay = self.dice.between(base / 2, base * 2) * stall * slow + hold;
        // A disk that takes longer is overdue; slow stays below that, by any clock.
        let overdue = MS * self.plan.limits.operation_timeout_ms;
        let delay = delay.min(overdue * 2 / 5).max(late.min(overdue * 9 / 10));
        self.after(
            delay,
            Happens::DiskDone {
                host: index,
                life,
                device,
                token,
            },
        );
    }

    pub(super) fn disk_done(&mut self, index: usize, life: u32, device: DeviceKey, token: u64) {
        let host = &mut self.hosts[index];
        if host.life != life || host.node.is_none() {
            return;
        }
        let Some(disk) = host.disks.get_mut(&device) else {
            return;
        };
        if disk.flaws.hangs {
            disk.flaws.kept.push(token);
            return;
        }
        let before = disk.flaws.struck;
        let done = disk.complete(token, &mut self.dice);
        host.struck |= disk.flaws.struck > before;
        if let Some(done) = done {
            self.tell(index, Event::DeviceDone { device, done });
        }
    }

    pub(super) fn seat(&self, index: usize) -> Seat {
        Seat {
            party: Party::Server(index),
            life: self.hosts[index].life,
        }
    }

    /// A connection stands for one of its ends.
    pub(super) fn link_up(&mut self, index: usize, (conn, end): (ConnNo, End), peer: usize) {
        let (server, boot) = (self.hosts[peer].server.clone(), self.hosts[peer].boot);
        let host = &mut self.hosts[index];
        host.links_made += 1;
        let link = LinkId::new(host.links_made);
        host.links.insert(link, (conn, end));
        let direction = match end {
            End::Dialer => LinkDirection::Dialed,
            End::Acceptor => LinkDirection::Accepted,
        };
        self.tell(
            index,
            Event::LinkUp {
                link,
                server,
                boot,
                direction,
            },
        );
    }

    pub(super) fn link_message(
        &mut self,
        index: usize,
        (conn, end): (ConnNo, End),
        message: Message,
    ) {
        if let Some(link) = self.hosts[index].link_of(conn, end) {
            self.tell(index, Event::MessageArrived { link, message });
        }
    }

    pub(super) fn link_lost(&mut self, index: usize, conn: ConnNo) {
        for end in [End::Dialer, End::Acceptor] {
            if let Some(link) = self.hosts[index].link_of(conn, end) {
                self.hosts[index].links.remove(&link);
                self.tell(index, Event::LinkDown { link });
            }
        }
    }
}

//! The master's process: `master::Master` over a store whose commits take time.

use std::{collections::BTreeMap, time::Duration};

use moorline_master::{
    ConnId, Master, MasterConfig, ServiceAction, ServiceEvent, StartFacts,
    record::{Value, VolumeRecord},
    store::memory::MemoryStore,
};
use moorline_types::{AckPoint, ClusterId, OpenCount, Policy};
use moorline_volume::Event;
use moorline_wire::{
    Message,
    control::{ClientRequest, ClientResponse, CreateVolume},
    hello::Identity,
};

use super::{Happens, World, phases::Phase};
use crate::{
    checkers::{Rule, Violation},
    clock::{Clock, ClockChange},
    network::{ConnNo, End, Party, Seat},
    plan::MS,
    strike::Moment,
};

/// The connection of the operator who makes the volume.
const OPERATOR: ConnId = ConnId(0);

/// The master's machine.
#[derive(Clone, Debug)]
pub(super) struct MasterHost {
    master: Option<Master>,
    store: MemoryStore,
    /// What a backup holds.
    copy: Option<MemoryStore>,
    pub(super) life: u32,
    pub(super) clock: Clock,
    wake_at: Option<u64>,
    conns: BTreeMap<ConnId, ConnNo>,
    /// Transactions that it asked its store for since the volume serves, in all its runs.
    pub(super) txns: u64,
    /// At which of them its process ends.
    pub(super) strike: Option<(u64, Moment)>,
    /// Whether it did.
    pub(super) struck: bool,
}

impl MasterHost {
    pub(super) fn new(clock: Clock, strike: Option<(u64, Moment)>) -> Self {
        Self {
            master: None,
            store: MemoryStore::new(),
            copy: None,
            life: 0,
            clock,
            wake_at: None,
            conns: BTreeMap::new(),
            txns: 0,
            strike,
            struck: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.master.is_some()
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(self.master.as_ref()?.authority().meta().cluster)
    }
}

impl World {
    pub(super) fn start_master(&mut self) {
        if self.master.is_up() {
            return;
        }
        let facts = StartFacts {
            now: self.master.clock.read(self.now),
            unix_ms: 1_700_000_000_000,
            seed: self.dice.wide(),
            home: None,
            adopts: None,
        };
        let config = MasterConfig {
            log_bytes_min: 64 << 10,
            silence: Duration::from_millis(self.plan.limits.silence_ms),
            heartbeat: Duration::from_millis(self.plan.limits.heartbeat_ms),
            no_quorum: self.plan.limits.no_quorum,
            mutants: self.planted.master,
            ..MasterConfig::default()
        };
        let (loaded, mut out) = (self.master.store.durable().clone(), Vec::new());
        let master = Master::start(config, facts, loaded, &mut out);
        self.master.life += 1;
        self.master.master = Some(master.expect("what it recorded belongs together"));
        self.line(|| "the master starts".into());
        self.master_acts(out);
        self.master_wakes_later();
    }

    /// The process ends: of the transactions that it asked for, some first ones may be durable.
    pub(super) fn end_master(&mut self) {
        if self.master.is_up() {
            let kept = self.dice.index(3);
            self.end_master_with(kept);
        }
    }

    fn end_master_with(&mut self, kept: usize) {
        self.master.master = None;
        self.master.wake_at = None;
        self.master.conns.clear();
        self.master.store.crash(kept);
        self.drop_conns_of(Party::Master, false);
    }

    /// The process ends just before or after the transaction that it asked for last is durable.
    pub(super) fn strike_master(&mut self, moment: Moment) {
        self.master.strike = None;
        self.master.struck = true;
        self.line(|| format!("STRIKE master {}", moment.name()));
        *self
            .counts
            .struck
            .entry(("master", moment.name()))
            .or_default() += 1;
        let begun = self.master.store.begun();
        self.end_master_with(match moment {
            Moment::Before | Moment::Torn => begun - 1,
            Moment::After => begun,
        });
        let delay = MS * self.dice.between(5, 1_500);
        self.after(delay, Happens::MasterRestarts);
    }

    /// The clock changes; what was to happen at one of its times happens at another.
    pub(super) fn change_master_clock(&mut self, change: ClockChange) {
        if self.plan.policy == Policy::BestEffort {
            // The master's own lease is all that fences there: it counts on that clock.
            return;
        }
        self.master.clock = self.master.clock.changed(self.now, change);
        self.master.wake_at = None;
        self.master_wakes_later();
    }

    /// Looks for the volume if nobody heard that it was made, or asks for it once more.
    pub(super) fn operator_asks_again(&mut self) {
        let master = self.master.master.as_ref();
        self.volume = master.and_then(|master| master.authority().volume_id("demo"));
        if self.volume.is_none() {
            self.operator_creates();
        }
    }

    /// Makes a backup, as an operator does: what is durable, marked as a copy.
    pub(super) fn copy_master(&mut self) {
        let mut copy = MemoryStore::new();
        for (key, stored) in self.master.store.durable() {
            let mut stored = stored.clone();
            if let Value::Meta(meta) = &mut stored.value {
                meta.copied_at_unix_ms = Some(1);
            }
            copy.put((key.clone(), stored));
        }
        self.master.copy = Some(copy);
    }

    /// The master starts over its backup, if one was made.
    pub(super) fn restore_master(&mut self) {
        self.end_master();
        if let Some(copy) = self.master.copy.take() {
            self.line(|| "the master's store is an old copy".into());
            *self.counts.notes.entry("master_restored").or_default() += 1;
            self.master.store = copy;
        }
        self.start_master();
    }

    /// Whether the master waits to be told what it lost.
    pub(super) fn is_master_unsettled(&self) -> bool {
        let instance = self
            .master
            .master
            .as_ref()
            .map(|master| master.authority().meta().instance);
        self.record().map(|record| record.instance) != instance
    }

    fn record(&self) -> Option<&VolumeRecord> {
        let records = self.master.store.durable().values();
        records
            .filter_map(|stored| match &stored.value {
                Value::Volume(record) => Some(&**record),
                Value::Meta(_) | Value::Server(_) | Value::Name(_) | Value::Event(..) => None,
            })
            .next()
    }

    /// The highest open counter of a server's store that the master recorded.
    pub(super) fn master_saw_open(&self, host: usize) -> Option<OpenCount> {
        let seen = self.record()?.seen.get(&self.hosts[host].server)?;
        Some(seen.open)
    }

    /// Whether the recorded in-sync set names a server.
    pub(super) fn is_recorded_in_sync(&self, host: usize) -> bool {
        let server = &self.hosts[host].server;
        self.record()
            .is_some_and(|record| record.line.is_in_sync(server))
    }

    pub(super) fn operator_creates(&mut self) {
        self.master_event(ServiceEvent::ConnOpened {
            conn: OPERATOR,
            peer: Identity::Client,
        });
        let request = ClientRequest::CreateVolume(CreateVolume {
            name: "demo".into(),
            size_bytes: self.plan.blocks * 4096,
            replicas: u32::try_from(self.plan.replicas).expect("a few"),
            policy: Some(self.plan.policy),
            ack: self.plan.ack,
            log_bytes: self.plan.log_bytes,
            min_copies: Some(u32::try_from(self.plan.min_copies).expect("a few")),
            no_quorum: None,
        });
        debug_assert!(matches!(
            self.plan.ack,
            AckPoint::Flushed | AckPoint::Received
        ));
        self.master_event(ServiceEvent::ConnMessage {
            conn: OPERATOR,
            message: Message::ClientRequest {
                id: 1,
                request: Box::new(request),
            },
        });
    }

    pub(super) fn dials_master(&mut self, host: usize, life: u32) {
        let server = &self.hosts[host];
        if server.life != life || !server.is_up() || server.master.is_some() {
            return;
        }
        let reaches = self.network.reaches(Party::Server(host), Party::Master);
        let Some(cluster) = self.master.cluster().filter(|_| reaches) else {
            let delay = MS * self.dice.between(50, 300);
            self.after(delay, Happens::DialsMaster { host, life });
            return;
        };
        let acceptor = Seat {
            party: Party::Master,
            life: self.master.life,
        };
        let conn = self.network.open(self.seat(host), acceptor);
        let server = &mut self.hosts[host];
        server.master = Some(conn);
        server.cluster = Some(cluster);
        let peer = Identity::Server {
            server: server.server.clone(),
            boot: server.boot,
            data_addr: server.data_addr(),
            control_addr: format!("{}:2", server.server),
        };
        let id = ConnId(conn.0);
        self.master.conns.insert(id, conn);
        self.master_event(ServiceEvent::ConnOpened { conn: id, peer });
        self.tell(host, Event::MasterUp { cluster });
    }

    pub(super) fn master_hears(&mut self, conn: ConnNo, message: Message) {
        let conn = ConnId(conn.0);
        self.master_event(ServiceEvent::ConnMessage { conn, message });
    }

    pub(super) fn master_lost(&mut self, conn: ConnNo) {
        let conn = ConnId(conn.0);
        if self.master.conns.remove(&conn).is_some() {
            self.master_event(ServiceEvent::ConnClosed { conn });
        }
    }

    pub(super) fn master_wakes(&mut self, life: u32) {
        if self.master.life == life && self.master.wake_at == Some(self.now) {
            self.master.wake_at = None;
            self.master_event(ServiceEvent::DeadlineReached);
        }
    }

    pub(super) fn master_commits(&mut self, life: u32) {
        if self.master.life != life || !self.master.is_up() {
            return;
        }
        if let Some((txn, result)) = self.master.store.finish() {
            let txn = txn.id;
            self.master_event(ServiceEvent::CommitDone { txn, result });
        }
    }

    fn master_event(&mut self, event: ServiceEvent) {
        let now = self.master.clock.read(self.now);
        let Some(master) = self.master.master.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        master.handle(now, event, &mut out);
        master.authority().assert_invariants();
        self.master_acts(out);
        self.master_wakes_later();
    }

    fn master_wakes_later(&mut self) {
        let Some(due) = self.master.master.as_ref().and_then(Master::next_deadline) else {
            return;
        };
        let at = self.master.clock.world_at(due).max(self.now + 1_000);
        if self.master.wake_at.is_none_or(|known| at < known) {
            self.master.wake_at = Some(at);
            let life = self.master.life;
            self.at(at, Happens::MasterWakes { life });
        }
    }

    fn master_acts(&mut self, actions: Vec<ServiceAction>) {
        for action in actions {
            match action {
                ServiceAction::Send { conn, message } => self.master_sends(conn, &message),
                ServiceAction::Close { conn } => {
                    if let Some(conn) = self.master.conns.remove(&conn) {
                        let at = self.network.drained(conn) + 1;
                        self.at(at, Happens::Breaks { conn });
                    }
                }
                ServiceAction::Commit(txn) => {
                    self.master.store.begin(txn);
                    self.master.txns += u64::from(self.phase != Phase::SetUp);
                    if let Some((at, moment)) = self.master.strike
                        && at <= self.master.txns
                    {
                        return self.strike_master(moment);
                    }
                    let (life, delay) = (self.master.life, self.dice.between(MS / 5, MS * 5));
                    self.after(delay, Happens::MasterCommits { life });
                }
                ServiceAction::Stop(reason) => {
                    let reason = format!("the master stops: {reason}");
                    self.broken(Violation::new(Rule::Invariant, reason));
                }
            }
        }
    }

    fn master_sends(&mut self, conn: ConnId, message: &Message) {
        if let Some(conn) = self.master.conns.get(&conn).copied() {
            self.send(conn, End::Dialer, message);
            return;
        }
        if let (OPERATOR, Message::ClientResponse { response, .. }) = (conn, message) {
            self.line(|| format!("the master answers {response:?}"));
            if let ClientResponse::Created(_) = &**response {
                let master = self.master.master.as_ref();
                self.volume = master.and_then(|master| master.authority().volume_id("demo"));
            } else {
                let reason = format!("the volume was not made: {response:?}");
                self.broken(Violation::new(Rule::Liveness, reason));
            }
        }
    }
}

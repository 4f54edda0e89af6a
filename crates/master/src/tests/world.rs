//! A world around a master: stage directions for scenarios.

use std::{collections::BTreeMap, time::Duration};

use moorline_types::{
    AckPoint, AssignmentLine, BootId, ClusterId, ConfigVersion, Epoch, Instant, Lsn, MasterRun,
    OpenCount, Opening, Openings, Policy, ServerId, StoreId, VolumeId,
};
use moorline_wire::{ImageState, Message, VoteClaim, control::*, hello::Identity};

use crate::{
    ConnId, Failover, Master, MasterConfig, ServiceAction, ServiceEvent, StartFacts, StopReason,
    record::Home,
    store::{Txn, memory::MemoryStore},
};

/// What one simulated server is and holds.
#[derive(Clone, Debug)]
pub(super) struct Sim {
    pub(super) boot: BootId,
    /// The cluster that it joined.
    pub(super) cluster: Option<ClusterId>,
    pub(super) conn: Option<ConnId>,
    pub(super) stores: BTreeMap<VolumeId, SimStore>,
    pub(super) port: u16,
}

#[derive(Clone, Debug)]
pub(super) struct SimStore {
    pub(super) report: ReplicaReport,
    /// The newest line, persisted.
    pub(super) line: Option<AssignmentLine>,
    /// What the master said on the connection that stands.
    pub(super) told: Option<LineVersion>,
}

pub(super) struct World {
    pub(super) config: MasterConfig,
    pub(super) now: Instant,
    pub(super) store: MemoryStore,
    pub(super) master: Option<Master>,
    pub(super) servers: BTreeMap<ServerId, Sim>,
    pub(super) inbox: Vec<(ConnId, Message)>,
    pub(super) closed: Vec<ConnId>,
    pub(super) stopped: Option<StopReason>,
    /// Transactions asked for and not yet made; only when `hold_commits`.
    pub(super) held: Vec<Txn>,
    pub(super) hold_commits: Hold,
    pub(super) starts: u64,
    /// Where the master's file is.
    pub(super) home: Option<Home>,
    /// The cluster that an empty store is to lead.
    pub(super) adopts: Option<ClusterId>,
    next_conn: u64,
    next_id: u128,
    /// Changes asked for: no number is given twice.
    pub(super) requests: u64,
    /// Every line ever told, by what orders it.
    pub(super) lines: BTreeMap<(VolumeId, Epoch, ConfigVersion), AssignmentLine>,
    /// Until when each reign's holder may take its lease as granted.
    pub(super) held_leases: BTreeMap<VolumeId, (Epoch, Instant)>,
    pub(super) highest: BTreeMap<VolumeId, Epoch>,
    /// What was told last of losses that an operator accepted.
    pub(super) accepted: BTreeMap<VolumeId, Option<Epoch>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    No,
    Yes,
}

pub(super) fn sid(n: u32) -> ServerId {
    format!("s{n}").parse().unwrap()
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub(super) fn new(servers: u32) -> Self {
        let config = MasterConfig {
            log_bytes_min: 1 << 20,
            ..MasterConfig::default()
        };
        Self::with_config(servers, config)
    }

    pub(super) fn with_config(servers: u32, config: MasterConfig) -> Self {
        let mut world = Self {
            config,
            now: Instant::from_nanos(1_000_000_000),
            store: MemoryStore::new(),
            master: None,
            servers: BTreeMap::new(),
            inbox: Vec::new(),
            requests: 100,
            closed: Vec::new(),
            stopped: None,
            held: Vec::new(),
            hold_commits: Hold::No,
            starts: 0,
            home: None,
            adopts: None,
            next_conn: 0,
            next_id: 1_000,
            lines: BTreeMap::new(),
            held_leases: BTreeMap::new(),
            highest: BTreeMap::new(),
            accepted: BTreeMap::new(),
        };
        world.start_master();
        for n in 1..=servers {
            let boot = BootId::new(world.fresh());
            let sim = Sim {
                boot,
                cluster: None,
                conn: None,
                stores: BTreeMap::new(),
                port: u16::try_from(n).unwrap() * 10,
            };
            world.servers.insert(sid(n), sim);
            world.connect(n);
        }
        world
    }

    pub(super) fn fresh(&mut self) -> u128 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn start_master(&mut self) {
        self.starts += 1;
        let facts = StartFacts {
            now: self.now,
            unix_ms: 1_700_000_000_000,
            seed: u128::from(self.starts) << 64,
            home: self.home,
            adopts: self.adopts,
        };
        let mut out = Vec::new();
        let loaded = self.store.durable().clone();
        self.master = Some(Master::start(self.config, facts, loaded, &mut out).unwrap());
        self.act(out);
    }

    /// The master's process ends; what it asked to commit and was not yet answered is lost, but for
    /// the first `kept`.
    pub(super) fn crash_master(&mut self, kept: usize) {
        self.master = None;
        for txn in std::mem::take(&mut self.held) {
            self.store.begin(txn);
        }
        self.store.crash(kept);
        for sim in self.servers.values_mut() {
            sim.conn = None;
        }
        self.inbox.clear();
    }

    pub(super) fn restart_master(&mut self) {
        self.crash_master(0);
        self.hold_commits = Hold::No;
        self.start_master();
        for n in 1..=u32::try_from(self.servers.len()).unwrap() {
            self.connect(n);
        }
    }

    /// Another store is put in the master's place while it is down; servers come back by and by.
    pub(super) fn restore(&mut self, copy: MemoryStore) {
        self.crash_master(0);
        self.store = copy;
        self.start_master();
    }

    /// A copy of the store, as `moorline master backup` makes it.
    pub(super) fn backup(&mut self) -> MemoryStore {
        let mut copy = MemoryStore::new();
        let mut after = None;
        loop {
            let request = ClientRequest::Backup { after };
            let Some(ClientResponse::Backup(page)) = self.ask(request) else {
                panic!("no page");
            };
            after = page.records.last().map(|(key, ..)| key.clone());
            for record in &page.records {
                copy.put(crate::store::decode_record(record).unwrap());
            }
            if page.is_last {
                return copy;
            }
        }
    }

    /// Every server whose connection the master ended comes back, and says what it knows.
    pub(super) fn come_back(&mut self, servers: &[u32]) {
        for n in servers {
            if self.servers[&sid(*n)].conn.is_none() {
                self.connect(*n);
            }
        }
        for n in servers {
            self.heartbeat(*n);
        }
    }

    pub(super) fn event(&mut self, event: ServiceEvent) {
        let Some(master) = self.master.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        master.handle(self.now, event, &mut out);
        self.act(out);
    }

    fn act(&mut self, actions: Vec<ServiceAction>) {
        for action in actions {
            match action {
                ServiceAction::Send { conn, message } => {
                    self.check_told(conn, &message);
                    self.inbox.push((conn, message));
                }
                ServiceAction::Close { conn } => {
                    self.closed.push(conn);
                    for sim in self.servers.values_mut() {
                        if sim.conn == Some(conn) {
                            sim.conn = None;
                        }
                    }
                }
                ServiceAction::Commit(txn) => self.held.push(txn),
                ServiceAction::Stop(reason) => self.stopped = Some(reason),
            }
        }
        if self.hold_commits == Hold::No {
            self.commit_all();
        }
    }

    pub(super) fn commit_all(&mut self) {
        while !self.held.is_empty() {
            self.commit_one();
        }
    }

    pub(super) fn commit_one(&mut self) {
        let txn = self.held.remove(0);
        let id = txn.id;
        self.store.begin(txn);
        let (_, result) = self.store.finish().unwrap();
        self.event(ServiceEvent::CommitDone { txn: id, result });
    }

    /// What must hold of everything that the master says: one line per version, epochs only rise,
    /// nothing before it is durable, no epoch while the holder of the one before may serve.
    fn check_told(&mut self, conn: ConnId, message: &Message) {
        let Message::MasterToServer(message) = message else {
            return;
        };
        match &**message {
            MasterToServer::Assignment {
                line,
                loss_accepted,
                ..
            } => {
                self.accepted.insert(line.volume, *loss_accepted);
                let key = (line.volume, line.epoch, line.config);
                let before = self.lines.insert(key, line.clone());
                assert!(
                    before.is_none_or(|before| before == *line),
                    "two lines {key:?}"
                );
                let durable = self.store.durable().values().any(|stored| {
                    matches!(&stored.value, crate::record::Value::Volume(v) if v.line == *line)
                });
                assert!(durable, "told before it was durable");
                let highest = self.highest.entry(line.volume).or_default();
                assert!(line.epoch >= *highest, "an epoch went back");
                if line.epoch > *highest {
                    *highest = line.epoch;
                    if let Some((epoch, until)) = self.held_leases.get(&line.volume) {
                        assert!(
                            *epoch >= line.epoch || self.now >= *until,
                            "minted while the lease of {epoch} runs"
                        );
                    }
                }
            }
            MasterToServer::Leases { granted, .. } => {
                let boot = self.servers.values().find(|sim| sim.conn == Some(conn));
                let boot = boot.map(|sim| sim.boot);
                for lease in granted {
                    assert_eq!(Some(lease.boot), boot, "a lease is for the boot that asked");
                    let until = self.now.after(self.config.lease);
                    self.held_leases.insert(lease.volume, (lease.epoch, until));
                }
            }
            MasterToServer::Registered { .. }
            | MasterToServer::Refused(_)
            | MasterToServer::CreateStore { .. }
            | MasterToServer::DeleteStore { .. }
            | MasterToServer::ChangeConfigDone { .. } => {}
        }
    }

    pub(super) fn open(&mut self, peer: Identity) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.event(ServiceEvent::ConnOpened { conn, peer });
        conn
    }

    pub(super) fn identity(&self, n: u32) -> Identity {
        Identity::Server {
            server: sid(n),
            boot: self.servers[&sid(n)].boot,
            data_addr: String::new(),
            control_addr: String::new(),
        }
    }

    pub(super) fn register(&self, n: u32) -> Register {
        let sim = &self.servers[&sid(n)];
        Register {
            server: sid(n),
            boot: sim.boot,
            cluster: sim.cluster,
            data_addr: format!("h:{}", sim.port),
            control_addr: format!("h:{}", sim.port + 1),
            nbd_addr: "h:10809".into(),
            version: "0.1.0".into(),
            stores: sim
                .stores
                .values()
                .map(|s| store_report(&s.report))
                .collect(),
        }
    }

    pub(super) fn connect(&mut self, n: u32) {
        let conn = self.open(self.identity(n));
        self.servers.get_mut(&sid(n)).unwrap().conn = Some(conn);
        let register = self.register(n);
        self.say_on(conn, ServerToMaster::Register(register));
        self.deliver();
    }

    pub(super) fn say_on(&mut self, conn: ConnId, message: ServerToMaster) {
        self.event(ServiceEvent::ConnMessage {
            conn,
            message: Message::ServerToMaster(Box::new(message)),
        });
    }

    pub(super) fn say(&mut self, n: u32, message: ServerToMaster) {
        if let Some(conn) = self.servers[&sid(n)].conn {
            self.say_on(conn, message);
        }
    }

    pub(super) fn disconnect(&mut self, n: u32) {
        if let Some(conn) = self.servers.get_mut(&sid(n)).unwrap().conn.take() {
            self.event(ServiceEvent::ConnClosed { conn });
        }
    }

    /// The process is killed; its stores stay.
    pub(super) fn kill(&mut self, n: u32) {
        self.disconnect(n);
    }

    /// The process starts again: another boot, every open counter raised.
    pub(super) fn boot(&mut self, n: u32) {
        let boot = BootId::new(self.fresh());
        let sim = self.servers.get_mut(&sid(n)).unwrap();
        sim.boot = boot;
        for store in sim.stores.values_mut() {
            let report = &mut store.report;
            report.open = report.open.next();
            report.boot = boot;
            report.openings.add(Opening {
                open: report.open,
                boot,
            });
            report.role = ReplicaRole::Idle;
            report.mark = MarkState::Pending;
            report.serving = Serving::No;
            report.following = None;
            report.clients = 0;
        }
        self.connect(n);
    }

    /// The stores are replaced by freshly formatted ones.
    pub(super) fn wipe(&mut self, n: u32) {
        let id = StoreId::new(self.fresh());
        for store in self.servers.get_mut(&sid(n)).unwrap().stores.values_mut() {
            store.report.store = id;
            store.report.open = OpenCount::default();
            store.report.openings = Openings::default();
            store.report.last_record_epoch = Epoch::ZERO;
            store.report.flushed = Some(Lsn::ZERO);
            store.report.head = Lsn::ZERO;
        }
    }

    pub(super) fn heartbeat(&mut self, n: u32) {
        let sim = &self.servers[&sid(n)];
        let volumes = sim.stores.values().map(|store| {
            let mut report = store.report.clone();
            let news = store.line.as_ref().filter(|_| store.told < report.line);
            report.known_line = news.map(|line| {
                Box::new(KnownLine {
                    line: line.clone(),
                    log_bytes: 1 << 20,
                })
            });
            report
        });
        let volumes = volumes.collect();
        let heartbeat = Heartbeat {
            stores_opening: 0,
            seq: 1,
            sent_ns: self.now.as_nanos(),
            volumes,
        };
        self.say(n, ServerToMaster::Heartbeat(heartbeat));
        self.deliver();
    }

    pub(super) fn heartbeats(&mut self) {
        for n in 1..=u32::try_from(self.servers.len()).unwrap() {
            self.heartbeat(n);
        }
    }

    /// Servers do as they are told, as servers do.
    pub(super) fn deliver(&mut self) {
        while !self.inbox.is_empty() {
            for (conn, message) in std::mem::take(&mut self.inbox) {
                let Message::MasterToServer(message) = message else {
                    self.inbox.push((conn, message));
                    continue;
                };
                let name = self.servers.iter().find(|(_, sim)| sim.conn == Some(conn));
                if let Some(name) = name.map(|(name, _)| name.clone()) {
                    self.obey(&name, conn, *message);
                }
            }
            if self
                .inbox
                .iter()
                .all(|(_, m)| !matches!(m, Message::MasterToServer(_)))
            {
                return;
            }
        }
    }

    fn obey(&mut self, name: &ServerId, conn: ConnId, message: MasterToServer) {
        match message {
            MasterToServer::CreateStore { line, .. } => {
                let store = StoreId::new(self.fresh());
                let sim = self.servers.get_mut(name).unwrap();
                let report = sim.stores.entry(line.volume).or_insert_with(|| SimStore {
                    report: fresh_report(line.volume, store, sim.boot),
                    line: None,
                    told: None,
                });
                let store = store_report(&report.report);
                let volume = line.volume;
                self.say_on(conn, ServerToMaster::CreatedStore { volume, store });
            }
            MasterToServer::DeleteStore { volume } => {
                self.servers.get_mut(name).unwrap().stores.remove(&volume);
                self.say_on(conn, ServerToMaster::DeletedStore { volume });
            }
            MasterToServer::Assignment { line, .. } => self.obey_line(name, &line),
            MasterToServer::Registered {
                cluster,
                start,
                instance,
                ..
            } => {
                let sim = self.servers.get_mut(name).unwrap();
                sim.cluster = Some(cluster);
                for store in sim.stores.values_mut() {
                    store.report.master = Some(MasterRun { instance, start });
                    store.told = None;
                }
            }
            MasterToServer::Refused(_)
            | MasterToServer::Leases { .. }
            | MasterToServer::ChangeConfigDone { .. } => {}
        }
    }

    /// A replica takes a line: the named primary promotes itself at once, the others follow.
    fn obey_line(&mut self, name: &ServerId, line: &AssignmentLine) {
        let sim = self.servers.get_mut(name).unwrap();
        let Some(store) = sim.stores.get_mut(&line.volume) else {
            return;
        };
        let report = &mut store.report;
        let version = LineVersion {
            epoch: line.epoch,
            config: line.config,
        };
        store.told = store.told.max(Some(version));
        if report.line.is_some_and(|have| have >= version) {
            return;
        }
        store.line = Some(line.clone());
        let new_epoch = report.line.is_none_or(|have| have.epoch < line.epoch);
        report.line = Some(version);
        report.promised = line.epoch;
        let Some((primary, boot)) = line.primary.clone() else {
            return;
        };
        if new_epoch {
            let leads = primary == *name && boot == sim.boot;
            report.role = match leads {
                true => ReplicaRole::Primary,
                false => ReplicaRole::Replica,
            };
            report.mark = MarkState::Pending;
            report.serving = Serving::No;
            if leads {
                report.mark = MarkState::Committed;
                report.serving = Serving::Yes;
                report.last_record_epoch = line.epoch;
                report.head = report.head.next();
                report.flushed = Some(report.head);
            }
        }
        report.following = Some(FollowedPrimary {
            epoch: line.epoch,
            server: primary,
            boot,
        });
    }

    /// Lets time pass in small steps, servers reporting twice a second.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while self.now < end {
            self.now = self.now.after(ms(50));
            self.tick();
            if self.now.as_nanos().is_multiple_of(500_000_000) {
                self.heartbeats();
            }
        }
    }

    pub(super) fn tick(&mut self) {
        for _ in 0..16 {
            let due = self.master.as_ref().and_then(Master::next_deadline);
            if due.is_none_or(|due| due > self.now) {
                return;
            }
            self.event(ServiceEvent::DeadlineReached);
            self.deliver();
        }
        panic!("the master asks for a deadline that has come over and over");
    }

    pub(super) fn ask(&mut self, request: ClientRequest) -> Option<ClientResponse> {
        let conn = self.open(Identity::Client);
        self.event(ServiceEvent::ConnMessage {
            conn,
            message: Message::ClientRequest {
                id: 7,
                request: Box::new(request),
            },
        });
        self.deliver();
        self.answer_on(conn)
    }

    pub(super) fn answer_on(&mut self, conn: ConnId) -> Option<ClientResponse> {
        let index = self.inbox.iter().position(|(to, _)| *to == conn)?;
        match self.inbox.remove(index).1 {
            Message::ClientResponse { id: 7, response } => Some(*response),
            other => panic!("not an answer: {other:?}"),
        }
    }

    pub(super) fn create(&mut self, policy: Policy, replicas: u32) -> Option<ClientResponse> {
        self.ask(ClientRequest::CreateVolume(demo(policy, replicas)))
    }

    /// A volume `demo` that is served.
    pub(super) fn serve(&mut self, policy: Policy, replicas: u32) -> VolumeId {
        let answer = self.create(policy, replicas);
        assert!(
            matches!(answer, Some(ClientResponse::Created(_))),
            "{answer:?}"
        );
        self.heartbeats();
        self.heartbeats();
        let status = self.status();
        assert!(status.serving, "{status:?}");
        status.id
    }

    pub(super) fn status(&mut self) -> VolumeStatus {
        let name = "demo".to_owned();
        match self.ask(ClientRequest::VolumeStatus { name }) {
            Some(ClientResponse::Volume(status)) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    pub(super) fn line(&self, id: VolumeId) -> AssignmentLine {
        let master = self.master.as_ref().unwrap();
        master.authority().volume(id).unwrap().line.clone()
    }

    pub(super) fn leader(&self, id: VolumeId) -> (u32, u64) {
        let line = self.line(id);
        let (server, _) = line.primary.unwrap();
        (
            server.as_str()[1..].parse().unwrap(),
            line.epoch.assignment(),
        )
    }

    pub(super) fn report(&mut self, n: u32, id: VolumeId) -> &mut ReplicaReport {
        let sim = self.servers.get_mut(&sid(n)).unwrap();
        &mut sim.stores.get_mut(&id).unwrap().report
    }

    /// The primary asks for another in-sync set.
    pub(super) fn change(
        &mut self,
        n: u32,
        id: VolumeId,
        expected: ConfigVersion,
        set: &[u32],
    ) -> ChangeConfigResult {
        self.requests += 1;
        self.change_as(self.requests, n, (id, expected), set)
    }

    /// Asks for a change by the number that it has, or had before.
    pub(super) fn change_as(
        &mut self,
        request_id: u64,
        n: u32,
        (id, expected): (VolumeId, ConfigVersion),
        set: &[u32],
    ) -> ChangeConfigResult {
        let epoch = self.line(id).epoch;
        let in_sync = set.iter().map(|m| InSyncMember {
            server: sid(*m),
            boot: self.servers[&sid(*m)].boot,
        });
        let change = ChangeConfig {
            request_id,
            volume: id,
            epoch,
            expected_config: expected,
            in_sync: in_sync.collect(),
        };
        self.inbox.clear();
        self.say(n, ServerToMaster::ChangeConfig(change));
        self.done(n).unwrap()
    }

    pub(super) fn done(&mut self, n: u32) -> Option<ChangeConfigResult> {
        let conn = self.servers[&sid(n)].conn?;
        let mut found = None;
        for (to, message) in &self.inbox {
            if let Message::MasterToServer(message) = message
                && let MasterToServer::ChangeConfigDone { result, .. } = &**message
                && *to == conn
            {
                found = Some(result.clone());
            }
        }
        self.deliver();
        found
    }

    pub(super) fn lossy(servers: u32) -> Self {
        let config = MasterConfig {
            failover: Failover::Lossy,
            log_bytes_min: 1 << 20,
            ..MasterConfig::default()
        };
        Self::with_config(servers, config)
    }
}

pub(super) fn demo(policy: Policy, replicas: u32) -> CreateVolume {
    CreateVolume {
        name: "demo".into(),
        size_bytes: 1 << 30,
        replicas,
        policy: Some(policy),
        ack: AckPoint::Flushed,
        log_bytes: 1 << 20,
        min_copies: None,
        no_quorum: None,
    }
}

pub(super) fn store_report(report: &ReplicaReport) -> StoreReport {
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

fn fresh_report(volume: VolumeId, store: StoreId, boot: BootId) -> ReplicaReport {
    ReplicaReport {
        volume,
        store,
        open: OpenCount::new(1),
        boot,
        openings: Openings::first(Opening {
            open: OpenCount::new(1),
            boot,
        }),
        role: ReplicaRole::Idle,
        promised: Epoch::ZERO,
        line: None,
        mark: MarkState::Pending,
        last_record_epoch: Epoch::ZERO,
        head: Lsn::ZERO,
        flushed: Some(Lsn::ZERO),
        applied: Lsn::ZERO,
        checkpoint: Lsn::ZERO,
        tail: Lsn::ZERO,
        committed: Lsn::ZERO,
        vote: VoteClaim::Has,
        image: ImageState::Whole,
        following: None,
        serving: Serving::No,
        clients: 0,
        copies: None,
        peers: Vec::new(),
        pins: Vec::new(),
        log_fill_percent: 0,
        writes_slowed: None,
        damage: moorline_wire::control::DamageReport::default(),
        master: None,
        known_line: None,
    }
}

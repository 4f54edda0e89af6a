//! Nodes on disks in memory, a network that loses nothing, and a master that says yes.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_blockvol::{FlusherConfig, Layout};
use moorline_types::{
    AckPoint, AssignmentLine, BLOCK_SIZE, BlockCount, BootId, BufferPool, ClusterId, ConfigVersion,
    DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, Epoch, Instant, Member,
    NoQuorum, OpOwner, OpenCount, Policy, ServerId, VolumeId,
};
use moorline_volume::{
    Action, DeviceCreation, DeviceKey, Event, LinkDirection, LinkId, Node, NodeConfig,
    client::{
        ByteRange, ClientId, ClientOp, ClientReply, ClientRequest, Durability, ReadPiece, RequestId,
    },
    journal::Happening,
};
use moorline_wire::{
    Message,
    control::{
        ChangeConfigResult, LossConsent, MasterToServer, ReplicaReport, ServerToMaster, StoreReport,
    },
};

pub(crate) const VOLUME: VolumeId = VolumeId::new(7);
pub(crate) const BLOCKS: u64 = 4096;
pub(crate) const LOG_BYTES: u64 = 4 << 20;
pub(crate) const CLUSTER: ClusterId = ClusterId::new(3);
pub(crate) const CLIENT: ClientId = ClientId::new(1);

/// What a device operation takes.
const LATENCY: Duration = Duration::from_micros(100);

/// One disk: what was written is there.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    blocks: BTreeMap<u64, Box<[u8]>>,
    pub(crate) bytes: u64,
    /// It answers nothing; what it was asked waits here.
    pub(crate) hangs: bool,
    pub(crate) waiting: Vec<DeviceOp>,
    /// It answers with an error.
    pub(crate) fails: bool,
    /// Bytes per second of writes to the extents; no limit when 0.
    pub(crate) extent_rate: u64,
    busy_until: Instant,
}

impl Disk {
    pub(crate) fn carry_out(&mut self, op: DeviceOp) -> DeviceDone {
        let DeviceOp { id, offset, kind } = op;
        if self.fails {
            let result = Err(DeviceError::Errno { errno: 5 });
            return DeviceDone { id, result };
        }
        let first = offset / BLOCK_SIZE as u64;
        let outcome = match kind {
            DeviceOpKind::Read(mut buffer) => {
                let blocks = buffer.as_mut_slice().chunks_exact_mut(BLOCK_SIZE);
                for (block, place) in (first..).zip(blocks) {
                    match self.blocks.get(&block) {
                        Some(bytes) => place.copy_from_slice(bytes),
                        None => place.fill(0),
                    }
                }
                DeviceOutcome::Read(buffer)
            }
            DeviceOpKind::Write(parts, _) => {
                let blocks = parts
                    .iter()
                    .flat_map(|part| part.as_slice().chunks_exact(BLOCK_SIZE));
                for (block, bytes) in (first..).zip(blocks) {
                    self.blocks.insert(block, bytes.into());
                }
                DeviceOutcome::Written
            }
            DeviceOpKind::Flush => DeviceOutcome::Flushed,
            DeviceOpKind::Discard { length } => {
                for block in first..first + length / BLOCK_SIZE as u64 {
                    self.blocks.remove(&block);
                }
                DeviceOutcome::Discarded
            }
        };
        DeviceDone {
            id,
            result: Ok(outcome),
        }
    }

    fn time_of(&mut self, now: Instant, op: &DeviceOp) -> Instant {
        let bytes = op.kind.length();
        let is_write = matches!(op.kind, DeviceOpKind::Write(..));
        if self.extent_rate == 0 || !is_write || op.id.owner() != OpOwner::Extents {
            return now.after(LATENCY);
        }
        let time = Duration::from_secs_f64(bytes as f64 / self.extent_rate as f64);
        self.busy_until = self.busy_until.max(now).after(time);
        self.busy_until
    }
}

/// One server.
pub(crate) struct Host {
    pub(crate) server: ServerId,
    boot: BootId,
    pub(crate) node: Node,
    pub(crate) disks: BTreeMap<DeviceKey, Disk>,
    pub(crate) notes: Vec<(Instant, Happening)>,
    pub(crate) told_master: Vec<ServerToMaster>,
    links: u64,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) hosts: Vec<Host>,
    line: AssignmentLine,
    /// Told with every assignment.
    pub(crate) loss_accepted: Option<Epoch>,
    due: BTreeMap<(Instant, u64), (usize, Event)>,
    serial: u64,
    /// Both ends of each connection.
    ends: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    requests: u64,
    /// When each request was answered, and how.
    pub(crate) replies: BTreeMap<RequestId, (Instant, ClientReply)>,
    /// Messages that never arrive, by who sends them, and to whom.
    pub(crate) loses: fn((usize, usize), &Message) -> bool,
}

pub(crate) fn server(index: usize) -> ServerId {
    format!("s{}", index + 1).parse().unwrap()
}

pub(crate) fn config(index: usize, boot: BootId) -> NodeConfig {
    let mut config = NodeConfig::new(server(index), boot);
    config.cluster = Some(CLUSTER);
    config.data_addr = format!("s{}:1", index + 1);
    config.pool = BufferPool::new();
    config.flusher = FlusherConfig {
        dirty_bytes_max: 256 << 10,
        dirty_time_max: Duration::from_millis(100),
        ..FlusherConfig::default()
    };
    config
}

impl World {
    /// Servers with a store each and the first of them as primary, serving.
    pub(crate) fn serving(servers: usize) -> Self {
        let mut world = Self {
            loss_accepted: None,
            now: Instant::from_nanos(1_000_000_000),
            hosts: Vec::new(),
            line: first_line(servers),
            due: BTreeMap::new(),
            serial: 0,
            ends: BTreeMap::new(),
            requests: 0,
            replies: BTreeMap::new(),
            loses: |_, _| false,
        };
        for index in 0..servers {
            let boot = BootId::new(100 + index as u128);
            world.hosts.push(Host {
                server: server(index),
                boot,
                node: Node::new(config(index, boot), world.now),
                disks: BTreeMap::new(),
                notes: Vec::new(),
                told_master: Vec::new(),
                links: 0,
            });
            world.tell(index, Event::MasterUp { cluster: CLUSTER });
            let line = world.line.clone();
            let create = MasterToServer::CreateStore {
                line,
                log_bytes: LOG_BYTES,
                operation: 1,
            };
            world.tell(index, Event::MasterSaid(create));
        }
        world.run(Duration::from_millis(500));
        let (name, boot) = (world.hosts[0].server.clone(), world.hosts[0].boot);
        world.line.epoch = Epoch::new(1, 0);
        world.line.primary = Some((name, boot));
        world.publish();
        world.run(Duration::from_secs(4));
        assert!(
            world.has_noted(0, "serving_started"),
            "{:?}",
            world.hosts[0].notes
        );
        world
    }

    fn publish(&mut self) {
        for index in 0..self.hosts.len() {
            let line = self.line.clone();
            let consent = LossConsent::No;
            let said = MasterToServer::Assignment {
                line,
                consent,
                loss_accepted: self.loss_accepted,
            };
            self.tell(index, Event::MasterSaid(said));
        }
    }

    /// The server's process starts anew on the same disks; its master does not know it yet.
    pub(crate) fn restart(&mut self, index: usize) {
        for link in self.ends.keys().copied().collect::<Vec<_>>() {
            if link.0 == index {
                self.hang_up(link);
            }
        }
        self.due.retain(|_, (of, _)| *of != index);
        let host = &mut self.hosts[index];
        host.boot = BootId::new(host.boot.get() + 1000);
        host.node = Node::new(config(index, host.boot), self.now);
        host.notes.clear();
        host.told_master.clear();
        let found: Vec<(DeviceKey, u64)> = host
            .disks
            .iter_mut()
            .map(|(key, disk)| (*key, disk.bytes))
            .collect();
        for (device, bytes) in found {
            self.tell(index, Event::DeviceFound { device, bytes });
        }
        self.tell(index, Event::MasterUp { cluster: CLUSTER });
    }

    fn hang_up(&mut self, end: (usize, LinkId)) {
        if let Some(other) = self.ends.remove(&end) {
            self.ends.remove(&other);
            for (host, link) in [end, other] {
                self.tell(host, Event::LinkDown { link });
            }
        }
    }

    /// Its disk answers again, and what it was asked meanwhile.
    pub(crate) fn unhang(&mut self, index: usize) {
        let disks: Vec<DeviceKey> = self.hosts[index].disks.keys().copied().collect();
        for device in disks {
            let disk = self.disk(index, device);
            disk.hangs = false;
            for op in std::mem::take(&mut disk.waiting) {
                self.device(index, device, op);
            }
        }
    }

    pub(crate) fn disk(&mut self, index: usize, device: DeviceKey) -> &mut Disk {
        self.hosts[index].disks.get_mut(&device).unwrap()
    }

    /// The only disk of a server.
    pub(crate) fn only_disk(&mut self, index: usize) -> &mut Disk {
        self.hosts[index].disks.values_mut().next().unwrap()
    }

    pub(crate) fn rot(&mut self, index: usize, block: u64) {
        let layout = Layout::new(BlockCount::new(BLOCKS), LOG_BYTES).unwrap();
        let place = layout.extents_offset() / BLOCK_SIZE as u64 + block;
        let stored = self.only_disk(index).blocks.get_mut(&place);
        stored.expect("the block is in the extents")[77] ^= 1;
    }

    pub(crate) fn tell(&mut self, index: usize, event: Event) {
        self.tell_at(self.now, index, event);
    }

    fn tell_at(&mut self, at: Instant, index: usize, event: Event) {
        self.serial += 1;
        self.due.insert((at, self.serial), (index, event));
    }

    /// Lets so much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let deadlines = self
                .hosts
                .iter()
                .filter_map(|host| host.node.next_deadline());
            let events = self.due.keys().map(|(at, _)| *at).next();
            let Some(next) = deadlines.chain(events).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// Handles everything that is due now, one batch per server.
    fn step(&mut self) {
        let mut batches: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (index, event) = entry.remove();
            batches.entry(index).or_default().push(event);
        }
        for index in 0..self.hosts.len() {
            let mut out = Vec::new();
            let node = &mut self.hosts[index].node;
            for event in batches.remove(&index).unwrap_or_default() {
                node.handle(self.now, event, &mut out);
            }
            if node.next_deadline().is_some_and(|at| at <= self.now) {
                node.handle(self.now, Event::DeadlineReached, &mut out);
            }
            node.submit(self.now, &mut out);
            for action in out {
                self.carry_out(index, action);
            }
        }
    }

    fn carry_out(&mut self, index: usize, action: Action) {
        match action {
            Action::Device { device, op } => self.device(index, device, op),
            Action::CreateDevice { volume, bytes } => {
                let device = DeviceKey::new(1);
                let disk = Disk {
                    bytes,
                    ..Disk::default()
                };
                self.hosts[index].disks.insert(device, disk);
                let outcome = DeviceCreation::Made { device, bytes };
                self.tell(index, Event::DeviceCreated { volume, outcome });
            }
            Action::RemoveDevice { device } => {
                self.hosts[index].disks.remove(&device);
            }
            Action::Dial { server, .. } => self.dial(index, &server),
            Action::HangUp { link } => self.hang_up((index, link)),
            Action::Send { link, message } => {
                if let Some(&(to, link)) = self.ends.get(&(index, link))
                    && !(self.loses)((index, to), &message)
                {
                    let at = self.now.after(LATENCY);
                    self.tell_at(at, to, Event::MessageArrived { link, message });
                }
            }
            Action::TellMaster(message) => self.master(index, message),
            Action::Reply { request, reply, .. } => {
                self.replies.insert(request, (self.now, reply));
            }
            Action::Note(note) => self.hosts[index].notes.push((self.now, note.what)),
            Action::SetExport { .. } | Action::Stopped => {}
        }
    }

    fn device(&mut self, index: usize, device: DeviceKey, op: DeviceOp) {
        let now = self.now;
        let disk = self.disk(index, device);
        if disk.hangs {
            disk.waiting.push(op);
            return;
        }
        let at = disk.time_of(now, &op);
        let done = disk.carry_out(op);
        self.tell_at(at, index, Event::DeviceDone { device, done });
    }

    fn dial(&mut self, index: usize, server: &ServerId) {
        let to = self
            .hosts
            .iter()
            .position(|host| host.server == *server)
            .unwrap();
        let ends = [
            (index, LinkDirection::Dialed),
            (to, LinkDirection::Accepted),
        ];
        let links = ends.map(|(host, _)| {
            self.hosts[host].links += 1;
            (host, LinkId::new(self.hosts[host].links))
        });
        self.ends.insert(links[0], links[1]);
        self.ends.insert(links[1], links[0]);
        for ((host, link), (other, direction)) in
            links.into_iter().zip([(to, ends[0].1), (index, ends[1].1)])
        {
            let up = Event::LinkUp {
                link,
                server: self.hosts[other].server.clone(),
                boot: self.hosts[other].boot,
                direction,
            };
            self.tell(host, up);
        }
    }

    fn master(&mut self, index: usize, message: ServerToMaster) {
        match &message {
            ServerToMaster::Register(_) => {
                let registered = MasterToServer::Registered {
                    cluster: CLUSTER,
                    start: 1,
                    instance: 1,
                    heartbeat_ms: 100,
                };
                self.tell(index, Event::MasterSaid(registered));
            }
            ServerToMaster::CreatedStore { store, .. } => self.record(index, store.clone()),
            ServerToMaster::ChangeConfig(change) => {
                let request_id = change.request_id;
                assert_eq!(change.expected_config, self.line.config);
                self.line.config = ConfigVersion::new(self.line.config.get() + 1);
                self.line.in_sync = change
                    .in_sync
                    .iter()
                    .map(|member| member.server.clone())
                    .collect();
                let done = MasterToServer::ChangeConfigDone {
                    request_id,
                    volume: VOLUME,
                    result: ChangeConfigResult::Recorded(self.line.clone()),
                };
                self.tell(index, Event::MasterSaid(done));
                self.publish();
            }
            _ => {}
        }
        self.hosts[index].told_master.push(message);
    }

    fn record(&mut self, index: usize, report: StoreReport) {
        let member = &mut self.line.members[index];
        member.store = Some(report.store);
        member.open = report.open;
        member.opened_by = Some(report.boot);
        member.boot = Some(report.boot);
    }

    /// The last report of a server's replica.
    pub(crate) fn report(&self, index: usize) -> ReplicaReport {
        let told = self.hosts[index].told_master.iter().rev();
        let mut beats = told.filter_map(|message| match message {
            ServerToMaster::Heartbeat(beat) => beat.volumes.first(),
            _ => None,
        });
        beats.next().expect("a heartbeat was sent").clone()
    }

    /// Stores that a server said it is still opening.
    pub(crate) fn opening_stores(&self, index: usize) -> u32 {
        let told = self.hosts[index].told_master.iter().rev();
        let mut beats = told.filter_map(|message| match message {
            ServerToMaster::Heartbeat(beat) => Some(beat.stores_opening),
            _ => None,
        });
        beats.next().expect("a heartbeat was sent")
    }

    pub(crate) fn has_noted(&self, index: usize, name: &str) -> bool {
        self.count_noted(index, name) > 0
    }

    pub(crate) fn count_noted(&self, index: usize, name: &str) -> usize {
        let notes = self.hosts[index].notes.iter();
        notes.filter(|(_, what)| what.name() == name).count()
    }

    /// Asks the primary; the answer is in `replies` some time.
    pub(crate) fn ask(&mut self, op: ClientOp) -> RequestId {
        self.requests += 1;
        let request = RequestId::new(self.requests);
        let asked = ClientRequest {
            volume: VOLUME,
            client: CLIENT,
            request,
            op,
        };
        self.tell(0, Event::Requested(asked));
        request
    }

    pub(crate) fn ask_write(&mut self, range: ByteRange, value: u8) -> RequestId {
        let pool = BufferPool::new();
        let end = range.offset + u64::from(range.length);
        let first = range.offset / BLOCK_SIZE as u64;
        let blocks = end.div_ceil(BLOCK_SIZE as u64) - first;
        let mut buffer = pool.zeroed(usize::try_from(blocks).unwrap());
        let from = usize::try_from(range.offset % BLOCK_SIZE as u64).unwrap();
        buffer.as_mut_slice()[from..from + range.length as usize].fill(value);
        self.ask(ClientOp::Write {
            range,
            buffer,
            durability: Durability::AckPoint,
        })
    }

    pub(crate) fn write(&mut self, range: ByteRange, value: u8) {
        let request = self.ask_write(range, value);
        self.run(Duration::from_secs(2));
        assert_eq!(self.replies[&request].1, ClientReply::Done);
    }

    /// Reads, giving it so much time; `None` when there is no answer yet.
    pub(crate) fn read_within(&mut self, range: ByteRange, time: Duration) -> Option<ClientReply> {
        let request = self.ask(ClientOp::Read(range));
        self.run(time);
        self.replies.get(&request).map(|(_, reply)| reply.clone())
    }

    /// Reads and answers with the bytes.
    pub(crate) fn read(&mut self, range: ByteRange) -> Vec<u8> {
        match self.read_within(range, Duration::from_secs(2)) {
            Some(ClientReply::Read(pieces)) => bytes_of(&pieces),
            other => panic!("{other:?}"),
        }
    }
}

fn bytes_of(pieces: &[ReadPiece]) -> Vec<u8> {
    let bytes = |piece: &ReadPiece| match piece {
        ReadPiece::Data(bytes) => bytes.to_vec(),
        ReadPiece::Zeroes(length) => vec![0; *length as usize],
    };
    pieces.iter().flat_map(bytes).collect()
}

/// So many whole blocks.
pub(crate) fn blocks(first: u64, count: u32) -> ByteRange {
    ByteRange {
        offset: first * BLOCK_SIZE as u64,
        length: count * 4096,
    }
}

pub(crate) fn first_line(servers: usize) -> AssignmentLine {
    let member = |index| Member {
        server: server(index),
        store: None,
        open: OpenCount::new(0),
        opened_by: None,
        boot: None,
        data_addr: format!("s{}:1", index + 1),
        control_addr: String::new(),
        nbd_addr: String::new(),
        endpoint_version: 1,
    };
    AssignmentLine {
        volume: VOLUME,
        name: "demo".into(),
        size_blocks: BlockCount::new(BLOCKS),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 1,
        epoch: Epoch::ZERO,
        config: ConfigVersion::new(1),
        primary: None,
        members: (0..servers).map(member).collect(),
        in_sync: (0..servers).map(server).collect(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2_000,
    }
}

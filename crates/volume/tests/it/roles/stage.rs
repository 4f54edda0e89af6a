//! One real node, `s1`, whose two peers and master say what the table wants.

use std::{fmt::Write as _, time::Duration};

use moorline_types::{
    AssignmentLine, BootId, BufferPool, ConfigVersion, Epoch, Instant, OpenCount, ServerId, StoreId,
};
use moorline_volume::{
    Action, DeviceCreation, DeviceKey, Event, LinkDirection, LinkId, Node,
    client::{ByteRange, ClientOp, ClientRequest, Durability, RequestId},
};
use moorline_wire::{
    Message, VolumeHeader, VolumeMessage,
    control::{
        LossConsent, MarkState, MasterToServer, ReplicaReport, ReplicaRole, ServerToMaster, Serving,
    },
};

use super::{peers::Peer, words};
use crate::world::{CLIENT, CLUSTER, Disk, VOLUME, config, first_line, server};

/// A store is read in full at each opening, and thousands are opened.
const LOG_BYTES: u64 = 1 << 20;

const DEVICE: DeviceKey = DeviceKey::new(1);

/// This server's boot; the one before it is 100.
pub(super) const OWN_BOOT: BootId = BootId::new(101);

pub(super) fn epoch(n: u64) -> Epoch {
    Epoch::new(n, 0)
}

/// Who may be at the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    S2,
    S3,
    /// A server without a seat.
    Stranger,
    /// This server itself, or an earlier boot of it.
    Own,
}

impl Who {
    pub(super) fn server(self) -> ServerId {
        match self {
            Self::Own => server(0),
            Self::S2 => server(1),
            Self::S3 => server(2),
            Self::Stranger => server(8),
        }
    }

    pub(super) fn boot(self) -> BootId {
        match self {
            Self::Own => OWN_BOOT,
            Self::S2 => BootId::new(102),
            Self::S3 => BootId::new(103),
            Self::Stranger => BootId::new(109),
        }
    }

    /// The connection that it opened.
    pub(super) fn accepted(self) -> LinkId {
        LinkId::new(match self {
            Self::Own => 11,
            Self::S2 => 12,
            Self::S3 => 13,
            Self::Stranger => 19,
        })
    }

    pub(super) fn of(name: &ServerId) -> Self {
        let all = [Self::S2, Self::S3, Self::Stranger];
        let found = all.into_iter().find(|who| who.server() == *name);
        found.unwrap_or(Self::Own)
    }
}

/// The node under test and what is around it.
pub(super) struct Stage {
    pub(super) now: Instant,
    pub(super) node: Node,
    pub(super) disk: Disk,
    pub(super) line: AssignmentLine,
    /// What the peers hold; they answer while `obedient`.
    pub(super) peers: [Peer; 2],
    pub(super) obedient: bool,
    pub(super) silent: Option<Who>,
    /// The connections that this node opened.
    pub(super) dialed: [Option<LinkId>; 2],
    /// What was done since `clear`, in words.
    pub(super) said: Vec<String>,
    pub(super) stopped: bool,
    /// The newest session that was opened with each peer.
    pub(super) sessions: [u64; 2],
    /// When the lease was asked for last.
    pub(super) lease_asked: u64,
    links: u64,
    requests: u64,
}

impl Stage {
    /// A store made in this boot, recorded with those of the peers; no epoch yet.
    pub(super) fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mut stage = Self {
            now,
            node: Node::new(config(0, OWN_BOOT), now),
            disk: Disk::default(),
            line: first_line(3),
            peers: [Peer::new(Who::S2), Peer::new(Who::S3)],
            obedient: false,
            silent: None,
            dialed: [None; 2],
            said: Vec::new(),
            stopped: false,
            sessions: [0; 2],
            lease_asked: 0,
            links: 20,
            requests: 0,
        };
        stage.tell(Event::MasterUp { cluster: CLUSTER });
        let line = stage.line.clone();
        stage.master(MasterToServer::CreateStore {
            line,
            log_bytes: LOG_BYTES,
            operation: 1,
        });
        let own = stage
            .node
            .volume(VOLUME)
            .expect("the store is open")
            .store();
        let stores = [own.identity().store, Who::S2.store(), Who::S3.store()];
        let boots = [OWN_BOOT, Who::S2.boot(), Who::S3.boot()];
        for (member, (store, boot)) in stage
            .line
            .members
            .iter_mut()
            .zip(stores.into_iter().zip(boots))
        {
            member.store = Some(store);
            member.open = OpenCount::new(1);
            member.opened_by = Some(boot);
            member.boot = Some(boot);
        }
        for who in [Who::S2, Who::S3, Who::Stranger] {
            stage.connect(who, who.accepted(), LinkDirection::Accepted);
        }
        stage
    }

    pub(super) fn connect(&mut self, who: Who, link: LinkId, direction: LinkDirection) {
        let (server, boot) = (who.server(), who.boot());
        self.tell(Event::LinkUp {
            link,
            server,
            boot,
            direction,
        });
    }

    /// The process starts again on its disk, as another boot.
    pub(super) fn restarted(mut self) -> Self {
        self.node = Node::new(config(0, OWN_BOOT), self.now);
        let bytes = self.disk.bytes;
        self.tell(Event::DeviceFound {
            device: DEVICE,
            bytes,
        });
        self.tell(Event::MasterUp { cluster: CLUSTER });
        for who in [Who::S2, Who::S3, Who::Stranger] {
            self.connect(who, who.accepted(), LinkDirection::Accepted);
        }
        self
    }

    /// The line of an epoch with its primary, as the master would publish it.
    pub(super) fn line_of(&self, n: u64, primary: Option<(Who, BootId)>) -> AssignmentLine {
        let mut line = self.line.clone();
        line.epoch = epoch(n);
        line.config = ConfigVersion::new(2);
        line.primary = primary.map(|(who, boot)| (who.server(), boot));
        line
    }

    pub(super) fn assign(&mut self, line: AssignmentLine) {
        self.master(assignment(line));
    }

    pub(super) fn master(&mut self, said: MasterToServer) {
        self.tell(Event::MasterSaid(said));
    }

    pub(super) fn hear(&mut self, who: Who, header: VolumeHeader, body: VolumeMessage) {
        self.tell(arrived(who.accepted(), Message::Volume(header, body)));
    }

    /// `who` answers on the connection that this node opened.
    pub(super) fn answer(&mut self, who: Who, header: VolumeHeader, body: VolumeMessage) {
        let link = self.link_to(who);
        self.tell(arrived(link, Message::Volume(header, body)));
    }

    /// The connection that this node opened; the other one when it opened none.
    pub(super) fn link_to(&self, who: Who) -> LinkId {
        let dialed = match who {
            Who::S2 => self.dialed[0],
            Who::S3 => self.dialed[1],
            Who::Stranger | Who::Own => None,
        };
        dialed.unwrap_or(who.accepted())
    }

    pub(super) fn request(&mut self, op: ClientOp) -> Event {
        self.requests += 1;
        Event::Requested(ClientRequest {
            volume: VOLUME,
            client: CLIENT,
            request: RequestId::new(self.requests),
            op,
        })
    }

    pub(super) fn write(range: ByteRange) -> ClientOp {
        let buffer = BufferPool::new().zeroed(1);
        let durability = Durability::AckPoint;
        ClientOp::Write {
            range,
            buffer,
            durability,
        }
    }

    /// One event, and all that follows from it at this instant.
    pub(super) fn tell(&mut self, event: Event) {
        let mut due = vec![event];
        loop {
            let mut out = Vec::new();
            for event in due.drain(..) {
                self.node.handle(self.now, event, &mut out);
            }
            if self.node.next_deadline().is_some_and(|at| at <= self.now) {
                self.node.handle(self.now, Event::DeadlineReached, &mut out);
            }
            self.node.submit(self.now, &mut out);
            for action in out {
                self.carry_out(action, &mut due);
            }
            let late = self.node.next_deadline().is_some_and(|at| at <= self.now);
            if due.is_empty() && !late {
                break;
            }
        }
    }

    /// The device answers again, and what it was asked meanwhile.
    pub(super) fn unhang(&mut self) {
        self.disk.hangs = false;
        for op in std::mem::take(&mut self.disk.waiting) {
            let done = self.disk.carry_out(op);
            let device = DEVICE;
            self.tell(Event::DeviceDone { device, done });
        }
    }

    fn carry_out(&mut self, action: Action, due: &mut Vec<Event>) {
        if let Some(word) = words::of(&action) {
            self.said.push(word);
        }
        match action {
            Action::Device { device, op } => {
                if self.disk.hangs {
                    self.disk.waiting.push(op);
                    return;
                }
                let done = self.disk.carry_out(op);
                due.push(Event::DeviceDone { device, done });
            }
            Action::CreateDevice { volume, bytes } => {
                self.disk.bytes = bytes;
                let outcome = DeviceCreation::Made {
                    device: DEVICE,
                    bytes,
                };
                due.push(Event::DeviceCreated { volume, outcome });
            }
            Action::TellMaster(ServerToMaster::Register(_)) => {
                due.push(Event::MasterSaid(registered(1)));
            }
            Action::Dial { server, .. } => self.dial(&server, due),
            Action::Send { link, message } => self.sent(link, message, due),
            Action::HangUp { link } => {
                for dialed in &mut self.dialed {
                    *dialed = dialed.filter(|known| *known != link);
                }
                due.push(Event::LinkDown { link });
            }
            Action::Stopped => self.stopped = true,
            _ => {}
        }
    }

    fn dial(&mut self, to: &ServerId, due: &mut Vec<Event>) {
        let who = Who::of(to);
        self.links += 1;
        let link = LinkId::new(self.links);
        self.dialed[usize::from(who == Who::S3)] = Some(link);
        let (server, boot) = (who.server(), who.boot());
        due.push(Event::LinkUp {
            link,
            server,
            boot,
            direction: LinkDirection::Dialed,
        });
    }

    fn sent(&mut self, link: LinkId, message: Message, due: &mut Vec<Event>) {
        let Some(index) = self.dialed.iter().position(|dialed| *dialed == Some(link)) else {
            return;
        };
        match &message {
            Message::LeaseRequest(request) => self.lease_asked = request.sent_ns,
            Message::Volume(header, VolumeMessage::Handshake(_)) => {
                self.sessions[index] = header.session;
            }
            _ => {}
        }
        if self.obedient && self.silent != Some(self.peers[index].who) {
            let answers = self.peers[index].answers(&message);
            due.extend(answers.into_iter().map(|message| arrived(link, message)));
        }
    }

    /// So much time passes; nobody says anything.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(next) = self.node.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(next);
            self.tell(Event::DeadlineReached);
        }
        self.now = end;
    }

    pub(super) fn report(&self) -> Option<ReplicaReport> {
        let report = self.node.report(self.now);
        report
            .volumes
            .into_iter()
            .map(|(_, replica)| replica)
            .next()
    }

    /// The role, as operators see it.
    pub(super) fn role(&self) -> &'static str {
        let Some(report) = self.report().filter(|_| !self.stopped) else {
            return "stopped";
        };
        match report.role {
            ReplicaRole::Opening | ReplicaRole::Idle => "idle",
            ReplicaRole::Replica => "replica",
            ReplicaRole::Candidate => "candidate",
            ReplicaRole::Primary if report.serving == Serving::Yes => "serving",
            ReplicaRole::Primary if report.mark == MarkState::Committed => "withheld",
            ReplicaRole::Primary => "opening",
            ReplicaRole::Fenced => "fenced",
            ReplicaRole::Failed => "failed",
        }
    }

    /// What else may change, in words.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let (Some(report), Some(replica)) = (self.report(), self.node.volume(VOLUME)) else {
            return Vec::new();
        };
        let durable = replica.store().durable();
        let promised = durable
            .promised
            .as_ref()
            .map_or("nobody".into(), |promise| {
                format!(
                    "{}:{}",
                    promise.epoch,
                    words::holder(&promise.server, promise.boot)
                )
            });
        let line = report.line.map_or("none".into(), |line| {
            format!("{}.{}", line.epoch, line.config)
        });
        let following = report.following.map_or("nobody".into(), |primary| {
            format!("{}:{}", primary.epoch, primary.server)
        });
        vec![
            ("promised", promised),
            ("line", line),
            ("head", report.head.to_string()),
            ("flushed", report.flushed.unwrap_or_default().to_string()),
            ("committed", report.committed.to_string()),
            ("grants to", following),
            ("image", words::plain(&report.image)),
        ]
    }

    /// The state in one line.
    pub(super) fn summary(&self) -> String {
        let mut text = self.role().to_owned();
        for (name, value) in self.facts() {
            write!(text, "; {name} {value}").unwrap();
        }
        text
    }
}

impl Who {
    pub(super) fn store(self) -> StoreId {
        StoreId::new(match self {
            Self::Own => 1,
            Self::S2 => 2,
            Self::S3 => 3,
            Self::Stranger => 9,
        })
    }
}

pub(super) fn assignment(line: AssignmentLine) -> MasterToServer {
    MasterToServer::Assignment {
        line,
        consent: LossConsent::No,
        loss_accepted: None,
    }
}

pub(super) fn registered(start: u64) -> MasterToServer {
    MasterToServer::Registered {
        cluster: CLUSTER,
        start,
        instance: 1,
        heartbeat_ms: 1_000,
    }
}

pub(super) fn arrived(link: LinkId, message: Message) -> Event {
    Event::MessageArrived { link, message }
}

pub(super) fn header(who: Who, n: u64, session: u64) -> VolumeHeader {
    VolumeHeader {
        volume: VOLUME,
        store: who.store(),
        epoch: epoch(n),
        config: ConfigVersion::new(2),
        session,
    }
}

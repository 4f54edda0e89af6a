//! Closed-loop clients: one request at a time, on whichever server says that it serves.

use moorline_types::{BLOCK_SIZE, PageBuf};
use moorline_volume::{
    Event, ExportState,
    client::{
        ByteRange, ClientError, ClientId, ClientOp, ClientReply, ClientRequest, Durability,
        ReadPiece, RequestId, ZeroMode, ZeroSpeed,
    },
};

use super::{Happens, World, phases::Phase};
use crate::{
    checkers::{Rule, Violation, copies, reigns::Boot},
    content::{self, Content, Mark, OpNo, SECTOR},
    dice::Dice,
    faults::Pace,
    history::{Op, Outcome, What},
    plan::{Enough, MS, OWN_BLOCKS, SECOND},
};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Sectors of one request when the volume is read back.
const READ_BACK: u64 = 64;

/// One client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Its connection; a new one for each server that it attaches to.
    id: ClientId,
    host: Option<usize>,
    outstanding: Option<OpNo>,
    /// What it read back in the last phase, if it is the one that does.
    pub(super) reads_back_from: Option<u64>,
    /// Requests done since healing began.
    pub(super) done_since_healing: u64,
    /// What it asks for: a stream of its own, so that what else happens does not change it.
    dice: Dice,
}

/// A request before it is sent.
struct Draft {
    what: What,
    first: u64,
    sectors: u64,
    forced: bool,
}

impl Client {
    pub(super) fn new(dice: Dice) -> Self {
        Self {
            dice,
            id: ClientId::new(0),
            host: None,
            outstanding: None,
            reads_back_from: None,
            done_since_healing: 0,
        }
    }
}

impl World {
    pub(super) fn is_idle(&self, client: usize) -> bool {
        self.clients[client].outstanding.is_none()
    }

    fn next_turn(&mut self, client: usize) {
        let think = 1_000 * self.plan.think_us_max.max(1);
        let hurried = self.pace == Pace::Hurried;
        let idle = self.plan.workload.idle_percent;
        let dice = &mut self.clients[client].dice;
        let think = match hurried || dice.percent(30) {
            true => dice.between(1_000, 200_000),
            false if dice.percent(idle) => 2 * SECOND,
            false => dice.below(think) + 1_000,
        };
        self.after(think, Happens::ClientTurn { client });
    }

    pub(super) fn client_turn(&mut self, client: usize) {
        if !self.is_idle(client) || !self.client_has_work(client) {
            return;
        }
        if self.clients[client].host.is_none() && !self.attach(client) {
            let pause = MS * self.dice.between(5, 60);
            self.after(pause, Happens::ClientTurn { client });
            return;
        }
        let draft = match self.clients[client].reads_back_from {
            Some(first) => Draft {
                what: What::Read(Vec::new()),
                first,
                sectors: (self.plan.sectors() - first).min(READ_BACK),
                forced: false,
            },
            None if client == 0 => self.draft_own(),
            None => self.draft_shared(client),
        };
        self.issue(client, draft);
    }

    fn client_has_work(&self, client: usize) -> bool {
        match self.phase {
            Phase::SetUp | Phase::Rest | Phase::Over => false,
            Phase::Work if self.plan.enough == Enough::Rests => {
                self.counts.ops < self.plan.ops as u64
            }
            Phase::Work | Phase::Healing => true,
            Phase::ReadBack => self.clients[client].reads_back_from.is_some(),
        }
    }

    fn attach(&mut self, client: usize) -> bool {
        let serving: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].is_serving())
            .collect();
        if serving.is_empty() {
            return false;
        }
        let host = self.dice.pick(&serving);
        let id = ClientId::new(self.tick());
        let client = &mut self.clients[client];
        client.id = id;
        client.host = Some(host);
        true
    }

    /// The range that client 0 alone changes.
    fn draft_own(&mut self) -> Draft {
        let from = self.plan.shared_sectors();
        let work = self.plan.workload;
        let dice = &mut self.clients[0].dice;
        let block = dice.below(OWN_BLOCKS);
        let blocks = 1 + dice.below((OWN_BLOCKS - block).min(4));
        let what = match dice.below(100) {
            roll if roll < work.zero_percent => What::Zero,
            roll if roll < work.zero_percent + 20 => What::Write,
            _ => What::Read(Vec::new()),
        };
        Draft {
            what,
            first: from + block * 8,
            sectors: blocks * 8,
            forced: dice.percent(work.forced_percent),
        }
    }

    fn draft_shared(&mut self, client: usize) -> Draft {
        let blocks = self.plan.blocks - OWN_BLOCKS;
        let work = self.plan.workload;
        let only_reads = client == 1 && self.clients.len() > 2;
        let dice = &mut self.clients[client].dice;
        let hot = dice.percent(work.hot_percent);
        let block = dice.below(if hot { work.hot_blocks } else { blocks });
        let count = 1 + dice.below((blocks - block).min(work.blocks_max));
        let (mut first, mut sectors) = (block * 8, count * 8);
        if dice.percent(work.unaligned_percent) {
            let skip = dice.below(8.min(sectors));
            first += skip;
            sectors = 1 + dice.below(sectors - skip);
        }
        let what = match dice.below(100) {
            // One that only reads is never held up by a write: it sees what a stale primary says.
            _ if only_reads => What::Read(Vec::new()),
            roll if roll < work.flush_percent => What::Flush,
            roll if roll < work.flush_percent + work.read_percent => What::Read(Vec::new()),
            _ => What::Write,
        };
        if what == What::Flush {
            (first, sectors) = (0, 0);
        }
        Draft {
            what,
            first,
            sectors,
            forced: dice.percent(work.forced_percent),
        }
    }

    fn issue(&mut self, client: usize, draft: Draft) {
        let (Some(host), Some(volume)) = (self.clients[client].host, self.volume) else {
            return;
        };
        let invoked = self.tick();
        let number = self.history.invoke(Op {
            client,
            what: draft.what.clone(),
            first: draft.first,
            sectors: draft.sectors,
            forced: draft.forced,
            invoked,
            at_ns: self.now,
            outcome: Outcome::Unknown,
            epoch: None,
        });
        self.counts.ops += 1;
        let op = self.client_op(number, &draft);
        let id = self.clients[client].id;
        self.clients[client].outstanding = Some(number);
        let request = ClientRequest {
            volume,
            client: id,
            request: RequestId::new(u64::from(number.0)),
            op,
        };
        self.tell(host, Event::Requested(request));
        let patience = match self.phase {
            Phase::Work => MS * self.dice.between(300, 6_000),
            Phase::SetUp | Phase::Healing | Phase::ReadBack | Phase::Rest | Phase::Over => {
                SECOND * 20
            }
        };
        let op = number;
        self.after(patience, Happens::ClientGivesUp { client, op });
    }

    fn client_op(&mut self, number: OpNo, draft: &Draft) -> ClientOp {
        let offset = draft.first * SECTOR as u64;
        let length = u32::try_from(draft.sectors * SECTOR as u64).expect("a few blocks");
        let range = ByteRange { offset, length };
        let durability = match draft.forced {
            true => Durability::Forced,
            false => Durability::AckPoint,
        };
        match draft.what {
            What::Read(_) => ClientOp::Read(range),
            What::Flush => ClientOp::Flush,
            What::Write => ClientOp::Write {
                range,
                buffer: self.buffer(number, draft),
                durability,
            },
            What::Zero if self.dice.percent(50) => ClientOp::Trim { range, durability },
            What::Zero => ClientOp::WriteZeroes {
                range,
                mode: self
                    .dice
                    .pick(&[ZeroMode::HoleAllowed, ZeroMode::Allocated]),
                speed: ZeroSpeed::AnyWay,
                durability,
            },
        }
    }

    fn buffer(&self, number: OpNo, draft: &Draft) -> PageBuf {
        let (first, end) = (draft.first, draft.first + draft.sectors);
        let (from, to) = (first / 8, end.div_ceil(8));
        let mut buffer = self
            .pool
            .dirty(usize::try_from(to - from).expect("a few blocks"));
        let bytes = buffer.as_mut_slice();
        bytes.fill(0xee);
        for sector in first..end {
            let at = usize::try_from(sector - from * 8).expect("inside the buffer") * SECTOR;
            let mark = Mark {
                sector,
                op: number,
                first,
            };
            content::fill(&mut bytes[at..at + SECTOR], mark);
        }
        buffer
    }

    /// A server answers.
    pub(super) fn replied(
        &mut self,
        host: usize,
        client: ClientId,
        request: RequestId,
        reply: ClientReply,
    ) {
        let known = self
            .clients
            .iter()
            .position(|known| known.id == client && known.host == Some(host));
        let Some(index) = known else { return };
        let Some(number) = self.clients[index].outstanding else {
            return;
        };
        if u64::from(number.0) != request.get() {
            let reason = format!("an answer to {request:?} while {number:?} is asked for");
            return self.broken(Violation::new(Rule::Invariant, reason));
        }
        self.clients[index].outstanding = None;
        match reply {
            ClientReply::Done => self.done(host, index, number),
            ClientReply::Read(pieces) => {
                match self.found(number, &pieces) {
                    Ok(found) => self.history.get_mut(number).what = What::Read(found),
                    Err(violation) => return self.broken(violation),
                }
                self.done(host, index, number);
            }
            ClientReply::Status(_) => {}
            ClientReply::Failed(error) => self.failed(index, number, error),
        }
        self.next_turn(index);
    }

    fn done(&mut self, host: usize, client: usize, number: OpNo) {
        self.check_reign(host);
        let promise = copies::Promise {
            policy: self.plan.policy,
            ack: self.plan.ack,
            replicas: self.plan.replicas,
            copies_min: self.plan.min_copies,
        };
        let disks = self
            .hosts
            .iter()
            .filter_map(super::hosts::Host::ever_durable);
        let flush_of_lost = self.memory_may_be_gone()
            && self
                .history
                .get(number)
                .is_some_and(|op| op.what == What::Flush);
        let copies = copies::check(&self.history, number, promise, disks);
        if !flush_of_lost {
            self.check(copies);
        }
        let answered = self.tick();
        let epoch = self.hosts[host].serving;
        let op = self.history.get_mut(number);
        op.outcome = Outcome::Done(answered);
        op.epoch = epoch;
        self.counts.done += 1;
        self.mix(u64::from(number.0));
        self.clients[client].done_since_healing += 1;
        self.read_back_further(client);
    }

    fn read_back_further(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if let Some(from) = client.reads_back_from {
            let next = from + READ_BACK;
            client.reads_back_from = (next < self.plan.sectors()).then_some(next);
        }
    }

    fn serves_from_bad_disk(&self, client: usize) -> bool {
        let host = self.clients[client].host;
        host.is_some_and(|host| self.hosts[host].corrupted)
    }

    fn check_reign(&mut self, host: usize) {
        let boot = Boot {
            server: host,
            life: self.hosts[host].life,
        };
        let Some(epoch) = self.hosts[host].serving else {
            let reason = format!("s{} answers and never said that it serves", host + 1);
            return self.broken(Violation::new(Rule::Reigns, reason));
        };
        let verdict = self.reigns.answered(epoch, boot);
        self.check(verdict);
    }

    fn failed(&mut self, client: usize, number: OpNo, error: ClientError) {
        self.line(|| format!("client {client}: op {} failed: {error}", number.0));
        match error {
            ClientError::NotPrimary | ClientError::NoQuorum | ClientError::NotFast => {
                self.history.get_mut(number).outcome = Outcome::Rejected;
                self.counts.rejected += 1;
                self.leave(client);
            }
            ClientError::Unknown | ClientError::Device => {
                self.counts.unknown += 1;
                self.leave(client);
            }
            // Its own copy is bad and no other one was at hand. Found before anything was ordered.
            ClientError::Damaged if self.serves_from_bad_disk(client) => {
                *self.counts.notes.entry("damaged_answers").or_default() += 1;
                self.history.get_mut(number).outcome = Outcome::Rejected;
                self.counts.rejected += 1;
                self.read_back_further(client);
            }
            ClientError::Damaged | ClientError::OutOfRange => {
                let first = self.history.get(number).map_or(0, |op| op.first);
                let reason = format!("op {} failed: {error}", number.0);
                self.broken(Violation::at(Rule::Content, first, reason));
            }
        }
    }

    /// What each sector of a read says.
    fn found(&self, number: OpNo, pieces: &[ReadPiece]) -> Result<Vec<OpNo>, Violation> {
        let op = self.history.get(number).expect("it was asked for");
        let mut found = Vec::new();
        let mut sector = op.first;
        for piece in pieces {
            match piece {
                ReadPiece::Zeroes(length) => {
                    let sectors = *length as usize / SECTOR;
                    found.extend(std::iter::repeat_n(OpNo(0), sectors));
                    sector += sectors as u64;
                }
                ReadPiece::Data(bytes) => {
                    for bytes in bytes.chunks_exact(SECTOR) {
                        found.push(self.judge(number, sector, bytes)?);
                        sector += 1;
                    }
                }
            }
        }
        if found.len() as u64 == op.sectors {
            return Ok(found);
        }
        let reason = format!("read {} got {} sectors", number.0, found.len());
        Err(Violation::at(Rule::Content, op.first, reason))
    }

    fn judge(&self, number: OpNo, sector: u64, bytes: &[u8]) -> Result<OpNo, Violation> {
        match content::read(bytes) {
            Content::Zeroes => Ok(OpNo(0)),
            Content::Marked(mark) if mark.sector == sector => Ok(mark.op),
            Content::Marked(mark) => {
                let reason = format!(
                    "read {} found sector {} of op {} in its place",
                    number.0, mark.sector, mark.op.0
                );
                Err(Violation::at(Rule::Content, sector, reason))
            }
            Content::Broken => {
                let reason = format!("read {} found a torn sector", number.0);
                Err(Violation::at(Rule::Content, sector, reason))
            }
        }
    }

    pub(super) fn client_gives_up(&mut self, client: usize, op: OpNo) {
        if self.clients[client].outstanding != Some(op) {
            return;
        }
        self.line(|| format!("client {client} gives up op {}", op.0));
        let since_healing = self
            .history
            .get(op)
            .is_some_and(|op| op.at_ns >= self.healed_at);
        let waits = matches!(self.phase, Phase::Healing | Phase::ReadBack);
        if since_healing && waits && self.can_be_led() {
            let reason = format!("op {} is not answered although all is healed", op.0);
            let first = self.history.get(op).map_or(0, |op| op.first);
            return self.broken(Violation::at(Rule::Liveness, first, reason));
        }
        self.clients[client].outstanding = None;
        self.counts.unknown += 1;
        self.leave(client);
        self.next_turn(client);
    }

    /// Ends a client's connection.
    fn leave(&mut self, client: usize) {
        let id = self.clients[client].id;
        if let Some(host) = self.clients[client].host.take() {
            self.tell(host, Event::ClientLeft { client: id });
        }
    }

    /// A server cut its clients off, or went down.
    pub(super) fn detach_clients(&mut self, host: usize) {
        for index in 0..self.clients.len() {
            if self.clients[index].host != Some(host) {
                continue;
            }
            self.leave(index);
            if self.clients[index].outstanding.take().is_some() {
                self.counts.unknown += 1;
                self.next_turn(index);
            }
        }
    }

    /// Whether anybody serves, by what servers say of themselves.
    pub(super) fn serving_host(&self) -> Option<usize> {
        (0..self.hosts.len()).find(|host| self.hosts[*host].is_serving())
    }

    /// The size that a serving server names, in blocks.
    pub(super) fn exported_blocks(&self, host: usize) -> Option<u64> {
        match self.hosts[host].export {
            Some(ExportState::Serving { bytes }) => Some(bytes / BLOCK),
            Some(ExportState::Elsewhere { .. } | ExportState::VolatileLoss | ExportState::Gone)
            | None => None,
        }
    }
}

//! What each stream may have now: catch-up pages and live records alike.

use moorline_executor::{
    CatchUpConfig, HistoryReader, LiveOutcome, ReplicaLink, StepOutcome, Turn,
};
use moorline_types::{DeviceOp, Instant, Lsn, LsnRange, ServerId};
use moorline_wal::{LogReadError, ReadId, ReadStart, Record, RecordAt};
use moorline_wire::{Commit, PayloadParts, Records, VolumeMessage};

use moorline_blockvol::Store;

use super::{Execution, ReadFor, StreamState, wire_session};
use crate::{
    mutants::Mutant,
    replica::{Ctx, Replica, Role, reign::Reign},
};

/// Several round trips' worth of a fast network on its way to one peer and not yet durable there,
/// and a bound for the memory that a slow peer can hold. A page is one message's payload: small
/// enough to interleave, large enough to cost few system calls.
pub(super) const SHIPPING: CatchUpConfig = CatchUpConfig {
    window_bytes: 16 << 20,
    page_bytes: 1 << 20,
    // Streams are joined at once and never chase a head.
    stubborn_rounds_max: u32::MAX,
};

/// One message's records.
const BATCH_RECORDS: usize = 512;

/// What became of a stream's execution being driven on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drive {
    /// More can follow at once.
    On,
    /// Until something comes back.
    Waits,
    /// Its session ended with it.
    Ended,
    /// The records cannot be had: classified again, by its facts.
    Failed,
}

impl Replica {
    /// Sends every stream what it may have: catch-up pages and live records alike.
    pub(in crate::replica) fn ship(&mut self, ctx: &mut Ctx<'_>) {
        let servers: Vec<ServerId> = match &self.role {
            Role::Reign(reign) => reign.streams.keys().cloned().collect(),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => return,
        };
        for server in servers {
            while self.ship_to(ctx, &server) == Drive::On {}
        }
        self.hold_back_reclaim();
    }

    fn ship_to(&mut self, ctx: &mut Ctx<'_>, server: &ServerId) -> Drive {
        let head = self.store.log().head();
        let Role::Reign(reign) = &mut self.role else {
            return Drive::Waits;
        };
        let Reign {
            streams,
            registry,
            asked,
            ..
        } = &mut **reign;
        let Some(stream) = streams.get_mut(server) else {
            return Drive::Waits;
        };
        if stream.state == StreamState::Preparing {
            return Drive::Waits;
        }
        let stamp = stream.stamp;
        let mut outbox = Outbox::default();
        let mut history = LogReader {
            now: ctx.now,
            store: &mut self.store,
            ops: &mut self.ops,
            serial: &mut self.serial,
            pending: None,
        };
        let ports = (&mut history, &mut outbox);
        let drive = match &mut stream.execution {
            Execution::None => Drive::Waits,
            Execution::CatchUp(catch_up) => {
                let mut turn = Turn::of(ctx.now, registry, server, asked);
                after_step(catch_up.step(&mut turn, head, ports))
            }
            Execution::Live(live) => after_live(live.step(head, ports)),
        };
        if let Some(read) = history.pending {
            stream.reading = Some(read);
            let server = server.clone();
            self.reads.insert(read, ReadFor::Stream { server, stamp });
        }
        self.shipped(ctx, server, outbox, drive)
    }

    /// Sends what an execution shipped, and follows when it ended.
    fn shipped(
        &mut self,
        ctx: &mut Ctx<'_>,
        server: &ServerId,
        outbox: Outbox,
        drive: Drive,
    ) -> Drive {
        for records in outbox.0 {
            self.send_records(ctx, server, &records);
        }
        match drive {
            Drive::On | Drive::Waits => {}
            Drive::Ended => self.do_engine(ctx),
            Drive::Failed => {
                if let Role::Reign(reign) = &self.role
                    && let Some(stamp) = reign.streams.get(server).map(|stream| stream.stamp)
                {
                    self.end_stream(ctx, server, stamp);
                }
            }
        }
        drive
    }

    pub(in crate::replica) fn read_log(
        &mut self,
        now: Instant,
        range: LsnRange,
        bytes_max: usize,
        purpose: ReadFor,
    ) -> (ReadId, Result<ReadStart, LogReadError>) {
        self.serial += 1;
        let id = ReadId(self.serial);
        self.reads.insert(id, purpose);
        (
            id,
            self.store
                .read_records(now, id, range, bytes_max, &mut self.ops),
        )
    }

    pub(in crate::replica) fn on_records_read(
        &mut self,
        ctx: &mut Ctx<'_>,
        read: ReadId,
        result: Result<Vec<Record>, LogReadError>,
    ) {
        match self.reads.remove(&read) {
            Some(ReadFor::Stream { server, stamp }) => {
                let Role::Reign(reign) = &mut self.role else {
                    return;
                };
                let stream = reign.streams.get_mut(&server);
                let Some(stream) = stream.filter(|s| s.stamp == stamp && s.reading == Some(read))
                else {
                    return;
                };
                stream.reading = None;
                let mut outbox = Outbox::default();
                let drive = match &mut stream.execution {
                    Execution::None => return,
                    Execution::CatchUp(catch_up) => {
                        let (registry, asked) = (&mut reign.registry, &mut reign.asked);
                        let mut turn = Turn::of(ctx.now, registry, &server, asked);
                        let said = catch_up.records_read(&mut turn, result, &mut outbox);
                        said.map_or(Drive::Waits, after_step)
                    }
                    Execution::Live(live) => {
                        let said = live.records_read(result, &mut outbox);
                        said.map_or(Drive::Waits, after_live)
                    }
                };
                let _drive = self.shipped(ctx, &server, outbox, drive);
            }
            Some(ReadFor::Fetch {
                link,
                header,
                range,
            }) => {
                self.answer_fetch(ctx, link, header, range, result);
            }
            None => {}
        }
    }

    /// Sends records that directly follow what was sent.
    fn send_records(&mut self, ctx: &mut Ctx<'_>, server: &ServerId, records: &[Record]) {
        let committed = self.announced_commit(ctx);
        let acknowledged = self.desk.told();
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let Some(stream) = reign.streams.get_mut(server) else {
            return;
        };
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return;
        };
        let previous = first.lsn().previous().expect("records are numbered from 1");
        let (headers, payload) = pack(records);
        stream.told_committed = committed;
        stream.in_flight.push_back((last.lsn(), ctx.now));
        let (link, stamp) = (stream.link, stream.stamp);
        let count = u32::try_from(records.len()).expect("a batch is bounded");
        let body = Records {
            previous,
            count,
            committed,
            acknowledged,
            headers,
            payload,
        };
        let header = self.header(wire_session(stamp.session), stamp.epoch);
        self.send(ctx, link, header, VolumeMessage::Records(body));
    }

    /// Tells streams of a commit that no record carried.
    pub(in crate::replica) fn announce(&mut self, ctx: &mut Ctx<'_>) {
        let committed = self.announced_commit(ctx);
        let acknowledged = self.desk.told();
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if reign.announce_at.is_none_or(|at| ctx.now < at) {
            return;
        }
        reign.announce_at = None;
        let mut due = Vec::new();
        for stream in reign
            .streams
            .values_mut()
            .filter(|s| s.state != StreamState::Preparing)
        {
            if stream.told_committed < committed {
                stream.told_committed = committed;
                due.push((stream.link, stream.stamp));
            }
        }
        for (link, stamp) in due {
            let header = self.header(wire_session(stamp.session), stamp.epoch);
            let body = VolumeMessage::Commit(Commit {
                committed,
                acknowledged,
            });
            self.send(ctx, link, header, body);
        }
    }

    /// What replicas are told to be committed.
    fn announced_commit(&self, ctx: &Ctx<'_>) -> Lsn {
        match ctx.me.mutants.has(Mutant::CommitToldTooHigh) {
            true => self.store.log().head(),
            false => self.store.committed(),
        }
    }

    /// Keeps what connected peers have not flushed, as long as that is cheap.
    fn hold_back_reclaim(&mut self) {
        if let Role::Reign(reign) = &self.role {
            let lowest = reign
                .streams
                .values()
                .filter(|s| s.is_joined())
                .map(|s| s.flushed)
                .min();
            self.store.set_lowest_peer(lowest);
        }
    }
}

const fn after_step(said: StepOutcome) -> Drive {
    match said {
        StepOutcome::Shipped { .. } => Drive::On,
        StepOutcome::Waiting(_)
        | StepOutcome::AtHead { .. }
        | StepOutcome::NotConverging(_)
        | StepOutcome::Refused(_) => Drive::Waits,
        StepOutcome::Ended(_) => Drive::Ended,
    }
}

const fn after_live(said: LiveOutcome) -> Drive {
    match said {
        LiveOutcome::Shipped { .. } => Drive::On,
        LiveOutcome::Waiting(_) => Drive::Waits,
        LiveOutcome::Failed => Drive::Failed,
    }
}

/// What an execution shipped in one step.
#[derive(Default)]
struct Outbox(Vec<Vec<Record>>);

impl ReplicaLink for Outbox {
    fn ship(&mut self, records: Vec<Record>) {
        self.0.push(records);
    }
}

/// The primary's own log: what is in memory at once, the rest from the ring.
struct LogReader<'a> {
    now: Instant,
    store: &'a mut Store,
    ops: &'a mut Vec<DeviceOp>,
    serial: &'a mut u64,
    /// A read that comes back later.
    pending: Option<ReadId>,
}

impl HistoryReader for LogReader<'_> {
    fn read(&mut self, range: LsnRange, bytes_max: usize) -> Result<ReadStart, LogReadError> {
        let log = self.store.log();
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut next = range.after().next();
        while next <= range.through() && records.len() < BATCH_RECORDS && bytes < bytes_max {
            match log.record(next) {
                Some(RecordAt::Memory(record)) => {
                    bytes += record.payload().len();
                    records.push(record);
                }
                Some(RecordAt::Ring) | None => break,
            }
            next = next.next();
        }
        if !records.is_empty() {
            return Ok(ReadStart::Ready(records));
        }
        *self.serial += 1;
        let id = ReadId(*self.serial);
        let started = self
            .store
            .read_records(self.now, id, range, bytes_max, self.ops)?;
        if let ReadStart::Pending = started {
            self.pending = Some(id);
        }
        Ok(started)
    }
}

/// The headers back to back, the payloads as they lie in memory.
pub(in crate::replica) fn pack(records: &[Record]) -> (bytes::Bytes, PayloadParts) {
    let payload = records
        .iter()
        .map(|record| record.payload().clone())
        .collect();
    if let [record] = records {
        return (record.header_bytes().clone(), payload);
    }
    let length = records
        .iter()
        .map(|record| record.header_bytes().len())
        .sum();
    let mut headers = bytes::BytesMut::with_capacity(length);
    records
        .iter()
        .for_each(|record| headers.extend_from_slice(record.header_bytes()));
    (headers.freeze(), payload)
}

//! What each stream may have now: catch-up pages and live records alike.

use moorline_engine::SessionStamp;
use moorline_types::{Instant, Lsn, LsnRange, ServerId};
use moorline_wal::{LogReadError, ReadId, ReadStart, Record, RecordAt};
use moorline_wire::{Commit, PayloadParts, Records, VolumeMessage};

use super::{ReadFor, StreamState, wire_session};
use crate::{
    mutants::Mutant,
    replica::{Ctx, Replica, Role},
};

/// Bytes on their way to one peer and not yet durable there: several round trips' worth of a fast
/// network, and a bound for the memory that a slow peer can hold.
const WINDOW_BYTES: u64 = 16 << 20;

/// One message's payload: small enough to interleave, large enough to cost few system calls.
const BATCH_BYTES: usize = 1 << 20;

/// One message's records.
const BATCH_RECORDS: usize = 512;

impl Replica {
    /// Sends every stream what it may have: catch-up pages and live records alike.
    pub(in crate::replica) fn ship(&mut self, ctx: &mut Ctx<'_>) {
        let servers: Vec<ServerId> = match &self.role {
            Role::Reign(reign) => reign.streams.keys().cloned().collect(),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => return,
        };
        for server in servers {
            self.ship_to(ctx, &server);
        }
        self.hold_back_reclaim();
    }

    fn ship_to(&mut self, ctx: &mut Ctx<'_>, server: &ServerId) {
        loop {
            let head = self.store.log().head();
            let Role::Reign(reign) = &mut self.role else {
                return;
            };
            let Some(stream) = reign.streams.get_mut(server) else {
                return;
            };
            let end = stream.end(head);
            let open = stream.reading.is_none() && stream.in_flight_bytes < WINDOW_BYTES;
            if !open || stream.sent >= end {
                return;
            }
            let (after, stamp) = (stream.sent, stream.stamp);
            match self.in_memory(after, end) {
                Batch::Records(records) => self.send_records(ctx, server, records),
                Batch::OnDisk => {
                    if self.read_page(ctx, server, stamp, after, end).is_none() {
                        return;
                    }
                }
                Batch::Gone => {
                    // The log was reclaimed past a slow peer: classified again, by its facts.
                    self.end_stream(ctx, server, stamp);
                    return;
                }
            }
        }
    }

    /// The records after `after` that are in memory, one batch of them.
    fn in_memory(&self, after: Lsn, end: Lsn) -> Batch {
        let log = self.store.log();
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut next = after.next();
        while next <= end && records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            match log.record(next) {
                Some(RecordAt::Memory(record)) => {
                    bytes += record.payload().len();
                    records.push(record);
                }
                Some(RecordAt::Ring) if records.is_empty() => return Batch::OnDisk,
                None if records.is_empty() => return Batch::Gone,
                Some(RecordAt::Ring) | None => break,
            }
            next = next.next();
        }
        Batch::Records(records)
    }

    /// Reads one page for a stream; `Some` when it was at hand and is sent.
    fn read_page(
        &mut self,
        ctx: &mut Ctx<'_>,
        server: &ServerId,
        stamp: SessionStamp,
        after: Lsn,
        end: Lsn,
    ) -> Option<()> {
        let range = LsnRange::new(after, end).expect("a stream ends at or after what was sent");
        let purpose = ReadFor::Stream {
            server: server.clone(),
            stamp,
        };
        let (id, start) = self.read_log(ctx.now, range, BATCH_BYTES, purpose);
        match start {
            Ok(ReadStart::Ready(records)) => {
                self.reads.remove(&id);
                self.send_records(ctx, server, records);
                Some(())
            }
            Ok(ReadStart::Pending) => {
                if let Some(stream) = self.stream_of(server, stamp) {
                    stream.reading = Some(id);
                }
                None
            }
            Err(_) => {
                self.reads.remove(&id);
                self.end_stream(ctx, server, stamp);
                None
            }
        }
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
                let Some(stream) = self.stream_of(&server, stamp) else {
                    return;
                };
                if stream.reading != Some(read) {
                    return;
                }
                stream.reading = None;
                match result {
                    Ok(records) => self.send_records(ctx, &server, records),
                    Err(_) => self.end_stream(ctx, &server, stamp),
                }
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

    /// Sends records that directly follow what was sent; a stream that was rewound meanwhile
    /// ignores a page that no longer fits.
    fn send_records(&mut self, ctx: &mut Ctx<'_>, server: &ServerId, records: Vec<Record>) {
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
        if first.lsn() != stream.sent.next() {
            return;
        }
        let (previous, last) = (stream.sent, last.lsn());
        let (headers, payload) = pack(&records);
        let bytes = payload.len() as u64 + headers.len() as u64;
        stream.sent = last;
        stream.told_committed = committed;
        stream.in_flight.push_back((last, bytes, ctx.now));
        stream.in_flight_bytes += bytes;
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

enum Batch {
    Records(Vec<Record>),
    OnDisk,
    Gone,
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

//! The front desk of a primary: takes clients' requests, orders writes, answers when allowed.
//!
//! A request waits here until the primary serves, its lease is live and its policy can be met.
//! What is not ordered yet has no effect and is dropped when its client leaves. Writes whose range
//! is ragged are completed by read-modify-write under a lock on their blocks *before* they are
//! ordered. An answer is given only while the lease is live at that very moment.
//!
//! ```text
//!            gate open            ragged: lock, wait for what was ordered before, read the edges
//! waiting ---------------> merging ----------------------------------------------+
//!    |                                                                           v
//!    +--------------------------------------------------------------> ordered (has an LSN)
//!    |                                                                           | acknowledgeable
//!    +--> reading (device) --> answered, if the lease still lives                v (FUA: committed)
//!                                                                             answered
//! ```

mod merge;
mod read;
mod repair;
mod zero;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use moorline_blockvol::{ReadToken, Store};
use moorline_types::{
    BlockCount, BlockIndex, BlockRange, DeviceOp, Epoch, Instant, Lsn, NoQuorum, Payload, VolumeId,
};
use moorline_wal::{Record, block_crcs};

pub(crate) use self::repair::Held;
use self::{merge::Merge, read::Reading, zero::Plan};
use crate::{
    client::{
        ByteRange, ClientError, ClientId, ClientOp, ClientReply, ClientRequest, Durability,
        RequestId,
    },
    locks::BlockLocks,
    mutants::{Mutant, Mutants},
    node::Action,
    pace::{LogRoom, Pacer},
};

/// Whom an answer goes to, and what is still to be done before it is due.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Ticket {
    client: ClientId,
    request: RequestId,
    since: Instant,
    /// Parts of the request that follow the one in hand.
    rest: VecDeque<ClientOp>,
    /// How often it waited for the repair of a block.
    repairs: u32,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Waiting {
    ticket: Ticket,
    op: ClientOp,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Ordered {
    lsn: Lsn,
    ticket: Ticket,
}

/// What is allowed at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub(crate) volume: VolumeId,
    pub(crate) epoch: Epoch,
    pub(crate) size: BlockCount,
    /// The epoch's mark is committed and the lease is live: reads and answers may go out.
    pub(crate) may_answer: Permission,
    /// The policy can be met: writes may be ordered, as fast as the log's room allows.
    pub(crate) may_order: Permission,
    /// Clients may be told through here; records through here are in the read index.
    pub(crate) acknowledgeable: Lsn,
    /// Durable by policy through here.
    pub(crate) committed: Lsn,
    pub(crate) mutants: Mutants,
}

/// A yes or a no that says what it is about at its place of use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Permission {
    Granted,
    Withheld,
}

impl Permission {
    pub(crate) fn when(condition: bool) -> Self {
        if condition {
            Self::Granted
        } else {
            Self::Withheld
        }
    }

    pub(crate) fn is_granted(self) -> bool {
        self == Self::Granted
    }
}

/// Makes read tokens; none twice within one boot's hold of a store, across reigns too.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct TokenSource(u64);

impl TokenSource {
    pub(crate) fn next(&mut self) -> ReadToken {
        self.0 += 1;
        ReadToken::new(self.0)
    }
}

/// Requests of one volume's clients during one reign.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Desk {
    waiting: VecDeque<Waiting>,
    /// Answered when acknowledgeable; ascending LSN.
    ordered: VecDeque<Ordered>,
    /// FUA writes and flushes: answered when committed; ascending LSN.
    forced: VecDeque<Ordered>,
    reads: BTreeMap<ReadToken, Reading>,
    merges: Vec<Merge>,
    /// Reads that wait until a damaged block is repaired.
    held: Vec<(BlockIndex, Waiting)>,
    locks: BlockLocks,
    tokens: TokenSource,
    /// Of the batch in hand, or the last one.
    pacer: Option<Pacer>,
    /// The highest LSN whose client was told.
    told: Lsn,
}

impl Desk {
    /// Takes a request; it is looked at by the next [`Desk::run`].
    pub(crate) fn take(&mut self, now: Instant, request: ClientRequest) {
        let ClientRequest {
            volume: _,
            client,
            request,
            op,
        } = request;
        let ticket = Ticket {
            client,
            request,
            since: now,
            rest: VecDeque::new(),
            repairs: 0,
        };
        self.waiting.push_back(Waiting { ticket, op });
    }

    /// Forgets a client: what it asked and is not ordered has no effect.
    pub(crate) fn drop_client(&mut self, client: ClientId) {
        self.waiting.retain(|entry| entry.ticket.client != client);
        self.ordered
            .iter_mut()
            .for_each(|entry| entry.ticket.forget_rest_of(client));
        self.forced
            .iter_mut()
            .for_each(|entry| entry.ticket.forget_rest_of(client));
        self.reads
            .values_mut()
            .for_each(|reading| reading.forget(client));
        (self.held).retain(|(_, entry)| entry.ticket.client != client);
        let locks = &mut self.locks;
        self.merges.retain_mut(|merge| {
            let leaves = merge.belongs_to(client);
            if leaves {
                merge.release(locks);
            }
            !leaves
        });
    }

    /// Drops everything at a step-down: what was ordered has an unknown outcome.
    pub(crate) fn abandon(&mut self) {
        self.waiting.clear();
        self.ordered.clear();
        self.forced.clear();
        self.reads.clear();
        self.held.clear();
        for mut merge in self.merges.drain(..) {
            merge.release(&mut self.locks);
        }
        self.told = Lsn::ZERO;
        self.pacer = None;
    }

    /// Whether any request is waiting, in hand or unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.ordered.is_empty()
            && self.forced.is_empty()
            && self.reads.is_empty()
            && self.merges.is_empty()
            && self.held.is_empty()
    }

    /// A token for a read that is no client's.
    pub(crate) fn fresh_token(&mut self) -> ReadToken {
        self.tokens.next()
    }

    /// The highest LSN that a client was told of.
    pub(crate) fn told(&self) -> Lsn {
        self.told
    }

    /// A batch begins at `now` with so much room in the log.
    pub(crate) fn begin_batch(&mut self, now: Instant, room: LogRoom) {
        self.pacer = Some(Pacer::new(now, room, self.paced_until()));
    }

    fn paced_until(&self) -> Instant {
        self.pacer.map_or(Instant::ZERO, |pacer| pacer.next())
    }

    /// When writes that the pace held up may be ordered.
    pub(crate) fn pace_deadline(&self) -> Option<Instant> {
        self.pacer.and_then(|pacer| pacer.again())
    }

    /// Admits what the gate lets in, and answers what is due.
    pub(crate) fn run(
        &mut self,
        gate: &Gate,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
        out: &mut Vec<Action>,
    ) {
        self.settle(gate, out);
        self.order_merged(gate, store);
        if !gate.may_answer.is_granted() || self.waiting.is_empty() {
            return;
        }
        loop {
            // One pass: what cannot go on is kept in its order.
            for entry in std::mem::take(&mut self.waiting) {
                self.admit(gate, entry, store, ops, out);
            }
            // A merge that was ordered lets go of blocks that others may wait for.
            if self.order_merged(gate, store) == 0 || self.waiting.is_empty() {
                break;
            }
        }
        self.settle(gate, out);
    }

    fn admit(
        &mut self,
        gate: &Gate,
        entry: Waiting,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
        out: &mut Vec<Action>,
    ) {
        let Waiting { ticket, op } = entry;
        if let Some(range) = range_of(&op)
            && !fits(range, gate.size)
        {
            answer(out, &ticket, ClientReply::Failed(ClientError::OutOfRange));
            return;
        }
        match op {
            ClientOp::Read(range) => self.start_read(range, ticket, store, ops, out),
            ClientOp::BlockStatus(range) => self.start_status(range, ticket, store, ops, out),
            ClientOp::Flush => self.flush(ticket),
            op
            @ (ClientOp::Write { .. } | ClientOp::Trim { .. } | ClientOp::WriteZeroes { .. }) => {
                if gate.may_order.is_granted() {
                    self.admit_change(gate, ticket, op, store, ops, out);
                } else {
                    self.waiting.push_back(Waiting { ticket, op });
                }
            }
        }
    }

    fn admit_change(
        &mut self,
        gate: &Gate,
        mut ticket: Ticket,
        op: ClientOp,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
        out: &mut Vec<Action>,
    ) {
        // Looked at before it is planned: a request that has to wait is kept as it is.
        let waits = range_of(&op)
            .is_some_and(|range| range.length > 0 && self.locks.blocks(covering(range)));
        if waits && !gate.mutants.has(Mutant::WholeWriteIgnoresLock) {
            self.waiting.push_back(Waiting { ticket, op });
            return;
        }
        match zero::plan(op, store.pool()) {
            Plan::Nothing => self.finish(ticket, out),
            Plan::NotFast => answer(out, &ticket, ClientReply::Failed(ClientError::NotFast)),
            Plan::Parts(mut parts) => {
                let first = parts.pop_front().expect("a split request has parts");
                ticket.rest = parts;
                self.admit_change(gate, ticket, first, store, ops, out);
            }
            Plan::Whole {
                range,
                change,
                durability,
            } => {
                let change = Change {
                    range,
                    kind: change,
                };
                if let Some((kind, ticket)) = self.order(gate, store, change, durability, ticket) {
                    let op = kind.into_op(range, durability);
                    self.waiting.push_back(Waiting { ticket, op });
                }
            }
            Plan::Ragged {
                bytes,
                buffer,
                durability,
            } => {
                let blocks = covering(bytes);
                match self.locks.take(blocks) {
                    Some(lock) => {
                        let mut merge = Merge::new(bytes, buffer, durability, ticket, lock);
                        if gate.mutants.has(Mutant::MergeReadsOld) {
                            merge.reads_old();
                        }
                        match merge.read_edges(&mut self.tokens, store, ops) {
                            Ok(()) => self.merges.push(merge),
                            Err(fault) => self.fail_merge(merge, &fault, out),
                        }
                    }
                    None => {
                        let op = ClientOp::Write {
                            range: bytes,
                            buffer,
                            durability,
                        };
                        self.waiting.push_back(Waiting { ticket, op });
                    }
                }
            }
        }
    }

    /// The ordering point: gives the LSN and appends. Gives back what the pace or the log has no
    /// room for, or what finds no device any more: it was not ordered and waits on.
    fn order(
        &mut self,
        gate: &Gate,
        store: &mut Store,
        change: Change,
        durability: Durability,
        ticket: Ticket,
    ) -> Option<(ChangeKind, Ticket)> {
        let Change { range, kind } = change;
        // Before its checksums are computed: while it waits it is asked again in every batch.
        if !(self.pacer.as_mut()).is_some_and(|pacer| pacer.admit(kind.log_bytes())) {
            return Some((kind, ticket));
        }
        let lsn = store.log().head().next();
        let record = match &kind {
            ChangeKind::Write(payload) => {
                let crcs = block_crcs(gate.volume, range, payload);
                Record::write(gate.volume, gate.epoch, lsn, range, payload.clone(), crcs)
            }
            ChangeKind::Hole => Record::trim(gate.volume, gate.epoch, lsn, range),
            ChangeKind::Zero => Record::write_zeroes(gate.volume, gate.epoch, lsn, range),
        };
        if store.append(record).is_err() {
            return Some((kind, ticket));
        }
        let entry = Ordered { lsn, ticket };
        match durability {
            Durability::AckPoint => self.ordered.push_back(entry),
            Durability::Forced => self.forced.push_back(entry),
        }
        None
    }

    /// A barrier: due when everything that clients were told of is committed.
    fn flush(&mut self, ticket: Ticket) {
        let lsn = self.told;
        let place = self.forced.partition_point(|entry| entry.lsn <= lsn);
        self.forced.insert(place, Ordered { lsn, ticket });
    }

    fn settle(&mut self, gate: &Gate, out: &mut Vec<Action>) {
        if !gate.may_answer.is_granted() {
            return;
        }
        while self
            .ordered
            .front()
            .is_some_and(|entry| entry.lsn <= gate.acknowledgeable)
        {
            let entry = self.ordered.pop_front().expect("just looked at");
            self.told = self.told.max(entry.lsn);
            self.finish(entry.ticket, out);
        }
        while self
            .forced
            .front()
            .is_some_and(|entry| entry.lsn <= gate.committed)
        {
            let entry = self.forced.pop_front().expect("just looked at");
            self.told = self.told.max(entry.lsn);
            self.finish(entry.ticket, out);
        }
    }

    /// Answers, or goes on with the next part of a split request.
    fn finish(&mut self, mut ticket: Ticket, out: &mut Vec<Action>) {
        match ticket.rest.pop_front() {
            Some(op) => self.waiting.push_back(Waiting { ticket, op }),
            None => answer(out, &ticket, ClientReply::Done),
        }
    }

    /// Orders the writes whose edges are filled; says how many. One that finds no room keeps its
    /// blocks: its edges must not be overtaken.
    fn order_merged(&mut self, gate: &Gate, store: &mut Store) -> usize {
        let (mut index, mut count) = (0, 0);
        while index < self.merges.len() {
            let ready = self.merges[index].is_filled() && gate.may_order.is_granted();
            if !ready || !gate.may_answer.is_granted() {
                index += 1;
                continue;
            }
            let (held, payload, ticket) = self.merges.remove(index).into_write();
            let change = Change {
                range: held.blocks,
                kind: ChangeKind::Write(payload),
            };
            match self.order(gate, store, change, held.durability, ticket) {
                None => {
                    self.locks.give_back(held.lock);
                    count += 1;
                }
                Some((ChangeKind::Write(payload), ticket)) => {
                    self.merges
                        .insert(index, Merge::held(held, payload, ticket));
                    index += 1;
                }
                Some((ChangeKind::Hole | ChangeKind::Zero, _)) => {
                    unreachable!("what is given back is what was to be ordered")
                }
            }
        }
        count
    }

    /// Fails what has waited longer than the volume's setting allows; nothing of it was ordered.
    pub(crate) fn expire(&mut self, now: Instant, limit: NoQuorum, out: &mut Vec<Action>) {
        let NoQuorum::Error(seconds) = limit else {
            return;
        };
        let limit = Duration::from_secs(u64::from(seconds));
        self.waiting.retain(|entry| {
            let late = now.since(entry.ticket.since) >= limit;
            if late {
                answer(
                    out,
                    &entry.ticket,
                    ClientReply::Failed(ClientError::NoQuorum),
                );
            }
            !late
        });
    }

    /// When [`Desk::expire`] has something to do.
    pub(crate) fn next_deadline(&self, limit: NoQuorum) -> Option<Instant> {
        let NoQuorum::Error(seconds) = limit else {
            return None;
        };
        let limit = Duration::from_secs(u64::from(seconds));
        self.waiting
            .front()
            .map(|entry| entry.ticket.since.after(limit))
    }
}

impl Ticket {
    fn forget_rest_of(&mut self, client: ClientId) {
        if self.client == client {
            self.rest.clear();
        }
    }
}

/// A whole-block change, ready to be ordered.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Change {
    range: BlockRange,
    kind: ChangeKind,
}

/// What a change leaves behind.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum ChangeKind {
    Write(Payload),
    /// Reads as zeroes, takes no space.
    Hole,
    /// Reads as zeroes, stays allocated.
    Zero,
}

impl ChangeKind {
    /// About what its record takes of the log's ring.
    fn log_bytes(&self) -> u64 {
        let content = match self {
            Self::Write(payload) => payload.len(),
            Self::Hole | Self::Zero => 0,
        };
        (content + RECORD_HEADER_BYTES) as u64
    }
}

/// A small record's header; many share a block of the ring.
const RECORD_HEADER_BYTES: usize = 128;

fn range_of(op: &ClientOp) -> Option<ByteRange> {
    match op {
        ClientOp::Read(range)
        | ClientOp::BlockStatus(range)
        | ClientOp::Write { range, .. }
        | ClientOp::Trim { range, .. }
        | ClientOp::WriteZeroes { range, .. } => Some(*range),
        ClientOp::Flush => None,
    }
}

fn fits(range: ByteRange, size: BlockCount) -> bool {
    let end = range.offset.checked_add(u64::from(range.length));
    end.is_some_and(|end| end <= size.bytes())
}

/// The whole blocks of a range that was found to fit the volume.
fn covering(range: ByteRange) -> BlockRange {
    BlockRange::covering(range.offset, u64::from(range.length))
        .expect("a range inside a volume has a block range")
}

fn answer(out: &mut Vec<Action>, ticket: &Ticket, reply: ClientReply) {
    out.push(Action::Reply {
        client: ticket.client,
        request: ticket.request,
        reply,
    });
}

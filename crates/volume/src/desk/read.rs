//! Reads and block status: what is at hand at once, the rest when the device has it.

use moorline_blockvol::{
    BlockState, ReadFault, ReadOutcome, ReadToken, ReadView, Segment, StatusRun as BlockRun, Store,
    ZeroKind,
};
use moorline_types::{BLOCK_SIZE, BlockRange, DeviceOp};

use super::{Desk, Gate, Ticket, Waiting, answer, covering};
use crate::{
    client::{
        Allocation, ByteRange, ClientError, ClientId, ClientOp, ClientReply, ReadPiece, StatusRun,
    },
    mutants::Mutant,
    node::Action,
};

/// A read on the device.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct Reading {
    pub(super) range: ByteRange,
    /// None once its client left.
    pub(super) ticket: Option<Ticket>,
}

impl Reading {
    pub(super) fn forget(&mut self, client: ClientId) {
        if self
            .ticket
            .as_ref()
            .is_some_and(|ticket| ticket.client == client)
        {
            self.ticket = None;
        }
    }
}

impl Desk {
    pub(super) fn start_read(
        &mut self,
        range: ByteRange,
        ticket: Ticket,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
        out: &mut Vec<Action>,
    ) {
        if range.length == 0 {
            answer(out, &ticket, ClientReply::Read(Vec::new()));
            return;
        }
        let token = self.tokens.next();
        match store.read(token, covering(range), ReadView::Readable, ops) {
            ReadOutcome::Ready(result) => answer(out, &ticket, read_reply(result, range)),
            ReadOutcome::Pending => {
                self.reads.insert(
                    token,
                    Reading {
                        range,
                        ticket: Some(ticket),
                    },
                );
            }
        }
    }

    pub(super) fn start_status(
        &mut self,
        range: ByteRange,
        ticket: Ticket,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
        out: &mut Vec<Action>,
    ) {
        if range.length == 0 {
            answer(out, &ticket, ClientReply::Status(Vec::new()));
            return;
        }
        let token = self.tokens.next();
        match store.block_status(token, covering(range), ops) {
            ReadOutcome::Ready(result) => answer(out, &ticket, status_reply(result, range)),
            ReadOutcome::Pending => {
                self.reads.insert(
                    token,
                    Reading {
                        range,
                        ticket: Some(ticket),
                    },
                );
            }
        }
    }

    /// Hands over what the device read. While the gate is shut the request goes back to wait:
    /// what was read may be stale by the time that an answer is allowed.
    pub(crate) fn read_done(
        &mut self,
        gate: &Gate,
        token: ReadToken,
        result: Result<Vec<Segment>, ReadFault>,
        out: &mut Vec<Action>,
    ) {
        if self.merge_read_done(token, &result, out) {
            return;
        }
        let Some(Reading {
            range,
            ticket: Some(ticket),
        }) = self.reads.remove(&token)
        else {
            return;
        };
        let checked = !gate.mutants.has(Mutant::ReadReplyUnchecked);
        if checked && !gate.may_answer.is_granted() {
            self.waiting.push_back(Waiting {
                ticket,
                op: ClientOp::Read(range),
            });
            return;
        }
        answer(out, &ticket, read_reply(result, range));
    }

    /// Hands over what the map says. As [`Desk::read_done`].
    pub(crate) fn status_done(
        &mut self,
        gate: &Gate,
        token: ReadToken,
        result: Result<Vec<BlockRun>, ReadFault>,
        out: &mut Vec<Action>,
    ) {
        let Some(Reading {
            range,
            ticket: Some(ticket),
        }) = self.reads.remove(&token)
        else {
            return;
        };
        if !gate.may_answer.is_granted() {
            self.waiting.push_back(Waiting {
                ticket,
                op: ClientOp::BlockStatus(range),
            });
            return;
        }
        answer(out, &ticket, status_reply(result, range));
    }
}

fn read_reply(result: Result<Vec<Segment>, ReadFault>, wanted: ByteRange) -> ClientReply {
    match result {
        Ok(segments) => ClientReply::Read(pieces(&segments, wanted)),
        Err(fault) => ClientReply::Failed(client_error(&fault)),
    }
}

fn status_reply(result: Result<Vec<BlockRun>, ReadFault>, wanted: ByteRange) -> ClientReply {
    match result {
        Ok(runs) => ClientReply::Status(status_runs(&runs, wanted)),
        Err(fault) => ClientReply::Failed(client_error(&fault)),
    }
}

/// Cuts whole-block segments to the bytes that were asked for.
pub(super) fn pieces(segments: &[Segment], wanted: ByteRange) -> Vec<ReadPiece> {
    let mut pieces: Vec<ReadPiece> = Vec::with_capacity(segments.len());
    for segment in segments {
        let range = match segment {
            Segment::Data { range, .. } | Segment::Zero { range, .. } => *range,
        };
        let Some((from, to)) = clip(range, wanted) else {
            continue;
        };
        let length = u32::try_from(to - from).expect("a piece is no longer than its request");
        match segment {
            Segment::Data { payload, .. } => {
                let start = usize::try_from(from - range.first().byte_offset())
                    .expect("inside the segment");
                let bytes = payload.bytes().slice(start..start + length as usize);
                pieces.push(ReadPiece::Data(bytes));
            }
            Segment::Zero { .. } => match pieces.last_mut() {
                Some(ReadPiece::Zeroes(run)) => *run += length,
                Some(ReadPiece::Data(_)) | None => pieces.push(ReadPiece::Zeroes(length)),
            },
        }
    }
    pieces
}

pub(super) const fn client_error(fault: &ReadFault) -> ClientError {
    match fault {
        ReadFault::Damaged { .. } | ReadFault::MapDamaged { .. } => ClientError::Damaged,
        ReadFault::Device { .. } => ClientError::Device,
        ReadFault::OutOfRange { .. } => ClientError::OutOfRange,
    }
}

fn status_runs(runs: &[BlockRun], wanted: ByteRange) -> Vec<StatusRun> {
    let mut found: Vec<StatusRun> = Vec::with_capacity(runs.len());
    for run in runs {
        let Some((from, to)) = clip(run.range, wanted) else {
            continue;
        };
        let state = match run.state {
            BlockState::Data => Allocation::Data,
            BlockState::Zero(ZeroKind::Written) => Allocation::Zero,
            BlockState::Zero(ZeroKind::Hole) => Allocation::Hole,
        };
        match found.last_mut() {
            Some(run) if run.state == state => run.length += to - from,
            Some(_) | None => found.push(StatusRun {
                length: to - from,
                state,
            }),
        }
    }
    found
}

/// The bytes `[from, to)` of a block range that were asked for, if any.
fn clip(range: BlockRange, wanted: ByteRange) -> Option<(u64, u64)> {
    let start = range.first().byte_offset();
    let from = start.max(wanted.offset);
    let to = (start + range.bytes()).min(wanted.offset + u64::from(wanted.length));
    (from < to).then_some((from, to))
}

const _: () = assert!(
    BLOCK_SIZE == 4096,
    "edges of a merge are read by blocks of 4 KiB"
);

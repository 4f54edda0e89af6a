//! Read-modify-write: completes a ragged write to whole blocks.

use moorline_blockvol::{ReadFault, ReadOutcome, ReadToken, ReadView, Segment, Store};
use moorline_types::{BLOCK_SIZE, BlockIndex, BlockRange, DeviceOp, PageBuf, Payload};

use super::{
    Desk, Ticket, TokenSource, answer, covering,
    read::{client_error, pieces},
};
use crate::{
    client::{ByteRange, ClientId, ClientReply, Durability, ReadPiece},
    locks::{BlockLocks, LockId},
    node::Action,
};

/// Which end of the buffer is completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edge {
    First,
    Last,
}

/// One ragged write on its way to the ordering point; holds its blocks until then.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct Merge {
    bytes: ByteRange,
    blocks: BlockRange,
    content: Content,
    durability: Durability,
    ticket: Ticket,
    lock: Option<LockId>,
    wanted: Vec<Edge>,
    reading: Vec<(Edge, ReadToken)>,
    view: ReadView,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Content {
    /// Edges may still be lacking.
    Open(PageBuf),
    /// Whole blocks that found no room in the log yet.
    Whole(Payload),
}

/// What a merge holds until it is ordered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) blocks: BlockRange,
    pub(super) durability: Durability,
    pub(super) lock: LockId,
    bytes: ByteRange,
}

impl Merge {
    pub(super) fn new(
        bytes: ByteRange,
        buffer: PageBuf,
        durability: Durability,
        ticket: Ticket,
        lock: LockId,
    ) -> Self {
        let blocks = covering(bytes);
        let end = bytes.offset + u64::from(bytes.length);
        let ragged_start = !bytes.offset.is_multiple_of(BLOCK_SIZE as u64);
        let ragged_end = !end.is_multiple_of(BLOCK_SIZE as u64);
        let mut wanted = Vec::new();
        if ragged_start || (ragged_end && blocks.count() == 1) {
            wanted.push(Edge::First);
        }
        if ragged_end && blocks.count() > 1 {
            wanted.push(Edge::Last);
        }
        Self {
            bytes,
            blocks,
            content: Content::Open(buffer),
            durability,
            ticket,
            lock: Some(lock),
            view: ReadView::Newest,
            wanted,
            reading: Vec::new(),
        }
    }

    /// A filled merge that could not be ordered yet; its blocks stay locked.
    pub(super) fn held(held: Held, payload: Payload, ticket: Ticket) -> Self {
        Self {
            bytes: held.bytes,
            blocks: held.blocks,
            content: Content::Whole(payload),
            durability: held.durability,
            ticket,
            lock: Some(held.lock),
            view: ReadView::Newest,
            wanted: Vec::new(),
            reading: Vec::new(),
        }
    }

    /// A planted bug: what was ordered and is not committed does not count.
    pub(super) fn reads_old(&mut self) {
        self.view = ReadView::Readable;
    }

    pub(super) fn belongs_to(&self, client: ClientId) -> bool {
        self.ticket.client == client
    }

    pub(super) fn release(&mut self, locks: &mut BlockLocks) {
        if let Some(lock) = self.lock.take() {
            locks.give_back(lock);
        }
    }

    pub(super) fn is_filled(&self) -> bool {
        self.wanted.is_empty() && self.reading.is_empty()
    }

    /// Its whole blocks, to be ordered; the lock is to be given back after that.
    pub(super) fn into_write(self) -> (Held, Payload, Ticket) {
        let held = Held {
            blocks: self.blocks,
            durability: self.durability,
            lock: self.lock.expect("a merge holds its blocks until it ends"),
            bytes: self.bytes,
        };
        let payload = match self.content {
            Content::Open(buffer) => buffer.freeze(),
            Content::Whole(payload) => payload,
        };
        (held, payload, self.ticket)
    }

    /// Reads the edges as they are after everything ordered so far, committed or not: what is
    /// ordered later on these blocks waits for this merge.
    ///
    /// # Errors
    ///
    /// When an edge is damaged and known to be so at once.
    pub(super) fn read_edges(
        &mut self,
        tokens: &mut TokenSource,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<(), ReadFault> {
        for edge in std::mem::take(&mut self.wanted) {
            let token = tokens.next();
            match store.read(token, self.edge_block(edge), self.view, ops) {
                ReadOutcome::Ready(segments) => self.fill(edge, &segments?),
                ReadOutcome::Pending => self.reading.push((edge, token)),
            }
        }
        Ok(())
    }

    /// An edge that could not be read waits for the repair of its block.
    pub(super) fn hold_edge(&mut self, token: ReadToken) -> bool {
        let edge = self.take_read(token);
        self.wanted.extend(edge);
        edge.is_some()
    }

    /// Whether an edge waits for `block`.
    pub(super) fn waits_for(&self, block: BlockIndex) -> bool {
        let of_block = |edge: &Edge| self.edge_block(*edge).first() == block;
        self.wanted.iter().any(of_block)
    }

    fn edge_block(&self, edge: Edge) -> BlockRange {
        let block = match edge {
            Edge::First => self.blocks.first(),
            Edge::Last => self
                .blocks
                .first()
                .advance(u64::from(self.blocks.count()) - 1),
        };
        BlockRange::new(block, 1).expect("a block of a volume")
    }

    /// Copies what lies around the written bytes in one edge block.
    fn fill(&mut self, edge: Edge, segments: &[Segment]) {
        let block = self.edge_block(edge);
        let Content::Open(buffer) = &mut self.content else {
            return;
        };
        let from_block = block.first().byte_offset();
        let range = ByteRange {
            offset: from_block,
            length: 4096,
        };
        let buffer_from = self.blocks.first().byte_offset();
        let mut at = from_block;
        for piece in pieces(segments, range) {
            let length = match &piece {
                ReadPiece::Data(bytes) => bytes.len() as u64,
                ReadPiece::Zeroes(length) => u64::from(*length),
            };
            for offset in 0..length {
                let byte = at + offset;
                let written = self.bytes.offset <= byte
                    && byte < self.bytes.offset + u64::from(self.bytes.length);
                if written {
                    continue;
                }
                let place = usize::try_from(byte - buffer_from).expect("inside the buffer");
                buffer.as_mut_slice()[place] = match &piece {
                    ReadPiece::Data(bytes) => {
                        bytes[usize::try_from(offset).expect("inside a block")]
                    }
                    ReadPiece::Zeroes(_) => 0,
                };
            }
            at += length;
        }
    }

    fn take_read(&mut self, token: ReadToken) -> Option<Edge> {
        let place = self
            .reading
            .iter()
            .position(|(_, reading)| *reading == token)?;
        Some(self.reading.remove(place).0)
    }
}

impl Desk {
    /// Gives the outcome of a device read to the merge that waits for it; `false` if none does.
    pub(super) fn merge_read_done(
        &mut self,
        token: ReadToken,
        result: &Result<Vec<Segment>, ReadFault>,
        out: &mut Vec<Action>,
    ) -> bool {
        let found = self
            .merges
            .iter_mut()
            .enumerate()
            .find_map(|(index, merge)| merge.take_read(token).map(|edge| (index, edge)));
        let Some((index, edge)) = found else {
            return false;
        };
        match result {
            Ok(segments) => self.merges[index].fill(edge, segments),
            Err(fault) => {
                let merge = self.merges.remove(index);
                self.fail_merge(merge, fault, out);
            }
        }
        true
    }

    /// A merge whose edges cannot be read: nothing of it was ordered.
    pub(super) fn fail_merge(
        &mut self,
        mut merge: Merge,
        fault: &ReadFault,
        out: &mut Vec<Action>,
    ) {
        merge.release(&mut self.locks);
        answer(out, &merge.ticket, ClientReply::Failed(client_error(fault)));
    }
}

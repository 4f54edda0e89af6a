//! What a scripted peer holds and answers.

use bytes::BytesMut;
use moorline_types::{
    AssignmentLine, BlockIndex, BlockRange, Epoch, EpochStart, Lsn, OpenCount, Opening, Openings,
};
use moorline_wal::Record;
use moorline_wire::{
    Ack, Fetch, FetchOutcome, Fetched, ImageState, LeaseGrant, LeaseGranted, MemoryState, Message,
    PayloadParts, Promised, Records, ReplicaFacts, VolumeMessage, VoteClaim,
};

use super::stage::{Who, epoch};
use crate::world::VOLUME;

pub(super) const fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

/// A member that promises, takes and grants whatever it is asked for.
pub(super) struct Peer {
    pub(super) who: Who,
    pub(super) history: Vec<EpochStart>,
    pub(super) head: u64,
    pub(super) line: Option<AssignmentLine>,
}

impl Peer {
    pub(super) fn new(who: Who) -> Self {
        Self {
            who,
            history: Vec::new(),
            head: 0,
            line: None,
        }
    }

    /// What it holds, promised to this server's boot in `epoch`.
    pub(super) fn facts(&self, epoch: Epoch) -> ReplicaFacts {
        let (open, boot) = (OpenCount::new(1), self.who.boot());
        let head = lsn(self.head);
        ReplicaFacts {
            server: self.who.server(),
            store: self.who.store(),
            open,
            boot,
            openings: Openings::first(Opening { open, boot }),
            promised: Some(Promised {
                epoch,
                server: Who::Own.server(),
                boot: Who::Own.boot(),
            }),
            history: self.history.clone(),
            head,
            flushed: Some(head),
            doubtful: None,
            applied: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            tail: Lsn::ZERO,
            committed: Lsn::ZERO,
            acknowledged: Lsn::ZERO,
            line: self.line.clone(),
            vote: VoteClaim::Has,
            image: ImageState::Whole,
            memory: MemoryState::Intact,
            given_up: Vec::new(),
        }
    }

    pub(super) fn answers(&mut self, message: &Message) -> Vec<Message> {
        match message {
            Message::LeaseRequest(request) => {
                let granted = request.volumes.iter().map(|asked| LeaseGranted {
                    volume: VOLUME,
                    epoch: asked.epoch,
                    store: self.who.store(),
                });
                vec![Message::LeaseGrant(LeaseGrant {
                    sent_ns: request.sent_ns,
                    granted: granted.collect(),
                    refused: Vec::new(),
                })]
            }
            Message::Volume(header, body) => {
                let answer = self.about_volume(header.epoch, body);
                answer
                    .map(|body| Message::Volume(*header, body))
                    .into_iter()
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn about_volume(&mut self, of: Epoch, body: &VolumeMessage) -> Option<VolumeMessage> {
        match body {
            VolumeMessage::PromiseRequest(request) => {
                self.line = Some(request.line.clone());
                Some(VolumeMessage::Promise(Box::new(self.facts(of))))
            }
            VolumeMessage::Handshake(shown) => {
                self.line = Some(shown.line.clone());
                Some(VolumeMessage::HandshakeAck(Box::new(self.facts(of))))
            }
            VolumeMessage::Records(records) => {
                self.head = self.head.max(records.through()?.get());
                if self.history.last().is_none_or(|last| last.epoch < of) {
                    let first = records.previous.next();
                    self.history.push(EpochStart { epoch: of, first });
                }
                Some(ack(self.head))
            }
            VolumeMessage::Fetch(fetch) => Some(fetched(*fetch)),
            _ => None,
        }
    }
}

pub(super) fn ack(head: u64) -> VolumeMessage {
    VolumeMessage::Ack(Ack {
        received: lsn(head),
        flushed: lsn(head),
        applied: Lsn::ZERO,
        checkpoint: Lsn::ZERO,
        tail: Lsn::ZERO,
    })
}

/// The log of epoch `n`: its mark at 1, then zeroes.
fn record(n: u64, at: u64) -> Record {
    if at == 1 {
        return Record::epoch_mark(VOLUME, epoch(n), lsn(1));
    }
    let range = BlockRange::new(BlockIndex::new(at), 1).unwrap();
    Record::write_zeroes(VOLUME, epoch(n), lsn(at), range)
}

fn headers(n: u64, (after, through): (u64, u64)) -> bytes::Bytes {
    let mut headers = BytesMut::new();
    for at in after + 1..=through {
        headers.extend_from_slice(record(n, at).header_bytes());
    }
    headers.freeze()
}

/// Records `(after, through]` of epoch `n`.
pub(super) fn records(n: u64, (after, through): (u64, u64), committed: u64) -> VolumeMessage {
    VolumeMessage::Records(Records {
        previous: lsn(after),
        count: u32::try_from(through - after).unwrap(),
        committed: lsn(committed),
        acknowledged: Lsn::ZERO,
        headers: headers(n, (after, through)),
        payload: PayloadParts::empty(),
    })
}

/// The answer to a fetch, from a log of epoch 4.
pub(super) fn fetched(fetch: Fetch) -> VolumeMessage {
    let (after, through) = (fetch.range.after().get(), fetch.range.through().get());
    VolumeMessage::Fetched(Fetched {
        range: fetch.range,
        outcome: FetchOutcome::Records,
        count: u32::try_from(through - after).unwrap(),
        headers: headers(4, (after, through)),
        payload: PayloadParts::empty(),
    })
}

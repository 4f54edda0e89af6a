//! A node in each role, and in the corners of some.

use std::time::Duration;

use moorline_types::{BootId, EpochStart};
use moorline_wire::{
    Handshake, LeaseAsked, LeaseRequest, Message, PromiseRequest, StreamEndReason, StreamEnded,
    VolumeMessage,
    control::{SessionCause, SessionKind},
};

use super::{
    peers::{lsn, records},
    stage::{OWN_BOOT, Stage, Who, arrived, epoch, header},
};
use crate::world::{VOLUME, blocks};

/// What makes a stage that stands in a state.
pub(super) type Build = fn() -> Stage;

/// Epoch 5 is the one in force everywhere; where another leads, it is s2.
pub(super) const STATES: [(&str, Build); 23] = [
    ("idle: a new store, no epoch yet", Stage::new),
    (
        "idle: an earlier boot of this server is the primary",
        earlier_boot,
    ),
    ("idle: a restarted store that promised nothing", || {
        Stage::new().restarted()
    }),
    ("replica: promised, no session", promised),
    ("replica: in a session, grants its lease", in_session),
    ("replica: in a session, the lease ran out", lease_over),
    (
        "replica: a cut is under way on a device that hangs",
        cutting,
    ),
    ("replica: silent after a restart", || {
        in_session().restarted()
    }),
    ("replica: must be rebuilt", needs_rebuild),
    ("replica: another store has its vote", voteless),
    ("idle: a higher promise waits for a lease", waits_to_promise),
    (
        "replica: a higher promise is on its way to a device that hangs",
        promising,
    ),
    (
        "candidate: its own promise waits for a lease",
        own_promise_waits,
    ),
    ("candidate: collects promises", collecting),
    ("candidate: fetches records", fetching),
    ("opening: the mark is shipped to nobody", opening),
    ("opening: a peer is handshaken", handshaken),
    ("serving", serving),
    ("serving: a write is under way", writing),
    ("serving: the lease ran out", leaseless),
    ("fenced: a higher epoch was shown", fenced),
    ("failed: the device failed in a session", failed),
    ("stopped", stopped),
];

pub(super) fn promise_request(stage: &Stage, who: Who, n: u64) -> PromiseRequest {
    PromiseRequest {
        server: who.server(),
        boot: who.boot(),
        line: stage.line_of(n, Some((who, who.boot()))),
    }
}

pub(super) fn asks_promise(stage: &Stage, who: Who, n: u64) -> VolumeMessage {
    VolumeMessage::PromiseRequest(Box::new(promise_request(stage, who, n)))
}

/// The log of the primary: epoch 5 from 1 on.
pub(super) fn handshake(stage: &Stage, who: Who, n: u64) -> VolumeMessage {
    VolumeMessage::Handshake(Box::new(Handshake {
        server: who.server(),
        boot: who.boot(),
        kind: SessionKind::CatchUp,
        cause: SessionCause::Assignment,
        history: vec![EpochStart {
            epoch: epoch(5),
            first: lsn(1),
        }],
        committed: lsn(0),
        tail: lsn(0),
        head: lsn(3),
        line: stage.line_of(n, Some((who, who.boot()))),
        given_up: Vec::new(),
    }))
}

pub(super) fn asks_lease(n: u64, boot: BootId) -> Message {
    Message::LeaseRequest(LeaseRequest {
        sent_ns: 7,
        volumes: vec![LeaseAsked {
            volume: VOLUME,
            epoch: epoch(n),
            config: header(Who::Own, n, 0).config,
            boot,
            ttl_ms: 2_000,
        }],
    })
}

fn earlier_boot() -> Stage {
    let mut stage = Stage::new();
    stage.assign(stage.line_of(5, Some((Who::Own, BootId::new(100)))));
    stage
}

fn promised() -> Stage {
    let mut stage = Stage::new();
    let asked = asks_promise(&stage, Who::S2, 5);
    stage.hear(Who::S2, header(Who::Own, 5, 0), asked);
    stage
}

fn session() -> Stage {
    let mut stage = promised();
    let shown = handshake(&stage, Who::S2, 5);
    stage.hear(Who::S2, header(Who::Own, 5, 1), shown);
    stage.hear(Who::S2, header(Who::Own, 5, 1), records(5, (0, 3), 2));
    stage
}

fn in_session() -> Stage {
    let mut stage = session();
    stage.tell(arrived(Who::S2.accepted(), asks_lease(5, Who::S2.boot())));
    stage
}

fn lease_over() -> Stage {
    let mut stage = in_session();
    stage.pass(Duration::from_secs(2));
    stage
}

pub(super) fn cutting() -> Stage {
    let mut stage = session();
    stage.disk.hangs = true;
    let cut = super::events::truncate(2);
    stage.hear(Who::S2, header(Who::Own, 5, 1), cut);
    stage
}

fn needs_rebuild() -> Stage {
    let mut stage = session();
    let reason = StreamEndReason::NeedsRebuild;
    let ended = VolumeMessage::StreamEnded(StreamEnded { reason });
    stage.hear(Who::S2, header(Who::Own, 5, 0), ended);
    stage
}

fn voteless() -> Stage {
    let mut stage = Stage::new();
    stage.line.members[0].store = Some(Who::Stranger.store());
    stage.assign(stage.line_of(5, Some((Who::S2, Who::S2.boot()))));
    stage
}

fn waits_to_promise() -> Stage {
    let mut stage = in_session();
    let asked = asks_promise(&stage, Who::S3, 6);
    stage.hear(Who::S3, header(Who::Own, 6, 0), asked);
    stage
}

fn promising() -> Stage {
    let mut stage = session();
    stage.disk.hangs = true;
    let asked = asks_promise(&stage, Who::S3, 6);
    stage.hear(Who::S3, header(Who::Own, 6, 0), asked);
    stage
}

/// Named for epoch 5 while the lease of epoch 4 runs.
pub(super) fn own_promise_waits() -> Stage {
    let mut stage = Stage::new();
    let asked = asks_promise(&stage, Who::S2, 4);
    stage.hear(Who::S2, header(Who::Own, 4, 0), asked);
    stage.tell(arrived(Who::S2.accepted(), asks_lease(4, Who::S2.boot())));
    stage.assign(stage.line_of(5, Some((Who::Own, OWN_BOOT))));
    stage
}

fn collecting() -> Stage {
    let mut stage = Stage::new();
    stage.assign(stage.line_of(5, Some((Who::Own, OWN_BOOT))));
    stage
}

/// s2 has three records of epoch 4.
fn fetching() -> Stage {
    let mut stage = collecting();
    let (n, first) = (epoch(4), lsn(1));
    stage.peers[0].history = vec![EpochStart { epoch: n, first }];
    stage.peers[0].head = 3;
    stage.promise(Who::S2);
    stage
}

fn opening() -> Stage {
    let mut stage = collecting();
    stage.promise(Who::S2);
    stage
}

fn handshaken() -> Stage {
    let mut stage = opening();
    let facts = stage.peers[0].facts(epoch(5));
    let ack = VolumeMessage::HandshakeAck(Box::new(facts));
    stage.answer(Who::S2, header(Who::S2, 5, stage.sessions[0]), ack);
    stage
}

pub(super) fn serving() -> Stage {
    let mut stage = Stage::new();
    stage.obedient = true;
    stage.assign(stage.line_of(5, Some((Who::Own, OWN_BOOT))));
    stage.pass(Duration::from_millis(600));
    stage.obedient = false;
    stage
}

fn writing() -> Stage {
    let mut stage = serving();
    let asked = stage.request(Stage::write(blocks(3, 1)));
    stage.tell(asked);
    stage
}

fn leaseless() -> Stage {
    let mut stage = serving();
    stage.pass(Duration::from_secs(2));
    stage
}

fn fenced() -> Stage {
    let mut stage = serving();
    let refused = super::events::refused_stale(6);
    stage.answer(Who::S2, header(Who::S2, 5, 0), refused);
    stage
}

fn failed() -> Stage {
    let mut stage = in_session();
    stage.disk.fails = true;
    stage.master(super::stage::registered(2));
    stage
}

pub(super) fn stopped() -> Stage {
    let mut stage = in_session();
    stage.tell(moorline_volume::Event::StopRequested);
    stage
}

impl Stage {
    /// A peer promises what it has.
    pub(super) fn promise(&mut self, who: Who) {
        let facts = self.peers[usize::from(who == Who::S3)].facts(epoch(5));
        let promise = VolumeMessage::Promise(Box::new(facts));
        self.answer(who, header(who, 5, 0), promise);
    }
}

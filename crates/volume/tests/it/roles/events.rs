//! Everything that may be told to a node in any state.

use std::time::Duration;

use moorline_types::{
    AssignmentLine, BlockIndex, BootId, ConfigVersion, Epoch, EpochStart, LsnRange,
};
use moorline_volume::{Event, LinkDirection, LinkId, client::ClientOp};
use moorline_wire::{
    Commit, Fetch, FetchBlock, LeaseGrant, LeaseGranted, Message, NeedRecords, PromiseRefusal,
    PromiseRefused, Promised, Refused, RefusedReason, StreamEndReason, StreamEnded, Truncate,
    TruncationRecorded, VolumeMessage,
    control::{MasterLease, MasterToServer},
};

use super::{
    peers::{ack, fetched, lsn, records},
    stage::{OWN_BOOT, Stage, Who, arrived, assignment, epoch, header, registered},
    states::{asks_lease, asks_promise, handshake},
};
use crate::world::{VOLUME, blocks};

/// What may befall a node.
pub(super) enum Befalls {
    Told(Box<Event>),
    Passes(Duration),
    DeviceFails,
    DeviceHangs,
    DeviceAnswers,
}

impl Befalls {
    pub(super) fn befall(self, stage: &mut Stage) {
        match self {
            Self::Told(event) => stage.tell(*event),
            Self::Passes(time) => stage.pass(time),
            // Which run of the master it hears of is kept: a write of the superblocks.
            Self::DeviceFails => {
                stage.disk.fails = true;
                stage.master(registered(2));
            }
            Self::DeviceHangs => {
                stage.disk.hangs = true;
                stage.master(registered(2));
                stage.pass(Duration::from_secs(6));
            }
            Self::DeviceAnswers => stage.unhang(),
        }
    }
}

fn told(event: Event) -> Befalls {
    Befalls::Told(Box::new(event))
}

type Named = (&'static str, Befalls);

pub(super) fn all(stage: &mut Stage) -> Vec<Named> {
    let mut events = assignments(stage);
    events.extend(promise_requests(stage));
    events.extend(from_a_primary(stage));
    events.extend(leases(stage));
    events.extend(answers(stage));
    events.extend(surroundings(stage));
    events
}

fn assigned(name: &'static str, line: AssignmentLine) -> Named {
    (name, told(Event::MasterSaid(assignment(line))))
}

fn assignments(stage: &Stage) -> Vec<Named> {
    let own = Some((Who::Own, OWN_BOOT));
    let other = |who: Who| Some((who, who.boot()));
    let in_force = stage
        .node
        .volume(VOLUME)
        .and_then(|replica| replica.store().durable().line.clone());
    let with = |configs: u64, in_sync: usize| {
        let mut line = in_force.clone().unwrap_or_else(|| stage.line_of(5, own));
        line.config = ConfigVersion::new(line.config.get() + configs);
        line.in_sync.truncate(in_sync);
        line
    };
    let mut same = with(0, 3);
    same.name = "other".into();
    let mut elsewhere = stage.line_of(6, other(Who::S2));
    elsewhere.members.remove(0);
    elsewhere.in_sync.remove(0);
    // Above the highest epoch that any state knows.
    let insane = 7 + Epoch::JUMP_MAX;
    vec![
        assigned("assigned(6 to this boot)", stage.line_of(6, own)),
        assigned(
            "assigned(6 to another boot of this server)",
            stage.line_of(6, Some((Who::Own, BootId::new(100)))),
        ),
        assigned("assigned(6 to s2)", stage.line_of(6, other(Who::S2))),
        assigned("assigned(6 to s3)", stage.line_of(6, other(Who::S3))),
        assigned("assigned(6 to nobody)", stage.line_of(6, None)),
        assigned("assigned(6 without this server)", elsewhere),
        assigned("assigned(5 to this boot)", stage.line_of(5, own)),
        assigned("assigned(5 to s2)", stage.line_of(5, other(Who::S2))),
        assigned("assigned(same again)", with(0, 3)),
        assigned("assigned(same version, other content)", same),
        assigned("assigned(next config, s3 left out)", with(1, 2)),
        assigned("assigned(4: stale)", stage.line_of(4, other(Who::S2))),
        assigned("assigned(insane)", stage.line_of(insane, own)),
    ]
}

fn heard(name: &'static str, who: Who, (n, session): (u64, u64), body: VolumeMessage) -> Named {
    let header = header(Who::Own, n, session);
    let event = arrived(who.accepted(), Message::Volume(header, body));
    (name, told(event))
}

fn promise_requests(stage: &Stage) -> Vec<Named> {
    let asks = |name, who, n| heard(name, who, (n, 0), asks_promise(stage, who, n));
    let named = asks_promise(stage, Who::S3, 6);
    let mut older = header(Who::Own, 6, 0);
    older.epoch = epoch(5);
    older.config = ConfigVersion::new(1);
    let older = Message::Volume(older, asks_promise(stage, Who::S2, 5));
    vec![
        asks("promise_request(4 for s2)", Who::S2, 4),
        asks("promise_request(5 for s2)", Who::S2, 5),
        (
            "promise_request(5 for s2, older line)",
            told(arrived(Who::S2.accepted(), older)),
        ),
        asks("promise_request(5 for s3)", Who::S3, 5),
        asks("promise_request(6 for s2)", Who::S2, 6),
        asks("promise_request(6 for s3)", Who::S3, 6),
        asks("promise_request(7 for s3)", Who::S3, 7),
        heard("promise_request(6 for s3, by s2)", Who::S2, (6, 0), named),
        asks(
            "promise_request(insane for s3)",
            Who::S3,
            8 + Epoch::JUMP_MAX,
        ),
        asks("promise_request(6 for a stranger)", Who::Stranger, 6),
    ]
}

fn from_a_primary(stage: &Stage) -> Vec<Named> {
    let cut = truncate;
    let commit = VolumeMessage::Commit(Commit {
        committed: lsn(3),
        acknowledged: lsn(3),
    });
    let ended = |reason| VolumeMessage::StreamEnded(StreamEnded { reason });
    let fetch = VolumeMessage::Fetch(Fetch {
        range: LsnRange::new(lsn(0), lsn(3)).unwrap(),
        bytes_max: 4096,
    });
    let block = VolumeMessage::FetchBlock(FetchBlock {
        request: 1,
        block: BlockIndex::new(2),
        lsn: lsn(2),
        crc: 0,
    });
    let (s2, s3) = (Who::S2, Who::S3);
    vec![
        heard("handshake(4 of s2)", s2, (4, 1), handshake(stage, s2, 4)),
        heard("handshake(5 of s2)", s2, (5, 2), handshake(stage, s2, 5)),
        heard("handshake(5 of s3)", s3, (5, 2), handshake(stage, s3, 5)),
        heard("handshake(6 of s3)", s3, (6, 2), handshake(stage, s3, 6)),
        heard("records(4 of s2)", s2, (4, 1), records(4, (3, 4), 3)),
        heard("records(5 of s2, next)", s2, (5, 1), records(5, (3, 4), 3)),
        heard("records(5 of s2, held)", s2, (5, 1), records(5, (1, 3), 3)),
        heard("records(5 of s2, gap)", s2, (5, 1), records(5, (4, 5), 3)),
        heard(
            "records(5 of s2, other session)",
            s2,
            (5, 9),
            records(5, (3, 4), 3),
        ),
        heard("records(5 of s3)", s3, (5, 1), records(5, (3, 4), 3)),
        heard("records(6 of s3)", s3, (6, 1), records(6, (3, 4), 3)),
        heard("truncate(4 of s2)", s2, (4, 1), cut(2)),
        heard("truncate(5 of s2, to 2)", s2, (5, 1), cut(2)),
        heard("truncate(5 of s2, below the committed)", s2, (5, 1), cut(1)),
        heard("truncate(5 of s3)", s3, (5, 1), cut(2)),
        heard("truncate(6 of s3)", s3, (6, 1), cut(2)),
        heard("commit(4 of s2)", s2, (4, 1), commit.clone()),
        heard("commit(5 of s2)", s2, (5, 1), commit.clone()),
        heard("commit(5 of s3)", s3, (5, 1), commit.clone()),
        heard("commit(6 of s3)", s3, (6, 1), commit),
        heard(
            "stream_ended(5 of s2, too slow)",
            s2,
            (5, 1),
            ended(StreamEndReason::TooSlow),
        ),
        heard(
            "stream_ended(5 of s2, rebuild)",
            s2,
            (5, 0),
            ended(StreamEndReason::NeedsRebuild),
        ),
        heard(
            "stream_ended(6 of s3, rebuild)",
            s3,
            (6, 0),
            ended(StreamEndReason::NeedsRebuild),
        ),
        heard("fetch(4 of s2)", s2, (4, 0), fetch.clone()),
        heard("fetch(5 of s2)", s2, (5, 0), fetch.clone()),
        heard("fetch(6 of s3)", s3, (6, 0), fetch),
        heard("fetch_block(5 of s2)", s2, (5, 0), block),
    ]
}

fn leases(stage: &Stage) -> Vec<Named> {
    let asks = |name, who: Who, n, boot| {
        let event = arrived(who.accepted(), asks_lease(n, boot));
        (name, told(event))
    };
    let granted = |n, store| {
        let volume = VOLUME;
        let granted = LeaseGranted {
            volume,
            epoch: epoch(n),
            store,
        };
        let grant = Message::LeaseGrant(LeaseGrant {
            sent_ns: stage.lease_asked,
            granted: vec![granted],
            refused: Vec::new(),
        });
        told(arrived(stage.link_to(Who::S2), grant))
    };
    let of_master = MasterToServer::Leases {
        heartbeat_seq: 1,
        ttl_ms: 2_000,
        granted: vec![MasterLease {
            volume: VOLUME,
            epoch: epoch(5),
            boot: OWN_BOOT,
        }],
    };
    vec![
        asks("lease_request(4 of s2)", Who::S2, 4, Who::S2.boot()),
        asks("lease_request(5 of s2)", Who::S2, 5, Who::S2.boot()),
        asks(
            "lease_request(5 of s2's other boot)",
            Who::S2,
            5,
            BootId::new(99),
        ),
        asks("lease_request(5 of s3)", Who::S3, 5, Who::S3.boot()),
        asks("lease_request(6 of s3)", Who::S3, 6, Who::S3.boot()),
        ("lease_grant(5 by s2)", granted(5, Who::S2.store())),
        (
            "lease_grant(5 by another store of s2)",
            granted(5, Who::Stranger.store()),
        ),
        ("master_lease(5)", told(Event::MasterSaid(of_master))),
    ]
}

pub(super) fn truncate(to: u64) -> VolumeMessage {
    VolumeMessage::Truncate(Truncate { through: lsn(to) })
}

pub(super) fn refused_stale(n: u64) -> VolumeMessage {
    refused(RefusedReason::Stale {
        epoch: epoch(n),
        config: ConfigVersion::new(2),
        line: None,
    })
}

fn refused(reason: RefusedReason) -> VolumeMessage {
    VolumeMessage::Refused(Refused { reason })
}

/// What comes back to a candidate or a primary.
fn answers(stage: &Stage) -> Vec<Named> {
    let said = |name, n, session, body| {
        let message = Message::Volume(header(Who::S2, n, session), body);
        let event = arrived(stage.link_to(Who::S2), message);
        (name, told(event))
    };
    let promise = |n, of: u64, head: u64| {
        let mut facts = stage.peers[0].facts(epoch(n));
        facts.history = vec![EpochStart {
            epoch: epoch(of),
            first: lsn(1),
        }];
        facts.history.retain(|_| head > 0);
        (facts.head, facts.flushed) = (lsn(head), Some(lsn(head)));
        VolumeMessage::Promise(Box::new(facts))
    };
    let not = |reason, wait_ms| VolumeMessage::PromiseRefused(PromiseRefused { reason, wait_ms });
    let promised = |n| {
        let (server, boot) = (Who::S3.server(), Who::S3.boot());
        PromiseRefusal::Promised(Promised {
            epoch: epoch(n),
            server,
            boot,
        })
    };
    let newer = |n| {
        let mut line = stage.line_of(n, Some((Who::Own, OWN_BOOT)));
        line.config = ConfigVersion::new(3);
        PromiseRefusal::OlderConfig(Box::new(line))
    };
    let session = stage.sessions[0];
    let facts = VolumeMessage::HandshakeAck(Box::new(stage.peers[0].facts(epoch(5))));
    let cut = TruncationRecorded {
        through: lsn(0),
        head: lsn(0),
    };
    let range = LsnRange::new(lsn(0), lsn(3)).unwrap();
    let fetch = Fetch {
        range,
        bytes_max: 1,
    };
    let (ahead, config) = (epoch(4), ConfigVersion::new(2));
    vec![
        said("promise(5, an empty log)", 5, 0, promise(5, 4, 0)),
        said("promise(5, a better log)", 5, 0, promise(5, 4, 3)),
        said("promise(5, a log of epoch 6)", 5, 0, promise(5, 6, 3)),
        said("promise(4)", 4, 0, promise(4, 4, 0)),
        said(
            "promise_refused(6 was promised)",
            5,
            0,
            not(promised(6), None),
        ),
        said(
            "promise_refused(5 was promised to s3)",
            5,
            0,
            not(promised(5), None),
        ),
        said(
            "promise_refused(newer line of 5)",
            5,
            0,
            not(newer(5), None),
        ),
        said(
            "promise_refused(newer line of 6)",
            5,
            0,
            not(newer(6), None),
        ),
        said(
            "promise_refused(lease runs)",
            5,
            0,
            not(PromiseRefusal::LeaseRunning, Some(900)),
        ),
        said(
            "promise_refused(no vote)",
            5,
            0,
            not(PromiseRefusal::NoVote, None),
        ),
        said(
            "promise_refused(6 was promised; to an ask of 4)",
            4,
            0,
            not(promised(6), None),
        ),
        said("fetched(1..3)", 5, 0, fetched(fetch)),
        said("handshake_ack(5)", 5, session, facts.clone()),
        said("handshake_ack(5, other session)", 5, session + 7, facts),
        said(
            "truncation_recorded(5)",
            5,
            session,
            VolumeMessage::TruncationRecorded(cut),
        ),
        said("ack(5, the mark)", 5, session, ack(1)),
        said("ack(5, all)", 5, session, ack(2)),
        said("ack(5, other session)", 5, session + 7, ack(2)),
        said(
            "need_records(5)",
            5,
            session,
            VolumeMessage::NeedRecords(NeedRecords { after: lsn(0) }),
        ),
        said("refused(stale, 6)", 5, session, refused_stale(6)),
        said("refused(stale, 4)", 5, session, refused_stale(4)),
        said(
            "refused(conflict, 5)",
            5,
            session,
            refused(RefusedReason::Conflict { epoch: epoch(5) }),
        ),
        said(
            "refused(ahead, 4)",
            5,
            session,
            refused(RefusedReason::Ahead {
                epoch: ahead,
                config,
            }),
        ),
        said(
            "refused(wrong role)",
            5,
            session,
            refused(RefusedReason::WrongRole),
        ),
        said(
            "refused(device failed)",
            5,
            session,
            refused(RefusedReason::DeviceFailed),
        ),
    ]
}

fn surroundings(stage: &mut Stage) -> Vec<Named> {
    let up = |who: Who, boot, direction| {
        told(Event::LinkUp {
            link: LinkId::new(50),
            server: who.server(),
            boot,
            direction,
        })
    };
    let down = |link| told(Event::LinkDown { link });
    let read = stage.request(ClientOp::Read(blocks(0, 1)));
    let write = stage.request(Stage::write(blocks(0, 1)));
    let flush = stage.request(ClientOp::Flush);
    let (accepted, s2) = (LinkDirection::Accepted, Who::S2);
    vec![
        ("link_up(s2 dials again)", up(s2, s2.boot(), accepted)),
        (
            "link_up(another boot of s2)",
            up(s2, BootId::new(202), accepted),
        ),
        ("link_lost(opened by s2)", down(s2.accepted())),
        ("link_lost(opened to s2)", down(stage.link_to(s2))),
        ("client_reads", told(read)),
        ("client_writes", told(write)),
        ("client_flushes", told(flush)),
        (
            "passes(250 ms)",
            Befalls::Passes(Duration::from_millis(250)),
        ),
        ("passes(2 s)", Befalls::Passes(Duration::from_secs(2))),
        ("passes(10 s)", Befalls::Passes(Duration::from_secs(10))),
        ("device_answers", Befalls::DeviceAnswers),
        ("device_fails", Befalls::DeviceFails),
        ("device_hangs", Befalls::DeviceHangs),
        ("master_lost", told(Event::MasterDown)),
        (
            "volume_deleted",
            told(Event::MasterSaid(MasterToServer::DeleteStore {
                volume: VOLUME,
            })),
        ),
        ("stop", told(Event::StopRequested)),
    ]
}

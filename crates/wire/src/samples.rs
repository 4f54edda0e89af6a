//! One message of every kind, for tests.

use bytes::Bytes;
use moorline_types::{
    AckPoint, AssignmentLine, BlockCount, BlockIndex, BootId, BufferPool, ClusterId, ConfigVersion,
    Epoch, EpochStart, GivenUp, GivenUpWhy, Lsn, LsnRange, MasterRun, Member, NoQuorum, OpenCount,
    Opening, Openings, Payload, Policy, ServerId, StoreId, VolumeId,
};

use crate::{control::*, hello::*, message::*};

pub(crate) fn server(n: u32) -> ServerId {
    format!("s{n}").parse().unwrap()
}

pub(crate) fn line() -> AssignmentLine {
    AssignmentLine {
        volume: VolumeId::new(1),
        name: "demo".into(),
        size_blocks: BlockCount::new(100),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 2,
        epoch: Epoch::new(3, 0),
        config: ConfigVersion::new(4),
        primary: Some((server(1), BootId::new(5))),
        members: vec![Member {
            server: server(1),
            store: Some(StoreId::new(6)),
            open: OpenCount::new(7),
            opened_by: None,
            boot: Some(BootId::new(5)),
            data_addr: "127.0.0.1:1".into(),
            control_addr: "127.0.0.1:2".into(),
            nbd_addr: "127.0.0.1:3".into(),
            endpoint_version: 8,
        }],
        in_sync: vec![server(1)],
        no_quorum: NoQuorum::Error(5),
        lease_ms: 2_000,
    }
}

fn promised() -> Promised {
    Promised {
        epoch: Epoch::new(3, 1),
        server: server(2),
        boot: BootId::new(9),
    }
}

fn openings() -> Openings {
    let opening = |open, boot| Opening {
        open: OpenCount::new(open),
        boot: BootId::new(boot),
    };
    Openings::from_list(vec![opening(2, 9), opening(3, 4)]).expect("they ascend")
}

fn facts() -> Box<ReplicaFacts> {
    let lsn = Lsn::new;
    Box::new(ReplicaFacts {
        server: server(2),
        store: StoreId::new(2),
        open: OpenCount::new(3),
        boot: BootId::new(4),
        openings: openings(),
        promised: Some(promised()),
        history: vec![EpochStart {
            epoch: Epoch::new(1, 0),
            first: lsn(1),
        }],
        head: lsn(90),
        flushed: Some(lsn(80)),
        doubtful: LsnRange::new(lsn(80), lsn(90)),
        applied: lsn(70),
        checkpoint: lsn(60),
        tail: lsn(50),
        committed: lsn(75),
        acknowledged: lsn(74),
        line: Some(line()),
        vote: VoteClaim::Has,
        image: ImageState::Whole,
        memory: MemoryState::Lost,
        given_up: vec![GivenUp {
            epoch: Epoch::new(2, 0),
            range: LsnRange::new(lsn(3), lsn(4)).unwrap(),
            why: GivenUpWhy::VolatileStands,
            mark: Epoch::new(3, 0),
        }],
    })
}

fn payload(blocks: usize) -> Payload {
    let bytes: Vec<u8> = (0..=250).cycle().take(blocks * 4096).collect();
    Payload::copy_padded(&BufferPool::new(), &bytes)
}

fn volume_messages() -> Vec<VolumeMessage> {
    let lsn = Lsn::new;
    let range = LsnRange::new(lsn(3), lsn(5)).unwrap();
    vec![
        VolumeMessage::PromiseRequest(Box::new(PromiseRequest {
            server: server(1),
            boot: BootId::new(5),
            line: line(),
        })),
        VolumeMessage::Promise(facts()),
        VolumeMessage::PromiseRefused(PromiseRefused {
            reason: PromiseRefusal::OlderConfig(Box::new(line())),
            wait_ms: Some(3),
        }),
        VolumeMessage::Handshake(Box::new(Handshake {
            server: server(1),
            boot: BootId::new(5),
            kind: SessionKind::CatchUp,
            cause: SessionCause::Reconnect,
            history: Vec::new(),
            committed: lsn(1),
            tail: lsn(0),
            head: lsn(2),
            line: line(),
            given_up: Vec::new(),
        })),
        VolumeMessage::HandshakeAck(facts()),
        VolumeMessage::Truncate(Truncate { through: lsn(4) }),
        VolumeMessage::TruncationRecorded(TruncationRecorded {
            through: lsn(4),
            head: lsn(4),
        }),
        VolumeMessage::Records(Records {
            previous: lsn(7),
            count: 2,
            committed: lsn(6),
            acknowledged: lsn(5),
            headers: Bytes::from_static(b"two record headers"),
            payload: [payload(1), Payload::empty(), payload(9)]
                .into_iter()
                .collect(),
        }),
        VolumeMessage::Commit(Commit {
            committed: lsn(8),
            acknowledged: lsn(7),
        }),
        VolumeMessage::Ack(Ack {
            received: lsn(5),
            flushed: lsn(4),
            applied: lsn(3),
            checkpoint: lsn(2),
            tail: lsn(1),
        }),
        VolumeMessage::NeedRecords(NeedRecords { after: lsn(9) }),
        VolumeMessage::StreamEnded(StreamEnded {
            reason: StreamEndReason::FellBehind,
        }),
        VolumeMessage::Fetch(Fetch {
            range,
            bytes_max: 1 << 20,
        }),
        VolumeMessage::Fetched(Fetched {
            range,
            outcome: FetchOutcome::Records,
            count: 1,
            headers: Bytes::from_static(b"header"),
            payload: payload(2).into(),
        }),
        VolumeMessage::FetchBlock(FetchBlock {
            request: 1,
            block: BlockIndex::new(2),
            lsn: lsn(3),
            crc: 4,
        }),
        VolumeMessage::FetchedBlock(FetchedBlock {
            request: 1,
            block: BlockIndex::new(2),
            content: Some(payload(1)),
        }),
        VolumeMessage::Refused(Refused {
            reason: RefusedReason::Stale {
                epoch: Epoch::new(4, 0),
                config: ConfigVersion::new(1),
                line: Some(Box::new(line())),
            },
        }),
    ]
}

fn report() -> ReplicaReport {
    ReplicaReport {
        volume: VolumeId::new(1),
        store: StoreId::new(2),
        open: OpenCount::new(3),
        boot: BootId::new(4),
        openings: openings(),
        role: ReplicaRole::Primary,
        promised: Epoch::new(3, 0),
        line: Some(LineVersion {
            epoch: Epoch::new(3, 0),
            config: ConfigVersion::new(4),
        }),
        mark: MarkState::Committed,
        last_record_epoch: Epoch::new(3, 0),
        head: Lsn::new(9),
        flushed: None,
        applied: Lsn::new(7),
        checkpoint: Lsn::new(6),
        tail: Lsn::new(5),
        committed: Lsn::new(8),
        vote: VoteClaim::Has,
        image: ImageState::Whole,
        following: Some(FollowedPrimary {
            epoch: Epoch::new(3, 0),
            server: server(1),
            boot: BootId::new(5),
        }),
        serving: Serving::Yes,
        clients: 1,
        copies: Some(3),
        peers: vec![PeerReport {
            server: server(2),
            state: PeerState::CatchingUp,
            received: Lsn::new(3),
            flushed: Lsn::new(2),
            lag_records: 6,
            lag_bytes: 7,
            session: Some(SessionReport {
                id: "3-1".into(),
                kind: SessionKind::CatchUp,
                phase: SessionPhase::CatchingUp,
                target_lsn: Lsn::new(9),
                recovered_to: Lsn::new(2),
                percent: 22,
                rate_bytes_per_s: 1,
                limited_by: Some(LimitedBy::Network),
                cause: SessionCause::Reconnect,
            }),
        }],
        pins: vec![PinReport {
            kind: PinKind::Retention,
            lsn: Lsn::new(2),
            holder: "3-1".into(),
            age_ms: 5,
        }],
        log_fill_percent: 81,
        writes_slowed: Some(SlowWrites {
            bytes_per_s: 9,
            log_held_by: LogHolder::Flusher,
        }),
        damage: DamageReport {
            found: 3,
            repaired: 1,
            lost: 2,
        },
        master: Some(MasterRun {
            instance: 7,
            start: 2,
        }),
        known_line: Some(Box::new(KnownLine {
            line: line(),
            log_bytes: 1 << 28,
        })),
    }
}

fn control_messages() -> Vec<Message> {
    let to_master = |m| Message::ServerToMaster(Box::new(m));
    let to_server = |m| Message::MasterToServer(Box::new(m));
    vec![
        to_master(ServerToMaster::Heartbeat(Heartbeat {
            stores_opening: 0,
            seq: 1,
            sent_ns: 2,
            volumes: vec![report()],
        })),
        to_master(ServerToMaster::ChangeConfig(ChangeConfig {
            request_id: 1,
            volume: VolumeId::new(1),
            epoch: Epoch::new(3, 0),
            expected_config: ConfigVersion::new(4),
            in_sync: vec![InSyncMember {
                server: server(1),
                boot: BootId::new(5),
            }],
        })),
        to_master(ServerToMaster::PromotionFailed {
            volume: VolumeId::new(1),
            epoch: Epoch::new(3, 0),
            reason: PromotionFailure::CannotFetch,
            better: Some(server(2)),
        }),
        to_server(MasterToServer::Registered {
            cluster: ClusterId::new(1),
            start: 2,
            instance: 7,
            heartbeat_ms: 500,
        }),
        to_server(MasterToServer::Refused(RegisterRefusal::DuplicateServer {
            boot: BootId::new(1),
        })),
        to_server(MasterToServer::Assignment {
            line: line(),
            consent: LossConsent::No,
            loss_accepted: Some(Epoch::new(2, 0)),
        }),
        to_server(MasterToServer::Leases {
            heartbeat_seq: 1,
            ttl_ms: 2_000,
            granted: vec![MasterLease {
                volume: VolumeId::new(1),
                epoch: Epoch::new(3, 0),
                boot: BootId::new(5),
            }],
        }),
        to_server(MasterToServer::ChangeConfigDone {
            request_id: 1,
            volume: VolumeId::new(1),
            result: ChangeConfigResult::Recorded(line()),
        }),
        Message::ClientRequest {
            id: 1,
            request: Box::new(ClientRequest::CreateVolume(CreateVolume {
                name: "demo".into(),
                size_bytes: 1 << 30,
                replicas: 3,
                policy: None,
                ack: AckPoint::Flushed,
                log_bytes: 256 << 20,
                min_copies: None,
                no_quorum: Some(NoQuorum::Error(30)),
            })),
        },
        Message::ClientResponse {
            id: 1,
            response: Box::new(ClientResponse::Events(vec![EventRow {
                seq: 1,
                at_unix_ms: 2,
                event: EventKind::EpochMinted {
                    epoch: Epoch::new(3, 0),
                    primary: server(1),
                    in_sync: vec![server(1)],
                    cause: EventCause::PrimaryLost,
                },
            }])),
        },
    ]
}

/// One message of every kind there is, and more of some.
pub(crate) fn every_message() -> Vec<Message> {
    let header = VolumeHeader {
        volume: VolumeId::new(u128::MAX),
        store: StoreId::new(2),
        epoch: Epoch::new(3, 4),
        config: ConfigVersion::new(5),
        session: 6,
    };
    let mut all: Vec<Message> = volume_messages()
        .into_iter()
        .map(|body| Message::Volume(header, body))
        .collect();
    all.push(Message::Hello(Box::new(HelloMessage::Refused(
        HelloRefusal::WrongKey,
    ))));
    all.push(Message::LeaseRequest(LeaseRequest {
        sent_ns: 1,
        volumes: vec![LeaseAsked {
            volume: VolumeId::new(1),
            epoch: Epoch::new(3, 0),
            config: ConfigVersion::new(4),
            boot: BootId::new(5),
            ttl_ms: 2_000,
        }],
    }));
    all.push(Message::LeaseGrant(LeaseGrant {
        sent_ns: 1,
        granted: vec![LeaseGranted {
            volume: VolumeId::new(1),
            epoch: Epoch::new(3, 0),
            store: StoreId::new(2),
        }],
        refused: vec![LeaseRefused {
            volume: VolumeId::new(2),
            epoch: Epoch::new(3, 0),
            reason: LeaseRefusal::OtherHolder(promised()),
        }],
    }));
    all.extend(control_messages());
    all
}

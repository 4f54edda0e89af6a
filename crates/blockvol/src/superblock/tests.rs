use super::*;
use moorline_types::{AckPoint, Member, NoQuorum, Policy};

fn lsn(value: u64) -> Lsn {
    Lsn::new(value)
}

fn line() -> AssignmentLine {
    AssignmentLine {
        volume: VolumeId::new(2),
        name: "demo".into(),
        size_blocks: BlockCount::new(1000),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 2,
        epoch: Epoch::new(4, 1),
        config: ConfigVersion::new(9),
        primary: Some(("s1".parse().unwrap(), BootId::new(8))),
        members: vec![Member {
            server: "s1".parse().unwrap(),
            store: Some(StoreId::new(3)),
            open: OpenCount::new(7),
            opened_by: None,
            boot: None,
            data_addr: "127.0.0.1:1".into(),
            control_addr: "127.0.0.1:2".into(),
            nbd_addr: "127.0.0.1:3".into(),
            endpoint_version: 1,
        }],
        in_sync: vec!["s1".parse().unwrap()],
        no_quorum: NoQuorum::Error(30),
        lease_ms: 2000,
    }
}

fn openings() -> Openings {
    let opening = |open, boot| Opening {
        open: OpenCount::new(open),
        boot: BootId::new(boot),
    };
    Openings::from_list(vec![opening(5, 21), opening(7, 8)]).unwrap()
}

fn full() -> Superblock {
    Superblock {
        generation: 12,
        identity: StoreIdentity {
            cluster: ClusterId::new(1),
            volume: VolumeId::new(2),
            volume_name: "demo".into(),
            server: "s1".parse().unwrap(),
            store: StoreId::new(3),
        },
        layout: Layout::new(BlockCount::new(1000), 1 << 20).unwrap(),
        open: OpenCount::new(7),
        boot: Some(BootId::new(8)),
        openings: openings(),
        applied: lsn(50),
        checkpoint: lsn(40),
        anchor: LogAnchor {
            tail: lsn(30),
            position: 8192,
            sequence: 99,
            previous_crc: 0xfeed,
        },
        history: vec![
            EpochStart {
                epoch: Epoch::new(1, 0),
                first: lsn(1),
            },
            EpochStart {
                epoch: Epoch::new(4, 1),
                first: lsn(45),
            },
        ],
        durable: Durable {
            promised: Some(PromiseRecord {
                epoch: Epoch::new(5, 0),
                server: "s2".parse().unwrap(),
                boot: BootId::new(6),
            }),
            line: Some(line()),
            incomplete: true,
            needs_rebuild: true,
            given_up: vec![GivenUp {
                epoch: Epoch::new(4, 1),
                range: LsnRange::new(lsn(44), lsn(48)).unwrap(),
                why: GivenUpWhy::VolatileStands,
                mark: Epoch::new(6, 0),
            }],
            committed: lsn(48),
            clean_shutdown: true,
            master: Some(MasterRun {
                instance: 7,
                start: 9,
            }),
            memory_lost: true,
        },
    }
}

fn area(bytes: &[u8]) -> Vec<u8> {
    let mut area = vec![0; SUPERBLOCK_BYTES];
    area[..bytes.len()].copy_from_slice(bytes);
    area
}

fn encoded(superblock: &Superblock, copy: u32) -> Result<Vec<u8>, Full> {
    superblock.encode(copy, &mut EncodedLine::default())
}

#[test]
fn a_line_that_was_encoded_before_is_told_from_one_that_changed() {
    let mut superblock = full();
    let mut kept = EncodedLine::default();
    for config in [0, 0, 1, 1, 0] {
        let line = superblock.durable.line.as_mut().unwrap();
        line.config = ConfigVersion::new(config);
        superblock.generation += 1;
        assert_eq!(
            superblock.encode(0, &mut kept),
            encoded(&superblock, 0),
            "{config}"
        );
    }
    superblock.durable.line = None;
    assert_eq!(superblock.encode(0, &mut kept), encoded(&superblock, 0));
}

#[test]
fn everything_comes_back() {
    let bare = Superblock {
        boot: None,
        openings: Openings::default(),
        history: Vec::new(),
        durable: Durable::default(),
        ..full()
    };
    for superblock in [full(), bare] {
        for copy in 0..2 {
            let bytes = encoded(&superblock, copy).unwrap();
            assert_eq!(
                Superblock::decode(copy, &area(&bytes)),
                Ok(superblock.clone())
            );
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = encoded(&full(), 1).unwrap();
    for at in 0..bytes.len() * 8 {
        let mut area = area(&bytes);
        area[at / 8] ^= 1 << (at % 8);
        assert!(Superblock::decode(1, &area).is_err(), "bit {at}");
    }
}

#[test]
fn any_bytes_with_a_right_checksum_are_an_error_or_a_superblock_but_no_panic() {
    let bytes = encoded(&full(), 0).unwrap();
    let mut state = 1_u64;
    let mut refused = 0;
    for at in 20..bytes.len() {
        let mut changed = bytes.clone();
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        changed[at] = state.to_le_bytes()[7];
        let sealed = seal(changed).unwrap();
        refused += usize::from(Superblock::decode(0, &area(&sealed)).is_err());
    }
    assert!(
        refused > 50,
        "counts, lengths and texts are checked: {refused}"
    );
    for length in 0..300 {
        assert!(Superblock::decode(0, &bytes[..length]).is_err());
    }
}

#[test]
fn a_copy_knows_its_place() {
    let bytes = encoded(&full(), 0).unwrap();
    assert_eq!(
        Superblock::decode(1, &area(&bytes)),
        Err(CopyFault::BadField { field: "copy" })
    );
    assert_eq!(
        Superblock::decode(0, &vec![0; SUPERBLOCK_BYTES]),
        Err(CopyFault::Blank)
    );
}

#[test]
fn a_long_history_keeps_its_newest_lines_and_too_much_else_is_refused() {
    let mut superblock = full();
    superblock.history = (1..4_000)
        .map(|n| EpochStart {
            epoch: Epoch::new(n, 0),
            first: lsn(n),
        })
        .collect();
    let bytes = encoded(&superblock, 0).unwrap();
    let found = Superblock::decode(0, &area(&bytes)).unwrap();
    assert_eq!(found.history.len(), HISTORY_MAX);
    assert_eq!(found.history.last(), superblock.history.last());
    superblock.durable.given_up = vec![full().durable.given_up[0]; 3_000];
    assert_eq!(encoded(&superblock, 0), Err(Full));
}

#[test]
fn as_many_given_up_ranges_as_are_allowed_fit_beside_everything_else() {
    let mut superblock = full();
    superblock.history = (1..4_000)
        .map(|n| EpochStart {
            epoch: Epoch::new(n, 0),
            first: lsn(n),
        })
        .collect();
    superblock.durable.given_up = (0..)
        .take(GIVEN_UP_MAX)
        .map(|n| GivenUp {
            epoch: Epoch::new(n, 0),
            range: LsnRange::new(lsn(n), Lsn::MAX).unwrap(),
            why: GivenUpWhy::Doubtful,
            mark: Epoch::new(n + 1, 0),
        })
        .collect();
    let bytes = encoded(&superblock, 0).unwrap();
    let found = Superblock::decode(0, &area(&bytes)).unwrap();
    assert_eq!(found.durable, superblock.durable);
}

#[test]
fn committed_known_counts_what_was_applied() {
    let mut superblock = full();
    assert_eq!(superblock.committed_known(), lsn(50));
    superblock.durable.committed = lsn(60);
    assert_eq!(superblock.committed_known(), lsn(60));
}

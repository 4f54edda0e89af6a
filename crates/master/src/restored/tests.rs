use moorline_types::{
    AckPoint, BlockCount, BootId, ConfigVersion, Epoch, Member, NoQuorum, OpenCount, Opening,
    Openings, StoreId, VolumeId,
};
use moorline_wire::control::LineVersion;

use super::*;

fn server(n: u128) -> ServerId {
    format!("s{n}").parse().unwrap()
}

fn line(policy: Policy, epoch: u64, config: u64) -> AssignmentLine {
    let member = |n| Member {
        server: server(n),
        store: Some(StoreId::new(n)),
        open: OpenCount::new(4),
        opened_by: Some(BootId::new(n)),
        boot: None,
        data_addr: String::new(),
        control_addr: String::new(),
        nbd_addr: String::new(),
        endpoint_version: 1,
    };
    AssignmentLine {
        volume: VolumeId::new(1),
        name: "demo".into(),
        size_blocks: BlockCount::new(1),
        policy,
        ack: AckPoint::Flushed,
        min_copies: 1,
        epoch: Epoch::new(epoch, 0),
        config: ConfigVersion::new(config),
        primary: Some((server(1), BootId::new(1))),
        members: (1..=3).map(member).collect(),
        in_sync: (1..=3).map(server).collect(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2_000,
    }
}

fn store(n: u128, line: Option<&AssignmentLine>) -> StoreReport {
    StoreReport {
        volume: VolumeId::new(1),
        store: StoreId::new(n),
        open: OpenCount::new(4),
        boot: BootId::new(n),
        openings: openings(4, n),
        promised: Epoch::ZERO,
        line: line.map(|line| LineVersion {
            epoch: line.epoch,
            config: line.config,
        }),
        master: None,
    }
}

/// A store's openings, the last of them number `open` by `boot`.
fn openings(open: u64, boot: u128) -> Openings {
    Openings::first(Opening {
        open: OpenCount::new(open),
        boot: BootId::new(boot),
    })
}

/// What seats 1, 2, ... say, each of its own line.
fn weighed(own: Option<&AssignmentLine>, said: &[(StoreReport, Option<&AssignmentLine>)]) -> Known {
    let servers: Vec<ServerId> = (1..=3).map(server).collect();
    let told: Vec<Told<'_>> = said
        .iter()
        .zip(&servers)
        .map(|((store, line), server)| Told {
            server,
            store: Some(store),
            line: *line,
        })
        .collect();
    weigh(own, |_| None, &told).unwrap()
}

#[test]
fn a_majority_is_enough_under_sync_quorum_and_every_seat_otherwise() {
    for (policy, said, enough) in [
        (Policy::SyncQuorum, 1, false),
        (Policy::SyncQuorum, 2, true),
        (Policy::SyncAll, 2, false),
        (Policy::SyncAll, 3, true),
        (Policy::BestEffort, 2, false),
        (Policy::BestEffort, 3, true),
    ] {
        let line = line(policy, 3, 5);
        let said: Vec<_> = (1..=said)
            .map(|n| (store(n, Some(&line)), Some(&line)))
            .collect();
        assert_eq!(
            weighed(None, &said).is_enough(),
            enough,
            "{policy} {}",
            said.len()
        );
    }
}

#[test]
fn what_the_copy_says_goes_behind_what_members_say() {
    let (older, newer) = (
        line(Policy::SyncQuorum, 3, 5),
        line(Policy::SyncQuorum, 9, 1),
    );
    for own in [&older, &newer] {
        let said = [
            (store(1, Some(&older)), Some(&older)),
            (store(2, None), None),
        ];
        let known = weighed(Some(own), &said);
        assert_eq!(known.newest, older);
        assert!(
            known.is_enough(),
            "a store that never had a line knows none"
        );
    }
    let known = weighed(
        Some(&older),
        &[(store(1, None), None), (store(2, None), None)],
    );
    assert_eq!(known.newest, older, "when nobody knows any");
}

#[test]
fn a_store_counts_only_as_the_newest_line_knows_it() {
    let line = line(Policy::SyncQuorum, 3, 5);
    let intact = store(1, Some(&line));
    let wiped = StoreReport {
        store: StoreId::new(77),
        ..store(2, Some(&line))
    };
    let rolled_back = StoreReport {
        open: OpenCount::new(3),
        openings: openings(3, 2),
        ..store(2, Some(&line))
    };
    let copied = StoreReport {
        boot: BootId::new(99),
        openings: openings(4, 99),
        ..store(2, Some(&line))
    };
    for other in [wiped, rolled_back, copied] {
        let said = [(intact.clone(), Some(&line)), (other.clone(), Some(&line))];
        let known = weighed(None, &said);
        assert!(!known.is_enough(), "{other:?}");
        assert_eq!(known.missing, [server(2), server(3)]);
    }
}

#[test]
fn a_version_without_its_line_is_waited_for() {
    let (older, newer) = (
        line(Policy::SyncQuorum, 3, 5),
        line(Policy::SyncQuorum, 4, 6),
    );
    let said = [
        (store(1, Some(&older)), Some(&older)),
        (store(2, Some(&newer)), None),
    ];
    assert!(!weighed(Some(&older), &said).is_enough());
}

#[test]
fn two_contents_of_one_version_are_nobodys_to_choose() {
    let one = line(Policy::SyncQuorum, 3, 5);
    let mut other = one.clone();
    other.in_sync.pop();
    let said = [
        (store(1, Some(&one)), Some(&one)),
        (store(2, Some(&other)), Some(&other)),
    ];
    let known = weighed(Some(&one), &said);
    assert!(known.conflict && !known.is_enough());
}

#[test]
fn a_line_that_no_sane_master_minted_is_not_taken_over() {
    let own = line(Policy::SyncQuorum, 3, 5);
    let mad = line(Policy::SyncQuorum, 4 + Epoch::JUMP_MAX, 6);
    let said = [
        (store(1, Some(&mad)), Some(&mad)),
        (store(2, Some(&own)), Some(&own)),
    ];
    assert_eq!(weighed(Some(&own), &said).newest, own);
}

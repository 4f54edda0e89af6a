use expect_test::expect;
use moorline_types::{
    AckPoint, BootId, ClusterId, ConfigVersion, Epoch, Lsn, Policy, ServerId, StoreId, VolumeId,
};
use moorline_wire::control::{
    ClusterStatus, EventCause, EventKind, EventRow, Health, LimitedBy, PinKind, PinStatus,
    PromotionFailure, ReplicaState, ReplicaStatus, ServerState, ServerStatus, SessionCause,
    SessionKind, SessionPhase, SessionStatus, VolumeStatus, VolumeSummary, VoteState,
};

use super::*;

fn server(n: u32) -> ServerId {
    format!("s{n}").parse().unwrap()
}

fn replica(n: u32, state: ReplicaState) -> ReplicaStatus {
    ReplicaStatus {
        server_id: server(n),
        state,
        vote: VoteState::Yes,
        store_uuid: Some(StoreId::new(u128::from(n))),
        recorded_store_uuid: Some(StoreId::new(u128::from(n))),
        last_record_epoch: Some(Epoch::new(3, 0)),
        head_lsn: Some(Lsn::new(12_345)),
        flushed_lsn: Some(Lsn::new(12_345)),
        applied_lsn: Some(Lsn::new(12_000)),
        checkpoint_lsn: Some(Lsn::new(9_999)),
        tail_lsn: Some(Lsn::new(9_000)),
        lag_records: Some(0),
        lag_bytes: Some(0),
        session: None,
        pins: Vec::new(),
        log_fill_percent: Some(3),
        writes_slowed: None,
        damage: Some(moorline_wire::control::DamageReport::default()),
    }
}

fn whole() -> VolumeStatus {
    VolumeStatus {
        id: VolumeId::new(5),
        name: "demo".to_owned(),
        size: 1 << 30,
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 2,
        no_quorum: moorline_types::NoQuorum::Wait,
        health: Health::Ok,
        epoch: 3,
        reign: 0,
        config_version: ConfigVersion::new(4),
        primary: Some(server(1)),
        nbd_uri: Some("nbd://127.0.0.1:10809/demo".to_owned()),
        serving: true,
        in_sync_set: vec![server(1), server(2), server(3)],
        copies: Some(3),
        reason: None,
        committed_lsn: Some(Lsn::new(12_345)),
        replicas: vec![
            replica(1, ReplicaState::Primary),
            replica(2, ReplicaState::InSync),
            replica(3, ReplicaState::InSync),
        ],
    }
}

fn troubled() -> VolumeStatus {
    let mut volume = whole();
    volume.health = Health::Degraded;
    volume.in_sync_set.pop();
    volume.copies = Some(1);
    volume.reason = Some("s3 is not connected".to_owned());
    let lagging = &mut volume.replicas[1];
    lagging.state = ReplicaState::CatchingUp;
    lagging.lag_records = Some(1_500);
    lagging.lag_bytes = Some(6 << 20);
    lagging.session = Some(SessionStatus {
        id: "7-2".to_owned(),
        kind: SessionKind::CatchUp,
        phase: SessionPhase::CatchingUp,
        target_lsn: Lsn::new(12_345),
        recovered_to: Lsn::new(10_845),
        percent: 60,
        rate_bytes_per_s: 12 << 20,
        limited_by: Some(LimitedBy::ReplicaDevice),
        cause: SessionCause::Reconnect,
    });
    volume.replicas[0].pins.push(PinStatus {
        kind: PinKind::Retention,
        lsn: Lsn::new(9_000),
        holder: "session 7-2".to_owned(),
        age_ms: 3_500,
    });
    volume.replicas[2] = ReplicaStatus {
        vote: VoteState::OtherStore,
        store_uuid: None,
        last_record_epoch: None,
        head_lsn: None,
        flushed_lsn: None,
        applied_lsn: None,
        checkpoint_lsn: None,
        tail_lsn: None,
        lag_records: None,
        lag_bytes: None,
        ..replica(3, ReplicaState::Unreachable)
    };
    volume
}

fn servers_of(states: &[ServerState]) -> Vec<ServerStatus> {
    (1_u32..)
        .zip(states)
        .map(|(n, &state)| ServerStatus {
            server_id: server(n),
            state,
            boot: Some(BootId::new(u128::from(n))),
            data_addr: format!("127.0.0.1:120{n}0"),
            control_addr: format!("127.0.0.1:120{n}1"),
            nbd_addr: "127.0.0.1:10809".to_owned(),
            version: "0.1.0".to_owned(),
            silent_ms: Some(120),
            seats: 1,
        })
        .collect()
}

#[test]
fn a_whole_volume_is_shown_with_its_replicas() {
    expect![[r#"
        volume demo: ok
          1 GiB, sync_quorum at flushed, the next write has 3 copies
          epoch 3, config 4, primary s1, in sync: s1 s2 s3, committed 12345
          nbd://127.0.0.1:10809/demo
          REPLICA  STATE    VOTE   HEAD  FLUSHED  APPLIED  CHECKPOINT  TAIL  LAG
          s1       primary  yes   12345    12345    12000        9999  9000    0
          s2       in_sync  yes   12345    12345    12000        9999  9000    0
          s3       in_sync  yes   12345    12345    12000        9999  9000    0
    "#]]
    .assert_eq(&volume(&whole(), Paint::Plain));
}

#[test]
fn a_troubled_volume_is_shown_with_its_session_and_pins() {
    expect![[r#"
        volume demo: degraded
          s3 is not connected
          1 GiB, sync_quorum at flushed, the next write has 1 copy
          epoch 3, config 4, primary s1, in sync: s1 s2, committed 12345
          nbd://127.0.0.1:10809/demo
          REPLICA  STATE        VOTE          HEAD  FLUSHED  APPLIED  CHECKPOINT  TAIL           LAG
          s1       primary      yes          12345    12345    12000        9999  9000             0
            pin retention: records above 9000 held by session 7-2 for 3 s
          s2       catching_up  yes          12345    12345    12000        9999  9000  1500 (6 MiB)
            session 7-2: catch_up, catching_up, 60 % (10845 of 12345), 12 MiB/s, because of reconnect, limited by replica_device
          s3       unreachable  other_store      -        -        -           -     -             -
    "#]].assert_eq(&volume(&troubled(), Paint::Plain));
}

#[test]
fn a_volume_that_is_not_served_says_so() {
    let mut status = whole();
    status.health = Health::Unavailable;
    status.serving = false;
    status.primary = None;
    status.nbd_uri = None;
    status.copies = None;
    status.reign = 2;
    status.reason = Some("no majority of the members answers".to_owned());
    status.replicas.clear();
    expect![[r#"
        volume demo: unavailable, not serving
          no majority of the members answers
          1 GiB, sync_quorum at flushed
          epoch 3.2, config 4, primary none, in sync: s1 s2 s3, committed 12345
          REPLICA  STATE  VOTE  HEAD  FLUSHED  APPLIED  CHECKPOINT  TAIL  LAG
    "#]]
    .assert_eq(&volume(&status, Paint::Plain));
}

#[test]
fn the_cluster_is_servers_and_volumes() {
    let mut status = ClusterStatus {
        cluster: ClusterId::new(1),
        master_start: 2,
        master_instance: String::new(),
        master_restored: None,
        unknown_volumes: Vec::new(),
        servers: servers_of(&[ServerState::Up, ServerState::Down]),
        volumes: vec![whole()],
    };
    expect![[r#"
        SERVER  STATE  SEATS  NBD              DATA             CONTROL          VERSION
        s1      up         1  127.0.0.1:10809  127.0.0.1:12010  127.0.0.1:12011  0.1.0
        s2      down       1  127.0.0.1:10809  127.0.0.1:12020  127.0.0.1:12021  0.1.0

        volume demo: ok
          1 GiB, sync_quorum at flushed, the next write has 3 copies
          epoch 3, config 4, primary s1, in sync: s1 s2 s3, committed 12345
          nbd://127.0.0.1:10809/demo
          REPLICA  STATE    VOTE   HEAD  FLUSHED  APPLIED  CHECKPOINT  TAIL  LAG
          s1       primary  yes   12345    12345    12000        9999  9000    0
          s2       in_sync  yes   12345    12345    12000        9999  9000    0
          s3       in_sync  yes   12345    12345    12000        9999  9000    0
    "#]]
    .assert_eq(&cluster(&status, Paint::Plain));
    status.servers.clear();
    status.volumes.clear();
    expect![[r#"
        no servers yet: `moorline serve` starts one

        no volumes: `moorline volume create` makes one
    "#]]
    .assert_eq(&cluster(&status, Paint::Plain));
}

#[test]
fn volumes_are_listed_in_columns() {
    let summary = |name: &str, health| VolumeSummary {
        id: VolumeId::new(1),
        name: name.to_owned(),
        size: 1 << 30,
        policy: Policy::SyncAll,
        ack: AckPoint::Received,
        replicas: 2,
        health,
        primary: Some(server(1)),
        epoch: 12,
    };
    let volumes = [
        summary("demo", Health::Ok),
        summary("a-longer-name", Health::Unavailable),
    ];
    expect![[r#"
        NAME            SIZE  REPLICAS  POLICY    ACK       HEALTH       PRIMARY  EPOCH
        demo           1 GiB         2  sync_all  received  ok           s1          12
        a-longer-name  1 GiB         2  sync_all  received  unavailable  s1          12
    "#]]
    .assert_eq(&volume_list(&volumes, Paint::Plain));
    expect![[r#"
        no volumes: `moorline volume create` makes one
    "#]]
    .assert_eq(&volume_list(&[], Paint::Plain));
}

#[test]
fn colour_marks_states_and_moves_no_column() {
    let plain = volume(&troubled(), Paint::Plain);
    let mut painted = volume(&troubled(), Paint::Color);
    assert!(painted.contains("\x1b[33mdegraded\x1b[0m"), "{painted}");
    for code in ["\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
        painted = painted.replace(code, "");
    }
    assert_eq!(painted, plain);
}

#[test]
fn events_are_lines() {
    let row = |seq, event| EventRow {
        seq,
        at_unix_ms: 1_767_225_600_001,
        event,
    };
    let rows = [
        row(
            1,
            EventKind::EpochMinted {
                epoch: Epoch::new(2, 0),
                primary: server(2),
                in_sync: vec![server(2), server(3)],
                cause: EventCause::PrimaryLost,
            },
        ),
        row(
            2,
            EventKind::PromotionFailed {
                epoch: Epoch::new(2, 0),
                server: server(2),
                reason: PromotionFailure::Superseded {
                    epoch: Epoch::new(9, 0),
                },
            },
        ),
        row(
            3,
            EventKind::Reported {
                server: server(1),
                epoch: Epoch::new(2, 0),
                name: "divergent_tail_cut".to_owned(),
                peer: Some(server(2)),
                detail: "7 records above 12".to_owned(),
            },
        ),
    ];
    let lines: Vec<String> = rows.iter().map(event).collect();
    expect![[r#"
        2026-01-01T00:00:00.001Z    1  epoch_minted 2: s2 is to lead, in sync: s2 s3, because of primary_lost
        2026-01-01T00:00:00.001Z    2  promotion_failed: s2 declined epoch 2: superseded
        2026-01-01T00:00:00.001Z    3  divergent_tail_cut by s1 in epoch 2 about s2: 7 records above 12"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_summary_changes_with_states_and_not_with_positions() {
    let mut later = whole();
    later.committed_lsn = Some(Lsn::new(99_999));
    later.replicas[1].head_lsn = Some(Lsn::new(99_999));
    assert_eq!(summary_line(&later), summary_line(&whole()));
    expect!["volume demo: ok, serving, epoch 3, primary s1, in sync: s1 s2 s3; s1 primary; s2 in_sync; s3 in_sync"].assert_eq(&summary_line(&whole()));
    expect!["volume demo: degraded, serving, epoch 3, primary s1, in sync: s1 s2; s1 primary; s2 catching_up; s3 unreachable (s3 is not connected)"].assert_eq(&summary_line(&troubled()));
}

#[test]
fn json_has_the_names_that_scripts_rely_on() {
    let value = serde_json::to_value(troubled()).unwrap();
    for name in [
        "name",
        "size",
        "policy",
        "ack",
        "epoch",
        "config_version",
        "primary",
        "in_sync_set",
        "committed_lsn",
        "replicas",
    ] {
        assert!(value.get(name).is_some(), "{name}");
    }
    for name in [
        "server_id",
        "state",
        "vote",
        "store_uuid",
        "head_lsn",
        "flushed_lsn",
        "applied_lsn",
        "checkpoint_lsn",
        "tail_lsn",
        "lag_records",
        "lag_bytes",
        "session",
        "pins",
    ] {
        assert!(value["replicas"][1].get(name).is_some(), "{name}");
    }
    for name in [
        "id",
        "kind",
        "phase",
        "target_lsn",
        "recovered_to",
        "percent",
        "rate_bytes_per_s",
        "limited_by",
        "cause",
    ] {
        assert!(
            value["replicas"][1]["session"].get(name).is_some(),
            "{name}"
        );
    }
    let mut text = Vec::new();
    json_line(&mut text, &whole()).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), 1);
}

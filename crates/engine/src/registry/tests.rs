use std::fmt::Write as _;

use expect_test::expect;
use moorline_types::{AckPoint, BlockCount, NoQuorum, Policy};

use super::*;
use crate::{
    event::Fact,
    sender::Bucket,
    testing::{OLD_HISTORY, acked, answered, at, brief, joined},
};

fn server(n: u64) -> ServerId {
    format!("s{n}").parse().unwrap()
}

fn epoch(n: u64) -> Epoch {
    Epoch::new(n, 0)
}

/// A line of epoch and config version with members (server, endpoint version).
fn line(reign: u64, config: u64, members: &[(u64, u64)]) -> AssignmentLine {
    let member = |&(n, version): &(u64, u64)| Member {
        server: server(n),
        store: None,
        open: OpenCount::new(1),
        opened_by: None,
        boot: None,
        data_addr: format!("10.0.{version}.{n}:1"),
        control_addr: format!("10.0.{version}.{n}:2"),
        nbd_addr: format!("10.0.{version}.{n}:3"),
        endpoint_version: version,
    };
    AssignmentLine {
        volume: VolumeId::new(1),
        name: "demo".into(),
        size_blocks: BlockCount::new(1),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 1,
        epoch: epoch(reign),
        config: ConfigVersion::new(config),
        primary: None,
        members: members.iter().map(member).collect(),
        in_sync: Vec::new(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2_000,
    }
}

const ALL: [(u64, u64); 3] = [(1, 1), (2, 1), (3, 1)];

/// The registry of server s1, after some assignments.
struct Stage {
    registry: Registry,
    out: Actions,
}

impl Stage {
    fn new() -> Self {
        let identity = RegistryIdentity {
            volume: VolumeId::new(1),
            own: server(1),
            open: OpenCount::new(3),
        };
        Self {
            registry: Registry::new(identity, epoch(2), SenderConfig::default()),
            out: Actions::new(),
        }
    }

    fn three() -> Self {
        let mut stage = Self::new();
        assert!(matches!(
            stage.apply(&line(2, 1, &ALL)),
            Applied::Reconciled(_)
        ));
        stage.out.clear();
        stage
    }

    fn apply(&mut self, line: &AssignmentLine) -> Applied {
        self.registry.apply(at(0), line, &mut self.out)
    }

    fn bring_in_sync(&mut self, n: u64) {
        let up = self
            .registry
            .link_up(at(0), &server(n), Cause::Reconnect, &mut self.out);
        assert_eq!(up, Answer::Done);
        let facts = [
            answered(&OLD_HISTORY, 40),
            Fact::PlanBound,
            acked(60),
            joined(75),
            acked(75),
            Fact::InSyncRecorded,
        ];
        let stamp = self
            .registry
            .sender(&server(n))
            .unwrap()
            .session()
            .unwrap()
            .stamp();
        for fact in facts {
            let event = Event::Session { stamp, fact };
            let said = self
                .registry
                .handle(at(0), &server(n), event, &mut self.out);
            assert_eq!(said, Answer::Done);
        }
        self.out.clear();
    }

    fn told(&self) -> String {
        let mut text = String::new();
        for (server, sender) in self.registry.senders() {
            write!(text, "{server}={} ", sender.bucket()).unwrap();
        }
        text.trim_end().to_owned()
    }
}

fn summary(applied: &Applied) -> String {
    match applied {
        Applied::Reconciled(done) => {
            let names = |list: &[ServerId]| {
                let names: Vec<&str> = list.iter().map(ServerId::as_str).collect();
                names.join(",")
            };
            let failed: Vec<String> = done
                .failed
                .iter()
                .map(|(server, why)| format!("{server}: {why}"))
                .collect();
            format!(
                "added={} removed={} created={} superseded={} failed={}",
                names(&done.added),
                names(&done.removed),
                names(&done.created),
                names(&done.superseded),
                failed.join("; ")
            )
        }
        Applied::Unchanged => "unchanged".into(),
        Applied::Refused(refused) => format!("refused: {refused}"),
    }
}

#[test]
fn the_first_assignment_adds_every_other_member_and_begins() {
    let mut stage = Stage::new();
    let applied = stage.apply(&line(2, 1, &[(3, 1), (1, 1), (2, 1)]));
    let told = summary(&applied);
    assert_eq!(
        told,
        "added=s2,s3 removed= created=s2,s3 superseded= failed="
    );
    assert_eq!(stage.told(), "s2=connecting s3=connecting");
    assert!(
        stage.registry.sender(&server(1)).is_none(),
        "its own replica is no target"
    );
    let cause = stage
        .registry
        .sender(&server(2))
        .unwrap()
        .session()
        .unwrap()
        .cause();
    assert_eq!(cause, Cause::Bootstrap);
}

#[test]
fn assignments_are_reconciled_and_say_what_changed() {
    let told = |next: AssignmentLine| {
        let mut stage = Stage::three();
        stage.bring_in_sync(2);
        let applied = summary(&stage.apply(&next));
        format!("{applied} | {}", stage.told())
    };
    expect!["unchanged | s2=in_sync s3=connecting"].assert_eq(&told(line(2, 1, &ALL)));
    expect!["added= removed= created= superseded= failed= | s2=in_sync s3=connecting"]
        .assert_eq(&told(line(2, 2, &ALL)));
    expect!["added=s4 removed=s3 created=s4 superseded= failed= | s2=in_sync s4=connecting"]
        .assert_eq(&told(line(2, 2, &[(1, 1), (2, 1), (4, 1)])));
    // A moved replica loses its standing and gets a new session, under the same identity.
    expect!["added= removed= created=s2 superseded=s2 failed= | s2=connecting s3=connecting"]
        .assert_eq(&told(line(2, 2, &[(1, 1), (2, 2), (3, 1)])));
    // A newer epoch ends in_sync as well, live session or not.
    expect!["added= removed= created=s2,s3 superseded=s2,s3 failed= | s2=connecting s3=connecting"]
        .assert_eq(&told(line(3, 2, &ALL)));
}

#[test]
fn a_stale_or_foreign_assignment_touches_nothing() {
    let mut newest = Stage::three();
    assert!(matches!(
        newest.apply(&line(2, 5, &ALL)),
        Applied::Reconciled(_)
    ));
    newest.out.clear();
    let mut other_volume = line(9, 9, &[(1, 1)]);
    other_volume.volume = VolumeId::new(2);
    // Each of them would remove s2 and s3 and add s4.
    let replaced = [(1, 1), (4, 1)];
    for (next, why) in [
        (line(1, 9, &replaced), "epoch 1 is stale: this side is at 2"),
        (
            line(2, 4, &replaced),
            "config version 4 of epoch 2 is stale: 5 is known",
        ),
        (
            line(2, 5, &replaced),
            "two different assignments are both called epoch 2, config version 5",
        ),
        (
            line(3 + Epoch::JUMP_MAX, 1, &replaced),
            "epoch 4294967299 is an impossible jump from 2",
        ),
        (
            other_volume,
            "the assignment is about volume 00000000000000000000000000000002",
        ),
    ] {
        let before = newest.registry.clone();
        assert_eq!(summary(&newest.apply(&next)), format!("refused: {why}"));
        assert_eq!(newest.registry, before);
        assert!(newest.out.is_empty());
    }
}

#[test]
fn a_stale_or_contradicting_endpoint_fails_alone() {
    let mut stage = Stage::three();
    stage.bring_in_sync(2);
    let mut next = line(2, 2, &[(1, 1), (2, 0), (3, 1)]);
    next.members[2].data_addr = "10.9.9.9:1".into();
    let told = summary(&stage.apply(&next));
    expect![
        "added= removed= created= superseded= failed=s2: endpoint version 0 is stale: 1 is known; \
         s3: endpoint version 1 names two addresses"
    ]
    .assert_eq(&told);
    assert_eq!(stage.told(), "s2=in_sync s3=connecting");
}

#[test]
fn a_replica_that_needs_a_rebuild_fails_to_begin_and_says_why() {
    let mut stage = Stage::three();
    let up = stage
        .registry
        .link_up(at(0), &server(2), Cause::Reconnect, &mut stage.out);
    assert_eq!(up, Answer::Done);
    let stamp = stage
        .registry
        .sender(&server(2))
        .unwrap()
        .session()
        .unwrap()
        .stamp();
    let fact = answered(&OLD_HISTORY, 9);
    let event = Event::Session { stamp, fact };
    let said = stage
        .registry
        .handle(at(0), &server(2), event, &mut stage.out);
    assert_eq!(said, Answer::Done);
    let told = summary(&stage.apply(&line(3, 1, &ALL)));
    expect!["added= removed= created=s3 superseded=s3 failed=s2: the replica needs a rebuild"]
        .assert_eq(&told);
    assert_eq!(stage.told(), "s2=needs_rebuild s3=connecting");
}

#[test]
fn a_promise_to_another_ends_everything_until_an_assignment_names_us_again() {
    let mut stage = Stage::three();
    stage.bring_in_sync(2);
    let raised = stage.registry.raise_epoch(at(0), epoch(4), &mut stage.out);
    assert_eq!(raised, Raise::Raised { from: epoch(2) });
    assert_eq!(stage.told(), "s2=disconnected s3=disconnected");
    assert!(matches!(
        stage.apply(&line(3, 7, &ALL)),
        Applied::Refused(_)
    ));
    let told = summary(&stage.apply(&line(4, 1, &ALL)));
    assert_eq!(told, "added= removed= created=s2,s3 superseded= failed=");
}

#[test]
fn ids_ascend_over_all_replicas_and_opens() {
    let mut stage = Stage::three();
    let first = stage.registry.fresh_session_id();
    stage.bring_in_sync(2);
    let second = stage.registry.fresh_session_id();
    assert!(first < second);
    let next_open = SessionId::new(OpenCount::new(4), 1);
    assert!(second < next_open);
}

#[test]
fn timers_wake_only_those_that_are_late() {
    let mut stage = Stage::three();
    let up = stage
        .registry
        .link_up(at(0), &server(2), Cause::Reconnect, &mut stage.out);
    assert_eq!(up, Answer::Done);
    let up = stage
        .registry
        .link_up(at(5), &server(3), Cause::Reconnect, &mut stage.out);
    assert_eq!(up, Answer::Done);
    stage.out.clear();
    let deadline = stage.registry.next_deadline().unwrap();
    stage.registry.deadline_reached(deadline, &mut stage.out);
    assert_eq!(stage.told(), "s2=disconnected s3=connecting");
    expect![
        "!handshake_failed !session_failed handshake->invalidated Release(SessionEnded) \
         [connecting->disconnected]"
    ]
    .assert_eq(&brief(&stage.out));
}

#[test]
fn an_unknown_server_is_answered_as_stopped() {
    let mut stage = Stage::three();
    let up = stage
        .registry
        .link_up(at(0), &server(9), Cause::Reconnect, &mut stage.out);
    assert_eq!(up, Answer::Refused(Refusal::Stopped));
    let statuses = stage.registry.status();
    let buckets: Vec<Bucket> = statuses.iter().map(|status| status.bucket).collect();
    assert_eq!(buckets, [Bucket::Connecting, Bucket::Connecting]);
}

/// Refused: with these words, and nothing changed.
fn refused(stage: &mut Stage, line: &AssignmentLine) -> String {
    let (before, acted) = (stage.registry.clone(), stage.out.len());
    let applied = stage.apply(line);
    assert_eq!(stage.registry, before);
    assert_eq!(stage.out.len(), acted);
    match applied {
        Applied::Refused(refusal) => refusal.to_string(),
        other @ (Applied::Reconciled(_) | Applied::Unchanged) => panic!("{other:?}"),
    }
}

#[test]
fn an_assignment_that_makes_no_sense_touches_nothing() {
    let mut stage = Stage::three();
    assert_eq!(
        refused(&mut stage, &line(3, 7, &[])),
        "the assignment of epoch 3, config version 7 names no member"
    );
    let twice = [(1, 1), (2, 1), (3, 1), (2, 2)];
    assert_eq!(
        refused(&mut stage, &line(3, 7, &twice)),
        "server s2 is named 2 times"
    );
    // Two replicas at one place: one would get the other's records. Either listener counts.
    let mut shared = line(3, 7, &ALL);
    shared.members[2].data_addr = shared.members[1].data_addr.clone();
    let text = "servers s2 and s3 are both said to be at 10.0.1.2:1";
    assert_eq!(refused(&mut stage, &shared), text);
    let mut shared = line(3, 7, &ALL);
    shared.members[0].control_addr = shared.members[2].data_addr.clone();
    let text = "servers s1 and s3 are both said to be at 10.0.1.3:1";
    assert_eq!(refused(&mut stage, &shared), text);
    // Out of order is unusual and means the same.
    let told = stage.apply(&line(2, 2, &[(3, 1), (1, 1), (2, 1)]));
    assert_eq!(
        summary(&told),
        summary(&Applied::Reconciled(Reconciled::default()))
    );
}

#[test]
fn an_epoch_near_the_end_of_numbers_is_a_jump_or_an_epoch_like_any_other() {
    let mut stage = Stage::three();
    let far = refused(&mut stage, &line(u64::MAX, 1, &ALL));
    assert!(far.contains("impossible jump"), "{far}");
    // From nearby it is no jump; and there is nothing above it.
    let identity = stage.registry.identity.clone();
    let last = Epoch::new(u64::MAX, u64::MAX);
    let mut registry = Registry::new(
        identity,
        Epoch::new(u64::MAX - 1, 0),
        SenderConfig::default(),
    );
    let mut out = Actions::new();
    assert!(matches!(
        registry.raise_epoch(at(0), last, &mut out),
        Raise::Raised { .. }
    ));
    assert_eq!(registry.raise_epoch(at(0), last, &mut out), Raise::Same);
    registry.assert_invariants();
}

#[test]
fn what_is_decided_for_all_senders_is_not_said_to_one() {
    let mut stage = Stage::three();
    let elsewhere = Endpoint {
        data: "10.9.9.9:1".into(),
        control: String::new(),
        version: 9,
    };
    for event in [
        Event::EpochRaised { to: epoch(3) },
        Event::EndpointChanged(elsewhere),
        Event::StopRequested,
    ] {
        let before = stage.registry.clone();
        let said = stage
            .registry
            .handle(at(0), &server(2), event, &mut stage.out);
        assert_eq!(said, Answer::Refused(Refusal::NotForOne));
        assert_eq!(stage.registry, before);
        assert!(stage.out.is_empty());
    }
}

#[test]
fn a_new_config_version_with_the_same_members_touches_no_session() {
    let mut stage = Stage::three();
    stage.bring_in_sync(2);
    let before: Vec<_> = stage
        .registry
        .senders()
        .map(|(_, sender)| sender.clone())
        .collect();
    let told = stage.apply(&line(2, 2, &ALL));
    assert_eq!(
        summary(&told),
        summary(&Applied::Reconciled(Reconciled::default()))
    );
    let after: Vec<_> = stage
        .registry
        .senders()
        .map(|(_, sender)| sender.clone())
        .collect();
    assert_eq!(after, before);
    assert!(stage.out.is_empty());
}

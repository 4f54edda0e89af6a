#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one answer")]

use std::fmt::Write as _;

use expect_test::{expect, expect_file};
use moorline_types::{Lsn, VolumeId};

use super::*;
use crate::{
    facts::PrimaryFacts,
    session::{PinKind, PinRefusal, PinRefusedReason},
    testing::*,
};

const CATCH_UP: SessionKind = SessionKind::CatchUp;
const REBUILDS: SessionKind = SessionKind::Rebuild;

fn epoch(n: u64) -> Epoch {
    Epoch::new(n, 0)
}

fn endpoint(version: u64) -> Endpoint {
    Endpoint {
        data: format!("10.0.0.{version}:1"),
        control: format!("10.0.0.{version}:2"),
        version,
    }
}

/// One sender, what it did, and the ids given out.
#[derive(Clone)]
struct Stage {
    sender: Sender,
    out: Actions,
    next: u64,
}

impl Stage {
    fn new() -> Self {
        Self::with(SenderConfig::default())
    }

    fn with(config: SenderConfig) -> Self {
        let replica = ReplicaId {
            volume: VolumeId::new(1),
            server: "s2".parse().unwrap(),
        };
        Self {
            sender: Sender::new(replica, endpoint(1), epoch(2), config),
            out: Actions::new(),
            next: 1,
        }
    }

    fn tell(&mut self, event: Event<'_>) -> Answer {
        self.sender.handle(at(0), event, &mut self.out)
    }

    fn fresh(&mut self) -> SessionId {
        self.next += 1;
        id(self.next - 1)
    }

    fn link_up(mut self) -> Self {
        let fresh = self.fresh();
        let cause = Cause::Reconnect;
        assert_eq!(self.tell(Event::LinkUp { fresh, cause }), Answer::Done);
        self
    }

    fn request(&mut self, kind: SessionKind) -> Answer {
        let fresh = self.fresh();
        let cause = Cause::Operator;
        self.tell(Event::SessionRequested { fresh, kind, cause })
    }

    fn stamp(&self) -> SessionStamp {
        self.sender.session().unwrap().stamp()
    }

    fn fact(&mut self, fact: Fact<'_>) -> Answer {
        let stamp = self.stamp();
        self.tell(Event::Session { stamp, fact })
    }

    fn then(mut self, facts: &[Fact<'_>]) -> Self {
        for fact in facts {
            assert_eq!(self.fact(fact.clone()), Answer::Done, "{fact:?}");
        }
        self
    }

    fn and(mut self, event: Event<'_>) -> Self {
        assert_eq!(self.tell(event), Answer::Done);
        self
    }

    fn catching_up() -> Self {
        Self::new()
            .link_up()
            .then(&[answered(&OLD_HISTORY, 40), Fact::PlanBound])
    }

    fn in_sync() -> Self {
        let proofs = [acked(60), joined(75), acked(75), Fact::InSyncRecorded];
        Self::catching_up().then(&proofs)
    }

    fn needs_rebuild() -> Self {
        Self::new().link_up().then(&[answered(&OLD_HISTORY, 9)])
    }
}

/// A sender in each bucket, and in the corners of some.
fn all_states() -> Vec<(&'static str, Stage)> {
    let mut requested = Stage::new();
    assert_eq!(requested.request(CATCH_UP), Answer::Done);
    let mut rebuilding = Stage::needs_rebuild();
    assert_eq!(rebuilding.request(REBUILDS), Answer::Done);
    let rebuilt = rebuilding.clone();
    let mut planned = Stage::new().link_up();
    planned = planned.then(&[answered(&OLD_HISTORY, 80)]);
    vec![
        ("planned", planned),
        ("disconnected", Stage::new()),
        ("connecting", requested),
        ("handshake", Stage::new().link_up()),
        ("catching_up", Stage::catching_up()),
        ("joining", Stage::catching_up().then(&[acked(60)])),
        ("in_sync", Stage::in_sync()),
        ("degraded", Stage::in_sync().and(Event::PeerSilent)),
        (
            "truncating",
            Stage::new()
                .link_up()
                .then(&[answered(&OLD_HISTORY, 80), Fact::PlanBound]),
        ),
        (
            "joining, durable",
            Stage::catching_up().then(&[acked(60), joined(75), acked(75)]),
        ),
        ("needs_rebuild", Stage::needs_rebuild()),
        (
            "rebuilding",
            rebuilding.link_up().then(&[Fact::RebuildOffered(REBUILD)]),
        ),
        (
            "rebuilding, nearly whole",
            rebuilt.link_up().then(&[
                Fact::RebuildOffered(REBUILD),
                Fact::PlanBound,
                joined(75),
                acked(75),
                Fact::ExtentsLaid { extents: 4 },
            ]),
        ),
        ("stopped", Stage::new().and(Event::StopRequested)),
    ]
}

fn all_events(stage: &Stage) -> Vec<(&'static str, Event<'static>)> {
    let (fresh, cause) = (id(90), Cause::Poller);
    let requested = |kind| Event::SessionRequested { fresh, kind, cause };
    let replaced = |kind| Event::SessionReplaced { fresh, kind, cause };
    let mut events = vec![
        ("requested(catch_up)", requested(CATCH_UP)),
        ("requested(rebuild)", requested(REBUILDS)),
        ("replaced(catch_up)", replaced(CATCH_UP)),
        ("replaced(rebuild)", replaced(REBUILDS)),
        ("link_up", Event::LinkUp { fresh, cause }),
        ("link_lost", Event::LinkLost),
        ("peer_silent", Event::PeerSilent),
        ("epoch_raised(1)", Event::EpochRaised { to: epoch(1) }),
        ("epoch_raised(2)", Event::EpochRaised { to: epoch(2) }),
        ("epoch_raised(3)", Event::EpochRaised { to: epoch(3) }),
        ("endpoint(0)", Event::EndpointChanged(endpoint(0))),
        ("endpoint(1)", Event::EndpointChanged(endpoint(1))),
        ("endpoint(2)", Event::EndpointChanged(endpoint(2))),
        ("stop", Event::StopRequested),
        ("deadline", Event::DeadlineReached),
    ];
    let stamp = stage.sender.session().map_or(
        SessionStamp {
            session: id(1),
            epoch: epoch(2),
        },
        Session::stamp,
    );
    let fact = Fact::CancelRequested;
    events.push(("cancel_requested", Event::Session { stamp, fact }));
    events
}

/// What every state makes of everything, as lines of text, and the steps that it saw. Facts are
/// the session's business: only those that move the replica to another bucket are listed.
pub(crate) fn table() -> (String, Edges) {
    let mut table = String::new();
    let mut edges = Edges::default();
    for (name, stage) in all_states() {
        writeln!(table, "{name}").unwrap();
        let stamp = stage.sender.session().map(Session::stamp);
        let others = named_facts()
            .into_iter()
            .filter(|(_, fact)| *fact != Fact::CancelRequested);
        let facts = others.filter_map(|(fact_name, fact)| {
            let event = Event::Session {
                stamp: stamp?,
                fact,
            };
            Some((fact_name, event))
        });
        let events = all_events(&stage);
        let lists = events.len();
        for (index, (event_name, event)) in events.into_iter().chain(facts).enumerate() {
            let mut stage = stage.clone();
            stage.out.clear();
            let before = stage.sender.clone();
            let now = if event == Event::DeadlineReached {
                999
            } else {
                0
            };
            let said = stage.sender.handle(at(now), event, &mut stage.out);
            if said != Answer::Done {
                assert_eq!(stage.sender, before, "{name}: {event_name} changed it");
            }
            let moved = stage
                .out
                .iter()
                .filter_map(|directed| match directed.action {
                    Action::Moved { from, to } => Some((from, to)),
                    _ => None,
                });
            let moved: Vec<_> = moved.collect();
            for (from, to) in &moved {
                edges.add(from, to, event_name);
                let told = brief(&stage.out).contains('!');
                assert!(told, "{name}: {event_name} moved it and no event tells");
            }
            if index >= lists && moved.is_empty() {
                continue;
            }
            let text = format!("  {event_name}: {} | {}", answer(&said), brief(&stage.out));
            writeln!(table, "{}", text.trim_end()).unwrap();
        }
    }
    (table, edges)
}

#[test]
fn every_state_answers_every_event() {
    expect_file!["../../tables/sender.txt"].assert_eq(&table().0);
}

#[test]
fn the_state_diagrams_are_drawn_from_the_tables() {
    let [catch_up, rebuild] = crate::session::tests::table().1;
    let text = format!(
        "{DIAGRAMS}\n## Sender: how a replica is counted\n\n{}\n## Session: catch-up\n\n{}\n\
         ## Session: rebuild\n\n{}",
        table().1.draw("disconnected", "stopped"),
        catch_up.draw("init", "invalidated"),
        rebuild.draw("init", "invalidated"),
    );
    expect_file!["../../../../docs/engine-states.md"].assert_eq(&text);
}

const DIAGRAMS: &str = "\
# The engine's states

Drawn from the tables of every state and every event, `crates/engine/tables/sender.txt` and `session.txt`: a test compares all three with what the machines
do, so they cannot part. After a change of a machine, `UPDATE_EXPECT=1 cargo test -p moorline-engine` writes them anew; read the difference before you
commit it. The rules are in [protocol.md](protocol.md); what each event carries is in the tables.
";

#[test]
fn authority_is_checked_in_its_order_and_a_refusal_changes_nothing() {
    let stale = |session: SessionId, n: u64| SessionStamp {
        session,
        epoch: epoch(n),
    };
    let named = |mut stage: Stage, stamp: SessionStamp| {
        let before = stage.sender.clone();
        stage.out.clear();
        let said = stage.tell(Event::Session {
            stamp,
            fact: acked(60),
        });
        assert_eq!(stage.sender, before);
        assert!(stage.out.is_empty());
        match said {
            Answer::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let stopped = Stage::catching_up().and(Event::StopRequested);
    assert_eq!(named(stopped, stale(id(9), 1)), Refusal::Stopped);
    assert_eq!(named(Stage::new(), stale(id(9), 1)), Refusal::NoSession);
    let (have, got) = (id(1), id(9));
    let other = Refusal::OtherSession { have, got };
    assert_eq!(named(Stage::catching_up(), stale(id(9), 1)), other);
    let ended = Stage::catching_up().and(Event::LinkLost);
    let phase = PhaseName::Invalidated;
    assert_eq!(
        named(ended, stale(id(1), 1)),
        Refusal::SessionEnded { phase }
    );
    for (n, want) in [(1, "stale"), (3, "ahead")] {
        let refusal = named(Stage::catching_up(), stale(id(1), n));
        assert!(refusal.to_string().contains(want), "{refusal}");
    }
}

#[test]
fn a_session_id_is_never_used_twice() {
    let mut stage = Stage::catching_up().and(Event::LinkLost);
    for reused in [0, 1] {
        let said = stage.tell(Event::SessionRequested {
            fresh: id(reused),
            kind: CATCH_UP,
            cause: Cause::Operator,
        });
        let (have, got) = (id(1), id(reused));
        assert_eq!(
            said,
            Answer::Refused(Refusal::SessionIdReused { have, got })
        );
    }
}

#[test]
fn superseding_ends_and_begins_or_does_neither() {
    let mut stage = Stage::catching_up();
    stage.out.clear();
    let replaced = |n: u64| Event::SessionReplaced {
        fresh: id(n),
        kind: CATCH_UP,
        cause: Cause::Operator,
    };
    // An id that was used: neither.
    let before = stage.sender.clone();
    assert!(matches!(stage.tell(replaced(1)), Answer::Refused(_)));
    assert_eq!(stage.sender, before);
    assert_eq!(stage.tell(replaced(2)), Answer::Done);
    expect![
        "!session_superseded catching_up->invalidated Release(SessionEnded) !session_created \
         init->connecting Connect [catching_up->connecting]"
    ]
    .assert_eq(&brief(&stage.out));
    assert_eq!(stage.stamp().session, id(2));
}

#[test]
fn five_disconnects_keep_one_identity_and_force_no_rebuild() {
    let mut stage = Stage::new();
    let replica = stage.sender.replica().clone();
    for _ in 0..5 {
        stage = stage
            .link_up()
            .then(&[answered(&OLD_HISTORY, 40), Fact::PlanBound, acked(50)])
            .and(Event::LinkLost);
        assert_eq!(stage.sender.bucket(), Bucket::Disconnected);
    }
    assert_eq!(stage.sender.replica(), &replica);
    assert_eq!(stage.sender.needs_rebuild(), None);
}

#[test]
fn the_need_of_a_rebuild_outlives_everything_but_a_completed_rebuild() {
    let mut stage = Stage::needs_rebuild();
    let check = |stage: &Stage| assert_eq!(stage.sender.bucket(), Bucket::NeedsRebuild);
    check(&stage);
    assert_eq!(
        stage.request(CATCH_UP),
        Answer::Refused(Refusal::NeedsRebuild)
    );
    let _unchanged = stage.tell(Event::LinkLost);
    check(&stage);
    stage = stage.and(Event::EpochRaised { to: epoch(3) });
    check(&stage);
    stage = stage.and(Event::EndpointChanged(endpoint(2)));
    check(&stage);
    // A rebuild that fails leaves it as it was.
    assert_eq!(stage.request(REBUILDS), Answer::Done);
    assert_eq!(stage.sender.bucket(), Bucket::Connecting);
    stage = stage.link_up().then(&[Fact::RebuildOffered(REBUILD)]);
    assert_eq!(stage.sender.bucket(), Bucket::Rebuilding);
    let pin = PinRefusal {
        pin: PinKind::Snapshot,
        lsn: Lsn::new(10),
        reason: PinRefusedReason::TooMany,
    };
    stage = stage.then(&[Fact::PinRefused(pin)]);
    check(&stage);
    // One that completes clears it; the ordinary path proves the rest.
    assert_eq!(stage.request(REBUILDS), Answer::Done);
    stage = stage.link_up().then(&[
        Fact::RebuildOffered(REBUILD),
        Fact::PlanBound,
        joined(75),
        Fact::ExtentsLaid { extents: 4 },
        acked(75),
        Fact::BaseWhole {
            committed: Lsn::new(75),
        },
    ]);
    assert_eq!(stage.sender.needs_rebuild(), None);
    assert_eq!(stage.sender.bucket(), Bucket::Disconnected);
    assert_eq!(stage.request(CATCH_UP), Answer::Done);
    let id = stage.stamp().session;
    let live = Answer::Refused(Refusal::SessionLive { id });
    assert_eq!(stage.request(REBUILDS), live);
}

#[test]
fn a_new_epoch_ends_in_sync_even_without_a_live_session() {
    let mut stage = Stage::in_sync();
    let stamp = stage.stamp();
    assert!(stage.sender.live_session().is_none());
    assert!(stage.sender.counts_acks(stamp).is_ok());
    stage = stage.and(Event::EpochRaised { to: epoch(3) });
    assert_eq!(stage.sender.bucket(), Bucket::Disconnected);
    assert!(stage.sender.counts_acks(stamp).is_err());
    let moved = Stage::in_sync().and(Event::EndpointChanged(endpoint(2)));
    assert_eq!(moved.sender.bucket(), Bucket::Disconnected);
}

#[test]
fn acknowledgements_of_an_ended_session_count_for_nothing() {
    let stage = Stage::catching_up();
    let stamp = stage.stamp();
    assert!(stage.sender.counts_acks(stamp).is_ok());
    let lost = stage.and(Event::LinkLost);
    assert!(lost.sender.counts_acks(stamp).is_err());
    let silent = Stage::in_sync().and(Event::PeerSilent);
    assert_eq!(silent.sender.bucket(), Bucket::Degraded);
    assert!(silent.sender.counts_acks(silent.stamp()).is_err());
}

#[test]
fn what_an_exceeded_budget_means_is_configured() {
    for (on_budget, bucket) in [
        (OnBudget::Degrade, Bucket::Degraded),
        (OnBudget::NeedsRebuild, Bucket::NeedsRebuild),
    ] {
        let config = SenderConfig {
            on_budget,
            ..SenderConfig::default()
        };
        let mut stage = Stage::with(config)
            .link_up()
            .then(&[answered(&OLD_HISTORY, 40), Fact::PlanBound]);
        let deadline = stage.sender.next_deadline().unwrap();
        let said = stage
            .sender
            .handle(deadline, Event::DeadlineReached, &mut stage.out);
        assert_eq!(said, Answer::Done);
        assert_eq!(stage.sender.bucket(), bucket);
        assert!(brief(&stage.out).contains("!escalated"));
    }
}

#[test]
fn missing_committed_data_stops_the_volume_and_says_so() {
    let mut ahead = replica(&OLD_HISTORY, 80);
    ahead.committed = Lsn::new(51);
    let fact = Fact::HandshakeAnswered {
        primary: primary(),
        replica: ahead,
    };
    let stage = Stage::new().link_up().then(&[fact]);
    let did = brief(&stage.out);
    assert!(
        did.contains("StopVolume !handshake_failed !session_failed"),
        "{did}"
    );
    let want = Some(DegradedReason::CommittedDataMissing);
    assert_eq!(stage.sender.degraded(), want);
    // Facts that cannot be are no verdict either: no rebuild follows from them.
    let broken = PrimaryFacts {
        committed: Lsn::new(71),
        ..primary()
    };
    let fact = Fact::HandshakeAnswered {
        primary: broken,
        replica: replica(&OLD_HISTORY, 40),
    };
    let stage = Stage::new().link_up().then(&[fact]);
    assert_eq!(
        stage.sender.degraded(),
        Some(DegradedReason::ImpossibleFacts)
    );
}

#[test]
fn a_log_of_a_later_reign_is_neither_judged_nor_cut() {
    let later = Fact::HandshakeAnswered {
        primary: primary(),
        replica: replica(&NEWER_HISTORY, 60),
    };
    let stage = Stage::new().link_up().then(&[later]);
    let did = brief(&stage.out);
    assert!(
        !did.contains("SendTruncate") && !did.contains("StopVolume"),
        "{did}"
    );
    let why = Invalidation::Handshake(HandshakeFailure::ReplicaAhead);
    let phase = stage.sender.session().unwrap().phase();
    assert_eq!(phase, &crate::session::Phase::Invalidated(why));
}

#[test]
fn every_release_is_asked_for_exactly_once_per_session() {
    let last_words: Vec<Event<'static>> = vec![
        Event::LinkLost,
        Event::PeerSilent,
        Event::EpochRaised { to: epoch(3) },
        Event::EndpointChanged(endpoint(2)),
        Event::StopRequested,
    ];
    for first in &last_words {
        let mut stage = Stage::catching_up().and(first.clone());
        for next in &last_words {
            let _any = stage.tell(next.clone());
        }
        assert_eq!(
            brief(&stage.out).matches("Release(").count(),
            1,
            "{first:?}"
        );
    }
}

mod random {
    //! Any sequence of events: never a panic, never two live sessions, never a step back in epoch.

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_sequence_keeps_the_invariants_and_repeats(
            steps in prop::collection::vec((0usize..40, 0u64..3, 0u64..90), 0..60)
        ) {
            let run = |steps: &[(usize, u64, u64)]| {
                let mut stage = Stage::new();
                let mut fenced = stage.sender.epoch();
                for (turn, &(which, back, number)) in steps.iter().enumerate() {
                    let events = all_events(&stage);
                    let facts = all_facts();
                    let fresh = stage.fresh();
                    let event = if let Some((_, event)) = events.get(which) {
                        match event.clone() {
                            Event::LinkUp { cause, .. } => Event::LinkUp { fresh, cause },
                            Event::SessionRequested { kind, cause, .. } => {
                                Event::SessionRequested { fresh, kind, cause }
                            }
                            Event::SessionReplaced { kind, cause, .. } => {
                                Event::SessionReplaced { fresh, kind, cause }
                            }
                            other => other,
                        }
                    } else {
                        let fact = match facts[(which - events.len()) % facts.len()].clone() {
                            Fact::Acknowledged { .. } => acked(number),
                            Fact::Joined { .. } => joined(number),
                            Fact::HandshakeAnswered { .. } => answered(&OLD_HISTORY, number.max(1)),
                            other => other,
                        };
                        let session = stage.sender.session();
                        let Some(stamp) = session.map(Session::stamp) else { continue };
                        Event::Session { stamp, fact }
                    };
                    let now = at((turn as u64 + 1).saturating_sub(back));
                    let _any = stage.sender.handle(now, event, &mut stage.out);
                    stage.sender.assert_invariants();
                    assert!(stage.sender.epoch() >= fenced, "the fence went down");
                    fenced = stage.sender.epoch();
                }
                stage
            };
            let (once, again) = (run(&steps), run(&steps));
            prop_assert_eq!(&once.out, &again.out);
            let words = brief(&once.out);
            let begun = words.matches("!session_created").count();
            let ended = words.matches("Release(").count();
            let live = usize::from(once.sender.live_session().is_some());
            prop_assert_eq!(begun, ended + live, "each session ends once or lives");
        }
    }
}

#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one answer")]

use std::fmt::Write as _;

use expect_test::{expect, expect_file};
use moorline_types::{Epoch, Lsn, VolumeId};

use super::*;
use crate::{
    budget::BudgetLimit,
    facts::{PrimaryFacts, ReplicaFacts},
    planner::{Checkpoint, RebuildFacts},
    testing::*,
};

/// One session and what it did since the last look.
#[derive(Clone)]
struct Stage {
    session: Session,
    out: Actions,
}

impl Stage {
    fn new(kind: SessionKind) -> Self {
        Self::with_limits(kind, SessionLimits::default())
    }

    fn with_limits(kind: SessionKind, limits: SessionLimits) -> Self {
        let mut out = Actions::new();
        let opening = Opening {
            replica: ReplicaId {
                volume: VolumeId::new(1),
                server: "s2".parse().unwrap(),
            },
            stamp: SessionStamp {
                session: id(1),
                epoch: Epoch::new(2, 0),
            },
            kind,
            cause: Cause::Bootstrap,
            limits,
            mutants: Mutants::NONE,
        };
        let session = Session::new(at(0), opening, &mut out);
        Self { session, out }
    }

    /// Through the link: waiting for the replica's facts.
    fn asked(kind: SessionKind) -> Self {
        Self::new(kind).linked()
    }

    fn linked(mut self) -> Self {
        self.session.connect(&mut self.out);
        assert_eq!(self.session.connected(at(0), &mut self.out), Answer::Done);
        self
    }

    fn tell(&mut self, fact: Fact<'_>) -> Answer {
        self.tell_at(0, fact)
    }

    fn tell_at(&mut self, secs: u64, fact: Fact<'_>) -> Answer {
        self.session.handle(at(secs), fact, &mut self.out)
    }

    /// Tells facts that must be taken in.
    fn then(mut self, facts: &[Fact<'_>]) -> Self {
        for fact in facts {
            assert_eq!(self.tell(fact.clone()), Answer::Done, "{fact:?}");
        }
        self
    }

    fn phase(&self) -> PhaseName {
        self.session.phase().name()
    }
}

fn catching_up() -> Stage {
    let facts = [answered(&OLD_HISTORY, 40), Fact::PlanBound];
    Stage::asked(SessionKind::CatchUp).then(&facts)
}

fn joining() -> Stage {
    catching_up().then(&[acked(60)])
}

/// Every phase with a session that stands there.
fn all_phases() -> Vec<(&'static str, Stage)> {
    use SessionKind::{CatchUp, Rebuild};
    let connecting = |kind| {
        let mut stage = Stage::new(kind);
        stage.session.connect(&mut stage.out);
        stage
    };
    let cut = Fact::TruncationRecorded {
        through: Lsn::new(50),
    };
    let offered = || Stage::asked(Rebuild).then(&[Fact::RebuildOffered(REBUILD)]);
    let laying = || offered().then(&[Fact::PlanBound, joined(75)]);
    let whole = [
        Fact::ExtentsLaid { extents: 4 },
        Fact::BaseWhole {
            committed: Lsn::new(60),
        },
    ];
    vec![
        ("init", Stage::new(CatchUp)),
        ("connecting", connecting(CatchUp)),
        ("handshake", Stage::asked(CatchUp)),
        (
            "planned",
            Stage::asked(CatchUp).then(&[answered(&OLD_HISTORY, 40)]),
        ),
        (
            "truncating, then ship",
            Stage::asked(CatchUp).then(&[answered(&OLD_HISTORY, 80), Fact::PlanBound]),
        ),
        ("catching_up", catching_up()),
        (
            "catching_up after a cut",
            Stage::asked(CatchUp).then(&[answered(&OLD_HISTORY, 80), Fact::PlanBound, cut]),
        ),
        ("joining", joining()),
        ("joining, bound", joining().then(&[joined(75)])),
        (
            "joining, recorded",
            joining().then(&[joined(75), Fact::InSyncRecorded]),
        ),
        ("joining, durable", joining().then(&[joined(75), acked(75)])),
        (
            "completed",
            joining().then(&[joined(75), acked(75), Fact::InSyncRecorded]),
        ),
        ("invalidated", catching_up().then(&[Fact::CancelRequested])),
        ("rebuild: init", Stage::new(Rebuild)),
        ("rebuild: connecting", connecting(Rebuild)),
        ("rebuild: handshake", Stage::asked(Rebuild)),
        ("rebuild: source_selected", offered()),
        ("rebuild: joining", offered().then(&[Fact::PlanBound])),
        ("rebuild: transferring", laying()),
        (
            "rebuild: whole, not durable",
            laying().then(&[Fact::ExtentsLaid { extents: 4 }]),
        ),
        (
            "rebuild: whole and durable",
            laying().then(&[Fact::ExtentsLaid { extents: 4 }, acked(75)]),
        ),
        ("rebuild: replaying", laying().then(&whole)),
    ]
}

/// What every phase makes of everything, as lines of text, and the steps that it saw.
pub(crate) fn table() -> (String, [Edges; 2]) {
    let mut table = String::new();
    let mut edges = <[Edges; 2]>::default();
    for (name, stage) in all_phases() {
        writeln!(table, "{name}").unwrap();
        let mut line =
            |event: &'static str, told: fn(&mut Stage, Fact<'static>) -> Answer, fact| {
                let mut stage = stage.clone();
                stage.out.clear();
                let before = stage.session.clone();
                let said = told(&mut stage, fact);
                stage.session.assert_invariants();
                if said != Answer::Done {
                    assert_eq!(
                        stage.session, before,
                        "{name}: {event} was refused and changed it"
                    );
                }
                for Directed { action, .. } in &stage.out {
                    if let Action::Transitioned { from, to, .. } = action {
                        let kind = usize::from(stage.session.kind() == SessionKind::Rebuild);
                        edges[kind].add(from, to, event);
                    }
                }
                let text = format!("  {event}: {} | {}", answer(&said), brief(&stage.out));
                writeln!(table, "{}", text.trim_end()).unwrap();
            };
        for (event, fact) in named_facts() {
            line(event, |stage, fact| stage.tell(fact), fact);
        }
        let none = Fact::PlanBound;
        if stage.phase() != PhaseName::Init {
            line(
                "link_up",
                |stage, _| stage.session.connected(at(1), &mut stage.out),
                none.clone(),
            );
        } else {
            let connect = |stage: &mut Stage, _| {
                stage.session.connect(&mut stage.out);
                Answer::Done
            };
            line("connect", connect, none.clone());
        }
        line(
            "deadline",
            |stage, _| stage.session.deadline_reached(at(999), &mut stage.out),
            none,
        );
    }
    (table, edges)
}

#[test]
fn every_phase_answers_every_event() {
    expect_file!["../../tables/session.txt"].assert_eq(&table().0);
}

#[test]
fn a_whole_catch_up_tells_its_story_in_order() {
    let stage = Stage::asked(SessionKind::CatchUp).then(&[
        answered(&OLD_HISTORY, 80),
        Fact::PlanBound,
        Fact::TruncationRecorded {
            through: Lsn::new(50),
        },
        acked(55),
        acked(60),
        joined(75),
        acked(75),
        Fact::InSyncRecorded,
    ]);
    expect![
        "!session_created init->connecting !connected connecting->handshake SendHandshake \
         !handshake !plan_catchup BindPlan !exec_started handshake->truncating SendTruncate(50) \
         !truncation_recorded truncating->catching_up StartShipping(50, 60] \
         !progress !progress catching_up->joining Join(60) !joined RequestGrowth(75) !completed \
         joining->completed Release(Completed)"
    ]
    .assert_eq(&brief(&stage.out));
}

#[test]
fn a_zero_gap_joins_in_the_step_that_judged_it() {
    let stage = Stage::asked(SessionKind::CatchUp).then(&[answered(&PRIMARY_HISTORY, 62)]);
    assert_eq!(stage.phase(), PhaseName::Joining);
    assert!(brief(&stage.out).ends_with("!plan_zero_gap handshake->joining Join(62)"));
}

#[test]
fn a_mere_cut_pins_nothing_and_joins_when_recorded() {
    let mut facts = primary();
    facts.committed = Lsn::new(50);
    let answer = Fact::HandshakeAnswered {
        primary: facts,
        replica: replica(&OLD_HISTORY, 55),
    };
    let mut stage = Stage::asked(SessionKind::CatchUp).then(&[answer]);
    assert!(
        brief(&stage.out)
            .ends_with("!plan_truncate_only !exec_started handshake->truncating SendTruncate(50)")
    );
    // Any other place than the exact one is refused.
    for wrong in [49, 51] {
        let refused = stage.tell(Fact::TruncationRecorded {
            through: Lsn::new(wrong),
        });
        let (required, got) = (Lsn::new(50), Lsn::new(wrong));
        assert_eq!(
            refused,
            Answer::Refused(Refusal::WrongTruncation { required, got })
        );
    }
    let stage = stage.then(&[Fact::TruncationRecorded {
        through: Lsn::new(50),
    }]);
    assert!(brief(&stage.out).ends_with("truncating->joining Join(50)"));
}

#[test]
fn progress_is_strictly_forward_and_clamped_to_the_frozen_target() {
    let mut stage = catching_up();
    for (flushed, want) in [
        (40, Answer::Unchanged(Known::StaleProgress)), // where it began
        (41, Answer::Done),
        (41, Answer::Unchanged(Known::StaleProgress)),
        (39, Answer::Unchanged(Known::StaleProgress)),
        (59, Answer::Done),
        (
            81,
            Answer::Refused(Refusal::PastHead {
                flushed: Lsn::new(81),
                head: Lsn::new(80),
            }),
        ),
    ] {
        assert_eq!(stage.tell(acked(flushed)), want, "{flushed}");
        assert_eq!(stage.phase(), PhaseName::CatchingUp);
    }
    // It held more than the target in memory: the join begins at the target all the same.
    assert_eq!(stage.tell(acked(70)), Answer::Done);
    let Phase::Joining(joining) = stage.session.phase() else {
        panic!("{:?}", stage.session.phase());
    };
    assert_eq!(
        (joining.after, joining.frontier),
        (Lsn::new(60), Lsn::new(70))
    );
}

#[test]
fn the_two_proofs_of_a_join_may_come_in_either_order_and_both_must() {
    let both = |facts: &[Fact<'_>]| joining().then(facts).session.phase().clone();
    let recovered_to = Lsn::new(75);
    let want = Phase::Completed { recovered_to };
    assert_eq!(both(&[joined(75), acked(75), Fact::InSyncRecorded]), want);
    assert_eq!(both(&[joined(75), Fact::InSyncRecorded, acked(75)]), want);
    let short = joining().then(&[joined(75), Fact::InSyncRecorded, acked(74)]);
    assert_eq!(short.phase(), PhaseName::Joining);
    // Growth is asked for once.
    let stage = joining().then(&[joined(75), acked(76), acked(77)]);
    assert_eq!(brief(&stage.out).matches("RequestGrowth").count(), 1);
}

#[test]
fn a_join_point_that_was_proven_before_is_proof_at_once() {
    let stage = joining().then(&[joined(60)]);
    assert!(brief(&stage.out).ends_with("!joined RequestGrowth(60)"));
    let mut stage = joining();
    let (join_point, shipped) = (Lsn::new(59), Lsn::new(60));
    let want = Refusal::JoinBelowShipped {
        join_point,
        shipped,
    };
    assert_eq!(stage.tell(joined(59)), Answer::Refused(want));
}

#[test]
fn the_budget_ends_a_session_at_the_first_instant_past_it() {
    let limits = SessionLimits {
        budget: CatchUpBudget {
            records_max: Some(15),
            stall_max: Some(Duration::from_secs(10)),
            duration_max: Some(Duration::from_secs(30)),
        },
        ..SessionLimits::default()
    };
    let start = || {
        let facts = [answered(&OLD_HISTORY, 40), Fact::PlanBound];
        Stage::with_limits(SessionKind::CatchUp, limits)
            .linked()
            .then(&facts)
    };
    let ended = |stage: &Stage| match stage.session.phase() {
        Phase::Invalidated(Invalidation::Budget(limit)) => Some(*limit),
        _ => None,
    };

    // A stall before the first progress counts; at the limit it does not.
    let mut stage = start();
    let said = stage.session.deadline_reached(at(10), &mut stage.out);
    assert_eq!(said, Answer::Unchanged(Known::StaleTimer));
    let deadline = stage.session.next_deadline().unwrap();
    assert_eq!(deadline, past(at(0), Duration::from_secs(10)));
    let said = stage.session.deadline_reached(deadline, &mut stage.out);
    assert_eq!(said, Answer::Done);
    assert_eq!(ended(&stage), Some(BudgetLimit::Stall));
    assert!(brief(&stage.out).contains("!budget_escalated !session_failed"));

    // Records: 15 are within, the 16th is past.
    let mut stage = start();
    assert_eq!(stage.tell(acked(55)), Answer::Done);
    assert_eq!(ended(&stage), None);
    assert_eq!(stage.tell(acked(56)), Answer::Done);
    assert_eq!(ended(&stage), Some(BudgetLimit::Records));

    // Data before timers: who arrives late has arrived, and a stale timer demotes nobody.
    let mut stage = start();
    assert_eq!(stage.tell_at(99, acked(60)), Answer::Done);
    assert_eq!(stage.phase(), PhaseName::Joining);
    let said = stage.session.deadline_reached(at(99), &mut stage.out);
    assert_eq!(said, Answer::Unchanged(Known::StaleTimer));
    // Who is merely late, and not there, is over.
    let mut stage = start();
    assert_eq!(stage.tell_at(99, acked(50)), Answer::Done);
    assert_eq!(ended(&stage), Some(BudgetLimit::Duration));

    // A clock that goes back violates nothing.
    let mut stage = start();
    assert_eq!(stage.tell_at(9, acked(41)), Answer::Done);
    assert_eq!(stage.tell_at(1, acked(42)), Answer::Done);
    assert_eq!(ended(&stage), None);
}

#[test]
fn each_wait_for_the_replica_has_its_own_bound() {
    let cut =
        || Stage::asked(SessionKind::CatchUp).then(&[answered(&OLD_HISTORY, 80), Fact::PlanBound]);
    let asked = || Stage::asked(SessionKind::CatchUp);
    for (mut stage, secs, why) in [
        (
            asked(),
            10,
            Invalidation::Handshake(HandshakeFailure::Overdue),
        ),
        (cut(), 10, Invalidation::TruncationOverdue),
        (joining(), 60, Invalidation::JoinOverdue),
        (joining().then(&[joined(75)]), 60, Invalidation::JoinOverdue),
    ] {
        let said = stage.session.deadline_reached(at(secs), &mut stage.out);
        assert_eq!(said, Answer::Unchanged(Known::StaleTimer), "{why:?}");
        let deadline = stage.session.next_deadline().unwrap();
        assert_eq!(
            stage.session.deadline_reached(deadline, &mut stage.out),
            Answer::Done
        );
        assert_eq!(stage.session.phase(), &Phase::Invalidated(why));
        // A late answer changes nothing.
        let out = stage.out.len();
        for fact in all_facts() {
            let phase = PhaseName::Invalidated;
            assert_eq!(
                stage.tell(fact),
                Answer::Refused(Refusal::SessionEnded { phase })
            );
        }
        assert_eq!(stage.out.len(), out);
    }
}

#[test]
fn a_rebuild_is_complete_when_its_base_is_whole_and_its_log_durable() {
    let laying = || {
        let facts = [Fact::RebuildOffered(REBUILD), Fact::PlanBound, joined(75)];
        Stage::asked(SessionKind::Rebuild).then(&facts)
    };
    let whole = Fact::BaseWhole {
        committed: Lsn::new(72),
    };
    let mut stage = laying();
    for (extents, want) in [
        (2, Answer::Done),
        (2, Answer::Unchanged(Known::StaleProgress)),
        (1, Answer::Unchanged(Known::StaleProgress)),
        (
            5,
            Answer::Refused(Refusal::PastBase {
                extents: 5,
                total: 4,
            }),
        ),
    ] {
        assert_eq!(stage.tell(Fact::ExtentsLaid { extents }), want);
    }
    let (laid, total) = (2, 4);
    let missing = CompletionRejected::BaseNotWhole { laid, total };
    let want = Answer::Refused(Refusal::CompletionRejected(missing));
    assert_eq!(stage.tell(whole.clone()), want);

    let stage = stage.then(&[Fact::ExtentsLaid { extents: 4 }, acked(71), whole.clone()]);
    assert_eq!(stage.phase(), PhaseName::Replaying);
    let stage = stage.then(&[acked(72)]);
    assert_eq!(stage.phase(), PhaseName::Completed);
    // What became durable while the replica was still being bound counts as well: nobody may say
    // so again.
    let early = [Fact::RebuildOffered(REBUILD), Fact::PlanBound, acked(75)];
    let stage = Stage::asked(SessionKind::Rebuild).then(&early);
    let stage = stage.then(&[joined(75), Fact::ExtentsLaid { extents: 4 }, whole.clone()]);
    assert_eq!(stage.phase(), PhaseName::Completed);
    let stage = laying().then(&[Fact::ExtentsLaid { extents: 4 }, acked(75), whole]);
    assert_eq!(stage.phase(), PhaseName::Completed);
}

#[test]
fn an_empty_tail_is_complete_with_its_base() {
    // With nothing committed the base alone is all there is; with a base of everything too.
    for committed in [0, 60] {
        let facts = RebuildFacts {
            checkpoint: Checkpoint::None,
            tail: Lsn::ZERO,
            head: Lsn::new(committed),
            committed: Lsn::new(committed),
            ..REBUILD
        };
        let stage = Stage::asked(SessionKind::Rebuild).then(&[
            Fact::RebuildOffered(facts),
            Fact::PlanBound,
            joined(committed),
            Fact::ExtentsLaid { extents: 4 },
            Fact::BaseWhole {
                committed: Lsn::new(committed),
            },
        ]);
        assert_eq!(stage.phase(), PhaseName::Completed, "{committed}");
    }
}

#[test]
fn a_rebuild_tells_its_story_in_order_from_each_source() {
    let snapshot = REBUILD;
    let delta = RebuildFacts {
        trusted_common: Some(Lsn::new(5)),
        delta_extents: 2,
        ..REBUILD
    };
    let full = RebuildFacts {
        checkpoint: Checkpoint::None,
        ..REBUILD
    };
    let story = |facts: RebuildFacts, extents| {
        let whole = Fact::BaseWhole {
            committed: Lsn::new(75),
        };
        let stage = Stage::asked(SessionKind::Rebuild).then(&[
            Fact::RebuildOffered(facts),
            Fact::PlanBound,
            acked(62),
            joined(70),
            Fact::ExtentsLaid { extents: 1 },
            Fact::ExtentsLaid { extents },
            whole,
            acked(74),
            acked(76),
        ]);
        brief(&stage.out)
    };
    let begin = "!session_created init->connecting !connected connecting->handshake SendHandshake";
    let rest = "handshake->source_selected BindPlan !exec_started source_selected->joining \
                JoinForRebuild(";
    let end = ") !joined joining->transferring StartBase !progress !progress !base_whole \
               transferring->replaying !progress !progress !completed replaying->completed \
               Release(Completed)";
    for (facts, extents, source, base) in [
        (snapshot, 4, "snapshot_tail", 10),
        (delta, 2, "delta", 60),
        (full, 4, "full_base", 60),
    ] {
        let want = format!("{begin} !handshake !plan_rebuild_{source} {rest}{base}{end}");
        assert_eq!(story(facts, extents), want);
        assert_eq!(story(facts, extents), story(facts, extents));
    }
}

#[test]
fn the_last_numbers_there_are_are_numbers_like_any_others() {
    const LAST: u64 = u64::MAX;
    let history = [moorline_types::EpochStart {
        epoch: Epoch::new(2, 0),
        first: Lsn::new(LAST - 9),
    }];
    let facts = PrimaryFacts {
        history: &history,
        head: Lsn::MAX,
        committed: Lsn::MAX,
        tail: Lsn::new(LAST - 5),
        checkpoint: Lsn::new(LAST - 5),
        lowest_pin: None,
        given_up: &[],
    };
    let answer = |head: u64| Fact::HandshakeAnswered {
        primary: facts,
        replica: ReplicaFacts {
            history: &history,
            flushed: Some(Lsn::new(head)),
            ..replica(&OLD_HISTORY, head)
        },
    };
    let acked = |n| Fact::Acknowledged {
        flushed: Lsn::new(n),
        head: Lsn::MAX,
    };
    let stage = Stage::asked(SessionKind::CatchUp).then(&[
        answer(LAST - 5),
        Fact::PlanBound,
        acked(LAST - 1),
        acked(LAST),
        joined(LAST),
        Fact::InSyncRecorded,
    ]);
    let recovered_to = Lsn::MAX;
    assert_eq!(stage.session.phase(), &Phase::Completed { recovered_to });
    // The boundary is exact there too.
    let stage = Stage::asked(SessionKind::CatchUp).then(&[answer(LAST - 6)]);
    assert_eq!(stage.phase(), PhaseName::Invalidated);
}

#[test]
fn acknowledgements_count_only_when_no_cut_is_outstanding() {
    for (name, stage) in all_phases() {
        let want = [
            "catching_up",
            "catching_up after a cut",
            "joining",
            "joining, bound",
            "joining, recorded",
            "joining, durable",
            "completed",
        ]
        .contains(&name);
        assert_eq!(stage.session.counts_acks(), want, "{name}");
    }
}

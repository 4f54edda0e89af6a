#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one answer")]

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use moorline_types::{Epoch, Lsn};

use super::*;
use crate::budget::BudgetLimit;
use crate::testing::*;

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
            replica: "s2".parse().unwrap(),
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
        ("rebuild: handshake", Stage::asked(Rebuild)),
        ("rebuild: source_selected", offered()),
        ("rebuild: joining", offered().then(&[Fact::PlanBound])),
        ("rebuild: transferring", laying()),
        (
            "rebuild: whole, not durable",
            laying().then(&[Fact::ExtentsLaid { extents: 4 }]),
        ),
        ("rebuild: replaying", laying().then(&whole)),
    ]
}

#[test]
fn every_phase_answers_every_fact() {
    let mut table = String::new();
    for (name, stage) in all_phases() {
        writeln!(table, "{name}").unwrap();
        for fact in all_facts() {
            let mut stage = stage.clone();
            stage.out.clear();
            let before = stage.session.clone();
            let said = stage.tell(fact.clone());
            if said != Answer::Done {
                assert_eq!(
                    stage.session, before,
                    "{name}: {fact:?} was refused and changed it"
                );
            }
            let (said, did) = (answer(&said), brief(&stage.out));
            writeln!(table, "  {}: {said} | {did}", fact_name(&fact)).unwrap();
        }
    }
    snapshot().assert_eq(&table);
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
         !handshake !plan_catchup BindPlan handshake->truncating SendTruncate(50) \
         !truncation_recorded !exec_started truncating->catching_up StartShipping(50, 60] \
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
        brief(&stage.out).ends_with("!plan_truncate_only handshake->truncating SendTruncate(50)")
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
    // An empty tail is complete at once; with nothing committed the base alone is.
    let stage = laying().then(&[Fact::ExtentsLaid { extents: 4 }, acked(75), whole]);
    assert_eq!(stage.phase(), PhaseName::Completed);
    let stage = laying().then(&[
        Fact::ExtentsLaid { extents: 4 },
        Fact::BaseWhole {
            committed: Lsn::ZERO,
        },
    ]);
    assert_eq!(stage.phase(), PhaseName::Completed);
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

fn snapshot() -> Expect {
    expect![[r#"
        init
          handshake_answered: refused: not while init | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while init | 
          plan_bound: refused: not while init | 
          pin_refused: refused: not while init | 
          pin_broken: done | !pin_broken !session_invalidated init->invalidated Release(PinBroken)
          truncation_recorded: refused: not while init | 
          acknowledged: refused: not while init | 
          joined: refused: not while init | 
          in_sync_recorded: refused: completion without proof: the handshake is not answered | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed init->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated init->invalidated Release(Cancelled)
        connecting
          handshake_answered: refused: not while connecting | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while connecting | 
          plan_bound: refused: not while connecting | 
          pin_refused: refused: not while connecting | 
          pin_broken: done | !pin_broken !session_invalidated connecting->invalidated Release(PinBroken)
          truncation_recorded: refused: not while connecting | 
          acknowledged: refused: not while connecting | 
          joined: refused: not while connecting | 
          in_sync_recorded: refused: completion without proof: the handshake is not answered | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed connecting->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated connecting->invalidated Release(Cancelled)
        handshake
          handshake_answered: done | !handshake !plan_zero_gap handshake->joining Join(60)
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: done | !handshake_failed !session_failed handshake->invalidated Release(SessionEnded)
          plan_bound: refused: not while handshake | 
          pin_refused: refused: not while handshake | 
          pin_broken: done | !pin_broken !session_invalidated handshake->invalidated Release(PinBroken)
          truncation_recorded: refused: not while handshake | 
          acknowledged: refused: not while handshake | 
          joined: refused: not while handshake | 
          in_sync_recorded: refused: completion without proof: the handshake is not answered | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed handshake->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated handshake->invalidated Release(Cancelled)
        planned
          handshake_answered: refused: not while handshake | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while handshake | 
          plan_bound: done | !exec_started handshake->catching_up StartShipping(40, 60]
          pin_refused: done | !pin_refused !plan_cancelled !session_failed handshake->invalidated Release(SessionEnded)
          pin_broken: done | !pin_broken !plan_cancelled !session_invalidated handshake->invalidated Release(PinBroken)
          truncation_recorded: refused: not while handshake | 
          acknowledged: refused: not while handshake | 
          joined: refused: not while handshake | 
          in_sync_recorded: refused: completion without proof: the handshake is not answered | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !plan_cancelled !session_failed handshake->invalidated Release(ReadFailed)
          cancel_requested: done | !plan_cancelled !session_invalidated handshake->invalidated Release(Cancelled)
        truncating, then ship
          handshake_answered: refused: not while truncating | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while truncating | 
          plan_bound: refused: not while truncating | 
          pin_refused: refused: not while truncating | 
          pin_broken: done | !pin_broken !session_invalidated truncating->invalidated Release(PinBroken)
          truncation_recorded: done | !truncation_recorded !exec_started truncating->catching_up StartShipping(50, 60]
          acknowledged: refused: not while truncating | 
          joined: refused: not while truncating | 
          in_sync_recorded: refused: completion without proof: the cut through 50 is not recorded | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed truncating->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated truncating->invalidated Release(Cancelled)
        catching_up
          handshake_answered: refused: not while catching_up | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while catching_up | 
          plan_bound: refused: not while catching_up | 
          pin_refused: refused: not while catching_up | 
          pin_broken: done | !pin_broken !session_invalidated catching_up->invalidated Release(PinBroken)
          truncation_recorded: refused: not while catching_up | 
          acknowledged: done | !progress
          joined: refused: not while catching_up | 
          in_sync_recorded: refused: completion without proof: recovered to 40 of 60 | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed catching_up->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated catching_up->invalidated Release(Cancelled)
        catching_up after a cut
          handshake_answered: refused: not while catching_up | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while catching_up | 
          plan_bound: refused: not while catching_up | 
          pin_refused: refused: not while catching_up | 
          pin_broken: done | !pin_broken !session_invalidated catching_up->invalidated Release(PinBroken)
          truncation_recorded: refused: not while catching_up | 
          acknowledged: staleprogress | 
          joined: refused: not while catching_up | 
          in_sync_recorded: refused: completion without proof: recovered to 50 of 60 | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed catching_up->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated catching_up->invalidated Release(Cancelled)
        joining
          handshake_answered: refused: not while joining | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while joining | 
          plan_bound: refused: not while joining | 
          pin_refused: done | !pin_refused !session_failed joining->invalidated Release(SessionEnded)
          pin_broken: done | !pin_broken !session_invalidated joining->invalidated Release(PinBroken)
          truncation_recorded: refused: not while joining | 
          acknowledged: staleprogress | 
          joined: done | !joined
          in_sync_recorded: refused: completion without proof: not bound to the live stream | !completion_rejected
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed joining->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated joining->invalidated Release(Cancelled)
        joining, bound
          handshake_answered: refused: not while joining | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while joining | 
          plan_bound: refused: not while joining | 
          pin_refused: refused: not while joining | 
          pin_broken: done | !pin_broken !session_invalidated joining->invalidated Release(PinBroken)
          truncation_recorded: refused: not while joining | 
          acknowledged: staleprogress | 
          joined: duplicate | 
          in_sync_recorded: done | 
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed joining->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated joining->invalidated Release(Cancelled)
        joining, recorded
          handshake_answered: refused: not while joining | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while joining | 
          plan_bound: refused: not while joining | 
          pin_refused: refused: not while joining | 
          pin_broken: done | !pin_broken !session_invalidated joining->invalidated Release(PinBroken)
          truncation_recorded: refused: not while joining | 
          acknowledged: staleprogress | 
          joined: duplicate | 
          in_sync_recorded: duplicate | 
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed joining->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated joining->invalidated Release(Cancelled)
        joining, durable
          handshake_answered: refused: not while joining | 
          rebuild_offered: refused: not in a session of kind catch_up | 
          handshake_refused: refused: not while joining | 
          plan_bound: refused: not while joining | 
          pin_refused: refused: not while joining | 
          pin_broken: done | !pin_broken !session_invalidated joining->invalidated Release(PinBroken)
          truncation_recorded: refused: not while joining | 
          acknowledged: staleprogress | 
          joined: duplicate | 
          in_sync_recorded: done | !completed joining->completed Release(Completed)
          extents_laid: refused: not in a session of kind catch_up | 
          base_whole: refused: not in a session of kind catch_up | 
          read_failed: done | !session_failed joining->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated joining->invalidated Release(Cancelled)
        completed
          handshake_answered: refused: the session is completed | 
          rebuild_offered: refused: the session is completed | 
          handshake_refused: refused: the session is completed | 
          plan_bound: refused: the session is completed | 
          pin_refused: refused: the session is completed | 
          pin_broken: refused: the session is completed | 
          truncation_recorded: refused: the session is completed | 
          acknowledged: refused: the session is completed | 
          joined: refused: the session is completed | 
          in_sync_recorded: refused: the session is completed | 
          extents_laid: refused: the session is completed | 
          base_whole: refused: the session is completed | 
          read_failed: refused: the session is completed | 
          cancel_requested: refused: the session is completed | 
        invalidated
          handshake_answered: refused: the session is invalidated | 
          rebuild_offered: refused: the session is invalidated | 
          handshake_refused: refused: the session is invalidated | 
          plan_bound: refused: the session is invalidated | 
          pin_refused: refused: the session is invalidated | 
          pin_broken: refused: the session is invalidated | 
          truncation_recorded: refused: the session is invalidated | 
          acknowledged: refused: the session is invalidated | 
          joined: refused: the session is invalidated | 
          in_sync_recorded: refused: the session is invalidated | 
          extents_laid: refused: the session is invalidated | 
          base_whole: refused: the session is invalidated | 
          read_failed: refused: the session is invalidated | 
          cancel_requested: refused: the session is invalidated | 
        rebuild: handshake
          handshake_answered: refused: not in a session of kind rebuild | 
          rebuild_offered: done | !plan_rebuild_snapshot_tail handshake->source_selected BindPlan
          handshake_refused: done | !handshake_failed !session_failed handshake->invalidated Release(SessionEnded)
          plan_bound: refused: not while handshake | 
          pin_refused: refused: not while handshake | 
          pin_broken: done | !pin_broken !session_invalidated handshake->invalidated Release(PinBroken)
          truncation_recorded: refused: not in a session of kind rebuild | 
          acknowledged: refused: not while handshake | 
          joined: refused: not while handshake | 
          in_sync_recorded: refused: not in a session of kind rebuild | 
          extents_laid: refused: not while handshake | 
          base_whole: refused: not while handshake | 
          read_failed: done | !session_failed handshake->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated handshake->invalidated Release(Cancelled)
        rebuild: source_selected
          handshake_answered: refused: not in a session of kind rebuild | 
          rebuild_offered: refused: not while source_selected | 
          handshake_refused: refused: not while source_selected | 
          plan_bound: done | source_selected->joining JoinForRebuild
          pin_refused: done | !pin_refused !plan_cancelled !session_failed source_selected->invalidated Release(SessionEnded)
          pin_broken: done | !pin_broken !plan_cancelled !session_invalidated source_selected->invalidated Release(PinBroken)
          truncation_recorded: refused: not in a session of kind rebuild | 
          acknowledged: refused: not while source_selected | 
          joined: refused: not while source_selected | 
          in_sync_recorded: refused: not in a session of kind rebuild | 
          extents_laid: refused: not while source_selected | 
          base_whole: refused: not while source_selected | 
          read_failed: done | !plan_cancelled !session_failed source_selected->invalidated Release(ReadFailed)
          cancel_requested: done | !plan_cancelled !session_invalidated source_selected->invalidated Release(Cancelled)
        rebuild: joining
          handshake_answered: refused: not in a session of kind rebuild | 
          rebuild_offered: refused: not while joining | 
          handshake_refused: refused: not while joining | 
          plan_bound: refused: not while joining | 
          pin_refused: done | !pin_refused !session_failed joining->invalidated Release(SessionEnded)
          pin_broken: done | !pin_broken !session_invalidated joining->invalidated Release(PinBroken)
          truncation_recorded: refused: not in a session of kind rebuild | 
          acknowledged: refused: not while joining | 
          joined: done | !joined !exec_started joining->transferring StartBase
          in_sync_recorded: refused: not in a session of kind rebuild | 
          extents_laid: refused: not while joining | 
          base_whole: refused: not while joining | 
          read_failed: done | !session_failed joining->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated joining->invalidated Release(Cancelled)
        rebuild: transferring
          handshake_answered: refused: not in a session of kind rebuild | 
          rebuild_offered: refused: not while transferring | 
          handshake_refused: refused: not while transferring | 
          plan_bound: refused: not while transferring | 
          pin_refused: refused: not while transferring | 
          pin_broken: done | !pin_broken !session_invalidated transferring->invalidated Release(PinBroken)
          truncation_recorded: refused: not in a session of kind rebuild | 
          acknowledged: done | 
          joined: refused: not while transferring | 
          in_sync_recorded: refused: not in a session of kind rebuild | 
          extents_laid: done | !progress
          base_whole: refused: completion without proof: 0 of 4 extents are laid | !completion_rejected
          read_failed: done | !session_failed transferring->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated transferring->invalidated Release(Cancelled)
        rebuild: whole, not durable
          handshake_answered: refused: not in a session of kind rebuild | 
          rebuild_offered: refused: not while transferring | 
          handshake_refused: refused: not while transferring | 
          plan_bound: refused: not while transferring | 
          pin_refused: refused: not while transferring | 
          pin_broken: done | !pin_broken !session_invalidated transferring->invalidated Release(PinBroken)
          truncation_recorded: refused: not in a session of kind rebuild | 
          acknowledged: done | 
          joined: refused: not while transferring | 
          in_sync_recorded: refused: not in a session of kind rebuild | 
          extents_laid: staleprogress | 
          base_whole: done | transferring->replaying
          read_failed: done | !session_failed transferring->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated transferring->invalidated Release(Cancelled)
        rebuild: replaying
          handshake_answered: refused: not in a session of kind rebuild | 
          rebuild_offered: refused: not while replaying | 
          handshake_refused: refused: not while replaying | 
          plan_bound: refused: not while replaying | 
          pin_refused: refused: not while replaying | 
          pin_broken: done | !pin_broken !session_invalidated replaying->invalidated Release(PinBroken)
          truncation_recorded: refused: not in a session of kind rebuild | 
          acknowledged: done | !progress
          joined: refused: not while replaying | 
          in_sync_recorded: refused: not in a session of kind rebuild | 
          extents_laid: refused: not while replaying | 
          base_whole: refused: not while replaying | 
          read_failed: done | !session_failed replaying->invalidated Release(ReadFailed)
          cancel_requested: done | !session_invalidated replaying->invalidated Release(Cancelled)
    "#]]
}

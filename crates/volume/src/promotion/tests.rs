use moorline_types::{
    BlockCount, BootId, ConfigVersion, EpochStart, Member, NoQuorum, OpenCount, Opening, Openings,
    StoreId, VolumeId,
};
use moorline_wire::VoteClaim;

use super::*;

fn server(name: &str) -> ServerId {
    name.parse().unwrap()
}

fn store_of(name: &str) -> StoreId {
    StoreId::new(u128::from(name.as_bytes()[1]))
}

fn line(policy: Policy, ack: AckPoint, in_sync: &[&str]) -> AssignmentLine {
    let member = |name: &str| Member {
        server: server(name),
        store: Some(store_of(name)),
        open: OpenCount::new(1),
        opened_by: Some(BootId::new(1)),
        boot: Some(BootId::new(1)),
        data_addr: String::new(),
        control_addr: String::new(),
        nbd_addr: String::new(),
        endpoint_version: 1,
    };
    AssignmentLine {
        volume: VolumeId::new(1),
        name: "demo".into(),
        size_blocks: BlockCount::new(1024),
        policy,
        ack,
        min_copies: 2,
        epoch: Epoch::new(5, 0),
        config: ConfigVersion::new(7),
        primary: Some((server("s1"), BootId::new(1))),
        members: ["s1", "s2", "s3"].into_iter().map(member).collect(),
        in_sync: in_sync.iter().map(|name| server(name)).collect(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2000,
    }
}

/// Openings by their (number, boot).
fn opened(list: &[(u64, u128)]) -> Openings {
    let opening = |&(open, boot)| Opening {
        open: OpenCount::new(open),
        boot: BootId::new(boot),
    };
    Openings::from_list(list.iter().map(opening).collect()).unwrap()
}

/// The store after these openings of it.
fn after(facts: ReplicaFacts, list: &[(u64, u128)]) -> ReplicaFacts {
    let openings = opened(list);
    let newest = *openings.list().last().unwrap();
    ReplicaFacts {
        open: newest.open,
        boot: newest.boot,
        openings,
        ..facts
    }
}

/// A replica whose log has the given (epoch, first LSN) lines and ends at `head`.
fn facts(name: &str, history: &[(u64, u64)], head: u64) -> ReplicaFacts {
    let history = history
        .iter()
        .map(|&(epoch, first)| EpochStart {
            epoch: Epoch::new(epoch, 0),
            first: Lsn::new(first),
        })
        .collect();
    ReplicaFacts {
        server: server(name),
        store: store_of(name),
        open: OpenCount::new(1),
        boot: BootId::new(1),
        openings: opened(&[(1, 1)]),
        promised: None,
        history,
        head: Lsn::new(head),
        flushed: Some(Lsn::new(head)),
        doubtful: None,
        applied: Lsn::ZERO,
        checkpoint: Lsn::ZERO,
        tail: Lsn::ZERO,
        committed: Lsn::ZERO,
        acknowledged: Lsn::ZERO,
        line: None,
        vote: VoteClaim::Has,
        image: ImageState::Whole,
        memory: MemoryState::Intact,
        given_up: Vec::new(),
    }
}

fn run(line: &AssignmentLine, own: &ReplicaFacts, answers: &[ReplicaFacts]) -> Decision {
    run_at(Instant::ZERO, line, own, answers)
}

fn run_at(
    now: Instant,
    line: &AssignmentLine,
    own: &ReplicaFacts,
    answers: &[ReplicaFacts],
) -> Decision {
    run_as(OnVolatileLoss::Stop, now, line, own, answers)
}

fn run_as(
    on_volatile_loss: OnVolatileLoss,
    now: Instant,
    line: &AssignmentLine,
    own: &ReplicaFacts,
    answers: &[ReplicaFacts],
) -> Decision {
    run_told((on_volatile_loss, None), now, line, own, answers)
}

/// With what the server was told of losses, and what the master says an operator accepted.
fn run_told(
    (on_volatile_loss, loss_accepted): (OnVolatileLoss, Option<Epoch>),
    now: Instant,
    line: &AssignmentLine,
    own: &ReplicaFacts,
    answers: &[ReplicaFacts],
) -> Decision {
    let answers = answers
        .iter()
        .map(|facts| (facts.server.clone(), facts.clone()))
        .collect();
    let doubt_until = Instant::from_nanos(1_000);
    decide(Round {
        epoch: line.epoch,
        line,
        own,
        answers: &answers,
        doubt_until,
        now,
        on_volatile_loss,
        loss_accepted,
        mutants: Mutants::NONE,
    })
}

fn adoption(decision: Decision) -> Adoption {
    match decision {
        Decision::Adopt(adoption) => adoption,
        Decision::Wait
        | Decision::WaitForDoubt { .. }
        | Decision::NewerLine(_)
        | Decision::Decline(_) => panic!("{decision:?}"),
    }
}

fn quorum() -> AssignmentLine {
    line(Policy::SyncQuorum, AckPoint::Flushed, &["s1", "s2", "s3"])
}

#[test]
fn a_quorum_needs_one_more_answer_of_three() {
    let own = facts("s1", &[(1, 1)], 9);
    assert_eq!(run(&quorum(), &own, &[]), Decision::Wait);
    let found = adoption(run(&quorum(), &own, &[facts("s2", &[(1, 1)], 7)]));
    assert_eq!((found.cut, found.fetch), (None, None));
}

#[test]
fn the_best_log_is_the_one_whose_last_record_has_the_highest_epoch() {
    // s2 holds epoch 4's mark at 8; s1's longer log of epoch 3 is a deposed primary's tail.
    let own = facts("s1", &[(3, 1)], 20);
    let better = facts("s2", &[(3, 1), (4, 8)], 9);
    let found = adoption(run(&quorum(), &own, &[better]));
    assert_eq!(found.cut, Some(Lsn::new(7)));
    assert_eq!(found.fetch, LsnRange::new(Lsn::new(7), Lsn::new(9)));
    assert_eq!(found.sources, [server("s2")]);
}

#[test]
fn a_promised_epoch_makes_no_log_better() {
    let own = facts("s1", &[(3, 1)], 20);
    let mut other = facts("s2", &[(3, 1)], 9);
    other.promised = Some(moorline_wire::Promised {
        epoch: Epoch::new(4, 0),
        server: server("s2"),
        boot: BootId::new(1),
    });
    let found = adoption(run(&quorum(), &own, &[other]));
    assert_eq!((found.cut, found.fetch), (None, None));
}

#[test]
fn a_wiped_or_rolled_back_store_keeps_its_seat_and_has_no_vote() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut wiped = facts("s2", &[], 0);
    wiped.store = StoreId::new(999);
    assert_eq!(run(&quorum(), &own, &[wiped]), Decision::Wait);
    let mut line = quorum();
    for member in line.members.iter_mut().filter(|m| m.server != own.server) {
        (member.open, member.opened_by) = (OpenCount::new(3), Some(BootId::new(3)));
    }
    let theirs = facts("s2", &[(1, 1)], 9);
    for old_copy in [
        &[(1, 1), (2, 2)][..],
        &[(1, 1), (2, 2), (3, 30)], // the same count by another boot
        &[(1, 1), (2, 20), (3, 30), (4, 40), (5, 50)], // opened oftener since than the store itself
    ] {
        let old_copy = after(theirs.clone(), old_copy);
        assert_eq!(run(&line, &own, &[old_copy]), Decision::Wait);
    }
    for itself in [
        &[(1, 1), (2, 2), (3, 3)][..],
        &[(3, 3), (4, 4)],
        &[(4, 4), (5, 5)], // a newer line than this one recorded its fourth opening
    ] {
        adoption(run(&line, &own, &[after(theirs.clone(), itself)]));
    }
}

#[test]
fn a_member_that_restarted_since_it_was_called_in_sync_votes() {
    let own = facts("s1", &[(1, 1)], 9);
    let restarted = after(facts("s2", &[(1, 1)], 9), &[(1, 1), (2, 2)]);
    let mut line = quorum();
    for member in &mut line.members {
        (member.open, member.opened_by) = (OpenCount::new(2), Some(BootId::new(2)));
    }
    let own = after(own, &[(1, 1), (2, 2)]);
    adoption(run(&line, &own, &[restarted]));
}

#[test]
fn sync_all_asks_nobody_else_unless_memory_was_lost() {
    let own = facts("s1", &[(1, 1)], 9);
    let flushed = line(Policy::SyncAll, AckPoint::Flushed, &["s1", "s2"]);
    adoption(run(&flushed, &own, &[]));
    let without = line(Policy::SyncAll, AckPoint::Flushed, &["s2", "s3"]);
    assert_eq!(
        run(&without, &own, &[]),
        Decision::Decline(DeclineReason::NotInSync)
    );

    let received = line(Policy::SyncAll, AckPoint::Received, &["s1", "s2"]);
    adoption(run(&received, &own, &[]));
    let forgot = forgetful(own);
    let until = Instant::from_nanos(1_000);
    assert_eq!(
        run(&received, &forgot, &[]),
        Decision::WaitForDoubt { until }
    );
    let alone = DeclineReason::MemoryLost {
        without: vec![server("s2")],
    };
    assert_eq!(
        run_at(until, &received, &forgot, &[]),
        Decision::Decline(alone)
    );
    let found = adoption(run(&received, &forgot, &[facts("s2", &[(1, 1)], 9)]));
    assert_eq!(found.given_up, [], "one whose memory is intact held it all");
}

fn forgetful(facts: ReplicaFacts) -> ReplicaFacts {
    ReplicaFacts {
        memory: MemoryState::Lost,
        ..facts
    }
}

fn given_up(epoch: u64, mark: u64, after: u64, through: Lsn, why: GivenUpWhy) -> GivenUp {
    GivenUp {
        epoch: Epoch::new(epoch, 0),
        range: LsnRange::new(Lsn::new(after), through).unwrap(),
        why,
        mark: Epoch::new(mark, 0),
    }
}

#[test]
fn a_newer_line_among_the_answers_starts_again() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut other = facts("s2", &[(1, 1)], 9);
    let mut newer = quorum();
    newer.config = newer.config.next();
    other.line = Some(newer.clone());
    assert_eq!(
        run(&quorum(), &own, &[other]),
        Decision::NewerLine(Box::new(newer))
    );
}

#[test]
fn committed_is_the_highest_that_any_answer_proves() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut other = facts("s2", &[(1, 1)], 7);
    other.applied = Lsn::new(6);
    other.committed = Lsn::new(5);
    assert_eq!(
        adoption(run(&quorum(), &own, &[other.clone()])).committed,
        Lsn::new(6)
    );
    other.committed = Lsn::new(10);
    let missing = DeclineReason::CommittedDataMissing {
        known: Lsn::new(10),
        best: Lsn::new(9),
    };
    assert_eq!(run(&quorum(), &own, &[other]), Decision::Decline(missing));
}

#[test]
fn a_candidate_that_would_cut_what_it_applied_declines() {
    let mut own = facts("s1", &[(3, 1)], 20);
    (own.applied, own.committed) = (Lsn::new(8), Lsn::new(8));
    let better = facts("s2", &[(3, 1), (4, 8)], 9);
    let reason = DeclineReason::CutBelowApplied {
        better: server("s2"),
    };
    assert_eq!(run(&quorum(), &own, &[better]), Decision::Decline(reason));
}

#[test]
fn records_that_nobody_retains_name_who_has_them() {
    let own = facts("s1", &[(3, 1)], 5);
    let mut better = facts("s2", &[(3, 1)], 20);
    better.tail = Lsn::new(6); // exclusive: record 6 is gone
    let reason = DeclineReason::LacksRecords {
        better: server("s2"),
    };
    assert_eq!(
        run(&quorum(), &own, &[better.clone()]),
        Decision::Decline(reason)
    );
    better.tail = Lsn::new(5);
    adoption(run(&quorum(), &own, &[better]));
}

#[test]
fn a_doubt_is_waited_for_and_then_given_up() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut torn = facts("s2", &[(1, 1)], 7);
    torn.doubtful = LsnRange::new(Lsn::new(7), Lsn::new(11));
    let until = Instant::from_nanos(1_000);
    assert_eq!(
        run(&quorum(), &own, &[torn.clone()]),
        Decision::WaitForDoubt { until }
    );
    let found = adoption(run_at(until, &quorum(), &own, &[torn.clone()]));
    let lost = given_up(5, 5, 9, Lsn::new(11), GivenUpWhy::Doubtful);
    assert_eq!(found.given_up, [lost]);
    // The third seat's log ends the doubt.
    let third = facts("s3", &[(1, 1)], 11);
    let found = adoption(run(&quorum(), &own, &[torn, third]));
    assert_eq!(found.given_up, []);
    assert_eq!(found.fetch, LsnRange::new(Lsn::new(9), Lsn::new(11)));
}

fn received() -> AssignmentLine {
    line(Policy::SyncQuorum, AckPoint::Received, &["s1", "s2", "s3"])
}

#[test]
fn at_received_an_acknowledged_record_in_no_log_is_a_loss() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut other = facts("s2", &[(1, 1)], 9);
    other.acknowledged = Lsn::new(12);
    let until = Instant::from_nanos(1_000);
    assert_eq!(
        run(&received(), &own, &[other.clone()]),
        Decision::WaitForDoubt { until },
        "the third may hold it"
    );
    let found = adoption(run_at(until, &received(), &own, &[other]));
    let lost = given_up(5, 5, 9, Lsn::MAX, GivenUpWhy::VolatileStands);
    assert_eq!(found.given_up, [lost]);
    assert_eq!(found.acknowledged, Lsn::new(12));
}

#[test]
fn a_loss_is_ruled_out_by_intact_memory_that_meets_every_acknowledging_set() {
    use Policy::{SyncAll, SyncQuorum};
    let until = Instant::from_nanos(1_000);
    let names = ["s1", "s2", "s3"];
    // Who forgot, among those who answer; a seat that did not answer is not clear.
    for (policy, answers, forgot, certain) in [
        (SyncQuorum, 3, 0, true),
        (SyncQuorum, 3, 1, true),
        (SyncQuorum, 3, 2, false),
        (SyncQuorum, 2, 0, true),
        (SyncQuorum, 2, 1, false),
        (SyncAll, 3, 2, true),
        (SyncAll, 3, 3, false),
        (SyncAll, 1, 0, true),
    ] {
        let line = line(policy, AckPoint::Received, &names);
        let all: Vec<ReplicaFacts> = names[..answers]
            .iter()
            .enumerate()
            .map(|(at, name)| match facts(name, &[(1, 1)], 9) {
                whole if at >= forgot => whole,
                whole => forgetful(whole),
            })
            .collect();
        let found = adoption(run_at(until, &line, &all[0], &all[1..]));
        let case = format!("{policy:?} {answers} {forgot}");
        assert_eq!(found.given_up.is_empty(), certain, "{case}");
        let flushed = AssignmentLine {
            ack: AckPoint::Flushed,
            ..line
        };
        let found = adoption(run_at(until, &flushed, &all[0], &all[1..]));
        assert_eq!(found.given_up, [], "{case}");
    }
}

#[test]
fn what_a_dead_candidate_gave_up_is_announced_with_its_first_cause() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut witness = facts("s2", &[(1, 1)], 9);
    let lost = given_up(3, 4, 7, Lsn::MAX, GivenUpWhy::VolatileStands);
    let doubt = given_up(2, 2, 9, Lsn::new(11), GivenUpWhy::Doubtful);
    witness.given_up = vec![doubt, lost];
    let epoch = Epoch::new(5, 0);
    let taken_over = [doubt, lost].map(|given_up| GivenUp {
        mark: epoch,
        ..given_up
    });
    let found = adoption(run(&received(), &own, &[witness.clone()]));
    assert_eq!(found.given_up, taken_over);
    // The best log holds the mark of epoch 4, and a newer one that carries nothing on.
    let line = AssignmentLine {
        epoch: Epoch::new(6, 0),
        ..received()
    };
    let told = ReplicaFacts {
        given_up: vec![lost],
        ..facts("s2", &[(1, 1), (4, 8), (5, 9)], 9)
    };
    let found = adoption(run(&line, &own, &[told]));
    assert_eq!(found.given_up, [lost], "known, and announced long ago");
}

#[test]
fn clients_wait_for_an_operator_through_every_failover() {
    let mut own = facts("s1", &[(1, 1), (4, 8)], 9);
    let lost = given_up(4, 4, 7, Lsn::MAX, GivenUpWhy::VolatileStands);
    own.given_up = vec![lost];
    let other = facts("s2", &[(1, 1), (4, 8)], 9);
    let epoch = Epoch::new(5, 0);
    for (told, why) in [
        (OnVolatileLoss::Stop, GivenUpWhy::VolatileStands),
        (OnVolatileLoss::Continue, GivenUpWhy::VolatileCleared),
    ] {
        let answers = [other.clone()];
        let found = adoption(run_as(told, Instant::ZERO, &received(), &own, &answers));
        let carried = GivenUp {
            mark: epoch,
            why,
            ..lost
        };
        assert_eq!(found.given_up, [carried]);
    }
}

#[test]
fn an_operator_accepts_the_loss_that_was_announced_and_no_other() {
    use GivenUpWhy::{VolatileCleared, VolatileStands};
    let told = |accepted| (OnVolatileLoss::Stop, Some(Epoch::new(accepted, 0)));
    for (mark, why, accepted, want) in [
        (4, VolatileStands, 4, VolatileCleared), // the epoch that announced it was named
        (4, VolatileStands, 3, VolatileStands),  // an earlier loss was accepted, not this one
        (6, VolatileCleared, 4, VolatileCleared), // a candidate that cleared it died before its mark
        (6, VolatileStands, 6, VolatileStands),   // nobody has seen what no mark announced
    ] {
        let mut own = facts("s1", &[(1, 1), (4, 8)], 9);
        let lost = given_up(4, mark, 7, Lsn::MAX, why);
        own.given_up = vec![lost];
        let other = facts("s2", &[(1, 1), (4, 8)], 9);
        let decided = run_told(told(accepted), Instant::ZERO, &received(), &own, &[other]);
        let found: Vec<_> = adoption(decided).given_up.iter().map(|g| g.why).collect();
        assert_eq!(found, [want], "mark {mark}, {why}, accepted {accepted}");
    }
}

#[test]
fn what_was_given_up_long_ago_is_not_missing() {
    // s1 and s2 went on without 10 and 11; s3 comes back and still says that they are committed.
    let own = facts("s1", &[(1, 1), (4, 10)], 10);
    let mut late = facts("s3", &[(1, 1)], 11);
    late.committed = Lsn::new(11);
    let missing = DeclineReason::CommittedDataMissing {
        known: Lsn::new(11),
        best: Lsn::new(10),
    };
    assert_eq!(
        run(&quorum(), &own, &[late.clone()]),
        Decision::Decline(missing)
    );
    let told = ReplicaFacts {
        given_up: vec![given_up(4, 4, 9, Lsn::new(11), GivenUpWhy::Doubtful)],
        ..own
    };
    let found = adoption(run(&quorum(), &told, &[late]));
    assert_eq!(found.committed, Lsn::ZERO);
}

#[test]
fn more_than_a_mark_can_announce_is_declined() {
    let mut own = facts("s1", &[(1, 1)], 9);
    own.given_up = (0..=64)
        .map(|n| given_up(2, 2, n, Lsn::new(n + 1), GivenUpWhy::Doubtful))
        .collect();
    let other = facts("s2", &[(1, 1)], 9);
    assert_eq!(
        run(&quorum(), &own, &[other]),
        Decision::Decline(DeclineReason::GivenUpFull)
    );
}

#[test]
fn a_store_that_needs_a_rebuild_promises_and_does_not_lead() {
    let own = facts("s1", &[(1, 1)], 9);
    let mut needy = facts("s2", &[(1, 1)], 4);
    needy.image = ImageState::NeedsRebuild;
    adoption(run(&quorum(), &own, &[needy.clone()]));
    let reason = DeclineReason::NoVote(NoVoteReason::NeedsRebuild);
    assert_eq!(run(&quorum(), &needy, &[own]), Decision::Decline(reason));
}

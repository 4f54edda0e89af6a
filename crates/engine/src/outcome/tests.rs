use moorline_types::{Epoch, EpochStart, GivenUpWhy, Lsn, LsnRange};

use super::*;
use crate::facts::Image;

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

/// A history from (epoch, first record).
fn history(starts: &[(u64, u64)]) -> Vec<EpochStart> {
    let start = |&(epoch, first): &(u64, u64)| EpochStart {
        epoch: Epoch::new(epoch, 0),
        first: lsn(first),
    };
    starts.iter().map(start).collect()
}

fn given_up(epoch: u64, after: u64, through: u64) -> GivenUp {
    GivenUp {
        epoch: Epoch::new(epoch, 0),
        range: LsnRange::new(lsn(after), lsn(through)).unwrap(),
        why: GivenUpWhy::Doubtful,
        mark: Epoch::new(epoch, 0),
    }
}

/// Both sides in plain numbers; the primary's checkpoint is its tail.
#[derive(Clone)]
struct Case {
    history: Vec<EpochStart>,
    head: u64,
    committed: u64,
    tail: u64,
    lowest_pin: Option<u64>,
    given_up: Vec<GivenUp>,
    r_history: Vec<EpochStart>,
    r_head: u64,
    flushed: Option<u64>,
    r_committed: u64,
    applied: u64,
    checkpoint: u64,
    r_tail: u64,
    image: Image,
}

impl Case {
    /// One epoch, primary (tail 10, committed 50, head 60), replica equal to it.
    fn new() -> Self {
        Self {
            history: history(&[(1, 1)]),
            head: 60,
            committed: 50,
            tail: 10,
            lowest_pin: None,
            given_up: Vec::new(),
            r_history: history(&[(1, 1)]),
            r_head: 60,
            flushed: Some(60),
            r_committed: 0,
            applied: 0,
            checkpoint: 0,
            r_tail: 0,
            image: Image::Whole,
        }
    }

    /// The replica holds exactly records 1 through `head`, durably.
    fn holding(mut self, head: u64) -> Self {
        self.r_head = head;
        self.flushed = Some(head);
        if head == 0 {
            self.r_history.clear();
        }
        self
    }

    /// The primary went on in epoch 2 from record 51, the replica in epoch 1 through `r_head`.
    fn diverged(mut self, r_head: u64) -> Self {
        self.history = history(&[(1, 1), (2, 51)]);
        self.r_head = r_head;
        self.flushed = Some(r_head);
        self
    }

    fn judge(&self) -> Result<Verdict, NoVerdict> {
        classify(
            &PrimaryFacts {
                history: &self.history,
                head: lsn(self.head),
                committed: lsn(self.committed),
                tail: lsn(self.tail),
                checkpoint: lsn(self.tail),
                lowest_pin: self.lowest_pin.map(lsn),
                given_up: &self.given_up,
            },
            &ReplicaFacts {
                history: &self.r_history,
                head: lsn(self.r_head),
                flushed: self.flushed.map(lsn),
                applied: lsn(self.applied),
                checkpoint: lsn(self.checkpoint),
                tail: lsn(self.r_tail),
                committed: lsn(self.r_committed),
                image: self.image,
                given_up: &[],
            },
        )
    }

    fn verdict(&self) -> (Outcome, Option<u64>, Reason) {
        let verdict = self.judge().unwrap();
        let cut = verdict.cut.map(Lsn::get);
        (verdict.outcome, cut, verdict.proof.reason)
    }
}

fn catch_up(after: u64, through: u64) -> Outcome {
    Outcome::CatchUp(LsnRange::new(lsn(after), lsn(through)).unwrap())
}

#[test]
fn a_prefix_is_judged_by_retention_and_never_cut() {
    use RebuildReason::GapBeyondRetention as Gone;
    let rebuild = Outcome::NeedsRebuild(Gone);
    for (holds, want, reason) in [
        (60, Outcome::ZeroGap, Reason::HoldsUncommittedPrefix),
        (51, Outcome::ZeroGap, Reason::HoldsUncommittedPrefix),
        (50, Outcome::ZeroGap, Reason::ZeroGap),
        (49, catch_up(49, 50), Reason::GapWithinRetention),
        (11, catch_up(11, 50), Reason::GapWithinRetention),
        // The tail is exclusive: record 11 is still held.
        (10, catch_up(10, 50), Reason::GapWithinRetention),
        // Record 10 is gone.
        (9, rebuild, Reason::GapBeyondRetention),
        (0, rebuild, Reason::GapBeyondRetention),
    ] {
        let case = Case::new().holding(holds);
        assert_eq!(case.verdict(), (want, None, reason), "holds {holds}");
    }
}

#[test]
fn nothing_committed_yet_is_a_zero_gap_like_any_other() {
    for (holds, reason) in [(0, Reason::ZeroGap), (3, Reason::HoldsUncommittedPrefix)] {
        let mut case = Case::new().holding(holds);
        (case.head, case.committed, case.tail) = (5, 0, 0);
        assert_eq!(case.verdict(), (Outcome::ZeroGap, None, reason));
    }
    let mut empty = Case::new().holding(0);
    (empty.head, empty.committed, empty.tail) = (0, 0, 0);
    empty.history.clear();
    assert_eq!(empty.verdict(), (Outcome::ZeroGap, None, Reason::ZeroGap));
}

#[test]
fn a_replica_ahead_of_an_equal_history_is_cut_to_the_primarys_head() {
    let mut case = Case::new().holding(65);
    case.committed = 55;
    let want = (Outcome::ZeroGap, Some(60), Reason::HistoriesDivergeAt);
    assert_eq!(case.verdict(), want);
}

#[test]
fn a_divergent_tail_is_cut_to_exactly_the_last_common_record() {
    for (r_head, committed, want) in [
        (50, 60, (catch_up(50, 60), None, Reason::GapWithinRetention)),
        (
            51,
            60,
            (catch_up(50, 60), Some(50), Reason::GapWithinRetention),
        ),
        (
            80,
            60,
            (catch_up(50, 60), Some(50), Reason::GapWithinRetention),
        ),
        (
            51,
            50,
            (Outcome::ZeroGap, Some(50), Reason::HistoriesDivergeAt),
        ),
        (
            80,
            49,
            (Outcome::ZeroGap, Some(50), Reason::HistoriesDivergeAt),
        ),
    ] {
        let mut case = Case::new().diverged(r_head);
        case.committed = committed;
        assert_eq!(
            case.verdict(),
            want,
            "replica head {r_head}, committed {committed}"
        );
    }
}

#[test]
fn durable_records_above_the_last_common_one_count_for_nothing() {
    // 80 records are durable, all that counts is 50: catch-up begins there.
    let verdict = Case::new().diverged(80).judge().unwrap();
    assert_eq!(verdict.proof.frontier, Some(lsn(50)));
    // And what is not durable does not count either, common or not.
    let mut case = Case::new().diverged(80);
    case.flushed = Some(40);
    assert_eq!(case.verdict().0, catch_up(40, 50));
}

#[test]
fn a_divergent_replica_below_retention_is_rebuilt_and_not_cut() {
    let mut case = Case::new().diverged(80);
    (case.head, case.committed, case.tail) = (90, 90, 51);
    let gone = Outcome::NeedsRebuild(RebuildReason::GapBeyondRetention);
    assert_eq!(case.verdict(), (gone, None, Reason::GapBeyondRetention));
    (case.tail, case.lowest_pin) = (50, Some(50));
    assert_eq!(case.verdict().0, catch_up(50, 90));
}

#[test]
fn committed_records_in_a_divergent_tail_stop_both_sides() {
    // The replica knows 51 to be committed, and holds its own record there.
    for (r_committed, missing) in [(50, false), (51, true), (80, true)] {
        let mut case = Case::new().diverged(80);
        case.r_committed = r_committed;
        let judged = case.judge();
        assert_eq!(
            matches!(judged, Err(NoVerdict::CommittedDataMissing(_))),
            missing,
            "replica committed {r_committed}: {judged:?}"
        );
    }
}

#[test]
fn a_committed_point_above_the_primarys_head_stops_both_sides() {
    for (r_committed, missing) in [(60, false), (61, true)] {
        let mut case = Case::new().holding(40);
        case.r_committed = r_committed;
        let judged = case.judge();
        let is_missing = matches!(judged, Err(NoVerdict::CommittedDataMissing(_)));
        assert_eq!(is_missing, missing, "{judged:?}");
        // What an incomplete image was told is committed in the volume is believed too.
        case.image = Image::Incomplete;
        let judged = case.judge();
        let is_missing = matches!(judged, Err(NoVerdict::CommittedDataMissing(_)));
        assert_eq!(is_missing, missing, "incomplete: {judged:?}");
    }
}

#[test]
fn a_recorded_decision_excuses_exactly_what_it_gave_up() {
    for (decision, excused) in [
        (given_up(2, 50, 80), true),
        (given_up(2, 40, 90), true),
        (given_up(2, 51, 80), false), // record 51 was not given up
        (given_up(2, 50, 79), false), // record 80 was not
        (given_up(1, 50, 80), false), // decided before epoch 1 wrote them
    ] {
        let mut case = Case::new().diverged(80);
        case.r_committed = 80;
        case.given_up = vec![decision];
        let judged = case.judge();
        assert_eq!(judged.is_ok(), excused, "{decision:?}: {judged:?}");
        if let Ok(verdict) = judged {
            assert_eq!(verdict.cut, Some(lsn(50)));
            assert_eq!(
                verdict.raise_committed, None,
                "what was given up is no news"
            );
        }
    }
}

#[test]
fn a_given_up_tail_that_was_applied_needs_a_rebuild() {
    for (applied, want) in [
        (50, (Outcome::ZeroGap, Some(50), Reason::HistoriesDivergeAt)),
        (
            51,
            (
                Outcome::NeedsRebuild(RebuildReason::CutBelowApplied),
                None,
                Reason::CutBelowApplied,
            ),
        ),
    ] {
        let mut case = Case::new().diverged(80);
        (case.r_committed, case.applied) = (80, applied);
        case.given_up = vec![given_up(2, 50, 80)];
        assert_eq!(case.verdict(), want, "applied {applied}");
    }
}

#[test]
fn news_of_commits_is_taken_only_for_records_that_both_logs_hold() {
    for (holds, r_committed, applied, raise) in [
        (60, 50, 0, None),      // known already
        (60, 51, 0, Some(51)),  // one more
        (60, 60, 0, Some(60)),  // all the primary has
        (60, 60, 60, Some(60)), // applied and so committed
        (55, 58, 0, None),      // the replica does not hold record 58: nothing to compare
        (58, 58, 0, Some(58)),
    ] {
        let mut case = Case::new().holding(holds);
        (case.r_committed, case.applied, case.checkpoint) = (r_committed, applied, applied);
        let verdict = case.judge().unwrap();
        assert_eq!(
            verdict.raise_committed,
            raise.map(lsn),
            "{holds} {r_committed}"
        );
        assert_eq!(verdict.outcome, Outcome::ZeroGap);
    }
}

#[test]
fn the_target_is_the_raised_committed_point() {
    let mut case = Case::new().holding(60);
    (case.flushed, case.r_committed) = (Some(45), 58);
    assert_eq!(case.verdict().0, catch_up(45, 58));
}

#[test]
fn an_incomplete_image_is_rebuilt_whatever_it_says_of_itself() {
    let mut marked = Case::new();
    marked.image = Image::Incomplete;
    // None of this could be true of a whole store.
    (marked.applied, marked.checkpoint, marked.r_tail) = (5, 70, 90);
    let mut rebuilding = Case::new();
    rebuilding.flushed = None;
    for case in [marked, rebuilding] {
        let want = Outcome::NeedsRebuild(RebuildReason::ReplicaIncomplete);
        assert_eq!(case.verdict(), (want, None, Reason::ReplicaIncomplete));
    }
}

#[test]
fn impossible_facts_are_an_error_with_their_numbers() {
    let broken = |change: fn(&mut Case)| {
        let mut case = Case::new();
        change(&mut case);
        match case.judge() {
            Err(NoVerdict::Impossible(impossible)) => impossible.to_string(),
            other => panic!("{other:?}"),
        }
    };
    for (text, change) in [
        (
            "the primary's committed 61 is above its head 60",
            (|case| case.committed = 61) as fn(&mut Case),
        ),
        ("the primary's checkpoint 51 is above applied 50", |case| {
            case.tail = 51;
        }),
        ("the replica's flushed 61 is above its head 60", |case| {
            case.flushed = Some(61);
        }),
        (
            "the replica's applied 41 is above committed 40 or flushed 60",
            |case| (case.r_committed, case.applied) = (40, 41),
        ),
        ("the primary's tail 11 is above a live pin at 10", |case| {
            (case.tail, case.lowest_pin) = (11, Some(10));
        }),
        (
            "the replica's applied 41 is above committed 60 or flushed 40",
            |case| (case.r_committed, case.applied, case.flushed) = (60, 41, Some(40)),
        ),
        ("the replica's checkpoint 31 is above applied 30", |case| {
            (case.r_committed, case.applied, case.checkpoint) = (40, 30, 31);
        }),
        ("the replica's tail 31 is above its checkpoint 30", |case| {
            (case.r_committed, case.applied) = (40, 30);
            (case.checkpoint, case.r_tail) = (30, 31);
        }),
        (
            "the replica's epoch history is out of order at epoch 1 from 20",
            |case| case.r_history = history(&[(2, 1), (1, 20)]),
        ),
        (
            "the primary's epoch history is out of order at epoch 2 from 61",
            |case| case.history = history(&[(1, 1), (2, 61)]),
        ),
        ("the histories part after 9 and agree again at 20", |case| {
            case.history = history(&[(1, 1), (2, 10), (3, 20)]);
            case.r_history = history(&[(1, 1), (3, 20)]);
        }),
    ] {
        assert_eq!(broken(change), text);
    }
}

#[test]
fn the_last_common_record_is_found_by_who_wrote_what() {
    type Log<'a> = (&'a [(u64, u64)], u64);
    let table: &[(Log<'_>, Log<'_>, Option<u64>)] = &[
        ((&[], 0), (&[], 0), Some(0)),
        ((&[(1, 1)], 9), (&[], 0), Some(0)),
        ((&[(1, 1)], 9), (&[(1, 1)], 4), Some(4)),
        ((&[(1, 1)], 9), (&[(2, 1)], 9), Some(0)),
        ((&[(1, 1), (2, 5)], 9), (&[(1, 1)], 9), Some(4)),
        ((&[(1, 1), (2, 5)], 9), (&[(1, 1)], 4), Some(4)),
        ((&[(1, 1), (2, 5)], 9), (&[(1, 1), (3, 5)], 9), Some(4)),
        ((&[(1, 1), (2, 5)], 9), (&[(1, 1), (2, 5)], 7), Some(7)),
        ((&[(1, 1), (3, 5)], 9), (&[(1, 1), (2, 3)], 9), Some(2)),
        // Histories that do not reach back to record 1.
        ((&[(4, 50)], 60), (&[(1, 1), (4, 50)], 55), Some(55)),
        ((&[(4, 50)], 60), (&[(1, 1)], 40), None),
        ((&[(4, 50)], 60), (&[(1, 1), (3, 45)], 60), None),
        ((&[], 60), (&[(1, 1)], 60), None),
        // They part and meet again.
        ((&[(1, 1), (2, 3), (3, 5)], 9), (&[(1, 1), (3, 5)], 9), None),
    ];
    for &(one, other, want) in table {
        let (one, other) = ((history(one.0), one.1), (history(other.0), other.1));
        let (a, b) = ((&one.0[..], lsn(one.1)), (&other.0[..], lsn(other.1)));
        assert_eq!(last_common(a, b), want.map(lsn), "{a:?} {b:?}");
        assert_eq!(last_common(b, a), want.map(lsn), "{b:?} {a:?}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn the_planted_bug_leaves_the_divergent_tail() {
    let case = Case::new().diverged(80);
    let sound = case.judge().unwrap();
    assert_eq!(cut(Mutants::NONE, lsn(50), lsn(80)), sound.cut);
    assert_eq!(
        cut(Mutants::NONE.with(Mutant::CutSkipped), lsn(50), lsn(80)),
        None
    );
}

mod model {
    //! Small worlds, every pair of logs: the verdict against one found record by record.

    use proptest::prelude::*;

    use super::*;

    /// A log as the list of its records' epochs.
    fn log_of(starts: &[(u64, u64)], head: u64) -> Vec<u64> {
        (1..=head)
            .map(|n| starts.iter().rfind(|start| start.1 <= n).unwrap().0)
            .collect()
    }

    prop_compose! {
        /// A log that grew by whole reigns: (epochs ascending, lengths).
        fn log()(lengths in prop::collection::vec((1u64..4, 1u64..6), 0..4)) -> (Vec<(u64, u64)>, u64) {
            let (mut starts, mut epoch, mut first) = (Vec::new(), 0, 1);
            for (step, length) in lengths {
                epoch += step;
                starts.push((epoch, first));
                first += length;
            }
            (starts, first - 1)
        }
    }

    proptest! {
        #[test]
        fn verdicts_agree_with_comparing_record_by_record(
            p in log(), r in log(),
            (tail, committed, flushed) in (0u64..20, 0u64..20, 0u64..20),
        ) {
            let (p_log, r_log) = (log_of(&p.0, p.1), log_of(&r.0, r.1));
            let agree = p_log.iter().zip(&r_log).take_while(|(a, b)| a == b).count();
            let common = agree as u64;
            let meets_again = p_log.iter().zip(&r_log).skip(agree).any(|(a, b)| a == b);
            let committed = committed.min(p.1);
            let tail = tail.min(committed);
            let case = Case {
                history: history(&p.0), head: p.1, committed, tail, lowest_pin: None, given_up: Vec::new(),
                r_history: history(&r.0), r_head: r.1, flushed: Some(flushed.min(r.1)),
                r_committed: 0, applied: 0, checkpoint: 0, r_tail: 0, image: Image::Whole,
            };
            let judged = case.judge();
            if meets_again {
                let is_impossible = matches!(
                    judged, Err(NoVerdict::Impossible(Impossible::HistoriesMeetAgain { .. }))
                );
                prop_assert!(is_impossible, "{judged:?}");
                return Ok(());
            }
            let verdict = judged.unwrap();
            let frontier = flushed.min(r.1).min(common);
            let (want, cut) = if frontier >= committed {
                (Outcome::ZeroGap, (common < r.1).then_some(lsn(common)))
            } else if frontier >= tail {
                (super::catch_up(frontier, committed), (common < r.1).then_some(lsn(common)))
            } else {
                (Outcome::NeedsRebuild(RebuildReason::GapBeyondRetention), None)
            };
            prop_assert_eq!(verdict.outcome, want);
            prop_assert_eq!(verdict.cut, cut);
        }
    }
}

#[test]
fn a_decision_excuses_what_earlier_epochs_wrote_within_it() {
    let lost = [given_up(3, 9, 11)];
    let old = history(&[(1, 1)]);
    let at = |common: u64, known: u64| (lsn(common), lsn(known));
    assert!(excused(&lost, at(9, 11), (&old, lsn(11))));
    assert!(!excused(&lost, at(8, 11), (&old, lsn(11))));
    assert!(!excused(&lost, at(9, 12), (&old, lsn(12))));
    let own = history(&[(1, 1), (3, 10)]);
    assert!(!excused(&lost, at(9, 11), (&own, lsn(11))));
}

//! Runs of the whole cluster: repeatable, clean, and quick to see a planted bug.

use moorline_sim::{Aim, MUTANTS, Outcome, Plan, Recipe, Timeline, run, run_staged};
use moorline_types::{AckPoint, Policy};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn must_pass(outcome: &Outcome) {
    let seed = outcome.seed;
    assert!(
        outcome.violation.is_none(),
        "seed {seed}: {:?}\n{}",
        outcome.violation,
        outcome.about.join("\n")
    );
    assert!(outcome.counts.done > 0, "seed {seed} did nothing");
}

/// Three replicas that commit by majority, and the given disturbances.
fn quorum(faults: &[(u64, Recipe)]) -> impl FnOnce(&mut Plan) + '_ {
    move |plan| {
        plan.policy = Policy::SyncQuorum;
        plan.ack = AckPoint::Flushed;
        plan.ops = 200;
        plan.faults = faults.to_vec();
        if plan.replicas != 3 {
            *plan = plan.clone().with_replicas(3);
        }
    }
}

fn staged(seed: u64, faults: &[(u64, Recipe)]) -> Outcome {
    run_staged(seed, None, Timeline::Off, quorum(faults))
}

#[test]
fn a_seed_is_one_run() {
    for seed in [3, 7] {
        let (first, second) = (
            run(seed, None, Timeline::Off),
            run(seed, None, Timeline::Kept),
        );
        assert_eq!(first.counts, second.counts, "seed {seed}");
    }
}

#[test]
fn twenty_seeds_pass() {
    for seed in 1_000..1_020 {
        must_pass(&run(seed, None, Timeline::Off));
    }
}

#[test]
fn seeds_that_found_bugs_pass() {
    let seeds = include_str!("../../regressions.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next());
    for seed in seeds {
        let seed = seed.parse().expect("a line begins with its seed");
        must_pass(&run(seed, None, Timeline::Off));
    }
}

#[test]
fn without_disturbance_nothing_is_unknown_or_refused() {
    let outcome = staged(5, &[]);
    must_pass(&outcome);
    let counts = &outcome.counts;
    assert_eq!((counts.unknown, counts.rejected, counts.reigns), (0, 0, 1));
}

#[test]
fn a_primary_killed_within_its_lease_never_goes_on_in_its_epoch() {
    let kill = Recipe::Kill {
        aim: Aim::Primary,
        down: 50 * MS,
    };
    let outcome = staged(6, &[(SECOND, kill), (10 * SECOND, kill)]);
    must_pass(&outcome);
    assert!(outcome.counts.reigns >= 3, "{:?}", outcome.counts);
}

#[test]
fn a_power_cut_of_all_loses_no_acknowledged_write() {
    for seed in 20..25 {
        let cut = Recipe::PowerCutAll { down: 100 * MS };
        must_pass(&staged(seed, &[(2 * SECOND, cut), (9 * SECOND, cut)]));
    }
}

#[test]
fn a_primary_that_was_stopped_answers_nothing_without_a_lease() {
    let pause = Recipe::Pause {
        aim: Aim::Primary,
        time: 6 * SECOND,
    };
    let outcome = staged(8, &[(2 * SECOND, pause)]);
    must_pass(&outcome);
    assert!(outcome.counts.reigns >= 2, "{:?}", outcome.counts);
}

#[test]
fn a_primary_that_was_cut_off_loses_its_tail_and_comes_back() {
    for seed in 30..35 {
        let diverge = Recipe::Diverge {
            time: 5 * SECOND,
            down: 30 * MS,
        };
        must_pass(&staged(seed, &[(2 * SECOND, diverge)]));
    }
}

#[test]
fn a_planted_bug_is_found() {
    let canary = MUTANTS
        .iter()
        .find(|(name, ..)| *name == "ack_before_flush");
    let (_, mutant, _) = canary.expect("it is in the list");
    let found = (0..40).find(|seed| run(*seed, Some(*mutant), Timeline::Off).violation.is_some());
    assert!(found.is_some());
}

//! Runs of the whole cluster: repeatable, clean, and quick to see a planted bug.

mod acceptance;
mod matrix;
mod stage;

use moorline_sim::{
    FAULTS, Further, MUTANTS, Mutant, OnLoss, Outcome, Plan, Recipe, Sampling, Timeline, run,
    run_plan, run_staged, run_struck, shrink,
};
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
        let elsewhere = std::thread::spawn(move || run(seed, None, Timeline::Off));
        let third = elsewhere.join().expect("a run does not unwind");
        assert_eq!(first.counts, third.counts, "seed {seed} in another thread");
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
fn a_power_cut_of_all_loses_no_acknowledged_write() {
    for seed in 20..25 {
        let cut = Recipe::PowerCutAll { down: 100 * MS };
        must_pass(&staged(seed, &[(2 * SECOND, cut), (9 * SECOND, cut)]));
    }
}

/// Three replicas at ack point `received` whose memory is lost twice, all at once.
fn forgetful(seed: u64, policy: Policy, on_loss: OnLoss) -> Outcome {
    let cut = Recipe::PowerCutAll { down: 100 * MS };
    let faults = [(2 * SECOND, cut), (9 * SECOND, cut)];
    run_staged(seed, None, Timeline::Off, |plan| {
        quorum(&faults)(plan);
        plan.policy = policy;
        plan.ack = AckPoint::Received;
        plan.on_loss = on_loss;
    })
}

#[test]
fn acknowledged_writes_that_may_be_lost_with_memory_stop_a_volume_until_an_operator_decides() {
    for (seed, policy) in [(40, Policy::SyncQuorum), (41, Policy::SyncAll)] {
        let outcome = forgetful(seed, policy, OnLoss::Stop);
        must_pass(&outcome);
        let counts = &outcome.counts;
        let told = |name: &str| counts.notes.get(name).copied().unwrap_or(0);
        // Said by each epoch's mark, the second power cut's too: a failover clears nothing.
        assert!(told("volatile_tail_lost") >= 2, "{counts:?}");
        assert_eq!(told("waits_for_operator"), 1, "{counts:?}");
        assert_eq!(counts.reigns, 1, "nobody is served: {counts:?}");
    }
}

#[test]
fn a_volume_that_was_told_to_goes_on_after_a_loss_and_says_so() {
    for (seed, policy) in [(40, Policy::SyncQuorum), (41, Policy::SyncAll)] {
        let outcome = forgetful(seed, policy, OnLoss::Continue);
        must_pass(&outcome);
        let counts = &outcome.counts;
        assert!(
            counts.notes.contains_key("volatile_tail_lost"),
            "{counts:?}"
        );
        assert!(counts.reigns >= 2, "{counts:?}");
    }
}

#[test]
fn every_disturbance_is_listed() {
    let drawn: Vec<&str> = (0..1_000)
        .flat_map(|seed| Plan::of(seed).faults)
        .map(|(_, recipe)| recipe.name())
        .collect();
    for (name, _) in FAULTS {
        assert!(drawn.contains(name), "{name} is never drawn");
    }
    for name in drawn {
        assert!(FAULTS.iter().any(|(listed, _)| *listed == name), "{name}");
    }
}

fn planted(name: &str) -> Mutant {
    let known = MUTANTS.iter().find(|(known, ..)| *known == name);
    let (_, mutant, _) = known.expect("it is in the list");
    *mutant
}

/// How often the power went in copies of one seed's run, at each `every`-th point.
fn struck(seed: u64, every: u64, bug: Option<Mutant>) -> (u64, bool) {
    let plan = Plan::for_persist_points(seed);
    let (mut struck, mut found) = (0, false);
    let sampling = Sampling { every, again: 24 };
    run_struck(seed, plan, bug, sampling, &mut |outcome| {
        struck += u64::from(outcome.plan.as_ref().is_some_and(|p| p.strike.is_some()));
        found |= outcome.violation.is_some();
        if bug.is_none() {
            must_pass(&outcome);
        }
        Further::GoOn
    });
    (struck, found)
}

#[test]
fn power_lost_at_any_persist_point_loses_nothing() {
    let (struck, _) = struck(4, 23, None);
    assert!(struck > 10, "the power went {struck} times");
}

#[test]
fn a_copy_of_the_world_goes_on_as_the_world_would_have() {
    for seed in [0, 1, 5, 8, 12] {
        let plan = Plan::for_persist_points(seed);
        let mut copies = Vec::new();
        let sampling = Sampling {
            every: 41,
            again: 7,
        };
        run_struck(seed, plan.clone(), None, sampling, &mut |outcome| {
            copies.push(outcome);
            Further::GoOn
        });
        let undisturbed = copies.last().expect("one run ended").counts.clone();
        assert_eq!(
            undisturbed,
            run_plan(seed, plan, None, Timeline::Off).counts
        );
        for copy in copies {
            let plan = copy.plan.expect("it ran");
            let whole = run_plan(seed, plan.clone(), None, Timeline::Off);
            assert_eq!(copy.counts, whole.counts, "seed {seed}: {:?}", plan.strike);
            assert!(copy.violation.is_none() && whole.violation.is_none());
        }
    }
}

#[test]
fn a_bug_of_persisting_is_found_at_some_persist_point() {
    let (_, found) = struck(4, 23, Some(planted("ack_before_flush")));
    assert!(found);
}

#[test]
fn a_planted_bug_is_found() {
    for name in ["ack_before_flush", "lying_flush"] {
        let bug = Some(planted(name));
        let found = (0..40).find(|seed| run(*seed, bug, Timeline::Off).violation.is_some());
        assert!(found.is_some(), "{name}");
    }
}

#[test]
fn a_run_that_breaks_a_rule_becomes_smaller_and_still_breaks_it() {
    let bug = Some(planted("ack_before_flush"));
    let outcome = (0..40)
        .map(|seed| run(seed, bug, Timeline::Off))
        .find(|outcome| outcome.violation.is_some())
        .expect("it is found");
    let (plan, violation) = (outcome.plan.expect("it ran"), outcome.violation);
    let rule = violation.expect("it broke one").rule;
    let shrunk = shrink(outcome.seed, plan.clone(), (bug, rule), 40);
    assert!(shrunk.plan.faults.len() <= plan.faults.len());
    assert!(shrunk.plan.ops < plan.ops);
}

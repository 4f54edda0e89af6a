//! Runs of the whole cluster: repeatable, clean, and quick to see a planted bug.

use moorline_sim::{
    Aim, FAULTS, MUTANTS, Mutant, OnLoss, OpClass, Outcome, Plan, Recipe, Region, StrayKind,
    Timeline, run, run_staged, shrink,
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
fn a_primary_whose_log_fails_hands_over_and_loses_nothing() {
    for what in [OpClass::Write, OpClass::Flush] {
        let fails = Recipe::TransientError {
            aim: Aim::Primary,
            what,
            count: 1,
            time: 6 * SECOND,
        };
        let outcome = staged(9, &[(2 * SECOND, fails)]);
        must_pass(&outcome);
        assert!(outcome.counts.reigns >= 2, "{what:?} {:?}", outcome.counts);
        assert_eq!(outcome.counts.notes.get("store_failed"), Some(&1));
    }
}

#[test]
fn a_hung_follower_stops_nobody() {
    let hangs = Recipe::HungDisk {
        aim: Aim::Follower,
        time: 9 * SECOND,
    };
    let outcome = staged(10, &[(2 * SECOND, hangs)]);
    must_pass(&outcome);
    assert_eq!(outcome.counts.reigns, 1, "{:?}", outcome.counts);
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced() {
    let hangs = Recipe::HungDisk {
        aim: Aim::Primary,
        time: 12 * SECOND,
    };
    let outcome = staged(11, &[(2 * SECOND, hangs)]);
    must_pass(&outcome);
    assert!(outcome.counts.reigns >= 2, "{:?}", outcome.counts);
}

#[test]
fn full_disks_stop_the_volume_and_lose_nothing() {
    let full = Recipe::FullDisks { time: 3 * SECOND };
    let outcome = staged(12, &[(2 * SECOND, full)]);
    must_pass(&outcome);
    assert!(outcome.counts.notes.contains_key("store_failed"));
}

#[test]
fn swapped_disks_are_refused() {
    let swapped = Recipe::SwappedDisks { time: 3 * SECOND };
    let outcome = staged(13, &[(2 * SECOND, swapped)]);
    must_pass(&outcome);
    assert_eq!(outcome.counts.notes.get("store_refused"), Some(&2));
}

/// Three replicas, one of whose disks damages data.
fn damaged(seed: u64, recipe: Recipe) -> Outcome {
    let faults = [(2 * SECOND, recipe), (4 * SECOND, recipe)];
    run_staged(seed, None, Timeline::Off, |plan| {
        quorum(&faults)(plan);
        plan.suspect = Some(0);
    })
}

#[test]
fn one_bad_disk_is_never_believed() {
    let regions = [
        Region::Superblock,
        Region::Log,
        Region::Map,
        Region::Extents,
    ];
    let rots = regions.map(|region| Recipe::BitRot { region });
    let strays =
        [StrayKind::Lost, StrayKind::Misdirected].map(|kind| Recipe::StrayWrite { kind, count: 2 });
    for recipe in rots.into_iter().chain(strays) {
        for seed in 40..43 {
            must_pass(&damaged(seed, recipe));
        }
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

//! One seed, one run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    checkers::{Rule, Violation},
    dice::Dice,
    mutants::Mutant,
    plan::Plan,
    strike::Sampling,
    watch::Watch,
    world::{Counts, Ended, Timeline, World},
};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The options that it gave.
    pub plan: Option<Plan>,
    /// Numbers.
    pub counts: Counts,
    /// Those of them that another run had counted when this one began as its copy.
    pub copied: Counts,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// The timeline, if it was asked for.
    pub lines: Vec<String>,
    /// What was watched, if a timeline was asked for.
    pub watch: Watch,
    /// The requests that touch the sector concerned, in order.
    pub about: Vec<String>,
}

/// Runs one seed. A panic inside the cluster is a broken invariant.
#[must_use]
pub fn run(seed: u64, mutant: Option<Mutant>, timeline: Timeline) -> Outcome {
    run_staged(seed, mutant, timeline, |_| {})
}

/// As [`run`], with the options changed by `stage` after they were drawn.
#[must_use]
pub fn run_staged(
    seed: u64,
    mutant: Option<Mutant>,
    timeline: Timeline,
    stage: impl FnOnce(&mut Plan),
) -> Outcome {
    let mut plan = Plan::of(seed);
    stage(&mut plan);
    run_plan(seed, plan, mutant, timeline)
}

/// Runs with given options; the seed decides the rest.
#[must_use]
pub fn run_plan(seed: u64, plan: Plan, mutant: Option<Mutant>, timeline: Timeline) -> Outcome {
    let mut world = World::new(Dice::new(!seed), plan, mutant, timeline);
    play(seed, &mut world);
    outcome(seed, world)
}

/// Runs with given options, and at each persist point of the sample goes on in copies that lose
/// their power there, before, in the middle of and after it. `ended` hears of every run, the
/// undisturbed one last; once it says [`Further::Stop`] no other run begins.
///
/// A copy ends as the run does that [`run_plan`] makes of its plan.
pub fn run_struck(
    seed: u64,
    plan: Plan,
    mutant: Option<Mutant>,
    sampling: Sampling,
    ended: &mut dyn FnMut(Outcome) -> Further,
) {
    let mut world = World::new(Dice::new(!seed), plan, mutant, Timeline::Off);
    world.sample(seed, sampling);
    play_with_copies(seed, world, ended);
}

/// Whether more runs are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Further {
    /// They are.
    GoOn,
    /// They are not.
    Stop,
}

fn play_with_copies(
    seed: u64,
    mut world: World,
    ended: &mut dyn FnMut(Outcome) -> Further,
) -> Further {
    loop {
        play(seed, &mut world);
        let copies = world.take_copies();
        if copies.is_empty() {
            return ended(outcome(seed, world));
        }
        for copy in copies {
            if play_with_copies(seed, copy, ended) == Further::Stop {
                return Further::Stop;
            }
        }
    }
}

fn outcome(seed: u64, world: World) -> Outcome {
    let Ended {
        plan,
        counts,
        copied,
        violation,
        lines,
        watch,
        history,
    } = world.finish();
    let sector = violation.as_ref().and_then(|violation| violation.sector);
    Outcome {
        seed,
        plan: Some(plan),
        counts,
        copied,
        about: sector
            .map(|sector| history.about(sector))
            .unwrap_or_default(),
        violation,
        lines,
        watch,
    }
}

fn play(seed: u64, world: &mut World) {
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = result {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without words");
        let reason = format!("seed {seed} panicked: {text}");
        world.broken(Violation::new(Rule::Invariant, reason));
    }
}

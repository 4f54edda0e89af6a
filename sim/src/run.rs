//! One seed, one run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    checkers::{Rule, Violation},
    dice::Dice,
    mutants::Mutant,
    plan::Plan,
    world::{Counts, Timeline, World},
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
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// The timeline, if it was asked for.
    pub lines: Vec<String>,
    /// The requests that touch the sector concerned.
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
    let mut dice = Dice::new(seed);
    let mut plan = Plan::draw(&mut dice);
    stage(&mut plan);
    let mut world = World::new(dice, plan, mutant, timeline);
    play(seed, &mut world);
    let (plan, counts, violation, lines, history) = world.finish();
    let sector = violation.as_ref().and_then(|violation| violation.sector);
    Outcome {
        seed,
        plan: Some(plan),
        counts,
        about: sector
            .map(|sector| history.about(sector))
            .unwrap_or_default(),
        violation,
        lines,
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

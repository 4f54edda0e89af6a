//! Makes a run that breaks a rule smaller: fewer disturbances, fewer requests, fewer clients.
//!
//! Every stream of chance is seeded for itself (each client's requests, each disturbance's parts,
//! the rest), so that taking one away leaves the others as they are, as far as time allows.

use crate::{checkers::Rule, mutants::Mutant, plan::Plan, run::run_plan, world::Timeline};

/// A smaller plan that breaks the same rule.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How many runs it took.
    pub runs: usize,
}

/// Shrinks `plan`, which breaks `rule`, within `runs_max` runs.
#[must_use]
pub fn shrink(
    seed: u64,
    plan: Plan,
    (mutant, rule): (Option<Mutant>, Rule),
    runs_max: usize,
) -> Shrunk {
    let mut shrunk = Shrunk { plan, runs: 0 };
    loop {
        let before = shrunk.plan.clone();
        for candidate in candidates(&before) {
            if shrunk.runs >= runs_max {
                return shrunk;
            }
            shrunk.runs += 1;
            let outcome = run_plan(seed, candidate.clone(), mutant, Timeline::Off);
            if outcome.violation.map(|violation| violation.rule) == Some(rule) {
                shrunk.plan = candidate;
                break;
            }
        }
        if shrunk.plan == before {
            return shrunk;
        }
    }
}

/// Plans that are smaller by one step, the boldest first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        if smaller != *plan {
            found.push(smaller);
        }
    };
    let count = plan.faults.len();
    if count > 1 {
        with(&|plan| plan.faults.truncate(count / 2));
        with(&|plan| {
            plan.faults.drain(..count / 2);
        });
    }
    for index in 0..count {
        with(&|plan| {
            plan.faults.remove(index);
        });
    }
    with(&|plan| plan.ops = plan.ops / 2 + 1);
    with(&|plan| plan.ops -= plan.ops / 8);
    with(&|plan| plan.clients = (plan.clients - 1).max(2));
    with(&|plan| plan.workload.blocks_max = 1);
    with(&|plan| plan.workload.unaligned_percent = 0);
    with(&|plan| plan.workload.zero_percent = 0);
    with(&|plan| plan.workload.flush_percent = 0);
    with(&|plan| plan.workload.idle_percent = 0);
    found
}

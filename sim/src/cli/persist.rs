//! Short runs, struck at their persist points: before, torn, after.

use std::{
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use clap::Args;
use moorline_sim::{Mutant, Outcome, Plan, Strike, Timeline, run_plan};

use super::{fleet::AfterViolation, report::Totals};

/// Which runs, and at how many of their points.
#[derive(Args)]
pub(crate) struct PersistArguments {
    /// Seeds A..B, B not included.
    #[arg(long, value_parser = super::super::parse_range, default_value = "0..10")]
    pub(crate) seeds: (u64, u64),
    /// Only each K-th point of a run, another one first in each run.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// Plant this bug.
    #[arg(long)]
    pub(crate) mutant: Option<Mutant>,
    /// Print the numbers as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on after a broken rule.
    #[arg(long)]
    keep_going: bool,
    /// How many runs may be spent on making one that breaks a rule smaller.
    #[arg(long, default_value_t = 120)]
    pub(crate) shrink_runs: usize,
    /// How many runs are made at the same time; as many as there are cores if it is not given.
    #[arg(long)]
    threads: Option<usize>,
}

/// What runs that were struck came to.
pub(crate) struct Struck {
    pub(crate) totals: Totals,
    traces: usize,
    points: u64,
}

impl Struck {
    /// The numbers of the runs and how much of the traces they cover.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut numbers = self.totals.json();
        numbers["traces"] = self.traces.into();
        numbers["points_in_traces"] = self.points.into();
        numbers
    }
}

/// Runs each seed once as it is, to count its points, and then once for each moment of each point.
pub(crate) fn strike_seeds(arguments: &PersistArguments, failed: impl FnMut(&Outcome)) -> Struck {
    let begun = Instant::now();
    let threads = arguments.threads.unwrap_or_else(super::fleet::cores);
    let (from, to) = arguments.seeds;
    let plans = traces(from..to);
    let mut jobs = Vec::new();
    let mut points = 0;
    let counting = Errand {
        mutant: arguments.mutant,
        threads,
        after_violation: AfterViolation::GoOn,
    };
    let every = arguments.every.max(1);
    counting.run(&plans, |outcome| {
        let passed = outcome.counts.persist_points.values().sum::<u64>();
        points += passed;
        let Some(plan) = &outcome.plan else { return };
        let first = 1 + outcome.seed % every;
        for point in (first..=passed).step_by(usize::try_from(every).unwrap_or(usize::MAX)) {
            for strike in Strike::at(outcome.seed, point) {
                let mut plan = plan.clone();
                plan.strike = Some(strike);
                jobs.push((outcome.seed, plan));
            }
        }
    });
    let striking = Errand {
        after_violation: match arguments.keep_going {
            true => AfterViolation::GoOn,
            false => AfterViolation::Stop,
        },
        ..counting
    };
    let mut totals = Totals::default();
    let mut failed = failed;
    striking.run(&jobs, |outcome| {
        totals.add(outcome);
        if outcome.violation.is_some() {
            failed(outcome);
        }
    });
    totals.real = begun.elapsed();
    Struck {
        totals,
        traces: plans.len(),
        points,
    }
}

fn traces(seeds: Range<u64>) -> Vec<(u64, Plan)> {
    seeds
        .map(|seed| (seed, Plan::for_persist_points(seed)))
        .collect()
}

/// Runs that are given one by one.
#[derive(Clone, Copy)]
struct Errand {
    mutant: Option<Mutant>,
    threads: usize,
    after_violation: AfterViolation,
}

impl Errand {
    /// Runs them all, over all threads; `ended` hears of each in the order in which they end.
    fn run(self, jobs: &[(u64, Plan)], mut ended: impl FnMut(&Outcome)) {
        let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (sender, outcomes) = mpsc::channel();
            for _ in 0..self.threads.max(1) {
                let (sender, next, over) = (sender.clone(), &next, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed)
                        && let Some((seed, plan)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let outcome = run_plan(*seed, plan.clone(), self.mutant, Timeline::Off);
                        if sender.send(outcome).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for outcome in outcomes {
                let stops = self.after_violation == AfterViolation::Stop;
                if stops && outcome.violation.is_some() {
                    over.store(true, Ordering::Relaxed);
                }
                ended(&outcome);
            }
        });
    }
}

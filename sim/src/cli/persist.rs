//! Short runs, struck at their persist points: before, torn, after.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Instant,
};

use clap::Args;
use moorline_sim::{Further, Mutant, Outcome, Plan, Sampling, run_struck};

use super::report::Totals;

/// Which runs, and at how many of their points.
#[derive(Args)]
pub(crate) struct PersistArguments {
    /// Seeds A..B, B not included.
    #[arg(long, value_parser = super::super::parse_range, default_value = "0..10")]
    pub(crate) seeds: (u64, u64),
    /// Only each K-th point of a run, another one first in each run.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// In each copy that lost its power, again at each K-th point of its recovery.
    #[arg(long, value_name = "K", default_value_t = 24)]
    again: u64,
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
    traces: u64,
    points: u64,
    copies: u64,
}

impl Struck {
    fn add(&mut self, outcome: &Outcome) {
        self.totals.add(outcome);
        match outcome.plan.as_ref().and_then(|plan| plan.strike) {
            Some(_) => self.copies += 1,
            None => {
                self.traces += 1;
                self.points += outcome.counts.persist_points.values().sum::<u64>();
            }
        }
    }

    /// The numbers of the runs and how much of the traces they cover.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut numbers = self.totals.json();
        numbers["traces"] = self.traces.into();
        numbers["points_in_traces"] = self.points.into();
        numbers["copies"] = self.copies.into();
        numbers
    }
}

/// Runs each seed once, and copies of it that lose their power at points of the sample.
pub(crate) fn strike_seeds(arguments: &PersistArguments, failed: impl FnMut(&Outcome)) -> Struck {
    let begun = Instant::now();
    let (from, to) = arguments.seeds;
    let sampling = Sampling {
        every: arguments.every,
        again: arguments.again,
    };
    let (next, over) = (AtomicU64::new(from), AtomicBool::new(false));
    let stops = !arguments.keep_going;
    let mut struck = Struck {
        totals: Totals::default(),
        traces: 0,
        points: 0,
        copies: 0,
    };
    let mut failed = failed;
    std::thread::scope(|scope| {
        let (sender, outcomes) = mpsc::channel();
        for _ in 0..arguments.threads.unwrap_or_else(super::fleet::cores).max(1) {
            let (sender, next, over) = (sender.clone(), &next, &over);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to || over.load(Ordering::Relaxed) {
                        return;
                    }
                    let plan = Plan::for_persist_points(seed);
                    run_struck(seed, plan, arguments.mutant, sampling, &mut |outcome| {
                        let broken = stops && outcome.violation.is_some();
                        match sender.send(outcome) {
                            Ok(()) if !broken && !over.load(Ordering::Relaxed) => Further::GoOn,
                            Ok(()) | Err(_) => Further::Stop,
                        }
                    });
                }
            });
        }
        drop(sender);
        for outcome in outcomes {
            struck.add(&outcome);
            if outcome.violation.is_some() {
                over.store(stops, Ordering::Relaxed);
                failed(&outcome);
            }
        }
    });
    struck.totals.real = begun.elapsed();
    struck
}

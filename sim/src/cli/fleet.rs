//! Seeds over all cores: each run stays in one thread and is decided by its seed alone.

use std::{
    io::{IsTerminal, Write},
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use moorline_sim::{Mutant, Outcome, Timeline, run};

use super::report::Totals;

/// How long and how broadly to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) threads: usize,
    pub(crate) time: Option<Duration>,
    /// Whether a broken rule ends it.
    pub(crate) after_violation: AfterViolation,
}

/// What a broken rule means for the seeds that follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterViolation {
    Stop,
    GoOn,
}

/// How many runs this machine makes at the same time.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs seeds; `failed` is called for each that breaks a rule, in the order in which they end.
pub(crate) fn run_seeds(
    seeds: Range<u64>,
    mutant: Option<Mutant>,
    budget: Budget,
    mut failed: impl FnMut(Outcome),
) -> Totals {
    let (begun, next, over) = (
        Instant::now(),
        AtomicU64::new(seeds.start),
        AtomicBool::new(false),
    );
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        let (sender, outcomes) = mpsc::channel();
        for _ in 0..budget.threads.max(1) {
            let (sender, next, over) = (sender.clone(), &next, &over);
            scope.spawn(move || {
                loop {
                    let out_of_time = budget.time.is_some_and(|time| begun.elapsed() > time);
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || out_of_time || over.load(Ordering::Relaxed) {
                        return;
                    }
                    if sender.send(run(seed, mutant, Timeline::Off)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut progress = Progress::new(begun);
        for outcome in outcomes {
            totals.add(&outcome);
            progress.show(&totals);
            if outcome.violation.is_some() {
                if budget.after_violation == AfterViolation::Stop {
                    over.store(true, Ordering::Relaxed);
                }
                progress.clear();
                failed(outcome);
            }
        }
        progress.clear();
    });
    totals.real = begun.elapsed();
    totals
}

/// One line that is written over as it goes, if anybody looks.
struct Progress {
    begun: Instant,
    shown: Instant,
    looked_at: bool,
}

impl Progress {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            shown: begun,
            looked_at: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, totals: &Totals) {
        if self.looked_at && self.shown.elapsed() >= Duration::from_millis(500) {
            self.shown = Instant::now();
            eprint!("\r\x1b[K{}", totals.line(self.begun.elapsed()));
            std::io::stderr().flush().ok();
        }
    }

    fn clear(&self) {
        if self.looked_at {
            eprint!("\r\x1b[K");
        }
    }
}

//! Plants each bug and counts the seeds until it is found.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use moorline_sim::{MUTANTS, Mutant, Outcome, Rule, Timeline, UNSTAGED, run};

/// What is planted, and how long it is looked for.
pub(crate) struct Search {
    pub(crate) only: Option<Mutant>,
    pub(crate) unstaged: Unstaged,
    pub(crate) seeds_max: u64,
    /// A rule that does not count.
    pub(crate) ignored: Option<Rule>,
}

/// Whether bugs are planted that no recipe stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unstaged {
    Named,
    Planted,
}

/// Runs the search; fails when a bug was not found that is to be.
pub(crate) fn run_mutants(search: &Search) -> ExitCode {
    let mut seeds_to_kill = Vec::new();
    let mut missed = 0;
    for (name, mutant, takes) in MUTANTS {
        let named = search.only == Some(*mutant);
        if search.only.is_some() && !named {
            continue;
        }
        let lacks = UNSTAGED.iter().find(|(unstaged, _)| unstaged == name);
        if let Some((_, lacks)) = lacks
            && search.unstaged == Unstaged::Named
            && !named
        {
            println!("{name:28} not planted: nothing stages {lacks}");
            continue;
        }
        let begun = Instant::now();
        let found = first_violation(*mutant, search);
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(outcome) = found {
            let violation = outcome.violation.map(|v| v.to_string()).unwrap_or_default();
            println!(
                "{name:28} found by seed {} in {seconds:.1} s ({takes}): {violation}",
                outcome.seed
            );
            seeds_to_kill.push(outcome.seed + 1);
        } else {
            missed += u32::from(lacks.is_none());
            println!(
                "{name:28} NOT FOUND in {} seeds, {seconds:.1} s ({takes})",
                search.seeds_max
            );
        }
    }
    seeds_to_kill.sort_unstable();
    if let Some(median) = seeds_to_kill.get(seeds_to_kill.len() / 2) {
        let found = seeds_to_kill.len();
        println!("{found} found, {missed} missed; median of seeds to kill: {median}");
    }
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The run of the lowest seed that breaks a rule, on every core.
fn first_violation(mutant: Mutant, search: &Search) -> Option<Outcome> {
    let (next, limit) = (AtomicU64::new(0), AtomicU64::new(search.seeds_max));
    let first: Mutex<Option<Outcome>> = Mutex::new(None);
    let look = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= limit.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run(seed, Some(mutant), Timeline::Off);
            let rule = outcome.violation.as_ref().map(|violation| violation.rule);
            if rule.is_some() && rule != search.ignored {
                limit.fetch_min(seed, Ordering::Relaxed);
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|first| seed < first.seed) {
                    *first = Some(outcome);
                }
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(look);
        }
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner)
}

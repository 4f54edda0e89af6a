//! Runs seeds, and shows that planted bugs are found.

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use moorline_sim::{MUTANTS, Mutant, Outcome, Rule, Timeline, run};

#[derive(Parser)]
#[command(about = "Deterministic simulator of a whole cluster")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds until one breaks a rule.
    Run {
        /// One seed.
        #[arg(long, conflicts_with = "seeds")]
        seed: Option<u64>,
        /// Seeds A..B, B not included.
        #[arg(long, value_parser = parse_range)]
        seeds: Option<(u64, u64)>,
        /// Plant this bug.
        #[arg(long)]
        mutant: Option<Mutant>,
        /// Print the timeline.
        #[arg(long)]
        trace: bool,
        /// Print numbers as JSON.
        #[arg(long)]
        json: bool,
        /// Go on after a broken rule.
        #[arg(long)]
        keep_going: bool,
    },
    /// Name the bugs that can be planted.
    ListMutants,
    /// Plant each bug and count the seeds until it is found.
    Mutants {
        /// Only this one.
        #[arg(long)]
        only: Option<Mutant>,
        /// Give up after so many seeds.
        #[arg(long, default_value_t = 2_000)]
        seeds_max: u64,
        /// Do not count what only shows as something that never ends.
        #[arg(long)]
        safety: bool,
    },
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("use A..B")?;
    let parse = |number: &str| number.parse::<u64>().map_err(|error| error.to_string());
    Ok((parse(from)?, parse(to)?))
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run {
            seed,
            seeds,
            mutant,
            trace,
            json,
            keep_going,
        } => {
            let (from, to) = seeds.unwrap_or_else(|| {
                let seed = seed.unwrap_or(0);
                (seed, seed + 1)
            });
            let timeline = if trace { Timeline::Kept } else { Timeline::Off };
            run_seeds(from..to, mutant, timeline, (json, keep_going))
        }
        Command::ListMutants => {
            for (name, _, takes) in MUTANTS {
                println!("{name:28} removes: {takes}");
            }
            ExitCode::SUCCESS
        }
        Command::Mutants {
            only,
            seeds_max,
            safety,
        } => {
            let ignored = safety.then_some(Rule::Liveness);
            run_mutants(only, seeds_max, ignored)
        }
    }
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    failed: Vec<u64>,
    simulated_ns: u64,
    events: u64,
    ops: u64,
    done: u64,
    unknown: u64,
    rejected: u64,
    reigns: u64,
    faults: BTreeMap<&'static str, u64>,
    notes: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        let counts = &outcome.counts;
        self.seeds += 1;
        if outcome.violation.is_some() {
            self.failed.push(outcome.seed);
        }
        self.simulated_ns += counts.simulated_ns;
        self.events += counts.events;
        self.ops += counts.ops;
        self.done += counts.done;
        self.unknown += counts.unknown;
        self.rejected += counts.rejected;
        self.reigns += counts.reigns;
        for (into, from) in [
            (&mut self.faults, &counts.faults),
            (&mut self.notes, &counts.notes),
        ] {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
    }

    fn json(&self, real_s: f64) -> serde_json::Value {
        let simulated_s = std::time::Duration::from_nanos(self.simulated_ns).as_secs_f64();
        serde_json::json!({
            "seeds": self.seeds,
            "failed": self.failed,
            "seconds": real_s,
            "seeds_per_second": self.seeds as f64 / real_s,
            "simulated_seconds": simulated_s,
            "simulated_to_real": simulated_s / real_s,
            "events": self.events,
            "ops": self.ops,
            "done": self.done,
            "unknown": self.unknown,
            "rejected": self.rejected,
            "reigns": self.reigns,
            "faults": self.faults,
            "notes": self.notes,
        })
    }
}

fn run_seeds(
    seeds: std::ops::Range<u64>,
    mutant: Option<Mutant>,
    timeline: Timeline,
    (json, keep_going): (bool, bool),
) -> ExitCode {
    let (begun, mut totals) = (Instant::now(), Totals::default());
    for seed in seeds {
        let outcome = run(seed, mutant, timeline);
        totals.add(&outcome);
        outcome.lines.iter().for_each(|line| println!("{line}"));
        if outcome.violation.is_some() {
            explain(&outcome, mutant);
            if !keep_going {
                break;
            }
        }
    }
    let numbers = totals.json(begun.elapsed().as_secs_f64());
    if json {
        println!("{numbers}");
    } else {
        println!("{numbers:#}");
    }
    match totals.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn explain(outcome: &Outcome, mutant: Option<Mutant>) {
    let Some(violation) = &outcome.violation else {
        return;
    };
    println!("seed {}: {violation}", outcome.seed);
    if let Some(sector) = violation.sector {
        println!("  sector {sector}:");
    }
    outcome.about.iter().for_each(|line| println!("    {line}"));
    if let Some(plan) = &outcome.plan {
        println!("  {plan:?}");
    }
    let planted = MUTANTS.iter().find(|(_, known, _)| Some(*known) == mutant);
    let planted = planted.map_or(String::new(), |(name, ..)| format!(" --mutant {name}"));
    println!(
        "  replay: cargo run --release -p moorline-sim -- run --seed {}{planted} --trace",
        outcome.seed
    );
}

fn run_mutants(only: Option<Mutant>, seeds_max: u64, ignored: Option<Rule>) -> ExitCode {
    let mut all_found = true;
    for (name, mutant, takes) in MUTANTS {
        if only.is_some_and(|only| only != *mutant) {
            continue;
        }
        let begun = Instant::now();
        let found = (0..seeds_max)
            .map(|seed| run(seed, Some(*mutant), Timeline::Off))
            .find(|outcome| {
                let rule = outcome.violation.as_ref().map(|violation| violation.rule);
                rule.is_some() && rule != ignored
            });
        let seconds = begun.elapsed().as_secs_f64();
        match found {
            Some(outcome) => {
                let violation = outcome.violation.map(|v| v.to_string()).unwrap_or_default();
                println!(
                    "{name:28} found by seed {} in {seconds:.1} s ({takes}): {violation}",
                    outcome.seed
                );
            }
            None => {
                all_found = false;
                println!("{name:28} NOT FOUND in {seeds_max} seeds, {seconds:.1} s ({takes})");
            }
        }
    }
    match all_found {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

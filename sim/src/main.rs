//! Runs seeds, and shows that planted bugs are found.

mod cli {
    pub(crate) mod fleet;
    pub(crate) mod mutants;
    pub(crate) mod persist;
    pub(crate) mod report;
}

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use moorline_sim::{FAULTS, MUTANTS, Mutant, Outcome, Rule, Timeline, page, run, run_plan};

use self::cli::{
    fleet::{AfterViolation, Budget, cores, run_seeds},
    mutants::{Search, Unstaged, run_mutants},
    persist::{PersistArguments, strike_seeds},
    report::{Replay, Totals, explain},
};

#[derive(Parser)]
#[command(about = "Deterministic simulator of a whole cluster")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds until one breaks a rule; exit 1 if one did.
    Run(Box<RunArguments>),
    /// Take the power at each persist point of short runs, before, in the middle of and after it,
    /// and once more while they recover; exit 1 if a rule was broken.
    PersistPoints(PersistArguments),
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
        /// Plant those too that nothing stages yet; they need not be found.
        #[arg(long)]
        unstaged: bool,
    },
}

#[derive(Args)]
struct RunArguments {
    /// One seed.
    #[arg(long, conflicts_with_all = ["seeds", "replay"])]
    seed: Option<u64>,
    /// Seeds A..B, B not included.
    #[arg(long, value_parser = parse_range, conflicts_with = "replay")]
    seeds: Option<(u64, u64)>,
    /// Seeds for so long, such as 90s, 10m or 2h, from the seed given or from 0.
    #[arg(long, value_parser = parse_time, conflicts_with = "replay")]
    time: Option<Duration>,
    /// The run that this file names, as it was written when a rule was broken.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Name every kind of disturbance.
    #[arg(long)]
    list_faults: bool,
    /// Plant this bug.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Print the timeline of a single run.
    #[arg(long)]
    trace: bool,
    /// Draw a single run on one page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the numbers as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Go on after a broken rule.
    #[arg(long)]
    keep_going: bool,
    /// How many runs may be spent on making one that breaks a rule smaller.
    #[arg(long, default_value_t = 120)]
    shrink_runs: usize,
    /// How many seeds run at the same time; as many as there are cores if it is not given.
    #[arg(long)]
    threads: Option<usize>,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("use A..B")?;
    let parse = |number: &str| number.parse::<u64>().map_err(|error| error.to_string());
    Ok((parse(from)?, parse(to)?))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let number: u64 = split.parse().map_err(|_| "use 90s, 10m or 2h")?;
    let unit = match &text[split.len()..] {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("use 90s, 10m or 2h".into()),
    };
    Ok(Duration::from_secs(number * unit))
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) if arguments.list_faults => {
            for (name, does) in FAULTS {
                println!("{name:20} {does}");
            }
            ExitCode::SUCCESS
        }
        Command::Run(arguments) => run_as_told(&arguments),
        Command::PersistPoints(arguments) => persist_points(&arguments),
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
            unstaged,
        } => run_mutants(&Search {
            only,
            seeds_max,
            ignored: safety.then_some(Rule::Liveness),
            unstaged: match unstaged {
                true => Unstaged::Planted,
                false => Unstaged::Named,
            },
        }),
    }
}

fn run_as_told(arguments: &RunArguments) -> ExitCode {
    if let Some(path) = &arguments.replay {
        return match read_replay(path) {
            Ok((replay, mutant)) => {
                let begun = Instant::now();
                let kept = Timeline::Kept;
                let outcome = run_plan(replay.seed, replay.plan, mutant, kept);
                one(arguments, &outcome, mutant, begun)
            }
            Err(reason) => {
                eprintln!("{} cannot be replayed: {reason}", path.display());
                ExitCode::from(2)
            }
        };
    }
    let single = arguments.seeds.is_none() && arguments.time.is_none();
    if single {
        let (seed, begun) = (arguments.seed.unwrap_or(0), Instant::now());
        let kept = arguments.trace || arguments.html.is_some();
        let timeline = if kept { Timeline::Kept } else { Timeline::Off };
        let outcome = run(seed, arguments.mutant, timeline);
        return one(arguments, &outcome, arguments.mutant, begun);
    }
    let from = arguments.seed.unwrap_or(0);
    let (from, to) = arguments.seeds.unwrap_or((from, u64::MAX));
    let budget = Budget {
        threads: arguments.threads.unwrap_or_else(cores),
        time: arguments.time,
        after_violation: match arguments.keep_going {
            true => AfterViolation::GoOn,
            false => AfterViolation::Stop,
        },
    };
    let totals = run_seeds(from..to, arguments.mutant, budget, |outcome| {
        explain(&outcome, arguments.mutant, arguments.shrink_runs);
    });
    numbers(arguments.json, &totals.json(), &totals)
}

fn persist_points(arguments: &PersistArguments) -> ExitCode {
    let struck = strike_seeds(arguments, |outcome| {
        explain(outcome, arguments.mutant, arguments.shrink_runs);
    });
    numbers(arguments.json, &struck.json(), &struck.totals)
}

/// One run: its timeline, its page, its numbers.
fn one(
    arguments: &RunArguments,
    outcome: &Outcome,
    mutant: Option<Mutant>,
    begun: Instant,
) -> ExitCode {
    let mut totals = Totals::default();
    totals.add(outcome);
    totals.real = begun.elapsed();
    if arguments.trace {
        outcome.lines.iter().for_each(|line| println!("{line}"));
    }
    if let Some(path) = &arguments.html
        && let Err(error) = std::fs::write(path, page(outcome))
    {
        eprintln!("{} was not written: {error}", path.display());
        return ExitCode::from(2);
    }
    if outcome.violation.is_some() {
        explain(outcome, mutant, arguments.shrink_runs);
    }
    let mut found = totals.json();
    // As text: a number of 64 bits does not survive every reader of JSON.
    found["trace"] = format!("{:016x}", outcome.counts.trace).into();
    numbers(arguments.json, &found, &totals)
}

fn numbers(json: bool, numbers: &serde_json::Value, totals: &Totals) -> ExitCode {
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

fn read_replay(path: &Path) -> Result<(Replay, Option<Mutant>), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let replay: Replay = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let mutant = replay.mutant.as_deref().map(str::parse).transpose();
    let mutant = mutant.map_err(|error: moorline_sim::UnknownMutant| error.to_string())?;
    Ok((replay, mutant))
}

//! End-to-end scenarios: the real binary, real sockets and disks, stock NBD clients, real faults.
//!
//! A scenario is a function of a [`Context`]; everything it starts is a guard, so that every way out (success,
//! failure, panic, Ctrl-C) ends its processes, unmounts its file systems and detaches its loop devices.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod context;
pub(crate) mod lab;
pub(crate) mod mounts;
pub(crate) mod refusal;
pub(crate) mod rig;
mod scenarios;
pub(crate) mod spec;
pub(crate) mod status;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use rustix::process::geteuid;

use self::context::{Context, Depth, Options};
use crate::error::{Failure, Result, ensure, fail};
use crate::{packages, workspace};

/// Options of `cargo xtask e2e`.
#[derive(Debug, Args)]
pub(crate) struct Command {
    /// Scenarios to run, all of them when none is named
    names: Vec<String>,
    /// List the scenarios
    #[arg(long)]
    list: bool,
    /// The full numbers of rounds, instead of those of the gate
    #[arg(long)]
    full: bool,
    /// Rounds of kills, cuts and pauses
    #[arg(long)]
    rounds: Option<u32>,
    /// The seed of workloads
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Test this binary instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What a scenario needs beyond the packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Mounts and loop devices.
    Root,
}

/// One scenario.
struct Scenario {
    name: &'static str,
    about: &'static str,
    needs: Needs,
    run: fn(&Context) -> Result<()>,
}

/// Runs what the command line asked for.
pub(crate) fn run(command: Command) -> Result<()> {
    if command.list {
        for scenario in scenarios::ALL {
            println!("{:<20} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    let depth = if command.full {
        Depth::Full
    } else {
        Depth::Gate
    };
    packages::provide()?;
    let binary = match command.binary {
        Some(binary) => std::path::absolute(&binary).map_err(|source| Failure::Io {
            what: binary.display().to_string(),
            source,
        })?,
        None => workspace::build_release()?,
    };
    let options = Options {
        binary,
        depth,
        rounds: command.rounds,
        seed: command.seed,
    };
    let (passed, failed) = run_scenarios(&command.names, &options)?;
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0, "{failed} end-to-end scenarios failed");
    Ok(())
}

/// Runs all scenarios as the gate does: (passed, failed).
pub(crate) fn run_all(depth: Depth) -> Result<(usize, usize)> {
    packages::provide()?;
    let options = Options {
        binary: workspace::build_release()?,
        depth,
        rounds: None,
        seed: 1,
    };
    run_scenarios(&[], &options)
}

fn run_scenarios(names: &[String], options: &Options) -> Result<(usize, usize)> {
    ensure!(
        options.binary.exists(),
        "there is no binary at {}",
        options.binary.display()
    );
    for name in names {
        if !scenarios::ALL.iter().any(|scenario| scenario.name == name) {
            fail!("there is no scenario {name:?}; `cargo xtask e2e --list` names them");
        }
    }
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios::ALL {
        if !names.is_empty() && !names.iter().any(|name| name == scenario.name) {
            continue;
        }
        println!("e2e {}: {}", scenario.name, scenario.about);
        let began = Instant::now();
        match run_one(scenario, options) {
            Ok(()) => {
                passed += 1;
                println!("e2e {} ... ok ({:.1?})", scenario.name, began.elapsed());
            }
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(error) => {
                failed += 1;
                println!(
                    "e2e {} ... FAILED ({:.1?}): {error}",
                    scenario.name,
                    began.elapsed()
                );
            }
        }
    }
    Ok((passed, failed))
}

fn run_one(scenario: &Scenario, options: &Options) -> Result<()> {
    ensure!(
        scenario.needs == Needs::Nothing || geteuid().is_root(),
        "this scenario mounts file systems and needs root"
    );
    let ctx = Context::new(scenario.name, options)?;
    let outcome = match catch_unwind(AssertUnwindSafe(|| (scenario.run)(&ctx))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Failure::Expected(format!("the scenario panicked: {text}")))
        }
    };
    match outcome {
        Err(error) if !matches!(error, Failure::Interrupted) => {
            println!("   kept {}", ctx.keep().display());
            Err(error)
        }
        other => other,
    }
}

//! Project tasks: the gate, tests, benchmarks, rigs.
//!
//! - `ci.rs` the gate: what runs, in which order; `tally.rs` counts it; `suites.rs` its parts with their budgets
//! - `house.rs` rules of the house that no lint knows; `deny.rs` dependencies
//! - `packages.rs` Debian packages; `workspace.rs` cargo; `process.rs`, `interrupt.rs` children and Ctrl-C
//! - `e2e.rs`, `e2e/` the binary against stock NBD clients and real faults
//! - `bench.rs`, `bench/` fio on the raw disk, qemu-nbd and volumes, in one run

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod deny;
mod e2e;
mod error;
mod house;
mod interrupt;
mod packages;
mod process;
mod suites;
mod tally;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Failure, Result};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Moorline's project tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The quick gate: formatting, lints, house rules, dependencies, docs, unit tests
    Check,
    /// Everything that is tested, end to end included; installs Debian packages when root
    Test,
    /// What CI runs: the same as `test`
    Ci,
    /// End-to-end scenarios on real processes, disks and NBD clients
    E2e(e2e::Command),
    /// fio on the raw disk, qemu-nbd, one replica and three replicas, with ratios
    Bench(bench::Command),
    /// The deterministic simulator; arguments go to it as they are
    Sim(suites::Forwarded),
    /// Planted bugs, each of which the simulator must find; arguments go to it as they are
    Mutants(suites::Forwarded),
    /// The protocol model; arguments go to it as they are
    Model(suites::Forwarded),
    /// The power-cut disk; arguments go to it as they are
    Rig(suites::Forwarded),
    /// Concurrency tests under loom
    Loom,
    /// Fuzz targets, coverage-guided: TARGET SECONDS (all targets, 60 seconds each, by default)
    Fuzz(suites::FuzzCommand),
    /// Licences, bans, sources and advisories of dependencies
    Deny,
    /// Writes the hash of the record format's source into its document, after both were made to agree
    FormatHash,
}

fn main() -> ExitCode {
    match interrupt::install().and_then(|()| run(Cli::parse().task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Check => ci::check(),
        Task::Test | Task::Ci => ci::everything(),
        Task::E2e(command) => e2e::run(command),
        Task::Bench(command) => bench::run(&command),
        Task::Sim(arguments) => suites::sim(&arguments),
        Task::Mutants(arguments) => suites::mutants(&arguments),
        Task::Model(arguments) => suites::model(&arguments),
        Task::Rig(arguments) => suites::rig(&arguments),
        Task::Loom => suites::loom(),
        Task::Fuzz(command) => suites::fuzz(&command),
        Task::Deny => deny::run(),
        Task::FormatHash => house::write_format_hash(),
    }
}

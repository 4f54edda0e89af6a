//! The test suites and their budgets in the gate.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use rustix::process::geteuid;

use crate::error::{During, Failure, Result, ensure, fail};
use crate::interrupt;
use crate::process::Tool;
use crate::workspace::{cargo, line_of, root, run, target_dir};

/// Arguments for another program.
#[derive(Debug, Args)]
pub(crate) struct Forwarded {
    /// Arguments for the program itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Which fuzz targets, for how long.
#[derive(Debug, Args)]
pub(crate) struct FuzzCommand {
    /// The target; all of them when none is named
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Loom tests: the crate, and the module that holds its models.
const LOOM: &[(&str, &str)] = &[("moorline-wal", "pin::tests::models")];

/// Seeds of the simulator in the gate.
const GATE_SEEDS: u64 = 5_000;
/// The runs that lose their power in the gate, and at which of their persist points: some ten
/// thousand copies, under half a minute on two cores.
const PERSIST_SAMPLE: [&str; 4] = ["--seeds", "0..40", "--every", "17"];

/// The seeds whose traces are compared between builds.
const SAME_EVERYWHERE: [&str; 2] = ["3", "7"];

/// The planted bug that shows in every gate that the simulator still finds bugs.
const CANARY: &str = "ack_before_flush";

/// Every test of the workspace: (passed, failed). The fuzz bodies run among them, on corpus and generated inputs.
/// With all features: planted bugs are off unless a test plants one, and the rig's own tests need root as ours do.
pub(crate) fn unit_tests() -> Result<(usize, usize)> {
    let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    if geteuid().is_root() {
        command.arg("--all-features");
    } else {
        println!("not root: the tests that mount file systems are left out");
    }
    counted_tests(&mut command)
}

/// Loom tests: (passed, failed).
pub(crate) fn loom_tests() -> Result<(usize, usize)> {
    let mut total = (0, 0);
    for (name, models) in LOOM {
        // A target directory of its own: the flag changes every crate, and must not evict the ordinary build.
        let (passed, failed) = counted_tests(
            cargo(&["test", "--release", "--locked", "--lib", "-p", name, models])
                .env("RUSTFLAGS", "--cfg loom")
                .env("LOOM_MAX_PREEMPTIONS", "3")
                .env("CARGO_TARGET_DIR", target_dir().join("loom")),
        )?;
        total = (total.0 + passed, total.1 + failed);
    }
    ensure!(total.0 + total.1 > 0, "no loom test was found in {LOOM:?}");
    Ok(total)
}

/// `cargo xtask loom`.
pub(crate) fn loom() -> Result<()> {
    let (passed, failed) = loom_tests()?;
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0, "{failed} loom tests failed");
    Ok(())
}

/// The examples, which are promises about the public API: each asserts what it shows.
pub(crate) fn examples() -> Result<()> {
    for name in ["embed", "rebuild"] {
        run(&mut cargo(&[
            "run",
            "--quiet",
            "--locked",
            "-p",
            "moorline-executor",
            "--example",
            name,
        ]))?;
    }
    Ok(())
}

/// The smallest worlds of the protocol model.
pub(crate) fn model_gate() -> Result<()> {
    run(&mut package_run("moorline-model", &["--world", "ci"]))
}

/// A budget of simulator seeds. One process: it keeps all cores busy by itself.
pub(crate) fn sim_gate() -> Result<()> {
    run(&mut cargo(&[
        "build",
        "--quiet",
        "--profile",
        "sim",
        "--locked",
        "-p",
        "moorline-sim",
    ]))?;
    let seeds = format!("0..{GATE_SEEDS}");
    run(Command::new(target_dir().join("sim/moorline-sim")).args(["run", "--seeds", &seeds]))
}

/// Losses of power at persist points: before, in the middle of, after.
pub(crate) fn persist_gate() -> Result<()> {
    run(simulator(&["persist-points", "--json"]).args(PERSIST_SAMPLE))
}

/// One seed is one run, however the simulator was built.
pub(crate) fn determinism_gate() -> Result<()> {
    for seed in SAME_EVERYWHERE {
        let [optimised, plain] = [trace("sim", seed)?, trace("dev", seed)?];
        println!("seed {seed}: trace {optimised}");
        ensure!(
            optimised == plain,
            "seed {seed} is another run when built without optimisation: {optimised}, {plain}"
        );
    }
    Ok(())
}

/// The digest over all that happens in a seed's run.
fn trace(profile: &str, seed: &str) -> Result<String> {
    let mut build = cargo(&["build", "--quiet", "--locked", "-p", "moorline-sim"]);
    run(build.args(["--profile", profile]))?;
    let folder = match profile {
        "dev" => "debug",
        other => other,
    };
    let binary = target_dir().join(folder).join("moorline-sim");
    let found = Tool::new(&binary).args(["run", "--json", "--seed", seed]);
    let found = found.succeed()?.stdout;
    let numbers: serde_json::Value = serde_json::from_str(&found)
        .map_err(|_| Failure::Expected(format!("no numbers in {found}")))?;
    match numbers["trace"].as_str() {
        Some(trace) => Ok(trace.to_owned()),
        None => fail!("no trace in {found}"),
    }
}

/// One planted bug, which the simulator must find.
pub(crate) fn canary_gate() -> Result<()> {
    run(&mut simulator(&["mutants", "--only", CANARY]))
}

/// `cargo xtask sim`.
pub(crate) fn sim(arguments: &Forwarded) -> Result<()> {
    run(simulator(&["run"]).args(&arguments.arguments))
}

/// `cargo xtask mutants`.
pub(crate) fn mutants(arguments: &Forwarded) -> Result<()> {
    run(simulator(&["mutants"]).args(&arguments.arguments))
}

/// `cargo xtask model`.
pub(crate) fn model(arguments: &Forwarded) -> Result<()> {
    run(package_run("moorline-model", &[]).args(&arguments.arguments))
}

/// `cargo xtask rig`.
pub(crate) fn rig(arguments: &Forwarded) -> Result<()> {
    run(package_run("moorline-rig", &[]).args(&arguments.arguments))
}

/// `cargo xtask fuzz`: cargo-fuzz on the pinned toolchain, whose nightly-only flags RUSTC_BOOTSTRAP allows.
pub(crate) fn fuzz(command: &FuzzCommand) -> Result<()> {
    let there = Command::new("cargo-fuzz")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    ensure!(
        there.is_ok_and(|status| status.success()),
        "cargo-fuzz is not installed: cargo install --locked cargo-fuzz"
    );
    let targets = match &command.target {
        Some(target) => vec![target.clone()],
        None => fuzz_targets(&root().join("fuzz/fuzz_targets"))?,
    };
    let seconds = format!("-max_total_time={}", command.seconds);
    for target in targets {
        run(
            cargo(&["fuzz", "run", "--fuzz-dir", "fuzz", &target, "--", &seconds])
                .env("RUSTC_BOOTSTRAP", "1"),
        )?;
    }
    Ok(())
}

fn fuzz_targets(dir: &Path) -> Result<Vec<String>> {
    let mut targets: Vec<String> = std::fs::read_dir(dir)
        .during(format!("reading {}", dir.display()))?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    Ok(targets)
}

fn package_run(package: &str, arguments: &[&str]) -> Command {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--locked",
        "-p",
        package,
        "--",
    ]);
    command.args(arguments);
    command
}

/// The simulator under its own profile: optimised, with assertions and unwinding, since a panic is a finding.
fn simulator(arguments: &[&str]) -> Command {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--profile",
        "sim",
        "--locked",
        "-p",
        "moorline-sim",
        "--",
    ]);
    command.args(arguments);
    command
}

/// Runs `cargo test` with its output shown, and counts what its closing lines say.
fn counted_tests(command: &mut Command) -> Result<(usize, usize)> {
    let line = line_of(command);
    eprintln!("$ {line}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .during(format!("starting {line}"))?;
    let stdout = child.stdout.take().expect("standard output was piped");
    let mut total = (0, 0);
    for text in BufReader::new(stdout).lines() {
        let text = text.during(format!("reading the output of {line}"))?;
        println!("{text}");
        if let Some((passed, failed)) = counts(&text) {
            total = (total.0 + passed, total.1 + failed);
        }
    }
    let status = child.wait().during(format!("waiting for {line}"))?;
    interrupt::check()?;
    // A failure without a failed test is one that cargo could not build.
    if !status.success() && total.1 == 0 {
        return Err(Failure::Command {
            command: line,
            status,
            output: String::new(),
        });
    }
    Ok(total)
}

/// The numbers in a line `test result: ok. 3 passed; 0 failed; ...`.
fn counts(line: &str) -> Option<(usize, usize)> {
    let (_verdict, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let before = rest
            .split(';')
            .find_map(|part| part.trim().strip_suffix(word))?;
        before.trim().parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn the_closing_line_of_a_test_binary_is_counted() {
        let ok = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(counts(ok), Some((12, 0)));
        assert_eq!(counts(bad), Some((3, 2)));
        assert_eq!(counts("test it::works ... ok"), None);
    }
}

//! The gate: what runs, and in which order. Cheap and telling steps come first.

use crate::e2e::context::Depth;
use crate::error::Result;
use crate::tally::Tally;
use crate::workspace::{cargo, run};
use crate::{deny, e2e, house, suites};

/// The quick gate.
pub(crate) fn check() -> Result<()> {
    let mut tally = Tally::new();
    static_steps(&mut tally)?;
    tally.counted("unit tests", suites::unit_tests)?;
    tally.close()
}

/// Everything. The order is by cost: what most changes break is heard of first.
pub(crate) fn everything() -> Result<()> {
    let mut tally = Tally::new();
    static_steps(&mut tally)?;
    tally.counted("unit, scenario and fuzz-body tests", suites::unit_tests)?;
    tally.step("examples", suites::examples)?;
    tally.counted("loom", suites::loom_tests)?;
    tally.step("model", suites::model_gate)?;
    tally.step("simulator", suites::sim_gate)?;
    tally.step("persist points", suites::persist_gate)?;
    tally.step("determinism", suites::determinism_gate)?;
    tally.step("canary mutant", suites::canary_gate)?;
    tally.counted("end to end", || e2e::run_all(Depth::Gate))?;
    tally.close()
}

fn static_steps(tally: &mut Tally) -> Result<()> {
    tally.step("format", || run(&mut cargo(&["fmt", "--all", "--check"])))?;
    tally.step("house rules", house::check)?;
    // As users build it, and with all that tests and fuzzers switch on.
    for (name, features) in [
        ("clippy", "--quiet"),
        ("clippy, all features", "--all-features"),
    ] {
        tally.step(name, || {
            let line = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                features,
                "--",
                "-D",
                "warnings",
            ];
            run(cargo(&line).env_remove("RUSTFLAGS"))
        })?;
    }
    tally.step("dependencies", deny::run)?;
    tally.step("docs", || {
        run(cargo(&["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings"))
    })
}

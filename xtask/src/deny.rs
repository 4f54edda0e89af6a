//! Dependencies: licences, bans and sources always; advisories where their database can be fetched.

use std::process::{Command, Stdio};

use crate::error::{During, Result, fail};
use crate::workspace::{self, cargo, root};

/// The version that `deny.toml` was written for: other ones may name its keys differently.
const VERSION: &str = "0.20.2";

/// Checks everything that `deny.toml` says.
pub(crate) fn run() -> Result<()> {
    provide()?;
    workspace::run(&mut cargo(&[
        "deny",
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))?;
    advisories()
}

/// Installs cargo-deny when it is not there.
fn provide() -> Result<()> {
    let there = Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if there.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    println!("cargo-deny is not installed; building {VERSION}, which takes some minutes");
    // Its own target directory: its build shares nothing with ours.
    workspace::run(
        cargo(&["install", "--locked", "--version", VERSION, "cargo-deny"])
            .env_remove("CARGO_TARGET_DIR"),
    )
}

fn advisories() -> Result<()> {
    let output = cargo(&["deny", "--all-features", "check", "advisories"])
        .current_dir(root())
        .output()
        .during("running cargo deny")?;
    if output.status.success() {
        println!("advisories: none");
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("failed to fetch advisory database")
        || text.contains("failed to load advisory database")
    {
        println!("advisories: NOT CHECKED, their database cannot be fetched from here");
        return Ok(());
    }
    fail!("cargo deny check advisories:\n{text}")
}

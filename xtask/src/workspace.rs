//! Where things are, and how cargo is called.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Failure, Result};
use crate::process::Background;

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace root")
}

/// Where cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A cargo command in the workspace root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    // What `cargo run` sets for xtask itself would otherwise change the fingerprint of build scripts.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command with its output shown; anything but success is a failure.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    eprintln!("$ {line}");
    let status = Background::start(command)?.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Command {
        command: line,
        status,
        output: String::new(),
    })
}

/// A command as one would type it.
pub(crate) fn line_of(command: &Command) -> String {
    let mut line = Path::new(command.get_program())
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Builds the binary that users run, and says where it is.
pub(crate) fn build_release() -> Result<PathBuf> {
    run(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "moorline-server",
    ]))?;
    Ok(target_dir().join("release/moorline"))
}

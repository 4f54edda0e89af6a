//! A command that must fail: with which code, and naming what.

use std::time::Duration;

use crate::error::{Result, ensure};
use crate::process::{Finished, Tool, tail_of};

/// Exit codes of the binary.
pub(crate) mod code {
    /// It failed.
    pub(crate) const FAILED: i32 = 1;
    /// The command line or the configuration is wrong.
    pub(crate) const USAGE: i32 = 2;
    /// There is no such thing.
    pub(crate) const NOT_FOUND: i32 = 3;
    /// It works, but not at full strength.
    pub(crate) const DEGRADED: i32 = 4;
    /// Refused, because it could lose data.
    pub(crate) const UNSAFE: i32 = 5;
}

/// A refused command says so at once, not after minutes of trying.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a command that must be refused with this exit code and an error that contains every one of `naming`.
pub(crate) fn refused(what: &str, tool: Tool, code: i32, naming: &[&str]) -> Result<()> {
    let finished = tool.within(LIMIT).run()?;
    println!(
        "            {what}: exit {}: {}",
        exit(&finished),
        finished.stderr.trim().replace('\n', " / ")
    );
    judge(what, &finished, code, naming)
}

fn judge(what: &str, finished: &Finished, code: i32, naming: &[&str]) -> Result<()> {
    let shown = tail_of(&finished.output());
    ensure!(
        finished.code() == Some(code),
        "{what}: `{}` ended with {}, not with exit code {code}{shown}",
        finished.command,
        finished.status
    );
    ensure!(
        !finished.stderr.contains("panicked"),
        "{what}: it panicked{shown}"
    );
    ensure!(
        !finished.stderr.trim().is_empty(),
        "{what}: no error was printed{shown}"
    );
    for name in naming {
        ensure!(
            finished.stderr.contains(name),
            "{what}: the error does not name {name:?}{shown}"
        );
    }
    Ok(())
}

fn exit(finished: &Finished) -> String {
    finished
        .code()
        .map_or_else(|| finished.status.to_string(), |code| code.to_string())
}

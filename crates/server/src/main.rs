//! Parses, wires and waits.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    moorline_server::cli::run(env::args_os())
}

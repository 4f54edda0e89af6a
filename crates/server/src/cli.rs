//! The command line: what may be typed, and what comes back.
//!
//! One file per family of commands. A command parses, asks, prints, and ends with one of the codes
//! of [`Exit`]; an error says what failed, where, why, and what to do.
//!
//! | file | holds |
//! |---|---|
//! | `args.rs` | sizes, addresses, and the options that client commands share |
//! | `error.rs` | [`CliError`]: its text, its advice, its exit code |
//! | `master_client.rs` | the connection to the master |
//! | `local_key.rs` | how commands find the key of a cluster that `dev` runs here |
//! | `serve.rs`, `serve/file.rs` | `serve`: flags and file to settings |
//! | `master.rs`, `logging.rs`, `process.rs` | `master` · its log lines · how servers and masters end |
//! | `volume.rs`, `status.rs`, `events.rs`, `store.rs` | the commands of operators |
//! | `dev.rs` | `dev` |
//! | `output.rs`, `output/*` | tables, words, times |
//! | `screen.rs`, `watch.rs` | the live status |

pub mod args;
mod dev;
pub mod error;
mod events;
pub mod local_key;
mod logging;
mod master;
pub mod master_client;
pub mod output;
mod process;
pub mod screen;
mod serve;
mod status;
mod store;
mod volume;
pub mod watch;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

pub use error::{CliError, Exit};

/// Everything that may be typed.
#[derive(Debug, Parser)]
#[command(
    name = "moorline",
    version,
    about = "Block volumes kept alive on several machines, served over NBD",
    long_about = None,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 degraded (status), 5 refused as unsafe.\n\
                  To try it: `moorline dev`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine, with one volume to try
    Dev(dev::DevArgs),
    /// Run a master: it records volumes and says who is primary
    Master(Box<master::MasterArgs>),
    /// Run a volume server
    Serve(Box<serve::ServeArgs>),
    /// Create, list, show and delete volumes
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Show the cluster; exit code 4 unless everything is whole
    Status(status::StatusArgs),
    /// Show what happened to a volume
    Events(events::EventsArgs),
    /// Look at stores that no server has open
    #[command(subcommand)]
    Store(store::StoreCommand),
}

/// Parses the arguments, does what they ask, and says how the process is to end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = match error.exit_code() {
                0 => Exit::Done,
                _ => Exit::Usage,
            };
            // Nobody is left to tell when the terminal is gone.
            let _printed = error.print();
            return code.into();
        }
    };
    let mut out = io::stdout();
    let ended = dispatch(cli.command, &mut out).and_then(|exit| {
        out.flush().map_err(CliError::Output)?;
        Ok(exit)
    });
    match ended {
        Ok(exit) => exit.into(),
        // `moorline events demo | head` is done when head is.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Exit::Done.into()
        }
        Err(error) => {
            let _printed = write!(io::stderr(), "{}", error.report());
            error.exit().into()
        }
    }
}

fn dispatch(command: Command, out: &mut dyn Write) -> Result<Exit, CliError> {
    match command {
        Command::Dev(args) => dev::run(args),
        Command::Master(args) => master::run(*args, out),
        Command::Serve(args) => serve::run(&args, out),
        Command::Volume(command) => volume::run(command, out),
        Command::Status(args) => status::run(&args, out),
        Command::Events(args) => events::run(&args, out),
        Command::Store(command) => store::run(command, out),
    }
}

/// How text for standard output may look.
pub(crate) fn paint() -> output::Paint {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && io::stdout().is_terminal() {
        output::Paint::Color
    } else {
        output::Paint::Plain
    }
}

#[cfg(test)]
mod tests;

//! `moorline-rig`: the power-cut disk by hand.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use moorline_rig::{Client, Command, Devices, Lifetime, RigError, ServeOptions, serve};

#[derive(Parser)]
#[command(
    version,
    about = "A disk that loses or tears what was not synced when its power is cut"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve disks until told to end; prints their status as JSON when ready. Needs root.
    Serve {
        /// Where the files disk0, disk1, ... appear; made if absent.
        #[arg(long)]
        mount: PathBuf,
        /// The durable image of a disk, made of zeros if absent; once for each disk.
        #[arg(long = "image", required = true)]
        images: Vec<PathBuf>,
        /// The size of each disk: bytes, or with KiB, MiB, GiB or TiB; a multiple of 4096.
        #[arg(long, value_parser = size)]
        size: u64,
        /// The Unix socket that takes commands.
        #[arg(long)]
        control: PathBuf,
        /// Decides what cuts leave behind.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Put links disk0, disk1, ... to the loop devices here [default: beside the control socket, in `dev`].
        #[arg(long)]
        links: Option<PathBuf>,
        /// Attach no loop devices: the files are enough.
        #[arg(long, conflicts_with = "links")]
        no_loop: bool,
        /// End when standard input closes.
        #[arg(long)]
        while_stdin_is_open: bool,
    },
    /// Send one command to a daemon and print its JSON reply.
    Ctl {
        /// The daemon's control socket.
        socket: PathBuf,
        /// status | cut DISK|all [drop|keep|sectors|tear] | power-on DISK|all | hang DISK|all | resume DISK|all |
        /// sync-fault DISK|all none|lie|fail|fail-and-drop [N] | read-fault DISK|all none|fail [N] |
        /// write-fault DISK|all none|fail [N] | quit
        #[arg(required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Serve {
            mount,
            images,
            size,
            control,
            seed,
            links,
            no_loop,
            while_stdin_is_open,
        } => {
            let beside = || {
                control
                    .parent()
                    .map(|dir| dir.join("dev"))
                    .unwrap_or_default()
            };
            let devices = match no_loop {
                true => Devices::None,
                false => Devices::Linked(links.unwrap_or_else(beside)),
            };
            let lifetime = match while_stdin_is_open {
                true => Lifetime::WhileStdinIsOpen,
                false => Lifetime::UntilSignalled,
            };
            moorline_rig::check_prerequisites().and_then(|()| {
                serve(&ServeOptions {
                    mount,
                    images,
                    size_bytes: size,
                    control,
                    seed,
                    devices,
                    lifetime,
                })
            })
        }
        Verb::Ctl { socket, command } => match command.join(" ").parse() {
            Ok(command) => tell(&socket, &command),
            Err(error) => {
                eprintln!("moorline-rig: {error}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("moorline-rig: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                eprint!(": {deeper}");
                cause = deeper.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn tell(socket: &std::path::Path, command: &Command) -> Result<(), RigError> {
    let reply = Client::connect(socket)?.ask(command)?;
    println!(
        "{}",
        serde_json::to_string(&reply).expect("replies have string keys")
    );
    Ok(())
}

/// Reads a size such as `1GiB`; the answer is in bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        other => return Err(format!("`{other}` is no unit: use KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size"))?;
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` is too large"))?;
    if bytes == 0 || bytes % 4096 != 0 {
        return Err(format!("{bytes} is not a positive multiple of 4096"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_binary_units_and_whole_blocks() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("8192"), Ok(8192));
        for bad in ["", "1GB", "4095", "0", "99999999999TiB", "GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}

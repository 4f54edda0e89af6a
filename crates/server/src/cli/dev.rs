//! `moorline dev`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use moorline_types::{AckPoint, Policy};

use super::{
    CliError, Exit,
    args::{MASTER_DEFAULT, parse_address, parse_log_size, parse_size},
    local_key::state_dir,
};
use crate::dev::{DevConfig, DevVolume};

/// Where the directory is for users without a home.
const DIR_WITHOUT_HOME: &str = "moorline-dev";

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Where everything is kept [default: $XDG_STATE_HOME/moorline/dev, ~/.local/state/moorline/dev]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many volume servers, each with a replica [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    replicas: Option<u32>,
    /// The volume's size [default: 1GiB]
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Where NBD clients find the volume
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10809", value_parser = parse_address)]
    nbd: SocketAddr,
    /// Where commands find the master
    #[arg(long, value_name = "IP:PORT", default_value = MASTER_DEFAULT, value_parser = parse_address)]
    listen: SocketAddr,
    /// Which copies a write needs: sync_quorum, sync_all or best_effort
    /// [default: sync_quorum; sync_all with two replicas]
    #[arg(long)]
    policy: Option<Policy>,
    /// What a copy must have done with a write: flushed or received [default: flushed]
    #[arg(long)]
    ack: Option<AckPoint>,
    /// The log of each replica [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_log_size)]
    log_size: Option<u64>,
}

pub(super) fn run(args: DevArgs) -> Result<Exit, CliError> {
    let dir = args
        .dir
        .or_else(|| Some(state_dir()?.join("dev")))
        .unwrap_or_else(|| DIR_WITHOUT_HOME.into());
    crate::dev::run(DevConfig {
        dir,
        servers: args.replicas,
        nbd: args.nbd,
        listen: args.listen,
        volume: DevVolume {
            size_bytes: args.size,
            policy: args.policy,
            ack: args.ack,
            log_bytes: args.log_size,
        },
    })?;
    Ok(Exit::Done)
}

//! `moorline status`.

use std::io::Write;

use clap::Args;
use moorline_wire::control::{ClientRequest, ClientResponse};

use super::{
    CliError, Exit,
    args::MasterOptions,
    master_client::{READ_LIMIT, ask_once, unexpected},
    output, paint, watch,
};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Keep showing it: a live screen on a terminal, else a line per change
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterOptions,
}

pub(super) fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    if args.watch {
        return watch::run(target);
    }
    let ClientResponse::Cluster(cluster) = ask_once(&target, ClientRequest::Status, READ_LIMIT)?
    else {
        return Err(unexpected(&target));
    };
    if args.json {
        output::json(out, &cluster)?;
    } else {
        write!(out, "{}", output::cluster(&cluster, paint())).map_err(CliError::Output)?;
    }
    if cluster.is_whole() {
        Ok(Exit::Done)
    } else {
        Ok(Exit::Degraded)
    }
}

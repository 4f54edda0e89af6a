//! `moorline events`.

use std::{io::Write, time::Duration};

use clap::Args;
use moorline_wire::control::{ClientRequest, ClientResponse};

use super::{
    CliError, Exit,
    args::MasterOptions,
    master_client::{MasterClient, MasterTarget, READ_LIMIT, accepted, unexpected},
    output,
};

/// Between two looks for new events.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// The volume
    name: String,
    /// Go on printing events as they come
    #[arg(long)]
    follow: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterOptions,
}

pub(super) fn run(args: &EventsArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let mut client = MasterClient::connect(&target)?;
    let mut after = 0;
    loop {
        after = print_new(args, &target, &mut client, after, out)?;
        if !args.follow {
            return Ok(Exit::Done);
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

/// Prints what came after event number `after`; the number of the last one.
fn print_new(
    args: &EventsArgs,
    target: &MasterTarget,
    client: &mut MasterClient,
    mut after: u64,
    out: &mut dyn Write,
) -> Result<u64, CliError> {
    let request = ClientRequest::Events {
        name: args.name.clone(),
        after,
    };
    let ClientResponse::Events(rows) = accepted(client.ask(request, READ_LIMIT)?)? else {
        return Err(unexpected(target));
    };
    for row in rows {
        after = after.max(row.seq);
        if args.json {
            output::json_line(out, &row)?;
        } else {
            writeln!(out, "{}", output::event(&row)).map_err(CliError::Output)?;
        }
    }
    out.flush().map_err(CliError::Output)?;
    Ok(after)
}

//! `moorline volume`.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use moorline_types::{AckPoint, ByteCount, NoQuorum, Policy};
use moorline_wire::control::{ClientRequest, ClientResponse, CreateVolume, Health, LossConsent};

use super::{
    CliError, Exit,
    args::{MasterOptions, parse_log_size, parse_size},
    master_client::{CHANGE_LIMIT, MasterClient, READ_LIMIT, accepted, ask_once, unexpected},
    output, paint,
};

/// How long a new volume's first promotion is waited for.
const SERVED_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks whether it is over.
const SERVED_EVERY: Duration = Duration::from_millis(50);

/// Bytes of a replica's log ring unless said otherwise.
const LOG_SIZE_DEFAULT: &str = "256MiB";

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume
    Create(CreateArgs),
    /// List the volumes
    List(ListArgs),
    /// Show one volume; exit code 4 unless it is whole
    Status(NamedReadArgs),
    /// Delete a volume and all its data
    Delete(NamedArgs),
    /// Go on without acknowledged writes that were only in memory and may be lost
    AcceptLoss(NamedReadArgs),
    /// Go on by what the connected replicas know, under a master restored from an old copy
    Overrule(OverruleArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name, which is also its NBD export name
    name: String,
    /// Its size, a multiple of 4096 (KiB, MiB, GiB, TiB, PiB)
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// How many servers hold it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    replicas: u32,
    /// Which copies a write needs: sync_quorum, sync_all or best_effort
    /// [default: sync_quorum; sync_all with two replicas]
    #[arg(long)]
    policy: Option<Policy>,
    /// What a copy must have done with a write: flushed or received
    #[arg(long, default_value_t = AckPoint::Flushed)]
    ack: AckPoint,
    /// Least copies of a write under sync_all [default: one less than replicas]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    min_copies: Option<u32>,
    /// What requests meet while too few copies can be had: they wait, or fail after so long
    /// (error:SECONDS) [default: wait]
    #[arg(long, value_name = "WHAT")]
    no_quorum: Option<NoQuorum>,
    /// The log of each replica
    #[arg(long, value_name = "SIZE", value_parser = parse_log_size, default_value = LOG_SIZE_DEFAULT)]
    log_size: u64,
    #[command(flatten)]
    master: MasterOptions,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterOptions,
}

#[derive(Debug, Args)]
pub(super) struct NamedReadArgs {
    /// The volume
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterOptions,
}

#[derive(Debug, Args)]
pub(super) struct NamedArgs {
    /// The volume
    name: String,
    #[command(flatten)]
    master: MasterOptions,
}

#[derive(Debug, Args)]
pub(super) struct OverruleArgs {
    /// The volume
    name: String,
    /// Agree to losing what only missing replicas know; without it this is refused
    #[arg(long)]
    accept_loss: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterOptions,
}

pub(super) fn run(command: VolumeCommand, out: &mut dyn Write) -> Result<Exit, CliError> {
    match command {
        VolumeCommand::Create(args) => create(args, out),
        VolumeCommand::List(args) => list(&args, out),
        VolumeCommand::Status(args) => status(args, out),
        VolumeCommand::Delete(args) => delete(args, out),
        VolumeCommand::AcceptLoss(args) => accept_loss(args, out),
        VolumeCommand::Overrule(args) => overrule(args, out),
    }
}

fn create(args: CreateArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let request = ClientRequest::CreateVolume(CreateVolume {
        name: args.name,
        size_bytes: args.size,
        replicas: args.replicas,
        policy: args.policy,
        ack: args.ack,
        log_bytes: args.log_size,
        min_copies: args.min_copies,
        no_quorum: args.no_quorum,
    });
    let mut client = MasterClient::connect(&target)?;
    let response = accepted(client.ask(request, CHANGE_LIMIT)?)?;
    let ClientResponse::Created(volume) = response else {
        return Err(unexpected(&target));
    };
    let served = wait_served(&mut client, &volume.name);
    let copies = output::count(u64::from(volume.replicas), "replica");
    writeln!(
        out,
        "volume {}: {}, {copies}, {} at {}, {served}",
        volume.name,
        ByteCount::new(volume.size),
        volume.policy,
        volume.ack
    )
    .map_err(CliError::Output)?;
    Ok(Exit::Done)
}

/// Where the volume is served, once it is: a script may go on with it. It is made in any case.
fn wait_served(client: &mut MasterClient, name: &str) -> String {
    let began = Instant::now();
    let mut reason = None;
    while began.elapsed() < SERVED_LIMIT {
        let request = ClientRequest::VolumeStatus {
            name: name.to_owned(),
        };
        let Ok(ClientResponse::Volume(volume)) = client.ask(request, READ_LIMIT) else {
            break;
        };
        if let (true, Some(uri)) = (volume.serving, &volume.nbd_uri) {
            return format!("served at {uri}");
        }
        reason = volume.reason;
        thread::sleep(SERVED_EVERY);
    }
    let reason = reason.as_deref().unwrap_or("see `moorline volume status`");
    format!("not served yet: {reason}")
}

fn list(args: &ListArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let ClientResponse::Volumes(volumes) =
        ask_once(&target, ClientRequest::ListVolumes, READ_LIMIT)?
    else {
        return Err(unexpected(&target));
    };
    if args.json {
        output::json(out, &volumes)?;
    } else {
        write!(out, "{}", output::volume_list(&volumes, paint())).map_err(CliError::Output)?;
    }
    Ok(Exit::Done)
}

fn status(args: NamedReadArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let request = ClientRequest::VolumeStatus { name: args.name };
    let ClientResponse::Volume(volume) = ask_once(&target, request, READ_LIMIT)? else {
        return Err(unexpected(&target));
    };
    if args.json {
        output::json(out, &volume)?;
    } else {
        write!(out, "{}", output::volume(&volume, paint())).map_err(CliError::Output)?;
    }
    Ok(match volume.health {
        Health::Ok => Exit::Done,
        Health::Creating | Health::Deleting | Health::Degraded | Health::Unavailable => {
            Exit::Degraded
        }
    })
}

fn delete(args: NamedArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let request = ClientRequest::DeleteVolume { name: args.name };
    let ClientResponse::Deleted { name } = ask_once(&target, request, CHANGE_LIMIT)? else {
        return Err(unexpected(&target));
    };
    writeln!(out, "volume {name} is deleted").map_err(CliError::Output)?;
    Ok(Exit::Done)
}

fn accept_loss(args: NamedReadArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let request = ClientRequest::AcceptLoss { name: args.name };
    let response = ask_once(&target, request, READ_LIMIT)?;
    let ClientResponse::LossAccepted { name, through } = &response else {
        return Err(unexpected(&target));
    };
    if args.json {
        output::json(out, &response)?;
    } else {
        writeln!(
            out,
            "volume {name}: the loss announced through epoch {through} is accepted; the next epoch serves"
        )
        .map_err(CliError::Output)?;
    }
    Ok(Exit::Done)
}

fn overrule(args: OverruleArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let target = args.master.target()?;
    let request = ClientRequest::Overrule {
        name: args.name,
        consent: match args.accept_loss {
            true => LossConsent::Given,
            false => LossConsent::No,
        },
    };
    let response = ask_once(&target, request, READ_LIMIT)?;
    let ClientResponse::Overruled {
        name,
        line,
        reported,
        missing,
    } = &response
    else {
        return Err(unexpected(&target));
    };
    if args.json {
        output::json(out, &response)?;
    } else {
        writeln!(
            out,
            "volume {name}: goes on above epoch {}, config {}, as {} reported it; not heard: {}",
            line.epoch,
            line.config,
            output::names(reported),
            output::names(missing)
        )
        .map_err(CliError::Output)?;
    }
    Ok(Exit::Done)
}

//! `moorline master`.

mod backup;

pub(super) use backup::BackupError;

use std::{io::Write, net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use moorline_types::ClusterId;

use super::{CliError, Exit, logging, master_client::read_key, serve::ParentArg};
use crate::config::{
    Exposure, Failover, LEASE_MS_DEFAULT, LogFormat, LogSettings, MasterConfig, MasterStore,
};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct MasterArgs {
    #[command(subcommand)]
    command: Option<MasterCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum MasterCommand {
    /// Copy a master's records into a file that can take the place of its store
    Backup(backup::BackupArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    // Required of a master that runs, and not of the commands below it.
    /// Where its records lie
    #[arg(long, required = true)]
    dir: Option<PathBuf>,
    /// Where servers and commands reach it
    #[arg(long, value_name = "IP:PORT", value_parser = super::args::parse_address, required = true)]
    listen: Option<SocketAddr>,
    /// What keeps its records
    #[arg(long, value_enum, default_value_t = StoreKind::Embedded)]
    store: StoreKind,
    /// File with the cluster's key
    #[arg(
        long,
        value_name = "FILE",
        env = "MOORLINE_CLUSTER_KEY",
        hide_env_values = true
    )]
    cluster_key: Option<PathBuf>,
    /// Talk to other machines without a cluster key
    #[arg(long, conflicts_with = "cluster_key")]
    insecure: bool,
    /// How long the leases of new volumes last, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = LEASE_MS_DEFAULT)]
    lease_ms: u32,
    /// Whether best_effort volumes change their primary by themselves
    #[arg(long, value_enum, default_value_t = FailoverKind::Ask)]
    failover: FailoverKind,
    /// Lead this cluster, whose master's records are lost, from an empty directory: its volumes are
    /// taken over from its servers
    #[arg(long, value_name = "CLUSTER")]
    adopt_cluster: Option<ClusterId>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    parent: ParentArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StoreKind {
    /// A file below --dir
    Embedded,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailoverKind {
    /// Not without an operator's consent
    Ask,
    /// They do, and acknowledged writes may be lost
    Lossy,
}

/// How to log.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct LogArgs {
    /// Which lines to log: a level, or target=level
    #[arg(
        long,
        value_name = "FILTER",
        env = "MOORLINE_LOG",
        hide_env_values = true
    )]
    log: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<FormatKind>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FormatKind {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl LogArgs {
    /// Puts what was given over `settings`.
    pub(super) fn put_over(&self, settings: &mut LogSettings) {
        if let Some(filter) = &self.log {
            settings.filter = Some(filter.clone());
        }
        match self.log_format {
            Some(FormatKind::Text) => settings.format = LogFormat::Text,
            Some(FormatKind::Json) => settings.format = LogFormat::Json,
            None => {}
        }
    }
}

impl RunArgs {
    fn config(&self) -> Result<MasterConfig, CliError> {
        let (Some(dir), Some(listen)) = (self.dir.clone(), self.listen) else {
            return Err(CliError::Missing {
                keys: vec!["dir", "listen"],
            });
        };
        let mut config = MasterConfig::new(dir, listen);
        config.store = match self.store {
            StoreKind::Embedded => MasterStore::Embedded,
        };
        config.cluster_key = self.cluster_key.as_deref().map(read_key).transpose()?;
        if self.insecure {
            config.exposure = Exposure::Insecure;
        }
        config.lease_ms = self.lease_ms;
        config.failover = match self.failover {
            FailoverKind::Ask => Failover::Ask,
            FailoverKind::Lossy => Failover::Lossy,
        };
        config.adopt_cluster = self.adopt_cluster;
        self.log.put_over(&mut config.log);
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
impl MasterArgs {
    pub(super) fn config(&self) -> Result<MasterConfig, CliError> {
        self.run.config()
    }
}

pub(super) fn run(args: MasterArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    match args.command {
        Some(MasterCommand::Backup(args)) => backup::run(&args, out),
        None => serve(&args.run),
    }
}

fn serve(args: &RunArgs) -> Result<Exit, CliError> {
    let config = args.config()?;
    args.parent.end_with_it()?;
    logging::init(&config.log)?;
    crate::master_service::run(&config)?;
    Ok(Exit::Done)
}

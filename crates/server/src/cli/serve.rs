//! `moorline serve`: settings from flags and from a file, flags first.

pub(super) mod file;

use std::{
    fmt,
    io::Write,
    net::SocketAddr,
    os::fd::RawFd,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use moorline_types::ServerId;
use rustix::process::{Pid, Signal};

use self::file::{ConfigFile, VolatileLossWord};
use super::{
    CliError, Exit,
    args::{HostPort, parse_address},
    logging,
    master::LogArgs,
    master_client::read_key,
};
use crate::config::{
    DeviceAccess, Exposure, Listen, LogFormat, LogSettings, NbdLimits, OnVolatileLoss, ServeConfig,
    ServeEndpoints, StoreLocation,
};

#[derive(Debug, Default, Args)]
pub(super) struct ServeArgs {
    /// TOML file with settings; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print a commented sample of that file, and end
    #[arg(long)]
    print_config: bool,
    /// Its name in the cluster
    #[arg(long, value_name = "ID")]
    server_id: Option<ServerId>,
    /// Keep one store file per volume below this directory
    #[arg(long, conflicts_with = "device")]
    dir: Option<PathBuf>,
    /// Keep the store of one volume on this block device
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// The master's address
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "MOORLINE_MASTER",
        hide_env_values = true
    )]
    master: Option<HostPort>,
    /// Where servers send it records
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    data: Option<SocketAddr>,
    /// Where servers reach it for all else
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    control: Option<SocketAddr>,
    /// Where NBD clients reach it
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    nbd: Option<SocketAddr>,
    /// What other servers are told instead of --data
    #[arg(long, value_name = "HOST:PORT")]
    data_advertise: Option<HostPort>,
    /// What other servers are told instead of --control
    #[arg(long, value_name = "HOST:PORT")]
    control_advertise: Option<HostPort>,
    /// What clients are told instead of --nbd
    #[arg(long, value_name = "HOST:PORT")]
    nbd_advertise: Option<HostPort>,
    /// Unix socket for NBD clients, beside --nbd
    #[arg(long, value_name = "PATH")]
    nbd_unix: Option<PathBuf>,
    /// Listening socket inherited as this descriptor, instead of binding --nbd
    #[arg(long, value_name = "FD", hide = true, value_parser = clap::value_parser!(RawFd).range(0..))]
    nbd_fd: Option<RawFd>,
    /// Serve metrics over HTTP here, at /metrics
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    metrics: Option<SocketAddr>,
    /// File with the cluster's key
    #[arg(
        long,
        value_name = "FILE",
        env = "MOORLINE_CLUSTER_KEY",
        hide_env_values = true
    )]
    cluster_key: Option<PathBuf>,
    /// Talk to other machines without a cluster key
    #[arg(long)]
    insecure: bool,
    /// When acknowledged writes that were only in memory may be lost: serve nobody, or go on
    #[arg(long, value_name = "WHAT", value_enum)]
    on_volatile_loss: Option<VolatileLossWord>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    parent: ParentArg,
}

/// For processes that another one runs.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct ParentArg {
    /// End when the process with this id, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<i32>,
}

impl ParentArg {
    /// Asks the kernel for a SIGTERM when the parent ends, however it ends.
    pub(super) fn end_with_it(self) -> Result<(), CliError> {
        let Some(parent) = self.exit_with_parent else {
            return Ok(());
        };
        let set = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
        set.map_err(|errno| CliError::Setup {
            what: "ask for a signal at the parent's end",
            source: errno.into(),
        })?;
        // It may have ended before that was asked for.
        if rustix::process::getppid() == Pid::from_raw(parent) {
            Ok(())
        } else {
            Err(CliError::Setup {
                what: "go on without the parent that started this process",
                source: std::io::ErrorKind::NotFound.into(),
            })
        }
    }
}

pub(super) fn run(args: &ServeArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    if args.print_config {
        out.write_all(file::SAMPLE.as_bytes())
            .map_err(CliError::Output)?;
        return Ok(Exit::Done);
    }
    let config = args.settings()?;
    args.parent.end_with_it()?;
    logging::init(&config.log)?;
    crate::serve::run(&config)?;
    Ok(Exit::Done)
}

impl ServeArgs {
    /// The settings, checked.
    fn settings(&self) -> Result<ServeConfig, CliError> {
        let file = match &self.config {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::default(),
        };
        let config = self.over(file)?;
        config.check()?;
        Ok(config)
    }

    fn over(&self, file: ConfigFile) -> Result<ServeConfig, CliError> {
        self.check_complete(&file)?;
        let endpoints = ServeEndpoints {
            data: listen("data", self.data, &self.data_advertise, &file)?,
            control: listen("control", self.control, &self.control_advertise, &file)?,
            nbd: listen("nbd", self.nbd, &self.nbd_advertise, &file)?,
        };
        let server_id = match &self.server_id {
            Some(id) => id.clone(),
            None => required("server-id", parsed("server-id", file.server_id.as_deref())?)?,
        };
        let master = match &self.master {
            Some(master) => master.clone(),
            None => required("master", parsed("master", file.master.as_deref())?)?,
        };
        let stores = self.stores(&file)?;
        let mut config = ServeConfig::new(server_id, stores, master.to_string(), endpoints);
        config.nbd_unix = self.nbd_unix.clone().or(file.nbd_unix);
        config.nbd_fd = self.nbd_fd;
        config.metrics = match self.metrics {
            Some(address) => Some(address),
            None => parsed_with("metrics", file.metrics.as_deref(), parse_address)?,
        };
        let key = self.cluster_key.as_deref().or(file.cluster_key.as_deref());
        config.cluster_key = key.map(read_key).transpose()?;
        if self.insecure || file.insecure.unwrap_or_default() {
            if key.is_some() {
                return Err(CliError::Conflict {
                    first: "cluster-key",
                    second: "insecure",
                });
            }
            config.exposure = Exposure::Insecure;
        }
        let on_volatile_loss = self.on_volatile_loss.or(file.on_volatile_loss);
        config.on_volatile_loss = on_volatile_loss.map_or(OnVolatileLoss::Stop, Into::into);
        config.device_access = file.io.map_or(DeviceAccess::Probe, Into::into);
        config.nbd_limits = match &file.nbd_limits {
            Some(limits) => limits.limits(),
            None => NbdLimits::default(),
        };
        config.log = LogSettings {
            filter: file.log.clone(),
            format: file.log_format.map_or(LogFormat::Text, Into::into),
        };
        self.log.put_over(&mut config.log);
        Ok(config)
    }

    /// What is required is given, by a flag or in the file; all that is not is named at once.
    fn check_complete(&self, file: &ConfigFile) -> Result<(), CliError> {
        let has_stores = self.dir.is_some() || self.device.is_some();
        let file_has_stores = file.dir.is_some() || file.device.is_some();
        let given = [
            (
                "server-id",
                self.server_id.is_some() || file.server_id.is_some(),
            ),
            ("dir", has_stores || file_has_stores),
            ("master", self.master.is_some() || file.master.is_some()),
            ("data", self.data.is_some() || file.data.is_some()),
            ("control", self.control.is_some() || file.control.is_some()),
            ("nbd", self.nbd.is_some() || file.nbd.is_some()),
        ];
        let missing = given.iter().filter(|(_, is_given)| !is_given);
        let keys: Vec<&'static str> = missing.map(|(key, _)| *key).collect();
        if keys.is_empty() {
            Ok(())
        } else {
            Err(CliError::Missing { keys })
        }
    }

    fn stores(&self, file: &ConfigFile) -> Result<StoreLocation, CliError> {
        let given = |dir: Option<&Path>, device: Option<&Path>| match (dir, device) {
            (Some(dir), None) => Ok(Some(StoreLocation::Dir(dir.to_owned()))),
            (None, Some(device)) => Ok(Some(StoreLocation::Device(device.to_owned()))),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(CliError::Conflict {
                first: "dir",
                second: "device",
            }),
        };
        let by_flag = given(self.dir.as_deref(), self.device.as_deref())?;
        match by_flag {
            Some(stores) => Ok(stores),
            None => required("dir", given(file.dir.as_deref(), file.device.as_deref())?),
        }
    }
}

/// One of the three listening addresses, from its flags, else from the file.
fn listen(
    key: &'static str,
    flag: Option<SocketAddr>,
    advertise_flag: &Option<HostPort>,
    file: &ConfigFile,
) -> Result<Listen, CliError> {
    let (in_file, advertise_key, advertise_in_file) = match key {
        "data" => (&file.data, "data-advertise", &file.data_advertise),
        "control" => (&file.control, "control-advertise", &file.control_advertise),
        _ => (&file.nbd, "nbd-advertise", &file.nbd_advertise),
    };
    let address = match flag {
        Some(address) => Some(address),
        None => parsed_with(key, in_file.as_deref(), parse_address)?,
    };
    let advertise: Option<HostPort> = match advertise_flag {
        Some(address) => Some(address.clone()),
        None => parsed(advertise_key, advertise_in_file.as_deref())?,
    };
    Ok(Listen {
        listen: required(key, address)?,
        advertise: advertise.map(|address| address.to_string()),
    })
}

fn required<T>(key: &'static str, value: Option<T>) -> Result<T, CliError> {
    value.ok_or_else(|| CliError::Missing { keys: vec![key] })
}

fn parsed<T: FromStr>(key: &'static str, text: Option<&str>) -> Result<Option<T>, CliError>
where
    T::Err: fmt::Display,
{
    parsed_with(key, text, str::parse)
}

fn parsed_with<T, E: fmt::Display>(
    key: &'static str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, CliError> {
    let parse = |text: &str| {
        parse(text).map_err(|error| CliError::BadSetting {
            key,
            value: text.to_owned(),
            reason: error.to_string(),
        })
    };
    text.map(parse).transpose()
}

#[cfg(test)]
mod tests;

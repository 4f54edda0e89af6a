//! What a process is told at its start: where it listens, where its data lies, whom it trusts.
//!
//! Plain values, checked. The command line and the configuration file are read elsewhere and end up
//! here; [`crate::serve::run`] and [`crate::master_service::run`] take them.

use std::{
    net::SocketAddr,
    os::fd::RawFd,
    path::{Path, PathBuf},
};

use moorline_types::{ClusterId, ServerId};
pub use moorline_wire::hello::ClusterKey;

/// How long a lease lasts unless said otherwise, in milliseconds.
pub const LEASE_MS_DEFAULT: u32 = 2_000;

/// The longest lease, in milliseconds: a failover waits that long.
pub const LEASE_MS_MAX: u32 = 60_000;

/// The shortest lease, in milliseconds: below it a busy scheduler alone ends reigns.
pub const LEASE_MS_MIN: u32 = 200;

const _: () = assert!(LEASE_MS_MIN <= LEASE_MS_DEFAULT && LEASE_MS_DEFAULT <= LEASE_MS_MAX);

/// Everything that a volume server is told.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Its name in the cluster.
    pub server_id: ServerId,
    /// Where its stores lie.
    pub stores: StoreLocation,
    /// The master's address, `HOST:PORT`.
    pub master: String,
    /// Where other servers reach it: records and acknowledgements.
    pub data: Listen,
    /// Where other servers and operators reach it: control.
    pub control: Listen,
    /// Where NBD clients reach it over TCP. With `nbd_fd` only the advertised address is used.
    pub nbd: Listen,
    /// A Unix socket for NBD clients on the same machine, beside `nbd`.
    pub nbd_unix: Option<PathBuf>,
    /// A listening socket inherited from the parent and shared with other servers: it is accepted
    /// on only while this server is the primary of a volume. `nbd.listen` is then not bound.
    /// Best is 0: a parent hands a socket over as standard input without any unsafe code.
    pub nbd_fd: Option<RawFd>,
    /// Where metrics are served over HTTP, to whoever asks: they say nothing secret and change
    /// nothing. `None` serves none.
    pub metrics: Option<SocketAddr>,
    /// Proves membership of the cluster to peers and the master.
    pub cluster_key: Option<ClusterKey>,
    /// Whether to talk to other machines without a key.
    pub exposure: Exposure,
    /// What happens when acknowledged writes in volatile memory may be gone.
    pub on_volatile_loss: OnVolatileLoss,
    /// What a single NBD client, and all of them together, may take.
    pub nbd_limits: NbdLimits,
    /// Which way to the disk.
    pub device_access: DeviceAccess,
    /// How to log.
    pub log: LogSettings,
}

/// Everything that a master is told.
#[derive(Clone, Debug)]
pub struct MasterConfig {
    /// Where its store lies.
    pub dir: PathBuf,
    /// Where servers and operators reach it.
    pub listen: SocketAddr,
    /// What keeps its records.
    pub store: MasterStore,
    /// Proves membership of the cluster.
    pub cluster_key: Option<ClusterKey>,
    /// Whether to talk to other machines without a key.
    pub exposure: Exposure,
    /// How long a lease lasts in new volumes, in milliseconds.
    pub lease_ms: u32,
    /// Whether `best_effort` volumes fail over by themselves.
    pub failover: Failover,
    /// The cluster that an empty directory is to lead: what its master knew comes from the servers.
    pub adopt_cluster: Option<ClusterId>,
    /// How to log.
    pub log: LogSettings,
}

/// Where a server's stores lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreLocation {
    /// One file per volume below `DIR/stores`.
    Dir(PathBuf),
    /// One raw block device (or file) that holds the store of one volume.
    Device(PathBuf),
}

impl StoreLocation {
    /// The path, whichever kind it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Dir(path) | Self::Device(path) => path,
        }
    }
}

/// An address to listen on and how others are to reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Bound at start. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// What others are told, `HOST:PORT`; `None` tells them the bound address.
    pub advertise: Option<String>,
}

impl Listen {
    /// Listens on `address` and tells others just that.
    #[must_use]
    pub const fn on(address: SocketAddr) -> Self {
        Self {
            listen: address,
            advertise: None,
        }
    }

    /// What others are told once `bound` is the bound address.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> String {
        match &self.advertise {
            Some(address) => address.clone(),
            None => bound.to_string(),
        }
    }
}

/// Whether a process without a cluster key may talk to other machines.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Exposure {
    /// It may not: it listens on loopback only.
    #[default]
    Guarded,
    /// `--insecure`: it may.
    Insecure,
}

/// What happens when acknowledged writes that were held in memory may be gone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum OnVolatileLoss {
    /// Clients get an error until an operator clears it.
    #[default]
    Stop,
    /// Service goes on with an event.
    Continue,
}

/// Whether `best_effort` volumes change their primary without an operator.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Failover {
    /// An operator has to agree to each.
    #[default]
    Ask,
    /// `--failover lossy`: acknowledged writes may be lost, and that is agreed to.
    Lossy,
}

/// What keeps the master's records.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum MasterStore {
    /// A file below the master's directory.
    #[default]
    Embedded,
}

/// Which way to the disk is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DeviceAccess {
    /// The fastest that works here, found by trying; the log says which and why.
    #[default]
    Probe,
    /// pread and pwrite, without trying io_uring.
    Sync,
}

/// What NBD clients may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NbdLimits {
    /// Most connections, handshakes included.
    pub connections_max: usize,
    /// Most connections that have not finished their handshake.
    pub handshakes_max: usize,
    /// How long a handshake may take, in milliseconds.
    pub handshake_ms_max: u64,
    /// Most bytes of requests and replies in flight on one connection.
    pub connection_bytes_max: usize,
    /// Most bytes of requests and replies in flight on all connections.
    pub total_bytes_max: usize,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            handshakes_max: 64,
            handshake_ms_max: 10_000,
            // Two requests of the largest size: one on its way in while another is written.
            connection_bytes_max: 64 << 20,
            total_bytes_max: 512 << 20,
        }
    }
}

/// How to log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogSettings {
    /// Which lines, in the syntax of `tracing_subscriber::EnvFilter`; `None` is `info`.
    pub filter: Option<String>,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl ServeConfig {
    /// A server with the defaults of every optional setting.
    #[must_use]
    pub fn new(
        server_id: ServerId,
        stores: StoreLocation,
        master: String,
        endpoints: ServeEndpoints,
    ) -> Self {
        Self {
            server_id,
            stores,
            master,
            data: endpoints.data,
            control: endpoints.control,
            nbd: endpoints.nbd,
            nbd_unix: None,
            nbd_fd: None,
            metrics: None,
            cluster_key: None,
            exposure: Exposure::Guarded,
            on_volatile_loss: OnVolatileLoss::Stop,
            nbd_limits: NbdLimits::default(),
            device_access: DeviceAccess::Probe,
            log: LogSettings::default(),
        }
    }

    /// Checks what settings say together.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit, and what to do about it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let guarded = self.cluster_key.is_none() && self.exposure == Exposure::Guarded;
        for (setting, address) in [("data", &self.data), ("control", &self.control)] {
            if guarded && !address.listen.ip().is_loopback() {
                return Err(ConfigError::KeyRequired {
                    setting,
                    address: address.listen,
                });
            }
            check_advertised(setting, address)?;
        }
        check_advertised("nbd", &self.nbd)
    }
}

impl MasterConfig {
    /// A master with the defaults of every optional setting.
    #[must_use]
    pub fn new(dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            dir,
            listen,
            store: MasterStore::Embedded,
            cluster_key: None,
            exposure: Exposure::Guarded,
            lease_ms: LEASE_MS_DEFAULT,
            failover: Failover::Ask,
            adopt_cluster: None,
            log: LogSettings::default(),
        }
    }

    /// Checks what settings say together.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit, and what to do about it.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_lease(self.lease_ms)?;
        let guarded = self.cluster_key.is_none() && self.exposure == Exposure::Guarded;
        if guarded && !self.listen.ip().is_loopback() {
            return Err(ConfigError::KeyRequired {
                setting: "listen",
                address: self.listen,
            });
        }
        Ok(())
    }
}

/// The three addresses of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServeEndpoints {
    /// Records and acknowledgements.
    pub data: Listen,
    /// Control.
    pub control: Listen,
    /// NBD.
    pub nbd: Listen,
}

fn check_lease(lease_ms: u32) -> Result<(), ConfigError> {
    if (LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms) {
        Ok(())
    } else {
        Err(ConfigError::Lease { lease_ms })
    }
}

fn check_advertised(setting: &'static str, address: &Listen) -> Result<(), ConfigError> {
    if address.listen.ip().is_unspecified() && address.advertise.is_none() {
        return Err(ConfigError::NothingToAdvertise {
            setting,
            address: address.listen,
        });
    }
    Ok(())
}

/// Settings that do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A lease of another length than can work.
    #[error("a lease of {lease_ms} ms cannot work: use {LEASE_MS_MIN} to {LEASE_MS_MAX}")]
    Lease {
        /// What was asked for.
        lease_ms: u32,
    },
    /// Other machines could come in without proof.
    #[error(
        "`{setting}` listens on {address} without a cluster key: give --cluster-key, listen on loopback, or accept the risk with --insecure"
    )]
    KeyRequired {
        /// Which address.
        setting: &'static str,
        /// What it is.
        address: SocketAddr,
    },
    /// Others cannot be told where to go.
    #[error(
        "`{setting}` listens on every address ({address}): say with --{setting}-advertise how others reach it"
    )]
    NothingToAdvertise {
        /// Which address.
        setting: &'static str,
        /// What it is.
        address: SocketAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(data: &str) -> ServeConfig {
        let on = |text: &str| Listen::on(text.parse().unwrap());
        ServeConfig::new(
            "s1".parse().unwrap(),
            StoreLocation::Dir("/tmp/s1".into()),
            "127.0.0.1:9400".to_owned(),
            ServeEndpoints {
                data: on(data),
                control: on("127.0.0.1:9502"),
                nbd: on("127.0.0.1:10809"),
            },
        )
    }

    #[test]
    fn without_a_key_only_loopback_is_served() {
        assert_eq!(serve("127.0.0.1:9501").check(), Ok(()));
        let mut open = serve("10.0.0.1:9501");
        assert!(matches!(
            open.check(),
            Err(ConfigError::KeyRequired {
                setting: "data",
                ..
            })
        ));
        open.exposure = Exposure::Insecure;
        assert_eq!(open.check(), Ok(()));
        open.exposure = Exposure::Guarded;
        open.cluster_key = Some(ClusterKey::new([7; 32]));
        assert_eq!(open.check(), Ok(()));
    }

    #[test]
    fn an_address_that_nobody_can_dial_is_not_advertised() {
        let mut config = serve("0.0.0.0:9501");
        config.exposure = Exposure::Insecure;
        assert!(matches!(
            config.check(),
            Err(ConfigError::NothingToAdvertise {
                setting: "data",
                ..
            })
        ));
        config.data.advertise = Some("storage-1:9501".to_owned());
        assert_eq!(config.check(), Ok(()));
    }
}

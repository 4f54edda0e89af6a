//! One volume server, from its settings to its end.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use moorline_blockvol::device::{Access, open_set};
use moorline_types::{BootId, BufferPool};
use moorline_volume::{Event, Node, NodeConfig, OnVolatileLoss as NodeOnVolatileLoss};
use moorline_wire::hello::{Channel, Identity};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    clock,
    config::{ConfigError, DeviceAccess, OnVolatileLoss, ServeConfig},
    driver::{Driver, Ended, Parts},
    inbox::{News, Teller, inbox},
    master_link::MasterLink,
    metrics,
    nbd_front::{self, Listener, NbdFront},
    ready::ReadyList,
    stores::Stores,
    transport::{self, Introduction, random_bytes},
};
pub use crate::{
    nbd_front::{InheritError, UnixBindError},
    stores::StoresError,
    transport::BindError,
};

/// Why a server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its settings do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its directory or device cannot be used.
    #[error(transparent)]
    Stores(#[from] StoresError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The Unix socket cannot be listened on.
    #[error(transparent)]
    Unix(#[from] UnixBindError),
    /// The listener that was to be inherited is not there.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The process lacks something basic: descriptors, signals.
    #[error("the process cannot be set up")]
    Process(#[source] io::Error),
    /// The store on the server's device is not to be opened here.
    #[error("{path}: {reason}")]
    StoreRefused {
        /// The device.
        path: PathBuf,
        /// Why, with what to do.
        reason: Box<str>,
    },
    /// The stop was not clean: the next start takes care of it.
    #[error("stopped before every store came to rest; nothing that was acknowledged is lost")]
    Hasty,
}

/// Runs a volume server until it is told to stop by SIGINT or SIGTERM.
///
/// A panic anywhere ends the process: what it broke is not built upon.
///
/// # Errors
///
/// See [`ServeError`].
pub fn run(config: &ServeConfig) -> Result<(), ServeError> {
    abort_on_panic();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Process)?;
    let result = runtime.block_on(serve(config));
    // A disk that hangs must not hold up the end of a process that was told to end.
    runtime.shutdown_background();
    result
}

/// From here on a panic ends the process, after its message.
pub(crate) fn abort_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::abort();
    }));
}

/// The listeners of a server and what others are told of them.
struct Doors {
    data: TcpListener,
    control: TcpListener,
    nbd: Vec<Listener>,
    metrics: Option<TcpListener>,
    data_addr: String,
    control_addr: String,
    nbd_addr: String,
}

async fn serve(config: &ServeConfig) -> Result<(), ServeError> {
    config.check()?;
    let (teller, inbox) = inbox();
    // Whatever can be wrong with the settings is found before anything is said to anybody.
    let mut stores = Stores::open(config.stores.clone(), &config.server_id)?;
    let mut doors = open_doors(config).await?;
    let shared = match config.nbd_fd {
        Some(fd) => Some(nbd_front::inherited(fd, teller.clone())?),
        None => None,
    };
    let access = match config.device_access {
        DeviceAccess::Probe => Access::Probe,
        DeviceAccess::Sync => Access::Sync,
    };
    let (mut devices, engine) = open_set(access).map_err(ServeError::Process)?;
    tracing::info!(server = %config.server_id, %engine, "the way to the disk");
    let found = stores.scan(&mut *devices)?;
    let boot = BootId::new(u128::from_ne_bytes(random_bytes()));
    let pool = BufferPool::new();
    let list = Arc::new(ReadyList::default());
    let introduction = Arc::new(introduce(config, boot, &doors, &stores, &pool));
    let node = Node::new(
        node_config(config, boot, &doors, &stores, &pool),
        clock::now(),
    );
    let nbd = NbdFront::new(config.nbd_limits.clone(), pool, Arc::clone(&list), shared);
    let master = config.master.clone();
    let parts = Parts {
        node,
        devices,
        stores,
        nbd,
        master: MasterLink::start(master, Arc::clone(&introduction), teller.clone()),
        introduction: Arc::clone(&introduction),
        teller: teller.clone(),
        inbox,
        list,
    };
    let mut driver = Driver::new(parts).map_err(ServeError::Process)?;
    for store in found {
        driver.tell(Event::DeviceFound {
            device: store.device,
            bytes: store.bytes,
        });
    }
    tracing::info!(
        server = %config.server_id,
        %boot,
        data = doors.data_addr,
        control = doors.control_addr,
        nbd = doors.nbd_addr,
        "started"
    );
    if let Some(listener) = doors.metrics.take() {
        let server = config.server_id.clone();
        drop(tokio::spawn(metrics::serve(
            listener,
            server,
            teller.clone(),
        )));
    }
    open_to_the_world(doors, &introduction, &teller);
    watch_signals(teller).map_err(ServeError::Process)?;
    match driver.run().await {
        Ended::Cleanly => {
            tracing::info!(server = %config.server_id, "stopped cleanly");
            Ok(())
        }
        Ended::Hastily => Err(ServeError::Hasty),
        Ended::StoreRefused(reason) => Err(ServeError::StoreRefused {
            path: config.stores.path().to_owned(),
            reason,
        }),
    }
}

async fn open_doors(config: &ServeConfig) -> Result<Doors, ServeError> {
    let data = transport::bind("data", config.data.listen).await?;
    let control = transport::bind("control", config.control.listen).await?;
    let mut nbd = Vec::new();
    let mut nbd_bound = config.nbd.listen;
    if config.nbd_fd.is_none() {
        let listener = transport::bind("nbd", config.nbd.listen).await?;
        nbd_bound = listener.local_addr().map_err(ServeError::Process)?;
        nbd.push(Listener::Tcp(listener));
    }
    if let Some(path) = &config.nbd_unix {
        nbd.push(unix_door(path)?);
    }
    let metrics = match config.metrics {
        Some(address) => Some(transport::bind("metrics", address).await?),
        None => None,
    };
    let data_bound = data.local_addr().map_err(ServeError::Process)?;
    let control_bound = control.local_addr().map_err(ServeError::Process)?;
    Ok(Doors {
        data,
        control,
        nbd,
        metrics,
        data_addr: config.data.advertised(data_bound),
        control_addr: config.control.advertised(control_bound),
        nbd_addr: config.nbd.advertised(nbd_bound),
    })
}

fn unix_door(path: &Path) -> Result<Listener, ServeError> {
    Ok(nbd_front::unix(path)?)
}

fn introduce(
    config: &ServeConfig,
    boot: BootId,
    doors: &Doors,
    stores: &Stores,
    pool: &BufferPool,
) -> Introduction {
    let who = Identity::Server {
        server: config.server_id.clone(),
        boot,
        data_addr: doors.data_addr.clone(),
        control_addr: doors.control_addr.clone(),
    };
    let key = config.cluster_key.as_ref();
    Introduction::new(who, key, config.exposure, stores.cluster(), pool.clone())
}

fn node_config(
    config: &ServeConfig,
    boot: BootId,
    doors: &Doors,
    stores: &Stores,
    pool: &BufferPool,
) -> NodeConfig {
    let mut node = NodeConfig::new(config.server_id.clone(), boot);
    node.cluster = stores.cluster();
    node.data_addr.clone_from(&doors.data_addr);
    node.control_addr.clone_from(&doors.control_addr);
    node.nbd_addr.clone_from(&doors.nbd_addr);
    env!("CARGO_PKG_VERSION").clone_into(&mut node.version);
    node.pool = pool.clone();
    node.on_volatile_loss = match config.on_volatile_loss {
        OnVolatileLoss::Stop => NodeOnVolatileLoss::Stop,
        OnVolatileLoss::Continue => NodeOnVolatileLoss::Continue,
    };
    #[cfg(feature = "mutants")]
    if std::env::var_os("MOORLINE_ACK_BEFORE_FLUSH").is_some() {
        tracing::warn!("PLANTED BUG: acknowledging before the flush");
        node.store_mutants = moorline_blockvol::Mutants::ACK_BEFORE_FLUSH;
    }
    node
}

/// Starts to listen, now that somebody hears.
fn open_to_the_world(doors: Doors, introduction: &Arc<Introduction>, teller: &Teller) {
    for (listener, channel) in [
        (doors.data, Channel::Data),
        (doors.control, Channel::Control),
    ] {
        let (introduction, teller) = (Arc::clone(introduction), teller.clone());
        drop(tokio::spawn(transport::listen(
            listener,
            channel,
            introduction,
            teller,
        )));
    }
    for listener in doors.nbd {
        drop(tokio::spawn(nbd_front::accept(listener, teller.clone())));
    }
}

/// Each SIGINT or SIGTERM is a request to stop; a second one hurries.
fn watch_signals(teller: Teller) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if teller.send(News::StopRequested).is_err() {
                return;
            }
        }
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use moorline_blockvol::SUPERBLOCK_MAGIC;

    use super::*;
    use crate::config::{Listen, ServeEndpoints, StoreLocation};

    #[tokio::test]
    async fn a_server_whose_one_device_holds_no_store_for_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut bytes = vec![0; 4 << 20];
        // A ruined store: something was there, so that it is not taken for an empty disk.
        bytes[..SUPERBLOCK_MAGIC.len()].copy_from_slice(&SUPERBLOCK_MAGIC);
        std::fs::write(&path, &bytes).unwrap();
        let loopback = || Listen {
            listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            advertise: None,
        };
        let endpoints = ServeEndpoints {
            data: loopback(),
            control: loopback(),
            nbd: loopback(),
        };
        let device = StoreLocation::Device(path.clone());
        let master = "127.0.0.1:1".to_owned();
        let config = ServeConfig::new("s1".parse().unwrap(), device, master, endpoints);
        match serve(&config).await {
            Err(ServeError::StoreRefused { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "it was not touched");
    }
}

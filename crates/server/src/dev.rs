//! A whole cluster on one machine: a master and its servers as real processes, one volume to try.
//!
//! ```text
//!  dev --- keeps ------> the NBD listener, the directory's lock, the key, the ports
//!   |---- runs -------> master, s1 .. sN     (each restarted when it ends; stopped with dev)
//!   '---- asks -------> the master: is the volume there, is it served, how is it
//! ```
//!
//! This process serves nothing: every server has the listener's descriptor as its standard input,
//! and the one that is primary accepts on it.
//!
//! | file | holds |
//! |---|---|
//! | `dev/home.rs` | `Home`: the directory, its lock, key and ports |
//! | `dev/child.rs` | one process: started, watched, restarted, stopped |
//! | `dev/fleet.rs` | all of them, in the right order |
//! | `dev/observer.rs` | the thread that makes the volume and looks at the status |
//! | `dev/show.rs` | what the user sees |

mod child;
mod fleet;
mod home;
mod observer;
mod show;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use moorline_types::{AckPoint, Policy};
use moorline_wire::hello::Credentials;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use self::{
    child::{ChildEvent, What},
    fleet::{Addresses, Fleet},
    home::Home,
    observer::{News, Observer},
    show::Show,
};
use crate::cli::{
    CliError, Exit,
    args::HostPort,
    local_key::{LocalKey, state_dir},
    master_client::MasterTarget,
    watch::{StopSignals, small_runtime},
};

/// The volume that `dev` makes.
pub const VOLUME: &str = "demo";

/// How often a process may end before the volume is served; after that something is wrong that
/// another start does not mend.
const EARLY_ENDS_MAX: u32 = 3;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct DevConfig {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// How many servers; `None` for as many as before, or three.
    pub servers: Option<u32>,
    /// Where clients find the volume.
    pub nbd: SocketAddr,
    /// Where commands find the master.
    pub listen: SocketAddr,
    /// The volume, when it is made.
    pub volume: DevVolume,
}

/// What the volume is to be; `None` where nothing was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DevVolume {
    /// In bytes.
    pub size_bytes: Option<u64>,
    /// How many copies a write needs.
    pub policy: Option<Policy>,
    /// What a copy must have done to count.
    pub ack: Option<AckPoint>,
    /// Bytes of each log ring.
    pub log_bytes: Option<u64>,
}

/// Why the cluster could not be run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The directory or a file in it cannot be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another one runs there.
    #[error("another `moorline dev` uses {}{}", dir.display(), by(*pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other process, when it said so.
        pid: Option<u32>,
    },
    /// A file in the directory does not say what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The flag that names another one.
        flag: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No port of the range is free.
    #[error("no free port for a server on this machine")]
    NoPort,
    /// A process does not stay up.
    #[error("{name} keeps ending before the volume is served: {how}")]
    KeepsEnding {
        /// Which.
        name: String,
        /// How it ended last.
        how: String,
        /// The last line it logged.
        last_words: Option<String>,
        /// Its whole log.
        log: PathBuf,
    },
    /// The volume could not be made.
    #[error("cannot make the volume {VOLUME}: {source}")]
    Volume {
        /// Why.
        source: Box<CliError>,
    },
    /// The process could not be set up.
    #[error("cannot {what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl DevError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::InUse { .. } => Exit::Unsafe,
            Self::Volume { source } => source.exit(),
            Self::File { .. }
            | Self::Damaged { .. }
            | Self::Listen { .. }
            | Self::NoPort
            | Self::KeepsEnding { .. }
            | Self::Setup { .. } => Exit::Failed,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::InUse { .. } => {
                Some("stop it with Ctrl-C, or give this one a --dir of its own".to_owned())
            }
            Self::Listen { flag, source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(format!(
                    "another process listens there (`ss -ltnp` says which): end it, or name another address with {flag}"
                ))
            }
            Self::Listen { flag, .. } => Some(format!("name another address with {flag}")),
            Self::Damaged { path, .. } => Some(format!(
                "remove {}: it is written anew, and holds nothing of the volume",
                path.display()
            )),
            Self::KeepsEnding {
                log, last_words, ..
            } => Some(match last_words {
                Some(words) => format!("it said last: {words}\n  its whole log: {}", log.display()),
                None => format!("see its log: {}", log.display()),
            }),
            Self::NoPort => Some("end what takes the ports, `ss -ltnp` says what".to_owned()),
            Self::File { .. } => Some("give another directory with --dir".to_owned()),
            Self::Volume { source } => source.advice(),
            Self::Setup { .. } => None,
        }
    }
}

/// Runs the cluster until somebody asks for its end.
///
/// # Errors
///
/// If it cannot be set up, or the volume cannot be served.
pub fn run(config: DevConfig) -> Result<(), DevError> {
    let home = Home::open(&config.dir)?;
    let listener = listen(config.nbd, "NBD clients", "--nbd")?;
    let nbd = listener.local_addr().unwrap_or(config.nbd);
    let master = home::free(config.listen).map_err(|source| DevError::Listen {
        address: config.listen,
        purpose: "commands and servers",
        flag: "--listen",
        source,
    })?;
    let ports = home.ports(config.servers)?;
    let setup = |source| DevError::Setup {
        what: "set up signals and timers",
        source,
    };
    let runtime = small_runtime().map_err(setup)?;
    runtime.block_on(async {
        let mut stop = StopSignals::new().map_err(setup)?;
        let resized = signal(SignalKind::window_change()).map_err(setup)?;
        let target = MasterTarget {
            address: reachable(master),
            credentials: Credentials::Key(home.key().clone()),
        };
        let _local_key = leave_key(&home, &target.address);
        let mut show = Show::new(&home, reachable(nbd), &target.address);
        show.begin(&ports);
        let (events, mut children) = unbounded_channel();
        let addresses = Addresses {
            master,
            nbd,
            listener,
        };
        let fleet = Fleet::start(&home, &ports, addresses, &events)?;
        let (sender, news) = unbounded_channel();
        let observer = Observer::new(target, &config, ports.servers.len(), sender);
        thread::spawn(move || observer.run());
        let ended = watch(&mut show, &mut children, news, &mut stop, resized, &home).await;
        show.stopping();
        fleet
            .stop(&mut stop, &mut children, |event| show.child(event))
            .await;
        show.stopped();
        ended
    })
}

/// Everything that happens, until the end is asked for or cannot be helped.
async fn watch(
    show: &mut Show,
    children: &mut UnboundedReceiver<ChildEvent>,
    mut news: UnboundedReceiver<News>,
    stop: &mut StopSignals,
    mut resized: Signal,
    home: &Home,
) -> Result<(), DevError> {
    let began = Instant::now();
    let mut served = None;
    loop {
        tokio::select! {
            () = stop.recv() => return Ok(()),
            _ = resized.recv() => show.draw(),
            Some(event) = children.recv() => {
                show.child(&event);
                if served.is_none() {
                    check_early(&event, home)?;
                }
            }
            Some(item) = news.recv() => match item {
                News::Progress(line) => show.line(&line),
                News::Served(cluster) => {
                    show.served(cluster, *served.get_or_insert(began.elapsed()));
                }
                News::Sight(sight) => show.sight(sight),
                News::Failed(error) => return Err(error),
            },
        }
    }
}

/// A process that does not stay up although it never served: another start does not help.
fn check_early(event: &ChildEvent, home: &Home) -> Result<(), DevError> {
    let What::Ended { how, times, .. } = &event.what else {
        return Ok(());
    };
    if *times < EARLY_ENDS_MAX {
        return Ok(());
    }
    let log = home.log_path(&event.name);
    Err(DevError::KeepsEnding {
        name: event.name.to_string(),
        how: how.clone(),
        last_words: child::last_words(&log),
        log,
    })
}

fn listen(
    address: SocketAddr,
    purpose: &'static str,
    flag: &'static str,
) -> Result<TcpListener, DevError> {
    // The standard library sets SO_REUSEADDR: connections of the run before do not hold the port.
    TcpListener::bind(address).map_err(|source| DevError::Listen {
        address,
        purpose,
        flag,
        source,
    })
}

/// How this machine reaches a listener at `address`.
fn reachable(mut address: SocketAddr) -> HostPort {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
        .to_string()
        .parse()
        .expect("a socket address with a port that was bound is HOST:PORT")
}

/// Leaves the key for commands; without a home directory they are given it by --cluster-key.
fn leave_key(home: &Home, master: &HostPort) -> Option<LocalKey> {
    LocalKey::leave(&state_dir()?, master, home.key()).ok()
}

/// Waits between tries of what is expected soon.
const SOON: Duration = Duration::from_millis(50);

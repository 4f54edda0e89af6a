//! The master as a process: its file, its listener, its connections around the machine that decides.
//!
//! One task owns the machine and the store; each connection has a task that reads and one that
//! writes. Nothing here is in the way of a write to a volume.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moorline_master::{
    ConnId, Failover as MasterFailover, Master, MasterConfig as Rules, ServiceAction, ServiceEvent,
    StartError, StartFacts, StopReason,
    store::{
        RecordStore,
        embedded::{EmbeddedStore, EmbeddedStoreError},
    },
};
use moorline_types::{BootId, BufferPool};
use moorline_wire::{
    Message,
    hello::{Identity, Serves},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::Sleep,
};

use crate::{
    causes::Causes,
    clock,
    config::{ConfigError, Failover, MasterConfig, MasterStore},
    serve::abort_on_panic,
    transport::{
        self, BindError, Connected, Introduction, accept, random_bytes, receive, rest_after,
        send_message,
    },
};

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 1_024;

/// Most peers at a time that have not proven who they are.
const HELLOS_MAX: usize = 64;

/// Most messages that wait for a peer; one that takes nothing is hung up on and comes back.
const QUEUED_MAX: usize = 4_096;

/// Heartbeats in a lease: three may be lost before it runs out.
const HEARTBEATS_PER_LEASE: u32 = 4;

/// Why a master did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum MasterServiceError {
    /// Its settings do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its directory cannot be made.
    #[error("cannot use {path}")]
    Dir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its store cannot be used.
    #[error(transparent)]
    Store(#[from] EmbeddedStoreError),
    /// What the store holds does not belong together.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The process lacks something basic: descriptors, signals.
    #[error("the process cannot be set up")]
    Process(#[source] io::Error),
    /// It stopped by itself.
    #[error(transparent)]
    Stopped(#[from] StopReason),
}

/// Runs a master until it is told to stop by SIGINT or SIGTERM.
///
/// # Errors
///
/// See [`MasterServiceError`].
pub fn run(config: &MasterConfig) -> Result<(), MasterServiceError> {
    abort_on_panic();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(MasterServiceError::Process)?;
    runtime.block_on(serve(config))
}

/// What connections tell the machine's task.
#[derive(Debug)]
enum News {
    Connected(Box<Connected>),
    Event(ServiceEvent),
}

type Teller = mpsc::UnboundedSender<News>;

/// A connection's tasks.
#[derive(Debug)]
struct Conn {
    to_send: mpsc::Sender<Message>,
    reader: JoinHandle<()>,
}

/// The machine's task.
struct Service {
    master: Master,
    store: EmbeddedStore,
    conns: HashMap<ConnId, Conn>,
    next_conn: u64,
    teller: Teller,
    actions: Vec<ServiceAction>,
}

async fn serve(config: &MasterConfig) -> Result<(), MasterServiceError> {
    config.check()?;
    std::fs::create_dir_all(&config.dir).map_err(|source| MasterServiceError::Dir {
        path: config.dir.clone(),
        source,
    })?;
    let mut store = match config.store {
        MasterStore::Embedded => EmbeddedStore::open(&config.dir)?,
    };
    let loaded = store.load()?;
    let listener = transport::bind("listen", config.listen).await?;
    let facts = StartFacts {
        now: clock::now(),
        unix_ms: unix_ms(),
        seed: u128::from_ne_bytes(random_bytes()),
        home: Some(store.home()?),
        adopts: config.adopt_cluster,
    };
    let mut actions = Vec::new();
    let master = Master::start(rules(config), facts, loaded, &mut actions)?;
    let meta = master.authority().meta().clone();
    let restored = meta
        .restored
        .filter(|found| found.at_unix_ms == facts.unix_ms);
    if let Some(restored) = restored {
        tracing::warn!(
            why = %restored.why,
            "the master's store may be an old copy: no primary changes until the replicas said what they know; see `moorline status`"
        );
    }
    let boot = BootId::new(u128::from_ne_bytes(random_bytes()));
    let introduction = Arc::new(Introduction::new(
        Identity::Master { boot },
        config.cluster_key.as_ref(),
        config.exposure,
        Some(meta.cluster),
        BufferPool::new(),
    ));
    let (teller, mut inbox) = mpsc::unbounded_channel();
    let mut service = Service {
        master,
        store,
        conns: HashMap::new(),
        next_conn: 0,
        teller: teller.clone(),
        actions,
    };
    // The start is recorded before anybody hears of it.
    service.carry_out()?;
    let bound = listener.local_addr().map_err(MasterServiceError::Process)?;
    tracing::info!(listen = %bound, cluster = %meta.cluster, start = meta.start, "the master started");
    drop(tokio::spawn(listen(listener, introduction, teller)));
    service.run(&mut inbox).await
}

impl Service {
    async fn run(
        mut self,
        inbox: &mut mpsc::UnboundedReceiver<News>,
    ) -> Result<(), MasterServiceError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(MasterServiceError::Process)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(MasterServiceError::Process)?;
        let mut alarm: std::pin::Pin<Box<Sleep>> = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            let deadline = self.master.next_deadline();
            if let Some(deadline) = deadline {
                let wait = clock::until(deadline, clock::now());
                alarm.as_mut().reset(tokio::time::Instant::now() + wait);
            }
            let news = tokio::select! {
                news = inbox.recv() => news,
                () = &mut alarm, if deadline.is_some() => {
                    Some(News::Event(ServiceEvent::DeadlineReached))
                }
                _ = interrupt.recv() => None,
                _ = terminate.recv() => None,
            };
            let Some(news) = news else {
                tracing::info!("the master stops; servers go on serving under their leases");
                return Ok(());
            };
            self.on_news(news);
            self.carry_out()?;
        }
    }

    fn on_news(&mut self, news: News) {
        let event = match news {
            News::Connected(_) if self.conns.len() >= CONNECTIONS_MAX => {
                tracing::warn!("a peer was turned away: there are too many connections");
                return;
            }
            News::Connected(connected) => self.connected(*connected),
            News::Event(event) => event,
        };
        if let ServiceEvent::ConnClosed { conn } = &event {
            self.conns.remove(conn);
        }
        self.master.handle(clock::now(), event, &mut self.actions);
    }

    fn connected(&mut self, connected: Connected) -> ServiceEvent {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let Connected {
            stream,
            mut decoder,
            peer,
        } = connected;
        let (mut reading, mut writing) = stream.into_split();
        let (to_send, mut sending) = mpsc::channel::<Message>(QUEUED_MAX);
        let teller = self.teller.clone();
        let reader = tokio::spawn(async move {
            loop {
                let event = match receive(&mut reading, &mut decoder).await {
                    Ok(message) => ServiceEvent::ConnMessage { conn, message },
                    Err(error) => {
                        tracing::debug!(conn = conn.0, %error, "a connection ended");
                        ServiceEvent::ConnClosed { conn }
                    }
                };
                let is_last = matches!(event, ServiceEvent::ConnClosed { .. });
                if teller.send(News::Event(event)).is_err() || is_last {
                    return;
                }
            }
        });
        let teller = self.teller.clone();
        drop(tokio::spawn(async move {
            while let Some(message) = sending.recv().await {
                if let Err(error) = send_message(&mut writing, &message).await {
                    tracing::debug!(conn = conn.0, %error, "a connection ended");
                    break;
                }
            }
            drop(teller.send(News::Event(ServiceEvent::ConnClosed { conn })));
        }));
        self.conns.insert(conn, Conn { to_send, reader });
        ServiceEvent::ConnOpened {
            conn,
            peer: peer.who,
        }
    }

    /// Does what the machine asked for, in order, and what follows from it.
    fn carry_out(&mut self) -> Result<(), MasterServiceError> {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    ServiceAction::Send { conn, message } => self.send(conn, message),
                    ServiceAction::Close { conn } => self.close(conn),
                    ServiceAction::Commit(txn) => {
                        let result = self.store.commit(&txn);
                        if let Err(error) = &result {
                            tracing::warn!(%error, "a record was not made");
                        }
                        let event = ServiceEvent::CommitDone {
                            txn: txn.id,
                            result,
                        };
                        self.master.handle(clock::now(), event, &mut self.actions);
                    }
                    ServiceAction::Stop(reason) => return Err(reason.into()),
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, conn: ConnId, message: Message) {
        let Some(peer) = self.conns.get(&conn) else {
            return;
        };
        if peer.to_send.try_send(message).is_err() {
            tracing::warn!(conn = conn.0, "a peer takes nothing and is hung up on");
            self.close(conn);
        }
    }

    /// Nothing more is read; the writer ends after what it has, and says so.
    fn close(&mut self, conn: ConnId) {
        if let Some(peer) = self.conns.remove(&conn) {
            peer.reader.abort();
        }
    }
}

async fn listen(listener: TcpListener, introduction: Arc<Introduction>, teller: Teller) {
    let places = Arc::new(Semaphore::new(HELLOS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, from): (_, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                rest_after(&error).await;
                continue;
            }
        };
        let (introduction, teller) = (Arc::clone(&introduction), teller.clone());
        drop(tokio::spawn(async move {
            match accept(&introduction, stream, from, Serves::AsMaster).await {
                Ok(connected) => drop(teller.send(News::Connected(Box::new(connected)))),
                Err(error) => {
                    tracing::warn!(%from, error = %Causes(&error), "a peer was not let in")
                }
            }
            drop(place);
        }));
    }
}

/// The rules' settings, with everything that follows from the length of a lease.
fn rules(config: &MasterConfig) -> Rules {
    let lease = Duration::from_millis(u64::from(config.lease_ms));
    let default = Rules::default();
    let heartbeat = lease / HEARTBEATS_PER_LEASE;
    Rules {
        lease,
        lease_margin: lease / 20,
        heartbeat,
        silence: heartbeat * (HEARTBEATS_PER_LEASE - 1),
        reign_deadline: lease * 3,
        failover: match config.failover {
            Failover::Ask => MasterFailover::Safe,
            Failover::Lossy => MasterFailover::Lossy,
        },
        ..default
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn three_heartbeats_may_be_lost_in_a_lease() {
        let mut config = MasterConfig::new("/tmp".into(), (Ipv4Addr::LOCALHOST, 0).into());
        config.lease_ms = 1_000;
        let rules = rules(&config);
        assert_eq!(rules.heartbeat, Duration::from_millis(250));
        assert!(rules.silence < rules.lease);
    }
}

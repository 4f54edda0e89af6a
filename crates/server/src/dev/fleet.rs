//! The master and the servers as processes of this one.

use std::{
    env,
    ffi::OsString,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender},
        watch,
    },
    task::JoinHandle,
};

use super::{
    DevError,
    child::{ChildEvent, ChildSpec, Order, supervise},
    home::{Home, Ports, ServerPorts},
    reachable,
};
use crate::cli::watch::StopSignals;

/// How long a server may take to end: it flushes and closes its stores.
const SERVER_STOP_LIMIT: Duration = Duration::from_secs(8);

/// How long the master may take to end.
const MASTER_STOP_LIMIT: Duration = Duration::from_secs(4);

/// Signals so close to the first are the same wish: wrappers pass on what the group got as well.
const ONE_WISH: Duration = Duration::from_millis(500);

/// All processes.
#[derive(Debug)]
pub(super) struct Fleet {
    servers: Group,
    master: Group,
}

/// Processes that are given orders together.
#[derive(Debug)]
struct Group {
    orders: watch::Sender<Order>,
    tasks: Vec<JoinHandle<()>>,
}

impl Group {
    fn new() -> Self {
        Self {
            orders: watch::Sender::new(Order::Run),
            tasks: Vec::new(),
        }
    }

    fn add(&mut self, spec: ChildSpec, events: &UnboundedSender<ChildEvent>) {
        let task = supervise(spec, self.orders.subscribe(), events.clone());
        self.tasks.push(tokio::spawn(task));
    }
}

impl Fleet {
    /// Starts all of them.
    pub(super) fn start(
        home: &Home,
        ports: &Ports,
        addresses: Addresses,
        events: &UnboundedSender<ChildEvent>,
    ) -> Result<Self, DevError> {
        let program = env::current_exe().map_err(|source| DevError::Setup {
            what: "find this program's file",
            source,
        })?;
        let parts = Parts {
            home,
            program,
            addresses,
        };
        let mut fleet = Self {
            servers: Group::new(),
            master: Group::new(),
        };
        fleet.master.add(parts.master()?, events);
        for server in &ports.servers {
            fleet.servers.add(parts.server(server)?, events);
        }
        Ok(fleet)
    }

    /// Stops the servers, then the master: servers tell it that they go. A second signal ends the
    /// waiting. Returns when no process is left.
    pub(super) async fn stop(
        self,
        signals: &mut StopSignals,
        events: &mut UnboundedReceiver<ChildEvent>,
        mut told: impl FnMut(&ChildEvent),
    ) {
        let mut hardest = Order::Stop;
        let began = Instant::now();
        for Group { orders, tasks } in [self.servers, self.master] {
            harden(&orders, hardest);
            let all = async {
                for task in tasks {
                    // A task that panicked took its child along.
                    let _ended = task.await;
                }
            };
            let mut all = pin!(all);
            loop {
                tokio::select! {
                    () = &mut all => break,
                    () = signals.recv() => {
                        if began.elapsed() > ONE_WISH {
                            hardest = Order::Kill;
                            harden(&orders, hardest);
                        }
                    }
                    Some(event) = events.recv() => told(&event),
                }
            }
        }
        while let Ok(event) = events.try_recv() {
            told(&event);
        }
    }
}

/// Orders only get harder.
fn harden(orders: &watch::Sender<Order>, order: Order) {
    orders.send_modify(|present| *present = (*present).max(order));
}

/// Where the cluster is reached.
#[derive(Debug)]
pub(super) struct Addresses {
    /// The master's.
    pub(super) master: SocketAddr,
    /// The NBD listener's.
    pub(super) nbd: SocketAddr,
    /// The NBD listener.
    pub(super) listener: TcpListener,
}

/// What command lines are made of.
struct Parts<'a> {
    home: &'a Home,
    program: PathBuf,
    addresses: Addresses,
}

impl Parts<'_> {
    fn master(&self) -> Result<ChildSpec, DevError> {
        let args = vec![
            "master".into(),
            "--dir".into(),
            self.home.path("master").into(),
            "--listen".into(),
            self.addresses.master.to_string().into(),
        ];
        self.spec("master", args, MASTER_STOP_LIMIT, None)
    }

    fn server(&self, server: &ServerPorts) -> Result<ChildSpec, DevError> {
        let dir = self.home.path(&server.id);
        super::home::make_dir(&dir)?;
        let nbd = self.addresses.nbd;
        let mut args: Vec<OsString> = vec!["serve".into(), "--dir".into(), dir.into()];
        for (flag, value) in [
            ("--server-id", server.id.clone()),
            ("--master", reachable(self.addresses.master).to_string()),
            ("--data", server.data.to_string()),
            ("--control", server.control.to_string()),
            ("--nbd", nbd.to_string()),
            ("--nbd-advertise", reachable(nbd).to_string()),
            // Standard input: a descriptor that can be handed over without unsafe code.
            ("--nbd-fd", "0".to_owned()),
        ] {
            args.extend([flag.into(), value.into()]);
        }
        let listener = self.addresses.listener.try_clone();
        let listener = listener.map_err(|source| DevError::Setup {
            what: "hand the NBD listener to the servers",
            source,
        })?;
        self.spec(&server.id, args, SERVER_STOP_LIMIT, Some(listener))
    }

    fn spec(
        &self,
        name: &str,
        mut args: Vec<OsString>,
        stop_limit: Duration,
        stdin: Option<TcpListener>,
    ) -> Result<ChildSpec, DevError> {
        self.home.rotate_log(name)?;
        args.extend([
            "--cluster-key".into(),
            self.home.path("cluster.key").into(),
            "--exit-with-parent".into(),
            std::process::id().to_string().into(),
        ]);
        Ok(ChildSpec {
            name: name.into(),
            program: self.program.clone(),
            args,
            stdin,
            log: self.home.log_path(name),
            stop_limit,
        })
    }
}

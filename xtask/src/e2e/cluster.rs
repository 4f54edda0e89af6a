//! A master and its servers as processes started by hand, so that the scenario knows each pid.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::context::Context;
use super::lab::Node;
use super::spec::{Place, Spec};
use super::status::{Epoch, VolumeStatus};
use crate::error::{During, Failure, Result, ensure, fail};
use crate::interrupt::{Look, wait_for};
use crate::process::{Daemon, Finished, Tool};

/// The volume that every scenario uses.
pub(crate) const VOLUME: &str = "demo";
/// How long a lease lasts by default.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long a process may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a healthy cluster may take to serve a volume, or to bring a member back in sync.
pub(crate) const SETTLE: Duration = Duration::from_secs(60);

/// One volume server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its id: s1, s2, ...
    pub(crate) id: String,
    /// Where its store is.
    pub(crate) place: Place,
    /// Where it serves NBD.
    pub(crate) nbd: SocketAddr,
    data: SocketAddr,
    control: SocketAddr,
    process: Option<Daemon>,
}

/// A master and its servers. Dropping it kills them all.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    ctx: &'a Context,
    spec: Spec,
    master_name: &'static str,
    /// The master's address.
    pub(crate) master_addr: SocketAddr,
    master: Option<Daemon>,
    /// The servers, in order of their ids.
    pub(crate) servers: Vec<Server>,
}

impl<'a> Cluster<'a> {
    /// Starts the processes; no volume yet.
    pub(crate) fn start(ctx: &'a Context, spec: Spec) -> Result<Self> {
        Self::start_named(ctx, spec, "master")
    }

    /// The same, with another name for the master's directory and log.
    pub(crate) fn start_named(
        ctx: &'a Context,
        spec: Spec,
        master_name: &'static str,
    ) -> Result<Self> {
        let address = |node| match &spec.lab {
            Some(lab) => Ok(lab.address(node)),
            None => ctx.address(),
        };
        let master_addr = address(Node::Master)?;
        let mut servers = Vec::new();
        for (n, place) in spec.places.iter().enumerate() {
            servers.push(Server {
                id: format!("s{}", n + 1),
                place: place.clone(),
                nbd: address(Node::Server(n))?,
                data: address(Node::Server(n))?,
                control: address(Node::Server(n))?,
                process: None,
            });
        }
        let mut cluster = Self {
            ctx,
            spec,
            master_name,
            master_addr,
            master: None,
            servers,
        };
        cluster.start_master()?;
        for at in 0..cluster.servers.len() {
            cluster.start_server(at)?;
        }
        Ok(cluster)
    }

    /// Starts the processes, creates the volume with a replica on every server, and waits until it is whole.
    pub(crate) fn with_volume(ctx: &'a Context, spec: Spec) -> Result<Self> {
        ctx.step(format!(
            "starting a master and {} servers",
            spec.places.len()
        ));
        let cluster = Self::start(ctx, spec)?;
        cluster.create_volume()?;
        let status = cluster.wait_level()?;
        ctx.step(status.summary());
        Ok(cluster)
    }

    /// Starts the master.
    pub(crate) fn start_master(&mut self) -> Result<()> {
        self.start_master_with(&[])
    }

    /// Starts the master with more arguments.
    pub(crate) fn start_master_with(&mut self, more: &[&str]) -> Result<()> {
        let mut args: Vec<OsString> = vec!["master".into(), "--dir".into()];
        args.push(self.master_dir().into());
        args.extend(["--listen".into(), self.master_addr.to_string().into()]);
        args.extend(more.iter().map(OsString::from));
        let log = self.ctx.path(&format!("{}.log", self.master_name));
        self.master = Some(self.spawn("master", Node::Master, args, &log)?);
        Ok(())
    }

    /// Where the master keeps its records.
    pub(crate) fn master_dir(&self) -> PathBuf {
        self.ctx.path(self.master_name)
    }

    /// Ends the master with SIGKILL.
    pub(crate) fn kill_master(&mut self) {
        if let Some(mut process) = self.master.take() {
            process.kill();
        }
    }

    /// Starts the binary on a node. What stands before it on the command line execs: the pid stays the binary's.
    fn spawn(&self, name: &str, node: Node, args: Vec<OsString>, log: &Path) -> Result<Daemon> {
        let mut line: Vec<OsString> = Vec::new();
        if let Some(lab) = &self.spec.lab {
            line.extend(lab.on(node).map(OsString::from));
        }
        line.push("/usr/bin/env".into());
        line.extend(
            self.spec
                .env
                .iter()
                .map(|(name, value)| OsString::from(format!("{name}={value}"))),
        );
        line.push(
            self.spec
                .binary
                .as_deref()
                .unwrap_or(self.ctx.binary())
                .into(),
        );
        line.extend(args);
        if let Some(key) = &self.spec.key {
            line.extend(["--cluster-key".into(), key.into()]);
        }
        let program = line.remove(0);
        Daemon::start(name, Path::new(&program), line, log)
    }

    /// Starts a server that is not running.
    pub(crate) fn start_server(&mut self, at: usize) -> Result<()> {
        let master = self.master_addr.to_string();
        let server = &self.servers[at];
        let mut args: Vec<OsString> = vec![
            "serve".into(),
            "--server-id".into(),
            server.id.clone().into(),
        ];
        match &server.place {
            Place::Dir(dir) => {
                std::fs::create_dir_all(dir).during(format!("creating {}", dir.display()))?;
                args.extend(["--dir".into(), dir.into()]);
            }
            Place::Device(device) => args.extend(["--device".into(), device.into()]),
        }
        for (flag, value) in [
            ("--master", master),
            ("--data", server.data.to_string()),
            ("--control", server.control.to_string()),
            ("--nbd", server.nbd.to_string()),
        ] {
            args.extend([flag.into(), value.into()]);
        }
        let log = self.ctx.path(&format!("{}.log", server.id));
        let process = self.spawn(&server.id, Node::Server(at), args, &log)?;
        self.servers[at].process = Some(process);
        Ok(())
    }

    /// Ends a server with SIGKILL; says when.
    pub(crate) fn kill_server(&mut self, at: usize) -> Instant {
        let when = Instant::now();
        if let Some(mut process) = self.servers[at].process.take() {
            process.kill();
        }
        when
    }

    /// Sends a signal to a running server.
    pub(crate) fn signal_server(&mut self, at: usize, signal: Signal) -> Result<()> {
        let server = &mut self.servers[at];
        match &mut server.process {
            Some(process) => process.signal(signal),
            None => fail!("{} is not running", server.id),
        }
    }

    /// The process id of a running server.
    pub(crate) fn server_pid(&self, at: usize) -> Result<Pid> {
        let server = &self.servers[at];
        let pid = server.process.as_ref().map(Daemon::pid);
        match pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            Some(pid) => Ok(pid),
            None => fail!("{} is not running", server.id),
        }
    }

    /// Where a running server logs.
    pub(crate) fn server_log(&self, at: usize) -> Result<PathBuf> {
        match &self.servers[at].process {
            Some(process) => Ok(process.log().to_owned()),
            None => fail!("{} is not running", self.servers[at].id),
        }
    }

    /// How a server's process ended by itself, if it did.
    pub(crate) fn server_ended(&mut self, at: usize) -> Result<Option<ExitStatus>> {
        let server = &mut self.servers[at];
        let ended = match &mut server.process {
            Some(process) => process.ended()?,
            None => None,
        };
        if ended.is_some() {
            server.process = None;
        }
        Ok(ended)
    }

    /// Waits until a server logged a line that contains `text` since it was started last.
    pub(crate) fn wait_log(&self, at: usize, text: &str, limit: Duration) -> Result<()> {
        let Some(process) = &self.servers[at].process else {
            fail!("{} is not running", self.servers[at].id);
        };
        process.wait_log(text, limit)
    }

    /// Ends the servers and then the master, each by SIGTERM, and demands that they end well.
    pub(crate) fn stop(&mut self) -> Result<()> {
        // All at once, as a power switch would: a server must not wait for a peer that is going too.
        for server in &mut self.servers {
            if let Some(process) = &mut server.process {
                process.signal(Signal::TERM)?;
            }
        }
        let master = self.master.take();
        for process in self
            .servers
            .iter_mut()
            .filter_map(|server| server.process.take())
            .chain(master)
        {
            let mut process = process;
            if process.name() == "master" {
                process.signal(Signal::TERM)?;
            }
            let status = process.wait(STOP_LIMIT)?;
            ensure!(
                status.success(),
                "{} ended with {status} when asked to stop",
                process.name()
            );
        }
        Ok(())
    }

    /// Kills everything that runs.
    pub(crate) fn kill_all(&mut self) {
        for at in 0..self.servers.len() {
            self.kill_server(at);
        }
    }

    /// Fails when a process that should be running has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        let processes = self
            .servers
            .iter_mut()
            .filter_map(|server| server.process.as_mut());
        for process in processes.chain(self.master.as_mut()) {
            if let Some(status) = process.ended()? {
                fail!(
                    "{} has ended by itself with {status}; see {}",
                    process.name(),
                    process.log().display()
                );
            }
        }
        Ok(())
    }

    /// A client command of the binary, aimed at this cluster's master.
    pub(crate) fn command<'t>(&self, args: impl IntoIterator<Item = &'t str>) -> Tool {
        let tool = Tool::new(self.ctx.binary())
            .args(args)
            .args(["--master", &self.master_addr.to_string()]);
        match &self.spec.key {
            Some(key) => tool.arg("--cluster-key").arg(key),
            None => tool,
        }
    }

    /// Creates the volume; asks again while the servers have not all told the master of themselves.
    pub(crate) fn create_volume(&self) -> Result<()> {
        let replicas = self.servers.len().to_string();
        let args = [
            "volume",
            "create",
            VOLUME,
            "--size",
            self.spec.size,
            "--replicas",
            &replicas,
            "--policy",
            self.spec.policy,
        ];
        wait_for("creating the volume", SETTLE, || {
            let finished = self.command(args).run()?;
            Ok(match finished.code() {
                Some(0) => Look::There(()),
                _ => Look::NotYet(finished.output().trim().to_owned()),
            })
        })
    }

    /// The volume's status, once.
    pub(crate) fn status(&self) -> Result<VolumeStatus> {
        let finished = self.raw_status()?;
        match finished.code() {
            // 4: degraded, which is a status like any other here.
            Some(0 | 4) => VolumeStatus::parse(&finished.stdout),
            _ => Err(finished.into_failure()),
        }
    }

    /// `volume status --json`, however it ended.
    pub(crate) fn raw_status(&self) -> Result<Finished> {
        self.command(["volume", "status", VOLUME, "--json"]).run()
    }

    /// Waits until the status satisfies `accept`.
    pub(crate) fn wait_status(
        &self,
        what: &str,
        limit: Duration,
        mut accept: impl FnMut(&VolumeStatus) -> bool,
    ) -> Result<VolumeStatus> {
        wait_for(what, limit, || match self.status() {
            Ok(status) if accept(&status) => Ok(Look::There(status)),
            Ok(status) => Ok(Look::NotYet(status.summary())),
            // In the middle of a failover the command may fail; only the limit decides.
            Err(Failure::Interrupted) => Err(Failure::Interrupted),
            Err(error) => Ok(Look::NotYet(error.to_string())),
        })
    }

    /// Waits until every replica is in sync under a primary.
    pub(crate) fn wait_whole(&self) -> Result<VolumeStatus> {
        let count = self.servers.len();
        self.wait_status("the volume being whole", SETTLE, |status| {
            status.is_whole(count)
        })
    }

    /// Waits until every replica is in sync and has every record; under load that may never be.
    pub(crate) fn wait_level(&self) -> Result<VolumeStatus> {
        let count = self.servers.len();
        self.wait_status("the replicas being level", SETTLE, |status| {
            status.is_level(count)
        })
    }

    /// Waits for a primary in an epoch above `old`.
    pub(crate) fn wait_new_epoch(&self, old: Epoch, limit: Duration) -> Result<VolumeStatus> {
        self.wait_status(
            &format!("a primary in an epoch above {old}"),
            limit,
            |status| status.epoch > old && status.serves(),
        )
    }

    /// Which server is primary.
    pub(crate) fn primary(&self) -> Result<usize> {
        let status = self.status()?;
        match status.primary.as_deref().and_then(|id| self.position(id)) {
            Some(at) => Ok(at),
            None => fail!("no primary: {}", status.summary()),
        }
    }

    /// A server that is not primary.
    pub(crate) fn a_replica(&self) -> Result<usize> {
        Ok((self.primary()? + 1) % self.servers.len())
    }

    /// The server with this id.
    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }

    /// The volume's URI at one server.
    pub(crate) fn uri_at(&self, at: usize) -> String {
        format!("nbd://{}/{VOLUME}", self.servers[at].nbd)
    }

    /// The volume's URI at its primary.
    pub(crate) fn uri(&self) -> Result<String> {
        Ok(self.uri_at(self.primary()?))
    }

    /// The path that `store inspect` takes for a server's store.
    pub(crate) fn store_path(&self, at: usize) -> Result<PathBuf> {
        match &self.servers[at].place {
            Place::Device(device) => Ok(device.clone()),
            Place::Dir(dir) => find_store(dir),
        }
    }

    /// Stops everything and demands that the stores at rest have one digest; returns it.
    pub(crate) fn equal_digests(&mut self) -> Result<String> {
        self.stop()?;
        let mut digests = Vec::new();
        for at in 0..self.servers.len() {
            let path = self.store_path(at)?;
            let finished = Tool::new(self.ctx.binary())
                .args(["store", "inspect"])
                .arg(&path)
                .args(["--digest", "--json"])
                .within(Duration::from_secs(120))
                .succeed()?;
            digests.push((self.servers[at].id.clone(), digest_of(&finished.stdout)?));
        }
        let Some((_, first)) = digests.first().cloned() else {
            fail!("a cluster without servers has no digest");
        };
        ensure!(
            digests.iter().all(|(_, digest)| *digest == first),
            "the stores differ at rest: {digests:?}"
        );
        self.ctx.step(format!(
            "{} stores at rest, one digest: {first}",
            digests.len()
        ));
        Ok(first)
    }
}

/// The one store file under a server's directory: below its `stores`.
pub(crate) fn find_store(dir: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).during(format!("reading {}", dir.display()))? {
            let entry = entry.during(format!("reading {}", dir.display()))?;
            let kind = entry.file_type().during("looking at a file")?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if dir.ends_with("stores") {
                found.push(entry.path());
            }
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => fail!(
            "expected one store under {}, found {found:?}",
            dir.display()
        ),
    }
}

fn digest_of(text: &str) -> Result<String> {
    let document: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        Failure::Expected(format!(
            "`store inspect --json` printed no JSON ({error}): {text}"
        ))
    })?;
    match document["digest"].as_str() {
        Some(digest) => Ok(digest.to_owned()),
        None => fail!("`store inspect --digest --json` names no digest: {document}"),
    }
}

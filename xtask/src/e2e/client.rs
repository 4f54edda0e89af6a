//! The verifying client (`xtask/scripts/verify_client.py`) as a process that is talked to over pipes.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::{Cluster, VOLUME};
use super::context::Context;
use crate::error::{During, Failure, Result, ensure, fail};
use crate::interrupt::{Look, wait_for};
use crate::process::{Daemon, Tool};
use crate::workspace;

/// Debian's Python, which has the `nbd` module; another one may come first on the path.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// How long draining and checking every block twice may take; the client itself gives up earlier.
const VERDICT_LIMIT: Duration = Duration::from_secs(240);

/// One line that the client printed.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// When it was read.
    pub(crate) at: Instant,
    /// Its `event` field.
    pub(crate) name: String,
    /// The whole line.
    pub(crate) body: Value,
}

/// What a window of the workload, or the whole of it, looked like.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// Acknowledged writes.
    pub(crate) ok: u64,
    /// Writes whose fate was unknown.
    pub(crate) unknown: u64,
    /// How long the slowest request took, or the oldest unanswered one has waited.
    pub(crate) max_latency: Duration,
    /// Error replies and disconnects by name; empty when there were none.
    pub(crate) errors: Value,
}

/// A running client.
#[derive(Debug)]
pub(crate) struct Client {
    process: Daemon,
    stdin: ChildStdin,
    events: Receiver<Event>,
    seen: Vec<Event>,
}

/// Where the script lies.
pub(crate) fn script() -> std::path::PathBuf {
    workspace::root().join("xtask/scripts/verify_client.py")
}

impl Client {
    /// Starts the workload against all servers of a cluster.
    pub(crate) fn workload(ctx: &Context, cluster: &Cluster<'_>, extra: &[&str]) -> Result<Self> {
        let addresses: Vec<SocketAddr> = cluster.servers.iter().map(|server| server.nbd).collect();
        let mut client = Self::start(ctx, "run", "client", &addresses, extra)?;
        client.wait("connected", Duration::from_secs(20))?;
        Ok(client)
    }

    /// Starts a subcommand of the client.
    pub(crate) fn start(
        ctx: &Context,
        command: &str,
        name: &str,
        addresses: &[SocketAddr],
        extra: &[&str],
    ) -> Result<Self> {
        let mut args = vec![
            // No byte code beside the sources.
            "-B".to_owned(),
            script().display().to_string(),
            command.to_owned(),
            "--export".to_owned(),
            VOLUME.to_owned(),
        ];
        for address in addresses {
            args.extend(["--addr".to_owned(), address.to_string()]);
        }
        args.extend(["--seed".to_owned(), ctx.seed().to_string()]);
        args.extend(extra.iter().map(|&arg| arg.to_owned()));
        let log = ctx.path(&format!("{name}.log"));
        let (process, pipes) = Daemon::start_piped(name, Path::new(PYTHON), args, &log)?;
        let (sender, events) = channel();
        // Ends with the pipe, that is, with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(pipes.stdout)
                .lines()
                .map_while(std::result::Result::ok)
            {
                let body: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let name = body["event"].as_str().unwrap_or("garbage").to_owned();
                if sender
                    .send(Event {
                        at: Instant::now(),
                        name,
                        body,
                    })
                    .is_err()
                {
                    break;
                }
            }
        });
        Ok(Self {
            process,
            stdin: pipes.stdin,
            events,
            seen: Vec::new(),
        })
    }

    /// Sends it a command line.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.stdin, "{line}").during(format!("telling {} to {line}", self.process.name()))
    }

    /// Waits for the next event of this name; a violation on the way is a failure.
    pub(crate) fn wait(&mut self, name: &str, limit: Duration) -> Result<Event> {
        let what = format!("{:?} from {}", name, self.process.name());
        let (events, seen) = (&self.events, &mut self.seen);
        wait_for(&what, limit, || {
            loop {
                match events.try_recv() {
                    Ok(event) => {
                        seen.push(event.clone());
                        if event.name == name {
                            return Ok(Look::There(event));
                        }
                        ensure!(
                            event.name != "violation",
                            "the client found a violation: {}",
                            event.body
                        );
                    }
                    Err(TryRecvError::Empty) => {
                        return Ok(Look::NotYet(last_of(seen)));
                    }
                    Err(TryRecvError::Disconnected) => {
                        fail!("the client has ended: {}", last_of(seen))
                    }
                }
            }
        })
    }

    /// Waits for the first event of this name that was read after `after`.
    pub(crate) fn wait_after(
        &mut self,
        name: &str,
        after: Instant,
        limit: Duration,
    ) -> Result<Event> {
        if let Some(event) = self
            .seen
            .iter()
            .find(|event| event.name == name && event.at > after)
        {
            return Ok(event.clone());
        }
        loop {
            let event = self.wait(name, limit)?;
            if event.at > after {
                return Ok(event);
            }
        }
    }

    /// Ends a window of statistics and returns it.
    pub(crate) fn mark(&mut self, name: &str) -> Result<Window> {
        self.tell(&format!("mark {name}"))?;
        let event = self.wait("window", Duration::from_secs(10))?;
        window_of(&event.body)
    }

    /// Ends the workload, has every block checked twice, and demands that nothing was lost.
    pub(crate) fn finish(mut self, ctx: &Context) -> Result<Window> {
        let body = self.last_words()?;
        let status = self.process.wait(Duration::from_secs(20))?;
        ensure!(
            body["complete"] == true,
            "the client could not check everything: {}",
            last_of(&self.seen)
        );
        ensure!(
            body["violation_count"] == 0 && status.success(),
            "the client found violations: {body}"
        );
        let window = window_of(&body)?;
        ctx.step(format!(
            "every acknowledged write is there: {} acknowledged, {} unknown (of which a read found {} done, {} not)",
            window.ok, window.unknown, body["settled_present"], body["settled_absent"]
        ));
        Ok(window)
    }

    /// Ends the workload and returns the verdict as it is, for scenarios in which violations are expected.
    pub(crate) fn verdict(mut self) -> Result<Value> {
        self.last_words()
    }

    fn last_words(&mut self) -> Result<Value> {
        self.tell("stop")?;
        let (events, seen) = (&self.events, &mut self.seen);
        wait_for("the client's verdict", VERDICT_LIMIT, || {
            loop {
                match events.try_recv() {
                    Ok(event) => {
                        seen.push(event.clone());
                        if event.name == "done" {
                            return Ok(Look::There(event.body));
                        }
                    }
                    Err(TryRecvError::Empty) => return Ok(Look::NotYet(last_of(seen))),
                    Err(TryRecvError::Disconnected) => {
                        fail!("the client ended without a verdict: {}", last_of(seen))
                    }
                }
            }
        })
    }
}

/// Runs the client's own test of its rules.
pub(crate) fn selftest() -> Result<()> {
    Tool::new(PYTHON)
        .arg("-B")
        .arg(script())
        .arg("selftest")
        .succeed()
        .map(|_finished| ())
}

fn last_of(seen: &[Event]) -> String {
    seen.last()
        .map_or_else(|| "nothing".to_owned(), |event| event.body.to_string())
}

fn window_of(body: &Value) -> Result<Window> {
    let number = |key: &str| {
        body[key]
            .as_f64()
            .ok_or_else(|| Failure::Expected(format!("the client's {key:?} is missing: {body}")))
    };
    let count = |key: &str| {
        body[key]
            .as_u64()
            .ok_or_else(|| Failure::Expected(format!("the client's {key:?} is missing: {body}")))
    };
    Ok(Window {
        ok: count("ok")?,
        unknown: count("unknown")?,
        max_latency: Duration::from_secs_f64(number("max_latency")?),
        errors: body["errors"].clone(),
    })
}

impl Window {
    /// Whether no request got an error or a disconnect.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
    }
}

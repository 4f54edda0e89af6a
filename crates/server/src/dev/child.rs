//! One process: started, watched, started again when it ends, stopped when asked to.
//!
//! ```text
//!  start -> runs -> ended -> waits a moment, longer each time -> start
//!             |
//!             '- asked to stop: SIGTERM -> (too long: SIGKILL) -> stopped
//! ```

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::TcpListener,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::{mpsc::UnboundedSender, watch},
};

/// Before the first restart; doubled for each further one.
const RESTART_AFTER: Duration = Duration::from_millis(250);

/// The longest wait before a restart.
const RESTART_AFTER_MAX: Duration = Duration::from_secs(10);

/// A process that ran for so long was well: its next end is a first one again.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// How to start a process.
#[derive(Debug)]
pub(super) struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// A socket that it gets as its standard input.
    pub(super) stdin: Option<TcpListener>,
    /// Where its output goes.
    pub(super) log: PathBuf,
    /// How long it may take to end when asked to.
    pub(super) stop_limit: Duration,
}

/// What a child is to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Order {
    /// Run.
    Run,
    /// End, in order.
    Stop,
    /// End, at once.
    Kill,
}

/// Something that happened to a child.
#[derive(Debug)]
pub(super) struct ChildEvent {
    pub(super) name: Arc<str>,
    pub(super) what: What,
}

/// What happened.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum What {
    /// It runs.
    Started { pid: u32, start: Start },
    /// It ended by itself, or could not even be started.
    Ended {
        how: String,
        /// Ends in a row, this one included.
        times: u32,
        restart_in: Duration,
    },
    /// It ended as asked.
    Stopped,
    /// It had not ended after this time, its limit or a second order, and was killed.
    Killed { after: Duration },
}

/// Whether a start is the first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    First,
    Again,
}

/// Runs a process until `orders` says otherwise. Ends when the process has.
pub(super) async fn supervise(
    spec: ChildSpec,
    mut orders: watch::Receiver<Order>,
    events: UnboundedSender<ChildEvent>,
) {
    let tell = |what| {
        let name = spec.name.clone();
        // Nobody listens at the very end, and nothing depends on it.
        let _told = events.send(ChildEvent { name, what });
    };
    let mut times = 0;
    let mut start = Start::First;
    while *orders.borrow_and_update() == Order::Run {
        let began = Instant::now();
        let how = match spawn(&spec) {
            Ok(mut child) => {
                let pid = child.id().unwrap_or_default();
                tell(What::Started { pid, start });
                tokio::select! {
                    status = child.wait() => describe(status),
                    () = changed(&mut orders) => {
                        tell(end(&mut child, &spec, &mut orders).await);
                        return;
                    }
                }
            }
            Err(error) => format!("cannot be started: {error}"),
        };
        start = Start::Again;
        times = if began.elapsed() < WELL_AFTER {
            times + 1
        } else {
            1
        };
        let restart_in = pause(times);
        tell(What::Ended {
            how,
            times,
            restart_in,
        });
        tokio::select! {
            () = tokio::time::sleep(restart_in) => {}
            () = changed(&mut orders) => {}
        }
    }
    tell(What::Stopped);
}

/// Waits for another order. Whoever gives them being gone is an order to stop.
async fn changed(orders: &mut watch::Receiver<Order>) {
    let _closed = orders.changed().await;
}

fn pause(times: u32) -> Duration {
    let doubled = RESTART_AFTER.saturating_mul(1 << times.saturating_sub(1).min(10));
    doubled.min(RESTART_AFTER_MAX)
}

fn spawn(spec: &ChildSpec) -> io::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)?;
    let stdin = match &spec.stdin {
        Some(listener) => Stdio::from(OwnedFd::from(listener.try_clone()?)),
        None => Stdio::null(),
    };
    Command::new(&spec.program)
        .args(&spec.args)
        .stdin(stdin)
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C on the terminal is for us; we ask the children.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Asks a child to end, and sees to it that it does.
async fn end(child: &mut Child, spec: &ChildSpec, orders: &mut watch::Receiver<Order>) -> What {
    let began = Instant::now();
    if *orders.borrow_and_update() == Order::Stop {
        ask_to_end(child);
        let hurried = async {
            // Orders only get harder; with nobody to give them the limit alone counts.
            if orders
                .wait_for(|order| *order == Order::Kill)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = child.wait() => return What::Stopped,
            () = tokio::time::sleep(spec.stop_limit) => {}
            () = hurried => {}
        }
    }
    let _killed = child.kill().await;
    What::Killed {
        after: began.elapsed(),
    }
}

fn ask_to_end(child: &Child) {
    // None once it was waited for: the number may be another process's by then.
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Some(pid) = pid {
        let _sent = kill_process(pid, Signal::TERM);
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => format!("ended with {status}"),
        },
        Err(error) => format!("is lost: {error}"),
    }
}

/// The last line of a log that says something.
pub(super) fn last_words(log: &Path) -> Option<String> {
    const TAIL_BYTES: u64 = 4 << 10;
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
        .ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests;

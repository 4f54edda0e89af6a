//! What one scenario works with: its own directory, free ports, step lines, and its options.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use crate::error::{During, Result, fail};
use crate::process::tail_of;
use crate::workspace;

/// Where listening ports are looked for.
const PORTS: Range<u16> = 20_000..32_000;

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Sized for the gate.
    Gate,
    /// The full numbers.
    Full,
}

/// Options of a run, the same for all its scenarios.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The binary under test.
    pub(crate) binary: PathBuf,
    /// How thorough.
    pub(crate) depth: Depth,
    /// Rounds of kills, cuts and pauses, when the caller chose a number.
    pub(crate) rounds: Option<u32>,
    /// The seed of workloads.
    pub(crate) seed: u64,
}

/// One scenario's surroundings.
#[derive(Debug)]
pub(crate) struct Context {
    options: Options,
    dir: TempDir,
    began: Instant,
    steps: Cell<u32>,
    next_port: Cell<u16>,
}

impl Context {
    /// A fresh directory under the target directory: a disk that knows O_DIRECT, which /tmp need not be.
    pub(crate) fn new(name: &str, options: &Options) -> Result<Self> {
        let parent = workspace::target_dir().join("e2e");
        std::fs::create_dir_all(&parent).during(format!("creating {}", parent.display()))?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&parent)
            .during(format!("creating a directory in {}", parent.display()))?;
        Ok(Self {
            options: options.clone(),
            dir,
            began: Instant::now(),
            steps: Cell::new(0),
            next_port: Cell::new(first_port()),
        })
    }

    /// A path in the scenario's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary under test.
    pub(crate) fn binary(&self) -> &Path {
        &self.options.binary
    }

    /// The seed of workloads.
    pub(crate) fn seed(&self) -> u64 {
        self.options.seed
    }

    /// How many rounds: what the caller chose, else the number for the depth of this run.
    pub(crate) fn rounds(&self, gate: u32, full: u32) -> u32 {
        self.options.rounds.unwrap_or(match self.options.depth {
            Depth::Gate => gate,
            Depth::Full => full,
        })
    }

    /// Prints one line about what happens now.
    pub(crate) fn step(&self, text: impl AsRef<str>) {
        self.steps.set(self.steps.get() + 1);
        println!(
            "   {:8.3} {}",
            self.began.elapsed().as_secs_f64(),
            text.as_ref()
        );
    }

    /// A loopback address that nothing listens on, and that this scenario has not been given before. It lies below
    /// the ephemeral range: a server that restarts must not find its port taken by somebody's outgoing connection.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        for _ in 0..PORTS.len() {
            let port = self.next_port.get();
            self.next_port.set(if port + 1 < PORTS.end {
                port + 1
            } else {
                PORTS.start
            });
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        fail!("no free port in {PORTS:?}")
    }

    /// Prints the end of every log, and keeps the directory for a closer look.
    pub(crate) fn keep(self) -> PathBuf {
        let kept = self.dir.keep();
        let mut logs: Vec<PathBuf> = std::fs::read_dir(&kept)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        for log in logs {
            let text = std::fs::read(&log).unwrap_or_default();
            println!(
                "   {}:{}",
                log.display(),
                tail_of(&String::from_utf8_lossy(&text))
            );
        }
        kept
    }
}

/// Runs at the same time start at different places.
fn first_port() -> u16 {
    let spread = std::process::id().wrapping_mul(97) % u32::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(spread).expect("less than the number of ports")
}

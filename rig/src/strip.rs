//! Power-cut disks for a test: started by `create`, gone with the value.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::{Client, unusable};
use crate::command::{Command, Reply, Target};
use crate::disk::{CutReport, DiskStatus};
use crate::error::RigError;
use crate::fault::{Budget, IoFault, SyncFault};
use crate::loopdev;
use crate::tear::CutMode;

/// The environment variable that names the daemon's binary.
pub const DAEMON_ENV: &str = "MOORLINE_RIG";

/// How long a daemon has for clearing up before it is killed and cleared up after.
const END_WITHIN: Duration = Duration::from_secs(20);

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Spec {
    size_bytes: u64,
    seed: u64,
    daemon: Option<PathBuf>,
}

impl Spec {
    /// Disks of `size_bytes` bytes each, a multiple of 4096; seed 0.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            seed: 0,
            daemon: None,
        }
    }

    /// Decides what cuts leave behind.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The daemon's binary. Without it: what `MOORLINE_RIG` names, else `moorline-rig` beside the running program.
    #[must_use]
    pub fn daemon(mut self, binary: impl Into<PathBuf>) -> Self {
        self.daemon = Some(binary.into());
        self
    }
}

/// Several disks on one power supply: they can be cut one by one, or all at one instant.
#[derive(Debug)]
pub struct PowerStrip {
    disks: Vec<PowerDisk>,
    daemon: Arc<Daemon>,
}

impl PowerStrip {
    /// Makes `count` disks of zeros with their devices under `dir`, which belongs to the strip: what an earlier
    /// strip left there is cleared first.
    ///
    /// # Errors
    /// When not root, without `/dev/fuse`, the tools `losetup`, `blockdev` and `umount`, or the daemon's binary.
    pub fn create(dir: &Path, count: usize, spec: &Spec) -> Result<Self, RigError> {
        check_prerequisites()?;
        let daemon = Arc::new(Daemon::start(dir, count, spec)?);
        let disks = (0..count)
            .map(|number| PowerDisk::new(Arc::clone(&daemon), number))
            .collect();
        Ok(Self { disks, daemon })
    }

    /// The disks, in order.
    #[must_use]
    pub fn disks(&self) -> &[PowerDisk] {
        &self.disks
    }

    /// Cuts the power of every disk at one instant: one report for each that had power.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn cut(&self, mode: CutMode) -> Result<Vec<CutReport>, RigError> {
        self.daemon.cut(Target::All, mode)
    }

    /// Gives every disk power; their devices are there again when this returns.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn power_on(&self) -> Result<(), RigError> {
        self.daemon.tell(&Command::PowerOn(Target::All))
    }

    /// The state of every disk.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn status(&self) -> Result<Vec<DiskStatus>, RigError> {
        self.daemon.status()
    }
}

/// One power-cut disk. It lasts as long as it, or the strip that it is on, is held.
#[derive(Debug)]
pub struct PowerDisk {
    daemon: Arc<Daemon>,
    number: usize,
    device: PathBuf,
    file: PathBuf,
    image: PathBuf,
}

impl PowerDisk {
    /// Makes a disk of its own, as [`PowerStrip::create`] does.
    ///
    /// # Errors
    /// As [`PowerStrip::create`].
    pub fn create(dir: &Path, spec: &Spec) -> Result<Self, RigError> {
        check_prerequisites()?;
        Ok(Self::new(Arc::new(Daemon::start(dir, 1, spec)?), 0))
    }

    fn new(daemon: Arc<Daemon>, number: usize) -> Self {
        let name = format!("disk{number}");
        let places = &daemon.places;
        let (device, file) = (places.links.join(&name), places.mount.join(&name));
        let image = places.image(number);
        Self {
            daemon,
            number,
            device,
            file,
            image,
        }
    }

    /// The block device: a link that stays true across cuts, though the loop device behind it may change.
    #[must_use]
    pub fn device_path(&self) -> &Path {
        &self.device
    }

    /// The FUSE file, for tests without a block device. Do not write to both.
    #[must_use]
    pub fn file_path(&self) -> &Path {
        &self.file
    }

    /// The durable bytes. Look at it only while the disk has no power.
    #[must_use]
    pub fn image_path(&self) -> &Path {
        &self.image
    }

    /// Cuts the power: decides what became of unsynced writes; from now on every request of the old openers
    /// gets EIO, for ever. A disk without power reports nothing.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn cut(&self, mode: CutMode) -> Result<Option<CutReport>, RigError> {
        Ok(self.daemon.cut(self.target(), mode)?.pop())
    }

    /// Gives power; the device is there again when this returns, and has to be opened anew.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn power_on(&self) -> Result<(), RigError> {
        self.daemon.tell(&Command::PowerOn(self.target()))
    }

    /// Arms a fault of syncs; it survives cuts.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn set_sync_fault(&self, fault: SyncFault, budget: Budget) -> Result<(), RigError> {
        self.daemon
            .tell(&Command::SyncFault(self.target(), fault, budget))
    }

    /// Arms a fault of reads; it survives cuts.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn set_read_fault(&self, fault: IoFault, budget: Budget) -> Result<(), RigError> {
        self.daemon
            .tell(&Command::ReadFault(self.target(), fault, budget))
    }

    /// Arms a fault of writes; it survives cuts.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn set_write_fault(&self, fault: IoFault, budget: Budget) -> Result<(), RigError> {
        self.daemon
            .tell(&Command::WriteFault(self.target(), fault, budget))
    }

    /// Leaves every request waiting, until [`resume`](Self::resume) carries it out or a cut fails it.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn hang(&self) -> Result<(), RigError> {
        self.daemon.tell(&Command::Hang(self.target()))
    }

    /// Carries out what waited.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn resume(&self) -> Result<(), RigError> {
        self.daemon.tell(&Command::Resume(self.target()))
    }

    /// The disk's state.
    ///
    /// # Errors
    /// When the daemon fails.
    pub fn status(&self) -> Result<DiskStatus, RigError> {
        let mut disks = self.daemon.status()?;
        if self.number < disks.len() {
            Ok(disks.swap_remove(self.number))
        } else {
            Err(unusable(&Command::Status, "fewer disks than were made"))
        }
    }

    fn target(&self) -> Target {
        Target::Disk(format!("disk{}", self.number))
    }
}

/// Where things lie in a strip's directory.
#[derive(Debug)]
struct Places {
    dir: PathBuf,
    mount: PathBuf,
    links: PathBuf,
    control: PathBuf,
    log: PathBuf,
}

impl Places {
    fn new(dir: &Path) -> Result<Self, RigError> {
        fs::create_dir_all(dir).map_err(RigError::io("make the directory", dir))?;
        let dir = fs::canonicalize(dir).map_err(RigError::io("find the directory", dir))?;
        Ok(Self {
            mount: dir.join("mnt"),
            links: dir.join("dev"),
            control: dir.join("control"),
            log: dir.join("daemon.log"),
            dir,
        })
    }

    fn image(&self, number: usize) -> PathBuf {
        self.dir.join(format!("image{number}"))
    }
}

/// A running daemon. It is a process of its own: were it a part of the process that uses the devices, the end of
/// that process could wait for itself. It sees that end by its standard input.
#[derive(Debug)]
struct Daemon {
    places: Places,
    client: Client,
    child: Mutex<Child>,
}

impl Daemon {
    fn start(dir: &Path, count: usize, spec: &Spec) -> Result<Self, RigError> {
        let binary = find_daemon(spec)?;
        let places = Places::new(dir)?;
        loopdev::clear_leftovers(&places.mount)?;
        let log = File::create(&places.log).map_err(RigError::io("write", &places.log))?;
        let mut process = Process::new(&binary);
        process.arg("serve").arg("--while-stdin-is-open");
        process
            .arg("--mount")
            .arg(&places.mount)
            .arg("--links")
            .arg(&places.links);
        process.arg("--control").arg(&places.control);
        process.args([
            "--size",
            &spec.size_bytes.to_string(),
            "--seed",
            &spec.seed.to_string(),
        ]);
        for number in 0..count {
            let image = places.image(number);
            drop(fs::remove_file(&image));
            process.arg("--image").arg(image);
        }
        // A Ctrl-C at the terminal is for the test, which then ends the daemon in its own time.
        process
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = process.spawn().map_err(RigError::io("run", &binary))?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut ready);
            read.map_err(RigError::io("hear from", &binary))?;
        }
        let client = if ready.is_empty() {
            None
        } else {
            Client::connect(&places.control).ok()
        };
        match client {
            Some(client) => Ok(Self {
                places,
                client,
                child: Mutex::new(child),
            }),
            None => {
                end(&mut child, &places.mount);
                let log = fs::read_to_string(&places.log).unwrap_or_default();
                Err(RigError::DaemonEnded {
                    log: log.trim().to_owned(),
                })
            }
        }
    }

    fn tell(&self, command: &Command) -> Result<(), RigError> {
        self.client.ask(command).map(drop)
    }

    fn cut(&self, target: Target, mode: CutMode) -> Result<Vec<CutReport>, RigError> {
        let command = Command::Cut(target, mode);
        match self.client.ask(&command)? {
            Reply::Cut { disks } => Ok(disks),
            other @ (Reply::Done | Reply::Status { .. } | Reply::Refused { .. }) => {
                Err(unusable(&command, &format!("{other:?}")))
            }
        }
    }

    fn status(&self) -> Result<Vec<DiskStatus>, RigError> {
        match self.client.ask(&Command::Status)? {
            Reply::Status { disks } => Ok(disks),
            other @ (Reply::Done | Reply::Cut { .. } | Reply::Refused { .. }) => {
                Err(unusable(&Command::Status, &format!("{other:?}")))
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child.lock(), &self.places.mount);
    }
}

/// Ends a daemon by closing its standard input, or by killing it, and clears what it left.
fn end(child: &mut Child, mount: &Path) {
    drop(child.stdin.take());
    let deadline = Instant::now() + END_WITHIN;
    // A child's end can be waited for without end or asked for; this asks.
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            drop(child.kill());
            drop(child.wait());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Err(error) = loopdev::clear_leftovers(mount) {
        eprintln!(
            "moorline-rig: {} may still be in use: {error}",
            mount.display()
        );
    }
}

fn find_daemon(spec: &Spec) -> Result<PathBuf, RigError> {
    let remedy = "build it with `cargo build -p moorline-rig`, or name it in MOORLINE_RIG";
    let named = spec
        .daemon
        .clone()
        .or_else(|| std::env::var_os(DAEMON_ENV).map(PathBuf::from));
    let running = std::env::current_exe().map_err(RigError::io("find", "the running program"))?;
    // A test lies in `deps/`, one below the binaries.
    let beside = running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("moorline-rig"));
    let candidates: Vec<PathBuf> = named.map_or_else(|| beside.collect(), |path| vec![path]);
    match candidates.iter().find(|path| path.is_file()) {
        Some(found) => Ok(found.clone()),
        None => {
            let path = candidates
                .into_iter()
                .next()
                .unwrap_or_else(|| "moorline-rig".into());
            Err(RigError::Missing { path, remedy })
        }
    }
}

/// Whether this machine and user can run a power-cut disk at all.
///
/// # Errors
/// Names what is missing.
pub fn check_prerequisites() -> Result<(), RigError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RigError::NotRoot);
    }
    for (path, remedy) in [
        ("/dev/fuse", "load the kernel's fuse module"),
        ("/dev/loop-control", "load the kernel's loop module"),
    ] {
        let path = PathBuf::from(path);
        if !path.exists() {
            return Err(RigError::Missing { path, remedy });
        }
    }
    Ok(())
}

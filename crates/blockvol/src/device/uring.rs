//! io_uring: two rings for all devices of a server.
//!
//! The first carries what somebody waits for: the log, superblocks, reads. The second carries the
//! flusher's writes, of which there is one for nearly every client's write, and for which nobody
//! waits: their completions do not wake the driver, but are looked for now and then. With one ring
//! each of them would cost a wake-up and two system calls.
//!
//! | file | holds |
//! |---|---|
//! | `uring/ring.rs` | one ring and the operations in it |
//! | `uring/operation.rs` | one operation while the kernel has it |

#![allow(
    unsafe_code,
    reason = "requests point into buffers that the kernel reads and writes on its own"
)]

mod operation;
mod ring;

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use moorline_types::{DeviceError, DeviceOp, DeviceOpKind, OpOwner};
use rustix::event::EventfdFlags;

use self::{operation::Operation, ring::Ring};
use super::{
    Armed, Completion, DeviceSet, DeviceTag, RemoveError, StoreFile, Submission, check_range,
};

/// How often the second ring is looked at while the driver is awake anyway. The flusher has sixteen
/// writes in flight: this lets it do 16,000 a second, more than it should. What is handed over at
/// once costs one notification of the device: in a virtual machine the dearest step of a write.
const BACKGROUND_EVERY: Duration = Duration::from_millis(1);

/// How long what completed in the second ring may lie there while the driver sleeps.
const BACKGROUND_MAX: Duration = Duration::from_millis(1);

/// How a ring's completions are brought to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskRun {
    /// When the process asks: no interruptions (kernel 6.1 and later).
    Deferred,
    /// At the next system call (kernel 5.19 and later).
    Cooperative,
    /// At once, with an interruption.
    Interrupting,
}

impl fmt::Display for TaskRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deferred => "deferred completions",
            Self::Cooperative => "cooperative completions",
            Self::Interrupting => "interrupting completions",
        })
    }
}

#[derive(Debug)]
struct Device {
    file: StoreFile,
    in_flight: usize,
}

/// The devices of a server behind io_uring. Used by the thread that made it.
#[derive(Debug)]
pub struct UringSet {
    // Before the devices: a ring that is dropped still uses their descriptors until it is empty.
    foreground: Ring,
    background: Ring,
    devices: BTreeMap<DeviceTag, Device>,
    /// When the second ring was looked at last.
    background_seen: Instant,
    /// Completions that never needed the kernel.
    ready: Vec<Completion>,
    event: OwnedFd,
}

impl UringSet {
    /// Makes the rings with what this kernel offers.
    ///
    /// # Errors
    ///
    /// As the kernel says: ENOSYS or EPERM where io_uring is missing or forbidden; `Unsupported`
    /// where it lacks a request that is needed.
    pub fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            foreground: Ring::new(event.as_fd())?,
            background: Ring::new(event.as_fd())?,
            devices: BTreeMap::new(),
            background_seen: Instant::now(),
            ready: Vec::new(),
            event,
        })
    }

    /// How completions are brought here.
    #[must_use]
    pub fn task_run(&self) -> TaskRun {
        self.foreground.task_run()
    }

    fn start(&mut self, Submission { device, op }: Submission) {
        let checked = match self.devices.get_mut(&device) {
            None => Err(DeviceError::Errno { errno: libc::EBADF }),
            Some(entry) => check_range(&op, entry.file.bytes()).map(|()| entry),
        };
        let is_empty = op.kind.length() == 0 && !matches!(op.kind, DeviceOpKind::Flush);
        let ring = if is_background(&op) {
            &mut self.background
        } else {
            &mut self.foreground
        };
        let operation = Operation::new(device, op);
        match checked {
            Err(error) => self.ready.push(operation.complete(Err(error))),
            Ok(_) if is_empty => self.ready.push(operation.complete(Ok(()))),
            Ok(entry) => {
                entry.in_flight += 1;
                ring.start(operation);
            }
        }
    }

    fn pump(&mut self) {
        let devices = &self.devices;
        let fd_of = |device| devices[&device].file.as_fd().as_raw_fd();
        self.foreground.pump(fd_of);
        if self.background.can_pump() {
            self.background.pump(fd_of);
        }
    }
}

/// Whether nobody waits for it.
fn is_background(op: &DeviceOp) -> bool {
    match op.kind {
        DeviceOpKind::Write(..) | DeviceOpKind::Discard { .. } => {
            matches!(op.id.owner(), OpOwner::Extents | OpOwner::BlockMap)
        }
        DeviceOpKind::Read(_) | DeviceOpKind::Flush => false,
    }
}

impl DeviceSet for UringSet {
    fn add(&mut self, device: DeviceTag, file: StoreFile) {
        let entry = Device { file, in_flight: 0 };
        let before = self.devices.insert(device, entry);
        assert!(before.is_none(), "device tags are not reused");
    }

    fn remove(&mut self, device: DeviceTag) -> Result<StoreFile, RemoveError> {
        match self.devices.get(&device) {
            None => Err(RemoveError::Unknown { device }),
            Some(entry) if entry.in_flight > 0 => Err(RemoveError::InFlight {
                device,
                count: entry.in_flight,
            }),
            Some(_) => {
                let entry = self.devices.remove(&device).expect("just found");
                Ok(entry.file)
            }
        }
    }

    fn submit(&mut self, ops: &mut Vec<Submission>) {
        self.foreground.disarm();
        for submission in ops.drain(..) {
            self.start(submission);
        }
        self.pump();
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.foreground.disarm();
        done.append(&mut self.ready);
        let never_started = done.len();
        self.foreground.enter();
        self.foreground.harvest(done);
        if self.background.in_flight() > 0 && self.background_seen.elapsed() >= BACKGROUND_EVERY {
            self.background_seen = Instant::now();
            self.background.enter();
            self.background.harvest(done);
        }
        for completion in &done[never_started..] {
            let device = self.devices.get_mut(&completion.device);
            let device = device.expect("a device with operations in flight stays");
            device.in_flight -= 1;
        }
        if self.foreground.can_pump() || self.background.can_pump() {
            self.pump();
        }
    }

    fn arm(&mut self) -> Armed {
        if !self.ready.is_empty() || self.foreground.arm() {
            Armed::Ready
        } else if self.background.in_flight() > 0 {
            Armed::QuietFor(BACKGROUND_MAX)
        } else {
            Armed::Quiet
        }
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn in_flight(&self) -> usize {
        self.foreground.in_flight() + self.background.in_flight() + self.ready.len()
    }
}

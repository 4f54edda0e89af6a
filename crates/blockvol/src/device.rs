//! The devices: the only part of this crate that acts.
//!
//! One [`DeviceSet`] serves all stores of a server, so that one system call submits what a whole
//! batch of events asked for and one descriptor wakes the driver. It takes [`DeviceOp`]s, owns them
//! with their buffers until the kernel is done with them, whatever happens to who asked, and gives
//! back [`DeviceDone`]s in any order. It decides nothing: no retry of a flush, no deadline.
//!
//! | file | holds |
//! |---|---|
//! | `file.rs` | [`open_store`]: opens, locks and measures what a store lies on |
//! | `probe.rs` | [`open_set`]: which way to the disk works here, and why not the other one |
//! | `uring.rs` | io_uring |
//! | `sync.rs` | pread, pwrite and a few threads |

mod file;
mod probe;
mod sync;
mod uring;

use std::{fmt, os::fd::BorrowedFd, time::Duration};

use moorline_types::{DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome};

pub use file::{
    BufferedReason, CreateFile, FileKind, IoPath, OpenDeviceError, StoreFile, open_store,
};
pub use probe::{Access, Engine, UringUnavailable, open_set};
pub use sync::SyncSet;
pub use uring::UringSet;

/// Names one store's device within a set; chosen by the caller, never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceTag(u32);

impl DeviceTag {
    /// Makes a name from its number.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DeviceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An operation on its way to a device.
#[derive(Debug)]
pub struct Submission {
    /// Which device.
    pub device: DeviceTag,
    /// What to do there.
    pub op: DeviceOp,
}

/// A completion on its way back.
#[derive(Debug)]
pub struct Completion {
    /// Which device.
    pub device: DeviceTag,
    /// What came of it.
    pub done: DeviceDone,
}

/// Whether the caller of [`DeviceSet::arm`] may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Armed {
    /// It may: the next completion makes the event descriptor readable.
    Quiet,
    /// It may, but for no longer than this: completions that nobody waits for do not ring.
    QuietFor(Duration),
    /// It may not: something is ready to be reaped now.
    Ready,
}

/// Why a device stays in its set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RemoveError {
    /// Operations on it are in flight.
    #[error("{count} operations on device {device} are in flight")]
    InFlight {
        /// The device.
        device: DeviceTag,
        /// How many.
        count: usize,
    },
    /// There is no such device.
    #[error("there is no device {device}")]
    Unknown {
        /// The device.
        device: DeviceTag,
    },
}

/// The devices of all stores of one server.
///
/// The driver's loop: [`reap`](Self::reap), handle, [`submit`](Self::submit), [`arm`](Self::arm);
/// when that says [`Armed::Quiet`], sleep until the event descriptor is readable. It is edge
/// triggered: nobody needs to read it.
pub trait DeviceSet {
    /// Takes a device in.
    ///
    /// # Panics
    ///
    /// If the tag is in use.
    fn add(&mut self, device: DeviceTag, file: StoreFile);

    /// Gives a device back: dropping the file gives up its lock.
    ///
    /// # Errors
    ///
    /// If operations on it are in flight, or it is not there.
    fn remove(&mut self, device: DeviceTag) -> Result<StoreFile, RemoveError>;

    /// Takes all of `ops` and starts them in that order; they may complete in any order.
    fn submit(&mut self, ops: &mut Vec<Submission>);

    /// Adds what completed since the last time to `done`.
    fn reap(&mut self, done: &mut Vec<Completion>);

    /// Asks to be woken by the event descriptor at the next completion.
    fn arm(&mut self) -> Armed;

    /// Becomes readable when something completes after [`arm`](Self::arm).
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// How many operations were submitted and not reaped.
    fn in_flight(&self) -> usize;
}

/// The error that `errno` stands for.
fn device_error(errno: i32) -> DeviceError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DeviceError::Full,
        _ => DeviceError::Errno { errno },
    }
}

/// What a completed write, flush or discard of `kind` gives back, and a read of nothing.
fn finished(kind: DeviceOpKind) -> DeviceOutcome {
    match kind {
        DeviceOpKind::Read(buffer) => DeviceOutcome::Read(buffer),
        DeviceOpKind::Write(..) => DeviceOutcome::Written,
        DeviceOpKind::Flush => DeviceOutcome::Flushed,
        DeviceOpKind::Discard { .. } => DeviceOutcome::Discarded,
    }
}

/// Whether a refused discard means that the device cannot forget, which is no failure.
fn cannot_discard(errno: i32) -> bool {
    matches!(
        errno,
        libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV | libc::EINVAL
    )
}

/// Checks that an operation lies inside a device of `size` bytes.
fn check_range(op: &DeviceOp, size: u64) -> Result<(), DeviceError> {
    let end = op.offset.saturating_add(op.kind.length());
    if end <= size {
        Ok(())
    } else {
        Err(DeviceError::OutOfRange { end, size })
    }
}

#[cfg(test)]
mod tests;

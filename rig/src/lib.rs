//! A power-cut disk: a FUSE file that can lose or tear what was not synced.
//!
//! A daemon (`moorline-rig serve`) shows image files of fixed size through FUSE and puts a loop device over each.
//! Writes that nobody synced are kept apart; on command the power is cut, and each of them is kept, dropped or
//! torn, by a seed. O_DIRECT and io_uring work on the device as on any other. The disk can also lie about
//! syncs, fail them, fail reads and writes, and hang.
//!
//! A test makes a [`PowerDisk`], or a [`PowerStrip`] of several that lose power at one instant:
//!
//! ```no_run
//! use moorline_rig::{CutMode, PowerDisk, Spec};
//! # fn main() -> Result<(), moorline_rig::RigError> {
//! let disk = PowerDisk::create("/tmp/rig".as_ref(), &Spec::new(1 << 30).seed(7))?;
//! // ... run a server on disk.device_path() ...
//! disk.cut(CutMode::Tear)?;
//! // ... kill it ...
//! disk.power_on()?;
//! # Ok(())
//! # }
//! ```
//!
//! - `overlay.rs` unsynced writes, pure; `payload.rs` their bytes; `tear.rs` what a cut leaves of them, pure
//! - `image.rs` durable bytes; `fault.rs` armed faults; `disk.rs` all of that with a power switch
//! - `fs.rs` the disks as FUSE files; `loopdev.rs` loop devices and mounts; `daemon.rs` the process around them
//! - `command.rs` the control protocol; `client.rs` its client; `strip.rs` disks for tests

#![forbid(unsafe_code)]

mod client;
mod command;
mod daemon;
mod disk;
mod error;
mod fault;
mod fs;
mod image;
mod loopdev;
pub mod overlay;
pub mod payload;
mod strip;
pub mod tear;

pub use client::Client;
pub use command::{Command, CommandError, Reply, Target};
pub use daemon::{Devices, Lifetime, ServeOptions, serve};
pub use disk::{Counters, CutReport, DiskStatus, Power, PowerSession};
pub use error::RigError;
pub use fault::{Budget, IoFault, SyncFault};
pub use strip::{DAEMON_ENV, PowerDisk, PowerStrip, Spec, check_prerequisites};
pub use tear::{CutMode, CutTally};

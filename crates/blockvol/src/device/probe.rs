//! Which way to the disk works here, found by trying.

use std::{fmt, io};

use super::{DeviceSet, SyncSet, UringSet, uring::TaskRun};

/// Which way is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Access {
    /// io_uring where it works, otherwise blocking calls.
    #[default]
    Probe,
    /// Blocking calls, without trying.
    Sync,
}

/// Which way was taken, and why: for the log.
#[derive(Debug)]
pub enum Engine {
    /// io_uring.
    Uring(TaskRun),
    /// Blocking calls on threads.
    Sync(Option<UringUnavailable>),
}

/// Why io_uring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UringUnavailable {
    /// The kernel has none, or the container runtime hides it.
    #[error("the kernel or the container runtime offers no io_uring (ENOSYS)")]
    Missing,
    /// It is forbidden.
    #[error(
        "io_uring is forbidden to this process (seccomp, or the sysctl kernel.io_uring_disabled)"
    )]
    Forbidden,
    /// The kernel's io_uring is too old.
    #[error("this kernel's io_uring lacks requests that are needed")]
    TooOld,
    /// Something else, such as a limit on locked memory.
    #[error("io_uring cannot be set up")]
    Other(#[source] io::Error),
}

impl From<io::Error> for UringUnavailable {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(_) => Self::Other(error),
            None => Self::TooOld,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring(task_run) => write!(f, "io_uring with {task_run}"),
            Self::Sync(None) => f.write_str("pread and pwrite, as asked for"),
            Self::Sync(Some(UringUnavailable::Other(error))) => {
                write!(f, "pread and pwrite: io_uring cannot be set up: {error}")
            }
            Self::Sync(Some(reason)) => write!(f, "pread and pwrite: {reason}"),
        }
    }
}

/// Makes the set of devices of this process, and says which way it takes.
///
/// # Errors
///
/// If neither way works: the process has no descriptors left.
pub fn open_set(access: Access) -> io::Result<(Box<dyn DeviceSet>, Engine)> {
    let reason = match access {
        Access::Sync => None,
        Access::Probe => match UringSet::new() {
            Ok(set) => {
                let engine = Engine::Uring(set.task_run());
                return Ok((Box::new(set), engine));
            }
            Err(error) => Some(error.into()),
        },
    };
    Ok((Box::new(SyncSet::new()?), Engine::Sync(reason)))
}

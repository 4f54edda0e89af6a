//! Why a task failed, in words for the person who reads the terminal.
//!
//! These are reports, not causes that a caller acts on (except `Interrupted`), so they carry text.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of everything here.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Ctrl-C or SIGTERM: unwind, clean up, say nothing more.
    #[error("interrupted")]
    Interrupted,
    /// Something that had to hold did not.
    #[error("{0}")]
    Expected(String),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// A command ended otherwise than it had to.
    #[error("`{command}` ended with {status}{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed, indented, or nothing.
        output: String,
    },
    /// A command or a condition took too long.
    #[error("{what} took longer than {limit:.1?}{detail}")]
    Overdue {
        /// The command line or the condition.
        what: String,
        /// How long it was given.
        limit: Duration,
        /// What was seen last, or nothing.
        detail: String,
    },
}

/// Names what an I/O operation was for.
pub(crate) trait During<T> {
    /// Turns an I/O error into a [`Failure`] that says `what` was being done.
    fn during(self, what: impl AsRef<str>) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl AsRef<str>) -> Result<T> {
        self.map_err(|source| Failure::Io {
            what: what.as_ref().to_owned(),
            source: source.into(),
        })
    }
}

/// Fails with a formatted message.
macro_rules! fail {
    ($($message:tt)*) => {
        return Err($crate::error::Failure::Expected(format!($($message)*)))
    };
}

/// Fails with a formatted message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::error::fail!($($message)*);
        }
    };
}

pub(crate) use {ensure, fail};

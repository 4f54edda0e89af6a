//! What can go wrong with a rig.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a rig could not be set up, driven or cleared away.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The rig mounts file systems and attaches loop devices.
    #[error("the power-cut disk needs root: run as root")]
    NotRoot,
    /// A file that the rig needs is not there.
    #[error("{path} is missing: {remedy}")]
    Missing {
        /// What is missing.
        path: PathBuf,
        /// What to do about it.
        remedy: &'static str,
    },
    /// An operation on a path failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A system tool failed.
    #[error("{tool} ended with {status}: {stderr}")]
    Tool {
        /// The tool.
        tool: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The daemon ended before it was ready; its log says why.
    #[error("the daemon ended before it was ready: {log}")]
    DaemonEnded {
        /// What it wrote to its standard error.
        log: String,
    },
    /// The daemon did not carry out a command.
    #[error("the daemon refused: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// The daemon answered something else than asked, or nothing.
    #[error("the daemon gave no usable answer to `{command}`: `{answer}`")]
    BadAnswer {
        /// What was asked.
        command: String,
        /// What came back; empty if the connection was closed.
        answer: String,
    },
}

impl RigError {
    /// For `map_err`: names what was tried on which path.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

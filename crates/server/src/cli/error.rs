//! What a command may end with.

use std::{error::Error, fmt::Write as _, io, path::PathBuf, process::ExitCode};

use moorline_wire::{control::ClientError, hello::ParseKeyError};

use super::{
    master::BackupError, master_client::MasterClientError, process::config_exit,
    serve::file::ConfigFileError, store::StoreError,
};
use crate::{causes::Causes, config::ConfigError, dev::DevError};

/// The exit codes; scripts rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or a configuration file is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// A status was shown, and not everything is whole.
    Degraded = 4,
    /// It was refused because data could be lost.
    Unsafe = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The exit with this code; an unknown one is a failure.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::NotFound,
            4 => Self::Degraded,
            5 => Self::Unsafe,
            _ => Self::Failed,
        }
    }
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The master could not be asked.
    #[error(transparent)]
    Master(#[from] MasterClientError),
    /// The master refused.
    #[error("{error}")]
    Refused {
        /// Why.
        error: ClientError,
    },
    /// Required settings are neither on the command line nor in the file.
    #[error("{} missing", settings(keys))]
    Missing {
        /// The keys in the file; the flags are the same with two dashes.
        keys: Vec<&'static str>,
    },
    /// Two settings that exclude each other.
    #[error("settings `{first}` and `{second}` exclude each other")]
    Conflict {
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A setting that was given is not what it should be.
    #[error("`{value}` is no value for `{key}`: {reason}")]
    BadSetting {
        /// The key in the file; the flag is the same with two dashes.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        reason: String,
    },
    /// The configuration file cannot be used.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// The settings do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A store could not be looked at.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master's records could not be copied.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The local cluster could not be run.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// The process could not be set up.
    #[error("cannot {what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A server or a master ended with an error.
    #[error("{what}")]
    Process {
        /// Which process.
        what: &'static str,
        /// How it ends.
        exit: Exit,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Standard output is gone.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

/// ``setting `a` is``, ``settings `a`, `b` are``.
fn settings(keys: &[&str]) -> String {
    let named: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    match named.len() {
        1 => format!("setting {} is", named[0]),
        _ => format!("settings {} are", named.join(", ")),
    }
}

/// The flag of a setting; a store may lie in two kinds of places.
fn flag(key: &str) -> String {
    match key {
        "dir" => "--dir (or --device)".to_owned(),
        key => format!("--{key}"),
    }
}

/// A cluster key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the cluster key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds no key.
    #[error("{} holds no cluster key", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ParseKeyError,
    },
}

impl CliError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused { error } => Exit::from_code(error.exit_code()),
            Self::Config(error) => config_exit(error),
            Self::Missing { .. }
            | Self::Conflict { .. }
            | Self::BadSetting { .. }
            | Self::ConfigFile(_)
            | Self::Key(_) => Exit::Usage,
            Self::Store(error) => error.exit(),
            Self::Backup(error) => error.exit(),
            Self::Dev(error) => error.exit(),
            Self::Process { exit, .. } => *exit,
            Self::Master(_) | Self::Setup { .. } | Self::Output(_) => Exit::Failed,
        }
    }

    /// What the user can do about it, where the message does not say it already.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Master(error) => error.advice(),
            Self::Missing { keys } => {
                let flags: Vec<String> = keys.iter().map(|key| flag(key)).collect();
                Some(format!(
                    "give {}, or set them in the file that --config names; --print-config prints one",
                    flags.join(", ")
                ))
            }
            Self::Key(_) => Some(
                "make one with `head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \\n' > FILE`, \
                 and give all processes of the cluster the same"
                    .to_owned(),
            ),
            Self::Store(error) => error.advice(),
            Self::Backup(error) => error.advice(),
            Self::Dev(error) => error.advice(),
            Self::Refused { .. }
            | Self::Conflict { .. }
            | Self::BadSetting { .. }
            | Self::ConfigFile(_)
            | Self::Config(_)
            | Self::Setup { .. }
            | Self::Process { .. }
            | Self::Output(_) => None,
        }
    }

    /// The whole text for standard error: the error, its causes, and what to do.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!("error: {}", Causes(self));
        text.push('\n');
        if let Some(advice) = self.advice() {
            let _written = writeln!(text, "  what to do: {advice}");
        }
        text
    }
}

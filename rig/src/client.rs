//! A connection to a daemon's control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use crate::command::{Command, Reply};
use crate::error::RigError;

/// Longer than any command takes; a daemon that is silent for so long is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A client of one daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    connection: Mutex<BufReader<UnixStream>>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, RigError> {
        let connection = UnixStream::connect(path)
            .and_then(|connection| {
                connection.set_read_timeout(Some(ANSWER_WITHIN))?;
                Ok(connection)
            })
            .map_err(RigError::io("connect to", path))?;
        Ok(Self {
            path: path.to_owned(),
            connection: Mutex::new(BufReader::new(connection)),
        })
    }

    /// Has `command` carried out: its answer, which is not [`Reply::Refused`].
    ///
    /// # Errors
    /// When the daemon refuses, or gives no answer that can be read.
    pub fn ask(&self, command: &Command) -> Result<Reply, RigError> {
        let mut connection = self.connection.lock();
        let mut answer = String::new();
        connection
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .and_then(|()| connection.read_line(&mut answer))
            .map_err(RigError::io("talk to the daemon at", &self.path))?;
        match serde_json::from_str(&answer) {
            Ok(Reply::Refused { reason }) => Err(RigError::Refused { reason }),
            Ok(reply @ (Reply::Done | Reply::Status { .. } | Reply::Cut { .. })) => Ok(reply),
            Err(_) => Err(unusable(command, &answer)),
        }
    }
}

/// The error for an answer that does not fit `command`.
pub(crate) fn unusable(command: &Command, answer: &str) -> RigError {
    RigError::BadAnswer {
        command: command.to_string(),
        answer: answer.trim().to_owned(),
    }
}

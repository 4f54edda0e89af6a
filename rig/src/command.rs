//! The control protocol: one command a line, one JSON reply a line.
//!
//! ```text
//! status                                                what each disk holds and has done
//! cut         DISK|all [drop|keep|sectors|tear]         power off, at one instant (default: tear)
//! power-on    DISK|all                                  a new session
//! sync-fault  DISK|all none|lie|fail|fail-and-drop [N]  N: the next N only
//! read-fault  DISK|all none|fail [N]
//! write-fault DISK|all none|fail [N]
//! hang        DISK|all                                  requests wait until resume or cut
//! resume      DISK|all
//! quit                                                  detach, unmount, end
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::disk::{CutReport, DiskStatus};
use crate::fault::{Budget, IoFault, SyncFault};
use crate::tear::CutMode;

/// Which disks a command means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every disk of the strip.
    All,
    /// The disk of that name.
    Disk(String),
}

/// A command to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Answers with [`Reply::Status`].
    Status,
    /// Ends the session; answers with [`Reply::Cut`].
    Cut(Target, CutMode),
    /// Begins a new session; answers with [`Reply::Status`] once the device is there.
    PowerOn(Target),
    /// Arms a fault for syncs.
    SyncFault(Target, SyncFault, Budget),
    /// Arms a fault for reads.
    ReadFault(Target, IoFault, Budget),
    /// Arms a fault for writes.
    WriteFault(Target, IoFault, Budget),
    /// Leaves requests waiting.
    Hang(Target),
    /// Carries out what waited.
    Resume(Target),
    /// Ends the daemon.
    Quit,
}

/// The daemon's answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// The state of every disk.
    Status {
        /// In the order of the strip.
        disks: Vec<DiskStatus>,
    },
    /// What a cut did.
    Cut {
        /// One report for each disk that had power.
        disks: Vec<CutReport>,
    },
    /// It is not done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The first word is none of the verbs.
    #[error(
        "`{0}` is no command: try status, cut, power-on, sync-fault, read-fault, write-fault, hang, resume, quit"
    )]
    Verb(String),
    /// A word is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A word is none of those that can stand there.
    #[error("`{word}` is no {what}")]
    Word {
        /// What should stand there.
        what: &'static str,
        /// What does.
        word: String,
    },
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        let mut words = line.split_whitespace();
        let command = match words.next().unwrap_or_default() {
            "status" => Self::Status,
            "quit" => Self::Quit,
            "cut" => Self::Cut(target(words.next())?, cut_mode(words.next())?),
            "power-on" => Self::PowerOn(target(words.next())?),
            "hang" => Self::Hang(target(words.next())?),
            "resume" => Self::Resume(target(words.next())?),
            "sync-fault" => Self::SyncFault(
                target(words.next())?,
                sync_fault(words.next())?,
                budget(words.next())?,
            ),
            "read-fault" => Self::ReadFault(
                target(words.next())?,
                io_fault(words.next())?,
                budget(words.next())?,
            ),
            "write-fault" => Self::WriteFault(
                target(words.next())?,
                io_fault(words.next())?,
                budget(words.next())?,
            ),
            verb => return Err(CommandError::Verb(verb.to_owned())),
        };
        match words.next() {
            None => Ok(command),
            Some(word) => Err(unknown("word at the end of this command", word)),
        }
    }
}

fn unknown(what: &'static str, word: &str) -> CommandError {
    CommandError::Word {
        what,
        word: word.to_owned(),
    }
}

fn target(word: Option<&str>) -> Result<Target, CommandError> {
    match word.ok_or(CommandError::Missing("the disk's name, or `all`,"))? {
        "all" => Ok(Target::All),
        name => Ok(Target::Disk(name.to_owned())),
    }
}

fn cut_mode(word: Option<&str>) -> Result<CutMode, CommandError> {
    match word.unwrap_or("tear") {
        "drop" => Ok(CutMode::Drop),
        "keep" => Ok(CutMode::Keep),
        "sectors" => Ok(CutMode::Sectors),
        "tear" => Ok(CutMode::Tear),
        word => Err(unknown("kind of cut (drop, keep, sectors, tear)", word)),
    }
}

fn sync_fault(word: Option<&str>) -> Result<SyncFault, CommandError> {
    match word.ok_or(CommandError::Missing("the fault"))? {
        "none" => Ok(SyncFault::None),
        "lie" => Ok(SyncFault::Lie),
        "fail" => Ok(SyncFault::Fail),
        "fail-and-drop" => Ok(SyncFault::FailAndDrop),
        word => Err(unknown(
            "fault of a sync (none, lie, fail, fail-and-drop)",
            word,
        )),
    }
}

fn io_fault(word: Option<&str>) -> Result<IoFault, CommandError> {
    match word.ok_or(CommandError::Missing("the fault"))? {
        "none" => Ok(IoFault::None),
        "fail" => Ok(IoFault::Fail),
        word => Err(unknown("fault of a read or write (none, fail)", word)),
    }
}

fn budget(word: Option<&str>) -> Result<Budget, CommandError> {
    word.map_or(Ok(Budget::Forever), |word| {
        word.parse()
            .map(Budget::Times)
            .map_err(|_| unknown("number of operations", word))
    })
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Quit => f.write_str("quit"),
            Self::Cut(target, mode) => write!(f, "cut {target} {mode}"),
            Self::PowerOn(target) => write!(f, "power-on {target}"),
            Self::Hang(target) => write!(f, "hang {target}"),
            Self::Resume(target) => write!(f, "resume {target}"),
            Self::SyncFault(target, fault, budget) => {
                write!(f, "sync-fault {target} {fault}{budget}")
            }
            Self::ReadFault(target, fault, budget) => {
                write!(f, "read-fault {target} {fault}{budget}")
            }
            Self::WriteFault(target, fault, budget) => {
                write!(f, "write-fault {target} {fault}{budget}")
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Disk(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for CutMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Keep => "keep",
            Self::Sectors => "sectors",
            Self::Tear => "tear",
        })
    }
}

impl fmt::Display for SyncFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lie => "lie",
            Self::Fail => "fail",
            Self::FailAndDrop => "fail-and-drop",
        })
    }
}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Fail => "fail",
        })
    }
}

impl fmt::Display for Budget {
    /// As the last word of a command, with the blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => Ok(()),
            Self::Times(times) => write!(f, " {times}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_reads_back_as_written() {
        let disk = || Target::Disk("disk1".into());
        for command in [
            Command::Status,
            Command::Quit,
            Command::Cut(Target::All, CutMode::Drop),
            Command::Cut(disk(), CutMode::Keep),
            Command::Cut(disk(), CutMode::Sectors),
            Command::Cut(disk(), CutMode::Tear),
            Command::PowerOn(disk()),
            Command::Hang(disk()),
            Command::Resume(Target::All),
            Command::SyncFault(disk(), SyncFault::FailAndDrop, Budget::Times(3)),
            Command::SyncFault(disk(), SyncFault::Lie, Budget::Forever),
            Command::SyncFault(disk(), SyncFault::Fail, Budget::Forever),
            Command::SyncFault(disk(), SyncFault::None, Budget::Forever),
            Command::ReadFault(disk(), IoFault::Fail, Budget::Times(1)),
            Command::WriteFault(disk(), IoFault::None, Budget::Forever),
        ] {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
    }

    #[test]
    fn a_line_that_is_no_command_says_what_is_wrong() {
        for (line, want) in [
            ("", "`` is no command"),
            ("explode all", "`explode` is no command"),
            ("cut", "the disk's name, or `all`, is missing"),
            ("cut all softly", "`softly` is no kind of cut"),
            (
                "sync-fault all lie often",
                "`often` is no number of operations",
            ),
            ("hang disk0 now", "`now` is no word at the end"),
        ] {
            let error = line.parse::<Command>().unwrap_err().to_string();
            assert!(error.starts_with(want), "{line}: {error}");
        }
    }
}

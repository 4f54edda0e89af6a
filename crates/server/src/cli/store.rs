//! `moorline store`.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use moorline_blockvol::inspect::{DigestThrough, InspectError, Inspection, inspect};
use moorline_types::Lsn;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::{CliError, Exit, output};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Show what a store holds; it is only read, and no server may have it open
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The store: DIR/stores/ID.store of a server, or a block device
    path: PathBuf,
    /// Also give the SHA-256 of the image, with the committed records of the log applied:
    /// replicas at rest have the same
    #[arg(long)]
    digest: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    path: &'a Path,
    /// The digest that was asked for, in hexadecimal.
    digest: Option<&'a str>,
    /// The image of the digest is the one after this record.
    digest_lsn: Option<Lsn>,
    #[serde(flatten)]
    found: &'a Inspection,
}

/// A store that could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing of that name.
    #[error("there is no store {}", path.display())]
    NotFound {
        /// Where.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("{} is a directory", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A server has it open.
    #[error("a server has {} open", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: InspectError,
    },
    /// Neither superblock is one.
    #[error("{} is no store, or both of its superblocks are damaged", path.display())]
    NoStore {
        /// Where.
        path: PathBuf,
    },
    /// The image has no digest.
    #[error("the image in {} is damaged: it has no digest", path.display())]
    NoDigest {
        /// Where.
        path: PathBuf,
    },
}

impl StoreError {
    /// The code that the command ends with.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotFound { .. } => Exit::NotFound,
            Self::Directory { .. }
            | Self::Open { .. }
            | Self::InUse { .. }
            | Self::Read { .. }
            | Self::NoStore { .. }
            | Self::NoDigest { .. } => Exit::Failed,
        }
    }

    /// What the user can do about it.
    pub(super) fn advice(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } | Self::Directory { .. } => Some(
                "stores are the files DIR/stores/*.store of a server's --dir, each named by its \
                 volume's `id` in `moorline volume list --json`"
                    .to_owned(),
            ),
            Self::InUse { .. } => Some(
                "stop that server, or ask `moorline volume status` what the volume does".to_owned(),
            ),
            Self::NoDigest { .. } => Some(
                "the blocks and records that are damaged are named above; a server repairs blocks \
                 from its peers when they are read"
                    .to_owned(),
            ),
            Self::Open { .. } | Self::Read { .. } | Self::NoStore { .. } => None,
        }
    }
}

pub(super) fn run(command: StoreCommand, out: &mut dyn Write) -> Result<Exit, CliError> {
    match command {
        StoreCommand::Inspect(args) => inspect_store(args, out),
    }
}

fn inspect_store(args: InspectArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let path = args.path;
    let file = open(&path)?;
    let through = if args.digest {
        DigestThrough::Committed
    } else {
        DigestThrough::None
    };
    let found = match inspect(&file, through) {
        Ok(found) => found,
        Err(source) => return Err(StoreError::Read { path, source }.into()),
    };
    let digest = found.store.as_ref().and_then(|store| store.digest.as_ref());
    let sha256 = digest.and_then(|digest| digest.sha256.as_deref());
    if args.json {
        let report = Report {
            path: &path,
            digest: sha256,
            digest_lsn: digest.map(|digest| digest.through),
            found: &found,
        };
        output::json(out, &report)?;
    } else {
        write!(out, "{found}").map_err(CliError::Output)?;
    }
    match (&found.store, args.digest, sha256) {
        (None, _, _) => Err(StoreError::NoStore { path }.into()),
        (Some(_), true, None) => Err(StoreError::NoDigest { path }.into()),
        (Some(_), _, _) => Ok(Exit::Done),
    }
}

/// Opens a store for reading, and makes sure that nobody writes to it meanwhile.
fn open(path: &Path) -> Result<File, StoreError> {
    let path_owned = || path.to_owned();
    let file = File::open(path).map_err(|source| {
        let path = path_owned();
        if source.kind() == io::ErrorKind::NotFound {
            StoreError::NotFound { path }
        } else {
            StoreError::Open { path, source }
        }
    })?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(StoreError::Directory { path: path_owned() });
    }
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse { path: path_owned() }),
        Err(errno) => Err(StoreError::Open {
            path: path_owned(),
            source: errno.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_on(path: &Path) -> (Result<Exit, CliError>, String) {
        let mut out = Vec::new();
        let args = InspectArgs {
            path: path.to_owned(),
            digest: true,
            json: true,
        };
        let ended = inspect_store(args, &mut out);
        (ended, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_no_store_ends_with_its_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.store");
        let (ended, _) = run_on(&path);
        assert_eq!(ended.unwrap_err().exit(), Exit::NotFound);
        // A directory has no size that means anything, and no superblocks to be missed.
        let (ended, shown) = run_on(dir.path());
        let error = ended.unwrap_err();
        assert_eq!((error.exit(), &shown[..]), (Exit::Failed, ""));
        assert!(error.report().contains("is a directory"));
        assert!(error.report().contains("stores/*.store"));
        std::fs::write(&path, [b'x'; 65_536]).unwrap();
        let (ended, shown) = run_on(&path);
        let error = ended.unwrap_err();
        assert_eq!(error.exit(), Exit::Failed);
        assert!(error.report().contains("x.store"), "{}", error.report());
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["store"], serde_json::Value::Null);
        assert_eq!(shown["digest"], serde_json::Value::Null);
    }

    #[test]
    fn a_store_that_is_open_elsewhere_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.store");
        std::fs::write(&path, [b'x'; 65_536]).unwrap();
        let server = File::open(&path).unwrap();
        flock(&server, FlockOperation::NonBlockingLockExclusive).unwrap();
        let (ended, shown) = run_on(&path);
        assert!(matches!(
            ended,
            Err(CliError::Store(StoreError::InUse { .. }))
        ));
        assert_eq!(shown, "");
    }
}

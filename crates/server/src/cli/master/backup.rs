//! `moorline master backup`: a marked copy of a master's records.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use moorline_master::{
    record::{Key, Value},
    store::{
        BadCopy, Loaded, RecordStore, decode_record,
        embedded::{EmbeddedStore, EmbeddedStoreError, FILE_NAME},
    },
};
use moorline_wire::control::{ClientRequest, ClientResponse};
use serde::Serialize;

use super::super::{
    CliError, Exit,
    args::MasterOptions,
    master_client::{MasterClient, READ_LIMIT, accepted, unexpected},
    output,
};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file to write; there must be none yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Copy from the directory of a master that does not run, instead of asking one that does
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterOptions,
}

/// Why a master's records could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store, or the copy's file, cannot be used.
    #[error(transparent)]
    Store(#[from] EmbeddedStoreError),
    /// What the master sent makes no store.
    #[error(transparent)]
    Record(#[from] BadCopy),
    /// A store without the master's own record.
    #[error("there is no master's record: no master ever started over it")]
    NeverStarted,
}

impl BackupError {
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Store(EmbeddedStoreError::InUse { .. }) => Exit::Unsafe,
            Self::Store(EmbeddedStoreError::Missing { .. }) | Self::NeverStarted => Exit::NotFound,
            Self::Store(_) | Self::Record(_) => Exit::Failed,
        }
    }

    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::Store(EmbeddedStoreError::InUse { .. }) => {
                Some("leave --dir out: the running master is asked then".to_owned())
            }
            Self::Store(EmbeddedStoreError::Write { .. }) => {
                Some("name a file that does not exist yet, where there is room".to_owned())
            }
            Self::Store(_) | Self::Record(_) | Self::NeverStarted => None,
        }
    }
}

/// What was copied.
#[derive(Debug, Serialize)]
struct Copied {
    file: PathBuf,
    cluster: String,
    volumes: usize,
    servers: usize,
}

pub(super) fn run(args: &BackupArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let records = match &args.dir {
        Some(dir) => of_directory(dir)?,
        None => of_running(&args.master)?,
    };
    EmbeddedStore::write_copy(&args.to, &records).map_err(BackupError::Store)?;
    let cluster = records.values().find_map(|stored| match &stored.value {
        Value::Meta(meta) => Some(meta.cluster.to_string()),
        Value::Server(_) | Value::Volume(_) | Value::Name(_) | Value::Event(..) => None,
    });
    let count = |is_it: fn(&Key) -> bool| records.keys().filter(|key| is_it(key)).count();
    let copied = Copied {
        file: args.to.clone(),
        cluster: cluster.unwrap_or_default(),
        volumes: count(|key| matches!(key, Key::Volume(_))),
        servers: count(|key| matches!(key, Key::Server(_))),
    };
    if args.json {
        output::json(out, &copied)?;
    } else {
        let volumes = u64::try_from(copied.volumes).unwrap_or(u64::MAX);
        writeln!(
            out,
            "{}: the records of cluster {}, {}; to restore, stop the master and put it in place of DIR/{FILE_NAME}",
            copied.file.display(),
            copied.cluster,
            output::count(volumes, "volume"),
        )
        .map_err(CliError::Output)?;
    }
    Ok(Exit::Done)
}

/// The records of a master that does not run, marked as a copy.
fn of_directory(dir: &Path) -> Result<Loaded, BackupError> {
    let mut records = EmbeddedStore::open_existing(dir)?.load()?;
    let Some(stored) = records.get_mut(&Key::Meta) else {
        return Err(BackupError::NeverStarted);
    };
    if let Value::Meta(meta) = &mut stored.value {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        meta.copied_at_unix_ms = Some(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }
    Ok(records)
}

/// The records of a running master, which marks them.
fn of_running(master: &MasterOptions) -> Result<Loaded, CliError> {
    let target = master.target()?;
    let mut client = MasterClient::connect(&target)?;
    let mut records = Loaded::new();
    let mut after = None;
    loop {
        let response = accepted(client.ask(ClientRequest::Backup { after }, READ_LIMIT)?)?;
        let ClientResponse::Backup(page) = response else {
            return Err(unexpected(&target));
        };
        after = page.records.last().map(|(key, ..)| key.clone());
        for record in &page.records {
            let (key, stored) = decode_record(record).map_err(BackupError::Record)?;
            records.insert(key, stored);
        }
        if page.is_last {
            break;
        }
    }
    if records.contains_key(&Key::Meta) {
        Ok(records)
    } else {
        Err(BackupError::NeverStarted.into())
    }
}

//! A store in one file, over redb: durable when `commit` comes back. This file acts.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{CommitError, Loaded, RecordStore, RecordVersion, Stored, Txn, checked, key_of};
use crate::record::{Home, Key, Value};

/// Key as text -> JSON of {version, value}.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records-v1");

/// The file's name inside the master's directory.
pub const FILE_NAME: &str = "master.redb";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedStoreError {
    /// Another process has it open.
    #[error("{path} is in use by another process: only one master may use a directory")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// There is no store.
    #[error("there is no master's store at {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A copy cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// The file cannot be read.
    #[error("cannot read the master's store")]
    Read(#[source] Box<redb::Error>),
    /// A record does not decode.
    #[error("record {key} of the master's store does not decode")]
    BadRecord {
        /// Its key.
        key: String,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A record lies under another key than its own.
    #[error("record {key} of the master's store lies under a wrong key")]
    Misplaced {
        /// Where it was found.
        key: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Row {
    version: u64,
    value: Value,
}

/// The store in a file.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    database: Database,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, which must exist, making its file when there is none.
    ///
    /// # Errors
    ///
    /// When another process has it open, or it cannot be opened.
    pub fn open(directory: &Path) -> Result<Self, EmbeddedStoreError> {
        let path = directory.join(FILE_NAME);
        match Database::create(&path) {
            Ok(database) => Ok(Self { path, database }),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                Err(EmbeddedStoreError::InUse { path })
            }
            Err(source) => Err(EmbeddedStoreError::Open {
                path,
                source: Box::new(source.into()),
            }),
        }
    }

    /// Where the store's file is.
    ///
    /// # Errors
    ///
    /// When it cannot be looked at.
    pub fn home(&self) -> Result<Home, EmbeddedStoreError> {
        let found = std::fs::metadata(&self.path);
        let found = found.map_err(|error| EmbeddedStoreError::Open {
            path: self.path.clone(),
            source: Box::new(redb::Error::Io(error)),
        })?;
        Ok(Home {
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Writes a store of these records into a file that must not exist yet, durably.
    ///
    /// # Errors
    ///
    /// When there is such a file, or it cannot be written.
    pub fn write_copy(path: &Path, records: &Loaded) -> Result<(), EmbeddedStoreError> {
        let failed = |source: redb::Error| EmbeddedStoreError::Write {
            path: path.to_owned(),
            source: Box::new(source),
        };
        // Made here and by nobody else: a copy never writes over what is there.
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| failed(redb::Error::Io(error)))?;
        let written = Self::fill(file, records).map_err(failed);
        if written.is_err() {
            // Half a copy is none; what cannot be removed is named by the error.
            let _removed = std::fs::remove_file(path);
        }
        written
    }

    fn fill(file: std::fs::File, records: &Loaded) -> Result<(), redb::Error> {
        let database = Database::builder().create_file(file)?;
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (key, stored) in records {
                let row = Row {
                    version: stored.version.get(),
                    value: stored.value.clone(),
                };
                let bytes = serde_json::to_vec(&row)
                    .map_err(|error| redb::Error::Io(std::io::Error::other(error)))?;
                table.insert(key.to_string().as_str(), bytes.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Opens the store in `directory` that is there.
    ///
    /// # Errors
    ///
    /// When there is none, another process has it open, or it cannot be opened.
    pub fn open_existing(directory: &Path) -> Result<Self, EmbeddedStoreError> {
        let path = directory.join(FILE_NAME);
        if !path.is_file() {
            return Err(EmbeddedStoreError::Missing { path });
        }
        Self::open(directory)
    }

    fn read_all(&self) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(RECORDS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(rows)
    }

    fn try_commit(&self, txn: &Txn) -> Result<Result<(), CommitError>, StoreFailure> {
        let transaction = self.database.begin_write()?;
        let lost = {
            let mut table = transaction.open_table(RECORDS)?;
            let mut lost = None;
            for change in &txn.changes {
                let key = change.key.to_string();
                let current = read_row(&table, &key)?.map(|row| RecordVersion::new(row.version));
                let Ok(version) = checked(current, change) else {
                    lost = Some(key);
                    break;
                };
                match change.value.clone() {
                    Some(value) => {
                        let row = Row {
                            version: version.get(),
                            value,
                        };
                        table.insert(key.as_str(), serde_json::to_vec(&row)?.as_slice())?;
                    }
                    None => drop(table.remove(key.as_str())?),
                }
            }
            lost
        };
        let Some(key) = lost else {
            transaction.commit()?;
            return Ok(Ok(()));
        };
        transaction.abort()?;
        let current = self.named_by(txn)?;
        Ok(Err(CommitError::Lost { key, current }))
    }

    fn named_by(&self, txn: &Txn) -> Result<Vec<(Key, Option<Stored>)>, StoreFailure> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(RECORDS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut current = Vec::new();
        for change in &txn.changes {
            let stored = read_row(&table, &change.key.to_string())?.map(|row| Stored {
                version: RecordVersion::new(row.version),
                value: row.value,
            });
            current.push((change.key.clone(), stored));
        }
        Ok(current)
    }
}

fn read_row(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Row>, StoreFailure> {
    let Some(bytes) = table.get(key)? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(bytes.value())?))
}

/// Anything that leaves unknown what is durable: the caller stops.
#[derive(Debug)]
struct StoreFailure;

macro_rules! failure_from {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreFailure {
            fn from(_: $error) -> Self {
                Self
            }
        })*
    };
}

failure_from!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    serde_json::Error
);

impl RecordStore for EmbeddedStore {
    type Error = EmbeddedStoreError;

    fn load(&mut self) -> Result<Loaded, Self::Error> {
        let rows = self
            .read_all()
            .map_err(|error| EmbeddedStoreError::Read(Box::new(error)))?;
        let mut loaded = Loaded::new();
        for (text, bytes) in rows {
            let row: Row =
                serde_json::from_slice(&bytes).map_err(|source| EmbeddedStoreError::BadRecord {
                    key: text.clone(),
                    source,
                })?;
            let Some(key) = key_of(&text, &row.value) else {
                return Err(EmbeddedStoreError::Misplaced { key: text });
            };
            let stored = Stored {
                version: RecordVersion::new(row.version),
                value: row.value,
            };
            loaded.insert(key, stored);
        }
        Ok(loaded)
    }

    fn commit(&mut self, txn: &Txn) -> Result<(), CommitError> {
        self.try_commit(txn).unwrap_or(Err(CommitError::Failed))
    }
}

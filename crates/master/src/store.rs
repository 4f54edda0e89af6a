//! Where the master's records are, behind compare-and-set.
//!
//! The authority asks for a [`Txn`] and tells nobody of it before it hears that it is durable. A
//! store acts; everything else of this crate does not.

pub mod embedded;
pub mod memory;

use std::collections::BTreeMap;

use crate::record::{Key, Value};

/// The version of a record: 1 when it is made, one more at each change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordVersion(u64);

impl RecordVersion {
    /// The version of a record just made.
    pub const FIRST: Self = Self(1);

    /// Makes a version from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version after one more change.
    ///
    /// # Panics
    ///
    /// After 2^64 - 1 changes.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(value) => Self(value),
            None => panic!("record versions ran out"),
        }
    }
}

/// Names one transaction of one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TxnId(u64);

impl TxnId {
    /// Makes an id from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What must be there before a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// No such record.
    Absent,
    /// The record in this version.
    Version(RecordVersion),
    /// Whatever.
    Anything,
}

/// One change of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which record.
    pub key: Key,
    /// What must be there before.
    pub expected: Expected,
    /// What is to be there; `None` removes it.
    pub value: Option<Value>,
}

/// Changes that happen all or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Txn {
    /// Comes back in the answer.
    pub id: TxnId,
    /// The changes; no key twice.
    pub changes: Vec<Change>,
}

/// A record and its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The version.
    pub version: RecordVersion,
    /// The record.
    pub value: Value,
}

/// Everything that a store holds.
pub type Loaded = BTreeMap<Key, Stored>;

/// Why a transaction was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// Something else than expected was there; nothing was changed.
    #[error("record {key} is not as expected")]
    Lost {
        /// The first such record.
        key: String,
        /// What is there now, of every record that the transaction names.
        current: Vec<(Key, Option<Stored>)>,
    },
    /// The store failed; whether the changes are durable is unknown.
    #[error("the store failed")]
    Failed,
}

/// A store of records. Both calls act.
pub trait RecordStore {
    /// Why the store cannot be used.
    type Error: std::error::Error + 'static;

    /// Everything in it.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds what is no record.
    fn load(&mut self) -> Result<Loaded, Self::Error>;

    /// Makes the transaction durable, if everything is as it expects.
    ///
    /// # Errors
    ///
    /// When something is not as expected, or the store failed.
    fn commit(&mut self, txn: &Txn) -> Result<(), CommitError>;
}

/// A record of a copy does not belong there.
#[derive(Debug, thiserror::Error)]
#[error("record {key} of the copy cannot be read")]
pub struct BadCopy {
    /// Its key.
    pub key: String,
    /// Where it went wrong, if it is no record.
    #[source]
    pub source: Option<serde_json::Error>,
}

/// A record as [`BackupPage`](moorline_wire::control::BackupPage) carries it.
///
/// # Errors
///
/// When it is none, or lies under another key than its own.
pub fn decode_record(record: &(String, u64, String)) -> Result<(Key, Stored), BadCopy> {
    let (text, version, json) = record;
    let bad = |source| BadCopy {
        key: text.clone(),
        source,
    };
    let value: Value = serde_json::from_str(json).map_err(|error| bad(Some(error)))?;
    let version = RecordVersion::new(*version);
    let key = key_of(text, &value).ok_or_else(|| bad(None))?;
    Ok((key, Stored { version, value }))
}

/// The key of a record that was found under `text`, if it belongs there.
fn key_of(text: &str, value: &Value) -> Option<Key> {
    let named = || {
        let name = text.strip_prefix(NAME_PREFIX)?;
        Some(Key::Name(name.to_owned()))
    };
    let key = value.key().or_else(named)?;
    (key.to_string() == text).then_some(key)
}

const NAME_PREFIX: &str = "name/";

/// What `current` becomes by `change`; an error when it is not as expected.
fn checked(current: Option<RecordVersion>, change: &Change) -> Result<RecordVersion, ()> {
    let as_expected = match change.expected {
        Expected::Absent => current.is_none(),
        Expected::Version(version) => current == Some(version),
        Expected::Anything => true,
    };
    if as_expected {
        Ok(current.map_or(RecordVersion::FIRST, RecordVersion::next))
    } else {
        Err(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! A store in memory, for the simulator: what is durable is kept apart from what was asked for.

use super::{CommitError, Loaded, RecordStore, Stored, Txn, checked};
use crate::record::Key;

/// A store whose commits become durable when the world says so.
///
/// [`MemoryStore::commit`] is durable at once. The simulator instead takes a commit apart:
/// [`MemoryStore::begin`], and later [`MemoryStore::finish`], or a [`MemoryStore::crash`] between
/// the two, which keeps a whole number of the transactions begun: each is all or nothing.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    durable: Loaded,
    begun: Vec<Txn>,
}

/// Why a store in memory cannot be read: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MemoryStoreError {}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a transaction that is not durable yet.
    pub fn begin(&mut self, txn: Txn) {
        self.begun.push(txn);
    }

    /// Transactions that were begun and are not durable.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.begun.len()
    }

    /// Makes the oldest transaction begun durable and says what came of it; `None` when none is.
    pub fn finish(&mut self) -> Option<(Txn, Result<(), CommitError>)> {
        if self.begun.is_empty() {
            return None;
        }
        let txn = self.begun.remove(0);
        let result = self.apply(&txn);
        Some((txn, result))
    }

    /// The machine stops: the oldest `kept` transactions begun turn out durable, the others never
    /// happened.
    pub fn crash(&mut self, kept: usize) {
        for txn in std::mem::take(&mut self.begun).iter().take(kept) {
            // One that lost its compare-and-set changes nothing, and nobody is there to hear of it.
            drop(self.apply(txn));
        }
    }

    /// Puts a record there, whatever was: a copy is made.
    pub fn put(&mut self, (key, stored): (Key, Stored)) {
        self.durable.insert(key, stored);
    }

    /// What is durable.
    #[must_use]
    pub const fn durable(&self) -> &Loaded {
        &self.durable
    }

    fn apply(&mut self, txn: &Txn) -> Result<(), CommitError> {
        let mut versions = Vec::with_capacity(txn.changes.len());
        for change in &txn.changes {
            let current = self.durable.get(&change.key).map(|stored| stored.version);
            let version = checked(current, change).map_err(|()| CommitError::Lost {
                key: change.key.to_string(),
                current: self.named_by(txn),
            })?;
            versions.push(version);
        }
        for (change, version) in txn.changes.iter().zip(versions) {
            match change.value.clone() {
                Some(value) => {
                    self.durable
                        .insert(change.key.clone(), Stored { version, value });
                }
                None => drop(self.durable.remove(&change.key)),
            }
        }
        Ok(())
    }

    fn named_by(&self, txn: &Txn) -> Vec<(Key, Option<Stored>)> {
        let keys = txn.changes.iter().map(|change| change.key.clone());
        keys.map(|key| (key.clone(), self.durable.get(&key).cloned()))
            .collect()
    }
}

impl RecordStore for MemoryStore {
    type Error = MemoryStoreError;

    fn load(&mut self) -> Result<Loaded, Self::Error> {
        Ok(self.durable.clone())
    }

    fn commit(&mut self, txn: &Txn) -> Result<(), CommitError> {
        self.apply(txn)
    }
}

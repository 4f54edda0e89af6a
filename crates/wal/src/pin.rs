//! Who needs which part of the log: pins, and the guards that release them.
//!
//! A pin is a value; dropping it is the only release. `Drop` takes the table's own lock for a few
//! instructions, does no I/O and wakes nobody: whoever owns the log looks at
//! [`PinTable::releases`] at the end of its step. A pin may be broken by policy when the log is
//! full; it then holds nothing any more, and its holder is to be told.

use std::{collections::BTreeMap, fmt};

use moorline_types::{Epoch, Instant, Lsn, ServerId, SessionId};

use crate::{
    error::PinRefused,
    sync::{Arc, Mutex},
};

/// Most pins that one table gives: a bound on memory, far above what sessions need.
pub const PINS_MAX: usize = 1024;

/// What a pin holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PinKind {
    /// Log records, all above the pin's LSN.
    Retention,
    /// The image at a trusted checkpoint, and the log above it.
    Snapshot,
    /// A whole base image, and the log above it.
    FullBase,
}

impl fmt::Display for PinKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retention => "retention",
            Self::Snapshot => "snapshot",
            Self::FullBase => "full_base",
        })
    }
}

/// On whose behalf a pin is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PinHolder {
    /// A catch-up session of a peer.
    CatchUp {
        /// The peer.
        server: ServerId,
        /// Its session.
        session: SessionId,
    },
    /// A rebuild session of a peer.
    Rebuild {
        /// The peer.
        server: ServerId,
        /// Its session.
        session: SessionId,
    },
    /// A candidate that collects logs for an epoch.
    Promotion {
        /// The epoch.
        epoch: Epoch,
    },
    /// An operation that an operator asked for.
    Operation {
        /// Its number.
        operation: u128,
    },
}

impl fmt::Display for PinHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchUp { server, session } => write!(f, "catch_up {server} {session}"),
            Self::Rebuild { server, session } => write!(f, "rebuild {server} {session}"),
            Self::Promotion { epoch } => write!(f, "promotion {epoch}"),
            Self::Operation { operation } => write!(f, "operation {operation:032x}"),
        }
    }
}

/// One live pin, as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinInfo {
    /// What it holds.
    pub kind: PinKind,
    /// Records above are held (exclusive).
    pub lsn: Lsn,
    /// For whom.
    pub holder: PinHolder,
    /// Since when.
    pub since: Instant,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Entry {
    info: PinInfo,
    hold: Hold,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    Counts,
    /// An image whose holder has what it needed of the log.
    ImageAlone,
    Broken,
}

#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    releases: u64,
    /// Entries of a forked table whose guards were not bound to it yet.
    #[cfg(feature = "simulation")]
    unbound: std::collections::BTreeSet<u64>,
}

/// All pins of one log. Cloning shares the table.
#[derive(Clone, Debug)]
pub struct PinTable(Arc<Mutex<Table>>);

impl Default for PinTable {
    fn default() -> Self {
        Self::new()
    }
}

impl PinTable {
    /// A table without pins.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Table::default())))
    }

    /// Holds every record above `after`. The caller has checked that they are there.
    ///
    /// # Errors
    ///
    /// [`PinRefused::TooMany`].
    pub fn retain(
        &self,
        after: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<RetentionPin, PinRefused> {
        self.insert(PinKind::Retention, after, holder, since)
            .map(RetentionPin)
    }

    /// Holds the image at checkpoint `at` and the records above it.
    ///
    /// # Errors
    ///
    /// [`PinRefused::TooMany`].
    pub fn snapshot(
        &self,
        at: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<SnapshotPin, PinRefused> {
        self.insert(PinKind::Snapshot, at, holder, since)
            .map(SnapshotPin)
    }

    /// Holds a whole base image at `at` and the records above it.
    ///
    /// # Errors
    ///
    /// [`PinRefused::TooMany`].
    pub fn full_base(
        &self,
        at: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<FullBasePin, PinRefused> {
        self.insert(PinKind::FullBase, at, holder, since)
            .map(FullBasePin)
    }

    fn insert(
        &self,
        kind: PinKind,
        lsn: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<Guard, PinRefused> {
        let mut table = self.0.lock();
        let count = table.entries.len();
        if count >= PINS_MAX {
            return Err(PinRefused::TooMany { count });
        }
        let id = table.next;
        table.next += 1;
        let info = PinInfo {
            kind,
            lsn,
            holder,
            since,
        };
        let hold = Hold::Counts;
        let before = table.entries.insert(id, Entry { info, hold });
        assert!(before.is_none(), "pin numbers are never reused");
        Ok(Guard {
            id,
            lsn,
            table: Some(self.clone()),
        })
    }

    /// The lowest LSN that a pin holds (exclusive); `None` without pins. Broken ones do not count,
    /// nor do those that hold an image alone.
    #[must_use]
    pub fn lowest(&self) -> Option<Lsn> {
        let table = self.0.lock();
        let counting = table
            .entries
            .values()
            .filter(|entry| entry.hold == Hold::Counts);
        counting.map(|entry| entry.info.lsn).min()
    }

    /// Every pin that holds something, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<PinInfo> {
        let table = self.0.lock();
        let counting = table
            .entries
            .values()
            .filter(|entry| entry.hold != Hold::Broken);
        counting.map(|entry| entry.info.clone()).collect()
    }

    /// Breaks the pins that hold records at or below `through`, and says whose they were.
    ///
    /// They hold nothing from here on; their guards may still be dropped later.
    #[must_use = "the holders are to be told"]
    pub fn break_through(&self, through: Lsn) -> Vec<PinInfo> {
        let mut broken = Vec::new();
        for entry in self.0.lock().entries.values_mut() {
            if entry.hold == Hold::Counts && entry.info.lsn < through {
                entry.hold = Hold::Broken;
                broken.push(entry.info.clone());
            }
        }
        broken
    }

    /// How often something was let go so far; a change since the last look means that reclaim may
    /// get further.
    #[must_use]
    pub fn releases(&self) -> u64 {
        self.0.lock().releases
    }

    /// Guards alive, broken ones included.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.lock().entries.len()
    }

    /// The same pins in a table of their own. The copies of their guards must be bound to it.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut table = self.0.lock().clone();
        table.unbound = table.entries.keys().copied().collect();
        Self(Arc::new(Mutex::new(table)))
    }

    /// Pins of a forked table whose guards were not bound to it.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn unbound(&self) -> usize {
        self.0.lock().unbound.len()
    }

    #[cfg(feature = "simulation")]
    fn bind(&self, id: u64) {
        let bound = self.0.lock().unbound.remove(&id);
        assert!(bound, "a forked pin is bound once");
    }

    fn raise(&self, id: u64, to: Lsn) {
        let mut table = self.0.lock();
        let entry = table
            .entries
            .get_mut(&id)
            .expect("the guard of an entry lives");
        entry.info.lsn = to;
    }

    fn let_log_go(&self, id: u64) {
        let mut table = self.0.lock();
        let entry = table
            .entries
            .get_mut(&id)
            .expect("the guard of an entry lives");
        // A broken pin holds nothing ever again.
        if entry.hold == Hold::Counts {
            entry.hold = Hold::ImageAlone;
            table.releases += 1;
        }
    }

    fn release(&self, id: u64) {
        let mut table = self.0.lock();
        let entry = table.entries.remove(&id);
        assert!(entry.is_some(), "a pin is released once");
        table.releases += 1;
    }
}

#[derive(Debug)]
struct Guard {
    id: u64,
    lsn: Lsn,
    /// `None`: a copy that is not bound to a table yet, and holds nothing.
    table: Option<PinTable>,
}

/// The copy holds nothing until it is bound to a fork of the table.
#[cfg(feature = "simulation")]
impl Clone for Guard {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            lsn: self.lsn,
            table: None,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(table) = &self.table {
            table.release(self.id);
        }
    }
}

macro_rules! pin_guard {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "a pin that is dropped holds nothing"]
        #[derive(Debug)]
        #[cfg_attr(feature = "simulation", derive(Clone))]
        pub struct $name(Guard);

        impl $name {
            /// Records above are held (exclusive).
            #[must_use]
            pub fn lsn(&self) -> Lsn {
                self.0.lsn
            }

            /// Binds the copy of a guard to the fork of its table.
            ///
            /// # Panics
            ///
            /// If it is bound already, or the table is no fork that waits for it.
            #[cfg(feature = "simulation")]
            pub fn bind(&mut self, fork: &PinTable) {
                assert!(self.0.table.is_none(), "a guard has one table");
                fork.bind(self.0.id);
                self.0.table = Some(fork.clone());
            }
        }
    };
}

pin_guard! {
    /// Holds log records until dropped.
    RetentionPin
}
pin_guard! {
    /// Holds a checkpoint's image until dropped, and the log above it until that is let go.
    SnapshotPin
}
pin_guard! {
    /// Holds a base image until dropped, and the log above it until that is let go.
    FullBasePin
}

macro_rules! image_guard {
    ($name:ident) => {
        impl $name {
            /// Lets the log go and holds the image alone: whoever is rebuilt from it has received
            /// the records that it needs. Harmless when done before.
            pub fn let_log_go(&mut self) {
                let table = self.0.table.as_ref().expect("a copy is bound before use");
                table.let_log_go(self.0.id);
            }
        }
    };
}

image_guard!(SnapshotPin);
image_guard!(FullBasePin);

impl RetentionPin {
    /// Follows the holder's acknowledged frontier: what lies at or below `to` is let go.
    ///
    /// # Panics
    ///
    /// If `to` is lower than before: what was let go may be gone.
    pub fn advance(&mut self, to: Lsn) {
        assert!(to >= self.0.lsn, "a pin never goes back");
        self.0.lsn = to;
        let table = self.0.table.as_ref().expect("a copy is bound before use");
        table.raise(self.0.id, to);
    }
}

#[cfg(test)]
mod tests;

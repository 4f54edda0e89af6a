//! One replica's log: what was received, and how much of it is durable.

use crate::world::LOG_MAX;
use std::fmt;

/// A record: the epoch it was ordered in, and which write it carries (0 is the epoch's mark).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Record(u8);

impl Record {
    pub(crate) fn mark(epoch: u8) -> Self {
        Self(epoch << 4)
    }

    /// A mark that says: acknowledged records from memory may be lost (PROM-12).
    pub(crate) fn mark_of_loss(epoch: u8) -> Self {
        Self((epoch << 4) | 0x0f)
    }

    /// Whether this mark announces that what was acknowledged in `epoch` may be lost.
    pub(crate) fn gives_up(self, epoch: u8) -> bool {
        self.0 & 0x0f == 0x0f && self.epoch() > epoch
    }

    pub(crate) fn write(epoch: u8, write: u8) -> Self {
        Self((epoch << 4) | write)
    }

    pub(crate) fn epoch(self) -> u8 {
        self.0 >> 4
    }

    /// The write that it carries; `None` for a mark.
    pub(crate) fn carries(self) -> Option<u8> {
        let write = self.0 & 0x0f;
        (write != 0 && write != 0x0f).then_some(write)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.carries() {
            Some(write) => write!(f, "e{}:w{write}", self.epoch()),
            None if self.gives_up(0) => write!(f, "e{}:mark-of-loss", self.epoch()),
            None => write!(f, "e{}:mark", self.epoch()),
        }
    }
}

/// A log. Record `lsn` lies at index `lsn - 1`; what is above the head is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    records: [Record; LOG_MAX],
    head: u8,
    flushed: u8,
}

impl Log {
    pub(crate) const EMPTY: Self = Self {
        records: [Record(0); LOG_MAX],
        head: 0,
        flushed: 0,
    };

    pub(crate) fn head(&self) -> u8 {
        self.head
    }

    pub(crate) fn flushed(&self) -> u8 {
        self.flushed
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..usize::from(self.head)]
    }

    pub(crate) fn last_epoch(&self) -> u8 {
        self.records().last().map_or(0, |record| record.epoch())
    }

    pub(crate) fn append(&mut self, record: Record) {
        self.records[usize::from(self.head)] = record;
        self.head += 1;
    }

    pub(crate) fn flush(&mut self) {
        self.flushed = self.head;
    }

    /// Cuts to exactly `head`; the cut is durable at once.
    pub(crate) fn cut(&mut self, head: u8) {
        for record in &mut self.records[usize::from(head)..] {
            *record = Record(0);
        }
        self.head = self.head.min(head);
        self.flushed = self.flushed.min(head);
    }

    /// The last LSN common to both, by epoch history alone (CUT-1): payloads are never compared.
    pub(crate) fn common(&self, other: &Self) -> u8 {
        let same = self
            .records()
            .iter()
            .zip(other.records())
            .take_while(|(ours, theirs)| ours.epoch() == theirs.epoch())
            .count();
        u8::try_from(same).expect("a log is short")
    }

    /// The LSN of the first record of `epoch`.
    pub(crate) fn mark_of(&self, epoch: u8) -> Option<u8> {
        let at = self
            .records()
            .iter()
            .position(|record| record.epoch() == epoch)?;
        Some(u8::try_from(at + 1).expect("a log is short"))
    }

    /// The whole log in one number: equal keys are equal logs.
    pub(crate) fn key(&self) -> u64 {
        const { assert!(LOG_MAX < 8) };
        let records = self
            .records
            .iter()
            .fold(0, |key, record| (key << 8) | u64::from(record.bits()));
        (records << 8) | u64::from((self.head << 4) | self.flushed)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} flushed={}", self.records(), self.flushed)
    }
}

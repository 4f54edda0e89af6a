//! What a bridge must offer to an executor: submit-style, never blocking.

use moorline_types::LsnRange;
use moorline_wal::{LogReadError, ReadStart, Record};

/// Reads the primary's own history.
pub trait HistoryReader {
    /// Reads records from the start of `range`, in order, up to `bytes_max` stored bytes or its
    /// end, at least one. When it answers `Pending`, `CatchUp::records_read` is told later.
    ///
    /// # Errors
    ///
    /// When the records cannot be had; never retried.
    fn read(&mut self, range: LsnRange, bytes_max: usize) -> Result<ReadStart, LogReadError>;
}

/// The one ordered stream to a replica.
pub trait ReplicaLink {
    /// Queues `records`, dense and ascending, behind everything queued before.
    fn ship(&mut self, records: Vec<Record>);
}

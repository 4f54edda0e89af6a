//! Opening after a crash.

use moorline_types::{DeviceDone, DeviceOp, EpochStart, Lsn, LsnRange};

use crate::{
    error::LogOpenError,
    log::{Log, LogAnchor, LogConfig},
};

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFindings {
    /// The last record on the unbroken chain, cuts replayed.
    pub head: Lsn,
    /// The LSNs that a dropped torn end may have held: the doubtful range of the next promises.
    pub torn: Option<LsnRange>,
    /// A bad frame at or below a valid mark: the log is read only, and what it held is unknown,
    /// never absent.
    pub damaged: Option<LogDamage>,
    /// How many cut frames were replayed.
    pub cuts_replayed: u64,
    /// Frames on the unbroken chain.
    pub frames: u64,
    /// Bytes of the ring that they take.
    pub bytes: u64,
}

/// A piece of the log that was durable once and cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogDamage {
    /// The last record before the damage; what lies above is unknown.
    pub after: Lsn,
    /// Where the bad frame should begin, in bytes from the start of the ring.
    pub position: u64,
    /// The highest LSN that a readable frame behind the damage names, if any.
    pub known_through: Option<Lsn>,
}

/// A log being opened.
#[derive(Debug)]
pub struct LogOpening {
    _config: LogConfig,
}

impl LogOpening {
    /// Begins to open the log whose first retained frame `anchor` names.
    ///
    /// `history` is the persisted epoch history (starts above the anchor's tail are ignored: the
    /// records say them). `durable_floor` is the highest LSN that this store is known to have
    /// flushed: the higher of its persisted applied mark and checkpoint (*not* the committed
    /// point, which may lie above this store's own log). A chain that ends below it is damaged.
    ///
    /// # Errors
    ///
    /// [`LogOpenError::BadRegion`] or [`LogOpenError::BadAnchor`].
    pub fn new(
        config: LogConfig,
        anchor: LogAnchor,
        history: Vec<EpochStart>,
        durable_floor: Lsn,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Self, LogOpenError> {
        let _ = (config, anchor, history, durable_floor, ops);
        todo!()
    }

    /// Takes one completion; `Some` when opening ended. A log with damage is opened, too.
    #[must_use]
    pub fn on_done(
        &mut self,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Option<Result<(Log, LogFindings), LogOpenError>> {
        let _ = (done, ops);
        todo!()
    }
}

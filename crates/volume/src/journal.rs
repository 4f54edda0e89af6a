//! What happened at a node, for logs, metrics, watchers and tests: one stream, typed.

use std::fmt;

use moorline_engine::{CommittedDataMissing, RecoveryEvent};
use moorline_types::{
    BlockIndex, ConfigVersion, Epoch, Lsn, LsnRange, ServerId, StoreId, VolumeId,
};

use crate::{node::DeviceKey, promotion::DeclineReason};

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEvent {
    /// The volume that it concerns; `None` for the whole server.
    pub volume: Option<VolumeId>,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    /// A store opened.
    StoreOpened {
        /// Its uuid.
        store: StoreId,
        /// Its head.
        head: Lsn,
        /// Records that a torn end of its log may have held.
        doubtful: Option<LsnRange>,
    },
    /// A device holds no store that may be opened here.
    StoreRefused {
        /// Why, with what to do.
        reason: Box<str>,
    },
    /// A store is not open yet, and the server goes on without it: its device does not answer, or
    /// its log is long.
    StoreOpeningLate {
        /// Its device.
        device: DeviceKey,
    },
    /// A store was formatted.
    StoreCreated {
        /// Its uuid.
        store: StoreId,
    },
    /// A store's device failed; its durable frontier is frozen.
    StoreFailed {
        /// Why.
        reason: Box<str>,
    },
    /// A new assignment line was taken.
    LineTaken {
        /// Its epoch.
        epoch: Epoch,
        /// Its configuration.
        config: ConfigVersion,
        /// Who leads.
        primary: Option<ServerId>,
    },
    /// An assignment was refused.
    LineRefused {
        /// Why.
        reason: LineRefusal,
    },
    /// This replica promised an epoch, durably.
    Promised {
        /// The epoch.
        epoch: Epoch,
        /// To whom.
        to: ServerId,
    },
    /// This server asks for promises.
    PromotionStarted {
        /// The epoch.
        epoch: Epoch,
    },
    /// It may not open the epoch.
    PromotionDeclined {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: DeclineReason,
    },
    /// Doubtful records were given up: no member that could answer holds them.
    DoubtGivenUp {
        /// Which.
        range: LsnRange,
    },
    /// Acknowledged records that were only in memory may be gone (`PROM-12`).
    VolatileTailLost {
        /// Those above this one.
        after: Lsn,
        /// The highest one that is known to have been acknowledged; not above `after` when a loss
        /// is only not ruled out.
        acknowledged: Lsn,
        /// Whether clients wait for an operator, or the server was told to go on.
        serving: AfterLoss,
    },
    /// The epoch's mark was appended.
    EpochOpened {
        /// The epoch.
        epoch: Epoch,
        /// The mark.
        mark: Lsn,
    },
    /// The mark committed: the volume is served here.
    ServingStarted {
        /// The epoch.
        epoch: Epoch,
    },
    /// This server no longer leads.
    SteppedDown {
        /// The epoch that it led, or tried to.
        epoch: Epoch,
        /// Why.
        reason: StepDownReason,
    },
    /// Something in the recovery of one peer.
    Recovery(RecoveryEvent),
    /// This replica's log was cut.
    Cut {
        /// The last record kept.
        through: Lsn,
    },
    /// Committed data is missing on one side: both stop.
    CommittedDataMissing(CommittedDataMissing),
    /// A block did not match its checksum.
    DamagedBlock {
        /// Which.
        block: BlockIndex,
    },
    /// A damaged block was written again with a peer's copy.
    BlockRepaired {
        /// Which.
        block: BlockIndex,
    },
    /// No peer could give a good copy of a damaged block: reads of it fail.
    BlockNotRepaired {
        /// Which.
        block: BlockIndex,
    },
    /// The master refused this server, or this server it.
    MasterRefused {
        /// Why, with what to do.
        reason: Box<str>,
    },
    /// A peer acted against the protocol; what it sent changed nothing.
    PeerRefused {
        /// Who.
        peer: ServerId,
        /// Why.
        reason: &'static str,
    },
}

/// What follows a loss of acknowledged records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AfterLoss {
    /// Nobody is served until an operator accepts the loss.
    WaitsForOperator,
    /// The server was told to go on with what is left.
    GoesOn,
}

/// Why an assignment changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineRefusal {
    /// Older than the newest one seen.
    Stale,
    /// The same version with other content: two masters, or damage.
    Conflict,
    /// An epoch further ahead than a sane master mints.
    InsaneEpoch,
}

/// Why a primary or candidate stopped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StepDownReason {
    /// A higher epoch was shown.
    HigherEpoch(Epoch),
    /// Another server or boot has this very epoch.
    EpochConflict,
    /// Its device failed.
    DeviceFailed,
    /// It may not open the epoch.
    Declined,
    /// The server stops.
    Stopping,
    /// The volume is deleted.
    Deleted,
    /// Committed data is missing.
    CommittedDataMissing,
}

impl Happening {
    /// The event's name, as operators see it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::StoreOpened { .. } => "store_opened",
            Self::StoreRefused { .. } => "store_refused",
            Self::StoreOpeningLate { .. } => "store_opening_late",
            Self::StoreCreated { .. } => "store_created",
            Self::StoreFailed { .. } => "store_failed",
            Self::LineTaken { .. } => "line_taken",
            Self::LineRefused { .. } => "line_refused",
            Self::Promised { .. } => "promised",
            Self::PromotionStarted { .. } => "promotion_started",
            Self::PromotionDeclined { .. } => "promotion_declined",
            Self::DoubtGivenUp { .. } => "doubt_given_up",
            Self::VolatileTailLost { .. } => "volatile_tail_lost",
            Self::EpochOpened { .. } => "epoch_opened",
            Self::ServingStarted { .. } => "serving_started",
            Self::SteppedDown { .. } => "stepped_down",
            Self::Recovery(event) => event.what.name(),
            Self::Cut { .. } => "cut",
            Self::CommittedDataMissing(_) => "committed_data_missing",
            Self::DamagedBlock { .. } => "damaged_block",
            Self::BlockRepaired { .. } => "block_repaired",
            Self::BlockNotRepaired { .. } => "block_not_repaired",
            Self::MasterRefused { .. } => "master_refused",
            Self::PeerRefused { .. } => "peer_refused",
        }
    }
}

impl fmt::Display for NodeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.name())?;
        if let Happening::Recovery(event) = &self.what {
            return write!(f, " {event}");
        }
        write!(f, " {:?}", self.what)
    }
}

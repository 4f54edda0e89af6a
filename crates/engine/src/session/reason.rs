//! The words of a session: what it may do, why it began, why it ended.

use std::fmt;

use moorline_types::{Epoch, Lsn, SessionId};

use crate::{
    budget::BudgetLimit,
    facts::Impossible,
    outcome::{CommittedDataMissing, RebuildReason},
};

/// What a session may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SessionKind {
    /// Ship records that the log retains.
    CatchUp,
    /// Replace the image.
    Rebuild,
}

/// Why a session began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The first assignment of this primary's reign.
    Bootstrap,
    /// An assignment added the replica.
    Assignment,
    /// An assignment moved the replica or raised the epoch.
    Reassignment,
    /// The link came back.
    Reconnect,
    /// An operator asked.
    Operator,
    /// The catch-up poller found it lagging.
    Poller,
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeFailure {
    /// No answer in time.
    Overdue,
    /// The replica knows a newer epoch.
    ReplicaAhead,
    /// The replica has not promised this epoch yet: its lease for another runs, or it restarted.
    NotPromised,
    /// Another store answered than the one that has the seat.
    WrongStore,
    /// The replica does not know the volume.
    UnknownVolume,
    /// The replica does not think that it is a member.
    NotMember,
    /// The replica's store failed.
    StoreFailed,
    /// The facts contradict each other.
    Impossible(Impossible),
    /// Committed data is missing.
    CommittedDataMissing(CommittedDataMissing),
}

/// What a pin holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PinKind {
    /// Records above an LSN.
    History,
    /// A checkpointed image and the records above it.
    Snapshot,
    /// The extents changed above an LSN.
    Delta,
    /// The whole committed image.
    FullBase,
}

/// A pin that was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinRefusal {
    /// What it was to hold.
    pub pin: PinKind,
    /// Where.
    pub lsn: Lsn,
    /// Why not.
    pub reason: PinRefusedReason,
}

/// Why a pin was not given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PinRefusedReason {
    /// What it was to hold is gone already.
    Reclaimed,
    /// What it was to hold is not there.
    AboveHead,
    /// The log is too full for further holds.
    LogFull,
    /// There are as many pins as are allowed.
    TooMany,
    /// The store failed.
    StoreFailed,
}

/// Why a session is no longer live though it did not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// The link is gone.
    LinkLost,
    /// The peer is silent.
    PeerSilent,
    /// The epoch moved on.
    EpochChanged {
        /// To here.
        to: Epoch,
    },
    /// The replica moved.
    EndpointChanged,
    /// Another session took its place.
    Superseded {
        /// That one.
        by: SessionId,
    },
    /// The replica is assigned no longer.
    SenderStopped,
    /// Somebody asked.
    Cancelled,
    /// The handshake came to nothing.
    Handshake(HandshakeFailure),
    /// The replica needs what this session may not do.
    NeedsRebuild(RebuildReason),
    /// A pin was not given.
    PinRefused(PinRefusal),
    /// A pin was taken back.
    PinBroken {
        /// What it held.
        pin: PinKind,
        /// Where.
        lsn: Lsn,
    },
    /// Records could not be read back.
    ReadFailed,
    /// Whoever carried out its plan panicked.
    ExecutorPanicked,
    /// The cut was not recorded in time.
    TruncationOverdue,
    /// The join did not complete in time.
    JoinOverdue,
    /// The budget ran out.
    Budget(BudgetLimit),
}

impl Invalidation {
    /// Whether the attempt failed by what it found, rather than being ended from outside.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::Handshake(_)
            | Self::NeedsRebuild(_)
            | Self::PinRefused(_)
            | Self::ReadFailed
            | Self::ExecutorPanicked
            | Self::TruncationOverdue
            | Self::JoinOverdue
            | Self::Budget(_) => true,
            Self::LinkLost
            | Self::PeerSilent
            | Self::EpochChanged { .. }
            | Self::EndpointChanged
            | Self::Superseded { .. }
            | Self::SenderStopped
            | Self::Cancelled
            | Self::PinBroken { .. } => false,
        }
    }
}

/// Which proof was missing when somebody called a session complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompletionRejected {
    /// The facts were not judged yet.
    #[error("the handshake is not answered")]
    NoHandshake,
    /// The cut is not recorded.
    #[error("the cut through {required} is not recorded")]
    TruncationNotRecorded {
        /// The cut.
        required: Lsn,
    },
    /// The frontier is below the target.
    #[error("recovered to {recovered_to} of {target}")]
    TargetNotReached {
        /// The proven frontier.
        recovered_to: Lsn,
        /// The frozen target.
        target: Lsn,
    },
    /// The replica is not bound to the live stream.
    #[error("not bound to the live stream")]
    NotJoined,
    /// The base is not whole.
    #[error("{laid} of {total} extents are laid")]
    BaseNotWhole {
        /// Extents laid.
        laid: u64,
        /// Extents to lay.
        total: u64,
    },
}

impl fmt::Display for SessionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CatchUp => "catch_up",
            Self::Rebuild => "rebuild",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bootstrap => "bootstrap",
            Self::Assignment => "assignment",
            Self::Reassignment => "reassignment",
            Self::Reconnect => "reconnect",
            Self::Operator => "operator",
            Self::Poller => "poller",
        })
    }
}

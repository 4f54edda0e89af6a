//! How replicas are counted, and why.

use std::fmt;

use crate::{budget::BudgetLimit, outcome::RebuildReason, session::PinKind};

/// How a replica is counted: each in exactly one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bucket {
    /// No session.
    Disconnected,
    /// A session waits for its link or for the replica's facts.
    Connecting,
    /// Records of the past flow, or the divergent tail is being cut.
    CatchingUp,
    /// The image is being replaced.
    Rebuilding,
    /// It is being bound to the live stream.
    Joining,
    /// Proven.
    InSync,
    /// Out of the ack path.
    Degraded,
    /// Only a rebuild helps.
    NeedsRebuild,
    /// Assigned no longer.
    Stopped,
}

/// Why a replica is out of the ack path though its link may stand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DegradedReason {
    /// It does not answer.
    Silent,
    /// What it says cannot be.
    ImpossibleFacts,
    /// It knows of committed data that the primary does not have.
    CommittedDataMissing,
    /// Its budget ran out.
    Budget(BudgetLimit),
    /// Its join did not complete in time.
    JoinOverdue,
    /// The records that it needed were given up because the log is full.
    PinBroken(PinKind),
}

/// Why only a rebuild helps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NeedsRebuildReason {
    /// By its facts.
    Verdict(RebuildReason),
    /// It cannot converge within its budget.
    Budget(BudgetLimit),
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::CatchingUp => "catching_up",
            Self::Rebuilding => "rebuilding",
            Self::Joining => "joining",
            Self::InSync => "in_sync",
            Self::Degraded => "degraded",
            Self::NeedsRebuild => "needs_rebuild",
            Self::Stopped => "stopped",
        })
    }
}

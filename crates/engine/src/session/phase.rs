//! Where a session stands.

use std::fmt;

use moorline_types::{Instant, Lsn, LsnRange};

use super::{
    CatchingUp, Invalidation, Joining, RebuildJoining, Replaying, Transferring, Truncating,
};

/// Where a session stands, with what matters there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Made, nothing asked yet.
    Init,
    /// Waiting for a link.
    Connecting,
    /// Waiting for the replica's facts.
    Handshake {
        /// When they were asked for.
        since: Instant,
    },
    /// The facts are judged; waiting for the plan's pins, which come within the same turn.
    Planned(Planned),
    /// Waiting for the cut.
    Truncating(Truncating),
    /// Shipping retained records.
    CatchingUp(CatchingUp),
    /// Binding to the live stream and proving it.
    Joining(Joining),
    /// A rebuild's source is chosen; waiting for its pins.
    SourceSelected {
        /// B: the base holds everything through here.
        base: Lsn,
        /// Extents to lay.
        extents: u64,
    },
    /// A rebuild binds to the live stream, before its base is laid.
    RebuildJoining(RebuildJoining),
    /// Laying the base.
    Transferring(Transferring),
    /// The base is whole; its log is not yet durable through the target.
    Replaying(Replaying),
    /// Proven.
    Completed {
        /// What the replica had proved durable.
        recovered_to: Lsn,
    },
    /// Over.
    Invalidated(Invalidation),
}

/// A catch-up that waits for its pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Cut to here first.
    pub truncate: Option<Lsn>,
    /// What to ship.
    pub range: LsnRange,
}

/// A phase without its data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PhaseName {
    /// See [`Phase::Init`].
    Init,
    /// See [`Phase::Connecting`].
    Connecting,
    /// See [`Phase::Handshake`] and [`Phase::Planned`].
    Handshake,
    /// See [`Phase::Truncating`].
    Truncating,
    /// See [`Phase::CatchingUp`].
    CatchingUp,
    /// See [`Phase::SourceSelected`].
    SourceSelected,
    /// See [`Phase::Joining`] and [`Phase::RebuildJoining`].
    Joining,
    /// See [`Phase::Transferring`].
    Transferring,
    /// See [`Phase::Replaying`].
    Replaying,
    /// See [`Phase::Completed`].
    Completed,
    /// See [`Phase::Invalidated`].
    Invalidated,
}

impl Phase {
    /// Whether a hold on storage may be live for it.
    pub(crate) const fn holds_pins(&self) -> bool {
        match self {
            Self::Planned(_)
            | Self::Truncating(_)
            | Self::CatchingUp(_)
            | Self::Joining(_)
            | Self::SourceSelected { .. }
            | Self::RebuildJoining(_)
            | Self::Transferring(_)
            | Self::Replaying(_) => true,
            Self::Init
            | Self::Connecting
            | Self::Handshake { .. }
            | Self::Completed { .. }
            | Self::Invalidated(_) => false,
        }
    }

    /// Whether a bound plan is being carried out.
    pub(crate) const fn is_executing(&self) -> bool {
        match self {
            Self::Truncating(_)
            | Self::CatchingUp(_)
            | Self::Joining(_)
            | Self::RebuildJoining(_)
            | Self::Transferring(_)
            | Self::Replaying(_) => true,
            Self::Init
            | Self::Connecting
            | Self::Handshake { .. }
            | Self::Planned(_)
            | Self::SourceSelected { .. }
            | Self::Completed { .. }
            | Self::Invalidated(_) => false,
        }
    }

    /// The phase's name.
    #[must_use]
    pub const fn name(&self) -> PhaseName {
        match self {
            Self::Init => PhaseName::Init,
            Self::Connecting => PhaseName::Connecting,
            Self::Handshake { .. } | Self::Planned(_) => PhaseName::Handshake,
            Self::Truncating(_) => PhaseName::Truncating,
            Self::CatchingUp(_) => PhaseName::CatchingUp,
            Self::SourceSelected { .. } => PhaseName::SourceSelected,
            Self::Joining(_) | Self::RebuildJoining(_) => PhaseName::Joining,
            Self::Transferring(_) => PhaseName::Transferring,
            Self::Replaying(_) => PhaseName::Replaying,
            Self::Completed { .. } => PhaseName::Completed,
            Self::Invalidated(_) => PhaseName::Invalidated,
        }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Connecting => "connecting",
            Self::Handshake => "handshake",
            Self::Truncating => "truncating",
            Self::CatchingUp => "catching_up",
            Self::SourceSelected => "source_selected",
            Self::Joining => "joining",
            Self::Transferring => "transferring",
            Self::Replaying => "replaying",
            Self::Completed => "completed",
            Self::Invalidated => "invalidated",
        })
    }
}

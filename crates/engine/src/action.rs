//! Everything the engine may ask for.

use moorline_types::{Lsn, LsnRange, ServerId};

use crate::{
    outcome::CommittedDataMissing,
    planner::Plan,
    recovery_log::{RecoveryEvent, ReleaseCause},
    sender::{Bucket, Endpoint, NeedsRebuildReason},
    session::{Cause, PhaseName, SessionKind, SessionStamp},
};

/// One request about one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directed {
    /// Whom it concerns.
    pub replica: ServerId,
    /// What is asked for.
    pub action: Action,
}

/// The buffer that `handle` pushes into; carried out in order.
pub type Actions = Vec<Directed>;

/// A request of the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// See to it that a link to the replica's server exists; then tell `Event::LinkUp`. When it
    /// exists already, tell at once.
    Connect {
        /// Where the replica is.
        endpoint: Endpoint,
        /// For whom.
        stamp: SessionStamp,
    },
    /// Ask the replica for its facts; the answer is `Fact::HandshakeAnswered` with a snapshot of
    /// the primary's facts taken when the answer is handled, not when this was sent.
    SendHandshake {
        /// For whom; carried in the message.
        stamp: SessionStamp,
        /// What the session may do.
        kind: SessionKind,
        /// Why it began.
        cause: Cause,
    },
    /// Acquire all that the plan needs and answer `Fact::PlanBound`, or nothing at all and answer
    /// `Fact::PinRefused`, before any other event is handled: the plan was made from this
    /// instant's facts.
    BindPlan(Plan),
    /// Have the replica cut its log to exactly `through`. Until `Fact::TruncationRecorded`
    /// nothing it reported above counts.
    SendTruncate {
        /// For whom.
        stamp: SessionStamp,
        /// The last record that stays.
        through: Lsn,
    },
    /// Ship the records of `range` in order on the replica's stream.
    StartShipping {
        /// For whom.
        stamp: SessionStamp,
        /// `(after, through]`; the end is frozen.
        range: LsnRange,
    },
    /// Bind the replica to the live stream under the ordering point: ship what lies above `after`
    /// without a gap, let live records follow on the same stream, and tell `Fact::Joined` with the
    /// head at the instant of binding. From then on the replica is required for every later LSN.
    /// When records above `after` are no longer retained, answer `Fact::PinRefused` instead.
    Join {
        /// For whom.
        stamp: SessionStamp,
        /// The last record that the session already shipped, or that the replica held.
        after: Lsn,
    },
    /// The replica proved durable through the join point: have its membership of the in-sync set
    /// recorded, then tell `Fact::InSyncRecorded`. Asked once; whoever carries it out asks the
    /// master again for as long as there is no answer.
    RequestGrowth {
        /// For whom.
        stamp: SessionStamp,
        /// The join point.
        join_point: Lsn,
        /// What the replica proved durable, at or above the join point.
        frontier: Lsn,
    },
    /// Bind a replica that is being rebuilt to the live stream under the ordering point: ship
    /// `(base, head]` with the log pinned at `base` until that is received, let live records follow,
    /// and tell `Fact::Joined`.
    JoinForRebuild {
        /// For whom.
        stamp: SessionStamp,
        /// B: the LSN of the base.
        base: Lsn,
    },
    /// Lay the base under the joined stream, as the bound plan says, and not before.
    StartBase {
        /// For whom.
        stamp: SessionStamp,
    },
    /// The replica proved that more is committed than this side knew; its record is in our log.
    RaiseCommitted {
        /// Committed through here.
        through: Lsn,
    },
    /// Stop whatever works for this session and drop its pins. Harmless when nothing does.
    Release {
        /// Whose.
        stamp: SessionStamp,
        /// What the release event says.
        cause: ReleaseCause,
    },
    /// Tell the replica that only a rebuild helps.
    TellNeedsRebuild {
        /// For whom.
        stamp: SessionStamp,
        /// Why.
        reason: NeedsRebuildReason,
    },
    /// Committed data is missing: stop admitting on this volume, tell the replica, raise the alarm.
    StopVolume(CommittedDataMissing),
    /// A session went from one phase to another.
    Transitioned {
        /// Whose.
        stamp: SessionStamp,
        /// From.
        from: PhaseName,
        /// To.
        to: PhaseName,
    },
    /// The replica is counted in another bucket. One that leaves `InSync` gets no further records
    /// on the stream of the session that brought it there; another session has to begin.
    Moved {
        /// From.
        from: Bucket,
        /// To.
        to: Bucket,
    },
    /// Put this into the recovery log.
    Emit(RecoveryEvent),
}

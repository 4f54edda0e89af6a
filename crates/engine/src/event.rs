//! Everything the world may tell the engine about one replica, and what it answers.

use moorline_types::{Epoch, Lsn, SessionId};

use crate::{
    facts::{PrimaryFacts, ReplicaFacts},
    fence::Fenced,
    planner::RebuildFacts,
    sender::Endpoint,
    session::{
        Cause, CompletionRejected, HandshakeFailure, PhaseName, PinKind, PinRefusal, SessionKind,
        SessionStamp,
    },
};

/// A fact about one replica. Facts that name a session pass its authority check first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// Somebody wants a recovery attempt (assignment, operator, poller).
    SessionRequested {
        /// An id that was never used; it is the attempt's if one begins.
        fresh: SessionId,
        /// What it may do.
        kind: SessionKind,
        /// Why.
        cause: Cause,
    },
    /// Like a request, but a live attempt gives way to it.
    SessionReplaced {
        /// An id that was never used.
        fresh: SessionId,
        /// What it may do.
        kind: SessionKind,
        /// Why.
        cause: Cause,
    },
    /// A link to the replica's server stands. Begins an attempt when none is live.
    LinkUp {
        /// An id that was never used; taken only when an attempt begins.
        fresh: SessionId,
        /// Why, when an attempt begins.
        cause: Cause,
    },
    /// The link is gone. Told before the next `LinkUp`.
    LinkLost,
    /// Its oldest unanswered request is too old.
    PeerSilent,
    /// An assignment or a promise request raised the epoch.
    EpochRaised {
        /// To here.
        to: Epoch,
    },
    /// The replica is elsewhere.
    EndpointChanged(Endpoint),
    /// The replica is assigned no longer.
    StopRequested,
    /// A deadline that `next_deadline` named has come. Data of the same instant goes first.
    DeadlineReached,
    /// A fact within one session.
    Session {
        /// Which.
        stamp: SessionStamp,
        /// What.
        fact: Fact<'a>,
    },
}

/// A fact within one session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact<'a> {
    /// The replica answered the handshake; both sides' facts, as of now.
    HandshakeAnswered {
        /// The primary's own, in one snapshot.
        primary: PrimaryFacts<'a>,
        /// The replica's.
        replica: ReplicaFacts<'a>,
    },
    /// The replica answered the handshake of a rebuild session.
    RebuildOffered(RebuildFacts),
    /// The replica refused the handshake.
    HandshakeRefused(HandshakeFailure),
    /// Everything the plan needs is held.
    PlanBound,
    /// Something the plan needs was refused; nothing is held.
    PinRefused(PinRefusal),
    /// A pin of this session was broken because the log is full. Refused where none is held.
    PinBroken {
        /// What it held.
        pin: PinKind,
        /// Where.
        lsn: Lsn,
    },
    /// The replica's log durably ends at `through`.
    TruncationRecorded {
        /// Its last record.
        through: Lsn,
    },
    /// The replica's log is durable through `flushed`, a contiguous prefix. Within a rebuild only the
    /// log that this session itself began, above its base, is meant: what the replica held before
    /// says nothing.
    Acknowledged {
        /// Its durable frontier.
        flushed: Lsn,
        /// The primary's head now: nothing above it can be the primary's record.
        head: Lsn,
    },
    /// The replica is bound to the live stream.
    Joined {
        /// The primary's head at the instant of binding.
        join_point: Lsn,
    },
    /// The replica's membership of the in-sync set is recorded.
    InSyncRecorded,
    /// So many extents of the base are durable at the replica, from the first on.
    ExtentsLaid {
        /// The cursor: a count, strictly forward.
        extents: u64,
    },
    /// The base is whole at the replica.
    BaseWhole {
        /// The source's committed point now: the target.
        committed: Lsn,
    },
    /// What the session was to ship could not be read back.
    ReadFailed,
    /// Whoever carried out its plan panicked; what it held is released.
    ExecutorPanicked,
    /// Somebody wants the session ended.
    CancelRequested,
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Answer {
    /// It was taken in.
    Done,
    /// It was known already; nothing changed.
    Unchanged(Known),
    /// It was refused; nothing changed.
    Refused(Refusal),
}

/// Why an event changed nothing though nothing is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Said before.
    Duplicate,
    /// Frontier or cursor at or below what was known.
    StaleProgress,
    /// A timer that has nothing to end any more.
    StaleTimer,
    /// There was nothing to end.
    NothingToEnd,
}

/// Why an event was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The sender is stopped for good.
    #[error("the sender is stopped")]
    Stopped,
    /// No session was ever there.
    #[error("there is no session")]
    NoSession,
    /// Another session's id.
    #[error("session {got} was named, but the latest is {have}")]
    OtherSession {
        /// The latest session.
        have: SessionId,
        /// The one that was named.
        got: SessionId,
    },
    /// The session is no longer live.
    #[error("the session is {phase}")]
    SessionEnded {
        /// How it ended.
        phase: PhaseName,
    },
    /// The epoch fence.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// Not in this phase.
    #[error("not while {phase}")]
    WrongPhase {
        /// The session's phase.
        phase: PhaseName,
    },
    /// A call of the other kind of session.
    #[error("not in a session of kind {kind}")]
    WrongKind {
        /// The session's kind.
        kind: SessionKind,
    },
    /// A session is live already.
    #[error("session {id} is live")]
    SessionLive {
        /// Which.
        id: SessionId,
    },
    /// Session ids ascend for ever; this one does not.
    #[error("session id {got} is not above {have}")]
    SessionIdReused {
        /// The highest seen.
        have: SessionId,
        /// The one that was named.
        got: SessionId,
    },
    /// Only a rebuild may begin.
    #[error("the replica needs a rebuild")]
    NeedsRebuild,
    /// A rebuild was asked for that nothing calls for.
    #[error("the replica does not need a rebuild")]
    NoRebuildNeeded,
    /// It is in sync.
    #[error("the replica is in sync")]
    AlreadyInSync,
    /// A frontier that the peer cannot have.
    #[error("the peer reports {flushed} durable, but the head is {head}")]
    PastHead {
        /// What it reported.
        flushed: Lsn,
        /// The primary's head.
        head: Lsn,
    },
    /// A cut at another place than the one required.
    #[error("the log was cut through {got}, not through {required}")]
    WrongTruncation {
        /// What was asked for.
        required: Lsn,
        /// What was done.
        got: Lsn,
    },
    /// A join point below what the session already shipped, or below its base.
    #[error("join point {join_point} lies below {shipped}, which was shipped before")]
    JoinBelowShipped {
        /// The join point.
        join_point: Lsn,
        /// Shipped before the join.
        shipped: Lsn,
    },
    /// Completion without proof.
    #[error("completion without proof: {0}")]
    CompletionRejected(CompletionRejected),
    /// A base that became whole at a committed point below the one that it began at.
    #[error("the base is of {base}, but only {committed} is said to be committed")]
    TargetBelowBase {
        /// B.
        base: Lsn,
        /// What was said to be committed now.
        committed: Lsn,
    },
    /// More extents than the base has.
    #[error("{extents} extents were laid of a base of {total}")]
    PastBase {
        /// What was reported.
        extents: u64,
        /// What there is.
        total: u64,
    },
    /// An endpoint version below the known one.
    #[error("endpoint version {got} is stale: {have} is known")]
    StaleEndpoint {
        /// The known version.
        have: u64,
        /// The one that came.
        got: u64,
    },
    /// Epoch, endpoint and end of a sender are decided for all senders at once: see
    /// `Registry::apply` and `Registry::raise_epoch`.
    #[error("only an assignment or a promise says that")]
    NotForOne,
    /// One endpoint version with two addresses.
    #[error("endpoint version {version} names two addresses")]
    EndpointConflict {
        /// The version.
        version: u64,
    },
}

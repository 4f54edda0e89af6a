//! What a step answers.

use moorline_engine::{BudgetLimit, Phase, Refusal, ReleaseCause, Sender, Session, SessionStamp};
use moorline_types::{BlockIndex, Lsn};

use crate::{ports::BaseReadError, turn::Turn};

/// What became of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum StepOutcome {
    /// Records went out; more can follow at once.
    Shipped {
        /// The last record that went out so far.
        through: Lsn,
    },
    /// Nothing to do until something comes back.
    Waiting(Waiting),
    /// Everything through the head went out: [`hand_over`](crate::CatchUp::hand_over) now, before
    /// the next record is ordered.
    AtHead {
        /// The head.
        head: Lsn,
    },
    /// The lag did not shrink over many rounds: slow the writers, or cancel; by policy.
    NotConverging(Lag),
    /// The execution is over, by this step. Its pin is dropped, its session is not live any more,
    /// and the one release event is among the turn's requests.
    Ended(Released),
    /// The execution was over before; nothing was done.
    Refused(ReleaseCause),
}

/// What became of one step of a rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum RebuildOutcome {
    /// Records went out; more can follow at once.
    Shipped {
        /// The last record that went out so far.
        through: Lsn,
    },
    /// Extents of the base went out; more can follow at once.
    Sent {
        /// How many so far, from the first on.
        extents: u64,
    },
    /// Nothing to do until something comes back.
    Waiting(Waiting),
    /// Everything through the head went out: [`hand_over`](crate::Rebuild::hand_over) now, before
    /// the next record is ordered, and tell the session.
    AtHead {
        /// The head.
        head: Lsn,
    },
    /// The lag did not shrink over many rounds: slow the writers, or cancel; by policy.
    NotConverging(Lag),
    /// Every extent is durable at the replica, and the session was told.
    BaseWhole {
        /// What its log has to be durable through.
        target: Lsn,
    },
    /// The execution is over, by this step. Its pin is dropped, its session is not live any more,
    /// and the one release event is among the turn's requests.
    Ended(Released),
    /// The execution was over before; nothing was done.
    Refused(ReleaseCause),
}

/// What an execution waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Waiting {
    /// The replica has not recorded its cut: nothing may be shipped yet.
    Cut,
    /// A read was submitted.
    Read,
    /// As many bytes are on their way as are allowed.
    Window,
    /// The target went out; the replica has yet to prove it.
    Proof,
    /// Live records follow by themselves.
    Live,
    /// A read of the base was submitted.
    Base,
    /// As much of the base is on its way as is allowed, or all of it: until it is durable.
    Laid,
}

/// How far a replica is behind a head that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Records ordered but not shipped.
    pub records: u64,
    /// Rounds in a row in which that did not shrink.
    pub rounds: u32,
}

/// The end of an execution. Its event is among the turn's requests, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// Whose execution.
    pub stamp: SessionStamp,
    /// Why it ended.
    pub cause: ReleaseCause,
}

/// What became of handing over to the live stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum HandOver {
    /// The next record ordered follows on the stream by itself: this is the join point.
    At(Lsn),
    /// Not everything went out yet.
    Behind(Lag),
    /// It was handed over before, here.
    Already(Lsn),
    /// The execution is over.
    Refused(ReleaseCause),
}

/// What became of winding the stream back for a replica that lacks a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Rewind {
    /// Shipping goes on after this record. When live records followed already, they must not any
    /// longer: hand over again.
    To(Lsn),
    /// The replica lacks a record that it proved durable: the session's facts no longer hold.
    BelowProven {
        /// What it proved.
        proven: Lsn,
    },
    /// It asks for what has not gone out: nothing to wind back.
    Nothing,
    /// The execution is over.
    Refused(ReleaseCause),
}

/// Why records that came back were not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordsRefused {
    /// No read was submitted, or it was given up since.
    #[error("no read is in flight")]
    NoRead,
    /// Not the records that were asked for.
    #[error("records from {got:?} came back instead of those after {wanted}")]
    NotContiguous {
        /// Shipped through here.
        wanted: Lsn,
        /// The first record that came.
        got: Option<Lsn>,
    },
    /// The execution is over.
    #[error("the execution is over")]
    Over,
}

/// Why a piece of a base was not taken. But for the last two, the execution ends with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BaseRefused {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] BaseReadError),
    /// No extent at all, or more than were asked for.
    #[error("{got} extents came back instead of 1 to {wanted}")]
    Count {
        /// The most that were asked for.
        wanted: u64,
        /// What came.
        got: u64,
    },
    /// An extent or a block at another place than where the base goes on.
    #[error("block {got} came back where the base goes on at {next}")]
    Misplaced {
        /// Where it goes on.
        next: BlockIndex,
        /// What came.
        got: BlockIndex,
    },
    /// The image of another time than the plan bound.
    #[error("an extent as of {as_of} is none of a base of {base}, with {committed} committed")]
    OtherTime {
        /// B.
        base: Lsn,
        /// The source's committed point.
        committed: Lsn,
        /// What came.
        as_of: Lsn,
    },
    /// A block that was changed later than its extent was read.
    #[error("block {block} was changed by {lsn} in an extent as of {as_of}")]
    FromTheFuture {
        /// The block.
        block: BlockIndex,
        /// Who changed it last.
        lsn: Lsn,
        /// Its extent's time.
        as_of: Lsn,
    },
    /// A block that has not the size of one.
    #[error("block {block} came with another payload than one block")]
    NotOneBlock {
        /// The block.
        block: BlockIndex,
    },
    /// No read was submitted.
    #[error("no read is in flight")]
    NoRead,
    /// The execution is over.
    #[error("the execution is over")]
    Over,
}

/// Why a replica's word about its base was not taken; nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LaidRefused {
    /// So many never went out.
    #[error("{extents} extents are said to be durable, but {sent} were sent")]
    NotSent {
        /// What the replica said.
        extents: u64,
        /// What was sent.
        sent: u64,
    },
    /// Another replica's sender was shown, or none.
    #[error("it is not this replica's sender that was shown")]
    OtherReplica,
    /// The execution is over.
    #[error("the execution is over: {0:?}")]
    Over(ReleaseCause),
}

/// Why a session may not be worked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Halt {
    /// Another replica's sender was shown: session ids of two volumes may be equal.
    OtherReplica,
    Authority(Refusal),
    Budget(BudgetLimit),
}

impl Halt {
    /// The cause as the release event says it: the session's own words where it has some.
    pub(crate) fn cause(self, turn: &Turn<'_>, stamp: SessionStamp) -> ReleaseCause {
        let refusal = match self {
            Self::Budget(limit) => return ReleaseCause::BudgetExceeded(limit),
            Self::OtherReplica => return ReleaseCause::SessionEnded,
            Self::Authority(refusal) => refusal,
        };
        let session = turn.sender.as_deref().and_then(Sender::session);
        let session = session.filter(|session| session.stamp() == stamp);
        match session.map(Session::phase) {
            Some(Phase::Invalidated(why)) => return (*why).into(),
            // The last proof came before the request to release was carried out.
            Some(Phase::Completed { .. }) => return ReleaseCause::Completed,
            Some(
                Phase::Init
                | Phase::Connecting
                | Phase::Handshake { .. }
                | Phase::Planned(_)
                | Phase::Truncating(_)
                | Phase::CatchingUp(_)
                | Phase::Joining(_)
                | Phase::SourceSelected { .. }
                | Phase::RebuildJoining(_)
                | Phase::Transferring(_)
                | Phase::Replaying(_),
            )
            | None => {}
        }
        match refusal {
            Refusal::Fenced(_) => ReleaseCause::Fenced,
            Refusal::Stopped
            | Refusal::NoSession
            | Refusal::OtherSession { .. }
            | Refusal::SessionEnded { .. }
            | Refusal::WrongPhase { .. }
            | Refusal::WrongKind { .. }
            | Refusal::SessionLive { .. }
            | Refusal::SessionIdReused { .. }
            | Refusal::NeedsRebuild
            | Refusal::NoRebuildNeeded
            | Refusal::AlreadyInSync
            | Refusal::PastHead { .. }
            | Refusal::WrongTruncation { .. }
            | Refusal::JoinBelowShipped { .. }
            | Refusal::CompletionRejected(_)
            | Refusal::TargetBelowBase { .. }
            | Refusal::PastBase { .. }
            | Refusal::NotForOne
            | Refusal::StaleEndpoint { .. }
            | Refusal::EndpointConflict { .. } => ReleaseCause::SessionEnded,
        }
    }
}

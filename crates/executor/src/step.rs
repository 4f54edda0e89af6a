//! What a step answers.

use moorline_engine::{BudgetLimit, Phase, Refusal, ReleaseCause, Sender, Session, SessionStamp};
use moorline_types::Lsn;

use crate::turn::Turn;

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
                | Phase::RebuildJoining { .. }
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
            | Refusal::PastBase { .. }
            | Refusal::NotForOne
            | Refusal::StaleEndpoint { .. }
            | Refusal::EndpointConflict { .. } => ReleaseCause::SessionEnded,
        }
    }
}

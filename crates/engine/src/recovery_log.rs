//! The event stream of every recovery: logs, metrics, operators and tests read the same one.
//!
//! A whole catch-up reads: `sender_added`, `session_created`, `connected`, `handshake`,
//! `plan_catchup`, `exec_started`, [`truncation_recorded`,] `progress`..., `joined`, `completed`,
//! `resources_released`. A whole rebuild: `session_created`, `connected`, `handshake`,
//! `plan_rebuild_*`, `exec_started`, `joined`, `progress`..., `base_whole`, [`progress`...,]
//! `completed`, `resources_released`. `tables/stories.txt` has all paths in full.

use std::{collections::VecDeque, fmt};

use moorline_types::{Epoch, Instant, Lsn, LsnRange, ServerId, SessionId};

use crate::{
    budget::BudgetLimit,
    outcome::Proof,
    planner::{RebuildFacts, RebuildSource, Unavailable},
    sender::{DegradedReason, NeedsRebuildReason},
    session::{
        Cause, CompletionRejected, HandshakeFailure, Invalidation, PinKind, PinRefusal,
        SessionKind, SessionStamp,
    },
};

/// One thing that happened in the recovery of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryEvent {
    /// When, by the clock of whoever drives the engine.
    pub at: Instant,
    /// The replica.
    pub replica: ServerId,
    /// The session it belongs to; `None` for what concerns the sender.
    pub session: Option<SessionId>,
    /// The epoch this side was in.
    pub epoch: Epoch,
    /// What.
    pub what: What,
}

impl RecoveryEvent {
    /// An execution gave back all that it held.
    #[must_use]
    pub fn released(
        at: Instant,
        replica: &ServerId,
        stamp: SessionStamp,
        cause: ReleaseCause,
    ) -> Self {
        Self {
            at,
            replica: replica.clone(),
            session: Some(stamp.session),
            epoch: stamp.epoch,
            what: What::ResourcesReleased(cause),
        }
    }
}

/// What happened. The names reach the operator unchanged, see [`What::name`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A member was assigned.
    SenderAdded,
    /// A member is assigned no longer.
    SenderRemoved,
    /// A recovery attempt began.
    SessionCreated {
        /// What it may do.
        kind: SessionKind,
        /// Why it began.
        cause: Cause,
    },
    /// Another attempt took this one's place.
    SessionSuperseded {
        /// The attempt that did.
        by: SessionId,
    },
    /// The attempt was ended from outside.
    SessionInvalidated(Invalidation),
    /// The attempt failed by what it found.
    SessionFailed(Invalidation),
    /// The link is up.
    Connected,
    /// The replica's facts arrived and were judged.
    Handshake(Proof),
    /// The replica answered the handshake of a rebuild; both sides' facts.
    RebuildOffered(RebuildFacts),
    /// The replica refused the handshake, or did not answer.
    HandshakeFailed(HandshakeFailure),
    /// It lacks nothing.
    PlanZeroGap,
    /// It lacks nothing once its divergent tail is cut.
    PlanTruncateOnly {
        /// The exact last record that stays.
        through: Lsn,
    },
    /// It lacks records that the log retains.
    PlanCatchUp {
        /// From its durable frontier through the frozen target.
        range: LsnRange,
    },
    /// Its image is rebuilt.
    PlanRebuild {
        /// From what.
        source: RebuildSource,
        /// Which cheaper sources were refused, and why.
        refused: Vec<Unavailable>,
    },
    /// Everything that the plan needs is held: its execution begins, with the cut if one is needed.
    ExecStarted,
    /// The durable frontier of the replica moved forward.
    Progress {
        /// Through here, clamped to the target.
        recovered_to: Lsn,
        /// The frozen target.
        target: Lsn,
    },
    /// The base transfer moved forward.
    BaseProgress {
        /// Extents laid.
        extents: u64,
        /// Extents to lay.
        extents_total: u64,
    },
    /// The base is whole at the replica; records through the target may still be missing.
    BaseWhole {
        /// The source's committed point now.
        target: Lsn,
    },
    /// The divergent tail is gone, durably.
    TruncationRecorded {
        /// The last record that stayed.
        through: Lsn,
    },
    /// The replica is bound to the live stream.
    Joined {
        /// Every record above is required of it.
        join_point: Lsn,
    },
    /// Both proofs are there: durable through the join point, and recorded.
    Completed {
        /// What the replica had proved durable.
        recovered_to: Lsn,
    },
    /// It was in sync, and is no longer.
    InSyncEnded(Invalidation),
    /// It was degraded, and is merely disconnected now.
    DegradedEnded(Invalidation),
    /// Somebody called it complete without proof.
    CompletionRejected(CompletionRejected),
    /// A hold on storage was not given.
    PinRefused(PinRefusal),
    /// A hold on storage was taken back because the log is full.
    PinBroken {
        /// What it held.
        pin: PinKind,
        /// Where.
        lsn: Lsn,
    },
    /// The budget of a session ran out.
    BudgetEscalated(BudgetLimit),
    /// The replica cannot converge by itself.
    Escalated(Escalated),
    /// A plan was dropped before it was carried out.
    PlanCancelled,
    /// An execution gave back all it held; exactly once per execution.
    ResourcesReleased(ReleaseCause),
}

/// Where an escalation leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Escalated {
    /// Only a completed rebuild helps.
    NeedsRebuild(NeedsRebuildReason),
    /// Out of the ack path until a new session succeeds.
    Degraded(DegradedReason),
}

/// Why an execution ended and gave back what it held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseCause {
    /// It did what it was for.
    Completed,
    /// Its session ended.
    SessionEnded,
    /// The epoch moved on.
    Fenced,
    /// Its budget ran out.
    BudgetExceeded(BudgetLimit),
    /// Records could not be read back.
    ReadFailed,
    /// The link to the replica is gone.
    LinkLost,
    /// The pin was taken back.
    PinBroken,
    /// Somebody asked it to stop.
    Cancelled,
    /// Whoever carried it out panicked.
    Panicked,
}

impl From<Invalidation> for ReleaseCause {
    fn from(why: Invalidation) -> Self {
        match why {
            Invalidation::LinkLost => Self::LinkLost,
            Invalidation::EpochChanged { .. } => Self::Fenced,
            Invalidation::Budget(limit) => Self::BudgetExceeded(limit),
            Invalidation::PinBroken { .. } => Self::PinBroken,
            Invalidation::Cancelled => Self::Cancelled,
            Invalidation::ReadFailed => Self::ReadFailed,
            Invalidation::ExecutorPanicked => Self::Panicked,
            Invalidation::PeerSilent
            | Invalidation::EndpointChanged
            | Invalidation::Superseded { .. }
            | Invalidation::SenderStopped
            | Invalidation::Handshake(_)
            | Invalidation::NeedsRebuild(_)
            | Invalidation::PinRefused(_)
            | Invalidation::TruncationOverdue
            | Invalidation::JoinOverdue => Self::SessionEnded,
        }
    }
}

impl What {
    /// The event's name, as operators and tests see it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SenderAdded => "sender_added",
            Self::SenderRemoved => "sender_removed",
            Self::SessionCreated { .. } => "session_created",
            Self::SessionSuperseded { .. } => "session_superseded",
            Self::SessionInvalidated(_) => "session_invalidated",
            Self::SessionFailed(_) => "session_failed",
            Self::Connected => "connected",
            Self::Handshake(_) | Self::RebuildOffered(_) => "handshake",
            Self::HandshakeFailed(_) => "handshake_failed",
            Self::PlanZeroGap => "plan_zero_gap",
            Self::PlanTruncateOnly { .. } => "plan_truncate_only",
            Self::PlanCatchUp { .. } => "plan_catchup",
            Self::PlanRebuild { source, .. } => match source {
                RebuildSource::SnapshotTail { .. } => "plan_rebuild_snapshot_tail",
                RebuildSource::Delta { .. } => "plan_rebuild_delta",
                RebuildSource::FullBase { .. } => "plan_rebuild_full_base",
            },
            Self::ExecStarted => "exec_started",
            Self::Progress { .. } | Self::BaseProgress { .. } => "progress",
            Self::BaseWhole { .. } => "base_whole",
            Self::TruncationRecorded { .. } => "truncation_recorded",
            Self::Joined { .. } => "joined",
            Self::Completed { .. } => "completed",
            Self::InSyncEnded(_) => "in_sync_ended",
            Self::DegradedEnded(_) => "degraded_ended",
            Self::CompletionRejected(_) => "completion_rejected",
            Self::PinRefused(_) => "pin_refused",
            Self::PinBroken { .. } => "pin_broken",
            Self::BudgetEscalated(_) => "budget_escalated",
            Self::Escalated(_) => "escalated",
            Self::PlanCancelled => "plan_cancelled",
            Self::ResourcesReleased(_) => "resources_released",
        }
    }
}

impl fmt::Display for RecoveryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} epoch={}",
            self.what.name(),
            self.replica,
            self.epoch
        )?;
        if let Some(session) = self.session {
            write!(f, " session={session}")?;
        }
        match &self.what {
            What::HandshakeFailed(failure) => write!(f, " reason={failure:?}"),
            What::SessionInvalidated(why)
            | What::SessionFailed(why)
            | What::InSyncEnded(why)
            | What::DegradedEnded(why) => {
                write!(f, " reason={why:?}")
            }
            What::PinRefused(refusal) => write!(f, " reason={:?}", refusal.reason),
            What::BudgetEscalated(limit) => write!(f, " reason={limit:?}"),
            What::Escalated(to) => write!(f, " reason={to:?}"),
            What::ResourcesReleased(cause) => write!(f, " reason={cause:?}"),
            What::SessionCreated { cause, .. } => write!(f, " cause={cause:?}"),
            What::SenderAdded
            | What::SenderRemoved
            | What::SessionSuperseded { .. }
            | What::Connected
            | What::Handshake(_)
            | What::RebuildOffered(_)
            | What::PlanZeroGap
            | What::PlanTruncateOnly { .. }
            | What::PlanCatchUp { .. }
            | What::PlanRebuild { .. }
            | What::ExecStarted
            | What::Progress { .. }
            | What::BaseProgress { .. }
            | What::BaseWhole { .. }
            | What::TruncationRecorded { .. }
            | What::Joined { .. }
            | What::Completed { .. }
            | What::CompletionRejected(_)
            | What::PinBroken { .. }
            | What::PlanCancelled => Ok(()),
        }
    }
}

/// The latest events, numbered; the oldest give way.
#[derive(Clone, Debug)]
pub struct RecoveryLog {
    events: VecDeque<RecoveryEvent>,
    kept_max: usize,
    next: u64,
}

impl RecoveryLog {
    /// An empty log that keeps the latest `kept_max` events.
    #[must_use]
    pub const fn new(kept_max: usize) -> Self {
        Self {
            events: VecDeque::new(),
            kept_max,
            next: 0,
        }
    }

    /// Appends an event.
    pub fn record(&mut self, event: RecoveryEvent) {
        self.events.push_back(event);
        self.next += 1;
        while self.events.len() > self.kept_max {
            self.events.pop_front();
        }
    }

    /// The number that the next event gets; events are numbered from 0.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The kept events from number `from` (inclusive) on, with their numbers.
    pub fn since(&self, from: u64) -> impl Iterator<Item = (u64, &RecoveryEvent)> {
        let first = self.next - self.events.len() as u64;
        (first..)
            .zip(&self.events)
            .filter(move |&(number, _)| number >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_give_way_and_numbers_stay() {
        let mut log = RecoveryLog::new(2);
        for what in [What::SenderAdded, What::Connected, What::SenderRemoved] {
            log.record(RecoveryEvent {
                at: Instant::ZERO,
                replica: "s2".parse().unwrap(),
                session: None,
                epoch: Epoch::new(1, 0),
                what,
            });
        }
        let kept: Vec<_> = log
            .since(0)
            .map(|(n, event)| (n, event.what.name()))
            .collect();
        assert_eq!(kept, [(1, "connected"), (2, "sender_removed")]);
        assert_eq!(log.since(2).count(), 1);
        assert_eq!(log.since(3).count(), 0);
    }
}

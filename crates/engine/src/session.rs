//! One recovery attempt in one epoch.
//!
//! ```text
//! catch-up: init -> connecting -> handshake -> [truncating ->] catching_up -> joining -> completed
//! rebuild:  init -> connecting -> handshake -> source_selected -> joining -> transferring
//!                -> [replaying ->] completed
//! any live phase -> invalidated(reason)
//! ```
//!
//! A session only knows its own attempt. Who may speak to it is decided before, by its
//! [`Sender`](crate::Sender). It refuses every fact of the other kind and of another phase.

use std::time::Duration;

use moorline_types::{Epoch, Instant, Lsn, ReplicaId, SessionId};

use crate::{
    action::{Action, Actions, Directed},
    budget::{BudgetLimit, CatchUpBudget, Spending, past},
    event::{Answer, Fact, Known, Refusal},
    mutants::Mutants,
    recovery_log::{RecoveryEvent, What},
};

mod catch_up;
mod phase;
mod reason;
mod rebuild;

pub use catch_up::{AfterCut, CatchingUp, Joining, Membership, Truncating};
pub use phase::{Phase, PhaseName, Planned};
pub use reason::{
    Cause, CompletionRejected, HandshakeFailure, Invalidation, PinKind, PinRefusal,
    PinRefusedReason, SessionKind,
};
pub use rebuild::{RebuildJoining, Replaying, Transferring};

/// Names a session and the epoch that it belongs to; carried by everything said on its behalf.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionStamp {
    /// The session.
    pub session: SessionId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Bounds of a session's phases; `None` is no bound. Overdue means strictly later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// From the request for facts to the answer.
    pub handshake_max: Option<Duration>,
    /// From the request to cut to its record.
    pub truncation_max: Option<Duration>,
    /// From the request to join to completion.
    pub joining_max: Option<Duration>,
    /// Catching up and replaying.
    pub budget: CatchUpBudget,
}

impl Default for SessionLimits {
    /// The handshake and the cut are one message and one flush each, so two device deadlines of 5 s
    /// bound them; the join waits for the master too.
    fn default() -> Self {
        Self {
            handshake_max: Some(Duration::from_secs(10)),
            truncation_max: Some(Duration::from_secs(10)),
            joining_max: Some(Duration::from_secs(60)),
            budget: CatchUpBudget::default(),
        }
    }
}

/// What is needed to begin a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The replica.
    pub replica: ReplicaId,
    /// Id and epoch.
    pub stamp: SessionStamp,
    /// What it may do.
    pub kind: SessionKind,
    /// Why it begins.
    pub cause: Cause,
    /// Its bounds.
    pub limits: SessionLimits,
    /// Planted bugs; none outside of tests of the tests.
    pub mutants: Mutants,
}

/// One recovery attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    opening: Opening,
    created: Instant,
    phase: Phase,
}

impl Session {
    /// Begins an attempt in phase init.
    #[must_use]
    pub fn new(now: Instant, opening: Opening, out: &mut Actions) -> Self {
        let session = Self {
            opening,
            created: now,
            phase: Phase::Init,
        };
        let what = What::SessionCreated {
            kind: session.kind(),
            cause: session.opening.cause,
        };
        session.emit(now, what, out);
        session
    }

    /// The replica.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        &self.opening.replica
    }

    /// Id and epoch.
    #[must_use]
    pub const fn stamp(&self) -> SessionStamp {
        self.opening.stamp
    }

    /// What it may do.
    #[must_use]
    pub const fn kind(&self) -> SessionKind {
        self.opening.kind
    }

    /// Why it began.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.opening.cause
    }

    /// When it began.
    #[must_use]
    pub const fn created(&self) -> Instant {
        self.created
    }

    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether it neither completed nor was invalidated.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Completed { .. } | Phase::Invalidated(_))
    }

    /// Whether an acknowledgement within this session counts towards a commit: only when its cut,
    /// if one was needed, is recorded.
    #[must_use]
    pub const fn counts_acks(&self) -> bool {
        match self.phase {
            Phase::CatchingUp(_) | Phase::Joining(_) | Phase::Completed { .. } => {
                matches!(self.opening.kind, SessionKind::CatchUp)
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Invalidated(_) => false,
        }
    }

    /// Asks for a link.
    pub(crate) fn connect(&mut self, out: &mut Actions) {
        assert_eq!(self.phase, Phase::Init, "a session connects once");
        self.enter(Phase::Connecting, out);
    }

    /// The link stands: asks for the replica's facts.
    pub(crate) fn connected(&mut self, now: Instant, out: &mut Actions) -> Answer {
        match self.phase {
            Phase::Connecting => {}
            Phase::Init => {
                return Answer::Refused(Refusal::WrongPhase {
                    phase: PhaseName::Init,
                });
            }
            Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::Joining(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => return Answer::Unchanged(Known::Duplicate),
        }
        self.emit(now, What::Connected, out);
        self.enter(Phase::Handshake { since: now }, out);
        let request = Action::SendHandshake {
            stamp: self.stamp(),
            kind: self.kind(),
            cause: self.opening.cause,
        };
        self.ask(request, out);
        Answer::Done
    }

    /// Takes in one fact. The caller has checked the authority of whoever told it.
    pub fn handle(&mut self, now: Instant, fact: Fact<'_>, out: &mut Actions) -> Answer {
        self.assert_invariants();
        let answer = if self.is_live() {
            self.take(now, fact, out)
        } else {
            Answer::Refused(Refusal::SessionEnded {
                phase: self.phase.name(),
            })
        };
        self.assert_invariants();
        answer
    }

    fn take(&mut self, now: Instant, fact: Fact<'_>, out: &mut Actions) -> Answer {
        match fact {
            Fact::HandshakeAnswered { primary, replica } => {
                self.handshake_answered(now, &primary, &replica, out)
            }
            Fact::RebuildOffered(facts) => self.rebuild_offered(now, &facts, out),
            Fact::HandshakeRefused(failure) => self.handshake_refused(now, failure, out),
            Fact::PlanBound => self.plan_bound(now, out),
            Fact::PinRefused(refusal) => self.pin_refused(now, refusal, out),
            Fact::PinBroken { pin, lsn } => self.pin_broken(now, (pin, lsn), out),
            Fact::TruncationRecorded { through } => self.truncation_recorded(now, through, out),
            Fact::Acknowledged { flushed, head } => self.acknowledged(now, flushed, head, out),
            Fact::Joined { join_point } => self.joined(now, join_point, out),
            Fact::InSyncRecorded => self.in_sync_recorded(now, out),
            Fact::ExtentsLaid { extents } => self.extents_laid(now, extents, out),
            Fact::BaseWhole { committed } => self.base_whole(now, committed, out),
            Fact::ReadFailed => self.execution_failed(now, Invalidation::ReadFailed, out),
            Fact::ExecutorPanicked => {
                self.execution_failed(now, Invalidation::ExecutorPanicked, out)
            }
            Fact::CancelRequested => {
                self.invalidate(now, Invalidation::Cancelled, out);
                Answer::Done
            }
        }
    }

    /// A pin was taken back. Only who holds one can lose it.
    fn pin_broken(
        &mut self,
        now: Instant,
        (pin, lsn): (PinKind, Lsn),
        out: &mut Actions,
    ) -> Answer {
        if !self.phase.holds_pins() {
            return self.wrong_phase();
        }
        self.emit(now, What::PinBroken { pin, lsn }, out);
        self.invalidate(now, Invalidation::PinBroken { pin, lsn }, out);
        Answer::Done
    }

    /// Whoever carries out the plan cannot go on. Only a plan that is carried out can fail so.
    fn execution_failed(&mut self, now: Instant, why: Invalidation, out: &mut Actions) -> Answer {
        if !self.phase.is_executing() {
            return self.wrong_phase();
        }
        self.invalidate(now, why, out);
        Answer::Done
    }

    /// Ends the attempt. The caller has made sure that it is live.
    pub(crate) fn invalidate(&mut self, now: Instant, why: Invalidation, out: &mut Actions) {
        assert!(self.is_live(), "a session ends once");
        if matches!(self.phase, Phase::Planned(_) | Phase::SourceSelected { .. }) {
            self.emit(now, What::PlanCancelled, out);
        }
        let what = if let Invalidation::Superseded { by } = why {
            What::SessionSuperseded { by }
        } else if why.is_failure() {
            What::SessionFailed(why)
        } else {
            What::SessionInvalidated(why)
        };
        self.emit(now, what, out);
        self.enter(Phase::Invalidated(why), out);
        let release = Action::Release {
            stamp: self.stamp(),
            cause: why.into(),
        };
        self.ask(release, out);
    }

    /// A deadline has come: ends the attempt if it is overdue at `now`.
    pub(crate) fn deadline_reached(&mut self, now: Instant, out: &mut Actions) -> Answer {
        let limits = &self.opening.limits;
        let late = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.since(since) > limit)
        };
        let why = match &self.phase {
            Phase::Handshake { since } if late(*since, limits.handshake_max) => {
                Invalidation::Handshake(HandshakeFailure::Overdue)
            }
            Phase::Truncating(truncating) if late(truncating.since, limits.truncation_max) => {
                Invalidation::TruncationOverdue
            }
            Phase::Joining(joining) if late(joining.since, limits.joining_max) => {
                Invalidation::JoinOverdue
            }
            Phase::RebuildJoining(joining) if late(joining.since, limits.joining_max) => {
                Invalidation::JoinOverdue
            }
            Phase::CatchingUp(CatchingUp { meter, .. })
            | Phase::Transferring(Transferring { meter, .. })
            | Phase::Replaying(Replaying { meter, .. }) => match meter.check(now) {
                Spending::Within => return Answer::Unchanged(Known::StaleTimer),
                Spending::Exceeded(limit) => {
                    self.over_budget(now, limit, out);
                    return Answer::Done;
                }
            },
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::Joining(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => return Answer::Unchanged(Known::StaleTimer),
        };
        if let Invalidation::Handshake(failure) = why {
            self.emit(now, What::HandshakeFailed(failure), out);
        }
        self.invalidate(now, why, out);
        Answer::Done
    }

    /// What the budget says at `now`; `Within` where none is being spent.
    pub fn spending(&self, now: Instant) -> Spending {
        match &self.phase {
            Phase::CatchingUp(CatchingUp { meter, .. })
            | Phase::Transferring(Transferring { meter, .. })
            | Phase::Replaying(Replaying { meter, .. }) => meter.check(now),
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::Joining(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => Spending::Within,
        }
    }

    /// The first instant at which the attempt is overdue where it stands.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let limits = &self.opening.limits;
        let end = |since: Instant, limit: Option<Duration>| limit.map(|limit| past(since, limit));
        match &self.phase {
            Phase::Handshake { since } => end(*since, limits.handshake_max),
            Phase::Truncating(truncating) => end(truncating.since, limits.truncation_max),
            Phase::Joining(joining) => end(joining.since, limits.joining_max),
            Phase::RebuildJoining(joining) => end(joining.since, limits.joining_max),
            Phase::CatchingUp(CatchingUp { meter, .. })
            | Phase::Transferring(Transferring { meter, .. })
            | Phase::Replaying(Replaying { meter, .. }) => meter.next_deadline(),
            Phase::Init
            | Phase::Connecting
            | Phase::Planned(_)
            | Phase::SourceSelected { .. }
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => None,
        }
    }

    fn over_budget(&mut self, now: Instant, limit: BudgetLimit, out: &mut Actions) {
        self.emit(now, What::BudgetEscalated(limit), out);
        self.invalidate(now, Invalidation::Budget(limit), out);
    }

    fn enter(&mut self, phase: Phase, out: &mut Actions) {
        let from = self.phase.name();
        let to = phase.name();
        self.phase = phase;
        if from != to {
            let stamp = self.stamp();
            self.ask(Action::Transitioned { stamp, from, to }, out);
        }
    }

    fn ask(&self, action: Action, out: &mut Actions) {
        let replica = self.opening.replica.server.clone();
        out.push(Directed { replica, action });
    }

    fn emit(&self, now: Instant, what: What, out: &mut Actions) {
        let event = RecoveryEvent {
            at: now,
            replica: self.opening.replica.server.clone(),
            session: Some(self.stamp().session),
            epoch: self.stamp().epoch,
            what,
        };
        self.ask(Action::Emit(event), out);
    }

    fn wrong_phase(&self) -> Answer {
        Answer::Refused(Refusal::WrongPhase {
            phase: self.phase.name(),
        })
    }

    fn require(&self, kind: SessionKind) -> Result<(), Answer> {
        if self.kind() == kind {
            return Ok(());
        }
        Err(Answer::Refused(Refusal::WrongKind { kind: self.kind() }))
    }

    /// Panics when the session contradicts itself.
    pub fn assert_invariants(&self) {
        match &self.phase {
            Phase::CatchingUp(CatchingUp { range, acked, .. }) => {
                assert!(*acked >= range.after(), "progress below its start");
                assert!(*acked < range.through(), "progress at or past its target");
            }
            Phase::Transferring(transferring) => {
                assert!(
                    transferring.laid <= transferring.extents,
                    "more laid than there is"
                );
                assert!(
                    transferring.frontier >= transferring.base,
                    "a log that begins above its base"
                );
            }
            Phase::Replaying(replaying) => {
                assert!(replaying.frontier >= replaying.base);
                assert!(
                    replaying.frontier < replaying.target,
                    "replaying at or past its target"
                );
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::Joining(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => {}
        }
        let rebuilds = match &self.phase {
            Phase::Planned(_) | Phase::Truncating(_) | Phase::CatchingUp(_) | Phase::Joining(_) => {
                Some(SessionKind::CatchUp)
            }
            Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Transferring(_)
            | Phase::Replaying(_) => Some(SessionKind::Rebuild),
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => None,
        };
        assert!(
            rebuilds.is_none_or(|kind| kind == self.kind()),
            "a session in a phase of the other kind"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;

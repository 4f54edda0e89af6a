//! The owner of one replica for as long as it is assigned.
//!
//! ```text
//! disconnected -> connecting -> catching_up -> joining -> in_sync      any -> stopped (for good)
//!                            -> rebuilding (needs_rebuild only) -> disconnected -> ...
//! failures: disconnected (try again) | degraded (out of the ack path) | needs_rebuild (sticky)
//! ```
//!
//! Owns the identity of the replica, across addresses and epochs, and at most one live
//! [`Session`]. Whoever speaks on a session's behalf passes [`Sender::admit`] first. A probe or
//! connection failure alone never means rebuild; progress alone never means in sync.

use moorline_types::{Epoch, Instant, ReplicaId, SessionId};

use crate::{
    action::{Action, Actions, Directed},
    budget::Spending,
    event::{Answer, Event, Fact, Known, Refusal},
    fence::{Admitted, EpochFence, Raise},
    mutants::Mutants,
    recovery_log::{Escalated, RecoveryEvent, What},
    session::{
        Cause, HandshakeFailure, Invalidation, Opening, PhaseName, Session, SessionKind,
        SessionLimits, SessionStamp,
    },
};

mod bucket;
mod endpoint;

pub use bucket::{Bucket, DegradedReason, NeedsRebuildReason};
pub use endpoint::Endpoint;
pub(crate) use endpoint::{EndpointChange, check_endpoint};

/// What follows when a session's budget runs out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnBudget {
    /// Only a rebuild may follow.
    NeedsRebuild,
    /// The replica leaves the ack path; the next request for a session tries again.
    #[default]
    Degrade,
}

/// How a sender behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SenderConfig {
    /// Bounds of its sessions.
    pub limits: SessionLimits,
    /// What follows when a budget runs out.
    pub on_budget: OnBudget,
    /// Planted bugs; none outside of tests of the tests.
    pub mutants: Mutants,
}

/// Where the sender stands, apart from its live session and the sticky need of a rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Disconnected,
    /// The session is live.
    Recovering,
    InSync,
    Degraded(DegradedReason),
    Stopped,
}

/// One replica's owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sender {
    replica: ReplicaId,
    endpoint: Endpoint,
    config: SenderConfig,
    fence: EpochFence,
    state: State,
    /// Sticky: only a completed rebuild clears it.
    needs_rebuild: Option<NeedsRebuildReason>,
    /// The latest attempt, live or not.
    session: Option<Session>,
}

impl Sender {
    /// The owner of a replica in epoch `epoch`, disconnected.
    #[must_use]
    pub fn new(replica: ReplicaId, endpoint: Endpoint, epoch: Epoch, config: SenderConfig) -> Self {
        Self {
            replica,
            endpoint,
            config,
            fence: EpochFence::new(epoch),
            state: State::Disconnected,
            needs_rebuild: None,
            session: None,
        }
    }

    /// The replica.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// Where it listens.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The epoch that it sends for.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.fence.current()
    }

    /// The latest session, live or not.
    #[must_use]
    pub const fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The live session.
    #[must_use]
    pub fn live_session(&self) -> Option<&Session> {
        self.session.as_ref().filter(|session| session.is_live())
    }

    /// Why only a rebuild helps, if so.
    #[must_use]
    pub const fn needs_rebuild(&self) -> Option<NeedsRebuildReason> {
        self.needs_rebuild
    }

    /// Why it is degraded, if so.
    #[must_use]
    pub const fn degraded(&self) -> Option<DegradedReason> {
        match self.state {
            State::Degraded(reason) => Some(reason),
            State::Disconnected | State::Recovering | State::InSync | State::Stopped => None,
        }
    }

    /// How the replica is counted now.
    #[must_use]
    pub fn bucket(&self) -> Bucket {
        match (self.state, &self.session, self.needs_rebuild) {
            (State::Stopped, _, _) => Bucket::Stopped,
            (State::Recovering, Some(session), _) => bucket_of(session),
            (State::Recovering, None, _) => unreachable!("recovering is a live session"),
            (State::Disconnected | State::InSync | State::Degraded(_), _, Some(_)) => {
                Bucket::NeedsRebuild
            }
            (State::Disconnected, _, None) => Bucket::Disconnected,
            (State::InSync, _, None) => Bucket::InSync,
            (State::Degraded(_), _, None) => Bucket::Degraded,
        }
    }

    /// The authority of whoever names a session. In this order: stopped, no session, another
    /// session, no longer live, epoch.
    ///
    /// # Errors
    ///
    /// Which of them it was.
    pub fn admit(&self, stamp: SessionStamp) -> Result<Admitted, Refusal> {
        let session = self.named(stamp)?;
        if !session.is_live() {
            return Err(Refusal::SessionEnded {
                phase: session.phase().name(),
            });
        }
        Ok(self.fence.admit(stamp.epoch)?)
    }

    /// What the live session's budget says at `now`; `Within` where none is being spent.
    pub fn spending(&self, now: Instant) -> Spending {
        self.live_session()
            .map_or(Spending::Within, |session| session.spending(now))
    }

    /// Whether an acknowledgement in the name of `stamp` counts towards a commit: its session is
    /// of this epoch, past a cut if one was needed, and live or the one that made the replica
    /// in sync.
    ///
    /// # Errors
    ///
    /// Why it does not count.
    pub fn counts_acks(&self, stamp: SessionStamp) -> Result<Admitted, Refusal> {
        let session = self.named(stamp)?;
        let phase = session.phase().name();
        let current = session.is_live() || self.state == State::InSync;
        if !current {
            return Err(Refusal::SessionEnded { phase });
        }
        if !session.counts_acks() {
            return Err(Refusal::WrongPhase { phase });
        }
        Ok(self.fence.admit(stamp.epoch)?)
    }

    fn named(&self, stamp: SessionStamp) -> Result<&Session, Refusal> {
        if self.state == State::Stopped {
            return Err(Refusal::Stopped);
        }
        let session = self.session.as_ref().ok_or(Refusal::NoSession)?;
        let (have, got) = (session.stamp().session, stamp.session);
        if have != got {
            return Err(Refusal::OtherSession { have, got });
        }
        Ok(session)
    }

    /// Whether it has something to lose: a live session, or being in sync.
    #[must_use]
    pub fn has_standing(&self) -> bool {
        match self.state {
            State::Recovering | State::InSync => true,
            State::Disconnected | State::Degraded(_) | State::Stopped => false,
        }
    }

    /// The first instant at which [`Event::DeadlineReached`] would end something.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.live_session().and_then(Session::next_deadline)
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, out: &mut Actions) -> Answer {
        self.assert_invariants();
        let from = self.bucket();
        let answer = if self.state == State::Stopped {
            Answer::Refused(Refusal::Stopped)
        } else {
            self.take(now, event, out)
        };
        let to = self.bucket();
        if from != to {
            self.ask(Action::Moved { from, to }, out);
        }
        self.assert_invariants();
        answer
    }

    fn take(&mut self, now: Instant, event: Event<'_>, out: &mut Actions) -> Answer {
        match event {
            Event::SessionRequested { fresh, kind, cause } => {
                self.requested(now, (fresh, kind, cause), out)
            }
            Event::SessionReplaced { fresh, kind, cause } => {
                self.replaced(now, (fresh, kind, cause), out)
            }
            Event::LinkUp { fresh, cause } => self.link_up(now, fresh, cause, out),
            Event::LinkLost => self.unhealthy(now, Invalidation::LinkLost, out),
            Event::PeerSilent => self.unhealthy(now, Invalidation::PeerSilent, out),
            Event::EpochRaised { to } => self.epoch_raised(now, to, out),
            Event::EndpointChanged(endpoint) => self.endpoint_changed(now, endpoint, out),
            Event::StopRequested => self.stop(now, out),
            Event::DeadlineReached => match self.live() {
                Some(session) => {
                    let answer = session.deadline_reached(now, out);
                    self.settle(now, out);
                    answer
                }
                None => Answer::Unchanged(Known::StaleTimer),
            },
            Event::Session { stamp, fact } => self.session_fact(now, stamp, fact, out),
        }
    }

    fn session_fact(
        &mut self,
        now: Instant,
        stamp: SessionStamp,
        fact: Fact<'_>,
        out: &mut Actions,
    ) -> Answer {
        if let Err(refusal) = self.admit(stamp) {
            return Answer::Refused(refusal);
        }
        let session = self.live().expect("only a live session admits");
        let answer = session.handle(now, fact, out);
        self.settle(now, out);
        answer
    }

    /// Attach: the sender's epoch exactly, and no live session.
    fn requested(
        &mut self,
        now: Instant,
        opening: (SessionId, SessionKind, Cause),
        out: &mut Actions,
    ) -> Answer {
        if let Some(session) = self.live_session() {
            let id = session.stamp().session;
            return Answer::Refused(Refusal::SessionLive { id });
        }
        match self.may_begin(opening.0, opening.1) {
            Ok(()) => {
                self.begin(now, opening, out);
                Answer::Done
            }
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Supersede: the old one ends and the new one begins, or neither.
    fn replaced(
        &mut self,
        now: Instant,
        opening: (SessionId, SessionKind, Cause),
        out: &mut Actions,
    ) -> Answer {
        if let Err(refusal) = self.may_begin(opening.0, opening.1) {
            return Answer::Refused(refusal);
        }
        let by = opening.0;
        self.end_session(now, Invalidation::Superseded { by }, out);
        self.begin(now, opening, out);
        Answer::Done
    }

    fn may_begin(&self, fresh: SessionId, kind: SessionKind) -> Result<(), Refusal> {
        if let Some(session) = &self.session {
            let (have, got) = (session.stamp().session, fresh);
            if got <= have {
                return Err(Refusal::SessionIdReused { have, got });
            }
        }
        match (kind, self.needs_rebuild) {
            (SessionKind::CatchUp, Some(_)) => Err(Refusal::NeedsRebuild),
            (SessionKind::Rebuild, None) => Err(Refusal::NoRebuildNeeded),
            (SessionKind::CatchUp, None) | (SessionKind::Rebuild, Some(_)) => match self.state {
                State::InSync => Err(Refusal::AlreadyInSync),
                State::Disconnected | State::Recovering | State::Degraded(_) => Ok(()),
                State::Stopped => Err(Refusal::Stopped),
            },
        }
    }

    fn begin(
        &mut self,
        now: Instant,
        (fresh, kind, cause): (SessionId, SessionKind, Cause),
        out: &mut Actions,
    ) {
        let stamp = SessionStamp {
            session: fresh,
            epoch: self.fence.current(),
        };
        let opening = Opening {
            replica: self.replica.clone(),
            stamp,
            kind,
            cause,
            limits: self.config.limits,
            mutants: self.config.mutants,
        };
        let mut session = Session::new(now, opening, out);
        session.connect(out);
        self.session = Some(session);
        self.state = State::Recovering;
        let endpoint = self.endpoint.clone();
        self.ask(Action::Connect { endpoint, stamp }, out);
    }

    fn link_up(
        &mut self,
        now: Instant,
        fresh: SessionId,
        cause: Cause,
        out: &mut Actions,
    ) -> Answer {
        if self.state == State::InSync {
            return Answer::Unchanged(Known::Duplicate);
        }
        if self.live_session().is_none() {
            if let Err(refusal) = self.may_begin(fresh, SessionKind::CatchUp) {
                return Answer::Refused(refusal);
            }
            self.begin(now, (fresh, SessionKind::CatchUp, cause), out);
        }
        let session = self.live().expect("begun above if none was live");
        session.connected(now, out)
    }

    /// The link or the peer is gone: ends a live session and in_sync, and means no rebuild.
    fn unhealthy(&mut self, now: Instant, why: Invalidation, out: &mut Actions) -> Answer {
        // A session that still waits for its link has no link to lose.
        let waits = self
            .live_session()
            .is_some_and(|session| session.phase().name() == PhaseName::Connecting);
        if waits {
            return Answer::Unchanged(Known::NothingToEnd);
        }
        let silent = why == Invalidation::PeerSilent;
        match self.state {
            State::Recovering => self.end_session(now, why, out),
            State::InSync => {
                self.end_in_sync(now, why, out);
                if silent {
                    self.degrade(now, DegradedReason::Silent, out);
                }
            }
            State::Degraded(_) if !silent => {
                self.state = State::Disconnected;
                self.emit(now, What::DegradedEnded(why), out);
            }
            State::Degraded(_) | State::Disconnected | State::Stopped => {
                return Answer::Unchanged(Known::NothingToEnd);
            }
        }
        Answer::Done
    }

    fn epoch_raised(&mut self, now: Instant, to: Epoch, out: &mut Actions) -> Answer {
        match self.fence.raise(to) {
            Raise::Same => return Answer::Unchanged(Known::Duplicate),
            Raise::Refused(fenced) => return Answer::Refused(Refusal::Fenced(fenced)),
            Raise::Raised { .. } => {}
        }
        self.end_standing(now, Invalidation::EpochChanged { to }, out);
        Answer::Done
    }

    fn endpoint_changed(&mut self, now: Instant, to: Endpoint, out: &mut Actions) -> Answer {
        match check_endpoint(&self.endpoint, &to) {
            EndpointChange::Same => return Answer::Unchanged(Known::Duplicate),
            EndpointChange::Refused(refusal) => return Answer::Refused(refusal),
            EndpointChange::Moved => {}
        }
        self.endpoint = to;
        self.end_standing(now, Invalidation::EndpointChanged, out);
        Answer::Done
    }

    fn stop(&mut self, now: Instant, out: &mut Actions) -> Answer {
        self.end_standing(now, Invalidation::SenderStopped, out);
        self.state = State::Stopped;
        self.emit(now, What::SenderRemoved, out);
        Answer::Done
    }

    /// Ends a live session, and in_sync even when no session is live.
    fn end_standing(&mut self, now: Instant, why: Invalidation, out: &mut Actions) {
        match self.state {
            State::Recovering => self.end_session(now, why, out),
            State::InSync => self.end_in_sync(now, why, out),
            State::Disconnected | State::Degraded(_) | State::Stopped => {}
        }
    }

    fn end_in_sync(&mut self, now: Instant, why: Invalidation, out: &mut Actions) {
        self.state = State::Disconnected;
        self.emit(now, What::InSyncEnded(why), out);
    }

    fn end_session(&mut self, now: Instant, why: Invalidation, out: &mut Actions) {
        if let Some(session) = self.live() {
            session.invalidate(now, why, out);
            self.settle(now, out);
        }
    }

    /// Draws the sender's consequences from how its session stands.
    fn settle(&mut self, now: Instant, out: &mut Actions) {
        use crate::session::Phase;
        let Some(session) = &self.session else { return };
        if session.is_live() || self.state != State::Recovering {
            return;
        }
        let (kind, phase) = (session.kind(), session.phase().clone());
        match (kind, phase) {
            (SessionKind::CatchUp, Phase::Completed { .. }) => self.state = State::InSync,
            (SessionKind::Rebuild, Phase::Completed { .. }) => {
                // A whole image makes it a replica that lags: the ordinary path proves the rest.
                self.needs_rebuild = None;
                self.state = State::Disconnected;
            }
            (_, Phase::Invalidated(why)) => {
                self.state = State::Disconnected;
                self.draw(now, why, out);
            }
            (
                _,
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
            ) => unreachable!("a session that is not live has ended"),
        }
    }

    fn draw(&mut self, now: Instant, why: Invalidation, out: &mut Actions) {
        match why {
            Invalidation::PeerSilent => self.degrade(now, DegradedReason::Silent, out),
            Invalidation::Handshake(HandshakeFailure::Impossible(_)) => {
                self.degrade(now, DegradedReason::ImpossibleFacts, out);
            }
            Invalidation::Handshake(HandshakeFailure::CommittedDataMissing(_)) => {
                self.degrade(now, DegradedReason::CommittedDataMissing, out);
            }
            Invalidation::NeedsRebuild(reason) => {
                self.require_rebuild(now, NeedsRebuildReason::Verdict(reason), out);
            }
            Invalidation::Budget(limit) => match self.config.on_budget {
                OnBudget::NeedsRebuild => {
                    self.require_rebuild(now, NeedsRebuildReason::Budget(limit), out);
                }
                OnBudget::Degrade => self.degrade(now, DegradedReason::Budget(limit), out),
            },
            Invalidation::JoinOverdue => self.degrade(now, DegradedReason::JoinOverdue, out),
            Invalidation::PinBroken { pin, .. } => {
                self.degrade(now, DegradedReason::PinBroken(pin), out);
            }
            Invalidation::Handshake(
                HandshakeFailure::Overdue
                | HandshakeFailure::ReplicaAhead
                | HandshakeFailure::NotPromised
                | HandshakeFailure::WrongStore
                | HandshakeFailure::UnknownVolume
                | HandshakeFailure::NotMember
                | HandshakeFailure::StoreFailed,
            )
            | Invalidation::LinkLost
            | Invalidation::EpochChanged { .. }
            | Invalidation::EndpointChanged
            | Invalidation::Superseded { .. }
            | Invalidation::SenderStopped
            | Invalidation::Cancelled
            | Invalidation::PinRefused(_)
            | Invalidation::ReadFailed
            | Invalidation::ExecutorPanicked
            | Invalidation::TruncationOverdue => {}
        }
    }

    fn degrade(&mut self, now: Instant, reason: DegradedReason, out: &mut Actions) {
        self.state = State::Degraded(reason);
        self.emit(now, What::Escalated(Escalated::Degraded(reason)), out);
    }

    fn require_rebuild(&mut self, now: Instant, reason: NeedsRebuildReason, out: &mut Actions) {
        if self.needs_rebuild.is_some() {
            return;
        }
        self.needs_rebuild = Some(reason);
        self.emit(now, What::Escalated(Escalated::NeedsRebuild(reason)), out);
        if let Some(session) = &self.session {
            let stamp = session.stamp();
            self.ask(Action::TellNeedsRebuild { stamp, reason }, out);
        }
    }

    fn live(&mut self) -> Option<&mut Session> {
        self.session.as_mut().filter(|session| session.is_live())
    }

    fn ask(&self, action: Action, out: &mut Actions) {
        let replica = self.replica.server.clone();
        out.push(Directed { replica, action });
    }

    pub(crate) fn emit(&self, now: Instant, what: What, out: &mut Actions) {
        let event = RecoveryEvent {
            at: now,
            replica: self.replica.server.clone(),
            session: self.session.as_ref().map(|session| session.stamp().session),
            epoch: self.fence.current(),
            what,
        };
        self.ask(Action::Emit(event), out);
    }

    /// Panics when the sender contradicts itself.
    pub fn assert_invariants(&self) {
        let live = self.live_session();
        assert_eq!(
            live.is_some(),
            self.state == State::Recovering,
            "recovering is exactly a live session"
        );
        assert!(
            live.is_none_or(|session| session.stamp().epoch == self.fence.current()),
            "a live session of another epoch"
        );
        assert!(
            self.needs_rebuild.is_none() || self.state != State::InSync,
            "in sync and in need of a rebuild"
        );
    }
}

fn bucket_of(session: &Session) -> Bucket {
    match (session.kind(), session.phase().name()) {
        (_, PhaseName::Init | PhaseName::Connecting | PhaseName::Handshake) => Bucket::Connecting,
        (SessionKind::Rebuild, PhaseName::Joining)
        | (_, PhaseName::SourceSelected | PhaseName::Transferring | PhaseName::Replaying) => {
            Bucket::Rebuilding
        }
        (_, PhaseName::Truncating | PhaseName::CatchingUp) => Bucket::CatchingUp,
        (SessionKind::CatchUp, PhaseName::Joining) => Bucket::Joining,
        (_, PhaseName::Completed | PhaseName::Invalidated) => {
            unreachable!("an ended session is not asked")
        }
    }
}

#[cfg(test)]
mod tests;

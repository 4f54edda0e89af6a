//! From the judged facts of a catch-up to the proof that it is complete.

use moorline_types::{Instant, Lsn, LsnRange};

use super::{
    CompletionRejected, HandshakeFailure, Invalidation, Phase, PinRefusal, Planned, Session,
    SessionKind,
};
use crate::{
    action::{Action, Actions},
    budget::{Meter, Spending},
    event::{Answer, Known, Refusal},
    facts::{PrimaryFacts, ReplicaFacts},
    outcome::{NoVerdict, classify_with},
    planner::{Plan, PlanKind, plan},
    recovery_log::What,
};

/// The replica is asked to cut its log to exactly one record. Nothing it says counts until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncating {
    /// The last record that stays.
    pub through: Lsn,
    /// When it was asked.
    pub since: Instant,
    /// What follows.
    pub then: AfterCut,
}

/// What follows a recorded cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterCut {
    /// Ship these records; their pin is held already.
    Ship(LsnRange),
    /// Join at this frontier.
    Join(Lsn),
}

/// Retained records flow towards a frozen target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchingUp {
    /// From the replica's frontier when it was judged, through the target. Never moves: new writes
    /// cannot take the target away from a slow replica.
    pub range: LsnRange,
    /// The replica's durable frontier, advanced by its acknowledgements only.
    pub acked: Lsn,
    /// What it costs.
    pub meter: Meter,
}

/// Bound, or being bound, to the live stream; two separate proofs make it complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joining {
    /// Shipped before the join; the join ships what lies above.
    pub after: Lsn,
    /// The head at the instant of binding, once bound.
    pub join_point: Option<Lsn>,
    /// The first proof: the durable frontier, which has to reach the join point.
    pub frontier: Lsn,
    /// The second proof.
    pub membership: Membership,
    /// When the join was asked for.
    pub since: Instant,
}

/// Whether the replica's place in the in-sync set is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Not asked for: the frontier is below the join point.
    Unasked,
    /// Asked for.
    Asked,
    /// Recorded.
    Recorded,
}

impl Session {
    pub(super) fn handshake_answered(
        &mut self,
        now: Instant,
        primary: &PrimaryFacts<'_>,
        replica: &ReplicaFacts<'_>,
        out: &mut Actions,
    ) -> Answer {
        if let Err(refused) = self.require(SessionKind::CatchUp) {
            return refused;
        }
        if !matches!(self.phase, Phase::Handshake { .. }) {
            return self.wrong_phase();
        }
        // A log of a later reign is never judged by, nor cut for, an earlier one.
        let newest = replica.history.last().map(|start| start.epoch);
        if newest.is_some_and(|epoch| epoch > self.stamp().epoch) {
            return self.handshake_refused(now, HandshakeFailure::ReplicaAhead, out);
        }
        let verdict = match classify_with(self.opening.mutants, primary, replica) {
            Ok(verdict) => verdict,
            Err(NoVerdict::Impossible(impossible)) => {
                return self.handshake_refused(now, HandshakeFailure::Impossible(impossible), out);
            }
            Err(NoVerdict::CommittedDataMissing(missing)) => {
                self.ask(Action::StopVolume(missing), out);
                let failure = HandshakeFailure::CommittedDataMissing(missing);
                return self.handshake_refused(now, failure, out);
            }
        };
        self.emit(now, What::Handshake(verdict.proof), out);
        if let Some(through) = verdict.raise_committed {
            self.ask(Action::RaiseCommitted { through }, out);
        }
        match plan(self.replica(), self.stamp(), &verdict) {
            Ok(plan) => self.follow(now, plan, out),
            Err(reason) => self.invalidate(now, Invalidation::NeedsRebuild(reason), out),
        }
        Answer::Done
    }

    pub(super) fn handshake_refused(
        &mut self,
        now: Instant,
        failure: HandshakeFailure,
        out: &mut Actions,
    ) -> Answer {
        if !matches!(self.phase, Phase::Handshake { .. }) {
            return self.wrong_phase();
        }
        self.emit(now, What::HandshakeFailed(failure), out);
        self.invalidate(now, Invalidation::Handshake(failure), out);
        Answer::Done
    }

    fn follow(&mut self, now: Instant, plan: Plan, out: &mut Actions) {
        match plan.kind {
            PlanKind::ZeroGap { after } => {
                self.emit(now, What::PlanZeroGap, out);
                self.join(now, after, after, out);
            }
            PlanKind::TruncateOnly { through, after } => {
                self.emit(now, What::PlanTruncateOnly { through }, out);
                self.emit(now, What::ExecStarted, out);
                self.truncate(now, through, AfterCut::Join(after), out);
            }
            PlanKind::CatchUp { truncate, range } => {
                self.emit(now, What::PlanCatchUp { range }, out);
                self.enter(Phase::Planned(Planned { truncate, range }), out);
                self.ask(Action::BindPlan(plan), out);
            }
            PlanKind::Rebuild { .. } => unreachable!("a verdict on records plans no rebuild"),
        }
    }

    pub(super) fn plan_bound(&mut self, now: Instant, out: &mut Actions) -> Answer {
        match self.phase {
            Phase::Planned(Planned { truncate, range }) => {
                self.emit(now, What::ExecStarted, out);
                match truncate {
                    Some(through) => self.truncate(now, through, AfterCut::Ship(range), out),
                    None => self.ship(now, range, out),
                }
            }
            Phase::SourceSelected { base, extents } => {
                self.emit(now, What::ExecStarted, out);
                self.join_for_rebuild(now, base, extents, out);
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::Joining(_)
            | Phase::RebuildJoining(_)
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => return self.wrong_phase(),
        }
        Answer::Done
    }

    /// A plan's pin, or the one that a join takes for what lies below the join point.
    pub(super) fn pin_refused(
        &mut self,
        now: Instant,
        refusal: PinRefusal,
        out: &mut Actions,
    ) -> Answer {
        let waits = match self.phase {
            Phase::Planned(_) | Phase::SourceSelected { .. } | Phase::RebuildJoining(_) => true,
            Phase::Joining(Joining { join_point, .. }) => join_point.is_none(),
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => false,
        };
        if !waits {
            return self.wrong_phase();
        }
        self.emit(now, What::PinRefused(refusal), out);
        self.invalidate(now, Invalidation::PinRefused(refusal), out);
        Answer::Done
    }

    fn truncate(&mut self, now: Instant, through: Lsn, then: AfterCut, out: &mut Actions) {
        let truncating = Truncating {
            through,
            since: now,
            then,
        };
        self.enter(Phase::Truncating(truncating), out);
        let stamp = self.stamp();
        self.ask(Action::SendTruncate { stamp, through }, out);
    }

    pub(super) fn truncation_recorded(
        &mut self,
        now: Instant,
        through: Lsn,
        out: &mut Actions,
    ) -> Answer {
        if let Err(refused) = self.require(SessionKind::CatchUp) {
            return refused;
        }
        let Phase::Truncating(truncating) = self.phase else {
            return self.wrong_phase();
        };
        if through != truncating.through {
            return Answer::Refused(Refusal::WrongTruncation {
                required: truncating.through,
                got: through,
            });
        }
        self.emit(now, What::TruncationRecorded { through }, out);
        match truncating.then {
            AfterCut::Ship(range) => self.ship(now, range, out),
            AfterCut::Join(after) => self.join(now, after, after, out),
        }
        Answer::Done
    }

    fn ship(&mut self, now: Instant, range: LsnRange, out: &mut Actions) {
        let catching_up = CatchingUp {
            range,
            acked: range.after(),
            meter: Meter::start(self.opening.limits.budget, now),
        };
        self.enter(Phase::CatchingUp(catching_up), out);
        let stamp = self.stamp();
        self.ask(Action::StartShipping { stamp, range }, out);
    }

    /// The replica's log is durable through `flushed`.
    ///
    /// It may hold more than the frozen target (records that it had in memory), which counts as the
    /// target and no further; but not more than the primary's head.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        flushed: Lsn,
        head: Lsn,
        out: &mut Actions,
    ) -> Answer {
        if flushed > head {
            return Answer::Refused(Refusal::PastHead { flushed, head });
        }
        match self.phase {
            Phase::CatchingUp(catching_up) => {
                self.caught_up_to(now, catching_up, flushed, out);
                if self.phase == Phase::CatchingUp(catching_up) {
                    return Answer::Unchanged(Known::StaleProgress);
                }
            }
            Phase::Joining(mut joining) => {
                if flushed <= joining.frontier {
                    return Answer::Unchanged(Known::StaleProgress);
                }
                joining.frontier = flushed;
                self.prove(now, joining, out);
            }
            Phase::RebuildJoining(_) | Phase::Transferring(_) | Phase::Replaying(_) => {
                return self.replayed_to(now, flushed, out);
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::SourceSelected { .. }
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => return self.wrong_phase(),
        }
        Answer::Done
    }

    fn caught_up_to(
        &mut self,
        now: Instant,
        mut catching_up: CatchingUp,
        flushed: Lsn,
        out: &mut Actions,
    ) {
        let target = catching_up.range.through();
        let recovered_to = flushed.min(target);
        if recovered_to <= catching_up.acked {
            return;
        }
        let records = recovered_to.distance_from(catching_up.acked);
        catching_up.acked = recovered_to;
        catching_up.meter.progress(now, records);
        let what = What::Progress {
            recovered_to,
            target,
        };
        self.emit(now, what, out);
        // Whoever has arrived is not late: data goes before timers.
        if recovered_to == target {
            self.join(now, target, flushed, out);
            return;
        }
        self.phase = Phase::CatchingUp(catching_up);
        match catching_up.meter.check(now) {
            Spending::Within => {}
            Spending::Exceeded(limit) => self.over_budget(now, limit, out),
        }
    }

    fn join(&mut self, now: Instant, after: Lsn, frontier: Lsn, out: &mut Actions) {
        let joining = Joining {
            after,
            join_point: None,
            frontier,
            membership: Membership::Unasked,
            since: now,
        };
        self.enter(Phase::Joining(joining), out);
        let stamp = self.stamp();
        self.ask(Action::Join { stamp, after }, out);
    }

    pub(super) fn joined(&mut self, now: Instant, join_point: Lsn, out: &mut Actions) -> Answer {
        match self.phase {
            Phase::Joining(mut joining) => {
                if joining.join_point == Some(join_point) {
                    return Answer::Unchanged(Known::Duplicate);
                }
                if joining.join_point.is_some() {
                    return self.wrong_phase();
                }
                if join_point < joining.after {
                    return Answer::Refused(Refusal::JoinBelowShipped {
                        join_point,
                        shipped: joining.after,
                    });
                }
                joining.join_point = Some(join_point);
                self.emit(now, What::Joined { join_point }, out);
                self.prove(now, joining, out);
                Answer::Done
            }
            Phase::RebuildJoining(joining) => self.rebuild_joined(now, join_point, joining, out),
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::SourceSelected { .. }
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => self.wrong_phase(),
        }
    }

    pub(super) fn in_sync_recorded(&mut self, now: Instant, out: &mut Actions) -> Answer {
        if let Err(refused) = self.require(SessionKind::CatchUp) {
            return refused;
        }
        let missing = match self.phase {
            Phase::Joining(joining) if joining.join_point.is_none() => {
                CompletionRejected::NotJoined
            }
            Phase::Joining(joining) if joining.membership == Membership::Recorded => {
                return Answer::Unchanged(Known::Duplicate);
            }
            Phase::Joining(mut joining) => {
                joining.membership = Membership::Recorded;
                self.prove(now, joining, out);
                return Answer::Done;
            }
            Phase::CatchingUp(CatchingUp { acked, range, .. }) => {
                CompletionRejected::TargetNotReached {
                    recovered_to: acked,
                    target: range.through(),
                }
            }
            Phase::Truncating(Truncating { through, .. }) => {
                CompletionRejected::TruncationNotRecorded { required: through }
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining(_)
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => CompletionRejected::NoHandshake,
        };
        self.emit(now, What::CompletionRejected(missing), out);
        Answer::Refused(Refusal::CompletionRejected(missing))
    }

    /// Looks at the two proofs and asks for, or draws, what follows.
    fn prove(&mut self, now: Instant, mut joining: Joining, out: &mut Actions) {
        let proven = joining
            .join_point
            .filter(|&point| joining.frontier >= point);
        let Some(join_point) = proven else {
            self.phase = Phase::Joining(joining);
            return;
        };
        let frontier = joining.frontier;
        match joining.membership {
            Membership::Recorded => self.complete(now, frontier, out),
            Membership::Asked => self.phase = Phase::Joining(joining),
            Membership::Unasked => {
                joining.membership = Membership::Asked;
                self.phase = Phase::Joining(joining);
                let request = Action::RequestGrowth {
                    stamp: self.stamp(),
                    join_point,
                    frontier,
                };
                self.ask(request, out);
            }
        }
    }

    pub(super) fn complete(&mut self, now: Instant, recovered_to: Lsn, out: &mut Actions) {
        self.emit(now, What::Completed { recovered_to }, out);
        self.enter(Phase::Completed { recovered_to }, out);
        let release = Action::Release {
            stamp: self.stamp(),
            cause: crate::recovery_log::ReleaseCause::Completed,
        };
        self.ask(release, out);
    }
}

//! The rebuild of a replica: first it joins the live stream, then the base is laid under it.

use moorline_types::{Instant, Lsn};

use super::{CompletionRejected, HandshakeFailure, Phase, Session, SessionKind};
use crate::{
    action::{Action, Actions},
    budget::{CatchUpBudget, Meter, Spending},
    event::{Answer, Known, Refusal},
    planner::{PlanKind, RebuildFacts, plan_rebuild},
    recovery_log::What,
};

/// The replica is being bound to the live stream; nothing of the base flows yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebuildJoining {
    /// B: the base holds everything through here, the join ships what lies above.
    pub base: Lsn,
    /// Extents to lay.
    pub extents: u64,
    /// The durable frontier of the log that this session began; at B while that is empty.
    pub frontier: Lsn,
    /// When binding was asked for.
    pub since: Instant,
}

/// Base blocks flow, under the joined stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transferring {
    /// B.
    pub base: Lsn,
    /// The cursor: extents laid, from the first on. Strictly forward.
    pub laid: u64,
    /// Extents to lay.
    pub extents: u64,
    /// The durable frontier of the log that this session began; at B while that is empty.
    pub frontier: Lsn,
    /// Only its stall limit is in force: how much a base costs is not the budget's business.
    pub meter: Meter,
}

/// The base is whole; records up to the target are not all durable yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaying {
    /// B.
    pub base: Lsn,
    /// The source's committed point when the base was whole.
    pub target: Lsn,
    /// The durable frontier of the log that this session began; at B while that is empty.
    pub frontier: Lsn,
    /// What it costs.
    pub meter: Meter,
}

impl Session {
    pub(super) fn rebuild_offered(
        &mut self,
        now: Instant,
        facts: &RebuildFacts,
        out: &mut Actions,
    ) -> Answer {
        if let Err(refused) = self.require(SessionKind::Rebuild) {
            return refused;
        }
        if !matches!(self.phase, Phase::Handshake { .. }) {
            return self.wrong_phase();
        }
        let (plan, refused) = match plan_rebuild(self.replica(), self.stamp(), facts) {
            Ok(planned) => planned,
            Err(impossible) => {
                return self.handshake_refused(now, HandshakeFailure::Impossible(impossible), out);
            }
        };
        let PlanKind::Rebuild { source, extents } = plan.kind else {
            unreachable!("a rebuild is planned as one");
        };
        self.emit(now, What::RebuildOffered(*facts), out);
        self.emit(now, What::PlanRebuild { source, refused }, out);
        let base = source.base();
        self.enter(Phase::SourceSelected { base, extents }, out);
        self.ask(Action::BindPlan(plan), out);
        Answer::Done
    }

    pub(super) fn join_for_rebuild(
        &mut self,
        now: Instant,
        base: Lsn,
        extents: u64,
        out: &mut Actions,
    ) {
        let joining = RebuildJoining {
            base,
            extents,
            frontier: base,
            since: now,
        };
        self.enter(Phase::RebuildJoining(joining), out);
        let stamp = self.stamp();
        self.ask(Action::JoinForRebuild { stamp, base }, out);
    }

    pub(super) fn rebuild_joined(
        &mut self,
        now: Instant,
        join_point: Lsn,
        joining: RebuildJoining,
        out: &mut Actions,
    ) -> Answer {
        let base = joining.base;
        if join_point < base {
            let shipped = base;
            return Answer::Refused(Refusal::JoinBelowShipped {
                join_point,
                shipped,
            });
        }
        self.emit(now, What::Joined { join_point }, out);
        let stall_only = CatchUpBudget {
            stall_max: self.opening.limits.budget.stall_max,
            ..CatchUpBudget::UNLIMITED
        };
        let transferring = Transferring {
            base,
            laid: 0,
            extents: joining.extents,
            frontier: joining.frontier,
            meter: Meter::start(stall_only, now),
        };
        self.enter(Phase::Transferring(transferring), out);
        let stamp = self.stamp();
        self.ask(Action::StartBase { stamp }, out);
        Answer::Done
    }

    pub(super) fn extents_laid(&mut self, now: Instant, extents: u64, out: &mut Actions) -> Answer {
        if let Err(refused) = self.require(SessionKind::Rebuild) {
            return refused;
        }
        let Phase::Transferring(mut transferring) = self.phase else {
            return self.wrong_phase();
        };
        let total = transferring.extents;
        if extents > total {
            return Answer::Refused(Refusal::PastBase { extents, total });
        }
        if extents <= transferring.laid {
            return Answer::Unchanged(Known::StaleProgress);
        }
        transferring.laid = extents;
        transferring.meter.progress(now, 0);
        let what = What::BaseProgress {
            extents,
            extents_total: total,
        };
        self.emit(now, what, out);
        self.phase = Phase::Transferring(transferring);
        Answer::Done
    }

    pub(super) fn base_whole(&mut self, now: Instant, committed: Lsn, out: &mut Actions) -> Answer {
        if let Err(refused) = self.require(SessionKind::Rebuild) {
            return refused;
        }
        let Phase::Transferring(transferring) = self.phase else {
            return self.wrong_phase();
        };
        let (laid, total, base) = (transferring.laid, transferring.extents, transferring.base);
        if laid < total {
            let missing = CompletionRejected::BaseNotWhole { laid, total };
            self.emit(now, What::CompletionRejected(missing), out);
            return Answer::Refused(Refusal::CompletionRejected(missing));
        }
        if committed < base {
            return Answer::Refused(Refusal::TargetBelowBase { base, committed });
        }
        self.emit(now, What::BaseWhole { target: committed }, out);
        let replaying = Replaying {
            base,
            target: committed,
            frontier: transferring.frontier,
            meter: Meter::start(self.opening.limits.budget, now),
        };
        self.finish_or_replay(now, replaying, out);
        Answer::Done
    }

    /// The replica's own log, since the join, is durable through `flushed`.
    pub(super) fn replayed_to(&mut self, now: Instant, flushed: Lsn, out: &mut Actions) -> Answer {
        let stale = Answer::Unchanged(Known::StaleProgress);
        match self.phase {
            Phase::RebuildJoining(mut joining) => {
                if flushed <= joining.frontier {
                    return stale;
                }
                joining.frontier = flushed;
                self.phase = Phase::RebuildJoining(joining);
            }
            Phase::Transferring(mut transferring) => {
                if flushed <= transferring.frontier {
                    return stale;
                }
                transferring.frontier = flushed;
                self.phase = Phase::Transferring(transferring);
            }
            Phase::Replaying(mut replaying) => {
                if flushed <= replaying.frontier {
                    return stale;
                }
                let recovered_to = flushed.min(replaying.target);
                let records = recovered_to.distance_from(replaying.frontier);
                replaying.frontier = flushed;
                replaying.meter.progress(now, records);
                let what = What::Progress {
                    recovered_to,
                    target: replaying.target,
                };
                self.emit(now, what, out);
                self.finish_or_replay(now, replaying, out);
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::Joining(_)
            | Phase::SourceSelected { .. }
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => return self.wrong_phase(),
        }
        Answer::Done
    }

    fn finish_or_replay(&mut self, now: Instant, replaying: Replaying, out: &mut Actions) {
        if replaying.frontier >= replaying.target {
            self.complete(now, replaying.frontier, out);
            return;
        }
        self.enter(Phase::Replaying(replaying), out);
        match replaying.meter.check(now) {
            Spending::Within => {}
            Spending::Exceeded(limit) => self.over_budget(now, limit, out),
        }
    }
}

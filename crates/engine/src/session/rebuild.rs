//! The rebuild of a replica: first it joins the live stream, then the base is laid under it.

use moorline_types::{Instant, Lsn};

use super::{HandshakeFailure, Phase, Session, SessionKind};
use crate::{
    action::{Action, Actions},
    budget::{CatchUpBudget, Meter, Spending},
    event::{Answer, Known, Refusal},
    planner::{Plan, PlanKind, RebuildFacts, choose_source},
    recovery_log::What,
};

/// Base blocks flow, under the joined stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transferring {
    /// The cursor: extents laid, from the first on. Strictly forward.
    pub laid: u64,
    /// Extents to lay.
    pub extents: u64,
    /// The replica's durable frontier since the join; `None` before its first answer.
    pub frontier: Option<Lsn>,
    /// Only its stall limit is in force: how much a base costs is not the budget's business.
    pub meter: Meter,
}

/// The base is whole; records up to the target are not all durable yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaying {
    /// The source's committed point when the base was whole.
    pub target: Lsn,
    /// The replica's durable frontier since the join; `None` before its first answer.
    pub frontier: Option<Lsn>,
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
        if let Err(impossible) = facts.check() {
            return self.handshake_refused(now, HandshakeFailure::Impossible(impossible), out);
        }
        let choice = choose_source(facts);
        let what = What::PlanRebuild {
            source: choice.source,
            refused: choice.refused,
        };
        self.emit(now, what, out);
        let extents = choice.extents;
        self.enter(Phase::SourceSelected { extents }, out);
        let kind = PlanKind::Rebuild {
            source: choice.source,
            extents,
        };
        let plan = Plan {
            replica: self.replica().clone(),
            stamp: self.stamp(),
            kind,
        };
        self.ask(Action::BindPlan(plan), out);
        Answer::Done
    }

    pub(super) fn join_for_rebuild(&mut self, now: Instant, extents: u64, out: &mut Actions) {
        self.enter(
            Phase::RebuildJoining {
                extents,
                since: now,
            },
            out,
        );
        let stamp = self.stamp();
        self.ask(Action::JoinForRebuild { stamp }, out);
    }

    pub(super) fn rebuild_joined(
        &mut self,
        now: Instant,
        join_point: Lsn,
        extents: u64,
        out: &mut Actions,
    ) {
        self.emit(now, What::Joined { join_point }, out);
        let stall_only = CatchUpBudget {
            stall_max: self.opening.limits.budget.stall_max,
            ..CatchUpBudget::UNLIMITED
        };
        let transferring = Transferring {
            laid: 0,
            extents,
            frontier: None,
            meter: Meter::start(stall_only, now),
        };
        self.enter(Phase::Transferring(transferring), out);
        let stamp = self.stamp();
        self.ask(Action::StartBase { stamp }, out);
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
        let (laid, total) = (transferring.laid, transferring.extents);
        if laid < total {
            let missing = super::CompletionRejected::BaseNotWhole { laid, total };
            self.emit(now, What::CompletionRejected(missing), out);
            return Answer::Refused(Refusal::CompletionRejected(missing));
        }
        self.emit(now, What::BaseWhole { target: committed }, out);
        let replaying = Replaying {
            target: committed,
            frontier: transferring.frontier,
            meter: Meter::start(self.opening.limits.budget, now),
        };
        self.finish_or_replay(now, replaying, out);
        Answer::Done
    }

    /// The replica's own log, since the join, is durable through `flushed`.
    pub(super) fn replayed_to(&mut self, now: Instant, flushed: Lsn, out: &mut Actions) -> Answer {
        match self.phase {
            Phase::Transferring(mut transferring) => {
                if transferring
                    .frontier
                    .is_some_and(|before| flushed <= before)
                {
                    return Answer::Unchanged(Known::StaleProgress);
                }
                transferring.frontier = Some(flushed);
                self.phase = Phase::Transferring(transferring);
                Answer::Done
            }
            Phase::Replaying(mut replaying) => {
                if replaying.frontier.is_some_and(|before| flushed <= before) {
                    return Answer::Unchanged(Known::StaleProgress);
                }
                let recovered_to = flushed.min(replaying.target);
                // The first answer says where it stands, not how much was replayed.
                let before = replaying.frontier.unwrap_or(recovered_to);
                replaying.frontier = Some(flushed);
                let records = recovered_to.distance_from(before);
                replaying.meter.progress(now, records);
                let what = What::Progress {
                    recovered_to,
                    target: replaying.target,
                };
                self.emit(now, what, out);
                self.finish_or_replay(now, replaying, out);
                Answer::Done
            }
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::Joining(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining { .. }
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => self.wrong_phase(),
        }
    }

    fn finish_or_replay(&mut self, now: Instant, replaying: Replaying, out: &mut Actions) {
        let reached = replaying.frontier.unwrap_or(Lsn::ZERO);
        if reached >= replaying.target {
            self.complete(now, reached, out);
            return;
        }
        self.enter(Phase::Replaying(replaying), out);
        match replaying.meter.check(now) {
            Spending::Within => {}
            Spending::Exceeded(limit) => self.over_budget(now, limit, out),
        }
    }
}

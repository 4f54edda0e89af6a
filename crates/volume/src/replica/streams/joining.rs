//! From a bound plan to the live stream, and what is given back at the end.

use moorline_engine::{Fact, Plan, ReleaseCause, SessionStamp};
use moorline_executor::{BoundPlan, CatchUp, Turn};
use moorline_types::{Instant, Lsn, Policy, ServerId};
use moorline_wal::PinHolder;

use super::{Execution, StreamState, shipping::SHIPPING};
use crate::{
    mutants::Mutant,
    promotion::Vote,
    replica::{Ctx, Replica, Role, reign::ANNOUNCE_DELAY},
};

impl Replica {
    /// Acquires what a plan needs and begins to carry it out; the session is told either way.
    pub(super) fn bind(&mut self, ctx: &Ctx<'_>, peer: &ServerId, plan: &Plan) {
        let holder = PinHolder::CatchUp {
            server: peer.clone(),
            session: plan.stamp.session,
        };
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let mut turn = Turn::of(ctx.now, &mut reign.registry, peer, &mut reign.asked);
        let pin = |after| self.store.pin(after, holder, ctx.now);
        // A plan that is not awaited any more concerns nobody; a refused pin ended its session.
        let Ok(bound) = BoundPlan::bind(&mut turn, plan, pin) else {
            return;
        };
        let catch_up = CatchUp::new(bound, SHIPPING);
        match reign.streams.get_mut(peer) {
            Some(stream) if stream.stamp == plan.stamp => {
                stream.execution = Execution::CatchUp(catch_up);
            }
            Some(_) | None => drop(catch_up),
        }
    }

    pub(super) fn join(&mut self, ctx: &Ctx<'_>, peer: &ServerId, stamp: SessionStamp, after: Lsn) {
        if self.must_grant_first(ctx.now, peer) {
            if let Some(stream) = self.stream_of(peer, stamp) {
                stream.joins_when_granted = Some(after);
            }
            return;
        }
        let join_point = match ctx.me.mutants.has(Mutant::JoinsBelowHead) {
            true => after,
            false => self.store.log().head(),
        };
        let head = self.store.log().head();
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let Some(stream) = reign.streams.get_mut(peer).filter(|s| s.stamp == stamp) else {
            return;
        };
        if let Execution::None = stream.execution {
            // It lacks nothing committed: only the join ships.
            let sender = reign.registry.sender(peer);
            let bound = sender.map(|sender| BoundPlan::zero_gap(sender, stamp, after));
            let Some(Ok(bound)) = bound else { return };
            stream.execution = Execution::CatchUp(CatchUp::new(bound, SHIPPING));
        }
        if let Execution::CatchUp(catch_up) = &mut stream.execution {
            catch_up.follow(after);
            let _at = catch_up.join(head);
        }
        stream.state = StreamState::Joined;
        // What is committed may be news to the peer though no record follows.
        reign.announce_at = Some(ctx.now.after(ANNOUNCE_DELAY));
        self.tell_engine(ctx, peer, stamp, Fact::Joined { join_point });
    }

    /// Whether the peer would be required, for the lease too, before it may grant one: right after
    /// its restart that would stop the volume for as long as the peer is silent.
    fn must_grant_first(&self, now: Instant, peer: &ServerId) -> bool {
        let (Role::Reign(reign), Some(line)) = (&self.role, &self.line) else {
            return false;
        };
        let votes = reign
            .peers
            .get(peer)
            .is_some_and(|seen| seen.vote == Vote::Counts);
        line.policy == Policy::SyncAll
            && votes
            && !line.is_in_sync(peer)
            && !reign.holding.holds(now, peer)
            && !reign.mutants.has(Mutant::GrowsWithoutLease)
    }

    /// A peer granted its lease: it joins now if it waited for that.
    pub(in crate::replica) fn join_granted(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let Some(stream) = reign.streams.get_mut(peer) else {
            return;
        };
        let stamp = stream.stamp;
        if let Some(after) = stream.joins_when_granted.take() {
            self.join(ctx, peer, stamp, after);
            self.do_engine(ctx);
        }
    }

    pub(super) fn release_stream(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: &ServerId,
        stamp: SessionStamp,
        cause: ReleaseCause,
    ) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let Some(stream) = reign.streams.get_mut(peer).filter(|s| s.stamp == stamp) else {
            return;
        };
        let mut turn = Turn::of(ctx.now, &mut reign.registry, peer, &mut reign.asked);
        match cause {
            // The recovery is over and the live stream goes on.
            ReleaseCause::Completed => {
                if let Execution::CatchUp(catch_up) = &mut stream.execution
                    && let Some(live) = catch_up.complete(&mut turn)
                {
                    stream.execution = Execution::Live(live);
                }
            }
            ReleaseCause::SessionEnded
            | ReleaseCause::Fenced
            | ReleaseCause::BudgetExceeded(_)
            | ReleaseCause::ReadFailed
            | ReleaseCause::LinkLost
            | ReleaseCause::PinBroken
            | ReleaseCause::Cancelled
            | ReleaseCause::Panicked => {
                if let Execution::CatchUp(catch_up) = &mut stream.execution {
                    let _first = catch_up.release(&mut turn, cause);
                }
                reign.streams.remove(peer);
                reign.growing.remove(peer);
            }
        }
    }
}

//! From a bound plan to the live stream, and what is given back at the end.

use moorline_engine::{
    Fact, PinKind, PinNeed, PlanKind, RecoveryEvent, ReleaseCause, SessionStamp,
};
use moorline_executor::pin_refusal;
use moorline_types::{Instant, Lsn, Policy, ServerId};
use moorline_wal::PinHolder;

use super::StreamState;
use crate::{
    journal::Happening,
    mutants::Mutant,
    promotion::Vote,
    replica::{Ctx, Replica, Role, reign::ANNOUNCE_DELAY},
};

impl Replica {
    /// Acquires the pin that a plan needs, or says why not.
    pub(super) fn bind(
        &mut self,
        ctx: &Ctx<'_>,
        peer: &ServerId,
        stamp: SessionStamp,
        plan: &PlanKind,
    ) -> Fact<'static> {
        let PlanKind::CatchUp { range, .. } = plan else {
            return Fact::PlanBound;
        };
        let after = range.after();
        let holder = PinHolder::CatchUp {
            server: peer.clone(),
            session: stamp.session,
        };
        match self.store.pin(after, holder, ctx.now) {
            Ok(pin) => {
                if let Some(stream) = self.stream_of(peer, stamp) {
                    stream.pin = Some(pin);
                }
                Fact::PlanBound
            }
            Err(refused) => {
                let (kind, lsn) = (PinKind::History, after);
                Fact::PinRefused(pin_refusal(PinNeed { kind, lsn }, &refused))
            }
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
        if let Some(stream) = self.stream_of(peer, stamp) {
            stream.sent = stream.sent.max(after);
            stream.state = StreamState::Joined;
            if let Role::Reign(reign) = &mut self.role {
                // What is committed may be news to the peer though no record follows.
                reign.announce_at = Some(ctx.now.after(ANNOUNCE_DELAY));
            }
            self.tell_engine(ctx, peer, stamp, Fact::Joined { join_point });
        }
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
        match cause {
            // The recovery is over and the live stream goes on.
            ReleaseCause::Completed => stream.pin = None,
            ReleaseCause::SessionEnded
            | ReleaseCause::Fenced
            | ReleaseCause::BudgetExceeded(_)
            | ReleaseCause::ReadFailed
            | ReleaseCause::LinkLost
            | ReleaseCause::PinBroken
            | ReleaseCause::Cancelled
            | ReleaseCause::Panicked => {
                reign.streams.remove(peer);
                reign.growing.remove(peer);
            }
        }
        let released = RecoveryEvent::released(ctx.now, peer, stamp, cause);
        self.note(ctx, Happening::Recovery(released));
    }
}

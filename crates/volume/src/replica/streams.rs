//! One ordered stream per peer: what the engine asks for, carried out.
//!
//! Catch-up pages and live records go over the same stream in LSN order without a gap. A stream
//! keeps link, stamp and acknowledgements; what is shipped, and what holds it, is its execution's
//! business: a catch-up ends at its frozen target, the join takes the end away, and when the proof is
//! in the stream goes on without pin and session.

mod answers;
mod joining;
mod opening;
mod shipping;

use moorline_engine::{Action as EngineAction, Directed, Event as EngineEvent, Fact, SessionStamp};
use moorline_executor::{CatchUp, LiveStream, Rewind};
use moorline_types::{Instant, Lsn, LsnRange, ServerId, SessionId};
use moorline_wal::ReadId;
use moorline_wire::{Ack, Truncate, VolumeHeader, VolumeMessage};

use super::{Ctx, Replica, Role, reign::InFlight};
use crate::{
    journal::{Happening, StepDownReason},
    node::LinkId,
};

pub(super) use self::shipping::pack;

/// A peer's stream, from the handshake on.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Stream {
    pub(super) stamp: SessionStamp,
    link: LinkId,
    state: StreamState,
    execution: Execution,
    pub(super) received: Lsn,
    pub(super) flushed: Lsn,
    pub(super) told_committed: Lsn,
    in_flight: InFlight,
    /// When its session was answered.
    since: Instant,
    /// When the durable frontier last moved: a peer that goes on is slow and not silent.
    progressed: Instant,
    reading: Option<ReadId>,
    /// The head that the handshake showed: who received as much has its memory back.
    shown: Lsn,
    /// Joins at its peer's first lease grant, with what was shipped before.
    joins_when_granted: Option<Lsn>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StreamState {
    /// Nothing is shipped yet.
    Preparing,
    /// Shipping through a frozen target.
    CatchingUp,
    /// Bound to the live stream.
    Joined,
}

/// What ships the records.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Execution {
    /// The session has no plan that ships anything.
    None,
    /// The session's, with the pin that it needs until the peer has joined and reached the join
    /// point.
    CatchUp(CatchUp),
    /// The session is completed.
    Live(LiveStream),
}

impl Execution {
    /// Frees what the peer has durably; the pin follows, so that a long recovery does not fill the
    /// log. Bytes that are only received still count: a slow disk bounds a peer, too.
    fn acknowledged(&mut self, flushed: Lsn) {
        match self {
            Self::None => {}
            Self::CatchUp(catch_up) => catch_up.acknowledged(flushed, flushed),
            Self::Live(live) => live.acknowledged(flushed, flushed),
        }
    }
}

impl Stream {
    fn new(now: Instant, stamp: SessionStamp, link: LinkId, shown: Lsn) -> Self {
        Self {
            shown,
            stamp,
            link,
            state: StreamState::Preparing,
            execution: Execution::None,
            received: Lsn::ZERO,
            flushed: Lsn::ZERO,
            told_committed: Lsn::ZERO,
            in_flight: InFlight::new(),
            since: now,
            progressed: now,
            reading: None,
            joins_when_granted: None,
        }
    }

    /// The copy of a stream has the copy of its pin bound.
    #[cfg(feature = "simulation")]
    pub(super) fn bind_pin(&mut self, pins: &moorline_wal::PinTable) {
        if let Execution::CatchUp(catch_up) = &mut self.execution {
            catch_up.bind_pin(pins);
        }
    }

    /// When its session was answered.
    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn is_joined(&self) -> bool {
        self.state == StreamState::Joined
    }

    /// Since when records that are not durable there wait for an answer without any progress.
    pub(super) fn oldest_unanswered(&self) -> Option<Instant> {
        self.in_flight
            .front()
            .map(|(_, at)| self.progressed.max(*at))
    }

    /// Only within a session whose cut, if one was needed, is recorded (`CUT-4`).
    fn note_ack(&mut self, now: Instant, ack: Ack) {
        if ack.flushed > self.flushed {
            self.progressed = now;
        }
        self.received = self.received.max(ack.received);
        self.flushed = self.flushed.max(ack.flushed);
        self.execution.acknowledged(self.flushed);
        while self
            .in_flight
            .front()
            .is_some_and(|(through, _)| *through <= self.flushed)
        {
            self.in_flight.pop_front();
        }
    }

    /// The peer lacks the record after `held`, as far as that can be.
    fn rewind(&mut self, held: Lsn) {
        let wound = match &mut self.execution {
            Execution::None => return,
            Execution::CatchUp(catch_up) => catch_up.rewind(held),
            Execution::Live(live) => live.rewind(held),
        };
        if let Rewind::To(_) = wound {
            self.in_flight.clear();
        }
    }
}

/// What a read of the log was for.
#[derive(Clone, Debug)]
pub(super) enum ReadFor {
    /// A page of a peer's stream.
    Stream {
        server: ServerId,
        stamp: SessionStamp,
    },
    /// A candidate's fetch.
    Fetch {
        link: LinkId,
        header: VolumeHeader,
        range: LsnRange,
    },
}

/// A session's number on the wire.
fn wire_session(id: SessionId) -> u64 {
    id.open().get() << 32 | id.serial()
}

impl Replica {
    /// Carries out what the engine asked for, and what that made it ask for.
    pub(super) fn do_engine(&mut self, ctx: &mut Ctx<'_>) {
        loop {
            let Role::Reign(reign) = &mut self.role else {
                return;
            };
            let asked = std::mem::take(&mut reign.asked);
            if asked.is_empty() {
                self.sessions = reign.registry.last_session();
                reign.drop_ended_streams();
                return;
            }
            for Directed { replica, action } in asked {
                self.do_engine_action(ctx, &replica, action);
            }
        }
    }

    fn do_engine_action(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId, action: EngineAction) {
        match action {
            EngineAction::Connect { endpoint, stamp: _ } => {
                ctx.links.want(ctx.now, peer, &endpoint.data, ctx.out);
                if ctx.links.dialed(peer).is_some() {
                    self.reign_link_up(ctx, peer);
                }
            }
            EngineAction::SendHandshake { stamp, kind, cause } => {
                self.send_handshake(ctx, peer, stamp, (kind, cause));
            }
            EngineAction::BindPlan(plan) => {
                self.bind(ctx, peer, &plan);
            }
            EngineAction::SendTruncate { stamp, through } => {
                self.send_on_stream(
                    ctx,
                    peer,
                    stamp,
                    VolumeMessage::Truncate(Truncate { through }),
                );
            }
            EngineAction::StartShipping { stamp, range: _ } => {
                if let Some(stream) = self.stream_of(peer, stamp) {
                    stream.state = StreamState::CatchingUp;
                }
            }
            EngineAction::Join { stamp, after } => self.join(ctx, peer, stamp, after),
            EngineAction::RequestGrowth { stamp: _, .. } => {
                let recorded = self.line.as_ref().is_some_and(|line| line.is_in_sync(peer));
                if let Role::Reign(reign) = &mut self.role {
                    reign.growing.insert(peer.clone());
                }
                if recorded {
                    self.growth_recorded(ctx, peer);
                } else {
                    self.change_in_sync(ctx);
                }
            }
            EngineAction::JoinForRebuild { stamp, .. } | EngineAction::StartBase { stamp } => {
                unreachable!("no rebuild session is requested: {stamp:?}")
            }
            EngineAction::RaiseCommitted { through } => self.store.set_committed(through),
            EngineAction::Release { stamp, cause } => {
                self.release_stream(ctx, peer, stamp, cause);
            }
            EngineAction::TellNeedsRebuild { .. } => self.tell_needs_rebuild(ctx, peer),
            EngineAction::StopVolume(missing) => {
                self.note(ctx, Happening::CommittedDataMissing(missing));
                self.step_down(ctx, StepDownReason::CommittedDataMissing);
            }
            EngineAction::Transitioned { .. } | EngineAction::Moved { .. } => {}
            EngineAction::Emit(event) => self.note(ctx, Happening::Recovery(event)),
        }
    }

    fn stream_of(&mut self, peer: &ServerId, stamp: SessionStamp) -> Option<&mut Stream> {
        match &mut self.role {
            Role::Reign(reign) => reign
                .streams
                .get_mut(peer)
                .filter(|stream| stream.stamp == stamp),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    fn tell_engine(&mut self, ctx: &Ctx<'_>, peer: &ServerId, stamp: SessionStamp, fact: Fact<'_>) {
        if let Role::Reign(reign) = &mut self.role {
            let event = EngineEvent::Session { stamp, fact };
            let _answer = reign
                .registry
                .handle(ctx.now, peer, event, &mut reign.asked);
        }
    }

    fn send_on_stream(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: &ServerId,
        stamp: SessionStamp,
        body: VolumeMessage,
    ) {
        if let Some(link) = self.stream_of(peer, stamp).map(|stream| stream.link) {
            let header = self.header(wire_session(stamp.session), stamp.epoch);
            self.send(ctx, link, header, body);
        }
    }

    /// Ends a peer's session, or its being in sync: what it is sent next is decided by its facts.
    pub(super) fn end_stream(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId, stamp: SessionStamp) {
        self.tell_engine(ctx, peer, stamp, Fact::CancelRequested);
        if self.stream_of(peer, stamp).is_some()
            && let Role::Reign(reign) = &mut self.role
            && reign
                .registry
                .sender(peer)
                .is_some_and(|sender| sender.live_session().is_none())
        {
            let event = EngineEvent::LinkLost;
            let _answer = reign
                .registry
                .handle(ctx.now, peer, event, &mut reign.asked);
        }
        self.do_engine(ctx);
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::{Epoch, OpenCount};

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn ack(flushed: u64) -> Ack {
        Ack {
            received: Lsn::new(flushed),
            flushed: Lsn::new(flushed),
            applied: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            tail: Lsn::ZERO,
        }
    }

    #[test]
    fn a_peer_that_goes_on_is_slow_and_not_silent() {
        let stamp = SessionStamp {
            session: SessionId::new(OpenCount::new(1), 1),
            epoch: Epoch::new(1, 0),
        };
        let mut stream = Stream::new(at(0), stamp, LinkId::new(1), Lsn::ZERO);
        assert_eq!(stream.oldest_unanswered(), None);
        for lsn in [5, 9] {
            stream.in_flight.push_back((Lsn::new(lsn), at(10)));
        }
        assert_eq!(stream.oldest_unanswered(), Some(at(10)));
        stream.note_ack(at(400), ack(5));
        assert_eq!(stream.oldest_unanswered(), Some(at(400)));
        stream.note_ack(at(600), ack(5));
        assert_eq!(
            stream.oldest_unanswered(),
            Some(at(400)),
            "the same again is no progress"
        );
        stream.note_ack(at(700), ack(9));
        assert_eq!(stream.oldest_unanswered(), None);
    }
}

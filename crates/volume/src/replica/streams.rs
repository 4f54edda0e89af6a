//! One ordered stream per peer: what the engine asks for, carried out.
//!
//! Catch-up pages and live records go over the same stream in LSN order without a gap. While a
//! catch-up runs the stream ends at its frozen target; the join takes the end away.

mod answers;
mod joining;
mod opening;
mod shipping;

use moorline_engine::{Action as EngineAction, Directed, Event as EngineEvent, Fact, SessionStamp};
use moorline_types::{Instant, Lsn, LsnRange, ServerId, SessionId};
use moorline_wal::{ReadId, RetentionPin};
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
    /// Records through here were sent.
    sent: Lsn,
    pub(super) received: Lsn,
    pub(super) flushed: Lsn,
    pub(super) told_committed: Lsn,
    in_flight: InFlight,
    in_flight_bytes: u64,
    /// When the durable frontier last moved: a peer that goes on is slow and not silent.
    progressed: Instant,
    reading: Option<ReadId>,
    /// The head that the handshake showed: who received as much has its memory back.
    shown: Lsn,
    /// Held until the peer has joined and reached the join point.
    pin: Option<RetentionPin>,
    /// Joins at its peer's first lease grant, with what was shipped before.
    joins_when_granted: Option<Lsn>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StreamState {
    /// Nothing is shipped yet.
    Preparing,
    /// Shipping through a frozen target.
    CatchingUp { target: Lsn },
    /// Bound to the live stream.
    Joined,
}

impl Stream {
    fn new(now: Instant, stamp: SessionStamp, link: LinkId, shown: Lsn) -> Self {
        Self {
            shown,
            stamp,
            link,
            state: StreamState::Preparing,
            sent: Lsn::ZERO,
            received: Lsn::ZERO,
            flushed: Lsn::ZERO,
            told_committed: Lsn::ZERO,
            in_flight: InFlight::new(),
            in_flight_bytes: 0,
            progressed: now,
            reading: None,
            pin: None,
            joins_when_granted: None,
        }
    }

    /// The copy of a stream has the copy of its pin bound.
    #[cfg(feature = "simulation")]
    pub(super) fn bind_pin(&mut self, pins: &moorline_wal::PinTable) {
        if let Some(pin) = &mut self.pin {
            pin.bind(pins);
        }
    }

    pub(super) fn is_joined(&self) -> bool {
        self.state == StreamState::Joined
    }

    /// Since when records that are not durable there wait for an answer without any progress.
    pub(super) fn oldest_unanswered(&self) -> Option<Instant> {
        self.in_flight
            .front()
            .map(|(_, _, at)| self.progressed.max(*at))
    }

    /// How far may be sent, as of now.
    fn end(&self, head: Lsn) -> Lsn {
        match self.state {
            StreamState::Preparing => self.sent,
            StreamState::CatchingUp { target } => target,
            StreamState::Joined => head,
        }
    }

    /// Only within a session whose cut, if one was needed, is recorded (`CUT-4`).
    fn note_ack(&mut self, now: Instant, ack: Ack) {
        if ack.flushed > self.flushed {
            self.progressed = now;
        }
        self.received = self.received.max(ack.received);
        self.flushed = self.flushed.max(ack.flushed);
        // The pin follows the frontier, so that a long recovery does not fill the log.
        if let Some(pin) = &mut self.pin
            && self.flushed > pin.lsn()
        {
            pin.advance(self.flushed);
        }
        while self
            .in_flight
            .front()
            .is_some_and(|(through, _, _)| *through <= self.flushed)
        {
            let (_, bytes, _) = self.in_flight.pop_front().expect("just looked at");
            self.in_flight_bytes -= bytes;
        }
    }

    fn rewind(&mut self, after: Lsn) {
        self.sent = after;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
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
                let fact = self.bind(ctx, peer, plan.stamp, &plan.kind);
                self.tell_engine(ctx, peer, plan.stamp, fact);
            }
            EngineAction::SendTruncate { stamp, through } => {
                self.send_on_stream(
                    ctx,
                    peer,
                    stamp,
                    VolumeMessage::Truncate(Truncate { through }),
                );
            }
            EngineAction::StartShipping { stamp, range } => {
                if let Some(stream) = self.stream_of(peer, stamp) {
                    stream.sent = range.after();
                    stream.state = StreamState::CatchingUp {
                        target: range.through(),
                    };
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
            stream.in_flight.push_back((Lsn::new(lsn), 100, at(10)));
            stream.in_flight_bytes += 100;
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
        assert_eq!(stream.in_flight_bytes, 0);
    }
}

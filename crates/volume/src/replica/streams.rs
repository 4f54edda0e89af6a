//! One ordered stream per peer: what the engine asks for, carried out.
//!
//! Catch-up pages and live records go over the same stream in LSN order without a gap. While a
//! catch-up runs the stream ends at its frozen target; the join takes the end away.

mod shipping;

use moorline_engine::{
    Action as EngineAction, Bucket, Cause, Directed, Event as EngineEvent, Fact, HandshakeFailure,
    Image, PinKind, PinRefusal, PinRefusedReason, PlanKind, PrimaryFacts, RecoveryEvent,
    ReleaseCause, ReplicaFacts as EngineFacts, SessionKind, SessionStamp,
};
use moorline_types::{AssignmentLine, Instant, Lsn, LsnRange, Policy, ServerId, SessionId};
use moorline_wal::{PinHolder, ReadId, RetentionPin};
use moorline_wire::{
    Ack, Handshake, ImageState, MemoryState, NeedRecords, Refused, RefusedReason, ReplicaFacts,
    StreamEndReason, StreamEnded, Truncate, TruncationRecorded, VolumeHeader, VolumeMessage,
};

use super::{
    Ctx, Replica, Role,
    reign::{ANNOUNCE_DELAY, InFlight, PeerSeen},
    report::{session_cause, session_kind},
};
use crate::{
    journal::{Happening, StepDownReason},
    mutants::Mutant,
    node::{LinkId, Peer},
    promotion::Vote,
};

pub(super) use self::shipping::pack;

/// A peer's stream, from the handshake on.
#[derive(Debug)]
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
            EngineAction::JoinForRebuild { stamp } | EngineAction::StartBase { stamp } => {
                unreachable!("no rebuild session is requested: {stamp:?}")
            }
            EngineAction::RaiseCommitted { through } => self.store.set_committed(through),
            EngineAction::Release { stamp, cause } => {
                self.release_stream(ctx, peer, stamp, cause);
            }
            EngineAction::TellNeedsRebuild { stamp, .. } => {
                // The session ended, and its stream with it: the connection may still stand.
                if let Some(link) = ctx.links.dialed(peer) {
                    let reason = StreamEndReason::NeedsRebuild;
                    let ended = VolumeMessage::StreamEnded(StreamEnded { reason });
                    let header = self.header(wire_session(stamp.session), stamp.epoch);
                    self.send(ctx, link, header, ended);
                }
            }
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

    fn send_handshake(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: &ServerId,
        stamp: SessionStamp,
        (kind, cause): (SessionKind, Cause),
    ) {
        let (Some(link), Some(line)) = (ctx.links.dialed(peer), self.line.clone()) else {
            return;
        };
        let header = self.header(wire_session(stamp.session), stamp.epoch);
        let handshake = self.handshake(ctx, line, (kind, cause));
        if let Role::Reign(reign) = &mut self.role {
            let stream = Stream::new(ctx.now, stamp, link, self.store.log().head());
            reign.streams.insert(peer.clone(), stream);
        }
        let body = VolumeMessage::Handshake(Box::new(handshake));
        self.send(ctx, link, header, body);
    }

    fn handshake(
        &self,
        ctx: &Ctx<'_>,
        line: AssignmentLine,
        (kind, cause): (SessionKind, Cause),
    ) -> Handshake {
        let log = self.store.log();
        Handshake {
            server: ctx.me.server.clone(),
            boot: ctx.me.boot,
            kind: session_kind(kind),
            cause: session_cause(cause),
            history: log.history().to_vec(),
            committed: self.store.committed(),
            tail: log.tail(),
            head: log.head(),
            line,
            given_up: self.store.durable().given_up.clone(),
        }
    }

    /// Shows the line in force to every joined peer, in its session: the master may not reach all
    /// who have to persist it (`JOIN-5`).
    pub(super) fn show_line(&mut self, ctx: &mut Ctx<'_>) {
        let (Role::Reign(reign), Some(line)) = (&self.role, &self.line) else {
            return;
        };
        let joined = reign
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_joined());
        let due: Vec<(LinkId, SessionStamp)> = joined
            .filter(|(server, _)| line.member(server).is_some())
            .map(|(_, stream)| (stream.link, stream.stamp))
            .collect();
        let what = (SessionKind::CatchUp, Cause::Assignment);
        for (link, stamp) in due {
            let header = self.header(wire_session(stamp.session), stamp.epoch);
            let handshake = self.handshake(ctx, line.clone(), what);
            let body = VolumeMessage::Handshake(Box::new(handshake));
            self.send(ctx, link, header, body);
        }
    }

    /// Acquires the pin that a plan needs, or says why not.
    fn bind(
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
            Err(_) => Fact::PinRefused(PinRefusal {
                pin: PinKind::History,
                lsn: after,
                reason: PinRefusedReason::Reclaimed,
            }),
        }
    }

    fn join(&mut self, ctx: &Ctx<'_>, peer: &ServerId, stamp: SessionStamp, after: Lsn) {
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

    fn release_stream(
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
    pub(super) fn join_granted(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
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

    pub(super) fn reign_link_up(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let _answer = reign
            .registry
            .link_up(ctx.now, peer, Cause::Reconnect, &mut reign.asked);
        self.do_engine(ctx);
    }

    pub(super) fn reign_link_down(&mut self, ctx: &mut Ctx<'_>, link: LinkId, peer: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if reign
            .streams
            .get(peer)
            .is_some_and(|stream| stream.link != link)
        {
            return;
        }
        let event = EngineEvent::LinkLost;
        let _answer = reign
            .registry
            .handle(ctx.now, peer, event, &mut reign.asked);
        reign.unpromised.remove(peer);
        reign.streams.remove(peer);
        reign.growing.remove(peer);
        self.do_engine(ctx);
        self.advance(ctx);
    }

    /// A member promised this epoch at last: it can take a session now.
    pub(super) fn on_late_promise(&mut self, ctx: &mut Ctx<'_>, from: &Peer, header: VolumeHeader) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if header.epoch == reign.id.epoch && reign.unpromised.remove(&from.server) {
            self.begin_sessions(ctx);
            self.do_engine(ctx);
        }
    }

    /// Begins a session with each peer that has none and whose link stands.
    pub(super) fn begin_sessions(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let idle: Vec<ServerId> = reign
            .registry
            .senders()
            .filter(|(_, sender)| {
                matches!(sender.bucket(), Bucket::Disconnected | Bucket::Degraded)
            })
            .map(|(server, _)| server.clone())
            .collect();
        for server in idle {
            if ctx.links.dialed(&server).is_none() {
                continue;
            }
            let Role::Reign(reign) = &mut self.role else {
                return;
            };
            // It would refuse the session: only the promise is asked for again.
            if reign.unpromised.contains(&server) {
                self.ask_late_promise(ctx, &server);
                continue;
            }
            let what = (SessionKind::CatchUp, Cause::Reconnect);
            let _answer = reign
                .registry
                .request_session(ctx.now, &server, what, &mut reign.asked);
        }
    }

    pub(super) fn on_handshake_ack(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        facts: &ReplicaFacts,
    ) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        if facts.server != from.server || facts.boot != from.boot {
            self.refuse_peer(ctx, from, "its facts name another server or boot");
            return;
        }
        let Some(line) = self.line.clone() else {
            return;
        };
        let log = self.store.log();
        let history = log.history().to_vec();
        let given_up = self.store.durable().given_up.clone();
        let primary = PrimaryFacts {
            history: &history,
            head: log.head(),
            committed: self.store.committed(),
            tail: log.tail(),
            checkpoint: self.store.frontiers().checkpoint,
            given_up: &given_up,
        };
        let replica = EngineFacts {
            history: &facts.history,
            head: facts.head,
            flushed: facts.flushed,
            applied: facts.applied,
            checkpoint: facts.checkpoint,
            tail: facts.tail,
            committed: facts.committed,
            image: match facts.image {
                ImageState::Whole => Image::Whole,
                ImageState::Incomplete | ImageState::NeedsRebuild => Image::Incomplete,
            },
            given_up: &facts.given_up,
        };
        if let Role::Reign(reign) = &mut self.role {
            let seen = PeerSeen {
                boot: facts.boot,
                opening: facts.opening(),
                vote: reign.vote_of_peer(facts, &line, ctx.me.mutants),
                persisted: facts.line.as_ref().map(|l| l.version()).unwrap_or_default(),
                memory_back_at: match facts.memory {
                    MemoryState::Intact => None,
                    MemoryState::Lost => reign.streams.get(&from.server).map(|s| s.shown),
                },
            };
            reign.peers.insert(from.server.clone(), seen);
        }
        let recorded = line.member(&from.server).and_then(|member| member.store);
        let known =
            recorded == Some(facts.store) || ctx.me.mutants.has(Mutant::StoreIdentityIgnored);
        let fact = if known {
            Fact::HandshakeAnswered { primary, replica }
        } else {
            Fact::HandshakeRefused(HandshakeFailure::WrongStore)
        };
        self.tell_engine(ctx, &from.server, stamp, fact);
        self.do_engine(ctx);
        self.advance(ctx);
    }

    /// The session that a replica's answer belongs to, if it is the live one of this reign.
    fn stamp_of(&self, from: &Peer, header: VolumeHeader) -> Option<SessionStamp> {
        let Role::Reign(reign) = &self.role else {
            return None;
        };
        let stream = reign.streams.get(&from.server)?;
        let same = header.epoch == reign.id.epoch
            && (header.session == wire_session(stream.stamp.session)
                || reign.mutants.has(Mutant::StaleSessionAccepted));
        same.then_some(stream.stamp)
    }

    pub(super) fn on_truncation_recorded(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        recorded: TruncationRecorded,
    ) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        let fact = Fact::TruncationRecorded {
            through: recorded.through,
        };
        self.tell_engine(ctx, &from.server, stamp, fact);
        self.do_engine(ctx);
        self.advance(ctx);
    }

    pub(super) fn on_ack(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        ack: Ack,
    ) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        let head = self.store.log().head();
        if ack.received > head || ack.flushed > ack.received {
            self.refuse_peer(ctx, from, "it acknowledges what was never sent");
            return;
        }
        if let Role::Reign(reign) = &mut self.role
            && let Some(stream) = reign.streams.get_mut(&from.server)
            && reign.registry.sender(&from.server).is_some_and(|sender| {
                sender.counts_acks(stamp).is_ok() || ctx.me.mutants.has(Mutant::AckCountsBeforeCut)
            })
        {
            stream.note_ack(ctx.now, ack);
        }
        if let Role::Reign(reign) = &mut self.role
            && let Some(seen) = reign.peers.get_mut(&from.server)
        {
            seen.persisted = seen.persisted.max((header.epoch, header.config));
        }
        let fact = Fact::Acknowledged {
            flushed: ack.flushed,
            head,
        };
        self.tell_engine(ctx, &from.server, stamp, fact);
        self.do_engine(ctx);
        self.advance(ctx);
        if matches!(&self.role, Role::Reign(reign) if reign.growing.contains(&from.server)) {
            self.change_in_sync(ctx);
        }
    }

    pub(super) fn on_need_records(&mut self, from: &Peer, header: VolumeHeader, need: NeedRecords) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        if let Some(stream) = self.stream_of(&from.server, stamp)
            && need.after < stream.sent
            && need.after >= stream.flushed
        {
            stream.rewind(need.after);
        }
    }

    /// A peer refused something of this reign.
    pub(super) fn on_refused(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        refused: &Refused,
    ) {
        let Some(leading) = self.leading_epoch() else {
            return;
        };
        if header.session != 0
            && let Some(stamp) = self.stamp_of_refusal(from, header)
        {
            let failure = match &refused.reason {
                RefusedReason::UnknownVolume => HandshakeFailure::UnknownVolume,
                RefusedReason::NotMember => HandshakeFailure::NotMember,
                RefusedReason::WrongStore { .. } => HandshakeFailure::WrongStore,
                RefusedReason::DeviceFailed => HandshakeFailure::StoreFailed,
                RefusedReason::Ahead { .. } => HandshakeFailure::NotPromised,
                RefusedReason::Stale { .. }
                | RefusedReason::Conflict { .. }
                | RefusedReason::WrongSession { .. }
                | RefusedReason::Gap { .. }
                | RefusedReason::Diverged { .. }
                | RefusedReason::Corrupt
                | RefusedReason::InsaneEpoch
                | RefusedReason::WrongRole
                | RefusedReason::GivenUpFull => HandshakeFailure::ReplicaAhead,
            };
            let peer = &from.server;
            self.tell_engine(ctx, peer, stamp, Fact::HandshakeRefused(failure));
            self.end_stream(ctx, peer, stamp);
            if matches!(refused.reason, RefusedReason::Ahead { .. }) {
                if let Role::Reign(reign) = &mut self.role {
                    reign.unpromised.insert(peer.clone());
                }
                self.ask_late_promise(ctx, peer);
            }
        }
        match refused.reason {
            RefusedReason::Stale { epoch, .. } if epoch > leading => {
                self.step_down(ctx, StepDownReason::HigherEpoch(epoch));
            }
            RefusedReason::Conflict { epoch } if epoch == leading => {
                self.step_down(ctx, StepDownReason::EpochConflict);
            }
            RefusedReason::Stale { .. }
            | RefusedReason::Ahead { .. }
            | RefusedReason::Conflict { .. }
            | RefusedReason::WrongStore { .. }
            | RefusedReason::UnknownVolume
            | RefusedReason::NotMember
            | RefusedReason::WrongSession { .. }
            | RefusedReason::Gap { .. }
            | RefusedReason::Diverged { .. }
            | RefusedReason::Corrupt
            | RefusedReason::InsaneEpoch
            | RefusedReason::DeviceFailed
            | RefusedReason::WrongRole
            | RefusedReason::GivenUpFull => {}
        }
    }

    /// As `stamp_of`; a refusal carries the receiver's epoch, so only the session is compared.
    fn stamp_of_refusal(&self, from: &Peer, header: VolumeHeader) -> Option<SessionStamp> {
        let Role::Reign(reign) = &self.role else {
            return None;
        };
        let stamp = reign.streams.get(&from.server)?.stamp;
        (header.session == wire_session(stamp.session)).then_some(stamp)
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

//! Sessions begin: links, handshakes, and what the answers show.

use moorline_engine::{
    Bucket, Cause, Event as EngineEvent, Fact, HandshakeFailure, Image, PrimaryFacts,
    ReplicaFacts as EngineFacts, SessionKind, SessionStamp,
};
use moorline_types::{AssignmentLine, ServerId};
use moorline_wire::{
    Handshake, ImageState, MemoryState, ReplicaFacts, StreamEndReason, StreamEnded, VolumeHeader,
    VolumeMessage,
};

use super::{Stream, wire_session};
use crate::{
    mutants::Mutant,
    node::{LinkId, Peer},
    replica::{
        Ctx, Replica, Role,
        reign::PeerSeen,
        report::{session_cause, session_kind},
    },
};

impl Replica {
    pub(in crate::replica) fn reign_link_up(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let _answer = reign
            .registry
            .link_up(ctx.now, peer, Cause::Reconnect, &mut reign.asked);
        self.do_engine(ctx);
        self.tell_needs_rebuild(ctx, peer);
    }

    /// Tells a peer that only a rebuild brings back that it is so: when that is decided, at each new
    /// connection, and when it promised this epoch. Its disk may have failed when it was told first,
    /// or the connection may have been gone.
    pub(super) fn tell_needs_rebuild(&self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let Role::Reign(reign) = &self.role else {
            return;
        };
        let sender = reign.registry.sender(peer);
        if sender.is_none_or(|sender| sender.needs_rebuild().is_none()) {
            return;
        }
        if let Some(link) = ctx.links.dialed(peer) {
            let reason = StreamEndReason::NeedsRebuild;
            let ended = VolumeMessage::StreamEnded(StreamEnded { reason });
            let header = self.header(0, reign.id.epoch);
            self.send(ctx, link, header, ended);
        }
    }

    /// A peer that needs a rebuild has not promised this epoch: it believes this primary afterwards.
    pub(super) fn ask_before_telling(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        let sender = reign.registry.sender(peer);
        let needy = sender.is_some_and(|sender| sender.needs_rebuild().is_some());
        if needy && reign.unpromised.insert(peer.clone()) {
            self.ask_late_promise(ctx, peer);
        }
    }

    pub(in crate::replica) fn reign_link_down(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        peer: &ServerId,
    ) {
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
        // A catch-up is released, with its event, before its stream goes.
        self.do_engine(ctx);
        if let Role::Reign(reign) = &mut self.role
            && reign
                .streams
                .get(peer)
                .is_some_and(|stream| stream.link == link)
        {
            reign.streams.remove(peer);
            reign.growing.remove(peer);
        }
        self.advance(ctx);
    }

    /// Begins a session with each peer that has none and whose link stands.
    pub(in crate::replica) fn begin_sessions(&mut self, ctx: &mut Ctx<'_>) {
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

    /// A member promised this epoch at last: it can take a session now.
    pub(in crate::replica) fn on_late_promise(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
    ) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if header.epoch == reign.id.epoch && reign.unpromised.remove(&from.server) {
            self.begin_sessions(ctx);
            self.do_engine(ctx);
            self.tell_needs_rebuild(ctx, &from.server);
        }
    }

    pub(super) fn send_handshake(
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
    pub(in crate::replica) fn show_line(&mut self, ctx: &mut Ctx<'_>) {
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

    pub(in crate::replica) fn on_handshake_ack(
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
            lowest_pin: log.pin_table().lowest(),
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
}

//! The primary's side: what a reign is made of, its beginning, its timers, its end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use moorline_engine::{
    Actions as EngineActions, Event as EngineEvent, Registry, RegistryIdentity, SenderConfig,
};
use moorline_types::{
    AssignmentLine, BootId, ConfigVersion, Epoch, Instant, Lsn, LsnRange, OpenCount, Opening,
    ServerId, VolumeId,
};
use moorline_wire::{
    ReplicaFacts,
    control::{PrimaryFaultReason, PromotionFailure, ServerToMaster},
};

use super::{Ctx, OnVolatileLoss, Replica, Role, streams::Stream};
use crate::{
    desk::Desk,
    journal::StepDownReason,
    lease::{Holding, Reign as ReignId},
    mutants::{Mutant, Mutants},
    node::Action,
    promotion::{NoVoteReason, Vote, vote_of},
};

mod in_sync;
mod lease;
mod seats;

use in_sync::AskedChange;

/// Between two attempts to begin a session with a peer whose link stands.
const SESSION_AGAIN: Duration = Duration::from_millis(300);

/// A primary, from its mark on.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Reign {
    pub(super) id: ReignId,
    pub(super) mark: Lsn,
    pub(super) phase: ReignPhase,
    pub(super) holding: Holding,
    pub(super) registry: Registry,
    pub(super) asked: EngineActions,
    pub(super) streams: BTreeMap<ServerId, Stream>,
    pub(super) peers: BTreeMap<ServerId, PeerSeen>,
    /// Peers that have not promised this epoch, as they said: they take no session before.
    pub(super) unpromised: BTreeSet<ServerId>,
    /// Peers whose growth into the in-sync set is to be recorded.
    pub(super) growing: BTreeSet<ServerId>,
    /// Peers dropped by a line that not everybody who remains has persisted: still required.
    outgoing: Vec<(ServerId, ConfigVersion)>,
    /// Since when a member of the in-sync set has no joined stream.
    lost_since: BTreeMap<ServerId, Instant>,
    change: Option<AskedChange>,
    /// The master refused a change: the next one is not asked for before this.
    hold_until: Instant,
    changes: u64,
    again_at: Instant,
    volatile_loss: Option<LsnRange>,
    pub(super) announce_at: Option<Instant>,
    /// Until when the master's lease runs; it is the one that counts under `best_effort`.
    master_lease_until: Instant,
    committed: Lsn,
    acknowledgeable: Lsn,
    pub(super) mutants: Mutants,
}

/// Whether the epoch is open for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReignPhase {
    /// The mark is not committed yet.
    Opening,
    /// It is.
    Serving,
}

/// What a peer said of itself in this reign.
#[derive(Clone, Debug)]
pub(super) struct PeerSeen {
    pub(super) boot: BootId,
    /// The opening of its store that answered; a later answer must be of that store, no older copy.
    pub(super) opening: Opening,
    pub(super) vote: Vote,
    pub(super) persisted: (Epoch, ConfigVersion),
    /// Its memory was lost; it says that it flushed this much only after that is made good.
    pub(super) memory_back_at: Option<Lsn>,
}

impl Reign {
    /// The vote of a peer's store by the line and by what it showed in this reign; the worse holds.
    pub(super) fn vote_of_peer(
        &self,
        facts: &ReplicaFacts,
        line: &AssignmentLine,
        mutants: Mutants,
    ) -> Vote {
        let seen = self.peers.get(&facts.server);
        match seen.is_none_or(|seen| facts.openings.descends_from(seen.opening)) {
            true => vote_of(facts, line, mutants),
            false => Vote::DoesNot(NoVoteReason::RolledBack),
        }
    }

    pub(super) fn new(
        ctx: &Ctx<'_>,
        (volume, open): (VolumeId, OpenCount),
        id: ReignId,
        mark: Lsn,
        volatile_loss: Option<LsnRange>,
    ) -> Self {
        let identity = RegistryIdentity {
            volume,
            own: ctx.me.server.clone(),
            open,
        };
        let sender = SenderConfig {
            mutants: ctx.me.engine_mutants,
            ..SenderConfig::default()
        };
        let volatile_loss = match ctx.me.on_volatile_loss {
            OnVolatileLoss::Stop => volatile_loss,
            OnVolatileLoss::Continue => None,
        };
        Self {
            registry: Registry::new(identity, id.epoch, sender),
            id,
            mark,
            phase: ReignPhase::Opening,
            holding: Holding::default(),
            asked: Vec::new(),
            streams: BTreeMap::new(),
            peers: BTreeMap::new(),
            unpromised: BTreeSet::new(),
            growing: BTreeSet::new(),
            outgoing: Vec::new(),
            lost_since: BTreeMap::new(),
            change: None,
            hold_until: ctx.now,
            changes: 0,
            again_at: ctx.now,
            volatile_loss,
            announce_at: None,
            master_lease_until: Instant::ZERO,
            committed: Lsn::ZERO,
            acknowledgeable: Lsn::ZERO,
            mutants: ctx.me.mutants,
        }
    }

    pub(super) fn serves(&self) -> bool {
        let opened =
            self.phase == ReignPhase::Serving || self.mutants.has(Mutant::ServesBeforeMark);
        opened && self.volatile_loss.is_none()
    }

    /// Whether nobody is served because acknowledged records may be lost.
    pub(super) fn waits_for_operator(&self) -> bool {
        self.phase == ReignPhase::Serving && self.volatile_loss.is_some()
    }

    /// The copies of its streams have the copies of their pins bound.
    #[cfg(feature = "simulation")]
    pub(super) fn bind_pins(&mut self, pins: &moorline_wal::PinTable) {
        for stream in self.streams.values_mut() {
            stream.bind_pin(pins);
        }
    }

    pub(super) fn next_deadline(
        &self,
        desk: &Desk,
        line: Option<&AssignmentLine>,
    ) -> Option<Instant> {
        let waiting = line.and_then(|line| desk.next_deadline(line.no_quorum));
        // While a change is asked for, or just was refused, nothing follows from who is lost.
        let change = self.change.as_ref().map(|change| change.again);
        let silent = self
            .streams
            .values()
            .filter_map(Stream::oldest_unanswered)
            .min();
        let silent = silent.map(|since| since.after(PEER_DEADLINE));
        let missed = line.and_then(|line| {
            let streams = self.streams.keys();
            streams
                .filter_map(|server| self.lease_missed_at(line, server))
                .min()
        });
        let lost = self
            .lost_since
            .values()
            .min()
            .filter(|_| self.change.is_none())
            .map(|since| since.after(PEER_DEADLINE).max(self.hold_until));
        let unsettled = self.has_idle_peer() || !self.growing.is_empty();
        let again = unsettled.then_some(self.again_at);
        [
            desk.pace_deadline(),
            self.registry.next_deadline(),
            self.announce_at,
            waiting,
            change,
            silent,
            missed,
            lost,
            again,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether some peer has no live session and no standing.
    fn has_idle_peer(&self) -> bool {
        self.registry
            .senders()
            .any(|(_, sender)| !sender.has_standing())
    }

    pub(super) fn release(&mut self, ctx: &mut Ctx<'_>) {
        self.holding.release();
        self.streams.clear();
        let to = Epoch::new(self.id.epoch.assignment(), self.id.epoch.reign() + 1);
        let _raise = self.registry.raise_epoch(ctx.now, to, &mut self.asked);
        self.asked.clear();
    }
}

/// Out of the ack path after this long without an answer: well under the second that a client may
/// wait for a silent peer, and long enough for a busy disk.
pub(crate) const PEER_DEADLINE: Duration = Duration::from_millis(500);

impl Replica {
    /// The mark is appended: peers are handshaken and the lease is asked for.
    pub(super) fn reign_begins(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.registry.number_after(self.sessions);
        reign.committed = self.store.committed();
        reign.acknowledgeable = reign.committed;
        self.urge_lease();
        self.line_changed(ctx);
        self.advance(ctx);
    }

    /// The newest line changed: senders, required set and requests follow it.
    pub(super) fn line_changed(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = self.line.clone() else {
            return;
        };
        self.want_members(ctx);
        let own = ctx.me.server.clone();
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if line.epoch != reign.id.epoch {
            return;
        }
        let before = reign
            .registry
            .line()
            .map(|known| known.in_sync.clone())
            .unwrap_or_default();
        for dropped in before.into_iter().filter(|server| !line.is_in_sync(server)) {
            reign.outgoing.push((dropped, line.config));
        }
        reign
            .outgoing
            .retain(|(server, _)| !line.is_in_sync(server) && *server != own);
        let _applied = reign.registry.apply(ctx.now, &line, &mut reign.asked);
        let recorded: Vec<ServerId> = reign
            .growing
            .iter()
            .filter(|server| line.is_in_sync(server))
            .cloned()
            .collect();
        if reign
            .change
            .as_ref()
            .is_some_and(|change| change.expected < line.config)
        {
            reign.change = None;
        }
        for server in recorded {
            self.growth_recorded(ctx, &server);
        }
        self.do_engine(ctx);
        self.show_line(ctx);
        self.advance(ctx);
    }

    /// Asks for connections to every other member.
    pub(super) fn want_members(&mut self, ctx: &mut Ctx<'_>) {
        if self.leading_epoch().is_none() {
            return;
        }
        let Some(line) = &self.line else { return };
        for member in line
            .members
            .iter()
            .filter(|member| member.server != ctx.me.server)
        {
            ctx.links
                .want(ctx.now, &member.server, &member.data_addr, ctx.out);
        }
    }

    /// Timers of a reign.
    pub(super) fn reign_tick(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.registry.deadline_reached(ctx.now, &mut reign.asked);
        let line = self.line.as_ref();
        let silent: Vec<ServerId> = reign
            .streams
            .iter()
            .filter(|(server, stream)| {
                let since = stream.oldest_unanswered();
                let missed = line.and_then(|line| reign.lease_missed_at(line, server));
                since.is_some_and(|since| ctx.now.since(since) >= PEER_DEADLINE)
                    || missed.is_some_and(|at| at <= ctx.now)
            })
            .map(|(server, _)| server.clone())
            .collect();
        for server in silent {
            let event = EngineEvent::PeerSilent;
            let _answer = reign
                .registry
                .handle(ctx.now, &server, event, &mut reign.asked);
        }
        if reign.again_at <= ctx.now {
            reign.again_at = ctx.now.after(SESSION_AGAIN);
            self.begin_sessions(ctx);
        }
        self.do_engine(ctx);
        self.announce(ctx);
        self.change_in_sync(ctx);
        if let Some(line) = &self.line {
            self.desk.expire(ctx.now, line.no_quorum, ctx.out);
        }
        self.advance(ctx);
    }

    pub(super) fn tell_master_of_step_down(
        &self,
        ctx: &mut Ctx<'_>,
        epoch: Epoch,
        reason: StepDownReason,
    ) {
        let reason = match reason {
            StepDownReason::DeviceFailed => PrimaryFaultReason::DeviceFailed,
            StepDownReason::Stopping => PrimaryFaultReason::ShuttingDown,
            StepDownReason::CommittedDataMissing => PrimaryFaultReason::CommittedDataMissing,
            StepDownReason::HigherEpoch(_) | StepDownReason::EpochConflict => {
                PrimaryFaultReason::Fenced
            }
            StepDownReason::Declined | StepDownReason::Deleted => return,
        };
        let fault = ServerToMaster::PrimaryFault {
            volume: self.volume,
            epoch,
            reason,
        };
        ctx.out.push(Action::TellMaster(fault));
    }

    pub(super) fn tell_promotion_failed(
        &self,
        ctx: &mut Ctx<'_>,
        epoch: Epoch,
        reason: PromotionFailure,
        better: Option<ServerId>,
    ) {
        let failed = ServerToMaster::PromotionFailed {
            volume: self.volume,
            epoch,
            reason,
            better,
        };
        ctx.out.push(Action::TellMaster(failed));
    }
}

/// A commit that nothing else carries is announced after this long: at once enough for a reader of
/// status, late enough to travel with the next record of a busy volume.
pub(super) const ANNOUNCE_DELAY: Duration = Duration::from_millis(5);

impl Reign {
    /// Drops the streams whose session ended, or whose peer is in sync no longer.
    pub(super) fn drop_ended_streams(&mut self) {
        let registry = &self.registry;
        self.streams.retain(|server, stream| {
            registry.sender(server).is_some_and(|sender| {
                let session = sender.session().map(|session| session.stamp());
                sender.has_standing() && session == Some(stream.stamp)
            })
        });
        let streams = &self.streams;
        self.growing.retain(|server| streams.contains_key(server));
    }
}

/// Batches kept in flight to one peer: `(through, sent at)`, oldest first.
pub(super) type InFlight = VecDeque<(Lsn, Instant)>;

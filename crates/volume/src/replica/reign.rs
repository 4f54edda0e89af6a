//! The primary's side: commit, lease, in-sync set, and the gate for clients.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use moorline_engine::{
    Actions as EngineActions, Event as EngineEvent, Fact, Registry, RegistryIdentity, SenderConfig,
};
use moorline_types::{
    AckPoint, AssignmentLine, BootId, ConfigVersion, Epoch, Instant, Lsn, LsnRange, OpenCount,
    Opening, Policy, ServerId, StoreId, VolumeId,
};
use moorline_wire::{
    PromiseRequest, ReplicaFacts, VolumeMessage,
    control::{
        ChangeConfig, ChangeConfigResult, InSyncMember, PrimaryFaultReason, PromotionFailure,
        ServerToMaster,
    },
};

use super::{Ctx, Me, OnVolatileLoss, Replica, Role, streams::Stream};
use crate::{
    commit::{CommitRule, Requirement, Seat, Standing},
    desk::Desk,
    journal::{Happening, StepDownReason},
    lease::{Holding, LeaseQuorum, LeaseTiming, Reign as ReignId},
    mutants::{Mutant, Mutants},
    node::Action,
    promotion::{NoVoteReason, Vote, vote_of},
};

/// Between two requests to the master for one change of the in-sync set.
const CHANGE_AGAIN: Duration = Duration::from_millis(500);

/// Between two attempts to begin a session with a peer whose link stands.
const SESSION_AGAIN: Duration = Duration::from_millis(300);

/// A primary, from its mark on.
#[derive(Debug)]
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

#[derive(Clone, Debug)]
struct AskedChange {
    request_id: u64,
    expected: ConfigVersion,
    in_sync: Vec<InSyncMember>,
    again: Instant,
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

    pub(super) fn growth_recorded(&mut self, ctx: &mut Ctx<'_>, server: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.growing.remove(server);
        if let Some(stream) = reign.streams.get(server) {
            let stamp = stream.stamp;
            let event = EngineEvent::Session {
                stamp,
                fact: Fact::InSyncRecorded,
            };
            let _answer = reign
                .registry
                .handle(ctx.now, server, event, &mut reign.asked);
        }
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

    /// Applies the commit rule to what is known now.
    pub(super) fn advance(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = &self.line else { return };
        let own_config = self.store.durable().line_version();
        let log = self.store.log();
        let own = Seat {
            standing: Standing::Voter,
            requirement: Requirement::Required,
            received: log.head(),
            flushed: match ctx.me.mutants.has(Mutant::OwnFlushAssumed) {
                true => log.head(),
                false => log.flushed(),
            },
        };
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.forget_outgoing(line, own_config, &ctx.me.server);
        let seats = reign.seats(line, &ctx.me.server);
        let mut rule = reign.rule(line);
        if ctx.me.mutants.has(Mutant::PolicyCountIgnored) {
            rule.policy = Policy::BestEffort;
        }
        if ctx.me.mutants.has(Mutant::MarkIgnored) {
            rule.mark = Lsn::ZERO;
        }
        let reach = rule.reach(own, &seats);
        let Some(committed) = reach.committed else {
            return;
        };
        let acknowledgeable = reach.acknowledgeable.unwrap_or(committed);
        if committed > reign.committed {
            assert!(
                committed <= log.flushed(),
                "INV-13: the primary's own flush is required"
            );
            reign.committed = committed;
            self.store.set_committed(committed);
            let behind = reign
                .streams
                .values()
                .any(|stream| stream.told_committed < committed);
            if behind && reign.announce_at.is_none() {
                reign.announce_at = Some(ctx.now.after(ANNOUNCE_DELAY));
            }
        }
        if acknowledgeable > reign.acknowledgeable {
            reign.acknowledgeable = acknowledgeable;
            self.store.set_readable(acknowledgeable);
        }
        if reign.phase == ReignPhase::Opening && reign.committed >= reign.mark {
            reign.phase = ReignPhase::Serving;
            let epoch = reign.id.epoch;
            self.note(ctx, Happening::ServingStarted { epoch });
        }
    }

    /// Timers of a reign.
    pub(super) fn reign_tick(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.registry.deadline_reached(ctx.now, &mut reign.asked);
        let silent: Vec<ServerId> = reign
            .streams
            .iter()
            .filter(|(_, stream)| {
                let since = stream.oldest_unanswered();
                since.is_some_and(|since| ctx.now.since(since) >= PEER_DEADLINE)
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

    /// Whether the lease is live at this very moment.
    pub(super) fn lease_is_live(&self, ctx: &Ctx<'_>) -> bool {
        let (Some(line), Role::Reign(reign)) = (&self.line, &self.role) else {
            return false;
        };
        if ctx.me.mutants.has(Mutant::LeaseIgnored) {
            return true;
        }
        let voters: Vec<ServerId> = reign
            .peers
            .iter()
            .filter(|(server, seen)| seen.vote == Vote::Counts && line.member(server).is_some())
            .map(|(server, _)| server.clone())
            .collect();
        let required = match ctx.me.mutants.has(Mutant::GrowsWithoutLease) {
            true => line.in_sync.clone(),
            false => reign.required(line),
        };
        let quorum = LeaseQuorum {
            policy: line.policy,
            seats: line.members.len(),
            in_sync: &required,
            own: &ctx.me.server,
            own_vote: true,
            voters: &voters,
        };
        match line.policy {
            Policy::BestEffort => ctx.now < reign.master_lease_until,
            Policy::SyncQuorum | Policy::SyncAll => reign.holding.is_live(ctx.now, quorum),
        }
    }

    /// The master answered the heartbeat sent at `sent` with its lease for this epoch and boot
    /// (`LEASE-7`).
    pub(crate) fn on_master_lease(
        &mut self,
        me: &Me,
        (epoch, boot): (Epoch, BootId),
        sent: Instant,
        term: Duration,
    ) {
        let timing = LeaseTiming::of_term(term);
        if let Role::Reign(reign) = &mut self.role
            && reign.id.epoch == epoch
            && boot == me.boot
        {
            let until = sent.after(timing.term.saturating_sub(timing.drift_margin));
            reign.master_lease_until = reign.master_lease_until.max(until);
        }
    }

    /// A member that has not promised this epoch is asked again, for as long as it reigns: it may
    /// have been away when the epoch was opened (`PROM-14`).
    pub(super) fn ask_late_promise(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let (Role::Reign(reign), Some(line), Some(link)) =
            (&self.role, &self.line, ctx.links.dialed(peer))
        else {
            return;
        };
        let request = PromiseRequest {
            server: ctx.me.server.clone(),
            boot: ctx.me.boot,
            line: line.clone(),
        };
        let mut header = self.header(0, reign.id.epoch);
        header.config = line.config;
        let body = VolumeMessage::PromiseRequest(Box::new(request));
        self.send(ctx, link, header, body);
    }

    /// Whether the policy can be met with the peers whose streams stand.
    pub(super) fn policy_can_be_met(&self, ctx: &Ctx<'_>) -> bool {
        let (Some(line), Role::Reign(reign)) = (&self.line, &self.role) else {
            return false;
        };
        let far = |seat: Seat| Seat {
            received: Lsn::MAX,
            flushed: Lsn::MAX,
            ..seat
        };
        let own = Seat {
            standing: Standing::Voter,
            requirement: Requirement::Required,
            received: Lsn::MAX,
            flushed: Lsn::MAX,
        };
        let seats: Vec<Seat> = reign
            .seats(line, &ctx.me.server)
            .into_iter()
            .map(far)
            .collect();
        reign.rule(line).reach(own, &seats).committed.is_some()
    }

    /// The frontiers that clients are told by.
    pub(super) fn reach(&self) -> (Lsn, Lsn) {
        match &self.role {
            Role::Reign(reign) => (reign.acknowledgeable, reign.committed),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => (Lsn::ZERO, Lsn::ZERO),
        }
    }

    /// A lease was granted for a request sent at `sent` by this node's clock.
    pub(crate) fn on_lease_granted(
        &mut self,
        ctx: &mut Ctx<'_>,
        server: &ServerId,
        epoch: Epoch,
        store: StoreId,
        sent: Instant,
    ) {
        let recorded = self
            .line
            .as_ref()
            .and_then(|line| line.member(server))
            .and_then(|m| m.store);
        let timing = self.lease;
        if let Role::Reign(reign) = &mut self.role
            && reign.id.epoch == epoch
            && (recorded == Some(store) || ctx.me.mutants.has(Mutant::StoreIdentityIgnored))
        {
            let sent = match ctx.me.mutants.has(Mutant::LeaseFromReceipt) {
                true => ctx.now,
                false => sent,
            };
            reign.holding.granted(server, sent, timing);
            self.join_granted(ctx, server);
            if matches!(&self.role, Role::Reign(reign) if !reign.growing.is_empty()) {
                self.change_in_sync(ctx);
            }
        }
    }

    /// The lease that this replica wants renewed by `server`, if it leads and has a lease to ask.
    pub(crate) fn lease_wanted(&self, server: &ServerId) -> Option<(Epoch, ConfigVersion)> {
        let Role::Reign(reign) = &self.role else {
            return None;
        };
        let line = self.line.as_ref()?;
        let has_lease = line.policy != Policy::BestEffort;
        (has_lease && line.member(server).is_some() && self.store.failed().is_none())
            .then_some((reign.id.epoch, line.config))
    }

    /// How often the lease is renewed.
    pub(crate) fn renewal_interval(&self) -> Duration {
        self.lease.renewal_interval()
    }

    /// Asks the master to record the in-sync set that streams prove, one change at a time.
    pub(super) fn change_in_sync(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = self.line.clone() else {
            return;
        };
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.watch_lost(ctx.now, &line, &ctx.me.server);
        if let Some(change) = &mut reign.change {
            if change.again <= ctx.now {
                change.again = ctx.now.after(CHANGE_AGAIN);
                let change = change.clone();
                self.send_change(ctx, change);
            }
            return;
        }
        let wanted = reign.wanted_in_sync(ctx, &line);
        if wanted == line.in_sync || ctx.now < reign.hold_until {
            return;
        }
        let boots = |server: &ServerId| match reign.peers.get(server) {
            Some(seen) => Some(seen.boot),
            None if *server == ctx.me.server => Some(ctx.me.boot),
            None => line.member(server).and_then(|member| member.boot),
        };
        if wanted.iter().any(|server| boots(server).is_none()) {
            // A member of unknown boot is joined or lost before long.
            reign.hold_until = ctx.now.after(CHANGE_AGAIN);
            return;
        }
        let in_sync: Vec<InSyncMember> = wanted
            .iter()
            .filter_map(|server| {
                boots(server).map(|boot| InSyncMember {
                    server: server.clone(),
                    boot,
                })
            })
            .collect();
        reign.changes += 1;
        let change = AskedChange {
            request_id: reign.changes,
            expected: line.config,
            in_sync,
            again: ctx.now.after(CHANGE_AGAIN),
        };
        reign.change = Some(change.clone());
        self.send_change(ctx, change);
    }

    fn send_change(&self, ctx: &mut Ctx<'_>, change: AskedChange) {
        let Some(epoch) = self.leading_epoch() else {
            return;
        };
        ctx.out
            .push(Action::TellMaster(ServerToMaster::ChangeConfig(
                ChangeConfig {
                    request_id: change.request_id,
                    volume: self.volume,
                    epoch,
                    expected_config: change.expected,
                    in_sync: change.in_sync,
                },
            )));
    }

    /// The master answered a change.
    pub(crate) fn on_change_done(
        &mut self,
        ctx: &mut Ctx<'_>,
        request_id: u64,
        result: ChangeConfigResult,
    ) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if reign
            .change
            .as_ref()
            .is_none_or(|change| change.request_id != request_id)
        {
            return;
        }
        match result {
            ChangeConfigResult::Recorded(line) => {
                reign.change = None;
                self.on_assignment(ctx, line);
            }
            ChangeConfigResult::Refused { reason: _, line } => {
                // Decided again by the line in force and by what streams prove then.
                reign.change = None;
                reign.hold_until = ctx.now.after(CHANGE_AGAIN);
                if let Some(line) = line {
                    self.on_assignment(ctx, line);
                }
            }
        }
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
    fn rule(&self, line: &AssignmentLine) -> CommitRule {
        CommitRule {
            policy: line.policy,
            ack: line.ack,
            copies_min: match self.mutants.has(Mutant::MinCopiesIgnored) {
                true => 1,
                false => line.min_copies as usize,
            },
            mark: self.mark,
        }
    }

    /// Everybody who is waited for under `sync_all`: a superset of the recorded in-sync set at
    /// every instant (`INV-16`).
    pub(super) fn required(&self, line: &AssignmentLine) -> Vec<ServerId> {
        let mut required: BTreeSet<ServerId> = line.in_sync.iter().cloned().collect();
        required.extend(self.outgoing.iter().map(|(server, _)| server.clone()));
        // Without an answer of the master the larger set may be recorded at any moment (`JOIN-4`).
        let asked = self.change.iter().flat_map(|change| &change.in_sync);
        if self.mutants.has(Mutant::ShrinksBeforeRecorded) && self.change.is_some() {
            required.clear();
        }
        required.extend(asked.map(|member| member.server.clone()));
        // A store without a vote is in no required set: it could neither grant nor count.
        let votes = |server: &ServerId| {
            self.peers
                .get(server)
                .is_some_and(|seen| seen.vote == Vote::Counts)
        };
        let joined = self
            .streams
            .iter()
            .filter(|(server, stream)| stream.is_joined() && votes(server));
        required.extend(joined.map(|(server, _)| server.clone()));
        required.into_iter().collect()
    }

    fn seats(&self, line: &AssignmentLine, own: &ServerId) -> Vec<Seat> {
        let required = match line.policy {
            Policy::SyncAll => self.required(line),
            Policy::BestEffort | Policy::SyncQuorum => Vec::new(),
        };
        let counts = |seat: &Seat| {
            seat.standing == Standing::Voter || !self.mutants.has(Mutant::MajorityOfConnected)
        };
        line.members
            .iter()
            .filter(|member| member.server != *own)
            .map(|member| {
                let requirement = if required.contains(&member.server) {
                    Requirement::Required
                } else {
                    Requirement::Optional
                };
                self.seat(&member.server, requirement)
            })
            .filter(counts)
            .collect()
    }

    fn seat(&self, server: &ServerId, requirement: Requirement) -> Seat {
        let silent = Seat {
            standing: Standing::Silent,
            requirement,
            received: Lsn::ZERO,
            flushed: Lsn::ZERO,
        };
        let (Some(stream), Some(seen)) = (self.streams.get(server), self.peers.get(server)) else {
            return silent;
        };
        let counts = self
            .registry
            .sender(server)
            .is_some_and(|sender| sender.counts_acks(stream.stamp).is_ok());
        let counts = counts || self.mutants.has(Mutant::AckCountsBeforeCut);
        if !counts || seen.vote != Vote::Counts {
            return silent;
        }
        Seat {
            standing: Standing::Voter,
            requirement,
            received: stream.received,
            flushed: stream.flushed,
        }
    }

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

    /// A dropped peer is required until everybody who remains has persisted the smaller set.
    fn forget_outgoing(
        &mut self,
        line: &AssignmentLine,
        own: (Epoch, ConfigVersion),
        me: &ServerId,
    ) {
        if self.outgoing.is_empty() {
            return;
        }
        let epoch = line.epoch;
        let peers = &self.peers;
        self.outgoing.retain(|(_, config)| {
            let wanted = (epoch, *config);
            let persisted = |server: &ServerId| {
                *server == *me
                    || peers
                        .get(server)
                        .is_some_and(|seen| seen.persisted >= wanted)
            };
            own < wanted || !line.in_sync.iter().all(persisted)
        });
    }

    /// Notes since when members of the in-sync set have no joined stream.
    fn watch_lost(&mut self, now: Instant, line: &AssignmentLine, me: &ServerId) {
        let streams = &self.streams;
        let lost = |server: &ServerId| {
            *server != *me
                && line.is_in_sync(server)
                && !streams.get(server).is_some_and(Stream::is_joined)
        };
        self.lost_since.retain(|server, _| lost(server));
        for server in line.in_sync.iter().filter(|server| lost(server)) {
            self.lost_since.entry(server.clone()).or_insert(now);
        }
    }

    fn wanted_in_sync(&self, ctx: &Ctx<'_>, line: &AssignmentLine) -> Vec<ServerId> {
        let overdue = |server: &ServerId| {
            let since = self.lost_since.get(server);
            since.is_some_and(|since| ctx.now.since(*since) >= PEER_DEADLINE)
        };
        let keep = |server: &ServerId| {
            *server == ctx.me.server
                || (line.is_in_sync(server) && !overdue(server))
                || (self.growing.contains(server) && self.may_grow(ctx.now, line, server))
        };
        line.members
            .iter()
            .map(|member| &member.server)
            .filter(|s| keep(s))
            .cloned()
            .collect()
    }

    /// `JOIN-3`: the peer holds everything committed, and its grant to this epoch runs.
    fn may_grow(&self, now: Instant, line: &AssignmentLine, server: &ServerId) -> bool {
        let holds = line.policy != Policy::SyncAll
            || self.holding.holds(now, server)
            || self.mutants.has(Mutant::GrowsWithoutLease);
        let votes = self
            .peers
            .get(server)
            .is_some_and(|seen| seen.vote == Vote::Counts);
        let whole = self
            .streams
            .get(server)
            .is_some_and(|stream| stream.flushed >= self.mark.max(self.committed));
        let whole = whole || self.mutants.has(Mutant::JoinsBelowHead);
        holds && votes && whole && self.remembers(line, server)
    }

    /// `JOIN-3`: at `received`, the peer's *memory lost* bit is clear.
    fn remembers(&self, line: &AssignmentLine, server: &ServerId) -> bool {
        let back_at = self.peers.get(server).and_then(|seen| seen.memory_back_at);
        let stream = self.streams.get(server);
        line.ack == AckPoint::Flushed
            || back_at.is_none_or(|lsn| stream.is_some_and(|stream| stream.flushed >= lsn))
    }
}

/// Batches kept in flight to one peer: `(through, bytes, sent at)`, oldest first.
pub(super) type InFlight = VecDeque<(Lsn, u64, Instant)>;

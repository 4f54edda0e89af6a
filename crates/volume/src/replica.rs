//! One replica of one volume: its role and everything that may change it.
//!
//! ```text
//!            promise raised for another            mark committed
//!   Idle ---------------------------> Follower
//!    |  assignment names this boot                 +-----------+
//!    +------------------> Candidate -------------> |   Reign   |
//!                            |   best log held     | (opening, |
//!                            v                     |  serving) |
//!                          Idle / Follower <-------+-----------+
//!                                      a higher epoch was shown, the device failed, declined
//! ```
//!
//! What a replica says to others it has made durable before: see `persist` and `Then`. A role never
//! outlives what it stands on: a promise for a higher epoch ends it before the promise is asked of
//! the store.

mod candidate;
mod client_side;
mod fetching;
mod follow;
mod lines;
mod memory;
mod mending;
mod messages;
mod reign;
mod report;
mod streams;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use moorline_blockvol::{OpenReport, PromiseRecord, Store, StoreEvent, StoreFault, Ticket};
use moorline_types::{
    AssignmentLine, BootId, BufferPool, DeviceDone, DeviceOp, Epoch, Instant, Lsn, LsnRange,
    ServerId, VolumeId,
};
use moorline_wal::ReadId;
use moorline_wire::{
    ImageState, MemoryState, Message, Promised, ReplicaFacts, VolumeHeader, VolumeMessage,
    VoteClaim, control::LineVersion,
};

pub(crate) use self::{
    candidate::Candidate, follow::Follower, lines::PendingPromise, reign::Reign,
};
use self::{mending::Mending, streams::ReadFor};
use crate::{
    desk::Desk,
    journal::{Happening, NodeEvent, StepDownReason},
    lease::{Grants, LeaseTiming, Memory, Reign as ReignId},
    mutants::{Mutant, Mutants},
    node::{Action, DeviceKey, ExportState, LinkId, Links},
    promotion::{Vote, vote_of},
};

/// Who this node is.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    pub(crate) server: ServerId,
    pub(crate) boot: BootId,
    pub(crate) pool: BufferPool,
    pub(crate) on_volatile_loss: OnVolatileLoss,
    pub(crate) mutants: Mutants,
    pub(crate) engine_mutants: moorline_engine::Mutants,
}

/// What a new primary does when acknowledged records that were only in memory are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnVolatileLoss {
    /// Serve nobody until an operator decides.
    #[default]
    Stop,
    /// Note it and serve.
    Continue,
}

/// What a call on a replica may use of its node.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Instant,
    pub(crate) me: &'a Me,
    pub(crate) links: &'a mut Links,
    pub(crate) out: &'a mut Vec<Action>,
}

/// What a replica does in its volume.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) enum Role {
    /// Nothing: no reign is known that it could follow or lead.
    Idle,
    /// Takes records of exactly the promised reign.
    Follower(Follower),
    /// Asks for promises.
    Candidate(Box<Candidate>),
    /// Leads: opening its epoch, or serving.
    Reign(Box<Reign>),
}

/// What waits for a ticket of the store.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Then {
    /// The promise may be answered.
    Promised(ReignId),
    /// Nothing waits for it by name.
    Nothing,
}

/// One replica of one volume, as its node holds it.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct Replica {
    volume: VolumeId,
    device: DeviceKey,
    store: Store,
    ops: Vec<DeviceOp>,
    happened: Vec<StoreEvent>,
    grants: Grants,
    lease: LeaseTiming,
    /// The newest line seen; the store's copy follows it.
    line: Option<AssignmentLine>,
    persists: VecDeque<(Ticket, Then)>,
    pending_promise: Option<PendingPromise>,
    /// Candidates that wait for the answer to a promise that is given.
    owed: Vec<LinkId>,
    role: Role,
    desk: Desk,
    export: Option<ExportState>,
    doubtful: Option<LsnRange>,
    /// Committed as known at the open: above the head when records were lost that others hold.
    committed_at_open: Lsn,
    /// What clients were told through, as this replica heard.
    acknowledged: Lsn,
    /// Cuts that the log was told to make and that are not durable yet.
    cuts_under_way: usize,
    /// The epoch that this boot acts or acted in as candidate: never entered twice.
    led: Epoch,
    serial: u64,
    reads: BTreeMap<ReadId, ReadFor>,
    mending: Mending,
    /// The number of the last session with a peer, in any reign of this opening.
    sessions: u64,
    lease_urge: LeaseUrge,
    /// The newest line that the master said on the connection that stands.
    told: Option<LineVersion>,
    /// An operator accepted the losses that marks of epochs through this one announced, by the
    /// master's word.
    loss_accepted: Option<Epoch>,
    stopping: Stopping,
}

/// Whether the lease is to be asked for before its next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeaseUrge {
    None,
    Now,
}

/// How far a clean stop is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopping {
    No,
    Asked,
    AtRest,
}

/// Whether the store was formatted in this boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Found at start, or reopened.
    Found,
    /// Formatted in this boot: it promised and granted nothing before.
    Formatted,
}

impl Replica {
    pub(crate) fn new(
        ctx: &mut Ctx<'_>,
        device: DeviceKey,
        store: Store,
        report: &OpenReport,
        origin: Origin,
    ) -> Self {
        let line = store.durable().line.clone();
        let term = line.as_ref().map_or(DEFAULT_LEASE, lease_term);
        let memory = match origin {
            Origin::Found if ctx.me.mutants.has(Mutant::SilenceSkipped) => Memory::NothingToForget,
            Origin::Found => Memory::Lost,
            Origin::Formatted => Memory::NothingToForget,
        };
        let mut grants = Grants::after_start(term, ctx.now, memory);
        grants.show(store.durable().promised_epoch());
        if let Some(line) = &line {
            grants.show(line.epoch);
        }
        let mut replica = Self {
            volume: store.identity().volume,
            device,
            ops: Vec::new(),
            happened: Vec::new(),
            grants,
            lease: LeaseTiming::of_term(term),
            line,
            persists: VecDeque::new(),
            pending_promise: None,
            owed: Vec::new(),
            role: Role::Idle,
            desk: Desk::default(),
            export: None,
            doubtful: report.log.torn,
            committed_at_open: report.committed_known,
            acknowledged: Lsn::ZERO,
            cuts_under_way: 0,
            led: Epoch::ZERO,
            serial: 0,
            reads: BTreeMap::new(),
            mending: Mending::default(),
            sessions: 0,
            lease_urge: LeaseUrge::None,
            told: None,
            loss_accepted: None,
            stopping: Stopping::No,
            store,
        };
        replica.note(
            ctx,
            Happening::StoreOpened {
                store: replica.store.identity().store,
                head: replica.store.log().head(),
                doubtful: report.log.torn,
            },
        );
        replica.recall_marks();
        replica.follow_what_was_promised();
        replica
    }

    /// The same replica once more, with pins of its own: a mere clone's streams hold nothing.
    #[cfg(feature = "simulation")]
    pub(crate) fn fork(&self) -> Self {
        let mut copy = self.clone();
        copy.store.fork_pins();
        let pins = copy.store.log().pin_table();
        if let Role::Reign(reign) = &mut copy.role {
            reign.bind_pins(pins);
        }
        assert_eq!(pins.unbound(), 0, "every pin of a fork has its guard");
        copy
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its store's device.
    #[must_use]
    pub fn device(&self) -> DeviceKey {
        self.device
    }

    /// Its store, to look at.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// After a restart: an ordinary member of the reign that it promised, if another boot's.
    fn follow_what_was_promised(&mut self) {
        if let Some(PromiseRecord {
            epoch,
            server,
            boot,
        }) = self.store.durable().promised.clone()
        {
            self.role = Role::Follower(Follower::new(ReignId {
                epoch,
                server,
                boot,
            }));
        }
    }

    /// A completion of one of its store's operations.
    pub(crate) fn on_device_done(&mut self, ctx: &mut Ctx<'_>, done: DeviceDone) {
        self.store
            .on_done(ctx.now, done, &mut self.ops, &mut self.happened);
        self.digest_store_events(ctx);
    }

    /// The store's own deadlines, then the replica's.
    pub(crate) fn on_deadline(&mut self, ctx: &mut Ctx<'_>) {
        self.store
            .on_deadline(ctx.now, &mut self.ops, &mut self.happened);
        self.digest_store_events(ctx);
        self.retry_pending_promise(ctx);
        match &mut self.role {
            Role::Candidate(_) => self.candidate_tick(ctx),
            Role::Reign(_) => {
                self.reign_tick(ctx);
                self.mend(ctx);
            }
            Role::Idle | Role::Follower(_) => {}
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let own = match &self.role {
            Role::Candidate(candidate) => candidate.next_deadline(),
            Role::Reign(reign) => reign.next_deadline(&self.desk, self.line.as_ref()),
            Role::Idle | Role::Follower(_) => None,
        };
        let promise = self.pending_promise.as_ref().map(PendingPromise::due);
        [
            self.store.next_deadline(),
            own,
            promise,
            self.mending.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Once per batch: forms log frames, ships, answers, and hands the operations to the driver.
    pub(crate) fn submit(&mut self, ctx: &mut Ctx<'_>) {
        if matches!(self.role, Role::Reign(_)) {
            // A peer that could not be asked may be there again.
            self.mend(ctx);
            self.run_desk(ctx);
            self.ship(ctx);
        }
        self.store
            .submit(ctx.now, &mut self.ops, &mut self.happened);
        self.digest_store_events(ctx);
        self.settle_promises(ctx);
        if matches!(self.role, Role::Follower(_)) {
            self.acknowledge(ctx);
        }
        self.show_export(ctx);
        let device = self.device;
        ctx.out
            .extend(self.ops.drain(..).map(|op| Action::Device { device, op }));
    }

    fn digest_store_events(&mut self, ctx: &mut Ctx<'_>) {
        while !self.happened.is_empty() {
            for event in std::mem::take(&mut self.happened) {
                self.on_store_event(ctx, event);
            }
        }
    }

    fn on_store_event(&mut self, ctx: &mut Ctx<'_>, event: StoreEvent) {
        match event {
            StoreEvent::Persisted { ticket } => self.on_persisted(ctx, ticket),
            StoreEvent::Flushed { through: _ } => self.on_flushed(ctx),
            StoreEvent::CutRecorded { through } => self.on_cut_recorded(ctx, through),
            StoreEvent::RecordsRead { read, result } => self.on_records_read(ctx, read, result),
            StoreEvent::ReadDone { token, result } => {
                self.on_client_read(ctx, token, result);
            }
            StoreEvent::StatusDone { token, result } => {
                self.on_client_status(ctx, token, result);
            }
            StoreEvent::CheckpointMoved { .. } => self.candidate_progress(ctx),
            StoreEvent::Repaired { block } => self.on_repaired(ctx, block),
            StoreEvent::Applied { .. } => {}
            StoreEvent::ShutDown => self.stopping = Stopping::AtRest,
            StoreEvent::Failed { fault } => self.on_store_failed(ctx, &fault),
        }
    }

    fn on_persisted(&mut self, ctx: &mut Ctx<'_>, ticket: Ticket) {
        while self
            .persists
            .front()
            .is_some_and(|(waiting, _)| *waiting <= ticket)
        {
            let (_, then) = self.persists.pop_front().expect("just looked at");
            match then {
                Then::Promised(reign) => self.on_promise_persisted(ctx, &reign),
                Then::Nothing => {}
            }
        }
        self.cut_that_waited(ctx);
        if let Role::Follower(follower) = &mut self.role {
            // An acknowledgement names the line that is persisted here (`JOIN-5`).
            follower.owes_ack();
        }
        self.candidate_progress(ctx);
        self.advance(ctx);
    }

    fn on_flushed(&mut self, ctx: &mut Ctx<'_>) {
        match &mut self.role {
            Role::Follower(follower) => follower.owes_ack(),
            Role::Candidate(_) => self.candidate_progress(ctx),
            Role::Reign(_) => self.advance(ctx),
            Role::Idle => {}
        }
    }

    fn on_cut_recorded(&mut self, ctx: &mut Ctx<'_>, through: Lsn) {
        self.note(ctx, Happening::Cut { through });
        self.cuts_under_way = self.cuts_under_way.saturating_sub(1);
        if self.cuts_under_way > 0 {
            return; // what a later one leaves is not durable yet
        }
        match &mut self.role {
            Role::Follower(_) => self.truncation_recorded(ctx, self.store.log().head()),
            Role::Candidate(_) => self.candidate_cut(ctx),
            Role::Reign(_) | Role::Idle => {}
        }
    }

    fn on_store_failed(&mut self, ctx: &mut Ctx<'_>, fault: &StoreFault) {
        self.note(
            ctx,
            Happening::StoreFailed {
                reason: fault.to_string().into(),
            },
        );
        if matches!(self.role, Role::Candidate(_) | Role::Reign(_)) {
            self.step_down(ctx, StepDownReason::DeviceFailed);
        }
    }

    /// Ends whatever this replica leads. Requests that were ordered have an unknown outcome: their
    /// clients are cut off, not answered.
    fn step_down(&mut self, ctx: &mut Ctx<'_>, reason: StepDownReason) {
        let epoch = match &mut self.role {
            Role::Candidate(candidate) => candidate.reign.epoch,
            Role::Reign(reign) => {
                reign.release(ctx);
                self.sessions = reign.registry.last_session();
                reign.id.epoch
            }
            Role::Idle | Role::Follower(_) => return,
        };
        self.role = Role::Idle;
        self.desk.abandon();
        self.mending.abandon();
        self.store.set_lowest_peer(None);
        self.note(ctx, Happening::SteppedDown { epoch, reason });
        self.tell_master_of_step_down(ctx, epoch, reason);
        self.show_export(ctx);
    }

    /// What this replica durably holds, as others are told.
    pub(crate) fn facts(&self, me: &Me) -> ReplicaFacts {
        let frontiers = self.store.frontiers();
        let durable = self.store.durable();
        let identity = self.store.identity();
        ReplicaFacts {
            server: me.server.clone(),
            store: identity.store,
            open: self.store.open_count(),
            boot: me.boot,
            openings: self.store.openings().clone(),
            promised: durable.promised.as_ref().map(|promise| Promised {
                epoch: promise.epoch,
                server: promise.server.clone(),
                boot: promise.boot,
            }),
            history: self.store.log().history().to_vec(),
            head: frontiers.head,
            flushed: Some(frontiers.flushed),
            doubtful: self.doubtful,
            applied: frontiers.applied,
            checkpoint: frontiers.checkpoint,
            tail: frontiers.tail,
            committed: frontiers.committed.max(self.committed_at_open),
            acknowledged: self.acknowledged,
            line: durable.line.clone(),
            vote: self.vote_claim(),
            image: self.image(),
            memory: if durable.memory_lost {
                MemoryState::Lost
            } else {
                MemoryState::Intact
            },
            given_up: durable.given_up.clone(),
        }
    }

    fn image(&self) -> ImageState {
        // What is on its way to the superblocks counts already.
        let (durable, pending) = (self.store.durable(), self.store.pending());
        let damaged = self.store.log().damaged().is_some() || !self.store.image().is_trusted();
        // A log that lost records cannot say what it held: unknown is not absent (`PROM-7`).
        if durable.incomplete || pending.incomplete || damaged {
            ImageState::Incomplete
        } else if durable.needs_rebuild || pending.needs_rebuild {
            ImageState::NeedsRebuild
        } else {
            ImageState::Whole
        }
    }

    /// Whether this replica itself sees a reason why it has no vote. The record decides; a store
    /// that is not recorded yet sees none.
    fn vote_claim(&self) -> VoteClaim {
        let identity = self.store.identity();
        let seat = self
            .line
            .as_ref()
            .and_then(|line| line.member(&identity.server));
        let recorded = seat.and_then(|member| member.store);
        let is_other = recorded.is_some_and(|store| store != identity.store);
        let knows = self.image() != ImageState::Incomplete;
        if !is_other && knows && self.store.failed().is_none() {
            VoteClaim::Has
        } else {
            VoteClaim::HasNot
        }
    }

    /// Whether its own vote counts by its own line.
    fn own_vote(&self, me: &Me) -> Vote {
        match &self.line {
            Some(line) => vote_of(&self.facts(me), line, me.mutants),
            None => Vote::DoesNot(crate::promotion::NoVoteReason::NotRecorded),
        }
    }

    fn header(&self, session: u64, epoch: Epoch) -> VolumeHeader {
        VolumeHeader {
            volume: self.volume,
            store: self.store.identity().store,
            epoch,
            config: self.store.durable().line_version().1,
            session,
        }
    }

    fn send(&self, ctx: &mut Ctx<'_>, link: LinkId, header: VolumeHeader, body: VolumeMessage) {
        ctx.out.push(Action::Send {
            link,
            message: Message::Volume(header, body),
        });
    }

    fn note(&self, ctx: &mut Ctx<'_>, what: Happening) {
        ctx.out.push(Action::Note(NodeEvent {
            volume: Some(self.volume),
            what,
        }));
    }

    /// Whether the epoch is open here and its lease is to be kept.
    pub(crate) fn leads(&self) -> bool {
        matches!(self.role, Role::Reign(_))
    }

    pub(crate) fn lease_term(&self) -> Duration {
        self.lease.term
    }

    fn urge_lease(&mut self) {
        self.lease_urge = LeaseUrge::Now;
    }

    pub(crate) fn take_lease_urge(&mut self) -> bool {
        std::mem::replace(&mut self.lease_urge, LeaseUrge::None) == LeaseUrge::Now
    }

    fn forget_reads_for(&mut self, link: LinkId) {
        self.reads.retain(|_, purpose| match purpose {
            ReadFor::Fetch { link: asker, .. } => *asker != link,
            ReadFor::Stream { .. } => true,
        });
    }

    /// Begins a clean stop.
    pub(crate) fn stop(&mut self, ctx: &mut Ctx<'_>) {
        if self.stopping == Stopping::No {
            self.step_down(ctx, StepDownReason::Stopping);
            self.role = Role::Idle;
            self.pending_promise = None;
            self.stopping = Stopping::Asked;
            self.store.shutdown();
        }
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        match self.stopping {
            Stopping::AtRest => true,
            // An image that lost records is applied to no more and needs no clean mark.
            Stopping::Asked if !self.store.image().is_trusted() => self.store.log().is_quiet(),
            Stopping::No | Stopping::Asked => self.store.failed().is_some(),
        }
    }

    /// The volume was deleted: nothing is served or followed any more.
    pub(crate) fn retire(&mut self, ctx: &mut Ctx<'_>) {
        self.stop(ctx);
        if let Some(line) = &self.line {
            let name = line.name.clone();
            ctx.out.push(Action::SetExport {
                volume: self.volume,
                name,
                state: ExportState::Gone,
            });
        }
    }

    fn show_export(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = &self.line else { return };
        let (serving, stopped) = match &self.role {
            Role::Reign(reign) => (reign.serves(), reign.waits_for_operator()),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => (false, false),
        };
        let state = if stopped {
            ExportState::VolatileLoss
        } else if serving {
            ExportState::Serving {
                bytes: line.size_blocks.bytes(),
            }
        } else {
            let primary = line
                .primary
                .as_ref()
                .filter(|(server, _)| *server != ctx.me.server)
                .and_then(|(server, _)| line.member(server))
                .map(|member| (member.server.clone(), member.nbd_addr.clone()));
            ExportState::Elsewhere { primary }
        };
        if self.export.as_ref() != Some(&state) {
            self.export = Some(state.clone());
            let name = line.name.clone();
            ctx.out.push(Action::SetExport {
                volume: self.volume,
                name,
                state,
            });
        }
    }
}

/// Two seconds: a failover costs at most this and the round trips of a promise; a renewal every
/// half second costs nothing that shows.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(2);

fn lease_term(line: &AssignmentLine) -> Duration {
    match line.lease_ms {
        0 => DEFAULT_LEASE,
        ms => Duration::from_millis(u64::from(ms)),
    }
}

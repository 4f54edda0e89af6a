//! The rules of the master, sans-IO: who leads which volume, and who may say so.
//!
//! ```text
//! volume:  (none) --intent--> creating --all stores--> live --intent--> deleting --all gone--> (none)
//!                                 |  a store failed, a server left, the master restarted
//!                                 +--> rolling back --all gone--> (none)
//! ```
//!
//! Everything that is told to a server or an operator was durable before: a change is proposed as a
//! [`Txn`] and takes effect, in memory too, when [`MasterEvent::Committed`] comes back. Each volume
//! and each server has at most one transaction in flight; what comes meanwhile waits or is derived
//! again afterwards. After any doubt about the store, nothing is proposed or told any more.

mod backup;
mod changes;
mod consent;
mod create;
mod events;
mod old_copy;
mod reign;
mod servers;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moorline_types::{ClusterId, Epoch, Instant, ServerId, VolumeId};
use moorline_wire::control::{
    ClientRequest, ClientResponse, EventRow, MasterToServer, Register, ServerToMaster, StoreReport,
};

use crate::{
    config::MasterConfig,
    error::{StartError, StopReason},
    lease::LeaseTable,
    record::{Home, Key, MetaRecord, ServerRecord, Value, VolumePhase, VolumeRecord},
    store::{Change, CommitError, Expected, Loaded, RecordVersion, Stored, Txn, TxnId},
};

use self::{changes::Deferred, reign::Reign, servers::Link};

/// One connection of a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// One request of an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// What may happen to the authority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MasterEvent {
    /// A server registered on a connection.
    Registered {
        /// The connection.
        link: LinkId,
        /// What it said.
        register: Box<Register>,
    },
    /// A registered server said something else.
    Heard {
        /// The connection.
        link: LinkId,
        /// What it said.
        message: Box<ServerToMaster>,
    },
    /// A connection ended.
    LinkClosed {
        /// The connection.
        link: LinkId,
    },
    /// An operator asked for something.
    Asked {
        /// Names the answer.
        ask: AskId,
        /// What is asked.
        request: Box<ClientRequest>,
    },
    /// A transaction is durable.
    Committed {
        /// Which.
        txn: TxnId,
    },
    /// A transaction was not made.
    CommitFailed {
        /// Which.
        txn: TxnId,
        /// Why.
        error: CommitError,
    },
    /// The time that [`Authority::next_deadline`] named has come.
    DeadlineReached,
}

/// What the authority asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MasterAction {
    /// Make this durable, in the order in which it was asked for, and say what came of it.
    Commit(Txn),
    /// Tell a server something.
    Tell {
        /// The connection.
        link: LinkId,
        /// What.
        message: Box<MasterToServer>,
    },
    /// End a connection, after what was told before has been sent. No `LinkClosed` is needed after.
    Close {
        /// The connection.
        link: LinkId,
    },
    /// Answer an operator.
    Answer {
        /// The request.
        ask: AskId,
        /// The answer.
        response: Box<ClientResponse>,
    },
    /// End this run of the master: it can record nothing any more.
    Stop(StopReason),
}

/// The caller's buffer of actions, in the order in which they are to be done.
pub type Actions = Vec<MasterAction>;

/// What a run of a master starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartFacts {
    /// The instant of the start.
    pub now: Instant,
    /// Milliseconds since 1970 at that instant, for events only.
    pub unix_ms: u64,
    /// 128 random bits: every id made in this run derives from them.
    pub seed: u128,
    /// Where the store's file is; `None` for a store that is no file.
    pub home: Option<Home>,
    /// The cluster that an empty store is to lead: its volumes are taken over from the members.
    pub adopts: Option<ClusterId>,
}

/// A record in force and its version.
#[derive(Clone, Debug)]
struct Versioned<T> {
    version: RecordVersion,
    value: T,
}

#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Server {
    record: Option<Versioned<ServerRecord>>,
    pending: Option<TxnId>,
    link: Option<Link>,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Volume {
    /// `None` while the intent is not recorded yet.
    version: Option<RecordVersion>,
    record: VolumeRecord,
    pending: Option<TxnId>,
    /// When to look again.
    wake: Option<Instant>,
    reign: Reign,
    /// Requests that wait for the transaction in flight.
    deferred: VecDeque<Deferred>,
    /// The newest change of the in-sync set that was refused, by reign and number.
    refused: Option<(Epoch, u64)>,
    /// Operators that wait for the volume to be made or removed.
    asks: Vec<AskId>,
    /// Stores made, or seats known to hold none, in the operation under way.
    made: BTreeMap<ServerId, StoreReport>,
    gone: BTreeSet<ServerId>,
    /// When stores not made by then are given up.
    create_deadline: Option<Instant>,
    /// Why the making of the volume failed.
    failure: Option<moorline_wire::control::ClientError>,
    events: VecDeque<EventRow>,
    /// Events that no transaction has carried yet.
    unsaved: Vec<EventRow>,
    /// The numbers of the events that a transaction carried, ascending.
    saved: VecDeque<u64>,
    event_seq: u64,
}

impl Volume {
    fn new(version: Option<RecordVersion>, record: VolumeRecord) -> Self {
        Self {
            version,
            event_seq: record.event_seq,
            record,
            pending: None,
            wake: None,
            reign: Reign::default(),
            deferred: VecDeque::new(),
            refused: None,
            asks: Vec::new(),
            made: BTreeMap::new(),
            gone: BTreeSet::new(),
            create_deadline: None,
            failure: None,
            events: VecDeque::new(),
            unsaved: Vec::new(),
            saved: VecDeque::new(),
        }
    }

    fn is_live(&self) -> bool {
        self.version.is_some() && self.record.phase == VolumePhase::Live
    }

    fn has_seat(&self, server: &ServerId) -> bool {
        self.record.line.member(server).is_some()
    }
}

/// What a transaction in flight is for.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Pending {
    subject: Subject,
    changes: Vec<(Key, Option<Value>)>,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Subject {
    Start,
    Meta,
    Server(ServerId),
    Volume(VolumeId, Purpose),
}

/// What is told once a volume's change is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// The intent to make it.
    Intend,
    /// All stores are recorded.
    Complete,
    /// What was made is to go.
    Withdraw,
    /// It is gone.
    Forget,
    /// A new line, or none: tell the members.
    Line,
    /// What was seen of stores: nobody is told.
    Seen,
    /// A change that this server's request asked for: it is answered, the members told.
    Requested { link: LinkId, request_id: u64 },
    /// What an operator agreed to: the command is answered, the members told.
    Agreed { ask: AskId },
}

/// The master's rules.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct Authority {
    config: MasterConfig,
    start: StartFacts,
    meta: MetaRecord,
    meta_write: MetaWrite,
    phase: RunPhase,
    /// The latest instant that was handled: time never goes back in here.
    now: Instant,
    ids: u64,
    txns: u64,
    pending: BTreeMap<TxnId, Pending>,
    servers: BTreeMap<ServerId, Server>,
    links: BTreeMap<LinkId, ServerId>,
    volumes: BTreeMap<VolumeId, Volume>,
    leases: LeaseTable,
    /// Registrations that came before the start was recorded.
    early: Vec<(LinkId, Box<Register>)>,
}

/// The version of the master's own record, and what is on its way to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct MetaWrite {
    version: RecordVersion,
    wanted: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Nothing,
    /// A transaction is in flight.
    InFlight,
    /// And another must follow it.
    Again,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunPhase {
    /// The start counter is not durable yet.
    Starting,
    Running,
    /// The store failed, or another master took over.
    Stopped,
}

impl Authority {
    /// A run of the master over what its store holds; its first action records the start.
    ///
    /// # Errors
    ///
    /// When the records do not belong together.
    pub fn start(
        config: MasterConfig,
        start: StartFacts,
        loaded: Loaded,
        out: &mut Actions,
    ) -> Result<Self, StartError> {
        let found = match loaded.get(&Key::Meta) {
            None if loaded.is_empty() => None,
            Some(Stored {
                version,
                value: Value::Meta(meta),
            }) => Some((*version, meta.clone())),
            Some(_) | None => return Err(StartError::NoMeta),
        };
        let expected = found.as_ref().map(|(version, _)| *version);
        let found = found.map(|(_, meta)| meta);
        let (meta, old_copy) = old_copy::meta_at_start(found, &start)?;
        let mut this = Self {
            leases: LeaseTable::new(config.lease, config.lease_margin),
            config,
            start,
            meta_write: MetaWrite {
                version: expected.map_or(RecordVersion::FIRST, RecordVersion::next),
                wanted: Wanted::InFlight,
            },
            meta: meta.clone(),
            phase: RunPhase::Starting,
            now: start.now,
            ids: 0,
            txns: 0,
            pending: BTreeMap::new(),
            servers: BTreeMap::new(),
            links: BTreeMap::new(),
            volumes: BTreeMap::new(),
            early: Vec::new(),
        };
        this.take_over(loaded);
        if let Some(why) = old_copy {
            this.note_restored(&why);
        }
        let change = Change {
            key: Key::Meta,
            expected: expected.map_or(Expected::Absent, Expected::Version),
            value: Some(Value::Meta(meta)),
        };
        this.propose(Subject::Start, vec![change], out);
        Ok(this)
    }

    fn take_over(&mut self, loaded: Loaded) {
        let mut events = Vec::new();
        for stored in loaded.into_values() {
            match stored.value {
                Value::Server(record) => {
                    let entry = self.servers.entry(record.server.clone()).or_default();
                    entry.record = Some(Versioned {
                        version: stored.version,
                        value: record,
                    });
                }
                Value::Volume(record) => {
                    let id = record.line.volume;
                    self.volumes
                        .insert(id, Volume::new(Some(stored.version), *record));
                }
                Value::Event(volume, row) => events.push((volume, *row)),
                Value::Meta(_) | Value::Name(_) => {}
            }
        }
        for (volume, row) in events {
            if let Some(volume) = self.volumes.get_mut(&volume) {
                volume.saved.push_back(row.seq);
                volume.events.push_back(row);
            }
        }
        // The run before may have granted every lease at its last instant, which may be this one.
        for (id, volume) in &self.volumes {
            if volume.record.line.primary.is_some() {
                self.leases
                    .grant(self.start.now, *id, volume.record.line.epoch);
            }
        }
    }

    /// Handles one event; what it asks for is added to `out`, in order.
    pub fn handle(&mut self, now: Instant, event: MasterEvent, out: &mut Actions) {
        self.now = self.now.max(now);
        match event {
            MasterEvent::Registered { link, register } => self.on_registered(link, register, out),
            MasterEvent::Heard { link, message } => self.on_heard(link, *message, out),
            MasterEvent::LinkClosed { link } => self.on_link_closed(link, out),
            MasterEvent::Asked { ask, request } => self.on_asked(ask, *request, out),
            MasterEvent::Committed { txn } => self.on_committed(txn, out),
            MasterEvent::CommitFailed { txn, error } => self.on_commit_failed(txn, error, out),
            MasterEvent::DeadlineReached => self.on_deadline(out),
        }
        self.assert_invariants();
    }

    /// When [`MasterEvent::DeadlineReached`] is due, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.phase == RunPhase::Stopped {
            return None;
        }
        let silences = self.servers.values().filter_map(|server| {
            let link = server.link.as_ref()?;
            Some(link.last_heard.after(self.config.silence))
        });
        let wakes = self.volumes.values().filter_map(|volume| volume.wake);
        silences.chain(wakes).min()
    }

    /// The cluster and how often its master was started.
    #[must_use]
    pub const fn meta(&self) -> &MetaRecord {
        &self.meta
    }

    /// The committed record of a volume.
    #[must_use]
    pub fn volume(&self, volume: VolumeId) -> Option<&VolumeRecord> {
        let volume = self.volumes.get(&volume)?;
        volume.version.is_some().then_some(&volume.record)
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn assert_invariants(&self) {
        for (link, server) in &self.links {
            let held = self.servers.get(server).and_then(|s| s.link.as_ref());
            assert!(
                held.is_some_and(|held| held.id == *link),
                "a link belongs to the server that holds it"
            );
        }
        for (id, volume) in &self.volumes {
            let line = &volume.record.line;
            assert!(*id == line.volume, "a volume lies under its own id");
            assert!(
                line.members.is_sorted_by(|a, b| a.server < b.server),
                "one seat per server, ascending"
            );
            assert!(
                line.in_sync.iter().all(|server| volume.has_seat(server)),
                "only members are in sync"
            );
        }
    }

    fn on_deadline(&mut self, out: &mut Actions) {
        let now = self.now;
        let silence = self.config.silence;
        let silent: Vec<LinkId> = self
            .servers
            .values()
            .filter_map(|server| server.link.as_ref())
            .filter(|link| link.last_heard.after(silence) <= now)
            .map(|link| link.id)
            .collect();
        for link in silent {
            out.push(MasterAction::Close { link });
            self.on_link_closed(link, out);
        }
        let due = |volume: &Volume| volume.wake.is_some_and(|wake| wake <= now);
        let due: Vec<VolumeId> = self
            .volumes
            .iter()
            .filter_map(|(id, volume)| due(volume).then_some(*id))
            .collect();
        for id in due {
            self.reconcile(id, out);
        }
    }

    /// Brings a volume one step further, if a step is due.
    fn reconcile(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.wake = None;
        if self.phase != RunPhase::Running || volume.pending.is_some() {
            return;
        }
        if self.is_unsettled(id) {
            return self.reconcile_old_copy(id, out);
        }
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        match volume.record.phase {
            VolumePhase::Creating { .. } => self.reconcile_creating(id, out),
            VolumePhase::RollingBack { .. } | VolumePhase::Deleting { .. } => {
                self.reconcile_leaving(id, out);
            }
            VolumePhase::Live => self.reconcile_live(id, out),
        }
    }

    fn reconcile_all_of(&mut self, server: &ServerId, out: &mut Actions) {
        let ids: Vec<VolumeId> = self
            .volumes
            .iter()
            .filter_map(|(id, volume)| volume.has_seat(server).then_some(*id))
            .collect();
        for id in ids {
            self.reconcile(id, out);
        }
    }

    fn propose(&mut self, subject: Subject, changes: Vec<Change>, out: &mut Actions) -> TxnId {
        self.txns += 1;
        let id = TxnId::new(self.txns);
        let kept = changes
            .iter()
            .map(|change| (change.key.clone(), change.value.clone()))
            .collect();
        self.pending.insert(
            id,
            Pending {
                subject,
                changes: kept,
            },
        );
        out.push(MasterAction::Commit(Txn { id, changes }));
        id
    }

    /// Proposes a volume's next record, with the events that nobody has saved yet.
    fn propose_volume(
        &mut self,
        id: VolumeId,
        mut record: VolumeRecord,
        purpose: Purpose,
        mut changes: Vec<Change>,
        out: &mut Actions,
    ) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        assert!(volume.pending.is_none(), "one transaction per volume");
        record.event_seq = volume.event_seq;
        let expected = volume.version.map_or(Expected::Absent, Expected::Version);
        changes.push(Change {
            key: Key::Volume(id),
            expected,
            value: (purpose != Purpose::Forget).then(|| Value::Volume(Box::new(record))),
        });
        changes.extend(volume.event_changes(id, purpose == Purpose::Forget));
        let txn = self.propose(Subject::Volume(id, purpose), changes, out);
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.pending = Some(txn);
        }
    }

    fn on_committed(&mut self, txn: TxnId, out: &mut Actions) {
        let Some(pending) = self.pending.remove(&txn) else {
            return;
        };
        if self.phase == RunPhase::Stopped {
            return;
        }
        match pending.subject {
            Subject::Meta => self.on_meta_recorded(out),
            Subject::Start => {
                self.meta_write.wanted = Wanted::Nothing;
                self.phase = RunPhase::Running;
                for (link, register) in std::mem::take(&mut self.early) {
                    self.on_registered(link, register, out);
                }
                let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
                for id in ids {
                    self.reconcile(id, out);
                }
            }
            Subject::Server(server) => self.on_server_recorded(&server, pending.changes, out),
            Subject::Volume(id, purpose) => {
                self.on_volume_recorded(id, purpose, pending.changes, out);
            }
        }
    }

    fn on_volume_recorded(
        &mut self,
        id: VolumeId,
        purpose: Purpose,
        changes: Vec<(Key, Option<Value>)>,
        out: &mut Actions,
    ) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.pending = None;
        for (key, value) in changes {
            if key == Key::Volume(id)
                && let Some(Value::Volume(record)) = value
            {
                let version = volume.version;
                volume.version = Some(version.map_or(RecordVersion::FIRST, RecordVersion::next));
                assert!(
                    record.line.version() >= volume.record.line.version()
                        || record.instance != volume.record.instance,
                    "lines only rise, but where an old copy's were never told"
                );
                volume.record = *record;
            }
        }
        self.minting_over(id);
        match purpose {
            Purpose::Intend => self.on_intended(id, out),
            Purpose::Complete => self.on_completed(id, out),
            Purpose::Withdraw => self.on_withdrawn(id, out),
            Purpose::Forget => self.on_forgotten(id),
            Purpose::Line => self.on_new_line(id, out),
            Purpose::Seen => {}
            Purpose::Requested { link, request_id } => {
                self.answer_recorded(id, link, request_id, out);
                self.on_new_line(id, out);
            }
            Purpose::Agreed { ask } => {
                self.answer_agreed(id, ask, out);
                self.on_new_line(id, out);
            }
        }
        self.reconcile(id, out);
    }

    fn on_commit_failed(&mut self, txn: TxnId, error: CommitError, out: &mut Actions) {
        let Some(pending) = self.pending.remove(&txn) else {
            return;
        };
        if self.phase == RunPhase::Stopped {
            return;
        }
        let CommitError::Lost { current, .. } = error else {
            return self.stop(StopReason::StoreFailed, out);
        };
        match pending.subject {
            // Somebody else started as this master.
            Subject::Start | Subject::Meta => self.stop(StopReason::Superseded, out),
            Subject::Server(server) => self.on_server_lost(&server, current, out),
            Subject::Volume(id, purpose) => self.on_volume_lost(id, purpose, current, out),
        }
    }

    /// A lost compare-and-set is no failure: what is there now is taken over, and everything that
    /// is due is derived from it again.
    fn on_volume_lost(
        &mut self,
        id: VolumeId,
        purpose: Purpose,
        current: Vec<(Key, Option<Stored>)>,
        out: &mut Actions,
    ) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.pending = None;
        let found = current.into_iter().find(|(key, _)| *key == Key::Volume(id));
        let stored = found.and_then(|(_, stored)| stored);
        match stored.map(|stored| (stored.version, stored.value)) {
            Some((version, Value::Volume(record))) => {
                volume.version = Some(version);
                volume.event_seq = volume.event_seq.max(record.event_seq);
                volume.record = *record;
            }
            Some(_) | None => {
                self.on_vanished(id, out);
                return;
            }
        }
        self.minting_over(id);
        match purpose {
            Purpose::Requested { link, request_id } => {
                self.answer_lost(id, link, request_id, out);
            }
            Purpose::Agreed { ask } => self.answer_agreement_lost(id, ask, out),
            Purpose::Intend
            | Purpose::Complete
            | Purpose::Withdraw
            | Purpose::Forget
            | Purpose::Line
            | Purpose::Seen => {}
        }
        self.on_new_line(id, out);
        self.reconcile(id, out);
    }

    /// Records the master's own record anew.
    fn write_meta(&mut self, out: &mut Actions) {
        if self.meta_write.wanted != Wanted::Nothing {
            self.meta_write.wanted = Wanted::Again;
            return;
        }
        let expected = self.meta_write.version;
        self.meta_write = MetaWrite {
            version: expected.next(),
            wanted: Wanted::InFlight,
        };
        let change = Change {
            key: Key::Meta,
            expected: Expected::Version(expected),
            value: Some(Value::Meta(self.meta.clone())),
        };
        self.propose(Subject::Meta, vec![change], out);
    }

    fn on_meta_recorded(&mut self, out: &mut Actions) {
        let again = self.meta_write.wanted == Wanted::Again;
        self.meta_write.wanted = Wanted::Nothing;
        if again {
            self.write_meta(out);
        }
    }

    fn stop(&mut self, reason: StopReason, out: &mut Actions) {
        self.phase = RunPhase::Stopped;
        self.fail_all_asks(out);
        out.push(MasterAction::Stop(reason));
    }

    fn tell(&self, link: LinkId, message: MasterToServer, out: &mut Actions) {
        out.push(MasterAction::Tell {
            link,
            message: Box::new(message),
        });
    }

    /// A number that no other operation of this cluster has: the run, then a counter.
    fn next_operation(&mut self) -> u64 {
        self.ids += 1;
        (self.meta.start << 32) | self.ids
    }

    fn unix_ms(&self) -> u64 {
        let elapsed = self.now.since(self.start.now).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.start.unix_ms.saturating_add(elapsed)
    }
}

//! What an operator is shown. Field names are a contract with scripts.

use moorline_types::{
    AckPoint, BootId, ClusterId, ConfigVersion, Epoch, Lsn, NoQuorum, Policy, ServerId, StoreId,
    VolumeId,
};
use serde::{Deserialize, Serialize};

use super::report::{
    DamageReport, LimitedBy, PeerState, PinKind, ReplicaRole, SessionCause, SessionKind,
    SessionPhase, SlowWrites,
};

/// How a volume is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Served, with every replica in sync.
    Ok,
    /// Its stores are being made.
    Creating,
    /// Its stores are being removed.
    Deleting,
    /// Served, with fewer copies than it has seats.
    Degraded,
    /// Not served.
    Unavailable,
}

/// One line of `volume list`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeSummary {
    /// The volume.
    pub id: VolumeId,
    /// Its name, which is also its NBD export name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// How many copies a write needs.
    pub policy: Policy,
    /// What a copy must have done to count.
    pub ack: AckPoint,
    /// How many seats it has.
    pub replicas: u32,
    /// How it is.
    pub health: Health,
    /// The server that was given the reign.
    pub primary: Option<ServerId>,
    /// The assignment part of the epoch.
    pub epoch: u64,
}

/// `volume status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The volume.
    pub id: VolumeId,
    /// Its name, which is also its NBD export name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// How many copies a write needs.
    pub policy: Policy,
    /// What a copy must have done to count.
    pub ack: AckPoint,
    /// The least number of copies under `sync_all`.
    pub min_copies: u32,
    /// What requests meet while the policy cannot be met.
    pub no_quorum: NoQuorum,
    /// How it is.
    pub health: Health,
    /// The assignment part of the epoch.
    pub epoch: u64,
    /// The reign part of the epoch; 0 under Moorline's own master.
    pub reign: u64,
    /// The configuration within the epoch.
    pub config_version: ConfigVersion,
    /// The server that was given the reign.
    pub primary: Option<ServerId>,
    /// Where clients find it: `nbd://ADDR/NAME`.
    pub nbd_uri: Option<String>,
    /// Whether the primary serves clients now.
    pub serving: bool,
    /// The members called in sync.
    pub in_sync_set: Vec<ServerId>,
    /// Copies that the next write will have, when it is served.
    pub copies: Option<u32>,
    /// Why there is no primary or no service, or why writes are slow, in words; `None` when all is
    /// well.
    pub reason: Option<String>,
    /// The policy holds, durably, through here, as the primary last reported.
    pub committed_lsn: Option<Lsn>,
    /// The seats, by server id.
    pub replicas: Vec<ReplicaStatus>,
}

/// Where a replica stands, in the operator's words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// It leads and serves, or will when its lease is live.
    Primary,
    /// It is about to lead.
    Candidate,
    /// Its server is not connected to the master.
    Unreachable,
    /// Its store is being opened or made.
    Opening,
    /// Open, and without a primary.
    Idle,
    /// It was primary or candidate and is no more.
    Fenced,
    /// Its device failed.
    Failed,
    /// No link to the primary.
    Disconnected,
    /// A link is being made.
    Connecting,
    /// It takes what it lacks from the log.
    CatchingUp,
    /// It takes a base image.
    Rebuilding,
    /// Bound to the live stream, and not yet in sync.
    Joining,
    /// On the live stream, and recorded.
    InSync,
    /// On the live stream, out of the ack path.
    Degraded,
    /// Only a rebuild brings it back.
    NeedsRebuild,
    /// Its server has no store for the volume.
    Missing,
}

impl ReplicaState {
    /// The state of a connected replica that is not led by the peer's primary.
    #[must_use]
    pub const fn from_role(role: ReplicaRole) -> Self {
        match role {
            ReplicaRole::Opening => Self::Opening,
            ReplicaRole::Idle => Self::Idle,
            ReplicaRole::Candidate => Self::Candidate,
            ReplicaRole::Primary => Self::Primary,
            ReplicaRole::Replica => Self::Disconnected,
            ReplicaRole::Fenced => Self::Fenced,
            ReplicaRole::Failed => Self::Failed,
        }
    }

    /// The state that a primary's sender gives to its replica.
    #[must_use]
    pub const fn from_peer(state: PeerState) -> Self {
        match state {
            PeerState::Disconnected | PeerState::Stopped => Self::Disconnected,
            PeerState::Connecting => Self::Connecting,
            PeerState::CatchingUp => Self::CatchingUp,
            PeerState::Rebuilding => Self::Rebuilding,
            PeerState::Joining => Self::Joining,
            PeerState::InSync => Self::InSync,
            PeerState::Degraded => Self::Degraded,
            PeerState::NeedsRebuild => Self::NeedsRebuild,
        }
    }
}

/// Whether a seat has a vote, and why not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoteState {
    /// Its store is the recorded one.
    Yes,
    /// Nothing is known of its store.
    Unknown,
    /// No store is recorded for the seat.
    NoneRecorded,
    /// Its store is another one than recorded: wiped or swapped.
    OtherStore,
    /// Its open counter is below the last one seen: rolled back.
    RolledBack,
    /// Its open counter is the last one seen, by another boot: a copy.
    Copied,
    /// The replica itself says that it has none.
    NotClaimed,
}

/// One seat of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The server.
    pub server_id: ServerId,
    /// Where it stands.
    pub state: ReplicaState,
    /// Whether it has a vote.
    pub vote: VoteState,
    /// The store that the server reports.
    pub store_uuid: Option<StoreId>,
    /// The store that has the seat's vote.
    pub recorded_store_uuid: Option<StoreId>,
    /// The epoch of the last record.
    pub last_record_epoch: Option<Epoch>,
    /// The last record appended.
    pub head_lsn: Option<Lsn>,
    /// Durable in its log through here.
    pub flushed_lsn: Option<Lsn>,
    /// The extents may hold changes through here.
    pub applied_lsn: Option<Lsn>,
    /// The extents durably hold everything through here.
    pub checkpoint_lsn: Option<Lsn>,
    /// Exclusive: records above it are retained.
    pub tail_lsn: Option<Lsn>,
    /// Records that it lacks, as the primary counts.
    pub lag_records: Option<u64>,
    /// Bytes of those records.
    pub lag_bytes: Option<u64>,
    /// The live session, if there is one.
    pub session: Option<SessionStatus>,
    /// What holds back its log's tail, or an image.
    pub pins: Vec<PinStatus>,
    /// How full its log is, in percent, rounded up.
    #[serde(default)]
    pub log_fill_percent: Option<u8>,
    /// Why writers are slowed or stopped; `None` while they are not. Of a primary.
    #[serde(default)]
    pub writes_slowed: Option<SlowWrites>,
    /// Damage to blocks that it met since its store was opened.
    #[serde(default)]
    pub damage: Option<DamageReport>,
}

/// One live session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: SessionKind,
    /// How far it is.
    pub phase: SessionPhase,
    /// Where it ends.
    pub target_lsn: Lsn,
    /// How far the replica is, durably.
    pub recovered_to: Lsn,
    /// Of its work, 0 to 100.
    pub percent: u8,
    /// Bytes per second, of late.
    pub rate_bytes_per_s: u64,
    /// What bounds its speed.
    pub limited_by: Option<LimitedBy>,
    /// Why it was opened.
    pub cause: SessionCause,
}

/// One pin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinStatus {
    /// What it holds.
    pub kind: PinKind,
    /// Records above it are held.
    pub lsn: Lsn,
    /// Who holds it.
    pub holder: String,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}

/// Whether a server is there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Connected, and heard of lately.
    Up,
    /// Not connected, or silent.
    Down,
}

/// One server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The server.
    pub server_id: ServerId,
    /// Whether it is there.
    pub state: ServerState,
    /// Its boot, while it is connected.
    pub boot: Option<BootId>,
    /// Where its replication listener is.
    pub data_addr: String,
    /// Where its control listener is.
    pub control_addr: String,
    /// Where its NBD listener is.
    pub nbd_addr: String,
    /// The program's version.
    pub version: String,
    /// Since its last heartbeat, in milliseconds.
    pub silent_ms: Option<u64>,
    /// How many seats it has.
    pub seats: u32,
}

/// `moorline status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// How often its master was started.
    pub master_start: u64,
    /// Which instance of its store the master uses, as 16 hexadecimal digits.
    #[serde(default)]
    pub master_instance: String,
    /// When and why the master last found its store to be an old copy.
    #[serde(default)]
    pub master_restored: Option<Restored>,
    /// Volumes whose stores servers report and that this master does not know.
    #[serde(default)]
    pub unknown_volumes: Vec<UnknownVolume>,
    /// The servers ever registered, by id.
    pub servers: Vec<ServerStatus>,
    /// The volumes, by name.
    pub volumes: Vec<VolumeStatus>,
}

impl ClusterStatus {
    /// Whether every volume is whole and every server there: exit code 0, otherwise 4.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.unknown_volumes.is_empty()
            && self.volumes.iter().all(|v| v.health == Health::Ok)
            && self.servers.iter().all(|s| s.state == ServerState::Up)
    }
}

/// When and why a master found its store to be an old copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// Why.
    pub why: RestoredWhy,
    /// Milliseconds since 1970 by the master's clock.
    pub at_unix_ms: u64,
}

/// Why a master takes its store for an old copy.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RestoredWhy {
    /// It was made by `moorline master backup`.
    Backup {
        /// When, in milliseconds since 1970.
        made_unix_ms: u64,
    },
    /// Its file is not the one that it was when the master last started: it was copied or moved.
    Elsewhere,
    /// A server heard of a run of this cluster's master that is not in the store's past.
    UnknownRun {
        /// The server.
        server: ServerId,
    },
    /// A member persisted an assignment that the master never recorded.
    NewerLine {
        /// The server.
        server: ServerId,
    },
    /// It began empty, for a cluster that there was already.
    Empty,
}

impl std::fmt::Display for RestoredWhy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backup { .. } => f.write_str("it was restored from a backup"),
            Self::Elsewhere => f.write_str("its file was copied or moved"),
            Self::UnknownRun { server } => write!(
                f,
                "server {server} heard of a run of the master that it knows nothing of"
            ),
            Self::NewerLine { server } => write!(
                f,
                "server {server} knows a newer assignment than it recorded"
            ),
            Self::Empty => f.write_str("it began empty, for a cluster that there was already"),
        }
    }
}

/// A volume that the master does not know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnknownVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its name, as the newest reported line has it.
    pub name: String,
    /// Who has reported it.
    pub reported: Vec<ServerId>,
    /// Of the seats that the newest reported line names, those that have not.
    pub missing: Vec<ServerId>,
    /// How many must report it until the master takes it over; `None` when it never does so by
    /// itself: it was not restored, or has another volume of that name.
    pub need: Option<u32>,
}

/// One thing that happened to a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// Counts up by one per volume.
    pub seq: u64,
    /// Milliseconds since 1970 by the master's clock.
    pub at_unix_ms: u64,
    /// What happened.
    pub event: EventKind,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum EventKind {
    /// The intent to make the volume was recorded.
    CreateStarted {
        /// The operation.
        operation: u64,
        /// Who is to hold it.
        servers: Vec<ServerId>,
    },
    /// Every store is made and recorded.
    Created {
        /// The operation.
        operation: u64,
    },
    /// What was made of the volume is being removed again.
    CreateRolledBack {
        /// The operation.
        operation: u64,
    },
    /// The intent to delete the volume was recorded.
    DeleteStarted {
        /// The operation.
        operation: u64,
    },
    /// A new epoch was minted.
    EpochMinted {
        /// The epoch.
        epoch: Epoch,
        /// Who is to lead.
        primary: ServerId,
        /// The in-sync set that it begins with.
        in_sync: Vec<ServerId>,
        /// Why.
        cause: EventCause,
    },
    /// The primary's mark is committed: the volume is served.
    PrimaryServing {
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        primary: ServerId,
    },
    /// The in-sync set was changed.
    InSyncChanged {
        /// The epoch.
        epoch: Epoch,
        /// The configuration that has it.
        config: ConfigVersion,
        /// The whole new set.
        in_sync: Vec<ServerId>,
    },
    /// A seat's addresses changed.
    EndpointChanged {
        /// The server.
        server: ServerId,
        /// The configuration that has it.
        config: ConfigVersion,
    },
    /// A seat's vote went to another store.
    VoteChanged {
        /// The server.
        server: ServerId,
        /// The store that has the vote now.
        store: StoreId,
    },
    /// A store came that has no vote.
    VoteRefused {
        /// The server.
        server: ServerId,
        /// Why.
        vote: VoteState,
    },
    /// A candidate declined.
    PromotionFailed {
        /// The epoch that was to begin.
        epoch: Epoch,
        /// The candidate.
        server: ServerId,
        /// Why.
        reason: super::PromotionFailure,
    },
    /// A primary asked for a successor.
    PrimaryFault {
        /// Its epoch.
        epoch: Epoch,
        /// The primary.
        server: ServerId,
        /// Why.
        reason: super::PrimaryFaultReason,
    },
    /// The master found its store to be an old copy: nobody is promoted until enough is known.
    MasterRestored {
        /// Why.
        why: RestoredWhy,
    },
    /// A restored master took over the newest line that members reported, and goes on above it.
    LineTakenOver {
        /// The line's epoch.
        epoch: Epoch,
        /// Its configuration.
        config: ConfigVersion,
        /// Who had reported.
        reported: Vec<ServerId>,
        /// Who had not.
        missing: Vec<ServerId>,
        /// Whether an operator overruled the master's doubts.
        overruled: bool,
    },
    /// An operator accepted that acknowledged writes which were only in memory are lost.
    LossAccepted {
        /// The last epoch whose announced losses are accepted.
        through: Epoch,
    },
    /// A server reported something.
    Reported {
        /// The server.
        server: ServerId,
        /// The epoch in which it happened.
        epoch: Epoch,
        /// The event's name.
        name: String,
        /// The peer it is about.
        peer: Option<ServerId>,
        /// Cause and numbers.
        detail: String,
    },
}

/// Why an epoch was minted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventCause {
    /// The volume's first.
    Bootstrap,
    /// The primary's server came back with another boot.
    PrimaryRestarted,
    /// The primary is gone or silent.
    PrimaryLost,
    /// The primary asked for a successor.
    PrimaryFault,
    /// The candidate before declined.
    PromotionFailed,
    /// The candidate before did not report its mark in time.
    PromotionOverdue,
    /// An operator accepted a loss of acknowledged writes.
    LossAccepted,
}

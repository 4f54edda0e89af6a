//! What servers, the master and operators' commands say to each other.
//!
//! Encoded as JSON inside the ordinary frames: these messages are rare, people read them in
//! captures, and fields may be added. [`report`] is what a server reports of its replicas,
//! [`status`] what an operator is shown.

pub mod report;
pub mod status;

use moorline_types::{
    AckPoint, AssignmentLine, BootId, ClusterId, ConfigVersion, Epoch, NoQuorum, Policy, ServerId,
    StoreId, VolumeId,
};
use serde::{Deserialize, Serialize};

pub use report::{
    DamageReport, FollowedPrimary, KnownLine, LimitedBy, LineVersion, LogHolder, MarkState,
    PeerReport, PeerState, PinKind, PinReport, ReplicaReport, ReplicaRole, Serving, SessionCause,
    SessionKind, SessionPhase, SessionReport, SlowWrites, StoreReport,
};
pub use status::{
    ClusterStatus, EventCause, EventKind, EventRow, Health, PinStatus, ReplicaState, ReplicaStatus,
    Restored, RestoredWhy, ServerState, ServerStatus, SessionStatus, UnknownVolume, VolumeStatus,
    VolumeSummary, VoteState,
};

/// From a volume server to the master.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerToMaster {
    /// The first message of a connection.
    Register(Register),
    /// Every half second, and at once on any change.
    Heartbeat(Heartbeat),
    /// The primary asks for another in-sync set.
    ChangeConfig(ChangeConfig),
    /// The primary asks that a seat's recorded store be another one.
    ChangeVote(ChangeVote),
    /// A store was formatted and opened as [`MasterToServer::CreateStore`] asked.
    CreatedStore {
        /// The volume.
        volume: VolumeId,
        /// What was made.
        store: StoreReport,
    },
    /// No store could be made.
    CreateFailed {
        /// The volume.
        volume: VolumeId,
        /// Why.
        reason: CreateStoreError,
    },
    /// The store is gone, or there was none.
    DeletedStore {
        /// The volume.
        volume: VolumeId,
    },
    /// The primary stopped serving for good, gave up its lease, and asks for a successor.
    PrimaryFault {
        /// The volume.
        volume: VolumeId,
        /// The primary's epoch.
        epoch: Epoch,
        /// Why.
        reason: PrimaryFaultReason,
    },
    /// The candidate declined; it has given up its lease.
    PromotionFailed {
        /// The volume.
        volume: VolumeId,
        /// The epoch that was to begin.
        epoch: Epoch,
        /// Why.
        reason: PromotionFailure,
        /// The member that could do better, when known.
        better: Option<ServerId>,
    },
    /// Something worth a line in the volume's events.
    Event(ReportedEvent),
}

/// Introduces a server; answered with [`MasterToServer::Registered`] and every assignment that
/// names the server, or with [`MasterToServer::Refused`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// The server.
    pub server: ServerId,
    /// This run of it.
    pub boot: BootId,
    /// The cluster that its stores belong to; `None` before the first registration.
    pub cluster: Option<ClusterId>,
    /// Where its replication listener is, as peers reach it.
    pub data_addr: String,
    /// Where its control listener is, as peers reach it.
    pub control_addr: String,
    /// Where its NBD listener is, as clients reach it.
    pub nbd_addr: String,
    /// The program's version, for people.
    pub version: String,
    /// The stores that it opened.
    pub stores: Vec<StoreReport>,
}

/// A server's state, whole: the newest replaces everything known of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts up by one within a connection.
    pub seq: u64,
    /// The server's clock at send, in nanoseconds: a lease granted in answer is counted from it.
    pub sent_ns: u64,
    /// All of its replicas.
    pub volumes: Vec<ReplicaReport>,
    /// Stores of this server that are not open yet, of volumes not known: their devices do not
    /// answer, or their logs are long.
    #[serde(default)]
    pub stores_opening: u32,
}

/// Asks for another in-sync set by compare-and-set.
///
/// Only the primary of the current epoch may. By asking it says that `expected_config` is in
/// force: its mark is committed, and that version is persisted by a majority of its members.
/// Without an answer the primary asks again; the same set asked for again is answered the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeConfig {
    /// Chosen by the primary, echoed.
    pub request_id: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The version that the new one is to follow.
    pub expected_config: ConfigVersion,
    /// The whole new set.
    pub in_sync: Vec<InSyncMember>,
}

/// One member of an in-sync set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct InSyncMember {
    /// The server.
    pub server: ServerId,
    /// The boot that is in sync, as its session's handshake named it: what that boot holds in
    /// memory is what the set speaks of.
    pub boot: BootId,
}

/// Asks by compare-and-set that the vote of a seat go from one store to another.
///
/// Only the primary of the current epoch may, after it rebuilt the new store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeVote {
    /// Chosen by the primary, echoed.
    pub request_id: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The version that the new one is to follow.
    pub expected_config: ConfigVersion,
    /// Whose seat.
    pub server: ServerId,
    /// The store that is recorded now.
    pub old: Option<StoreId>,
    /// The store that is to be.
    pub new: StoreId,
}

/// Why a store could not be made.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CreateStoreError {
    /// The device or file system is too small.
    #[error("not enough space: it needs {need} bytes, and there are {have}")]
    NoRoom {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The disk filled up while the store was written.
    #[error("not enough space: its disk filled up on the way")]
    DiskFull,
    /// There is a store of this or another volume already, or something else on a whole device.
    #[error("a store or other data lies there already, and is left alone")]
    Occupied,
    /// The device failed.
    #[error("its device failed: see the server's log")]
    DeviceFailed,
    /// Its file could not be made or its device not be looked at.
    #[error("its system refused: {}", std::io::Error::from_raw_os_error(*errno))]
    Refused {
        /// What the system said.
        errno: i32,
    },
    /// The log size cannot be had.
    #[error("it cannot have a log of that size")]
    BadLogSize,
}

/// Why a primary asks for a successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrimaryFaultReason {
    /// Its device failed or an operation is overdue.
    DeviceFailed,
    /// It is being shut down.
    ShuttingDown,
    /// It was shown a higher epoch, or lost its lease for good.
    Fenced,
    /// Committed data is missing on its side.
    CommittedDataMissing,
}

/// Why a promotion failed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionFailure {
    /// It could not get the best log.
    CannotFetch,
    /// Its own image must be rebuilt first.
    NeedsRebuild,
    /// It was shown a higher epoch.
    Superseded {
        /// That epoch; the next one minted lies above it.
        epoch: Epoch,
    },
    /// Its own store has no vote.
    NoVote,
    /// Its device failed.
    DeviceFailed,
    /// A committed record is nowhere to be had.
    CommittedDataMissing,
    /// The answers did not come in time.
    TimedOut,
    /// The assignment names another boot.
    OtherBoot,
}

/// Something that happened on a server, for the volume's events.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportedEvent {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch in which it happened.
    pub epoch: Epoch,
    /// The event's name as in the event stream, at most 64 bytes.
    pub name: String,
    /// The peer it is about, if any.
    pub peer: Option<ServerId>,
    /// Cause and numbers, at most 1,024 bytes.
    pub detail: String,
}

/// From the master to a volume server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterToServer {
    /// The registration holds.
    Registered {
        /// The cluster.
        cluster: ClusterId,
        /// How often the master was started: with `instance`, which run of which master this is.
        start: u64,
        /// Which instance of its store.
        #[serde(default)]
        instance: u64,
        /// How often to send heartbeats, in milliseconds.
        heartbeat_ms: u32,
    },
    /// The connection is of no use; it is closed after this.
    Refused(RegisterRefusal),
    /// The newest line of a volume in which the server has a seat.
    Assignment {
        /// The line.
        line: AssignmentLine,
        /// Whether this epoch may begin although acknowledged writes may be lost.
        consent: LossConsent,
        /// An operator accepted the losses of memory that epochs through this one announced.
        #[serde(default)]
        loss_accepted: Option<Epoch>,
    },
    /// Answers one heartbeat; also says that the master is there.
    Leases {
        /// The heartbeat's `seq`.
        heartbeat_seq: u64,
        /// How long each lasts, in milliseconds, counted by the holder from the heartbeat's send.
        ttl_ms: u32,
        /// The master's leases granted: while one runs, no higher epoch is minted.
        granted: Vec<MasterLease>,
    },
    /// Make and open a store for this volume; answered by `CreatedStore` or `CreateFailed`.
    /// Asked again, a server that has made it answers with it.
    CreateStore {
        /// The volume as it will be; epoch zero, no store recorded.
        line: AssignmentLine,
        /// Bytes for the log ring.
        log_bytes: u64,
        /// The operation; a store that was made for another operation is not this one's.
        operation: u64,
    },
    /// Close and remove the volume's store; answered by `DeletedStore`, also when there is none.
    DeleteStore {
        /// The volume.
        volume: VolumeId,
    },
    /// Answers `ChangeConfig` and `ChangeVote`.
    ChangeConfigDone {
        /// The request's number.
        request_id: u64,
        /// The volume.
        volume: VolumeId,
        /// What came of it.
        result: ChangeConfigResult,
    },
}

/// Whether losing acknowledged writes is agreed to, which `best_effort` needs to change its primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossConsent {
    /// It is not.
    No,
    /// By `--failover lossy` or an operator.
    Given,
}

/// One lease of the master's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MasterLease {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch that is protected.
    pub epoch: Epoch,
    /// The boot that holds it.
    pub boot: BootId,
}

/// Why a server may not join.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum RegisterRefusal {
    /// Another process with this id is connected.
    #[error("a server with this id is connected already: each needs an id of its own")]
    DuplicateServer {
        /// That process's boot.
        boot: BootId,
    },
    /// Another server has one of the addresses.
    #[error("address {address} is in use by server {by}: each server needs its own")]
    DuplicateAddress {
        /// The address.
        address: String,
        /// Who has it.
        by: ServerId,
    },
    /// Its stores belong to another cluster.
    #[error(
        "the stores belong to cluster {theirs}, this master leads {ours}: put that cluster's master directory or a backup of it back; if both are lost, start a master on an empty directory with --adopt-cluster {theirs}"
    )]
    WrongCluster {
        /// This master's.
        ours: ClusterId,
        /// The server's.
        theirs: ClusterId,
    },
    /// An address is empty or too long.
    #[error("address `{address}` cannot be used")]
    BadAddress {
        /// The address, cut to 80 characters.
        address: String,
    },
    /// Something else came before the registration, or a second one.
    #[error("a server registers once, first of all")]
    OutOfOrder,
    /// The server that authenticated itself is another one.
    #[error("the connection was opened by server {authenticated}")]
    WrongIdentity {
        /// As the hello named it.
        authenticated: ServerId,
    },
    /// The master's store failed; it records nothing any more.
    #[error("the master's store failed")]
    MasterFailed,
}

/// What came of a compare-and-set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeConfigResult {
    /// It is recorded, now or already before: this is the line in force.
    Recorded(AssignmentLine),
    /// Nothing was changed.
    Refused {
        /// Why.
        reason: ChangeConfigRefusal,
        /// The line in force; `None` when the volume is unknown.
        line: Option<AssignmentLine>,
    },
}

/// Why a compare-and-set was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ChangeConfigRefusal {
    /// There is no such volume.
    #[error("the volume is unknown")]
    UnknownVolume,
    /// The sender is not the (server, boot) of the epoch in force.
    #[error("the sender is not the primary of the epoch in force")]
    NotPrimary,
    /// The version in force is another one than expected.
    #[error("the version in force is another one")]
    OtherVersion,
    /// The set names a server without a seat, or one twice.
    #[error("the set is not made of the volume's members")]
    NotMembers,
    /// The set lacks the primary.
    #[error("the set lacks the primary")]
    WithoutPrimary,
    /// A member to be added has no vote.
    #[error("a member to be added has no vote")]
    NoVote,
    /// Fewer than the volume's minimum of copies would be left.
    #[error("fewer than the minimum of copies would be left")]
    BelowFloor,
    /// The seat's recorded store is another one than expected, or the new one is not there.
    #[error("the recorded store is another one")]
    OtherStore,
    /// The volume is being deleted.
    #[error("the volume is being deleted")]
    Deleting,
}

/// From an operator's command to the master.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientRequest {
    /// Make a volume.
    CreateVolume(CreateVolume),
    /// List the volumes.
    ListVolumes,
    /// Show one volume.
    VolumeStatus {
        /// Its name.
        name: String,
    },
    /// Delete a volume and its stores.
    DeleteVolume {
        /// Its name.
        name: String,
    },
    /// Show the whole cluster.
    Status,
    /// Show what happened to a volume.
    Events {
        /// Its name.
        name: String,
        /// Only events with a higher number; 0 for all that are kept.
        after: u64,
    },
    /// Go on without acknowledged writes that were only in memory and may be gone.
    AcceptLoss {
        /// The volume's name.
        name: String,
    },
    /// Take over the newest line that was reported of a volume, though this master is an old copy
    /// and not enough seats reported theirs.
    Overrule {
        /// The volume's name.
        name: String,
        /// Whether losing what nobody reported is agreed to.
        consent: LossConsent,
    },
    /// Part of the master's records, for a copy of its store.
    Backup {
        /// Only records whose keys come after this one; `None` begins.
        after: Option<String>,
    },
}

/// A volume to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CreateVolume {
    /// Its name: 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`.
    pub name: String,
    /// In bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// How many servers hold it.
    pub replicas: u32,
    /// How many copies a write needs; `None` takes `sync_quorum`, or `sync_all` with two replicas.
    pub policy: Option<Policy>,
    /// What a copy must have done to count.
    pub ack: AckPoint,
    /// Bytes for the log ring of each replica.
    pub log_bytes: u64,
    /// The least number of copies under `sync_all`; `None` takes `max(1, replicas - 1)`.
    pub min_copies: Option<u32>,
    /// What requests meet while the policy cannot be met; `None` takes the master's setting.
    pub no_quorum: Option<NoQuorum>,
}

/// From the master to an operator's command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientResponse {
    /// The volume is made, or was before with just these properties.
    Created(VolumeSummary),
    /// All volumes, by name.
    Volumes(Vec<VolumeSummary>),
    /// One volume.
    Volume(Box<VolumeStatus>),
    /// The volume is deleted.
    Deleted {
        /// Its name.
        name: String,
    },
    /// The cluster.
    Cluster(Box<ClusterStatus>),
    /// Events, oldest first.
    Events(Vec<EventRow>),
    /// The loss is accepted: the next epoch opens without it.
    LossAccepted {
        /// The volume's name.
        name: String,
        /// The last epoch whose losses are accepted.
        through: Epoch,
    },
    /// The volume goes on above this line.
    Overruled {
        /// The volume's name.
        name: String,
        /// The line that was taken over.
        line: LineVersion,
        /// The seats that had reported theirs.
        reported: Vec<ServerId>,
        /// The seats that had not.
        missing: Vec<ServerId>,
    },
    /// Some records.
    Backup(BackupPage),
    /// It was not done.
    Failed(ClientError),
}

/// Some of the master's records, in the order of their keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupPage {
    /// Each record: its key, its version and its JSON.
    pub records: Vec<(String, u64, String)>,
    /// Whether there are no more.
    pub is_last: bool,
}

/// Why an operator's request was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ClientError {
    /// There is no volume of that name.
    #[error("there is no volume `{name}`: `moorline volume list` shows those there are")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The name cannot be a volume's.
    #[error("`{name}` is no volume name: use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`")]
    BadName {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// The size cannot be had.
    #[error("{size_bytes} bytes is no volume size: use a multiple of 4096 up to 1 PiB")]
    BadSize {
        /// What was asked for.
        size_bytes: u64,
    },
    /// The log size cannot be had.
    #[error("{log_bytes} bytes is no log size: use a multiple of 4096 of at least {least}")]
    BadLogSize {
        /// What was asked for.
        log_bytes: u64,
        /// The least that works, in bytes.
        least: u64,
    },
    /// The number of replicas or of copies makes no sense.
    #[error(
        "{replicas} replicas with at least {min_copies} copies cannot be had: use 1 to {most} replicas, and 1 to as many copies"
    )]
    BadReplicas {
        /// Replicas asked for.
        replicas: u32,
        /// Copies asked for.
        min_copies: u32,
        /// The most replicas there may be.
        most: u32,
    },
    /// There are fewer servers than replicas.
    #[error(
        "{replicas} replicas need as many servers, and {servers} are connected: start more servers or ask for fewer replicas"
    )]
    TooFewServers {
        /// Replicas asked for.
        replicas: u32,
        /// Servers that are connected.
        servers: u32,
    },
    /// A volume of that name exists with other properties.
    #[error(
        "a volume `{name}` exists with other properties, which `moorline volume status {name}` shows: choose another name or delete it first"
    )]
    Exists {
        /// The name.
        name: String,
    },
    /// Another operation on the volume is under way.
    #[error("another operation on `{name}` is under way: try again when it is over")]
    Busy {
        /// The name.
        name: String,
    },
    /// A server could not make its store; what was made was removed.
    #[error("server {server} could not make its store ({reason}): nothing of the volume is left")]
    CreateFailed {
        /// The server.
        server: ServerId,
        /// Why.
        reason: CreateStoreError,
    },
    /// A server went away while stores were made; what was made is removed.
    #[error("server {server} went away while the volume was made: nothing of it is left")]
    ServerLost {
        /// The server.
        server: ServerId,
    },
    /// The volume is in use by a client and deleting it would pull it away.
    #[error("volume `{name}` is in use: disconnect its clients first")]
    InUse {
        /// The name.
        name: String,
    },
    /// No loss of acknowledged writes stands in the way.
    #[error("nothing is held back by a loss of acknowledged writes on `{name}`: nothing was done")]
    NoLoss {
        /// The name.
        name: String,
    },
    /// The volume's records are current.
    #[error("the master's records of `{name}` are current: there is nothing to overrule")]
    NothingToOverrule {
        /// The name.
        name: String,
    },
    /// Not every seat that counts has reported what it knows.
    #[error(
        "the master's records of `{name}` may be old, and {} of {need} replicas have reported theirs (missing: {}): start the missing servers, or give --accept-loss to go on with what is reported, which loses what only they know",
        reported.len(), names(missing)
    )]
    NotSettled {
        /// The name.
        name: String,
        /// Who reported.
        reported: Vec<ServerId>,
        /// Who did not.
        missing: Vec<ServerId>,
        /// How many must.
        need: u32,
    },
    /// The master's store failed.
    #[error("the master's store failed: see its log, then restart it")]
    MasterFailed,
}

fn names(servers: &[ServerId]) -> String {
    let names: Vec<&str> = servers.iter().map(ServerId::as_str).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

impl ClientError {
    /// The exit code that the command ends with: 1 failed, 2 usage, 3 not found, 5 refused as unsafe.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 3,
            Self::BadName { .. }
            | Self::BadSize { .. }
            | Self::BadLogSize { .. }
            | Self::BadReplicas { .. } => 2,
            Self::InUse { .. } | Self::NotSettled { .. } => 5,
            Self::TooFewServers { .. }
            | Self::Exists { .. }
            | Self::Busy { .. }
            | Self::CreateFailed { .. }
            | Self::ServerLost { .. }
            | Self::NoLoss { .. }
            | Self::NothingToOverrule { .. }
            | Self::MasterFailed => 1,
        }
    }
}

//! What a server reports of its replicas.

use moorline_types::{
    AssignmentLine, BootId, ConfigVersion, Epoch, Lsn, MasterRun, OpenCount, Openings, ServerId,
    StoreId, VolumeId,
};
use serde::{Deserialize, Serialize};

/// What orders assignment lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LineVersion {
    /// The epoch; decides first.
    pub epoch: Epoch,
    /// The configuration within it.
    pub config: ConfigVersion,
}

/// One store as its server opened it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreReport {
    /// The volume it holds.
    pub volume: VolumeId,
    /// The store.
    pub store: StoreId,
    /// Its open counter, as raised by this open.
    pub open: OpenCount,
    /// The boot that opened it.
    pub boot: BootId,
    /// Its openings, that one the last.
    pub openings: Openings,
    /// The highest epoch that it promised.
    pub promised: Epoch,
    /// The newest line that it persisted.
    pub line: Option<LineVersion>,
    /// The run of a master that it persisted last.
    #[serde(default)]
    pub master: Option<MasterRun>,
}

/// The newest line that a member persisted, whole: what a master that lost it takes over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownLine {
    /// The line.
    pub line: AssignmentLine,
    /// Bytes of the member's log ring.
    pub log_bytes: u64,
}

/// The part that a replica plays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// Its store is being opened.
    Opening,
    /// Open, and without a primary.
    Idle,
    /// Collecting promises, fetching, or waiting for its mark.
    Candidate,
    /// Its mark is committed.
    Primary,
    /// It follows a primary.
    Replica,
    /// It was primary or candidate and is no more.
    Fenced,
    /// Its device failed.
    Failed,
}

/// Whether a replica serves clients now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serving {
    /// It does not.
    No,
    /// Its mark is committed and its lease is live.
    Yes,
}

/// Whether the mark of an epoch is committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkState {
    /// Not as far as this replica knows.
    Pending,
    /// By the volume's policy.
    Committed,
}

/// The primary that a member still follows: it promised it the epoch, and data or a lease renewal
/// came over their link within the peer deadline, or a lease granted to it still runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FollowedPrimary {
    /// The epoch.
    pub epoch: Epoch,
    /// The primary.
    pub server: ServerId,
    /// Its boot.
    pub boot: BootId,
}

/// One replica as its server knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The volume.
    pub volume: VolumeId,
    /// The store.
    pub store: StoreId,
    /// Its open counter.
    pub open: OpenCount,
    /// The boot that opened it.
    pub boot: BootId,
    /// Its openings, that one the last.
    pub openings: Openings,
    /// Its part.
    pub role: ReplicaRole,
    /// The highest epoch that it promised.
    pub promised: Epoch,
    /// The newest line that it persisted.
    pub line: Option<LineVersion>,
    /// Of the epoch that it leads: whether its mark is committed.
    pub mark: MarkState,
    /// The epoch of the last record in its log; zero when it is empty.
    pub last_record_epoch: Epoch,
    /// The last record appended.
    pub head: Lsn,
    /// Durable in its log through here; `None` while it is being rebuilt.
    pub flushed: Option<Lsn>,
    /// The extents may hold changes through here.
    pub applied: Lsn,
    /// The extents durably hold everything through here.
    pub checkpoint: Lsn,
    /// Exclusive: records above it are retained.
    pub tail: Lsn,
    /// The committed point as it knows it.
    pub committed: Lsn,
    /// Whether it counts itself among the votes.
    pub vote: crate::message::VoteClaim,
    /// Whether its image can be trusted.
    pub image: crate::message::ImageState,
    /// The primary that it still follows.
    pub following: Option<FollowedPrimary>,
    /// Whether it serves clients.
    pub serving: Serving,
    /// Clients connected to its export.
    pub clients: u32,
    /// Copies that the next write will have; of a primary.
    pub copies: Option<u32>,
    /// Its peers, as a primary sees them.
    pub peers: Vec<PeerReport>,
    /// What holds back its log's tail, or an image.
    pub pins: Vec<PinReport>,
    /// How full its log is, in percent, rounded up.
    #[serde(default)]
    pub log_fill_percent: u8,
    /// Why writers are slowed or stopped; `None` while they are not. Of a primary.
    #[serde(default)]
    pub writes_slowed: Option<SlowWrites>,
    /// Damage to blocks that it met since its store was opened.
    #[serde(default)]
    pub damage: DamageReport,
    /// The run of a master that it persisted last.
    #[serde(default)]
    pub master: Option<MasterRun>,
    /// The newest line that it persisted, when the master said an older one, or none, on this
    /// connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_line: Option<Box<KnownLine>>,
}

/// Writers are slowed, or stopped, because the log fills up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SlowWrites {
    /// Bytes per second that are let in; 0 when writers are stopped.
    pub bytes_per_s: u64,
    /// What keeps the log from being emptied.
    pub log_held_by: LogHolder,
}

/// What keeps records in a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogHolder {
    /// The flusher has not brought them into the extents: the device is slower than the writers.
    Flusher,
    /// A pin: a replica that catches up.
    Pin,
    /// A connected peer that has not flushed them.
    Peer,
}

/// Blocks that did not match their checksums.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct DamageReport {
    /// Blocks found damaged.
    pub found: u64,
    /// Written again with a peer's copy.
    pub repaired: u64,
    /// Asked for, and no peer had a good copy: the read failed.
    pub lost: u64,
}

/// One peer as the primary sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer.
    pub server: ServerId,
    /// Where its sender stands.
    pub state: PeerState,
    /// What it acknowledged as received.
    pub received: Lsn,
    /// What it acknowledged as flushed.
    pub flushed: Lsn,
    /// Records that it lacks.
    pub lag_records: u64,
    /// Bytes of those records.
    pub lag_bytes: u64,
    /// The live session, if there is one.
    pub session: Option<SessionReport>,
}

/// The state of a sender: every replica is in exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// No link.
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
    /// It is no longer assigned.
    Stopped,
}

/// What a session does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// Records from the log.
    CatchUp,
    /// A base image, and then records.
    Rebuild,
}

/// Why a session was opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionCause {
    /// The volume's first.
    Bootstrap,
    /// A new epoch.
    Assignment,
    /// A changed address or member.
    Reassignment,
    /// The link came back.
    Reconnect,
    /// An operator asked.
    Operator,
    /// The catch-up poller.
    Poller,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPhase {
    /// Just made.
    Init,
    /// A link is being made.
    Connecting,
    /// Histories are compared.
    Handshake,
    /// The replica cuts its log.
    Truncating,
    /// Records are replayed.
    CatchingUp,
    /// The source of a rebuild is chosen.
    SourceSelected,
    /// It is bound to the live stream.
    Joining,
    /// A base image is laid.
    Transferring,
    /// Records over the base are replayed.
    Replaying,
    /// Over, with proof.
    Completed,
    /// Over, without success.
    Invalidated,
}

/// What bounds a session's speed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The source's device.
    SourceDevice,
    /// The replica's device.
    ReplicaDevice,
    /// The network.
    Network,
    /// A set limit.
    Throttle,
}

/// One live session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionReport {
    /// Its id, as it is printed.
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

/// What a pin holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// The log's records above an LSN.
    Retention,
    /// An image at an LSN.
    Snapshot,
    /// A whole base.
    FullBase,
}

/// One pin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinReport {
    /// What it holds.
    pub kind: PinKind,
    /// Records above it are held.
    pub lsn: Lsn,
    /// Who holds it.
    pub holder: String,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}

//! Everything that one process of a cluster may tell another.
//!
//! Messages about one volume carry a [`VolumeHeader`], by which a receiver refuses what comes from
//! another store, a deposed epoch or an ended session before it looks at the body. Leases are
//! renewed once per pair of servers and carry all their volumes.

use bytes::{Bytes, BytesMut};
use moorline_types::{
    AssignmentLine, BlockIndex, BootId, BufferPool, ConfigVersion, Epoch, EpochStart, GivenUp, Lsn,
    LsnRange, OpenCount, Opening, Openings, Payload, ServerId, StoreId, VolumeId,
};
use serde::{Deserialize, Serialize};

use crate::{
    control::{
        ClientRequest, ClientResponse, MasterToServer, ServerToMaster, SessionCause, SessionKind,
    },
    hello::HelloMessage,
};

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Part of the mutual authentication that begins every connection.
    Hello(Box<HelloMessage>),
    /// About one volume, between two of its members.
    Volume(VolumeHeader, VolumeMessage),
    /// The holder of leases asks a member to renew them.
    LeaseRequest(LeaseRequest),
    /// A member's answer to a [`LeaseRequest`].
    LeaseGrant(LeaseGrant),
    /// Between a volume server and the master.
    ServerToMaster(Box<ServerToMaster>),
    /// Between the master and a volume server.
    MasterToServer(Box<MasterToServer>),
    /// From an operator's command to the master; the response names the same id.
    ClientRequest {
        /// Chosen by the client, echoed in the response.
        id: u64,
        /// What is asked.
        request: Box<ClientRequest>,
    },
    /// From the master to an operator's command.
    ClientResponse {
        /// The request's id.
        id: u64,
        /// What came of it.
        response: Box<ClientResponse>,
    },
}

/// Who speaks about which volume, in which reign: in front of every volume message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VolumeHeader {
    /// The volume.
    pub volume: VolumeId,
    /// The store at the end that is not the primary (candidate, lease holder), as the sender knows
    /// it; a frame that names another store than the receiver's is refused.
    pub store: StoreId,
    /// The epoch that the sender acts in.
    pub epoch: Epoch,
    /// The newest configuration that the sender knows.
    pub config: ConfigVersion,
    /// The connection's session for this volume, chosen by the primary; 0 before a handshake.
    pub session: u64,
}

/// A message about one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VolumeMessage {
    /// Candidate to member: promise me this epoch.
    PromiseRequest(Box<PromiseRequest>),
    /// Member to candidate: promised durably, and this is what I hold.
    Promise(Box<ReplicaFacts>),
    /// Member to candidate: not promised.
    PromiseRefused(PromiseRefused),
    /// Primary to replica: the history to compare with.
    Handshake(Box<Handshake>),
    /// Replica to primary: what it holds.
    HandshakeAck(Box<ReplicaFacts>),
    /// Primary to replica: cut everything above.
    Truncate(Truncate),
    /// Replica to primary: the cut is durable.
    TruncationRecorded(TruncationRecorded),
    /// Primary to replica: the next records, in order.
    Records(Records),
    /// Primary to replica: how far the volume is committed.
    Commit(Commit),
    /// Replica to primary: contiguous frontiers.
    Ack(Ack),
    /// Replica to primary: it needs every record above this one.
    NeedRecords(NeedRecords),
    /// Primary to replica: it was left out of the stream.
    StreamEnded(StreamEnded),
    /// Candidate or primary to member: send me these records.
    Fetch(Fetch),
    /// The answer to [`VolumeMessage::Fetch`].
    Fetched(Fetched),
    /// To a peer: send me your copy of one block.
    FetchBlock(FetchBlock),
    /// The answer to [`VolumeMessage::FetchBlock`].
    FetchedBlock(FetchedBlock),
    /// Any side: what you sent was refused and changed nothing.
    Refused(Refused),
}

/// Asks a member for its promise.
///
/// The epoch, and the configuration that the candidate counts by, are those of the header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PromiseRequest {
    /// The candidate.
    pub server: ServerId,
    /// Its boot: a promise is for (epoch, server, boot).
    pub boot: BootId,
    /// The assignment that the candidate acts by.
    pub line: AssignmentLine,
}

/// What one replica holds, as it answers promises and handshakes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// Whose replica.
    pub server: ServerId,
    /// Its store.
    pub store: StoreId,
    /// The store's open counter.
    pub open: OpenCount,
    /// The boot that opened it.
    pub boot: BootId,
    /// Its openings, that one the last: what somebody saw of the store must be among them.
    pub openings: Openings,
    /// The highest epoch promised, and to whom.
    pub promised: Option<Promised>,
    /// Where each epoch of the log begins, ascending; kept when the log is reclaimed.
    pub history: Vec<EpochStart>,
    /// The last record appended.
    pub head: Lsn,
    /// Durable in its log through here; `None` while the replica is being rebuilt.
    pub flushed: Option<Lsn>,
    /// Records that a torn end of the log may have held, if one was cut.
    pub doubtful: Option<LsnRange>,
    /// The extents may hold changes through here.
    pub applied: Lsn,
    /// The extents durably hold everything through here.
    pub checkpoint: Lsn,
    /// Exclusive: records above it are retained.
    pub tail: Lsn,
    /// The committed point as this replica knows it.
    pub committed: Lsn,
    /// What clients were told through, as this replica knows it.
    pub acknowledged: Lsn,
    /// The newest assignment that it persisted.
    pub line: Option<AssignmentLine>,
    /// Whether the replica itself believes that it has a vote.
    pub vote: VoteClaim,
    /// Whether its image can be trusted.
    pub image: ImageState,
    /// Whether what it acknowledged from memory is still there.
    pub memory: MemoryState,
    /// Ranges that promotions gave up, those announced by marks of its log included.
    pub given_up: Vec<GivenUp>,
}

impl ReplicaFacts {
    /// The opening of the store that says this.
    #[must_use]
    pub const fn opening(&self) -> Opening {
        Opening {
            open: self.open,
            boot: self.boot,
        }
    }
}

/// A promise: nothing of a lower epoch, nor of another holder, is taken from then on.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Promised {
    /// The epoch.
    pub epoch: Epoch,
    /// The candidate that has it.
    pub server: ServerId,
    /// The candidate's boot.
    pub boot: BootId,
}

/// Whether a replica counts itself among the votes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoteClaim {
    /// Its store is the recorded one.
    Has,
    /// It keeps its seat and nothing it says counts.
    HasNot,
}

/// Whether a replica's image may be served, voted with or copied from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// Whole and trusted.
    Whole,
    /// A rebuild into it has not finished.
    Incomplete,
    /// It fell off the log or diverged below its applied point; sticky until rebuilt.
    NeedsRebuild,
}

/// Whether what a replica acknowledged from memory is still there (`PROM-12`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryState {
    /// It is: since it last held all that its primary held, no process of it died.
    Intact,
    /// Its store was opened without a clean-shutdown mark since.
    Lost,
}

/// Why a promise was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromiseRefusal {
    /// A higher epoch, or the same one of another (server, boot), was promised.
    Promised(Promised),
    /// A lease granted to another primary still runs; ask again after `wait_ms`.
    LeaseRunning,
    /// The member restarted less than one lease ago; ask again after `wait_ms`.
    JustStarted,
    /// The request's configuration is older than the member's, which is this one.
    OlderConfig(Box<AssignmentLine>),
    /// The member's store has no vote.
    NoVote,
    /// The receiver has no such volume.
    UnknownVolume,
    /// The epoch is further ahead than a sane master mints.
    InsaneEpoch,
    /// The member's device failed.
    DeviceFailed,
}

/// A member's refusal to promise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PromiseRefused {
    /// Why.
    pub reason: PromiseRefusal,
    /// Milliseconds after which asking again makes sense; `None` when it never will.
    pub wait_ms: Option<u64>,
}

/// What the primary's log looks like: the replica compares and answers with its facts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Handshake {
    /// The primary.
    pub server: ServerId,
    /// Its boot.
    pub boot: BootId,
    /// What the session is to do.
    pub kind: SessionKind,
    /// Why it was opened.
    pub cause: SessionCause,
    /// Its epoch history, ascending.
    pub history: Vec<EpochStart>,
    /// Its committed point.
    pub committed: Lsn,
    /// Exclusive: records above it are retained.
    pub tail: Lsn,
    /// Its last record.
    pub head: Lsn,
    /// The assignment that it acts by.
    pub line: AssignmentLine,
    /// Ranges that promotions gave up, those announced by marks of its log included.
    pub given_up: Vec<GivenUp>,
}

/// Orders a cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Truncate {
    /// The last record kept.
    pub through: Lsn,
}

/// Tells that a cut is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TruncationRecorded {
    /// The last record kept.
    pub through: Lsn,
    /// The replica's head now.
    pub head: Lsn,
}

/// Records in LSN order without gaps: their headers back to back, and their payloads in that order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    /// The record before the first one; what the receiver's head must reach.
    pub previous: Lsn,
    /// How many records.
    pub count: u32,
    /// The committed point when this was sent.
    pub committed: Lsn,
    /// What clients were told through when this was sent.
    pub acknowledged: Lsn,
    /// The record headers, as they also lie on disk.
    pub headers: Bytes,
    /// The payloads. One piece when it came from a socket.
    pub payload: PayloadParts,
}

impl Records {
    /// The last record in it; `None` on overflow, which a receiver refuses.
    #[must_use]
    pub const fn through(&self) -> Option<Lsn> {
        self.previous.checked_advance(self.count as u64)
    }
}

/// Pieces of payload that follow each other on the wire.
#[derive(Clone, Debug, Default)]
pub struct PayloadParts(Vec<Payload>);

impl PayloadParts {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// Adds a piece at the end; an empty one is left out.
    pub fn push(&mut self, part: Payload) {
        if !part.is_empty() {
            self.0.push(part);
        }
    }

    /// Length in bytes, a multiple of 4096.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Payload::len).sum()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pieces, in order; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &Payload> {
        self.0.iter()
    }

    /// All bytes as one aligned piece: shared when they are one already, as after receiving,
    /// otherwise copied together.
    #[must_use]
    pub fn into_contiguous(mut self, pool: &BufferPool) -> Payload {
        if self.0.len() <= 1 {
            return self.0.pop().unwrap_or_default();
        }
        let pages = self.0.iter().map(Payload::blocks).sum();
        let mut buffer = pool.dirty(pages);
        let mut rest = buffer.as_mut_slice();
        for part in &self.0 {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part.as_slice());
            rest = tail;
        }
        buffer.freeze()
    }
}

impl From<Payload> for PayloadParts {
    fn from(payload: Payload) -> Self {
        let mut parts = Self::empty();
        parts.push(payload);
        parts
    }
}

impl FromIterator<Payload> for PayloadParts {
    fn from_iter<I: IntoIterator<Item = Payload>>(parts: I) -> Self {
        Self(parts.into_iter().filter(|part| !part.is_empty()).collect())
    }
}

impl PartialEq for PayloadParts {
    /// Equal bytes, however they are cut into pieces.
    fn eq(&self, other: &Self) -> bool {
        let bytes = |parts: &Self| {
            let mut all = BytesMut::with_capacity(parts.len());
            parts
                .iter()
                .for_each(|part| all.extend_from_slice(part.as_slice()));
            all
        };
        self.len() == other.len() && bytes(self) == bytes(other)
    }
}

impl Eq for PayloadParts {}

/// Tells how far the volume is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The policy holds, durably, through here.
    pub committed: Lsn,
    /// Clients were told through here.
    pub acknowledged: Lsn,
}

/// A replica's contiguous frontiers. Below what was asked for is not an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// In memory, without gaps, through here.
    pub received: Lsn,
    /// Durable in its log through here.
    pub flushed: Lsn,
    /// The extents may hold changes through here.
    pub applied: Lsn,
    /// The extents durably hold everything through here.
    pub checkpoint: Lsn,
    /// Exclusive: records above it are retained.
    pub tail: Lsn,
}

/// The replica met a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeedRecords {
    /// It holds everything through here and needs what follows.
    pub after: Lsn,
}

/// The primary stopped shipping to this replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamEnded {
    /// Why.
    pub reason: StreamEndReason,
}

/// Why a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEndReason {
    /// It held too much of the log; it takes catch-up or a delta.
    FellBehind,
    /// It answered too late.
    TooSlow,
    /// What it needs is no longer retained.
    NeedsRebuild,
    /// The session was superseded by a newer one.
    Superseded,
    /// The sender is no longer primary.
    Deposed,
    /// Both sides hold committed data that the other one lacks; both stop.
    CommittedDataMissing,
}

/// Asks for records of a member's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fetch {
    /// The records wanted.
    pub range: LsnRange,
    /// At most this many bytes of payload in one answer; at least one record comes.
    pub bytes_max: u32,
}

/// A piece of another member's log: what was asked for from its beginning, perhaps not all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// What was asked for.
    pub range: LsnRange,
    /// How it ended.
    pub outcome: FetchOutcome,
    /// How many records.
    pub count: u32,
    /// The record headers back to back.
    pub headers: Bytes,
    /// The payloads.
    pub payload: PayloadParts,
}

/// How a fetch ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FetchOutcome {
    /// The records from the range's beginning are here.
    Records = 1,
    /// The member does not retain the beginning of the range.
    NotRetained = 2,
    /// The member holds the place and cannot read it: unknown, never absent.
    Damaged = 3,
}

/// Asks for a good copy of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FetchBlock {
    /// Chosen by the asker, echoed.
    pub request: u64,
    /// The block.
    pub block: BlockIndex,
    /// The LSN at which the asker knows it last changed.
    pub lsn: Lsn,
    /// The checksum that the asker knows for it.
    pub crc: u32,
}

/// A peer's copy of one block; the asker checks it against what it knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedBlock {
    /// The request's number.
    pub request: u64,
    /// The block.
    pub block: BlockIndex,
    /// The content; `None` when the peer has no matching copy.
    pub content: Option<Payload>,
}

/// What was sent was refused and changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
}

/// Why a message was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The sender was deposed: this is the receiver's newer epoch and configuration.
    Stale {
        /// The receiver's epoch.
        epoch: Epoch,
        /// The receiver's configuration.
        config: ConfigVersion,
        /// The newest line that the receiver persisted.
        line: Option<Box<AssignmentLine>>,
    },
    /// The sender is ahead of the receiver, which asks the master.
    Ahead {
        /// The receiver's epoch.
        epoch: Epoch,
        /// The receiver's configuration.
        config: ConfigVersion,
    },
    /// The same epoch, or the same configuration of it, with another owner or content.
    Conflict {
        /// The epoch.
        epoch: Epoch,
    },
    /// The store of the sender is not the one that the receiver has recorded.
    WrongStore {
        /// The recorded one, if there is one.
        recorded: Option<StoreId>,
    },
    /// The receiver has no such volume.
    UnknownVolume,
    /// The sender has no seat in the volume.
    NotMember,
    /// The session ended or was never begun.
    WrongSession {
        /// The receiver's session, if it has one.
        session: Option<u64>,
    },
    /// The records do not follow the receiver's head.
    Gap {
        /// The receiver's head.
        head: Lsn,
    },
    /// The same LSN holds a record of another epoch at the receiver.
    Diverged {
        /// Where.
        lsn: Lsn,
    },
    /// A record does not decode or its checksum is wrong.
    Corrupt,
    /// The epoch is further ahead than a sane master mints.
    InsaneEpoch,
    /// The receiver's device failed.
    DeviceFailed,
    /// The receiver is not in a role in which it takes this message.
    WrongRole,
    /// The receiver's superblock has no room for what was given up (`CUT-6`): nothing is cut.
    GivenUpFull,
}

/// Asks a member to renew leases: one per pair of servers for all their volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The holder's clock at send, in nanoseconds; echoed. The holder counts from it.
    pub sent_ns: u64,
    /// What is to be renewed.
    pub volumes: Vec<LeaseAsked>,
}

/// One lease asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseAsked {
    /// The volume.
    pub volume: VolumeId,
    /// The holder's epoch.
    pub epoch: Epoch,
    /// The holder's configuration.
    pub config: ConfigVersion,
    /// The holder's boot.
    pub boot: BootId,
    /// How long it is to last, in milliseconds; the member counts from receipt.
    pub ttl_ms: u32,
}

/// A member's answer about leases.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// The request's `sent_ns`.
    pub sent_ns: u64,
    /// What was granted.
    pub granted: Vec<LeaseGranted>,
    /// What was not.
    pub refused: Vec<LeaseRefused>,
}

/// One lease granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseGranted {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch it is for.
    pub epoch: Epoch,
    /// The member's store.
    pub store: StoreId,
}

/// One lease refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseRefused {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch that was asked for.
    pub epoch: Epoch,
    /// Why.
    pub reason: LeaseRefusal,
}

/// Why a lease was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseRefusal {
    /// The member was shown a higher epoch, this one.
    Stale(Epoch),
    /// The member knows no such epoch and asks the master.
    Ahead(Epoch),
    /// The epoch was promised to another (server, boot).
    OtherHolder(Promised),
    /// The member restarted less than one lease ago.
    JustStarted,
    /// The member's store has no vote.
    NoVote,
    /// The member has no such volume.
    UnknownVolume,
    /// The member's device failed.
    DeviceFailed,
}

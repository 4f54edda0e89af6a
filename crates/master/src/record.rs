//! What the master keeps: one record per thing, each under a key and with a version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use moorline_types::{
    AssignmentLine, BootId, ClusterId, Epoch, MasterRun, OpenCount, Opening, ServerId, StoreId,
    VolumeId,
};
use moorline_wire::control::{EventRow, Restored, VoteState};
use serde::{Deserialize, Serialize};

/// Where a record is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// The master itself.
    Meta,
    /// A server.
    Server(ServerId),
    /// A volume.
    Volume(VolumeId),
    /// A volume's name: at most one volume has it.
    Name(String),
    /// The `seq`-th event of a volume.
    Event(VolumeId, u64),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("meta"),
            Self::Server(server) => write!(f, "server/{server}"),
            Self::Volume(volume) => write!(f, "volume/{volume}"),
            Self::Name(name) => write!(f, "name/{name}"),
            Self::Event(volume, seq) => write!(f, "event/{volume}/{seq:020}"),
        }
    }
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Under [`Key::Meta`].
    Meta(MetaRecord),
    /// Under [`Key::Server`].
    Server(ServerRecord),
    /// Under [`Key::Volume`].
    Volume(Box<VolumeRecord>),
    /// Under [`Key::Name`].
    Name(VolumeId),
    /// Under [`Key::Event`].
    Event(VolumeId, Box<EventRow>),
}

impl Value {
    /// The key that a record of this content has; `None` for a name, which does not name itself.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Meta(_) => Some(Key::Meta),
            Self::Server(server) => Some(Key::Server(server.server.clone())),
            Self::Volume(volume) => Some(Key::Volume(volume.line.volume)),
            Self::Name(_) => None,
            Self::Event(volume, row) => Some(Key::Event(*volume, row.seq)),
        }
    }
}

/// Which master this is, and which run of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MetaRecord {
    /// The cluster: made at the first start.
    pub cluster: ClusterId,
    /// Raised durably at every start before anything is said.
    pub start: u64,
    /// Which instance of the store this is: made with it, and anew whenever the store turns out to
    /// be an old copy. Stores of older programs are instance 0.
    #[serde(default)]
    pub instance: u64,
    /// The instances that it was a copy of.
    #[serde(default)]
    pub forebears: BTreeSet<u64>,
    /// Where its file was at the last start.
    #[serde(default)]
    pub home: Option<Home>,
    /// Marks a copy, with the time of its making in milliseconds since 1970; the start that finds
    /// the mark takes it away.
    #[serde(default)]
    pub copied_at_unix_ms: Option<u64>,
    /// When and why it was last found to be an old copy.
    #[serde(default)]
    pub restored: Option<Restored>,
}

impl MetaRecord {
    /// The record of a store that was never started.
    #[must_use]
    pub const fn new(cluster: ClusterId, instance: u64) -> Self {
        Self {
            cluster,
            start: 0,
            instance,
            forebears: BTreeSet::new(),
            home: None,
            copied_at_unix_ms: None,
            restored: None,
        }
    }

    /// The run that this record stands for.
    #[must_use]
    pub const fn run(&self) -> MasterRun {
        MasterRun {
            instance: self.instance,
            start: self.start,
        }
    }

    /// Whether a run is this one, or in its past.
    #[must_use]
    pub fn knows(&self, run: MasterRun) -> bool {
        match run.instance == self.instance {
            true => run.start <= self.start,
            false => self.forebears.contains(&run.instance),
        }
    }
}

/// Where a store's file is: another place is a copy, or was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Home {
    /// The file system's device number.
    pub device: u64,
    /// The file's number in it.
    pub inode: u64,
}

/// A server that registered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerRecord {
    /// The server.
    pub server: ServerId,
    /// The boot that registered last.
    pub boot: BootId,
    /// Where its replication listener is.
    pub data_addr: String,
    /// Where its control listener is.
    pub control_addr: String,
    /// Where its NBD listener is.
    pub nbd_addr: String,
    /// Raised at each change of an address.
    pub endpoint_version: u64,
    /// The program's version.
    pub version: String,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The newest line.
    pub line: AssignmentLine,
    /// Bytes for the log ring of each replica.
    pub log_bytes: u64,
    /// Where it is in its life.
    pub phase: VolumePhase,
    /// What was last seen of each seat's recorded store.
    pub seen: BTreeMap<ServerId, Seen>,
    /// The number of the last event that was given one.
    pub event_seq: u64,
    /// The instance of the store in which the line is known to be the newest. Another one than the
    /// store's: it may be old, and nobody is promoted by it (`MASTER-7`).
    #[serde(default)]
    pub instance: u64,
    /// No epoch up to this one, by its assignment part, is minted any more: a lost store may have.
    #[serde(default)]
    pub epoch_floor: u64,
    /// An operator accepted the losses of memory that epochs through this one announced.
    #[serde(default)]
    pub loss_accepted: Option<Epoch>,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumePhase {
    /// The intent is recorded; stores are being made.
    Creating {
        /// The operation.
        operation: u64,
    },
    /// Every seat's store is recorded.
    Live,
    /// What was made of it is being removed again; its name is free.
    RollingBack {
        /// The operation.
        operation: u64,
    },
    /// Its stores are being removed; its name is free.
    Deleting {
        /// The operation.
        operation: u64,
    },
}

/// What was last seen of a seat's recorded store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The store.
    pub store: StoreId,
    /// Its highest open counter.
    pub open: OpenCount,
    /// The boot that opened it then.
    pub boot: BootId,
    /// Whether it went back once: then it has no vote, however high its counter gets later.
    pub trust: Trust,
}

impl Seen {
    /// The opening.
    #[must_use]
    pub const fn opening(&self) -> Opening {
        Opening {
            open: self.open,
            boot: self.boot,
        }
    }
}

/// Whether a store was always seen to go forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It was.
    Trusted,
    /// It was not, for this reason; only another recorded store gives the seat its vote back.
    Revoked(VoteState),
}

//! What the master keeps: one record per thing, each under a key and with a version.

use std::{collections::BTreeMap, fmt};

use moorline_types::{
    AssignmentLine, BootId, ClusterId, OpenCount, Opening, ServerId, StoreId, VolumeId,
};
use moorline_wire::control::{EventRow, VoteState};
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MetaRecord {
    /// The cluster: made at the first start.
    pub cluster: ClusterId,
    /// Raised durably at every start before anything is said.
    pub start: u64,
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

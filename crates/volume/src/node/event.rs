//! Everything that the world may tell a node: facts, past tense.

use moorline_types::{BootId, ClusterId, DeviceDone, ServerId, VolumeId};
use moorline_wire::{Message, control::MasterToServer};

use crate::client::{ClientId, ClientRequest};

/// Names one store's device; made by the driver, never reused within a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceKey(u32);

impl DeviceKey {
    /// Makes a name from its number.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Names one authenticated connection to another server; never reused within a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(u64);

impl LinkId {
    /// Makes a name from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Who opened a connection. Requests go out on the one that this node opened; what came in on the
/// other is answered there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkDirection {
    /// This node asked for it with [`Action::Dial`](super::Action::Dial).
    Dialed,
    /// The other server opened it.
    Accepted,
}

/// What became of a new store's device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceCreation {
    /// It is there, locked, and `bytes` long.
    Made {
        /// Its name from here on.
        device: DeviceKey,
        /// Its size in bytes.
        bytes: u64,
    },
    /// There is no room for it.
    NoRoom {
        /// Bytes that it needs.
        need: u64,
        /// Bytes that there are.
        have: u64,
    },
    /// A file of that volume is there already.
    Exists,
    /// The operating system refused.
    Refused {
        /// As the operating system numbers it.
        errno: i32,
    },
}

/// One fact.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub enum Event {
    /// A store's device was found at start and locked.
    DeviceFound {
        /// Its name from here on.
        device: DeviceKey,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The answer to [`Action::CreateDevice`](super::Action::CreateDevice).
    DeviceCreated {
        /// The volume it was asked for.
        volume: VolumeId,
        /// What became of it.
        outcome: DeviceCreation,
    },
    /// A device operation completed.
    DeviceDone {
        /// Which device.
        device: DeviceKey,
        /// The completion.
        done: DeviceDone,
    },
    /// A connection to another server stands, both sides authenticated.
    LinkUp {
        /// Its name.
        link: LinkId,
        /// Who is at the other end.
        server: ServerId,
        /// The run of its process.
        boot: BootId,
        /// Who opened it.
        direction: LinkDirection,
    },
    /// A connection ended.
    LinkDown {
        /// Its name.
        link: LinkId,
    },
    /// A dial did not lead to a connection.
    DialFailed {
        /// Whom it was for.
        server: ServerId,
    },
    /// A message arrived.
    MessageArrived {
        /// On which connection.
        link: LinkId,
        /// The message, its payload included.
        message: Message,
    },
    /// The master knows this server and boot.
    MasterUp {
        /// The master's cluster.
        cluster: ClusterId,
    },
    /// The connection to the master ended.
    MasterDown,
    /// The master said something.
    MasterSaid(MasterToServer),
    /// A client asked for something.
    Requested(ClientRequest),
    /// A client's connection is attached to a volume; `ClientLeft` follows some day.
    ClientAttached {
        /// Which.
        client: ClientId,
        /// Its volume.
        volume: VolumeId,
    },
    /// A client's connection ended; what it asked and is not ordered yet is dropped.
    ClientLeft {
        /// Which.
        client: ClientId,
    },
    /// `next_deadline` passed.
    DeadlineReached,
    /// The operator wants a clean stop.
    StopRequested,
}

//! The mutual authentication that begins every connection.
//!
//! ```text
//! dialler   --Open{version, who, cluster, nonce}-------------------------> acceptor
//! dialler   <-Challenge{version, who, cluster, nonce, proof}-------------- acceptor
//! dialler   --Proof{proof}-----------------------------------------------> acceptor
//! dialler   <-Accepted---------------------------------------------------- acceptor
//! either    --Refused{reason}--------------------------------------------> the other
//! ```
//!
//! A proof is HMAC-SHA256 under the cluster key over a tag of its direction and everything that
//! both sides said, so neither can be reflected or replayed.

use moorline_types::{BootId, ClusterId, ServerId};
use serde::{Deserialize, Serialize};

/// The version of everything on the wire; both sides must speak the same.
pub const PROTOCOL_VERSION: u32 = 1;

/// One step of the authentication.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HelloMessage {
    /// The dialler says who it is.
    Open(HelloFacts),
    /// The acceptor says who it is and proves that it has the key.
    Challenge(HelloFacts, Option<HelloProof>),
    /// The dialler proves that it has the key.
    Proof(Option<HelloProof>),
    /// The acceptor is content.
    Accepted,
    /// One side is not; the connection ends.
    Refused(HelloRefusal),
}

/// What one side says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HelloFacts {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Who it is.
    pub who: Identity,
    /// What the connection is for; the acceptor repeats it.
    pub channel: Channel,
    /// The cluster, when it knows one.
    pub cluster: Option<ClusterId>,
    /// 32 random bytes, new for each connection.
    pub nonce: [u8; 32],
}

/// Who is at one end.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Identity {
    /// A volume server.
    Server {
        /// Its id.
        server: ServerId,
        /// This run of it.
        boot: BootId,
        /// Where its replication listener is.
        data_addr: String,
        /// Where its control listener is.
        control_addr: String,
    },
    /// The master.
    Master {
        /// This run of it.
        boot: BootId,
    },
    /// An operator's command.
    Client,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Channel {
    /// Records and acknowledgements between two servers.
    Data,
    /// Promises, leases and handshakes between two servers: never behind a long payload.
    Control,
    /// With the master.
    Master,
}

/// An HMAC-SHA256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HelloProof(pub [u8; 32]);

/// Why a connection was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum HelloRefusal {
    /// Another protocol version.
    Version {
        /// The refusing side's.
        ours: u32,
    },
    /// Another cluster.
    Cluster {
        /// The refusing side's.
        ours: ClusterId,
    },
    /// The proof is wrong: another cluster key.
    WrongKey,
    /// The refusing side has a cluster key and the other one none.
    KeyRequired,
    /// The refusing side has no cluster key and the other one has.
    NoKeyHere,
    /// The refusing side talks without a key to loopback peers only.
    NotLoopback,
    /// Somebody else was expected at this address.
    WrongPeer,
    /// Nobody of this kind, or for this channel, is served here.
    NotServed,
    /// A message that does not belong here.
    OutOfOrder,
}

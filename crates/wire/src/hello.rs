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

use std::{fmt, str::FromStr};

use hmac::{Hmac, Mac};
use moorline_types::{BootId, ClusterId, ServerId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The version of everything on the wire; both sides must speak the same.
pub const PROTOCOL_VERSION: u32 = 3;

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

/// The secret that every member of a cluster has: 256 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// Makes a key from random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key as the 64 hexadecimal digits of a key file.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

/// Text that is no cluster key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster key is 64 hexadecimal digits")]
pub struct ParseKeyError;

impl FromStr for ClusterKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseKeyError);
        }
        let mut key = [0; 32];
        for (index, byte) in key.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseKeyError)?;
        }
        Ok(Self(key))
    }
}

/// What this process proves itself with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// The cluster key.
    Key(ClusterKey),
    /// None: it talks to peers on the same machine only.
    NoneLoopbackOnly,
    /// None, and it talks to anybody (`--insecure`).
    NoneInsecure,
}

/// Where the peer is, as its socket address says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerLocality {
    /// On this machine.
    Loopback,
    /// Elsewhere.
    Remote,
}

/// Whom a dialler expects at the address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// This server.
    Server(ServerId),
    /// The master.
    Master,
}

/// Whom an acceptor serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    /// A master: servers and operators' commands, on [`Channel::Master`].
    AsMaster,
    /// A server: other servers, on this channel.
    AsServer(Channel),
}

/// What one side brings to a hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloConfig {
    /// Who this process is.
    pub who: Identity,
    /// Its cluster, when it knows one.
    pub cluster: Option<ClusterId>,
    /// 32 random bytes, new for each connection.
    pub nonce: [u8; 32],
    /// What it proves itself with.
    pub credentials: Credentials,
    /// Where the peer is.
    pub peer: PeerLocality,
}

/// Who is at the other end, proven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Who it is.
    pub who: Identity,
    /// What the connection is for.
    pub channel: Channel,
    /// Its cluster, when it knows one.
    pub cluster: Option<ClusterId>,
}

/// Why a connection came to nothing; both sides can say it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// This side refused.
    #[error("refused the peer: {0}")]
    ByUs(HelloRefusal),
    /// The other side refused.
    #[error("the peer refused: {0}")]
    ByPeer(HelloRefusal),
    /// The hello is over.
    #[error("the hello is over")]
    Over,
}

impl HelloError {
    /// Whether the two sides belong to different clusters.
    #[must_use]
    pub const fn is_of_other_cluster(&self) -> bool {
        matches!(
            self,
            Self::ByUs(HelloRefusal::Cluster { .. }) | Self::ByPeer(HelloRefusal::Cluster { .. })
        )
    }
}

impl fmt::Display for HelloRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { ours } => {
                write!(
                    f,
                    "another protocol version than {ours}: run one release everywhere"
                )
            }
            Self::Cluster { ours } => write!(f, "another cluster than {ours}"),
            Self::WrongKey => f.write_str("wrong cluster key: give both the same key file"),
            Self::KeyRequired => f.write_str("a cluster key is required: give it the key file"),
            Self::NoKeyHere => f.write_str("it has no cluster key: give it the key file"),
            Self::NotLoopback => f.write_str(
                "without a cluster key only loopback peers are served: give both a key file",
            ),
            Self::WrongPeer => f.write_str("somebody else was expected at this address"),
            Self::NotServed => f.write_str("this port serves other peers"),
            Self::OutOfOrder => f.write_str("a message out of order"),
        }
    }
}

/// What a step led to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum HelloStep {
    /// Send what was put out and wait for the peer.
    Continue,
    /// Send what was put out; the peer is who it says.
    Done(Peer),
}

#[derive(Debug)]
enum State {
    /// Acceptor: nothing heard.
    AwaitOpen(Serves),
    /// Dialler: opened.
    AwaitChallenge(Expected),
    /// Acceptor: challenged this dialler.
    AwaitProof(HelloFacts),
    /// Dialler: proved itself to this acceptor.
    AwaitAccepted(HelloFacts),
    Over,
}

/// One side's machine of the authentication.
#[derive(Debug)]
pub struct Hello {
    config: HelloConfig,
    ours: Option<HelloFacts>,
    state: State,
}

impl Hello {
    /// The dialling side; puts the first message out.
    ///
    /// # Errors
    ///
    /// When this side may not talk to such a peer at all.
    pub fn dial(
        config: HelloConfig,
        channel: Channel,
        expected: Expected,
        out: &mut Vec<HelloMessage>,
    ) -> Result<Self, HelloError> {
        check_locality(&config).map_err(HelloError::ByUs)?;
        let ours = facts(&config, channel);
        out.push(HelloMessage::Open(ours.clone()));
        Ok(Self {
            config,
            ours: Some(ours),
            state: State::AwaitChallenge(expected),
        })
    }

    /// The accepting side.
    #[must_use]
    pub const fn accept(config: HelloConfig, serves: Serves) -> Self {
        Self {
            config,
            ours: None,
            state: State::AwaitOpen(serves),
        }
    }

    /// Takes the peer's next message. What is put out is sent also when this fails: the peer is told
    /// why, and then the connection is closed.
    ///
    /// # Errors
    ///
    /// When either side refuses; the machine is then over.
    pub fn on_message(
        &mut self,
        message: HelloMessage,
        out: &mut Vec<HelloMessage>,
    ) -> Result<HelloStep, HelloError> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let step = match (state, message) {
            (State::Over, _) => return Err(HelloError::Over),
            (_, HelloMessage::Refused(reason)) => return Err(HelloError::ByPeer(reason)),
            (State::AwaitOpen(serves), HelloMessage::Open(theirs)) => {
                self.on_open(serves, theirs, out)
            }
            (State::AwaitChallenge(expected), HelloMessage::Challenge(theirs, proof)) => {
                self.on_challenge(&expected, theirs, proof, out)
            }
            (State::AwaitProof(theirs), HelloMessage::Proof(proof)) => {
                self.on_proof(theirs, proof, out)
            }
            (State::AwaitAccepted(theirs), HelloMessage::Accepted) => Ok(done(theirs)),
            (
                State::AwaitOpen(_)
                | State::AwaitChallenge(_)
                | State::AwaitProof(_)
                | State::AwaitAccepted(_),
                HelloMessage::Open(_)
                | HelloMessage::Challenge(..)
                | HelloMessage::Proof(_)
                | HelloMessage::Accepted,
            ) => Err(HelloRefusal::OutOfOrder),
        };
        step.map_err(|reason| {
            self.state = State::Over;
            out.push(HelloMessage::Refused(reason.clone()));
            HelloError::ByUs(reason)
        })
    }

    fn on_open(
        &mut self,
        serves: Serves,
        theirs: HelloFacts,
        out: &mut Vec<HelloMessage>,
    ) -> Result<HelloStep, HelloRefusal> {
        check_locality(&self.config)?;
        check_facts(&self.config, &theirs)?;
        let served = match (serves, &theirs.who) {
            (Serves::AsMaster, Identity::Server { .. } | Identity::Client) => {
                theirs.channel == Channel::Master
            }
            (Serves::AsServer(channel), Identity::Server { .. }) => theirs.channel == channel,
            (Serves::AsMaster | Serves::AsServer(_), _) => false,
        };
        if !served {
            return Err(HelloRefusal::NotServed);
        }
        let ours = facts(&self.config, theirs.channel);
        let proof = self.prove(Direction::FromAcceptor, &theirs, &ours);
        out.push(HelloMessage::Challenge(ours.clone(), proof));
        self.ours = Some(ours);
        self.state = State::AwaitProof(theirs);
        Ok(HelloStep::Continue)
    }

    fn on_challenge(
        &mut self,
        expected: &Expected,
        theirs: HelloFacts,
        proof: Option<HelloProof>,
        out: &mut Vec<HelloMessage>,
    ) -> Result<HelloStep, HelloRefusal> {
        check_facts(&self.config, &theirs)?;
        let ours = self.ours.clone().ok_or(HelloRefusal::OutOfOrder)?;
        self.verify(Direction::FromAcceptor, &ours, &theirs, proof)?;
        let right = match (expected, &theirs.who) {
            (Expected::Server(wanted), Identity::Server { server, .. }) => wanted == server,
            (Expected::Master, Identity::Master { .. }) => true,
            (Expected::Server(_) | Expected::Master, _) => false,
        };
        if !right || theirs.channel != ours.channel {
            return Err(HelloRefusal::WrongPeer);
        }
        let proof = self.prove(Direction::FromDialler, &ours, &theirs);
        out.push(HelloMessage::Proof(proof));
        self.state = State::AwaitAccepted(theirs);
        Ok(HelloStep::Continue)
    }

    fn on_proof(
        &mut self,
        theirs: HelloFacts,
        proof: Option<HelloProof>,
        out: &mut Vec<HelloMessage>,
    ) -> Result<HelloStep, HelloRefusal> {
        let ours = self.ours.clone().ok_or(HelloRefusal::OutOfOrder)?;
        self.verify(Direction::FromDialler, &theirs, &ours, proof)?;
        out.push(HelloMessage::Accepted);
        Ok(done(theirs))
    }

    fn mac(
        &self,
        from: Direction,
        dialler: &HelloFacts,
        acceptor: &HelloFacts,
    ) -> Option<HmacSha256> {
        let key = match &self.config.credentials {
            Credentials::Key(key) => key,
            Credentials::NoneLoopbackOnly | Credentials::NoneInsecure => return None,
        };
        let mut mac = HmacSha256::new_from_slice(&key.0).expect("any length of key will do");
        mac.update(match from {
            Direction::FromDialler => b"moorline hello 1 dialler",
            Direction::FromAcceptor => b"moorline hello 1 acceptor",
        });
        // Lengths in front: no two different pairs of facts give the same bytes.
        for side in [dialler, acceptor] {
            let bytes = postcard::to_stdvec(side).expect("every message type can be serialised");
            mac.update(&(bytes.len() as u64).to_le_bytes());
            mac.update(&bytes);
        }
        Some(mac)
    }

    fn prove(
        &self,
        from: Direction,
        dialler: &HelloFacts,
        acceptor: &HelloFacts,
    ) -> Option<HelloProof> {
        let mac = self.mac(from, dialler, acceptor)?;
        Some(HelloProof(mac.finalize().into_bytes().into()))
    }

    fn verify(
        &self,
        from: Direction,
        dialler: &HelloFacts,
        acceptor: &HelloFacts,
        proof: Option<HelloProof>,
    ) -> Result<(), HelloRefusal> {
        match (self.mac(from, dialler, acceptor), proof) {
            (Some(mac), Some(HelloProof(proof))) => {
                mac.verify_slice(&proof).map_err(|_| HelloRefusal::WrongKey)
            }
            (Some(_), None) => Err(HelloRefusal::KeyRequired),
            (None, Some(_)) => Err(HelloRefusal::NoKeyHere),
            (None, None) => Ok(()),
        }
    }
}

type HmacSha256 = Hmac<Sha256>;

#[derive(Clone, Copy)]
enum Direction {
    FromDialler,
    FromAcceptor,
}

fn facts(config: &HelloConfig, channel: Channel) -> HelloFacts {
    HelloFacts {
        version: PROTOCOL_VERSION,
        who: config.who.clone(),
        channel,
        cluster: config.cluster,
        nonce: config.nonce,
    }
}

fn done(theirs: HelloFacts) -> HelloStep {
    HelloStep::Done(Peer {
        who: theirs.who,
        channel: theirs.channel,
        cluster: theirs.cluster,
    })
}

fn check_locality(config: &HelloConfig) -> Result<(), HelloRefusal> {
    match (&config.credentials, config.peer) {
        (Credentials::NoneLoopbackOnly, PeerLocality::Remote) => Err(HelloRefusal::NotLoopback),
        (Credentials::NoneLoopbackOnly, PeerLocality::Loopback)
        | (Credentials::Key(_) | Credentials::NoneInsecure, _) => Ok(()),
    }
}

fn check_facts(config: &HelloConfig, theirs: &HelloFacts) -> Result<(), HelloRefusal> {
    if theirs.version != PROTOCOL_VERSION {
        return Err(HelloRefusal::Version {
            ours: PROTOCOL_VERSION,
        });
    }
    match (config.cluster, theirs.cluster) {
        (Some(ours), Some(other)) if ours != other => Err(HelloRefusal::Cluster { ours }),
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

#[cfg(test)]
mod tests;

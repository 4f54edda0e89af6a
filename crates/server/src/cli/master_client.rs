//! A client command's connection to the master.
//!
//! Blocking: a command asks one thing and waits for the answer, within a limit that covers
//! everything from the name's resolution to the last byte.

use std::{
    fmt,
    fs::{self, File},
    io::{self, IoSliceMut, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    time::{Duration, Instant},
};

use moorline_types::BufferPool;
use moorline_wire::{
    DecodeError, Decoder, Hello, Limits, Message,
    control::{ClientRequest, ClientResponse},
    encode,
    hello::{
        Channel, ClusterKey, Credentials, Expected, HelloConfig, HelloError, HelloRefusal,
        HelloStep, Identity, PeerLocality,
    },
};

use super::{
    args::HostPort,
    error::{CliError, KeyFileError},
};

/// How long a connection and its hello may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long the answer to a question may take.
pub const READ_LIMIT: Duration = Duration::from_secs(10);

/// How long a change may take: stores are made on every server, each with a log full of zeroes.
pub const CHANGE_LIMIT: Duration = Duration::from_mins(10);

/// Whom to ask, and with which proof.
#[derive(Clone, Debug)]
pub struct MasterTarget {
    /// The master's address.
    pub address: HostPort,
    /// What to prove oneself with.
    pub credentials: Credentials,
}

/// Why the master could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum MasterClientError {
    /// Nobody listens there, or the way there is closed.
    #[error("cannot reach a master at {address}")]
    Unreachable {
        /// Where.
        address: HostPort,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the master at {address} did not answer within {} s", limit.as_secs())]
    Silent {
        /// Where.
        address: HostPort,
        /// How long was waited.
        limit: Duration,
    },
    /// Who answers there does not speak this protocol.
    #[error("what answers at {address} is not a master of this release")]
    NotAMaster {
        /// Where.
        address: HostPort,
        /// What is wrong with what it says.
        #[source]
        source: Option<DecodeError>,
    },
    /// One side refused the other.
    #[error("the master at {address} and this command do not accept each other")]
    Hello {
        /// Where.
        address: HostPort,
        /// Who refused, and why.
        #[source]
        source: HelloError,
    },
    /// The connection broke.
    #[error("the connection to the master at {address} broke")]
    Broken {
        /// Where.
        address: HostPort,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The answer belongs to another question.
    #[error("the master at {address} gave an answer that does not fit the question")]
    Unexpected {
        /// Where.
        address: HostPort,
    },
}

impl MasterClientError {
    /// What the user can do about it.
    pub(crate) fn advice(&self) -> Option<String> {
        let elsewhere = "name another one with --master or MOORLINE_MASTER";
        match self {
            Self::Unreachable { .. } => Some(format!(
                "start one (`moorline dev` or `moorline master`), or {elsewhere}"
            )),
            Self::Silent { .. } => Some(format!(
                "look at the master's log; if nothing hangs there, {elsewhere}"
            )),
            Self::NotAMaster { .. } => Some(format!(
                "servers and NBD listen at addresses of their own; {elsewhere}"
            )),
            Self::Hello { source, .. } => hello_advice(source),
            Self::Broken { .. } => {
                Some("see with `moorline status` what was done, and try again".to_owned())
            }
            Self::Unexpected { .. } => Some("run one release everywhere".to_owned()),
        }
    }
}

fn hello_advice(error: &HelloError) -> Option<String> {
    let (HelloError::ByUs(refusal) | HelloError::ByPeer(refusal)) = error else {
        return None;
    };
    match refusal {
        HelloRefusal::WrongKey | HelloRefusal::KeyRequired | HelloRefusal::NoKeyHere => Some(
            "give the key file of that cluster with --cluster-key or MOORLINE_CLUSTER_KEY"
                .to_owned(),
        ),
        HelloRefusal::NotLoopback => Some(
            "give a key file with --cluster-key, or accept the risk with --insecure".to_owned(),
        ),
        HelloRefusal::WrongPeer | HelloRefusal::NotServed => {
            Some("name the master's address: servers listen at addresses of their own".to_owned())
        }
        HelloRefusal::Version { .. } | HelloRefusal::Cluster { .. } | HelloRefusal::OutOfOrder => {
            None
        }
    }
}

/// Reads a cluster key file.
///
/// # Errors
///
/// If it cannot be read or holds no key.
pub fn read_key(path: &Path) -> Result<ClusterKey, KeyFileError> {
    let text = fs::read_to_string(path).map_err(|source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    text.parse().map_err(|source| KeyFileError::NotAKey {
        path: path.to_owned(),
        source,
    })
}

/// 32 bytes that nobody can guess.
///
/// # Errors
///
/// If the system has none.
pub fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A connection to a master that accepted us.
pub struct MasterClient {
    address: HostPort,
    stream: TcpStream,
    decoder: Decoder,
    asked: u64,
}

impl fmt::Debug for MasterClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterClient({})", self.address)
    }
}

impl MasterClient {
    /// Connects and proves who both sides are.
    ///
    /// # Errors
    ///
    /// If nobody answers, somebody else does, or one side refuses.
    pub fn connect(target: &MasterTarget) -> Result<Self, MasterClientError> {
        let deadline = Deadline::within(CONNECT_LIMIT);
        let address = target.address.clone();
        let stream =
            dial(&address, deadline).map_err(|source| match is_overdue(source.kind()) {
                true => MasterClientError::Silent {
                    address: address.clone(),
                    limit: CONNECT_LIMIT,
                },
                false => MasterClientError::Unreachable {
                    address: address.clone(),
                    source,
                },
            })?;
        let mut client = Self {
            address,
            stream,
            decoder: Decoder::new(BufferPool::new(), Limits::HELLO),
            asked: 0,
        };
        client.hello(target.credentials.clone(), deadline)?;
        client.decoder.set_limits(Limits::MEMBER);
        Ok(client)
    }

    /// Asks one thing and waits for the answer for at most `limit`.
    ///
    /// # Errors
    ///
    /// If the connection or the answer fails; the connection is then of no more use.
    pub fn ask(
        &mut self,
        request: ClientRequest,
        limit: Duration,
    ) -> Result<ClientResponse, MasterClientError> {
        let deadline = Deadline::within(limit);
        self.asked += 1;
        let asked = self.asked;
        let message = Message::ClientRequest {
            id: asked,
            request: Box::new(request),
        };
        self.send(&message, deadline)?;
        match self.receive(deadline)? {
            Some(Message::ClientResponse { id, response }) if id == asked => Ok(*response),
            Some(_) => Err(MasterClientError::Unexpected {
                address: self.address.clone(),
            }),
            None => Err(self.broken(io::ErrorKind::UnexpectedEof.into(), deadline)),
        }
    }

    fn hello(
        &mut self,
        credentials: Credentials,
        deadline: Deadline,
    ) -> Result<(), MasterClientError> {
        let peer = self.stream.peer_addr().and_then(|peer| {
            let nonce = random_bytes()?;
            Ok((locality(peer.ip()), nonce))
        });
        let (peer, nonce) = peer.map_err(|source| self.broken(source, deadline))?;
        let config = HelloConfig {
            who: Identity::Client,
            cluster: None,
            nonce,
            credentials,
            peer,
        };
        let mut out = Vec::new();
        let refused = |address: &HostPort, source| MasterClientError::Hello {
            address: address.clone(),
            source,
        };
        let mut machine = Hello::dial(config, Channel::Master, Expected::Master, &mut out)
            .map_err(|source| refused(&self.address, source))?;
        loop {
            for message in out.drain(..) {
                self.send(&Message::Hello(Box::new(message)), deadline)?;
            }
            let message = match self.receive(deadline)? {
                Some(Message::Hello(message)) => *message,
                // Whoever hangs up or talks of something else here never was a master.
                Some(_) | None => {
                    return Err(MasterClientError::NotAMaster {
                        address: self.address.clone(),
                        source: None,
                    });
                }
            };
            match machine.on_message(message, &mut out) {
                Ok(HelloStep::Continue) => {}
                Ok(HelloStep::Done(_)) => return Ok(()),
                Err(source) => {
                    // The other side's log is to say why; whether it hears us changes nothing here.
                    for message in out.drain(..) {
                        let _told = self.send(&Message::Hello(Box::new(message)), deadline);
                    }
                    return Err(refused(&self.address, source));
                }
            }
        }
    }

    fn send(&mut self, message: &Message, deadline: Deadline) -> Result<(), MasterClientError> {
        let mut parts = Vec::new();
        encode(message, &mut parts).map_err(|error| {
            self.broken(io::Error::new(io::ErrorKind::InvalidInput, error), deadline)
        })?;
        let bytes: Vec<u8> = parts.concat();
        let written = self
            .stream
            .set_write_timeout(Some(deadline.left()))
            .and_then(|()| self.stream.write_all(&bytes));
        written.map_err(|source| self.broken(source, deadline))
    }

    /// The next message; `None` when the other side hung up.
    fn receive(&mut self, deadline: Deadline) -> Result<Option<Message>, MasterClientError> {
        loop {
            let next = self.decoder.next();
            match next {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(source) => {
                    return Err(MasterClientError::NotAMaster {
                        address: self.address.clone(),
                        source: Some(source),
                    });
                }
            }
            let mut spare = self.decoder.spare().map(IoSliceMut::new);
            let read = self
                .stream
                .set_read_timeout(Some(deadline.left()))
                .and_then(|()| self.stream.read_vectored(&mut spare));
            match read {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.filled(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.broken(source, deadline)),
            }
        }
    }

    fn broken(&self, source: io::Error, deadline: Deadline) -> MasterClientError {
        let address = self.address.clone();
        if is_overdue(source.kind()) {
            MasterClientError::Silent {
                address,
                limit: deadline.limit,
            }
        } else {
            MasterClientError::Broken { address, source }
        }
    }
}

fn is_overdue(kind: io::ErrorKind) -> bool {
    kind == io::ErrorKind::WouldBlock || kind == io::ErrorKind::TimedOut
}

/// Connects to the first of the host's addresses that answers.
fn dial(address: &HostPort, deadline: Deadline) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.as_str().to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, deadline.left()) {
            Ok(stream) if connected_to_itself(&stream) => {
                failed = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A local port that nobody listens on may be given to the very socket that dials it.
fn connected_to_itself(stream: &TcpStream) -> bool {
    let ends = |stream: &TcpStream| -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((stream.local_addr()?, stream.peer_addr()?))
    };
    matches!(ends(stream), Ok((ours, theirs)) if ours == theirs)
}

fn locality(peer: IpAddr) -> PeerLocality {
    if peer.to_canonical().is_loopback() {
        PeerLocality::Loopback
    } else {
        PeerLocality::Remote
    }
}

/// The end of one exchange.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn within(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// What is left, never zero: a zero time-out means none at all to a socket.
    fn left(self) -> Duration {
        self.at
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    }
}

/// Connects, asks one thing, and takes a refusal for the error it is.
///
/// # Errors
///
/// If the master cannot be asked, or refuses.
pub fn ask_once(
    target: &MasterTarget,
    request: ClientRequest,
    limit: Duration,
) -> Result<ClientResponse, CliError> {
    let response = MasterClient::connect(target)?.ask(request, limit)?;
    accepted(response)
}

/// The response, unless it is a refusal.
///
/// # Errors
///
/// The refusal.
pub fn accepted(response: ClientResponse) -> Result<ClientResponse, CliError> {
    match response {
        ClientResponse::Failed(error) => Err(CliError::Refused { error }),
        ClientResponse::Created(_)
        | ClientResponse::Volumes(_)
        | ClientResponse::Volume(_)
        | ClientResponse::Deleted { .. }
        | ClientResponse::Cluster(_)
        | ClientResponse::Events(_)
        | ClientResponse::LossAccepted { .. }
        | ClientResponse::Overruled { .. }
        | ClientResponse::Backup(_) => Ok(response),
    }
}

/// The error for a response of another kind than asked for.
#[must_use]
pub fn unexpected(target: &MasterTarget) -> CliError {
    MasterClientError::Unexpected {
        address: target.address.clone(),
    }
    .into()
}

#[cfg(test)]
mod tests;

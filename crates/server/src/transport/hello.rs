//! The authentication that begins every connection, carried over a socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use moorline_types::{BufferPool, ClusterId};
use moorline_wire::{
    DecodeError, Decoder, EncodeError, Hello, Limits, Message, encode,
    hello::{
        Channel, Credentials, Expected, HelloConfig, HelloError, HelloMessage, HelloStep, Identity,
        Peer, PeerLocality, Serves,
    },
};
use parking_lot::Mutex;
use rustix::{
    net::sockopt,
    rand::{GetRandomFlags, getrandom},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::config::{ClusterKey, Exposure};

/// How long a hello may take, the connecting included. A peer on the same network needs a
/// thousandth of it.
pub(crate) const HELLO_MAX: Duration = Duration::from_secs(3);

/// How long a peer's machine may leave what was sent without an acknowledgement, or an idle
/// connection's probe without an answer, before the connection is given up. TCP alone goes on for
/// a quarter of an hour, and after a partition heals it waits about as long again as that lasted.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(3);

/// How long a connection is idle before it is probed, and between probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name of the peer leads nowhere, or nobody listens there, or the network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no answer within {} s", HELLO_MAX.as_secs())]
    TimedOut,
    /// One side refused the other.
    #[error("{0}")]
    Refused(#[from] HelloError),
    /// What came is no message.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// Something else than a hello came.
    #[error("the peer began with another message")]
    NotHello,
    /// The peer is no server.
    #[error("the peer is not a server")]
    NotServer,
    /// A message of ours fits no frame.
    #[error("{0}")]
    Encode(#[from] EncodeError),
}

/// What this process brings to every hello.
#[derive(Debug)]
pub(crate) struct Introduction {
    who: Identity,
    credentials: Credentials,
    cluster: Mutex<Option<ClusterId>>,
    pool: BufferPool,
}

impl Introduction {
    /// As `who`, proven with `key` where there is one.
    #[must_use]
    pub(crate) fn new(
        who: Identity,
        key: Option<&ClusterKey>,
        exposure: Exposure,
        cluster: Option<ClusterId>,
        pool: BufferPool,
    ) -> Self {
        let credentials = match (key, exposure) {
            (Some(key), _) => Credentials::Key(key.clone()),
            (None, Exposure::Guarded) => Credentials::NoneLoopbackOnly,
            (None, Exposure::Insecure) => Credentials::NoneInsecure,
        };
        Self {
            who,
            credentials,
            cluster: Mutex::new(cluster),
            pool,
        }
    }

    /// The cluster that hellos name.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.lock()
    }

    /// From here on hellos name this cluster.
    pub(crate) fn set_cluster(&self, cluster: ClusterId) {
        *self.cluster.lock() = Some(cluster);
    }

    fn config(&self, peer: IpAddr) -> HelloConfig {
        HelloConfig {
            who: self.who.clone(),
            cluster: *self.cluster.lock(),
            nonce: random_bytes(),
            credentials: self.credentials.clone(),
            peer: locality(peer),
        }
    }
}

/// A connection that both sides agreed on.
#[derive(Debug)]
pub(crate) struct Connected {
    /// Its socket.
    pub(crate) stream: TcpStream,
    /// With what came behind the hello already.
    pub(crate) decoder: Decoder,
    /// Who is at the other end.
    pub(crate) peer: Peer,
}

/// Random bytes that nobody can guess.
///
/// # Panics
///
/// If the kernel has none to give, which it always has once it has started.
#[must_use]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let count =
        getrandom(&mut bytes[..], GetRandomFlags::empty()).expect("the kernel has random bytes");
    assert!(count == N, "short requests are answered whole");
    bytes
}

fn locality(peer: IpAddr) -> PeerLocality {
    if peer.to_canonical().is_loopback() {
        PeerLocality::Loopback
    } else {
        PeerLocality::Remote
    }
}

/// Connects to `address` and authenticates.
///
/// # Errors
///
/// See [`ConnectError`].
pub(crate) async fn dial(
    introduction: &Introduction,
    address: &str,
    channel: Channel,
    expected: Expected,
) -> Result<Connected, ConnectError> {
    let whole = async {
        let mut stream = TcpStream::connect(address).await?;
        prepare(&stream)?;
        let config = introduction.config(stream.peer_addr()?.ip());
        let mut decoder = Decoder::new(introduction.pool.clone(), Limits::HELLO);
        let mut out = Vec::new();
        let mut hello = Hello::dial(config, channel, expected, &mut out)?;
        let peer = talk(&mut stream, &mut decoder, &mut hello, out).await?;
        Ok(connected(stream, decoder, peer))
    };
    tokio::time::timeout(HELLO_MAX, whole)
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
}

/// Authenticates who connected.
///
/// # Errors
///
/// See [`ConnectError`].
pub(crate) async fn accept(
    introduction: &Introduction,
    mut stream: TcpStream,
    from: SocketAddr,
    serves: Serves,
) -> Result<Connected, ConnectError> {
    let whole = async {
        prepare(&stream)?;
        let config = introduction.config(from.ip());
        let mut decoder = Decoder::new(introduction.pool.clone(), Limits::HELLO);
        let mut hello = Hello::accept(config, serves);
        let peer = talk(&mut stream, &mut decoder, &mut hello, Vec::new()).await?;
        Ok(connected(stream, decoder, peer))
    };
    tokio::time::timeout(HELLO_MAX, whole)
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
}

/// Sends small frames at once, and gives up a peer that is silent.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let silent_max = u32::try_from(SILENT_MAX.as_millis()).expect("three seconds are few");
    sockopt::set_tcp_user_timeout(stream, silent_max)?;
    sockopt::set_tcp_keepidle(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

fn connected(stream: TcpStream, mut decoder: Decoder, peer: Peer) -> Connected {
    decoder.set_limits(Limits::MEMBER);
    Connected {
        stream,
        decoder,
        peer,
    }
}

async fn talk(
    stream: &mut TcpStream,
    decoder: &mut Decoder,
    hello: &mut Hello,
    mut out: Vec<HelloMessage>,
) -> Result<Peer, ConnectError> {
    loop {
        send(stream, &mut out).await?;
        let Message::Hello(message) = receive(stream, decoder).await? else {
            return Err(ConnectError::NotHello);
        };
        match hello.on_message(*message, &mut out) {
            Ok(HelloStep::Continue) => {}
            Ok(HelloStep::Done(peer)) => {
                send(stream, &mut out).await?;
                return Ok(peer);
            }
            Err(error) => {
                // The peer is told why, if it still listens.
                drop(send(stream, &mut out).await);
                return Err(error.into());
            }
        }
    }
}

async fn send(stream: &mut TcpStream, out: &mut Vec<HelloMessage>) -> Result<(), ConnectError> {
    for message in out.drain(..) {
        send_message(stream, &Message::Hello(Box::new(message))).await?;
    }
    Ok(())
}

/// Sends one message whole.
///
/// # Errors
///
/// If it fits no frame, or the connection fails.
pub(crate) async fn send_message(
    stream: &mut (impl AsyncWriteExt + Unpin),
    message: &Message,
) -> Result<(), ConnectError> {
    let mut parts = Vec::new();
    encode(message, &mut parts)?;
    for mut part in parts {
        stream.write_all_buf(&mut part).await?;
    }
    Ok(())
}

/// Receives the next message. Cancelling it loses nothing: bytes go into the decoder as they come.
///
/// # Errors
///
/// If the connection ends or fails, or what comes is no message.
pub(crate) async fn receive(
    stream: &mut (impl AsyncReadExt + Unpin),
    decoder: &mut Decoder,
) -> Result<Message, ConnectError> {
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(message);
        }
        let [payload, ahead] = decoder.spare();
        let space = if payload.is_empty() { ahead } else { payload };
        let count = stream.read(space).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        decoder.filled(count);
    }
}

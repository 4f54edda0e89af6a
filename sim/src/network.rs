//! Connections between machines: ordered, delayed, cut off, broken.
//!
//! A connection carries two streams of bytes through the real codec. A partition holds what would
//! arrive; healing lets it go on, unless the connection was broken meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use moorline_types::BufferPool;
use moorline_wire::{Decoder, Limits, Message, encode};

/// One machine: a server by its number, or the master.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Party {
    Server(usize),
    Master,
}

/// One connection of a run; numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ConnNo(pub(crate) u64);

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Dialer,
    Acceptor,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Acceptor,
            Self::Acceptor => Self::Dialer,
        }
    }
}

/// Who is at an end, and which run of its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seat {
    pub(crate) party: Party,
    pub(crate) life: u32,
}

/// One direction of a connection.
#[derive(Clone, Debug)]
struct Stream {
    bytes: VecDeque<Vec<Bytes>>,
    /// When the last message arrives: none overtakes another.
    last: u64,
    /// Arrivals that a partition holds back.
    held: usize,
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) dialer: Seat,
    pub(crate) acceptor: Seat,
    to_dialer: Stream,
    to_acceptor: Stream,
}

impl Conn {
    pub(crate) fn seat(&self, end: End) -> Seat {
        match end {
            End::Dialer => self.dialer,
            End::Acceptor => self.acceptor,
        }
    }

    fn stream(&mut self, to: End) -> &mut Stream {
        match to {
            End::Dialer => &mut self.to_dialer,
            End::Acceptor => &mut self.to_acceptor,
        }
    }
}

/// What became of an arrival.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The connection is gone.
    Nothing,
    /// A partition holds it.
    Held,
    /// Here it is.
    Message(Box<Message>),
}

/// All connections and who cannot reach whom.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    conns: BTreeMap<ConnNo, Conn>,
    made: u64,
    /// (from, to): nothing arrives that way.
    blocked: BTreeSet<(Party, Party)>,
    reader: Reader,
    pub(crate) bytes: u64,
}

/// Decodes whole frames, one at a time: between two of them it is as new.
#[derive(Debug)]
struct Reader {
    pool: BufferPool,
    decoder: Decoder,
}

impl Reader {
    fn new(pool: BufferPool) -> Self {
        let decoder = Decoder::new(pool.clone(), Limits::MEMBER);
        Self { pool, decoder }
    }
}

impl Clone for Reader {
    fn clone(&self) -> Self {
        Self::new(self.pool.clone())
    }
}

impl Network {
    pub(crate) fn new(pool: BufferPool) -> Self {
        Self {
            conns: BTreeMap::new(),
            made: 0,
            blocked: BTreeSet::new(),
            reader: Reader::new(pool),
            bytes: 0,
        }
    }

    pub(crate) fn block(&mut self, from: Party, to: Party) {
        self.blocked.insert((from, to));
    }

    pub(crate) fn unblock(&mut self, from: Party, to: Party) {
        self.blocked.remove(&(from, to));
    }

    pub(crate) fn unblock_all(&mut self) {
        self.blocked.clear();
    }

    /// Whether both directions between two machines are open.
    pub(crate) fn reaches(&self, a: Party, b: Party) -> bool {
        !self.blocked.contains(&(a, b)) && !self.blocked.contains(&(b, a))
    }

    pub(crate) fn open(&mut self, dialer: Seat, acceptor: Seat) -> ConnNo {
        self.made += 1;
        let stream = || Stream {
            bytes: VecDeque::new(),
            last: 0,
            held: 0,
        };
        let conn = Conn {
            dialer,
            acceptor,
            to_dialer: stream(),
            to_acceptor: stream(),
        };
        let number = ConnNo(self.made);
        self.conns.insert(number, conn);
        number
    }

    pub(crate) fn get(&self, conn: ConnNo) -> Option<&Conn> {
        self.conns.get(&conn)
    }

    /// Every connection with its number.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ConnNo, &Conn)> {
        self.conns.iter().map(|(number, conn)| (*number, conn))
    }

    /// Ends a connection; what was on its way is lost.
    pub(crate) fn close(&mut self, conn: ConnNo) -> Option<Conn> {
        self.conns.remove(&conn)
    }

    /// Puts a message on its way; the answer is when it arrives.
    pub(crate) fn send(
        &mut self,
        conn: ConnNo,
        to: End,
        message: &Message,
        earliest: u64,
    ) -> Option<u64> {
        let stream = self.conns.get_mut(&conn)?.stream(to);
        let mut parts = Vec::new();
        encode(message, &mut parts).expect("a node sends what a frame can carry");
        self.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        stream.bytes.push_back(parts);
        stream.last = earliest.max(stream.last + 1);
        Some(stream.last)
    }

    /// When everything sent so far will have arrived.
    pub(crate) fn drained(&self, conn: ConnNo) -> u64 {
        let streams = self.conns.get(&conn);
        streams.map_or(0, |conn| conn.to_dialer.last.max(conn.to_acceptor.last))
    }

    /// The next message of a direction arrives, if it may.
    pub(crate) fn arrive(&mut self, conn: ConnNo, to: End) -> Arrival {
        let blocked = &self.blocked;
        let Some(state) = self.conns.get_mut(&conn) else {
            return Arrival::Nothing;
        };
        let way = (state.seat(to.other()).party, state.seat(to).party);
        let held = blocked.contains(&way);
        let stream = state.stream(to);
        if held || stream.held > 0 {
            stream.held += 1;
            return Arrival::Held;
        }
        let Some(parts) = stream.bytes.pop_front() else {
            return Arrival::Nothing;
        };
        let message = decode(&mut self.reader.decoder, parts);
        Arrival::Message(Box::new(message))
    }

    /// Lets go what a partition held: for each direction, how many arrivals to schedule anew.
    pub(crate) fn release(&mut self) -> Vec<(ConnNo, End, usize)> {
        let mut released = Vec::new();
        for (number, conn) in &mut self.conns {
            for to in [End::Dialer, End::Acceptor] {
                let held = std::mem::take(&mut conn.stream(to).held);
                if held > 0 {
                    released.push((*number, to, held));
                }
            }
        }
        released
    }
}

/// Feeds a frame's bytes to the decoder as a socket would.
fn decode(decoder: &mut Decoder, parts: Vec<Bytes>) -> Message {
    let mut message = None;
    for mut part in parts {
        while !part.is_empty() {
            let mut taken = 0;
            for spare in decoder.spare() {
                let length = spare.len().min(part.len());
                spare[..length].copy_from_slice(&part[..length]);
                part = part.slice(length..);
                taken += length;
            }
            decoder.filled(taken);
            let next = decoder.next().expect("what was encoded can be decoded");
            if next.is_some() {
                message = next;
            }
        }
    }
    message.expect("a whole frame is a message")
}

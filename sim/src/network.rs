//! Connections between machines: ordered, delayed, cut off, broken.
//!
//! A connection carries two streams of bytes through the real codec. A partition holds what would
//! arrive; healing lets it go on, unless the connection was broken meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use moorline_types::BufferPool;
use moorline_wire::{DecodeError, Decoder, Limits, Message, encode};
use serde::{Deserialize, Serialize};

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

/// What happens to one frame on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Its end is missing.
    Half,
    /// One bit is another one.
    Flipped,
}

/// Frames that a connection carried last, and each way: what may be heard of it once more.
#[derive(Clone, Debug, Default)]
struct Said(VecDeque<(End, Vec<Bytes>)>);

/// Frames remembered of one connection.
const SAID_MAX: usize = 48;
/// Ended connections remembered.
const ENDED_MAX: usize = 12;

impl Said {
    fn note(&mut self, to: End, parts: &[Bytes]) {
        if self.0.len() == SAID_MAX {
            self.0.pop_front();
        }
        self.0.push_back((to, parts.to_vec()));
    }
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
    said: Said,
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
    /// It was no message: the codec refused it, or waits for the rest.
    Refused,
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
    /// Whether what connections carry is remembered.
    remembers: bool,
    /// Connections that are over, by who was at their ends.
    ended: VecDeque<((Seat, Seat), Said)>,
    /// The next frame from one party to another is damaged, where `bits` says.
    damage: BTreeMap<(Party, Party), (Damage, u64)>,
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
            remembers: false,
            ended: VecDeque::new(),
            damage: BTreeMap::new(),
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
            said: Said::default(),
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
        let mut state = self.conns.remove(&conn)?;
        if self.remembers && state.acceptor.party != Party::Master {
            let ends = (state.dialer, state.acceptor);
            let said = std::mem::take(&mut state.said);
            self.ended.retain(|(other, _)| *other != ends);
            self.ended.push_back((ends, said));
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
        Some(state)
    }

    /// From here on what connections carry can be heard once more.
    pub(crate) fn remember(&mut self) {
        self.remembers = true;
    }

    /// The next frame from one party to another is damaged.
    pub(crate) fn damage(&mut self, from: Party, to: Party, damage: Damage, bits: u64) {
        self.damage.insert((from, to), (damage, bits));
    }

    pub(crate) fn damage_nothing(&mut self) {
        self.damage.clear();
    }

    /// What the last connection between the very same processes carried, each way.
    pub(crate) fn said_before(&self, conn: ConnNo) -> Vec<(End, Vec<Bytes>)> {
        let Some(state) = self.conns.get(&conn) else {
            return Vec::new();
        };
        let ends = (state.dialer, state.acceptor);
        let before = self.ended.iter().find(|(other, _)| *other == ends);
        before.map_or_else(Vec::new, |(_, said)| said.0.iter().cloned().collect())
    }

    /// The messages that a connection carried last to one end.
    pub(crate) fn said_to(&mut self, conn: ConnNo, to: End) -> Vec<Message> {
        let Some(state) = self.conns.get(&conn) else {
            return Vec::new();
        };
        let said = state.said.0.iter().filter(|(end, _)| *end == to);
        let decoder = &mut self.reader.decoder;
        said.map(|(_, parts)| decode(decoder, parts.clone()))
            .collect()
    }

    /// Puts a message on its way; the answer is when it arrives.
    pub(crate) fn send(
        &mut self,
        conn: ConnNo,
        to: End,
        message: &Message,
        earliest: u64,
    ) -> Option<u64> {
        let mut parts = Vec::new();
        encode(message, &mut parts).expect("a node sends what a frame can carry");
        let remembers = self.remembers;
        let state = self.conns.get_mut(&conn)?;
        if remembers {
            state.said.note(to, &parts);
        }
        self.carry(conn, to, parts, earliest)
    }

    /// Puts a frame on its way, whoever wrote it; the answer is when it arrives.
    pub(crate) fn carry(
        &mut self,
        conn: ConnNo,
        to: End,
        parts: Vec<Bytes>,
        earliest: u64,
    ) -> Option<u64> {
        let stream = self.conns.get_mut(&conn)?.stream(to);
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
        if let Some((damage, bits)) = self.damage.remove(&way) {
            return self.damaged(parts, damage, bits);
        }
        let message = decode(&mut self.reader.decoder, parts);
        Arrival::Message(Box::new(message))
    }

    /// What a receiver makes of a damaged frame. Its checksums cover all but the payload, which the
    /// records' own do.
    fn damaged(&mut self, parts: Vec<Bytes>, damage: Damage, bits: u64) -> Arrival {
        let mut bytes = parts.concat();
        let place = usize::try_from(bits >> 3).unwrap_or(0) % bytes.len();
        match damage {
            Damage::Half => bytes.truncate(place),
            Damage::Flipped => bytes[place] ^= 1 << (bits & 7),
        }
        let mut decoder = Reader::new(self.reader.pool.clone()).decoder;
        match feed(&mut decoder, vec![bytes.into()]) {
            Ok(Some(message)) => Arrival::Message(Box::new(message)),
            Ok(None) | Err(_) => Arrival::Refused,
        }
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

/// Decodes a frame as it was sent.
fn decode(decoder: &mut Decoder, parts: Vec<Bytes>) -> Message {
    let message = feed(decoder, parts).expect("what was encoded can be decoded");
    message.expect("a whole frame is a message")
}

/// Feeds a frame's bytes to the decoder as a socket would.
fn feed(decoder: &mut Decoder, parts: Vec<Bytes>) -> Result<Option<Message>, DecodeError> {
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
            let next = decoder.next()?;
            if next.is_some() {
                message = next;
            }
        }
    }
    Ok(message)
}

//! Connections between machines: dialed, carried, broken.

use moorline_types::Epoch;
use moorline_volume::Event;
use moorline_wire::{Message, VolumeMessage, encode};

use super::{Address, Happens, World};
use crate::{
    faults::{Forgery, Patience},
    network::{Arrival, Conn, ConnNo, End, Party, Seat},
    plan::MS,
};

impl World {
    pub(super) fn net_delay(&mut self) -> u64 {
        let usual = self.plan.net_us * 1_000;
        let burst = if self.dice.percent(2) { 10 } else { 1 };
        self.dice.between(usual / 2, usual * 2) * burst
    }

    fn is_current(&self, seat: Seat) -> bool {
        match seat.party {
            Party::Server(index) => {
                self.hosts[index].is_up() && self.hosts[index].life == seat.life
            }
            Party::Master => self.master.is_up() && self.master.life == seat.life,
        }
    }

    pub(super) fn dialed(&mut self, host: usize, life: u32, (to, address): (usize, Address)) {
        if self.hosts[host].life != life || !self.hosts[host].is_up() {
            return;
        }
        let reaches = self.network.reaches(Party::Server(host), Party::Server(to));
        let there = address == Address::Current && self.hosts[to].is_up();
        if !reaches || !there || self.dice.percent(2) {
            let server = self.hosts[to].server.clone();
            self.tell(host, Event::DialFailed { server });
            return;
        }
        let conn = self.network.open(self.seat(host), self.seat(to));
        self.link_up(to, (conn, End::Acceptor), host);
        self.link_up(host, (conn, End::Dialer), to);
    }

    pub(super) fn send(&mut self, conn: ConnNo, to: End, message: &Message) {
        let earliest = self.now + self.net_delay();
        if let Some(at) = self.network.send(conn, to, message, earliest) {
            self.at(at, Happens::Arrives { conn, to });
        }
    }

    pub(super) fn arrives(&mut self, conn: ConnNo, to: End) {
        let Some(seat) = self.network.get(conn).map(|state| state.seat(to)) else {
            return;
        };
        if !self.is_current(seat) {
            return;
        }
        match self.network.arrive(conn, to) {
            Arrival::Nothing => {}
            Arrival::Held => {
                // Nothing comes through: in the end somebody's time-out ends the connection.
                let patience = MS * self.dice.between(500, 6_000);
                if self.patience == Patience::Usual {
                    self.after(patience, Happens::Breaks { conn });
                }
            }
            Arrival::Refused => {
                *self.counts.notes.entry("frames_refused").or_default() += 1;
                self.line(|| format!("a damaged frame ends connection {}", conn.0));
                self.break_conn(conn);
            }
            Arrival::Message(message) => self.deliver(seat, (conn, to), *message),
        }
    }

    fn deliver(&mut self, seat: Seat, (conn, to): (ConnNo, End), message: Message) {
        match (seat.party, message) {
            (Party::Master, message) => {
                self.line(|| format!("master < {}", brief(&message)));
                self.master_hears(conn, message);
            }
            (Party::Server(index), Message::MasterToServer(message)) => {
                if self.hosts[index].master == Some(conn) {
                    self.line(|| format!("s{} < master {}", index + 1, brief(&message)));
                    self.tell(index, Event::MasterSaid(*message));
                }
            }
            (Party::Server(index), message) => {
                self.line(|| format!("s{} < {}", index + 1, brief(&message)));
                self.link_message(index, (conn, to), message);
            }
        }
    }

    /// What ended connections between two processes carried arrives once more, behind what the
    /// connections that stand carry.
    pub(super) fn replay(&mut self, a: Party, b: Party) {
        for conn in self.conns_between(a, b) {
            for (to, parts) in self.network.said_before(conn) {
                let earliest = self.now + self.net_delay();
                if let Some(at) = self.network.carry(conn, to, parts, earliest) {
                    *self.counts.notes.entry("frames_replayed").or_default() += 1;
                    self.at(at, Happens::Arrives { conn, to });
                }
            }
        }
    }

    /// The last messages from one server to another arrive once more, in another epoch's name.
    pub(super) fn forge(&mut self, from: Party, to: Party, forgery: Forgery) {
        for conn in self.conns_between(from, to) {
            let Some(state) = self.network.get(conn) else {
                continue;
            };
            let end = match state.dialer.party == to {
                true => End::Dialer,
                false => End::Acceptor,
            };
            for message in self.network.said_to(conn, end) {
                let Some(forged) = forged(message, forgery) else {
                    continue;
                };
                *self.counts.notes.entry("frames_forged").or_default() += 1;
                let mut parts = Vec::new();
                encode(&forged, &mut parts).expect("as long as the one that was sent");
                let earliest = self.now + self.net_delay();
                if let Some(at) = self.network.carry(conn, end, parts, earliest) {
                    self.at(at, Happens::Arrives { conn, to: end });
                }
            }
        }
    }

    /// Ends a connection; both ends hear of it soon, unless they cannot.
    pub(super) fn break_conn(&mut self, conn: ConnNo) {
        let Some(state) = self.network.close(conn) else {
            return;
        };
        for end in [End::Dialer, End::Acceptor] {
            let seat = state.seat(end);
            let delay = self.net_delay();
            self.lost_later(conn, seat, delay);
        }
    }

    fn lost_later(&mut self, conn: ConnNo, seat: Seat, delay: u64) {
        self.after(
            delay,
            Happens::Lost {
                conn,
                party: seat.party,
                life: seat.life,
            },
        );
    }

    pub(super) fn lost(&mut self, conn: ConnNo, party: Party, life: u32) {
        if !self.is_current(Seat { party, life }) {
            return;
        }
        match party {
            Party::Master => self.master_lost(conn),
            Party::Server(index) if self.hosts[index].master == Some(conn) => {
                self.hosts[index].master = None;
                self.tell(index, Event::MasterDown);
                let delay = MS * self.dice.between(20, 200);
                self.after(delay, Happens::DialsMaster { host: index, life });
            }
            Party::Server(index) => self.link_lost(index, conn),
        }
    }

    /// All connections of a machine end. After a loss of power its peers only notice by silence.
    pub(super) fn drop_conns_of(&mut self, party: Party, silently: bool) {
        let conns: Vec<(ConnNo, Seat)> = self
            .network
            .all()
            .filter_map(|(number, conn)| other_end(conn, party).map(|seat| (number, seat)))
            .collect();
        for (number, seat) in conns {
            self.network.close(number);
            let delay = match silently {
                true => MS * self.dice.between(200, 5_000),
                false => self.net_delay(),
            };
            self.lost_later(number, seat, delay);
        }
    }

    pub(super) fn break_between(&mut self, a: Party, b: Party) {
        for conn in self.conns_between(a, b) {
            self.break_conn(conn);
        }
    }

    fn conns_between(&self, a: Party, b: Party) -> Vec<ConnNo> {
        let all = self.network.all();
        all.filter(|(_, conn)| other_end(conn, a).is_some_and(|seat| seat.party == b))
            .map(|(number, _)| number)
            .collect()
    }

    /// Lets what was held go on, now that something was unblocked.
    pub(super) fn release_held(&mut self) {
        for (conn, to, count) in self.network.release() {
            for _ in 0..count {
                let delay = self.net_delay();
                self.after(delay, Happens::Arrives { conn, to });
            }
        }
    }
}

fn other_end(conn: &Conn, party: Party) -> Option<Seat> {
    if conn.dialer.party == party {
        Some(conn.acceptor)
    } else if conn.acceptor.party == party {
        Some(conn.dialer)
    } else {
        None
    }
}

/// The same message in another epoch's name; `None` for one that names none.
fn forged(mut message: Message, forgery: Forgery) -> Option<Message> {
    let forge = |epoch: &mut Epoch| {
        let (minted, reign) = (epoch.assignment(), epoch.reign());
        *epoch = match forgery {
            Forgery::Stale => Epoch::new(minted.saturating_sub(1), reign),
            Forgery::Far => Epoch::new(minted.saturating_add(Epoch::JUMP_MAX + 1), reign),
            Forgery::NearMaximum => Epoch::new(u64::MAX - 1, reign),
            Forgery::Maximum => Epoch::new(u64::MAX, u64::MAX),
        };
    };
    match &mut message {
        Message::Volume(header, body) => {
            forge(&mut header.epoch);
            if let VolumeMessage::PromiseRequest(request) = body {
                forge(&mut request.line.epoch);
            }
        }
        Message::LeaseRequest(request) => {
            request.volumes.iter_mut().for_each(|v| forge(&mut v.epoch));
        }
        Message::LeaseGrant(grant) => {
            grant.granted.iter_mut().for_each(|v| forge(&mut v.epoch));
            grant.refused.iter_mut().for_each(|v| forge(&mut v.epoch));
        }
        Message::Hello(_)
        | Message::ServerToMaster(_)
        | Message::MasterToServer(_)
        | Message::ClientRequest { .. }
        | Message::ClientResponse { .. } => return None,
    }
    Some(message)
}

/// The beginning of a message's debug text.
fn brief(message: &impl std::fmt::Debug) -> String {
    let mut text = format!("{message:?}");
    text.truncate(text.floor_char_boundary(700));
    text
}

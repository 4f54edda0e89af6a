//! Connections to other servers: which are wanted, which stand, when to try again.

use std::{collections::BTreeMap, time::Duration};

use moorline_types::{BootId, Instant, ServerId};

use super::{Action, LinkDirection, LinkId};

/// First and longest pause between two dials of one server. A refused dial on a local network
/// costs next to nothing, and a peer that is back is wanted back at once.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_millis(800);

/// Who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    pub(crate) server: ServerId,
    pub(crate) boot: BootId,
    pub(crate) direction: LinkDirection,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Wanted {
    address: String,
    state: Dialing,
    back_off: Duration,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Dialing {
    Idle { again: Instant },
    Underway,
    Up(LinkId),
}

/// All connections of a node.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Links {
    up: BTreeMap<LinkId, Peer>,
    wanted: BTreeMap<ServerId, Wanted>,
}

impl Links {
    /// Asks for a connection to `server`; a changed address replaces the old connection.
    pub(crate) fn want(
        &mut self,
        now: Instant,
        server: &ServerId,
        address: &str,
        out: &mut Vec<Action>,
    ) {
        match self.wanted.get_mut(server) {
            Some(wanted) if wanted.address == address => {}
            Some(wanted) => {
                wanted.address = address.to_owned();
                if let Dialing::Up(link) = wanted.state {
                    out.push(Action::HangUp { link });
                }
            }
            None => {
                let wanted = Wanted {
                    address: address.to_owned(),
                    state: Dialing::Idle { again: now },
                    back_off: BACK_OFF_FIRST,
                };
                self.wanted.insert(server.clone(), wanted);
            }
        }
        self.dial_due(now, out);
    }

    /// Dials what is due.
    pub(crate) fn dial_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        for (server, wanted) in &mut self.wanted {
            if let Dialing::Idle { again } = wanted.state
                && again <= now
            {
                wanted.state = Dialing::Underway;
                let address = wanted.address.clone();
                out.push(Action::Dial {
                    server: server.clone(),
                    address,
                });
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.wanted
            .values()
            .filter_map(|wanted| match wanted.state {
                Dialing::Idle { again } => Some(again),
                Dialing::Underway | Dialing::Up(_) => None,
            })
            .min()
    }

    pub(crate) fn dial_failed(&mut self, now: Instant, server: &ServerId) {
        if let Some(wanted) = self.wanted.get_mut(server)
            && matches!(wanted.state, Dialing::Underway)
        {
            wanted.state = Dialing::Idle {
                again: now.after(wanted.back_off),
            };
            wanted.back_off = (wanted.back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Notes a connection; a second dialed one to the same server is refused.
    pub(crate) fn up(&mut self, link: LinkId, peer: Peer, out: &mut Vec<Action>) {
        if peer.direction == LinkDirection::Dialed {
            match self.wanted.get_mut(&peer.server) {
                Some(wanted) if !matches!(wanted.state, Dialing::Up(_)) => {
                    wanted.state = Dialing::Up(link);
                    wanted.back_off = BACK_OFF_FIRST;
                }
                Some(_) | None => out.push(Action::HangUp { link }),
            }
        }
        self.up.insert(link, peer);
    }

    /// Forgets a connection and says who was at its end.
    pub(crate) fn down(&mut self, now: Instant, link: LinkId) -> Option<Peer> {
        let peer = self.up.remove(&link)?;
        if let Some(wanted) = self.wanted.get_mut(&peer.server)
            && matches!(wanted.state, Dialing::Up(up) if up == link)
        {
            wanted.state = Dialing::Idle {
                again: now.after(wanted.back_off),
            };
        }
        Some(peer)
    }

    /// Who is at the end of `link`.
    pub(crate) fn peer(&self, link: LinkId) -> Option<&Peer> {
        self.up.get(&link)
    }

    /// The connections with other boots of the same server.
    pub(crate) fn of_other_boots(&self, peer: &Peer) -> Vec<LinkId> {
        let other = |known: &Peer| known.server == peer.server && known.boot != peer.boot;
        let links = self.up.iter().filter(|(_, known)| other(known));
        links.map(|(link, _)| *link).collect()
    }

    /// The standing connection that this node dialed to `server`.
    pub(crate) fn dialed(&self, server: &ServerId) -> Option<LinkId> {
        match self.wanted.get(server)?.state {
            Dialing::Up(link) => Some(link),
            Dialing::Idle { .. } | Dialing::Underway => None,
        }
    }

    /// The servers to which a dialed connection stands.
    pub(crate) fn dialed_servers(&self) -> impl Iterator<Item = (&ServerId, LinkId)> {
        self.wanted
            .iter()
            .filter_map(|(server, wanted)| match wanted.state {
                Dialing::Up(link) => Some((server, link)),
                Dialing::Idle { .. } | Dialing::Underway => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn dials(out: &[Action]) -> usize {
        out.iter()
            .filter(|action| matches!(action, Action::Dial { .. }))
            .count()
    }

    #[test]
    fn a_failed_dial_is_tried_again_later_and_later() {
        let server: ServerId = "s2".parse().unwrap();
        let (mut links, mut out) = (Links::default(), Vec::new());
        links.want(at(0), &server, "a:1", &mut out);
        links.want(at(0), &server, "a:1", &mut out);
        assert_eq!(dials(&out), 1, "one dial at a time");
        links.dial_failed(at(0), &server);
        assert_eq!(links.next_deadline(), Some(at(50)));
        links.dial_due(at(50), &mut out);
        links.dial_failed(at(50), &server);
        assert_eq!(links.next_deadline(), Some(at(150)));
    }

    #[test]
    fn a_second_dialed_connection_is_hung_up() {
        let server: ServerId = "s2".parse().unwrap();
        let (mut links, mut out) = (Links::default(), Vec::new());
        links.want(at(0), &server, "a:1", &mut out);
        out.clear();
        let peer = Peer {
            server: server.clone(),
            boot: BootId::new(1),
            direction: LinkDirection::Dialed,
        };
        links.up(LinkId::new(1), peer.clone(), &mut out);
        assert!(out.is_empty());
        assert_eq!(links.dialed(&server), Some(LinkId::new(1)));
        links.up(LinkId::new(2), peer, &mut out);
        assert!(matches!(out[..], [Action::HangUp { link }] if link == LinkId::new(2)));
        assert!(links.down(at(9), LinkId::new(2)).is_some());
        assert_eq!(
            links.dialed(&server),
            Some(LinkId::new(1)),
            "the first one still stands"
        );
    }

    #[test]
    fn only_connections_with_earlier_boots_of_the_same_server_are_dead() {
        let peer = |name: &str, boot| Peer {
            server: name.parse().unwrap(),
            boot: BootId::new(boot),
            direction: LinkDirection::Accepted,
        };
        let (mut links, mut out) = (Links::default(), Vec::new());
        links.up(LinkId::new(1), peer("s2", 1), &mut out);
        links.up(LinkId::new(2), peer("s3", 1), &mut out);
        assert_eq!(links.of_other_boots(&peer("s2", 1)), []);
        assert_eq!(links.of_other_boots(&peer("s2", 2)), [LinkId::new(1)]);
    }
}

//! Which servers a new volume's seats go to: one seat per server, the least loaded first.

use moorline_types::ServerId;

/// A server that could take a seat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// The server.
    pub server: ServerId,
    /// Seats that it has.
    pub seats: usize,
}

/// The `replicas` least loaded hosts, ascending by id; equal loads go by id. `None` when there are
/// too few.
#[must_use]
pub fn place(mut hosts: Vec<Host>, replicas: usize) -> Option<Vec<ServerId>> {
    hosts.sort_by(|a, b| (a.seats, &a.server).cmp(&(b.seats, &b.server)));
    hosts.dedup_by(|a, b| a.server == b.server);
    if hosts.len() < replicas {
        return None;
    }
    let mut chosen: Vec<ServerId> = hosts.drain(..replicas).map(|host| host.server).collect();
    chosen.sort();
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(loads: &[(&str, usize)]) -> Vec<Host> {
        loads
            .iter()
            .map(|&(server, seats)| Host {
                server: server.parse().unwrap(),
                seats,
            })
            .collect()
    }

    #[test]
    fn the_least_loaded_servers_take_the_seats() {
        for (loads, replicas, want) in [
            (
                &[("a", 2), ("b", 0), ("c", 1)][..],
                2,
                Some(&["b", "c"][..]),
            ),
            (&[("a", 1), ("b", 1), ("c", 1)], 2, Some(&["a", "b"])), // equal: by id
            (&[("a", 0)], 2, None),                                  // never two seats on one
            (&[("a", 0), ("b", 9)], 2, Some(&["a", "b"])),
        ] {
            let got = place(hosts(loads), replicas);
            let got =
                got.map(|servers| servers.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(
                got.as_deref(),
                want.map(|w| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
                    .as_deref()
            );
        }
    }
}

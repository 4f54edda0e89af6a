//! The reclaim horizon: how much of the log nobody needs any more, and who limits it. Pure.

use moorline_types::Lsn;

/// How far a connected peer is, and what keeping the log for it costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerNeed {
    /// The peer's flushed frontier: it needs every record above.
    pub flushed: Lsn,
    /// Ring bytes from the first record that it needs to the end of the log; see
    /// [`Log::bytes_after`](crate::Log::bytes_after).
    pub retained_bytes: u64,
}

/// Everything that decides how far the log may be reclaimed.
#[derive(Clone, Copy, Debug)]
pub struct ReclaimInputs<'a> {
    /// The checkpoint that the *older* valid superblock names: opening may start there.
    pub older_checkpoint: Lsn,
    /// The lowest pin; see [`PinTable::lowest`](crate::PinTable::lowest).
    pub lowest_pin: Option<Lsn>,
    /// The connected peers, in the caller's order.
    pub peers: &'a [PeerNeed],
    /// Size of the ring in bytes.
    pub capacity_bytes: u64,
}

/// What keeps the horizon from rising.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReclaimLimit {
    /// The older superblock's checkpoint.
    Checkpoint,
    /// A pin.
    Pin,
    /// A connected peer that still needs records: by its place in the inputs.
    Peer(usize),
}

/// The answer of [`reclaim_horizon`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReclaimHorizon {
    /// Records at or below may go.
    pub through: Lsn,
    /// Why not further.
    pub limited_by: ReclaimLimit,
    /// Peers that are no longer waited for, by their place in the inputs: each is to be told.
    pub given_up: Vec<usize>,
}

/// Computes the horizon: the lowest of checkpoint, pins and, while keeping the log for it costs
/// less than half of the ring, each peer's flushed frontier.
#[must_use]
pub fn reclaim_horizon(inputs: ReclaimInputs<'_>) -> ReclaimHorizon {
    let mut horizon = ReclaimHorizon {
        through: inputs.older_checkpoint,
        limited_by: ReclaimLimit::Checkpoint,
        given_up: Vec::new(),
    };
    if let Some(pin) = inputs.lowest_pin
        && pin < horizon.through
    {
        horizon.through = pin;
        horizon.limited_by = ReclaimLimit::Pin;
    }
    let hard = horizon.through;
    for (place, peer) in inputs.peers.iter().enumerate() {
        if peer.flushed >= hard {
            continue;
        }
        if peer.retained_bytes >= inputs.capacity_bytes / 2 {
            horizon.given_up.push(place);
        } else if peer.flushed < horizon.through {
            horizon.through = peer.flushed;
            horizon.limited_by = ReclaimLimit::Peer(place);
        }
    }
    horizon
}

#[cfg(test)]
mod tests {
    use super::*;

    fn horizon(pin: Option<u64>, peers: &[(u64, u64)]) -> (u64, ReclaimLimit, Vec<usize>) {
        let peers: Vec<PeerNeed> = peers
            .iter()
            .map(|&(flushed, retained_bytes)| PeerNeed {
                flushed: Lsn::new(flushed),
                retained_bytes,
            })
            .collect();
        let found = reclaim_horizon(ReclaimInputs {
            older_checkpoint: Lsn::new(50),
            lowest_pin: pin.map(Lsn::new),
            peers: &peers,
            capacity_bytes: 1000,
        });
        (found.through.get(), found.limited_by, found.given_up)
    }

    #[test]
    fn the_lowest_need_decides_and_is_named() {
        use ReclaimLimit::{Checkpoint, Peer, Pin};
        for (pin, peers, want) in [
            (None, &[][..], (50, Checkpoint, vec![])),
            (Some(60), &[], (50, Checkpoint, vec![])),
            (Some(40), &[], (40, Pin, vec![])),
            (None, &[(70, 0), (45, 100), (47, 90)], (45, Peer(1), vec![])),
            // A peer that needs half of the ring is given up; one byte less is kept for.
            (None, &[(45, 500)], (50, Checkpoint, vec![0])),
            (None, &[(45, 499)], (45, Peer(0), vec![])),
            // A pin below holds the records anyway: nobody is given up for nothing.
            (Some(40), &[(45, 900)], (40, Pin, vec![])),
        ] {
            assert_eq!(horizon(pin, peers), want, "pin {pin:?}, peers {peers:?}");
        }
    }
}

//! The commit rule: how far the volume's policy holds. Pure.
//!
//! Each seat reports two contiguous frontiers, *received* and *flushed*; a seat counts only after
//! its history was proven to be the primary's (handshake, and truncation recorded when one was
//! needed). The rule answers two questions: how far is the log **committed** (durable by policy),
//! and how far may clients be told (**acknowledgeable**).

use moorline_types::{AckPoint, Lsn, Policy};

/// Whether a seat's frontiers may count for the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It votes: its recorded store, its history proven in this epoch.
    Voter,
    /// It has a seat and no vote, or nothing it said in this epoch is proven yet.
    Silent,
}

/// Whether the configuration requires the seat for every write under `sync_all`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requirement {
    /// In the in-sync set, or about to grow into it, or about to leave and not yet recorded.
    Required,
    /// Outside: its copies count for the minimum, its silence holds up nobody.
    Optional,
}

/// One seat as the primary knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    /// Whether it counts.
    pub standing: Standing,
    /// Whether it must be waited for under `sync_all`.
    pub requirement: Requirement,
    /// Highest LSN of the contiguous prefix in its memory.
    pub received: Lsn,
    /// Highest LSN of the contiguous prefix that is durable in its log.
    pub flushed: Lsn,
}

/// What the volume asks of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitRule {
    /// How many copies.
    pub policy: Policy,
    /// What a copy must have done.
    pub ack: AckPoint,
    /// The floor of copies under `sync_all`.
    pub copies_min: usize,
    /// The epoch's mark: nothing commits in this epoch until the mark itself can.
    pub mark: Lsn,
}

/// How far the policy holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Durable by policy; `None` while the epoch's mark is not.
    pub committed: Option<Lsn>,
    /// Clients may be told; `None` while the epoch's mark is not committed.
    pub acknowledgeable: Option<Lsn>,
}

impl CommitRule {
    /// Applies the rule to the primary's own seat and all the others.
    ///
    /// `INV-COMMIT`: the answer never lies above the primary's own frontier of the same kind, and
    /// never between the promotion's committed point and the mark.
    #[must_use]
    pub fn reach(&self, own: Seat, peers: &[Seat]) -> Reach {
        let flushed = self.policy_frontier(own, peers, |seat| seat.flushed);
        let committed = flushed.filter(|&lsn| lsn >= self.mark);
        let acknowledgeable = match (committed, self.ack) {
            (None, _) => None,
            (Some(lsn), AckPoint::Flushed) => Some(lsn),
            (Some(lsn), AckPoint::Received) => self
                .policy_frontier(own, peers, |seat| seat.received.max(seat.flushed))
                .map(|received| received.max(lsn)),
        };
        Reach {
            committed,
            acknowledgeable,
        }
    }

    fn policy_frontier(
        &self,
        own: Seat,
        peers: &[Seat],
        frontier: impl Fn(&Seat) -> Lsn,
    ) -> Option<Lsn> {
        let own_frontier = frontier(&own);
        match self.policy {
            Policy::BestEffort => Some(own_frontier),
            Policy::SyncQuorum => {
                let seats = peers.len() + 1;
                let votes = votes(own, peers, &frontier);
                nth_highest(votes, majority(seats)).map(|lsn| lsn.min(own_frontier))
            }
            Policy::SyncAll => {
                let required = peers
                    .iter()
                    .filter(|s| s.requirement == Requirement::Required);
                let mut lowest = own_frontier;
                for seat in required {
                    match seat.standing {
                        Standing::Voter => lowest = lowest.min(frontier(seat)),
                        Standing::Silent => return None,
                    }
                }
                let votes = votes(own, peers, &frontier);
                nth_highest(votes, self.copies_min.max(1)).map(|floor| floor.min(lowest))
            }
        }
    }
}

/// How many of `seats` are more than half of them.
#[must_use]
pub const fn majority(seats: usize) -> usize {
    seats / 2 + 1
}

fn votes(own: Seat, peers: &[Seat], frontier: impl Fn(&Seat) -> Lsn) -> Vec<Lsn> {
    std::iter::once(&own)
        .chain(peers)
        .filter(|seat| seat.standing == Standing::Voter)
        .map(frontier)
        .collect()
}

/// The highest LSN that at least `copies` of `votes` have reached.
fn nth_highest(mut votes: Vec<Lsn>, copies: usize) -> Option<Lsn> {
    votes.sort_unstable_by(|a, b| b.cmp(a));
    votes.get(copies - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(standing: Standing, requirement: Requirement, received: u64, flushed: u64) -> Seat {
        Seat {
            standing,
            requirement,
            received: Lsn::new(received),
            flushed: Lsn::new(flushed),
        }
    }

    fn voter(flushed: u64) -> Seat {
        seat(Standing::Voter, Requirement::Required, flushed, flushed)
    }

    fn rule(policy: Policy, ack: AckPoint) -> CommitRule {
        CommitRule {
            policy,
            ack,
            copies_min: 2,
            mark: Lsn::new(5),
        }
    }

    fn committed(rule: CommitRule, own: Seat, peers: &[Seat]) -> Option<u64> {
        rule.reach(own, peers).committed.map(Lsn::get)
    }

    #[test]
    fn a_quorum_is_a_majority_of_all_seats() {
        let rule = rule(Policy::SyncQuorum, AckPoint::Flushed);
        let silent = seat(Standing::Silent, Requirement::Optional, 99, 99);
        for (own, peers, want) in [
            (voter(9), vec![voter(7), voter(6)], Some(7)),
            (voter(9), vec![voter(7), silent], Some(7)),
            // A seat without a vote counts in the size, not in the votes.
            (voter(9), vec![silent, silent], None),
            (voter(9), vec![], Some(9)),
            // Two seats: the majority is both.
            (voter(9), vec![voter(6)], Some(6)),
            // The primary's own flush is required, whatever the others have.
            (voter(6), vec![voter(9), voter(9)], Some(6)),
        ] {
            assert_eq!(committed(rule, own, &peers), want, "{own:?} {peers:?}");
        }
    }

    #[test]
    fn nothing_commits_before_the_epochs_mark() {
        let rule = rule(Policy::SyncQuorum, AckPoint::Flushed);
        assert_eq!(committed(rule, voter(9), &[voter(4), voter(4)]), None);
        assert_eq!(committed(rule, voter(9), &[voter(5), voter(4)]), Some(5));
    }

    #[test]
    fn sync_all_waits_for_the_required_and_for_the_floor() {
        let rule = rule(Policy::SyncAll, AckPoint::Flushed);
        let optional = seat(Standing::Voter, Requirement::Optional, 6, 6);
        let lost = seat(Standing::Silent, Requirement::Required, 9, 9);
        for (own, peers, want) in [
            (voter(9), vec![voter(8), voter(7)], Some(7)),
            (voter(9), vec![voter(8), optional], Some(8)),
            (voter(9), vec![voter(8), lost], None),
            // Only the primary is required; the floor of two copies still holds.
            (voter(9), vec![optional], Some(6)),
            (voter(9), vec![], None),
        ] {
            assert_eq!(committed(rule, own, &peers), want, "{peers:?}");
        }
    }

    #[test]
    fn at_received_clients_are_told_before_the_flush_and_the_mark_is_still_durable() {
        let rule = rule(Policy::SyncQuorum, AckPoint::Received);
        let own = seat(Standing::Voter, Requirement::Required, 9, 5);
        let peer = seat(Standing::Voter, Requirement::Required, 8, 5);
        let reach = rule.reach(own, &[peer, voter(0)]);
        assert_eq!(reach.committed, Some(Lsn::new(5)));
        assert_eq!(reach.acknowledgeable, Some(Lsn::new(8)));
        let early = seat(Standing::Voter, Requirement::Required, 8, 4);
        assert_eq!(rule.reach(own, &[early, voter(0)]).acknowledgeable, None);
    }

    #[test]
    fn best_effort_is_the_primarys_word() {
        let rule = rule(Policy::BestEffort, AckPoint::Flushed);
        let silent = seat(Standing::Silent, Requirement::Optional, 0, 0);
        assert_eq!(committed(rule, voter(9), &[silent]), Some(9));
    }
}

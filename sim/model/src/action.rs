//! What may happen next.
//!
//! Everything that the network or a scheduler could delay is an action of its own; what a rule makes
//! one step (a compare-and-set, a persist before an answer) is one action. A message that is lost or
//! late is an action that is not taken, or taken later. A server that is down takes no action.

use crate::Mutant;
use crate::commit::{counted_frontier, lease_live, lease_offers};
use crate::rules::holds_best;
use crate::set::Set;
use crate::state::{Replica, Role, State};
use crate::world::{MAJORITY, Policy, REPLICAS, World};

/// What a crash leaves of the records that were received and not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    /// All of them reached the device after all.
    Kept,
    /// None did.
    Lost,
}

/// One step. Numbers are replicas, as named in the state before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The master mints the next epoch for `candidate`; under `sync_all` with `keep` as in-sync set.
    Mint {
        /// Who is named.
        candidate: usize,
        /// The bits of the in-sync set that stays.
        keep: u8,
    },
    /// `member` promises `epoch`, after every lease that it granted has run out.
    Promise {
        /// Who promises.
        member: usize,
        /// What it promises; the candidate of the epoch begins by this.
        epoch: u8,
    },
    /// The promise of `member` reaches `candidate`.
    Answer {
        /// Who had promised.
        member: usize,
        /// Whose answer it is.
        candidate: usize,
    },
    /// `candidate` has enough: it cuts its log to what it has in common with the best one, or fetches the
    /// next record of that.
    Fetch {
        /// Who.
        candidate: usize,
    },
    /// `candidate` has enough and holds the best log: it appends its mark.
    Open {
        /// Who.
        candidate: usize,
    },
    /// `holder` obtains or renews a lease from the members in `granters` (bits).
    Lease {
        /// Who holds it.
        holder: usize,
        /// Who granted it, as bits.
        granters: u8,
    },
    /// A client's write is admitted and ordered.
    Write {
        /// The serving primary.
        primary: usize,
    },
    /// Everything that `member` received becomes durable.
    Flush {
        /// Whose log.
        member: usize,
    },
    /// `primary` opens a session with `member`, which cuts what diverges.
    Handshake {
        /// The leader.
        primary: usize,
        /// The replica.
        member: usize,
    },
    /// The next record reaches `member`.
    Ship {
        /// The leader.
        primary: usize,
        /// The replica.
        member: usize,
    },
    /// The flushed frontier of `member` reaches `primary`.
    Ack {
        /// The leader.
        primary: usize,
        /// The replica.
        member: usize,
    },
    /// `member` crashes and comes back as another boot.
    Restart {
        /// Who.
        member: usize,
        /// What the device kept of the unflushed records.
        tail: Tail,
    },
    /// The store of `member` is replaced by an empty one; its server comes back as another boot.
    Wipe {
        /// Whose store.
        member: usize,
    },
    /// The master records the in-sync set without `member`.
    Shrink {
        /// Who asked.
        primary: usize,
        /// Who leaves.
        member: usize,
    },
    /// `primary` learns the recorded set and stops requiring those who left.
    Learn {
        /// Who learns.
        primary: usize,
    },
    /// `primary` binds `member` to the live stream and requires it from now on.
    Join {
        /// The leader.
        primary: usize,
        /// Who joins.
        member: usize,
    },
    /// The master records the in-sync set with `member`.
    Grow {
        /// Who asked.
        primary: usize,
        /// Who becomes in sync.
        member: usize,
    },
}

pub(crate) fn enabled(world: &World, state: &State, out: &mut Vec<Action>) {
    master_actions(world, state, out);
    for member in 0..REPLICAS {
        member_actions(world, state, member, out);
        if state.replicas[member].role == Role::Candidate {
            candidate_actions(world, state, member, out);
        }
        if state.replicas[member].leads() {
            leader_actions(world, state, member, out);
        }
    }
}

fn master_actions(world: &World, state: &State, out: &mut Vec<Action>) {
    if state.master.epoch == world.epochs {
        return;
    }
    for candidate in (0..REPLICAS).filter(|&name| state.replicas[name].vote) {
        match world.policy {
            Policy::SyncQuorum => out.push(Action::Mint { candidate, keep: 0 }),
            Policy::SyncAll => {
                let in_sync = state.master.in_sync;
                // Whoever is not reachable is dropped: any subset may be reachable.
                out.extend(
                    in_sync
                        .subsets_with(candidate)
                        .filter(|&keep| !world.is(Mutant::WaitsForTheDead) || keep == in_sync)
                        .map(|keep| Action::Mint {
                            candidate,
                            keep: keep.bits(),
                        }),
                );
            }
        }
    }
}

fn member_actions(world: &World, state: &State, member: usize, out: &mut Vec<Action>) {
    let replica = &state.replicas[member];
    if replica.vote {
        for epoch in replica.promised + 1..=state.master.epoch {
            out.push(Action::Promise { member, epoch });
        }
    }
    if replica.log.flushed() < replica.log.head() {
        out.push(Action::Flush { member });
    }
    if state.ghost.restarts < world.restarts {
        out.push(Action::Restart {
            member,
            tail: Tail::Lost,
        });
        if replica.log.flushed() < replica.log.head() {
            out.push(Action::Restart {
                member,
                tail: Tail::Kept,
            });
        }
    }
    if state.ghost.wipes < world.wipes && replica.vote {
        out.push(Action::Wipe { member });
    }
}

fn candidate_actions(world: &World, state: &State, candidate: usize, out: &mut Vec<Action>) {
    let me = &state.replicas[candidate];
    for (member, other) in state.replicas.iter().enumerate() {
        let counted = world.policy == Policy::SyncQuorum || me.required.contains(member);
        let promised = other.vote && other.promised == me.promised;
        if counted && promised && !me.answers.contains(member) {
            out.push(Action::Answer { member, candidate });
        }
    }
    let enough = match world.policy {
        Policy::SyncQuorum => me.answers.len() >= MAJORITY,
        Policy::SyncAll if world.is(Mutant::WaitsForTheDead) => me.answers.covers(me.required),
        Policy::SyncAll => me.intact || me.answers.covers(me.required),
    };
    if enough && holds_best(world, state, candidate) {
        out.push(Action::Open { candidate });
    } else if enough {
        out.push(Action::Fetch { candidate });
    }
}

fn leader_actions(world: &World, state: &State, leader: usize, out: &mut Vec<Action>) {
    let me = &state.replicas[leader];
    for granters in lease_offers(world, state, leader) {
        if granters != me.lease {
            out.push(Action::Lease {
                holder: leader,
                granters: granters.bits(),
            });
        }
    }
    let serves = me.role == Role::Primary && lease_live(world, me);
    if serves && state.ghost.writes < world.writes {
        out.push(Action::Write { primary: leader });
    }
    for (member, other) in state.replicas.iter().enumerate() {
        if member != leader && other.vote && other.promised == me.promised {
            session_actions(world, me, leader, other, member, out);
        }
    }
    if world.policy == Policy::SyncAll && state.master.epoch == me.promised {
        in_sync_actions(world, state, leader, out);
    }
}

fn session_actions(
    world: &World,
    me: &Replica,
    primary: usize,
    other: &Replica,
    member: usize,
    out: &mut Vec<Action>,
) {
    if !other.aligned {
        out.push(Action::Handshake { primary, member });
    } else if other.log.head() < me.log.head() {
        out.push(Action::Ship { primary, member });
    }
    let frontier = counted_frontier(world, &other.log);
    let counts = other.aligned || world.is(Mutant::AckBeforeCut);
    if counts && me.acked[member] < frontier {
        out.push(Action::Ack { primary, member });
    }
    let joins = world.policy == Policy::SyncAll && other.aligned;
    if joins && !me.required.contains(member) {
        out.push(Action::Join { primary, member });
    }
}

fn in_sync_actions(world: &World, state: &State, primary: usize, out: &mut Vec<Action>) {
    let me = &state.replicas[primary];
    let in_sync = state.master.in_sync;
    if me.required != in_sync {
        out.push(Action::Learn { primary });
    }
    for member in (0..REPLICAS).filter(|&member| member != primary) {
        if in_sync.contains(member) {
            if in_sync.len() > usize::from(world.min_copies) {
                out.push(Action::Shrink { primary, member });
            }
        } else if me.required.contains(member) && may_grow(world, state, me, member) {
            out.push(Action::Grow { primary, member });
        }
    }
}

/// JOIN-3. The mark stands for the join point: any join point at or above it is at least as strict.
fn may_grow(world: &World, state: &State, me: &Replica, member: usize) -> bool {
    let mark = me.log.mark_of(me.promised).unwrap_or(u8::MAX);
    let committed = if me.role == Role::Primary {
        state.ghost.committed_through
    } else {
        0
    };
    let point = if world.is(Mutant::GrowBelowMark) {
        committed
    } else {
        committed.max(mark)
    };
    let granted = match world.mutant {
        Some(Mutant::GrowWithoutLease) => true,
        Some(Mutant::GrowNeedsWholeLease) => lease_live(world, me),
        _ => me.lease.contains(member),
    };
    let other = &state.replicas[member];
    me.acked[member] >= point && granted && other.vote && other.intact
}

impl Action {
    pub(crate) fn set(bits: u8) -> Set {
        (0..REPLICAS)
            .filter(|&name| bits & (1 << name) != 0)
            .fold(Set::EMPTY, Set::with)
    }
}

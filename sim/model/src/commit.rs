//! The commit rule, the lease rule, and the ghost that remembers what was committed.

use crate::Mutant;
use crate::set::Set;
use crate::state::{Replica, Role, State, Wrong};
use crate::world::{MAJORITY, Policy, REPLICAS, World};

/// The smallest sets of granters that make the lease of `holder` live (LEASE-5). A lease of a larger
/// set is live exactly when one of these is, so the model keeps only these.
pub(crate) fn lease_needs(world: &World, replica: &Replica, holder: usize) -> Vec<Set> {
    match world.policy {
        Policy::SyncQuorum => Set::ALL
            .subsets_with(holder)
            .filter(|granters| granters.len() == MAJORITY)
            .collect(),
        Policy::SyncAll => vec![lease_covers(world, replica)],
    }
}

/// Whether the lease that `replica` holds makes it serve. A dead lease is an empty set.
pub(crate) fn lease_live(world: &World, replica: &Replica) -> bool {
    match world.policy {
        Policy::SyncQuorum => replica.lease.len() >= MAJORITY,
        Policy::SyncAll => {
            !replica.lease.is_empty() && replica.lease.covers(lease_covers(world, replica))
        }
    }
}

fn lease_covers(world: &World, replica: &Replica) -> Set {
    if world.is(Mutant::GrowWithoutLease) {
        replica.required.minus(replica.joining)
    } else {
        replica.required
    }
}

/// Whether this replica could answer a read now.
pub(crate) fn serves(world: &World, replica: &Replica) -> bool {
    replica.role == Role::Primary && lease_live(world, replica)
}

/// COMMIT-3 at ack point `flushed`: the highest LSN with the copies that the policy names.
fn copies_through(world: &World, me: &Replica, leader: usize) -> u8 {
    let own = me.log.flushed();
    let frontier = |name: usize| if name == leader { own } else { me.acked[name] };
    match world.policy {
        Policy::SyncQuorum => {
            let mut frontiers: Vec<u8> = (0..REPLICAS).map(frontier).collect();
            frontiers.sort_unstable_by(|a, b| b.cmp(a));
            own.min(frontiers[MAJORITY - 1])
        }
        Policy::SyncAll => {
            if me.required.len() < usize::from(world.min_copies) {
                return 0;
            }
            me.required.iter().map(frontier).fold(own, u8::min)
        }
    }
}

/// Lets every leader commit what it can, as soon as it can. Committing early only makes the
/// properties harder to keep: what could be committed now could also be acknowledged now.
pub(crate) fn settle(world: &World, state: &mut State) {
    for leader in 0..REPLICAS {
        let me = state.replicas[leader];
        if !me.leads() {
            continue;
        }
        let mark = me.log.mark_of(me.promised).expect("a leader has its mark");
        let through = copies_through(world, &me, leader);
        if through >= mark {
            state.replicas[leader].role = Role::Primary;
        }
        if through >= mark || (world.is(Mutant::CommitBeforeMark) && through > 0) {
            commit(world, state, leader, through);
        }
        if serves(world, &state.replicas[leader]) {
            state.ghost.served = state.ghost.served.max(me.promised);
            serve(state, leader);
        }
    }
}

fn commit(world: &World, state: &mut State, leader: usize, through: u8) {
    let log = state.replicas[leader].log;
    for (at, &record) in log.records()[..usize::from(through)].iter().enumerate() {
        if at < usize::from(state.ghost.committed_through) {
            if state.ghost.committed[at] != record {
                state.note(Wrong::Lost);
            }
            continue;
        }
        let write = record.carries();
        let twice = write.is_some()
            && state.ghost.committed[..at]
                .iter()
                .any(|earlier| earlier.carries() == write);
        if record.epoch() == 0 || twice || write.is_some_and(|write| write > state.ghost.writes) {
            state.note(Wrong::Invented);
        }
        state.ghost.committed[at] = record;
        state.ghost.committed_in[at] = state.replicas[leader].promised;
    }
    if through > state.ghost.committed_through {
        state.ghost.committed_through = through;
        check_copies(world, state, leader, through);
    }
}

/// COMMIT-1: the copies exist, but for stores that were wiped after they had acknowledged.
fn check_copies(world: &World, state: &mut State, leader: usize, through: u8) {
    let me = &state.replicas[leader];
    let needed = match world.policy {
        Policy::SyncQuorum => MAJORITY,
        Policy::SyncAll => me.required.len().max(usize::from(world.min_copies)),
    };
    let prefix = &me.log.records()[..usize::from(through)];
    let copies = state
        .replicas
        .iter()
        .filter(|other| other.log.flushed() >= through && other.log.records().starts_with(prefix))
        .count();
    if copies + usize::from(state.ghost.wipes) < needed {
        state.note(Wrong::Copies);
    }
}

/// Who can serve in the highest epoch that ever served holds everything ever committed.
fn serve(state: &mut State, leader: usize) {
    let me = &state.replicas[leader];
    if me.promised < state.ghost.served {
        return; // A second server: `one server at a time` reports it.
    }
    let committed = &state.ghost.committed[..usize::from(state.ghost.committed_through)];
    if !me.log.records().starts_with(committed) {
        state.note(Wrong::Lost);
    }
}

//! The commit rule, the lease rule, and the ghost that remembers what was committed.

use crate::Mutant;
use crate::log::{Log, Record};
use crate::set::Set;
use crate::state::{Replica, Role, State, Wrong};
use crate::world::{AckPoint, LOG_MAX, MAJORITY, Policy, REPLICAS, World};

/// Whose grants `holder` may come to hold now (LEASE-1, LEASE-5).
///
/// Under `sync_quorum` only the smallest sets that make the lease live: a larger one is live exactly
/// when one of these is. Under `sync_all` all that can grant: fewer serve nothing more.
pub(crate) fn lease_offers(world: &World, state: &State, holder: usize) -> Vec<Set> {
    let me = &state.replicas[holder];
    let grants =
        |name: usize| state.replicas[name].vote && state.replicas[name].promised == me.promised;
    let willing = (0..REPLICAS)
        .filter(|&name| grants(name))
        .fold(Set::EMPTY, Set::with);
    match world.policy {
        Policy::SyncQuorum => willing
            .subsets_with(holder)
            .filter(|granters| granters.len() == MAJORITY)
            .collect(),
        Policy::SyncAll => vec![willing.and(lease_covers(world, me))],
    }
}

/// Whether the lease that `replica` holds makes it serve.
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

/// What of a log counts for the commit rule at this ack point.
pub(crate) fn counted_frontier(world: &World, log: &Log) -> u8 {
    match world.ack {
        AckPoint::Flushed if world.is(Mutant::AckBeforeFlush) => log.head(),
        AckPoint::Flushed => log.flushed(),
        AckPoint::Received => log.head(),
    }
}

/// COMMIT-3: the highest LSN with the copies that the policy names.
fn copies_through(world: &World, me: &Replica, leader: usize) -> u8 {
    let own = match world.ack {
        AckPoint::Flushed => me.log.flushed(),
        AckPoint::Received => me.log.head(),
    };
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
    let Replica { log, promised, .. } = state.replicas[leader];
    let known = &state.ghost.committed[..usize::from(state.ghost.committed_through)];
    if known.iter().any(|record| record.gives_up(promised)) {
        return; // Its part was announced as lost, and it has not heard.
    }
    for (at, &record) in log.records()[..usize::from(through)].iter().enumerate() {
        if at < usize::from(state.ghost.committed_through) {
            if state.ghost.committed[at] == record {
                continue;
            }
            if !given_up(&log, state.ghost.committed_in[at]) {
                state.note(Wrong::Lost);
                return;
            }
            // An announced loss: what was committed above is replaced by what this leader holds.
            for gone in at..LOG_MAX {
                state.ghost.committed[gone] = Record::default();
                state.ghost.committed_in[gone] = 0;
            }
            state.ghost.committed_through = u8::try_from(at).expect("a log is short");
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
        state.ghost.committed_in[at] = promised;
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
    let counts = |log: &Log| match world.ack {
        AckPoint::Flushed => log.flushed() >= through,
        AckPoint::Received => true,
    };
    let copies = state
        .replicas
        .iter()
        .filter(|other| counts(&other.log) && other.log.records().starts_with(prefix))
        .count();
    let forgotten = match world.ack {
        AckPoint::Flushed => state.ghost.wipes,
        AckPoint::Received => state.ghost.wipes + state.ghost.restarts,
    };
    if copies + usize::from(forgotten) < needed {
        state.note(Wrong::Copies);
    }
}

/// Whether this log announces that what was acknowledged in `epoch` may be lost.
pub(crate) fn given_up(log: &Log, epoch: u8) -> bool {
    log.records().iter().any(|record| record.gives_up(epoch))
}

/// Who can serve in the highest epoch that ever served holds everything ever committed.
fn serve(state: &mut State, leader: usize) {
    let me = &state.replicas[leader];
    if me.promised < state.ghost.served {
        return; // A second server: `one server at a time` reports it.
    }
    let lost = (0..usize::from(state.ghost.committed_through)).any(|at| {
        me.log.records().get(at) != Some(&state.ghost.committed[at])
            && !given_up(&me.log, state.ghost.committed_in[at])
    });
    if lost {
        state.note(Wrong::Lost);
    }
}

//! What must always hold, and what must be reachable.

use crate::commit::serves;
use crate::state::{Role, State, Wrong};
use crate::world::{Policy, World};

/// A predicate over a state of a world.
pub(crate) type Predicate = fn(&World, &State) -> bool;

/// Must hold in every state.
pub(crate) const ALWAYS: [(&str, Predicate); 8] = [
    ("committed is never lost", |_, state| {
        !state.has(Wrong::Lost)
    }),
    ("one server at a time", one_server),
    ("one boot per epoch", |_, state| !state.has(Wrong::TwoBoots)),
    ("only what was written", |_, state| {
        !state.has(Wrong::Invented)
    }),
    ("commits have their copies", |_, state| {
        !state.has(Wrong::Copies)
    }),
    ("no committed record is cut", |_, state| {
        !state.has(Wrong::Cut)
    }),
    ("one name, one record", one_name_one_record),
    ("required covers recorded", required_covers_recorded),
];

/// Must hold in some state: the protocol gets somewhere, whatever happened on the way.
pub(crate) const SOMETIMES: [(&str, Predicate); 3] = [
    ("a successor needs no answer of the old primary", successor),
    ("all converge in a later epoch", converged),
    (
        "a successor serves beside a wiped store",
        beside_a_wiped_store,
    ),
];

/// INV-8. At most one can serve, and nobody below an epoch that has served.
fn one_server(world: &World, state: &State) -> bool {
    let mut serving = state
        .replicas
        .iter()
        .filter(|replica| serves(world, replica));
    let first = serving.next();
    serving.next().is_none() && first.is_none_or(|one| one.promised >= state.ghost.served)
}

/// INV-3. What histories take for the same record is the same record.
fn one_name_one_record(_: &World, state: &State) -> bool {
    let logs = state
        .replicas
        .each_ref()
        .map(|replica| replica.log.records());
    let agree = |a: usize, b: usize| {
        logs[a]
            .iter()
            .zip(logs[b])
            .all(|(ours, theirs)| ours.epoch() != theirs.epoch() || ours == theirs)
    };
    agree(0, 1) && agree(0, 2) && agree(1, 2)
}

/// INV-16.
fn required_covers_recorded(world: &World, state: &State) -> bool {
    world.policy == Policy::SyncQuorum
        || state
            .replicas
            .iter()
            .filter(|replica| replica.leads() && replica.promised == state.master.epoch)
            .all(|replica| replica.required.covers(state.master.in_sync))
}

/// INV-18. Somebody serves while the old primary has heard of nothing.
fn successor(world: &World, state: &State) -> bool {
    state
        .replicas
        .iter()
        .filter(|replica| serves(world, replica))
        .any(|new| {
            let deaf = |old: &crate::state::Replica| {
                old.role == Role::Primary && old.promised < new.promised
            };
            state.replicas.iter().any(deaf)
        })
}

/// All writes are in, committed, and on every store that has a vote.
pub(crate) fn converged(world: &World, state: &State) -> bool {
    let newest = state.master.epoch;
    state.ghost.writes == world.writes
        && newest > 1
        && state.replicas.iter().any(|primary| {
            serves(world, primary)
                && primary.promised == newest
                && primary.log.head() == state.ghost.committed_through
                && state
                    .replicas
                    .iter()
                    .all(|other| !other.vote || other.log == primary.log)
        })
}

fn beside_a_wiped_store(world: &World, state: &State) -> bool {
    world.wipes == 0
        || (state.replicas.iter().any(|replica| !replica.vote)
            && state
                .replicas
                .iter()
                .any(|replica| serves(world, replica) && replica.promised > 1))
}

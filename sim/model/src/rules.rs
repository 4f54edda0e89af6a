//! What happens at each step.

use crate::Mutant;
use crate::action::{Action, Tail};
use crate::commit::{counted_frontier, given_up, settle};
use crate::log::{Log, Record};
use crate::set::Set;
use crate::state::{Replica, Role, State, Wrong};
use crate::world::{AckPoint, MAJORITY, Policy, REPLICAS, World};

/// The state after `action`, which was enabled in `before`.
pub(crate) fn step(world: &World, before: &State, action: Action) -> State {
    let mut state = before.clone();
    match action {
        Action::Mint { candidate, keep } => mint(&mut state, candidate, Action::set(keep)),
        Action::Promise { member, epoch } => promise(world, &mut state, member, epoch),
        Action::Answer { member, candidate } => {
            let me = &mut state.replicas[candidate];
            me.answers = me.answers.with(member);
        }
        Action::Fetch { candidate } => fetch(world, &mut state, candidate),
        Action::Open { candidate } => open(world, &mut state, candidate),
        Action::Lease { holder, granters } => {
            state.replicas[holder].lease = Action::set(granters);
        }
        Action::Write { primary } => {
            state.ghost.writes += 1;
            let epoch = state.replicas[primary].promised;
            let record = Record::write(epoch, state.ghost.writes);
            state.replicas[primary].log.append(record);
        }
        Action::Flush { member } => state.replicas[member].log.flush(),
        Action::Handshake { primary, member } => {
            let leading = state.replicas[primary].log;
            let cuts =
                leading.common(&state.replicas[member].log) < state.replicas[member].log.head();
            if cuts && given_up(&leading, 0) && !world.is(Mutant::CutsWithoutEvidence) {
                state.replicas[member].gave_up = true;
            }
            cut(&mut state, member, &leading);
            state.replicas[member].aligned = true;
            note_caught_up(&mut state, primary, member);
        }
        Action::Ship { primary, member } => {
            let head = usize::from(state.replicas[member].log.head());
            let record = state.replicas[primary].log.records()[head];
            state.replicas[member].log.append(record);
            note_caught_up(&mut state, primary, member);
        }
        Action::Ack { primary, member } => {
            let frontier = counted_frontier(world, &state.replicas[member].log);
            state.replicas[primary].acked[member] = frontier;
        }
        Action::Restart { member, tail } => restart(world, &mut state, member, tail),
        Action::Wipe { member } => wipe(world, &mut state, member),
        Action::Shrink { primary, member } => shrink(world, &mut state, primary, member),
        Action::Learn { primary } => {
            state.replicas[primary].required = state.master.in_sync;
            state.replicas[primary].joining = Set::EMPTY;
        }
        Action::Join { primary, member } => {
            let me = &mut state.replicas[primary];
            me.required = me.required.with(member);
            if world.is(Mutant::GrowWithoutLease) {
                me.joining = me.joining.with(member);
            }
        }
        Action::Grow { member, .. } => state.master.in_sync = state.master.in_sync.with(member),
    }
    settle(world, &mut state);
    state.canonical()
}

/// MASTER-1: one compare-and-set names the candidate and drops who is not reachable.
fn mint(state: &mut State, candidate: usize, keep: Set) {
    state.master.epoch += 1;
    state.master.in_sync = keep;
    let reign = &mut state.master.reigns[usize::from(state.master.epoch)];
    reign.candidate = Some(u8::try_from(candidate).expect("three replicas"));
    reign.in_sync = keep;
}

/// PROM-1, PROM-2, LEASE-3: time passes until every lease that the member granted is over, which its
/// holder knows first; then the promise is durable. The epoch's own candidate begins with this.
fn promise(world: &World, state: &mut State, member: usize, epoch: u8) {
    let forgot = world.is(Mutant::NoSilenceAfterRestart) && state.replicas[member].forgot;
    if !world.is(Mutant::LeaseWithoutPromise) && !forgot {
        for holder in &mut state.replicas {
            if holder.lease.contains(member) {
                holder.lease = match world.policy {
                    Policy::SyncQuorum => Set::EMPTY, // What is left is no majority.
                    Policy::SyncAll => holder.lease.without(member),
                };
            }
        }
    }
    let reign = &mut state.master.reigns[usize::from(epoch)];
    let mut begins = None;
    if reign.candidate.map(usize::from) == Some(member) {
        begins = Some(reign.in_sync);
        reign.candidate = None;
        reign.in_sync = Set::EMPTY;
    }
    let me = &mut state.replicas[member];
    if world.is(Mutant::LongestByPromised) {
        me.promised_before = me.promised;
    }
    me.promised = epoch;
    me.log.flush();
    me.forget_volatile();
    if let Some(in_sync) = begins {
        me.role = Role::Candidate;
        me.answers = Set::EMPTY.with(member);
        me.required = in_sync;
    }
}

/// PROM-6: one step towards the best log. What is given up is noted durably before the cut (CUT-6).
fn fetch(world: &World, state: &mut State, candidate: usize) {
    let answers = state.replicas[candidate].answers;
    let best = state.replicas[best_answer(world, state, answers, candidate)].log;
    let me = state.replicas[candidate];
    let common = me.log.common(&best);
    if common == me.log.head() {
        let record = best.records()[usize::from(common)];
        let me = &mut state.replicas[candidate];
        me.log.append(record);
        me.log.flush();
        me.gave_up &= !record.gives_up(0);
        return;
    }
    let mut leading = best;
    if memory_may_be_lost(world, state, answers, &best) {
        leading.append(Record::mark_of_loss(me.promised));
    }
    if given_up(&leading, 0) {
        state.replicas[candidate].gave_up |= !world.is(Mutant::CutsWithoutEvidence);
    }
    cut(state, candidate, &leading);
}

/// Whether the candidate's log is the best among its answers.
pub(crate) fn holds_best(world: &World, state: &State, candidate: usize) -> bool {
    let me = &state.replicas[candidate];
    let best = &state.replicas[best_answer(world, state, me.answers, candidate)].log;
    me.log.records() == best.records()
}

/// PROM-9: the mark.
fn open(world: &World, state: &mut State, candidate: usize) {
    let answers = state.replicas[candidate].answers;
    let loss = memory_may_be_lost(world, state, answers, &state.replicas[candidate].log);
    let me = &mut state.replicas[candidate];
    let mark = if loss {
        Record::mark_of_loss(me.promised)
    } else {
        Record::mark(me.promised)
    };
    me.log.append(mark);
    me.gave_up = false;
    me.intact = true;
    me.role = Role::Opening;
    me.answers = Set::EMPTY;
}

/// PROM-12: it is certain that nothing acknowledged is lost only if the answers whose memory is intact
/// meet every set that could have acknowledged a record. PROM-13: what an answer was told was given up
/// is announced again, unless the best log does it.
fn memory_may_be_lost(world: &World, state: &State, answers: Set, best: &Log) -> bool {
    let intact = answers
        .iter()
        .filter(|&name| state.replicas[name].intact)
        .count();
    let meets = match world.policy {
        Policy::SyncQuorum => intact >= MAJORITY,
        Policy::SyncAll => intact > 0,
    };
    let gave_up = answers.iter().any(|name| state.replicas[name].gave_up);
    let lost = world.ack == AckPoint::Received && !meets && !world.is(Mutant::IgnoresLostMemory);
    lost || (gave_up && !given_up(best, 0))
}

/// PROM-12: a member that holds all that its leader holds is as good as one that never restarted.
fn note_caught_up(state: &mut State, primary: usize, member: usize) {
    let all = state.replicas[primary].log.head();
    let me = &mut state.replicas[member];
    if me.log.head() == all {
        me.intact = true;
        me.gave_up = false;
    }
}

fn best_answer(world: &World, state: &State, answers: Set, candidate: usize) -> usize {
    let rank = |name: usize| {
        let replica = &state.replicas[name];
        let epoch = if world.is(Mutant::LongestByPromised) {
            replica.promised_before
        } else {
            replica.log.last_epoch()
        };
        (epoch, replica.log.head(), name == candidate)
    };
    answers
        .iter()
        .max_by_key(|&name| rank(name))
        .unwrap_or(candidate)
}

/// CUT-2, and the alarm of CUT-3 as seen by one who knows all that was committed.
///
/// Only what was committed up to the epoch of the cut counts. Under `sync_all` a leader that was
/// deposed without knowing may still cut, from a replica outside the newer set, a copy of what the
/// newer epoch committed: nobody counted that copy, and nobody told that replica it was committed.
fn cut(state: &mut State, member: usize, leading: &Log) {
    let through = state.replicas[member].log.common(leading);
    let epoch = state.replicas[member].promised;
    let committed = &state.ghost.committed[..usize::from(state.ghost.committed_through)];
    let lost = state.replicas[member]
        .log
        .records()
        .iter()
        .zip(committed)
        .zip(state.ghost.committed_in)
        .skip(usize::from(through))
        .any(|((record, committed), by)| {
            record == committed && by <= epoch && !given_up(leading, by)
        });
    if lost {
        state.note(Wrong::Cut);
    }
    state.replicas[member].log.cut(through);
}

/// A crash and a return. EPOCH-2: another boot leads nothing, and epochs minted for the one before are void.
fn restart(world: &World, state: &mut State, member: usize, tail: Tail) {
    state.ghost.restarts += 1;
    let granted =
        (0..REPLICAS).any(|name| name != member && state.replicas[name].lease.contains(member));
    let me = &mut state.replicas[member];
    match tail {
        Tail::Kept => me.log.flush(),
        Tail::Lost => me.log.cut(me.log.flushed()),
    }
    let before = *me;
    me.forget_volatile();
    me.intact = world.ack == AckPoint::Flushed;
    if world.is(Mutant::NoSilenceAfterRestart) {
        me.forgot |= granted;
    }
    if world.is(Mutant::PromiseNotDurable) {
        me.promised = me.log.last_epoch();
    }
    let keeps = world.is(Mutant::RestartKeepsEpoch) && before.leads();
    if keeps && before.log.mark_of(before.promised).is_some() {
        me.role = before.role;
        me.required = before.required;
        state.note(Wrong::TwoBoots);
    }
    void_reigns(state, member);
}

fn void_reigns(state: &mut State, member: usize) {
    for reign in &mut state.master.reigns {
        if reign.candidate.map(usize::from) == Some(member) {
            reign.candidate = None;
            reign.in_sync = Set::EMPTY;
        }
    }
}

/// VOTE-1: an empty store under an old name. Who had answered a candidate with the only best log
/// cannot give it any more: that answer is void. A worse answer stands, as facts do.
fn wipe(world: &World, state: &mut State, member: usize) {
    state.ghost.wipes += 1;
    for candidate in 0..REPLICAS {
        let answers = state.replicas[candidate].answers;
        if candidate != member && answers.contains(member) {
            let rank = |log: &Log| (log.last_epoch(), log.head());
            let others = answers.without(member).iter();
            let best = others.map(|name| rank(&state.replicas[name].log)).max();
            if Some(rank(&state.replicas[member].log)) > best {
                state.replicas[candidate].answers = answers.without(member);
            }
        }
    }
    let me = &mut state.replicas[member];
    me.forget_volatile();
    *me = Replica {
        log: Log::EMPTY,
        promised: 0,
        promised_before: 0,
        vote: world.is(Mutant::WipedStoreVotes),
        ..*me
    };
    void_reigns(state, member);
}

/// JOIN-5: recorded first; the primary goes on requiring until it learns.
fn shrink(world: &World, state: &mut State, primary: usize, member: usize) {
    debug_assert_eq!(world.policy, Policy::SyncAll);
    if world.is(Mutant::ShrinkBeforeRecord) {
        let me = &mut state.replicas[primary];
        me.required = me.required.without(member);
    } else {
        state.master.in_sync = state.master.in_sync.without(member);
    }
}

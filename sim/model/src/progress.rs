//! Whether the protocol can be wedged: a check that stateright's properties cannot express.
//!
//! From **every** reachable state in which the newest epoch has a leader, or the master can still mint
//! one, and in which the data still exists on a store that may lead, the volume must be able to get back to work with all voting
//! stores alike, **without any further fault**. `sometimes` says that this happens somewhere; here it is
//! shown to be possible from everywhere, by walking the graph of states backwards from the goal.

use crate::action::{Action, enabled};
use crate::properties::converged;
use crate::rules::step;
use crate::state::{Replica, State};
use crate::world::{Policy, World};
use std::collections::HashMap;
use std::fmt;

/// What the walk found.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Distinct states, up to renaming of replicas.
    pub states: usize,
    /// How many of them had to be able to recover.
    pub obliged: usize,
    /// One that cannot, as text; `None` is what is wanted.
    pub wedged: Option<String>,
}

/// Explores all of `world`, which must be small: every state and every edge is kept.
///
/// # Panics
///
/// If the world has 2^32 states or more.
#[must_use]
pub fn progress(world: World) -> Progress {
    let mut states = vec![State::initial(&world)];
    let mut numbers = HashMap::from([(states[0].clone(), 0_u32)]);
    let mut edges: Vec<(u32, u32)> = Vec::new(); // (to, from), of steps that are no faults
    let mut actions = Vec::new();
    let mut at = 0;
    while at < states.len() {
        let from = u32::try_from(at).expect("the world is small");
        let state = states[at].clone();
        enabled(&world, &state, &mut actions);
        for action in actions.drain(..) {
            let after = step(&world, &state, action);
            let next = u32::try_from(states.len()).expect("the world is small");
            let to = *numbers.entry(after.clone()).or_insert(next);
            if to == next {
                states.push(after);
            }
            if !is_fault(action) && to != from {
                edges.push((to, from));
            }
        }
        at += 1;
    }
    edges.sort_unstable();
    let recovers = backwards(&world, &states, &edges);
    let obliged = |state: &State| is_obliged(&world, state);
    let wedged = states
        .iter()
        .zip(&recovers)
        .find(|(state, recovers)| !**recovers && obliged(state));
    Progress {
        states: states.len(),
        obliged: states.iter().filter(|state| obliged(state)).count(),
        wedged: wedged.map(|(state, _)| format!("{state:?}")),
    }
}

fn is_fault(action: Action) -> bool {
    matches!(action, Action::Restart { .. } | Action::Wipe { .. })
}

/// Marks every state from which the goal can be reached.
fn backwards(world: &World, states: &[State], edges: &[(u32, u32)]) -> Vec<bool> {
    let mut marked: Vec<bool> = states.iter().map(|state| converged(world, state)).collect();
    let mut pending: Vec<usize> = (0..states.len()).filter(|&at| marked[at]).collect();
    while let Some(to) = pending.pop() {
        let first = edges.partition_point(|edge| (edge.0 as usize) < to);
        for &(_, from) in edges[first..]
            .iter()
            .take_while(|edge| edge.0 as usize == to)
        {
            let from = from as usize;
            if !marked[from] {
                marked[from] = true;
                pending.push(from);
            }
        }
    }
    marked
}

/// The bounds of the model, and the loss of everything, are no wedges of the protocol.
fn is_obliged(world: &World, state: &State) -> bool {
    let voters = state.replicas.iter().filter(|replica| replica.vote).count();
    let data = match world.policy {
        Policy::SyncQuorum => voters >= crate::world::MAJORITY,
        Policy::SyncAll => {
            voters >= usize::from(world.min_copies)
                && state
                    .master
                    .in_sync
                    .iter()
                    .any(|name| state.replicas[name].vote)
        }
    };
    let newest = state.master.epoch;
    let leads = |replica: &Replica| replica.leads() && replica.promised == newest;
    data && (newest < world.epochs || state.replicas.iter().any(leads))
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(state) = &self.wedged {
            writeln!(f, "WEDGED:\n{state}")?;
        }
        let verdict = if self.wedged.is_some() {
            "wedged"
        } else {
            "recovery is possible from all"
        };
        writeln!(
            f,
            "{} states, {} obliged: {verdict}",
            self.states, self.obliged
        )
    }
}

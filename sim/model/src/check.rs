//! Runs the checker within limits, and makes a report that a person can read.

use crate::action::{Action, enabled};
use crate::properties::{ALWAYS, SOMETIMES};
use crate::rules::step;
use crate::state::{State, Wrong};
use crate::world::World;
use stateright::{Checker, HasDiscoveries, Model};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The name of a property, as `docs/invariants.md` quotes it.
pub type Property = &'static str;

/// How to search, and how far.
#[derive(Clone, Debug)]
pub struct Search {
    /// Worker threads; at least 1.
    pub threads: usize,
    /// Stop, and say so, after this long.
    pub time_max: Duration,
    /// Stop, and say so, at this many distinct states: what bounds the memory.
    pub states_max: usize,
    /// Stop once all of these are violated; empty means the first violation of any.
    pub until: Vec<Property>,
    /// Breadth first finds the shortest counterexample; depth first needs a fraction of the memory.
    pub depth_first: bool,
    /// Say how far it is, every ten seconds, on standard error.
    pub progress: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            threads: 2,
            time_max: Duration::from_secs(3600),
            states_max: usize::MAX,
            until: Vec::new(),
            depth_first: false,
            progress: false,
        }
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was explored.
    pub world: World,
    /// Distinct states, up to renaming of replicas.
    pub states: usize,
    /// States generated, repetitions included.
    pub generated: usize,
    /// The longest path from the first state.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether every reachable state was seen.
    pub complete: bool,
    /// Properties that do not hold, with a way to get there: each step, and the state after it.
    pub violations: Vec<(Property, String)>,
    /// Properties that hold nowhere, though they should somewhere.
    pub unreached: Vec<Property>,
}

impl Report {
    /// Whether all of the world was explored and nothing is wrong with it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.complete && self.violations.is_empty() && self.unreached.is_empty()
    }

    /// Whether this property was found violated, or never reached.
    #[must_use]
    pub fn fails(&self, property: &str) -> bool {
        self.violations.iter().any(|(name, _)| *name == property)
            || (self.complete && self.unreached.contains(&property))
    }
}

struct Protocol {
    world: World,
    /// Set to end the search early: from then on nothing is enabled.
    stopped: Arc<AtomicBool>,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::initial(&self.world)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What follows a loss is of no interest; other violations may be the way to one.
        if !state.has(Wrong::Lost) && !self.stopped.load(Ordering::Relaxed) {
            enabled(&self.world, state, actions);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let after = step(&self.world, before, action);
        (after != *before).then_some(after)
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        let mut all = Vec::new();
        always::<0>(&mut all);
        always::<1>(&mut all);
        always::<2>(&mut all);
        always::<3>(&mut all);
        always::<4>(&mut all);
        always::<5>(&mut all);
        always::<6>(&mut all);
        always::<7>(&mut all);
        sometimes::<0>(&mut all);
        sometimes::<1>(&mut all);
        sometimes::<2>(&mut all);
        all
    }
}

/// The checker takes plain functions, so the index into the table is part of the function's type.
fn always<const AT: usize>(all: &mut Vec<stateright::Property<Protocol>>) {
    let (name, _) = ALWAYS[AT];
    all.push(stateright::Property::always(name, |model, state| {
        (ALWAYS[AT].1)(&model.world, state)
    }));
}

fn sometimes<const AT: usize>(all: &mut Vec<stateright::Property<Protocol>>) {
    let (name, _) = SOMETIMES[AT];
    all.push(stateright::Property::sometimes(name, |model, state| {
        (SOMETIMES[AT].1)(&model.world, state)
    }));
}

/// Explores `world`.
#[must_use]
pub fn check(world: World, search: &Search) -> Report {
    let stopped = Arc::new(AtomicBool::new(false));
    let model = Protocol {
        world,
        stopped: Arc::clone(&stopped),
    };
    let until = if search.until.is_empty() {
        HasDiscoveries::AnyFailures
    } else {
        HasDiscoveries::AllOf(search.until.iter().copied().collect())
    };
    let builder = model.checker().threads(search.threads).finish_when(until);
    if search.depth_first {
        run(world, search, &stopped, builder.spawn_dfs())
    } else {
        run(world, search, &stopped, builder.spawn_bfs())
    }
}

fn run(
    world: World,
    search: &Search,
    stopped: &AtomicBool,
    checker: impl Checker<Protocol>,
) -> Report {
    let started = Instant::now();
    let mut said = started;
    while !checker.is_done() {
        let states = checker.unique_state_count();
        if started.elapsed() >= search.time_max || states >= search.states_max {
            stopped.store(true, Ordering::Relaxed);
        }
        if search.progress && said.elapsed() >= Duration::from_secs(10) {
            said = Instant::now();
            let seconds = started.elapsed().as_secs();
            eprintln!(
                "  {seconds} s: {states} states, depth {}",
                checker.max_depth()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let checker = checker.join();
    let ended_early = stopped.swap(false, Ordering::Relaxed);
    let elapsed = started.elapsed();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(name, path)| (path.clone().into_actions().len(), *name));
    let reached: Vec<Property> = found.iter().map(|(name, _)| *name).collect();
    let violations: Vec<_> = found
        .into_iter()
        .filter(|(name, _)| ALWAYS.iter().any(|(always, _)| always == name))
        .map(|(name, path)| (name, trace(path.into_vec())))
        .collect();
    let unreached = SOMETIMES.map(|(name, _)| name).into_iter();
    Report {
        world,
        states: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth(),
        elapsed,
        complete: !ended_early && violations.is_empty(),
        violations,
        unreached: unreached.filter(|name| !reached.contains(name)).collect(),
    }
}

/// Replicas may be renamed from one state to the next: an action names them as the state before it does.
fn trace(path: Vec<(State, Option<Action>)>) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    for (at, (state, action)) in path.into_iter().enumerate() {
        writeln!(text, "{at:4}\n{state:?}").expect("a string takes all");
        if let Some(action) = action {
            writeln!(text, "  -> {action:?}").expect("a string takes all");
        }
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (property, trace) in &self.violations {
            writeln!(f, "VIOLATED: {property}\n{trace}")?;
        }
        let World {
            policy,
            ack,
            epochs,
            writes,
            restarts,
            wipes,
            min_copies,
            mutant,
        } = self.world;
        writeln!(
            f,
            "world: {policy:?} at {ack:?}, 3 replicas, {epochs} epochs, {writes} writes, {restarts} restarts, \
             {wipes} wiped stores, min_copies {min_copies}, mutant {mutant:?}"
        )?;
        writeln!(
            f,
            "explored: {} states ({} generated), depth {}, {:.1} s{}",
            self.states,
            self.generated,
            self.depth,
            self.elapsed.as_secs_f64(),
            if self.complete {
                ", all of it"
            } else {
                ", not all of it"
            }
        )?;
        for property in &self.unreached {
            writeln!(f, "not reached: {property}")?;
        }
        let names: Vec<_> = self.violations.iter().map(|(name, _)| *name).collect();
        if !names.is_empty() {
            writeln!(f, "verdict: violated: {}", names.join(", "))
        } else if self.complete && !self.unreached.is_empty() {
            writeln!(f, "verdict: stuck: something that must be possible is not")
        } else if self.complete {
            writeln!(f, "verdict: holds")
        } else {
            writeln!(f, "verdict: nothing found within the limits")
        }
    }
}

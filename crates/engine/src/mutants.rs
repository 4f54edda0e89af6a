//! Planted bugs, switched on one at a time by the simulator (feature `mutants` only).

use std::cell::Cell;

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutant {
    /// `classify` never asks for a cut: a divergent tail stays.
    CutSkipped,
}

thread_local! {
    static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Switches one bug on for this thread, or all off.
pub fn plant(mutant: Option<Mutant>) {
    ON.set(mutant);
}

/// Whether this thread runs with the bug.
#[must_use]
pub fn is_on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}

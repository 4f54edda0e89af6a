//! A stateright model of the replication protocol (`docs/protocol.md`).
//!
//! Three replicas, a master, restarts and a wiped store, explored exhaustively within the budgets of a
//! [`World`]. It is the cheapest test of the protocol there is: it runs before, and beside, the code.
//!
//! | File | Holds |
//! |---|---|
//! | `world.rs` | [`World`], [`Policy`], [`Mutant`]: what is explored, and with which rule broken |
//! | `set.rs` `log.rs` | a set of replicas · one replica's log |
//! | `state.rs` | the state of everything, its canonical form under renaming of replicas |
//! | `action.rs` | what may happen next, in which state |
//! | `rules.rs` | what happens: each step of the protocol, with the rule it models |
//! | `commit.rs` | the commit rule, the lease rule, and the ghost that remembers what was committed |
//! | `properties.rs` | what must always hold, and what must be reachable |
//! | `progress.rs` | whether the protocol can be wedged: recovery is possible from everywhere |
//! | `check.rs` | runs the checker, and makes a readable report |
//!
//! The model refuses to know about bytes, disks below "flushed", time as a number, and the network as
//! messages: see the section "The model" of `docs/protocol.md` for why that loses nothing it looks for.

#![forbid(unsafe_code)]

mod action;
mod check;
mod commit;
mod log;
mod progress;
mod properties;
mod rules;
mod set;
mod state;
mod world;

pub use action::{Action, Tail};
pub use check::{Property, Report, Search, check};
pub use progress::{Progress, progress};
pub use state::State;
pub use world::{AckPoint, Mutant, Policy, Size, World};

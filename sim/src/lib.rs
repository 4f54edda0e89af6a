//! Deterministic simulator of a whole cluster.
//!
//! [`run`] takes a seed through one run: the real `volume::Node` of every server and the real
//! master, over simulated disks, network and clocks, watched by the oracle. The seed decides
//! everything, and the same seed gives the same run, event by event.
//!
//! | file | holds |
//! |---|---|
//! | `run.rs` | [`run`]: one seed, one run; [`run_staged`]: with stage directions |
//! | `plan.rs` | [`Plan`]: the options that a seed gives |
//! | `world.rs`, `world/` | the cluster and its events |
//! | `disk.rs` `network.rs` `clock.rs` `dice.rs` | what is replaced: devices, sockets, time, chance |
//! | `faults.rs` | disturbances |
//! | `content.rs` `history.rs` | what clients write, ask and hear |
//! | `checkers.rs`, `checkers/` | the oracle |
//! | `mutants.rs` | bugs to plant, each to be found |
//! | `strike.rs` | [`Strike`]: a loss of power at one persist point |
//! | `shrink.rs` | [`shrink`]: a smaller run that breaks the same rule |
//! | `watch.rs` `html.rs` | what a person looks at afterwards; [`page`]: drawn |

mod checkers;
mod clock;
mod content;
mod dice;
mod disk;
mod faults;
mod history;
mod html;
mod mutants;
mod network;
mod plan;
mod run;
mod shrink;
mod strike;
mod watch;
mod world;

pub use checkers::{Rule, Violation};
pub use clock::ClockChange;
pub use disk::flaws::{OpClass, StrayKind};
pub use faults::{Aim, FAULTS, Forgery, Recipe, Region};
pub use html::page;
pub use mutants::{ALL as MUTANTS, Mutant, UNSTAGED, UnknownMutant};
pub use network::Damage;
pub use plan::{Enough, Limits, LogFlush, OnLoss, Plan, Style, Workload};
pub use run::{Further, Outcome, run, run_plan, run_staged, run_struck};
pub use shrink::{Shrunk, shrink};
pub use strike::{AGAIN_MAX, Again, Moment, Reach, Sampling, Strike};
pub use watch::{Sample, Spot, SpotKind, Watch};
pub use world::{Counts, Timeline};

//! Carries out recovery plans in bounded steps.
//!
//! An executor takes no policy input: the plan was decided and its pins were acquired before it
//! began, so it stays true whatever the storage does. It never blocks: what it reads and ships goes
//! through ports that submit, and completions come back as calls.
//!
//! ```text
//! BoundPlan::bind   all pins, or none and a refusal; then tell the session `PlanBound`
//! CatchUp::step     authority, then bounded reads and shipping, then who waits for what
//!   records_read    a submitted read came back      acknowledged   the replica's frontiers
//!   follow          the target is reached: ship on towards the moving head
//!   hand_over       under the ordering point: live records follow at one LSN, without a gap
//! CatchUp::release  every way out: drops the pin, ends the session if it is live, one event, once
//! ```
//!
//! The caller owes: bind in the turn in which the plan was asked for; carry out the requests of
//! each [`Turn`] in order; call `release` when the engine asks for it. `examples/embed.rs` is a
//! whole embedding.
//!
//! | file | holds |
//! |---|---|
//! | `plan.rs` | [`BoundPlan`]: a range and the pin it owns |
//! | `turn.rs` | [`Turn`]: what a call may use |
//! | `step.rs` | [`StepOutcome`] and the other answers |
//! | `ports.rs` | [`HistoryReader`], [`ReplicaLink`]: what a bridge offers |
//! | `catch_up.rs`, `catch_up/` | [`CatchUp`] |

#![forbid(unsafe_code)]

mod catch_up;
mod plan;
mod ports;
mod step;
mod turn;

pub use catch_up::{CatchUp, CatchUpConfig};
pub use plan::{BindRefused, BoundPlan};
pub use ports::{HistoryReader, ReplicaLink};
pub use step::{HandOver, Lag, RecordsRefused, Released, Rewind, StepOutcome, Waiting};
pub use turn::Turn;

//! Carries out recovery plans in bounded steps.
//!
//! An executor takes no policy input: the plan was decided and its pins were acquired before it
//! began, so it stays true whatever the storage does. It never blocks: what it reads and ships goes
//! through ports that submit, and completions come back as calls.
//!
//! ```text
//! BoundPlan::bind, BoundRebuild::bind   the pin, or a refusal; either way the session is told
//! CatchUp::step     authority, then bounded reads and shipping, then who waits for what
//!   records_read    a submitted read came back      acknowledged   the replica's frontiers
//!   follow          the target is reached: ship on towards the moving head
//!   hand_over       under the ordering point: live records follow at one LSN, without a gap
//!   join, complete  the same where steps ship live records, too: then a LiveStream goes on
//! Rebuild::step     the same for the join, which comes first, then the base under it
//!   base_read       a submitted read came back      laid           the replica's cursor
//! release           every way out: drops the pin, ends the session if it is live, one event, once
//! ```
//!
//! The caller owes:
//!
//! - to bind in the turn in which the engine asked for it (`Action::BindPlan`);
//! - to carry out the requests of each [`Turn`] in order;
//! - to tell the session what the replica acknowledges and where it was handed over
//!   (`Fact::Acknowledged`, `Fact::Joined`), beside telling the execution;
//! - to call `release` when the engine asks for it (`Action::Release`).
//!
//! `examples/embed.rs` is a whole embedding.
//!
//! Whoever owns an execution calls it from one place at a time: it shares nothing but its pin's
//! table, which has a lock of its own.
//!
//! | file | holds |
//! |---|---|
//! | `plan.rs`, `plan/` | [`BoundPlan`], [`BoundRebuild`]: what to do, and the pin that it owns |
//! | `turn.rs` | [`Turn`]: what a call may use |
//! | `step.rs` | [`StepOutcome`], [`RebuildOutcome`] and the other answers |
//! | `ports.rs` | [`HistoryReader`], [`BaseImage`], [`ReplicaLink`], [`BaseLink`]: what a bridge offers |
//! | `execution.rs` | what every execution is: authority first, over once |
//! | `shipment.rs` | records on their way: window, rounds, hand-over, rewind |
//! | `catch_up.rs` | [`CatchUp`] |
//! | `live.rs` | [`LiveStream`]: what follows a completed catch-up that steps ship |
//! | `rebuild.rs`, `rebuild/` | [`Rebuild`] |

#![forbid(unsafe_code)]

mod catch_up;
mod execution;
mod live;
mod plan;
mod ports;
mod rebuild;
mod shipment;
mod step;
mod turn;

pub use catch_up::CatchUp;
pub use live::{LiveOutcome, LiveStream};
pub use plan::{BindRefused, BoundPlan, BoundRebuild, ImagePin, pin_refusal};
pub use ports::{
    BaseBlock, BaseExtent, BaseImage, BaseLink, BaseReadError, BaseStart, BaseWanted,
    HistoryReader, ReplicaLink,
};
pub use rebuild::{Rebuild, RebuildConfig, SourceAt};
pub use shipment::CatchUpConfig;
pub use step::{
    BaseRefused, HandOver, Lag, LaidRefused, RebuildOutcome, RecordsRefused, Released, Rewind,
    StepOutcome, Waiting,
};
pub use turn::Turn;

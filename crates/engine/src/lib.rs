//! Recovery state machines: senders, sessions, fences, budgets, verdicts and plans.
//!
//! Pure: no I/O, clock, thread, log, randomness. A volume's primary owns one [`Registry`] and drives
//! it:
//!
//! 1. [`Registry::apply`] an assignment: senders are added and removed, sessions begin, and
//!    [`Action::Connect`] asks for links.
//! 2. [`Registry::link_up`] when a server's link stands: [`Action::SendHandshake`] follows.
//! 3. [`Registry::handle`] with [`Event::Session`] for everything the replica answers. The facts of
//!    a handshake are judged by [`classify`]; [`Action::BindPlan`], [`Action::SendTruncate`],
//!    [`Action::StartShipping`], [`Action::Join`] and [`Action::RequestGrowth`] say what to do next,
//!    and each names the [`Fact`] that answers it. A rebuild is asked for by
//!    [`Registry::request_session`]; its [`RebuildFacts`] are judged by [`choose_source`], and
//!    [`Action::JoinForRebuild`] and [`Action::StartBase`] follow, in this order.
//! 4. [`Registry::deadline_reached`] when [`Registry::next_deadline`] has come.
//!
//! Actions are carried out in order. Each [`Action::Emit`] goes into a [`RecoveryLog`].
//!
//! A registry has one owner, and nothing in it is shared: not the senders, not their fences, not the
//! event stream. [`Registry::status`] copies; whoever has the copy holds up nobody, and [`Admitted`]
//! is a word that is checked again by whoever hears it later. So there is no interleaving to explore
//! here; what is shared, between the log and whoever holds a pin of it, is `moorline_wal::PinTable`.
//!
//! | file | holds |
//! |---|---|
//! | `event.rs`, `action.rs` | what the world tells, and its answers; what the engine asks for |
//! | `registry.rs` | [`Registry`]: the set of senders, reconciled with an assignment |
//! | `sender.rs`, `sender/` | [`Sender`]: owner of one replica; at most one live session |
//! | `session.rs`, `session/` | [`Session`]: one recovery attempt in one epoch |
//! | `fence.rs` | [`EpochFence`], the only maker of [`Admitted`] |
//! | `budget.rs` | [`CatchUpBudget`]: time, records, stall |
//! | `facts.rs`, `outcome.rs` | [`PrimaryFacts`], [`ReplicaFacts`]; [`classify`]: verdict with proof |
//! | `planner.rs` | [`Plan`]: what to do and what must be pinned for it |
//! | `mutants.rs` | bugs that a simulator can plant |
//! | `recovery_log.rs`, `status.rs` | the event stream; snapshots for operators |

#![forbid(unsafe_code)]

mod action;
mod budget;
mod event;
mod facts;
mod fence;
mod mutants;
mod outcome;
mod planner;
mod recovery_log;
mod registry;
mod sender;
mod session;
mod status;
#[cfg(test)]
mod testing;

pub use action::{Action, Actions, Directed};
pub use budget::{BudgetLimit, CatchUpBudget, Meter, Spending};
pub use event::{Answer, Event, Fact, Known, Refusal};
pub use facts::{Image, Impossible, PrimaryFacts, ReplicaFacts, Side, check_pin};
pub use fence::{Admitted, EpochFence, Fenced, Raise};
pub use mutants::{Mutant, Mutants};
pub use outcome::{
    CommittedDataMissing, NoVerdict, Outcome, Proof, Reason, RebuildReason, Verdict, classify,
    epoch_of, excused, last_common,
};
pub use planner::{
    Checkpoint, PinNeed, Plan, PlanKind, RebuildFacts, RebuildSource, SourceChoice, Unavailable,
    choose_source, plan, plan_rebuild,
};
pub use recovery_log::{Escalated, RecoveryEvent, RecoveryLog, ReleaseCause, What};
pub use registry::{Applied, AssignmentRefused, Reconciled, Registry, RegistryIdentity};
pub use sender::{
    Bucket, DegradedReason, Endpoint, NeedsRebuildReason, OnBudget, Sender, SenderConfig,
};
pub use session::{
    AfterCut, CatchingUp, Cause, CompletionRejected, HandshakeFailure, Invalidation, Joining,
    Membership, Opening, Phase, PhaseName, PinKind, PinRefusal, PinRefusedReason, Planned,
    RebuildJoining, Replaying, Session, SessionKind, SessionLimits, SessionStamp, Transferring,
    Truncating,
};
pub use status::{Progress, SenderStatus, SessionStatus};

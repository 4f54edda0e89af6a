//! The assignment authority: pure rules, stores, service.
//!
//! Sans-IO but for `store/embedded.rs`. A driver runs [`Master`]: it feeds connections, messages,
//! ended transactions and reached deadlines to [`Master::handle`], and does what is asked for, in
//! order. Nothing is told to anybody before it is durable.
//!
//! | file | holds |
//! |---|---|
//! | `service.rs` | [`Master`]: connections, and which answer goes where |
//! | `authority.rs` | [`Authority`]: the rules, the transactions in flight |
//! | `authority/servers.rs` | registrations, heartbeats, silence |
//! | `authority/reign.rs` | what is seen of the seats; ending a reign and minting the next |
//! | `authority/changes.rs` | compare-and-sets that a primary asks for |
//! | `authority/create.rs` | making and removing volumes |
//! | `authority/view.rs` `authority/events.rs` | what operators are shown |
//! | `succession.rs` | pure: when a reign ends, and who follows |
//! | `restored.rs` `authority/old_copy.rs` | pure: what an old copy must learn first; learning it |
//! | `authority/consent.rs` `authority/backup.rs` | what operators agree to; copies of the records |
//! | `vote.rs` | pure: which store has its seat's vote |
//! | `lease.rs` `placement.rs` | the master's leases, which servers take seats |
//! | `record.rs` `store.rs` | what is kept, and the compare-and-set it is kept behind |
//! | `store/embedded.rs` `store/memory.rs` | a file (acts), and the simulator's store |
//! | `config.rs` `mutants.rs` `error.rs` | settings, planted bugs, reasons to stop |

#![forbid(unsafe_code)]

pub mod authority;
mod config;
mod error;
pub mod lease;
mod mutants;
pub mod placement;
pub mod record;
pub mod restored;
mod service;
pub mod store;
pub mod succession;
pub mod vote;

pub use authority::{Authority, StartFacts};
pub use config::{Failover, MasterConfig};
pub use error::{StartError, StopReason};
pub use mutants::{Mutant, Mutants};
pub use service::{ConnId, Master, ServiceAction, ServiceEvent};

#[cfg(test)]
mod tests;

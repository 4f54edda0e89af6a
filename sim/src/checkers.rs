//! The oracle: what every run must satisfy.
//!
//! | file | checks |
//! |---|---|
//! | `linear.rs` | each sector is an atomic register over the whole run, crashes included |
//! | `lineage.rs` | one order of records explains every block: prefix, atomicity, what must survive |
//! | `single.rs` | the range that one client zeroes and writes in turn |
//! | `copies.rs` | every answer had its durable copies at that moment |
//! | `reigns.rs` | one primary per epoch, and none that answers after a higher one did |

pub(crate) mod copies;
pub(crate) mod lineage;
pub(crate) mod linear;
pub(crate) mod reigns;
pub(crate) mod single;

use std::fmt;

/// Which rule a run broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A sector was not an atomic register.
    Linearizable,
    /// A read found what no request wrote there, torn or misplaced.
    Content,
    /// What was acknowledged is gone, or what was refused is there.
    Durable,
    /// No one cut of the log explains all blocks.
    Prefix,
    /// An answer did not have its durable copies.
    Copies,
    /// Two reigns answered that must not both.
    Reigns,
    /// Replicas at rest differ.
    Replicas,
    /// Something did not end after all faults were healed.
    Liveness,
    /// A part found itself in a state that cannot be.
    Invariant,
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub reason: String,
    /// The sector concerned, if it is about one.
    pub sector: Option<u64>,
}

impl Violation {
    pub(crate) fn new(rule: Rule, reason: String) -> Self {
        Self {
            rule,
            reason,
            sector: None,
        }
    }

    pub(crate) fn at(rule: Rule, sector: u64, reason: String) -> Self {
        Self {
            rule,
            reason,
            sector: Some(sector),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.reason)
    }
}

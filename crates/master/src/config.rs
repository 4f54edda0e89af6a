//! What a master is told at its start.

use std::time::Duration;

use moorline_types::NoQuorum;

use crate::mutants::Mutants;

/// Whether `best_effort` volumes change their primary by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Failover {
    /// Only to where nothing acknowledged can be missing: the primary's own store.
    #[default]
    Safe,
    /// To the most advanced replica there is (`--failover lossy`): acknowledged writes may be lost.
    Lossy,
}

/// A master's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MasterConfig {
    /// How long every lease lasts, the master's and the members'.
    pub lease: Duration,
    /// What the master waits longer than the lease that it granted: its clock and the holder's may
    /// run at different rates.
    pub lease_margin: Duration,
    /// How often servers report.
    pub heartbeat: Duration,
    /// A server that was not heard of for so long is lost.
    pub silence: Duration,
    /// How long a candidate may take until another one, if there is one, is tried; doubled each time.
    pub reign_deadline: Duration,
    /// How long a candidate that declined is left out; doubled each time, up to 32 times.
    pub retry: Duration,
    /// How long the making of a volume's stores may take.
    pub create_deadline: Duration,
    /// Whether `best_effort` volumes change their primary by themselves.
    pub failover: Failover,
    /// What requests meet while a volume's policy cannot be met.
    pub no_quorum: NoQuorum,
    /// The least log of a volume: eight times the largest request.
    pub log_bytes_min: u64,
    /// Planted bugs.
    pub mutants: Mutants,
}

impl Default for MasterConfig {
    fn default() -> Self {
        let lease = Duration::from_secs(2);
        Self {
            lease,
            lease_margin: lease / 20,
            heartbeat: Duration::from_millis(500),
            silence: Duration::from_millis(1_500),
            reign_deadline: lease * 3,
            retry: Duration::from_secs(1),
            create_deadline: Duration::from_secs(60),
            failover: Failover::Safe,
            no_quorum: NoQuorum::Wait,
            log_bytes_min: 256 << 20,
            mutants: Mutants::NONE,
        }
    }
}

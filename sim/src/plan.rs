//! What the seed decides before a run begins.

use std::time::Duration;

use moorline_types::{AckPoint, Policy};
use serde::Serialize;

use crate::{clock::Clock, dice::Dice, faults::Recipe};

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds.
pub(crate) const SECOND: u64 = 1_000 * MS;

/// The options of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// How many copies a write needs.
    pub policy: Policy,
    /// What a copy must have done to count.
    pub ack: AckPoint,
    /// Volume servers, each with a replica.
    pub replicas: usize,
    /// The least number of copies under `sync_all`.
    pub min_copies: usize,
    /// The volume's size.
    pub blocks: u64,
    /// Bytes of each log ring.
    pub log_bytes: u64,
    /// Clients, the one with a range of its own included.
    pub clients: usize,
    /// Requests before the faults end.
    pub ops: usize,
    /// The longest pause of a client between two requests, in microseconds.
    pub think_us_max: u64,
    /// The usual delay of a message, in microseconds.
    pub net_us: u64,
    /// The usual time of a disk operation, in microseconds.
    pub disk_us: u64,
    /// Disturbances, each with when it begins, in nanoseconds after the first request.
    pub faults: Vec<(u64, Recipe)>,
    #[serde(skip)]
    pub(crate) clocks: Vec<Clock>,
    #[serde(skip)]
    pub(crate) dirty_time_max: Duration,
}

/// Blocks at the end of a volume that one client alone changes.
pub(crate) const OWN_BLOCKS: u64 = 16;

impl Plan {
    /// The options that `dice` gives.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let (replicas, policy) = match dice.below(20) {
            0 => (1, Policy::SyncQuorum),
            1 | 2 => (2, Policy::SyncAll),
            3..=5 => (3, Policy::SyncAll),
            _ => (3, Policy::SyncQuorum),
        };
        let ack = match dice.below(8) {
            0 => AckPoint::Received,
            _ => AckPoint::Flushed,
        };
        let clients = 2 + dice.index(4);
        let ops = 300 + dice.index(900);
        let span = SECOND * dice.between(8, 30);
        let count = dice.below(9);
        let faults = (0..count)
            .map(|_| (dice.below(span), Recipe::draw(dice, replicas)))
            .collect();
        Self {
            policy,
            ack,
            replicas,
            min_copies: replicas.max(2) - 1,
            blocks: 64 + dice.below(193),
            log_bytes: dice.pick(&[512 << 10, 512 << 10, 1 << 20, 2 << 20]),
            clients,
            ops,
            think_us_max: span / 1_000 * clients as u64 / ops as u64 * 2,
            net_us: dice.pick(&[30, 100, 100, 500, 2_000]),
            disk_us: dice.pick(&[20, 100, 100, 1_000]),
            faults,
            clocks: (0..=replicas).map(|_| clock(dice)).collect(),
            dirty_time_max: Duration::from_millis(dice.pick(&[20, 100, 1_000])),
        }
    }

    /// The same with another number of replicas, at most as many as there are clocks for.
    #[must_use]
    pub fn with_replicas(mut self, replicas: usize) -> Self {
        let last = *self.clocks.last().expect("the master has a clock");
        self.clocks.resize(replicas + 1, last);
        self.replicas = replicas;
        self.min_copies = replicas.max(2) - 1;
        self
    }

    /// Sectors that several clients share.
    pub(crate) fn shared_sectors(&self) -> u64 {
        (self.blocks - OWN_BLOCKS) * crate::content::SECTORS_PER_BLOCK
    }

    /// All sectors.
    pub(crate) fn sectors(&self) -> u64 {
        self.blocks * crate::content::SECTORS_PER_BLOCK
    }
}

/// Up to 2 % fast or slow: two clocks differ by less than the 5 % that leases allow for.
fn clock(dice: &mut Dice) -> Clock {
    Clock::new(
        dice.between(SECOND, 1_000 * SECOND),
        dice.between(980_000, 1_020_000),
    )
}

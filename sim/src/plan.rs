//! What the seed decides before a run begins: every seed draws a world of its own, so that rare
//! combinations are common somewhere.

use moorline_types::{AckPoint, NoQuorum, Policy};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    dice::Dice,
    faults::{Mix, Recipe},
    strike::{Moment, Strike},
};

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds.
pub(crate) const SECOND: u64 = 1_000 * MS;

/// The options of one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
    /// What clients ask for.
    pub workload: Workload,
    /// The usual delay of a message, in microseconds.
    pub net_us: u64,
    /// The usual time of a disk operation, in microseconds.
    pub disk_us: u64,
    /// Disturbances, each with when it begins, in nanoseconds after the first request.
    pub faults: Vec<(u64, Recipe)>,
    /// The server whose disk may damage data, if one may: never more than the policy tolerates.
    pub suspect: Option<usize>,
    /// Time-outs and budgets.
    pub limits: Limits,
    /// What a primary does when acknowledged records may be lost with memory.
    #[serde(default)]
    pub on_loss: OnLoss,
    /// What clients do when they have asked for as much as was planned and disturbances go on.
    #[serde(default)]
    pub enough: Enough,
    /// How log frames become durable.
    #[serde(default)]
    pub log_flush: LogFlush,
    /// The persist point at which the power goes, if it does at one.
    #[serde(default)]
    pub strike: Option<Strike>,
    /// The transaction of the master's store since the volume serves, from 1, before or after which its process ends.
    #[serde(default)]
    pub master_strike: Option<(u64, Moment)>,
    pub(crate) clocks: Vec<Clock>,
}

/// What a primary does when acknowledged records may be lost with memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// Says so and goes on.
    #[default]
    Continue,
    /// Serves nobody until an operator decides. None does.
    Stop,
}

/// What clients do when they have asked for as much as was planned.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enough {
    /// They ask for more, as long as disturbances go on.
    #[default]
    GoesOn,
    /// They wait until all is healed.
    Rests,
}

/// What clients ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// What stands out in it.
    pub style: Style,
    /// Blocks that most requests go to.
    pub hot_blocks: u64,
    /// How many requests of a hundred go there.
    pub hot_percent: u64,
    /// The most blocks of one request, at most 16.
    pub blocks_max: u64,
    /// How many requests of a hundred begin or end inside a block.
    pub unaligned_percent: u64,
    /// How many requests of a hundred read.
    pub read_percent: u64,
    /// How many requests of a hundred are flushes.
    pub flush_percent: u64,
    /// How many writes of a hundred are to be durable by themselves.
    pub forced_percent: u64,
    /// How many requests of a hundred of the client with a range of its own trim or zero.
    pub zero_percent: u64,
    /// How many pauses of a hundred are two seconds.
    pub idle_percent: u64,
}

/// What stands out in a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Nothing.
    Mixed,
    /// Few blocks.
    HotSpot,
    /// Requests that begin and end inside blocks.
    Unaligned,
    /// Trims and zeroes.
    Trims,
    /// Flushes and FUA.
    FlushHeavy,
    /// Large requests.
    Large,
    /// Long pauses.
    Idle,
}

/// How log frames become durable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum LogFlush {
    /// A frame is written and flushed by another operation, which may cover several frames.
    #[default]
    AfterWrite,
    /// Its write is durable by itself.
    WithWrite,
}

/// Time-outs and budgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// A disk operation without an answer for so long is a fault, in milliseconds.
    pub operation_timeout_ms: u64,
    /// A server that the master did not hear of for so long is lost, in milliseconds.
    pub silence_ms: u64,
    /// How often servers report to the master, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a committed record may be missing in the extents, in milliseconds.
    pub dirty_time_ms: u64,
    /// Bytes of one pass of the flusher.
    pub pass_bytes: u64,
    /// What requests meet while the policy cannot be met.
    pub no_quorum: NoQuorum,
}

/// Blocks at the end of a volume that one client alone changes.
pub(crate) const OWN_BLOCKS: u64 = 16;

impl Plan {
    /// The options that a seed gives.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self::draw(&mut Dice::new(seed))
    }

    /// The options that `dice` gives.
    fn draw(dice: &mut Dice) -> Self {
        let (replicas, policy) = match dice.below(24) {
            0 => (1, Policy::SyncQuorum),
            1 => (1, Policy::BestEffort),
            2 => (2, Policy::BestEffort),
            3 | 4 => (2, Policy::SyncAll),
            5..=7 => (3, Policy::SyncAll),
            8 => (4, Policy::SyncQuorum),
            9 => (5, Policy::SyncQuorum),
            10 => (4, Policy::SyncAll),
            _ => (3, Policy::SyncQuorum),
        };
        let ack = match dice.below(6) {
            0 => AckPoint::Received,
            _ => AckPoint::Flushed,
        };
        let clients = 2 + dice.index(4);
        let ops = 300 + dice.index(900);
        let span = SECOND * dice.between(8, 30);
        let corrupts = replicas >= 3 && dice.percent(35);
        let mix = Mix { replicas, corrupts };
        let faults = (0..dice.below(9))
            .map(|_| (dice.below(span), Recipe::draw(dice, mix)))
            .collect();
        let workload = Workload::draw(dice);
        let blocks_max = dice.pick(&[193, 193, 193, 193, 193, 193, 193, 1_000]);
        let blocks = 64 + dice.below(blocks_max);
        let mut plan = Self {
            policy,
            ack,
            replicas,
            min_copies: replicas.max(2) - 1,
            blocks,
            log_bytes: dice.pick(&[512 << 10, 512 << 10, 1 << 20, 2 << 20]),
            clients,
            ops,
            think_us_max: span / 1_000 * clients as u64 / ops as u64 * 2,
            workload,
            net_us: dice.pick(&[30, 100, 100, 500, 2_000]),
            disk_us: dice.pick(&[20, 100, 100, 1_000]),
            faults,
            suspect: corrupts.then(|| dice.index(replicas)),
            limits: Limits::draw(dice),
            on_loss: OnLoss::Continue,
            enough: Enough::GoesOn,
            strike: None,
            log_flush: LogFlush::AfterWrite,
            master_strike: None,
            clocks: (0..=replicas).map(|_| clock(dice)).collect(),
        };
        // Drawn last: what a seed gave before there was this choice stays as it was.
        if dice.percent(40) {
            plan.log_flush = LogFlush::WithWrite;
        }
        plan
    }

    /// The same with another number of replicas; a new one has the master's clock.
    #[must_use]
    pub fn with_replicas(mut self, replicas: usize) -> Self {
        let last = *self.clocks.last().expect("the master has a clock");
        self.clocks.resize(replicas + 1, last);
        self.replicas = replicas;
        self.min_copies = replicas.max(2) - 1;
        self.suspect = self.suspect.filter(|suspect| *suspect < replicas);
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

impl Workload {
    fn draw(dice: &mut Dice) -> Self {
        let mut drawn = Self {
            style: Style::Mixed,
            hot_blocks: 8,
            hot_percent: 60,
            blocks_max: 8,
            unaligned_percent: 25,
            read_percent: 45,
            flush_percent: 5,
            forced_percent: 10,
            zero_percent: 30,
            idle_percent: 0,
        };
        match dice.below(12) {
            0 => {
                drawn.style = Style::HotSpot;
                drawn.hot_blocks = 1 + dice.below(3);
                drawn.hot_percent = 95;
            }
            1 => {
                drawn.style = Style::Unaligned;
                drawn.unaligned_percent = 90;
            }
            2 => {
                drawn.style = Style::Trims;
                drawn.zero_percent = 60;
            }
            3 => {
                drawn.style = Style::FlushHeavy;
                drawn.flush_percent = 30;
                drawn.forced_percent = 40;
            }
            4 => {
                drawn.style = Style::Large;
                drawn.blocks_max = 16;
                drawn.read_percent = 25;
            }
            5 => {
                drawn.style = Style::Idle;
                drawn.idle_percent = 4;
            }
            _ => {}
        }
        drawn
    }
}

impl Limits {
    fn draw(dice: &mut Dice) -> Self {
        let heartbeat_ms = dice.pick(&[200, 500, 500]);
        Self {
            operation_timeout_ms: dice.pick(&[1_000, 2_500, 5_000, 5_000]),
            silence_ms: heartbeat_ms * 3,
            heartbeat_ms,
            dirty_time_ms: dice.pick(&[20, 100, 1_000]),
            pass_bytes: dice.pick(&[64 << 10, 1 << 20, 64 << 20]),
            no_quorum: dice.pick(&[
                NoQuorum::Wait,
                NoQuorum::Wait,
                NoQuorum::Wait,
                NoQuorum::Error(2),
            ]),
        }
    }
}

/// Up to 2 % fast or slow: two clocks differ by less than the 5 % that leases allow for.
fn clock(dice: &mut Dice) -> Clock {
    Clock::new(
        dice.between(SECOND, 1_000 * SECOND),
        dice.between(980_000, 1_020_000),
    )
}

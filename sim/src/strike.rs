//! A loss of power at one persist point of a run: before it, in the middle of it, after it.
//!
//! Persist points are the writes and flushes that servers ask of their disks once the volume
//! serves, numbered from 1 in the order of the run. Which run is struck where is part of its
//! [`Plan`], so that a run that breaks a rule can be made smaller and replayed as any other.

use serde::{Deserialize, Serialize};

use crate::{
    dice::Dice,
    faults::{Aim, Recipe},
    plan::{Enough, MS, Plan},
};

/// When the power goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The operation was asked for and reached nothing.
    Before,
    /// Of a write some sectors are there, of a flush some of what it covers.
    Torn,
    /// It is done and durable, and nobody was told.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::Torn, Self::After];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Torn => "torn",
            Self::After => "after",
        }
    }
}

/// Who loses power.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The machine with the disk.
    One,
    /// Every machine.
    All,
}

/// A second loss of power, of the same machines, while they recover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Again {
    /// At which persist point of the same disk after the first one, from 1.
    pub later: u64,
    /// When the power goes.
    pub moment: Moment,
}

/// A loss of power at a persist point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Strike {
    /// The point's number, from 1.
    pub point: u64,
    /// When the power goes.
    pub moment: Moment,
    /// Who loses it.
    pub reach: Reach,
    /// Whether it goes once more during the recovery.
    pub again: Option<Again>,
}

/// Persist points of a recovery, from its first on, at which the power may go again.
pub const AGAIN_MAX: u64 = 24;

impl Strike {
    /// The three strikes of a point. The seed and the point decide who loses power.
    #[must_use]
    pub fn at(seed: u64, point: u64) -> [Self; 3] {
        let mut dice = Dice::new(seed.rotate_left(32) ^ point);
        Moment::ALL.map(|moment| Self {
            point,
            moment,
            reach: dice.pick(&[Reach::One, Reach::All]),
            again: None,
        })
    }
}

/// At which of its persist points a run goes on in copies that are struck there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampling {
    /// Each so many points of the run, another one first in each run.
    pub every: u64,
    /// In each copy, each so many of the next [`AGAIN_MAX`] points of the same disk: the recovery.
    /// Another one first in each copy.
    pub again: u64,
}

impl Sampling {
    /// Whether a run is struck at a point.
    pub(crate) fn takes(self, seed: u64, point: u64) -> bool {
        point % self.every.max(1) == seed % self.every.max(1)
    }

    /// Whether a run that was struck at `point` is struck again so many points later.
    pub(crate) fn takes_again(self, point: u64, later: u64) -> bool {
        later <= AGAIN_MAX && later % self.again.max(1) == point % self.again.max(1)
    }
}

impl Plan {
    /// A short run to be struck at each of its persist points: the seed's own world, few requests
    /// that come soon after each other, a busy flusher, and at most one other disturbance.
    #[must_use]
    pub fn for_persist_points(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        let mut dice = Dice::new(!seed.rotate_left(17));
        plan.ops = 30 + dice.index(30);
        plan.blocks = plan.blocks.min(96);
        plan.think_us_max = dice.pick(&[500, 5_000, 20_000]);
        plan.workload.idle_percent = 0;
        plan.enough = Enough::Rests;
        plan.limits.dirty_time_ms = dice.pick(&[5, 20, 100]);
        plan.suspect = None;
        let (aim, down) = (Aim::Primary, 50 * MS);
        plan.faults = match dice.below(4) {
            0 => vec![(20 * MS, Recipe::Kill { aim, down })],
            1 => vec![(20 * MS, Recipe::PowerCut { aim, down })],
            _ => Vec::new(),
        };
        plan
    }
}

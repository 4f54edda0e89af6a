//! Stage directions: who is there, what happens to whom and when, what must be seen afterwards.

use moorline_sim::{Moment, Outcome, Plan, Reach, Recipe, Strike, Timeline, run_plan};
use moorline_types::{AckPoint, Policy};

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds.
pub(crate) const SECOND: u64 = 1_000 * MS;

/// A play before it begins: three replicas that commit by majority, 200 requests.
pub(crate) struct Stage {
    seed: u64,
    plan: Plan,
}

impl Stage {
    pub(crate) fn of(seed: u64) -> Self {
        let mut plan = Plan::of(seed).with_replicas(3);
        plan.policy = Policy::SyncQuorum;
        plan.ack = AckPoint::Flushed;
        plan.ops = 200;
        plan.faults = Vec::new();
        plan.suspect = None;
        Self { seed, plan }
    }

    /// A short play, whose persist points are few.
    pub(crate) fn short(seed: u64) -> Self {
        let mut stage = Self::of(seed);
        stage.plan.ops = 40;
        stage.plan.think_us_max = 5_000;
        stage.plan.limits.dirty_time_ms = 20;
        stage.plan.workload.idle_percent = 0;
        stage
    }

    pub(crate) fn policy(mut self, policy: Policy, replicas: usize) -> Self {
        self.plan = self.plan.with_replicas(replicas);
        self.plan.policy = policy;
        self
    }

    pub(crate) fn requests(mut self, requests: usize) -> Self {
        self.plan.ops = requests;
        self
    }

    /// A log that reaches back over half a minute of clients that take their time.
    pub(crate) fn log_lasts(mut self) -> Self {
        self.plan.log_bytes = 2 << 20;
        self.plan.think_us_max = 200_000;
        self.plan.workload.blocks_max = 2;
        self
    }

    /// The smallest log, and clients that hardly pause.
    pub(crate) fn log_wraps(mut self) -> Self {
        self.plan.log_bytes = 512 << 10;
        self.plan.think_us_max = 2_000;
        self.plan.workload.idle_percent = 0;
        self.plan.workload.read_percent = 10;
        self
    }

    /// The disk of the first server may be bad.
    pub(crate) fn bad_disk(mut self) -> Self {
        self.plan.suspect = Some(0);
        self
    }

    pub(crate) fn at(mut self, at: u64, recipe: Recipe) -> Self {
        self.plan.faults.push((at, recipe));
        self
    }

    /// The power goes at a persist point.
    pub(crate) fn power_lost(mut self, point: u64, moment: Moment, reach: Reach) -> Self {
        self.plan.strike = Some(Strike {
            point,
            moment,
            reach,
            again: None,
        });
        self
    }

    /// The master's process ends at one of its transactions.
    pub(crate) fn master_lost(mut self, txn: u64, moment: Moment) -> Self {
        self.plan.master_strike = Some((txn, moment));
        self
    }

    pub(crate) fn play(self) -> Seen {
        let outcome = run_plan(self.seed, self.plan, None, Timeline::Off);
        assert!(
            outcome.violation.is_none(),
            "seed {}: {:?}\n{}",
            outcome.seed,
            outcome.violation,
            outcome.about.join("\n")
        );
        assert!(outcome.counts.done > 0, "seed {} did nothing", self.seed);
        Seen(outcome)
    }
}

/// What was seen of a play that broke no rule.
pub(crate) struct Seen(pub(crate) Outcome);

impl Seen {
    pub(crate) fn times(&self, name: &str) -> u64 {
        self.0.counts.notes.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn reigns(&self) -> u64 {
        self.0.counts.reigns
    }

    /// Somebody else led, or the same server anew.
    #[track_caller]
    pub(crate) fn failed_over(self) -> Self {
        assert!(self.reigns() >= 2, "{:?}", self.0.counts);
        self
    }

    /// One reign, from the beginning to the end.
    #[track_caller]
    pub(crate) fn one_reign(self) -> Self {
        assert_eq!(self.reigns(), 1, "{:?}", self.0.counts);
        self
    }

    #[track_caller]
    pub(crate) fn saw(self, name: &str) -> Self {
        assert!(self.times(name) > 0, "no {name}: {:?}", self.0.counts.notes);
        self
    }
}

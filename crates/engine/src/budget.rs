//! How much one catch-up may cost before it escalates.

use std::{fmt, time::Duration};

use moorline_types::Instant;

/// Limits of one catch-up session; `None` is no limit. Exceeded means strictly above.
///
/// Covers the phases catching-up and replaying; truncating and joining have bounds of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchUpBudget {
    /// The longest a session may take, from its first record on.
    pub duration_max: Option<Duration>,
    /// The most records that one session may replay.
    pub records_max: Option<u64>,
    /// The longest time between two steps forward, and before the first.
    pub stall_max: Option<Duration>,
}

impl CatchUpBudget {
    /// No limit at all.
    pub const UNLIMITED: Self = Self {
        duration_max: None,
        records_max: None,
        stall_max: None,
    };
}

impl Default for CatchUpBudget {
    /// Ten seconds without progress end a session; a long one that moves may go on.
    fn default() -> Self {
        Self {
            duration_max: None,
            records_max: None,
            stall_max: Some(Duration::from_secs(10)),
        }
    }
}

/// Which limit was exceeded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BudgetLimit {
    /// The session took too long.
    Duration,
    /// The session replayed too many records.
    Records,
    /// Nothing moved for too long.
    Stall,
}

impl fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duration => "duration",
            Self::Records => "records",
            Self::Stall => "stall",
        })
    }
}

/// What a check of the budget answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Spending {
    /// Go on.
    Within,
    /// Escalate.
    Exceeded(BudgetLimit),
}

/// A budget being spent by one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meter {
    budget: CatchUpBudget,
    started: Instant,
    progressed: Instant,
    records: u64,
}

impl Meter {
    /// Starts spending at `now`; the stall limit runs from here until the first progress.
    #[must_use]
    pub const fn start(budget: CatchUpBudget, now: Instant) -> Self {
        Self {
            budget,
            started: now,
            progressed: now,
            records: 0,
        }
    }

    /// Notes that `records` more records are durable at the peer.
    pub fn progress(&mut self, now: Instant, records: u64) {
        self.records = self.records.saturating_add(records);
        // A clock that went back must not make the next stall come early.
        self.progressed = self.progressed.max(now);
    }

    /// Records replayed so far.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// When the session began to spend.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Checks duration, then records, then stall.
    pub fn check(&self, now: Instant) -> Spending {
        let past = |limit: Option<Duration>, since: Instant| {
            limit.is_some_and(|limit| now.since(since) > limit)
        };
        if past(self.budget.duration_max, self.started) {
            Spending::Exceeded(BudgetLimit::Duration)
        } else if self
            .budget
            .records_max
            .is_some_and(|max| self.records > max)
        {
            Spending::Exceeded(BudgetLimit::Records)
        } else if past(self.budget.stall_max, self.progressed) {
            Spending::Exceeded(BudgetLimit::Stall)
        } else {
            Spending::Within
        }
    }

    /// The first instant at which a check by time alone would fail; `None` without such limits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let at = |since: Instant, limit: Option<Duration>| limit.map(|limit| past(since, limit));
        let ends = [
            at(self.started, self.budget.duration_max),
            at(self.progressed, self.budget.stall_max),
        ];
        ends.into_iter().flatten().min()
    }
}

/// The first instant strictly more than `limit` after `since`.
pub(crate) fn past(since: Instant, limit: Duration) -> Instant {
    since.after(limit).after(Duration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: CatchUpBudget = CatchUpBudget {
        duration_max: Some(Duration::from_nanos(100)),
        records_max: Some(10),
        stall_max: Some(Duration::from_nanos(20)),
    };

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn each_limit_is_exceeded_one_past_it() {
        let table = [
            // (last progress, records, now, want)
            (1000, 0, 1020, Spending::Within), // exactly at the stall limit, before any progress
            (1000, 0, 1021, Spending::Exceeded(BudgetLimit::Stall)),
            (1090, 10, 1100, Spending::Within), // at the duration and the record limit
            (1090, 10, 1101, Spending::Exceeded(BudgetLimit::Duration)),
            (1090, 11, 1100, Spending::Exceeded(BudgetLimit::Records)),
            (1000, 11, 1101, Spending::Exceeded(BudgetLimit::Duration)), // all three: in order
            (1000, 11, 1021, Spending::Exceeded(BudgetLimit::Records)),
            (1000, 0, 3, Spending::Within), // the clock went back
        ];
        for (progressed, records, now, want) in table {
            let mut meter = Meter::start(BUDGET, at(1000));
            meter.progress(at(progressed), records);
            assert_eq!(meter.check(at(now)), want, "{progressed} {records} {now}");
        }
    }

    #[test]
    fn no_limit_is_never_exceeded() {
        let mut meter = Meter::start(CatchUpBudget::UNLIMITED, at(0));
        meter.progress(at(0), u64::MAX);
        assert_eq!(meter.check(at(u64::MAX)), Spending::Within);
        assert_eq!(meter.next_deadline(), None);
    }

    #[test]
    fn a_check_fails_at_the_deadline_and_not_before() {
        let mut meter = Meter::start(BUDGET, at(1000));
        for progressed in [1000, 1010, 1095] {
            meter.progress(at(progressed), 1);
            let end = meter.next_deadline().unwrap();
            assert_eq!(
                meter.check(end.before(Duration::from_nanos(1))),
                Spending::Within
            );
            assert!(matches!(meter.check(end), Spending::Exceeded(_)));
        }
    }

    #[test]
    fn progress_seen_by_a_clock_that_went_back_does_not_hasten_the_stall() {
        let mut meter = Meter::start(BUDGET, at(1000));
        meter.progress(at(5), 1);
        assert_eq!(meter.check(at(1020)), Spending::Within);
    }
}

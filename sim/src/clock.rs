//! Each machine's clock: an offset and a rate of its own.

use moorline_types::Instant;
use serde::{Deserialize, Serialize};

/// How a machine's clock relates to the world's nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Clock {
    offset_ns: u64,
    /// Nanoseconds of this clock in a million of the world's.
    rate_per_million: u64,
    /// The world's nanoseconds at which it showed `offset_ns`.
    #[serde(default)]
    since_ns: u64,
}

/// What happens to a clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockChange {
    /// It goes on at another rate.
    Rate {
        /// Nanoseconds of this clock in a million of the world's.
        per_million: u64,
    },
    /// It shows another time: its machine began anew.
    Reset {
        /// In nanoseconds.
        to: u64,
    },
    /// It leaves time out.
    Forward {
        /// In nanoseconds.
        by: u64,
    },
}

impl Clock {
    pub(crate) fn new(offset_ns: u64, rate_per_million: u64) -> Self {
        Self {
            offset_ns,
            rate_per_million,
            since_ns: 0,
        }
    }

    /// The same clock, changed at the world's `at`.
    pub(crate) fn changed(&self, at: u64, change: ClockChange) -> Self {
        let shown = self.read(at).as_nanos();
        let (offset_ns, rate_per_million) = match change {
            ClockChange::Rate { per_million } => (shown, per_million),
            ClockChange::Reset { to } => (to, self.rate_per_million),
            ClockChange::Forward { by } => (shown + by, self.rate_per_million),
        };
        Self {
            offset_ns,
            rate_per_million,
            since_ns: at,
        }
    }

    /// What this clock shows at the world's `at`.
    pub(crate) fn read(&self, at: u64) -> Instant {
        let passed = u128::from(at - self.since_ns) * u128::from(self.rate_per_million) / 1_000_000;
        Instant::from_nanos(self.offset_ns + u64::try_from(passed).unwrap_or(u64::MAX / 2))
    }

    /// The world's first nanosecond at which this clock shows at least `instant`.
    pub(crate) fn world_at(&self, instant: Instant) -> u64 {
        let local = u128::from(instant.as_nanos().saturating_sub(self.offset_ns));
        let at = (local * 1_000_000).div_ceil(u128::from(self.rate_per_million));
        u64::try_from(at).map_or(u64::MAX, |at| at.saturating_add(self.since_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_whose_rate_changes_goes_on_from_what_it_showed() {
        let clock = Clock::new(77, 980_000);
        let at = 5_000_000;
        let slewed = clock.changed(
            at,
            ClockChange::Rate {
                per_million: 1_020_000,
            },
        );
        assert_eq!(slewed.read(at), clock.read(at));
        assert!(slewed.read(at + 1_000) > clock.read(at + 1_000));
        let ahead = slewed.changed(at, ClockChange::Forward { by: 9 });
        assert_eq!(ahead.read(at).as_nanos(), clock.read(at).as_nanos() + 9);
        let deadline = ahead.read(at + 1_000);
        assert!(ahead.read(ahead.world_at(deadline)) >= deadline);
    }

    #[test]
    fn a_deadline_is_reached_at_the_worlds_time_that_is_computed_for_it() {
        for rate in [980_000, 1_000_000, 1_019_999] {
            let clock = Clock::new(77, rate);
            for local in [77_u64, 1_000_077, 999_999_999_999] {
                let deadline = Instant::from_nanos(local);
                let at = clock.world_at(deadline);
                assert!(clock.read(at) >= deadline, "{rate} {local}");
                assert!(at == 0 || clock.read(at - 1) < deadline, "{rate} {local}");
            }
        }
    }
}

//! The one place that reads a clock for the node.

use std::time::Duration;

use moorline_types::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on a clock that also runs while the machine sleeps: a lease must not outlive a suspend.
#[must_use]
pub(crate) fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).expect("time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec).expect("a fraction is not negative");
    Instant::from_nanos(secs * 1_000_000_000 + nanos)
}

/// How long it is until `deadline`; nothing when it has passed.
#[must_use]
pub(crate) fn until(deadline: Instant, now: Instant) -> Duration {
    deadline.since(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let first = now();
        assert!(now() >= first);
        assert_eq!(
            until(first, first.after(Duration::from_secs(1))),
            Duration::ZERO
        );
    }
}

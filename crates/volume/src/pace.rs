//! Writers are slowed before the log is full: as fast as the flusher makes room, and not faster.
//!
//! ```text
//! fill    0 %                    70 %               80 %               90 %         100 %
//!         | as fast as they come | twice the        | the flusher's    | nothing    |
//!         |                      | flusher's pace . . . pace . . . . . .|            |
//! ```
//!
//! Between 70 % and 90 % the pace falls in a straight line, so that the fill comes to rest where
//! writers and flusher are level, and a log that fills up is felt long before it stops anybody. No
//! single record waits longer than [`GAP_MAX`] for the one before it. What lies above 90 % is for
//! epoch marks, cuts and the flusher.

use std::time::Duration;

use moorline_types::Instant;

/// Writers are slowed from this fill of the log on, in percent.
const SLOW_PERCENT: u64 = 70;

/// No write is ordered that would fill the log above this, in percent.
const FULL_PERCENT: u64 = 90;

/// The longest time between two records while the log has room: a tenth of a second shows in no
/// client's time-out, and ten records in a second do not fill a log that is being emptied.
const GAP_MAX: Duration = Duration::from_millis(100);

/// While the flusher's pace is not known: the whole log in so many seconds.
const LOG_SECONDS_UNKNOWN: u64 = 8;

/// What the log says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogRoom {
    /// Bytes of its ring.
    pub(crate) capacity_bytes: u64,
    /// Bytes of it in use.
    pub(crate) used_bytes: u64,
    /// Bytes per second that the flusher makes room for, if it is known.
    pub(crate) drain_rate: Option<u64>,
}

/// What writers may do at a fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// As fast as they come.
    Free,
    /// So many bytes in a second.
    Slowed {
        /// At least 1.
        bytes_per_s: u64,
    },
    /// Nothing.
    Stopped,
}

impl LogRoom {
    fn slow_at(self) -> u64 {
        self.capacity_bytes / 100 * SLOW_PERCENT
    }

    fn full_at(self) -> u64 {
        self.capacity_bytes / 100 * FULL_PERCENT
    }

    /// The pace at this fill.
    pub(crate) fn pace(self) -> Pace {
        let (slow, full) = (self.slow_at(), self.full_at());
        if self.used_bytes < slow {
            return Pace::Free;
        }
        if self.used_bytes >= full {
            return Pace::Stopped;
        }
        let drain = self
            .drain_rate
            .unwrap_or(self.capacity_bytes / LOG_SECONDS_UNKNOWN);
        let left = u128::from(full - self.used_bytes);
        let bytes_per_s = 2 * u128::from(drain) * left / u128::from(full - slow);
        Pace::Slowed {
            bytes_per_s: u64::try_from(bytes_per_s).unwrap_or(u64::MAX).max(1),
        }
    }
}

/// Lets records of one batch in, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pacer {
    now: Instant,
    room: LogRoom,
    next: Instant,
    verdict: Verdict,
}

/// What became of the records that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// All of them are in.
    AllIn,
    /// One waits for its time; those behind it wait too.
    Early,
    /// One waits for room; those behind it wait too.
    NoRoom,
}

impl Pacer {
    /// A batch at `now`; `next` is what the batch before said.
    pub(crate) const fn new(now: Instant, room: LogRoom, next: Instant) -> Self {
        Self {
            now,
            room,
            next,
            verdict: Verdict::AllIn,
        }
    }

    /// Whether a record of `bytes` may be appended now; if so it is counted as appended.
    ///
    /// Once one was turned away all are: a large record is not overtaken by small ones for ever.
    #[must_use]
    pub(crate) fn admit(&mut self, bytes: u64) -> bool {
        if self.verdict != Verdict::AllIn {
            return false;
        }
        let used_then = self.room.used_bytes.saturating_add(bytes);
        match self.room.pace() {
            Pace::Free => {}
            Pace::Stopped => self.verdict = Verdict::NoRoom,
            Pace::Slowed { .. } if used_then > self.room.full_at() => {
                self.verdict = Verdict::NoRoom;
            }
            Pace::Slowed { .. } if self.next > self.now => self.verdict = Verdict::Early,
            Pace::Slowed { bytes_per_s } => {
                let micros = bytes.saturating_mul(1_000_000) / bytes_per_s;
                let gap = Duration::from_micros(micros).min(GAP_MAX);
                // Time that nobody used is not saved up.
                self.next = self.next.max(self.now).after(gap);
            }
        }
        if self.verdict != Verdict::AllIn {
            return false;
        }
        self.room.used_bytes = used_then;
        true
    }

    /// From when on the next record may be appended.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// When those turned away are to be tried again; `None` when something else has to happen
    /// first.
    pub(crate) fn again(&self) -> Option<Instant> {
        (self.verdict == Verdict::Early).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(percent: u64) -> LogRoom {
        LogRoom {
            capacity_bytes: 100 * MIB,
            used_bytes: percent * MIB,
            drain_rate: Some(10 * MIB),
        }
    }

    #[test]
    fn the_pace_falls_from_twice_the_flushers_to_nothing() {
        let slowed = |bytes_per_s| Pace::Slowed { bytes_per_s };
        for (percent, want) in [
            (0, Pace::Free),
            (69, Pace::Free),
            (70, slowed(20 * MIB)),
            (75, slowed(15 * MIB)),
            (80, slowed(10 * MIB)),
            (89, slowed(MIB)),
            (90, Pace::Stopped),
            (100, Pace::Stopped),
        ] {
            let room = LogRoom {
                // Whole percents of it are whole bytes.
                capacity_bytes: 100 * MIB,
                ..room(percent)
            };
            assert_eq!(room.pace(), want, "{percent} %");
        }
    }

    /// What a batch of records of 1 MiB each gets in, and when to try again.
    fn batch(room: LogRoom, next: Instant, records: u64) -> (u64, Option<Duration>) {
        let now = Instant::from_nanos(1_000_000_000);
        let mut pacer = Pacer::new(now, room, next);
        let admitted = (0..records).filter(|_| pacer.admit(MIB)).count();
        (admitted as u64, pacer.again().map(|at| at.since(now)))
    }

    #[test]
    fn one_batch_fills_no_more_than_its_share() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let (long_ago, soon) = (Instant::ZERO, Instant::from_nanos(1_007_000_000));
        // Below 70 % nothing is slowed, whatever was before.
        assert_eq!(batch(room(10), soon, 20), (20, None));
        // The batch itself crosses 70 %: one more, then at the pace.
        assert_eq!(batch(room(60), long_ago, 20), (11, ms(50)));
        assert_eq!(batch(room(80), long_ago, 20), (1, ms(100)));
        assert_eq!(batch(room(80), soon, 20), (0, ms(7)));
        // Hardly any pace is left: the gap is bounded all the same.
        assert_eq!(batch(room(89), long_ago, 1), (1, None));
        assert_eq!(batch(room(89), soon, 1), (0, ms(7)));
        // Full: time does not help.
        assert_eq!(batch(room(90), long_ago, 1), (0, None));
    }

    #[test]
    fn a_record_that_finds_no_room_is_not_overtaken() {
        let mut pacer = Pacer::new(Instant::ZERO, room(85), Instant::ZERO);
        assert!(!pacer.admit(6 * MIB), "it would end above 90 %");
        assert!(!pacer.admit(MIB));
        assert_eq!(pacer.again(), None);
    }
}

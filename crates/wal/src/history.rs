//! Which epoch wrote which records, and what of the log is retained.
//!
//! Epoch history is metadata: it is kept when records are reclaimed, and cut when they are cut.

use moorline_types::{Epoch, EpochStart, Lsn, LsnRange};

/// The epochs of a log, tail and head.
///
/// Two logs that hold the same (epoch, LSN) are equal up to there, because an epoch belongs to
/// one boot of one server and records are appended in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetainedHistory {
    starts: Vec<EpochStart>,
    tail: Lsn,
    head: Lsn,
}

/// Why a range of records is not available.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gap {
    /// Its lower part was reclaimed.
    BelowTail,
    /// Its upper part is not there yet.
    AboveHead,
}

impl RetainedHistory {
    /// The history of a log whose records at or below `tail` are gone and that has none above.
    ///
    /// Starts above `tail` are dropped: the records themselves say them.
    ///
    /// # Panics
    ///
    /// If the starts do not ascend.
    #[must_use]
    pub fn new(mut starts: Vec<EpochStart>, tail: Lsn) -> Self {
        starts.retain(|start| start.first <= tail);
        let ascend =
            |pair: &[EpochStart]| pair[0].epoch < pair[1].epoch && pair[0].first < pair[1].first;
        assert!(starts.windows(2).all(ascend), "epoch starts ascend");
        Self {
            starts,
            tail,
            head: tail,
        }
    }

    /// Each epoch's first record, ascending.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// Records at or below were reclaimed (exclusive end of what is retained).
    #[must_use]
    pub fn tail(&self) -> Lsn {
        self.tail
    }

    /// The last record.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.head
    }

    /// The epoch of the last record, reclaimed ones included; [`Epoch::ZERO`] before the first.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.starts.last().map_or(Epoch::ZERO, |start| start.epoch)
    }

    /// The epoch that wrote `lsn`; `None` above the head, at zero, or before what is known.
    #[must_use]
    pub fn epoch_of(&self, lsn: Lsn) -> Option<Epoch> {
        if lsn > self.head {
            return None;
        }
        let count = self.starts.partition_point(|start| start.first <= lsn);
        Some(self.starts[count.checked_sub(1)?].epoch)
    }

    /// Whether every record of `range` is retained.
    ///
    /// # Errors
    ///
    /// The first reason why not: the reclaimed end before the missing one.
    pub fn covers(&self, range: LsnRange) -> Result<(), Gap> {
        if range.after() < self.tail {
            return Err(Gap::BelowTail);
        }
        if range.through() > self.head {
            return Err(Gap::AboveHead);
        }
        Ok(())
    }

    /// Notes the next record.
    pub(crate) fn push(&mut self, lsn: Lsn, epoch: Epoch) {
        assert_eq!(lsn, self.head.next());
        assert!(epoch >= self.last_epoch());
        if epoch > self.last_epoch() || self.starts.is_empty() {
            self.starts.push(EpochStart { epoch, first: lsn });
        }
        self.head = lsn;
    }

    /// Forgets every record above `through`.
    pub(crate) fn cut(&mut self, through: Lsn) {
        assert!(self.tail <= through && through <= self.head);
        self.starts.retain(|start| start.first <= through);
        self.head = through;
    }

    /// Notes that records at or below `tail` are gone.
    pub(crate) fn reclaim(&mut self, tail: Lsn) {
        assert!(self.tail <= tail && tail <= self.head);
        self.tail = tail;
    }
}

/// One log as seen in a handshake: each epoch's first record, ascending, and the last record.
#[derive(Clone, Copy, Debug)]
pub struct LogOutline<'a> {
    /// Each epoch's first record, ascending.
    pub starts: &'a [EpochStart],
    /// The last record.
    pub head: Lsn,
}

impl LogOutline<'_> {
    /// The records of the epoch at `place`: `(first, last)`, both inside; `None` when it has none.
    fn segment(&self, place: usize) -> Option<(Epoch, Lsn, Lsn)> {
        let start = self.starts.get(place)?;
        let end = match self.starts.get(place + 1) {
            Some(next) => next.first.previous()?.min(self.head),
            None => self.head,
        };
        (start.first <= end).then_some((start.epoch, start.first, end))
    }
}

/// The last record that both logs hold; [`Lsn::ZERO`] when they share none.
#[must_use]
pub fn last_common(a: LogOutline<'_>, b: LogOutline<'_>) -> Lsn {
    let mut common = Lsn::ZERO;
    for (epoch, first_a, end_a) in (0..a.starts.len()).filter_map(|place| a.segment(place)) {
        let segments = (0..b.starts.len()).filter_map(|place| b.segment(place));
        for (_, first_b, end_b) in segments.filter(|segment| segment.0 == epoch) {
            let (first, end) = (first_a.max(first_b), end_a.min(end_b));
            if first <= end {
                common = common.max(end);
            }
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(list: &[(u64, u64)]) -> Vec<EpochStart> {
        list.iter()
            .map(|&(epoch, first)| EpochStart {
                epoch: Epoch::new(epoch, 0),
                first: Lsn::new(first),
            })
            .collect()
    }

    #[test]
    fn the_last_common_record_is_found_by_epoch_and_not_by_number() {
        type Log<'a> = (&'a [(u64, u64)], u64);
        let cases: [(Log<'_>, Log<'_>, u64); 7] = [
            ((&[(1, 1)], 10), (&[(1, 1)], 7), 7),
            ((&[], 0), (&[(1, 1)], 7), 0),
            // Both went on after record 5, in different epochs.
            ((&[(1, 1), (2, 6)], 9), (&[(1, 1), (3, 6)], 8), 5),
            // The second never heard of epoch 2 and has more of epoch 1.
            ((&[(1, 1), (2, 6)], 9), (&[(1, 1)], 8), 5),
            ((&[(1, 1), (2, 6)], 9), (&[(1, 1), (2, 6)], 8), 8),
            (
                (&[(1, 1), (2, 6), (4, 8)], 9),
                (&[(1, 1), (2, 6), (3, 7)], 20),
                6,
            ),
            ((&[(5, 1)], 9), (&[(4, 1)], 9), 0),
        ];
        for ((a, a_head), (b, b_head), want) in cases {
            let (a_starts, b_starts) = (starts(a), starts(b));
            let a = LogOutline {
                starts: &a_starts,
                head: Lsn::new(a_head),
            };
            let b = LogOutline {
                starts: &b_starts,
                head: Lsn::new(b_head),
            };
            assert_eq!(last_common(a, b), Lsn::new(want), "{a:?} {b:?}");
            assert_eq!(last_common(b, a), Lsn::new(want), "{b:?} {a:?}");
        }
    }

    #[test]
    fn epochs_follow_appends_and_cuts_and_outlive_reclaim() {
        let mut history = RetainedHistory::new(starts(&[(1, 1), (2, 5), (3, 9)]), Lsn::new(6));
        assert_eq!(history.last_epoch(), Epoch::new(2, 0));
        history.push(Lsn::new(7), Epoch::new(2, 0));
        history.push(Lsn::new(8), Epoch::new(4, 0));
        assert_eq!(history.epoch_of(Lsn::new(8)), Some(Epoch::new(4, 0)));
        assert_eq!(history.epoch_of(Lsn::new(9)), None);
        history.cut(Lsn::new(7));
        assert_eq!(history.last_epoch(), Epoch::new(2, 0));
        history.reclaim(Lsn::new(7));
        assert_eq!(history.epoch_of(Lsn::new(4)), Some(Epoch::new(1, 0)));
        assert_eq!(history.epoch_of(Lsn::ZERO), None);
    }

    #[test]
    fn a_range_is_covered_exactly_from_the_exclusive_tail() {
        let mut history = RetainedHistory::new(starts(&[(1, 1)]), Lsn::new(4));
        history.push(Lsn::new(5), Epoch::new(1, 0));
        for (after, through, want) in [
            (4, 5, Ok(())),
            (3, 5, Err(Gap::BelowTail)),
            (4, 6, Err(Gap::AboveHead)),
            (4, 4, Ok(())),
        ] {
            let range = LsnRange::new(Lsn::new(after), Lsn::new(through)).unwrap();
            assert_eq!(history.covers(range), want, "{range}");
        }
    }
}

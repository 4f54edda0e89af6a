//! Where the log's tail goes when the checkpoint moves. Pure but for what it asks of the log.

use moorline_types::Lsn;
use moorline_wal::{Log, LogAnchor, PeerNeed, ReclaimHorizon, ReclaimInputs, reclaim_horizon};

/// How much of the ring is kept for peers that come back, in percent: what is retained lets them
/// catch up instead of being rebuilt. The rest is room for new records.
pub(crate) const RETAINED_PERCENT: u64 = 40;

/// Above this fill, in percent, both copies get each checkpoint, so that room comes free at once.
pub(crate) const SPREAD_PERCENT: u64 = 50;

/// The anchor to name beside `checkpoint`.
///
/// Nothing that the checkpoint lacks, that a pin holds, or that a connected peer needs (while that
/// costs less than half of the ring) is let go; beyond that, as little as keeps the ring's fill at
/// [`RETAINED_PERCENT`].
pub(crate) fn choose_anchor(log: &Log, checkpoint: Lsn, lowest_peer: Option<Lsn>) -> LogAnchor {
    let horizon = horizon(log, checkpoint, lowest_peer);
    let kept_bytes = log.capacity_bytes() * RETAINED_PERCENT / 100;
    let bytes_after = |lsn| log.bytes_after(lsn);
    let tail = lowest_within(log.tail(), horizon.through, kept_bytes, bytes_after);
    log.anchor_at(tail)
}

/// How far the log may be let go beside `checkpoint`, and what limits that.
pub(crate) fn horizon(log: &Log, checkpoint: Lsn, lowest_peer: Option<Lsn>) -> ReclaimHorizon {
    let peers: Vec<PeerNeed> = lowest_peer
        .map(|flushed| PeerNeed {
            flushed,
            retained_bytes: log.bytes_after(flushed.max(log.tail()).min(log.head())),
        })
        .into_iter()
        .collect();
    reclaim_horizon(ReclaimInputs {
        older_checkpoint: checkpoint,
        lowest_pin: log.pin_table().lowest(),
        peers: &peers,
        capacity_bytes: log.capacity_bytes(),
    })
}

/// The lowest LSN in `[low, high]` above which at most `bytes_max` lie; `high` if none is.
fn lowest_within(low: Lsn, high: Lsn, bytes_max: u64, bytes_after: impl Fn(Lsn) -> u64) -> Lsn {
    if high <= low {
        return low;
    }
    // Invariant: every LSN below `from` has too much above it; `to` is acceptable or `high`.
    let (mut from, mut to) = (low.get(), high.get());
    while from < to {
        let middle = from + (to - from) / 2;
        if bytes_after(Lsn::new(middle)) <= bytes_max {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    Lsn::new(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_moves_no_further_than_needed_and_never_past_the_horizon() {
        // Ten bytes a record, head at 100.
        let bytes_after = |lsn: Lsn| (100 - lsn.get()) * 10;
        for (low, high, bytes_max, want) in [
            (0, 100, 1000, 0),
            (0, 100, 999, 1),
            (0, 100, 400, 60),
            (0, 50, 400, 50), // the horizon holds more than wanted
            (70, 90, 400, 70),
            (40, 40, 0, 40),
        ] {
            let found = lowest_within(Lsn::new(low), Lsn::new(high), bytes_max, bytes_after);
            assert_eq!(found.get(), want, "{low} {high} {bytes_max}");
        }
    }
}

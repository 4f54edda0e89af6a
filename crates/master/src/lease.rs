//! The master's leases: while one runs, no higher epoch of its volume is minted.
//!
//! The holder counts from the moment it sent the heartbeat, less its drift margin; the master from
//! the moment it handled it, plus a margin. So the holder's end always comes first.

use std::{collections::BTreeMap, time::Duration};

use moorline_types::{Epoch, Instant, VolumeId};

/// One volume's lease as the master counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Granted {
    epoch: Epoch,
    /// Over at this instant.
    until: Instant,
}

/// Every lease that may still run.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    length: Duration,
    granted: BTreeMap<VolumeId, Granted>,
}

impl LeaseTable {
    /// An empty table; leases are counted as lasting `lease` and `margin`.
    #[must_use]
    pub fn new(lease: Duration, margin: Duration) -> Self {
        Self {
            length: lease + margin,
            granted: BTreeMap::new(),
        }
    }

    /// Notes that a lease is granted at `now`, or that one may have been, by an earlier run of the
    /// master. The end never moves back.
    pub fn grant(&mut self, now: Instant, volume: VolumeId, epoch: Epoch) {
        let until = now.after(self.length);
        let entry = self
            .granted
            .entry(volume)
            .or_insert(Granted { epoch, until });
        entry.epoch = entry.epoch.max(epoch);
        entry.until = entry.until.max(until);
    }

    /// Notes that the holder of `epoch` gave its lease up.
    pub fn release(&mut self, volume: VolumeId, epoch: Epoch) {
        if self
            .granted
            .get(&volume)
            .is_some_and(|held| held.epoch <= epoch)
        {
            self.granted.remove(&volume);
        }
    }

    /// Until when the volume's lease runs; `None` when it is over at `now`.
    #[must_use]
    pub fn running(&self, now: Instant, volume: VolumeId) -> Option<Instant> {
        let held = self.granted.get(&volume)?;
        (now < held.until).then_some(held.until)
    }

    /// Forgets a volume that is gone.
    pub fn forget(&mut self, volume: VolumeId) {
        self.granted.remove(&volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeId = VolumeId::new(1);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn table() -> LeaseTable {
        LeaseTable::new(Duration::from_millis(2_000), Duration::from_millis(100))
    }

    #[test]
    fn a_lease_is_over_at_its_end_and_lasts_longer_than_its_holder_counts() {
        let mut leases = table();
        leases.grant(at(0), V, Epoch::new(1, 0));
        for (ms, runs) in [(0, true), (2_000, true), (2_099, true), (2_100, false)] {
            assert_eq!(leases.running(at(ms), V).is_some(), runs, "{ms}");
        }
    }

    #[test]
    fn a_clock_that_went_back_shortens_no_lease() {
        let mut leases = table();
        leases.grant(at(1_000), V, Epoch::new(1, 0));
        leases.grant(at(500), V, Epoch::new(1, 0));
        assert_eq!(leases.running(at(1_000), V), Some(at(3_100)));
    }

    #[test]
    fn only_the_holder_gives_a_lease_up() {
        let mut leases = table();
        leases.grant(at(0), V, Epoch::new(2, 0));
        leases.release(V, Epoch::new(1, 0));
        assert!(leases.running(at(1), V).is_some());
        leases.release(V, Epoch::new(2, 0));
        assert!(leases.running(at(1), V).is_none());
    }
}

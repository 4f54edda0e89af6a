//! Blocks held by read-modify-writes, from their read to their append.

use std::collections::VecDeque;

use moorline_types::BlockRange;

/// Names one holder of a lock within one reign.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LockId(u64);

/// Ranges of blocks that no other write may be ordered on.
///
/// Few at a time (unaligned requests in flight), so a list is searched.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct BlockLocks {
    held: VecDeque<(LockId, BlockRange)>,
    next: u64,
}

impl BlockLocks {
    /// Whether a write to `range` would meet a holder.
    #[must_use]
    pub(crate) fn blocks(&self, range: BlockRange) -> bool {
        self.held.iter().any(|(_, held)| held.overlaps(range))
    }

    /// Takes `range`; `None` when a holder overlaps it.
    #[must_use]
    pub(crate) fn take(&mut self, range: BlockRange) -> Option<LockId> {
        if self.blocks(range) {
            return None;
        }
        let id = LockId(self.next);
        self.next += 1;
        self.held.push_back((id, range));
        Some(id)
    }

    /// Gives a range back.
    ///
    /// # Panics
    ///
    /// If it is not held: a lock is given back exactly once.
    pub(crate) fn give_back(&mut self, id: LockId) {
        let place = self.held.iter().position(|(held, _)| *held == id);
        self.held
            .remove(place.expect("a lock is given back exactly once"));
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::BlockIndex;

    use super::*;

    fn range(first: u64, count: u32) -> BlockRange {
        BlockRange::new(BlockIndex::new(first), count).unwrap()
    }

    #[test]
    fn an_overlap_waits_and_a_neighbour_does_not() {
        let mut locks = BlockLocks::default();
        let lock = locks.take(range(4, 2)).unwrap();
        assert!(locks.take(range(5, 1)).is_none());
        assert!(locks.take(range(6, 1)).is_some());
        assert!(!locks.blocks(range(2, 2)));
        locks.give_back(lock);
        assert!(!locks.blocks(range(4, 2)));
    }
}

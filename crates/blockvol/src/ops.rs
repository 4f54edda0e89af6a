//! The operations in flight: what each is for, and since when it is out.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use moorline_types::{DeviceOp, DeviceOpKind, Instant, OpId, OpOwner};

use crate::{FaultKind, layout::PageNo};

/// What an operation is for; its completion is routed by this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A superblock copy is being written.
    Superblock,
    /// Both slots of a map page are being read.
    PageLoad(PageNo),
    /// The flusher writes one slot of a map page.
    PageWrite(PageNo),
    /// Part `part` of read job `job`.
    ExtentRead { job: u64, part: usize },
    /// The flusher writes `bytes` of blocks.
    ExtentWrite { bytes: u64 },
    /// A damaged block is written again.
    Repair,
    /// The flusher makes its writes durable.
    PassFlush,
    /// Trimmed blocks are given back to the device.
    Discard,
}

impl Purpose {
    pub(crate) const fn owner(self) -> OpOwner {
        match self {
            Self::Superblock => OpOwner::Superblock,
            Self::PageLoad(_) | Self::PageWrite(_) => OpOwner::BlockMap,
            Self::ExtentRead { .. }
            | Self::ExtentWrite { .. }
            | Self::Repair
            | Self::PassFlush
            | Self::Discard => OpOwner::Extents,
        }
    }

    /// What it is called when it fails.
    pub(crate) const fn fault_kind(self) -> FaultKind {
        match self {
            Self::PageLoad(_) | Self::ExtentRead { .. } => FaultKind::Read,
            Self::Superblock
            | Self::PageWrite(_)
            | Self::ExtentWrite { .. }
            | Self::Repair
            | Self::Discard => FaultKind::Write,
            Self::PassFlush => FaultKind::Flush,
        }
    }
}

/// Every operation that was handed out and has not come back.
///
/// An operation stays here until its completion, however late: the device owns its buffers.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct OpTable {
    serial: u64,
    in_flight: BTreeMap<OpId, Purpose>,
    /// Handed out since the clock was last seen.
    unstamped: Vec<OpId>,
    /// By time handed out; finished ones are dropped when they reach the front.
    stamped: VecDeque<(Instant, OpId)>,
    overdue_after: Duration,
}

impl OpTable {
    pub(crate) fn new(overdue_after: Duration) -> Self {
        Self {
            serial: 0,
            in_flight: BTreeMap::new(),
            unstamped: Vec::new(),
            stamped: VecDeque::new(),
            overdue_after,
        }
    }

    /// Hands out one operation.
    pub(crate) fn issue(
        &mut self,
        purpose: Purpose,
        offset: u64,
        kind: DeviceOpKind,
        ops: &mut Vec<DeviceOp>,
    ) -> OpId {
        self.serial += 1;
        let id = OpId::new(purpose.owner(), self.serial);
        self.in_flight.insert(id, purpose);
        self.unstamped.push(id);
        ops.push(DeviceOp { id, offset, kind });
        id
    }

    /// Takes a completed operation off; `None` when it is not known.
    pub(crate) fn finish(&mut self, id: OpId) -> Option<Purpose> {
        self.in_flight.remove(&id)
    }

    /// Notes that everything handed out so far was out at `now`.
    pub(crate) fn stamp(&mut self, now: Instant) {
        let fresh = self.unstamped.drain(..).map(|id| (now, id));
        self.stamped.extend(fresh);
        while let Some((_, id)) = self.stamped.front()
            && !self.in_flight.contains_key(id)
        {
            self.stamped.pop_front();
        }
    }

    /// When the oldest operation is overdue.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let mut live = self.stamped.iter();
        let (since, _) = live.find(|(_, id)| self.in_flight.contains_key(id))?;
        Some(since.after(self.overdue_after))
    }

    /// The oldest operation, if it is overdue.
    pub(crate) fn overdue(&self, now: Instant) -> Option<(OpId, Purpose)> {
        let mut live = self.stamped.iter();
        let (since, id) = live.find(|(_, id)| self.in_flight.contains_key(id))?;
        let purpose = self.in_flight.get(id)?;
        (since.after(self.overdue_after) <= now).then_some((*id, *purpose))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_operation_still_out_sets_the_deadline() {
        let mut table = OpTable::new(Duration::from_nanos(10));
        let mut ops = Vec::new();
        let mut issue = |table: &mut OpTable, now| {
            let id = table.issue(Purpose::Superblock, 0, DeviceOpKind::Flush, &mut ops);
            table.stamp(Instant::from_nanos(now));
            id
        };
        let first = issue(&mut table, 1);
        issue(&mut table, 4);
        assert_eq!(table.next_deadline(), Some(Instant::from_nanos(11)));
        assert!(table.finish(first).is_some());
        assert!(table.finish(first).is_none());
        assert_eq!(table.next_deadline(), Some(Instant::from_nanos(14)));
        assert!(table.overdue(Instant::from_nanos(13)).is_none());
        assert!(table.overdue(Instant::from_nanos(14)).is_some());
    }
}

//! Which record wrote each block last, as an interval map; and the records themselves.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use moorline_types::{BlockIndex, BlockRange, Lsn};
use moorline_wal::{Record, RecordKind};

use crate::{Segment, ZeroKind};

/// A run of blocks `[first, end)` whose newest record is `lsn`, or that no record here touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) lsn: Option<Lsn>,
}

impl Run {
    pub(crate) fn range(self) -> BlockRange {
        let count = u32::try_from(self.end - self.first).expect("a run lies inside one request");
        BlockRange::new(BlockIndex::new(self.first), count).expect("a run lies inside the volume")
    }
}

/// Block -> newest LSN.
#[derive(Clone, Default, Debug)]
pub(crate) struct RangeIndex {
    /// First block -> (end, LSN); runs do not overlap.
    runs: BTreeMap<u64, (u64, Lsn)>,
}

impl RangeIndex {
    /// Makes `lsn` the newest record of `range`.
    pub(crate) fn insert(&mut self, range: BlockRange, lsn: Lsn) {
        if range.is_empty() {
            return;
        }
        let (first, end) = (range.first().get(), range.end().get());
        // Most writes overlap nothing that is here: one look says so.
        let before = self.runs.range(..end).next_back();
        if before.is_none_or(|(_, (before_end, _))| *before_end <= first) {
            self.runs.insert(first, (end, lsn));
            return;
        }
        self.split_at(first);
        self.split_at(end);
        let covered: Vec<u64> = self.runs.range(first..end).map(|(&at, _)| at).collect();
        for at in covered {
            self.runs.remove(&at);
        }
        self.runs.insert(first, (end, lsn));
    }

    /// Cuts the run that reaches over `at`, so that one starts there.
    fn split_at(&mut self, at: u64) {
        let Some((&first, &(end, lsn))) = self.runs.range(..at).next_back() else {
            return;
        };
        if end > at {
            self.runs.insert(first, (at, lsn));
            self.runs.insert(at, (end, lsn));
        }
    }

    /// The first run at or after block `from`, its part before `from` cut off.
    pub(crate) fn next_run(&self, from: u64) -> Option<Run> {
        if let Some((_, &(end, lsn))) = self.runs.range(..from).next_back()
            && end > from
        {
            return Some(Run {
                first: from,
                end,
                lsn: Some(lsn),
            });
        }
        let (&first, &(end, lsn)) = self.runs.range(from..).next()?;
        Some(Run {
            first,
            end,
            lsn: Some(lsn),
        })
    }

    /// The runs of `[first, end)`, ascending, gaps included.
    pub(crate) fn cover(&self, first: u64, end: u64) -> Vec<Run> {
        let mut cover = Vec::new();
        let mut at = first;
        while at < end {
            let next = self.next_run(at).filter(|run| run.first < end);
            let gap_end = next.map_or(end, |run| run.first);
            if gap_end > at {
                cover.push(Run {
                    first: at,
                    end: gap_end,
                    lsn: None,
                });
            }
            let Some(run) = next else { break };
            at = run.end.min(end);
            cover.push(Run { end: at, ..run });
        }
        cover
    }

    /// Forgets every run whose record is at or below `through`.
    pub(crate) fn forget_through(&mut self, through: Lsn) {
        self.runs.retain(|_, (_, lsn)| *lsn > through);
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }
}

/// Newest LSN per block of a fixed set of records, as sorted runs: built once, then only read.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct SortedRuns(Vec<(u64, u64, Lsn)>);

/// Which record of several counts for a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Precedence {
    Newest,
    /// Wrong; for a planted bug.
    Oldest,
}

impl SortedRuns {
    /// The runs of `records`, which may overlap and come in any order.
    pub(crate) fn of(
        records: impl Iterator<Item = (BlockRange, Lsn)>,
        precedence: Precedence,
    ) -> Self {
        let mut ranges: Vec<(u64, u64, Lsn)> = records
            .filter(|(range, _)| !range.is_empty())
            .map(|(range, lsn)| (range.first().get(), range.end().get(), lsn))
            .collect();
        ranges.sort_unstable();
        let rank = |lsn: Lsn| match precedence {
            Precedence::Newest => lsn.get(),
            Precedence::Oldest => u64::MAX - lsn.get(),
        };
        let mut runs: Vec<(u64, u64, Lsn)> = Vec::with_capacity(ranges.len());
        let mut ranges = ranges.into_iter().peekable();
        // Those that have begun; the one that counts on top. Some may be over.
        let mut begun: BinaryHeap<(u64, u64, Lsn)> = BinaryHeap::new();
        let mut at = 0;
        loop {
            while begun.peek().is_some_and(|(_, end, _)| *end <= at) {
                begun.pop();
            }
            if begun.is_empty() {
                let Some((first, ..)) = ranges.peek() else {
                    return Self(runs);
                };
                at = *first;
            }
            while let Some((_, end, lsn)) = ranges.next_if(|(first, ..)| *first <= at) {
                begun.push((rank(lsn), end, lsn));
            }
            let (_, end, lsn) = *begun.peek().expect("one begins here or goes on");
            let until = ranges.peek().map_or(end, |(first, ..)| end.min(*first));
            match runs.last_mut() {
                Some((_, last_end, last)) if *last_end == at && *last == lsn => *last_end = until,
                Some(_) | None => runs.push((at, until, lsn)),
            }
            at = until;
        }
    }

    /// The runs of `[first, end)`, ascending, cut to it, gaps left out.
    pub(crate) fn within(&self, first: u64, end: u64) -> impl Iterator<Item = Run> {
        let skipped = self.0.partition_point(|(_, run_end, _)| *run_end <= first);
        let runs = self.0[skipped..].iter();
        runs.take_while(move |(run_first, ..)| *run_first < end)
            .map(move |&(run_first, run_end, lsn)| Run {
                first: run_first.max(first),
                end: run_end.min(end),
                lsn: Some(lsn),
            })
    }
}

/// The records above the checkpoint, in memory: what readers and the flusher copy from.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Window {
    /// The record before the first one.
    base: Lsn,
    records: VecDeque<Record>,
    stored_bytes: u64,
}

impl Window {
    pub(crate) fn new(base: Lsn) -> Self {
        Self {
            base,
            records: VecDeque::new(),
            stored_bytes: 0,
        }
    }

    /// The record before the first one.
    pub(crate) const fn base(&self) -> Lsn {
        self.base
    }

    /// The last record, or the base when there is none.
    pub(crate) fn head(&self) -> Lsn {
        self.records.back().map_or(self.base, Record::lsn)
    }

    pub(crate) fn push(&mut self, record: Record) {
        assert_eq!(record.lsn(), self.head().next(), "records are dense");
        self.stored_bytes += record.stored_bytes() as u64;
        self.records.push_back(record);
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Record> {
        let offset = lsn.get().checked_sub(self.base.get())?.checked_sub(1)?;
        self.records.get(usize::try_from(offset).ok()?)
    }

    /// The records in `(after, through]`, ascending.
    pub(crate) fn range(&self, after: Lsn, through: Lsn) -> impl Iterator<Item = &Record> {
        let skipped = usize::try_from(after.distance_from(self.base)).unwrap_or(usize::MAX);
        let records = self.records.iter().skip(skipped);
        records.take_while(move |record| record.lsn() <= through)
    }

    /// Bytes of header and payload of all records here.
    pub(crate) const fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Drops the records above `through`.
    pub(crate) fn truncate(&mut self, through: Lsn) {
        while let Some(record) = self.records.pop_back_if(|record| record.lsn() > through) {
            self.stored_bytes -= record.stored_bytes() as u64;
        }
    }

    /// Drops the records at or below `through`.
    pub(crate) fn forget_through(&mut self, through: Lsn) {
        while let Some(record) = self.records.pop_front_if(|record| record.lsn() <= through) {
            self.stored_bytes -= record.stored_bytes() as u64;
        }
        self.base = self.base.max(through);
    }

    /// What `run` reads as.
    pub(crate) fn segment(&self, run: Run) -> Segment {
        let range = run.range();
        let lsn = run.lsn.expect("only runs with a record are asked for");
        let record = self
            .get(lsn)
            .expect("records leave the window after the index");
        let zero = |kind| Segment::Zero { range, kind };
        match record.kind() {
            RecordKind::Write => Segment::Data {
                range,
                payload: record
                    .payload()
                    .slice_blocks(offset_in(record, run.first), range.count() as usize),
            },
            RecordKind::Trim => zero(ZeroKind::Hole),
            RecordKind::WriteZeroes => zero(ZeroKind::Written),
            RecordKind::EpochMark => unreachable!("an epoch mark has no blocks"),
        }
    }
}

/// Which block of its record `block` is.
pub(crate) fn offset_in(record: &Record, block: u64) -> usize {
    let offset = block - record.range().first().get();
    usize::try_from(offset).expect("a record has few blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, count: u32) -> BlockRange {
        BlockRange::new(BlockIndex::new(first), count).unwrap()
    }

    fn cover(index: &RangeIndex, first: u64, end: u64) -> Vec<(u64, u64, u64)> {
        let runs = index.cover(first, end).into_iter();
        runs.map(|run| (run.first, run.end, run.lsn.map_or(0, Lsn::get)))
            .collect()
    }

    #[test]
    fn the_newest_record_wins_block_by_block() {
        let mut index = RangeIndex::default();
        index.insert(range(10, 10), Lsn::new(1));
        index.insert(range(12, 2), Lsn::new(2));
        index.insert(range(18, 6), Lsn::new(3));
        assert_eq!(
            cover(&index, 8, 26),
            [
                (8, 10, 0),
                (10, 12, 1),
                (12, 14, 2),
                (14, 18, 1),
                (18, 24, 3),
                (24, 26, 0)
            ]
        );
        assert_eq!(cover(&index, 13, 15), [(13, 14, 2), (14, 15, 1)]);
        index.forget_through(Lsn::new(1));
        assert_eq!(
            cover(&index, 11, 19),
            [(11, 12, 0), (12, 14, 2), (14, 18, 0), (18, 19, 3)]
        );
    }

    /// Neighbours of one record as one run: where they were cut apart does not matter.
    fn merged(runs: Vec<Run>) -> Vec<Run> {
        let mut merged: Vec<Run> = Vec::new();
        for run in runs {
            match merged.last_mut() {
                Some(last) if last.end == run.first && last.lsn == run.lsn => last.end = run.end,
                Some(_) | None => merged.push(run),
            }
        }
        merged
    }

    #[test]
    fn a_model_of_single_blocks_agrees() {
        let mut index = RangeIndex::default();
        let mut records = Vec::new();
        let mut model = [0_u64; 64];
        let mut state = 7_u64;
        for lsn in 1..400 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let first = (state >> 33) % 60;
            let count = 1 + (state >> 50) % (64 - first).min(9);
            let written = range(first, u32::try_from(count).unwrap());
            index.insert(written, Lsn::new(lsn));
            records.push((written, Lsn::new(lsn)));
            for block in first..first + count {
                model[usize::try_from(block).unwrap()] = lsn;
            }
            // Newest first: the order in which they come says nothing.
            let sorted = SortedRuns::of(records.iter().rev().copied(), Precedence::Newest);
            for (first, end) in [(0, 64), (first, first + count), (7, 23)] {
                let known = |run: &Run| run.lsn.is_some();
                let want: Vec<Run> = index.cover(first, end).into_iter().filter(known).collect();
                let got: Vec<Run> = sorted.within(first, end).collect();
                assert_eq!(merged(got), merged(want), "[{first}, {end}) after {lsn}");
            }
            for run in index.cover(0, 64) {
                for block in run.first..run.end {
                    assert_eq!(
                        model[usize::try_from(block).unwrap()],
                        run.lsn.map_or(0, Lsn::get)
                    );
                }
            }
        }
    }
}

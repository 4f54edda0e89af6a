//! The flusher: brings committed records into the extents, in order and throttled.
//!
//! ```text
//! resting -> marking      `applied through X` goes to both superblocks, X <= min(committed, flushed)
//!         -> copying      newest version of each block, ascending; the map's pages
//!         -> flushing     all of it durable
//!         -> naming       the checkpoint, to the older superblock
//!         -> discarding   trimmed blocks go back to the device
//!         -> resting
//! ```
//!
//! Until the checkpoint is durable every block of the pass is read from memory, and a block with a
//! read in flight is not written: no read ever meets a half-written block. A pass that a crash cut
//! off is done again from the same records: it overwrites the same blocks whole.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use moorline_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, DeviceOp, DeviceOpKind, Instant, Lsn, Payload, WriteMode,
};
use moorline_wal::{Record, RecordKind};

use crate::{
    Segment, Store, StoreEvent,
    blockmap::{Entry, EntryState, Page},
    checkpoint::{SPREAD_PERCENT, choose_anchor},
    copies::Spread,
    extents::BLOCKS_PER_OP_MAX,
    index::{Precedence, Run, SortedRuns, Window, offset_in},
    layout::{ENTRIES_PER_PAGE, PageNo},
    mutants::Mutant,
    ops::Purpose,
};

/// When the flusher starts and how much it may have in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlusherConfig {
    /// Starts above this many bytes of records that may be applied.
    pub dirty_bytes_max: u64,
    /// Starts above this part of the log, in percent, taken by such records.
    pub dirty_percent_max: u64,
    /// Starts when such a record has waited for this long: an idle store comes to rest.
    pub dirty_time_max: Duration,
    /// Records of at most this many bytes in one pass, but always one.
    pub pass_bytes_max: u64,
    /// Map pages touched by one pass, but always one record's.
    pub pass_pages_max: usize,
    /// Operations in flight.
    pub ops_max: usize,
    /// Bytes in flight.
    pub bytes_in_flight_max: u64,
    /// Above this fill of the log, in percent, four times as much may be in flight: a full log
    /// stops the writers, which is worse than slowing them.
    pub urgent_percent: u64,
}

impl Default for FlusherConfig {
    fn default() -> Self {
        Self {
            dirty_bytes_max: 16 << 20,
            dirty_percent_max: 25,
            dirty_time_max: Duration::from_secs(1),
            pass_bytes_max: 64 << 20,
            pass_pages_max: 2048,
            ops_max: 16,
            bytes_in_flight_max: 2 << 20,
            urgent_percent: 60,
        }
    }
}

/// A full log starts a pass early, but not for less than this part of what starts one anyway: when
/// a pin keeps the log full, passes over single records would not make room.
const URGENT_PART: u64 = 16;

/// Records of at most this part of the log, in percent, in one pass.
const PASS_PERCENT_MAX: u64 = 25;

/// A pass over less than this part of the log says nothing of the flusher's pace: it is over before
/// it is under way.
const TELLING_PART: u64 = 64;

/// Map pages read and written at a time.
const PAGE_OPS_MAX: usize = 8;

/// Blocks given back by one operation: 64 MiB, so that it ends long before it is overdue.
const DISCARD_BLOCKS_MAX: u32 = 16 << 10;

/// Payload buffers in one write: below every device's limit of 1,024.
const PARTS_PER_OP_MAX: usize = 256;

/// One run of the flusher.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Pass {
    /// The last record applied by it.
    target: Lsn,
    /// Of its records.
    stored_bytes: u64,
    /// Newest record per block, of the pass alone.
    runs: SortedRuns,
    /// The block from which blocks are still to be written; `None` when all are under way.
    cursor: Option<u64>,
    ops_in_flight: usize,
    bytes_in_flight: u64,
    /// Pages still to be changed, ascending.
    pages: VecDeque<PageNo>,
    /// Pages asked for.
    loading: BTreeSet<PageNo>,
    page_writes: usize,
    /// Trimmed blocks, to be given back at the end.
    trims: Vec<BlockRange>,
}

impl Pass {
    fn is_copied(&self) -> bool {
        self.cursor.is_none()
            && self.ops_in_flight == 0
            && self.pages.is_empty()
            && self.loading.is_empty()
            && self.page_writes == 0
    }
}

/// What the flusher is doing.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) enum Stage {
    #[default]
    Resting,
    Marking(Pass),
    Copying(Pass),
    Flushing(Pass),
    Naming(Pass),
    Discarding {
        todo: Vec<BlockRange>,
        in_flight: usize,
    },
}

/// The pace of passes: what they take out of the log in how long.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct DrainPace {
    /// Of the passes that ended, newer ones counting more.
    bytes_per_s: Option<u64>,
    /// The pass under way: since when, and its bytes.
    pass: Option<(Instant, u64)>,
}

impl DrainPace {
    fn begin(&mut self, now: Instant, bytes: u64) {
        self.pass = Some((now, bytes));
    }

    fn end(&mut self, now: Instant) {
        let Some((since, bytes)) = self.pass.take() else {
            return;
        };
        let seen = per_second(bytes, now.since(since));
        // Half and half: passes are few and large, and the newest says most.
        let known = self.bytes_per_s.unwrap_or(seen);
        self.bytes_per_s = Some(known / 2 + seen / 2);
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let known = self.bytes_per_s?;
        let under_way = self
            .pass
            .map(|(since, bytes)| per_second(bytes, now.since(since)));
        Some(under_way.map_or(known, |seen| known.min(seen)))
    }
}

/// Never less than 1: what took long still went on.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).map_or(u64::MAX, |rate| rate.max(1))
}

/// The flusher's state beside its stage.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Flusher {
    pub(crate) stage: Stage,
    pub(crate) config: FlusherConfig,
    /// Since when a record waits to be applied.
    dirty_since: Option<Instant>,
    /// Records through here are counted in `countable_bytes`.
    counted: Lsn,
    counted_bytes: u64,
    pace: DrainPace,
}

impl Flusher {
    pub(crate) fn new(config: FlusherConfig, base: Lsn) -> Self {
        Self {
            stage: Stage::Resting,
            config,
            dirty_since: None,
            counted: base,
            counted_bytes: 0,
            pace: DrainPace::default(),
        }
    }

    pub(crate) fn drain_rate(&self, now: Instant) -> Option<u64> {
        self.pace.at(now)
    }

    /// When a resting flusher starts at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Resting => {
                let since = self.dirty_since?;
                Some(since.after(self.config.dirty_time_max))
            }
            Stage::Marking(_)
            | Stage::Copying(_)
            | Stage::Flushing(_)
            | Stage::Naming(_)
            | Stage::Discarding { .. } => None,
        }
    }

    pub(crate) const fn is_resting(&self) -> bool {
        matches!(self.stage, Stage::Resting)
    }

    /// Whether the pass wants `page` kept in memory.
    pub(crate) fn wants(&self, page: PageNo) -> bool {
        match &self.stage {
            Stage::Copying(pass) => pass.loading.contains(&page),
            Stage::Resting
            | Stage::Marking(_)
            | Stage::Flushing(_)
            | Stage::Naming(_)
            | Stage::Discarding { .. } => false,
        }
    }

    /// Corrects the count after a cut.
    pub(crate) fn recount(&mut self, window: &Window, through: Lsn) {
        self.counted = self.counted.min(through);
        let counted = window.range(Lsn::ZERO, self.counted);
        self.counted_bytes = counted.map(stored_bytes).sum();
    }

    /// The pass under way.
    fn pass_mut(&mut self) -> Option<&mut Pass> {
        match &mut self.stage {
            Stage::Copying(pass) => Some(pass),
            Stage::Resting
            | Stage::Marking(_)
            | Stage::Flushing(_)
            | Stage::Naming(_)
            | Stage::Discarding { .. } => None,
        }
    }
}

impl Store {
    /// The last record that the extents may be brought to.
    pub(crate) fn appliable(&self) -> Lsn {
        if self.mutants.has(Mutant::FlushUncommitted) {
            return self.log.head();
        }
        // At an open the applied mark is a floor: those records were committed and flushed.
        let flushed = self.flushed();
        self.committed.min(flushed).max(self.window_base())
    }

    /// Counts what waits, and starts a pass if it is time.
    pub(crate) fn run_flusher(&mut self, now: Instant, ops: &mut Vec<DeviceOp>) {
        if self.fault.is_some() || !self.image.is_trusted() {
            return;
        }
        let appliable = self.appliable();
        let fresh = self.window.range(self.flusher.counted, appliable);
        self.flusher.counted_bytes += fresh.map(stored_bytes).sum::<u64>();
        self.flusher.counted = self.flusher.counted.max(appliable);
        if !matches!(self.flusher.stage, Stage::Resting) {
            return;
        }
        if appliable <= self.window_base() {
            self.flusher.dirty_since = None;
            self.free_log_when_full();
            return;
        }
        let since = *self.flusher.dirty_since.get_or_insert(now);
        let config = &self.flusher.config;
        let of_log = self.log.capacity_bytes() * config.dirty_percent_max / 100;
        let due = self.flusher.counted_bytes > config.dirty_bytes_max.min(of_log)
            || since.after(config.dirty_time_max) <= now
            || (self.used_percent() > config.urgent_percent
                && self.flusher.counted_bytes > config.dirty_bytes_max / URGENT_PART)
            || self.closing.is_closing();
        if due {
            self.start_pass(now, appliable, ops);
        }
    }

    /// Lets the log go when pins or peers held it back while the checkpoint moved, or when a cut
    /// left frames that hold nothing: then the anchor moves although the tail does not.
    fn free_log_when_full(&mut self) {
        if self.used_percent() <= SPREAD_PERCENT || !self.copies.is_idle() {
            return;
        }
        let checkpoint = self.copies.checkpoint();
        let anchor = choose_anchor(&self.log, checkpoint, self.lowest_peer);
        let [one, other] = self.copies.anchors();
        if anchor.sequence > one.sequence.min(other.sequence) {
            self.copies
                .want_checkpoint(checkpoint, anchor, Spread::Both);
        }
    }

    fn start_pass(&mut self, now: Instant, appliable: Lsn, ops: &mut Vec<DeviceOp>) {
        let config = self.flusher.config;
        // Room comes free when a pass ends: in a small log one pass must not be most of it.
        let of_log = self.log.capacity_bytes() * PASS_PERCENT_MAX / 100;
        let pass_bytes_max = config.pass_bytes_max.min(of_log);
        let base = self.window_base();
        let (mut target, mut pass_bytes) = (base, 0);
        let mut ranges = Vec::new();
        let mut pages = BTreeSet::new();
        for record in self.window.range(base, appliable) {
            let bytes = pass_bytes + stored_bytes(record);
            let full = bytes > pass_bytes_max || pages.len() > config.pass_pages_max;
            if full && target != base {
                break;
            }
            pass_bytes = bytes;
            target = record.lsn();
            ranges.push((record.range(), record.lsn()));
            pages.extend(pages_of(record.range()));
        }
        let precedence = match self.mutants.has(Mutant::OldestVersionFlushed) {
            true => Precedence::Oldest,
            false => Precedence::Newest,
        };
        let pass = Pass {
            target,
            stored_bytes: pass_bytes,
            runs: SortedRuns::of(ranges.into_iter(), precedence),
            cursor: Some(0),
            ops_in_flight: 0,
            bytes_in_flight: 0,
            pages: pages.into_iter().collect(),
            loading: BTreeSet::new(),
            page_writes: 0,
            trims: Vec::new(),
        };
        self.flusher.dirty_since = None;
        if pass.stored_bytes >= self.log.capacity_bytes() / TELLING_PART {
            self.flusher.pace.begin(now, pass.stored_bytes);
        }
        if pass.target > self.copies.applied() {
            let target = pass.target.max(self.copies.applied_wanted());
            let history = self.history_through(target);
            self.copies.want_applied(target, history);
            if self.mutants.has(Mutant::AppliedMarkNotAwaited) {
                self.flusher.stage = Stage::Copying(pass);
                return self.pump_pass(ops);
            }
            self.flusher.stage = Stage::Marking(pass);
        } else {
            self.flusher.stage = Stage::Copying(pass);
            self.pump_pass(ops);
        }
    }

    /// A superblock round ended: what it names is durable.
    pub(crate) fn flusher_on_round(
        &mut self,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        match std::mem::take(&mut self.flusher.stage) {
            Stage::Marking(pass) if pass.target <= self.copies.applied() => {
                events.push(StoreEvent::Applied {
                    through: pass.target,
                });
                self.flusher.stage = Stage::Copying(pass);
                self.pump_pass(ops);
            }
            Stage::Naming(pass) if pass.target <= self.copies.checkpoint() => {
                self.finish_pass(pass, ops, events);
            }
            stage @ (Stage::Resting
            | Stage::Marking(_)
            | Stage::Copying(_)
            | Stage::Flushing(_)
            | Stage::Naming(_)
            | Stage::Discarding { .. }) => {
                self.flusher.stage = stage;
                self.reclaim();
            }
        }
    }

    /// Hands out what the pass may have in flight; flushes when everything is written.
    pub(crate) fn pump_pass(&mut self, ops: &mut Vec<DeviceOp>) {
        if self.fault.is_some() {
            return;
        }
        let Stage::Copying(mut pass) = std::mem::take(&mut self.flusher.stage) else {
            unreachable!("only a copying pass is pumped")
        };
        self.write_blocks(&mut pass, ops);
        self.write_pages(&mut pass, ops);
        if pass.is_copied() && self.mutants.has(Mutant::CheckpointBeforeFlush) {
            self.flusher.stage = Stage::Flushing(pass);
            return self.on_pass_flushed();
        }
        self.flusher.stage = if pass.is_copied() {
            self.table
                .issue(Purpose::PassFlush, 0, DeviceOpKind::Flush, ops);
            Stage::Flushing(pass)
        } else {
            Stage::Copying(pass)
        };
    }

    fn write_blocks(&mut self, pass: &mut Pass, ops: &mut Vec<DeviceOp>) {
        let boost = if self.used_percent() > self.flusher.config.urgent_percent {
            4
        } else {
            1
        };
        let ops_max = self.flusher.config.ops_max * boost;
        let bytes_max = self.flusher.config.bytes_in_flight_max * boost as u64;
        while pass.ops_in_flight < ops_max && pass.bytes_in_flight < bytes_max {
            let Some(from) = pass.cursor else { return };
            let Some(chunk) = self.next_chunk(pass, from) else {
                pass.cursor = None;
                return;
            };
            let under_read = self.mutants.has(Mutant::FlushUnderRead);
            if self.reads.busy(chunk.range) && !under_read {
                // The read's completion pumps again. What was passed over is not met twice.
                pass.cursor = Some(chunk.range.first().get());
                return;
            }
            pass.cursor = Some(chunk.range.end().get());
            let bytes = chunk.range.bytes();
            pass.ops_in_flight += 1;
            pass.bytes_in_flight += bytes;
            self.table.issue(
                Purpose::ExtentWrite { bytes },
                self.layout.block_offset(chunk.range.first()),
                DeviceOpKind::Write(chunk.parts, WriteMode::Cached),
                ops,
            );
        }
    }

    /// The next run of blocks with content, as long as one operation takes; notes trims passed.
    fn next_chunk(&self, pass: &mut Pass, from: u64) -> Option<Chunk> {
        let Pass { runs, trims, .. } = pass;
        let mut chunk: Option<Chunk> = None;
        for run in runs.within(from, u64::MAX) {
            let room = chunk.as_ref().map_or(BLOCKS_PER_OP_MAX, Chunk::room);
            let follows = chunk
                .as_ref()
                .is_none_or(|chunk| chunk.range.end().get() == run.first);
            let lsn = run.lsn.expect("gaps are left out");
            let record = self.window.get(lsn).expect("a pass holds its records");
            match record.kind() {
                RecordKind::Write if follows && room > 0 => {
                    let end = run.end.min(run.first + room);
                    let part = self.window.segment(Run { end, ..run });
                    let Segment::Data { range, payload } = part else {
                        unreachable!("a write has content")
                    };
                    match &mut chunk {
                        Some(chunk) => chunk.push(range, payload),
                        None => {
                            chunk = Some(Chunk {
                                range,
                                parts: vec![payload],
                            });
                        }
                    }
                    if end < run.end {
                        break;
                    }
                }
                RecordKind::Write => break,
                // Once a chunk has begun, what lies behind it is met again from the cursor.
                RecordKind::Trim | RecordKind::WriteZeroes if chunk.is_some() => break,
                RecordKind::Trim => trims.push(run.range()),
                RecordKind::WriteZeroes => {}
                RecordKind::EpochMark => unreachable!("an epoch mark has no blocks"),
            }
        }
        chunk
    }

    fn write_pages(&mut self, pass: &mut Pass, ops: &mut Vec<DeviceOp>) {
        // Loaded meanwhile, by this pass or by a reader.
        let ready: Vec<PageNo> = pass.loading.iter().copied().collect();
        for page in ready {
            if self.map.touch(page) {
                pass.loading.remove(&page);
                self.write_page(page, pass, ops);
            }
        }
        while pass.loading.len() + pass.page_writes < PAGE_OPS_MAX {
            let Some(page) = pass.pages.pop_front() else {
                return;
            };
            if self.map.touch(page) {
                self.write_page(page, pass, ops);
            } else {
                pass.loading.insert(page);
                self.load_page(page, ops);
            }
        }
    }

    fn write_page(&mut self, page: PageNo, pass: &mut Pass, ops: &mut Vec<DeviceOp>) {
        let first = page.first_block().get();
        let end = (first + ENTRIES_PER_PAGE).min(self.layout.size_blocks.get());
        let runs = pass.runs.within(first, end);
        let window = &self.window;
        let keeps_zeroed = self.mutants.has(Mutant::ZeroesNotMapped);
        let (slot, bytes) = self.map.change(page, |content: &mut Page| {
            for run in runs {
                let Some(lsn) = run.lsn else { continue };
                let record = window.get(lsn).expect("a pass holds its records");
                if keeps_zeroed && record.kind() == RecordKind::WriteZeroes {
                    continue;
                }
                for block in run.first..run.end {
                    content.set(BlockIndex::new(block), entry_of(record, block));
                }
            }
        });
        let slot = match self.mutants.has(Mutant::MapPageInPlace) {
            true => 0,
            false => slot,
        };
        let payload = Payload::copy_padded(&self.pool, &bytes);
        pass.page_writes += 1;
        self.table.issue(
            Purpose::PageWrite(page),
            self.layout.page_offset(page) + slot * BLOCK_SIZE as u64,
            DeviceOpKind::Write(vec![payload], WriteMode::Cached),
            ops,
        );
    }

    /// Blocks of the pass are in the device.
    pub(crate) fn on_extent_written(&mut self, bytes: u64, ops: &mut Vec<DeviceOp>) {
        let pass = self
            .flusher
            .pass_mut()
            .expect("a pass waits for its writes");
        pass.ops_in_flight -= 1;
        pass.bytes_in_flight -= bytes;
        self.pump_pass(ops);
    }

    /// A map page of the pass is in the device.
    pub(crate) fn on_page_written(&mut self, page: PageNo, ops: &mut Vec<DeviceOp>) {
        self.map.release(page);
        let pass = self.flusher.pass_mut().expect("a pass waits for its pages");
        pass.page_writes -= 1;
        self.pump_pass(ops);
    }

    /// Everything that the pass wrote is durable.
    pub(crate) fn on_pass_flushed(&mut self) {
        let Stage::Flushing(pass) = std::mem::take(&mut self.flusher.stage) else {
            unreachable!("a pass waits for its flush")
        };
        let anchor = choose_anchor(&self.log, pass.target, self.lowest_peer);
        let spread = if self.used_percent() > SPREAD_PERCENT {
            Spread::Both
        } else {
            Spread::One
        };
        self.copies.want_checkpoint(pass.target, anchor, spread);
        self.flusher.stage = Stage::Naming(pass);
    }

    fn finish_pass(&mut self, pass: Pass, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>) {
        self.index.forget_through(pass.target);
        self.window.forget_through(pass.target);
        self.log.release_memory(pass.target);
        // Records may have been counted that the pass had no room for; never fewer.
        assert!(self.flusher.counted_bytes >= pass.stored_bytes);
        self.flusher.counted_bytes -= pass.stored_bytes;
        self.flusher.pace.end(self.now);
        self.reclaim();
        events.push(StoreEvent::CheckpointMoved {
            checkpoint: pass.target,
            tail: self.log.tail(),
        });
        self.flusher.stage = Stage::Discarding {
            todo: pass.trims,
            in_flight: 0,
        };
        self.pump_discards(ops);
    }

    /// Gives trimmed blocks back, one operation at a time. Their content does not matter any more:
    /// the durable map says that they are holes.
    pub(crate) fn pump_discards(&mut self, ops: &mut Vec<DeviceOp>) {
        let Stage::Discarding { todo, in_flight } = &mut self.flusher.stage else {
            return;
        };
        if *in_flight > 0 {
            return;
        }
        let Some(trim) = todo.last().copied() else {
            self.flusher.stage = Stage::Resting;
            return;
        };
        let count = trim.count().min(DISCARD_BLOCKS_MAX);
        let range = BlockRange::new(trim.first(), count).expect("part of a range is a range");
        // A read that began before the trim still wants the content.
        if self.reads.busy(range) {
            return;
        }
        todo.pop();
        let rest = BlockRange::new(range.end(), trim.count() - count);
        todo.extend(rest.filter(|rest| !rest.is_empty()));
        *in_flight = 1;
        self.table.issue(
            Purpose::Discard,
            self.layout.block_offset(range.first()),
            DeviceOpKind::Discard {
                length: range.bytes(),
            },
            ops,
        );
    }

    /// A discard ended, well or not: a device that cannot discard keeps the room, no more.
    pub(crate) fn on_discarded(&mut self, ops: &mut Vec<DeviceOp>) {
        if let Stage::Discarding { in_flight, .. } = &mut self.flusher.stage {
            *in_flight = 0;
        }
        self.pump_discards(ops);
    }

    /// Frees what both superblocks let go.
    fn reclaim(&mut self) {
        self.log.reclaim(self.copies.anchors());
    }

    /// Bytes of the ring in use, in percent.
    pub(crate) fn used_percent(&self) -> u64 {
        u64::from(self.log.fill())
    }

    /// Whether the flusher could not go on because a block was being read.
    pub(crate) fn pump_after_read(&mut self, ops: &mut Vec<DeviceOp>) {
        match &self.flusher.stage {
            Stage::Copying(_) => self.pump_pass(ops),
            Stage::Discarding { .. } => self.pump_discards(ops),
            Stage::Resting | Stage::Marking(_) | Stage::Flushing(_) | Stage::Naming(_) => {}
        }
    }

    /// A page that the pass wants cannot be read: the pass cannot end.
    pub(crate) fn pass_wants(&self, page: PageNo) -> bool {
        self.flusher.wants(page)
    }

    /// The persisted part of the epoch history that goes with an applied mark.
    fn history_through(&self, applied: Lsn) -> Vec<moorline_types::EpochStart> {
        if self.mutants.has(Mutant::EpochHistoryNotKept) {
            return Vec::new();
        }
        let starts = self.log.history().iter().copied();
        starts.filter(|start| start.first <= applied).collect()
    }
}

/// A run of blocks that one operation writes.
struct Chunk {
    range: BlockRange,
    parts: Vec<Payload>,
}

impl Chunk {
    fn room(&self) -> u64 {
        if self.parts.len() >= PARTS_PER_OP_MAX {
            return 0;
        }
        BLOCKS_PER_OP_MAX.saturating_sub(u64::from(self.range.count()))
    }

    fn push(&mut self, range: BlockRange, payload: Payload) {
        self.range = BlockRange::new(self.range.first(), self.range.count() + range.count())
            .expect("the run lies in the volume");
        self.parts.push(payload);
    }
}

fn stored_bytes(record: &Record) -> u64 {
    record.stored_bytes() as u64
}

pub(crate) fn pages_of(range: BlockRange) -> impl Iterator<Item = PageNo> {
    let last = range.iter().next_back();
    let pages = last.map(|last| PageNo::of(range.first()).0..=PageNo::of(last).0);
    pages.into_iter().flatten().map(PageNo)
}

/// The map entry of `block` after `record`.
fn entry_of(record: &Record, block: u64) -> Entry {
    let (state, crc) = match record.kind() {
        RecordKind::Write => (EntryState::Data, record.crcs()[offset_in(record, block)]),
        RecordKind::Trim => (EntryState::Trimmed, 0),
        RecordKind::WriteZeroes => (EntryState::Zero, 0),
        RecordKind::EpochMark => unreachable!("an epoch mark has no blocks"),
    };
    Entry {
        state,
        lsn: record.lsn(),
        crc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_of_the_last_passes_and_sinks_while_one_hangs() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut pace = DrainPace::default();
        pace.begin(at(0), 1_000);
        assert_eq!(
            pace.at(at(500)),
            None,
            "nothing is known before a pass ended"
        );
        pace.end(at(1_000));
        assert_eq!(pace.at(at(9_000)), Some(1_000), "rest is no slowness");
        pace.begin(at(10_000), 3_000);
        assert_eq!(
            pace.at(at(11_000)),
            Some(1_000),
            "faster than before: not known yet"
        );
        assert_eq!(pace.at(at(40_000)), Some(100), "it hangs");
        pace.end(at(11_000));
        assert_eq!(pace.at(at(11_000)), Some(2_000));
    }
}

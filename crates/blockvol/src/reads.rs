//! Reads: from the records in memory, from what the block map knows, and from the extents.
//!
//! A read is planned at one instant: either every map page that it needs is in memory and each of
//! its blocks is decided, or the missing pages are asked for and it is planned anew when they are
//! there. What is then read from the extents is held against the flusher until it is back, so a
//! block is never read while it is being written.

use std::collections::{BTreeMap, BTreeSet};

use moorline_types::{
    BlockIndex, BlockRange, DeviceError, DeviceOp, DeviceOpKind, Lsn, OpId, PageBuf, Payload,
    WriteMode,
};
use moorline_wal::block_crc;

use crate::{
    BlockState, BlockVersion, ReadFault, ReadOutcome, ReadToken, ReadView, RepairError, Segment,
    StatusRun, Store, StoreEvent, ZeroKind,
    blockmap::EntryState,
    extents::{BLOCKS_PER_OP_MAX, Part, verify},
    index::{RangeIndex, Run},
    layout::{MAP_PAGE_BYTES, PageNo},
    mutants::Mutant,
    ops::Purpose,
};

/// What is wanted of the blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Content(ReadView),
    Status,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum JobState {
    /// Waits until all of these pages are in memory.
    Pages(BTreeSet<PageNo>),
    /// Waits for `missing` parts from the device.
    Device {
        parts: Vec<Part>,
        missing: usize,
        fault: Option<ReadFault>,
    },
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Job {
    token: ReadToken,
    range: BlockRange,
    want: Want,
    state: JobState,
}

/// The reads that are not answered yet.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Reads {
    serial: u64,
    jobs: BTreeMap<u64, Job>,
    /// Blocks that an operation in flight reads or repairs: the flusher keeps off.
    busy: BTreeMap<OpId, BlockRange>,
    /// Blocks being repaired.
    pub(crate) repairs: BTreeMap<BlockIndex, Repair>,
}

/// The right content of a damaged block, until it is in the extents.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Repair {
    version: BlockVersion,
    content: Payload,
    state: RepairState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RepairState {
    /// Other operations on the block are in flight, or its map page is on its way.
    Waiting,
    Writing,
}

impl Reads {
    /// Whether an operation in flight reads or repairs one of the blocks.
    pub(crate) fn busy(&self, range: BlockRange) -> bool {
        self.busy.values().any(|busy| busy.overlaps(range))
    }

    pub(crate) fn begin(&mut self, id: OpId, range: BlockRange) {
        self.busy.insert(id, range);
    }

    pub(crate) fn end(&mut self, id: OpId) -> Option<BlockRange> {
        self.busy.remove(&id)
    }

    /// Whether a read waits for `page`.
    pub(crate) fn wants(&self, page: PageNo) -> bool {
        self.jobs.values().any(|job| match &job.state {
            JobState::Pages(pages) => pages.contains(&page),
            JobState::Device { .. } => false,
        }) || self.repairs.keys().any(|block| PageNo::of(*block) == page)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.repairs.is_empty()
    }
}

/// A decided read, or the pages that it lacks.
enum Plan {
    Parts(Vec<Part>),
    Pages(BTreeSet<PageNo>),
    Fault(ReadFault),
}

impl Store {
    /// Reads `range` as `view` has it.
    ///
    /// The answer is of one instant between this call and the event. Contents are verified.
    pub fn read(
        &mut self,
        token: ReadToken,
        range: BlockRange,
        view: ReadView,
        ops: &mut Vec<DeviceOp>,
    ) -> ReadOutcome<Vec<Segment>> {
        if !self.holds(range) {
            return ReadOutcome::Ready(Err(ReadFault::OutOfRange { range }));
        }
        match self.begin_job(token, range, Want::Content(view), ops) {
            Some(result) => ReadOutcome::Ready(result.map(known_segments)),
            None => ReadOutcome::Pending,
        }
    }

    /// What is known of `range` without reading the blocks: content, zeroes or holes.
    pub fn block_status(
        &mut self,
        token: ReadToken,
        range: BlockRange,
        ops: &mut Vec<DeviceOp>,
    ) -> ReadOutcome<Vec<StatusRun>> {
        if !self.holds(range) {
            return ReadOutcome::Ready(Err(ReadFault::OutOfRange { range }));
        }
        match self.begin_job(token, range, Want::Status, ops) {
            Some(result) => ReadOutcome::Ready(result.map(status_runs)),
            None => ReadOutcome::Pending,
        }
    }

    fn begin_job(
        &mut self,
        token: ReadToken,
        range: BlockRange,
        want: Want,
        ops: &mut Vec<DeviceOp>,
    ) -> Option<Result<Vec<Part>, ReadFault>> {
        self.reads.serial += 1;
        let job = Job {
            token,
            range,
            want,
            state: JobState::Pages(BTreeSet::new()),
        };
        self.advance_job(self.reads.serial, job, ops)
    }

    /// Plans a job; keeps it when it has to wait, gives its parts when it has not.
    fn advance_job(
        &mut self,
        number: u64,
        mut job: Job,
        ops: &mut Vec<DeviceOp>,
    ) -> Option<Result<Vec<Part>, ReadFault>> {
        match self.plan(job.range, job.want) {
            Plan::Fault(fault) => return Some(Err(fault)),
            Plan::Pages(pages) => {
                for &page in &pages {
                    self.load_page(page, ops);
                }
                job.state = JobState::Pages(pages);
            }
            Plan::Parts(parts) => {
                let on_device = |part: &Part| matches!(part, Part::Device { .. });
                let missing = parts.iter().filter(|part| on_device(part)).count();
                if missing == 0 || job.want == Want::Status {
                    return Some(Ok(parts));
                }
                self.issue_extent_reads(number, &parts, ops);
                job.state = JobState::Device {
                    parts,
                    missing,
                    fault: None,
                };
            }
        }
        self.reads.jobs.insert(number, job);
        None
    }

    fn issue_extent_reads(&mut self, job: u64, parts: &[Part], ops: &mut Vec<DeviceOp>) {
        for (part, content) in parts.iter().enumerate() {
            let Part::Device { range, .. } = content else {
                continue;
            };
            let buffer = self.pool.dirty(range.count() as usize);
            let id = self.table.issue(
                Purpose::ExtentRead { job, part },
                self.layout.block_offset(range.first()),
                DeviceOpKind::Read(buffer),
                ops,
            );
            self.reads.begin(id, *range);
        }
    }

    /// Asks for a map page unless it is there or on its way.
    pub(crate) fn load_page(&mut self, page: PageNo, ops: &mut Vec<DeviceOp>) {
        if self.map.touch(page) || !self.map.begin_load(page) {
            return;
        }
        let pages = usize::try_from(MAP_PAGE_BYTES).expect("two slots are small")
            / moorline_types::BLOCK_SIZE;
        self.table.issue(
            Purpose::PageLoad(page),
            self.layout.page_offset(page),
            DeviceOpKind::Read(self.pool.dirty(pages)),
            ops,
        );
    }

    /// The runs of `range` whose newest version is in memory, and the gaps.
    fn runs(&self, range: BlockRange, view: ReadView) -> Vec<Run> {
        let (first, end) = (range.first().get(), range.end().get());
        match view {
            ReadView::Readable => self.index.cover(first, end),
            ReadView::Newest => {
                let mut upper = RangeIndex::default();
                for record in self.window.range(self.readable, self.window.head()) {
                    if record.range().overlaps(range) {
                        upper.insert(record.range(), record.lsn());
                    }
                }
                let mut runs = Vec::new();
                for run in upper.cover(first, end) {
                    match run.lsn {
                        Some(_) => runs.push(run),
                        None => runs.extend(self.index.cover(run.first, run.end)),
                    }
                }
                runs
            }
        }
    }

    fn plan(&mut self, range: BlockRange, want: Want) -> Plan {
        let view = match want {
            Want::Content(view) => view,
            Want::Status => ReadView::Readable,
        };
        let runs = self.runs(range, view);
        let mut pages = BTreeSet::new();
        for run in runs.iter().filter(|run| run.lsn.is_none()) {
            let last = PageNo::of(BlockIndex::new(run.end - 1));
            pages.extend((PageNo::of(BlockIndex::new(run.first)).0..=last.0).map(PageNo));
        }
        // Every page is touched, so that all of them count as used now.
        let absent = pages.iter().filter(|page| !self.map.touch(**page)).count();
        if absent > 0 {
            return Plan::Pages(pages);
        }
        let mut parts = Vec::new();
        for run in runs {
            match run.lsn {
                Some(_) => parts.push(Part::Known(self.window.segment(run))),
                None => {
                    if let Err(fault) = self.plan_stored(run, &mut parts) {
                        return Plan::Fault(fault);
                    }
                }
            }
        }
        Plan::Parts(parts)
    }

    /// Decides blocks whose newest version the block map knows.
    fn plan_stored(&self, run: Run, parts: &mut Vec<Part>) -> Result<(), ReadFault> {
        for block in (run.first..run.end).map(BlockIndex::new) {
            let one = BlockRange::new(block, 1).expect("the block lies in the volume");
            let entry = self.map.entry(block).expect("its page is in memory");
            if let Some(repair) = self.reads.repairs.get(&block)
                && entry.is_version(repair.version)
            {
                parts.push(Part::Known(Segment::Data {
                    range: one,
                    payload: repair.content.clone(),
                }));
                continue;
            }
            let zero = |kind| Segment::Zero { range: one, kind };
            match entry.state {
                EntryState::Hole | EntryState::Trimmed => {
                    push_merged(parts, Part::Known(zero(ZeroKind::Hole)));
                }
                EntryState::Zero => push_merged(parts, Part::Known(zero(ZeroKind::Written))),
                EntryState::Data => {
                    let expected = vec![BlockVersion {
                        crc: entry.crc,
                        lsn: entry.lsn,
                    }];
                    push_merged(
                        parts,
                        Part::Device {
                            range: one,
                            expected,
                        },
                    );
                }
                EntryState::Unknown => return Err(ReadFault::MapDamaged { block }),
            }
        }
        Ok(())
    }

    /// A map page came, or did not.
    pub(crate) fn on_page_loaded(
        &mut self,
        page: PageNo,
        result: Result<PageBuf, DeviceError>,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        match &result {
            Ok(buffer) => self.map.loaded(page, buffer.as_slice()),
            Err(_) => {
                self.map.load_failed(page);
                // Nothing can be held against the map: the next read meets the damage again.
                self.reads.repairs.retain(|block, repair| {
                    PageNo::of(*block) != page || repair.state == RepairState::Writing
                });
            }
        }
        let waiting = |job: &Job| match &job.state {
            JobState::Pages(pages) => pages.contains(&page),
            JobState::Device { .. } => false,
        };
        let jobs = self.reads.jobs.iter();
        let numbers: Vec<u64> = jobs
            .filter(|(_, job)| waiting(job))
            .map(|(&number, _)| number)
            .collect();
        for number in numbers {
            let job = self.reads.jobs.remove(&number).expect("it was just seen");
            let (token, want) = (job.token, job.want);
            let answer = match &result {
                Ok(_) => self.advance_job(number, job, ops),
                Err(error) => Some(Err(ReadFault::Device {
                    range: job.range,
                    error: *error,
                })),
            };
            if let Some(answer) = answer {
                events.push(answer_event(token, want, answer));
            }
        }
    }

    /// Part of a read came from the extents, or did not.
    pub(crate) fn on_extent_read(
        &mut self,
        id: OpId,
        (number, part): (u64, usize),
        result: Result<PageBuf, DeviceError>,
        events: &mut Vec<StoreEvent>,
    ) {
        self.reads.end(id);
        // An overdue read was answered already.
        let Some(mut job) = self.reads.jobs.remove(&number) else {
            return;
        };
        let JobState::Device {
            parts,
            missing,
            fault,
        } = &mut job.state
        else {
            unreachable!("a job reads extents only when its pages are there")
        };
        let Part::Device { range, expected } = &parts[part] else {
            unreachable!("each part is read once")
        };
        let range = *range;
        let checked = match result {
            Ok(buffer) => {
                let payload = buffer.freeze();
                let judged = match self.mutants.has(Mutant::ExtentsNotVerified) {
                    true => Ok(()),
                    false => verify(self.identity.volume, range, expected, &payload),
                };
                judged.map(|()| Segment::Data { range, payload })
            }
            Err(error) => Err(ReadFault::Device { range, error }),
        };
        match checked {
            Ok(segment) => parts[part] = Part::Known(segment),
            Err(found) => *fault = fault.or(Some(found)),
        }
        *missing -= 1;
        if *missing > 0 {
            self.reads.jobs.insert(number, job);
            return;
        }
        let answer = match fault {
            Some(fault) => Err(*fault),
            None => Ok(std::mem::take(parts)),
        };
        events.push(answer_event(job.token, job.want, answer));
    }

    /// Answers the read that waits for an operation which is overdue.
    pub(crate) fn give_up_read(&mut self, purpose: Purpose, events: &mut Vec<StoreEvent>) {
        let numbers: Vec<u64> = match purpose {
            Purpose::ExtentRead { job, .. } => vec![job],
            Purpose::PageLoad(page) => {
                let jobs = self.reads.jobs.iter();
                jobs.filter(|(_, job)| match &job.state {
                    JobState::Pages(pages) => pages.contains(&page),
                    JobState::Device { .. } => false,
                })
                .map(|(&number, _)| number)
                .collect()
            }
            Purpose::Superblock
            | Purpose::PageWrite(_)
            | Purpose::ExtentWrite { .. }
            | Purpose::Repair
            | Purpose::PassFlush
            | Purpose::Discard => Vec::new(),
        };
        for number in numbers {
            if let Some(job) = self.reads.jobs.remove(&number) {
                let fault = ReadFault::Device {
                    range: job.range,
                    error: DeviceError::Overdue,
                };
                events.push(answer_event(job.token, job.want, Err(fault)));
            }
        }
    }

    /// Writes the right content of a damaged block in place; [`StoreEvent::Repaired`] follows.
    ///
    /// `version` is what the fault named. From here until it is written reads get `content`. The
    /// write waits for operations in flight on the block; a newer version that comes meanwhile
    /// takes its place, and no event follows then.
    ///
    /// # Errors
    ///
    /// [`RepairError`]; nothing changed then.
    pub fn repair(
        &mut self,
        block: BlockIndex,
        version: BlockVersion,
        content: Payload,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<(), RepairError> {
        if let Some(fault) = self.fault {
            return Err(RepairError::Failed(fault));
        }
        let superseded = RepairError::Superseded { block };
        let one = BlockRange::new(block, 1).ok_or(superseded)?;
        if !self.holds(one) || self.wants_repair(block, version) == Some(false) {
            return Err(superseded);
        }
        if content.blocks() != 1
            || block_crc(self.identity.volume, block, content.as_slice()) != version.crc
        {
            return Err(RepairError::WrongContent { block });
        }
        // A repair of the same block under way: its content is the same, by its checksum.
        let repair = Repair {
            version,
            content,
            state: RepairState::Waiting,
        };
        self.reads.repairs.entry(block).or_insert(repair);
        self.pump_repairs(ops);
        Ok(())
    }

    /// Whether the newest version of `block` is `version` and lies in the extents; `None` while its
    /// map page is not in memory.
    fn wants_repair(&self, block: BlockIndex, version: BlockVersion) -> Option<bool> {
        let in_memory = self.index.cover(block.get(), block.get() + 1);
        if in_memory.iter().any(|run| run.lsn.is_some()) {
            return Some(false);
        }
        Some(self.map.entry(block)?.is_version(version))
    }

    /// Hands out the repairs whose blocks nobody else reads or writes.
    pub(crate) fn pump_repairs(&mut self, ops: &mut Vec<DeviceOp>) {
        if self.fault.is_some() || self.reads.repairs.is_empty() {
            return;
        }
        let waiting = |repair: &Repair| repair.state == RepairState::Waiting;
        let waiting: Vec<(BlockIndex, BlockVersion)> = (self.reads.repairs.iter())
            .filter(|(_, repair)| waiting(repair))
            .map(|(block, repair)| (*block, repair.version))
            .collect();
        for (block, version) in waiting {
            let one = BlockRange::new(block, 1).expect("it was looked at when it was taken");
            match self.wants_repair(block, version) {
                Some(true) if self.reads.busy(one) => {}
                Some(true) => self.write_repair(one, ops),
                Some(false) => {
                    self.reads.repairs.remove(&block);
                }
                None => self.load_page(PageNo::of(block), ops),
            }
        }
    }

    fn write_repair(&mut self, one: BlockRange, ops: &mut Vec<DeviceOp>) {
        let repair = self.reads.repairs.get_mut(&one.first());
        let repair = repair.expect("only a repair that waits is written");
        repair.state = RepairState::Writing;
        let content = repair.content.clone();
        let id = self.table.issue(
            Purpose::Repair,
            self.layout.block_offset(one.first()),
            DeviceOpKind::Write(vec![content], WriteMode::Durable),
            ops,
        );
        self.reads.begin(id, one);
    }

    /// The record that wrote the newest readable version of `block`: zero if none did, `None` while
    /// its map page is not in memory.
    #[must_use]
    pub fn block_lsn(&self, block: BlockIndex) -> Option<Lsn> {
        let in_memory = self.index.cover(block.get(), block.get() + 1);
        match in_memory.iter().find_map(|run| run.lsn) {
            Some(lsn) => Some(lsn),
            None => self.map.entry(block).map(|entry| entry.lsn),
        }
    }

    fn holds(&self, range: BlockRange) -> bool {
        !range.is_empty() && range.end().get() <= self.layout.size_blocks.get()
    }
}

/// Appends `part`, as one with the last one where both are of a kind.
fn push_merged(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (
            Some(Part::Device { range, expected }),
            Part::Device {
                range: more,
                expected: entries,
            },
        ) if range.end() == more.first() && u64::from(range.count()) < BLOCKS_PER_OP_MAX => {
            *range = joined(*range, more);
            expected.extend(entries);
        }
        (
            Some(Part::Known(Segment::Zero { range, kind })),
            Part::Known(Segment::Zero {
                range: more,
                kind: other,
            }),
        ) if range.end() == more.first() && *kind == other => *range = joined(*range, more),
        (_, part) => parts.push(part),
    }
}

fn joined(a: BlockRange, b: BlockRange) -> BlockRange {
    BlockRange::new(a.first(), a.count() + b.count()).expect("both lie in one request")
}

fn answer_event(token: ReadToken, want: Want, answer: Result<Vec<Part>, ReadFault>) -> StoreEvent {
    match want {
        Want::Content(_) => StoreEvent::ReadDone {
            token,
            result: answer.map(known_segments),
        },
        Want::Status => StoreEvent::StatusDone {
            token,
            result: answer.map(status_runs),
        },
    }
}

fn known_segments(parts: Vec<Part>) -> Vec<Segment> {
    let known = |part| match part {
        Part::Known(segment) => segment,
        Part::Device { .. } => unreachable!("every part of an answered read is known"),
    };
    parts.into_iter().map(known).collect()
}

fn status_runs(parts: Vec<Part>) -> Vec<StatusRun> {
    let mut runs: Vec<StatusRun> = Vec::new();
    for part in parts {
        let (range, state) = match part {
            Part::Known(Segment::Data { range, .. }) | Part::Device { range, .. } => {
                (range, BlockState::Data)
            }
            Part::Known(Segment::Zero { range, kind }) => (range, BlockState::Zero(kind)),
        };
        match runs.last_mut() {
            Some(last) if last.state == state => last.range = joined(last.range, range),
            Some(_) | None => runs.push(StatusRun { range, state }),
        }
    }
    runs
}

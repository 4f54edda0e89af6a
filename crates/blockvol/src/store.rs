//! The store of one replica: superblocks, log, block map, extents and flusher behind one face.
//!
//! It asks for device operations and is told what came of them; the caller calls
//! [`Store::submit`] once per batch of events. The first failed write or flush, or the first
//! operation that is overdue, is sticky: nothing more is written, the durable frontier stays where
//! it is, and reads go on.

use moorline_types::{
    BlockCount, BlockRange, BufferPool, DeviceDone, DeviceError, DeviceOp, DeviceOutcome, Instant,
    Lsn, LsnRange, OpId, OpOwner, PageBuf,
};
use moorline_wal::{
    Log, LogEvent, LogReadError, PinHolder, PinRefused, ReadId, ReadStart, ReclaimLimit, Record,
    RetentionPin,
};

use crate::{
    AppendError, CutError, Durable, FaultKind, StoreEvent, StoreFault, StoreIdentity, Ticket,
    blockmap::BlockMap,
    checkpoint::horizon,
    copies::{Copies, RoundEnd},
    flusher::Flusher,
    index::{RangeIndex, Window},
    layout::{Layout, PageNo},
    mutants::{Mutant, Mutants},
    opening::ImageTrust,
    ops::{OpTable, Purpose},
    reads::Reads,
};

/// How far a replica is. Each is a contiguous prefix; see the module for who moves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Frontiers {
    /// The last record appended.
    pub head: Lsn,
    /// Durable in the log. Moved by the log's flushes; a cut lowers it.
    pub flushed: Lsn,
    /// The extents may hold changes up to here. Moved by the flusher, durably, before it writes.
    pub applied: Lsn,
    /// The extents durably hold everything up to here. Moved by the flusher after its flush.
    pub checkpoint: Lsn,
    /// Records above are retained in the log (exclusive).
    pub tail: Lsn,
    /// As the owner said; permits the flusher to go up to it.
    pub committed: Lsn,
}

/// Whether the store was asked to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closing {
    No,
    /// What may be applied is being applied.
    Draining,
    /// The clean mark is on its way.
    Marking(Ticket),
    Done,
    /// It was said.
    Told,
}

impl Closing {
    pub(crate) const fn is_closing(self) -> bool {
        !matches!(self, Self::No)
    }
}

/// One replica's store. Made by [`StoreOpening`](crate::StoreOpening).
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct Store {
    pub(crate) identity: StoreIdentity,
    pub(crate) layout: Layout,
    pub(crate) pool: BufferPool,
    pub(crate) mutants: Mutants,
    pub(crate) image: ImageTrust,
    pub(crate) table: OpTable,
    pub(crate) copies: Copies,
    pub(crate) log: Log,
    /// The records above the checkpoint.
    pub(crate) window: Window,
    /// Which of them, through `readable`, wrote each block last.
    pub(crate) index: RangeIndex,
    pub(crate) readable: Lsn,
    pub(crate) committed: Lsn,
    pub(crate) lowest_peer: Option<Lsn>,
    pub(crate) map: BlockMap,
    pub(crate) reads: Reads,
    pub(crate) flusher: Flusher,
    pub(crate) closing: Closing,
    pub(crate) fault: Option<StoreFault>,
    /// The durable frontier at the time of the fault.
    pub(crate) frozen_flushed: Option<Lsn>,
    /// The clock as last seen; only used to time operations.
    pub(crate) now: Instant,
    pub(crate) log_events: Vec<LogEvent>,
}

impl Store {
    /// Who the store is.
    #[must_use]
    pub const fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    /// How often it was opened, this time included.
    #[must_use]
    pub fn open_count(&self) -> moorline_types::OpenCount {
        self.copies.superblock().open
    }

    /// Its openings, the one that made this the last.
    #[must_use]
    pub fn openings(&self) -> &moorline_types::Openings {
        &self.copies.superblock().openings
    }

    /// The volume's size.
    #[must_use]
    pub const fn size_blocks(&self) -> BlockCount {
        self.layout.size_blocks
    }

    /// After a copy: pins of its own. The copies of their guards are to be bound to them.
    #[cfg(feature = "simulation")]
    pub fn fork_pins(&mut self) {
        self.log.fork_pins();
    }

    /// Bytes of its log ring.
    #[must_use]
    pub const fn log_bytes(&self) -> u64 {
        self.layout.log_bytes
    }

    /// Where buffers come from.
    #[must_use]
    pub const fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// Whether the image is what the marks say.
    #[must_use]
    pub const fn image(&self) -> ImageTrust {
        self.image
    }

    /// What both superblocks hold.
    #[must_use]
    pub const fn durable(&self) -> &Durable {
        self.copies.durable()
    }

    /// What both superblocks will hold when every ticket is answered.
    #[must_use]
    pub const fn pending(&self) -> &Durable {
        self.copies.pending()
    }

    /// Changes what others rely on. The next [`Store::submit`] writes it to both superblocks;
    /// [`StoreEvent::Persisted`] says that it is durable in both.
    ///
    /// `committed` is the store's own to set: see [`Store::set_committed`].
    pub fn persist(&mut self, change: impl FnOnce(&mut Durable)) -> Ticket {
        self.copies.persist(change)
    }

    /// Queues the record after the head for the log.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing changed then.
    pub fn append(&mut self, record: Record) -> Result<(), AppendError> {
        if let Some(fault) = self.fault {
            return Err(AppendError::Failed(fault));
        }
        assert!(!self.closing.is_closing(), "a closing store takes nothing");
        let range = record.range();
        if range.end().get() > self.layout.size_blocks.get() {
            return Err(AppendError::OutOfRange { range });
        }
        self.log.append(record.clone()).map_err(AppendError::Log)?;
        self.window.push(record);
        Ok(())
    }

    /// The log, to look at.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// Drops every record above `through`: from reads at once, from the log durably when
    /// [`StoreEvent::CutRecorded`] says so.
    ///
    /// # Errors
    ///
    /// [`CutError`]; nothing changed then. After [`CutError::BelowApplied`] the caller persists
    /// `needs_rebuild`: the image is not trusted above the cut.
    pub fn cut(&mut self, through: Lsn) -> Result<(), CutError> {
        if let Some(fault) = self.fault {
            return Err(CutError::Failed(fault));
        }
        let applied = self.copies.applied_wanted();
        if through < applied {
            return Err(CutError::BelowApplied { through, applied });
        }
        let head = self.log.head();
        if through > head {
            return Err(CutError::AboveHead { through, head });
        }
        self.log.cut(through).map_err(CutError::Log)?;
        self.window.truncate(through);
        self.flusher.recount(&self.window, through);
        if self.readable > through {
            self.readable = through;
            self.rebuild_index();
        }
        if self.committed > through {
            // Given up by a recorded decision, or this would not be asked for.
            self.committed = through;
            self.copies.persist(|durable| durable.committed = through);
        }
        Ok(())
    }

    fn rebuild_index(&mut self) {
        self.index.clear();
        for record in self.window.range(self.window_base(), self.readable) {
            self.index.insert(record.range(), record.lsn());
        }
    }

    /// Reads records from memory or the ring. [`ReadStart::Pending`]: an event brings them.
    ///
    /// # Errors
    ///
    /// [`LogReadError`] when they are not retained.
    pub fn read_records(
        &mut self,
        now: Instant,
        read: ReadId,
        range: LsnRange,
        bytes_max: usize,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<ReadStart, LogReadError> {
        self.log.read(now, read, range, bytes_max, ops)
    }

    /// Holds every record above `after` in the log until the guard is dropped.
    ///
    /// # Errors
    ///
    /// [`PinRefused`] when they are not all there.
    pub fn pin(
        &self,
        after: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<RetentionPin, PinRefused> {
        self.log.pin(after, holder, since)
    }

    /// Lets reads see every record through `through`. Never goes back.
    ///
    /// # Panics
    ///
    /// If that is above the head.
    pub fn set_readable(&mut self, through: Lsn) {
        if through <= self.readable {
            return;
        }
        assert!(
            through <= self.window.head(),
            "only appended records are read"
        );
        let fresh = self.window.range(self.readable, through);
        let mut fresh: Vec<&Record> = fresh.collect();
        if self.mutants.has(Mutant::OverlapsReordered) {
            fresh.reverse();
        }
        for record in fresh {
            self.index.insert(record.range(), record.lsn());
        }
        self.readable = through;
    }

    /// Notes that the volume committed every record through `through`, which permits the flusher
    /// to apply them, and lets reads see them. Never goes back.
    ///
    /// # Panics
    ///
    /// If that is above the head: what this replica does not have is the caller's to remember.
    pub fn set_committed(&mut self, through: Lsn) {
        if through <= self.committed {
            return;
        }
        self.set_readable(through);
        self.committed = through;
        self.copies.note_committed(through);
    }

    /// Committed as the owner said, or as found at the open.
    #[must_use]
    pub const fn committed(&self) -> Lsn {
        self.committed
    }

    /// Reads see every record through here.
    #[must_use]
    pub const fn readable(&self) -> Lsn {
        self.readable
    }

    /// The lowest flushed frontier of the connected peers: the log keeps what lies above, while
    /// that costs less than half of it.
    pub const fn set_lowest_peer(&mut self, flushed: Option<Lsn>) {
        self.lowest_peer = flushed;
    }

    /// Hands out everything that is due: once after each batch of events.
    pub fn submit(&mut self, now: Instant, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>) {
        self.now = self.now.max(now);
        if self.fault.is_none() {
            self.log.submit(now, ops);
        }
        self.settle(now, ops, events);
    }

    /// Takes the completion of one operation. Unknown ones are late and change nothing.
    pub fn on_done(
        &mut self,
        now: Instant,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        self.now = self.now.max(now);
        match done.id.owner() {
            OpOwner::Log => {
                let mut log_events = std::mem::take(&mut self.log_events);
                self.log.on_done(now, done, ops, &mut log_events);
                self.take_log_events(&mut log_events, events);
                self.log_events = log_events;
            }
            OpOwner::Superblock | OpOwner::BlockMap | OpOwner::Extents => {
                let DeviceDone { id, result } = done;
                if let Some(purpose) = self.table.finish(id) {
                    self.route(id, purpose, result, ops, events);
                }
            }
            OpOwner::Journal => {}
        }
        self.settle(now, ops, events);
    }

    /// When [`Store::on_deadline`] is to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.fault.is_some() {
            return self.log.next_deadline();
        }
        let own = [
            self.log.next_deadline(),
            self.table.next_deadline(),
            self.flusher.next_deadline(),
        ];
        own.into_iter().flatten().min()
    }

    /// Does what is due by now: the log's idle mark, a flusher's pass; and looks for operations
    /// that are overdue.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        self.now = self.now.max(now);
        let mut log_events = std::mem::take(&mut self.log_events);
        self.log.on_deadline(now, ops, &mut log_events);
        self.take_log_events(&mut log_events, events);
        self.log_events = log_events;
        if self.fault.is_none()
            && let Some((_, purpose)) = self.table.overdue(now)
        {
            let error = DeviceError::Overdue;
            self.fail(operation_fault(purpose, error), events);
            self.give_up_read(purpose, events);
        }
        self.settle(now, ops, events);
    }

    /// How far the replica is.
    #[must_use]
    pub fn frontiers(&self) -> Frontiers {
        Frontiers {
            head: self.log.head(),
            flushed: self.flushed(),
            applied: self.copies.applied(),
            checkpoint: self.copies.checkpoint(),
            tail: self.log.tail(),
            committed: self.committed,
        }
    }

    /// How full the log is, in percent, rounded up.
    #[must_use]
    pub fn fill(&self) -> u8 {
        self.log.fill()
    }

    /// What keeps the log's tail where it is.
    #[must_use]
    pub fn log_limit(&self) -> ReclaimLimit {
        horizon(&self.log, self.copies.checkpoint(), self.lowest_peer).limited_by
    }

    /// Log bytes per second that the flusher makes room for: of its last passes, or of the one
    /// under way when that is slower. `None` before the first one ended.
    #[must_use]
    pub fn drain_rate(&self, now: Instant) -> Option<u64> {
        self.flusher.drain_rate(now)
    }

    /// Bytes of records that the extents do not durably hold.
    #[must_use]
    pub const fn dirty_bytes(&self) -> u64 {
        self.window.stored_bytes()
    }

    /// Why the store takes no more writes, if it does not.
    #[must_use]
    pub const fn failed(&self) -> Option<StoreFault> {
        self.fault
    }

    /// Whether every committed record is in the extents and nothing is in flight.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.table.is_empty()
            && self.log.is_quiet()
            && self.copies.is_idle()
            && self.reads.is_empty()
            && self.appliable() <= self.window_base()
    }

    /// Closes in order: applies what is committed, marks the store clean, then says
    /// [`StoreEvent::ShutDown`]. The caller appends nothing from here on. A store that failed
    /// says nothing more.
    pub fn shutdown(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Draining;
        }
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn assert_invariants(&self) {
        let at = self.frontiers();
        assert!(
            at.flushed <= at.head,
            "flushed {} head {}",
            at.flushed,
            at.head
        );
        assert!(
            at.checkpoint <= at.applied,
            "checkpoint above the applied mark"
        );
        assert!(self.committed <= self.readable, "committed above readable");
        assert_eq!(
            self.window_base(),
            at.checkpoint,
            "the window starts at the checkpoint"
        );
        if self.image.is_trusted() {
            assert!(
                at.tail <= at.checkpoint,
                "the log lacks what the extents lack"
            );
            assert_eq!(self.window.head(), at.head, "the window ends at the head");
            assert!(self.readable <= at.head, "readable above the head");
        }
    }

    pub(crate) const fn window_base(&self) -> Lsn {
        self.window.base()
    }

    /// Durable in the log; frozen by a fault.
    pub(crate) fn flushed(&self) -> Lsn {
        let flushed = self.log.flushed();
        self.frozen_flushed
            .map_or(flushed, |frozen| frozen.min(flushed))
    }

    /// What every entry ends with: the flusher, the superblocks, the cache's bound, the clock.
    fn settle(&mut self, now: Instant, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>) {
        self.pump_repairs(ops);
        self.run_flusher(now, ops);
        self.advance_closing();
        self.poll_copies(ops, events);
        let (reads, flusher) = (&self.reads, &self.flusher);
        self.map
            .shrink(|page: PageNo| reads.wants(page) || flusher.wants(page));
        self.table.stamp(now);
        self.finish_closing(events);
        self.assert_invariants();
    }

    fn poll_copies(&mut self, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>) {
        if self.fault.is_some() {
            return;
        }
        loop {
            let end = self.copies.poll(&mut self.table, ops);
            let ended = matches!(end, Ok(Some(_)));
            self.after_round(end, ops, events);
            if !ended {
                return;
            }
        }
    }

    fn after_round(
        &mut self,
        end: Result<Option<RoundEnd>, StoreFault>,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        match end {
            Ok(None) => {}
            Ok(Some(end)) => {
                if let Some(ticket) = end.ticket {
                    events.push(StoreEvent::Persisted { ticket });
                    if self.closing == Closing::Marking(ticket) {
                        self.closing = Closing::Done;
                    }
                }
                self.flusher_on_round(ops, events);
            }
            Err(fault) => self.fail(fault, events),
        }
    }

    fn advance_closing(&mut self) {
        let drained = self.closing == Closing::Draining
            && self.fault.is_none()
            && self.flusher.is_resting()
            && self.appliable() <= self.window_base()
            && self.flushed() == self.log.head()
            && self.log.is_quiet();
        if drained {
            let ticket = self.copies.persist(|durable| durable.clean_shutdown = true);
            self.closing = Closing::Marking(ticket);
        }
    }

    fn finish_closing(&mut self, events: &mut Vec<StoreEvent>) {
        if self.closing == Closing::Done && self.table.is_empty() && self.log.is_quiet() {
            self.closing = Closing::Told;
            events.push(StoreEvent::ShutDown);
        }
    }

    fn take_log_events(&mut self, from: &mut Vec<LogEvent>, events: &mut Vec<StoreEvent>) {
        for event in from.drain(..) {
            match event {
                LogEvent::Flushed { through } => {
                    if self.fault.is_none() {
                        events.push(StoreEvent::Flushed { through });
                    }
                }
                LogEvent::CutRecorded { through } => {
                    if self.fault.is_none() {
                        events.push(StoreEvent::CutRecorded { through });
                    }
                }
                LogEvent::RecordsRead { read, result } => {
                    events.push(StoreEvent::RecordsRead { read, result });
                }
                LogEvent::Failed { error, .. } => self.fail(StoreFault::Log { error }, events),
            }
        }
    }

    fn route(
        &mut self,
        id: OpId,
        purpose: Purpose,
        result: Result<DeviceOutcome, DeviceError>,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        match purpose {
            Purpose::PageLoad(page) => {
                let result = as_read(result);
                if let Err(error) = &result
                    && self.pass_wants(page)
                {
                    self.fail(operation_fault(purpose, *error), events);
                }
                self.on_page_loaded(page, result, ops, events);
                self.pump_after_read(ops);
            }
            Purpose::ExtentRead { job, part } => {
                self.on_extent_read(id, (job, part), as_read(result), events);
                self.pump_after_read(ops);
            }
            Purpose::Discard => self.on_discarded(ops),
            Purpose::Superblock
            | Purpose::PageWrite(_)
            | Purpose::ExtentWrite { .. }
            | Purpose::Repair
            | Purpose::PassFlush => {
                let busy = self.reads.end(id);
                match as_done(purpose, &result) {
                    // After a fault a later success proves nothing.
                    Ok(()) if self.fault.is_some() => {}
                    Ok(()) => self.on_written(purpose, busy, ops, events),
                    Err(fault) => self.fail(fault, events),
                }
            }
        }
    }

    fn on_written(
        &mut self,
        purpose: Purpose,
        busy: Option<BlockRange>,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<StoreEvent>,
    ) {
        match purpose {
            Purpose::Superblock => {
                let end = self.copies.on_written(&mut self.table, ops);
                self.after_round(end, ops, events);
            }
            Purpose::PageWrite(page) => self.on_page_written(page, ops),
            Purpose::ExtentWrite { bytes } => self.on_extent_written(bytes, ops),
            Purpose::Repair => {
                if let Some(range) = busy {
                    let block = range.first();
                    self.reads.repairs.remove(&block);
                    events.push(StoreEvent::Repaired { block });
                }
                self.pump_after_read(ops);
            }
            Purpose::PassFlush => self.on_pass_flushed(),
            Purpose::PageLoad(_) | Purpose::ExtentRead { .. } | Purpose::Discard => {
                unreachable!("reads and discards were routed before")
            }
        }
    }

    /// The first fault decides; what comes later changes nothing.
    fn fail(&mut self, fault: StoreFault, events: &mut Vec<StoreEvent>) {
        if self.fault.is_some() {
            return;
        }
        self.frozen_flushed = Some(self.log.flushed());
        self.fault = Some(fault);
        events.push(StoreEvent::Failed { fault });
    }
}

fn as_read(result: Result<DeviceOutcome, DeviceError>) -> Result<PageBuf, DeviceError> {
    match result {
        Ok(DeviceOutcome::Read(buffer)) => Ok(buffer),
        Ok(DeviceOutcome::Written | DeviceOutcome::Flushed | DeviceOutcome::Discarded) => {
            // The device mixed up its answers: nothing was read.
            Err(DeviceError::Short { done: 0, wanted: 1 })
        }
        Err(error) => Err(error),
    }
}

fn as_done(
    purpose: Purpose,
    result: &Result<DeviceOutcome, DeviceError>,
) -> Result<(), StoreFault> {
    match (purpose, result) {
        (Purpose::PassFlush, Ok(DeviceOutcome::Flushed)) => Ok(()),
        (Purpose::PassFlush, Ok(_)) => Err(wrong_answer(purpose)),
        (_, Ok(DeviceOutcome::Written)) => Ok(()),
        (_, Ok(_)) => Err(wrong_answer(purpose)),
        (_, Err(error)) => Err(operation_fault(purpose, *error)),
    }
}

const fn operation_fault(purpose: Purpose, error: DeviceError) -> StoreFault {
    StoreFault::Operation {
        owner: purpose.owner(),
        kind: purpose.fault_kind(),
        error,
    }
}

const fn wrong_answer(purpose: Purpose) -> StoreFault {
    StoreFault::Operation {
        owner: purpose.owner(),
        kind: FaultKind::WrongAnswer,
        error: DeviceError::Short { done: 0, wanted: 1 },
    }
}

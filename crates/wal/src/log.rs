//! Append, flush, read.

use std::time::Duration;

use moorline_types::{
    BufferPool, DeviceDone, DeviceError, DeviceOp, Epoch, EpochStart, Instant, Lsn, LsnRange,
    OpenCount, StoreId, VolumeId, WriteMode,
};

use crate::{
    error::{AppendError, CutError, LogReadError, PinRefused},
    history::RetainedHistory,
    mutants::Mutants,
    pin::{PinHolder, PinInfo, PinTable, RetentionPin},
    record::{Record, RecordHeader},
    recover::LogDamage,
};

/// Where the ring lies in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRegion {
    /// First byte, a multiple of 4096.
    pub offset: u64,
    /// Length in bytes, a multiple of 4096.
    pub bytes: u64,
}

/// What a log is told when it is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// The volume: part of every checksum.
    pub volume: VolumeId,
    /// The store: frames of another one are no frames.
    pub store: StoreId,
    /// This open of the store, raised durably before: sequence numbers of different opens differ.
    pub open: OpenCount,
    /// Where the ring lies.
    pub region: LogRegion,
    /// Where header blocks and read buffers come from.
    pub pool: BufferPool,
    /// Most frames that are submitted and not yet durable. Default 4.
    pub frames_in_flight_max: usize,
    /// Whether a completed frame write is durable by itself. Default [`WriteMode::Cached`].
    pub write_mode: WriteMode,
    /// After how long an operation without completion poisons the log. Default 5 s.
    pub operation_timeout: Duration,
    /// Planted bugs. Default none.
    pub mutants: Mutants,
}

impl LogConfig {
    /// A configuration with the defaults.
    #[must_use]
    pub fn new(
        volume: VolumeId,
        store: StoreId,
        open: OpenCount,
        region: LogRegion,
        pool: BufferPool,
    ) -> Self {
        Self {
            volume,
            store,
            open,
            region,
            pool,
            frames_in_flight_max: 4,
            write_mode: WriteMode::Cached,
            operation_timeout: Duration::from_secs(5),
            mutants: Mutants::NONE,
        }
    }
}

/// Where opening starts: persisted in the superblocks by the store.
///
/// A freshly formatted store (ring all zeroes) has [`LogAnchor::default`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogAnchor {
    /// Records at or below are not needed any more (exclusive).
    pub tail: Lsn,
    /// Where the first retained frame begins, in bytes from the start of the ring.
    pub position: u64,
    /// Sequence number of the frame *before* the first retained one.
    pub sequence: u64,
    /// Checksum of the frame *before* the first retained one.
    pub previous_crc: u32,
}

/// Names one read; chosen by the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub u64);

/// What became of a read at once.
#[derive(Debug)]
#[must_use]
pub enum ReadStart {
    /// Everything was in memory; no event follows.
    Ready(Vec<Record>),
    /// [`LogEvent::RecordsRead`] follows.
    Pending,
}

/// Where a retained record is.
#[derive(Clone, Debug)]
pub enum RecordAt {
    /// In memory, payload included.
    Memory(Record),
    /// Only its header is in memory; the payload must be read.
    Ring,
}

/// A kind of device operation of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogOperation {
    /// Writing a frame.
    FrameWrite,
    /// Flushing frames.
    Flush,
    /// Reading payloads back.
    Read,
}

/// What happened to the log.
#[derive(Debug)]
pub enum LogEvent {
    /// Every record at or below is durable. Rises only, but for a cut.
    Flushed {
        /// Contiguous from the first record.
        through: Lsn,
    },
    /// A cut is durable: what was above is gone for ever.
    CutRecorded {
        /// The last record that was kept.
        through: Lsn,
    },
    /// A read that was pending ended.
    RecordsRead {
        /// The caller's name for it.
        read: ReadId,
        /// Dense records from the one after the range's lower end, all verified; fewer than asked
        /// for when the byte limit was reached.
        result: Result<Vec<Record>, LogReadError>,
    },
    /// A frame write or flush failed, or any operation is overdue: the log is poisoned. Said once.
    Failed {
        /// What the device said.
        error: DeviceError,
        /// What it was asked for.
        operation: LogOperation,
    },
}

/// The log of one replica. See the crate's page for how it is driven.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    history: RetainedHistory,
    pins: PinTable,
}

#[allow(clippy::todo)]
impl Log {
    /// Queues the record after the head. It stays in memory until [`Log::release_memory`].
    ///
    /// # Errors
    ///
    /// [`AppendError`]; the log is unchanged then.
    pub fn append(&mut self, record: Record) -> Result<(), AppendError> {
        let _ = record;
        todo!()
    }

    /// Forms frames out of everything queued and asks for what is due. Once per batch of events.
    pub fn submit(&mut self, now: Instant, ops: &mut Vec<DeviceOp>) {
        let _ = (now, ops);
        todo!()
    }

    /// Drops every record above `through` from the index at once and queues the cut behind what is
    /// in flight; [`LogEvent::CutRecorded`] follows when it is durable. The next
    /// [`Log::submit`] writes it.
    ///
    /// # Errors
    ///
    /// [`CutError`]; the log is unchanged then.
    pub fn cut(&mut self, through: Lsn) -> Result<(), CutError> {
        let _ = through;
        todo!()
    }

    /// Takes the completion of one operation. Late ones, and those of other owners, are dropped.
    pub fn on_done(
        &mut self,
        now: Instant,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<LogEvent>,
    ) {
        let _ = (now, done, ops, events);
        todo!()
    }

    /// When [`Log::on_deadline`] is to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// Writes the idle mark if it is due, and poisons the log if an operation is overdue.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<LogEvent>,
    ) {
        let _ = (now, ops, events);
        todo!()
    }

    /// The last record appended.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.history.head()
    }

    /// Every record at or below is durable. Advanced by completions; a cut lowers it.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        todo!()
    }

    /// Records at or below were reclaimed (exclusive).
    #[must_use]
    pub fn tail(&self) -> Lsn {
        self.history.tail()
    }

    /// Each epoch's first record, ascending; reclaimed ones included.
    #[must_use]
    pub fn history(&self) -> &[EpochStart] {
        self.history.starts()
    }

    /// The epoch of the last record; [`Epoch::ZERO`] before the first.
    #[must_use]
    pub fn last_record_epoch(&self) -> Epoch {
        self.history.last_epoch()
    }

    /// The epoch that wrote `lsn`; `None` where unknown.
    #[must_use]
    pub fn epoch_of(&self, lsn: Lsn) -> Option<Epoch> {
        self.history.epoch_of(lsn)
    }

    /// Where a retained record is; `None` when it is not retained.
    #[must_use]
    pub fn record(&self, lsn: Lsn) -> Option<RecordAt> {
        let _ = lsn;
        todo!()
    }

    /// The header of a retained record, always in memory.
    #[must_use]
    pub fn header(&self, lsn: Lsn) -> Option<&RecordHeader> {
        let _ = lsn;
        todo!()
    }

    /// Lets go of the payloads of records at or below `through` as soon as they are durable.
    pub fn release_memory(&mut self, through: Lsn) {
        let _ = through;
        todo!()
    }

    /// Reads records from `range`, in order, until `bytes_max` stored bytes or its end; at least
    /// one. The piece of the ring is held until the read ended.
    ///
    /// # Errors
    ///
    /// [`LogReadError::Reclaimed`] or [`LogReadError::AboveHead`]; the rest comes as an event.
    pub fn read(
        &mut self,
        now: Instant,
        read: ReadId,
        range: LsnRange,
        bytes_max: usize,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<ReadStart, LogReadError> {
        let _ = (now, read, range, bytes_max, ops);
        todo!()
    }

    /// Holds every record above `after` until the guard is dropped.
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
        let _ = (after, holder, since);
        todo!()
    }

    /// The table of pins: also the place for snapshot and full-base pins, and for breaking pins.
    #[must_use]
    pub fn pin_table(&self) -> &PinTable {
        &self.pins
    }

    /// Every live pin, oldest first.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        self.pins.list()
    }

    /// The anchor that keeps every record above `through`: what the store puts in its superblocks
    /// *before* it calls [`Log::reclaim`]. Held back by pins and by reads in flight, and never
    /// above the flushed frontier: look at its `tail`.
    #[must_use]
    pub fn anchor_at(&self, through: Lsn) -> LogAnchor {
        let _ = through;
        todo!()
    }

    /// Frees the ring below the first frame that holds a record above `through`, and forgets the
    /// records at or below. *Both* superblocks must already name an anchor of [`Log::anchor_at`]
    /// whose tail is at or above `through`. Held back by pins and by reads in flight; the answer
    /// is the anchor that was reached.
    pub fn reclaim(&mut self, through: Lsn) -> LogAnchor {
        let _ = through;
        todo!()
    }

    /// Bytes of the ring in use, waste at its end and queued records included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        todo!()
    }

    /// Size of the ring in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.config.region.bytes
    }

    /// Bytes of the ring in use, in percent, rounded up.
    #[must_use]
    pub fn fill(&self) -> u8 {
        todo!()
    }

    /// Ring bytes from the frame of the first record above `after` to the end of the log.
    #[must_use]
    pub fn bytes_after(&self, after: Lsn) -> u64 {
        let _ = after;
        todo!()
    }

    /// Why the log is poisoned, if it is.
    #[must_use]
    pub fn failed(&self) -> Option<DeviceError> {
        todo!()
    }

    /// The damage that opening found, if any: the log is read only then.
    #[must_use]
    pub fn damaged(&self) -> Option<&LogDamage> {
        todo!()
    }

    /// Whether nothing is queued or in flight, the idle mark included.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        todo!()
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn assert_invariants(&self) {
        todo!()
    }
}

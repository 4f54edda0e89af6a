//! The log of one replica while it is open: its state, and what can be asked of it.
//!
//! ```text
//! append -> queued -> submitted -> written -> flushed         (a frame at a time, frames in order)
//!   slot:   Queued    Memory ...................... Ring       (Ring: the payload was released)
//! ```
//!
//! Frames may complete out of order; the flushed frontier follows the unbroken run of durable
//! frames only. After one failed or overdue frame write or flush the log is poisoned: the frontier
//! freezes and nothing is retried. A *read* that fails says nothing about what is durable: only
//! its caller hears of it, unless it is overdue, because then the device hangs.

mod commit;
mod reading;
mod space;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use moorline_types::{
    BufferPool, DeviceError, DeviceOp, DeviceOpKind, Epoch, EpochStart, Instant, Lsn, OpId,
    OpOwner, OpenCount, StoreId, VolumeId, WriteMode,
};

pub(crate) use self::commit::Placed;
use self::reading::PendingRead;
use crate::{
    error::{LogReadError, PinRefused},
    frame::{FrameHeader, FrameKind, SEQUENCE_END},
    history::RetainedHistory,
    mutants::Mutants,
    pin::{FullBasePin, PinHolder, PinInfo, PinTable, RetentionPin, SnapshotPin},
    record::{Record, RecordHeader},
    recover::{LogDamage, Recovered},
    ring::Ring,
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
/// A superblock's anchor never goes back: a store that has asked for one of [`Log::anchor_at`] to
/// be written never writes one with a lower tail or sequence afterwards.
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
#[cfg_attr(feature = "simulation", derive(Clone))]
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
#[cfg_attr(feature = "simulation", derive(Clone))]
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
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct Log {
    config: LogConfig,
    health: Health,
    /// Tail, head and epochs.
    history: RetainedHistory,
    /// One per retained record: place `n` holds LSN tail + 1 + n.
    slots: VecDeque<Slot>,
    queue: VecDeque<Queued>,
    queued_bytes: u64,
    /// Frames from the first retained one on. Those up to `durable_frames` are durable.
    frames: VecDeque<FrameEntry>,
    durable_frames: usize,
    /// The frame before the first of `frames`.
    before: ChainLink,
    /// The last frame formed.
    last: ChainLink,
    next_sequence: u64,
    ring: Ring,
    /// Every record at or below is durable. Raised by completions, lowered by a cut.
    flushed: Lsn,
    /// Payloads at or below may go once durable; set by the caller.
    released: Lsn,
    /// Payloads at or below are gone.
    memory_floor: Lsn,
    operations: BTreeMap<u64, InFlight>,
    next_serial: u64,
    reads: BTreeMap<u64, PendingRead>,
    next_read: u64,
    /// When the idle mark is due.
    mark_due: Option<Instant>,
    pins: PinTable,
}

#[derive(Clone, Copy, Debug)]
enum Health {
    Good,
    Poisoned(DeviceError),
    Damaged(LogDamage),
}

#[derive(Clone, Debug)]
enum Slot {
    /// Not in a frame yet.
    Queued(Record),
    /// In a frame; its payload begins at this byte of the ring.
    Memory(Record, u64),
    /// Likewise, and only the ring has the payload.
    Ring(RecordHeader, u64),
}

impl Slot {
    fn header(&self) -> &RecordHeader {
        match self {
            Self::Queued(record) | Self::Memory(record, _) => record.header(),
            Self::Ring(header, _) => header,
        }
    }
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Queued {
    Record(Record),
    Cut { through: Lsn },
}

/// A frame as its successor names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ChainLink {
    sequence: u64,
    crc: u32,
}

#[derive(Clone, Copy, Debug)]
struct FrameEntry {
    link: ChainLink,
    position: u64,
    bytes: u64,
    /// The highest LSN in it, or before it, that opening could still bring back: lowered once a
    /// later cut is durable. The frame is needed while this is above the anchor's tail.
    last: Lsn,
    kind: EntryKind,
    state: FrameState,
}

#[derive(Clone, Copy, Debug)]
enum EntryKind {
    Records {
        /// What becomes flushed with it: lowered as soon as a cut is asked for.
        flushes: Lsn,
    },
    Cut {
        through: Lsn,
    },
    Mark,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FrameState {
    Submitted,
    Written,
    /// Written before the flush in flight was submitted.
    Flushing,
    Durable,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    deadline: Instant,
    what: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Frame { sequence: u64 },
    Flush,
    Read { read: u64, piece: usize },
}

impl Asked {
    fn operation(self) -> LogOperation {
        match self {
            Self::Frame { .. } => LogOperation::FrameWrite,
            Self::Flush => LogOperation::Flush,
            Self::Read { .. } => LogOperation::Read,
        }
    }
}

impl Log {
    /// The log that opening found.
    pub(crate) fn recovered(
        config: LogConfig,
        anchor: LogAnchor,
        found: Recovered,
        next_serial: u64,
    ) -> Self {
        let before = ChainLink {
            sequence: anchor.sequence,
            crc: anchor.previous_crc,
        };
        let mut frames: VecDeque<FrameEntry> = VecDeque::with_capacity(found.frames.len());
        for header in &found.frames {
            let before = frames.back().map_or(anchor.tail, |frame| frame.last);
            frames.push_back(FrameEntry::new(header, before, FrameState::Durable));
        }
        let last = frames.back().map_or(before, |frame| frame.link);
        let write = frames
            .back()
            .map_or(anchor.position, |frame| frame.position + frame.bytes);
        let head = found.history.head();
        let mut log = Self {
            health: found.findings.damaged.map_or(Health::Good, Health::Damaged),
            history: found.history,
            slots: found
                .records
                .into_iter()
                .map(|(header, at)| Slot::Ring(header, at))
                .collect(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            durable_frames: frames.len(),
            frames,
            before,
            last,
            next_sequence: first_sequence(&config, found.highest_sequence),
            ring: Ring {
                bytes: config.region.bytes,
                write,
            },
            flushed: head,
            released: head,
            memory_floor: head,
            operations: BTreeMap::new(),
            next_serial,
            reads: BTreeMap::new(),
            next_read: 0,
            mark_due: None,
            pins: PinTable::new(),
            config,
        };
        log.settle_cuts();
        log.assert_invariants();
        log
    }

    /// The last record appended.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.history.head()
    }

    /// Every record at or below is durable. Advanced by completions; a cut lowers it.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.flushed
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

    /// The epochs together with tail and head.
    #[must_use]
    pub fn retained(&self) -> &RetainedHistory {
        &self.history
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
        Some(match self.slot(lsn)? {
            Slot::Queued(record) | Slot::Memory(record, _) => RecordAt::Memory(record.clone()),
            Slot::Ring(..) => RecordAt::Ring,
        })
    }

    /// The header of a retained record, always in memory.
    #[must_use]
    pub fn header(&self, lsn: Lsn) -> Option<&RecordHeader> {
        self.slot(lsn).map(Slot::header)
    }

    /// Lets go of the payloads of records at or below `through` as soon as they are durable.
    pub fn release_memory(&mut self, through: Lsn) {
        self.released = self.released.max(through.min(self.head()));
        self.free_memory();
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
        self.check_pin(after)?;
        self.pins.retain(after, holder, since)
    }

    /// Holds the image at checkpoint `at`, and every record above it until that is let go.
    ///
    /// # Errors
    ///
    /// [`PinRefused`] when the records are not all there.
    pub fn pin_snapshot(
        &self,
        at: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<SnapshotPin, PinRefused> {
        self.check_pin(at)?;
        self.pins.snapshot(at, holder, since)
    }

    /// Holds the whole image, and every record above `at` until that is let go.
    ///
    /// # Errors
    ///
    /// [`PinRefused`] when the records are not all there.
    pub fn pin_full_base(
        &self,
        at: Lsn,
        holder: PinHolder,
        since: Instant,
    ) -> Result<FullBasePin, PinRefused> {
        self.check_pin(at)?;
        self.pins.full_base(at, holder, since)
    }

    fn check_pin(&self, after: Lsn) -> Result<(), PinRefused> {
        let (tail, head) = (self.tail(), self.head());
        if after < tail {
            return Err(PinRefused::Reclaimed { after, tail });
        }
        if after > head {
            return Err(PinRefused::AboveHead { after, head });
        }
        Ok(())
    }

    /// After a copy: pins of its own. The copies of their guards are to be bound to them.
    #[cfg(feature = "simulation")]
    pub fn fork_pins(&mut self) {
        self.pins = self.pins.fork();
    }

    /// The table of pins, for whoever breaks pins.
    #[must_use]
    pub fn pin_table(&self) -> &PinTable {
        &self.pins
    }

    /// Every live pin, oldest first.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        self.pins.list()
    }

    /// Why the log is poisoned, if it is.
    #[must_use]
    pub fn failed(&self) -> Option<DeviceError> {
        match self.health {
            Health::Poisoned(error) => Some(error),
            Health::Good | Health::Damaged(_) => None,
        }
    }

    /// The damage that opening found, if any: the log is read only then.
    #[must_use]
    pub fn damaged(&self) -> Option<LogDamage> {
        match self.health {
            Health::Damaged(damage) => Some(damage),
            Health::Good | Health::Poisoned(_) => None,
        }
    }

    /// Whether nothing is queued or in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty()
            && self.operations.is_empty()
            && self.durable_frames == self.frames.len()
    }

    /// Checks what must always hold. Cheap enough to run at both ends of every step.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn assert_invariants(&self) {
        let (tail, head) = (self.tail(), self.head());
        assert!(tail <= self.flushed, "what was reclaimed was flushed");
        assert!(self.flushed <= head, "what is flushed was appended");
        assert!(
            self.memory_floor <= self.flushed,
            "memory is kept until durable"
        );
        assert_eq!(
            self.slots.len() as u64,
            head.distance_from(tail),
            "one slot per record"
        );
        assert!(self.durable_frames <= self.frames.len());
        assert!(self.frames.len() - self.durable_frames <= self.config.frames_in_flight_max);
        assert!(
            self.next_sequence > self.last.sequence,
            "sequences are never used twice"
        );
        assert!(self.ring.write <= self.ring.bytes);
        assert!(self.used_bytes() <= self.ring.bytes.saturating_add(self.queued_bytes()));
    }

    fn slot(&self, lsn: Lsn) -> Option<&Slot> {
        self.slots.get(self.place_of(lsn)?)
    }

    fn place_of(&self, lsn: Lsn) -> Option<usize> {
        let place = lsn.get().checked_sub(self.tail().get())?.checked_sub(1)?;
        usize::try_from(place).ok()
    }

    /// Drops payloads that were released and are durable.
    fn free_memory(&mut self) {
        let through = self.released.min(self.flushed);
        while self.memory_floor < through {
            self.memory_floor = self.memory_floor.next();
            let place = self
                .place_of(self.memory_floor)
                .expect("the floor is not below the tail");
            let slot = &mut self.slots[place];
            if let Slot::Memory(record, position) = slot {
                *slot = Slot::Ring(record.header().clone(), *position);
            }
        }
    }

    fn ask(
        &mut self,
        now: Instant,
        what: Asked,
        offset: u64,
        kind: DeviceOpKind,
        ops: &mut Vec<DeviceOp>,
    ) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let deadline = now.after(self.config.operation_timeout);
        self.operations.insert(serial, InFlight { deadline, what });
        ops.push(DeviceOp {
            id: OpId::new(OpOwner::Log, serial),
            offset,
            kind,
        });
    }
}

impl FrameEntry {
    /// The frame with this header, behind one whose `last` is `before`.
    fn new(header: &FrameHeader, before: Lsn, state: FrameState) -> Self {
        let last = header.last().unwrap_or(before);
        Self {
            link: ChainLink {
                sequence: header.sequence,
                crc: header.crc,
            },
            position: header.position,
            bytes: header.total_bytes(),
            last,
            kind: match header.kind {
                FrameKind::Records { .. } => EntryKind::Records { flushes: last },
                FrameKind::Cut { through } => EntryKind::Cut { through },
                FrameKind::Mark => EntryKind::Mark,
            },
            state,
        }
    }
}

/// The first sequence number of this open: above every readable one by more than what can have
/// been in flight and is unreadable, and in this open's own range while that is possible.
fn first_sequence(config: &LogConfig, highest: u64) -> u64 {
    let own_range = config
        .open
        .get()
        .checked_mul(1 << 40)
        .filter(|first| *first < SEQUENCE_END / 2);
    (highest + config.frames_in_flight_max as u64 + 1).max(own_range.unwrap_or(0))
}

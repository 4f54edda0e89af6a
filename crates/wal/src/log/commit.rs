//! Group commit: from queued records to the flushed frontier.

use std::time::Duration;

use moorline_types::{
    DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, Instant, Lsn, OpOwner, Payload,
    WriteMode,
};

use super::{
    Asked, ChainLink, EntryKind, FrameEntry, FrameState, Health, Log, LogEvent, Queued, Slot,
};
use crate::{
    error::{AppendError, CutError},
    frame::{FRAME_BYTES_MAX, FrameHeader, FrameKind, frame_bytes},
    mutants::Mutant,
    record::{Record, RecordKind},
};

/// After how long an idle log marks its last flush; a frame must be written within 10 ms.
const IDLE_MARK_AFTER: Duration = Duration::from_millis(8);

/// Whether a frame found room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Placed {
    /// It is on its way.
    Yes,
    /// Not until something is reclaimed.
    NoRoom,
}

/// The records at the front of the queue that go into one frame.
#[derive(Clone, Copy, Debug)]
struct Batch {
    count: usize,
    record_bytes: usize,
    payload_bytes: usize,
    opens: Opens,
}

/// Whether records open an epoch. A candidate's log may be full of records that only its mark can
/// commit: that one finds room when no other does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opens {
    Nothing,
    AnEpoch,
}

impl Opens {
    fn of(record: &Record) -> Self {
        match record.header().kind() {
            RecordKind::EpochMark => Self::AnEpoch,
            RecordKind::Write | RecordKind::Trim | RecordKind::WriteZeroes => Self::Nothing,
        }
    }

    fn or(self, other: Self) -> Self {
        match self {
            Self::AnEpoch => Self::AnEpoch,
            Self::Nothing => other,
        }
    }
}

impl Log {
    /// Queues the record after the head. It stays in memory until [`Log::release_memory`].
    ///
    /// # Errors
    ///
    /// [`AppendError`]; the log is unchanged then.
    pub fn append(&mut self, record: Record) -> Result<(), AppendError> {
        match self.health {
            Health::Good => {}
            Health::Poisoned(error) => return Err(AppendError::Poisoned(error)),
            Health::Damaged(damage) => {
                return Err(AppendError::Damaged {
                    after: damage.after,
                });
            }
        }
        let (head, last) = (self.head(), self.last_record_epoch());
        if head.checked_advance(1) != Some(record.lsn()) {
            let have = record.lsn();
            return Err(AppendError::NotNext { head, have });
        }
        if record.epoch() < last {
            let have = record.epoch();
            return Err(AppendError::EpochWentBack { last, have });
        }
        let alone = frame_bytes(record.header_bytes().len(), record.payload().len());
        let bytes_max = self.ring.frame_bytes_max();
        if alone > bytes_max {
            return Err(AppendError::TooLarge {
                bytes: alone,
                bytes_max,
            });
        }
        let free = self.free_bytes(Opens::of(&record));
        if alone > free {
            return Err(AppendError::Full {
                needed: alone,
                free,
            });
        }
        self.history.push(record.lsn(), record.epoch());
        self.queued_bytes += record.stored_bytes() as u64;
        self.slots.push_back(Slot::Queued(record.clone()));
        self.queue.push_back(Queued::Record(record));
        Ok(())
    }

    /// Drops every record above `through` from the index at once and queues the cut behind what is
    /// in flight; [`LogEvent::CutRecorded`] follows when it is durable. The next
    /// [`Log::submit`] writes it.
    ///
    /// Never below the tail of an anchor that a superblock names or is about to name: the caller
    /// cuts at or above its applied mark.
    ///
    /// # Errors
    ///
    /// [`CutError`]; the log is unchanged then.
    pub fn cut(&mut self, through: Lsn) -> Result<(), CutError> {
        match self.health {
            Health::Good => {}
            Health::Poisoned(error) => return Err(CutError::Poisoned(error)),
            Health::Damaged(damage) => {
                return Err(CutError::Damaged {
                    after: damage.after,
                });
            }
        }
        let (tail, head) = (self.tail(), self.head());
        if through < tail {
            return Err(CutError::BelowTail { through, tail });
        }
        if through > head {
            return Err(CutError::AboveHead { through, head });
        }
        // Records that no frame holds yet need no frame; cuts that wait stay in their place.
        let queued_bytes = &mut self.queued_bytes;
        self.queue.retain(|queued| match queued {
            Queued::Record(record) if record.lsn() > through => {
                *queued_bytes -= record.stored_bytes() as u64;
                false
            }
            Queued::Record(_) | Queued::Cut { .. } => true,
        });
        self.queue.push_back(Queued::Cut { through });
        let keep = through.distance_from(tail);
        self.slots
            .truncate(usize::try_from(keep).expect("slots are in memory"));
        self.history.cut(through);
        self.flushed = self.flushed.min(through);
        self.released = self.released.min(through);
        self.memory_floor = self.memory_floor.min(through);
        for frame in self.frames.range_mut(self.durable_frames..) {
            if let EntryKind::Records { flushes } = &mut frame.kind {
                *flushes = (*flushes).min(through);
            }
        }
        self.assert_invariants();
        Ok(())
    }

    /// Forms frames out of everything queued and asks for what is due. Once per batch of events.
    pub fn submit(&mut self, now: Instant, ops: &mut Vec<DeviceOp>) {
        if !matches!(self.health, Health::Good) {
            return;
        }
        while let Some(queued) = self.queue.front()
            && self.frames.len() - self.durable_frames < self.config.frames_in_flight_max
        {
            let placed = match queued {
                Queued::Cut { through } => self.write_cut(now, *through, ops),
                Queued::Record(_) => self.write_records(now, ops),
            };
            match placed {
                Placed::Yes => {}
                // Waits for reclaim; what is in flight goes on.
                Placed::NoRoom => break,
            }
        }
        self.flush(now, ops);
        self.assert_invariants();
    }

    /// Takes the completion of one operation. Late ones, and those of other owners, are dropped.
    ///
    /// Frames and flushes are not asked for here, only the next pieces of a read: the
    /// [`Log::submit`] that ends the batch of events does it once for all of them.
    pub fn on_done(
        &mut self,
        now: Instant,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<LogEvent>,
    ) {
        if done.id.owner() != OpOwner::Log {
            return;
        }
        let Some(operation) = self.operations.remove(&done.id.serial()) else {
            return;
        };
        match (operation.what, done.result) {
            (Asked::Read { read, piece }, result) => {
                self.on_read(read, piece, result, events);
                self.read_on(now, read, ops);
            }
            (Asked::Flush, Err(_)) if self.config.mutants.has(Mutant::FailedFlushRetried) => {
                self.unflush();
            }
            (Asked::Frame { sequence }, Err(DeviceError::Short { .. }))
                if self.config.mutants.has(Mutant::ShortWriteTakenForWhole) =>
            {
                self.on_written(sequence);
                self.advance(now, events);
            }
            (Asked::Frame { .. } | Asked::Flush, Err(error)) => {
                self.poison(error, operation.what, events);
            }
            (Asked::Frame { sequence }, Ok(DeviceOutcome::Written)) => {
                self.on_written(sequence);
                self.advance(now, events);
            }
            (Asked::Flush, Ok(DeviceOutcome::Flushed)) => {
                let later = self.config.mutants.has(Mutant::FlushCoversLaterWrites);
                for frame in self.frames.range_mut(self.durable_frames..) {
                    if frame.state == FrameState::Flushing
                        || (later && frame.state == FrameState::Written)
                    {
                        frame.state = FrameState::Durable;
                    }
                }
                self.advance(now, events);
            }
            (Asked::Frame { .. } | Asked::Flush, Ok(outcome)) => {
                panic!("the device answered {outcome:?} to {:?}", operation.what)
            }
        }
        self.assert_invariants();
    }

    /// When [`Log::on_deadline`] is to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let oldest = self
            .operations
            .values()
            .next()
            .map(|operation| operation.deadline);
        oldest.into_iter().chain(self.mark_due).min()
    }

    /// Writes the idle mark if it is due, and poisons the log if an operation is overdue.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        ops: &mut Vec<DeviceOp>,
        events: &mut Vec<LogEvent>,
    ) {
        while let Some((_, oldest)) = self.operations.first_key_value()
            && oldest.deadline <= now
        {
            let (_, overdue) = self.operations.pop_first().expect("it was just seen");
            self.poison(DeviceError::Overdue, overdue.what, events);
            if let Asked::Read { read, .. } = overdue.what {
                self.fail_read(read, DeviceError::Overdue, events);
            }
        }
        if self.mark_due.is_some_and(|due| due <= now) {
            self.mark_due = None;
            // A full ring: the mark comes with the next frame, after something was reclaimed.
            let (Placed::Yes | Placed::NoRoom) = self.write_mark(now, ops);
        }
        self.assert_invariants();
    }

    /// Writes an empty frame, which says how far everything is flushed.
    pub(crate) fn write_mark(&mut self, now: Instant, ops: &mut Vec<DeviceOp>) -> Placed {
        self.write_frame(now, FrameKind::Mark, Batch::NONE, 0, ops)
    }

    fn write_cut(&mut self, now: Instant, through: Lsn, ops: &mut Vec<DeviceOp>) -> Placed {
        let placed = self.write_frame(now, FrameKind::Cut { through }, Batch::NONE, 0, ops);
        if placed == Placed::Yes {
            self.queue.pop_front();
            // As after a torn end: nothing that was in flight when the log was cut can come near.
            self.next_sequence += self.config.frames_in_flight_max as u64;
        }
        placed
    }

    fn write_records(&mut self, now: Instant, ops: &mut Vec<DeviceOp>) -> Placed {
        let batch = self.next_batch();
        let Some(Queued::Record(first)) = self.queue.front() else {
            unreachable!("a batch begins with a record");
        };
        let first = first.lsn();
        let count = u32::try_from(batch.count).expect("a frame is bounded");
        let kind = FrameKind::Records { first, count };
        let placed = self.write_frame(now, kind, batch, self.kept_free(batch.opens), ops);
        if placed == Placed::Yes {
            self.place_slots(first, batch);
            self.queue.drain(..batch.count);
            self.queued_bytes -= (batch.record_bytes + batch.payload_bytes) as u64;
        }
        placed
    }

    /// As many queued records as go into one frame, at least one.
    fn next_batch(&self) -> Batch {
        let mut batch = Batch::NONE;
        for queued in &self.queue {
            let Queued::Record(record) = queued else {
                break;
            };
            let record_bytes = batch.record_bytes + record.header_bytes().len();
            let payload_bytes = batch.payload_bytes + record.payload().len();
            let bytes_max = FRAME_BYTES_MAX.min(self.ring.frame_bytes_max());
            if batch.count > 0 && frame_bytes(record_bytes, payload_bytes) > bytes_max {
                break;
            }
            let count = batch.count + 1;
            batch = Batch {
                count,
                record_bytes,
                payload_bytes,
                opens: batch.opens.or(Opens::of(record)),
            };
        }
        batch
    }

    /// Notes where the payloads of the frame just written begin.
    fn place_slots(&mut self, first: Lsn, batch: Batch) {
        let frame = self.frames.back().expect("a frame was just written");
        let mut position = frame.position + frame.bytes - batch.payload_bytes as u64;
        let place = self.place_of(first).expect("queued records are retained");
        for slot in self.slots.range_mut(place..place + batch.count) {
            let Slot::Queued(record) = slot else {
                panic!("a record goes into one frame only");
            };
            let length = record.payload().len() as u64;
            *slot = Slot::Memory(record.clone(), position);
            position += length;
        }
    }

    fn write_frame(
        &mut self,
        now: Instant,
        kind: FrameKind,
        batch: Batch,
        keep_free: u64,
        ops: &mut Vec<DeviceOp>,
    ) -> Placed {
        let bytes = frame_bytes(batch.record_bytes, batch.payload_bytes);
        let tail = self.frames.front().map(|frame| frame.position);
        let Some(position) = self.ring.place(tail, bytes, keep_free) else {
            return Placed::NoRoom;
        };
        let mut header = FrameHeader {
            store: self.config.store,
            sequence: self.next_sequence,
            durable_through: match self.config.mutants.has(Mutant::DurableMarkTooHigh) {
                true => self.last.sequence,
                false => self.durable_sequence(),
            },
            position,
            kind,
            record_bytes: u32::try_from(batch.record_bytes).expect("a frame is bounded"),
            payload_bytes: u32::try_from(batch.payload_bytes).expect("a frame is bounded"),
            previous_crc: self.last.crc,
            crc: 0,
        };
        let records = || {
            self.queue
                .iter()
                .take(batch.count)
                .filter_map(|queued| match queued {
                    Queued::Record(record) => Some(record),
                    Queued::Cut { .. } => None,
                })
        };
        let blocks = header.encode(&self.config.pool, records());
        let mut parts = Vec::with_capacity(1 + batch.count);
        parts.push(blocks);
        let payloads = records()
            .map(Record::payload)
            .filter(|payload| !payload.is_empty());
        parts.extend(payloads.cloned());
        self.push_frame(now, &header, parts, ops);
        Placed::Yes
    }

    fn push_frame(
        &mut self,
        now: Instant,
        header: &FrameHeader,
        parts: Vec<Payload>,
        ops: &mut Vec<DeviceOp>,
    ) {
        let bytes: usize = parts.iter().map(Payload::len).sum();
        assert_eq!(
            bytes as u64,
            header.total_bytes(),
            "a frame is what its header says"
        );
        let link = ChainLink {
            sequence: header.sequence,
            crc: header.crc,
        };
        self.last = link;
        self.next_sequence += 1;
        self.ring.write = header.position + header.total_bytes();
        let before = self.frames.back().map_or(self.tail(), |frame| frame.last);
        self.frames
            .push_back(FrameEntry::new(header, before, FrameState::Submitted));
        self.mark_due = None;
        let asked = Asked::Frame {
            sequence: header.sequence,
        };
        let offset = self.config.region.offset + header.position;
        let write = DeviceOpKind::Write(parts, self.write_mode());
        self.ask(now, asked, offset, write, ops);
    }

    /// The sequence number through which every frame is durable.
    fn durable_sequence(&self) -> u64 {
        let last = self
            .durable_frames
            .checked_sub(1)
            .map(|place| self.frames[place].link);
        last.unwrap_or(self.before).sequence
    }

    /// Asks for a flush of what is written, one at a time: the next one covers more frames.
    fn flush(&mut self, now: Instant, ops: &mut Vec<DeviceOp>) {
        let mut written = 0;
        for frame in self.frames.range_mut(self.durable_frames..) {
            match frame.state {
                FrameState::Flushing => return,
                FrameState::Written => written += 1,
                FrameState::Submitted | FrameState::Durable => {}
            }
        }
        if written == 0 {
            return;
        }
        for frame in self.frames.range_mut(self.durable_frames..) {
            if frame.state == FrameState::Written {
                frame.state = FrameState::Flushing;
            }
        }
        self.ask(now, Asked::Flush, 0, DeviceOpKind::Flush, ops);
    }

    /// A planted bug acknowledges before the flush, so its frames are not durable by themselves.
    fn write_mode(&self) -> WriteMode {
        match self.config.mutants.has(Mutant::AckBeforeFlush) {
            true => WriteMode::Cached,
            false => self.config.write_mode,
        }
    }

    fn on_written(&mut self, sequence: u64) {
        let early = self.config.mutants.has(Mutant::AckBeforeFlush);
        let durable_at_once = self.write_mode() == WriteMode::Durable || early;
        let mut pending = self.frames.range_mut(self.durable_frames..);
        let frame = pending.find(|frame| frame.link.sequence == sequence);
        let frame = frame.expect("a frame in flight is in the table");
        assert_eq!(frame.state, FrameState::Submitted);
        frame.state = match durable_at_once {
            true => FrameState::Durable,
            false => FrameState::Written,
        };
    }

    /// Moves the frontier over the unbroken run of durable frames.
    fn advance(&mut self, now: Instant, events: &mut Vec<LogEvent>) {
        let mut said = self.flushed;
        if self.config.mutants.has(Mutant::GapSkipped) {
            self.skip_gaps();
        }
        while let Some(frame) = self.frames.get(self.durable_frames)
            && frame.state == FrameState::Durable
        {
            self.durable_frames += 1;
            match frame.kind {
                EntryKind::Mark => {}
                EntryKind::Records { flushes } => self.flushed = self.flushed.max(flushes),
                EntryKind::Cut { through } => {
                    self.tell_flushed(&mut said, events);
                    self.settle_cut(self.durable_frames - 1, through);
                    events.push(LogEvent::CutRecorded { through });
                }
            }
        }
        self.tell_flushed(&mut said, events);
        self.free_memory();
        self.arm_mark(now);
    }

    /// A planted bug: the frames of a failed flush wait for another one.
    fn unflush(&mut self) {
        for frame in self.frames.range_mut(self.durable_frames..) {
            if frame.state == FrameState::Flushing {
                frame.state = FrameState::Written;
            }
        }
    }

    /// A planted bug: the frontier jumps to the last durable frame, over those that are not.
    fn skip_gaps(&mut self) {
        for frame in self.frames.range(self.durable_frames..) {
            if let (FrameState::Durable, EntryKind::Records { flushes }) = (frame.state, frame.kind)
            {
                self.flushed = self.flushed.max(flushes);
            }
        }
    }

    fn tell_flushed(&self, said: &mut Lsn, events: &mut Vec<LogEvent>) {
        if self.flushed > *said {
            *said = self.flushed;
            events.push(LogEvent::Flushed {
                through: self.flushed,
            });
        }
    }

    /// A cut at `place` is durable: opening can bring back nothing above it from before it.
    fn settle_cut(&mut self, place: usize, through: Lsn) {
        for frame in self.frames.range_mut(..=place) {
            frame.last = frame.last.min(through);
        }
    }

    /// The same for every cut that opening found.
    pub(super) fn settle_cuts(&mut self) {
        for place in 0..self.frames.len() {
            if let EntryKind::Cut { through } = self.frames[place].kind {
                self.settle_cut(place, through);
            }
        }
    }

    /// An idle log marks its last flush, unless the last frame is a mark already.
    fn arm_mark(&mut self, now: Instant) {
        let idle = self.queue.is_empty() && self.durable_frames == self.frames.len();
        self.mark_due = match self.frames.back().map(|frame| frame.kind) {
            Some(EntryKind::Records { .. } | EntryKind::Cut { .. }) if idle => {
                self.mark_due.or(Some(now.after(IDLE_MARK_AFTER)))
            }
            Some(EntryKind::Records { .. } | EntryKind::Cut { .. } | EntryKind::Mark) | None => {
                None
            }
        };
    }

    /// Freezes the frontier. Frames and flushes in flight are forgotten: late completions of them
    /// find nothing.
    fn poison(&mut self, error: DeviceError, what: Asked, events: &mut Vec<LogEvent>) {
        if matches!(self.health, Health::Poisoned(_)) {
            return;
        }
        self.health = Health::Poisoned(error);
        self.mark_due = None;
        self.operations.retain(|_, operation| match operation.what {
            Asked::Read { .. } => true,
            Asked::Frame { .. } | Asked::Flush => false,
        });
        events.push(LogEvent::Failed {
            error,
            operation: what.operation(),
        });
    }
}

impl Batch {
    const NONE: Self = Self {
        count: 0,
        record_bytes: 0,
        payload_bytes: 0,
        opens: Opens::Nothing,
    };
}

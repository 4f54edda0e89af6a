//! A log over storage in memory, for benches of what our own code costs: the storage completes at
//! once whatever it is asked and copies nothing that is written.
//!
//! | bench | asks |
//! |---|---|
//! | `benches/append.rs` | what does a record cost from `append` to its flushed frontier? |
//! | `benches/step.rs` | what does the engine take to digest one event of a busy volume? |
//! | `benches/catch_up.rs` | how much does one bounded step of a catch-up cost for each record? |

use moorline_executor::{HistoryReader, ReplicaLink};
use moorline_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, BufferPool, DeviceDone, DeviceOp, DeviceOpKind,
    DeviceOutcome, Epoch, Instant, Lsn, LsnRange, OpenCount, Payload, StoreId, VolumeId,
};
use moorline_wal::{
    Log, LogAnchor, LogConfig, LogEvent, LogOpening, LogReadError, LogRegion, ReadId, ReadStart,
    Record, block_crcs,
};

/// The volume of every bench.
pub const VOLUME: VolumeId = VolumeId::new(1);

/// The epoch of every record.
pub const EPOCH: Epoch = Epoch::new(1, 0);

/// The only moment: nothing here waits.
pub const NOW: Instant = Instant::ZERO;

/// Small enough to be made anew often, large enough for a pass of a few thousand records.
const RING_BYTES: u64 = 64 << 20;

/// A log whose device completes at once.
#[derive(Debug)]
pub struct MemoryLog {
    /// The log.
    pub log: Log,
    ops: Vec<DeviceOp>,
    events: Vec<LogEvent>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// A fresh, empty log.
    ///
    /// # Panics
    ///
    /// If the log does not open: a mistake in the bench.
    #[must_use]
    pub fn new() -> Self {
        let region = LogRegion {
            offset: 0,
            bytes: RING_BYTES,
        };
        let (store, open) = (StoreId::new(1), OpenCount::new(1));
        let config = LogConfig::new(VOLUME, store, open, region, BufferPool::new());
        let (start, mut ops) = (LogAnchor::default(), Vec::new());
        let mut opening = LogOpening::new(config, start, Vec::new(), Lsn::ZERO, &mut ops)
            .expect("an empty ring opens");
        loop {
            let op = ops.pop().expect("opening asks until it is over");
            if let Some(opened) = opening.on_done(complete(op), &mut ops) {
                let (log, _findings) = opened.expect("an empty ring opens");
                return Self {
                    log,
                    ops,
                    events: Vec::new(),
                };
            }
        }
    }

    /// Appends a batch, lets it become durable, and says through where the log is flushed.
    ///
    /// # Panics
    ///
    /// If the log takes a record not: a mistake in the bench.
    pub fn commit(&mut self, batch: impl IntoIterator<Item = Record>) -> Lsn {
        for record in batch {
            self.log.append(record).expect("there is room");
        }
        self.log.submit(NOW, &mut self.ops);
        while let Some(op) = self.ops.pop() {
            let done = complete(op);
            self.log.on_done(NOW, done, &mut self.ops, &mut self.events);
            self.log.submit(NOW, &mut self.ops);
        }
        self.events.clear();
        self.log.flushed()
    }

    /// Lets go of everything that is flushed, as a store does behind its checkpoint.
    pub fn forget(&mut self) {
        let anchor = self.log.anchor_at(self.log.flushed());
        self.log.release_memory(self.log.flushed());
        let _reached = self.log.reclaim([anchor, anchor]);
    }

    /// Whether less than a quarter of the ring is free.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.log.fill() > 75
    }
}

/// What is read is zero; what is written goes nowhere.
fn complete(op: DeviceOp) -> DeviceDone {
    let outcome = match op.kind {
        DeviceOpKind::Read(mut page) => {
            page.as_mut_slice().fill(0);
            DeviceOutcome::Read(page)
        }
        DeviceOpKind::Write(..) => DeviceOutcome::Written,
        DeviceOpKind::Flush => DeviceOutcome::Flushed,
        DeviceOpKind::Discard { .. } => DeviceOutcome::Discarded,
    };
    DeviceDone {
        id: op.id,
        result: Ok(outcome),
    }
}

impl HistoryReader for MemoryLog {
    fn read(&mut self, range: LsnRange, bytes_max: usize) -> Result<ReadStart, LogReadError> {
        self.log
            .read(NOW, ReadId(1), range, bytes_max, &mut self.ops)
    }
}

/// A peer that takes whatever is sent and remembers how far it came.
#[derive(Debug, Default)]
pub struct Sink {
    /// The last record that was shipped.
    pub through: Lsn,
}

impl ReplicaLink for Sink {
    fn ship(&mut self, records: Vec<Record>) {
        if let Some(last) = records.last() {
            self.through = last.lsn();
        }
    }
}

/// The payload of every write: one block.
///
/// # Panics
///
/// Never: one block is a payload.
#[must_use]
pub fn one_block(pool: &BufferPool) -> Payload {
    Payload::copy_padded(pool, &[7; BLOCK_SIZE])
}

/// A write of one block, its checksum computed as a server does.
///
/// # Panics
///
/// Never: the block lies in every volume.
#[must_use]
pub fn write_record(lsn: Lsn, payload: &Payload) -> Record {
    // Spread, so that neighbours in the log are none in the volume.
    let block = lsn.get().wrapping_mul(40_503) % (1 << 18);
    let range = BlockRange::new(BlockIndex::new(block), 1).expect("one block");
    let crcs = block_crcs(VOLUME, range, payload);
    Record::write(VOLUME, EPOCH, lsn, range, payload.clone(), crcs)
}

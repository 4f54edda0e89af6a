//! Makes a store on a device.
//!
//! ```text
//! looking -> (clearing the copies) -> zeroing ring and map -> flushing -> copy A -> copy B -> done
//! ```
//!
//! The superblocks come last, so a format that was cut off leaves a device without a store. The
//! ring is always fully written: a file's unwritten extents would turn every flush of the log into
//! a commit of the file system's journal.

use std::collections::VecDeque;
use std::time::Duration;

use moorline_types::{
    BLOCK_SIZE, BlockCount, BufferPool, DeviceDone, DeviceOp, DeviceOpKind, DeviceOutcome, Lsn,
    OpenCount, Openings, Payload, WriteMode,
};
use moorline_wal::LogAnchor;

use crate::{
    CopyFault, Durable, FormatError, StoreIdentity, Superblock,
    copies::issue_write,
    layout::{LOG_OFFSET, Layout, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS},
    ops::{OpTable, Purpose},
    superblock::EncodedLine,
};

/// What lies on the device before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceContent {
    /// Zeroes only: a file just made. The map is left as it is, and the file sparse.
    Zeroes,
    /// Anything: the map is written.
    Unknown,
}

/// What becomes of a store, or anything else, that is already there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It is left alone and formatting is refused.
    Refuse,
    /// It is destroyed.
    Overwrite,
}

/// What to format.
#[derive(Clone, Debug)]
pub struct FormatParams {
    /// Who the store is to be.
    pub identity: StoreIdentity,
    /// The volume's size.
    pub size_blocks: BlockCount,
    /// Bytes of the log ring, a multiple of 4096.
    pub log_bytes: u64,
    /// The device's size in bytes.
    pub device_bytes: u64,
    /// What lies on it.
    pub content: DeviceContent,
    /// What becomes of a store that is there.
    pub existing: Existing,
    /// Where buffers come from.
    pub pool: BufferPool,
}

/// Zeroes written by one operation.
const ZERO_BYTES: u64 = 1 << 20;
/// Such operations in flight.
const ZERO_OPS_MAX: usize = 8;

#[cfg_attr(feature = "simulation", derive(Clone))]
enum State {
    Looking {
        seen: usize,
    },
    Clearing,
    Zeroing {
        todo: VecDeque<(u64, u64)>,
        in_flight: usize,
    },
    Flushing,
    First,
    Second,
    Over,
}

/// A store being made.
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct Formatting {
    params: FormatParams,
    layout: Layout,
    table: OpTable,
    zeroes: Payload,
    state: State,
}

impl Formatting {
    /// Begins to make a store.
    ///
    /// # Errors
    ///
    /// When it cannot fit the device.
    pub fn new(params: FormatParams, ops: &mut Vec<DeviceOp>) -> Result<Self, FormatError> {
        let (size, log_bytes) = (params.size_blocks, params.log_bytes);
        let layout = Layout::new(size, log_bytes).ok_or(FormatError::BadSize {
            size_blocks: size.get(),
            log_bytes,
        })?;
        let (need, have) = (layout.device_bytes(), params.device_bytes);
        if have < need {
            return Err(FormatError::DeviceTooSmall { need, have });
        }
        let pages = usize::try_from(ZERO_BYTES).expect("a mebibyte") / BLOCK_SIZE;
        let mut formatting = Self {
            zeroes: params.pool.zeroed(pages).freeze(),
            params,
            layout,
            table: OpTable::new(Duration::MAX),
            state: State::Looking { seen: 0 },
        };
        for offset in SUPERBLOCK_OFFSETS {
            let pages = SUPERBLOCK_BYTES / BLOCK_SIZE;
            let kind = DeviceOpKind::Read(formatting.params.pool.dirty(pages));
            formatting.issue(offset, kind, ops);
        }
        Ok(formatting)
    }

    /// Takes one completion; `Some` when it is over.
    #[must_use]
    pub fn on_done(
        &mut self,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Option<Result<(), FormatError>> {
        self.table.finish(done.id)?;
        let outcome = match done.result {
            Ok(outcome) => outcome,
            Err(error) => {
                self.state = State::Over;
                return Some(Err(FormatError::Device(error)));
            }
        };
        match self.step(outcome, ops) {
            Ok(()) if matches!(self.state, State::Over) => Some(Ok(())),
            Ok(()) => None,
            Err(error) => {
                self.state = State::Over;
                Some(Err(error))
            }
        }
    }

    fn step(&mut self, outcome: DeviceOutcome, ops: &mut Vec<DeviceOp>) -> Result<(), FormatError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Looking { seen } => {
                if let DeviceOutcome::Read(bytes) = outcome {
                    self.refuse_existing(seen, bytes.as_slice())?;
                }
                if seen == 0 {
                    self.state = State::Looking { seen: 1 };
                } else {
                    self.clear(ops);
                }
            }
            State::Clearing if self.table.is_empty() => self.zero(ops),
            State::Clearing => self.state = State::Clearing,
            State::Zeroing { todo, in_flight } => self.pump_zeroes(todo, in_flight - 1, ops),
            State::Flushing => {
                self.write_copy(0, ops)?;
                self.state = State::First;
            }
            State::First => {
                self.write_copy(1, ops)?;
                self.state = State::Second;
            }
            State::Second | State::Over => {}
        }
        Ok(())
    }

    /// Which of the two copies came first does not matter: each carries its number.
    fn refuse_existing(&self, _seen: usize, bytes: &[u8]) -> Result<(), FormatError> {
        if self.params.existing == Existing::Overwrite {
            return Ok(());
        }
        let as_first = Superblock::decode(0, bytes);
        let found = match as_first {
            Err(CopyFault::BadField { field: "copy" }) => Superblock::decode(1, bytes),
            found => found,
        };
        match found {
            Ok(there) => Err(FormatError::AlreadyFormatted {
                volume: there.identity.volume,
                store: there.identity.store,
            }),
            Err(CopyFault::Blank) => Ok(()),
            Err(fault) => Err(FormatError::LooksFormatted { fault }),
        }
    }

    /// Old superblocks go first, durably: they must not outlive the log that they speak of.
    fn clear(&mut self, ops: &mut Vec<DeviceOp>) {
        let blocks = SUPERBLOCK_BYTES / BLOCK_SIZE;
        for offset in SUPERBLOCK_OFFSETS {
            let zeroes = self.zeroes.slice_blocks(0, blocks);
            let kind = DeviceOpKind::Write(vec![zeroes], WriteMode::Durable);
            self.issue(offset, kind, ops);
        }
        self.state = State::Clearing;
    }

    fn zero(&mut self, ops: &mut Vec<DeviceOp>) {
        let mut todo = VecDeque::from([(LOG_OFFSET, self.layout.log_bytes)]);
        if self.params.content == DeviceContent::Unknown {
            todo.push_back((self.layout.map_offset(), self.layout.map_bytes()));
        }
        self.pump_zeroes(todo, 0, ops);
    }

    fn pump_zeroes(
        &mut self,
        mut todo: VecDeque<(u64, u64)>,
        mut in_flight: usize,
        ops: &mut Vec<DeviceOp>,
    ) {
        while in_flight < ZERO_OPS_MAX
            && let Some((offset, bytes)) = todo.pop_front()
        {
            let now = bytes.min(ZERO_BYTES);
            let blocks = usize::try_from(now).expect("a mebibyte") / BLOCK_SIZE;
            let zeroes = self.zeroes.slice_blocks(0, blocks);
            let kind = DeviceOpKind::Write(vec![zeroes], WriteMode::Cached);
            self.issue(offset, kind, ops);
            in_flight += 1;
            if bytes > now {
                todo.push_front((offset + now, bytes - now));
            }
        }
        if in_flight == 0 {
            self.issue(0, DeviceOpKind::Flush, ops);
            self.state = State::Flushing;
        } else {
            self.state = State::Zeroing { todo, in_flight };
        }
    }

    fn write_copy(&mut self, copy: usize, ops: &mut Vec<DeviceOp>) -> Result<(), FormatError> {
        let content = Superblock {
            generation: 1 + copy as u64,
            identity: self.params.identity.clone(),
            layout: self.layout,
            open: OpenCount::default(),
            boot: None,
            openings: Openings::default(),
            applied: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            anchor: LogAnchor::default(),
            history: Vec::new(),
            durable: Durable::default(),
        };
        let into = (&self.params.pool, &mut EncodedLine::default());
        issue_write(&content, copy, into, &mut self.table, ops)
            .map_err(|_| FormatError::SuperblockFull)
    }

    fn issue(&mut self, offset: u64, kind: DeviceOpKind, ops: &mut Vec<DeviceOp>) {
        self.table.issue(Purpose::Superblock, offset, kind, ops);
    }
}

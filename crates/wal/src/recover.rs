//! Opening after a crash.
//!
//! ```text
//! flush -> read the whole ring once -> decide -> [write a mark -> flush] -> open
//! ```
//!
//! The flush comes first, so that what is read is durable: a killed process leaves writes in a
//! cache, and a promise made on them must hold. The mark then goes over the torn place, if there
//! is one, and says that everything before it is flushed; a second crash finds the torn place
//! again, or the mark. A damaged log is opened without a single write.

mod decide;
mod scan;

use std::collections::BTreeMap;

use moorline_types::{
    BLOCK_SIZE, DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, EpochStart,
    Instant, Lsn, LsnRange, OpId, OpOwner, PageBuf,
};

pub(crate) use self::decide::{ChainEnd, Recovered};
use self::{
    decide::{Known, decide},
    scan::RingScan,
};
use crate::{
    error::LogOpenError,
    log::{Log, LogAnchor, LogConfig, LogEvent, LogRegion, Placed},
    record::RecordHeader,
    ring::RING_BYTES_MIN,
};

/// Bytes of one read of the pass over the ring.
const READ_BYTES: u64 = 1 << 20;

/// Reads in flight: enough to keep one device busy while a block is checked.
const READS_IN_FLIGHT_MAX: usize = 4;

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFindings {
    /// The last record on the unbroken chain, cuts replayed.
    pub head: Lsn,
    /// The LSNs that a dropped torn end may have held: the doubtful range of the next promises.
    pub torn: Option<LsnRange>,
    /// A bad frame at or below a valid mark: the log is read only, and what it held is unknown,
    /// never absent.
    pub damaged: Option<LogDamage>,
    /// How many cut frames were replayed.
    pub cuts_replayed: u64,
    /// Frames on the unbroken chain.
    pub frames: u64,
    /// Bytes of the ring that they take.
    pub bytes: u64,
}

/// A piece of the log that was durable once and cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogDamage {
    /// The last record before the damage; what lies above is unknown.
    pub after: Lsn,
    /// Where the bad frame should begin, in bytes from the start of the ring.
    pub position: u64,
    /// The highest LSN that a readable frame behind the damage names, if any.
    pub known_through: Option<Lsn>,
}

/// A log read offline: the same pass and the same decisions, nothing written.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct LogScan {
    known: Known,
    scan: RingScan,
}

/// What is in a log.
#[derive(Clone, Debug)]
pub struct LogContents {
    /// What opening would find.
    pub findings: LogFindings,
    /// The retained records, dense, and where each one's payload begins, in bytes from the start
    /// of the ring.
    pub records: Vec<(RecordHeader, u64)>,
    /// Each epoch's first record, ascending.
    pub history: Vec<EpochStart>,
}

impl LogScan {
    /// Begins. See [`LogOpening::new`] for what is handed in.
    #[must_use]
    pub fn new(
        config: &LogConfig,
        anchor: LogAnchor,
        history: Vec<EpochStart>,
        durable_floor: Lsn,
    ) -> Self {
        Self {
            known: Known {
                anchor,
                history,
                durable_floor,
                mutants: config.mutants,
            },
            scan: RingScan::new(config.volume, config.store, anchor.sequence),
        }
    }

    /// Takes the next bytes of the ring, from its start, in whole blocks.
    ///
    /// # Panics
    ///
    /// If they are not whole blocks.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.scan.feed(bytes);
    }

    /// Decides, once the whole ring was fed.
    ///
    /// # Errors
    ///
    /// [`LogOpenError::Inconsistent`].
    pub fn finish(self) -> Result<LogContents, LogOpenError> {
        let recovered = self.decide()?;
        Ok(LogContents {
            findings: recovered.findings,
            records: recovered.records,
            history: recovered.history.starts().to_vec(),
        })
    }

    fn decide(self) -> Result<Recovered, LogOpenError> {
        decide(self.known, self.scan.finish())
    }
}

/// A log being opened. The caller bounds the time that this may take.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct LogOpening {
    config: LogConfig,
    anchor: LogAnchor,
    next_serial: u64,
    phase: Phase,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Phase {
    Flushing {
        scan: Box<LogScan>,
    },
    Reading(Reading),
    Marking {
        log: Box<Log>,
        findings: LogFindings,
    },
    Ended,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Reading {
    scan: LogScan,
    /// Where the next read begins.
    next: u64,
    /// Where the pass is.
    fed: u64,
    in_flight: BTreeMap<u64, u64>,
    arrived: BTreeMap<u64, PageBuf>,
}

impl LogOpening {
    /// Begins to open the log whose first retained frame `anchor` names. *Both* superblocks must
    /// durably name this very anchor by now: what lies before it is free, and opening writes.
    ///
    /// `history` is the persisted epoch history (starts above the anchor's tail are ignored: the
    /// records say them). `durable_floor` is the highest LSN that this store is known to have
    /// flushed: the higher of its persisted applied mark and checkpoint (*not* the committed
    /// point, which may lie above this store's own log). A chain that ends below it is damaged.
    ///
    /// # Errors
    ///
    /// [`LogOpenError::BadRegion`] or [`LogOpenError::BadAnchor`].
    pub fn new(
        config: LogConfig,
        anchor: LogAnchor,
        history: Vec<EpochStart>,
        durable_floor: Lsn,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Self, LogOpenError> {
        let LogRegion { bytes, .. } = config.region;
        if bytes < RING_BYTES_MIN || !bytes.is_multiple_of(BLOCK_SIZE as u64) {
            let bytes_min = RING_BYTES_MIN;
            return Err(LogOpenError::BadRegion { bytes, bytes_min });
        }
        let position = anchor.position;
        if position > bytes || !position.is_multiple_of(BLOCK_SIZE as u64) {
            return Err(LogOpenError::BadAnchor { position, bytes });
        }
        let scan = LogScan::new(&config, anchor, history, durable_floor);
        let mut opening = Self {
            config,
            anchor,
            next_serial: 0,
            phase: Phase::Flushing {
                scan: Box::new(scan),
            },
        };
        opening.ask(0, DeviceOpKind::Flush, ops);
        Ok(opening)
    }

    /// Takes one completion; `Some` when opening ended. A log with damage is opened, too.
    #[must_use]
    pub fn on_done(
        &mut self,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Option<Result<(Log, LogFindings), LogOpenError>> {
        if done.id.owner() != OpOwner::Log {
            return None;
        }
        let ended = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Flushing { scan } => match done.result {
                Ok(_) => self.read_on(Reading::new(*scan), ops),
                Err(error) => Err(error.into()),
            },
            Phase::Reading(reading) => self.on_read(reading, done, ops),
            Phase::Marking { log, findings } => self.on_mark(log, findings, done, ops),
            // Reads that were in flight when an earlier one failed.
            Phase::Ended => return None,
        };
        match ended {
            Ok(Progress::Going(phase)) => {
                self.phase = phase;
                None
            }
            Ok(Progress::Open(log, findings)) => Some(Ok((*log, findings))),
            Err(error) => Some(Err(error)),
        }
    }

    fn on_read(
        &mut self,
        mut reading: Reading,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Progress, LogOpenError> {
        let Some(position) = reading.in_flight.remove(&done.id.serial()) else {
            return Ok(Progress::Going(Phase::Reading(reading)));
        };
        reading.arrived.insert(position, read_buffer(done.result)?);
        while let Some(buffer) = reading.arrived.remove(&reading.fed) {
            reading.scan.feed(buffer.as_slice());
            reading.fed += buffer.as_slice().len() as u64;
        }
        self.read_on(reading, ops)
    }

    /// Asks for more of the ring, or decides when all of it was seen.
    fn read_on(
        &mut self,
        mut reading: Reading,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Progress, LogOpenError> {
        let LogRegion { offset, bytes } = self.config.region;
        if reading.fed == bytes {
            return self.decide(reading.scan, ops);
        }
        // What arrived out of order counts as in flight: it bounds the memory.
        while reading.in_flight.len() + reading.arrived.len() < READS_IN_FLIGHT_MAX
            && reading.next < bytes
        {
            let length = READ_BYTES.min(bytes - reading.next);
            let pages = usize::try_from(length).expect("a read is small") / BLOCK_SIZE;
            let buffer = self.config.pool.dirty(pages);
            let serial = self.ask(offset + reading.next, DeviceOpKind::Read(buffer), ops);
            reading.in_flight.insert(serial, reading.next);
            reading.next += length;
        }
        Ok(Progress::Going(Phase::Reading(reading)))
    }

    fn decide(&mut self, scan: LogScan, ops: &mut Vec<DeviceOp>) -> Result<Progress, LogOpenError> {
        let recovered = scan.decide()?;
        let (end, findings) = (recovered.end, recovered.findings.clone());
        let log = Log::recovered(
            self.config.clone(),
            self.anchor,
            recovered,
            self.next_serial,
        );
        let mut log = Box::new(log);
        let written = match end {
            ChainEnd::Marked | ChainEnd::Damaged => return Ok(Progress::Open(log, findings)),
            ChainEnd::Unmarked | ChainEnd::Torn => log.write_mark(Instant::ZERO, ops),
        };
        match (written, end) {
            (Placed::Yes, _) => Ok(Progress::Going(Phase::Marking { log, findings })),
            // A full ring. Everything is flushed; only a later flip of its last frame would go
            // for a torn end.
            (Placed::NoRoom, ChainEnd::Unmarked) => Ok(Progress::Open(log, findings)),
            (Placed::NoRoom, ChainEnd::Torn | ChainEnd::Marked | ChainEnd::Damaged) => {
                Err(LogOpenError::NoRoom)
            }
        }
    }

    fn on_mark(
        &mut self,
        mut log: Box<Log>,
        findings: LogFindings,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Progress, LogOpenError> {
        let mut events = Vec::new();
        log.on_done(Instant::ZERO, done, ops, &mut events);
        for event in events {
            if let LogEvent::Failed { error, .. } = event {
                return Err(error.into());
            }
        }
        log.submit(Instant::ZERO, ops);
        if log.is_quiet() {
            return Ok(Progress::Open(log, findings));
        }
        Ok(Progress::Going(Phase::Marking { log, findings }))
    }

    fn ask(&mut self, offset: u64, kind: DeviceOpKind, ops: &mut Vec<DeviceOp>) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        let id = OpId::new(OpOwner::Log, serial);
        ops.push(DeviceOp { id, offset, kind });
        serial
    }
}

enum Progress {
    Going(Phase),
    Open(Box<Log>, LogFindings),
}

impl Reading {
    fn new(scan: LogScan) -> Self {
        Self {
            scan,
            next: 0,
            fed: 0,
            in_flight: BTreeMap::new(),
            arrived: BTreeMap::new(),
        }
    }
}

fn read_buffer(result: Result<DeviceOutcome, DeviceError>) -> Result<PageBuf, DeviceError> {
    match result? {
        DeviceOutcome::Read(buffer) => Ok(buffer),
        DeviceOutcome::Written | DeviceOutcome::Flushed | DeviceOutcome::Discarded => {
            panic!("a device answers a read with bytes")
        }
    }
}

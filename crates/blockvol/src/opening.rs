//! What to do with what is found when a store is opened.
//!
//! ```text
//! reading copies -> raising the open counter, in both copies -> log -> loading records -> store
//! ```
//!
//! A bad copy is written again from the good one on the way, before anything is said in the
//! store's name. Nothing is applied while opening: the records between checkpoint and applied mark
//! are in memory, reads see them there, and the flusher's first pass writes their blocks again.

use std::time::Duration;

use moorline_types::{
    BootId, BufferPool, ClusterId, DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome,
    Instant, Lsn, LsnRange, OpId, OpOwner, Opening, ServerId, VolumeId, WriteMode,
};
use moorline_wal::{
    Log, LogConfig, LogEvent, LogFindings, LogOpening, LogReadError, LogRegion, ReadId, ReadStart,
    Record,
};

use crate::{
    CopyFault, FlusherConfig, OpenError, Store,
    blockmap::BlockMap,
    copies::{Copies, Named, issue_write},
    flusher::{Flusher, pages_of},
    index::{RangeIndex, Window},
    layout::{LOG_OFFSET, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS},
    mutants::{Mutant, Mutants},
    ops::{OpTable, Purpose},
    reads::Reads,
    store::Closing,
    superblock::{EncodedLine, FORMAT_VERSION, Superblock},
};

/// Whose store is expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    /// The cluster; `None` while the server never joined one.
    pub cluster: Option<ClusterId>,
    /// The volume; `None` takes the store of any.
    pub volume: Option<VolumeId>,
    /// The server.
    pub server: ServerId,
}

/// What opening is told.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The device's size in bytes.
    pub device_bytes: u64,
    /// The boot that opens.
    pub boot: BootId,
    /// Where buffers come from.
    pub pool: BufferPool,
    /// Whose store it must be; `None` takes any.
    pub expect: Option<Expect>,
    /// The flusher's limits.
    pub flusher: FlusherConfig,
    /// Map pages of 4 KiB kept in memory.
    pub map_pages_max: usize,
    /// After how long an operation without completion is a fault.
    pub operation_timeout: Duration,
    /// Log frames written and not yet durable, at most.
    pub log_frames_in_flight_max: usize,
    /// Whether a log frame's write is durable by itself, or a flush follows.
    pub log_write_mode: WriteMode,
    /// Planted bugs.
    pub mutants: Mutants,
}

impl StoreOptions {
    /// Options with the defaults: 16 MiB of map pages, 5 s for an operation, 4 frames in flight, a flush after
    /// a frame's write.
    #[must_use]
    pub fn new(device_bytes: u64, boot: BootId, pool: BufferPool) -> Self {
        Self {
            device_bytes,
            boot,
            pool,
            expect: None,
            flusher: FlusherConfig::default(),
            map_pages_max: 4096,
            operation_timeout: Duration::from_secs(5),
            log_frames_in_flight_max: 4,
            log_write_mode: WriteMode::Cached,
            mutants: Mutants::NONE,
        }
    }
}

/// Whether the image can be brought to the applied mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageTrust {
    /// It can: the log holds what the extents lack.
    Trusted,
    /// A record that the extents may hold in part is gone from the log: only a rebuild helps.
    RecordsLost {
        /// The last record before the gap.
        after: Lsn,
    },
}

impl ImageTrust {
    /// Whether the image can be served.
    #[must_use]
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::Trusted)
    }
}

/// A superblock copy that was written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRepaired {
    /// Which one, 0 or 1.
    pub copy: usize,
    /// What was wrong with it.
    pub fault: CopyFault,
}

/// What opening found and did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenReport {
    /// The boot that had opened the store before, if any.
    pub previous_boot: Option<BootId>,
    /// Whether that boot closed it in order.
    pub previous_clean: bool,
    /// A superblock copy that was repaired.
    pub repaired: Option<CopyRepaired>,
    /// Committed as known; it may lie above the log's head when unflushed records were lost.
    pub committed_known: Lsn,
    /// What the log's opening found: a torn end, damage, replayed cuts.
    pub log: LogFindings,
    /// Whether the image can be served. If not, `needs_rebuild` is being persisted.
    pub image: ImageTrust,
    /// Records whose blocks the flusher writes again: those between checkpoint and applied mark.
    pub reapplied: u64,
}

/// Bytes of records loaded by one read of the log.
const LOAD_BYTES: usize = 8 << 20;

type CopyBytes = Result<Box<[u8]>, DeviceError>;

#[cfg_attr(feature = "simulation", derive(Clone))]
enum State {
    Copies {
        ids: [OpId; 2],
        found: [Option<CopyBytes>; 2],
    },
    /// The open counter is being written: to the first named copy, then to the second.
    Raising {
        second: Option<usize>,
    },
    Log(Box<LogOpening>),
    Loading {
        log: Box<Log>,
        findings: LogFindings,
        window: Window,
    },
    Over,
}

/// A store being opened.
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct StoreOpening {
    options: StoreOptions,
    table: OpTable,
    state: State,
    /// The content that both copies get; known once they were read.
    content: Option<Superblock>,
    previous: Option<Superblock>,
    repaired: Option<CopyRepaired>,
    on_disk: [Option<Named>; 2],
}

impl StoreOpening {
    /// Begins to open the store on a device.
    ///
    /// # Errors
    ///
    /// When the device is too small to hold any store.
    pub fn new(options: StoreOptions, ops: &mut Vec<DeviceOp>) -> Result<Self, OpenError> {
        if options.device_bytes < LOG_OFFSET {
            return Err(OpenError::DeviceTooSmall {
                need: LOG_OFFSET,
                have: options.device_bytes,
            });
        }
        let mut table = OpTable::new(options.operation_timeout);
        let ids =
            SUPERBLOCK_OFFSETS.map(|offset| read_copy(offset, &options.pool, &mut table, ops));
        Ok(Self {
            options,
            table,
            state: State::Copies {
                ids,
                found: [None, None],
            },
            content: None,
            previous: None,
            repaired: None,
            on_disk: [None, None],
        })
    }

    /// Takes one completion; `Some` when opening ended. Nothing may be said before.
    #[must_use]
    pub fn on_done(
        &mut self,
        now: Instant,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Option<Result<(Store, OpenReport), OpenError>> {
        match self.step(now, done, ops) {
            Ok(None) => None,
            Ok(Some(opened)) => Some(Ok(opened)),
            Err(error) => {
                self.state = State::Over;
                Some(Err(error))
            }
        }
    }

    fn step(
        &mut self,
        now: Instant,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Option<(Store, OpenReport)>, OpenError> {
        if done.id.owner() != OpOwner::Log && self.table.finish(done.id).is_none() {
            return Ok(None);
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Copies { ids, mut found } => {
                let place = usize::from(done.id == ids[1]);
                found[place] = Some(copy_bytes(done));
                match found {
                    [Some(first), Some(second)] => self.decide([first, second], ops)?,
                    found => self.state = State::Copies { ids, found },
                }
                Ok(None)
            }
            State::Raising { second } => {
                self.on_raised(second, done, ops)?;
                Ok(None)
            }
            State::Log(mut opening) => match opening.on_done(done, ops) {
                None => {
                    self.state = State::Log(opening);
                    Ok(None)
                }
                Some(result) => {
                    let (log, findings) = result.map_err(OpenError::Log)?;
                    let window = Window::new(self.content().checkpoint);
                    self.load(now, Box::new(log), findings, window, ops)
                }
            },
            State::Loading {
                mut log,
                findings,
                mut window,
            } => {
                let mut events = Vec::new();
                log.on_done(now, done, ops, &mut events);
                let read = events.into_iter().find_map(|event| match event {
                    LogEvent::RecordsRead { result, .. } => Some(result),
                    LogEvent::Flushed { .. }
                    | LogEvent::CutRecorded { .. }
                    | LogEvent::Failed { .. } => None,
                });
                match read {
                    None => {
                        self.state = State::Loading {
                            log,
                            findings,
                            window,
                        };
                        Ok(None)
                    }
                    Some(Ok(records)) => {
                        take_records(&mut window, records);
                        self.load(now, log, findings, window, ops)
                    }
                    Some(Err(error)) => self.lost(now, *log, findings, window, error),
                }
            }
            State::Over => Ok(None),
        }
    }

    fn content(&self) -> &Superblock {
        self.content.as_ref().expect("the copies were read")
    }

    /// Both copies are read: which one counts, and may it be opened?
    fn decide(&mut self, found: [CopyBytes; 2], ops: &mut Vec<DeviceOp>) -> Result<(), OpenError> {
        let (number, repaired, newest) = choose_copy(&found)?;
        self.repaired = repaired;
        check(&newest, &self.options)?;
        let mut content = newest.clone();
        content.boot = Some(self.options.boot);
        if !self.options.mutants.has(Mutant::OpenCounterKept) {
            content.open = newest.open.next();
            note_opening(&mut content, self.options.boot);
        }
        content.durable.clean_shutdown = false;
        // A store that was never opened acknowledged nothing.
        let was_open = newest.boot.is_some();
        content.durable.memory_lost |= was_open && !newest.durable.clean_shutdown;
        self.previous = Some(newest);
        self.content = Some(content);
        // The other copy is the bad or older one: until it is written this one stays whole.
        self.raise(1 - number, Some(number), ops)
    }

    fn raise(
        &mut self,
        copy: usize,
        second: Option<usize>,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<(), OpenError> {
        let content = self.content.as_mut().expect("the copies were read");
        content.generation += 1;
        self.on_disk[copy] = Some(Named::of(content));
        let into = (&self.options.pool, &mut EncodedLine::default());
        issue_write(content, copy, into, &mut self.table, ops)
            .map_err(|_| OpenError::SuperblockFull)?;
        self.state = State::Raising { second };
        Ok(())
    }

    fn on_raised(
        &mut self,
        second: Option<usize>,
        done: DeviceDone,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<(), OpenError> {
        if let Err(source) = done.result {
            let during = OpOwner::Superblock;
            return Err(OpenError::Device { during, source });
        }
        if let Some(copy) = second {
            return self.raise(copy, None, ops);
        }
        let content = self.content();
        let mut config = LogConfig::new(
            content.identity.volume,
            content.identity.store,
            content.open,
            LogRegion {
                offset: LOG_OFFSET,
                bytes: content.layout.log_bytes,
            },
            self.options.pool.clone(),
        );
        config.frames_in_flight_max = self.options.log_frames_in_flight_max;
        config.write_mode = self.options.log_write_mode;
        config.operation_timeout = self.options.operation_timeout;
        config.mutants = self.options.mutants.log;
        let floor = content.applied.max(content.checkpoint);
        let opening = LogOpening::new(config, content.anchor, content.history.clone(), floor, ops)
            .map_err(OpenError::Log)?;
        self.state = State::Log(Box::new(opening));
        Ok(())
    }

    /// Reads the records above the checkpoint into memory, piece by piece.
    fn load(
        &mut self,
        now: Instant,
        mut log: Box<Log>,
        findings: LogFindings,
        mut window: Window,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Option<(Store, OpenReport)>, OpenError> {
        while window.head() < log.head() {
            let range = LsnRange::new(window.head(), log.head()).expect("it is not empty");
            match log.read(now, ReadId(0), range, LOAD_BYTES, ops) {
                Ok(ReadStart::Ready(records)) => take_records(&mut window, records),
                Ok(ReadStart::Pending) => {
                    self.state = State::Loading {
                        log,
                        findings,
                        window,
                    };
                    return Ok(None);
                }
                Err(error) => return self.lost(now, *log, findings, window, error),
            }
        }
        let applied = self.content().applied;
        let image = if log.head() < applied {
            ImageTrust::RecordsLost { after: log.head() }
        } else {
            ImageTrust::Trusted
        };
        Ok(Some(self.finish(now, *log, findings, window, image)))
    }

    /// A record above the checkpoint cannot be read.
    fn lost(
        &mut self,
        now: Instant,
        log: Log,
        findings: LogFindings,
        window: Window,
        error: LogReadError,
    ) -> Result<Option<(Store, OpenReport)>, OpenError> {
        let after = match error {
            LogReadError::Device(source) => {
                let during = OpOwner::Log;
                return Err(OpenError::Device { during, source });
            }
            LogReadError::Corrupt { lsn, .. } => lsn.previous().unwrap_or(Lsn::ZERO),
            LogReadError::Reclaimed { after, .. } => after,
            LogReadError::AboveHead { head, .. } => head,
        };
        let image = ImageTrust::RecordsLost { after };
        Ok(Some(self.finish(now, log, findings, window, image)))
    }

    fn finish(
        &mut self,
        now: Instant,
        log: Log,
        findings: LogFindings,
        window: Window,
        image: ImageTrust,
    ) -> (Store, OpenReport) {
        let content = self.content.take().expect("the copies were read");
        let previous = self.previous.take().expect("the copies were read");
        let on_disk = self
            .on_disk
            .map(|named| named.expect("both copies were written"));
        let committed_known = content.committed_known();
        let committed = committed_known.min(window.head());
        let report = OpenReport {
            previous_boot: previous.boot,
            previous_clean: previous.durable.clean_shutdown,
            repaired: self.repaired,
            committed_known,
            log: findings,
            image,
            reapplied: content.applied.distance_from(content.checkpoint),
        };
        let options = &self.options;
        let mut map = BlockMap::new(content.identity.store, options.map_pages_max);
        let mut index = RangeIndex::default();
        for record in window.range(content.checkpoint, committed) {
            index.insert(record.range(), record.lsn());
        }
        for record in window.range(content.checkpoint, content.applied) {
            pages_of(record.range()).for_each(|page| map.suspect(page));
        }
        let table = std::mem::replace(&mut self.table, OpTable::new(options.operation_timeout));
        let mut store = Store {
            identity: content.identity.clone(),
            layout: content.layout,
            pool: options.pool.clone(),
            mutants: options.mutants,
            image,
            table,
            flusher: Flusher::new(options.flusher, content.checkpoint),
            copies: Copies::new(options.pool.clone(), content, on_disk, options.mutants),
            log,
            window,
            index,
            readable: committed,
            committed,
            lowest_peer: None,
            map,
            reads: Reads::default(),
            closing: Closing::No,
            fault: None,
            frozen_flushed: None,
            now,
            log_events: Vec::new(),
        };
        if !image.is_trusted() {
            store.persist(|durable| durable.needs_rebuild = true);
        }
        store.assert_invariants();
        (store, report)
    }
}

/// Adds this opening to the store's. What is older than the one that its newest line records is
/// asked for by nobody any more.
fn note_opening(content: &mut Superblock, boot: BootId) {
    let line = content.durable.line.as_ref();
    let seat = line.and_then(|line| line.member(&content.identity.server));
    if let Some(seat) = seat.filter(|seat| seat.store == Some(content.identity.store))
        && let Some(recorded) = seat.opening()
    {
        content.openings.forget_before(recorded);
    }
    content.openings.add(Opening {
        open: content.open,
        boot,
    });
}

fn read_copy(offset: u64, pool: &BufferPool, table: &mut OpTable, ops: &mut Vec<DeviceOp>) -> OpId {
    let pages = SUPERBLOCK_BYTES / moorline_types::BLOCK_SIZE;
    let kind = DeviceOpKind::Read(pool.dirty(pages));
    table.issue(Purpose::Superblock, offset, kind, ops)
}

fn copy_bytes(done: DeviceDone) -> CopyBytes {
    match done.result {
        Ok(DeviceOutcome::Read(buffer)) => Ok(buffer.as_slice().into()),
        Ok(DeviceOutcome::Written | DeviceOutcome::Flushed | DeviceOutcome::Discarded) => {
            Err(DeviceError::Short {
                done: 0,
                wanted: SUPERBLOCK_BYTES as u64,
            })
        }
        Err(error) => Err(error),
    }
}

fn take_records(window: &mut Window, records: Vec<Record>) {
    for record in records {
        window.push(record);
    }
}

/// The newest valid copy, its number, and what is wrong with the other one.
fn choose_copy(
    found: &[CopyBytes; 2],
) -> Result<(usize, Option<CopyRepaired>, Superblock), OpenError> {
    let decode = |number: u32, bytes: &CopyBytes| match bytes {
        Ok(bytes) => Superblock::decode(number, bytes),
        Err(error) => Err(CopyFault::Unreadable(*error)),
    };
    let copies = (decode(0, &found[0]), decode(1, &found[1]));
    for fault in [copies.0.as_ref().err(), copies.1.as_ref().err()]
        .into_iter()
        .flatten()
    {
        match *fault {
            CopyFault::UnknownVersion { version } => {
                return Err(OpenError::UnknownVersion {
                    found: version,
                    known: FORMAT_VERSION,
                });
            }
            CopyFault::UnknownFeatures { bits } => {
                return Err(OpenError::UnknownFeatures { bits });
            }
            CopyFault::Blank
            | CopyFault::BadMagic
            | CopyFault::BadChecksum
            | CopyFault::BadField { .. }
            | CopyFault::Unreadable(_) => {}
        }
    }
    let repaired = |copy, fault| Some(CopyRepaired { copy, fault });
    match copies {
        (Ok(first), Ok(second)) => {
            if first.identity.store != second.identity.store {
                return Err(OpenError::TwoStores {
                    first: first.identity.store,
                    second: second.identity.store,
                });
            }
            if first.generation >= second.generation {
                Ok((0, None, first))
            } else {
                Ok((1, None, second))
            }
        }
        (Ok(first), Err(fault)) => Ok((0, repaired(1, fault), first)),
        (Err(fault), Ok(second)) => Ok((1, repaired(0, fault), second)),
        (
            Err(CopyFault::Blank | CopyFault::BadMagic),
            Err(CopyFault::Blank | CopyFault::BadMagic),
        ) => Err(OpenError::NotAStore),
        (Err(first), Err(second)) => Err(OpenError::BothSuperblocksBad { first, second }),
    }
}

/// Whether this is the store that was meant, on a device that still holds all of it.
fn check(found: &Superblock, options: &StoreOptions) -> Result<(), OpenError> {
    let identity = &found.identity;
    if let Some(expect) = &options.expect {
        if let Some(expected) = expect.cluster
            && identity.cluster != expected
        {
            let found = identity.cluster;
            return Err(OpenError::OtherCluster { found, expected });
        }
        if identity.server != expect.server {
            return Err(OpenError::OtherServer {
                found: identity.server.clone(),
                expected: expect.server.clone(),
            });
        }
        if let Some(expected) = expect.volume
            && identity.volume != expected
        {
            return Err(OpenError::OtherVolume {
                found: identity.volume,
                name: identity.volume_name.clone(),
                expected,
            });
        }
    }
    let need = found.layout.device_bytes();
    if options.device_bytes < need {
        let have = options.device_bytes;
        return Err(OpenError::DeviceTooSmall { need, have });
    }
    Ok(())
}

//! An offline, read-only look at a store: what `moorline store inspect` prints.
//!
//! The digest covers the logical image alone (contents by block, holes and zeroes alike), with the
//! committed records of the log applied: replicas at rest with one content have one digest,
//! wherever their checkpoints are.

mod digest;
mod text;

use std::io;

use moorline_types::{
    AssignmentLine, BlockCount, BufferPool, Epoch, EpochStart, GivenUp, Lsn, LsnRange, OpenCount,
};
use moorline_wal::{LogConfig, LogContents, LogOpenError, LogRegion, LogScan};
use serde::Serialize;

use crate::{
    CopyFault, Superblock,
    layout::{LOG_OFFSET, Layout, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS},
};

/// Something whose bytes can be read at a position: a file, a block device, a simulated disk.
pub trait ReadAt {
    /// Size in bytes.
    ///
    /// # Errors
    ///
    /// As the device says.
    fn size(&self) -> io::Result<u64>;

    /// Fills `into` with the bytes at `offset`.
    ///
    /// # Errors
    ///
    /// As the device says; reading past the end is an error.
    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        // The length in the metadata of a block device is zero: its end has to be sought.
        let mut handle: &std::fs::File = self;
        io::Seek::seek(&mut handle, io::SeekFrom::End(0))
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, into, offset)
    }
}

/// Up to where the log is applied for the digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestThrough {
    /// No digest.
    None,
    /// To the committed point as the store knows it.
    Committed,
    /// To this record, or as near as the log goes.
    Record(Lsn),
}

/// Why a store could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The device failed.
    #[error("the store cannot be read at byte {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One superblock copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CopyView {
    /// 0 or 1.
    pub copy: u32,
    /// `valid`, or what is wrong with it.
    pub state: String,
    /// Its generation, if valid.
    pub generation: Option<u64>,
    /// Its checkpoint, if valid.
    pub checkpoint: Option<Lsn>,
}

/// The log, as opening would find it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogView {
    /// The last record.
    pub head: Lsn,
    /// Records above are retained.
    pub tail: Lsn,
    /// Frames on the chain.
    pub frames: u64,
    /// Bytes of the ring that they take.
    pub bytes: u64,
    /// LSNs that a torn end may have held.
    pub torn: Option<LsnRange>,
    /// The last record before damage, if there is any.
    pub damaged_after: Option<Lsn>,
    /// Cuts on the chain.
    pub cuts: u64,
    /// Why the log cannot be opened, if it cannot.
    pub error: Option<String>,
}

/// A promise, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PromiseView {
    /// The epoch promised.
    pub epoch: Epoch,
    /// To which server.
    pub server: String,
    /// To which boot of it.
    pub boot: String,
}

/// The strong hash of the logical image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DigestView {
    /// SHA-256 in hexadecimal; none when a block is damaged.
    pub sha256: Option<String>,
    /// The image is the one after this record.
    pub through: Lsn,
    /// Blocks whose content is not all zero.
    pub data_blocks: u64,
    /// Blocks that do not have the content that they should, the first hundred.
    pub damaged_blocks: Vec<u64>,
}

/// What is known from the newest valid superblock on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StoreView {
    /// The cluster's id.
    pub cluster: String,
    /// The volume's id.
    pub volume: String,
    /// The volume's name when the store was formatted.
    pub volume_name: String,
    /// The server that it belongs to.
    pub server: String,
    /// Its uuid.
    pub store_uuid: String,
    /// The volume's size in blocks.
    pub size_blocks: BlockCount,
    /// Bytes of the log ring.
    pub log_bytes: u64,
    /// How often it was opened.
    pub open: OpenCount,
    /// The boot that opened it last.
    pub boot: Option<String>,
    /// Whether it was closed in order.
    pub clean_shutdown: bool,
    /// Whether what was acknowledged from memory may be gone.
    pub memory_lost: bool,
    /// Whether a rebuild was overwriting the image.
    pub incomplete: bool,
    /// Whether only a rebuild helps.
    pub needs_rebuild: bool,
    /// The highest promise.
    pub promised: Option<PromiseView>,
    /// The newest assignment line seen.
    pub line: Option<AssignmentLine>,
    /// Committed as known: the highest of persisted committed, applied and checkpoint.
    pub committed_lsn: Lsn,
    /// The applied mark.
    pub applied_lsn: Lsn,
    /// The checkpoint of the newest copy.
    pub checkpoint_lsn: Lsn,
    /// Epochs and their first records.
    pub history: Vec<EpochStart>,
    /// Ranges that promotions gave up.
    pub given_up: Vec<GivenUp>,
    /// The log.
    pub log: LogView,
    /// The digest, if asked for.
    pub digest: Option<DigestView>,
}

/// What an offline look finds. `Display` prints it for people, serde for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Inspection {
    /// The device's size in bytes.
    pub device_bytes: u64,
    /// Both superblock copies.
    pub superblocks: Vec<CopyView>,
    /// The store; none when no copy is valid.
    pub store: Option<StoreView>,
}

/// Looks at the store on `device`.
///
/// # Errors
///
/// When the device cannot be read. Damage is no error: the answer says it.
pub fn inspect(device: &dyn ReadAt, digest: DigestThrough) -> Result<Inspection, InspectError> {
    let size = device.size();
    let device_bytes = size.map_err(|source| InspectError::Io { offset: 0, source })?;
    let copies = [read_copy(device, 0), read_copy(device, 1)];
    let superblocks = copies.iter().zip(0..).map(copy_view).collect();
    let newest = copies.into_iter().flatten().max_by_key(|at| at.generation);
    let store = newest.map(|superblock| store_view(device, superblock, digest));
    Ok(Inspection {
        device_bytes,
        superblocks,
        store: store.transpose()?,
    })
}

fn read_copy(device: &dyn ReadAt, copy: usize) -> Result<Superblock, CopyFault> {
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    let number = u32::from(copy == 1);
    match device.read_exact_at(SUPERBLOCK_OFFSETS[copy], &mut bytes) {
        Ok(()) => Superblock::decode(number, &bytes),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(0);
            let error = moorline_types::DeviceError::Errno { errno };
            Err(CopyFault::Unreadable(error))
        }
    }
}

fn copy_view((copy, number): (&Result<Superblock, CopyFault>, u32)) -> CopyView {
    let valid = copy.as_ref().ok();
    CopyView {
        copy: number,
        state: match copy {
            Ok(_) => "valid".to_owned(),
            Err(fault) => fault.to_string(),
        },
        generation: valid.map(|superblock| superblock.generation),
        checkpoint: valid.map(|superblock| superblock.checkpoint),
    }
}

fn store_view(
    device: &dyn ReadAt,
    superblock: Superblock,
    through: DigestThrough,
) -> Result<StoreView, InspectError> {
    let contents = scan_log(device, &superblock)?;
    let committed = superblock.committed_known();
    let digest = match &contents {
        Ok(contents) => digest::wanted(through, &superblock, contents)
            .map(|through| digest::digest(device, &superblock, contents, through))
            .transpose()?,
        Err(_) => None,
    };
    let log = log_view(&superblock, &contents);
    let Superblock {
        identity,
        layout,
        durable,
        ..
    } = superblock;
    Ok(StoreView {
        cluster: identity.cluster.to_string(),
        volume: identity.volume.to_string(),
        volume_name: identity.volume_name,
        server: identity.server.to_string(),
        store_uuid: identity.store.to_string(),
        size_blocks: layout.size_blocks,
        log_bytes: layout.log_bytes,
        open: superblock.open,
        boot: superblock.boot.map(|boot| boot.to_string()),
        clean_shutdown: durable.clean_shutdown,
        memory_lost: durable.memory_lost,
        incomplete: durable.incomplete,
        needs_rebuild: durable.needs_rebuild,
        promised: durable.promised.map(|promise| PromiseView {
            epoch: promise.epoch,
            server: promise.server.to_string(),
            boot: promise.boot.to_string(),
        }),
        line: durable.line,
        committed_lsn: committed,
        applied_lsn: superblock.applied,
        checkpoint_lsn: superblock.checkpoint,
        history: match contents {
            Ok(contents) => contents.history,
            Err(_) => superblock.history,
        },
        given_up: durable.given_up.clone(),
        log,
        digest,
    })
}

fn log_view(superblock: &Superblock, contents: &Result<LogContents, LogOpenError>) -> LogView {
    let tail = superblock.anchor.tail;
    match contents {
        Ok(contents) => LogView {
            head: contents.findings.head,
            tail,
            frames: contents.findings.frames,
            bytes: contents.findings.bytes,
            torn: contents.findings.torn,
            damaged_after: contents.findings.damaged.map(|damage| damage.after),
            cuts: contents.findings.cuts_replayed,
            error: None,
        },
        Err(error) => LogView {
            head: tail,
            tail,
            frames: 0,
            bytes: 0,
            torn: None,
            damaged_after: None,
            cuts: 0,
            error: Some(error.to_string()),
        },
    }
}

/// Bytes of the ring read at once.
const SCAN_BYTES: u64 = 1 << 20;

/// Reads the log as opening would; the outer error is the device's, the inner one the log's.
fn scan_log(
    device: &dyn ReadAt,
    superblock: &Superblock,
) -> Result<Result<LogContents, LogOpenError>, InspectError> {
    let Superblock {
        identity, layout, ..
    } = superblock;
    let Layout { log_bytes, .. } = *layout;
    let region = LogRegion {
        offset: LOG_OFFSET,
        bytes: log_bytes,
    };
    let pool = BufferPool::new();
    let (volume, store) = (identity.volume, identity.store);
    let config = LogConfig::new(volume, store, superblock.open, region, pool);
    let floor = superblock.applied.max(superblock.checkpoint);
    let history = superblock.history.clone();
    let mut scan = LogScan::new(&config, superblock.anchor, history, floor);
    let mut at = 0;
    while at < log_bytes {
        let length = SCAN_BYTES.min(log_bytes - at);
        let bytes = read(device, LOG_OFFSET + at, length)?;
        scan.feed(&bytes);
        at += length;
    }
    Ok(scan.finish())
}

fn read(device: &dyn ReadAt, offset: u64, length: u64) -> Result<Vec<u8>, InspectError> {
    let mut bytes = vec![0; usize::try_from(length).expect("a piece is small")];
    match device.read_exact_at(offset, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(source) => Err(InspectError::Io { offset, source }),
    }
}

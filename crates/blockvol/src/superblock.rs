//! The superblock: who the store is, what it promised, and where its log and image stand.
//!
//! Two copies lie on the device. What others rely on goes to both before it is answered; only
//! moves of the checkpoint alternate. So any one valid copy holds every promise ever answered, and
//! the copy with the higher generation has the newer checkpoint.

use moorline_types::{
    AssignmentLine, BlockCount, BootId, ClusterId, ConfigVersion, Epoch, EpochStart, Lsn, LsnRange,
    OpenCount, ServerId, StoreId, VolumeId,
};
use moorline_wal::LogAnchor;

use crate::{
    CopyFault,
    codec::{Decoder, Encoder},
    layout::{Layout, SUPERBLOCK_BYTES},
};

/// Starts every superblock copy.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"MOORSUPR";

/// The format that this program writes; 0 is provisional and only read by the very same format.
pub const FORMAT_VERSION: u32 = 0;

/// Feature bits that this program knows.
const FEATURES_KNOWN: u64 = 0;

/// Epoch history lines kept: the newest. Older ones only matter to a peer that was away for more
/// than this many reigns, and it is told to rebuild.
const HISTORY_MAX: usize = 2048;

const FIXED_BYTES: usize = 256;
const CRC_AT: usize = 12;
const LENGTH_AT: usize = 16;

const FLAG_INCOMPLETE: u32 = 1;
const FLAG_NEEDS_REBUILD: u32 = 2;
const FLAG_CLEAN: u32 = 4;
const FLAG_PROMISED: u32 = 8;
const FLAG_LINE: u32 = 16;

/// Who a store is; fixed when it is formatted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume whose replica it holds.
    pub volume: VolumeId,
    /// The volume's name when the store was formatted; for people.
    pub volume_name: String,
    /// The server that it belongs to.
    pub server: ServerId,
    /// Its uuid.
    pub store: StoreId,
}

/// A promise: nothing from a lower epoch is taken any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PromiseRecord {
    /// The epoch promised.
    pub epoch: Epoch,
    /// The server that asked.
    pub server: ServerId,
    /// The boot of that server that asked: nobody else may reign in the epoch.
    pub boot: BootId,
}

/// Records that a recorded decision gave up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenUp {
    /// The epoch whose promotion gave them up.
    pub epoch: Epoch,
    /// Which records.
    pub range: LsnRange,
    /// The operation that decided it.
    pub operation: u128,
}

/// What others rely on: durable in both superblocks before it is acted on or answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Durable {
    /// The highest promise given.
    pub promised: Option<PromiseRecord>,
    /// The newest assignment line seen.
    pub line: Option<AssignmentLine>,
    /// A rebuild overwrites the image: it is not to be served, voted with or copied from.
    pub incomplete: bool,
    /// Only a completed rebuild makes this replica useful again.
    pub needs_rebuild: bool,
    /// Ranges that recorded decisions gave up, oldest first.
    pub given_up: Vec<GivenUp>,
    /// Committed as known when it was persisted; the volume's real one may be higher.
    pub committed: Lsn,
    /// The store was closed in order: nothing acknowledged was only in memory.
    pub clean_shutdown: bool,
}

impl Durable {
    /// The epoch promised, [`Epoch::ZERO`] if none.
    #[must_use]
    pub fn promised_epoch(&self) -> Epoch {
        self.promised
            .as_ref()
            .map_or(Epoch::ZERO, |promise| promise.epoch)
    }

    /// The newest line's version, zero if there is none.
    #[must_use]
    pub fn line_version(&self) -> (Epoch, ConfigVersion) {
        self.line
            .as_ref()
            .map_or((Epoch::ZERO, ConfigVersion::ZERO), AssignmentLine::version)
    }
}

/// One superblock copy, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Raised at every write of either copy.
    pub generation: u64,
    /// Who the store is.
    pub identity: StoreIdentity,
    /// Where things lie.
    pub layout: Layout,
    /// How often the store was opened.
    pub open: OpenCount,
    /// The boot that opened it last; `None` if it was never opened.
    pub boot: Option<BootId>,
    /// The extents may hold changes of records through here.
    pub applied: Lsn,
    /// The extents durably hold every record through here.
    pub checkpoint: Lsn,
    /// Where the log is read from at the next open.
    pub anchor: LogAnchor,
    /// Epochs whose first record is at or below `applied`, ascending.
    pub history: Vec<EpochStart>,
    /// What others rely on.
    pub durable: Durable,
}

/// The content does not fit a superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

impl Superblock {
    /// Committed as known at an open: applied and checkpointed records were committed.
    #[must_use]
    pub fn committed_known(&self) -> Lsn {
        self.durable
            .committed
            .max(self.applied)
            .max(self.checkpoint)
    }

    /// The bytes of copy number `copy` (0 or 1), not padded.
    pub(crate) fn encode(&self, copy: u32) -> Result<Vec<u8>, Full> {
        let line = match &self.durable.line {
            Some(line) => serde_json::to_vec(line).map_err(|_| Full)?,
            None => Vec::new(),
        };
        let skipped = self.history.len().saturating_sub(HISTORY_MAX);
        let history = &self.history[skipped..];
        let given_up = &self.durable.given_up;
        let promised = self.durable.promised.as_ref();
        let names = [
            self.identity.server.as_str(),
            promised.map_or("", |promise| promise.server.as_str()),
            &self.identity.volume_name,
        ];

        let mut out = Encoder::default();
        self.encode_head(copy, &mut out);
        for count in [history.len(), given_up.len(), line.len()] {
            out.u32(u32::try_from(count).map_err(|_| Full)?);
        }
        for name in names {
            out.u16(u16::try_from(name.len()).map_err(|_| Full)?);
        }
        out.0.resize(FIXED_BYTES, 0);
        for name in names {
            out.bytes(name.as_bytes());
        }
        for start in history {
            out.epoch(start.epoch);
            out.lsn(start.first);
        }
        for given_up in given_up {
            out.epoch(given_up.epoch);
            out.lsn(given_up.range.after());
            out.lsn(given_up.range.through());
            out.u128(given_up.operation);
        }
        out.bytes(&line);
        seal(out.0)
    }

    /// Everything before the counts of the sections.
    fn encode_head(&self, copy: u32, out: &mut Encoder) {
        out.bytes(&SUPERBLOCK_MAGIC);
        out.u32(FORMAT_VERSION);
        out.u32(0); // the checksum, set by `seal`
        out.u32(0); // the length, set by `seal`
        out.u32(copy);
        out.u64(FEATURES_KNOWN);
        out.u64(self.generation);
        out.u128(self.identity.cluster.get());
        out.u128(self.identity.volume.get());
        out.u128(self.identity.store.get());
        out.u128(self.boot.map_or(0, BootId::get));
        out.u64(self.open.get());
        out.u64(self.layout.size_blocks.get());
        out.u64(self.layout.log_bytes);
        out.lsn(self.applied);
        out.lsn(self.checkpoint);
        out.lsn(self.durable.committed);
        out.lsn(self.anchor.tail);
        out.u64(self.anchor.position);
        out.u64(self.anchor.sequence);
        out.u32(self.anchor.previous_crc);
        out.u32(self.flags());
        let promised = self.durable.promised.as_ref();
        out.epoch(promised.map_or(Epoch::ZERO, |promise| promise.epoch));
        out.u128(promised.map_or(0, |promise| promise.boot.get()));
    }

    fn flags(&self) -> u32 {
        let mut flags = 0;
        for (set, flag) in [
            (self.durable.incomplete, FLAG_INCOMPLETE),
            (self.durable.needs_rebuild, FLAG_NEEDS_REBUILD),
            (self.durable.clean_shutdown, FLAG_CLEAN),
            (self.durable.promised.is_some(), FLAG_PROMISED),
            (self.durable.line.is_some(), FLAG_LINE),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// Reads copy number `copy` (0 or 1) from `bytes`, the whole area of a copy.
    ///
    /// # Errors
    ///
    /// Why the copy cannot be used. No allocation depends on a length that was not checked.
    pub fn decode(copy: u32, bytes: &[u8]) -> Result<Self, CopyFault> {
        let version = check_frame(bytes)?;
        let short = || CopyFault::BadField { field: "length" };
        let mut fields = Decoder::new(&bytes[LENGTH_AT..]);
        let length = fields.u32().ok_or_else(short)? as usize;
        if fields.u32() != Some(copy) {
            return Err(CopyFault::BadField { field: "copy" });
        }
        let features = fields.u64().ok_or_else(short)?;
        if version != FORMAT_VERSION {
            return Err(CopyFault::UnknownVersion { version });
        }
        if features & !FEATURES_KNOWN != 0 {
            return Err(CopyFault::UnknownFeatures {
                bits: features & !FEATURES_KNOWN,
            });
        }
        let rest = bytes.get(LENGTH_AT + 16..length).ok_or_else(short)?;
        decode_body(&mut Decoder::new(rest))
    }
}

/// Checks magic, length and checksum; gives the version.
fn check_frame(bytes: &[u8]) -> Result<u32, CopyFault> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(CopyFault::Blank);
    }
    let mut fields = Decoder::new(bytes);
    if fields.bytes(8) != Some(SUPERBLOCK_MAGIC.as_slice()) {
        return Err(CopyFault::BadMagic);
    }
    let (Some(version), Some(crc), Some(length)) = (fields.u32(), fields.u32(), fields.u32())
    else {
        return Err(CopyFault::BadChecksum);
    };
    let covered = bytes
        .get(..length as usize)
        .filter(|covered| covered.len() >= FIXED_BYTES && covered.len() <= SUPERBLOCK_BYTES)
        .ok_or(CopyFault::BadChecksum)?;
    if checksum(covered) != crc {
        return Err(CopyFault::BadChecksum);
    }
    Ok(version)
}

/// The checksum of a copy: all of it, its own four bytes taken as zero.
fn checksum(covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&covered[..CRC_AT]);
    hasher.update(&[0; 4]);
    hasher.update(&covered[CRC_AT + 4..]);
    hasher.finalize()
}

/// Sets length and checksum.
fn seal(mut bytes: Vec<u8>) -> Result<Vec<u8>, Full> {
    if bytes.len() > SUPERBLOCK_BYTES {
        return Err(Full);
    }
    let length = u32::try_from(bytes.len()).map_err(|_| Full)?;
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// How long each section is.
struct Sections {
    history: usize,
    given_up: usize,
    line: usize,
    names: [usize; 3],
}

fn decode_body(fields: &mut Decoder<'_>) -> Result<Superblock, CopyFault> {
    let bad = |field| CopyFault::BadField { field };
    let mut head = || {
        let generation = fields.u64()?;
        let ids = (fields.u128()?, fields.u128()?, fields.u128()?);
        let boot = fields.u128()?;
        let open = OpenCount::new(fields.u64()?);
        let sizes = (fields.u64()?, fields.u64()?);
        let marks = (fields.lsn()?, fields.lsn()?, fields.lsn()?);
        let anchor = LogAnchor {
            tail: fields.lsn()?,
            position: fields.u64()?,
            sequence: fields.u64()?,
            previous_crc: fields.u32()?,
        };
        let flags = fields.u32()?;
        let promise = (fields.epoch()?, BootId::new(fields.u128()?));
        let (history, given_up, line) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let names = [fields.u16()?, fields.u16()?, fields.u16()?].map(usize::from);
        let sections = Sections {
            history: history as usize,
            given_up: given_up as usize,
            line: line as usize,
            names,
        };
        fields.bytes(FIXED_BYTES - 234)?;
        Some((
            generation, ids, boot, open, sizes, marks, anchor, flags, promise, sections,
        ))
    };
    let (generation, ids, boot, open, sizes, marks, anchor, flags, promise, sections) =
        head().ok_or(bad("fixed part"))?;

    let layout =
        Layout::new(BlockCount::new(sizes.0), sizes.1).ok_or(bad("size of volume or log"))?;
    let mut name = |index: usize| {
        let bytes = fields.bytes(sections.names[index])?;
        std::str::from_utf8(bytes).ok()
    };
    let server = name(0).and_then(|text| text.parse().ok());
    let promiser = name(1);
    let volume_name = name(2).ok_or(bad("volume name"))?.to_owned();
    let promised = if flags & FLAG_PROMISED == 0 {
        None
    } else {
        let server = promiser.and_then(|text| text.parse().ok());
        Some(PromiseRecord {
            epoch: promise.0,
            server: server.ok_or(bad("promise"))?,
            boot: promise.1,
        })
    };
    let history = decode_history(fields, sections.history).ok_or(bad("epoch history"))?;
    let given_up = decode_given_up(fields, sections.given_up).ok_or(bad("given-up ranges"))?;
    let line = fields.bytes(sections.line).ok_or(bad("line"))?;
    let line = if flags & FLAG_LINE == 0 {
        None
    } else {
        Some(serde_json::from_slice(line).map_err(|_| bad("line"))?)
    };
    if !fields.is_empty() {
        return Err(bad("length"));
    }
    let (applied, checkpoint, committed) = marks;
    if checkpoint > applied || anchor.tail > checkpoint || anchor.position > layout.log_bytes {
        return Err(bad("frontiers"));
    }
    Ok(Superblock {
        generation,
        identity: StoreIdentity {
            cluster: ClusterId::new(ids.0),
            volume: VolumeId::new(ids.1),
            volume_name,
            server: server.ok_or(bad("server"))?,
            store: StoreId::new(ids.2),
        },
        layout,
        open,
        boot: (boot != 0).then_some(BootId::new(boot)),
        applied,
        checkpoint,
        anchor,
        history,
        durable: Durable {
            promised,
            line,
            incomplete: flags & FLAG_INCOMPLETE != 0,
            needs_rebuild: flags & FLAG_NEEDS_REBUILD != 0,
            given_up,
            committed,
            clean_shutdown: flags & FLAG_CLEAN != 0,
        },
    })
}

fn decode_history(fields: &mut Decoder<'_>, count: usize) -> Option<Vec<EpochStart>> {
    let bytes = fields.bytes(count.checked_mul(24)?)?;
    let mut entries = Decoder::new(bytes);
    let mut history = Vec::with_capacity(count);
    while !entries.is_empty() {
        history.push(EpochStart {
            epoch: entries.epoch()?,
            first: entries.lsn()?,
        });
    }
    let ascending = history
        .windows(2)
        .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].first < pair[1].first);
    ascending.then_some(history)
}

fn decode_given_up(fields: &mut Decoder<'_>, count: usize) -> Option<Vec<GivenUp>> {
    let bytes = fields.bytes(count.checked_mul(48)?)?;
    let mut entries = Decoder::new(bytes);
    let mut given_up = Vec::with_capacity(count);
    while !entries.is_empty() {
        let epoch = entries.epoch()?;
        let range = LsnRange::new(entries.lsn()?, entries.lsn()?)?;
        let operation = entries.u128()?;
        given_up.push(GivenUp {
            epoch,
            range,
            operation,
        });
    }
    Some(given_up)
}

#[cfg(test)]
mod tests;

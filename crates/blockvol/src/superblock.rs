//! The superblock: who the store is, what it promised, and where its log and image stand.
//!
//! Two copies lie on the device. What others rely on goes to both before it is answered; only
//! moves of the checkpoint alternate. So any one valid copy holds every promise ever answered, and
//! the copy with the higher generation has the newer checkpoint.

use moorline_types::{
    AssignmentLine, BlockCount, BootId, ClusterId, ConfigVersion, Epoch, EpochStart, GivenUp,
    GivenUpWhy, Lsn, LsnRange, MasterRun, OpenCount, Opening, Openings, ServerId, StoreId,
    VolumeId,
};
use moorline_wal::LogAnchor;

use crate::{
    CopyFault,
    codec::{Decoder, Encoder},
    layout::{Layout, SUPERBLOCK_BYTES},
};

/// Starts every superblock copy.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"MOORSUPR";

/// The format that this program writes and reads; provisional.
pub const FORMAT_VERSION: u32 = 2;

/// Feature bits that this program knows.
const FEATURES_KNOWN: u64 = 0;

/// Epoch history lines kept: the newest. Older ones only matter to a peer that was away for more
/// than this many reigns, and it is told to rebuild.
const HISTORY_MAX: usize = 2048;

const FIXED_BYTES: usize = 256;
/// Where the fields of the fixed part end; zeroes follow.
const HEAD_END: usize = 254;
const CRC_AT: usize = 12;
const LENGTH_AT: usize = 16;

const FLAG_INCOMPLETE: u32 = 1;
const FLAG_NEEDS_REBUILD: u32 = 2;
const FLAG_CLEAN: u32 = 4;
const FLAG_PROMISED: u32 = 8;
const FLAG_LINE: u32 = 16;
const FLAG_MEMORY_LOST: u32 = 32;

/// Most given-up ranges in a superblock: 14 KiB of it. Who adds one more refuses instead.
pub const GIVEN_UP_MAX: usize = 256;

const GIVEN_UP_BYTES: usize = 56;
const OPENING_BYTES: usize = 24;

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
    /// Ranges that promotions gave up, oldest first; at most [`GIVEN_UP_MAX`].
    pub given_up: Vec<GivenUp>,
    /// Committed as known when it was persisted; the volume's real one may be higher.
    pub committed: Lsn,
    /// The store was closed in order: nothing acknowledged was only in memory.
    pub clean_shutdown: bool,
    /// The run of the master that its server heard of last; `None` before the first.
    pub master: Option<MasterRun>,
    /// What was acknowledged from memory may be gone (`PROM-12`). Set by an open without a
    /// clean-shutdown mark; cleared once all that a primary holds was received again.
    pub memory_lost: bool,
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
    /// Its openings, that one the last; older ones as long as somebody may ask for them.
    pub openings: Openings,
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

/// The bytes of the assignment line that was encoded last.
///
/// A store writes its superblock at every move of a checkpoint, and the line changes with an
/// assignment only: encoding it each time costs more than everything else of a write.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct EncodedLine {
    line: Option<AssignmentLine>,
    bytes: Vec<u8>,
}

impl EncodedLine {
    /// The bytes of `line`, none for none.
    fn bytes_of(&mut self, line: Option<&AssignmentLine>) -> Result<&[u8], Full> {
        if self.line.as_ref() != line {
            let bytes = line.map(serde_json::to_vec).transpose();
            self.bytes = bytes.map_err(|_| Full)?.unwrap_or_default();
            self.line = line.cloned();
        }
        Ok(&self.bytes)
    }
}

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
    pub(crate) fn encode(&self, copy: u32, lines: &mut EncodedLine) -> Result<Vec<u8>, Full> {
        let line = lines.bytes_of(self.durable.line.as_ref())?;
        let skipped = self.history.len().saturating_sub(HISTORY_MAX);
        let history = &self.history[skipped..];
        let given_up = &self.durable.given_up;
        let openings = self.openings.list();
        let promised = self.durable.promised.as_ref();
        let names = [
            self.identity.server.as_str(),
            promised.map_or("", |promise| promise.server.as_str()),
            &self.identity.volume_name,
        ];

        let mut out = Encoder::default();
        self.encode_head(copy, &mut out);
        for count in [history.len(), given_up.len(), openings.len(), line.len()] {
            out.u32(u32::try_from(count).map_err(|_| Full)?);
        }
        for name in names {
            out.u16(u16::try_from(name.len()).map_err(|_| Full)?);
        }
        let master = self.durable.master.unwrap_or_default();
        out.u64(master.instance);
        out.u64(master.start);
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
            out.epoch(given_up.mark);
            out.u64(u64::from(given_up.why as u8));
        }
        for opening in openings {
            out.u64(opening.open.get());
            out.u128(opening.boot.get());
        }
        out.bytes(line);
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
            (self.durable.memory_lost, FLAG_MEMORY_LOST),
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

/// The fixed part behind the feature bits.
struct Head {
    generation: u64,
    cluster: ClusterId,
    volume: VolumeId,
    store: StoreId,
    boot: u128,
    open: OpenCount,
    size_blocks: BlockCount,
    log_bytes: u64,
    applied: Lsn,
    checkpoint: Lsn,
    committed: Lsn,
    anchor: LogAnchor,
    flags: u32,
    promised: Epoch,
    promised_boot: BootId,
    /// Entries.
    history: usize,
    /// Entries.
    given_up: usize,
    /// Entries.
    openings: usize,
    /// Bytes.
    line: usize,
    /// Bytes.
    names: [usize; 3],
    master: MasterRun,
}

fn decode_head(fields: &mut Decoder<'_>) -> Option<Head> {
    // Evaluated in the order written, which is the order of the bytes.
    let head = Head {
        generation: fields.u64()?,
        cluster: ClusterId::new(fields.u128()?),
        volume: VolumeId::new(fields.u128()?),
        store: StoreId::new(fields.u128()?),
        boot: fields.u128()?,
        open: OpenCount::new(fields.u64()?),
        size_blocks: BlockCount::new(fields.u64()?),
        log_bytes: fields.u64()?,
        applied: fields.lsn()?,
        checkpoint: fields.lsn()?,
        committed: fields.lsn()?,
        anchor: LogAnchor {
            tail: fields.lsn()?,
            position: fields.u64()?,
            sequence: fields.u64()?,
            previous_crc: fields.u32()?,
        },
        flags: fields.u32()?,
        promised: fields.epoch()?,
        promised_boot: BootId::new(fields.u128()?),
        history: fields.u32()? as usize,
        given_up: fields.u32()? as usize,
        openings: fields.u32()? as usize,
        line: fields.u32()? as usize,
        names: [fields.u16()?, fields.u16()?, fields.u16()?].map(usize::from),
        master: MasterRun {
            instance: fields.u64()?,
            start: fields.u64()?,
        },
    };
    fields.bytes(FIXED_BYTES - HEAD_END)?;
    Some(head)
}

fn decode_body(fields: &mut Decoder<'_>) -> Result<Superblock, CopyFault> {
    let bad = |field| CopyFault::BadField { field };
    let head = decode_head(fields).ok_or(bad("fixed part"))?;
    let layout = Layout::new(head.size_blocks, head.log_bytes);
    let layout = layout.ok_or(bad("size of volume or log"))?;
    let (applied, checkpoint, anchor) = (head.applied, head.checkpoint, head.anchor);
    if checkpoint > applied || anchor.tail > checkpoint || anchor.position > layout.log_bytes {
        return Err(bad("frontiers"));
    }
    let mut name = |index: usize| {
        let bytes = fields.bytes(head.names[index])?;
        std::str::from_utf8(bytes).ok()
    };
    let server = name(0).and_then(|text| text.parse().ok());
    let promiser = name(1);
    let volume_name = name(2).ok_or(bad("volume name"))?.to_owned();
    let durable = decode_durable(fields, &head, promiser)?;
    if !fields.is_empty() {
        return Err(bad("length"));
    }
    let (history, openings, durable) = durable;
    let boot = (head.boot != 0).then_some(BootId::new(head.boot));
    let newest = boot.map(|boot| Opening {
        open: head.open,
        boot,
    });
    if openings.list().last().copied() != newest {
        return Err(bad("openings"));
    }
    Ok(Superblock {
        generation: head.generation,
        identity: StoreIdentity {
            cluster: head.cluster,
            volume: head.volume,
            volume_name,
            server: server.ok_or(bad("server"))?,
            store: head.store,
        },
        layout,
        open: head.open,
        boot,
        openings,
        applied,
        checkpoint,
        anchor,
        history,
        durable,
    })
}

/// The sections behind the names, and the flags.
fn decode_durable(
    fields: &mut Decoder<'_>,
    head: &Head,
    promiser: Option<&str>,
) -> Result<(Vec<EpochStart>, Openings, Durable), CopyFault> {
    let bad = |field| CopyFault::BadField { field };
    let is_set = |flag| head.flags & flag != 0;
    let promised = if is_set(FLAG_PROMISED) {
        let server = promiser.and_then(|text| text.parse().ok());
        Some(PromiseRecord {
            epoch: head.promised,
            server: server.ok_or(bad("promise"))?,
            boot: head.promised_boot,
        })
    } else {
        None
    };
    let history = decode_history(fields, head.history).ok_or(bad("epoch history"))?;
    let given_up = decode_given_up(fields, head.given_up).ok_or(bad("given-up ranges"))?;
    let openings = decode_openings(fields, head.openings).ok_or(bad("openings"))?;
    let line = fields.bytes(head.line).ok_or(bad("line"))?;
    let line = if is_set(FLAG_LINE) {
        Some(serde_json::from_slice(line).map_err(|_| bad("line"))?)
    } else {
        None
    };
    let durable = Durable {
        promised,
        line,
        incomplete: is_set(FLAG_INCOMPLETE),
        needs_rebuild: is_set(FLAG_NEEDS_REBUILD),
        given_up,
        committed: head.committed,
        clean_shutdown: is_set(FLAG_CLEAN),
        // The first run of a master is 1; older programs left zeroes here.
        master: (head.master.start != 0).then_some(head.master),
        memory_lost: is_set(FLAG_MEMORY_LOST),
    };
    Ok((history, openings, durable))
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
    let bytes = fields.bytes(count.checked_mul(GIVEN_UP_BYTES)?)?;
    let mut entries = Decoder::new(bytes);
    let mut given_up = Vec::with_capacity(count);
    while !entries.is_empty() {
        let epoch = entries.epoch()?;
        let range = LsnRange::new(entries.lsn()?, entries.lsn()?)?;
        let mark = entries.epoch()?;
        let why = u8::try_from(entries.u64()?).ok()?;
        given_up.push(GivenUp {
            epoch,
            range,
            why: GivenUpWhy::from_byte(why)?,
            mark,
        });
    }
    Some(given_up)
}

fn decode_openings(fields: &mut Decoder<'_>, count: usize) -> Option<Openings> {
    let bytes = fields.bytes(count.checked_mul(OPENING_BYTES)?)?;
    let mut entries = Decoder::new(bytes);
    let mut openings = Vec::with_capacity(count);
    while !entries.is_empty() {
        openings.push(Opening {
            open: OpenCount::new(entries.u64()?),
            boot: BootId::new(entries.u128()?),
        });
    }
    Openings::from_list(openings)
}

#[cfg(test)]
mod tests;

//! One record's bytes: header, checksums, encode, decode.
//!
//! A record is one request or one epoch mark. Its header is the same bytes on disk and on the
//! wire; its payload lies apart, whole 4 KiB blocks that are never copied. All integers are
//! little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `MREC` |
//! | 4..8 | CRC32 over the volume id (16 bytes) and bytes 8.. of this header |
//! | 8 | version, 1; 2 for an epoch mark that announces given-up ranges |
//! | 9 | kind: 1 write, 2 trim, 3 write zeroes, 4 epoch mark |
//! | 10..12 | number of given-up ranges (version 2), else zero |
//! | 12..16 | number of blocks |
//! | 16..24 | first block |
//! | 24..40 | epoch: assignment, reign |
//! | 40..48 | LSN |
//! | 48.. | for a write: one block checksum of 4 bytes per block |
//! | 48.. | version 2: for each given-up range 40 bytes: epoch that gave it up 16, after 8, through 8, why 1, zero 7 |
//!
//! The block checksum covers volume, block and content, so a block that landed in the wrong place
//! does not pass, and the header's covers the checksums: whoever holds a valid header can judge
//! the payload.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use moorline_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, Epoch, GivenUp, GivenUpWhy, Lsn, LsnRange,
    MARK_GIVEN_UP_MAX, Payload, VolumeId,
};
use twox_hash::XxHash3_64;

use crate::{error::RecordError, fields::Fields};

/// Most blocks in one write: a request of 32 MiB that starts inside a block, with room to spare.
pub const RECORD_BLOCKS_MAX: u32 = 8448;

/// Bytes of a header before its block checksums.
pub const RECORD_HEADER_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"MREC";
const VERSION: u8 = 1;
/// Of an epoch mark that announces given-up ranges. Programs that know version 1 alone refuse it.
const VERSION_ANNOUNCING: u8 = 2;

/// Bytes of one given-up range in the header of an epoch mark.
pub(crate) const GIVEN_UP_BYTES: usize = 40;

// The count is two bytes wide, and a mark's header stays below one block.
const _: () = assert!(RECORD_HEADER_BYTES + MARK_GIVEN_UP_MAX * GIVEN_UP_BYTES < BLOCK_SIZE);

/// The checksum of one block: over volume, block and content.
///
/// Records, the block map and the extents carry this same value. `content` is one whole block.
///
/// The low half of XXH3-64 with a seed that is the XXH3-64 of the identity. It is no CRC, on purpose:
/// what guests write often ends with a CRC of its own, and the CRC of such blocks is the same for all
/// of them whenever the polynomial is. A stale block would then pass for the new one.
#[must_use]
pub fn block_crc(volume: VolumeId, block: BlockIndex, content: &[u8]) -> u32 {
    let mut identity = [0; 24];
    identity[..16].copy_from_slice(&volume.get().to_le_bytes());
    identity[16..].copy_from_slice(&block.get().to_le_bytes());
    let seed = XxHash3_64::oneshot(&identity);
    let bytes = XxHash3_64::oneshot_with_seed(seed, content).to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The checksums of a payload that is to be written at `range`, one per block, ascending.
///
/// # Panics
///
/// If the payload has another number of blocks than the range.
#[must_use]
pub fn block_crcs(volume: VolumeId, range: BlockRange, payload: &Payload) -> Vec<u32> {
    assert_eq!(payload.blocks(), range.count() as usize);
    let blocks = payload.as_slice().chunks_exact(BLOCK_SIZE);
    range
        .iter()
        .zip(blocks)
        .map(|(block, content)| block_crc(volume, block, content))
        .collect()
}

/// What a record does to its blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// Gives the blocks the payload's content.
    Write = 1,
    /// The blocks read as zeroes and need no room.
    Trim = 2,
    /// The blocks read as zeroes and keep their room.
    WriteZeroes = 3,
    /// No blocks: the first record of an epoch.
    EpochMark = 4,
}

impl RecordKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Write),
            2 => Some(Self::Trim),
            3 => Some(Self::WriteZeroes),
            4 => Some(Self::EpochMark),
            _ => None,
        }
    }
}

/// A record without its payload: what stays in memory for as long as the record is retained.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordHeader {
    volume: VolumeId,
    epoch: Epoch,
    lsn: Lsn,
    range: BlockRange,
    kind: RecordKind,
    crcs: Box<[u32]>,
    given_up: Box<[GivenUp]>,
}

impl RecordHeader {
    /// The epoch that wrote the record.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The record's position.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// What the record does.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        self.kind
    }

    /// The blocks it touches; empty for an epoch mark.
    #[must_use]
    pub fn range(&self) -> BlockRange {
        self.range
    }

    /// One checksum per block of a write; empty otherwise.
    #[must_use]
    pub fn crcs(&self) -> &[u32] {
        &self.crcs
    }

    /// What an epoch mark announces as given up; empty for any other record.
    #[must_use]
    pub fn given_up(&self) -> &[GivenUp] {
        &self.given_up
    }

    /// Bytes of payload that belong to the record.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.crcs.len() * BLOCK_SIZE
    }

    /// Bytes of the encoded header.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.crcs.len() * 4 + self.given_up.len() * GIVEN_UP_BYTES
    }

    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![0; self.encoded_bytes()];
        out[..4].copy_from_slice(&MAGIC);
        out[8] = VERSION;
        out[9] = self.kind as u8;
        if !self.given_up.is_empty() {
            out[8] = VERSION_ANNOUNCING;
            let count = u16::try_from(self.given_up.len()).expect("bounded by MARK_GIVEN_UP_MAX");
            out[10..12].copy_from_slice(&count.to_le_bytes());
        }
        out[12..16].copy_from_slice(&self.range.count().to_le_bytes());
        out[16..24].copy_from_slice(&self.range.first().get().to_le_bytes());
        out[24..32].copy_from_slice(&self.epoch.assignment().to_le_bytes());
        out[32..40].copy_from_slice(&self.epoch.reign().to_le_bytes());
        out[40..48].copy_from_slice(&self.lsn.get().to_le_bytes());
        for (slot, crc) in out[RECORD_HEADER_BYTES..]
            .chunks_exact_mut(4)
            .zip(&self.crcs)
        {
            slot.copy_from_slice(&crc.to_le_bytes());
        }
        for (slot, given_up) in out[RECORD_HEADER_BYTES..]
            .chunks_exact_mut(GIVEN_UP_BYTES)
            .zip(&self.given_up)
        {
            encode_given_up(given_up, slot);
        }
        let crc = header_crc(self.volume, &out);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.into()
    }

    /// The whole record, once every block of the payload was checked.
    ///
    /// # Errors
    ///
    /// [`RecordError::PayloadLength`] or [`RecordError::BlockCrc`].
    pub fn with_payload(self, payload: Payload) -> Result<Record, RecordError> {
        self.verify(&payload)?;
        let header_bytes = self.encode();
        Ok(Record::assemble(self, header_bytes, payload))
    }

    /// Checks every block of the payload that is said to belong to this header.
    ///
    /// # Errors
    ///
    /// [`RecordError::PayloadLength`] or [`RecordError::BlockCrc`].
    pub fn verify(&self, payload: &Payload) -> Result<(), RecordError> {
        if payload.len() != self.payload_bytes() {
            return Err(RecordError::PayloadLength {
                lsn: self.lsn,
                want: self.payload_bytes(),
                have: payload.len(),
            });
        }
        let blocks = payload.as_slice().chunks_exact(BLOCK_SIZE);
        for ((block, content), want) in self.range.iter().zip(blocks).zip(&self.crcs) {
            let have = block_crc(self.volume, block, content);
            if have != *want {
                let (lsn, want) = (self.lsn, *want);
                return Err(RecordError::BlockCrc {
                    lsn,
                    block,
                    want,
                    have,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RecordHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} lsn={} epoch={} blocks={}+{}",
            self.kind,
            self.lsn,
            self.epoch,
            self.range.first().get(),
            self.range.count()
        )
    }
}

#[derive(PartialEq, Eq)]
struct Inner {
    header: RecordHeader,
    header_bytes: Bytes,
    payload: Payload,
}

/// One record: header, encoded header and payload, shared. Cloning copies nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Arc<Inner>);

impl Record {
    /// A write of `payload` to `range`. The checksums are the caller's, made once at admission
    /// with [`block_crcs`].
    ///
    /// # Panics
    ///
    /// If payload, checksums and range differ in length, or the range is empty or longer than
    /// [`RECORD_BLOCKS_MAX`].
    #[must_use]
    pub fn write(
        volume: VolumeId,
        epoch: Epoch,
        lsn: Lsn,
        range: BlockRange,
        payload: Payload,
        crcs: Vec<u32>,
    ) -> Self {
        assert_eq!(payload.blocks(), range.count() as usize);
        assert_eq!(crcs.len(), range.count() as usize);
        assert!((1..=RECORD_BLOCKS_MAX).contains(&range.count()));
        let header = RecordHeader {
            volume,
            epoch,
            lsn,
            range,
            kind: RecordKind::Write,
            crcs: crcs.into(),
            given_up: Box::default(),
        };
        let header_bytes = header.encode();
        Self::assemble(header, header_bytes, payload)
    }

    /// A trim of `range`.
    #[must_use]
    pub fn trim(volume: VolumeId, epoch: Epoch, lsn: Lsn, range: BlockRange) -> Self {
        Self::bare(volume, epoch, lsn, range, RecordKind::Trim, &[])
    }

    /// Zeroes over `range`.
    #[must_use]
    pub fn write_zeroes(volume: VolumeId, epoch: Epoch, lsn: Lsn, range: BlockRange) -> Self {
        Self::bare(volume, epoch, lsn, range, RecordKind::WriteZeroes, &[])
    }

    /// The first record of `epoch`.
    #[must_use]
    pub fn epoch_mark(volume: VolumeId, epoch: Epoch, lsn: Lsn) -> Self {
        Self::epoch_mark_announcing(volume, epoch, lsn, &[])
    }

    /// The first record of `epoch`, which announces what was given up.
    ///
    /// # Panics
    ///
    /// If another mark is to announce one of the ranges, or there are more than
    /// [`MARK_GIVEN_UP_MAX`].
    #[must_use]
    pub fn epoch_mark_announcing(
        volume: VolumeId,
        epoch: Epoch,
        lsn: Lsn,
        given_up: &[GivenUp],
    ) -> Self {
        assert!(given_up.len() <= MARK_GIVEN_UP_MAX);
        assert!(given_up.iter().all(|given_up| given_up.mark == epoch));
        let kind = RecordKind::EpochMark;
        Self::bare(volume, epoch, lsn, no_blocks(), kind, given_up)
    }

    fn bare(
        volume: VolumeId,
        epoch: Epoch,
        lsn: Lsn,
        range: BlockRange,
        kind: RecordKind,
        given_up: &[GivenUp],
    ) -> Self {
        let header = RecordHeader {
            volume,
            epoch,
            lsn,
            range,
            kind,
            crcs: Box::default(),
            given_up: given_up.into(),
        };
        let header_bytes = header.encode();
        Self::assemble(header, header_bytes, Payload::empty())
    }

    fn assemble(header: RecordHeader, header_bytes: Bytes, payload: Payload) -> Self {
        Self(Arc::new(Inner {
            header,
            header_bytes,
            payload,
        }))
    }

    /// Decodes the header at the start of `bytes`; also says how many bytes it took.
    ///
    /// Every length is checked before anything is allocated.
    ///
    /// # Errors
    ///
    /// Any [`RecordError`] about headers.
    pub fn decode_header(
        volume: VolumeId,
        bytes: &Bytes,
    ) -> Result<(RecordHeader, usize), RecordError> {
        decode_header(volume, bytes)
    }

    /// The record without its payload.
    #[must_use]
    pub fn header(&self) -> &RecordHeader {
        &self.0.header
    }

    /// The epoch that wrote the record.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.header.epoch
    }

    /// The record's position.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.0.header.lsn
    }

    /// What the record does.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        self.0.header.kind
    }

    /// The blocks it touches; empty for an epoch mark.
    #[must_use]
    pub fn range(&self) -> BlockRange {
        self.0.header.range
    }

    /// One checksum per block of a write; empty otherwise.
    #[must_use]
    pub fn crcs(&self) -> &[u32] {
        &self.0.header.crcs
    }

    /// What an epoch mark announces as given up; empty for any other record.
    #[must_use]
    pub fn given_up(&self) -> &[GivenUp] {
        &self.0.header.given_up
    }

    /// The content of a write; empty otherwise.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.0.payload
    }

    /// The encoded header: the same bytes on disk and on the wire.
    #[must_use]
    pub fn header_bytes(&self) -> &Bytes {
        &self.0.header_bytes
    }

    /// Bytes of encoded header and payload together.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.0.header_bytes.len() + self.0.payload.len()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.header.fmt(f)
    }
}

/// Decodes a received batch: many headers back to back, their payloads concatenated in order.
///
/// The payloads are shared slices of `payload`. Everything is verified: header and block
/// checksums, no byte left over, LSNs dense and ascending.
///
/// # Errors
///
/// The first [`RecordError`] met; nothing of the batch is to be used then.
pub fn decode_records(
    volume: VolumeId,
    headers: &Bytes,
    payload: &Payload,
) -> Result<Vec<Record>, RecordError> {
    let mut records: Vec<Record> = Vec::new();
    let (mut at, mut block) = (0, 0);
    while at < headers.len() {
        let (header, consumed) = decode_header(volume, &headers[at..])?;
        if let Some(last) = records.last()
            && last.lsn().checked_advance(1) != Some(header.lsn)
        {
            let (after, have) = (last.lsn(), header.lsn);
            return Err(RecordError::NotDense { after, have });
        }
        let blocks = header.crcs.len();
        if payload.blocks() - block < blocks {
            return Err(RecordError::PayloadLength {
                lsn: header.lsn,
                want: header.payload_bytes(),
                have: (payload.blocks() - block) * BLOCK_SIZE,
            });
        }
        let own = payload.slice_blocks(block, blocks);
        header.verify(&own)?;
        // Copied out: a slice would keep the whole received buffer alive for one record.
        let header_bytes = Bytes::copy_from_slice(&headers[at..at + consumed]);
        records.push(Record::assemble(header, header_bytes, own));
        at += consumed;
        block += blocks;
    }
    if block != payload.blocks() {
        let blocks = payload.blocks() - block;
        return Err(RecordError::PayloadLeft { blocks });
    }
    Ok(records)
}

/// Decodes headers that lie back to back, up to the end of `bytes`.
pub(crate) fn decode_headers(
    volume: VolumeId,
    bytes: &[u8],
) -> Result<Vec<RecordHeader>, RecordError> {
    let mut headers = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (header, consumed) = decode_header(volume, &bytes[at..])?;
        headers.push(header);
        at += consumed;
    }
    Ok(headers)
}

fn decode_header(volume: VolumeId, bytes: &[u8]) -> Result<(RecordHeader, usize), RecordError> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(RecordError::TooShort { have: bytes.len() });
    }
    let fields = Fields(bytes);
    if fields.0[..4] != MAGIC {
        return Err(RecordError::BadMagic);
    }
    let version = bytes[8];
    if version != VERSION && version != VERSION_ANNOUNCING {
        return Err(RecordError::UnknownVersion { version });
    }
    let Some(kind) = RecordKind::from_byte(bytes[9]) else {
        return Err(RecordError::UnknownKind { kind: bytes[9] });
    };
    let ranges = usize::from(fields.u16(10));
    let announces = version == VERSION_ANNOUNCING;
    let allowed = if announces {
        kind == RecordKind::EpochMark && (1..=MARK_GIVEN_UP_MAX).contains(&ranges)
    } else {
        ranges == 0
    };
    if !allowed {
        return Err(RecordError::BadGivenUp { ranges });
    }
    let blocks = fields.u32(12);
    let crcs = match kind {
        RecordKind::Write if (1..=RECORD_BLOCKS_MAX).contains(&blocks) => blocks as usize,
        RecordKind::Write => return Err(RecordError::BadLength { blocks }),
        RecordKind::EpochMark if blocks != 0 => return Err(RecordError::BadLength { blocks }),
        RecordKind::Trim | RecordKind::WriteZeroes | RecordKind::EpochMark => 0,
    };
    let length = RECORD_HEADER_BYTES + crcs * 4 + ranges * GIVEN_UP_BYTES;
    let Some(encoded) = bytes.get(..length) else {
        return Err(RecordError::TooShort { have: bytes.len() });
    };
    let (want, have) = (fields.u32(4), header_crc(volume, encoded));
    if want != have {
        return Err(RecordError::HeaderCrc { want, have });
    }
    let Some(range) = BlockRange::new(BlockIndex::new(fields.u64(16)), blocks) else {
        return Err(RecordError::BadLength { blocks });
    };
    let epoch = Epoch::new(fields.u64(24), fields.u64(32));
    let rest = &encoded[RECORD_HEADER_BYTES..];
    let given_up = rest[crcs * 4..]
        .chunks_exact(GIVEN_UP_BYTES)
        .map(|bytes| decode_given_up(epoch, bytes))
        .collect::<Option<_>>()
        .ok_or(RecordError::BadGivenUp { ranges })?;
    let header = RecordHeader {
        volume,
        epoch,
        lsn: Lsn::new(fields.u64(40)),
        range,
        kind,
        crcs: rest[..crcs * 4]
            .chunks_exact(4)
            .map(|crc| Fields(crc).u32(0))
            .collect(),
        given_up,
    };
    Ok((header, length))
}

/// Fills one slot; the mark's own epoch is the header's.
fn encode_given_up(given_up: &GivenUp, slot: &mut [u8]) {
    slot[..8].copy_from_slice(&given_up.epoch.assignment().to_le_bytes());
    slot[8..16].copy_from_slice(&given_up.epoch.reign().to_le_bytes());
    slot[16..24].copy_from_slice(&given_up.range.after().get().to_le_bytes());
    slot[24..32].copy_from_slice(&given_up.range.through().get().to_le_bytes());
    slot[32] = given_up.why as u8;
}

fn decode_given_up(mark: Epoch, bytes: &[u8]) -> Option<GivenUp> {
    let fields = Fields(bytes);
    let (after, through) = (Lsn::new(fields.u64(16)), Lsn::new(fields.u64(24)));
    Some(GivenUp {
        epoch: Epoch::new(fields.u64(0), fields.u64(8)),
        range: LsnRange::new(after, through)?,
        why: GivenUpWhy::from_byte(bytes[32])?,
        mark,
    })
}

fn header_crc(volume: VolumeId, encoded: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&volume.get().to_le_bytes());
    hasher.update(&encoded[8..]);
    hasher.finalize()
}

fn no_blocks() -> BlockRange {
    BlockRange::new(BlockIndex::new(0), 0).expect("no blocks pass no end")
}

#[cfg(test)]
mod tests;

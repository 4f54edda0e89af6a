//! One group commit's bytes: the header blocks of a log frame.
//!
//! A frame is `[header blocks][payloads]`, each part whole 4 KiB blocks. The header blocks hold
//! the frame header, then all record headers back to back, then zeroes. Little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `MoorFrm1` |
//! | 8..12 | CRC32 over bytes 12.. of the header blocks, padding included |
//! | 12..14 | version, 1 |
//! | 14 | kind: 1 records, 2 cut, 3 mark |
//! | 15 | zero |
//! | 16..32 | store id |
//! | 32..40 | sequence number, never used twice, below 2^63 |
//! | 40..48 | durable through: the *sequence number* flushed when this was submitted |
//! | 48..56 | position: bytes from the start of the ring to this frame |
//! | 56..64 | records: the first LSN; cut: the last LSN that is kept; mark: zero |
//! | 64..68 | number of records |
//! | 68..72 | bytes of record headers |
//! | 72..76 | bytes of payload |
//! | 76..80 | checksum of the frame before (its bytes 8..12) |
//! | 80..96 | zero |
//! | 96.. | record headers |
//!
//! The checksum does not cover the payload: the record headers' block checksums do.

use moorline_types::{BLOCK_SIZE, BufferPool, Lsn, MARK_GIVEN_UP_MAX, Payload, StoreId};

use crate::{
    error::FrameError,
    fields::Fields,
    record::{GIVEN_UP_BYTES, RECORD_BLOCKS_MAX, RECORD_HEADER_BYTES, Record},
};

/// Most bytes of a frame that holds more than one record.
pub const FRAME_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a frame header before the record headers.
pub const FRAME_HEADER_BYTES: usize = 96;

const MAGIC: [u8; 8] = *b"MoorFrm1";
const VERSION: u16 = 1;

/// Sequence numbers lie below. Far beyond what any device lives to write.
pub(crate) const SEQUENCE_END: u64 = 1 << 63;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Records with dense LSNs.
    Records {
        /// The first one's LSN.
        first: Lsn,
        /// How many.
        count: u32,
    },
    /// Everything above `through` is gone.
    Cut {
        /// The last record that is kept.
        through: Lsn,
    },
    /// Nothing: says only what was flushed before.
    Mark,
}

/// A frame's header: its place in the chain, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The store that wrote it.
    pub store: StoreId,
    /// Never used twice; ascends along the chain, with gaps.
    pub sequence: u64,
    /// The sequence number through which everything was flushed when this was submitted.
    pub durable_through: u64,
    /// In bytes from the start of the ring.
    pub position: u64,
    /// What it holds.
    pub kind: FrameKind,
    /// Bytes of record headers.
    pub record_bytes: u32,
    /// Bytes of payload, whole blocks.
    pub payload_bytes: u32,
    /// The checksum of the frame before.
    pub previous_crc: u32,
    /// This frame's checksum, as stored.
    pub crc: u32,
}

impl FrameHeader {
    /// Bytes of the header blocks.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        header_blocks(self.record_bytes as usize) * BLOCK_SIZE
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.header_bytes() as u64 + u64::from(self.payload_bytes)
    }

    /// The last LSN in it; `None` for cuts and marks.
    #[must_use]
    pub fn last(&self) -> Option<Lsn> {
        match self.kind {
            FrameKind::Records { first, count } => first.checked_advance(u64::from(count) - 1),
            FrameKind::Cut { .. } | FrameKind::Mark => None,
        }
    }

    /// Reads the fixed part at the start of `bytes`. Lengths are checked against each other and
    /// against their limits; the checksum is *not*: see [`FrameHeader::verify`].
    ///
    /// # Errors
    ///
    /// Any [`FrameError`] but the checksum's.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::TooShort { have: bytes.len() });
        }
        if bytes[..8] != MAGIC {
            return Err(FrameError::BadMagic);
        }
        let fields = Fields(bytes);
        let version = fields.u16(12);
        if version != VERSION {
            return Err(FrameError::UnknownVersion { version });
        }
        let lsn = Lsn::new(fields.u64(56));
        let count = fields.u32(64);
        let header = Self {
            store: StoreId::new(fields.u128(16)),
            sequence: fields.u64(32),
            durable_through: fields.u64(40),
            position: fields.u64(48),
            kind: match bytes[14] {
                1 => FrameKind::Records { first: lsn, count },
                2 => FrameKind::Cut { through: lsn },
                3 => FrameKind::Mark,
                kind => return Err(FrameError::UnknownKind { kind }),
            },
            record_bytes: fields.u32(68),
            payload_bytes: fields.u32(72),
            previous_crc: fields.u32(76),
            crc: fields.u32(8),
        };
        header
            .lengths_agree(count)
            .then_some(header)
            .ok_or(FrameError::BadLength)
    }

    fn lengths_agree(&self, count: u32) -> bool {
        let payload_bytes = self.payload_bytes as usize;
        let blocks = payload_bytes / BLOCK_SIZE;
        let bytes = u64::from(count) * RECORD_HEADER_BYTES as u64 + blocks as u64 * 4;
        // Epoch marks may announce given-up ranges; what their headers say is checked with them.
        let announced = u64::from(self.record_bytes).checked_sub(bytes);
        let announced_max = u64::from(count) * (MARK_GIVEN_UP_MAX * GIVEN_UP_BYTES) as u64;
        let counts = match self.kind {
            FrameKind::Records { first, count } => {
                count > 0 && first > Lsn::ZERO && self.last().is_some()
            }
            FrameKind::Cut { .. } | FrameKind::Mark => count == 0 && blocks == 0,
        };
        counts
            && announced.is_some_and(|announced| {
                announced <= announced_max && announced.is_multiple_of(GIVEN_UP_BYTES as u64)
            })
            && payload_bytes.is_multiple_of(BLOCK_SIZE)
            && blocks <= RECORD_BLOCKS_MAX as usize
            && self.header_bytes() as u64 <= FRAME_BYTES_MAX
            && self.durable_through < self.sequence
            && self.sequence < SEQUENCE_END
    }

    /// Checks the header blocks, all of them.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooShort`] or [`FrameError::HeaderCrc`].
    pub fn verify(&self, header_blocks: &[u8]) -> Result<(), FrameError> {
        let Some(blocks) = header_blocks.get(..self.header_bytes()) else {
            let have = header_blocks.len();
            return Err(FrameError::TooShort { have });
        };
        let have = crc32fast::hash(&blocks[12..]);
        if have != self.crc {
            return Err(FrameError::HeaderCrc {
                want: self.crc,
                have,
            });
        }
        Ok(())
    }

    /// Encodes the header blocks of `records` (none for cuts and marks) and fills in the checksum.
    ///
    /// # Panics
    ///
    /// If the fields contradict the records.
    pub(crate) fn encode<'a>(
        &mut self,
        pool: &BufferPool,
        records: impl Iterator<Item = &'a Record>,
    ) -> Payload {
        let mut buffer = pool.dirty(self.header_bytes() / BLOCK_SIZE);
        let out = buffer.as_mut_slice();
        let (kind, lsn, count) = match self.kind {
            FrameKind::Records { first, count } => (1, first, count),
            FrameKind::Cut { through } => (2, through, 0),
            FrameKind::Mark => (3, Lsn::ZERO, 0),
        };
        assert!(self.lengths_agree(count));
        out[..FRAME_HEADER_BYTES].fill(0);
        out[..8].copy_from_slice(&MAGIC);
        out[12..14].copy_from_slice(&VERSION.to_le_bytes());
        out[14] = kind;
        out[16..32].copy_from_slice(&self.store.get().to_le_bytes());
        out[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        out[40..48].copy_from_slice(&self.durable_through.to_le_bytes());
        out[48..56].copy_from_slice(&self.position.to_le_bytes());
        out[56..64].copy_from_slice(&lsn.get().to_le_bytes());
        out[64..68].copy_from_slice(&count.to_le_bytes());
        out[68..72].copy_from_slice(&self.record_bytes.to_le_bytes());
        out[72..76].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[76..80].copy_from_slice(&self.previous_crc.to_le_bytes());
        let mut at = FRAME_HEADER_BYTES;
        for record in records {
            let header = record.header_bytes();
            out[at..at + header.len()].copy_from_slice(header);
            at += header.len();
        }
        assert_eq!(at, FRAME_HEADER_BYTES + self.record_bytes as usize);
        out[at..].fill(0);
        self.crc = crc32fast::hash(&out[12..]);
        out[8..12].copy_from_slice(&self.crc.to_le_bytes());
        buffer.freeze()
    }
}

/// Header blocks of a frame with so many bytes of record headers.
pub(crate) const fn header_blocks(record_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + record_bytes).div_ceil(BLOCK_SIZE)
}

/// Bytes of a frame with so many bytes of record headers and of payload.
pub(crate) const fn frame_bytes(record_bytes: usize, payload_bytes: usize) -> u64 {
    (header_blocks(record_bytes) * BLOCK_SIZE + payload_bytes) as u64
}

#[cfg(test)]
mod tests {
    use moorline_types::{Epoch, GivenUp, GivenUpWhy, LsnRange, VolumeId};
    use proptest::prelude::*;

    use super::*;

    fn mark(pool: &BufferPool) -> (FrameHeader, Payload) {
        let mut header = FrameHeader {
            store: StoreId::new(7),
            sequence: 9,
            durable_through: 8,
            position: 4096,
            kind: FrameKind::Mark,
            record_bytes: 0,
            payload_bytes: 0,
            previous_crc: 5,
            crc: 0,
        };
        let blocks = header.encode(pool, std::iter::empty());
        (header, blocks)
    }

    #[test]
    fn a_header_comes_back_as_it_was_encoded() {
        let (header, blocks) = mark(&BufferPool::new());
        let back = FrameHeader::decode(blocks.as_slice()).unwrap();
        assert_eq!(back, header);
        assert_eq!(back.verify(blocks.as_slice()), Ok(()));
    }

    #[test]
    fn many_record_headers_take_several_header_blocks() {
        let pool = BufferPool::new();
        let volume = VolumeId::new(1);
        let records: Vec<Record> = (1..=200)
            .map(|lsn| Record::epoch_mark(volume, Epoch::new(lsn, 0), Lsn::new(lsn)))
            .collect();
        let (mut header, _) = mark(&pool);
        header.kind = FrameKind::Records {
            first: Lsn::new(1),
            count: 200,
        };
        header.record_bytes = 200 * 48;
        let blocks = header.encode(&pool, records.iter());
        assert_eq!(blocks.blocks(), 3);
        assert_eq!(header.last(), Some(Lsn::new(200)));
        assert_eq!(header.verify(blocks.as_slice()), Ok(()));
    }

    #[test]
    fn marks_that_announce_losses_have_longer_headers() {
        let pool = BufferPool::new();
        let epoch = Epoch::new(3, 0);
        let lost = [GivenUp {
            epoch,
            range: LsnRange::new(Lsn::new(5), Lsn::MAX).unwrap(),
            why: GivenUpWhy::Doubtful,
            mark: epoch,
        }; 2];
        let mark_record =
            Record::epoch_mark_announcing(VolumeId::new(1), epoch, Lsn::new(6), &lost);
        let (mut header, _) = mark(&pool);
        header.kind = FrameKind::Records {
            first: Lsn::new(6),
            count: 1,
        };
        header.record_bytes = u32::try_from(mark_record.header_bytes().len()).unwrap();
        let blocks = header.encode(&pool, [mark_record].iter());
        assert_eq!(FrameHeader::decode(blocks.as_slice()), Ok(header));
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused_before_the_checksum() {
        let (_, blocks) = mark(&BufferPool::new());
        for (at, byte) in [(64, 1), (68, 1), (72, 1), (47, 1), (39, 0x80)] {
            let mut bytes = blocks.as_slice().to_vec();
            bytes[at] = byte;
            assert_eq!(
                FrameHeader::decode(&bytes),
                Err(FrameError::BadLength),
                "byte {at}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(at in 0..BLOCK_SIZE, bit in 0..8u8) {
            let (_, blocks) = mark(&BufferPool::new());
            let mut bytes = blocks.as_slice().to_vec();
            bytes[at] ^= 1 << bit;
            let verdict = FrameHeader::decode(&bytes).and_then(|header| header.verify(&bytes));
            prop_assert!(verdict.is_err());
        }
    }
}

use moorline_types::BufferPool;
use proptest::prelude::*;

use super::*;

const VOLUME: VolumeId = VolumeId::new(5);

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange::new(BlockIndex::new(first), count).unwrap()
}

fn write(lsn: u64, first: u64, fill: &[u8]) -> Record {
    let bytes: Vec<u8> = fill.iter().flat_map(|&byte| [byte; BLOCK_SIZE]).collect();
    let payload = Payload::copy_padded(&BufferPool::new(), &bytes);
    let range = range(first, u32::try_from(fill.len()).unwrap());
    let crcs = block_crcs(VOLUME, range, &payload);
    Record::write(
        VOLUME,
        Epoch::new(3, 1),
        Lsn::new(lsn),
        range,
        payload,
        crcs,
    )
}

fn joined(records: &[Record]) -> (Bytes, Payload) {
    let headers: Vec<u8> = records
        .iter()
        .flat_map(|r| r.header_bytes().to_vec())
        .collect();
    let payload: Vec<u8> = records
        .iter()
        .flat_map(|r| r.payload().as_slice().to_vec())
        .collect();
    (
        headers.into(),
        Payload::copy_padded(&BufferPool::new(), &payload),
    )
}

#[test]
fn a_batch_comes_back_as_it_was_sent() {
    let epoch = Epoch::new(3, 1);
    let records = [
        Record::epoch_mark(VOLUME, epoch, Lsn::new(7)),
        write(8, 100, &[1, 2]),
        Record::trim(VOLUME, epoch, Lsn::new(9), range(0, u32::MAX)),
        write(10, 5, &[3]),
        Record::write_zeroes(VOLUME, epoch, Lsn::new(11), range(9, 3)),
    ];
    let (headers, payload) = joined(&records);
    let back = decode_records(VOLUME, &headers, &payload).unwrap();
    assert_eq!(back, records);
    assert_eq!(
        back[1].payload().as_slice().as_ptr(),
        payload.as_slice().as_ptr()
    );
}

fn given_up(after: u64) -> GivenUp {
    GivenUp {
        epoch: Epoch::new(2, 7),
        range: LsnRange::new(Lsn::new(after), Lsn::MAX).unwrap(),
        why: GivenUpWhy::VolatileStands,
        mark: Epoch::new(3, 1),
    }
}

#[test]
fn a_mark_says_what_was_given_up() {
    let epoch = Epoch::new(3, 1);
    for count in [0, 1, 2, MARK_GIVEN_UP_MAX] {
        let lost: Vec<GivenUp> = (0..).take(count).map(given_up).collect();
        let records = [
            Record::epoch_mark_announcing(VOLUME, epoch, Lsn::new(7), &lost),
            write(8, 100, &[1]),
        ];
        let (headers, payload) = joined(&records);
        let back = decode_records(VOLUME, &headers, &payload).unwrap();
        assert_eq!(back, records);
        assert_eq!(back[0].given_up(), lost);
        assert_eq!(
            back[0].header().encoded_bytes(),
            back[0].header_bytes().len()
        );
    }
    // Only a mark of the second version has any.
    let mark = Record::epoch_mark_announcing(VOLUME, epoch, Lsn::new(7), &[given_up(1)]);
    for (at, byte) in [(8, 1), (9, 2), (10, 0), (10, 65), (80, 9)] {
        let mut bytes = mark.header_bytes().to_vec();
        bytes[at] = byte;
        let crc = header_crc(VOLUME, &bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert!(
            decode_records(VOLUME, &bytes.into(), &Payload::empty()).is_err(),
            "{byte} at {at}"
        );
    }
}

#[test]
fn what_is_damaged_misplaced_or_foreign_is_refused_with_its_reason() {
    let (headers, payload) = joined(&[write(8, 100, &[1, 2])]);
    let other = VolumeId::new(6);
    assert!(matches!(
        decode_records(other, &headers, &payload),
        Err(RecordError::HeaderCrc { .. })
    ));
    let swapped = joined(&[write(8, 100, &[2, 1])]).1;
    assert!(matches!(
        decode_records(VOLUME, &headers, &swapped),
        Err(RecordError::BlockCrc { block, .. }) if block == BlockIndex::new(100)
    ));
    let short = payload.slice_blocks(0, 1);
    assert!(matches!(
        decode_records(VOLUME, &headers, &short),
        Err(RecordError::PayloadLength {
            want: 8192,
            have: 4096,
            ..
        })
    ));
    let left = joined(&[write(8, 100, &[1, 2]), write(9, 1, &[1])]).1;
    assert_eq!(
        decode_records(VOLUME, &headers, &left),
        Err(RecordError::PayloadLeft { blocks: 1 })
    );
    let (gap, payload) = joined(&[write(8, 1, &[1]), write(10, 1, &[1])]);
    assert!(matches!(
        decode_records(VOLUME, &gap, &payload),
        Err(RecordError::NotDense { .. })
    ));
}

#[test]
fn the_same_content_elsewhere_has_another_checksum() {
    let content = [9; BLOCK_SIZE];
    let here = block_crc(VOLUME, BlockIndex::new(1), &content);
    assert_ne!(here, block_crc(VOLUME, BlockIndex::new(2), &content));
    assert_ne!(
        here,
        block_crc(VolumeId::new(6), BlockIndex::new(1), &content)
    );
}

/// What many guests write: a block that ends with its own checksum.
fn self_checked(fill: u8, checksum: fn(&[u8]) -> u32) -> [u8; BLOCK_SIZE] {
    let mut content = [fill; BLOCK_SIZE];
    let at = BLOCK_SIZE - 4;
    let own = checksum(&content[..at]).to_le_bytes();
    content[at..].copy_from_slice(&own);
    content
}

/// CRC-32C, bit by bit: what ext4, btrfs and iSCSI use.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}

#[test]
fn contents_that_end_with_a_crc_of_their_own_have_different_checksums() {
    for checksum in [crc32fast::hash as fn(&[u8]) -> u32, crc32c] {
        let of = |fill| {
            let content = self_checked(fill, checksum);
            block_crc(VOLUME, BlockIndex::new(7_360), &content)
        };
        let mut found: Vec<u32> = (0..=255).map(of).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 256);
    }
}

/// The number that is on disks: it may not change with a library.
#[test]
fn a_block_checksum_is_what_the_format_says() {
    let content: Vec<u8> = (0..=250).cycle().take(BLOCK_SIZE).collect();
    let volume = VolumeId::new(0x0123_4567_89AB_CDEF_0011_2233_4455_6677);
    let crc = block_crc(volume, BlockIndex::new(42), &content);
    assert_eq!(crc, 0x9B91_A9BC, "{crc:#010x}");
}

proptest! {
    #[test]
    fn every_flipped_bit_of_a_header_is_noticed(at in 0..56usize, bit in 0..8u8) {
        let (headers, payload) = joined(&[write(8, 100, &[1, 2])]);
        let mut bytes = headers.to_vec();
        bytes[at] ^= 1 << bit;
        prop_assert!(decode_records(VOLUME, &bytes.into(), &payload).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzz::fuzz_record(&bytes);
        let mut likely = b"MREC".to_vec();
        likely.extend_from_slice(&bytes);
        crate::fuzz::fuzz_record(&likely);
    }
}

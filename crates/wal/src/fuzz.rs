//! The decoders' fuzz bodies: any bytes may come; none may make them panic.

use bytes::Bytes;
use moorline_types::{BLOCK_SIZE, Lsn, OpenCount, Payload, StoreId, VolumeId};

use crate::{
    frame::FrameHeader,
    log::{LogAnchor, LogConfig, LogRegion},
    record::{Record, decode_records},
    recover::LogScan,
};

const VOLUME: VolumeId = VolumeId::new(1);

/// Decodes `data` as record headers, and what decodes comes back the same.
///
/// # Panics
///
/// When a decoder has a bug.
pub fn fuzz_record(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok((header, consumed)) = Record::decode_header(VOLUME, &bytes) {
        assert_eq!(header.encode(), bytes[..consumed]);
    }
    let batch = decode_records(VOLUME, &bytes, &Payload::empty());
    assert!(batch.is_err() || batch.is_ok_and(|records| records.len() * 48 == data.len()));
}

/// Decodes `data` as a frame header, and takes it for a whole ring.
///
/// The ring is patched so that its first block is of the right store, place and checksum:
/// otherwise random bytes would never get past them.
///
/// # Panics
///
/// When a decoder has a bug.
pub fn fuzz_frame(data: &[u8]) {
    if let Ok(header) = FrameHeader::decode(data) {
        assert!(header.total_bytes() >= BLOCK_SIZE as u64);
        // Whether the checksum is right is up to the data.
        let _verdict = header.verify(data);
    }
    let mut ring = vec![0; data.len().next_multiple_of(BLOCK_SIZE)];
    ring[..data.len()].copy_from_slice(data);
    scan(&ring);
    if let Some(first) = ring.get_mut(..BLOCK_SIZE) {
        first[..8].copy_from_slice(b"MoorFrm1");
        first[12..14].copy_from_slice(&1u16.to_le_bytes());
        first[16..32].copy_from_slice(&2u128.to_le_bytes());
        first[48..56].fill(0);
        let crc = crc32fast::hash(&first[12..]);
        first[8..12].copy_from_slice(&crc.to_le_bytes());
        scan(&ring);
    }
}

fn scan(ring: &[u8]) {
    let region = LogRegion {
        offset: 0,
        bytes: ring.len() as u64,
    };
    let pool = moorline_types::BufferPool::new();
    let config = LogConfig::new(VOLUME, StoreId::new(2), OpenCount::new(1), region, pool);
    let mut scan = LogScan::new(&config, LogAnchor::default(), Vec::new(), Lsn::ZERO);
    scan.feed(ring);
    if let Ok(contents) = scan.finish() {
        assert!(contents.records.len() as u64 == contents.findings.head.get());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_frame_decoder_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in 1..4u8,
            small in any::<bool>(),
        ) {
            super::fuzz_frame(&bytes);
            if small && bytes.len() > 96 {
                // Plausible lengths and numbers get further.
                bytes[14] = kind;
                bytes[33..40].fill(0);
                bytes[40..48].fill(0);
                bytes[65..76].fill(0);
                super::fuzz_frame(&bytes);
            }
        }
    }
}

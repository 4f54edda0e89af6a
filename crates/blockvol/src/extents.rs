//! The blocks' contents on the device, checked against the block map whenever they are read.

use moorline_types::{BLOCK_SIZE, BlockRange, Payload, VolumeId};
use moorline_wal::block_crc;

use crate::{BlockVersion, ReadFault, Segment};

/// Blocks moved by one operation: a mebibyte, so that no operation holds the device for long.
pub(crate) const BLOCKS_PER_OP_MAX: u64 = 256;

/// Checks what was read for `range`; `expected` has one entry per block.
pub(crate) fn verify(
    volume: VolumeId,
    range: BlockRange,
    expected: &[BlockVersion],
    content: &Payload,
) -> Result<(), ReadFault> {
    assert_eq!(content.blocks(), expected.len(), "one entry per block read");
    let blocks = content.as_slice().chunks_exact(BLOCK_SIZE);
    for ((block, bytes), want) in range.iter().zip(blocks).zip(expected) {
        if block_crc(volume, block, bytes) != want.crc {
            return Err(ReadFault::Damaged {
                block,
                lsn: want.lsn,
                crc: want.crc,
            });
        }
    }
    Ok(())
}

/// One piece of a read: known, or being read from the device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Known(Segment),
    Device {
        range: BlockRange,
        expected: Vec<BlockVersion>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_types::{BlockIndex, BufferPool, Lsn};

    #[test]
    fn content_of_another_block_or_volume_does_not_pass() {
        let volume = VolumeId::new(9);
        let range = BlockRange::new(BlockIndex::new(5), 1).unwrap();
        let content = Payload::copy_padded(&BufferPool::new(), &[3; BLOCK_SIZE]);
        let expected = |volume, block| BlockVersion {
            crc: block_crc(volume, BlockIndex::new(block), content.as_slice()),
            lsn: Lsn::new(7),
        };
        let check = |want: BlockVersion| verify(volume, range, &[want], &content);
        assert_eq!(check(expected(volume, 5)), Ok(()));
        assert!(check(expected(volume, 6)).is_err());
        assert!(check(expected(VolumeId::new(8), 5)).is_err());
    }
}

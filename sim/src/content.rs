//! What tests write: every 512-byte sector says where it belongs and which request wrote it.
//!
//! The mark {magic, sector, operation, first sector of the operation} is repeated through the
//! sector, so that a torn, misplaced or leaked one shows at once. A sector ends with the CRC-32 of
//! what is before it, as the pages of many guests do: to a checksum that is itself a CRC-32, all
//! contents of that kind look alike.

/// Bytes of one register.
pub(crate) const SECTOR: usize = 512;

/// Sectors in a block.
pub(crate) const SECTORS_PER_BLOCK: u64 = 8;

/// Bytes of a sector before its CRC.
const CHECKED: usize = SECTOR - 4;

const MAGIC: u64 = 0x6d6f_6f72_6c69_6e65;

/// The number of one request in a run's history, from 1. 0 is what a new volume holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct OpNo(pub(crate) u32);

/// What a sector says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) sector: u64,
    pub(crate) op: OpNo,
    pub(crate) first: u64,
}

/// What a sector holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Zeroes,
    Marked(Mark),
    /// Neither: torn, or never written by anybody.
    Broken,
}

/// Fills one sector.
pub(crate) fn fill(into: &mut [u8], mark: Mark) {
    let words = [MAGIC, mark.sector, u64::from(mark.op.0), mark.first];
    let (checked, crc) = into.split_at_mut(CHECKED);
    for (place, word) in checked.chunks_mut(8).zip(words.iter().cycle()) {
        place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
    }
    crc.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let bytes = bytes[index * 8..index * 8 + 8].try_into();
    u64::from_le_bytes(bytes.expect("eight bytes"))
}

/// The mark at the beginning of a sector, without a look at the rest.
pub(crate) fn peek(bytes: &[u8]) -> Option<Mark> {
    (word(bytes, 0) == MAGIC).then(|| Mark {
        sector: word(bytes, 1),
        op: OpNo(u32::try_from(word(bytes, 2)).unwrap_or(u32::MAX)),
        first: word(bytes, 3),
    })
}

/// Reads one whole sector.
pub(crate) fn read(bytes: &[u8]) -> Content {
    if bytes.iter().all(|byte| *byte == 0) {
        return Content::Zeroes;
    }
    let (checked, crc) = bytes.split_at(CHECKED);
    let repeated = checked[..CHECKED - 32] == checked[32..];
    let whole = repeated && *crc == crc32fast::hash(checked).to_le_bytes();
    match peek(bytes) {
        Some(mark) if whole => Content::Marked(mark),
        Some(_) | None => Content::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_its_writer_and_a_torn_one_nobody() {
        let mark = Mark {
            sector: 9,
            op: OpNo(3),
            first: 8,
        };
        let mut bytes = [0; SECTOR];
        assert_eq!(read(&bytes), Content::Zeroes);
        fill(&mut bytes, mark);
        assert_eq!(read(&bytes), Content::Marked(mark));
        for place in [CHECKED - 1, SECTOR - 1] {
            bytes[place] ^= 1;
            assert_eq!(read(&bytes), Content::Broken);
            bytes[place] ^= 1;
        }
    }

    #[test]
    fn every_content_is_alike_to_a_checksum_of_the_same_polynomial() {
        let mut sums = (1..4).map(|op| {
            let mut bytes = [0; SECTOR];
            let op = OpNo(op);
            let (sector, first) = (9, 8);
            fill(&mut bytes, Mark { sector, op, first });
            crc32fast::hash(&bytes)
        });
        let first = sums.next();
        assert!(sums.all(|sum| Some(sum) == first));
    }
}

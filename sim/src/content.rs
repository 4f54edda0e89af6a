//! What tests write: every 512-byte sector says where it belongs and which request wrote it.
//!
//! The mark {magic, sector, operation, first sector of the operation} is repeated through the
//! sector, so that a torn, misplaced or leaked one shows at once.

/// Bytes of one register.
pub(crate) const SECTOR: usize = 512;

/// Sectors in a block.
pub(crate) const SECTORS_PER_BLOCK: u64 = 8;

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
    for (place, word) in into.chunks_exact_mut(8).zip(words.iter().cycle()) {
        place.copy_from_slice(&word.to_le_bytes());
    }
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
    let whole = bytes[..SECTOR - 32] == bytes[32..];
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
        bytes[SECTOR - 1] ^= 1;
        assert_eq!(read(&bytes), Content::Broken);
    }
}

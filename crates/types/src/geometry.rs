//! Blocks: what is checksummed, logged and mapped as one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in one block.
pub const BLOCK_SIZE: usize = 4096;

const BLOCK_BYTES: u64 = BLOCK_SIZE as u64;

/// The position of one 4 KiB block in a volume.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default, Debug,
)]
#[serde(transparent)]
pub struct BlockIndex(u64);

impl BlockIndex {
    /// Makes a position from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The block that holds byte `offset`.
    #[must_use]
    pub const fn containing(offset: u64) -> Self {
        Self(offset / BLOCK_BYTES)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The byte at which the block starts.
    ///
    /// # Panics
    ///
    /// If the block lies beyond 2^64 bytes; volumes are checked to be smaller when created.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        match self.0.checked_mul(BLOCK_BYTES) {
            Some(offset) => offset,
            None => panic!("block beyond the address space"),
        }
    }

    /// The block `count` further on.
    ///
    /// # Panics
    ///
    /// On overflow; ranges are checked when they are made.
    #[must_use]
    pub const fn advance(self, count: u64) -> Self {
        match self.0.checked_add(count) {
            Some(value) => Self(value),
            None => panic!("block beyond the address space"),
        }
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A number of 4 KiB blocks.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default, Debug,
)]
#[serde(transparent)]
pub struct BlockCount(u64);

impl BlockCount {
    /// Makes a count from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// How many bytes that is.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(BLOCK_BYTES)
    }

    /// The blocks of `bytes`; `None` unless it is a whole number of blocks.
    #[must_use]
    pub const fn from_bytes_exact(bytes: u64) -> Option<Self> {
        if bytes.is_multiple_of(BLOCK_BYTES) {
            Some(Self(bytes / BLOCK_BYTES))
        } else {
            None
        }
    }
}

/// The blocks `[first, first + count)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BlockRange {
    first: BlockIndex,
    count: u32,
}

impl BlockRange {
    /// The range of `count` blocks from `first`; `None` when it would pass 2^64 bytes.
    #[must_use]
    pub fn new(first: BlockIndex, count: u32) -> Option<Self> {
        let end = first.0.checked_add(u64::from(count))?;
        end.checked_mul(BLOCK_BYTES)?;
        Some(Self { first, count })
    }

    /// The whole blocks that `length` bytes at byte `offset` touch; `None` on overflow.
    #[must_use]
    pub fn covering(offset: u64, length: u64) -> Option<Self> {
        let first = offset / BLOCK_BYTES;
        let end = offset.checked_add(length)?.checked_add(BLOCK_BYTES - 1)? / BLOCK_BYTES;
        let count = if length == 0 {
            0
        } else {
            u32::try_from(end - first).ok()?
        };
        Self::new(BlockIndex(first), count)
    }

    /// The first block; inside the range unless the range is empty.
    #[must_use]
    pub const fn first(self) -> BlockIndex {
        self.first
    }

    /// How many blocks.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The block after the last one; outside the range.
    #[must_use]
    pub const fn end(self) -> BlockIndex {
        BlockIndex(self.first.0 + self.count as u64)
    }

    /// How many bytes the range covers.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count as u64 * BLOCK_BYTES
    }

    /// Whether no block lies inside.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Whether `block` lies inside.
    #[must_use]
    pub fn contains(self, block: BlockIndex) -> bool {
        self.first <= block && block < self.end()
    }

    /// Whether some block lies in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    /// The blocks, ascending.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = BlockIndex> + ExactSizeIterator {
        let first = self.first.0;
        (0..self.count).map(move |n| BlockIndex(first + u64::from(n)))
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.first, self.end())
    }
}

/// A number of bytes, shown in the units that operators use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteCount(u64);

impl ByteCount {
    /// Makes a count of `value` bytes.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = 0;
        let mut scale = 1024_u64;
        while unit + 1 < UNITS.len() && self.0 / scale >= 1024 {
            unit += 1;
            scale *= 1024;
        }
        let (whole, tenths) = (self.0 / scale, self.0 % scale * 10 / scale);
        if tenths == 0 {
            write!(f, "{whole} {}", UNITS[unit])
        } else {
            write!(f, "{whole}.{tenths} {}", UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_takes_every_touched_block() {
        for (offset, length, first, count) in [
            (0, 0, 0, 0),
            (0, 1, 0, 1),
            (4095, 2, 0, 2), // one byte on each side of the border
            (4096, 4096, 1, 1),
            (1, 4096, 0, 2),
        ] {
            let range = BlockRange::covering(offset, length).unwrap();
            assert_eq!(
                (range.first().get(), range.count()),
                (first, count),
                "{offset}+{length}"
            );
        }
        assert!(BlockRange::covering(u64::MAX, 2).is_none());
    }

    #[test]
    fn byte_counts_read_as_people_say_them() {
        for (bytes, want) in [
            (5, "5 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 30, "1 GiB"),
        ] {
            assert_eq!(ByteCount::new(bytes).to_string(), want);
        }
    }
}

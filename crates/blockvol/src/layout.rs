//! Where a store's structures lie on its device.
//!
//! ```text
//! 0        1 MiB    2 MiB              map_offset        extents_offset
//! | sb A   | sb B   | log ring         | map pages (x2)  | extents, block n at n * 4096
//! ```

use moorline_types::{BLOCK_SIZE, BlockCount, BlockIndex};

/// Bytes of one superblock copy: its fixed part, its sections and their padding.
pub const SUPERBLOCK_BYTES: usize = 128 << 10;

/// Where the two superblock copies lie. A mebibyte apart: one bad erase block takes one copy.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 1 << 20];

/// Where the log ring starts.
pub const LOG_OFFSET: u64 = 2 << 20;

/// The smallest ring: eight of the largest requests would be 256 MiB; tests use small requests.
pub(crate) const LOG_BYTES_MIN: u64 = 64 << 10;

/// Map entries in one page: 64 bytes of header and 12 bytes for each entry fill 4 KiB.
pub(crate) const ENTRIES_PER_PAGE: u64 = 336;

const BLOCK_BYTES: u64 = BLOCK_SIZE as u64;

/// Both slots of one map page lie side by side, so that one read gets both.
pub(crate) const MAP_PAGE_BYTES: u64 = 2 * BLOCK_BYTES;

/// The map and the extents start at multiples of this many bytes.
const REGION_ALIGN: u64 = 1 << 20;

const _: () = assert!(SUPERBLOCK_OFFSETS[0] + SUPERBLOCK_BYTES as u64 <= SUPERBLOCK_OFFSETS[1]);
const _: () = assert!(SUPERBLOCK_OFFSETS[1] + SUPERBLOCK_BYTES as u64 <= LOG_OFFSET);
const _: () = assert!(SUPERBLOCK_BYTES.is_multiple_of(BLOCK_SIZE));

/// The number of one map page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PageNo(pub(crate) u64);

impl PageNo {
    /// The page that holds the entry of `block`.
    pub(crate) const fn of(block: BlockIndex) -> Self {
        Self(block.get() / ENTRIES_PER_PAGE)
    }

    /// The first block whose entry lies in the page.
    pub(crate) const fn first_block(self) -> BlockIndex {
        BlockIndex::new(self.0 * ENTRIES_PER_PAGE)
    }
}

/// Where everything lies; fixed when the store is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The volume's size.
    pub size_blocks: BlockCount,
    /// Bytes of the log ring, a multiple of 4096.
    pub log_bytes: u64,
}

impl Layout {
    /// The layout of a store of `size_blocks` whose ring has `log_bytes`; `None` when that cannot
    /// be: no block, a ring that is too small or not whole blocks, or more than 2^63 bytes.
    #[must_use]
    pub fn new(size_blocks: BlockCount, log_bytes: u64) -> Option<Self> {
        let sane = size_blocks.get() > 0
            && size_blocks.get() < 1 << 50
            && (LOG_BYTES_MIN..1 << 50).contains(&log_bytes)
            && log_bytes.is_multiple_of(BLOCK_BYTES);
        sane.then_some(Self {
            size_blocks,
            log_bytes,
        })
    }

    /// How many map pages there are.
    #[must_use]
    pub const fn map_pages(&self) -> u64 {
        self.size_blocks.get().div_ceil(ENTRIES_PER_PAGE)
    }

    /// The byte at which the map starts.
    #[must_use]
    pub const fn map_offset(&self) -> u64 {
        (LOG_OFFSET + self.log_bytes).next_multiple_of(REGION_ALIGN)
    }

    /// Bytes of the map, both slots of every page.
    #[must_use]
    pub const fn map_bytes(&self) -> u64 {
        self.map_pages() * MAP_PAGE_BYTES
    }

    /// The byte at which block 0 lies.
    #[must_use]
    pub const fn extents_offset(&self) -> u64 {
        (self.map_offset() + self.map_bytes()).next_multiple_of(REGION_ALIGN)
    }

    /// The bytes that a device must have.
    #[must_use]
    pub const fn device_bytes(&self) -> u64 {
        self.extents_offset() + self.size_blocks.bytes()
    }

    /// The byte at which `block` lies.
    pub(crate) fn block_offset(&self, block: BlockIndex) -> u64 {
        assert!(
            block.get() < self.size_blocks.get(),
            "the block lies inside the volume"
        );
        self.extents_offset() + block.byte_offset()
    }

    /// The byte at which the first slot of `page` lies; the second follows.
    pub(crate) fn page_offset(&self, page: PageNo) -> u64 {
        assert!(page.0 < self.map_pages(), "the page lies inside the map");
        self.map_offset() + page.0 * MAP_PAGE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_follow_each_other_without_overlap() {
        for (blocks, log) in [
            (1, 64 << 10),
            (336, 1 << 20),
            (337, 4096 * 17),
            (1 << 28, 256 << 20),
        ] {
            let layout = Layout::new(BlockCount::new(blocks), log).unwrap();
            assert!(layout.map_offset() >= LOG_OFFSET + log);
            assert!(layout.extents_offset() >= layout.map_offset() + layout.map_bytes());
            assert!(layout.map_pages() * ENTRIES_PER_PAGE >= blocks);
            assert_eq!(
                layout.device_bytes(),
                layout.block_offset(BlockIndex::new(blocks - 1)) + 4096
            );
        }
    }

    #[test]
    fn impossible_layouts_are_refused() {
        for (blocks, log) in [
            (0, 1 << 20),
            (1, 4096),
            (1, (1 << 20) + 1),
            (1 << 51, 1 << 20),
        ] {
            assert!(Layout::new(BlockCount::new(blocks), log).is_none());
        }
    }
}

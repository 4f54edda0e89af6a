//! Blocks that O_DIRECT accepts.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const BLOCK_BYTES: usize = 4096;

/// Opens `device` for reading and writing around the page cache.
pub(crate) fn open_direct(device: &Path) -> File {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(direct)
        .open(device);
    opened.unwrap_or_else(|error| panic!("cannot open {}: {error}", device.display()))
}

/// 4096 bytes at an address that is a multiple of 4096.
pub(crate) struct Block {
    memory: Vec<u8>,
    skip: usize,
}

impl Block {
    pub(crate) fn filled(fill: u8) -> Self {
        let memory = vec![fill; 2 * BLOCK_BYTES];
        let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, skip }
    }

    /// A block each sector of which names who wrote it.
    pub(crate) fn stamped(round: u8, block: u64, version: u64) -> Self {
        let mut stamped = Self::filled(round);
        for sector in stamped.bytes_mut().chunks_mut(512) {
            for word in sector.chunks_mut(16) {
                word[..8].copy_from_slice(&(block << 8 | u64::from(round)).to_le_bytes());
                word[8..].copy_from_slice(&version.to_le_bytes());
            }
        }
        stamped
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.skip..self.skip + BLOCK_BYTES]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + BLOCK_BYTES]
    }
}

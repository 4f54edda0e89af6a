//! The durable bytes of a disk: a sparse file of fixed size.
//!
//! It is never synced itself: the machine that runs the rig is not the one that loses power.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::payload::Edit;

/// An open image.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    size_bytes: u64,
}

impl Image {
    /// Opens the image at `path`, or makes one of zeros. An existing file of another size is refused.
    pub(crate) fn open(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let found_bytes = file.metadata()?.len();
        if found_bytes == 0 {
            file.set_len(size_bytes)?;
        } else if found_bytes != size_bytes {
            let reason =
                format!("the image has {found_bytes} bytes, the disk is to have {size_bytes}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Self { file, size_bytes })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    pub(crate) fn apply(&self, edit: &Edit) -> io::Result<()> {
        match edit.slice.bytes() {
            Some(bytes) => self.file.write_all_at(bytes, edit.offset),
            None => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(
                    &self.file,
                    punch,
                    edit.offset,
                    edit.slice.len_bytes(),
                )?)
            }
        }
    }
}

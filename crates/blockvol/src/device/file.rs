//! Opens, locks and measures the file or block device that a store lies on.
//!
//! The lock is taken on the very descriptor that is written through: it belongs to the open file,
//! which a killed process's ring keeps open until its last write is over, so nobody opens a store
//! that is still being written.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use moorline_types::{BLOCK_SIZE, PageBuf};
use rustix::{
    fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom},
    io::Errno,
};

/// Whether the file of a store is made or must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateFile {
    /// Made, this long, sparse; a block device is only checked to be at least as large.
    New {
        /// In bytes, a multiple of 4096.
        bytes: u64,
    },
    /// It must be there.
    Existing,
}

/// What a store lies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A file in a file system.
    Regular,
    /// A block device.
    BlockDevice,
}

/// Whether transfers go past the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoPath {
    /// They do (O_DIRECT).
    Direct,
    /// They do not, for this reason.
    Buffered(BufferedReason),
}

/// Why the page cache is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BufferedReason {
    /// The file system refuses to open with O_DIRECT, as some versions of tmpfs do.
    #[error("the file system does not offer O_DIRECT")]
    NotOffered,
    /// It opens with O_DIRECT and then refuses a transfer of one aligned block.
    #[error("the file system refuses O_DIRECT transfers of 4096 bytes")]
    TransferRefused,
}

/// Why a store's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenDeviceError {
    /// There is nothing at the path.
    #[error("{path} does not exist")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// Something is there already.
    #[error("{path} exists already")]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// Another process has it open as a store, or the kernel has it mounted.
    #[error("{path} is in use by another process: stop it first")]
    AlreadyLocked {
        /// The path.
        path: PathBuf,
    },
    /// Access is denied.
    #[error("{path} may not be read and written by this user")]
    Permission {
        /// The path.
        path: PathBuf,
    },
    /// It has less room than is needed.
    #[error("{path} has {have} bytes and {need} are needed")]
    TooSmall {
        /// The path.
        path: PathBuf,
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The file system is full, or cannot hold a file of that size.
    #[error("there is no room for {bytes} bytes at {path}")]
    NoSpace {
        /// The path.
        path: PathBuf,
        /// Bytes wanted.
        bytes: u64,
    },
    /// It is a directory, a pipe or something else that holds no blocks.
    #[error("{path} is neither a file nor a block device")]
    NotBlocks {
        /// The path.
        path: PathBuf,
    },
    /// Its sectors are larger than a block.
    #[error("{path} has sectors of {sector_bytes} bytes; 4096 is the most that works")]
    LargeSectors {
        /// The path.
        path: PathBuf,
        /// In bytes.
        sector_bytes: u32,
    },
    /// The operating system refused.
    #[error("cannot open {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenDeviceError {
    fn from_errno(path: &Path, errno: Errno, bytes: u64) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT => Self::NotFound { path },
            Errno::EXIST => Self::Exists { path },
            Errno::BUSY | Errno::AGAIN => Self::AlreadyLocked { path },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Permission { path },
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoSpace { path, bytes },
            Errno::ISDIR => Self::NotBlocks { path },
            _ => Self::Io {
                path,
                source: errno.into(),
            },
        }
    }

    /// As the operating system numbers it, as near as it comes.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound { .. } => libc::ENOENT,
            Self::Exists { .. } => libc::EEXIST,
            Self::AlreadyLocked { .. } => libc::EBUSY,
            Self::Permission { .. } => libc::EACCES,
            Self::TooSmall { .. } | Self::NoSpace { .. } => libc::ENOSPC,
            Self::NotBlocks { .. } | Self::LargeSectors { .. } => libc::EINVAL,
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// An open and locked store file. Dropping it gives up the lock.
#[derive(Debug)]
pub struct StoreFile {
    fd: OwnedFd,
    path: PathBuf,
    bytes: u64,
    kind: FileKind,
    io_path: IoPath,
}

impl StoreFile {
    /// Its size in bytes, a multiple of 4096.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whether transfers go past the page cache.
    #[must_use]
    pub fn io_path(&self) -> IoPath {
        self.io_path
    }
}

impl AsFd for StoreFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens and locks the file or block device at `path` for one store.
///
/// # Errors
///
/// See [`OpenDeviceError`]. What was made is removed again.
pub fn open_store(path: &Path, create: CreateFile) -> Result<StoreFile, OpenDeviceError> {
    let there = match rustix::fs::stat(path) {
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(OpenDeviceError::from_errno(path, errno, 0)),
    };
    match (there, create) {
        (Some(FileType::BlockDevice), _) => open_block_device(path, create),
        (Some(FileType::RegularFile), CreateFile::Existing) => open_existing(path),
        (Some(FileType::RegularFile), CreateFile::New { .. }) => Err(OpenDeviceError::Exists {
            path: path.to_owned(),
        }),
        (Some(_), _) => Err(OpenDeviceError::NotBlocks {
            path: path.to_owned(),
        }),
        (None, CreateFile::Existing) => Err(OpenDeviceError::NotFound {
            path: path.to_owned(),
        }),
        (None, CreateFile::New { bytes }) => create_file(path, bytes),
    }
}

fn open_existing(path: &Path) -> Result<StoreFile, OpenDeviceError> {
    let fail = |errno| OpenDeviceError::from_errno(path, errno, 0);
    let (fd, io_path) = open_direct(path, OFlags::empty()).map_err(fail)?;
    lock(&fd).map_err(fail)?;
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    // Somebody may have removed it between the open and the lock.
    let named = rustix::fs::stat(path).map_err(fail)?;
    if (stat.st_dev, stat.st_ino) != (named.st_dev, named.st_ino) {
        return Err(fail(Errno::NOENT));
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    finish(path, fd, io_path, FileKind::Regular, bytes)
}

fn open_block_device(path: &Path, create: CreateFile) -> Result<StoreFile, OpenDeviceError> {
    let fail = |errno| OpenDeviceError::from_errno(path, errno, 0);
    // Without O_CREAT, O_EXCL on a block device fails while the kernel has it mounted.
    let (fd, io_path) = open_direct(path, OFlags::EXCL).map_err(fail)?;
    lock(&fd).map_err(fail)?;
    let sector_bytes = rustix::fs::ioctl_blksszget(&fd).map_err(fail)?;
    if sector_bytes as usize > BLOCK_SIZE {
        return Err(OpenDeviceError::LargeSectors {
            path: path.to_owned(),
            sector_bytes,
        });
    }
    let bytes = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(fail)?;
    if let CreateFile::New { bytes: need } = create
        && bytes < need
    {
        return Err(OpenDeviceError::TooSmall {
            path: path.to_owned(),
            have: bytes,
            need,
        });
    }
    finish(path, fd, io_path, FileKind::BlockDevice, bytes)
}

fn create_file(path: &Path, bytes: u64) -> Result<StoreFile, OpenDeviceError> {
    let fail = |errno| OpenDeviceError::from_errno(path, errno, bytes);
    let (fd, io_path) = open_direct(path, OFlags::CREATE | OFlags::EXCL).map_err(fail)?;
    let made = lock(&fd)
        .and_then(|()| rustix::fs::ftruncate(&fd, bytes))
        .and_then(|()| rustix::fs::fsync(&fd))
        .and_then(|()| sync_directory(path))
        .map_err(fail)
        .and_then(|()| finish(path, fd, io_path, FileKind::Regular, bytes));
    if made.is_err() {
        // The first error is the one to tell; a file that stays is found by the next attempt.
        drop(std::fs::remove_file(path));
    }
    made
}

/// Makes the directory entry of `path` durable.
fn sync_directory(path: &Path) -> rustix::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let directory = rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::fsync(&directory)
}

fn lock(fd: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive)
}

/// Opens with O_DIRECT, or without where the file system has none.
fn open_direct(path: &Path, extra: OFlags) -> rustix::io::Result<(OwnedFd, IoPath)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | extra;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
        Ok(fd) => Ok((fd, IoPath::Direct)),
        Err(Errno::INVAL) => {
            // The kernel makes the file before it finds that O_DIRECT is not to be had.
            let again = if extra.contains(OFlags::CREATE) {
                flags - OFlags::EXCL
            } else {
                flags
            };
            let fd = rustix::fs::open(path, again, mode)?;
            Ok((fd, IoPath::Buffered(BufferedReason::NotOffered)))
        }
        Err(errno) => Err(errno),
    }
}

/// Checks that what was opened can be read as it will be, and rounds its size down to blocks.
fn finish(
    path: &Path,
    fd: OwnedFd,
    io_path: IoPath,
    kind: FileKind,
    bytes: u64,
) -> Result<StoreFile, OpenDeviceError> {
    let bytes = bytes / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
    if bytes == 0 {
        return Err(OpenDeviceError::TooSmall {
            path: path.to_owned(),
            have: bytes,
            need: BLOCK_SIZE as u64,
        });
    }
    let io_path = match io_path {
        IoPath::Direct if !direct_read_works(&fd) => {
            let flags = rustix::fs::fcntl_getfl(&fd)
                .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags - OFlags::DIRECT));
            flags.map_err(|errno| OpenDeviceError::from_errno(path, errno, 0))?;
            IoPath::Buffered(BufferedReason::TransferRefused)
        }
        IoPath::Direct | IoPath::Buffered(_) => io_path,
    };
    Ok(StoreFile {
        fd,
        path: path.to_owned(),
        bytes,
        kind,
        io_path,
    })
}

fn direct_read_works(fd: &OwnedFd) -> bool {
    let mut buffer = PageBuf::zeroed(1);
    // Only a refusal of the transfer's shape counts: a bad sector is for the store to find.
    !matches!(
        rustix::io::pread(fd, buffer.as_mut_slice(), 0),
        Err(Errno::INVAL)
    )
}

impl StoreFile {
    /// Removes the file and gives up the lock; a block device only loses the lock.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    pub fn remove(self) -> io::Result<()> {
        match self.kind {
            FileKind::BlockDevice => Ok(()),
            FileKind::Regular => {
                std::fs::remove_file(&self.path)?;
                Ok(sync_directory(&self.path)?)
            }
        }
    }
}

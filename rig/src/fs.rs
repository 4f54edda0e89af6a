//! The FUSE file system: one directory of fixed-size files, one for each disk.
//!
//! Files are opened for direct I/O, so the kernel keeps no pages of them and every request comes here.
//! The handle of an open file is the power session in which it was opened.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Disk, PowerSession, Refusal};
use crate::overlay::Durability;
use crate::payload::{Payload, to_usize};

/// Nothing about the files changes but their bytes, which are not cached.
const TTL: Duration = Duration::from_secs(3600);

/// Bytes of one request; more makes no difference to a loop device.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel sends before it waits for answers. Deep queues over several disks fit.
const BACKGROUND_MAX: u16 = 512;

/// The root has inode 1, disk `n` has `n + FIRST_DISK`.
const FIRST_DISK: u64 = 2;

thread_local! {
    // A read's answer is copied to the kernel before the next read of the same thread.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct RigFs {
    disks: Vec<Arc<Disk>>,
}

impl RigFs {
    pub(crate) fn new(disks: Vec<Arc<Disk>>) -> Self {
        Self { disks }
    }

    fn disk(&self, ino: INodeNo) -> Option<&Arc<Disk>> {
        self.disks
            .get(to_usize(u64::from(ino).checked_sub(FIRST_DISK)?))
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = if ino == INodeNo::ROOT {
            (FileType::Directory, 0o755, 0)
        } else {
            (FileType::RegularFile, 0o600, self.disk(ino)?.size_bytes())
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for RigFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        config
            .set_max_write(REQUEST_BYTES_MAX)
            .map_err(|_| unsupported())?;
        config
            .set_max_background(BACKGROUND_MAX)
            .map_err(|_| unsupported())?;
        // Without the first, requests are cut to 128 KiB; without the second, loop I/O is one at a time.
        let wanted = InitFlags::FUSE_MAX_PAGES | InitFlags::FUSE_ASYNC_DIO;
        config.add_capabilities(wanted).map_err(|_| unsupported())?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inodes = (FIRST_DISK..).map(INodeNo);
        let found = self
            .disks
            .iter()
            .zip(inodes)
            .find(|(disk, _)| name == disk.name());
        match found
            .filter(|_| parent == INodeNo::ROOT)
            .and_then(|(_, ino)| self.attr(ino))
        {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // A disk has the size that it was made with; `truncate(2)` to that size is harmless.
        match self.attr(ino) {
            Some(attr) if size.is_none_or(|size| size == attr.size) => reply.attr(&TTL, &attr),
            Some(_) => reply.error(Errno::EPERM),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = self.disks.iter().zip(FIRST_DISK..);
        let files = files.map(|(disk, ino)| (INodeNo(ino), FileType::RegularFile, disk.name()));
        let entries = dots
            .into_iter()
            .chain(files)
            .zip(1..)
            .skip(to_usize(offset));
        for ((ino, kind, name), next) in entries {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(disk) = self.disk(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let direct = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        match disk.session() {
            Some(session) => reply.opened(FileHandle(session.get()), direct),
            None => reply.error(Errno::EIO),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(disk) = self.disk(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let len_bytes = u64::from(size).min(disk.size_bytes().saturating_sub(offset));
        read(
            Arc::clone(disk),
            PowerSession::new(fh.0),
            offset,
            to_usize(len_bytes),
            reply,
        );
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(disk) = self.disk(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let room = disk.size_bytes().saturating_sub(offset);
        let Ok(written) = u32::try_from(room.min(data.len() as u64)) else {
            return reply.error(Errno::EINVAL);
        };
        if written == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        let payload = Payload::Bytes(Arc::from(&data[..to_usize(written.into())]));
        // O_SYNC contains the bit of O_DSYNC.
        let durability = match flags.0 & libc::O_DSYNC {
            0 => Durability::Volatile,
            _ => Durability::Durable,
        };
        let write = Write {
            session: PowerSession::new(fh.0),
            offset,
            payload,
            durability,
        };
        change(Arc::clone(disk), write, move |done| match done {
            Ok(()) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(disk) = self.disk(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= disk.size_bytes());
        if mode & zeroes == 0 || !inside {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let session = PowerSession::new(fh.0);
        let (payload, durability) = (Payload::Zeros(length), Durability::Volatile);
        change(
            Arc::clone(disk),
            Write {
                session,
                offset,
                payload,
                durability,
            },
            |done| match done {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let Some(disk) = self.disk(ino) else {
            return reply.error(Errno::EISDIR);
        };
        sync(Arc::clone(disk), PowerSession::new(fh.0), reply);
    }

    /// Sent on close by kernels that do not know the flag that says not to; it is no sync.
    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

struct Write {
    session: PowerSession,
    offset: u64,
    payload: Payload,
    durability: Durability,
}

// Each of these three parks itself, answer and all, while the disk hangs.

fn read(disk: Arc<Disk>, session: PowerSession, offset: u64, len_bytes: usize, reply: ReplyData) {
    let mut buffer = READ_BUFFER.take();
    if buffer.len() < len_bytes {
        buffer.resize(len_bytes, 0);
    }
    let out = &mut buffer[..len_bytes];
    match disk.read(session, offset, out) {
        Ok(()) => reply.data(out),
        Err(Refusal::Hung) => {
            let parked = Arc::clone(&disk);
            disk.park(Box::new(move || {
                read(parked, session, offset, len_bytes, reply)
            }));
        }
        Err(refusal) => reply.error(errno(&refusal)),
    }
    READ_BUFFER.set(buffer);
}

fn change(disk: Arc<Disk>, write: Write, answer: impl FnOnce(Result<(), Errno>) + Send + 'static) {
    match disk.write(
        write.session,
        write.offset,
        write.payload.clone(),
        write.durability,
    ) {
        Ok(()) => answer(Ok(())),
        Err(Refusal::Hung) => {
            let parked = Arc::clone(&disk);
            disk.park(Box::new(move || change(parked, write, answer)));
        }
        Err(refusal) => answer(Err(errno(&refusal))),
    }
}

fn sync(disk: Arc<Disk>, session: PowerSession, reply: ReplyEmpty) {
    match disk.sync(session) {
        Ok(()) => reply.ok(),
        Err(Refusal::Hung) => {
            let parked = Arc::clone(&disk);
            disk.park(Box::new(move || sync(parked, session, reply)));
        }
        Err(refusal) => reply.error(errno(&refusal)),
    }
}

fn errno(refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::Eio | Refusal::Hung => Errno::EIO,
        Refusal::Image(error) => {
            // The rig itself is broken, which a test must not take for a planned fault.
            eprintln!("moorline-rig: the image failed: {error}");
            Errno::EIO
        }
    }
}

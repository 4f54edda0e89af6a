//! pread, pwrite and a few threads a device: where io_uring is not to be had.
//!
//! As asynchronous as the ring for who uses it: a disk that hangs holds up its own threads only.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread,
};

use moorline_types::{
    BLOCK_SIZE, DeviceDone, DeviceError, DeviceOp, DeviceOpKind, Payload, WriteMode,
};
use parking_lot::{Condvar, Mutex};
use rustix::{
    event::EventfdFlags,
    fs::FallocateFlags,
    io::{Errno, ReadWriteFlags},
};

use super::{
    Armed, Completion, DeviceSet, DeviceTag, RemoveError, StoreFile, Submission, cannot_discard,
    check_range, device_error, finished,
};

/// Threads for one device: a flush, a log write, and two for reads or the flusher.
const THREADS: usize = 4;

/// Most vectors in one request: the kernel's UIO_MAXIOV.
const VECTORS_MAX: usize = 1024;

/// What the threads of one device wait for.
#[derive(Default)]
struct Queue {
    work: Mutex<Work>,
    wake: Condvar,
}

#[derive(Default)]
struct Work {
    ops: VecDeque<DeviceOp>,
    closing: bool,
}

/// Where completions of all devices meet.
struct Landing {
    done: Mutex<Vec<Completion>>,
    event: OwnedFd,
}

struct Device {
    file: Arc<StoreFile>,
    queue: Arc<Queue>,
    threads: Vec<thread::JoinHandle<()>>,
    in_flight: usize,
}

/// The devices of a server behind blocking calls on threads.
pub struct SyncSet {
    devices: BTreeMap<DeviceTag, Device>,
    landing: Arc<Landing>,
    /// Completions that needed no thread.
    ready: Vec<Completion>,
}

impl SyncSet {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            devices: BTreeMap::new(),
            landing: Arc::new(Landing {
                done: Mutex::default(),
                event,
            }),
            ready: Vec::new(),
        })
    }
}

impl DeviceSet for SyncSet {
    fn add(&mut self, device: DeviceTag, file: StoreFile) {
        let (file, queue) = (Arc::new(file), Arc::new(Queue::default()));
        let threads = (0..THREADS)
            .map(|_| {
                let (file, queue) = (Arc::clone(&file), Arc::clone(&queue));
                let landing = Arc::clone(&self.landing);
                thread::Builder::new()
                    .name(format!("disk-{device}"))
                    .spawn(move || serve(device, &file, &queue, &landing))
                    .expect("the process may have a few more threads")
            })
            .collect();
        let entry = Device {
            file,
            queue,
            threads,
            in_flight: 0,
        };
        let before = self.devices.insert(device, entry);
        assert!(before.is_none(), "device tags are not reused");
    }

    fn remove(&mut self, device: DeviceTag) -> Result<StoreFile, RemoveError> {
        match self.devices.get(&device) {
            None => return Err(RemoveError::Unknown { device }),
            Some(entry) if entry.in_flight > 0 => {
                return Err(RemoveError::InFlight {
                    device,
                    count: entry.in_flight,
                });
            }
            Some(_) => {}
        }
        let mut entry = self.devices.remove(&device).expect("just found");
        entry.queue.close();
        for thread in entry.threads.drain(..) {
            thread.join().expect("a disk thread does not panic");
        }
        let file = Arc::clone(&entry.file);
        drop(entry);
        Ok(Arc::into_inner(file).expect("its threads have ended"))
    }

    fn submit(&mut self, ops: &mut Vec<Submission>) {
        for Submission { device, op } in ops.drain(..) {
            let checked = match self.devices.get_mut(&device) {
                None => Err(DeviceError::Errno { errno: libc::EBADF }),
                Some(entry) => check_range(&op, entry.file.bytes()).map(|()| entry),
            };
            match checked {
                Err(error) => self.ready.push(Completion {
                    device,
                    done: DeviceDone {
                        id: op.id,
                        result: Err(error),
                    },
                }),
                Ok(entry) => {
                    entry.in_flight += 1;
                    entry.queue.work.lock().ops.push_back(op);
                    entry.queue.wake.notify_one();
                }
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.ready);
        let landed = std::mem::take(&mut *self.landing.done.lock());
        for completion in &landed {
            if let Some(entry) = self.devices.get_mut(&completion.device) {
                entry.in_flight -= 1;
            }
        }
        done.extend(landed);
    }

    fn arm(&mut self) -> Armed {
        // The threads always ring the bell after they put something down, so nothing is missed.
        if self.ready.is_empty() && self.landing.done.lock().is_empty() {
            Armed::Quiet
        } else {
            Armed::Ready
        }
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.landing.event.as_fd()
    }

    fn in_flight(&self) -> usize {
        let working: usize = self.devices.values().map(|entry| entry.in_flight).sum();
        working + self.ready.len()
    }
}

impl Drop for SyncSet {
    fn drop(&mut self) {
        // Threads end after what they have in hand, with their own hold on file and buffers: a disk
        // that hangs does not hold up the process.
        for entry in self.devices.values() {
            entry.queue.close();
        }
    }
}

impl fmt::Debug for SyncSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSet")
            .field("devices", &self.devices.len())
            .finish_non_exhaustive()
    }
}

impl Queue {
    fn close(&self) {
        self.work.lock().closing = true;
        self.wake.notify_all();
    }

    /// The next operation; `None` when the device is closed.
    fn next(&self) -> Option<DeviceOp> {
        let mut work = self.work.lock();
        loop {
            if work.closing {
                return None;
            }
            if let Some(op) = work.ops.pop_front() {
                return Some(op);
            }
            self.wake.wait(&mut work);
        }
    }
}

fn serve(device: DeviceTag, file: &StoreFile, queue: &Queue, landing: &Landing) {
    while let Some(mut op) = queue.next() {
        let result = act(file, op.offset, &mut op.kind).map(|()| finished(op.kind));
        let done = DeviceDone { id: op.id, result };
        landing.done.lock().push(Completion { device, done });
        // It cannot fail but when it was rung 2^64 times unheard.
        let _ = rustix::io::write(&landing.event, &1_u64.to_ne_bytes());
    }
}

fn act(file: &StoreFile, offset: u64, kind: &mut DeviceOpKind) -> Result<(), DeviceError> {
    match kind {
        DeviceOpKind::Read(buffer) => {
            let space = buffer.as_mut_slice();
            let wanted = space.len();
            transfer(wanted, |done| {
                let mut slices = [IoSliceMut::new(&mut space[done..])];
                let at = offset + done as u64;
                rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::empty())
            })
        }
        DeviceOpKind::Write(parts, mode) => {
            let wanted = parts.iter().map(Payload::len).sum();
            let flags = match mode {
                WriteMode::Cached => ReadWriteFlags::empty(),
                WriteMode::Durable => ReadWriteFlags::DSYNC,
            };
            transfer(wanted, |done| {
                let slices = slices_after(parts, done);
                rustix::io::pwritev2(file, &slices, offset + done as u64, flags)
            })
        }
        DeviceOpKind::Flush => rustix::fs::fdatasync(file).map_err(failure),
        DeviceOpKind::Discard { length } => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(file, mode, offset, *length) {
                Err(errno) if !cannot_discard(errno.raw_os_error()) => Err(failure(errno)),
                Ok(()) | Err(_) => Ok(()),
            }
        }
    }
}

fn failure(errno: Errno) -> DeviceError {
    device_error(errno.raw_os_error())
}

/// Moves `wanted` bytes with calls that may move less.
fn transfer(
    wanted: usize,
    mut call: impl FnMut(usize) -> rustix::io::Result<usize>,
) -> Result<(), DeviceError> {
    let mut done = 0;
    while done < wanted {
        match call(done) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failure(errno)),
            Ok(moved) => {
                done += moved;
                if moved == 0 || (done < wanted && !moved.is_multiple_of(BLOCK_SIZE)) {
                    return Err(DeviceError::Short {
                        done: done as u64,
                        wanted: wanted as u64,
                    });
                }
            }
        }
    }
    Ok(())
}

fn slices_after(parts: &[Payload], mut skip: usize) -> Vec<IoSlice<'_>> {
    let mut slices = Vec::with_capacity(parts.len().min(VECTORS_MAX));
    for part in parts {
        let skipped = skip.min(part.len());
        skip -= skipped;
        if skipped < part.len() && slices.len() < VECTORS_MAX {
            slices.push(IoSlice::new(&part.as_slice()[skipped..]));
        }
    }
    slices
}

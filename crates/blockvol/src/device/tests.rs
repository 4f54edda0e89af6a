//! Both sets against real files.

use std::{
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use moorline_types::{
    BLOCK_SIZE, BufferPool, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, OpId, OpOwner,
    Payload, WriteMode,
};
use rustix::event::{PollFd, PollFlags};

use super::*;

const FILE_BYTES: u64 = 16 << 20;

struct Bench {
    set: Box<dyn DeviceSet>,
    pool: BufferPool,
    serial: u64,
    directory: tempfile::TempDir,
}

const TAG: DeviceTag = DeviceTag::new(7);

impl Bench {
    /// One for each way that works here.
    fn all() -> Vec<Self> {
        let (probed, engine) = open_set(Access::Probe).unwrap();
        println!("probing chose {engine}");
        let (sync, _) = open_set(Access::Sync).unwrap();
        [probed, sync].map(Self::new).into()
    }

    fn new(mut set: Box<dyn DeviceSet>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.store");
        let file = open_store(&path, CreateFile::New { bytes: FILE_BYTES }).unwrap();
        set.add(TAG, file);
        Self {
            set,
            pool: BufferPool::new(),
            serial: 0,
            directory,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("a.store")
    }

    fn op(&mut self, offset: u64, kind: DeviceOpKind) -> Submission {
        self.serial += 1;
        // Both what is waited for and what is not.
        let owner = [OpOwner::Log, OpOwner::Extents][usize::from(self.serial.is_multiple_of(2))];
        let id = OpId::new(owner, self.serial);
        let op = DeviceOp { id, offset, kind };
        Submission { device: TAG, op }
    }

    fn pages(&self, pages: usize, fill: u8) -> Payload {
        let mut buffer = self.pool.dirty(pages);
        buffer.as_mut_slice().fill(fill);
        buffer.freeze()
    }

    /// Submits and waits for as many completions, in order of submission.
    fn run(&mut self, mut ops: Vec<Submission>) -> Vec<Result<DeviceOutcome, DeviceError>> {
        let ids: Vec<OpId> = ops.iter().map(|submission| submission.op.id).collect();
        self.set.submit(&mut ops);
        assert!(ops.is_empty());
        let mut done = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while done.len() < ids.len() {
            assert!(Instant::now() < deadline, "{} of {}", done.len(), ids.len());
            self.set.reap(&mut done);
            if done.len() < ids.len() {
                match self.set.arm() {
                    Armed::Quiet => self.wait(),
                    Armed::QuietFor(_) => std::thread::yield_now(),
                    Armed::Ready => {}
                }
            }
        }
        assert_eq!(self.set.in_flight(), 0);
        ids.iter()
            .map(|id| {
                let at = done.iter().position(|completion| completion.done.id == *id);
                done.swap_remove(at.unwrap()).done.result
            })
            .collect()
    }

    /// Sleeps as the driver does, but for the edges: the descriptor is read to make them.
    fn wait(&self) {
        let event = self.set.event_fd();
        let mut polled = [PollFd::new(&event, PollFlags::IN)];
        let limit = rustix::event::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let count = rustix::event::poll(&mut polled, Some(&limit)).unwrap();
        assert!(count > 0, "a completion wakes who waits for it");
        let _ = rustix::io::read(self.set.event_fd(), &mut [0_u8; 8][..]);
    }

    fn read(&mut self, offset: u64, pages: usize) -> Vec<u8> {
        let buffer = self.pool.dirty(pages);
        let op = self.op(offset, DeviceOpKind::Read(buffer));
        match self.run(vec![op]).pop().unwrap().unwrap() {
            DeviceOutcome::Read(buffer) => buffer.as_slice().to_vec(),
            other
            @ (DeviceOutcome::Written | DeviceOutcome::Flushed | DeviceOutcome::Discarded) => {
                panic!("{other:?}")
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    for mut bench in Bench::all() {
        let parts = vec![bench.pages(1, 1), bench.pages(3, 2), bench.pages(2, 3)];
        let write = bench.op(8192, DeviceOpKind::Write(parts, WriteMode::Durable));
        assert!(matches!(
            bench.run(vec![write])[..],
            [Ok(DeviceOutcome::Written)]
        ));
        let flush = bench.op(0, DeviceOpKind::Flush);
        assert!(matches!(
            bench.run(vec![flush])[..],
            [Ok(DeviceOutcome::Flushed)]
        ));
        let bytes = bench.read(8192, 6);
        let want = [vec![1; 4096], vec![2; 3 * 4096], vec![3; 2 * 4096]].concat();
        assert_eq!(bytes, want);
    }
}

#[test]
fn more_operations_than_the_ring_holds_all_complete() {
    for mut bench in Bench::all() {
        let ops = (0..1_000_u64)
            .map(|n| {
                let page = bench.pages(1, u8::try_from(n % 251).unwrap());
                let kind = DeviceOpKind::Write(vec![page], WriteMode::Cached);
                bench.op(n * BLOCK_SIZE as u64, kind)
            })
            .collect();
        assert!(bench.run(ops).iter().all(Result::is_ok));
        for n in [0_u64, 511, 512, 999] {
            let bytes = bench.read(n * BLOCK_SIZE as u64, 1);
            assert!(bytes.iter().all(|b| u64::from(*b) == n % 251), "block {n}");
        }
    }
}

/// A kernel that is interrupted between adding work and raising its flag leaves the flag up for
/// nothing. Busy processors make that common; a thread that waited for the flag to fall would never
/// come back, and this test would not end.
#[test]
fn a_flag_that_the_kernel_left_up_holds_nobody() {
    let batches_by = |thread: u64, until: Instant| {
        let mut bench = Bench::all().swap_remove(0);
        let mut batches = 0_u64;
        while Instant::now() < until {
            let ops = (0..=batches % 7)
                .map(|op| {
                    let offset = (thread * 31 + batches * 13 + op) % 4_000 * BLOCK_SIZE as u64;
                    let kind = if batches.is_multiple_of(3) {
                        DeviceOpKind::Read(bench.pool.dirty(1))
                    } else {
                        DeviceOpKind::Write(vec![bench.pages(1, 3)], WriteMode::Cached)
                    };
                    bench.op(offset, kind)
                })
                .collect();
            assert!(bench.run(ops).iter().all(Result::is_ok));
            batches += 1;
        }
        batches
    };
    let until = Instant::now() + Duration::from_secs(6);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|thread| scope.spawn(move || batches_by(thread, until)))
            .collect();
        for thread in threads {
            assert!(thread.join().unwrap() > 0);
        }
    });
}

#[test]
fn a_write_of_more_pieces_than_the_kernel_takes_at_once_is_whole() {
    for mut bench in Bench::all() {
        let pages: Vec<Payload> = (0..1_500_u32)
            .map(|n| bench.pages(1, u8::try_from(n % 253).unwrap()))
            .collect();
        let parts: Vec<Payload> = pages.iter().rev().cloned().collect();
        let write = bench.op(0, DeviceOpKind::Write(parts, WriteMode::Cached));
        assert!(bench.run(vec![write])[0].is_ok());
        let bytes = bench.read(0, pages.len());
        for (block, page) in bytes.chunks(BLOCK_SIZE).zip(pages.iter().rev()) {
            assert_eq!(block, page.as_slice());
        }
    }
}

#[test]
fn what_lies_outside_the_device_fails_and_changes_nothing() {
    for mut bench in Bench::all() {
        let page = vec![bench.pages(2, 9)];
        let beyond = bench.op(
            FILE_BYTES - 4096,
            DeviceOpKind::Write(page, WriteMode::Cached),
        );
        let results = bench.run(vec![beyond]);
        let want = DeviceError::OutOfRange {
            end: FILE_BYTES + 4096,
            size: FILE_BYTES,
        };
        assert!(matches!(&results[..], [Err(error)] if *error == want));
        assert_eq!(bench.read(FILE_BYTES - 4096, 1), vec![0; 4096]);
    }
}

#[test]
fn a_discarded_range_can_be_written_again() {
    for mut bench in Bench::all() {
        let page = vec![bench.pages(4, 5)];
        let write = bench.op(0, DeviceOpKind::Write(page, WriteMode::Cached));
        let discard = DeviceOpKind::Discard { length: 8192 };
        assert!(bench.run(vec![write])[0].is_ok());
        let discard = bench.op(4096, discard);
        assert!(matches!(
            bench.run(vec![discard])[..],
            [Ok(DeviceOutcome::Discarded)]
        ));
        assert_eq!(bench.read(0, 1), vec![5; 4096]);
        assert_eq!(bench.read(12288, 1), vec![5; 4096]);
    }
}

#[test]
fn a_device_that_is_gone_answers_so() {
    for mut bench in Bench::all() {
        let file = bench.set.remove(TAG).unwrap();
        assert!(matches!(
            bench.set.remove(TAG),
            Err(RemoveError::Unknown { device: TAG })
        ));
        let flush = bench.op(0, DeviceOpKind::Flush);
        assert!(matches!(
            bench.run(vec![flush])[..],
            [Err(DeviceError::Errno { errno: libc::EBADF })]
        ));
        file.remove().unwrap();
        assert!(!bench.path().exists());
    }
}

#[test]
fn a_device_with_operations_in_flight_stays() {
    for mut bench in Bench::all() {
        let page = vec![bench.pages(1, 5)];
        let write = bench.op(0, DeviceOpKind::Write(page, WriteMode::Durable));
        bench.set.submit(&mut vec![write]);
        assert!(matches!(
            bench.set.remove(TAG),
            Err(RemoveError::InFlight { count: 1, .. })
        ));
        // Dropping the set waits for it, or leaks it.
    }
}

#[test]
fn a_store_is_opened_by_one_at_a_time() {
    for bench in Bench::all() {
        let open = || open_store(&bench.path(), CreateFile::Existing);
        assert!(matches!(open(), Err(OpenDeviceError::AlreadyLocked { .. })));
        // Another process sees it too.
        let status = Command::new("flock")
            .arg("--nonblock")
            .arg(bench.path())
            .arg("true")
            .status()
            .unwrap();
        assert!(!status.success());
        let Bench { set, directory, .. } = bench;
        drop(set);
        let path = directory.path().join("a.store");
        let deadline = Instant::now() + Duration::from_secs(10);
        // The threads of the blocking set let go on their own.
        let file = loop {
            match open_store(&path, CreateFile::Existing) {
                Ok(file) => break file,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        };
        assert_eq!((file.bytes(), file.kind()), (FILE_BYTES, FileKind::Regular));
        assert!(file.as_fd().try_clone_to_owned().is_ok());
    }
}

#[test]
fn what_cannot_be_a_store_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let new = CreateFile::New { bytes: 8192 };
    assert!(matches!(
        open_store(&at("none"), CreateFile::Existing),
        Err(OpenDeviceError::NotFound { .. })
    ));
    assert!(matches!(
        open_store(directory.path(), CreateFile::Existing),
        Err(OpenDeviceError::NotBlocks { .. })
    ));
    std::fs::write(at("small"), [0; 100]).unwrap();
    assert!(matches!(
        open_store(&at("small"), CreateFile::Existing),
        Err(OpenDeviceError::TooSmall { .. })
    ));
    assert!(matches!(
        open_store(&at("small"), new),
        Err(OpenDeviceError::Exists { .. })
    ));
    assert!(matches!(
        open_store(&at("huge"), CreateFile::New { bytes: 1 << 62 }),
        Err(OpenDeviceError::NoSpace { .. } | OpenDeviceError::Io { .. })
    ));
    assert!(!at("huge").exists());
    drop(open_store(&at("made"), new).unwrap());
    assert_eq!(
        open_store(&at("made"), CreateFile::Existing)
            .unwrap()
            .bytes(),
        8192
    );
}

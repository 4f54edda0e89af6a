//! One operation while the kernel has it: its buffers, its vectors, how far it is.

use io_uring::{opcode, squeue, types::Fd, types::FsyncFlags};
use moorline_types::{
    BLOCK_SIZE, DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, OpId, WriteMode,
};

use crate::device::{Completion, DeviceTag, cannot_discard, device_error, finished};

/// Most vectors in one request: the kernel's UIO_MAXIOV. Longer writes go in several.
const VECTORS_MAX: usize = 1024;

/// Most bytes in one request: what the kernel moves at most, rounded down to whole blocks.
const BYTES_MAX: u64 = 0x7fff_f000;

/// How often an interrupted transfer is started again. A device that never gets further than that
/// is not worth waiting for.
const RESTARTS_MAX: u8 = 32;

const _: () = assert!(BYTES_MAX.is_multiple_of(BLOCK_SIZE as u64));

/// What a result of the kernel's leads to.
pub(super) enum Step {
    /// The rest is to be submitted.
    Again,
    /// It is over.
    Done(Result<(), DeviceError>),
}

/// An operation and everything that the kernel may touch for it.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) device: DeviceTag,
    id: OpId,
    offset: u64,
    kind: DeviceOpKind,
    /// Read by the kernel while the operation is in flight; changed only between requests.
    vectors: Vec<libc::iovec>,
    done: u64,
    wanted: u64,
    restarts: u8,
}

impl Operation {
    pub(super) fn new(device: DeviceTag, op: DeviceOp) -> Self {
        Self {
            device,
            id: op.id,
            offset: op.offset,
            wanted: op.kind.length(),
            kind: op.kind,
            vectors: Vec::new(),
            done: 0,
            restarts: 0,
        }
    }

    /// The next request to the kernel, for what is not done yet. It points into this operation,
    /// which must stay as it is until the request completed.
    pub(super) fn entry(&mut self, fd: Fd) -> squeue::Entry {
        let at = self.offset + self.done;
        let left = (self.wanted - self.done).min(BYTES_MAX);
        match &mut self.kind {
            DeviceOpKind::Read(buffer) => {
                let start = usize::try_from(self.done).expect("inside a buffer");
                let space = &mut buffer.as_mut_slice()[start..];
                let length = u32::try_from(left).expect("bounded by BYTES_MAX");
                opcode::Read::new(fd, space.as_mut_ptr(), length)
                    .offset(at)
                    .build()
            }
            DeviceOpKind::Write(parts, mode) => {
                fill_vectors(&mut self.vectors, parts, self.done);
                let flags = match mode {
                    WriteMode::Cached => 0,
                    WriteMode::Durable => libc::RWF_DSYNC,
                };
                match self.vectors.as_slice() {
                    [only] => {
                        let length = u32::try_from(only.iov_len).unwrap_or(u32::MAX);
                        opcode::Write::new(fd, only.iov_base.cast(), length)
                            .offset(at)
                            .rw_flags(flags)
                            .build()
                    }
                    vectors => {
                        let count = u32::try_from(vectors.len()).expect("at most VECTORS_MAX");
                        opcode::Writev::new(fd, vectors.as_ptr().cast(), count)
                            .offset(at)
                            .rw_flags(flags)
                            .build()
                    }
                }
            }
            DeviceOpKind::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            DeviceOpKind::Discard { length } => opcode::Fallocate::new(fd, *length)
                .offset(self.offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        }
    }

    /// Takes the kernel's result for the request made last.
    pub(super) fn advance(&mut self, result: i32) -> Step {
        let Ok(moved) = u32::try_from(result) else {
            return self.failed(-result);
        };
        match self.kind {
            DeviceOpKind::Flush | DeviceOpKind::Discard { .. } => return Step::Done(Ok(())),
            DeviceOpKind::Read(_) | DeviceOpKind::Write(..) => {}
        }
        self.done += u64::from(moved);
        assert!(self.done <= self.wanted, "no more is moved than asked for");
        if self.done == self.wanted {
            return Step::Done(Ok(()));
        }
        // A transfer that ended inside a block cannot go on with O_DIRECT, and one that moved
        // nothing will not move more.
        if moved == 0 || !u64::from(moved).is_multiple_of(BLOCK_SIZE as u64) {
            return Step::Done(Err(DeviceError::Short {
                done: self.done,
                wanted: self.wanted,
            }));
        }
        Step::Again
    }

    fn failed(&mut self, errno: i32) -> Step {
        match self.kind {
            DeviceOpKind::Discard { .. } if cannot_discard(errno) => return Step::Done(Ok(())),
            // A flush that failed may have thrown away what it could not write: never again.
            DeviceOpKind::Discard { .. } | DeviceOpKind::Flush => {}
            DeviceOpKind::Read(_) | DeviceOpKind::Write(..) => {
                let interrupted = matches!(errno, libc::EINTR | libc::EAGAIN);
                if interrupted && self.restarts < RESTARTS_MAX {
                    self.restarts += 1;
                    return Step::Again;
                }
            }
        }
        Step::Done(Err(device_error(errno)))
    }

    /// The completion, with the buffer of a read. The kernel must be done with the operation.
    pub(super) fn complete(self, result: Result<(), DeviceError>) -> Completion {
        let result: Result<DeviceOutcome, DeviceError> = result.map(|()| finished(self.kind));
        Completion {
            device: self.device,
            done: DeviceDone {
                id: self.id,
                result,
            },
        }
    }
}

/// Describes what follows the first `done` bytes of `parts`; neighbours in memory become one vector.
fn fill_vectors(vectors: &mut Vec<libc::iovec>, parts: &[moorline_types::Payload], done: u64) {
    vectors.clear();
    let mut skip = usize::try_from(done).expect("inside memory");
    let mut room = usize::try_from(BYTES_MAX).expect("fits memory");
    for part in parts {
        let bytes = part.as_slice();
        let skipped = skip.min(bytes.len());
        skip -= skipped;
        let bytes = &bytes[skipped..];
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() {
            continue;
        }
        room -= bytes.len();
        let joins = vectors
            .last()
            .is_some_and(|last| last.iov_base.addr() + last.iov_len == bytes.as_ptr().addr());
        let full = vectors.len() == VECTORS_MAX;
        match vectors.last_mut() {
            Some(last) if joins => last.iov_len += bytes.len(),
            Some(_) if full => break,
            Some(_) | None => vectors.push(libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::{BufferPool, OpOwner, Payload};

    use super::*;

    fn write(pages: &[usize]) -> Operation {
        let pool = BufferPool::new();
        let parts = pages.iter().map(|n| pool.zeroed(*n).freeze()).collect();
        let op = DeviceOp {
            id: OpId::new(OpOwner::Log, 1),
            offset: 0,
            kind: DeviceOpKind::Write(parts, WriteMode::Durable),
        };
        Operation::new(DeviceTag::new(0), op)
    }

    #[test]
    fn a_short_write_goes_on_where_it_ended() {
        let mut op = write(&[2, 3]);
        assert!(matches!(op.advance(4096 * 3), Step::Again));
        op.entry(Fd(0));
        let lengths: Vec<usize> = op.vectors.iter().map(|v| v.iov_len).collect();
        assert_eq!(lengths, [4096 * 2]);
        assert!(matches!(op.advance(4096 * 2), Step::Done(Ok(()))));
    }

    #[test]
    fn what_cannot_go_on_is_short() {
        for moved in [0, 512] {
            let mut op = write(&[2]);
            let want = DeviceError::Short {
                done: u64::try_from(moved).unwrap(),
                wanted: 8192,
            };
            assert!(matches!(op.advance(moved), Step::Done(Err(error)) if error == want));
        }
    }

    #[test]
    fn an_interrupted_write_is_restarted_and_not_for_ever() {
        let mut op = write(&[1]);
        for _ in 0..RESTARTS_MAX {
            assert!(matches!(op.advance(-libc::EINTR), Step::Again));
        }
        assert!(matches!(op.advance(-libc::EINTR), Step::Done(Err(_))));
    }

    #[test]
    fn neighbours_in_memory_share_a_vector() {
        let payload = BufferPool::new().zeroed(4).freeze();
        let parts: Vec<Payload> = (0..4).map(|n| payload.slice_blocks(n, 1)).collect();
        let mut vectors = Vec::new();
        fill_vectors(&mut vectors, &parts, 4096);
        assert_eq!(vectors.len(), 1);
        assert_eq!(vectors[0].iov_len, 3 * 4096);
    }
}

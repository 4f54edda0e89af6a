//! One io_uring and the operations in it.
//!
//! ```text
//!  start ──> waiting ──entry pushed──> in the ring ──completed──> harvested
//!               ^                          │
//!               └──── short, interrupted ──┘
//! ```
//!
//! An operation sits in a slot from start to completion and its buffers with it: nothing that the
//! kernel may still touch is ever freed or moved, also when the ring is dropped: one that does not
//! drain then is leaked with everything in it. A completion carries {slot, generation}; one that
//! does not match its slot's generation is a mistake of the kernel's or ours, and ends the process.
//! The order of requests in the ring means nothing.

use std::{
    collections::VecDeque,
    fmt, io,
    marker::PhantomData,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use io_uring::{
    IoUring, Probe, opcode,
    types::{Fd, SubmitArgs, Timespec},
};

use super::{
    TaskRun,
    operation::{Operation, Step},
};
use crate::device::{Completion, DeviceTag};

/// Requests in the ring at a time; what is above waits its turn outside. Deep enough for any disk,
/// and the completion queue, twice as long, cannot overflow.
const DEPTH: u32 = 512;

/// How long a dropped ring waits for the kernel before it leaks what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Slot {
    /// Counts the operations that this slot has held.
    generation: u32,
    operation: Option<Operation>,
}

/// One ring. Used by the thread that made it.
pub(super) struct Ring {
    ring: ManuallyDrop<IoUring>,
    /// Operations that are waiting or in the ring.
    slots: ManuallyDrop<Vec<Slot>>,
    free: Vec<u32>,
    /// Slots whose next request is not in the ring yet.
    waiting: VecDeque<u32>,
    /// Requests that the kernel has not answered.
    in_ring: u32,
    task_run: TaskRun,
    /// The kernel refuses requests from other threads.
    _one_thread: PhantomData<*const ()>,
}

impl Ring {
    /// Makes a ring with what this kernel offers, which rings `event` while it is armed.
    pub(super) fn new(event: BorrowedFd<'_>) -> io::Result<Self> {
        let (mut ring, task_run) = build()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        for code in [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ] {
            if !probe.is_supported(code) {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        ring.completion().disable_eventfd();
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            slots: ManuallyDrop::default(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            in_ring: 0,
            task_run,
            _one_thread: PhantomData,
        })
    }

    pub(super) fn task_run(&self) -> TaskRun {
        self.task_run
    }

    /// Operations that were started and not harvested.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len() + self.in_ring as usize
    }

    /// Takes an operation; [`Ring::pump`] gives it to the kernel.
    pub(super) fn start(&mut self, operation: Operation) {
        let index = if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.generation = slot.generation.wrapping_add(1);
            slot.operation = Some(operation);
            index
        } else {
            self.slots.push(Slot {
                generation: 0,
                operation: Some(operation),
            });
            u32::try_from(self.slots.len() - 1).expect("fewer operations than 2^32")
        };
        self.waiting.push_back(index);
    }

    /// Puts waiting requests into the ring and tells the kernel, once. `fd_of` gives the descriptor
    /// of a device, which stays open until the operation is harvested.
    pub(super) fn pump(&mut self, fd_of: impl Fn(DeviceTag) -> RawFd) {
        while self.in_ring < DEPTH
            && let Some(index) = self.waiting.pop_front()
        {
            let slot = &mut self.slots[index as usize];
            let operation = slot.operation.as_mut().expect("a waiting slot is taken");
            let fd = fd_of(operation.device);
            let entry = operation
                .entry(Fd(fd))
                .user_data(u64::from(slot.generation) << 32 | u64::from(index));
            // SAFETY: the entry points into the operation's own buffers and vectors. They stay
            // where they are, untouched, until its completion was seen: the operation leaves its
            // slot and makes its next request only then, and slots are leaked rather than dropped
            // while anything is in the ring. The descriptor stays open as long, because a device
            // with operations in flight is not removed.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("the queue holds as many requests as are let in");
            self.in_ring += 1;
        }
        self.enter();
        let held = self.slots.len() - self.free.len();
        assert!(
            held == self.in_flight(),
            "every operation is waiting or in the ring"
        );
    }

    /// Hands over what is queued and lets the kernel post what it has put off.
    ///
    /// The flag that says "put off" is looked at once and not waited for. The kernel adds the work
    /// first and raises the flag after, on another processor perhaps; where this thread has run the
    /// work in between, the flag stays up with nothing behind it, until the next work is done.
    pub(super) fn enter(&mut self) {
        let mut is_due = self.has_unsubmitted() || self.ring.submission().taskrun();
        while is_due {
            match self.ring.submit() {
                Ok(_) => is_due = self.has_unsubmitted(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel is short of something. What is queued stays queued, and `arm` has the
                // driver come back; the store's own deadline judges a device that stays so.
                Err(error) => {
                    tracing::debug!(%error, "the kernel takes no requests now");
                    return;
                }
            }
        }
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether operations wait that [`Ring::pump`] could give to the kernel.
    pub(super) fn can_pump(&self) -> bool {
        !self.waiting.is_empty() && self.in_ring < DEPTH
    }

    /// Adds what the kernel has posted to `done`.
    pub(super) fn harvest(&mut self, done: &mut Vec<Completion>) {
        loop {
            let next = self.ring.completion().next();
            let Some((user_data, result)) = next.map(|entry| (entry.user_data(), entry.result()))
            else {
                return;
            };
            self.in_ring -= 1;
            let index = u32::try_from(user_data & u64::from(u32::MAX)).expect("masked");
            let slot = &mut self.slots[index as usize];
            assert!(
                u64::from(slot.generation) == user_data >> 32,
                "a completion belongs to the operation in its slot"
            );
            let operation = slot.operation.as_mut().expect("its slot is taken");
            match operation.advance(result) {
                Step::Again => self.waiting.push_back(index),
                Step::Done(result) => {
                    let operation = slot.operation.take().expect("its slot is taken");
                    self.free.push(index);
                    done.push(operation.complete(result));
                }
            }
        }
    }

    /// From here on completions do not ring.
    pub(super) fn disarm(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// From here on the next completion rings; says whether there is one already.
    pub(super) fn arm(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // Pairs with the kernel's barrier between posting and looking at the switch: either it sees
        // the switch on, or what it posted is seen here. The same holds for what it put off: the
        // flag is raised before the switch is looked at.
        fence(Ordering::SeqCst);
        if self.ring.submission().taskrun() {
            self.enter();
        }
        !self.ring.completion().is_empty() || self.has_unsubmitted()
    }

    /// Waits for what is in the ring; false if it does not come.
    fn drain(&mut self) -> bool {
        let deadline = Instant::now() + DRAIN_MAX;
        let mut done = Vec::new();
        // What never reached the ring needs no waiting for.
        self.waiting.clear();
        while self.in_ring > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = Timespec::from(left);
            let arguments = SubmitArgs::new().timespec(&timeout);
            let waited = self.ring.submitter().submit_with_args(1, &arguments);
            if let Err(error) = waited {
                match error.raw_os_error() {
                    Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => {}
                    Some(_) | None => return false,
                }
            }
            self.harvest(&mut done);
            self.waiting.clear();
        }
        true
    }
}

/// Builds the ring with the cheapest way of completion that the kernel has.
fn build() -> io::Result<(IoUring, TaskRun)> {
    let deferred = IoUring::builder()
        .setup_cqsize(2 * DEPTH)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(DEPTH);
    if let Ok(ring) = deferred {
        return Ok((ring, TaskRun::Deferred));
    }
    let cooperative = IoUring::builder()
        .setup_cqsize(2 * DEPTH)
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(DEPTH);
    if let Ok(ring) = cooperative {
        return Ok((ring, TaskRun::Cooperative));
    }
    let plain = IoUring::builder().setup_cqsize(2 * DEPTH).build(DEPTH)?;
    Ok((plain, TaskRun::Interrupting))
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_ring > 0 && !self.drain() {
            tracing::error!(
                requests = self.in_ring,
                "the disk did not finish what it was given; its memory is given up for lost"
            );
            return;
        }
        // SAFETY: nothing is in the ring, so the kernel points into neither of these, and no method
        // runs after `drop`.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.slots);
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("task_run", &self.task_run)
            .field("waiting", &self.waiting.len())
            .field("in_ring", &self.in_ring)
            .finish_non_exhaustive()
    }
}

//! io_uring: one ring for all devices of a server.
//!
//! ```text
//!  submit ──> waiting ──entry pushed──> in the ring ──completed──> done ──> reap
//!                ^                          │
//!                └──── short, interrupted ──┘
//! ```
//!
//! An operation sits in a slot from submission to completion and its buffers with it: nothing that
//! the kernel may still touch is ever freed or moved, also when the set is dropped: a ring that does
//! not drain then is leaked with everything in it. A completion carries {slot, generation}; one that
//! does not match its slot's generation is a mistake of the kernel's or ours, and ends the process.
//! The order of requests in the ring means nothing.

#![allow(
    unsafe_code,
    reason = "requests point into buffers that the kernel reads and writes on its own"
)]

mod operation;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    marker::PhantomData,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use io_uring::{
    IoUring, Probe, opcode,
    types::{Fd, SubmitArgs, Timespec},
};
use moorline_types::DeviceError;
use rustix::event::EventfdFlags;

use self::operation::{Operation, Step};
use super::{
    Armed, Completion, DeviceSet, DeviceTag, RemoveError, StoreFile, Submission, check_range,
};

/// Requests in the ring at a time; what is above waits its turn outside. Deep enough for any disk,
/// and the completion queue, twice as long, cannot overflow.
const DEPTH: u32 = 512;

/// How long a dropped set waits for the kernel before it leaks what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How the ring's completions are brought to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskRun {
    /// When the process asks: no interruptions (kernel 6.1 and later).
    Deferred,
    /// At the next system call (kernel 5.19 and later).
    Cooperative,
    /// At once, with an interruption.
    Interrupting,
}

impl fmt::Display for TaskRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deferred => "deferred completions",
            Self::Cooperative => "cooperative completions",
            Self::Interrupting => "interrupting completions",
        })
    }
}

#[derive(Debug)]
struct Device {
    file: StoreFile,
    in_flight: usize,
}

#[derive(Debug)]
struct Slot {
    /// Counts the operations that this slot has held.
    generation: u32,
    operation: Option<Operation>,
}

/// The devices of a server behind one io_uring. Used by the thread that made it.
pub struct UringSet {
    ring: ManuallyDrop<IoUring>,
    /// Operations that are waiting or in the ring.
    slots: ManuallyDrop<Vec<Slot>>,
    devices: ManuallyDrop<BTreeMap<DeviceTag, Device>>,
    free: Vec<u32>,
    /// Slots whose next request is not in the ring yet.
    waiting: VecDeque<u32>,
    /// Requests that the kernel has not answered.
    in_ring: u32,
    /// Completions that never needed the kernel, or were found early.
    ready: Vec<Completion>,
    event: OwnedFd,
    task_run: TaskRun,
    /// The kernel refuses requests from other threads.
    _one_thread: PhantomData<*const ()>,
}

impl UringSet {
    /// Makes a ring with what this kernel offers.
    ///
    /// # Errors
    ///
    /// As the kernel says: ENOSYS or EPERM where io_uring is missing or forbidden; `Unsupported`
    /// where it lacks a request that is needed.
    pub fn new() -> io::Result<Self> {
        let (ring, task_run) = build_ring()?;
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
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            slots: ManuallyDrop::default(),
            devices: ManuallyDrop::default(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            in_ring: 0,
            ready: Vec::new(),
            event,
            task_run,
            _one_thread: PhantomData,
        })
    }

    /// How completions are brought here.
    #[must_use]
    pub fn task_run(&self) -> TaskRun {
        self.task_run
    }

    /// Checks what must hold between calls.
    ///
    /// # Panics
    ///
    /// If it does not.
    fn assert_invariants(&self) {
        let held = self.slots.len() - self.free.len();
        assert!(
            held == self.waiting.len() + self.in_ring as usize,
            "every operation is waiting or in the ring"
        );
    }

    fn start(&mut self, Submission { device, op }: Submission) {
        let checked = match self.devices.get_mut(&device) {
            None => Err(DeviceError::Errno { errno: libc::EBADF }),
            Some(entry) => check_range(&op, entry.file.bytes()).map(|()| entry),
        };
        let is_empty =
            op.kind.length() == 0 && !matches!(op.kind, moorline_types::DeviceOpKind::Flush);
        let operation = Operation::new(device, op);
        match checked {
            Err(error) => self.ready.push(operation.complete(Err(error))),
            Ok(_) if is_empty => self.ready.push(operation.complete(Ok(()))),
            Ok(entry) => {
                entry.in_flight += 1;
                let slot = self.take_slot(operation);
                self.waiting.push_back(slot);
            }
        }
    }

    fn take_slot(&mut self, operation: Operation) -> u32 {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.generation = slot.generation.wrapping_add(1);
            slot.operation = Some(operation);
            return index;
        }
        let index = u32::try_from(self.slots.len()).expect("fewer operations than 2^32");
        self.slots.push(Slot {
            generation: 0,
            operation: Some(operation),
        });
        index
    }

    /// Puts waiting requests into the ring and tells the kernel, once.
    fn pump(&mut self) {
        while self.in_ring < DEPTH
            && let Some(index) = self.waiting.pop_front()
        {
            let slot = &mut self.slots[index as usize];
            let operation = slot.operation.as_mut().expect("a waiting slot is taken");
            let file = &self.devices[&operation.device].file;
            let entry = operation
                .entry(Fd(file.as_fd().as_raw_fd()))
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
    }

    /// Hands over what is queued and lets the kernel post what it has put off.
    fn enter(&mut self) {
        while self.has_unsubmitted() || self.ring.submission().taskrun() {
            match self.ring.submit() {
                Ok(_) => {}
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

    /// Takes what the kernel has posted.
    fn harvest(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some((user_data, result)) = self
                .ring
                .completion()
                .next()
                .map(|entry| (entry.user_data(), entry.result()))
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
                    let device = self
                        .devices
                        .get_mut(&operation.device)
                        .expect("a device with operations in flight stays");
                    device.in_flight -= 1;
                    self.free.push(index);
                    done.push(operation.complete(result));
                }
            }
        }
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
            let waited = self
                .ring
                .submitter()
                .submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
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
fn build_ring() -> io::Result<(IoUring, TaskRun)> {
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

impl DeviceSet for UringSet {
    fn add(&mut self, device: DeviceTag, file: StoreFile) {
        let entry = Device { file, in_flight: 0 };
        let before = self.devices.insert(device, entry);
        assert!(before.is_none(), "device tags are not reused");
    }

    fn remove(&mut self, device: DeviceTag) -> Result<StoreFile, RemoveError> {
        match self.devices.get(&device) {
            None => Err(RemoveError::Unknown { device }),
            Some(entry) if entry.in_flight > 0 => Err(RemoveError::InFlight {
                device,
                count: entry.in_flight,
            }),
            Some(_) => {
                let entry = self.devices.remove(&device).expect("just found");
                Ok(entry.file)
            }
        }
    }

    fn submit(&mut self, ops: &mut Vec<Submission>) {
        self.ring.completion().disable_eventfd();
        for submission in ops.drain(..) {
            self.start(submission);
        }
        self.pump();
        self.assert_invariants();
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.ring.completion().disable_eventfd();
        self.enter();
        done.append(&mut self.ready);
        self.harvest(done);
        if !self.waiting.is_empty() {
            self.pump();
        }
        self.assert_invariants();
    }

    fn arm(&mut self) -> Armed {
        self.ring.completion().enable_eventfd();
        // Pairs with the kernel's barrier between posting and looking at the switch: either it sees
        // the switch on, or what it posted is seen here.
        fence(Ordering::SeqCst);
        let busy = !self.ready.is_empty()
            || !self.ring.completion().is_empty()
            || self.ring.submission().taskrun()
            || self.has_unsubmitted();
        if busy { Armed::Ready } else { Armed::Quiet }
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.in_ring as usize + self.ready.len()
    }
}

impl Drop for UringSet {
    fn drop(&mut self) {
        if self.in_ring > 0 && !self.drain() {
            tracing::error!(
                requests = self.in_ring,
                "the disk did not finish what it was given; its memory is given up for lost"
            );
            return;
        }
        // SAFETY: nothing is in the ring, so the kernel points into none of these, and no method
        // runs after `drop`.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.slots);
            ManuallyDrop::drop(&mut self.devices);
        }
    }
}

impl fmt::Debug for UringSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringSet")
            .field("task_run", &self.task_run)
            .field("devices", &self.devices.len())
            .field("waiting", &self.waiting.len())
            .field("in_ring", &self.in_ring)
            .finish_non_exhaustive()
    }
}

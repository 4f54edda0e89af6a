//! One power-cut disk: an image, what was not synced, its power and its faults.
//!
//! ```text
//!   on(session n) --cut--> off --power on--> on(session n + 1)
//! ```
//!
//! Every open of the disk belongs to the session in which it was made, and answers EIO for ever once that
//! session has ended: a request that was on its way when power went cannot touch the disk afterwards.

use std::io;
use std::path::Path;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::fault::{Armed, Budget, IoFault, SyncFault};
use crate::image::Image;
use crate::overlay::{Durability, Overlay};
use crate::payload::Payload;
use crate::tear::{CutId, CutMode, CutTally, judge};

/// A real disk's cache is finite too: beyond this much the oldest writes become durable on their own.
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// One span of power, from power-on to cut. An open file belongs to exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PowerSession(u64);

impl PowerSession {
    /// The session of that number; the first is 1.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The session's number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Whether a disk has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It serves the opens of this session.
    On(PowerSession),
    /// It serves nobody.
    Off,
}

/// Why an operation was not carried out.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// EIO: no power, an ended session, or an armed fault.
    Eio,
    /// The disk hangs: park the operation.
    Hung,
    /// The image could not be read or written.
    Image(io::Error),
}

/// An operation that waits for a hung disk; it is run once, and may park itself again.
pub(crate) type Parked = Box<dyn FnOnce() + Send>;

/// What a disk has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Reads carried out.
    pub reads: u64,
    /// Writes, discards and zeroing requests carried out.
    pub writes: u64,
    /// Syncs that made something durable, or had nothing to do.
    pub syncs: u64,
    /// Syncs that said so and did nothing.
    pub syncs_lied: u64,
    /// Operations answered with EIO.
    pub refused: u64,
    /// Power cuts.
    pub cuts: u32,
}

/// What `status` says of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its name: the file under the mount.
    pub name: String,
    /// Its fixed size.
    pub size_bytes: u64,
    /// Whether it has power.
    pub power: Power,
    /// Writes that a cut could lose.
    pub unsynced_writes: usize,
    /// Operations that wait because the disk hangs.
    pub parked: usize,
    /// The loop device, when one is attached.
    pub device: Option<std::path::PathBuf>,
    /// What it has done.
    pub counters: Counters,
}

/// What a cut did to one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    /// The disk's name.
    pub name: String,
    /// The session that ended.
    pub session: PowerSession,
    /// What became of its unsynced writes.
    pub tally: CutTally,
}

#[derive(Debug)]
pub(crate) struct Disk {
    name: String,
    seed: u64,
    number: u32,
    image: Image,
    state: Mutex<State>,
}

struct State {
    power: Power,
    sessions: u64,
    overlay: Overlay,
    hung: Hung,
    sync: Armed<SyncFault>,
    read: Armed<IoFault>,
    write: Armed<IoFault>,
    counters: Counters,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("power", &self.power)
            .finish_non_exhaustive()
    }
}

enum Hung {
    No,
    Yes(Vec<Parked>),
}

impl Disk {
    pub(crate) fn open(image: &Path, size_bytes: u64, seed: u64, number: u32) -> io::Result<Self> {
        let state = State {
            power: Power::On(PowerSession(1)),
            sessions: 1,
            overlay: Overlay::new(),
            hung: Hung::No,
            sync: Armed::default(),
            read: Armed::default(),
            write: Armed::default(),
            counters: Counters::default(),
        };
        let image = Image::open(image, size_bytes)?;
        let name = format!("disk{number}");
        Ok(Self {
            name,
            seed,
            number,
            image,
            state: Mutex::new(state),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    /// The session that an open made now belongs to; `None` without power.
    pub(crate) fn session(&self) -> Option<PowerSession> {
        match self.state.lock().power {
            Power::On(session) => Some(session),
            Power::Off => None,
        }
    }

    /// Fills `out`, which lies inside the disk.
    pub(crate) fn read(
        &self,
        session: PowerSession,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), Refusal> {
        let mut state = self.admit(session)?;
        match state.read.strike() {
            IoFault::None => {}
            IoFault::Fail => return Err(state.refuse()),
        }
        state.counters.reads += 1;
        let done = state
            .overlay
            .read(offset, out, |at, gap| self.image.read(at, gap));
        done.map_err(Refusal::Image)
    }

    /// Takes a write, which lies inside the disk.
    pub(crate) fn write(
        &self,
        session: PowerSession,
        offset: u64,
        payload: Payload,
        durability: Durability,
    ) -> Result<(), Refusal> {
        let mut state = self.admit(session)?;
        match state.write.strike() {
            IoFault::None => {}
            IoFault::Fail => return Err(state.refuse()),
        }
        let durability = match durability {
            Durability::Volatile => Durability::Volatile,
            Durability::Durable => match state.sync.strike() {
                SyncFault::None => Durability::Durable,
                SyncFault::Lie => Durability::Volatile,
                SyncFault::Fail | SyncFault::FailAndDrop => return Err(state.refuse()),
            },
        };
        state.counters.writes += 1;
        state.overlay.write(offset, payload, durability);
        while state.overlay.held_bytes() > CACHE_BYTES_MAX {
            let Some(edit) = state.overlay.destage_oldest() else {
                break;
            };
            self.image.apply(&edit).map_err(Refusal::Image)?;
        }
        Ok(())
    }

    /// Makes every write taken before durable, unless a fault says otherwise.
    pub(crate) fn sync(&self, session: PowerSession) -> Result<(), Refusal> {
        let mut state = self.admit(session)?;
        match state.sync.strike() {
            SyncFault::None => {
                // Under the lock, so that a cut falls before or after a sync and never into it.
                for edit in state.overlay.sync() {
                    self.image.apply(&edit).map_err(Refusal::Image)?;
                }
                state.counters.syncs += 1;
                Ok(())
            }
            SyncFault::Lie => {
                state.counters.syncs_lied += 1;
                Ok(())
            }
            SyncFault::Fail => Err(state.refuse()),
            SyncFault::FailAndDrop => {
                self.lose(&mut state, CutMode::Drop)
                    .map_err(Refusal::Image)?;
                Err(state.refuse())
            }
        }
    }

    /// Keeps `job` until the disk no longer hangs; runs it at once if it does not.
    pub(crate) fn park(&self, job: Parked) {
        let mut state = self.state.lock();
        match &mut state.hung {
            Hung::Yes(parked) => parked.push(job),
            Hung::No => {
                drop(state);
                job();
            }
        }
    }

    pub(crate) fn hang(&self) {
        let mut state = self.state.lock();
        match state.hung {
            Hung::No => state.hung = Hung::Yes(Vec::new()),
            Hung::Yes(_) => {}
        }
    }

    /// Ends a hang: what waited is carried out now, on the caller's thread.
    pub(crate) fn resume(&self) {
        let parked = self.state.lock().release();
        for job in parked {
            job();
        }
    }

    pub(crate) fn set_sync_fault(&self, fault: SyncFault, budget: Budget) {
        self.state.lock().sync = Armed::new(fault, budget);
    }

    pub(crate) fn set_read_fault(&self, fault: IoFault, budget: Budget) {
        self.state.lock().read = Armed::new(fault, budget);
    }

    pub(crate) fn set_write_fault(&self, fault: IoFault, budget: Budget) {
        self.state.lock().write = Armed::new(fault, budget);
    }

    /// Begins a new session, unless one runs.
    pub(crate) fn power_on(&self) {
        let mut state = self.state.lock();
        match state.power {
            Power::On(_) => {}
            Power::Off => {
                state.sessions += 1;
                state.power = Power::On(PowerSession(state.sessions));
            }
        }
    }

    /// Everything but the device, which the disk does not know.
    pub(crate) fn status(&self) -> DiskStatus {
        let state = self.state.lock();
        DiskStatus {
            name: self.name.clone(),
            size_bytes: self.image.size_bytes(),
            power: state.power,
            unsynced_writes: state.overlay.writes(),
            parked: match &state.hung {
                Hung::No => 0,
                Hung::Yes(parked) => parked.len(),
            },
            device: None,
            counters: state.counters,
        }
    }

    /// The state, if the disk serves `session` now.
    fn admit(&self, session: PowerSession) -> Result<MutexGuard<'_, State>, Refusal> {
        let mut state = self.state.lock();
        if state.power != Power::On(session) {
            return Err(state.refuse());
        }
        match state.hung {
            Hung::No => Ok(state),
            Hung::Yes(_) => Err(Refusal::Hung),
        }
    }

    /// Judges the unsynced writes and leaves the overlay empty.
    fn lose(&self, state: &mut State, mode: CutMode) -> io::Result<CutTally> {
        let id = CutId {
            seed: self.seed,
            disk: self.number,
            cut: state.counters.cuts,
        };
        let (edits, tally) = judge(id, mode, state.overlay.take());
        for edit in &edits {
            self.image.apply(edit)?;
        }
        Ok(tally)
    }

    fn cut(&self, state: &mut State, mode: CutMode) -> io::Result<Option<CutReport>> {
        let session = match state.power {
            Power::On(session) => session,
            Power::Off => return Ok(None),
        };
        state.power = Power::Off;
        let tally = self.lose(state, mode)?;
        state.counters.cuts += 1;
        Ok(Some(CutReport {
            name: self.name.clone(),
            session,
            tally,
        }))
    }
}

impl State {
    fn refuse(&mut self) -> Refusal {
        self.counters.refused += 1;
        Refusal::Eio
    }

    fn release(&mut self) -> Vec<Parked> {
        match std::mem::replace(&mut self.hung, Hung::No) {
            Hung::No => Vec::new(),
            Hung::Yes(parked) => parked,
        }
    }
}

/// Cuts the power of all `disks` at one instant: no operation falls between two of them. A disk that hung
/// no longer does, and what waited for it fails. Disks without power are left alone.
pub(crate) fn cut_together(disks: &[&Disk], mode: CutMode) -> io::Result<Vec<CutReport>> {
    // In the order of the strip, which is the only place where two of these locks are held.
    let mut states: Vec<_> = disks.iter().map(|disk| disk.state.lock()).collect();
    let mut reports = Vec::with_capacity(disks.len());
    for (disk, state) in disks.iter().zip(&mut states) {
        reports.extend(disk.cut(state, mode)?);
    }
    let parked: Vec<Parked> = states
        .iter_mut()
        .flat_map(|state| state.release())
        .collect();
    drop(states);
    for job in parked {
        job();
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const FIRST: PowerSession = PowerSession(1);

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("image"), 1 << 20, 1, 0).unwrap();
        (dir, disk)
    }

    fn write(disk: &Disk, session: PowerSession, fill: u8) -> Result<(), Refusal> {
        disk.write(
            session,
            4096,
            Payload::Bytes(vec![fill; 4096].into()),
            Durability::Volatile,
        )
    }

    fn byte(disk: &Disk, session: PowerSession) -> u8 {
        let mut out = [0xEE];
        disk.read(session, 4096, &mut out).unwrap();
        out[0]
    }

    #[test]
    fn an_ended_session_is_refused_even_after_power_on() {
        let (_dir, disk) = disk();
        write(&disk, FIRST, 1).unwrap();
        disk.sync(FIRST).unwrap();
        write(&disk, FIRST, 2).unwrap();
        let reports = cut_together(&[&disk], CutMode::Drop).unwrap();
        assert_eq!(reports[0].tally.writes_dropped, 1);
        assert!(disk.session().is_none());
        assert!(matches!(write(&disk, FIRST, 3), Err(Refusal::Eio)));
        disk.power_on();
        assert!(matches!(disk.sync(FIRST), Err(Refusal::Eio)));
        assert_eq!(byte(&disk, disk.session().unwrap()), 1);
    }

    #[test]
    fn a_sync_that_lies_loses_and_one_that_fails_and_drops_loses_at_once() {
        let (_dir, disk) = disk();
        disk.set_sync_fault(SyncFault::Lie, Budget::Times(1));
        write(&disk, FIRST, 1).unwrap();
        disk.sync(FIRST).unwrap();
        assert_eq!(disk.status().unsynced_writes, 1);
        disk.set_sync_fault(SyncFault::FailAndDrop, Budget::Times(1));
        assert!(matches!(disk.sync(FIRST), Err(Refusal::Eio)));
        assert_eq!(byte(&disk, FIRST), 0);
        assert!(disk.sync(FIRST).is_ok());
    }

    #[test]
    fn armed_faults_fail_reads_and_writes_without_effect() {
        let (_dir, disk) = disk();
        disk.set_write_fault(IoFault::Fail, Budget::Times(1));
        disk.set_read_fault(IoFault::Fail, Budget::Times(1));
        assert!(matches!(write(&disk, FIRST, 1), Err(Refusal::Eio)));
        assert!(matches!(disk.read(FIRST, 0, &mut [0]), Err(Refusal::Eio)));
        assert_eq!(byte(&disk, FIRST), 0);
        assert_eq!(disk.status().counters.refused, 2);
    }

    #[test]
    fn parked_work_runs_on_resume_and_on_a_cut() {
        let (_dir, disk) = disk();
        let ran = Arc::new(AtomicU32::new(0));
        let job = || {
            let ran = Arc::clone(&ran);
            Box::new(move || {
                ran.fetch_add(1, Ordering::Relaxed);
            })
        };
        disk.hang();
        assert!(matches!(write(&disk, FIRST, 1), Err(Refusal::Hung)));
        disk.park(job());
        assert_eq!((disk.status().parked, ran.load(Ordering::Relaxed)), (1, 0));
        disk.resume();
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        disk.hang();
        disk.park(job());
        let _reports = cut_together(&[&disk], CutMode::Tear).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 2);
        disk.park(job());
        assert_eq!(ran.load(Ordering::Relaxed), 3);
    }
}

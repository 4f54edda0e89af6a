//! A disk in memory: out-of-order completions, a volatile cache, torn and lost sectors.

use std::collections::BTreeMap;

use moorline_types::{
    DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, OpId, WriteMode,
};

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];

/// SplitMix64: one seed decides everything.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, end)`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A write that is not durable: its sectors.
#[derive(Clone, Debug)]
struct Unflushed {
    first: u64,
    bytes: Vec<u8>,
    /// Counts completed writes; a flush takes those completed before it was submitted.
    completed: Option<u64>,
}

impl Unflushed {
    fn sectors(&self) -> impl Iterator<Item = (u64, Sector)> + '_ {
        let sectors = self.bytes.chunks_exact(SECTOR as usize).enumerate();
        sectors.map(|(n, bytes)| (self.first + n as u64, bytes.try_into().unwrap()))
    }
}

#[derive(Debug)]
struct InFlight {
    op: DeviceOp,
    /// Writes completed when a flush was submitted.
    completed_before: u64,
}

/// The disk. `durable` is what a power cut leaves for certain.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    size: u64,
    durable: BTreeMap<u64, Sector>,
    unflushed: BTreeMap<OpId, Unflushed>,
    completed: u64,
    in_flight: Vec<InFlight>,
    /// Operations that fail from now on.
    pub(crate) fail: Option<fn(&DeviceOp) -> bool>,
    pub(crate) ops_done: u64,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn shrink(&mut self, size: u64) {
        self.size = size;
    }

    pub(crate) fn submit(&mut self, ops: &mut Vec<DeviceOp>) {
        for op in ops.drain(..) {
            let span = (op.offset, op.offset + op.kind.length());
            assert!(span.1 <= self.size, "{op:?} lies outside the disk");
            if let DeviceOpKind::Write(parts, _) = &op.kind {
                self.assert_alone(&op, span);
                let bytes = parts
                    .iter()
                    .flat_map(|part| part.as_slice().iter().copied());
                let write = Unflushed {
                    first: op.offset / SECTOR,
                    bytes: bytes.collect(),
                    completed: None,
                };
                self.unflushed.insert(op.id, write);
            }
            if let DeviceOpKind::Discard { .. } = &op.kind {
                self.assert_alone(&op, span);
            }
            self.in_flight.push(InFlight {
                op,
                completed_before: self.completed,
            });
        }
    }

    /// Two writes of one place in flight have no order: nobody may ask for that.
    fn assert_alone(&self, op: &DeviceOp, span: (u64, u64)) {
        for other in &self.in_flight {
            let start = other.op.offset;
            let end = start + other.op.kind.length();
            let writes = !matches!(other.op.kind, DeviceOpKind::Flush);
            let overlap = start < span.1 && span.0 < end;
            assert!(!(writes && overlap), "{op:?} overlaps {:?}", other.op);
        }
    }

    pub(crate) fn idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Completes one operation of those in flight, any.
    pub(crate) fn complete(&mut self, rng: &mut Rng) -> Option<DeviceDone> {
        if self.in_flight.is_empty() {
            return None;
        }
        let count = self.in_flight.len() as u64;
        let place = usize::try_from(rng.below(count)).unwrap();
        let InFlight {
            op,
            completed_before,
        } = self.in_flight.swap_remove(place);
        self.ops_done += 1;
        let id = op.id;
        if self.fail.is_some_and(|fail| fail(&op)) {
            let result = Err(DeviceError::Errno { errno: 5 });
            return Some(DeviceDone { id, result });
        }
        let outcome = match op.kind {
            DeviceOpKind::Read(mut buffer) => {
                self.read(op.offset, buffer.as_mut_slice(), rng);
                DeviceOutcome::Read(buffer)
            }
            DeviceOpKind::Write(_, mode) => {
                self.completed += 1;
                let write = self.unflushed.get_mut(&id).unwrap();
                write.completed = Some(self.completed);
                if mode == WriteMode::Durable {
                    let write = self.unflushed.remove(&id).unwrap();
                    self.harden(&write);
                }
                DeviceOutcome::Written
            }
            DeviceOpKind::Flush => {
                self.flush(completed_before);
                DeviceOutcome::Flushed
            }
            DeviceOpKind::Discard { length } => {
                self.scramble(op.offset, length, rng);
                DeviceOutcome::Discarded
            }
        };
        Some(DeviceDone {
            id,
            result: Ok(outcome),
        })
    }

    fn harden(&mut self, write: &Unflushed) {
        self.durable.extend(write.sectors());
    }

    fn flush(&mut self, completed_before: u64) {
        let mut done: Vec<(u64, OpId)> = self
            .unflushed
            .iter()
            .filter_map(|(id, write)| Some((write.completed?, *id)))
            .filter(|(completed, _)| *completed <= completed_before)
            .collect();
        done.sort_unstable();
        for (_, id) in done {
            let write = self.unflushed.remove(&id).unwrap();
            self.harden(&write);
        }
    }

    /// What a discard leaves is anything.
    fn scramble(&mut self, offset: u64, length: u64, rng: &mut Rng) {
        for sector in offset / SECTOR..(offset + length) / SECTOR {
            if rng.one_in(2) {
                let byte = rng.next().to_le_bytes()[0];
                self.durable.insert(sector, [byte; SECTOR as usize]);
            }
        }
    }

    /// What is read while it is being written is torn.
    fn read(&self, offset: u64, into: &mut [u8], rng: &mut Rng) {
        let first = offset / SECTOR;
        let mut done: Vec<&Unflushed> = self
            .unflushed
            .values()
            .filter(|write| write.completed.is_some())
            .collect();
        done.sort_unstable_by_key(|write| write.completed);
        let mut view: BTreeMap<u64, Sector> = BTreeMap::new();
        let end = first + into.len() as u64 / SECTOR;
        for (&sector, bytes) in self.durable.range(first..end) {
            view.insert(sector, *bytes);
        }
        for write in done {
            view.extend(write.sectors().filter(|(n, _)| (first..end).contains(n)));
        }
        for write in self.unflushed.values() {
            if write.completed.is_none() {
                let inside = write.sectors().filter(|(n, _)| (first..end).contains(n));
                view.extend(inside.filter(|_| rng.one_in(2)));
            }
        }
        for (n, chunk) in into.chunks_exact_mut(SECTOR as usize).enumerate() {
            let zero = [0; SECTOR as usize];
            chunk.copy_from_slice(view.get(&(first + n as u64)).unwrap_or(&zero));
        }
    }

    /// The power goes: every sector that was not flushed is old, new, or of any write between.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng) {
        let mut writes: Vec<Unflushed> =
            std::mem::take(&mut self.unflushed).into_values().collect();
        writes.sort_unstable_by_key(|write| write.completed.unwrap_or(u64::MAX));
        let style = rng.below(4);
        for write in writes {
            let kept = rng.one_in(2);
            for (sector, bytes) in write.sectors() {
                let keep = match style {
                    0 => true,
                    1 => false,
                    2 => kept,
                    _ => rng.one_in(2),
                };
                if keep {
                    self.durable.insert(sector, bytes);
                }
            }
        }
        self.in_flight.clear();
    }

    /// The process dies; what it had asked for still happens.
    pub(crate) fn copy_after_power_cut(&self, rng: &mut Rng) -> Self {
        let mut copy = Self {
            size: self.size,
            durable: self.durable.clone(),
            unflushed: self.unflushed.clone(),
            ..Self::default()
        };
        copy.power_cut(rng);
        copy
    }

    /// The durable bytes at `offset`.
    pub(crate) fn durable_bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (n, chunk) in bytes.chunks_exact_mut(SECTOR as usize).enumerate() {
            if let Some(sector) = self.durable.get(&(offset / SECTOR + n as u64)) {
                chunk.copy_from_slice(sector);
            }
        }
        bytes
    }

    /// Writes over durable bytes, as rot or an operator would.
    pub(crate) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        for (n, chunk) in bytes.chunks_exact(SECTOR as usize).enumerate() {
            self.durable
                .insert(offset / SECTOR + n as u64, chunk.try_into().unwrap());
        }
    }

    /// Flips one bit of a durable byte.
    pub(crate) fn flip(&mut self, offset: u64) {
        let sector = self
            .durable
            .entry(offset / SECTOR)
            .or_insert([0; SECTOR as usize]);
        sector[usize::try_from(offset % SECTOR).unwrap()] ^= 1;
    }
}

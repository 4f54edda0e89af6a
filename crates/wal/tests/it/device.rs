//! A device in memory. What was not flushed may be there after a crash, sector by sector, or not.

use std::collections::VecDeque;

use moorline_types::{DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, WriteMode};

const SECTOR: usize = 512;

/// A small generator (splitmix64): the same seed gives the same faults.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[derive(Clone, Debug)]
struct CachedWrite {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Submitted {
    op: DeviceOp,
    /// Writes below this number completed before this was submitted.
    covers: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Device {
    pub(crate) durable: Vec<u8>,
    cached: Vec<CachedWrite>,
    written: u64,
    queue: VecDeque<Submitted>,
    /// The next write or flush fails with this.
    pub(crate) fault: Option<DeviceError>,
}

impl Device {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            durable: vec![0; bytes],
            ..Self::default()
        }
    }

    /// What this device's next opener finds, without the operations in flight.
    pub(crate) fn image(&self) -> Self {
        Self {
            durable: self.durable.clone(),
            cached: self.cached.clone(),
            written: self.written,
            ..Self::default()
        }
    }

    pub(crate) fn submit(&mut self, ops: &mut Vec<DeviceOp>) {
        let covers = self.written;
        self.queue
            .extend(ops.drain(..).map(|op| Submitted { op, covers }));
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn flushes_in_flight(&self) -> usize {
        let flush = |submitted: &&Submitted| matches!(submitted.op.kind, DeviceOpKind::Flush);
        self.queue.iter().filter(flush).count()
    }

    /// Completes one operation in flight, in any order.
    pub(crate) fn complete(&mut self, place: usize) -> DeviceDone {
        let Submitted { op, covers } = self.queue.remove(place).unwrap();
        let offset = op.offset as usize;
        if !matches!(op.kind, DeviceOpKind::Read(_))
            && let Some(error) = self.fault.take()
        {
            return DeviceDone {
                id: op.id,
                result: Err(error),
            };
        }
        let outcome = match op.kind {
            DeviceOpKind::Read(mut buffer) => {
                let end = offset + buffer.as_slice().len();
                let seen = self.seen();
                buffer.as_mut_slice().copy_from_slice(&seen[offset..end]);
                DeviceOutcome::Read(buffer)
            }
            DeviceOpKind::Write(parts, mode) => {
                let bytes: Vec<u8> = parts.iter().flat_map(|p| p.as_slice().to_vec()).collect();
                match mode {
                    WriteMode::Durable => {
                        self.durable[offset..][..bytes.len()].copy_from_slice(&bytes)
                    }
                    WriteMode::Cached => {
                        let number = self.written;
                        self.written += 1;
                        self.cached.push(CachedWrite {
                            number,
                            offset,
                            bytes,
                        });
                    }
                }
                DeviceOutcome::Written
            }
            DeviceOpKind::Flush => {
                for write in self.cached.extract_if(.., |write| write.number < covers) {
                    self.durable[write.offset..][..write.bytes.len()].copy_from_slice(&write.bytes);
                }
                DeviceOutcome::Flushed
            }
            DeviceOpKind::Discard { .. } => DeviceOutcome::Discarded,
        };
        DeviceDone {
            id: op.id,
            result: Ok(outcome),
        }
    }

    /// Cuts the power: each sector of what was not flushed becomes old, new or garbage.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        let mut lost: Vec<(usize, Vec<u8>)> = self
            .cached
            .drain(..)
            .map(|write| (write.offset, write.bytes))
            .collect();
        for submitted in self.queue.drain(..) {
            if let DeviceOpKind::Write(parts, _) = submitted.op.kind {
                let bytes = parts.iter().flat_map(|p| p.as_slice().to_vec()).collect();
                lost.push((submitted.op.offset as usize, bytes));
            }
        }
        for (offset, bytes) in lost {
            // Whole, nothing, a prefix, or anything.
            let style = random.below(4);
            let prefix = random.below(bytes.len() / SECTOR + 1);
            for (place, sector) in bytes.chunks(SECTOR).enumerate() {
                let at = offset + place * SECTOR;
                let target = &mut self.durable[at..at + SECTOR];
                match (style, random.below(8)) {
                    (0, _) => target.copy_from_slice(sector),
                    (1, _) => {}
                    (2, _) if place < prefix => target.copy_from_slice(sector),
                    (2, _) => {}
                    (_, 0) => target.fill(random.next() as u8),
                    (_, 1..4) => {}
                    (_, _) => target.copy_from_slice(sector),
                }
            }
        }
    }

    /// The process died: what was in flight has happened or not; the cache lives on.
    pub(crate) fn kill(&mut self, random: &mut Random) {
        while self.in_flight() > 0 {
            if random.below(2) == 0 {
                let _done = self.complete(0);
            } else {
                self.queue.pop_front();
            }
        }
    }

    fn seen(&self) -> Vec<u8> {
        let mut seen = self.durable.clone();
        for write in &self.cached {
            seen[write.offset..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
        seen
    }
}

//! What a power cut leaves of the writes that were not synced.
//!
//! Pure and seeded: the same writes, mode and generator give the same image. A cut first picks how the cache
//! was being emptied (nothing had left it, it left in order, or in any order), then the fate of each write,
//! then of each 512-byte sector of a torn one.

use std::ops::RangeInclusive;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::overlay::{Durability, Pending};
use crate::payload::{Edit, Payload, Slice, to_usize};

/// The unit that a disk writes, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// How cruel a cut is to unsynced writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutMode {
    /// None of them reached the disk.
    Drop,
    /// All of them did: what a killed process sees, and no power cut.
    Keep,
    /// Some did; a torn write is old or new sector by sector, and no sector is damaged.
    Sectors,
    /// Some did; sectors of a torn write may also be half written or garbage.
    Tear,
}

/// Which of a disk's cuts this is; with the seed it decides everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutId {
    /// The seed that the disk was made with.
    pub seed: u64,
    /// The disk's number on its strip.
    pub disk: u32,
    /// How many cuts it had before.
    pub cut: u32,
}

/// What a cut did, in writes and in sectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutTally {
    /// Writes that were whole afterwards, durable ones included.
    pub writes_kept: u64,
    /// Writes that left no trace.
    pub writes_dropped: u64,
    /// Writes that are neither.
    pub writes_torn: u64,
    /// Sectors that got their new content.
    pub sectors_new: u64,
    /// Sectors that kept their old content.
    pub sectors_old: u64,
    /// Sectors whose first bytes are new and whose last bytes are old.
    pub sectors_half: u64,
    /// Sectors that hold bytes nobody wrote.
    pub sectors_garbage: u64,
}

/// Decides the fate of `writes`, oldest first: the edits, to be applied in order, and a tally.
#[must_use]
pub fn judge(id: CutId, mode: CutMode, writes: Vec<Pending>) -> (Vec<Edit>, CutTally) {
    let mut judge = Judge::new(id, mode);
    let order = judge.order(writes.len());
    for (number, write) in writes.into_iter().enumerate() {
        let fate = match write.durability {
            Durability::Durable => WriteFate::Kept,
            Durability::Volatile => judge.fate_of_write(order, number),
        };
        judge.carry_out(fate, &write);
    }
    (judge.edits, judge.tally)
}

/// How the cache was being emptied when power went.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Nothing had left it.
    Nothing,
    /// Everything had.
    Everything,
    /// Oldest first: all before this write are on the disk, this one is torn, the rest is lost.
    Oldest { torn: usize },
    /// In any order.
    Any,
}

#[derive(Debug, Clone, Copy)]
enum WriteFate {
    Kept,
    Dropped,
    /// Its first sectors are new, then one is torn, the rest is old.
    Prefix,
    /// Each sector for itself.
    Scattered,
}

#[derive(Debug, Clone, Copy)]
enum SectorFate {
    New,
    Old,
    Half,
    Garbage,
}

struct Judge {
    rng: ChaCha8Rng,
    mode: CutMode,
    edits: Vec<Edit>,
    tally: CutTally,
}

impl Judge {
    fn new(id: CutId, mode: CutMode) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(id.seed);
        rng.set_stream(u64::from(id.disk) << 32 | u64::from(id.cut));
        Self {
            rng,
            mode,
            edits: Vec::new(),
            tally: CutTally::default(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    fn order(&mut self, writes: usize) -> Order {
        match self.mode {
            CutMode::Drop => Order::Nothing,
            CutMode::Keep => Order::Everything,
            CutMode::Sectors | CutMode::Tear => match self.below(8) {
                0 => Order::Nothing,
                1 | 2 => Order::Oldest {
                    torn: to_usize(self.below(writes as u64 + 1)),
                },
                // Reordering finds the most bugs, so it is the rule.
                3.. => Order::Any,
            },
        }
    }

    fn fate_of_write(&mut self, order: Order, number: usize) -> WriteFate {
        match order {
            Order::Nothing => WriteFate::Dropped,
            Order::Everything => WriteFate::Kept,
            Order::Oldest { torn } => match number.cmp(&torn) {
                std::cmp::Ordering::Less => WriteFate::Kept,
                std::cmp::Ordering::Equal => WriteFate::Prefix,
                std::cmp::Ordering::Greater => WriteFate::Dropped,
            },
            Order::Any => match self.below(16) {
                0..6 => WriteFate::Kept,
                6..11 => WriteFate::Dropped,
                11..14 => WriteFate::Prefix,
                14.. => WriteFate::Scattered,
            },
        }
    }

    /// The fate of a sector at which a write was torn.
    fn fate_of_sector(&mut self) -> SectorFate {
        let damage = match self.mode {
            CutMode::Tear => true,
            CutMode::Drop | CutMode::Keep | CutMode::Sectors => false,
        };
        match self.below(8) {
            0 if damage => SectorFate::Half,
            1 if damage => SectorFate::Garbage,
            0 | 2 | 4 | 6 => SectorFate::New,
            1.. => SectorFate::Old,
        }
    }

    fn carry_out(&mut self, fate: WriteFate, write: &Pending) {
        let sectors = sectors_of(write);
        let count = sectors.end() - sectors.start() + 1;
        let before = self.tally;
        match fate {
            WriteFate::Kept => self.write_sectors(write, sectors),
            WriteFate::Dropped => self.tally.sectors_old += count,
            WriteFate::Prefix => {
                let torn = sectors.start() + self.below(count);
                if torn > *sectors.start() {
                    self.write_sectors(write, *sectors.start()..=torn - 1);
                }
                let fate = self.fate_of_sector();
                self.tear_sector(write, torn, fate);
                self.tally.sectors_old += sectors.end() - torn;
            }
            WriteFate::Scattered => {
                for sector in sectors {
                    let fate = self.fate_of_sector();
                    self.tear_sector(write, sector, fate);
                }
            }
        }
        if self.tally.sectors_new - before.sectors_new == count {
            self.tally.writes_kept += 1;
        } else if self.tally.sectors_old - before.sectors_old == count {
            self.tally.writes_dropped += 1;
        } else {
            self.tally.writes_torn += 1;
        }
    }

    fn tear_sector(&mut self, write: &Pending, sector: u64, fate: SectorFate) {
        match fate {
            SectorFate::New => self.write_sectors(write, sector..=sector),
            SectorFate::Old => self.tally.sectors_old += 1,
            SectorFate::Half => {
                let (start, end) = bytes_of(write, sector);
                let len_bytes = self.below(end - start);
                self.edit(write, start, start + len_bytes);
                self.tally.sectors_half += 1;
            }
            SectorFate::Garbage => {
                let (start, end) = bytes_of(write, sector);
                let mut garbage = vec![0; to_usize(end - start)];
                self.rng.fill_bytes(&mut garbage);
                let slice = Slice::whole(Payload::Bytes(Arc::from(garbage)));
                self.edits.push(Edit {
                    offset: start,
                    slice,
                });
                self.tally.sectors_garbage += 1;
            }
        }
    }

    fn write_sectors(&mut self, write: &Pending, sectors: RangeInclusive<u64>) {
        let (start, _) = bytes_of(write, *sectors.start());
        let (_, end) = bytes_of(write, *sectors.end());
        self.edit(write, start, end);
        self.tally.sectors_new += sectors.end() - sectors.start() + 1;
    }

    /// Puts the bytes `[start, end)` of the disk, which lie inside `write`, on the image.
    fn edit(&mut self, write: &Pending, start: u64, end: u64) {
        if start < end {
            let slice = Slice::whole(write.payload.clone()).part(start - write.offset, end - start);
            self.edits.push(Edit {
                offset: start,
                slice,
            });
        }
    }
}

/// The sectors that `write` touches; writes are never empty.
fn sectors_of(write: &Pending) -> RangeInclusive<u64> {
    let last_byte = write.offset + write.payload.len_bytes() - 1;
    write.offset / SECTOR_BYTES..=last_byte / SECTOR_BYTES
}

/// The bytes `(from, to)` of `sector` that `write` covers; `to` is excluded.
fn bytes_of(write: &Pending, sector: u64) -> (u64, u64) {
    let end = write.offset + write.payload.len_bytes();
    (
        (sector * SECTOR_BYTES).max(write.offset),
        ((sector + 1) * SECTOR_BYTES).min(end),
    )
}

#[cfg(test)]
mod tests;

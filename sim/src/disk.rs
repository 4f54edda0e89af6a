//! A disk with a volatile cache: what is durable, what a flush would make so, what is in flight.
//!
//! A write becomes visible when it completes, and durable when it was a durable one or when a flush
//! that was submitted after its completion completes. A power cut decides for every 512 bytes of
//! everything else whether the old or the new bytes, or neither, are found afterwards. What else a
//! disk may do wrong is in `disk/flaws.rs`; `disk/torn.rs` takes the power in the moment of an operation.

pub(crate) mod flaws;
mod torn;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use bytes::Bytes;
use moorline_blockvol::inspect::ReadAt;
use moorline_types::{
    BLOCK_SIZE, DeviceDone, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, Payload, WriteMode,
};

use self::flaws::{Flaws, Stray};
use crate::{
    content::{self, OpNo, SECTOR},
    dice::Dice,
};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What a power cut does to bytes that no flush covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// All lost.
    Old,
    /// All there.
    New,
    /// Each sector for itself.
    Torn,
    /// As torn, and some sectors hold what nobody wrote.
    Garbage,
}

/// Which requests' sectors were ever durable on a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct EverDurable(Vec<u128>);

impl EverDurable {
    fn note(&mut self, page: &[u8]) {
        for sector in page.chunks_exact(SECTOR) {
            let Some(mark) = content::peek(sector) else {
                continue;
            };
            let (op, bit) = (mark.op.0 as usize, mark.sector.wrapping_sub(mark.first));
            if bit >= u64::from(u128::BITS) || op > 1 << 24 {
                continue;
            }
            if self.0.len() <= op {
                self.0.resize(op + 64, 0);
            }
            self.0[op] |= 1 << bit;
        }
    }

    /// Bit n is set when the n-th sector of the request was.
    pub(crate) fn sectors_of(&self, op: OpNo) -> u128 {
        self.0.get(op.0 as usize).copied().unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
struct InFlight {
    op: DeviceOp,
    /// For a flush: writes completed before this one are covered.
    covers: u64,
}

/// One simulated disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    size: u64,
    /// Blocks that are not all zero.
    durable: BTreeMap<u64, Bytes>,
    /// Completed and not flushed, per block in order of completion.
    cached: BTreeMap<u64, Vec<(u64, Bytes)>>,
    order: VecDeque<(u64, u64)>,
    completions: u64,
    in_flight: BTreeMap<u64, InFlight>,
    submissions: u64,
    pub(crate) ever_durable: EverDurable,
    pub(crate) flaws: Flaws,
}

impl SimDisk {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            durable: BTreeMap::new(),
            cached: BTreeMap::new(),
            order: VecDeque::new(),
            completions: 0,
            in_flight: BTreeMap::new(),
            submissions: 0,
            ever_durable: EverDurable::default(),
            flaws: Flaws::default(),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A copy of what is durable, as a careless operator keeps one.
    pub(crate) fn image(&self) -> BTreeMap<u64, Bytes> {
        self.durable.clone()
    }

    /// Puts an old copy back. Nothing is in flight.
    pub(crate) fn restore(&mut self, image: BTreeMap<u64, Bytes>) {
        self.cached.clear();
        self.order.clear();
        self.in_flight.clear();
        self.durable = image;
        self.ever_durable = EverDurable::default();
        for page in self.durable.values() {
            self.ever_durable.note(page);
        }
    }

    /// Destroys `bytes` at `offset` in what is durable.
    pub(crate) fn rot(&mut self, offset: u64, length: u64) {
        for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
            self.cached.remove(&block);
            self.durable
                .insert(block, Bytes::from_static(&[0xa5; BLOCK_SIZE]));
        }
    }

    /// Takes an operation; the answer names it.
    pub(crate) fn submit(&mut self, op: DeviceOp) -> u64 {
        self.submissions += 1;
        let covers = self.completions;
        self.in_flight
            .insert(self.submissions, InFlight { op, covers });
        self.submissions
    }

    /// Ends an operation; `None` when a crash took it.
    pub(crate) fn complete(&mut self, token: u64, dice: &mut Dice) -> Option<DeviceDone> {
        let InFlight { op, covers } = self.in_flight.remove(&token)?;
        let DeviceOp { id, offset, kind } = op;
        let end = offset + kind.length();
        if end > self.size {
            let result = Err(DeviceError::OutOfRange {
                end,
                size: self.size,
            });
            return Some(DeviceDone { id, result });
        }
        if let Some(error) = self.flaws.strikes(offset, &kind, dice) {
            self.half_done(offset, &kind, (error, covers), dice);
            return Some(DeviceDone {
                id,
                result: Err(error),
            });
        }
        let outcome = match kind {
            DeviceOpKind::Read(mut buffer) => {
                self.read_racing(offset, buffer.as_mut_slice(), dice);
                DeviceOutcome::Read(buffer)
            }
            DeviceOpKind::Write(parts, mode) => {
                match self.flaws.stray(offset) {
                    None => self.land_all(offset, &parts, mode),
                    Some(Stray::Lost) => {}
                    Some(Stray::Misdirected { to }) => self.land_all(to, &parts, mode),
                }
                DeviceOutcome::Written
            }
            DeviceOpKind::Flush => {
                if !self.flaws.lies() {
                    self.flush(covers);
                }
                DeviceOutcome::Flushed
            }
            DeviceOpKind::Discard { length } => {
                let zero = Bytes::from_static(&[0; BLOCK_SIZE]);
                for block in offset / BLOCK..(offset + length) / BLOCK {
                    self.land(block, zero.clone(), WriteMode::Cached);
                }
                DeviceOutcome::Discarded
            }
        };
        Some(DeviceDone {
            id,
            result: Ok(outcome),
        })
    }

    fn land_all(&mut self, offset: u64, parts: &[Payload], mode: WriteMode) {
        let mode = match self.flaws.lies() {
            true => WriteMode::Cached,
            false => mode,
        };
        for (block, page) in pages(offset, parts) {
            if (block + 1) * BLOCK <= self.size {
                self.land(block, page, mode);
            }
        }
    }

    /// What an operation that fails leaves behind. Nothing of it is promised.
    fn half_done(
        &mut self,
        offset: u64,
        kind: &DeviceOpKind,
        (error, covers): (DeviceError, u64),
        dice: &mut Dice,
    ) {
        match (kind, error) {
            (DeviceOpKind::Write(parts, _), DeviceError::Short { done, .. }) => {
                for (block, page) in pages(offset, parts) {
                    if (block + 1) * BLOCK <= offset + done {
                        self.land(block, page, WriteMode::Cached);
                    }
                }
            }
            (DeviceOpKind::Write(parts, _), DeviceError::Errno { errno: flaws::EIO }) => {
                for (block, page) in pages(offset, parts) {
                    if dice.percent(40) {
                        self.land(block, page, WriteMode::Cached);
                    }
                }
            }
            // The cache forgets that it has something to write.
            (DeviceOpKind::Flush, _) => self.drop_cached(covers, dice),
            (DeviceOpKind::Write(..) | DeviceOpKind::Read(_) | DeviceOpKind::Discard { .. }, _) => {
            }
        }
    }

    /// Of what a flush would cover, some became durable and the rest is gone.
    fn drop_cached(&mut self, covers: u64, dice: &mut Dice) {
        while let Some((seq, block)) = self.order.front().copied()
            && seq <= covers
        {
            self.order.pop_front();
            let Some(page) = self.take_cached(seq, block) else {
                continue;
            };
            if dice.percent(50) {
                self.make_durable(block, page);
            }
        }
    }

    fn take_cached(&mut self, seq: u64, block: u64) -> Option<Bytes> {
        let versions = self.cached.get_mut(&block)?;
        let place = versions.iter().position(|(at, _)| *at == seq)?;
        let (_, page) = versions.remove(place);
        if versions.is_empty() {
            self.cached.remove(&block);
        }
        Some(page)
    }

    /// Blocks of `[from, to)` (bytes) that hold something durable and nothing newer.
    pub(crate) fn at_rest_in(&self, from: u64, to: u64) -> Vec<u64> {
        let blocks = self.durable.range(from / BLOCK..to / BLOCK);
        blocks
            .filter(|(block, _)| !self.cached.contains_key(block))
            .map(|(block, _)| *block)
            .collect()
    }

    /// What a block durably holds.
    pub(crate) fn durable_block(&self, block: u64) -> Option<&Bytes> {
        self.durable.get(&block)
    }

    /// Flips one bit of a durable block.
    pub(crate) fn flip(&mut self, block: u64, bit: u64) {
        if let Some(page) = self.durable.get_mut(&block) {
            let mut bytes = page.to_vec();
            let place = usize::try_from(bit / 8 % BLOCK).expect("inside a block");
            bytes[place] ^= 1 << (bit % 8);
            *page = bytes.into();
        }
    }

    fn land(&mut self, block: u64, page: Bytes, mode: WriteMode) {
        match mode {
            WriteMode::Durable => {
                self.cached.remove(&block);
                self.make_durable(block, page);
            }
            WriteMode::Cached => {
                self.completions += 1;
                let seq = self.completions;
                self.cached.entry(block).or_default().push((seq, page));
                self.order.push_back((seq, block));
            }
        }
    }

    fn make_durable(&mut self, block: u64, page: Bytes) {
        if is_zero(&page) {
            self.durable.remove(&block);
        } else {
            self.ever_durable.note(&page);
            self.durable.insert(block, page);
        }
    }

    fn flush(&mut self, covers: u64) {
        while let Some((seq, block)) = self.order.front().copied()
            && seq <= covers
        {
            self.order.pop_front();
            if let Some(page) = self.take_cached(seq, block) {
                self.make_durable(block, page);
            }
        }
    }

    fn newest(&self, block: u64) -> Option<&Bytes> {
        match self.cached.get(&block) {
            Some(versions) => versions.last().map(|(_, page)| page),
            None => self.durable.get(&block),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        for (block, place) in (offset / BLOCK..).zip(into.chunks_exact_mut(BLOCK_SIZE)) {
            match self.newest(block) {
                Some(page) => place.copy_from_slice(page),
                None => place.fill(0),
            }
        }
    }

    /// A read that meets a write in flight may see any of its sectors.
    fn read_racing(&self, offset: u64, into: &mut [u8], dice: &mut Dice) {
        self.read(offset, into);
        let (first, end) = (offset / BLOCK, (offset + into.len() as u64) / BLOCK);
        for write in self.in_flight.values() {
            let DeviceOpKind::Write(parts, _) = &write.op.kind else {
                continue;
            };
            let (from, to) = (write.op.offset, write.op.offset + write.op.kind.length());
            if to <= offset || from >= end * BLOCK {
                continue;
            }
            for (block, page) in pages(write.op.offset, parts) {
                if block < first || block >= end {
                    continue;
                }
                let at = usize::try_from(block - first).expect("inside the buffer") * BLOCK_SIZE;
                for sector in (0..BLOCK_SIZE).step_by(SECTOR) {
                    if dice.percent(50) {
                        into[at + sector..at + sector + SECTOR]
                            .copy_from_slice(&page[sector..sector + SECTOR]);
                    }
                }
            }
        }
    }

    /// The process ended: what completed is in the machine's cache; of what was in flight any
    /// whole block may have been written.
    pub(crate) fn kill(&mut self, dice: &mut Dice) {
        for (_, flying) in std::mem::take(&mut self.in_flight) {
            if let DeviceOpKind::Write(parts, _) = &flying.op.kind {
                let all = dice.percent(30);
                for (block, page) in pages(flying.op.offset, parts) {
                    if all || dice.percent(50) {
                        self.land(block, page, WriteMode::Cached);
                    }
                }
            }
        }
    }

    /// The machine lost its power.
    pub(crate) fn power_cut(&mut self, dice: &mut Dice) {
        let fate = dice.pick(&[Fate::Old, Fate::New, Fate::Torn, Fate::Torn, Fate::Garbage]);
        self.power_cut_as(fate, dice);
    }

    fn power_cut_as(&mut self, fate: Fate, dice: &mut Dice) {
        let mut versions: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
        for (block, cached) in std::mem::take(&mut self.cached) {
            let pages = cached.into_iter().map(|(_, page)| page);
            versions.entry(block).or_default().extend(pages);
        }
        self.order.clear();
        for (_, flying) in std::mem::take(&mut self.in_flight) {
            if let DeviceOpKind::Write(parts, _) = &flying.op.kind {
                for (block, page) in pages(flying.op.offset, parts) {
                    versions.entry(block).or_default().push(page);
                }
            }
        }
        for (block, versions) in versions {
            let old = self.durable.get(&block).cloned();
            let mut page = old.map_or_else(|| vec![0; BLOCK_SIZE], |page| page.to_vec());
            for sector in page.chunks_exact_mut(SECTOR).enumerate() {
                tear(fate, sector, &versions, dice);
            }
            self.make_durable(block, page.into());
        }
    }
}

fn tear(fate: Fate, (index, sector): (usize, &mut [u8]), versions: &[Bytes], dice: &mut Dice) {
    let from = index * SECTOR;
    let version = match fate {
        Fate::Old => None,
        Fate::New => versions.last(),
        Fate::Torn | Fate::Garbage => versions.get(dice.index(versions.len() + 1)),
    };
    if fate == Fate::Garbage && dice.percent(10) {
        for place in sector.chunks_exact_mut(8) {
            place.copy_from_slice(&dice.bits().to_le_bytes());
        }
    } else if let Some(version) = version {
        sector.copy_from_slice(&version[from..from + SECTOR]);
    }
}

fn is_zero(page: &[u8]) -> bool {
    page == [0; BLOCK_SIZE]
}

fn pages(offset: u64, parts: &[Payload]) -> impl Iterator<Item = (u64, Bytes)> {
    let blocks = parts
        .iter()
        .flat_map(|part| (0..part.blocks()).map(|index| part.slice_blocks(index, 1).bytes()));
    (offset / BLOCK..).zip(blocks)
}

impl ReadAt for SimDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK) && into.len().is_multiple_of(BLOCK_SIZE);
        if !aligned || offset + into.len() as u64 > self.size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.read(offset, into);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! A loss of power in the very moment of one operation.

use bytes::Bytes;
use moorline_types::{BLOCK_SIZE, DeviceOp, DeviceOpKind};

use super::{Fate, SimDisk, pages};
use crate::{content::SECTOR, dice::Dice, strike::Moment};

impl SimDisk {
    /// The power goes before, in the middle of, or after `op`. For everything else that no flush
    /// covers it is as in any loss of power.
    pub(crate) fn power_cut_at(&mut self, op: &DeviceOp, moment: Moment, dice: &mut Dice) {
        match (&op.kind, moment) {
            (DeviceOpKind::Flush, Moment::After) => {
                self.flush(self.completions);
                self.power_cut(dice);
            }
            (DeviceOpKind::Flush, Moment::Torn) => self.power_cut_as(Fate::Torn, dice),
            (DeviceOpKind::Write(parts, _), Moment::Torn | Moment::After) => {
                self.power_cut(dice);
                let landed = landed(op.kind.length(), moment, dice);
                for ((block, page), sectors) in pages(op.offset, parts).zip(landed) {
                    self.land_sectors(block, &page, sectors);
                }
            }
            (DeviceOpKind::Flush | DeviceOpKind::Write(..), Moment::Before)
            | (DeviceOpKind::Read(_) | DeviceOpKind::Discard { .. }, _) => self.power_cut(dice),
        }
    }

    /// Of a block's new bytes the sectors whose bits are set are there, the others are as before.
    fn land_sectors(&mut self, block: u64, page: &Bytes, sectors: u8) {
        let old = self.durable.get(&block);
        let mut found = old.map_or_else(|| vec![0; BLOCK_SIZE], |page| page.to_vec());
        for (index, place) in found.chunks_exact_mut(SECTOR).enumerate() {
            if sectors & 1 << index != 0 {
                place.copy_from_slice(&page[index * SECTOR..(index + 1) * SECTOR]);
            }
        }
        self.make_durable(block, found.into());
    }
}

/// For each block of a write, which of its sectors are there: all, or some but not all.
fn landed(bytes: u64, moment: Moment, dice: &mut Dice) -> Vec<u8> {
    let blocks = usize::try_from(bytes).map_or(0, |bytes| bytes / BLOCK_SIZE);
    let mut landed = vec![u8::MAX; blocks];
    if moment == Moment::After {
        return landed;
    }
    let sectors = blocks * (BLOCK_SIZE / SECTOR);
    let lost = dice.index(sectors);
    let prefix = dice.percent(50);
    for sector in 0..sectors {
        let gone = match prefix {
            true => sector >= lost,
            false => sector == lost || dice.percent(40),
        };
        if gone {
            landed[sector / 8] &= !(1 << (sector % 8));
        }
    }
    landed
}

#[cfg(test)]
mod tests {
    use moorline_types::{BufferPool, OpId, OpOwner, Payload, WriteMode};

    use super::*;

    fn write(blocks: usize) -> DeviceOp {
        let bytes = vec![7; blocks * BLOCK_SIZE];
        DeviceOp {
            id: OpId::new(OpOwner::Log, 1),
            offset: 4096,
            kind: DeviceOpKind::Write(
                vec![Payload::copy_padded(&BufferPool::new(), &bytes)],
                WriteMode::Durable,
            ),
        }
    }

    fn new_sectors(moment: Moment, seed: u64) -> usize {
        let (mut disk, mut dice) = (SimDisk::new(64 << 10), Dice::new(seed));
        disk.power_cut_at(&write(3), moment, &mut dice);
        let found = (1..4).filter_map(|block| disk.durable_block(block));
        found
            .flat_map(|page| page.chunks_exact(SECTOR))
            .filter(|sector| sector[0] == 7)
            .count()
    }

    #[test]
    fn nothing_some_or_all_of_a_write_is_there() {
        for seed in 0..50 {
            assert_eq!(new_sectors(Moment::Before, seed), 0);
            assert!(new_sectors(Moment::Torn, seed) < 24, "seed {seed}");
            assert_eq!(new_sectors(Moment::After, seed), 24);
        }
    }

    #[test]
    fn a_flush_that_is_done_leaves_everything_there() {
        let DeviceOpKind::Write(parts, _) = write(1).kind else {
            unreachable!("it is a write");
        };
        let flush = DeviceOp {
            id: OpId::new(OpOwner::Log, 2),
            offset: 0,
            kind: DeviceOpKind::Flush,
        };
        for seed in 0..20 {
            let (mut disk, mut dice) = (SimDisk::new(64 << 10), Dice::new(seed));
            disk.land_all(4096, &parts, WriteMode::Cached);
            disk.power_cut_at(&flush, Moment::After, &mut dice);
            assert_eq!(disk.durable_block(1).map(|page| page[0]), Some(7));
        }
    }
}

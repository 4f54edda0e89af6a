//! What disks do wrong, carried out, and mended.

use moorline_blockvol::{LOG_OFFSET, Layout, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS};
use moorline_types::BlockCount;

use super::{Happens, World};
use crate::{
    disk::{
        SimDisk,
        flaws::{Failing, How, StrayKind, Straying},
    },
    faults::{Act, Region},
    plan::MS,
};

impl World {
    pub(super) fn does_to_disk(&mut self, act: Act) {
        match act {
            Act::Fail(s, ailment) => self.fail(
                s,
                Failing {
                    what: ailment.what,
                    how: ailment.how,
                    from: 0,
                    left: ailment.count,
                },
            ),
            Act::Fill(s) => {
                let from = self.layout().extents_offset();
                self.fail(
                    s,
                    Failing {
                        what: Some(crate::disk::flaws::OpClass::Write),
                        how: How::Full,
                        from,
                        left: None,
                    },
                );
            }
            Act::Hang(s) => {
                self.hosts[s].struck = true;
                if let Some(disk) = self.disk(s) {
                    disk.flaws.hangs = true;
                }
            }
            Act::Mend(s) => self.mend(s),
            Act::Swap(a, b) => self.swap_disks(a, b),
            Act::MarkRot(s, region) => self.mark_rot(s, region),
            Act::RotMarked(s) => self.rot_marked(s),
            Act::Stray(s, kind, count) => self.stray(s, kind, count),
            Act::Kill(_)
            | Act::PowerCut(_)
            | Act::Start(_)
            | Act::Rot(_)
            | Act::Pause(..)
            | Act::Block(..)
            | Act::Unblock(..)
            | Act::Break(..)
            | Act::MasterKill
            | Act::MasterStart
            | Act::MasterCopy
            | Act::MasterRestore
            | Act::Slow(..)
            | Act::Stall(..)
            | Act::SlowReads(..)
            | Act::Hurry(_)
            | Act::Wipe(_)
            | Act::Snapshot(_)
            | Act::Rollback(_)
            | Act::RotNewer(_)
            | Act::Patience(_)
            | Act::Replay(..)
            | Act::Damage(..)
            | Act::Forge(..)
            | Act::Clock(..)
            | Act::Readdress(_)
            | Act::MasterAtTxn(_) => unreachable!("not an act on a disk"),
        }
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(BlockCount::new(self.plan.blocks), self.plan.log_bytes)
            .expect("the stores were made")
    }

    fn disk(&mut self, s: usize) -> Option<&mut SimDisk> {
        self.hosts[s].disks.values_mut().next()
    }

    fn fail(&mut self, s: usize, failing: Failing) {
        if let Some(disk) = self.disk(s) {
            disk.flaws.failing.push(failing);
        }
    }

    /// A bad disk is good again; who operates it starts a process whose store failed anew.
    pub(super) fn mend(&mut self, s: usize) {
        let life = self.hosts[s].life;
        let mut kept = Vec::new();
        for (device, disk) in &mut self.hosts[s].disks {
            kept.extend(disk.flaws.mend().into_iter().map(|token| (*device, token)));
        }
        for (device, token) in kept {
            let delay = self.dice.between(1_000, 5 * MS);
            self.after(
                delay,
                Happens::DiskDone {
                    host: s,
                    life,
                    device,
                    token,
                },
            );
        }
        if self.store_is_lost(s) {
            self.line(|| format!("s{} is started anew", s + 1));
            self.kill(s);
            self.start_host(s);
        }
    }

    /// Whether a process runs without a store that takes writes.
    fn store_is_lost(&self, s: usize) -> bool {
        let (Some(node), Some(volume)) = (&self.hosts[s].node, self.volume) else {
            return false;
        };
        self.hosts[s].struck
            && node
                .volume(volume)
                .is_none_or(|replica| replica.store().failed().is_some())
    }

    fn swap_disks(&mut self, a: usize, b: usize) {
        if self.hosts[a].is_up() || self.hosts[b].is_up() {
            return;
        }
        // Two at home change places, and the same two change back: three in a ring never get home.
        let partners = [self.hosts[a].swapped_with, self.hosts[b].swapped_with];
        let back = match partners {
            [None, None] => false,
            [Some(with_a), Some(with_b)] if (with_a, with_b) == (b, a) => true,
            [Some(_) | None, Some(_) | None] => return,
        };
        let [one, other] = self.hosts.get_disjoint_mut([a, b]).expect("two machines");
        std::mem::swap(&mut one.disks, &mut other.disks);
        // What is true of a disk goes with it.
        std::mem::swap(&mut one.corrupted, &mut other.corrupted);
        std::mem::swap(&mut one.replaced, &mut other.replaced);
        std::mem::swap(&mut one.buried, &mut other.buried);
        std::mem::swap(&mut one.old_image, &mut other.old_image);
        for (s, other) in [(a, b), (b, a)] {
            self.hosts[s].swapped_with = (!back).then_some(other);
        }
    }

    fn mark_rot(&mut self, s: usize, region: Region) {
        let layout = self.layout();
        let map = layout.map_offset();
        let half = SUPERBLOCK_OFFSETS[self.dice.index(2)];
        let (from, to) = match region {
            Region::Superblock => (half, half + SUPERBLOCK_BYTES as u64),
            Region::Log => (LOG_OFFSET, LOG_OFFSET + layout.log_bytes),
            Region::Map => (map, map + layout.map_bytes()),
            Region::Extents => (layout.extents_offset(), layout.device_bytes()),
        };
        let Some(disk) = self.disk(s) else { return };
        let blocks = disk.at_rest_in(from, to);
        if blocks.is_empty() {
            return;
        }
        let block = self.dice.pick(&blocks);
        let held = self
            .disk(s)
            .and_then(|disk| disk.durable_block(block).cloned());
        let life = self.hosts[s].life;
        self.hosts[s].rot_marked = held.map(|held| (life, block, held));
    }

    /// The block rots if nothing happened to it meanwhile, and the process ran all the time: a
    /// log's last frame without a mark behind it would be taken for a torn one.
    fn rot_marked(&mut self, s: usize) {
        let now = self.now;
        let host = &mut self.hosts[s];
        let Some((life, block, held)) = host.rot_marked.take() else {
            return;
        };
        let calm = host.is_up()
            && host.life == life
            && host.paused_until <= now
            && (host.slow, host.stall) == (1, 0)
            && !host.struck;
        let bit = self.dice.bits();
        let Some(disk) = self.disk(s) else { return };
        if calm && disk.durable_block(block) == Some(&held) {
            disk.flip(block, bit);
            self.line(|| format!("  block {block} of s{} rots", s + 1));
            self.corrupted(s);
        }
    }

    fn stray(&mut self, s: usize, kind: StrayKind, count: u32) {
        let layout = self.layout();
        if let Some(disk) = self.disk(s) {
            disk.flaws.straying = Some(Straying {
                kind,
                from: layout.extents_offset(),
                to: layout.device_bytes(),
                left: count,
            });
            self.corrupted(s);
        }
    }

    /// A replica whose disk may have damaged data counts as one that lost its memory.
    fn corrupted(&mut self, s: usize) {
        if !self.hosts[s].corrupted {
            self.hosts[s].corrupted = true;
            self.memories_lost += 1;
        }
    }
}

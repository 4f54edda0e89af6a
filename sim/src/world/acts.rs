//! Disturbances carried out, and healed.

use std::{collections::BTreeMap, time::Duration};

use moorline_blockvol::{
    DeviceContent, Existing, FormatParams, Formatting, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS,
    StoreIdentity, Superblock, inspect::ReadAt,
};
use moorline_types::{BlockCount, OpenCount, StoreId};

use super::{Happens, World, phases::Phase};
use crate::{
    clock::ClockChange,
    dice::Dice,
    disk::SimDisk,
    faults::{self, Act, Cast, Pace, Patience, ROT_BYTES, Recipe},
    network::Party,
    plan::SECOND,
    watch::SpotKind,
};

impl World {
    pub(super) fn fault(&mut self, index: usize) {
        if self.phase != Phase::Work {
            return;
        }
        let (at, recipe) = self.plan.faults[index];
        let dice = Dice::new(self.salt ^ at);
        self.stage(recipe, dice);
    }

    /// Begins a disturbance with the roles of this moment.
    fn stage(&mut self, recipe: Recipe, mut dice: Dice) {
        let replaces = matches!(recipe, Recipe::WipeWhileLagging { .. });
        if replaces
            && self
                .hosts
                .iter()
                .any(|host| host.replaced || host.old_image.is_some())
        {
            return;
        }
        let primary = self
            .serving_host()
            .unwrap_or_else(|| dice.index(self.hosts.len()));
        let mut followers: Vec<usize> = (0..self.hosts.len()).filter(|h| *h != primary).collect();
        if dice.percent(50) {
            followers.reverse();
        }
        let suspect = self.plan.suspect;
        let cast = Cast {
            primary,
            followers,
            suspect,
        };
        *self.counts.faults.entry(recipe.name()).or_default() += 1;
        self.line(|| format!("FAULT {recipe:?} primary s{}", cast.primary + 1));
        self.spot(None, SpotKind::Fault, || {
            format!("{} {recipe:?}", recipe.name())
        });
        for (delay, act) in faults::acts(recipe, &cast, &mut dice) {
            self.after(delay, Happens::Does(act));
        }
    }

    pub(super) fn does(&mut self, act: Act) {
        if !matches!(self.phase, Phase::Work) {
            return;
        }
        self.line(|| format!("  {act:?}"));
        match act {
            Act::Kill(s) => self.kill(s),
            Act::PowerCut(s) => self.power_cut(s),
            Act::Start(s) => self.start_host(s),
            Act::Rot(s) => self.rot(s),
            Act::Pause(s, time) => self.hosts[s].paused_until = self.now + time,
            Act::Block(from, to) => self.network.block(from, to),
            Act::Unblock(from, to) => {
                self.network.unblock(from, to);
                self.release_held();
            }
            Act::Break(a, b) => self.break_between(a, b),
            Act::MasterKill => self.end_master(),
            Act::MasterStart => self.start_master(),
            Act::MasterCopy => self.copy_master(),
            Act::MasterRestore => self.restore_master(),
            Act::Slow(s, factor) => self.hosts[s].slow = factor,
            Act::Stall(s, time) => self.hosts[s].stall = time,
            Act::SlowReads(s, time) => self.hosts[s].late_reads = time,
            Act::Hurry(pace) => self.pace = pace,
            Act::Wipe(s) => self.wipe(s),
            Act::Snapshot(s) => {
                let host = &mut self.hosts[s];
                host.old_image = host.disks.values().next().map(SimDisk::image);
            }
            Act::Patience(patience) => self.patience = patience,
            Act::Replay(a, b) => self.replay(Party::Server(a), Party::Server(b)),
            Act::Damage(from, to, damage) => {
                let bits = self.dice.bits();
                self.network.damage(from, to, damage, bits);
            }
            Act::Forge(from, to, forgery) => {
                self.forge(Party::Server(from), Party::Server(to), forgery);
            }
            Act::Clock(Party::Master, change) => self.change_master_clock(change),
            Act::Clock(Party::Server(s), change) => {
                let host = &mut self.hosts[s];
                let resets = matches!(change, ClockChange::Reset { .. });
                // A clock that runs never shows an earlier time.
                if host.is_up() && resets {
                    return;
                }
                host.clock = host.clock.changed(self.now, change);
                host.wake_at = None;
                self.schedule_wake(s);
            }
            Act::Readdress(s) => {
                let host = &mut self.hosts[s];
                host.moves += u32::from(!host.is_up());
            }
            Act::MasterAtTxn(moment) => {
                self.master.strike = Some((self.master.txns + 1, moment));
            }
            Act::RotNewer(s) => self.rot_newer(s),
            Act::Rollback(s) => self.roll_back(s),
            Act::Fail(..)
            | Act::Fill(_)
            | Act::Hang(_)
            | Act::Mend(_)
            | Act::Swap(..)
            | Act::MarkRot(..)
            | Act::RotMarked(_)
            | Act::Stray(..) => self.does_to_disk(act),
        }
    }

    pub(super) fn kill(&mut self, s: usize) {
        if !self.hosts[s].is_up() {
            return;
        }
        self.end_host(s);
        for disk in self.hosts[s].disks.values_mut() {
            disk.kill(&mut self.dice);
        }
        self.drop_conns_of(Party::Server(s), false);
    }

    pub(super) fn power_cut(&mut self, s: usize) {
        self.end_host(s);
        for disk in self.hosts[s].disks.values_mut() {
            disk.power_cut(&mut self.dice);
        }
        self.drop_conns_of(Party::Server(s), true);
    }

    /// Makes one superblock copy unreadable, if the other one can be read.
    fn rot(&mut self, s: usize) {
        if self.hosts[s].is_up() {
            return;
        }
        let Some(disk) = self.hosts[s].disks.values_mut().next() else {
            return;
        };
        let good = |copy: u32| {
            let mut bytes = vec![0; SUPERBLOCK_BYTES];
            let read = disk.read_exact_at(SUPERBLOCK_OFFSETS[copy as usize], &mut bytes);
            read.is_ok() && Superblock::decode(copy, &bytes).is_ok()
        };
        if good(0) && good(1) {
            let copy = self.dice.index(2);
            disk.rot(SUPERBLOCK_OFFSETS[copy], ROT_BYTES);
        }
    }

    /// Makes the newer superblock copy unreadable, if the older one can be read.
    fn rot_newer(&mut self, s: usize) {
        if self.hosts[s].is_up() {
            return;
        }
        let Some(disk) = self.hosts[s].disks.values_mut().next() else {
            return;
        };
        let generation = |copy: u32| {
            let mut bytes = vec![0; SUPERBLOCK_BYTES];
            disk.read_exact_at(SUPERBLOCK_OFFSETS[copy as usize], &mut bytes)
                .ok()?;
            Some(Superblock::decode(copy, &bytes).ok()?.generation)
        };
        if let (Some(a), Some(b)) = (generation(0), generation(1)) {
            let newer = usize::from(b > a);
            disk.rot(SUPERBLOCK_OFFSETS[newer], ROT_BYTES);
        }
    }

    /// An empty store under the old name, as an operator makes one after a disk was replaced.
    fn wipe(&mut self, s: usize) {
        let (Some(cluster), Some(volume)) = (self.hosts[s].cluster, self.volume) else {
            return;
        };
        // Another's disk goes back to its own machine, with what is on it.
        if self.hosts[s].is_up() || self.hosts[s].swapped_with.is_some() {
            return;
        }
        let store = StoreId::new(self.dice.wide());
        let host = &mut self.hosts[s];
        let Some(disk) = host.disks.values_mut().next() else {
            return;
        };
        let device_bytes = disk.size();
        host.buried = Some(disk.ever_durable.clone());
        disk.restore(BTreeMap::new());
        let params = FormatParams {
            identity: StoreIdentity {
                cluster,
                volume,
                volume_name: "demo".into(),
                server: host.server.clone(),
                store,
            },
            size_blocks: BlockCount::new(self.plan.blocks),
            log_bytes: self.plan.log_bytes,
            device_bytes,
            content: DeviceContent::Zeroes,
            existing: Existing::Refuse,
            pool: self.pool.clone(),
        };
        let mut ops = Vec::new();
        let mut formatting = Formatting::new(params, &mut ops).expect("it fitted before");
        let mut over = None;
        while over.is_none() {
            let tokens: Vec<u64> = ops.drain(..).map(|op| disk.submit(op)).collect();
            assert!(!tokens.is_empty(), "formatting waits for nothing");
            for token in tokens {
                if let Some(done) = disk.complete(token, &mut self.dice) {
                    over = over.or(formatting.on_done(done, &mut ops));
                }
            }
        }
        host.replaced = true;
    }

    fn roll_back(&mut self, s: usize) {
        // What nobody saw cannot be missed: within one opening, or while the master was out of
        // reach, only the frontiers that were reported tell.
        let seen = self.master_saw_open(s);
        let host = &mut self.hosts[s];
        if host.is_up() || host.swapped_with.is_some() {
            return;
        }
        if let (Some(image), Some(disk)) = (host.old_image.clone(), host.disks.values_mut().next())
        {
            let mut old = SimDisk::new(disk.size());
            old.restore(image.clone());
            if seen.is_none_or(|seen| open_count(&old) >= seen) {
                return;
            }
            host.buried = Some(disk.ever_durable.clone());
            disk.restore(image);
            host.replaced = true;
        }
    }

    /// The end of all disturbances.
    pub(super) fn heal(&mut self) {
        self.line(|| "all is healed".into());
        self.healed_at = self.now;
        self.pace = Pace::AsPlanned;
        self.patience = Patience::Usual;
        self.network.damage_nothing();
        self.network.unblock_all();
        self.release_held();
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.slow = 1;
            host.stall = 0;
            host.late_reads = 0;
            host.paused_until = host.paused_until.min(self.now);
            self.start_host(index);
            let life = self.hosts[index].life;
            self.resume(index, life);
            self.mend(index);
        }
        if self.master.strike.is_some() && self.plan.master_strike.is_none() {
            self.master.strike = None;
        }
        self.start_master();
    }

    /// How long the cluster may take to serve again: silences, leases, a reign that came to nothing.
    pub(super) fn patience() -> Duration {
        Duration::from_nanos(SECOND * 60)
    }
}

/// The open counter of the store on a disk.
fn open_count(disk: &SimDisk) -> OpenCount {
    (0..2)
        .filter_map(|copy: u32| {
            let mut bytes = vec![0; SUPERBLOCK_BYTES];
            let offset = SUPERBLOCK_OFFSETS[copy as usize];
            disk.read_exact_at(offset, &mut bytes).ok()?;
            Some(Superblock::decode(copy, &bytes).ok()?.open)
        })
        .max()
        .unwrap_or_default()
}

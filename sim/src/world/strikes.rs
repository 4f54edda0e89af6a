//! Losses of power at persist points.

use moorline_blockvol::{LOG_OFFSET, Layout};
use moorline_types::{DeviceOp, DeviceOpKind};
use moorline_volume::DeviceKey;

use super::{Happens, World, phases::Phase};
use crate::{
    network::Party,
    plan::MS,
    strike::{Moment, Reach, Strike},
    watch::SpotKind,
};

/// Persist points so far, and where the run is still to be struck.
#[derive(Debug)]
pub(super) struct Strikes {
    passed: u64,
    first: Option<Strike>,
    again: Option<Waiting>,
}

/// The second blow.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    host: usize,
    left: u64,
    moment: Moment,
    reach: Reach,
}

impl Strikes {
    pub(super) fn new(first: Option<Strike>) -> Self {
        Self {
            passed: 0,
            first,
            again: None,
        }
    }

    /// Passes one more point of a server's disk; the answer is whether the power goes there.
    fn pass(&mut self, host: usize) -> Option<(Moment, Reach)> {
        self.passed += 1;
        if let Some(strike) = self.first.filter(|strike| strike.point == self.passed) {
            self.first = None;
            self.again = strike.again.map(|again| Waiting {
                host,
                left: again.later,
                moment: again.moment,
                reach: strike.reach,
            });
            return Some((strike.moment, strike.reach));
        }
        let waiting = self.again.as_mut().filter(|again| again.host == host)?;
        waiting.left -= 1;
        if waiting.left > 0 {
            return None;
        }
        let Waiting { moment, reach, .. } = self.again.take()?;
        Some((moment, reach))
    }
}

impl World {
    /// Counts a persist point. `None` when the power went there, and the operation with it.
    pub(super) fn passes(
        &mut self,
        index: usize,
        device: DeviceKey,
        op: DeviceOp,
    ) -> Option<DeviceOp> {
        let counts = match self.phase {
            Phase::Work | Phase::Healing | Phase::ReadBack => true,
            Phase::SetUp | Phase::Rest | Phase::Over => false,
        };
        let Some(place) = place_of(&op, self.layout()).filter(|_| counts) else {
            return Some(op);
        };
        *self.counts.persist_points.entry(place).or_default() += 1;
        let Some((moment, reach)) = self.strikes.pass(index) else {
            return Some(op);
        };
        *self
            .counts
            .struck
            .entry((place, moment.name()))
            .or_default() += 1;
        self.line(|| format!("STRIKE s{} {} {place}", index + 1, moment.name()));
        self.spot(None, SpotKind::Fault, || {
            format!("power lost {} {place} of s{}", moment.name(), index + 1)
        });
        self.struck_at(index, device, &op, moment);
        if reach == Reach::All {
            for other in (0..self.hosts.len()).filter(|other| *other != index) {
                self.power_cut(other);
                self.comes_back(other);
            }
        }
        None
    }

    fn struck_at(&mut self, index: usize, device: DeviceKey, op: &DeviceOp, moment: Moment) {
        // What its batch appended before this operation was seen by nobody yet.
        self.watch_log(index);
        self.end_host(index);
        for (key, disk) in &mut self.hosts[index].disks {
            match *key == device {
                true => disk.power_cut_at(op, moment, &mut self.dice),
                false => disk.power_cut(&mut self.dice),
            }
        }
        self.drop_conns_of(Party::Server(index), true);
        self.comes_back(index);
    }

    fn comes_back(&mut self, host: usize) {
        let delay = MS * self.dice.between(1, 200);
        self.after(delay, Happens::Restarts { host });
    }
}

/// What an operation makes durable; `None` for one that makes nothing so.
fn place_of(op: &DeviceOp, layout: Layout) -> Option<&'static str> {
    match &op.kind {
        DeviceOpKind::Read(_) | DeviceOpKind::Discard { .. } => None,
        DeviceOpKind::Flush => Some("flush"),
        DeviceOpKind::Write(..) => Some(match op.offset {
            at if at < LOG_OFFSET => "superblock",
            at if at < layout.map_offset() => "log",
            at if at < layout.extents_offset() => "map",
            _ => "extents",
        }),
    }
}

//! Losses of power at persist points.

use moorline_blockvol::{LOG_OFFSET, Layout};
use moorline_types::{DeviceOp, DeviceOpKind};
use moorline_volume::DeviceKey;

use super::{Happens, World, phases::Phase};
use crate::{
    network::Party,
    plan::MS,
    strike::{Again, Moment, Reach, Sampling, Strike},
    watch::SpotKind,
};

/// Persist points so far, and where the run is still to be struck.
#[derive(Clone, Debug)]
pub(super) struct Strikes {
    passed: u64,
    first: Option<Strike>,
    again: Option<Waiting>,
    /// The strike that came, and the points that the same disk passed since.
    struck: Option<(Strike, usize, u64)>,
    /// Where copies of this run are made.
    sampling: Option<Sampled>,
}

/// Where copies are made, of the run of which seed.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    seed: u64,
    sampling: Sampling,
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
            struck: None,
            sampling: None,
        }
    }

    /// Whether the power went as planned: nothing more is to be waited for.
    pub(super) fn is_struck(&self) -> bool {
        self.struck.is_some()
    }

    /// The strikes of the point that a server's disk is about to pass, each for a copy.
    fn sampled(&self, host: usize) -> Vec<Strike> {
        let Some(Sampled { seed, sampling }) = self.sampling else {
            return Vec::new();
        };
        match self.struck {
            None if self.first.is_none() && sampling.takes(seed, self.passed + 1) => {
                Strike::at(seed, self.passed + 1).to_vec()
            }
            Some((strike, disk, since))
                if disk == host
                    && strike.again.is_none()
                    && sampling.takes_again(strike.point, since + 1) =>
            {
                let later = since + 1;
                let again = |moment| Some(Again { later, moment });
                let blow = |moment| Strike {
                    again: again(moment),
                    ..strike
                };
                Moment::ALL.map(blow).to_vec()
            }
            None | Some(_) => Vec::new(),
        }
    }

    /// A copy is struck at the very next point.
    fn aim(&mut self, strike: Strike, host: usize) {
        match strike.again {
            None => self.first = Some(strike),
            Some(again) => {
                self.sampling = None;
                self.again = Some(Waiting {
                    host,
                    left: 1,
                    moment: again.moment,
                    reach: strike.reach,
                });
            }
        }
    }

    /// Passes one more point of a server's disk; the answer is whether the power goes there.
    fn pass(&mut self, host: usize) -> Option<(Moment, Reach)> {
        self.passed += 1;
        if let Some((_, _, since)) = self.struck.as_mut().filter(|(_, disk, _)| *disk == host) {
            *since += 1;
        }
        if let Some(strike) = self.first.filter(|strike| strike.point == self.passed) {
            self.first = None;
            self.struck = Some((strike, host, 0));
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
        self.copy_and_strike(index, device, &op);
        *self.counts.persist_points.entry(place).or_default() += 1;
        let again = self.strikes.is_struck();
        let Some((moment, reach)) = self.strikes.pass(index) else {
            return Some(op);
        };
        let struck = match again {
            true => &mut self.counts.struck_again,
            false => &mut self.counts.struck,
        };
        *struck.entry((place, moment.name())).or_default() += 1;
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

    /// From here on copies are made and struck.
    pub(crate) fn sample(&mut self, seed: u64, sampling: Sampling) {
        self.strikes.sampling = Some(Sampled { seed, sampling });
    }

    /// Copies of this run made since this was asked last, each struck by now.
    pub(crate) fn take_copies(&mut self) -> Vec<World> {
        std::mem::take(&mut self.copies)
    }

    /// At a point of the sample the world goes on in copies that lose their power there.
    fn copy_and_strike(&mut self, index: usize, device: DeviceKey, op: &DeviceOp) {
        for strike in self.strikes.sampled(index) {
            let others = std::mem::take(&mut self.copies);
            let mut copy = self.clone();
            self.copies = others;
            copy.copied = self.counts_by_now();
            copy.plan.strike = Some(strike);
            copy.strikes.aim(strike, index);
            // The rest of the batch that this operation belongs to dies with the process.
            let op = copy.passes(index, device, op.clone());
            assert!(op.is_none(), "the copy is struck at this very point");
            self.copies.push(copy);
        }
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

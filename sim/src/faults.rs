//! Disturbances: a recipe is drawn before the run, its parts are taken when it begins, by the roles
//! of that moment.

use moorline_types::BLOCK_SIZE;
use serde::Serialize;

use crate::{
    dice::Dice,
    network::Party,
    plan::{MS, SECOND},
};

/// What a recipe is aimed at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// Who serves, if anybody does.
    Primary,
    /// Somebody who does not.
    Follower,
    /// Anybody.
    Any,
}

/// A disturbance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// The process is killed and starts again; the machine's cache stays.
    Kill {
        /// Whose.
        aim: Aim,
        /// How long it is down, in nanoseconds.
        down: u64,
    },
    /// The machine loses its power and comes back.
    PowerCut {
        /// Whose.
        aim: Aim,
        /// How long it is down, in nanoseconds.
        down: u64,
    },
    /// All machines lose their power at once.
    PowerCutAll {
        /// How long the first is down, in nanoseconds.
        down: u64,
    },
    /// A power cut, after which one superblock copy is unreadable.
    SuperblockRot {
        /// Whose.
        aim: Aim,
        /// How long it is down, in nanoseconds.
        down: u64,
    },
    /// The process is stopped and goes on later; its clock runs.
    Pause {
        /// Whose.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// One server cannot reach the others, nor they it.
    Isolate {
        /// Which.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// What one server sends to the others does not arrive, or what they send to it.
    OneWay {
        /// Which.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// One server and the master cannot reach each other.
    MasterUnreachable {
        /// Which.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// The master's process ends and starts again.
    MasterCrash {
        /// How long it is down, in nanoseconds.
        down: u64,
    },
    /// Every connection of a server is reset.
    Reset {
        /// Whose.
        aim: Aim,
    },
    /// One disk is slow.
    SlowDisk {
        /// Whose.
        aim: Aim,
        /// By this factor.
        factor: u64,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// A primary is cut off with a tail that nobody else has, comes back, and restarts.
    Diverge {
        /// How long it is cut off, in nanoseconds.
        time: u64,
        /// How long it is down, in nanoseconds.
        down: u64,
    },
    /// A partition moves while the one member in both halves restarts: what it promised in one half
    /// must hold in the other.
    Shift {
        /// How long each half lasts, in nanoseconds.
        time: u64,
        /// Whether the restart finds one superblock copy unreadable.
        rot: bool,
    },
    /// A primary loses the master and one member first, and the other, which lets it serve, later.
    Creep {
        /// When the second cut comes, in nanoseconds.
        time: u64,
    },
    /// A follower is down while another gets an empty store under its old name; then the primary
    /// goes and the first comes back: only the primary knows what was acknowledged.
    WipeWhileLagging {
        /// How long the follower is down, in nanoseconds.
        time: u64,
        /// An old copy of its own store instead of an empty one.
        rollback: bool,
    },
    /// A follower with a stalling disk loses its connection again and again while clients hurry:
    /// its catch-up needs records that the primary would like to reclaim.
    Race {
        /// How long each of the follower's disk operations takes, in nanoseconds.
        stall: u64,
    },
    /// A follower lags behind a slow connection while the log wraps.
    Lag {
        /// For how long, in nanoseconds.
        time: u64,
    },
}

impl Recipe {
    pub(crate) fn draw(dice: &mut Dice, replicas: usize) -> Self {
        let aim = dice.pick(&[Aim::Primary, Aim::Primary, Aim::Follower, Aim::Any]);
        let short = MS * dice.between(5, 400);
        let long = MS * dice.between(1_500, 7_000);
        let time = if dice.percent(40) { short } else { long };
        let limit = if replicas == 3 { 39 } else { 24 };
        match dice.below(limit) {
            0..=2 => Self::Kill { aim, down: time },
            3..=5 => Self::PowerCut { aim, down: time },
            6 | 7 => Self::PowerCutAll { down: time },
            8 | 9 => Self::SuperblockRot { aim, down: time },
            10 | 11 => Self::Pause { aim, time },
            12..=14 => Self::Isolate { aim, time },
            15 | 16 => Self::OneWay { aim, time },
            17 | 18 => Self::MasterUnreachable { aim, time },
            19 | 20 => Self::MasterCrash { down: time },
            21 => Self::Reset { aim },
            22 | 23 => Self::SlowDisk {
                aim,
                factor: dice.between(5, 200),
                time,
            },
            24..=26 => Self::Diverge {
                time: long,
                down: short,
            },
            27..=29 => Self::Shift {
                time: SECOND * 2 + MS * dice.between(100, 3_500),
                rot: dice.percent(70),
            },
            30 | 31 => Self::WipeWhileLagging {
                time: long,
                rollback: dice.percent(40),
            },
            32..=34 => Self::Creep {
                time: MS * dice.between(300, 2_600),
            },
            35 | 36 => Self::Race {
                stall: MS * dice.between(30, 300),
            },
            _ => Self::Lag { time: long },
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::PowerCut { .. } => "power_cut",
            Self::PowerCutAll { .. } => "power_cut_all",
            Self::SuperblockRot { .. } => "superblock_rot",
            Self::Pause { .. } => "pause",
            Self::Isolate { .. } => "isolate",
            Self::OneWay { .. } => "one_way",
            Self::MasterUnreachable { .. } => "master_unreachable",
            Self::MasterCrash { .. } => "master_crash",
            Self::Reset { .. } => "reset",
            Self::SlowDisk { .. } => "slow_disk",
            Self::Diverge { .. } => "diverge",
            Self::Shift { .. } => "shift",
            Self::Creep { .. } => "creep",
            Self::WipeWhileLagging {
                rollback: false, ..
            } => "wipe",
            Self::WipeWhileLagging { rollback: true, .. } => "rollback",
            Self::Race { .. } => "race",
            Self::Lag { .. } => "lag",
        }
    }
}

/// One thing done to the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Kill(usize),
    PowerCut(usize),
    Start(usize),
    Rot(usize),
    Pause(usize, u64),
    Block(Party, Party),
    Unblock(Party, Party),
    Break(Party, Party),
    MasterKill,
    MasterStart,
    Slow(usize, u64),
    Stall(usize, u64),
    Hurry(Pace),
    Wipe(usize),
    Snapshot(usize),
    Rollback(usize),
}

/// How fast clients go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    AsPlanned,
    Hurried,
}

/// Who is who at the moment at which a recipe begins.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    pub(crate) primary: usize,
    /// Everybody else, in an order of chance.
    pub(crate) followers: Vec<usize>,
}

/// The acts of a recipe, each with its delay.
pub(crate) fn acts(recipe: Recipe, cast: &Cast, dice: &mut Dice) -> Vec<(u64, Act)> {
    let all = 1 + cast.followers.len();
    let aimed = |aim: Aim, dice: &mut Dice| match (aim, cast.followers.first()) {
        (Aim::Follower, Some(follower)) => *follower,
        (Aim::Any, _) => dice.index(all),
        (Aim::Primary | Aim::Follower, _) => cast.primary,
    };
    let others = |of: usize| (0..all).filter(move |other| *other != of);
    match recipe {
        Recipe::Kill { aim, down } => {
            let s = aimed(aim, dice);
            vec![(0, Act::Kill(s)), (down, Act::Start(s))]
        }
        Recipe::PowerCut { aim, down } => {
            let s = aimed(aim, dice);
            vec![(0, Act::PowerCut(s)), (down, Act::Start(s))]
        }
        Recipe::SuperblockRot { aim, down } => {
            let s = aimed(aim, dice);
            vec![
                (0, Act::PowerCut(s)),
                (1, Act::Rot(s)),
                (down.max(2), Act::Start(s)),
            ]
        }
        Recipe::PowerCutAll { down } => (0..all)
            .flat_map(|s| {
                let back = down + MS * dice.below(800);
                [(0, Act::PowerCut(s)), (back, Act::Start(s))]
            })
            .collect(),
        Recipe::Pause { aim, time } => vec![(0, Act::Pause(aimed(aim, dice), time))],
        Recipe::Isolate { aim, time } => {
            let s = aimed(aim, dice);
            let mut cut: Vec<Party> = others(s).map(Party::Server).collect();
            if dice.percent(50) {
                cut.push(Party::Master);
            }
            cut_off(s, &cut, (0, time), dice)
        }
        Recipe::OneWay { aim, time } => {
            let s = aimed(aim, dice);
            let outward = dice.percent(50);
            others(s)
                .flat_map(|other| {
                    let (a, b) = (Party::Server(s), Party::Server(other));
                    let (from, to) = if outward { (a, b) } else { (b, a) };
                    [(0, Act::Block(from, to)), (time, Act::Unblock(from, to))]
                })
                .collect()
        }
        Recipe::MasterUnreachable { aim, time } => {
            cut_off(aimed(aim, dice), &[Party::Master], (0, time), dice)
        }
        Recipe::MasterCrash { down } => vec![(0, Act::MasterKill), (down, Act::MasterStart)],
        Recipe::Reset { aim } => {
            let s = aimed(aim, dice);
            let broken = others(s).map(|o| (0, Act::Break(Party::Server(s), Party::Server(o))));
            broken.collect()
        }
        Recipe::SlowDisk { aim, factor, time } => {
            let s = aimed(aim, dice);
            vec![(0, Act::Slow(s, factor)), (time, Act::Slow(s, 1))]
        }
        Recipe::Diverge { time, down } => {
            let s = cast.primary;
            let cut: Vec<Party> = others(s)
                .map(Party::Server)
                .chain([Party::Master])
                .collect();
            let mut acts = cut_off(s, &cut, (0, time), dice);
            let restart = time + MS * dice.between(50, 1_500);
            acts.push((restart, Act::PowerCut(s)));
            acts.push((restart + down, Act::Start(s)));
            acts
        }
        Recipe::Shift { time, rot } => shift(cast, (time, rot), dice),
        Recipe::Creep { time } => {
            let [r, c] = cast.followers[..] else {
                return Vec::new();
            };
            let (p, over) = (cast.primary, time + SECOND * 4);
            let mut acts = cut_off(p, &[Party::Server(c), Party::Master], (0, over), dice);
            acts.extend(cut_off(p, &[Party::Server(r)], (time, over), dice));
            acts
        }
        Recipe::WipeWhileLagging { time, rollback } => wipe(cast, (time, rollback), dice),
        Recipe::Race { stall } => {
            let Some(s) = cast.followers.first().copied() else {
                return Vec::new();
            };
            let (a, b) = (Party::Server(cast.primary), Party::Server(s));
            let mut acts = vec![(0, Act::Hurry(Pace::Hurried)), (0, Act::Stall(s, stall))];
            acts.extend((0..4).map(|turn| (turn * 600 * MS, Act::Break(a, b))));
            acts.push((2_500 * MS, Act::Hurry(Pace::AsPlanned)));
            acts.push((2_500 * MS, Act::Stall(s, 0)));
            acts
        }
        Recipe::Lag { time } => match cast.followers.first() {
            Some(s) => cut_off(*s, &[Party::Server(cast.primary)], (0, time), dice),
            None => Vec::new(),
        },
    }
}

/// Cuts `s` off from `from` between two instants; some of the connections break at once.
fn cut_off(s: usize, from: &[Party], (begin, end): (u64, u64), dice: &mut Dice) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    for other in from {
        let (a, b) = (Party::Server(s), *other);
        acts.push((begin, Act::Block(a, b)));
        acts.push((begin, Act::Block(b, a)));
        if dice.percent(50) {
            acts.push((begin, Act::Break(a, b)));
        }
        acts.push((end, Act::Unblock(a, b)));
        acts.push((end, Act::Unblock(b, a)));
    }
    acts
}

fn shift(cast: &Cast, (time, rot): (u64, bool), dice: &mut Dice) -> Vec<(u64, Act)> {
    let [r, c] = cast.followers[..] else {
        return Vec::new();
    };
    let p = cast.primary;
    let far = [Party::Server(c), Party::Master];
    let mut acts = cut_off(p, &far, (0, time * 2), dice);
    // First the old primary's half loses R too, which promises to the other half.
    acts.extend(cut_off(p, &[Party::Server(r)], (0, time), dice));
    // Then R moves over, and forgets what is not durable.
    acts.extend(cut_off(r, &far, (time - MS, time * 2), dice));
    acts.push((time, Act::PowerCut(r)));
    if rot {
        acts.push((time + 1, Act::Rot(r)));
    }
    acts.push((time + MS * dice.between(5, 200), Act::Start(r)));
    acts
}

fn wipe(cast: &Cast, (time, rollback): (u64, bool), dice: &mut Dice) -> Vec<(u64, Act)> {
    let [lagging, wiped] = cast.followers[..] else {
        return Vec::new();
    };
    let p = cast.primary;
    let mut acts = vec![(0, Act::Snapshot(wiped))];
    // The store is opened once more, so that its counter tells that the copy is an old one.
    let opened = if rollback { SECOND * 3 } else { 0 };
    if rollback {
        acts.push((MS, Act::Kill(wiped)));
        acts.push((MS * dice.between(2, 50), Act::Start(wiped)));
    }
    let time = time + opened;
    let turn = time + MS * dice.below(300);
    acts.push((opened + MS * dice.below(1_000), Act::Kill(lagging)));
    acts.push((time, Act::PowerCut(wiped)));
    let replaced = if rollback {
        Act::Rollback(wiped)
    } else {
        Act::Wipe(wiped)
    };
    acts.push((time + 1, replaced));
    acts.push((time + MS * dice.between(5, 100), Act::Start(wiped)));
    acts.push((turn, Act::Kill(p)));
    acts.push((turn + MS, Act::Start(lagging)));
    acts.push((turn + SECOND * dice.between(3, 8), Act::Start(p)));
    acts
}

/// Bytes of a superblock copy that rot takes.
pub(crate) const ROT_BYTES: u64 = BLOCK_SIZE as u64;

//! The parts of each disturbance, by the roles of the moment at which it begins.

use moorline_types::BLOCK_SIZE;

use super::{Act, Ailment, Aim, Cast, Pace, Recipe};
use crate::{
    dice::Dice,
    disk::flaws::How,
    network::Party,
    plan::{MS, SECOND},
};

/// How long a block must have been at rest before it rots: by then a mark of the log covers it.
const REST: u64 = 200 * MS;

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
        Recipe::MasterRestored { age, down } => vec![
            (0, Act::MasterCopy),
            (age, Act::MasterKill),
            (age + down, Act::MasterRestore),
        ],
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
            let Some((r, rest)) = cast.followers.split_first() else {
                return Vec::new();
            };
            let (p, over) = (cast.primary, time + SECOND * 4);
            let mut acts = cut_off(p, &far_half(rest), (0, over), dice);
            acts.extend(cut_off(p, &[Party::Server(*r)], (time, over), dice));
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
        Recipe::TransientError {
            aim,
            what,
            count,
            time,
        } => ailing(
            aimed(aim, dice),
            time,
            (Some(what), How::Error, Some(count)),
        ),
        Recipe::LastingError { aim, what, time } => {
            ailing(aimed(aim, dice), time, (Some(what), How::Error, None))
        }
        Recipe::ShortOperation { aim, what, time } => {
            ailing(aimed(aim, dice), time, (Some(what), How::Short, Some(1)))
        }
        Recipe::GoneDisk { aim, time } => ailing(aimed(aim, dice), time, (None, How::Gone, None)),
        Recipe::FullDisk { aim, time } => {
            let s = aimed(aim, dice);
            vec![(0, Act::Fill(s)), (time, Act::Mend(s))]
        }
        Recipe::FullDisks { time } => (0..all)
            .flat_map(|s| [(0, Act::Fill(s)), (time, Act::Mend(s))])
            .collect(),
        Recipe::HungDisk { aim, time } => {
            let s = aimed(aim, dice);
            vec![(0, Act::Hang(s)), (time, Act::Mend(s))]
        }
        Recipe::SwappedDisks { time } => swap(cast, time),
        Recipe::BitRot { region } => match cast.suspect {
            Some(s) => vec![(0, Act::MarkRot(s, region)), (REST, Act::RotMarked(s))],
            None => Vec::new(),
        },
        Recipe::StrayWrite { kind, count } => match cast.suspect {
            Some(s) => vec![(0, Act::Stray(s, kind, count))],
            None => Vec::new(),
        },
    }
}

fn ailing(
    s: usize,
    time: u64,
    (what, how, count): (Option<crate::disk::flaws::OpClass>, How, Option<u32>),
) -> Vec<(u64, Act)> {
    let ailment = Ailment { what, how, count };
    vec![(0, Act::Fail(s, ailment)), (time, Act::Mend(s))]
}

/// Somebody plugs two disks in the wrong way round, and sees it.
fn swap(cast: &Cast, time: u64) -> Vec<(u64, Act)> {
    let Some(a) = cast.followers.first().copied() else {
        return Vec::new();
    };
    let b = cast.followers.get(1).copied().unwrap_or(cast.primary);
    let both = |at: u64, act: fn(usize) -> Act| [(at, act(a)), (at, act(b))];
    let (swapped, back) = (10 * MS, 10 * MS + time);
    [
        both(0, Act::PowerCut).as_slice(),
        &[(1, Act::Swap(a, b))],
        &both(swapped, Act::Start),
        &both(back, Act::PowerCut),
        &[(back + 1, Act::Swap(a, b))],
        &both(back + 10 * MS, Act::Start),
    ]
    .concat()
}

fn far_half(rest: &[usize]) -> Vec<Party> {
    let servers = rest.iter().map(|s| Party::Server(*s));
    servers.chain([Party::Master]).collect()
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
    let Some((r, rest)) = cast.followers.split_first() else {
        return Vec::new();
    };
    let (p, r, far) = (cast.primary, *r, far_half(rest));
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

//! The parts of each disturbance, by the roles of the moment at which it begins.

use moorline_types::BLOCK_SIZE;

use super::{Act, Ailment, Aim, Cast, Pace, Patience, Recipe};
use crate::{
    clock::ClockChange,
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
            // Once more, while its log still holds what it cut meanwhile.
            let again = restart + down + MS * dice.between(200, 3_000);
            if dice.percent(50) {
                acts.push((again, Act::PowerCut(s)));
                acts.push((again + down, Act::Start(s)));
            }
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
        Recipe::KillTwice { gap } => match cast.followers.first().copied() {
            Some(s) => {
                let back = MS * dice.between(2, 60);
                let (again, up) = (back + gap, back + gap + MS * dice.between(2, 60));
                vec![
                    (0, Act::Kill(s)),
                    (back, Act::Start(s)),
                    (again, Act::Kill(s)),
                    (up, Act::Start(s)),
                ]
            }
            None => Vec::new(),
        },
        Recipe::LostSuperblock { aim, time } => {
            let s = aimed(aim, dice);
            vec![
                (0, Act::Hurry(Pace::Hurried)),
                (time, Act::Hurry(Pace::AsPlanned)),
                (time, Act::PowerCut(s)),
                (time + 1, Act::RotNewer(s)),
                (time + MS * dice.between(5, 100), Act::Start(s)),
            ]
        }
        Recipe::Defect { time } => defect(cast, time, dice),
        Recipe::LateGrants { time } => late_grants(cast, time),
        Recipe::LateReads { hold } => late_reads(cast, hold),
        Recipe::Replay { aim, time } => {
            let s = aimed(aim, dice);
            others(s)
                .flat_map(|other| {
                    let reset = Act::Break(Party::Server(s), Party::Server(other));
                    [(0, reset), (time, Act::Replay(s, other))]
                })
                .collect()
        }
        Recipe::DamagedFrame { aim, damage } => {
            let s = aimed(aim, dice);
            let mut from: Vec<Party> = others(s).map(Party::Server).collect();
            from.push(Party::Master);
            vec![(0, Act::Damage(dice.pick(&from), Party::Server(s), damage))]
        }
        Recipe::ForgedEpoch { aim, forgery } => {
            let s = aimed(aim, dice);
            others(s)
                .map(|other| (0, Act::Forge(other, s, forgery)))
                .collect()
        }
        Recipe::ClockSlew { aim, per_million } => {
            let s = Party::Server(aimed(aim, dice));
            vec![(0, Act::Clock(s, ClockChange::Rate { per_million }))]
        }
        Recipe::ClockReset { aim, down, to } => {
            let s = aimed(aim, dice);
            let reset = Act::Clock(Party::Server(s), ClockChange::Reset { to });
            vec![
                (0, Act::PowerCut(s)),
                (1, reset),
                (down.max(2), Act::Start(s)),
            ]
        }
        Recipe::ClockJump { by } => {
            vec![(0, Act::Clock(Party::Master, ClockChange::Forward { by }))]
        }
        Recipe::Moved { aim, down } => {
            let s = aimed(aim, dice);
            vec![
                (0, Act::Kill(s)),
                (1, Act::Readdress(s)),
                (down.max(2), Act::Start(s)),
            ]
        }
        Recipe::MasterAtTxn { moment } => vec![(0, Act::MasterAtTxn(moment))],
    }
}

/// The member that lets a cut-off primary serve forgets that it does, and is with the others.
fn defect(cast: &Cast, time: u64, dice: &mut Dice) -> Vec<(u64, Act)> {
    let Some((r, rest)) = cast.followers.split_first() else {
        return Vec::new();
    };
    let (p, r, far, over) = (cast.primary, *r, far_half(rest), time + SECOND * 5);
    let mut acts = cut_off(p, &far, (0, over), dice);
    acts.extend(cut_off(r, &far, (0, time), dice));
    acts.extend(cut_off(p, &[Party::Server(r)], (time, over), dice));
    acts.push((time, Act::PowerCut(r)));
    acts.push((time + MS * dice.between(2, 60), Act::Start(r)));
    acts
}

/// What is said to a primary stays on its way, its own words a little later too; then what was
/// said to it by servers arrives, and what the master says does not.
fn late_grants(cast: &Cast, time: u64) -> Vec<(u64, Act)> {
    let p = Party::Server(cast.primary);
    let servers = || cast.followers.iter().map(|s| Party::Server(*s));
    let (deaf, arrives) = (700 * MS, 700 * MS + time);
    let over = arrives + 1_500 * MS;
    let mut acts = vec![
        (0, Act::Patience(Patience::Endless)),
        (0, Act::Block(Party::Master, p)),
        (0, Act::Block(p, Party::Master)),
    ];
    acts.extend(servers().map(|s| (0, Act::Block(s, p))));
    acts.extend(servers().map(|s| (deaf, Act::Block(p, s))));
    acts.extend(servers().map(|s| (arrives, Act::Unblock(s, p))));
    acts.push((over, Act::Patience(Patience::Usual)));
    for other in servers().chain([Party::Master]) {
        acts.push((over, Act::Unblock(p, other)));
        acts.push((over, Act::Unblock(other, p)));
        acts.push((over, Act::Break(p, other)));
    }
    acts
}

fn late_reads(cast: &Cast, hold: u64) -> Vec<(u64, Act)> {
    let (s, p) = (cast.primary, Party::Server(cast.primary));
    let over = hold + SECOND;
    let mut acts = vec![
        (0, Act::Patience(Patience::Endless)),
        (0, Act::SlowReads(s, hold)),
        (over, Act::SlowReads(s, 0)),
        (over, Act::Patience(Patience::Usual)),
    ];
    let others = cast.followers.iter().map(|s| Party::Server(*s));
    for other in others.chain([Party::Master]) {
        acts.push((200 * MS, Act::Block(p, other)));
        acts.push((200 * MS, Act::Block(other, p)));
        acts.push((over, Act::Unblock(p, other)));
        acts.push((over, Act::Unblock(other, p)));
    }
    acts
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

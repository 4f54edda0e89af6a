//! Disturbances: a recipe is drawn before the run, its parts are taken when it begins, by the roles
//! of that moment.

mod acts;
mod names;

use serde::{Deserialize, Serialize};

pub(crate) use self::acts::{ROT_BYTES, acts};
pub use self::names::FAULTS;
use crate::{
    clock::ClockChange,
    dice::Dice,
    disk::flaws::{How, OpClass, StrayKind},
    network::{Damage, Party},
    plan::{MS, SECOND},
    strike::Moment,
};

/// What a recipe is aimed at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
    /// The master's process ends and starts again over an old copy of its store.
    MasterRestored {
        /// How old the copy is, in nanoseconds.
        age: u64,
        /// How long the master is down, in nanoseconds.
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
    /// Some disk operations fail, then none does; the process is started anew if its store failed.
    TransientError {
        /// Whose disk.
        aim: Aim,
        /// Which operations.
        what: OpClass,
        /// How many.
        count: u32,
        /// After how long somebody looks, in nanoseconds.
        time: u64,
    },
    /// All disk operations of a kind fail until the disk is replaced by a good one with its content.
    LastingError {
        /// Whose disk.
        aim: Aim,
        /// Which operations.
        what: OpClass,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// An operation moves a part and then no more.
    ShortOperation {
        /// Whose disk.
        aim: Aim,
        /// Which operations: reads or writes.
        what: OpClass,
        /// After how long somebody looks, in nanoseconds.
        time: u64,
    },
    /// A disk has no room for blocks; its log, written whole when it was made, goes on.
    FullDisk {
        /// Whose disk.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// Every disk has no room for blocks.
    FullDisks {
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// A disk answers nothing, and everything when it is over.
    HungDisk {
        /// Whose disk.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// A disk is gone and comes back.
    GoneDisk {
        /// Whose disk.
        aim: Aim,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// Two servers find each other's disk, and their own again later.
    SwappedDisks {
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// A bit flips in a block at rest, on the one disk that may be bad.
    BitRot {
        /// In which part of the store.
        region: Region,
    },
    /// A write of blocks is reported done and is not where it belongs, on the one disk that may be
    /// bad.
    StrayWrite {
        /// Where it is instead.
        kind: StrayKind,
        /// How many.
        count: u32,
    },
    /// A follower's process is killed, comes back, and is killed again soon.
    KillTwice {
        /// How long it is up in between, in nanoseconds.
        gap: u64,
    },
    /// Clients hurry, so that the log wraps; then one machine loses its power, and the newer copy of
    /// its superblock.
    LostSuperblock {
        /// Whose.
        aim: Aim,
        /// How long clients hurry, in nanoseconds.
        time: u64,
    },
    /// A primary is cut off from the master and one member. The other one, by whose lease it goes
    /// on, loses its power and its way to the primary, and is with the rest when it comes back.
    Defect {
        /// When the member goes over, in nanoseconds.
        time: u64,
    },
    /// A primary is cut off while leases are on their way to it. They arrive when others lead.
    LateGrants {
        /// How long they are under way, in nanoseconds.
        time: u64,
    },
    /// A primary's disk takes its time over reads, and meanwhile the primary is cut off: what clients had
    /// asked for is there when others lead.
    LateReads {
        /// How long the disk takes, in nanoseconds.
        hold: u64,
    },
    /// The connections of a server are reset, and those that follow repeat what they had carried.
    Replay {
        /// Whose.
        aim: Aim,
        /// How long after the reset, in nanoseconds.
        time: u64,
    },
    /// A frame on its way to a server is damaged.
    DamagedFrame {
        /// To whom.
        aim: Aim,
        /// In which way.
        damage: Damage,
    },
    /// Messages to a server come once more, in the name of another epoch.
    ForgedEpoch {
        /// To whom.
        aim: Aim,
        /// Which epoch.
        forgery: Forgery,
    },
    /// A server's clock goes on at another rate, within what leases allow for.
    ClockSlew {
        /// Whose.
        aim: Aim,
        /// Nanoseconds of this clock in a million of the world's.
        per_million: u64,
    },
    /// A machine loses its power, and shows another time when it is back.
    ClockReset {
        /// Whose.
        aim: Aim,
        /// How long it is down, in nanoseconds.
        down: u64,
        /// What it shows then, in nanoseconds.
        to: u64,
    },
    /// The master's clock leaves time out.
    ClockJump {
        /// How much, in nanoseconds.
        by: u64,
    },
    /// A process stops and starts again at another address.
    Moved {
        /// Whose.
        aim: Aim,
        /// How long it is down, in nanoseconds.
        down: u64,
    },
    /// The master's process ends at its next transaction, and starts again.
    MasterAtTxn {
        /// Before it is durable, or after.
        moment: Moment,
    },
}

/// Which epoch a forged message names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forgery {
    /// The one before.
    Stale,
    /// Further ahead than a master goes at once.
    Far,
    /// The last but one that there is.
    NearMaximum,
    /// The last one.
    Maximum,
}

/// A part of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// One superblock copy.
    Superblock,
    /// The log ring.
    Log,
    /// The block map.
    Map,
    /// The blocks' contents.
    Extents,
}

/// Which disturbances a run may draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) replicas: usize,
    /// Whether one disk may be bad: nothing else takes that replica's data away then.
    pub(crate) corrupts: bool,
}

impl Recipe {
    pub(crate) fn draw(dice: &mut Dice, mix: Mix) -> Self {
        let roll = dice.below(if mix.corrupts { 160 } else { 140 });
        match roll {
            0..60 => Self::draw_of_cluster(dice, mix),
            60..100 => Self::draw_of_disk(dice),
            100..120 => Self::draw_of_messages(dice),
            120..140 => Self::draw_of_machines(dice, mix),
            _ => Self::draw_of_rot(dice),
        }
    }

    fn draw_of_messages(dice: &mut Dice) -> Self {
        let aim = Aim::draw(dice);
        match dice.below(10) {
            0..=3 => Self::Replay {
                aim,
                time: MS * dice.between(20, 2_500),
            },
            4 => Self::DamagedFrame {
                aim,
                damage: Damage::Half,
            },
            5 | 6 => Self::DamagedFrame {
                aim,
                damage: Damage::Flipped,
            },
            _ => Self::ForgedEpoch {
                aim,
                forgery: dice.pick(&[
                    Forgery::Stale,
                    Forgery::Stale,
                    Forgery::Far,
                    Forgery::NearMaximum,
                    Forgery::Maximum,
                ]),
            },
        }
    }

    fn draw_of_machines(dice: &mut Dice, mix: Mix) -> Self {
        let (aim, down) = (Aim::draw(dice), MS * dice.between(5, 3_000));
        let staged = mix.replicas >= 3;
        match dice.below(if staged { 22 } else { 12 }) {
            0 | 1 => Self::ClockSlew {
                aim,
                per_million: dice.between(980_000, 1_020_000),
            },
            2 | 3 => Self::ClockReset {
                aim,
                down,
                to: dice.between(0, 1_000 * SECOND),
            },
            4 => Self::ClockJump {
                by: MS * dice.between(100, 10_000),
            },
            5..=7 => Self::Moved { aim, down },
            8 | 9 => Self::MasterAtTxn {
                moment: dice.pick(&[Moment::Before, Moment::After]),
            },
            10 => Self::KillTwice {
                gap: MS * dice.between(5, 300),
            },
            // One superblock of a disk that may be bad is one too many.
            11 if !mix.corrupts => Self::LostSuperblock {
                aim,
                time: MS * dice.between(300, 2_500),
            },
            11 | 12 => Self::KillTwice {
                gap: MS * dice.between(5, 300),
            },
            13..=16 => Self::Defect {
                time: SECOND * 3 + MS * dice.below(2_500),
            },
            17..=19 => Self::LateGrants {
                time: SECOND * 4 + MS * dice.below(3_000),
            },
            _ => Self::LateReads {
                hold: SECOND * 2 + MS * dice.between(600, 2_900),
            },
        }
    }

    fn draw_of_cluster(dice: &mut Dice, mix: Mix) -> Self {
        let (aim, time) = (Aim::draw(dice), duration(dice));
        let (short, long) = (MS * dice.between(5, 400), MS * dice.between(1_500, 7_000));
        let staged = mix.replicas >= 3;
        match dice.below(if staged { 39 } else { 24 }) {
            0..=2 => Self::Kill { aim, down: time },
            3..=5 => Self::PowerCut { aim, down: time },
            6 | 7 => Self::PowerCutAll { down: time },
            8 | 9 => Self::SuperblockRot { aim, down: time },
            10 | 11 => Self::Pause { aim, time },
            12..=14 => Self::Isolate { aim, time },
            15 | 16 => Self::OneWay { aim, time },
            17 | 18 => Self::MasterUnreachable { aim, time },
            19 => Self::MasterCrash { down: time },
            20 => Self::MasterRestored {
                age: long,
                down: time,
            },
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
            // Not where another disk may be bad: that would be one more than is tolerated.
            30 | 31 if !mix.corrupts && mix.replicas == 3 => Self::WipeWhileLagging {
                time: long,
                rollback: dice.percent(40),
            },
            30..=34 => Self::Creep {
                time: MS * dice.between(300, 2_600),
            },
            35 | 36 => Self::Race {
                stall: MS * dice.between(30, 300),
            },
            _ => Self::Lag { time: long },
        }
    }

    fn draw_of_disk(dice: &mut Dice) -> Self {
        let (aim, time) = (Aim::draw(dice), duration(dice));
        let what = dice.pick(&[
            OpClass::Read,
            OpClass::Write,
            OpClass::Write,
            OpClass::Flush,
        ]);
        match dice.below(20) {
            0..=5 => Self::TransientError {
                aim,
                what,
                count: 1 + u32::try_from(dice.below(3)).expect("at most 2"),
                time,
            },
            6..=8 => Self::LastingError { aim, what, time },
            9..=11 => Self::ShortOperation {
                aim,
                what: dice.pick(&[OpClass::Read, OpClass::Write]),
                time,
            },
            12 | 13 => Self::FullDisk { aim, time },
            14 => Self::FullDisks { time },
            15..=17 => Self::HungDisk {
                aim,
                time: MS * dice.between(200, 12_000),
            },
            18 => Self::GoneDisk { aim, time },
            _ => Self::SwappedDisks { time },
        }
    }

    fn draw_of_rot(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0 => Self::BitRot {
                region: Region::Superblock,
            },
            1..=3 => Self::BitRot {
                region: Region::Log,
            },
            4 => Self::BitRot {
                region: Region::Map,
            },
            5 | 6 => Self::BitRot {
                region: Region::Extents,
            },
            _ => Self::StrayWrite {
                kind: dice.pick(&[StrayKind::Lost, StrayKind::Misdirected]),
                count: 1 + u32::try_from(dice.below(3)).expect("at most 2"),
            },
        }
    }

    /// Whether it damages data on the one disk that may be bad.
    #[must_use]
    pub const fn corrupts(self) -> bool {
        matches!(self, Self::BitRot { .. } | Self::StrayWrite { .. })
    }
}

impl Aim {
    fn draw(dice: &mut Dice) -> Self {
        dice.pick(&[Self::Primary, Self::Primary, Self::Follower, Self::Any])
    }
}

/// Shorter than any time-out, or longer than most.
fn duration(dice: &mut Dice) -> u64 {
    match dice.percent(40) {
        true => MS * dice.between(5, 400),
        false => MS * dice.between(1_500, 7_000),
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
    /// Copies the master's store.
    MasterCopy,
    /// Starts the master over the copy.
    MasterRestore,
    Slow(usize, u64),
    Stall(usize, u64),
    /// Each read of a server's disk takes at least so long.
    SlowReads(usize, u64),
    Hurry(Pace),
    Wipe(usize),
    Snapshot(usize),
    Rollback(usize),
    Fail(usize, Ailment),
    /// Operations on blocks fail for want of room.
    Fill(usize),
    Hang(usize),
    /// Takes away what is wrong with a disk, and starts the process anew if its store failed.
    Mend(usize),
    Swap(usize, usize),
    /// Chooses a block at rest that will rot if it is still at rest a little later.
    MarkRot(usize, Region),
    RotMarked(usize),
    Stray(usize, StrayKind, u32),
    /// The newer superblock copy cannot be read.
    RotNewer(usize),
    /// Whether connections that a partition holds up break after a while.
    Patience(Patience),
    /// What ended connections between two servers carried arrives once more.
    Replay(usize, usize),
    /// The next frame from one party to another is damaged.
    Damage(Party, Party, Damage),
    /// The last messages from one server to another come once more with another epoch.
    Forge(usize, usize, Forgery),
    Clock(Party, ClockChange),
    /// The server's process has another address from now on.
    Readdress(usize),
    /// The master's process ends at its next transaction.
    MasterAtTxn(Moment),
}

/// Whether connections that a partition holds up break after a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    Usual,
    Endless,
}

/// Operations that fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ailment {
    /// `None`: all.
    pub(crate) what: Option<OpClass>,
    pub(crate) how: How,
    /// `None`: until the disk is mended.
    pub(crate) count: Option<u32>,
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
    /// Whose disk may be bad.
    pub(crate) suspect: Option<usize>,
}

//! Disturbances: a recipe is drawn before the run, its parts are taken when it begins, by the roles
//! of that moment.

mod acts;

use serde::{Deserialize, Serialize};

pub(crate) use self::acts::{ROT_BYTES, acts};
use crate::{
    dice::Dice,
    disk::flaws::{How, OpClass, StrayKind},
    network::Party,
    plan::{MS, SECOND},
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

/// Every kind of disturbance with what it does.
pub const FAULTS: &[(&str, &str)] = &[
    ("kill", "a process is killed and starts again"),
    (
        "power_cut",
        "a machine loses its power: unflushed sectors are old, new, torn or garbage",
    ),
    ("power_cut_all", "all machines lose their power at once"),
    (
        "superblock_rot",
        "a power cut, then one superblock copy is unreadable",
    ),
    ("pause", "a process is stopped and goes on; its clock runs"),
    (
        "isolate",
        "a server cannot reach the others, nor they it; sometimes the master too",
    ),
    ("one_way", "what a server sends is lost, or what it is sent"),
    (
        "master_unreachable",
        "a server and the master cannot reach each other",
    ),
    ("master_crash", "the master's process ends and starts again"),
    (
        "master_restored",
        "the master starts again over a copy of its store of 1.5 to 7 s before",
    ),
    ("reset", "every connection of a server is reset"),
    ("slow_disk", "a disk is 5 to 200 times slower"),
    (
        "diverge",
        "a primary is cut off with a tail, comes back and restarts",
    ),
    (
        "shift",
        "a partition moves while the member in both halves restarts",
    ),
    (
        "creep",
        "a primary loses the master and one member, and later the other",
    ),
    (
        "wipe",
        "a store is replaced by an empty one while another follower lags",
    ),
    (
        "rollback",
        "a store is replaced by an old copy while another follower lags",
    ),
    (
        "race",
        "a follower with a stalling disk catches up while the log wraps",
    ),
    ("lag", "a follower is cut off from the primary"),
    ("read_error", "one to three reads fail with EIO"),
    (
        "write_error",
        "one to three writes fail with EIO; some of their blocks land",
    ),
    (
        "flush_error",
        "a flush fails with EIO and forgets what it should have covered",
    ),
    ("reads_fail", "all reads fail until the disk is mended"),
    ("writes_fail", "all writes fail until the disk is mended"),
    (
        "flushes_fail",
        "all flushes fail and forget until the disk is mended",
    ),
    ("short_read", "a read moves a part and then no more"),
    ("short_write", "a write moves a part and then no more"),
    ("full_disk", "a disk has no room for blocks"),
    ("full_disks", "all disks have no room for blocks"),
    ("hung_disk", "a disk answers nothing, and everything late"),
    (
        "gone_disk",
        "every operation fails with ENODEV, then the disk is back",
    ),
    ("swapped_disks", "two servers find each other's disk"),
    ("rot_superblock", "a bit flips in one superblock copy"),
    ("rot_log", "a bit flips in a log block at rest"),
    ("rot_map", "a bit flips in the block map"),
    ("rot_extents", "a bit flips in a block at rest"),
    (
        "lost_write",
        "a write of blocks is reported done and nowhere",
    ),
    ("misdirected_write", "a write of blocks lands elsewhere"),
];

impl Recipe {
    pub(crate) fn draw(dice: &mut Dice, mix: Mix) -> Self {
        let roll = dice.below(if mix.corrupts { 120 } else { 100 });
        match roll {
            0..60 => Self::draw_of_cluster(dice, mix),
            60..100 => Self::draw_of_disk(dice),
            _ => Self::draw_of_rot(dice),
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

    /// Its name in [`FAULTS`].
    #[must_use]
    pub fn name(self) -> &'static str {
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
            Self::MasterRestored { .. } => "master_restored",
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
            Self::TransientError { what, .. } => match what {
                OpClass::Read => "read_error",
                OpClass::Write => "write_error",
                OpClass::Flush => "flush_error",
            },
            Self::LastingError { what, .. } => match what {
                OpClass::Read => "reads_fail",
                OpClass::Write => "writes_fail",
                OpClass::Flush => "flushes_fail",
            },
            Self::ShortOperation { what, .. } => match what {
                OpClass::Read => "short_read",
                OpClass::Write | OpClass::Flush => "short_write",
            },
            Self::FullDisk { .. } => "full_disk",
            Self::FullDisks { .. } => "full_disks",
            Self::HungDisk { .. } => "hung_disk",
            Self::GoneDisk { .. } => "gone_disk",
            Self::SwappedDisks { .. } => "swapped_disks",
            Self::BitRot { region } => match region {
                Region::Superblock => "rot_superblock",
                Region::Log => "rot_log",
                Region::Map => "rot_map",
                Region::Extents => "rot_extents",
            },
            Self::StrayWrite { kind, .. } => match kind {
                StrayKind::Lost => "lost_write",
                StrayKind::Misdirected => "misdirected_write",
            },
        }
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

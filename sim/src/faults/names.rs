//! What disturbances are called, and what they do.

use super::{Recipe, Region};
use crate::{
    disk::flaws::{OpClass, StrayKind},
    network::Damage,
};

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
    (
        "kill_twice",
        "a follower's process is killed twice before it has back what it lost",
    ),
    (
        "lost_superblock",
        "the log wraps, then a power cut after which the newer superblock cannot be read",
    ),
    (
        "defect",
        "the member that lets a cut-off primary serve restarts and goes over to the others",
    ),
    (
        "late_grants",
        "leases that were granted arrive when others lead already",
    ),
    (
        "late_reads",
        "what a primary reads from its disk is there when others lead already",
    ),
    (
        "replay",
        "a connection repeats what an ended one between the same processes said",
    ),
    ("half_frame", "a connection ends in the middle of a frame"),
    ("corrupt_frame", "a bit flips in a frame on its way"),
    (
        "forged_epoch",
        "a message comes once more with a stale, a far or the highest epoch",
    ),
    ("clock_slew", "a clock goes on at another rate"),
    (
        "clock_reset",
        "a machine loses its power and its clock begins anew, earlier or later",
    ),
    (
        "clock_jump",
        "the master's clock leaves out up to ten seconds",
    ),
    ("moved", "a server stops and comes back at another address"),
    (
        "master_at_txn",
        "the master's process ends just before or after a transaction is durable",
    ),
];

impl Recipe {
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
            Self::KillTwice { .. } => "kill_twice",
            Self::LostSuperblock { .. } => "lost_superblock",
            Self::Defect { .. } => "defect",
            Self::LateGrants { .. } => "late_grants",
            Self::LateReads { .. } => "late_reads",
            Self::Replay { .. } => "replay",
            Self::DamagedFrame {
                damage: Damage::Half,
                ..
            } => "half_frame",
            Self::DamagedFrame {
                damage: Damage::Flipped,
                ..
            } => "corrupt_frame",
            Self::ForgedEpoch { .. } => "forged_epoch",
            Self::ClockSlew { .. } => "clock_slew",
            Self::ClockReset { .. } => "clock_reset",
            Self::ClockJump { .. } => "clock_jump",
            Self::Moved { .. } => "moved",
            Self::MasterAtTxn { .. } => "master_at_txn",
        }
    }
}

//! What else a disk may do wrong: fail, hang, vanish, lose writes or put them elsewhere, lie.
//!
//! A flaw stands over what the disk truly holds: healing takes it away, and the next answer is
//! honest again. What was damaged meanwhile stays damaged.

use moorline_types::{BLOCK_SIZE, DeviceError, DeviceOpKind};
use serde::{Deserialize, Serialize};

use crate::dice::Dice;

pub(super) const EIO: i32 = 5;
const ENODEV: i32 = 19;

/// Which operations fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpClass {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
}

impl OpClass {
    fn of(kind: &DeviceOpKind) -> Option<Self> {
        match kind {
            DeviceOpKind::Read(_) => Some(Self::Read),
            DeviceOpKind::Write(..) => Some(Self::Write),
            DeviceOpKind::Flush => Some(Self::Flush),
            DeviceOpKind::Discard { .. } => None,
        }
    }
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// EIO; of a write some blocks may have landed, of a flush's some may be gone.
    Error,
    /// It moved a part and then no more.
    Short,
    /// No room.
    Full,
    /// The device is gone: nothing lands.
    Gone,
}

/// Operations that fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failing {
    /// `None`: all.
    pub(crate) what: Option<OpClass>,
    pub(crate) how: How,
    /// Operations that begin below this byte go on as ever.
    pub(crate) from: u64,
    /// How many still fail; `None`: all, until the disk is mended.
    pub(crate) left: Option<u32>,
}

/// A write that is reported done and is not where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stray {
    /// Nowhere.
    Lost,
    /// At another byte.
    Misdirected { to: u64 },
}

/// Writes that are to go astray.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Straying {
    pub(crate) kind: StrayKind,
    /// Only writes that begin in `[from, to)`, in bytes.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) left: u32,
}

/// Where writes that go astray end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrayKind {
    /// Nowhere.
    Lost,
    /// Some blocks further on.
    Misdirected,
}

/// Whether flushes do what they say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Honesty {
    #[default]
    Honest,
    /// Nothing becomes durable and everything is said to be.
    Lying,
}

/// Everything that is wrong with a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flaws {
    pub(crate) failing: Vec<Failing>,
    pub(crate) straying: Option<Straying>,
    pub(crate) honesty: Honesty,
    /// Nothing completes.
    pub(crate) hangs: bool,
    /// Operations that a hanging disk keeps.
    pub(crate) kept: Vec<u64>,
    /// Operations that failed or went astray.
    pub(crate) struck: u64,
}

impl Flaws {
    /// Whether operations fail now.
    pub(crate) fn any(&self) -> bool {
        self.hangs || !self.failing.is_empty()
    }

    /// Takes away what can be taken away; the answer is what a hanging disk kept.
    pub(crate) fn mend(&mut self) -> Vec<u64> {
        self.failing.clear();
        self.straying = None;
        self.hangs = false;
        std::mem::take(&mut self.kept)
    }

    pub(crate) fn lies(&self) -> bool {
        self.honesty == Honesty::Lying
    }

    /// Whether this operation fails, and how.
    pub(crate) fn strikes(
        &mut self,
        offset: u64,
        kind: &DeviceOpKind,
        dice: &mut Dice,
    ) -> Option<DeviceError> {
        let class = OpClass::of(kind);
        let meant = |rule: &Failing| {
            (rule.what.is_none() || rule.what == class)
                && offset >= rule.from
                && rule.left != Some(0)
        };
        let place = self.failing.iter().position(meant)?;
        let rule = &mut self.failing[place];
        let how = rule.how;
        if let Some(left) = &mut rule.left {
            *left -= 1;
            if *left == 0 {
                self.failing.remove(place);
            }
        }
        self.struck += 1;
        let wanted = kind.length();
        let blocks = (wanted / BLOCK_SIZE as u64).max(1);
        Some(match how {
            How::Error => DeviceError::Errno { errno: EIO },
            How::Gone => DeviceError::Errno { errno: ENODEV },
            How::Full => DeviceError::Full,
            How::Short => DeviceError::Short {
                done: dice.below(blocks) * BLOCK_SIZE as u64,
                wanted,
            },
        })
    }

    /// Whether a write that begins at `offset` goes astray, and where to.
    pub(crate) fn stray(&mut self, offset: u64) -> Option<Stray> {
        let straying = self.straying.as_mut()?;
        if !(straying.from..straying.to).contains(&offset) {
            return None;
        }
        straying.left -= 1;
        let stray = match straying.kind {
            StrayKind::Lost => Stray::Lost,
            StrayKind::Misdirected => {
                let span = straying.to - straying.from;
                let on = offset - straying.from + 3 * BLOCK_SIZE as u64;
                Stray::Misdirected {
                    to: straying.from + on % span,
                }
            }
        };
        if straying.left == 0 {
            self.straying = None;
        }
        self.struck += 1;
        Some(stray)
    }
}

//! Faults that a disk can be told to show: armed for some operations, then used up.

use serde::{Deserialize, Serialize};

/// How many operations an armed fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Every one, until told otherwise.
    Forever,
    /// The next so many; then the disk is honest again.
    Times(u64),
}

/// What a sync (fsync, fdatasync, a flush of the loop device, an `O_DSYNC` write) does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncFault {
    /// Makes everything written before it durable.
    #[default]
    None,
    /// Says so and does nothing.
    Lie,
    /// Fails with EIO and does nothing: the writes stay unsynced, a later sync takes them.
    Fail,
    /// Fails with EIO and loses every unsynced write at once; a later sync succeeds and proves nothing.
    FailAndDrop,
}

/// What a read or a write does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoFault {
    /// What was asked.
    #[default]
    None,
    /// Fails with EIO; a write has no effect.
    Fail,
}

/// A fault and how often it is still to strike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Armed<F> {
    fault: F,
    budget: Budget,
}

impl<F: Copy + Default> Armed<F> {
    pub(crate) fn new(fault: F, budget: Budget) -> Self {
        Self { fault, budget }
    }

    /// The fault that the next operation meets.
    pub(crate) fn strike(&mut self) -> F {
        match &mut self.budget {
            Budget::Forever => self.fault,
            Budget::Times(0) => F::default(),
            Budget::Times(left) => {
                *left -= 1;
                self.fault
            }
        }
    }
}

impl<F: Default> Default for Armed<F> {
    fn default() -> Self {
        Self {
            fault: F::default(),
            budget: Budget::Forever,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_fault_strikes_as_often_as_told() {
        let mut armed = Armed::new(SyncFault::Lie, Budget::Times(2));
        let struck: Vec<_> = (0..3).map(|_| armed.strike()).collect();
        assert_eq!(struck, [SyncFault::Lie, SyncFault::Lie, SyncFault::None]);
        assert_eq!(Armed::<IoFault>::default().strike(), IoFault::None);
    }
}

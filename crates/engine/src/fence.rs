//! The epoch fence: which epoch this machine acts for, and the proof that a caller is of it.

use moorline_types::Epoch;

/// Admits or rejects an epoch. The only maker of [`Admitted`].
///
/// The fence only ever rises (INV: a stale epoch is fenced at sender, session and assignment).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochFence {
    current: Epoch,
}

/// Proof that a fence admitted this epoch. Cannot be made in any other way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admitted {
    epoch: Epoch,
}

impl Admitted {
    /// The epoch that was admitted.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        self.epoch
    }
}

/// Why an epoch was not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fenced {
    /// They were deposed: nothing of theirs counts any more.
    #[error("epoch {got} is stale: this side is at {have}")]
    Stale {
        /// The fence's epoch.
        have: Epoch,
        /// The epoch that asked.
        got: Epoch,
    },
    /// *We* were deposed: stop acknowledging writes now and ask the master.
    #[error("epoch {got} is ahead: this side is still at {have}")]
    Ahead {
        /// The fence's epoch.
        have: Epoch,
        /// The epoch that asked.
        got: Epoch,
    },
    /// Further ahead than any sane master goes: damage or forgery, believed in no respect.
    #[error("epoch {got} is an impossible jump from {have}")]
    JumpRefused {
        /// The fence's epoch.
        have: Epoch,
        /// The epoch that asked.
        got: Epoch,
    },
}

/// What came of raising a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Raise {
    /// The fence went up.
    Raised {
        /// Where it stood.
        from: Epoch,
    },
    /// It stood there already.
    Same,
    /// Refused; the fence stands where it stood.
    Refused(Fenced),
}

impl EpochFence {
    /// A fence at `current`.
    #[must_use]
    pub const fn new(current: Epoch) -> Self {
        Self { current }
    }

    /// The epoch this side acts for.
    #[must_use]
    pub const fn current(&self) -> Epoch {
        self.current
    }

    /// Admits `got` only when it is exactly the current epoch.
    ///
    /// # Errors
    ///
    /// [`Fenced`] says who was deposed.
    pub fn admit(&self, got: Epoch) -> Result<Admitted, Fenced> {
        let have = self.current;
        if got < have {
            Err(Fenced::Stale { have, got })
        } else if have.jump_is_insane(got) {
            Err(Fenced::JumpRefused { have, got })
        } else if got > have {
            Err(Fenced::Ahead { have, got })
        } else {
            Ok(Admitted { epoch: got })
        }
    }

    /// Raises the fence on the word of an assignment or a promise request, and of nothing else.
    pub fn raise(&mut self, to: Epoch) -> Raise {
        let have = self.current;
        match self.admit(to) {
            Ok(_) => Raise::Same,
            Err(Fenced::Ahead { .. }) => {
                self.current = to;
                Raise::Raised { from: have }
            }
            Err(refused @ (Fenced::Stale { .. } | Fenced::JumpRefused { .. })) => {
                Raise::Refused(refused)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(n: u64) -> Epoch {
        Epoch::new(n, 0)
    }

    #[test]
    fn only_the_current_epoch_is_admitted() {
        let fence = EpochFence::new(epoch(5));
        let (have, far) = (epoch(5), epoch(5 + Epoch::JUMP_MAX));
        let past = epoch(6 + Epoch::JUMP_MAX);
        assert_eq!(fence.admit(epoch(5)).unwrap().epoch(), epoch(5));
        for (got, want) in [
            (
                epoch(4),
                Fenced::Stale {
                    have,
                    got: epoch(4),
                },
            ),
            (
                Epoch::new(5, 1),
                Fenced::Ahead {
                    have,
                    got: Epoch::new(5, 1),
                },
            ),
            (
                epoch(6),
                Fenced::Ahead {
                    have,
                    got: epoch(6),
                },
            ),
            (far, Fenced::Ahead { have, got: far }),
            (past, Fenced::JumpRefused { have, got: past }),
        ] {
            assert_eq!(fence.admit(got), Err(want));
        }
    }

    #[test]
    fn a_fence_never_goes_down_and_never_jumps() {
        let mut fence = EpochFence::new(epoch(5));
        assert_eq!(fence.raise(epoch(7)), Raise::Raised { from: epoch(5) });
        assert_eq!(fence.raise(epoch(7)), Raise::Same);
        assert!(matches!(
            fence.raise(epoch(6)),
            Raise::Refused(Fenced::Stale { .. })
        ));
        let insane = epoch(8 + Epoch::JUMP_MAX);
        assert!(matches!(
            fence.raise(insane),
            Raise::Refused(Fenced::JumpRefused { .. })
        ));
        assert_eq!(fence.current(), epoch(7));
    }
}

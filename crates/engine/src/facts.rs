//! What a primary and a replica say of themselves when they meet.

use std::fmt;

use moorline_types::{Epoch, EpochStart, GivenUp, Lsn};

/// A primary's own log, in one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrimaryFacts<'a> {
    /// Which epoch wrote which records, oldest first, the epochs of reclaimed records included.
    pub history: &'a [EpochStart],
    /// The last record appended.
    pub head: Lsn,
    /// The last record known to be committed; advanced by the commit rule.
    pub committed: Lsn,
    /// Records above it are retained (exclusive); advanced by reclaim.
    pub tail: Lsn,
    /// Extents durably hold everything through here; advanced by the flusher.
    pub checkpoint: Lsn,
    /// The lowest live pin: records above it are held.
    pub lowest_pin: Option<Lsn>,
    /// Decisions known here to have given records up.
    pub given_up: &'a [GivenUp],
}

/// Whether a replica's image is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// Everything through `applied` is where it should be.
    Whole,
    /// Marked incomplete or needing a rebuild: never served, no vote, no source.
    Incomplete,
}

/// A replica's log and image, as it answered the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaFacts<'a> {
    /// Which epoch wrote which records, oldest first.
    pub history: &'a [EpochStart],
    /// The last record appended.
    pub head: Lsn,
    /// The last record of the durable prefix of its log; `None` while it is being rebuilt.
    pub flushed: Option<Lsn>,
    /// Extents may hold changes through here.
    pub applied: Lsn,
    /// Extents durably hold everything through here.
    pub checkpoint: Lsn,
    /// Records above it are retained (exclusive).
    pub tail: Lsn,
    /// The last record it knows to be committed. A replica may learn this from a primary only
    /// *after* a needed cut: a number learned before says nothing about the record it holds there.
    pub committed: Lsn,
    /// Whether the image is whole.
    pub image: Image,
    /// Decisions known there to have given records up.
    pub given_up: &'a [GivenUp],
}

/// Which side a fact is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The primary that classifies.
    Primary,
    /// The replica that answered.
    Replica,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

/// Facts that cannot be true together within one store: damage or a bug, never a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Impossible {
    /// A log is not durable beyond its end.
    #[error("the {side}'s flushed {flushed} is above its head {head}")]
    FlushedPastHead {
        /// Whose facts.
        side: Side,
        /// Its durable prefix.
        flushed: Lsn,
        /// Its last record.
        head: Lsn,
    },
    /// Only what is committed and durable in the log may reach extents.
    #[error("the {side}'s applied {applied} is above committed {committed} or flushed {flushed}")]
    AppliedPastCommitted {
        /// Whose facts.
        side: Side,
        /// Its applied mark.
        applied: Lsn,
        /// Committed as it knows it.
        committed: Lsn,
        /// Its durable prefix.
        flushed: Lsn,
    },
    /// A checkpoint holds only what was applied.
    #[error("the {side}'s checkpoint {checkpoint} is above applied {applied}")]
    CheckpointPastApplied {
        /// Whose facts.
        side: Side,
        /// Its checkpoint.
        checkpoint: Lsn,
        /// Its applied mark (a primary's: its committed point).
        applied: Lsn,
    },
    /// Records are reclaimed only below the checkpoint.
    #[error("the {side}'s tail {tail} is above its checkpoint {checkpoint}")]
    TailPastCheckpoint {
        /// Whose facts.
        side: Side,
        /// Its retained boundary (exclusive).
        tail: Lsn,
        /// Its checkpoint.
        checkpoint: Lsn,
    },
    /// Records are never reclaimed above a live pin.
    #[error("the {side}'s tail {tail} is above a live pin at {pin}")]
    TailPastPin {
        /// Whose facts.
        side: Side,
        /// Its retained boundary (exclusive).
        tail: Lsn,
        /// The pin: records above it are needed.
        pin: Lsn,
    },
    /// A primary's log holds every committed record.
    #[error("the primary's committed {committed} is above its head {head}")]
    CommittedPastHead {
        /// Its committed point.
        committed: Lsn,
        /// Its last record.
        head: Lsn,
    },
    /// What is reclaimed was there once.
    #[error("the primary's tail {tail} is above its head {head}")]
    TailPastHead {
        /// Its retained boundary (exclusive).
        tail: Lsn,
        /// Its last record.
        head: Lsn,
    },
    /// A record that both logs hold lies in both.
    #[error("the last common record {common} is above the primary's head {head}")]
    CommonPastHead {
        /// L.
        common: Lsn,
        /// Its last record.
        head: Lsn,
    },
    /// What changed is a part of the image.
    #[error("{delta} extents are said to have changed of an image of {image}")]
    DeltaPastImage {
        /// Extents changed above L.
        delta: u64,
        /// Extents of the image.
        image: u64,
    },
    /// Epochs and their first records ascend together and end at the head.
    #[error("the {side}'s epoch history is out of order at epoch {epoch} from {first}")]
    HistoryOutOfOrder {
        /// Whose facts.
        side: Side,
        /// The first epoch out of order.
        epoch: Epoch,
        /// Its first record.
        first: Lsn,
    },
    /// Two logs that part never agree again: one of them lies about who wrote what.
    #[error("the histories part after {part} and agree again at {again}")]
    HistoriesMeetAgain {
        /// The last record before they part.
        part: Lsn,
        /// A later record of one epoch in both.
        again: Lsn,
    },
}

/// Checks that a tail is not above a live pin.
///
/// # Errors
///
/// [`Impossible::TailPastPin`] with both numbers.
pub fn check_pin(side: Side, tail: Lsn, pin: Lsn) -> Result<(), Impossible> {
    if tail > pin {
        return Err(Impossible::TailPastPin { side, tail, pin });
    }
    Ok(())
}

impl PrimaryFacts<'_> {
    /// Whether these facts can be true together.
    ///
    /// # Errors
    ///
    /// The first contradiction, with its numbers.
    pub fn check(&self) -> Result<(), Impossible> {
        let side = Side::Primary;
        check_history(side, self.history, self.head)?;
        if self.committed > self.head {
            return Err(Impossible::CommittedPastHead {
                committed: self.committed,
                head: self.head,
            });
        }
        if self.checkpoint > self.committed {
            return Err(Impossible::CheckpointPastApplied {
                side,
                checkpoint: self.checkpoint,
                applied: self.committed,
            });
        }
        if let Some(pin) = self.lowest_pin {
            check_pin(side, self.tail, pin)?;
        }
        check_tail(side, self.tail, self.checkpoint)
    }
}

impl ReplicaFacts<'_> {
    /// Whether the replica answers as one whose image cannot be trusted.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.image == Image::Incomplete || self.flushed.is_none()
    }

    /// Whether these facts can be true together.
    ///
    /// # Errors
    ///
    /// The first contradiction, with its numbers. What an incomplete image says of its applied
    /// mark, checkpoint and tail is not held against it.
    pub fn check(&self) -> Result<(), Impossible> {
        let side = Side::Replica;
        check_history(side, self.history, self.head)?;
        if let Some(flushed) = self.flushed
            && flushed > self.head
        {
            return Err(Impossible::FlushedPastHead {
                side,
                flushed,
                head: self.head,
            });
        }
        let Some(flushed) = self.flushed.filter(|_| !self.is_incomplete()) else {
            return Ok(());
        };
        if self.applied > self.committed.min(flushed) {
            return Err(Impossible::AppliedPastCommitted {
                side,
                applied: self.applied,
                committed: self.committed,
                flushed,
            });
        }
        if self.checkpoint > self.applied {
            return Err(Impossible::CheckpointPastApplied {
                side,
                checkpoint: self.checkpoint,
                applied: self.applied,
            });
        }
        check_tail(side, self.tail, self.checkpoint)
    }
}

fn check_tail(side: Side, tail: Lsn, checkpoint: Lsn) -> Result<(), Impossible> {
    if tail > checkpoint {
        return Err(Impossible::TailPastCheckpoint {
            side,
            tail,
            checkpoint,
        });
    }
    Ok(())
}

fn check_history(side: Side, history: &[EpochStart], head: Lsn) -> Result<(), Impossible> {
    let mut before: Option<&EpochStart> = None;
    for start in history {
        let ascends =
            before.is_none_or(|prior| prior.epoch < start.epoch && prior.first < start.first);
        if !ascends || start.first == Lsn::ZERO || start.first > head {
            return Err(Impossible::HistoryOutOfOrder {
                side,
                epoch: start.epoch,
                first: start.first,
            });
        }
        before = Some(start);
    }
    Ok(())
}

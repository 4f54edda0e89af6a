//! What is explored: the policy, the budgets, and at most one broken rule.

use clap::ValueEnum;

/// The number of seats of the volume.
pub(crate) const REPLICAS: usize = 3;
/// A majority of all seats.
pub(crate) const MAJORITY: usize = REPLICAS / 2 + 1;
/// The highest epoch that any world may mint.
pub(crate) const EPOCHS_MAX: usize = 4;
/// The longest log: one mark per epoch and at most three writes.
pub(crate) const LOG_MAX: usize = EPOCHS_MAX + 3;

/// The volume's policy. `best_effort` promises nothing across a failover and is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Policy {
    /// A majority of all seats flushed it.
    SyncQuorum,
    /// Every member of the required set flushed it, and those are at least the floor.
    SyncAll,
}

/// When a client's reply may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum AckPoint {
    /// When the record is durable by the policy.
    Flushed,
    /// When it is in memory by the policy. A loss that the policy does not tolerate must be announced.
    Received,
}

/// How much of the protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Size {
    /// Seconds: for every commit.
    Ci,
    /// Up to an hour and 16 GiB.
    Large,
}

/// A planted bug: one rule of the protocol taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Mutant {
    /// A primary that restarts goes on in its epoch (against EPOCH-2).
    RestartKeepsEpoch,
    /// A store that was wiped under its old name promises and counts (against VOTE-2).
    WipedStoreVotes,
    /// The best log is chosen by the epoch promised, not by the epoch of the last record (against PROM-5).
    LongestByPromised,
    /// Under `sync_all` the master drops nobody and the candidate needs every member (against MASTER-1).
    WaitsForTheDead,
    /// A member promises a higher epoch while a lease that it granted runs (against LEASE-3).
    LeaseWithoutPromise,
    /// A member that restarted forgets the leases that it granted (against LEASE-4).
    NoSilenceAfterRestart,
    /// A promise does not survive a restart (against PROM-2).
    PromiseNotDurable,
    /// Records of older epochs commit before the mark does (against PROM-9).
    CommitBeforeMark,
    /// Acknowledgements count before the divergent tail is cut (against CUT-4).
    AckBeforeCut,
    /// An acknowledgement says flushed for what was only received (against SHIP-3).
    AckBeforeFlush,
    /// The primary stops counting a peer before the master recorded it (against JOIN-5).
    ShrinkBeforeRecord,
    /// A peer is recorded in sync at the committed known at promotion, below the mark (against JOIN-2).
    GrowBelowMark,
    /// A joining peer is recorded in sync without having granted a lease (against JOIN-3 and LEASE-5).
    GrowWithoutLease,
    /// A peer is recorded in sync only while the whole lease is live, not its own grant (against JOIN-3).
    GrowNeedsWholeLease,
    /// At ack point `received`, memory lost in restarts is not looked at (against PROM-12).
    IgnoresLostMemory,
    /// A cut into what was given up leaves no trace of it (against CUT-6).
    CutsWithoutEvidence,
}

impl Mutant {
    /// The policy and budgets of the smallest world known in which this mutant shows.
    #[must_use]
    pub fn world(self) -> World {
        let base = World {
            policy: Policy::SyncQuorum,
            ack: AckPoint::Flushed,
            epochs: 2,
            writes: 1,
            restarts: 0,
            wipes: 0,
            min_copies: 1,
            mutant: Some(self),
        };
        let sync_all = World {
            policy: Policy::SyncAll,
            ..base
        };
        match self {
            Self::RestartKeepsEpoch => World {
                writes: 2,
                restarts: 1,
                ..base
            },
            Self::WipedStoreVotes => World { wipes: 1, ..base },
            Self::LongestByPromised | Self::AckBeforeCut => World { epochs: 3, ..base },
            Self::WaitsForTheDead | Self::GrowWithoutLease | Self::ShrinkBeforeRecord => sync_all,
            Self::GrowNeedsWholeLease => World {
                wipes: 1,
                min_copies: 2,
                ..sync_all
            },
            Self::LeaseWithoutPromise => base,
            Self::NoSilenceAfterRestart | Self::AckBeforeFlush => World {
                restarts: 1,
                ..base
            },
            Self::PromiseNotDurable => World {
                epochs: 3,
                restarts: 1,
                ..base
            },
            Self::CommitBeforeMark => World { epochs: 4, ..base },
            Self::GrowBelowMark => World {
                epochs: 3,
                ..sync_all
            },
            Self::CutsWithoutEvidence => World {
                ack: AckPoint::Received,
                epochs: 3,
                restarts: 1,
                ..base
            },
            Self::IgnoresLostMemory => World {
                ack: AckPoint::Received,
                restarts: 2,
                ..base
            },
        }
    }
}

/// The budgets of one exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The policy of the volume.
    pub policy: Policy,
    /// The ack point of the volume.
    pub ack: AckPoint,
    /// The highest epoch minted; the run begins in epoch 1 with its mark committed everywhere. 2 to 4.
    pub epochs: u8,
    /// Client writes, all epochs together. At most 3.
    pub writes: u8,
    /// Restarts (a crash and a return), all replicas together.
    pub restarts: u8,
    /// Stores replaced by an empty one, all replicas together.
    pub wipes: u8,
    /// The floor of `sync_all`.
    pub min_copies: u8,
    /// The rule that is broken, if any.
    pub mutant: Option<Mutant>,
}

impl World {
    /// The un-mutated world of this policy, ack point and size.
    #[must_use]
    pub fn new(policy: Policy, ack: AckPoint, size: Size) -> Self {
        let (epochs, writes, restarts, wipes) = match (size, policy, ack) {
            (Size::Ci, _, AckPoint::Flushed) => (2, 2, 1, 1),
            (Size::Ci, Policy::SyncQuorum, AckPoint::Received) => (3, 1, 1, 0),
            (Size::Ci, Policy::SyncAll, AckPoint::Received) => (2, 1, 1, 0),
            (Size::Large, Policy::SyncQuorum, AckPoint::Flushed) => (4, 3, 2, 1),
            (Size::Large, Policy::SyncQuorum, AckPoint::Received) => (3, 2, 2, 1),
            (Size::Large, Policy::SyncAll, AckPoint::Flushed) => (3, 2, 2, 1),
            (Size::Large, Policy::SyncAll, AckPoint::Received) => (3, 1, 2, 1),
        };
        Self {
            policy,
            ack,
            epochs,
            writes,
            restarts,
            wipes,
            min_copies: 1,
            mutant: None,
        }
    }

    /// The same budgets with no rule broken.
    #[must_use]
    pub fn healthy(self) -> Self {
        Self {
            mutant: None,
            ..self
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

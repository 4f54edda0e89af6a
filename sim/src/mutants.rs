//! Bugs to plant: each must be found.

use std::str::FromStr;

use crate::disk::flaws::Honesty;

/// One planted bug, in the crate where it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// In the log.
    Log(moorline_wal::Mutant),
    /// In the store.
    Store(moorline_blockvol::Mutant),
    /// In the recovery machines.
    Engine(moorline_engine::Mutant),
    /// In the replica.
    Volume(moorline_volume::Mutant),
    /// Any store votes, at the master and at every member.
    StoreIdentityIgnored,
    /// No bug of ours: every disk says that it flushed and did not.
    LyingFlush,
}

/// Every mutant with its name and what it takes away.
pub const ALL: &[(&str, Mutant, &str)] = &[
    (
        "lease_ignored",
        Mutant::Volume(moorline_volume::Mutant::LeaseIgnored),
        "the lease check",
    ),
    (
        "promise_during_lease",
        Mutant::Volume(moorline_volume::Mutant::PromiseDuringLease),
        "a promise waits for granted leases",
    ),
    (
        "promise_not_persisted",
        Mutant::Store(moorline_blockvol::Mutant::PromiseNotPersisted),
        "a promise is durable before it is answered",
    ),
    (
        "promise_in_one_superblock",
        Mutant::Store(moorline_blockvol::Mutant::PromiseInOneSuperblock),
        "a promise is in both superblocks",
    ),
    (
        "store_identity_ignored",
        Mutant::StoreIdentityIgnored,
        "only the recorded store votes",
    ),
    (
        "cut_ignored",
        Mutant::Log(moorline_wal::Mutant::CutIgnored),
        "opening replays cuts",
    ),
    (
        "cut_skipped",
        Mutant::Engine(moorline_engine::Mutant::CutSkipped),
        "a divergent tail is cut",
    ),
    (
        "pins_ignored",
        Mutant::Log(moorline_wal::Mutant::IgnorePins),
        "reclaim stops at pins",
    ),
    (
        "flush_uncommitted",
        Mutant::Store(moorline_blockvol::Mutant::FlushUncommitted),
        "extents hold committed records only",
    ),
    (
        "policy_count_ignored",
        Mutant::Volume(moorline_volume::Mutant::PolicyCountIgnored),
        "the policy's number of copies",
    ),
    (
        "mark_ignored",
        Mutant::Volume(moorline_volume::Mutant::MarkIgnored),
        "a promotion commits nothing before its mark",
    ),
    (
        "evidence_not_persisted",
        Mutant::Volume(moorline_volume::Mutant::EvidenceNotPersisted),
        "what was given up is durable before the cut",
    ),
    (
        "memory_loss_ignored",
        Mutant::Volume(moorline_volume::Mutant::MemoryLossIgnored),
        "only intact memory rules out a loss",
    ),
    (
        "ack_before_flush",
        Mutant::Log(moorline_wal::Mutant::AckBeforeFlush),
        "the flush before the acknowledgement",
    ),
    (
        "lying_flush",
        Mutant::LyingFlush,
        "the truth of a disk's answer to a flush",
    ),
];

/// No such mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownMutant(String);

impl std::fmt::Display for UnknownMutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no mutant `{}`: see list-mutants", self.0)
    }
}

impl std::error::Error for UnknownMutant {}

impl FromStr for Mutant {
    type Err = UnknownMutant;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        ALL.iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, mutant, _)| *mutant)
            .ok_or_else(|| UnknownMutant(name.to_owned()))
    }
}

/// The bugs planted in a cluster, crate by crate.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Planted {
    pub(crate) store: moorline_blockvol::Mutants,
    pub(crate) engine: moorline_engine::Mutants,
    pub(crate) volume: moorline_volume::Mutants,
    pub(crate) master: moorline_master::Mutants,
    pub(crate) disks: Honesty,
}

impl Planted {
    pub(crate) fn one(mutant: Option<Mutant>) -> Self {
        let mut planted = Self::default();
        match mutant {
            None => {}
            Some(Mutant::Log(bug)) => planted.store.log = planted.store.log.with(bug),
            Some(Mutant::Store(bug)) => planted.store = planted.store.with(bug),
            Some(Mutant::Engine(bug)) => planted.engine = planted.engine.with(bug),
            Some(Mutant::Volume(bug)) => planted.volume = planted.volume.with(bug),
            Some(Mutant::LyingFlush) => planted.disks = Honesty::Lying,
            Some(Mutant::StoreIdentityIgnored) => {
                let bug = moorline_volume::Mutant::StoreIdentityIgnored;
                planted.volume = planted.volume.with(bug);
                let bug = moorline_master::Mutant::StoreIdentityIgnored;
                planted.master = planted.master.with(bug);
            }
        }
        planted
    }
}

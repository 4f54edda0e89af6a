//! Bugs to plant: each must be found, but for those that nothing stages.

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
    /// In the master.
    Master(moorline_master::Mutant),
    /// Any store votes, at the master and at every member.
    StoreIdentityIgnored,
    /// A primary that restarted keeps its epoch, at the master and at every member.
    RestartKeepsEpoch,
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
    // From here on: by somebody who did not write what they break.
    (
        "failed_flush_retried",
        Mutant::Log(moorline_wal::Mutant::FailedFlushRetried),
        "a failed flush is sticky",
    ),
    (
        "short_write_taken_for_whole",
        Mutant::Log(moorline_wal::Mutant::ShortWriteTakenForWhole),
        "a short write is a failed one",
    ),
    (
        "flush_covers_later_writes",
        Mutant::Log(moorline_wal::Mutant::FlushCoversLaterWrites),
        "a flush covers what was written before it",
    ),
    (
        "gap_skipped",
        Mutant::Log(moorline_wal::Mutant::GapSkipped),
        "the flushed frontier is contiguous",
    ),
    (
        "durable_mark_too_high",
        Mutant::Log(moorline_wal::Mutant::DurableMarkTooHigh),
        "a frame marks only what is flushed as durable",
    ),
    (
        "payload_not_verified",
        Mutant::Log(moorline_wal::Mutant::PayloadNotVerified),
        "opening checks the payload of each frame",
    ),
    (
        "chain_not_verified",
        Mutant::Log(moorline_wal::Mutant::ChainNotVerified),
        "each frame names the one before it",
    ),
    (
        "damage_taken_for_torn_end",
        Mutant::Log(moorline_wal::Mutant::DamageTakenForTornEnd),
        "what a durable mark covers is never cut at an open",
    ),
    (
        "retention_off_by_one",
        Mutant::Log(moorline_wal::Mutant::RetentionOffByOne),
        "the log keeps every record above its tail",
    ),
    (
        "reserve_ignored",
        Mutant::Log(moorline_wal::Mutant::ReserveIgnored),
        "a full log has room for a cut and a mark",
    ),
    (
        "older_anchor_forgotten",
        Mutant::Store(moorline_blockvol::Mutant::OlderAnchorForgotten),
        "the log keeps what the older superblock needs",
    ),
    (
        "checkpoint_before_flush",
        Mutant::Store(moorline_blockvol::Mutant::CheckpointBeforeFlush),
        "the flush before the checkpoint",
    ),
    (
        "applied_mark_not_awaited",
        Mutant::Store(moorline_blockvol::Mutant::AppliedMarkNotAwaited),
        "the applied mark is durable before the extents change",
    ),
    (
        "map_page_in_place",
        Mutant::Store(moorline_blockvol::Mutant::MapPageInPlace),
        "the two slots of a map page take turns",
    ),
    (
        "oldest_version_flushed",
        Mutant::Store(moorline_blockvol::Mutant::OldestVersionFlushed),
        "the newest version of a block is flushed",
    ),
    (
        "extents_not_verified",
        Mutant::Store(moorline_blockvol::Mutant::ExtentsNotVerified),
        "what is read is held against its checksum",
    ),
    (
        "zeroes_not_mapped",
        Mutant::Store(moorline_blockvol::Mutant::ZeroesNotMapped),
        "zeroes reach the block map",
    ),
    (
        "flush_under_read",
        Mutant::Store(moorline_blockvol::Mutant::FlushUnderRead),
        "a block is not written while it is read",
    ),
    (
        "open_counter_kept",
        Mutant::Store(moorline_blockvol::Mutant::OpenCounterKept),
        "each opening raises the open counter",
    ),
    (
        "overlaps_reordered",
        Mutant::Store(moorline_blockvol::Mutant::OverlapsReordered),
        "of overlapping writes the later one is read",
    ),
    (
        "epoch_history_not_kept",
        Mutant::Store(moorline_blockvol::Mutant::EpochHistoryNotKept),
        "epoch history outlives the records",
    ),
    (
        "cut_by_lsn",
        Mutant::Engine(moorline_engine::Mutant::CutByLsn),
        "logs are compared by epoch",
    ),
    (
        "silence_skipped",
        Mutant::Volume(moorline_volume::Mutant::SilenceSkipped),
        "a restarted member is silent for a lease",
    ),
    (
        "lease_from_receipt",
        Mutant::Volume(moorline_volume::Mutant::LeaseFromReceipt),
        "a holder counts its lease from the send",
    ),
    (
        "restart_keeps_epoch",
        Mutant::RestartKeepsEpoch,
        "an epoch belongs to one boot, at the master and at every member",
    ),
    (
        "ack_counts_before_cut",
        Mutant::Volume(moorline_volume::Mutant::AckCountsBeforeCut),
        "nothing counts before the cut is recorded",
    ),
    (
        "stale_session_accepted",
        Mutant::Volume(moorline_volume::Mutant::StaleSessionAccepted),
        "only the live session counts",
    ),
    (
        "grows_without_lease",
        Mutant::Volume(moorline_volume::Mutant::GrowsWithoutLease),
        "a peer grants its lease before it is in sync",
    ),
    (
        "joins_below_head",
        Mutant::Volume(moorline_volume::Mutant::JoinsBelowHead),
        "a peer joins above the mark and what is committed",
    ),
    (
        "shrinks_before_recorded",
        Mutant::Volume(moorline_volume::Mutant::ShrinksBeforeRecorded),
        "a member is required until the smaller set is recorded",
    ),
    (
        "rank_by_head",
        Mutant::Volume(moorline_volume::Mutant::RankByHead),
        "the log with the latest epoch is the best",
    ),
    (
        "own_cut_skipped",
        Mutant::Volume(moorline_volume::Mutant::OwnCutSkipped),
        "a candidate cuts its own divergent tail",
    ),
    (
        "received_as_flushed",
        Mutant::Volume(moorline_volume::Mutant::ReceivedAsFlushed),
        "an acknowledgement tells flushed from received",
    ),
    (
        "own_flush_assumed",
        Mutant::Volume(moorline_volume::Mutant::OwnFlushAssumed),
        "the primary's own flush is part of a commit",
    ),
    (
        "reads_uncommitted",
        Mutant::Volume(moorline_volume::Mutant::ReadsUncommitted),
        "reads see what is committed",
    ),
    (
        "whole_write_ignores_lock",
        Mutant::Volume(moorline_volume::Mutant::WholeWriteIgnoresLock),
        "a read-modify-write holds its blocks",
    ),
    (
        "merge_reads_old",
        Mutant::Volume(moorline_volume::Mutant::MergeReadsOld),
        "a read-modify-write sees what was ordered before it",
    ),
    (
        "forced_as_received",
        Mutant::Volume(moorline_volume::Mutant::ForcedAsReceived),
        "FUA and flushes wait for durable copies",
    ),
    (
        "read_reply_unchecked",
        Mutant::Volume(moorline_volume::Mutant::ReadReplyUnchecked),
        "the lease is checked again when a read is answered",
    ),
    (
        "promotes_without_majority",
        Mutant::Volume(moorline_volume::Mutant::PromotesWithoutMajority),
        "a majority promises",
    ),
    (
        "majority_of_connected",
        Mutant::Volume(moorline_volume::Mutant::MajorityOfConnected),
        "a majority is one of all seats",
    ),
    (
        "min_copies_ignored",
        Mutant::Volume(moorline_volume::Mutant::MinCopiesIgnored),
        "the floor of copies",
    ),
    (
        "memory_back_early",
        Mutant::Volume(moorline_volume::Mutant::MemoryBackEarly),
        "memory is whole again when all was received again",
    ),
    (
        "serves_before_mark",
        Mutant::Volume(moorline_volume::Mutant::ServesBeforeMark),
        "serving begins when the mark is committed",
    ),
    (
        "fetch_skipped",
        Mutant::Volume(moorline_volume::Mutant::FetchSkipped),
        "a candidate fetches the best log",
    ),
    (
        "asks_before_own_promise",
        Mutant::Volume(moorline_volume::Mutant::AsksBeforeOwnPromise),
        "a candidate's own promise comes first",
    ),
    (
        "commit_told_too_high",
        Mutant::Volume(moorline_volume::Mutant::CommitToldTooHigh),
        "replicas are told what is committed",
    ),
    (
        "promotes_outside_in_sync",
        Mutant::Master(moorline_master::Mutant::PromotesOutsideInSync),
        "only a member in sync is promoted under `sync_all`",
    ),
    (
        "old_copy_believed",
        Mutant::Master(moorline_master::Mutant::OldCopyBelieved),
        "a restored master learns from the members first",
    ),
];

/// Bugs that 2,000 seeds did not find, and what would have to happen for them to show.
pub const UNSTAGED: &[(&str, &str)] = &[
    ("mark_ignored", "three reigns around one uncommitted record"),
    (
        "evidence_not_persisted",
        "a leader that cuts the last copy of what it gave up and dies before its mark reached anyone",
    ),
    (
        "cut_ignored",
        "a restart of a store whose log still holds what it cut",
    ),
    (
        "silence_skipped",
        "a primary without its master, whose last granter restarts and promises within the lease",
    ),
    (
        "grows_without_lease",
        "a failover to a newcomer before the old primary hears that it is in sync",
    ),
    (
        "joins_below_head",
        "a primary that dies between a newcomer's record and its first live records",
    ),
    (
        "ack_counts_before_cut",
        "a write whose only other copy is a divergent tail, acknowledged before the cut",
    ),
    (
        "memory_back_early",
        "two restarts of one follower, the second before it received what the first lost",
    ),
    (
        "stale_session_accepted",
        "messages of an ended session that arrive in the next one",
    ),
    (
        "chain_not_verified",
        "a torn end just before the end of the ring, with later frames at its beginning",
    ),
    (
        "older_anchor_forgotten",
        "a newer superblock that is lost when the ring was written over what the older one needs",
    ),
    (
        "damage_taken_for_torn_end",
        "a rotten log of which the volume needs every copy; a rotten store may open below what it had",
    ),
    (
        "reserve_ignored",
        "a power cut that tears the last frame of a full ring",
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
            Some(Mutant::Master(bug)) => planted.master = planted.master.with(bug),
            Some(Mutant::RestartKeepsEpoch) => {
                let bug = moorline_volume::Mutant::RestartKeepsEpoch;
                planted.volume = planted.volume.with(bug);
                let bug = moorline_master::Mutant::RestartKeepsEpoch;
                planted.master = planted.master.with(bug);
            }
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

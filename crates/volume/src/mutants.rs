//! Bugs that a simulator can plant at run time, to show that it finds them.

moorline_types::mutants! {
    /// A bug to plant.
    pub enum Mutant {
        /// Reads are answered and writes acknowledged without a live lease.
        LeaseIgnored,
        /// The primary's own flush commits, whatever the policy says.
        PolicyCountIgnored,
        /// Any store votes, be it wiped, swapped or rolled back.
        StoreIdentityIgnored,
        /// A member promises while a lease that it granted still runs.
        PromiseDuringLease,
        /// A promotion commits what it found before its mark commits.
        MarkIgnored,
        /// What was given up is not persisted before the cut into it.
        EvidenceNotPersisted,
        /// Memory lost in restarts is not looked at.
        MemoryLossIgnored,
        /// A restarted member grants and promises at once.
        SilenceSkipped,
        /// A holder counts its lease from the answer's receipt.
        LeaseFromReceipt,
        /// An epoch is promised to another boot of the server that had it.
        RestartKeepsEpoch,
        /// Acknowledgements count before the cut that was asked for is recorded.
        AckCountsBeforeCut,
        /// What is said in an earlier session of the same epoch is taken.
        StaleSessionAccepted,
        /// A peer joins without having granted its lease, and the lease does not wait for it.
        GrowsWithoutLease,
        /// A peer is asked into the in-sync set at the point where its catch-up ended.
        JoinsBelowHead,
        /// A member that is to leave the in-sync set is no longer required once the master was asked.
        ShrinksBeforeRecorded,
        /// The longest log is the best, whoever wrote its end.
        RankByHead,
        /// A candidate keeps its own divergent tail.
        OwnCutSkipped,
        /// What was received is acknowledged as flushed.
        ReceivedAsFlushed,
        /// A primary counts its own log as flushed through its head.
        OwnFlushAssumed,
        /// Reads see a record as soon as it is ordered.
        ReadsUncommitted,
        /// A write of whole blocks does not wait for a read-modify-write of one of them.
        WholeWriteIgnoresLock,
        /// A read-modify-write completes its blocks from what readers see.
        MergeReadsOld,
        /// FUA and flushes wait for what any other write waits for.
        ForcedAsReceived,
        /// A read that was under way is answered without another look at the lease.
        ReadReplyUnchecked,
        /// One promise less than a majority is enough.
        PromotesWithoutMajority,
        /// The majority is one of the seats that are connected.
        MajorityOfConnected,
        /// One copy is enough under `sync_all` when nobody else is in sync.
        MinCopiesIgnored,
        /// A store's memory counts as whole again as soon as a session opens.
        MemoryBackEarly,
        /// Clients are served before the epoch's mark is committed.
        ServesBeforeMark,
        /// A candidate opens its epoch on its own log, without what a better one has.
        FetchSkipped,
        /// A candidate asks others for promises before it gave its own.
        AsksBeforeOwnPromise,
        /// Replicas are told that everything is committed which was sent.
        CommitToldTooHigh,
    }

    /// The bugs planted in one node. None by default.
    pub struct Mutants;
}

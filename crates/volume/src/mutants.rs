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
    }

    /// The bugs planted in one node. None by default.
    pub struct Mutants;
}

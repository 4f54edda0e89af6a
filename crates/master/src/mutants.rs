//! Bugs that a simulator can plant at run time, to show that it finds them.

moorline_types::mutants! {
    /// A bug to plant.
    pub enum Mutant {
        /// A wiped, swapped or rolled back store keeps its seat's vote: its uuid is simply recorded.
        StoreIdentityIgnored,
        /// A primary that came back with another boot keeps its epoch.
        RestartKeepsEpoch,
        /// Under `sync_all` any member with a vote is promoted.
        PromotesOutsideInSync,
        /// An old copy of the store is taken for the newest.
        OldCopyBelieved,
    }

    /// The bugs planted in one master. None by default.
    pub struct Mutants;
}

//! Why a master does not start, or stops.

use moorline_types::ClusterId;

/// Why a master cannot start over what its store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// There are records, and none of the master itself.
    #[error("the store holds records but not the master's own: it is damaged or another program's")]
    NoMeta,
    /// The store is another cluster's than it was to be.
    #[error(
        "the store belongs to cluster {found}, not to {wanted}: `--adopt-cluster` is for an empty directory"
    )]
    OtherCluster {
        /// The store's.
        found: ClusterId,
        /// What was asked for.
        wanted: ClusterId,
    },
}

/// Why a running master stops.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum StopReason {
    /// The store failed: what is durable is unknown until it is read again at the next start.
    #[error("the master's store failed: see to its disk, then start the master again")]
    StoreFailed,
    /// Another process started as this master.
    #[error("another process started as this master: only one may run")]
    Superseded,
}

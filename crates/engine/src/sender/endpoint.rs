//! Where a replica listens, and what another such place means.

use crate::event::Refusal;

/// Where a replica listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its replication listener.
    pub data: String,
    /// Its control listener.
    pub control: String,
    /// Raised at each change; lower is stale.
    pub version: u64,
}

/// What another endpoint means for a sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndpointChange {
    Same,
    Moved,
    Refused(Refusal),
}

pub(crate) fn check_endpoint(have: &Endpoint, to: &Endpoint) -> EndpointChange {
    if have == to {
        return EndpointChange::Same;
    }
    match to.version.cmp(&have.version) {
        std::cmp::Ordering::Greater => EndpointChange::Moved,
        std::cmp::Ordering::Equal => EndpointChange::Refused(Refusal::EndpointConflict {
            version: to.version,
        }),
        std::cmp::Ordering::Less => EndpointChange::Refused(Refusal::StaleEndpoint {
            have: have.version,
            got: to.version,
        }),
    }
}

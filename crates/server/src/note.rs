//! What happens at a node, as log lines.

use moorline_types::ServerId;
use moorline_volume::journal::{Happening, NodeEvent};

/// How much an operator should care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Weight {
    Routine,
    Worth,
    Grave,
}

/// Writes one event to the log.
pub(crate) fn log(server: &ServerId, event: &NodeEvent) {
    let name = event.what.name();
    let volume = event.volume.map(|volume| volume.to_string());
    let volume = volume.as_deref().unwrap_or("-");
    match weight(&event.what) {
        Weight::Routine => tracing::debug!(%server, volume, name, "{event}"),
        Weight::Worth => tracing::info!(%server, volume, name, "{event}"),
        Weight::Grave => tracing::warn!(%server, volume, name, "{event}"),
    }
}

fn weight(what: &Happening) -> Weight {
    let is_grave = matches!(
        what,
        Happening::StoreRefused { .. }
            | Happening::StoreFailed { .. }
            | Happening::LineRefused { .. }
            | Happening::DoubtGivenUp { .. }
            | Happening::VolatileTailLost { .. }
            | Happening::PromotionDeclined { .. }
            | Happening::CommittedDataMissing(_)
            | Happening::DamagedBlock { .. }
            | Happening::BlockNotRepaired { .. }
            | Happening::StoreOpeningLate { .. }
            | Happening::MasterRefused { .. }
            | Happening::PeerRefused { .. }
    );
    let is_routine = matches!(
        what,
        Happening::LineTaken { .. } | Happening::Promised { .. }
    ) || what.name() == "progress";
    match (is_grave, is_routine) {
        (true, _) => Weight::Grave,
        (false, true) => Weight::Routine,
        (false, false) => Weight::Worth,
    }
}

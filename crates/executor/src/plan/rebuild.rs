//! A rebuild's plan, and the pin of its image.

use moorline_engine::{Phase, PinKind, PinNeed, Plan, PlanKind, RebuildSource, SessionStamp};
use moorline_types::{Instant, Lsn, ReplicaId};
use moorline_wal::{FullBasePin, Log, PinHolder, PinRefused, SnapshotPin};

use super::{BindRefused, acquire, awaiting};
use crate::turn::Turn;

/// What holds the image that a replica is rebuilt from, and the log above it until the replica has
/// received what the join ships.
#[must_use = "a pin that is dropped holds nothing"]
#[derive(Debug)]
pub enum ImagePin {
    /// The image at a checkpoint.
    Snapshot(SnapshotPin),
    /// The committed image, of which a delta takes a part.
    Base(FullBasePin),
}

impl ImagePin {
    /// Has `log` hold what a rebuild needs.
    ///
    /// # Errors
    ///
    /// [`PinRefused`] when the records above it are not all there.
    ///
    /// # Panics
    ///
    /// If records alone are needed: that is no image.
    pub fn hold(
        log: &Log,
        need: PinNeed,
        holder: PinHolder,
        since: Instant,
    ) -> Result<Self, PinRefused> {
        match need.kind {
            PinKind::Snapshot => log
                .pin_snapshot(need.lsn, holder, since)
                .map(Self::Snapshot),
            PinKind::Delta | PinKind::FullBase => {
                log.pin_full_base(need.lsn, holder, since).map(Self::Base)
            }
            PinKind::History => panic!("a rebuild needs an image, not records above {}", need.lsn),
        }
    }

    /// The image's LSN.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            Self::Snapshot(pin) => pin.lsn(),
            Self::Base(pin) => pin.lsn(),
        }
    }

    pub(crate) fn let_log_go(&mut self) {
        match self {
            Self::Snapshot(pin) => pin.let_log_go(),
            Self::Base(pin) => pin.let_log_go(),
        }
    }

    /// What it is, as a plan that needs `kind` asks for it.
    fn as_need(&self, kind: PinKind) -> PinNeed {
        let kind = match (self, kind) {
            (Self::Snapshot(_), _) => PinKind::Snapshot,
            (Self::Base(_), PinKind::Delta) => PinKind::Delta,
            (Self::Base(_), PinKind::Snapshot | PinKind::FullBase | PinKind::History) => {
                PinKind::FullBase
            }
        };
        let lsn = self.lsn();
        PinNeed { kind, lsn }
    }
}

/// A base to lay, and the pin that holds it.
#[must_use = "dropping a bound plan drops its pin"]
#[derive(Debug)]
pub struct BoundRebuild {
    replica: ReplicaId,
    stamp: SessionStamp,
    source: RebuildSource,
    extents: u64,
    pin: ImagePin,
}

impl BoundRebuild {
    /// Acquires what `plan`, a rebuild, needs, binds it and tells the session: either that all is
    /// held, or that the pin was refused.
    ///
    /// `pin` is asked at most once: [`ImagePin::hold`] answers it.
    ///
    /// # Errors
    ///
    /// [`BindRefused`]; nothing is held then.
    pub fn bind(
        turn: &mut Turn<'_>,
        plan: &Plan,
        pin: impl FnOnce(PinNeed) -> Result<ImagePin, PinRefused>,
    ) -> Result<Self, BindRefused> {
        let phase = awaiting(turn, plan)?;
        let PlanKind::Rebuild { source, extents } = plan.kind else {
            return Err(BindRefused::NoRebuild);
        };
        let base = source.base();
        if *phase != (Phase::SourceSelected { base, extents }) {
            let phase = phase.name();
            return Err(BindRefused::NotAwaited { phase });
        }
        let pin = acquire(turn, plan, |need| {
            let pin = pin(need)?;
            let got = pin.as_need(need.kind);
            Ok((pin, got))
        })?;
        Ok(Self {
            replica: plan.replica.clone(),
            stamp: plan.stamp,
            source,
            extents,
            pin,
        })
    }

    /// For which replica it was made.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// Whose plan it is.
    #[must_use]
    pub const fn stamp(&self) -> SessionStamp {
        self.stamp
    }

    /// What the base is made of.
    #[must_use]
    pub const fn source(&self) -> RebuildSource {
        self.source
    }

    /// How many extents the base has.
    #[must_use]
    pub const fn extents(&self) -> u64 {
        self.extents
    }

    pub(crate) fn into_pin(self) -> ImagePin {
        self.pin
    }
}

//! Plans together with the pins that make them true.

use moorline_engine::{
    Joining, Phase, PhaseName, PinKind, PinNeed, PinRefusal, PinRefusedReason, Plan, PlanKind,
    Planned, Refusal, Sender, SessionStamp,
};
use moorline_types::{Lsn, LsnRange, ReplicaId};
use moorline_wal::{PinRefused, RetentionPin};

/// A range of records to ship, and the pin that keeps them.
#[must_use = "dropping a bound plan drops its pin"]
#[derive(Debug)]
pub struct BoundPlan {
    replica: ReplicaId,
    stamp: SessionStamp,
    range: LsnRange,
    pin: Option<RetentionPin>,
}

/// Why a plan was not bound. Nothing is held, and nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindRefused {
    /// It was made for another replica, of this volume or of another one.
    #[error("the plan is for {}, not for {}", .got, .have)]
    OtherReplica {
        /// The sender's.
        have: Box<ReplicaId>,
        /// The plan's.
        got: Box<ReplicaId>,
    },
    /// Its session may not be worked for.
    #[error(transparent)]
    Authority(#[from] Refusal),
    /// Its session does not wait for this plan: it was bound before, or given up since.
    #[error("the session does not wait for this plan: it is {phase}")]
    NotAwaited {
        /// Where the session stands.
        phase: PhaseName,
    },
    /// It is no catch-up: a rebuild's pins are images, and a zero gap has none.
    #[error("the plan is no catch-up")]
    NoCatchUp,
    /// The pin was refused: tell the session so.
    #[error("the pin above {} was refused: {:?}", .0.lsn, .0.reason)]
    Pin(PinRefusal),
}

impl BoundPlan {
    /// Acquires what `plan`, a catch-up, needs and binds it. The session is told afterwards.
    ///
    /// `pin` is asked at most once, for history above an LSN: `Log::pin` answers it.
    ///
    /// # Errors
    ///
    /// [`BindRefused`]; nothing is held then.
    pub fn bind(
        sender: &Sender,
        plan: &Plan,
        pin: impl FnOnce(Lsn) -> Result<RetentionPin, PinRefused>,
    ) -> Result<Self, BindRefused> {
        if plan.replica != *sender.replica() {
            return Err(BindRefused::OtherReplica {
                have: Box::new(sender.replica().clone()),
                got: Box::new(plan.replica.clone()),
            });
        }
        let PlanKind::CatchUp { truncate, range } = plan.kind else {
            return Err(BindRefused::NoCatchUp);
        };
        let phase = phase_of(sender, plan.stamp)?;
        if *phase != Phase::Planned(Planned { truncate, range }) {
            let phase = phase.name();
            return Err(BindRefused::NotAwaited { phase });
        }
        let PinNeed { kind, lsn } = plan.needs().expect("a catch-up pins what it ships");
        assert_eq!(kind, PinKind::History, "records are held by a history pin");
        let held = pin(lsn).map_err(|refused| BindRefused::Pin(refusal(lsn, &refused)))?;
        Ok(Self {
            replica: plan.replica.clone(),
            stamp: plan.stamp,
            range,
            pin: Some(held),
        })
    }

    /// For a replica that lacks nothing committed: only the join ships, and records above the
    /// committed point need no pin.
    ///
    /// # Errors
    ///
    /// [`BindRefused`] unless the session waits to be joined above `after`.
    pub fn zero_gap(sender: &Sender, stamp: SessionStamp, after: Lsn) -> Result<Self, BindRefused> {
        let phase = phase_of(sender, stamp)?;
        let waits = match phase {
            Phase::Joining(Joining {
                after: from,
                join_point: None,
                ..
            }) => *from == after,
            Phase::Joining(_)
            | Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Planned(_)
            | Phase::Truncating(_)
            | Phase::CatchingUp(_)
            | Phase::SourceSelected { .. }
            | Phase::RebuildJoining { .. }
            | Phase::Transferring(_)
            | Phase::Replaying(_)
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => false,
        };
        if !waits {
            let phase = phase.name();
            return Err(BindRefused::NotAwaited { phase });
        }
        Ok(Self {
            replica: sender.replica().clone(),
            stamp,
            range: LsnRange::new(after, after).expect("a position is not below itself"),
            pin: None,
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

    /// What it ships before the join, `(after, through]`.
    #[must_use]
    pub const fn range(&self) -> LsnRange {
        self.range
    }

    pub(crate) fn into_pin(self) -> Option<RetentionPin> {
        self.pin
    }
}

fn phase_of(sender: &Sender, stamp: SessionStamp) -> Result<&Phase, Refusal> {
    sender.admit(stamp)?;
    let session = sender.live_session().ok_or(Refusal::NoSession)?;
    Ok(session.phase())
}

fn refusal(lsn: Lsn, refused: &PinRefused) -> PinRefusal {
    let reason = match refused {
        PinRefused::Reclaimed { .. } => PinRefusedReason::Reclaimed,
        PinRefused::AboveHead { .. } => PinRefusedReason::AboveHead,
        PinRefused::TooMany { .. } => PinRefusedReason::TooMany,
    };
    PinRefusal {
        pin: PinKind::History,
        lsn,
        reason,
    }
}

//! Plans together with the pins that make them true.

use moorline_engine::{
    Fact, Joining, Phase, PhaseName, PinKind, PinNeed, PinRefusal, PinRefusedReason, Plan,
    PlanKind, Planned, Refusal, ReleaseCause, Sender, SessionStamp,
};
use moorline_types::{Lsn, LsnRange, ReplicaId};
use moorline_wal::{PinRefused, RetentionPin};

use crate::turn::Turn;

mod rebuild;

pub use rebuild::{BoundRebuild, ImagePin};

/// A range of records to ship, and the pin that keeps them.
#[must_use = "dropping a bound plan drops its pin"]
#[derive(Debug)]
pub struct BoundPlan {
    replica: ReplicaId,
    stamp: SessionStamp,
    range: LsnRange,
    pin: Option<RetentionPin>,
}

/// Why a plan was not bound. Nothing is held, and, unless the pin was refused, nothing changed.
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
    /// It is no rebuild.
    #[error("the plan is no rebuild")]
    NoRebuild,
    /// Another pin was handed in than the one that the plan needs. It is dropped.
    #[error(
        "a {:?} pin at {} was handed in, not a {:?} pin at {}",
        .got.kind, .got.lsn, .want.kind, .want.lsn
    )]
    WrongPin {
        /// What the plan needs.
        want: PinNeed,
        /// What was handed in.
        got: PinNeed,
    },
    /// The pin was refused, and the session ended with that.
    #[error("the {:?} pin at {} was refused: {:?}", .0.pin, .0.lsn, .0.reason)]
    Pin(PinRefusal),
}

impl BoundPlan {
    /// Acquires what `plan`, a catch-up, needs, binds it and tells the session: either that all is
    /// held, or that the pin was refused.
    ///
    /// `pin` is asked at most once, for history above an LSN: `Log::pin` answers it.
    ///
    /// # Errors
    ///
    /// [`BindRefused`]; nothing is held then.
    pub fn bind(
        turn: &mut Turn<'_>,
        plan: &Plan,
        pin: impl FnOnce(Lsn) -> Result<RetentionPin, PinRefused>,
    ) -> Result<Self, BindRefused> {
        let phase = awaiting(turn, plan)?;
        let PlanKind::CatchUp { truncate, range } = plan.kind else {
            return Err(BindRefused::NoCatchUp);
        };
        if *phase != Phase::Planned(Planned { truncate, range }) {
            let phase = phase.name();
            return Err(BindRefused::NotAwaited { phase });
        }
        let held = acquire(turn, plan, |need| {
            let pin = pin(need.lsn)?;
            let kind = PinKind::History;
            let got = PinNeed {
                kind,
                lsn: pin.lsn(),
            };
            Ok((pin, got))
        })?;
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
    /// It may be made again until one of them has joined, which does no harm: it holds nothing and
    /// changes nothing. The session takes the join point of whichever execution tells its own
    /// first and refuses any other; from then on none is made. The execution that came too late is
    /// to be dropped: a step would ship once more what goes out already, and a release would end
    /// the session.
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
            | Phase::RebuildJoining(_)
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

/// Where the plan's session stands, once it is sure that the plan is this replica's.
fn awaiting<'a>(turn: &'a Turn<'_>, plan: &Plan) -> Result<&'a Phase, BindRefused> {
    let sender = turn.sender.as_deref().ok_or(Refusal::Stopped)?;
    if plan.replica != *sender.replica() {
        return Err(BindRefused::OtherReplica {
            have: Box::new(sender.replica().clone()),
            got: Box::new(plan.replica.clone()),
        });
    }
    Ok(phase_of(sender, plan.stamp)?)
}

/// Asks for what a plan needs and tells its session, so that a plan cannot be bound twice.
fn acquire<P>(
    turn: &mut Turn<'_>,
    plan: &Plan,
    pin: impl FnOnce(PinNeed) -> Result<(P, PinNeed), PinRefused>,
) -> Result<P, BindRefused> {
    let want = plan.needs().expect("such a plan pins what it reads");
    let asking = Asking(Some(turn), plan);
    let asked = pin(want);
    // Whoever answers at all has not panicked.
    let turn = asking.answered();
    match asked {
        Ok((held, got)) if got == want => {
            turn.tell(plan.stamp, Fact::PlanBound);
            Ok(held)
        }
        Ok((_dropped, got)) => Err(BindRefused::WrongPin { want, got }),
        Err(refused) => {
            let refusal = pin_refusal(want, &refused);
            turn.tell(plan.stamp, Fact::PinRefused(refusal));
            Err(BindRefused::Pin(refusal))
        }
    }
}

/// Ends the session when asking for its pin unwinds: nobody would bind its plan any more.
struct Asking<'a, 'b>(Option<&'a mut Turn<'b>>, &'a Plan);

impl<'a, 'b> Asking<'a, 'b> {
    fn answered(mut self) -> &'a mut Turn<'b> {
        self.0.take().expect("answered once")
    }
}

impl Drop for Asking<'_, '_> {
    fn drop(&mut self) {
        if let Some(turn) = self.0.take() {
            let plan = self.1;
            turn.end_session(&plan.replica, plan.stamp, ReleaseCause::Panicked);
        }
    }
}

/// The engine's word for a pin that the log refused.
#[must_use]
pub fn pin_refusal(need: PinNeed, refused: &PinRefused) -> PinRefusal {
    let reason = match refused {
        PinRefused::Reclaimed { .. } => PinRefusedReason::Reclaimed,
        PinRefused::AboveHead { .. } => PinRefusedReason::AboveHead,
        PinRefused::TooMany { .. } => PinRefusedReason::TooMany,
    };
    PinRefusal {
        pin: need.kind,
        lsn: need.lsn,
        reason,
    }
}

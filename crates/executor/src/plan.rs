//! Plans together with the pins that make them true.

use moorline_engine::{
    PinKind, PinNeed, PinRefusal, PinRefusedReason, Plan, PlanKind, SessionStamp,
};
use moorline_types::{Lsn, LsnRange};
use moorline_wal::{PinRefused, RetentionPin};

/// A range of records to ship, and the pin that keeps them.
#[must_use = "dropping a bound plan drops its pin"]
#[derive(Debug)]
pub struct BoundPlan {
    stamp: SessionStamp,
    range: LsnRange,
    pin: Option<RetentionPin>,
}

impl BoundPlan {
    /// Acquires what `plan` needs and binds it.
    ///
    /// `pin` is asked at most once, for history above an LSN: `Log::pin` answers it.
    ///
    /// # Errors
    ///
    /// [`PinRefusal`] names the pin, where, and why not; nothing is held then.
    ///
    /// # Panics
    ///
    /// On a plan that rebuilds: its pins are images, and it is bound by its own executor.
    pub fn bind(
        plan: &Plan,
        pin: impl FnOnce(Lsn) -> Result<RetentionPin, PinRefused>,
    ) -> Result<Self, PinRefusal> {
        let range = match &plan.kind {
            PlanKind::ZeroGap { after } | PlanKind::TruncateOnly { after, .. } => nothing(*after),
            PlanKind::CatchUp { range, .. } => *range,
            PlanKind::Rebuild { .. } => panic!("a catch-up does not carry out a rebuild"),
        };
        let held = match plan.needs() {
            None => None,
            Some(PinNeed { kind, lsn }) => {
                assert_eq!(kind, PinKind::History, "records are held by a history pin");
                Some(pin(lsn).map_err(|refused| refusal(lsn, &refused))?)
            }
        };
        Ok(Self {
            stamp: plan.stamp,
            range,
            pin: held,
        })
    }

    /// A plan for a replica that lacks nothing committed: only the join ships, and records above
    /// the committed point need no pin.
    pub fn zero_gap(stamp: SessionStamp, after: Lsn) -> Self {
        Self {
            stamp,
            range: nothing(after),
            pin: None,
        }
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

fn nothing(at: Lsn) -> LsnRange {
    LsnRange::new(at, at).expect("a position is not below itself")
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

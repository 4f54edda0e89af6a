//! Verdicts in, bound-able plans out: decides, and names every pin that the plan needs.
//!
//! A plan is made from one snapshot of the facts. Whoever carries it out first acquires all of
//! [`Plan::needs`] or none; from then on the pins hold the storage and the plan stays true whatever
//! the storage does. Executors take no policy input.

use moorline_types::{Lsn, LsnRange, ReplicaId};

use crate::{
    facts::{Impossible, Side},
    outcome::{Outcome, RebuildReason, Verdict},
    session::{PinKind, SessionStamp},
};

/// What to do for one session, decided once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The replica, and so the volume: session ids of two volumes may be equal.
    pub replica: ReplicaId,
    /// For whom; everything that the plan causes is gated by this.
    pub stamp: SessionStamp,
    /// What to do.
    pub kind: PlanKind,
}

/// The kinds of plans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlanKind {
    /// Join the live stream in this very step.
    ZeroGap {
        /// The replica's durable frontier.
        after: Lsn,
    },
    /// Cut the divergent tail, then join.
    TruncateOnly {
        /// The last record that stays.
        through: Lsn,
        /// The replica's durable frontier after the cut.
        after: Lsn,
    },
    /// Ship retained records.
    CatchUp {
        /// Cut to here first.
        truncate: Option<Lsn>,
        /// From the durable frontier through the frozen target.
        range: LsnRange,
    },
    /// Lay a base under the joined stream.
    Rebuild {
        /// From what.
        source: RebuildSource,
        /// How many extents the base has.
        extents: u64,
    },
}

/// One pin that a plan needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinNeed {
    /// What it holds.
    pub kind: PinKind,
    /// For history: records above it stay. For images: the image's LSN, and the records above it
    /// stay until the replica has received them.
    pub lsn: Lsn,
}

impl Plan {
    /// What must be held before the plan is carried out. A zero gap and a mere cut hold nothing.
    #[must_use]
    pub fn needs(&self) -> Option<PinNeed> {
        match &self.kind {
            PlanKind::ZeroGap { .. } | PlanKind::TruncateOnly { .. } => None,
            PlanKind::CatchUp { range, .. } => Some(PinNeed {
                kind: PinKind::History,
                lsn: range.after(),
            }),
            PlanKind::Rebuild { source, .. } => Some(PinNeed {
                kind: match source {
                    RebuildSource::SnapshotTail { .. } => PinKind::Snapshot,
                    RebuildSource::Delta { .. } => PinKind::Delta,
                    RebuildSource::FullBase { .. } => PinKind::FullBase,
                },
                lsn: source.base(),
            }),
        }
    }
}

/// Makes the plan that a verdict calls for.
///
/// # Errors
///
/// The reason, when records alone cannot help: a session of the rebuild kind is needed.
pub fn plan(
    replica: &ReplicaId,
    stamp: SessionStamp,
    verdict: &Verdict,
) -> Result<Plan, RebuildReason> {
    let kind = match (verdict.outcome, verdict.cut) {
        (Outcome::NeedsRebuild(reason), _) => return Err(reason),
        (Outcome::CatchUp(range), truncate) => PlanKind::CatchUp { truncate, range },
        (Outcome::ZeroGap, cut) => {
            let after = verdict
                .proof
                .frontier
                .expect("a zero gap is judged by its frontier");
            match cut {
                Some(through) => PlanKind::TruncateOnly { through, after },
                None => PlanKind::ZeroGap { after },
            }
        }
    };
    Ok(Plan {
        replica: replica.clone(),
        stamp,
        kind,
    })
}

/// Makes the plan of a rebuild, from one snapshot of the facts.
///
/// # Errors
///
/// [`Impossible`] with its numbers, when the facts cannot be true.
pub fn plan_rebuild(
    replica: &ReplicaId,
    stamp: SessionStamp,
    facts: &RebuildFacts,
) -> Result<(Plan, Vec<Unavailable>), Impossible> {
    facts.check()?;
    let SourceChoice {
        source,
        extents,
        refused,
    } = choose_source(facts);
    let plan = Plan {
        replica: replica.clone(),
        stamp,
        kind: PlanKind::Rebuild { source, extents },
    };
    Ok((plan, refused))
}

/// What the base of a rebuild is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RebuildSource {
    /// The image at the checkpoint, then the retained records above it.
    SnapshotTail {
        /// K_p.
        checkpoint: Lsn,
    },
    /// Every extent changed above L on either side, as committed now.
    Delta {
        /// L.
        above: Lsn,
        /// C_p when planned.
        at: Lsn,
    },
    /// The whole committed image.
    FullBase {
        /// C_p when planned.
        at: Lsn,
    },
}

impl RebuildSource {
    /// B: the base holds everything through here; the join ships what lies above. A checkpoint's
    /// image is of the checkpoint, any other of what was committed when the plan was made, which is
    /// the instant of the join too.
    #[must_use]
    pub const fn base(self) -> Lsn {
        match self {
            Self::SnapshotTail { checkpoint } => checkpoint,
            Self::Delta { at, .. } | Self::FullBase { at } => at,
        }
    }
}

/// Why a source could not be used; each refusal has its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unavailable {
    /// The source has no checkpoint.
    NoCheckpoint,
    /// It has one that it does not trust.
    UntrustedCheckpoint,
    /// It trusts the checkpoint, but not every record above it is retained.
    TrustedCheckpointUnreplayableTail,
    /// What the replica's image held at L is not known.
    ReplicaImageUntrusted,
    /// A last-changed map does not reach back to L.
    ChangeMapTooYoung,
    /// It would move more bytes than another source.
    MovesMoreBytes,
}

/// A checkpoint as the source sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checkpoint {
    /// There is none.
    None,
    /// There is one that was not verified.
    Untrusted(Lsn),
    /// The extents durably hold everything through here.
    Trusted(Lsn),
}

/// What the choice of a rebuild source follows from, in one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebuildFacts {
    /// K_p.
    pub checkpoint: Checkpoint,
    /// T_p (exclusive).
    pub tail: Lsn,
    /// H_p.
    pub head: Lsn,
    /// C_p.
    pub committed: Lsn,
    /// L, when the replica's image at L is known and trusted.
    pub trusted_common: Option<Lsn>,
    /// The source's last-changed map knows every change above here.
    pub source_map_from: Lsn,
    /// The replica's last-changed map knows every change above here.
    pub replica_map_from: Lsn,
    /// Extents of a whole image.
    pub image_extents: u64,
    /// Extents changed above L on either side; read only when a delta is possible.
    pub delta_extents: u64,
}

impl RebuildFacts {
    /// Whether these facts can be true together. A checkpoint below the tail is not asked about:
    /// it is a reason of its own, [`Unavailable::TrustedCheckpointUnreplayableTail`].
    /// `committed` is read under the ordering point: the plan is bound and the join begins in the
    /// same turn, so it is the committed point at the join too.
    ///
    /// # Errors
    ///
    /// The first contradiction, with its numbers.
    pub fn check(&self) -> Result<(), Impossible> {
        let (committed, head) = (self.committed, self.head);
        if committed > head {
            return Err(Impossible::CommittedPastHead { committed, head });
        }
        if self.tail > head {
            let tail = self.tail;
            return Err(Impossible::TailPastHead { tail, head });
        }
        if let Some(common) = self.trusted_common
            && common > head
        {
            return Err(Impossible::CommonPastHead { common, head });
        }
        let (delta, image) = (self.delta_extents, self.image_extents);
        if delta > image {
            return Err(Impossible::DeltaPastImage { delta, image });
        }
        match self.checkpoint {
            Checkpoint::Trusted(checkpoint) | Checkpoint::Untrusted(checkpoint)
                if checkpoint > committed =>
            {
                Err(Impossible::CheckpointPastApplied {
                    side: Side::Primary,
                    checkpoint,
                    applied: committed,
                })
            }
            Checkpoint::None | Checkpoint::Trusted(_) | Checkpoint::Untrusted(_) => Ok(()),
        }
    }
}

/// The chosen source, and why cheaper ones were not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceChoice {
    /// From what.
    pub source: RebuildSource,
    /// Extents to move.
    pub extents: u64,
    /// Why the others were refused, in the order they were tried.
    pub refused: Vec<Unavailable>,
}

/// Chooses the source of a rebuild: snapshot and tail, else delta, else the full base; a delta
/// first of all where it moves less.
#[must_use]
pub fn choose_source(facts: &RebuildFacts) -> SourceChoice {
    let snapshot = snapshot_source(facts);
    let delta = delta_source(facts);
    let mut refused: Vec<Unavailable> = snapshot.err().into_iter().chain(delta.err()).collect();
    let (source, extents) = match (snapshot, delta) {
        (Ok(_), Ok(delta)) if facts.delta_extents < facts.image_extents => {
            refused.push(Unavailable::MovesMoreBytes);
            (delta, facts.delta_extents)
        }
        (Ok(snapshot), Ok(_)) => {
            refused.push(Unavailable::MovesMoreBytes);
            (snapshot, facts.image_extents)
        }
        (Ok(snapshot), Err(_)) => (snapshot, facts.image_extents),
        (Err(_), Ok(delta)) => (delta, facts.delta_extents),
        (Err(_), Err(_)) => {
            let at = facts.committed;
            (RebuildSource::FullBase { at }, facts.image_extents)
        }
    };
    SourceChoice {
        source,
        extents,
        refused,
    }
}

fn snapshot_source(facts: &RebuildFacts) -> Result<RebuildSource, Unavailable> {
    match facts.checkpoint {
        Checkpoint::None => Err(Unavailable::NoCheckpoint),
        Checkpoint::Untrusted(_) => Err(Unavailable::UntrustedCheckpoint),
        Checkpoint::Trusted(checkpoint) if checkpoint >= facts.tail && checkpoint <= facts.head => {
            Ok(RebuildSource::SnapshotTail { checkpoint })
        }
        Checkpoint::Trusted(_) => Err(Unavailable::TrustedCheckpointUnreplayableTail),
    }
}

fn delta_source(facts: &RebuildFacts) -> Result<RebuildSource, Unavailable> {
    let above = facts
        .trusted_common
        .ok_or(Unavailable::ReplicaImageUntrusted)?;
    if facts.source_map_from > above || facts.replica_map_from > above {
        return Err(Unavailable::ChangeMapTooYoung);
    }
    let at = facts.committed;
    Ok(RebuildSource::Delta { above, at })
}

#[cfg(test)]
mod tests {
    use moorline_types::{Epoch, OpenCount, SessionId, VolumeId};

    use super::*;

    const FACTS: RebuildFacts = RebuildFacts {
        checkpoint: Checkpoint::Trusted(Lsn::new(40)),
        tail: Lsn::new(40),
        head: Lsn::new(60),
        committed: Lsn::new(55),
        trusted_common: Some(Lsn::new(20)),
        source_map_from: Lsn::new(20),
        replica_map_from: Lsn::new(20),
        image_extents: 100,
        delta_extents: 7,
    };

    #[test]
    fn each_source_is_chosen_where_it_serves_and_refused_with_its_reason() {
        use RebuildSource::{Delta, FullBase, SnapshotTail};
        use Unavailable as U;
        let snapshot = SnapshotTail {
            checkpoint: Lsn::new(40),
        };
        let delta = Delta {
            above: Lsn::new(20),
            at: Lsn::new(55),
        };
        let full = FullBase { at: Lsn::new(55) };
        let young = RebuildFacts {
            source_map_from: Lsn::new(21),
            ..FACTS
        };
        let table: Vec<(RebuildFacts, RebuildSource, &[U])> = vec![
            (FACTS, delta, &[U::MovesMoreBytes]),
            (
                RebuildFacts {
                    delta_extents: 100,
                    ..FACTS
                },
                snapshot,
                &[U::MovesMoreBytes],
            ),
            (young, snapshot, &[U::ChangeMapTooYoung]),
            (
                RebuildFacts {
                    replica_map_from: Lsn::new(21),
                    ..FACTS
                },
                snapshot,
                &[U::ChangeMapTooYoung],
            ),
            (
                RebuildFacts {
                    trusted_common: None,
                    ..FACTS
                },
                snapshot,
                &[U::ReplicaImageUntrusted],
            ),
            (
                RebuildFacts {
                    checkpoint: Checkpoint::None,
                    ..FACTS
                },
                delta,
                &[U::NoCheckpoint],
            ),
            (
                // The tail is exclusive: a tail at the checkpoint still has record K + 1.
                RebuildFacts {
                    tail: Lsn::new(41),
                    ..FACTS
                },
                delta,
                &[U::TrustedCheckpointUnreplayableTail],
            ),
            (
                RebuildFacts {
                    checkpoint: Checkpoint::Untrusted(Lsn::new(40)),
                    ..young
                },
                full,
                &[U::UntrustedCheckpoint, U::ChangeMapTooYoung],
            ),
        ];
        for (facts, source, refused) in table {
            let choice = choose_source(&facts);
            assert_eq!(choice.source, source, "{facts:?}");
            assert_eq!(choice.refused, refused, "{facts:?}");
        }
    }

    #[test]
    fn facts_that_cannot_be_are_no_choice_of_a_source() {
        let check = |change: fn(&mut RebuildFacts)| {
            let mut facts = FACTS;
            change(&mut facts);
            facts.check().map_err(|impossible| impossible.to_string())
        };
        let no = |text: &str| Err(text.to_owned());
        assert_eq!(check(|facts| facts.head = Lsn::new(55)), Ok(()));
        assert_eq!(
            check(|facts| facts.head = Lsn::new(54)),
            no("the primary's committed 55 is above its head 54")
        );
        assert_eq!(
            check(|facts| facts.checkpoint = Checkpoint::Trusted(facts.committed)),
            Ok(())
        );
        for above in [
            (|facts| facts.checkpoint = Checkpoint::Trusted(Lsn::new(56))) as fn(&mut RebuildFacts),
            |facts| facts.checkpoint = Checkpoint::Untrusted(Lsn::new(56)),
        ] {
            assert_eq!(
                check(above),
                no("the primary's checkpoint 56 is above applied 55")
            );
        }
        assert_eq!(
            check(|facts| facts.tail = Lsn::new(61)),
            no("the primary's tail 61 is above its head 60")
        );
        assert_eq!(check(|facts| facts.tail = facts.head), Ok(()));
        assert_eq!(
            check(|facts| facts.trusted_common = Some(Lsn::new(61))),
            no("the last common record 61 is above the primary's head 60")
        );
        assert_eq!(
            check(|facts| facts.trusted_common = Some(facts.head)),
            Ok(())
        );
        assert_eq!(
            check(|facts| facts.delta_extents = 101),
            no("101 extents are said to have changed of an image of 100")
        );
        // Nothing at all yet is a base of its own.
        let empty = RebuildFacts {
            checkpoint: Checkpoint::None,
            tail: Lsn::ZERO,
            head: Lsn::ZERO,
            committed: Lsn::ZERO,
            trusted_common: None,
            ..FACTS
        };
        assert_eq!(empty.check(), Ok(()));
        let full = RebuildSource::FullBase { at: Lsn::ZERO };
        assert_eq!(choose_source(&empty).source, full);
    }

    #[test]
    fn a_plan_pins_its_image_at_the_base_and_what_the_join_ships() {
        let replica = ReplicaId {
            volume: VolumeId::new(1),
            server: "s2".parse().unwrap(),
        };
        let stamp = SessionStamp {
            session: SessionId::new(OpenCount::new(1), 1),
            epoch: Epoch::new(1, 0),
        };
        let young = RebuildFacts {
            source_map_from: Lsn::new(21),
            ..FACTS
        };
        let bare = RebuildFacts {
            checkpoint: Checkpoint::None,
            ..young
        };
        // L may lie far below the tail: a pin there would be one that nobody can give.
        for (facts, kind, lsn, extents) in [
            (FACTS, PinKind::Delta, 55, 7),
            (young, PinKind::Snapshot, 40, 100),
            (bare, PinKind::FullBase, 55, 100),
        ] {
            let (plan, _refused) = plan_rebuild(&replica, stamp, &facts).unwrap();
            let lsn = Lsn::new(lsn);
            assert_eq!(plan.needs(), Some(PinNeed { kind, lsn }));
            let PlanKind::Rebuild { extents: got, .. } = plan.kind else {
                panic!("{plan:?}");
            };
            assert_eq!(got, extents);
        }
    }
}

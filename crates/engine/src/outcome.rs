//! Handshake facts in, verdict out: pure, with a proof.
//!
//! Subscripts p and r are primary and replica; F, C, H, T, K, A as in `docs/protocol.md`. L is the
//! last record common to both logs by epoch history, and only what lies at or below it counts:
//!
//! ```text
//! F := min(F_r, L)      F >= C_p         zero gap
//!                T_p <= F <  C_p         catch-up over (F, C_p]
//!                       F <  T_p         needs rebuild
//! L < H_r: cut to exactly L. L = H_r (a prefix of the primary's log): never cut, whatever C is.
//! ```
//!
//! A replica's divergent tail may be lost only where nobody ever called it committed: when the
//! replica knows a record above L to be committed and holds another one there than the primary, or
//! one that the primary does not have, committed data is missing and both sides stop, unless a
//! recorded decision gave it up. (A primary's own committed point above L is ordinary lag: its log
//! holds those records.)

use moorline_types::{Epoch, EpochStart, GivenUp, Lsn, LsnRange};

use crate::{
    facts::{Impossible, PrimaryFacts, ReplicaFacts},
    mutants::{Mutant, Mutants},
};

/// What has to happen to a replica, as far as its records go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It holds every committed record: it joins the live stream at once.
    ZeroGap,
    /// It lacks records that the primary retains. The range's end is the frozen target.
    CatchUp(LsnRange),
    /// Records alone cannot repair it.
    NeedsRebuild(RebuildReason),
}

/// Why records alone cannot repair a replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RebuildReason {
    /// The records that it lacks were reclaimed.
    GapBeyondRetention,
    /// Its extents hold records that were given up: the image is wrong above the cut.
    CutBelowApplied,
    /// Its image is marked incomplete or needing a rebuild.
    ReplicaIncomplete,
    /// The epoch histories do not reach far enough back to compare the logs.
    HistoryUnknown,
}

/// Why a verdict is what it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// F = C_p.
    ZeroGap,
    /// F > C_p, all of it in the primary's log.
    HoldsUncommittedPrefix,
    /// The logs part; after the cut nothing is missing.
    HistoriesDivergeAt,
    /// T_p <= F < C_p.
    GapWithinRetention,
    /// F < T_p.
    GapBeyondRetention,
    /// The cut lies below the applied mark.
    CutBelowApplied,
    /// The image is incomplete.
    ReplicaIncomplete,
    /// L is not known.
    HistoryUnknown,
}

/// The numbers that a verdict follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// Why.
    pub reason: Reason,
    /// L; `None` when the histories cannot be compared.
    pub last_common: Option<Lsn>,
    /// F = min(F_r, L): what counts of the replica's durable prefix.
    pub frontier: Option<Lsn>,
    /// F_r as answered.
    pub replica_flushed: Option<Lsn>,
    /// H_r.
    pub replica_head: Lsn,
    /// A_r.
    pub replica_applied: Lsn,
    /// C_r.
    pub replica_committed: Lsn,
    /// H_p.
    pub primary_head: Lsn,
    /// C_p, raised where the replica had news.
    pub primary_committed: Lsn,
    /// T_p (exclusive).
    pub primary_tail: Lsn,
}

/// The answer to a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What has to happen.
    pub outcome: Outcome,
    /// Cut the replica's log to exactly here first; until that is recorded nothing that it
    /// reported above counts. `None` when its log is a prefix of the primary's, and when the
    /// outcome is a rebuild, which replaces the log.
    pub cut: Option<Lsn>,
    /// The replica proved that more is committed than the primary knew: raise it to here.
    pub raise_committed: Option<Lsn>,
    /// The numbers.
    pub proof: Proof,
}

/// A record that somebody knows to be committed is not in the primary's log: both sides stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the replica knows {known} to be committed, but the logs agree only through {last_common:?} \
     and the primary's ends at {primary_head}"
)]
pub struct CommittedDataMissing {
    /// The committed point.
    pub known: Lsn,
    /// L; `None` when the histories cannot be compared.
    pub last_common: Option<Lsn>,
    /// H_p.
    pub primary_head: Lsn,
    /// C_p.
    pub primary_committed: Lsn,
    /// H_r.
    pub replica_head: Lsn,
}

/// Why there is no verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoVerdict {
    /// The facts contradict each other.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// Committed data is missing.
    #[error(transparent)]
    CommittedDataMissing(#[from] CommittedDataMissing),
}

/// Judges a replica by its facts.
///
/// # Errors
///
/// [`NoVerdict`] when the facts cannot be true, or when committed data is missing.
pub fn classify(
    primary: &PrimaryFacts<'_>,
    replica: &ReplicaFacts<'_>,
) -> Result<Verdict, NoVerdict> {
    classify_with(Mutants::NONE, primary, replica)
}

/// [`classify`], with planted bugs.
pub(crate) fn classify_with(
    mutants: Mutants,
    primary: &PrimaryFacts<'_>,
    replica: &ReplicaFacts<'_>,
) -> Result<Verdict, NoVerdict> {
    primary.check()?;
    replica.check()?;
    let common = compare(
        (primary.history, primary.head),
        (replica.history, replica.head),
    );
    let last_common = match common {
        Common::Through(lsn) => Some(lsn),
        Common::Unknown => None,
        Common::MeetAgain { part, again } => {
            return Err(Impossible::HistoriesMeetAgain { part, again }.into());
        }
    };
    let last_common = match mutants.has(Mutant::CutByLsn) {
        true => Some(primary.head.min(replica.head)),
        false => last_common,
    };
    check_nothing_committed_is_missing(primary, replica, last_common)?;

    let mut proof = Proof {
        reason: Reason::HistoryUnknown,
        last_common,
        frontier: None,
        replica_flushed: replica.flushed,
        replica_head: replica.head,
        replica_applied: replica.applied,
        replica_committed: replica.committed,
        primary_head: primary.head,
        primary_committed: primary.committed,
        primary_tail: primary.tail,
    };
    let flushed = match replica.flushed {
        Some(flushed) if !replica.is_incomplete() => flushed,
        Some(_) | None => return Ok(rebuild(proof, RebuildReason::ReplicaIncomplete)),
    };
    let Some(last_common) = last_common else {
        return Ok(rebuild(proof, RebuildReason::HistoryUnknown));
    };
    proof.frontier = Some(flushed.min(last_common));

    // Only a record that both logs hold is news; beyond that the replica's word names a record
    // that cannot be compared here, and the primary's own commit rule will get there.
    let news = replica.committed.max(replica.checkpoint);
    let raise_committed = (news > primary.committed && news <= last_common).then_some(news);
    proof.primary_committed = raise_committed.unwrap_or(primary.committed);

    if last_common < replica.applied {
        let mut verdict = rebuild(proof, RebuildReason::CutBelowApplied);
        verdict.raise_committed = raise_committed;
        return Ok(verdict);
    }
    let cut = cut(mutants, last_common, replica.head);
    let mut verdict = by_retention(proof, flushed.min(last_common), cut);
    verdict.raise_committed = raise_committed;
    Ok(verdict)
}

/// The last record common to both logs, each given as its epoch history and its head.
///
/// `None` when the histories do not reach far enough back, or contradict each other.
#[must_use]
pub fn last_common(one: (&[EpochStart], Lsn), other: (&[EpochStart], Lsn)) -> Option<Lsn> {
    match compare(one, other) {
        Common::Through(lsn) => Some(lsn),
        Common::Unknown | Common::MeetAgain { .. } => None,
    }
}

/// The epoch that wrote record `lsn` of a log; `None` outside of what its history covers.
#[must_use]
pub fn epoch_of(history: &[EpochStart], head: Lsn, lsn: Lsn) -> Option<Epoch> {
    if lsn > head {
        return None;
    }
    let at = history.partition_point(|start| start.first <= lsn);
    at.checked_sub(1).map(|index| history[index].epoch)
}

fn cut(mutants: Mutants, last_common: Lsn, replica_head: Lsn) -> Option<Lsn> {
    if mutants.has(Mutant::CutSkipped) {
        return None;
    }
    (last_common < replica_head).then_some(last_common)
}

fn by_retention(mut proof: Proof, frontier: Lsn, cut: Option<Lsn>) -> Verdict {
    let (outcome, reason) = if frontier >= proof.primary_committed {
        let reason = if cut.is_some() {
            Reason::HistoriesDivergeAt
        } else if frontier > proof.primary_committed {
            Reason::HoldsUncommittedPrefix
        } else {
            Reason::ZeroGap
        };
        (Outcome::ZeroGap, reason)
    } else if frontier >= proof.primary_tail {
        let range = LsnRange::new(frontier, proof.primary_committed)
            .expect("this branch is for frontiers below the committed point");
        (Outcome::CatchUp(range), Reason::GapWithinRetention)
    } else {
        return rebuild(proof, RebuildReason::GapBeyondRetention);
    };
    proof.reason = reason;
    Verdict {
        outcome,
        cut,
        raise_committed: None,
        proof,
    }
}

fn rebuild(mut proof: Proof, why: RebuildReason) -> Verdict {
    proof.reason = match why {
        RebuildReason::GapBeyondRetention => Reason::GapBeyondRetention,
        RebuildReason::CutBelowApplied => Reason::CutBelowApplied,
        RebuildReason::ReplicaIncomplete => Reason::ReplicaIncomplete,
        RebuildReason::HistoryUnknown => Reason::HistoryUnknown,
    };
    Verdict {
        outcome: Outcome::NeedsRebuild(why),
        cut: None,
        raise_committed: None,
        proof,
    }
}

/// A replica's committed point needs that record in the primary's log.
///
/// Absent: it is above H_p. Different: the replica holds its own record there, above L.
fn check_nothing_committed_is_missing(
    primary: &PrimaryFacts<'_>,
    replica: &ReplicaFacts<'_>,
    last_common: Option<Lsn>,
) -> Result<(), CommittedDataMissing> {
    // What an incomplete store says of its image is not believed, but what it was told is
    // committed in the volume is.
    let known = if replica.is_incomplete() {
        replica.committed
    } else {
        replica.committed.max(replica.checkpoint)
    };
    let absent = known > primary.head;
    let different = !replica.is_incomplete()
        && last_common.is_some_and(|common| common < known.min(replica.head));
    if !absent && !different {
        return Ok(());
    }
    let log = (replica.history, replica.head);
    let excused = last_common.is_some_and(|common| {
        [primary.given_up, replica.given_up]
            .into_iter()
            .any(|given_up| excused(given_up, (common, known), log))
    });
    if excused {
        return Ok(());
    }
    Err(CommittedDataMissing {
        known,
        last_common,
        primary_head: primary.head,
        primary_committed: primary.committed,
        replica_head: replica.head,
    })
}

/// Whether one recorded decision gave up all of `(common, known]` of a log with this history and
/// head: what one epoch wrote can only have been given up by a later one.
#[must_use]
pub fn excused(
    given_up: &[GivenUp],
    (common, known): (Lsn, Lsn),
    (history, head): (&[EpochStart], Lsn),
) -> bool {
    let last = history.last().map(|start| start.epoch);
    let written_by = epoch_of(history, head, known).or(last);
    given_up.iter().any(|given_up| {
        let covers = given_up.range.after() <= common && known <= given_up.range.through();
        covers && written_by.is_none_or(|epoch| epoch < given_up.epoch)
    })
}

/// How far two logs are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Common {
    /// Through this record and no further.
    Through(Lsn),
    /// The histories do not overlap in a record that both wrote in one epoch.
    Unknown,
    /// They part and agree again, which logs cannot do.
    MeetAgain { part: Lsn, again: Lsn },
}

/// Compares two logs by who wrote what.
///
/// One (epoch, LSN) names one record, and a log holding it holds everything that its writer held
/// before it. So logs agree up to some record and differ ever after; this finds it, and says so
/// when the histories do not behave that way.
fn compare(one: (&[EpochStart], Lsn), other: (&[EpochStart], Lsn)) -> Common {
    let end = one.1.min(other.1);
    if end == Lsn::ZERO {
        return Common::Through(Lsn::ZERO);
    }
    // A history begins at the first record that it can name the writer of.
    let first = |history: &[EpochStart]| history.first().map(|start| start.first);
    let (Some(one_first), Some(other_first)) = (first(one.0), first(other.0)) else {
        return Common::Unknown;
    };
    let begin = one_first.max(other_first);
    if begin > end {
        return Common::Unknown;
    }
    // Who wrote changes only where an epoch starts, so one look per start is enough.
    let mut looks: Vec<Lsn> = one
        .0
        .iter()
        .chain(other.0)
        .map(|start| start.first)
        .collect();
    looks.retain(|&lsn| begin <= lsn && lsn <= end);
    looks.sort_unstable();
    looks.dedup();
    let mut parted: Option<Lsn> = None;
    for &lsn in &looks {
        let agree = epoch_of(one.0, one.1, lsn) == epoch_of(other.0, other.1, lsn);
        match (agree, parted) {
            (true, Some(at)) => {
                let part = at.previous().expect("records start at 1");
                return Common::MeetAgain { part, again: lsn };
            }
            (false, None) => parted = Some(lsn),
            (true, None) | (false, Some(_)) => {}
        }
    }
    match parted {
        None => Common::Through(end),
        Some(at) if at > begin => Common::Through(at.previous().expect("records start at 1")),
        // Different from the first record that both can name: the start, or we cannot know.
        Some(at) if at == Lsn::new(1) => Common::Through(Lsn::ZERO),
        Some(_) => Common::Unknown,
    }
}

#[cfg(test)]
mod tests;

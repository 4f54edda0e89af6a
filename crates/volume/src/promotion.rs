//! What the answers to a promise round allow: pure.
//!
//! A candidate asks all seats; each answer is what one replica durably holds. [`decide`] says
//! whether that is enough, which log is the best, what the candidate must cut and fetch to hold it,
//! and what is committed. Rules `PROM-3` to `PROM-8` of `docs/protocol.md`.

use std::collections::BTreeMap;

use moorline_engine::{epoch_of, last_common};
use moorline_types::{AckPoint, AssignmentLine, Epoch, Instant, Lsn, LsnRange, Policy, ServerId};
use moorline_wire::{ImageState, ReplicaFacts};

use crate::{
    commit::majority,
    mutants::{Mutant, Mutants},
};

/// A store's claim to its seat, as the recorded line sees it (`VOTE-1`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    /// The recorded store, not rolled back, whole.
    Counts,
    /// It keeps its seat; nothing that it says counts.
    DoesNot(NoVoteReason),
}

/// Why a store has no vote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoVoteReason {
    /// The server has no seat in the line.
    NotMember,
    /// No store is recorded for the seat yet.
    NotRecorded,
    /// Another store is recorded: this one is new, wiped or swapped.
    OtherStore,
    /// Its open counter is below one that was seen: an older image was put back.
    RolledBack,
    /// A rebuild into it has not finished.
    Incomplete,
    /// It needs a rebuild.
    NeedsRebuild,
}

/// Judges a store's vote by the recorded line.
#[must_use]
pub fn vote_of(facts: &ReplicaFacts, line: &AssignmentLine, mutants: Mutants) -> Vote {
    let Some(member) = line.member(&facts.server) else {
        return Vote::DoesNot(NoVoteReason::NotMember);
    };
    let image = image_vote(facts);
    if mutants.has(Mutant::StoreIdentityIgnored) {
        return image;
    }
    let Some(recorded) = member.store else {
        return Vote::DoesNot(NoVoteReason::NotRecorded);
    };
    if recorded != facts.store {
        return Vote::DoesNot(NoVoteReason::OtherStore);
    }
    let by_another = member.opened_by.is_some_and(|boot| boot != facts.boot);
    if facts.open < member.open || (facts.open == member.open && by_another) {
        return Vote::DoesNot(NoVoteReason::RolledBack);
    }
    image
}

fn image_vote(facts: &ReplicaFacts) -> Vote {
    match facts.image {
        // It still knows what it promised and what its log holds (`VOTE-5`).
        ImageState::Whole | ImageState::NeedsRebuild => Vote::Counts,
        ImageState::Incomplete => Vote::DoesNot(NoVoteReason::Incomplete),
    }
}

/// What a promise round came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Too few answers yet.
    Wait,
    /// Enough answers, but one that could end a doubt is missing; wait until then.
    WaitForDoubt {
        /// From here on the doubt is given up.
        until: Instant,
    },
    /// A member persisted a newer line: take it over and start again, or be fenced by it.
    NewerLine(Box<AssignmentLine>),
    /// The candidate may not open: it names who could.
    Decline(DeclineReason),
    /// Hold the best log and open the epoch.
    Adopt(Adoption),
}

/// Why a candidate may not open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeclineReason {
    /// Its own store has no vote.
    NoVote(NoVoteReason),
    /// Under `sync_all` only a member of the in-sync set may open.
    NotInSync,
    /// The best log parts from its own below what its extents hold.
    CutBelowApplied {
        /// Who holds the best log.
        better: ServerId,
    },
    /// No member that promised retains what it lacks.
    LacksRecords {
        /// Who holds the best log.
        better: ServerId,
    },
    /// A committed record is in no log that promised: never opened without an operator.
    CommittedDataMissing {
        /// Known to be committed.
        known: Lsn,
        /// The best log ends here.
        best: Lsn,
    },
}

/// How the candidate comes to hold the best log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// Cut its own log to exactly here first.
    pub cut: Option<Lsn>,
    /// Then fetch these.
    pub fetch: Option<LsnRange>,
    /// From any of these, best first.
    pub sources: Vec<ServerId>,
    /// Known to be committed; nothing above is, until the epoch's mark commits.
    pub committed: Lsn,
    /// Doubtful records that nobody could confirm, given up with an event.
    pub given_up: Option<LsnRange>,
    /// At ack point `received`: acknowledged records that no log holds.
    pub volatile_loss: Option<LsnRange>,
}

/// Everything that a decision follows from.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// The line that the candidate counts by.
    pub line: &'a AssignmentLine,
    /// Its own facts, its promise persisted.
    pub own: &'a ReplicaFacts,
    /// The other members' promises of this very epoch.
    pub answers: &'a BTreeMap<ServerId, ReplicaFacts>,
    /// Until when a doubt is worth waiting for.
    pub doubt_until: Instant,
    /// The current instant.
    pub now: Instant,
    /// Planted bugs.
    pub mutants: Mutants,
}

/// Decides what a promise round came to.
#[must_use]
pub fn decide(round: Round<'_>) -> Decision {
    if let Some(newer) = newest_line(&round) {
        return Decision::NewerLine(Box::new(newer));
    }
    if let Vote::DoesNot(reason) = vote_of(round.own, round.line, round.mutants) {
        return Decision::Decline(DeclineReason::NoVote(reason));
    }
    if round.own.image == ImageState::NeedsRebuild {
        return Decision::Decline(DeclineReason::NoVote(NoVoteReason::NeedsRebuild));
    }
    if round.line.policy == Policy::SyncAll && !round.line.is_in_sync(&round.own.server) {
        return Decision::Decline(DeclineReason::NotInSync);
    }
    let counted = counted(&round);
    if !is_enough(&round, &counted) {
        return Decision::Wait;
    }
    let best = best_log(round.own, &counted);
    let doubtful = doubt(&counted, round.own, best.head);
    let all_answered = round.answers.len() + 1 >= round.line.members.len();
    if doubtful.is_some() && !all_answered && round.now < round.doubt_until {
        return Decision::WaitForDoubt {
            until: round.doubt_until,
        };
    }
    adopt(&round, &counted, best, doubtful)
}

fn newest_line(round: &Round<'_>) -> Option<AssignmentLine> {
    let lines = round
        .answers
        .values()
        .filter_map(|facts| facts.line.as_ref());
    let newest = lines.max_by_key(|line| line.version())?;
    (newest.version() > round.line.version()).then(|| newest.clone())
}

/// The answers that count, the candidate's own not among them.
fn counted<'a>(round: &Round<'a>) -> Vec<&'a ReplicaFacts> {
    round
        .answers
        .values()
        .filter(|facts| vote_of(facts, round.line, round.mutants) == Vote::Counts)
        .filter(|facts| {
            round.line.policy != Policy::SyncAll || round.line.is_in_sync(&facts.server)
        })
        .collect()
}

fn is_enough(round: &Round<'_>, counted: &[&ReplicaFacts]) -> bool {
    match round.line.policy {
        Policy::BestEffort => true,
        Policy::SyncQuorum => counted.len() + 1 >= majority(round.line.members.len()),
        Policy::SyncAll => {
            if round.line.ack == AckPoint::Flushed || !boot_changed(round.own, round.line) {
                return true;
            }
            // Its memory is gone: every in-sync member must say what it still holds.
            let others = round
                .line
                .in_sync
                .iter()
                .filter(|server| **server != round.own.server);
            others
                .into_iter()
                .all(|server| counted.iter().any(|facts| facts.server == *server))
        }
    }
}

fn boot_changed(facts: &ReplicaFacts, line: &AssignmentLine) -> bool {
    let recorded = line.member(&facts.server).and_then(|member| member.boot);
    recorded.is_some_and(|boot| boot != facts.boot)
}

/// Highest epoch of the last record, then highest head; never the promised epoch.
fn best_log<'a>(own: &'a ReplicaFacts, counted: &[&'a ReplicaFacts]) -> &'a ReplicaFacts {
    // The candidate's own comes last: of equals `max_by_key` takes the last, which costs no fetch.
    counted
        .iter()
        .copied()
        .chain([own])
        .max_by_key(|facts| rank(facts))
        .unwrap_or(own)
}

fn rank(facts: &ReplicaFacts) -> (Epoch, Lsn) {
    let last = epoch_of(&facts.history, facts.head, facts.head).unwrap_or(Epoch::ZERO);
    (last, facts.head)
}

/// Records above the best head that a torn end may have held.
fn doubt(counted: &[&ReplicaFacts], own: &ReplicaFacts, best: Lsn) -> Option<LsnRange> {
    let through = counted
        .iter()
        .copied()
        .chain([own])
        .filter_map(|facts| facts.doubtful)
        .map(LsnRange::through)
        .max()?;
    LsnRange::new(best, through).filter(|range| !range.is_empty())
}

fn adopt(
    round: &Round<'_>,
    counted: &[&ReplicaFacts],
    best: &ReplicaFacts,
    given_up: Option<LsnRange>,
) -> Decision {
    let own = round.own;
    let everyone = || counted.iter().copied().chain([own]);
    let committed = everyone()
        .map(|facts| facts.committed.max(facts.applied).max(facts.checkpoint))
        .max()
        .unwrap_or(own.committed);
    if committed > best.head {
        let missing = DeclineReason::CommittedDataMissing {
            known: committed,
            best: best.head,
        };
        return Decision::Decline(missing);
    }
    let common = last_common((&best.history, best.head), (&own.history, own.head));
    let better = best.server.clone();
    let Some(common) = common else {
        return Decision::Decline(DeclineReason::LacksRecords { better });
    };
    let cut = (common < own.head).then_some(common);
    if cut.is_some_and(|through| through < own.applied) {
        return Decision::Decline(DeclineReason::CutBelowApplied { better });
    }
    let fetch = LsnRange::new(common, best.head).filter(|range| !range.is_empty());
    let mut sources: Vec<&ReplicaFacts> = counted
        .iter()
        .copied()
        .filter(|facts| fetch.is_some_and(|range| holds(facts, best, range)))
        .collect();
    sources.sort_by_key(|facts| std::cmp::Reverse(rank(facts)));
    if fetch.is_some() && sources.is_empty() {
        return Decision::Decline(DeclineReason::LacksRecords { better });
    }
    let acknowledged = everyone()
        .map(|facts| facts.acknowledged)
        .max()
        .unwrap_or(Lsn::ZERO);
    let volatile_loss = match round.line.ack {
        AckPoint::Flushed => None,
        AckPoint::Received => {
            LsnRange::new(best.head, acknowledged).filter(|range| !range.is_empty())
        }
    };
    Decision::Adopt(Adoption {
        cut,
        fetch,
        sources: sources
            .into_iter()
            .map(|facts| facts.server.clone())
            .collect(),
        committed,
        given_up,
        volatile_loss,
    })
}

/// Whether a member's log is the best one's through the whole range and retains it.
fn holds(facts: &ReplicaFacts, best: &ReplicaFacts, range: LsnRange) -> bool {
    let common = last_common((&best.history, best.head), (&facts.history, facts.head));
    facts.tail <= range.after() && common.is_some_and(|lsn| lsn >= range.through())
}

#[cfg(test)]
mod tests;

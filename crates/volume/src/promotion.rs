//! What the answers to a promise round allow: pure.
//!
//! A candidate asks all seats; each answer is what one replica durably holds. [`decide`] says
//! whether that is enough, which log is the best, what the candidate must cut and fetch to hold it,
//! and what is committed. Rules `PROM-3` to `PROM-8` of `docs/protocol.md`.

use std::collections::BTreeMap;

use moorline_engine::{epoch_of, excused, last_common};
use moorline_types::{
    AckPoint, AssignmentLine, Epoch, GivenUp, GivenUpWhy, Instant, Lsn, LsnRange,
    MARK_GIVEN_UP_MAX, Member, Policy, ServerId,
};
use moorline_wire::{ImageState, MemoryState, ReplicaFacts};

use crate::{
    commit::majority,
    losses,
    mutants::{Mutant, Mutants},
    replica::OnVolatileLoss,
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
    /// An opening that was seen of it is not one of its own: an older image was put back.
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
    if !descends(facts, member) {
        return Vote::DoesNot(NoVoteReason::RolledBack);
    }
    image
}

/// Whether the store still has the opening that is recorded of it.
fn descends(facts: &ReplicaFacts, member: &Member) -> bool {
    match member.opening() {
        Some(recorded) => facts.openings.descends_from(recorded),
        None => facts.open >= member.open,
    }
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
    /// Under `sync_all` at ack point `received`: its own memory is lost, and members of the
    /// in-sync set did not say in time what theirs holds.
    MemoryLost {
        /// Who did not answer.
        without: Vec<ServerId>,
    },
    /// There is no room for what was given up.
    GivenUpFull,
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
    /// What was given up, now or before: durable before anything else is done (`CUT-6`). The
    /// epoch's mark announces those that name it.
    pub given_up: Vec<GivenUp>,
    /// The highest record that any answer knows to have been acknowledged.
    pub acknowledged: Lsn,
}

impl Adoption {
    /// What the mark of `epoch` is to announce.
    pub fn announced(&self, epoch: Epoch) -> impl Iterator<Item = &GivenUp> {
        self.given_up
            .iter()
            .filter(move |given_up| given_up.mark == epoch)
    }
}

/// Everything that a decision follows from.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// The epoch that the candidate is to open.
    pub epoch: Epoch,
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
    /// Whether clients wait for an operator when acknowledged records may be lost.
    pub on_volatile_loss: OnVolatileLoss,
    /// An operator accepted the losses that marks of epochs through this one announced.
    pub loss_accepted: Option<Epoch>,
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
    match enough(&round, &counted) {
        Enough::Yes => {}
        Enough::NotYet => return Decision::Wait,
        Enough::MemoryLost { without: _ } if round.now < round.doubt_until => {
            return Decision::WaitForDoubt {
                until: round.doubt_until,
            };
        }
        Enough::MemoryLost { without } => {
            return Decision::Decline(DeclineReason::MemoryLost { without });
        }
    }
    let best = best_log(&round, &counted);
    let doubtful = doubt(&counted, round.own, best.head);
    let losses = Losses {
        doubtful,
        volatile: volatile_loss(&round, &counted, best.head),
    };
    let doubts = losses.doubtful.is_some() || losses.volatile.is_some();
    let all_answered = round.answers.len() + 1 >= round.line.members.len();
    if doubts && !all_answered && round.now < round.doubt_until {
        return Decision::WaitForDoubt {
            until: round.doubt_until,
        };
    }
    adopt(&round, &counted, best, losses)
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

/// Whether the answers allow a decision (`PROM-3`).
enum Enough {
    Yes,
    NotYet,
    /// Its own memory is gone: every in-sync member must say what it still holds.
    MemoryLost {
        without: Vec<ServerId>,
    },
}

fn enough(round: &Round<'_>, counted: &[&ReplicaFacts]) -> Enough {
    let line = round.line;
    match line.policy {
        Policy::BestEffort => Enough::Yes,
        Policy::SyncQuorum
            if round.mutants.has(Mutant::PromotesWithoutMajority)
                && counted.len() + 2 >= majority(line.members.len()) =>
        {
            Enough::Yes
        }
        Policy::SyncQuorum if counted.len() + 1 >= majority(line.members.len()) => Enough::Yes,
        Policy::SyncQuorum => Enough::NotYet,
        Policy::SyncAll => {
            if line.ack == AckPoint::Flushed || remembers(round, round.own) {
                return Enough::Yes;
            }
            let without: Vec<ServerId> = line
                .in_sync
                .iter()
                .filter(|server| **server != round.own.server)
                .filter(|server| counted.iter().all(|facts| facts.server != **server))
                .cloned()
                .collect();
            if without.is_empty() {
                Enough::Yes
            } else {
                Enough::MemoryLost { without }
            }
        }
    }
}

fn remembers(round: &Round<'_>, facts: &ReplicaFacts) -> bool {
    facts.memory == MemoryState::Intact || round.mutants.has(Mutant::MemoryLossIgnored)
}

/// Whether the answers whose memory is intact meet every set that could have acknowledged a record
/// (`PROM-12`).
fn memory_meets_every_set(round: &Round<'_>, counted: &[&ReplicaFacts]) -> bool {
    let others = counted.iter().filter(|facts| remembers(round, facts));
    let intact = others.count() + usize::from(remembers(round, round.own));
    match round.line.policy {
        Policy::SyncQuorum => intact >= majority(round.line.members.len()),
        // Who counts is in the in-sync set, and every one of it received what was acknowledged.
        Policy::SyncAll => intact > 0,
        // What another primary held alone is lost with consent.
        Policy::BestEffort => remembers(round, round.own),
    }
}

/// Records above the best log that were given up just now.
struct Losses {
    doubtful: Option<LsnRange>,
    volatile: Option<LsnRange>,
}

/// At ack point `received`: everything above the best log, unless it is certain that nothing there
/// was acknowledged (`INV-28`).
fn volatile_loss(round: &Round<'_>, counted: &[&ReplicaFacts], best: Lsn) -> Option<LsnRange> {
    match round.line.ack {
        AckPoint::Flushed => None,
        AckPoint::Received => {
            let certain =
                memory_meets_every_set(round, counted) && acknowledged(round.own, counted) <= best;
            (!certain).then(|| LsnRange::new(best, Lsn::MAX).expect("nothing is above MAX"))
        }
    }
}

/// The highest record that any answer knows to have been acknowledged.
fn acknowledged(own: &ReplicaFacts, counted: &[&ReplicaFacts]) -> Lsn {
    let others = counted.iter().map(|facts| facts.acknowledged);
    others.fold(own.acknowledged, Lsn::max)
}

/// Highest epoch of the last record, then highest head; never the promised epoch.
fn best_log<'a>(round: &Round<'a>, counted: &[&'a ReplicaFacts]) -> &'a ReplicaFacts {
    let own = round.own;
    // The candidate's own comes last: of equals `max_by_key` takes the last, which costs no fetch.
    counted
        .iter()
        .copied()
        .chain([own])
        .max_by_key(|facts| match round.mutants.has(Mutant::RankByHead) {
            true => (Epoch::ZERO, facts.head),
            false => rank(facts),
        })
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

/// What the candidate keeps and announces (`PROM-7`, `PROM-12`, `PROM-13`).
fn given_up(
    round: &Round<'_>,
    counted: &[&ReplicaFacts],
    best: &ReplicaFacts,
    losses: &Losses,
) -> Result<Vec<GivenUp>, losses::GivenUpFull> {
    let mut known: Vec<GivenUp> = Vec::new();
    for facts in counted.iter().copied().chain([round.own]) {
        known = losses::merge(&known, facts.given_up.iter().copied(), &best.history)?;
    }
    let stands: Vec<GivenUp> = losses::standing(&known, &best.history).copied().collect();
    for given_up in &mut known {
        // What no mark of the best log announces is announced by its own, with its first cause;
        // and for what clients wait they go on waiting.
        let stood = stands.contains(given_up);
        if !losses::is_announced(given_up, &best.history) || stood {
            if given_up.why.is_volatile() {
                given_up.why = match is_accepted(round, given_up, stood) {
                    true => GivenUpWhy::VolatileCleared,
                    false => volatile_why(round.on_volatile_loss),
                };
            }
            given_up.mark = round.epoch;
        }
    }
    let new = [
        (losses.doubtful, GivenUpWhy::Doubtful),
        (losses.volatile, volatile_why(round.on_volatile_loss)),
    ];
    for (range, why) in new {
        let Some(range) = range else { continue };
        let told = known.iter().any(|given_up| {
            given_up.mark == round.epoch
                && given_up.why.is_volatile() == why.is_volatile()
                && given_up.range.after() <= range.after()
                && range.through() <= given_up.range.through()
        });
        if !told {
            let (epoch, mark) = (round.epoch, round.epoch);
            let given_up = GivenUp {
                epoch,
                range,
                why,
                mark,
            };
            known = losses::merge(&known, [given_up], &best.history)?;
        }
    }
    let announced = known.iter().filter(|given_up| given_up.mark == round.epoch);
    if announced.count() > MARK_GIVEN_UP_MAX {
        return Err(losses::GivenUpFull);
    }
    Ok(known)
}

/// Whether an operator accepted this very loss: one that a mark had announced, and that stood. What
/// a candidate finds beyond it, nobody had seen.
fn is_accepted(round: &Round<'_>, given_up: &GivenUp, stood: bool) -> bool {
    let Some(through) = round.loss_accepted else {
        return false;
    };
    // A candidate that carried it as cleared may have died before its mark reached anyone.
    let cleared = given_up.why == GivenUpWhy::VolatileCleared && given_up.epoch <= through;
    cleared || (stood && given_up.mark <= through)
}

const fn volatile_why(on_volatile_loss: OnVolatileLoss) -> GivenUpWhy {
    match on_volatile_loss {
        OnVolatileLoss::Stop => GivenUpWhy::VolatileStands,
        OnVolatileLoss::Continue => GivenUpWhy::VolatileCleared,
    }
}

/// What these facts prove to be committed in the log of the best: what was given up long ago is
/// not.
fn committed_by(facts: &ReplicaFacts, best: &ReplicaFacts, before: &[GivenUp]) -> Lsn {
    let known = facts.committed.max(facts.applied).max(facts.checkpoint);
    if known <= best.head {
        return known;
    }
    let common = last_common((&best.history, best.head), (&facts.history, facts.head));
    match common {
        Some(common) if excused(before, (common, known), (&facts.history, facts.head)) => {
            facts.applied.max(facts.checkpoint).min(common)
        }
        Some(_) | None => known,
    }
}

fn adopt(
    round: &Round<'_>,
    counted: &[&ReplicaFacts],
    best: &ReplicaFacts,
    losses: Losses,
) -> Decision {
    let own = round.own;
    let everyone = || counted.iter().copied().chain([own]);
    let Ok(given_up) = given_up(round, counted, best, &losses) else {
        return Decision::Decline(DeclineReason::GivenUpFull);
    };
    // A decision of this very round excuses nothing.
    let before: Vec<GivenUp> = given_up
        .iter()
        .filter(|given_up| given_up.epoch < round.epoch)
        .copied()
        .collect();
    let committed = everyone()
        .map(|facts| committed_by(facts, best, &before))
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
    let common = match round.mutants.has(Mutant::OwnCutSkipped) {
        true => own.head.min(best.head),
        false => common,
    };
    let cut = (common < own.head).then_some(common);
    if cut.is_some_and(|through| through < own.applied) {
        return Decision::Decline(DeclineReason::CutBelowApplied { better });
    }
    let fetch = LsnRange::new(common, best.head)
        .filter(|range| !range.is_empty() && !round.mutants.has(Mutant::FetchSkipped));
    let mut sources: Vec<&ReplicaFacts> = counted
        .iter()
        .copied()
        .filter(|facts| fetch.is_some_and(|range| holds(facts, best, range)))
        .collect();
    sources.sort_by_key(|facts| std::cmp::Reverse(rank(facts)));
    if fetch.is_some() && sources.is_empty() {
        return Decision::Decline(DeclineReason::LacksRecords { better });
    }
    let acknowledged = acknowledged(own, counted);
    let announces_loss = given_up
        .iter()
        .any(|given_up| given_up.mark == round.epoch && given_up.why.is_volatile());
    assert!(
        round.line.ack == AckPoint::Flushed
            || announces_loss
            || (acknowledged <= best.head && memory_meets_every_set(round, counted)),
        "INV-28: a loss is ruled out by intact memory that meets every acknowledging set"
    );
    Decision::Adopt(Adoption {
        cut,
        fetch,
        sources: sources
            .into_iter()
            .map(|facts| facts.server.clone())
            .collect(),
        committed,
        given_up,
        acknowledged,
    })
}

/// Whether a member's log is the best one's through the whole range and retains it.
fn holds(facts: &ReplicaFacts, best: &ReplicaFacts, range: LsnRange) -> bool {
    let common = last_common((&best.history, best.head), (&facts.history, facts.head));
    facts.tail <= range.after() && common.is_some_and(|lsn| lsn >= range.through())
}

#[cfg(test)]
mod tests;

//! Promotion: collect promises, hold the best log, open the epoch with a mark.
//!
//! ```text
//! OwnPromise --(durable, log flushed)--> Collecting --(enough)--> Recording --> Cutting --> Fetching --> Flushing --> Reign
//!                                            ^ a newer line: again by that line
//! Recording: what was given up becomes durable before anything is done about it (`CUT-6`)
//! ```

use std::{collections::BTreeMap, time::Duration};

use moorline_blockvol::AppendError;
use moorline_types::{Epoch, GivenUp, GivenUpWhy, Instant, Lsn, LsnRange, ServerId};
use moorline_wal::{Record, decode_records};
use moorline_wire::{
    Fetch, FetchOutcome, Fetched, PromiseRefusal, PromiseRefused, PromiseRequest, ReplicaFacts,
    VolumeHeader, VolumeMessage, control::PromotionFailure,
};

use super::{Ctx, Reign, Replica, Role, lines::is_promise_of};
use crate::{
    journal::{AfterLoss, Happening, StepDownReason},
    lease::Reign as ReignId,
    mutants::Mutant,
    node::Peer,
    promotion::{Adoption, Decision, DeclineReason, Round, decide},
};

/// Between two requests to a member that has not answered: a few round trips of a slow network.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// One piece of a fetch; small enough that a source answers it within [`FETCH_OVERDUE`].
const FETCH_BYTES_MAX: u32 = 4 << 20;

/// After this long another source is asked.
const FETCH_OVERDUE: Duration = Duration::from_millis(500);

/// Between two attempts to append the mark to a full log.
const MARK_AGAIN: Duration = Duration::from_millis(50);

/// After so many fruitless requests to every source the candidate declines.
const FETCH_ROUNDS_MAX: usize = 3;

/// A server that asks for promises.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Candidate {
    pub(super) reign: ReignId,
    answers: BTreeMap<ServerId, ReplicaFacts>,
    ask_again: BTreeMap<ServerId, Instant>,
    started: Instant,
    phase: Phase,
    /// The log had no room for the mark: tried again then.
    mark_again: Option<Instant>,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Phase {
    OwnPromise,
    Collecting {
        doubt_until: Option<Instant>,
    },
    Recording(Adoption),
    Cutting(Adoption),
    Fetching {
        adoption: Adoption,
        through: Lsn,
        asked: Option<Asked>,
        source: usize,
        /// Answers and silences in a row that brought no record.
        fruitless: usize,
    },
    Flushing(Adoption),
}

/// A piece of the log that is being fetched.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Asked {
    from: ServerId,
    range: LsnRange,
    overdue: Instant,
}

impl Candidate {
    pub(super) fn new(now: Instant, reign: ReignId) -> Self {
        Self {
            reign,
            answers: BTreeMap::new(),
            ask_again: BTreeMap::new(),
            started: now,
            phase: Phase::OwnPromise,
            mark_again: None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::OwnPromise | Phase::Recording(_) | Phase::Cutting(_) => None,
            Phase::Flushing(_) => self.mark_again,
            Phase::Collecting { doubt_until } => {
                let unanswered = self
                    .ask_again
                    .iter()
                    .filter(|(server, _)| !self.answers.contains_key(*server));
                unanswered.map(|(_, due)| *due).chain(*doubt_until).min()
            }
            Phase::Fetching { asked, .. } => asked.as_ref().map(|asked| asked.overdue),
        }
    }
}

impl Replica {
    pub(super) fn candidate_tick(&mut self, ctx: &mut Ctx<'_>) {
        self.ask_members(ctx);
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.mark_again = None;
        }
        if let Role::Candidate(candidate) = &mut self.role
            && let Phase::Fetching {
                asked,
                source,
                fruitless,
                ..
            } = &mut candidate.phase
            && asked.as_ref().is_some_and(|asked| asked.overdue <= ctx.now)
        {
            *asked = None;
            *source += 1;
            *fruitless += 1;
        }
        self.candidate_progress(ctx);
    }

    /// Goes on as far as what is durable and answered allows.
    pub(super) fn candidate_progress(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let (head, flushed) = (self.store.log().head(), self.store.log().flushed());
        match &candidate.phase {
            Phase::OwnPromise => {
                let promised = self.store.durable().promised.as_ref();
                let own = is_promise_of(promised, &candidate.reign)
                    || ctx.me.mutants.has(Mutant::AsksBeforeOwnPromise);
                if own && flushed == head {
                    candidate.phase = Phase::Collecting { doubt_until: None };
                    candidate.started = ctx.now;
                    self.ask_members(ctx);
                    self.decide_promotion(ctx);
                }
            }
            Phase::Collecting { .. } => self.decide_promotion(ctx),
            Phase::Recording(_) => {
                if self.losses_are_durable() {
                    self.cut_to_best(ctx);
                }
            }
            // `candidate_cut` goes on when the cut is durable.
            Phase::Cutting(_) => {}
            Phase::Fetching { through, .. } => {
                if head == *through {
                    self.candidate_flushes(ctx);
                } else {
                    self.fetch_more(ctx);
                }
            }
            Phase::Flushing(_) => {
                if flushed == head {
                    self.open_epoch(ctx);
                }
            }
        }
    }

    /// Asks every member that has not answered and is due to be asked.
    pub(super) fn ask_members(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = &self.line else { return };
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        if !matches!(candidate.phase, Phase::Collecting { .. }) {
            return;
        }
        let epoch = candidate.reign.epoch;
        let request = PromiseRequest {
            server: ctx.me.server.clone(),
            boot: ctx.me.boot,
            line: line.clone(),
        };
        let mut asked = Vec::new();
        for member in &line.members {
            let due = candidate
                .ask_again
                .get(&member.server)
                .is_none_or(|&due| due <= ctx.now);
            if member.server == ctx.me.server
                || candidate.answers.contains_key(&member.server)
                || !due
            {
                continue;
            }
            candidate
                .ask_again
                .insert(member.server.clone(), ctx.now.after(ASK_AGAIN));
            asked.extend(ctx.links.dialed(&member.server));
        }
        let mut header = self.header(0, epoch);
        header.config = line.config;
        for link in asked {
            self.send(
                ctx,
                link,
                header,
                VolumeMessage::PromiseRequest(Box::new(request.clone())),
            );
        }
    }

    /// A connection to a member stands: ask at once.
    pub(super) fn candidate_link_up(&mut self, ctx: &mut Ctx<'_>, server: &ServerId) {
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.ask_again.remove(server);
            self.ask_members(ctx);
        }
    }

    pub(super) fn on_promise(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        facts: ReplicaFacts,
    ) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let ours = header.epoch == candidate.reign.epoch
            && facts.server == from.server
            && facts.boot == from.boot
            && facts.promised.as_ref().is_some_and(|promised| {
                promised.epoch == candidate.reign.epoch
                    && promised.server == candidate.reign.server
                    && promised.boot == candidate.reign.boot
            });
        if !ours {
            return;
        }
        // Who holds records of a later epoch promised that one before: this candidate was deposed
        // (`CUT-1`).
        let last = facts.history.last().map(|start| start.epoch);
        if let Some(later) = last.filter(|last| *last > candidate.reign.epoch) {
            self.step_down(ctx, StepDownReason::HigherEpoch(later));
            return;
        }
        candidate.ask_again.remove(&from.server);
        candidate.answers.insert(from.server.clone(), facts);
        self.candidate_progress(ctx);
    }

    pub(super) fn on_promise_refused(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        refused: PromiseRefused,
    ) {
        if self.leading_epoch() != Some(header.epoch) {
            return;
        }
        let Role::Candidate(candidate) = &mut self.role else {
            // The late promise that a primary asked for (`PROM-14`).
            self.late_promise_refused(ctx, header.epoch, &refused.reason);
            return;
        };
        match refused.reason {
            PromiseRefusal::Promised(promised) if promised.epoch > candidate.reign.epoch => {
                self.step_down(ctx, StepDownReason::HigherEpoch(promised.epoch));
            }
            PromiseRefusal::Promised(_) => self.step_down(ctx, StepDownReason::EpochConflict),
            PromiseRefusal::OlderConfig(line) => {
                self.on_line_shown(ctx, &line);
                if let Role::Candidate(candidate) = &mut self.role {
                    candidate.ask_again.remove(&from.server);
                    self.ask_members(ctx);
                }
            }
            PromiseRefusal::LeaseRunning
            | PromiseRefusal::JustStarted
            | PromiseRefusal::NoVote
            | PromiseRefusal::InsaneEpoch
            | PromiseRefusal::UnknownVolume
            | PromiseRefusal::DeviceFailed => {
                let wait = refused.wait_ms.map_or(ASK_AGAIN, Duration::from_millis);
                let again = ctx.now.after(wait.max(Duration::from_millis(1)));
                candidate.ask_again.insert(from.server.clone(), again);
            }
        }
    }

    fn late_promise_refused(&mut self, ctx: &mut Ctx<'_>, leading: Epoch, reason: &PromiseRefusal) {
        match reason {
            PromiseRefusal::Promised(promised) if promised.epoch > leading => {
                self.step_down(ctx, StepDownReason::HigherEpoch(promised.epoch));
            }
            PromiseRefusal::OlderConfig(line) => self.on_line_shown(ctx, line),
            PromiseRefusal::Promised(_)
            | PromiseRefusal::LeaseRunning
            | PromiseRefusal::JustStarted
            | PromiseRefusal::NoVote
            | PromiseRefusal::InsaneEpoch
            | PromiseRefusal::UnknownVolume
            | PromiseRefusal::DeviceFailed => {}
        }
    }

    fn decide_promotion(&mut self, ctx: &mut Ctx<'_>) {
        let own = self.facts(ctx.me);
        let Some(line) = self.line.clone() else {
            return;
        };
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let doubt_until = candidate.started.after(self.lease.term * 2);
        let round = Round {
            epoch: candidate.reign.epoch,
            line: &line,
            own: &own,
            answers: &candidate.answers,
            doubt_until,
            now: ctx.now,
            on_volatile_loss: ctx.me.on_volatile_loss,
            loss_accepted: self.loss_accepted,
            mutants: ctx.me.mutants,
        };
        match decide(round) {
            Decision::Wait => candidate.phase = Phase::Collecting { doubt_until: None },
            Decision::WaitForDoubt { until } => {
                candidate.phase = Phase::Collecting {
                    doubt_until: Some(until),
                };
            }
            Decision::NewerLine(newer) => {
                candidate.answers.clear();
                candidate.ask_again.clear();
                candidate.phase = Phase::Collecting { doubt_until: None };
                candidate.started = ctx.now;
                self.on_line_shown(ctx, &newer);
                self.ask_members(ctx);
            }
            Decision::Decline(reason) => self.decline(ctx, reason),
            Decision::Adopt(adoption) => self.adopt(ctx, adoption),
        }
    }

    pub(super) fn decline(&mut self, ctx: &mut Ctx<'_>, reason: DeclineReason) {
        let Some(epoch) = self.leading_epoch() else {
            return;
        };
        let (failure, better) = match &reason {
            DeclineReason::NoVote(_) => (PromotionFailure::NoVote, None),
            DeclineReason::NotInSync => (PromotionFailure::CannotFetch, None),
            DeclineReason::CutBelowApplied { better } => {
                (PromotionFailure::NeedsRebuild, Some(better.clone()))
            }
            DeclineReason::LacksRecords { better } => {
                (PromotionFailure::CannotFetch, Some(better.clone()))
            }
            DeclineReason::CommittedDataMissing { .. } => {
                (PromotionFailure::CommittedDataMissing, None)
            }
            DeclineReason::MemoryLost { without } => {
                (PromotionFailure::TimedOut, without.first().cloned())
            }
            DeclineReason::GivenUpFull => (PromotionFailure::CannotFetch, None),
        };
        self.note(ctx, Happening::PromotionDeclined { epoch, reason });
        self.tell_promotion_failed(ctx, epoch, failure, better);
        self.step_down(ctx, StepDownReason::Declined);
    }

    fn adopt(&mut self, ctx: &mut Ctx<'_>, adoption: Adoption) {
        let given_up = adoption.given_up.clone();
        if self.remember(ctx, given_up).is_err() {
            self.decline(ctx, DeclineReason::GivenUpFull);
            return;
        }
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let epoch = candidate.reign.epoch;
        let doubtful: Vec<LsnRange> = adoption
            .announced(epoch)
            .filter(|given_up| given_up.why == GivenUpWhy::Doubtful)
            .map(|given_up| given_up.range)
            .collect();
        candidate.phase = Phase::Recording(adoption);
        for range in doubtful {
            self.note(ctx, Happening::DoubtGivenUp { range });
        }
        self.candidate_progress(ctx);
    }

    /// What was given up is durable: the log may be cut into it.
    fn cut_to_best(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let Phase::Recording(adoption) = &candidate.phase else {
            return;
        };
        let durable = &self.store.durable().given_up;
        let kept = |mark: Epoch| {
            adoption
                .announced(mark)
                .all(|given_up| durable.contains(given_up))
        };
        assert!(
            kept(candidate.reign.epoch) || ctx.me.mutants.has(Mutant::EvidenceNotPersisted),
            "INV-27: given-up ranges are durable before the cut"
        );
        let adoption = adoption.clone();
        let cut = adoption.cut;
        candidate.phase = Phase::Cutting(adoption);
        match cut {
            None => self.start_fetching(ctx),
            Some(through) => {
                let given_up = self.gave_up_above(through);
                if self.store.cut(through).is_err() {
                    let better = ctx.me.server.clone();
                    self.decline(ctx, DeclineReason::CutBelowApplied { better });
                    return;
                }
                self.cuts_under_way += 1;
                if given_up {
                    self.committed_at_open = self.committed_at_open.min(through);
                }
            }
        }
    }

    /// The cut of its own log is durable.
    pub(super) fn candidate_cut(&mut self, ctx: &mut Ctx<'_>) {
        if let Role::Candidate(candidate) = &self.role
            && let Phase::Cutting(_) = &candidate.phase
        {
            self.start_fetching(ctx);
        }
    }

    fn start_fetching(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let Phase::Cutting(adoption) = &candidate.phase else {
            return;
        };
        let adoption = adoption.clone();
        match adoption.fetch {
            None => candidate.phase = Phase::Flushing(adoption),
            Some(range) => {
                candidate.phase = Phase::Fetching {
                    adoption,
                    through: range.through(),
                    asked: None,
                    source: 0,
                    fruitless: 0,
                };
            }
        }
        self.candidate_progress(ctx);
    }

    fn candidate_flushes(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        if let Phase::Fetching { adoption, .. } = &candidate.phase {
            candidate.phase = Phase::Flushing(adoption.clone());
            self.candidate_progress(ctx);
        }
    }

    fn fetch_more(&mut self, ctx: &mut Ctx<'_>) {
        let head = self.store.log().head();
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let epoch = candidate.reign.epoch;
        let Phase::Fetching {
            adoption,
            through,
            asked,
            source,
            fruitless,
        } = &mut candidate.phase
        else {
            return;
        };
        if asked.is_some() {
            return;
        }
        if *fruitless >= adoption.sources.len() * FETCH_ROUNDS_MAX {
            let better = adoption.sources[0].clone();
            self.decline(ctx, DeclineReason::LacksRecords { better });
            return;
        }
        // What is known to be committed may be applied, which makes room for the rest.
        self.store.set_committed(adoption.committed.min(head));
        let from = adoption.sources[*source % adoption.sources.len()].clone();
        let range = LsnRange::new(head, *through).expect("the head is below what is fetched");
        let overdue = ctx.now.after(FETCH_OVERDUE);
        *asked = Some(Asked {
            from: from.clone(),
            range,
            overdue,
        });
        if let Some(link) = ctx.links.dialed(&from) {
            let header = self.header(0, epoch);
            let fetch = Fetch {
                range,
                bytes_max: FETCH_BYTES_MAX,
            };
            self.send(ctx, link, header, VolumeMessage::Fetch(fetch));
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        fetched: Fetched,
    ) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let Phase::Fetching { asked, through, .. } = &mut candidate.phase else {
            return;
        };
        let expected = asked
            .as_ref()
            .is_some_and(|asked| asked.from == from.server && asked.range == fetched.range);
        if !expected || header.epoch != candidate.reign.epoch {
            return;
        }
        let through = *through;
        let (before, epoch) = (self.store.log().head(), candidate.reign.epoch);
        let payload = fetched.payload.into_contiguous(&ctx.me.pool);
        let records = match fetched.outcome {
            FetchOutcome::Records => {
                decode_records(self.volume, &fetched.headers, &payload).unwrap_or_default()
            }
            FetchOutcome::NotRetained | FetchOutcome::Damaged => Vec::new(),
        };
        for record in records {
            let next = self.store.log().head().next();
            let fits = record.lsn() == next && next <= through && record.epoch() < epoch;
            if !fits || self.store.append(record.clone()).is_err() {
                break;
            }
            self.remember_mark(ctx, &record);
        }
        if let Role::Candidate(candidate) = &mut self.role
            && let Phase::Fetching {
                asked, fruitless, ..
            } = &mut candidate.phase
            && self.store.log().head() > before
        {
            // An answer that brought nothing is waited out: another source is asked when the request
            // is overdue, and none is asked in a tight circle.
            *asked = None;
            *fruitless = 0;
        }
        self.candidate_progress(ctx);
    }

    /// The best log is held, durably: the mark opens the epoch.
    fn open_epoch(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Candidate(candidate) = &self.role else {
            return;
        };
        let Phase::Flushing(adoption) = &candidate.phase else {
            return;
        };
        let (id, adoption) = (candidate.reign.clone(), adoption.clone());
        self.store.set_committed(adoption.committed);
        let mark = self.store.log().head().next();
        let announced: Vec<GivenUp> = adoption.announced(id.epoch).copied().collect();
        let record = Record::epoch_mark_announcing(self.volume, id.epoch, mark, &announced);
        match self.store.append(record) {
            Ok(()) => {}
            // The flusher makes room.
            Err(AppendError::Log(moorline_wal::AppendError::Full { .. })) => {
                if let Role::Candidate(candidate) = &mut self.role {
                    candidate.mark_again = Some(ctx.now.after(MARK_AGAIN));
                }
                return;
            }
            Err(_) => {
                self.step_down(ctx, StepDownReason::DeviceFailed);
                return;
            }
        }
        self.note(
            ctx,
            Happening::EpochOpened {
                epoch: id.epoch,
                mark,
            },
        );
        // A candidate clears its own bit with its mark (`PROM-12`).
        self.forget_losses();
        let volatile_loss = self.note_volatile_loss(ctx, &adoption, &announced);
        let (open, volume) = (self.store.open_count(), self.volume);
        let reign = Reign::new(ctx, (volume, open), id, mark, volatile_loss);
        self.role = Role::Reign(Box::new(reign));
        self.reign_begins(ctx);
    }

    /// Says what the mark announces of acknowledged records; gives the range for which clients
    /// wait, if they do.
    fn note_volatile_loss(
        &self,
        ctx: &mut Ctx<'_>,
        adoption: &Adoption,
        announced: &[GivenUp],
    ) -> Option<LsnRange> {
        let volatile = announced
            .iter()
            .filter(|given_up| given_up.why.is_volatile());
        let first = volatile.min_by_key(|given_up| given_up.range.after())?;
        let stands = announced
            .iter()
            .find(|given_up| given_up.why == GivenUpWhy::VolatileStands);
        let what = Happening::VolatileTailLost {
            after: first.range.after(),
            acknowledged: adoption.acknowledged,
            serving: match stands {
                Some(_) => AfterLoss::WaitsForOperator,
                None => AfterLoss::GoesOn,
            },
        };
        self.note(ctx, what);
        stands.map(|given_up| given_up.range)
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::BootId;

    use super::*;

    #[test]
    fn an_end_of_doubt_is_a_deadline_only_while_it_is_waited_for() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let reign = ReignId {
            epoch: Epoch::new(1, 0),
            server: "s1".parse().unwrap(),
            boot: BootId::new(1),
        };
        let mut candidate = Candidate::new(at(0), reign);
        let s2: ServerId = "s2".parse().unwrap();
        candidate.ask_again.insert(s2, at(250));
        assert_eq!(
            candidate.next_deadline(),
            None,
            "its own promise comes first"
        );
        candidate.phase = Phase::Collecting { doubt_until: None };
        assert_eq!(candidate.next_deadline(), Some(at(250)));
        let doubt_until = Some(at(100));
        candidate.phase = Phase::Collecting { doubt_until };
        assert_eq!(candidate.next_deadline(), Some(at(100)));
    }
}

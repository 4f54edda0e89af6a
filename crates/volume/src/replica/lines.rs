//! Assignment lines and promises: who may lead, and what this member gave its word for.

use moorline_blockvol::PromiseRecord;
use moorline_types::{AssignmentLine, Epoch, Instant, MasterRun};
use moorline_wire::{
    ImageState, LeaseAsked, LeaseGranted, LeaseRefusal, LeaseRefused, PromiseRefusal,
    PromiseRefused, PromiseRequest, Promised, VolumeHeader, VolumeMessage, control::LineVersion,
};

use super::{Candidate, Ctx, Follower, Me, Replica, Role, Stopping, Then, lease_term};
use crate::{
    journal::{Happening, LineRefusal, StepDownReason},
    lease::{GrantRefusal, LeaseTiming, Reign as ReignId},
    mutants::{Mutant, Mutants},
    node::{LinkId, Peer},
    promotion::{NoVoteReason, Vote},
};

/// A promise that must wait for a granted lease, or for the silence after a restart.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct PendingPromise {
    reign: ReignId,
    reply_to: Option<LinkId>,
    due: Instant,
}

impl PendingPromise {
    pub(super) fn due(&self) -> Instant {
        self.due
    }
}

impl Replica {
    /// The master published a line about this volume.
    pub(crate) fn on_assignment(&mut self, ctx: &mut Ctx<'_>, line: AssignmentLine) {
        self.told = self.told.max(Some(version_of(&line)));
        if self.stopping != Stopping::No {
            return;
        }
        match self.judge_line(&line) {
            LineVerdict::Same => {}
            LineVerdict::Refused(reason) => {
                self.note(ctx, Happening::LineRefused { reason });
                return;
            }
            LineVerdict::Newer => self.take_line(ctx, line.clone()),
        }
        self.act_on_line(ctx, &line);
    }

    /// An operator accepted losses of memory; the next mark that is written here says so.
    pub(crate) fn on_loss_accepted(&mut self, through: Epoch) {
        self.loss_accepted = self.loss_accepted.max(Some(through));
    }

    /// The master of a new connection introduced itself: which run it is becomes durable, so that
    /// an older copy of that master is found out, and nothing was said by it yet.
    pub(crate) fn on_master(&mut self, run: MasterRun) {
        self.told = None;
        if self.stopping != Stopping::No || self.store.pending().master == Some(run) {
            return;
        }
        let ticket = self.store.persist(|durable| durable.master = Some(run));
        self.persists.push_back((ticket, Then::Nothing));
    }

    /// A peer of the promised reign showed a line.
    pub(super) fn on_line_shown(&mut self, ctx: &mut Ctx<'_>, line: &AssignmentLine) {
        if self.judge_line(line) == LineVerdict::Newer {
            self.take_line(ctx, line.clone());
        }
    }

    fn judge_line(&self, line: &AssignmentLine) -> LineVerdict {
        let Some(known) = &self.line else {
            return LineVerdict::Newer;
        };
        if known.epoch.jump_is_insane(line.epoch) {
            return LineVerdict::Refused(LineRefusal::InsaneEpoch);
        }
        match line.version().cmp(&known.version()) {
            std::cmp::Ordering::Less => LineVerdict::Refused(LineRefusal::Stale),
            std::cmp::Ordering::Greater => LineVerdict::Newer,
            std::cmp::Ordering::Equal if line == known => LineVerdict::Same,
            std::cmp::Ordering::Equal => LineVerdict::Refused(LineRefusal::Conflict),
        }
    }

    /// Takes over a newer line; nothing was changed before it was judged.
    fn take_line(&mut self, ctx: &mut Ctx<'_>, line: AssignmentLine) {
        self.grants.show(line.epoch);
        self.note(
            ctx,
            Happening::LineTaken {
                epoch: line.epoch,
                config: line.config,
                primary: line.primary.as_ref().map(|(server, _)| server.clone()),
            },
        );
        self.lease = LeaseTiming::of_term(lease_term(&line));
        self.grants.set_term(lease_term(&line));
        let durable_copy = line.clone();
        let ticket = self
            .store
            .persist(|durable| durable.line = Some(durable_copy));
        self.persists.push_back((ticket, Then::Nothing));
        let epoch = line.epoch;
        self.line = Some(line);
        if self.leading_epoch().is_some_and(|leading| leading < epoch) {
            self.step_down(ctx, StepDownReason::HigherEpoch(epoch));
        }
        self.line_changed(ctx);
    }

    /// Leads, follows or waits, as the line in force says.
    fn act_on_line(&mut self, ctx: &mut Ctx<'_>, line: &AssignmentLine) {
        let Some((server, boot)) = line.primary.clone() else {
            return;
        };
        let reign = ReignId {
            epoch: line.epoch,
            server,
            boot,
        };
        if reign.server == ctx.me.server {
            // Another boot of this server is a predecessor: never go on in its epoch.
            let is_new =
                line.epoch > self.led && line.epoch >= self.store.pending().promised_epoch();
            if reign.boot == ctx.me.boot && is_new {
                self.stand(ctx, reign);
            }
            return;
        }
        if reign.epoch > self.store.pending().promised_epoch() {
            self.raise(ctx, reign, None);
        }
    }

    /// Becomes a candidate: its own promise comes first.
    fn stand(&mut self, ctx: &mut Ctx<'_>, reign: ReignId) {
        self.led = reign.epoch;
        self.note(ctx, Happening::PromotionStarted { epoch: reign.epoch });
        self.role = Role::Candidate(Box::new(Candidate::new(ctx.now, reign.clone())));
        if self.store.failed().is_some() {
            // Its own promise would wait for a write that never ends.
            self.step_down(ctx, StepDownReason::DeviceFailed);
            return;
        }
        let unfit = match self.own_vote(ctx.me) {
            Vote::DoesNot(reason) => Some(reason),
            Vote::Counts if self.image() == ImageState::Whole => None,
            Vote::Counts => Some(NoVoteReason::NeedsRebuild),
        };
        if let Some(reason) = unfit {
            self.decline(ctx, crate::promotion::DeclineReason::NoVote(reason));
            return;
        }
        self.want_members(ctx);
        self.raise(ctx, reign, None);
    }

    /// The epoch that this replica leads or tries to lead.
    pub(super) fn leading_epoch(&self) -> Option<Epoch> {
        match &self.role {
            Role::Candidate(candidate) => Some(candidate.reign.epoch),
            Role::Reign(reign) => Some(reign.id.epoch),
            Role::Idle | Role::Follower(_) => None,
        }
    }

    /// Promises `reign`, as soon as the leases granted to others have run out.
    fn raise(&mut self, ctx: &mut Ctx<'_>, reign: ReignId, reply_to: Option<LinkId>) {
        self.grants.show(reign.epoch);
        if self
            .leading_epoch()
            .is_some_and(|leading| leading < reign.epoch)
        {
            self.step_down(ctx, StepDownReason::HigherEpoch(reign.epoch));
        }
        self.stop_following_below(reign.epoch);
        let mut due = self.grants.may_promise_at(&reign);
        if ctx.me.mutants.has(Mutant::PromiseDuringLease) {
            due = ctx.now;
        }
        if ctx.now < due {
            if let Some(link) = reply_to {
                self.refuse_promise_for_now(ctx, link, &reign, due);
            }
            let known = self.pending_promise.as_ref();
            let outranked = known.is_some_and(|pending| pending.reign.epoch > reign.epoch);
            // An assignment that comes meanwhile does not forget who asked.
            let asked = known
                .filter(|pending| pending.reign == reign)
                .and_then(|pending| pending.reply_to);
            if !outranked {
                self.pending_promise = Some(PendingPromise {
                    reign,
                    reply_to: reply_to.or(asked),
                    due,
                });
            }
            return;
        }
        let already = is_promise_of(self.store.pending().promised.as_ref(), &reign);
        if !already {
            let record = PromiseRecord {
                epoch: reign.epoch,
                server: reign.server.clone(),
                boot: reign.boot,
            };
            let ticket = self
                .store
                .persist(|durable| durable.promised = Some(record));
            self.persists
                .push_back((ticket, Then::Promised(reign.clone())));
            self.owed.clear();
        }
        self.owed.extend(reply_to);
        if already && is_promise_of(self.store.durable().promised.as_ref(), &reign) {
            self.act_on_promise(ctx, &reign);
        }
    }

    /// From here on nothing of a lower epoch is taken.
    fn stop_following_below(&mut self, epoch: Epoch) {
        if let Role::Follower(follower) = &self.role
            && follower.reign.epoch < epoch
        {
            self.role = Role::Idle;
        }
    }

    pub(super) fn retry_pending_promise(&mut self, ctx: &mut Ctx<'_>) {
        if self
            .pending_promise
            .as_ref()
            .is_some_and(|pending| pending.due <= ctx.now)
        {
            let pending = self.pending_promise.take().expect("just looked at");
            if pending.reign.epoch >= self.store.pending().promised_epoch() {
                self.raise(ctx, pending.reign, pending.reply_to);
            }
        }
    }

    pub(super) fn on_promise_persisted(&mut self, ctx: &mut Ctx<'_>, reign: &ReignId) {
        if !is_promise_of(self.store.pending().promised.as_ref(), reign) {
            return; // a higher one is on its way
        }
        self.note(
            ctx,
            Happening::Promised {
                epoch: reign.epoch,
                to: reign.server.clone(),
            },
        );
        self.act_on_promise(ctx, reign);
    }

    /// The promise is durable and the newest one: follows who has it, and answers who asked.
    fn act_on_promise(&mut self, ctx: &mut Ctx<'_>, reign: &ReignId) {
        let leads = self.leading_epoch() == Some(reign.epoch);
        if !leads && reign.server != ctx.me.server {
            let follows =
                matches!(&self.role, Role::Follower(follower) if follower.reign == *reign);
            if !follows {
                self.role = Role::Follower(Follower::new(reign.clone()));
            }
        }
        self.settle_promises(ctx);
        self.candidate_progress(ctx);
    }

    /// Answers candidates whose promise is durable, once what is in memory is durable too.
    pub(super) fn settle_promises(&mut self, ctx: &mut Ctx<'_>) {
        if self.owed.is_empty() {
            return;
        }
        let (durable, pending) = (self.store.durable(), self.store.pending());
        let settled = durable.promised == pending.promised;
        let log = self.store.log();
        let at_rest = log.flushed() == log.head() && self.cuts_under_way == 0;
        if !settled || !at_rest || self.store.failed().is_some() {
            return;
        }
        // Every promise carries all that this member was told of losses (`INV-27`).
        if !self.losses_are_durable() {
            return;
        }
        let epoch = durable.promised_epoch();
        let facts = self.facts(ctx.me);
        for link in std::mem::take(&mut self.owed) {
            let header = self.header(0, epoch);
            self.send(
                ctx,
                link,
                header,
                VolumeMessage::Promise(Box::new(facts.clone())),
            );
        }
    }

    /// A candidate asks for this member's promise.
    pub(super) fn on_promise_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        request: &PromiseRequest,
    ) {
        let reign = ReignId {
            epoch: header.epoch,
            server: request.server.clone(),
            boot: request.boot,
        };
        if reign.server != from.server || reign.boot != from.boot {
            self.refuse_peer(ctx, from, "it asks for a promise in another's name");
            return;
        }
        if let Some(reason) = self.promise_refusal(&reign, header, request, ctx.me.mutants) {
            if matches!(
                reason,
                PromiseRefusal::Promised(_) | PromiseRefusal::InsaneEpoch
            ) {
                self.refuse_peer(ctx, from, "its epoch was given to another, or is stale");
            }
            let refused = PromiseRefused {
                reason,
                wait_ms: None,
            };
            let reply = self.header(0, header.epoch);
            let no_vote = refused.reason == PromiseRefusal::NoVote;
            self.send(ctx, link, reply, VolumeMessage::PromiseRefused(refused));
            if no_vote {
                self.fence_without_vote(ctx, reign, &request.line);
            }
            return;
        }
        self.on_line_shown(ctx, &request.line);
        self.raise(ctx, reign, Some(link));
    }

    /// A seat without a vote is not counted; it takes nothing lower from here on all the same, and
    /// may learn in that epoch (`PROM-2`).
    fn fence_without_vote(&mut self, ctx: &mut Ctx<'_>, reign: ReignId, line: &AssignmentLine) {
        self.on_line_shown(ctx, line);
        if !is_promise_of(self.store.pending().promised.as_ref(), &reign) {
            self.raise(ctx, reign, None);
        }
    }

    fn promise_refusal(
        &self,
        reign: &ReignId,
        header: VolumeHeader,
        request: &PromiseRequest,
        mutants: Mutants,
    ) -> Option<PromiseRefusal> {
        let promised = self.store.pending().promised.as_ref();
        let newest = promised.map_or(Epoch::ZERO, |promise| promise.epoch).max(
            self.pending_promise
                .as_ref()
                .map_or(Epoch::ZERO, |pending| pending.reign.epoch),
        );
        if let Some(promise) = promised
            && (promise.epoch > reign.epoch
                || (promise.epoch == reign.epoch && !is_promise_of(Some(promise), reign)))
            && !(mutants.has(Mutant::RestartKeepsEpoch)
                && (promise.epoch, &promise.server) == (reign.epoch, &reign.server))
        {
            return Some(PromiseRefusal::Promised(Promised {
                epoch: promise.epoch,
                server: promise.server.clone(),
                boot: promise.boot,
            }));
        }
        if newest.jump_is_insane(reign.epoch) {
            return Some(PromiseRefusal::InsaneEpoch);
        }
        if let Some(owner) = self.other_owner(reign)
            && !(mutants.has(Mutant::RestartKeepsEpoch) && owner.server == reign.server)
        {
            return Some(PromiseRefusal::Promised(owner));
        }
        if let Some(line) = &self.line
            && (header.epoch, header.config) < line.version()
        {
            return Some(PromiseRefusal::OlderConfig(Box::new(line.clone())));
        }
        if self.store.failed().is_some() {
            return Some(PromiseRefusal::DeviceFailed);
        }
        let identity = self.store.identity();
        let recorded = request
            .line
            .member(&identity.server)
            .and_then(|member| member.store);
        let knows = self.image() != ImageState::Incomplete;
        let known = recorded == Some(identity.store) || mutants.has(Mutant::StoreIdentityIgnored);
        (!known || !knows).then_some(PromiseRefusal::NoVote)
    }

    /// Who else has this very epoch: by a promise that waits for a lease (this server's own as
    /// candidate, too), or by the newest line (`EPOCH-2`, `EPOCH-5`).
    fn other_owner(&self, reign: &ReignId) -> Option<Promised> {
        let waiting = self.pending_promise.as_ref().map(|pending| &pending.reign);
        let waiting = waiting.map(|known| (known.epoch, &known.server, known.boot));
        let named = self.line.as_ref().and_then(|line| {
            let (server, boot) = line.primary.as_ref()?;
            Some((line.epoch, server, *boot))
        });
        let mut owners = waiting.into_iter().chain(named);
        let (epoch, server, boot) = owners.find(|&(epoch, server, boot)| {
            epoch == reign.epoch && (server, boot) != (&reign.server, reign.boot)
        })?;
        Some(Promised {
            epoch,
            server: server.clone(),
            boot,
        })
    }

    fn refuse_promise_for_now(
        &self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        reign: &ReignId,
        due: Instant,
    ) {
        let reason = match self.grants.running(ctx.now) {
            Some(_) => PromiseRefusal::LeaseRunning,
            None => PromiseRefusal::JustStarted,
        };
        let wait = due.since(ctx.now).as_millis().saturating_add(1);
        let wait_ms = Some(u64::try_from(wait).unwrap_or(u64::MAX));
        let header = self.header(0, reign.epoch);
        let refused = PromiseRefused { reason, wait_ms };
        self.send(ctx, link, header, VolumeMessage::PromiseRefused(refused));
    }

    /// A holder asks for its lease on this volume. Granted to exactly the promised reign.
    pub(crate) fn on_lease_asked(
        &mut self,
        now: Instant,
        me: &Me,
        from: &Peer,
        asked: &LeaseAsked,
    ) -> Result<LeaseGranted, LeaseRefused> {
        let refused = |reason| LeaseRefused {
            volume: asked.volume,
            epoch: asked.epoch,
            reason,
        };
        let Some(promise) = self.store.durable().promised.clone() else {
            return Err(refused(LeaseRefusal::Ahead(Epoch::ZERO)));
        };
        match asked.epoch.cmp(&promise.epoch) {
            std::cmp::Ordering::Less => return Err(refused(LeaseRefusal::Stale(promise.epoch))),
            std::cmp::Ordering::Greater => {
                return Err(refused(LeaseRefusal::Ahead(promise.epoch)));
            }
            std::cmp::Ordering::Equal => {}
        }
        let holder = ReignId {
            epoch: asked.epoch,
            server: from.server.clone(),
            boot: asked.boot,
        };
        if asked.boot != from.boot || !is_promise_of(Some(&promise), &holder) {
            let other = Promised {
                epoch: promise.epoch,
                server: promise.server,
                boot: promise.boot,
            };
            return Err(refused(LeaseRefusal::OtherHolder(other)));
        }
        if self.store.failed().is_some() || self.stopping != Stopping::No {
            return Err(refused(LeaseRefusal::DeviceFailed));
        }
        if self.own_vote(me) != Vote::Counts {
            return Err(refused(LeaseRefusal::NoVote));
        }
        match self.grants.grant(now, holder) {
            Ok(()) => Ok(LeaseGranted {
                volume: asked.volume,
                epoch: asked.epoch,
                store: self.store.identity().store,
            }),
            Err(GrantRefusal::Silent { .. }) => Err(refused(LeaseRefusal::JustStarted)),
            Err(GrantRefusal::Superseded { shown }) => Err(refused(LeaseRefusal::Stale(shown))),
        }
    }

    pub(super) fn refuse_peer(&self, ctx: &mut Ctx<'_>, from: &Peer, reason: &'static str) {
        self.note(
            ctx,
            Happening::PeerRefused {
                peer: from.server.clone(),
                reason,
            },
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LineVerdict {
    Newer,
    Same,
    Refused(LineRefusal),
}

/// What orders lines.
pub(super) const fn version_of(line: &AssignmentLine) -> LineVersion {
    LineVersion {
        epoch: line.epoch,
        config: line.config,
    }
}

/// Whether a persisted promise is exactly for this reign.
pub(super) fn is_promise_of(promise: Option<&PromiseRecord>, reign: &ReignId) -> bool {
    promise.is_some_and(|promise| {
        promise.epoch == reign.epoch && promise.server == reign.server && promise.boot == reign.boot
    })
}

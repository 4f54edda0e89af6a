//! The receiving side: takes records of exactly the promised reign, in order, without gaps.

use moorline_blockvol::CutError;
use moorline_types::{AckPoint, Instant, Lsn};
use moorline_wal::decode_records;
use moorline_wire::{
    Ack, Commit, Handshake, ImageState, Message, NeedRecords, Records, Refused, RefusedReason,
    StreamEndReason, StreamEnded, Truncate, TruncationRecorded, VolumeHeader, VolumeMessage,
};

use super::{Ctx, Replica, Role, Then, lines::is_promise_of, memory::JoinPoint};
use crate::{
    journal::Happening,
    lease::Reign as ReignId,
    mutants::Mutant,
    node::{Action, LinkId, Peer},
};

/// A replica that follows the reign that it promised.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Follower {
    pub(super) reign: ReignId,
    session: Option<Session>,
    /// What this log must hold to be the primary's, until it does.
    join: Option<JoinPoint>,
    owes: Owes,
}

/// A primary's stream.
#[derive(Clone, Copy, Debug)]
struct Session {
    number: u64,
    link: LinkId,
    /// The cut that is being made, if one is.
    cutting: Option<Cutting>,
    /// The gap that was named to the primary; said once until it is filled.
    asked_after: Option<Lsn>,
}

/// A cut that the primary ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cutting {
    through: Lsn,
    step: CutStep,
}

/// How far a cut is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CutStep {
    /// What was given up is not in both superblocks yet (`CUT-6`).
    Waits,
    /// The log was told.
    Made,
}

/// Whether the primary is to hear of the frontiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owes {
    Nothing,
    Ack,
}

impl Follower {
    pub(super) fn new(reign: ReignId) -> Self {
        Self {
            reign,
            session: None,
            join: None,
            owes: Owes::Nothing,
        }
    }

    pub(super) fn owes_ack(&mut self) {
        self.owes = Owes::Ack;
    }

    /// The connection of the live stream.
    pub(super) fn link(&self) -> Option<LinkId> {
        self.session.map(|session| session.link)
    }
}

impl Replica {
    /// Lets in what the promised primary sends, and tells everybody else why not.
    ///
    /// # Errors
    ///
    /// The refusal, which changed nothing.
    pub(super) fn admit_primary(
        &self,
        from: &Peer,
        header: VolumeHeader,
    ) -> Result<(), RefusedReason> {
        let durable = self.store.durable();
        let promised = durable.promised.as_ref();
        let have = durable.promised_epoch();
        let config = durable.line_version().1;
        // A higher promise that is on its way counts already: nothing lower is taken from here on.
        let shown = self.store.pending().promised_epoch();
        if header.epoch < have || header.epoch < shown {
            let line = self.line.clone().map(Box::new);
            return Err(RefusedReason::Stale {
                epoch: shown.max(have),
                config,
                line,
            });
        }
        if header.epoch > have {
            return Err(RefusedReason::Ahead {
                epoch: have,
                config,
            });
        }
        let owner = ReignId {
            epoch: header.epoch,
            server: from.server.clone(),
            boot: from.boot,
        };
        if !is_promise_of(promised, &owner) {
            return Err(RefusedReason::Conflict {
                epoch: header.epoch,
            });
        }
        if self.store.failed().is_some() {
            return Err(RefusedReason::DeviceFailed);
        }
        match &self.role {
            Role::Follower(follower) if follower.reign == owner => Ok(()),
            Role::Follower(_) | Role::Idle | Role::Candidate(_) | Role::Reign(_) => {
                Err(RefusedReason::WrongRole)
            }
        }
    }

    pub(super) fn refuse(
        &self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        header: VolumeHeader,
        reason: RefusedReason,
    ) {
        let reply = self.header(header.session, self.store.durable().promised_epoch());
        let body = VolumeMessage::Refused(Refused { reason });
        ctx.out.push(Action::Send {
            link,
            message: Message::Volume(reply, body),
        });
    }

    pub(super) fn on_handshake(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        handshake: &Handshake,
    ) {
        if let Err(reason) = self.admit_primary(from, header) {
            self.refuse(ctx, link, header, reason);
            return;
        }
        // Durable before a cut: the primary may die before its mark reached anyone (`CUT-6`).
        if self
            .remember(ctx, handshake.given_up.iter().copied())
            .is_err()
        {
            self.refuse(ctx, link, header, RefusedReason::GivenUpFull);
            return;
        }
        self.on_line_shown(ctx, &handshake.line);
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let known = follower.session;
        if known.is_none_or(|known| (known.number, known.link) != (header.session, link)) {
            follower.join = Some(JoinPoint {
                history: handshake.history.clone(),
                head: handshake.head,
            });
        }
        follower.session = Some(Session {
            number: header.session,
            link,
            cutting: None,
            asked_after: None,
        });
        // The primary counts what is acknowledged in its session, and nothing that was before.
        follower.owes = Owes::Ack;
        let facts = self.facts(ctx.me);
        let reply = self.header(header.session, header.epoch);
        self.send(
            ctx,
            link,
            reply,
            VolumeMessage::HandshakeAck(Box::new(facts)),
        );
        if ctx.me.mutants.has(Mutant::MemoryBackEarly) {
            self.forget_losses();
        }
        self.settle_losses();
    }

    /// Once this log holds what the primary's held when the session began, nothing is lost here.
    fn settle_losses(&mut self) {
        let Role::Follower(follower) = &self.role else {
            return;
        };
        let aligned = follower
            .session
            .is_some_and(|session| session.cutting.is_none());
        if let Some(join) = &follower.join
            && aligned
            && self.holds(join)
        {
            self.forget_losses();
            if let Role::Follower(follower) = &mut self.role {
                follower.join = None;
            }
        }
    }

    /// The live session that a primary's message belongs to; refuses what does not.
    fn session_of(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
    ) -> Option<&mut Session> {
        if let Err(reason) = self.admit_primary(from, header) {
            self.refuse(ctx, link, header, reason);
            return None;
        }
        let session = match &mut self.role {
            Role::Follower(follower) => follower.session.as_mut(),
            Role::Idle | Role::Candidate(_) | Role::Reign(_) => None,
        };
        // A message of an ended session: late, harmless, not worth a word.
        let stale = ctx.me.mutants.has(Mutant::StaleSessionAccepted);
        session
            .filter(|session| stale || (session.number == header.session && session.link == link))
    }

    pub(super) fn on_truncate(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        truncate: Truncate,
    ) {
        let Some(session) = self.session_of(ctx, link, from, header) else {
            return;
        };
        session.cutting = Some(Cutting {
            through: truncate.through,
            step: CutStep::Waits,
        });
        self.cut_that_waited(ctx);
    }

    /// Makes the cut that the primary ordered, once all that was given up is durable.
    pub(super) fn cut_that_waited(&mut self, ctx: &mut Ctx<'_>) {
        let losses_are_durable = self.losses_are_durable();
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let (epoch, Some(session)) = (follower.reign.epoch, &mut follower.session) else {
            return;
        };
        let (number, link) = (session.number, session.link);
        let Some(cutting) = &mut session.cutting else {
            return;
        };
        if cutting.step == CutStep::Made || !losses_are_durable {
            return;
        }
        cutting.step = CutStep::Made;
        let (lsn, peer) = (cutting.through, follower.reign.server.clone());
        if self.store.log().head() == lsn {
            // A cut to here that an earlier order made answers for this one, once it is durable.
            if self.cuts_under_way == 0 {
                self.truncation_recorded(ctx, lsn);
            }
            return;
        }
        let below_committed = lsn < self.store.committed();
        let cut = self.cut_below(lsn);
        if let Err(reason) = cut {
            if below_committed {
                self.note(
                    ctx,
                    Happening::PeerRefused {
                        peer,
                        reason: "it orders a cut below what is known to be committed",
                    },
                );
            }
            if let Role::Follower(follower) = &mut self.role {
                follower.session = None;
            }
            let header = self.header(number, epoch);
            self.refuse(ctx, link, header, reason);
        }
    }

    fn cut_below(&mut self, lsn: Lsn) -> Result<(), RefusedReason> {
        assert!(
            self.losses_are_durable(),
            "INV-27: given-up ranges are durable before the cut"
        );
        // What is known to be committed here is not cut, whatever a primary made of our facts,
        // unless a recorded decision gave it up (`CUT-3`).
        let given_up = self.gave_up_above(lsn);
        if lsn < self.store.committed() && !given_up {
            return Err(RefusedReason::Diverged { lsn });
        }
        self.store.cut(lsn).map_err(|error| {
            if matches!(error, CutError::BelowApplied { .. }) {
                let ticket = self.store.persist(|durable| durable.needs_rebuild = true);
                self.persists.push_back((ticket, Then::Nothing));
            }
            RefusedReason::Diverged { lsn }
        })?;
        self.cuts_under_way += 1;
        if given_up {
            self.committed_at_open = self.committed_at_open.min(lsn);
        }
        Ok(())
    }

    pub(super) fn truncation_recorded(&mut self, ctx: &mut Ctx<'_>, through: Lsn) {
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let Some(session) = &mut follower.session else {
            return;
        };
        let made = Cutting {
            through,
            step: CutStep::Made,
        };
        if session.cutting != Some(made) {
            return;
        }
        session.cutting = None;
        follower.owes = Owes::Ack;
        let (number, link, epoch) = (session.number, session.link, follower.reign.epoch);
        let head = self.store.log().head();
        let header = self.header(number, epoch);
        let body = VolumeMessage::TruncationRecorded(TruncationRecorded { through, head });
        self.send(ctx, link, header, body);
        self.settle_losses();
    }

    pub(super) fn on_records(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        records: Records,
    ) {
        let head = self.store.log().head();
        let Some(session) = self.session_of(ctx, link, from, header) else {
            return;
        };
        if session.cutting.is_some() {
            return; // what the cut will leave behind is not known yet
        }
        if records.previous > head {
            let news = session.asked_after != Some(head);
            session.asked_after = Some(head);
            if news {
                let reply = self.header(header.session, header.epoch);
                let body = VolumeMessage::NeedRecords(NeedRecords { after: head });
                self.send(ctx, link, reply, body);
            }
            return;
        }
        let payload = records.payload.into_contiguous(&ctx.me.pool);
        let Ok(decoded) = decode_records(self.volume, &records.headers, &payload) else {
            self.refuse(ctx, link, header, RefusedReason::Corrupt);
            return;
        };
        let ascends = decoded
            .first()
            .is_none_or(|first| first.lsn() == records.previous.next());
        if !ascends {
            self.refuse(ctx, link, header, RefusedReason::Corrupt);
            return;
        }
        for record in decoded {
            let head = self.store.log().head();
            if record.lsn() <= head {
                // Held already. Anything else at that place would be a divergence that the
                // handshake has ruled out.
                let same = self.store.log().epoch_of(record.lsn());
                if same.is_some_and(|epoch| epoch != record.epoch()) {
                    let lsn = record.lsn();
                    self.refuse(ctx, link, header, RefusedReason::Diverged { lsn });
                    return;
                }
                continue;
            }
            if self.store.append(record.clone()).is_err() {
                break; // no room: the primary sends it again when it is asked to
            }
            self.remember_mark(ctx, &record);
        }
        let says_received = self.says_received();
        if let Role::Follower(follower) = &mut self.role {
            if says_received {
                follower.owes = Owes::Ack;
            }
            if let Some(session) = &mut follower.session {
                session.asked_after = None;
            }
        }
        self.settle_losses();
        self.take_commit(records.committed, records.acknowledged);
    }

    /// Whether the primary is told of records that were taken, before they are flushed.
    ///
    /// Where the policy counts what is flushed, a word about what is received moves nothing there: a
    /// message, a wake-up and a look at the commit rule for each batch, on both sides. The flush that
    /// is under way says both. Where nothing is under way the primary may have sent again what is
    /// held and flushed already, and waits to hear that it is.
    fn says_received(&self) -> bool {
        let frontiers = self.store.frontiers();
        let counts_flushed = self
            .line
            .as_ref()
            .is_some_and(|line| line.ack == AckPoint::Flushed);
        !counts_flushed || frontiers.flushed == frontiers.head
    }

    pub(super) fn on_commit(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        commit: Commit,
    ) {
        if self
            .session_of(ctx, link, from, header)
            .is_some_and(|s| s.cutting.is_none())
        {
            self.take_commit(commit.committed, commit.acknowledged);
        }
    }

    /// A replica's committed point is what was announced, through its own head.
    fn take_commit(&mut self, committed: Lsn, acknowledged: Lsn) {
        let head = self.store.log().head();
        self.store.set_committed(committed.min(head));
        self.acknowledged = self.acknowledged.max(acknowledged);
    }

    pub(super) fn on_stream_ended(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        ended: StreamEnded,
    ) {
        match ended.reason {
            // A verdict on the store, in no session: it holds for this boot as for the one before.
            StreamEndReason::NeedsRebuild => {
                if let Err(reason) = self.admit_primary(from, header) {
                    self.refuse(ctx, link, header, reason);
                    return;
                }
                if !self.store.pending().needs_rebuild {
                    let ticket = self.store.persist(|durable| durable.needs_rebuild = true);
                    self.persists.push_back((ticket, Then::Nothing));
                }
            }
            StreamEndReason::FellBehind
            | StreamEndReason::TooSlow
            | StreamEndReason::Superseded
            | StreamEndReason::Deposed
            | StreamEndReason::CommittedDataMissing => {
                if self.session_of(ctx, link, from, header).is_none() {
                    return;
                }
            }
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.session = None;
        }
    }

    /// Tells the primary the contiguous frontiers; once per batch, and only news.
    pub(super) fn acknowledge(&mut self, ctx: &mut Ctx<'_>) {
        let frontiers = self.store.frontiers();
        let healthy = self.store.failed().is_none();
        let needs_rebuild = self.image() == ImageState::NeedsRebuild;
        // Who hears this much acknowledged may count on the memory from here on (`JOIN-3`).
        let received = self
            .line
            .as_ref()
            .is_some_and(|line| line.ack == AckPoint::Received);
        let forgets =
            received && self.store.durable().memory_lost && !self.store.pending().memory_lost;
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let Some(session) = follower.session else {
            return;
        };
        // Who must be rebuilt acknowledges nothing (`VOTE-5`).
        let owes = follower.owes == Owes::Ack && !needs_rebuild;
        let due = owes && session.cutting.is_none() && healthy && !forgets;
        if !due {
            return;
        }
        follower.owes = Owes::Nothing;
        let ack = Ack {
            received: frontiers.head,
            flushed: match ctx.me.mutants.has(Mutant::ReceivedAsFlushed) {
                true => frontiers.head,
                false => frontiers.flushed,
            },
            applied: frontiers.applied,
            checkpoint: frontiers.checkpoint,
            tail: frontiers.tail,
        };
        let epoch = follower.reign.epoch;
        let header = self.header(session.number, epoch);
        self.send(ctx, session.link, header, VolumeMessage::Ack(ack));
    }

    /// Whether this member says that it still follows a primary.
    pub(super) fn follows(&self, now: Instant) -> Option<&ReignId> {
        match &self.role {
            Role::Follower(follower) if self.grants.running(now).is_some() => Some(&follower.reign),
            Role::Follower(_) | Role::Idle | Role::Candidate(_) | Role::Reign(_) => None,
        }
    }

    pub(super) fn follower_link_down(&mut self, link: LinkId) {
        if let Role::Follower(follower) = &mut self.role
            && follower.link() == Some(link)
        {
            follower.session = None;
        }
    }
}

//! Reigns: what is seen of the seats, when a reign ends, the minting of the next.

use std::{collections::BTreeMap, time::Duration};

use moorline_types::{BootId, Epoch, Instant, Policy, ServerId, VolumeId};
use moorline_wire::{
    ImageState, VoteClaim,
    control::{
        EventCause, EventKind, MarkState, PrimaryFaultReason, PromotionFailure, ReplicaReport,
        ReplicaRole, VoteState,
    },
};

use super::{Actions, Authority, Purpose, Volume};
use crate::{
    mutants::Mutant,
    record::VolumeRecord,
    succession::{
        Decision, Hindrance, ReignView, SeatLink, SeatLog, SeatView, Succession, decide,
        has_alternative,
    },
    vote,
};

/// What is known of a volume's reign beyond its record; all of it may be forgotten in a restart.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct Reign {
    /// The reign that is to end, and why; its lease is not renewed.
    ending: Option<(Epoch, EventCause)>,
    /// Whether a successor is being recorded.
    minting: bool,
    /// The last reign whose mark is known to be committed.
    marked: Option<Epoch>,
    /// When the reign in force began, or was found at the start.
    since: Option<(Epoch, Instant)>,
    /// How often in a row a candidate took too long.
    overdue: u32,
    /// Who declined, how often in a row, and until when it is left out.
    declined: BTreeMap<ServerId, (u32, Instant)>,
    /// Who could do better, by the word of the one that declined.
    better: Option<ServerId>,
    /// The highest epoch that any server named.
    named: Epoch,
    /// Why the next reign cannot begin, for people.
    hindrance: Option<Hindrance>,
    /// Votes that were refused already, so that each is told once.
    refused: BTreeMap<ServerId, VoteState>,
}

/// The most times that a back-off is doubled.
const DOUBLINGS_MAX: u32 = 5;

impl Reign {
    pub(super) fn is_to_end(&self, epoch: Epoch) -> bool {
        self.ending.is_some_and(|(ending, _)| ending == epoch)
    }

    pub(super) const fn is_minting(&self) -> bool {
        self.minting
    }

    pub(super) fn hinder(&mut self, hindrance: Hindrance) {
        self.hindrance = Some(hindrance);
    }

    pub(super) const fn hindrance(&self) -> Option<Hindrance> {
        self.hindrance
    }

    pub(super) fn is_marked(&self, epoch: Epoch) -> bool {
        self.marked == Some(epoch)
    }

    fn decline(&mut self, server: ServerId, now: Instant, retry: Duration) {
        let entry = self.declined.entry(server).or_insert((0, now));
        let wait = retry * (1 << entry.0.min(DOUBLINGS_MAX));
        *entry = (entry.0 + 1, now.after(wait));
    }
}

impl Authority {
    /// The primary in force asks for a successor; it gave its lease up.
    pub(super) fn on_primary_fault(
        &mut self,
        server: &ServerId,
        id: VolumeId,
        epoch: Epoch,
        reason: PrimaryFaultReason,
        out: &mut Actions,
    ) {
        if !self.leads(server, id, epoch) {
            return;
        }
        let event = EventKind::PrimaryFault {
            epoch,
            server: server.clone(),
            reason,
        };
        self.end_reign(server, id, epoch, EventCause::PrimaryFault, event);
        self.reconcile(id, out);
    }

    /// The candidate in force declines; it gave its lease up.
    pub(super) fn on_promotion_failed(
        &mut self,
        server: &ServerId,
        id: VolumeId,
        epoch: Epoch,
        reason: PromotionFailure,
        better: Option<ServerId>,
        out: &mut Actions,
    ) {
        if !self.leads(server, id, epoch) {
            return;
        }
        let event = EventKind::PromotionFailed {
            epoch,
            server: server.clone(),
            reason: reason.clone(),
        };
        self.end_reign(server, id, epoch, EventCause::PromotionFailed, event);
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.reign.better = better;
            if let PromotionFailure::Superseded { epoch: named } = reason {
                name_epoch(volume, named);
            }
        }
        self.reconcile(id, out);
    }

    /// Whether the server, in the boot that is connected, has this very reign.
    fn leads(&self, server: &ServerId, id: VolumeId, epoch: Epoch) -> bool {
        let (Some(volume), Some(link)) = (self.volumes.get(&id), self.up_link(server)) else {
            return false;
        };
        let line = &volume.record.line;
        line.epoch == epoch && line.primary.as_ref() == Some(&(server.clone(), link.boot))
    }

    fn end_reign(
        &mut self,
        server: &ServerId,
        id: VolumeId,
        epoch: Epoch,
        cause: EventCause,
        event: EventKind,
    ) {
        let (now, retry) = (self.now, self.config.retry);
        self.leases.release(id, epoch);
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        if volume.reign.ending == Some((epoch, cause)) {
            return;
        }
        volume.reign.ending = Some((epoch, cause));
        volume.reign.decline(server.clone(), now, retry);
        self.note(id, event);
    }

    pub(super) fn reconcile_live(&mut self, id: VolumeId, out: &mut Actions) {
        self.observe(id);
        if self.record_seats(id, out) || self.next_deferred(id, out) {
            return;
        }
        let Some(view) = self.reign_view(id) else {
            return;
        };
        let decision = decide(self.now, &view);
        let mut wake = self.reign_deadline(id, &view);
        let mut hindrance = None;
        match decision {
            // Nobody else could try in its place after all: it goes on, with its lease.
            Decision::Keep => self.forgive_overdue(id, &view),
            Decision::Wait(reason) => {
                hindrance = Some(reason);
                match reason {
                    Hindrance::LeaseRuns(until) | Hindrance::LeftOut(until) => wake = Some(until),
                    // Another report, or another connection, changes these.
                    Hindrance::StillFollowed
                    | Hindrance::OldCopy { .. }
                    | Hindrance::TwoMasters
                    | Hindrance::TooFewVoters { .. }
                    | Hindrance::NoCandidate
                    | Hindrance::NeedsConsent => {}
                }
            }
            Decision::Mint(succession) => return self.mint(id, succession, out),
        }
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.wake = wake.filter(|_| volume.pending.is_none());
            volume.reign.hindrance = hindrance;
        }
    }

    fn forgive_overdue(&mut self, id: VolumeId, view: &ReignView) {
        if view.cause == Some(EventCause::PromotionOverdue)
            && let Some(volume) = self.volumes.get_mut(&id)
        {
            volume.reign.ending = None;
        }
    }

    /// Takes in what the connected servers report of a volume.
    fn observe(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let line = volume.record.line.clone();
        let mut named = line.epoch;
        let mut serving = false;
        for member in &line.members {
            let Some(link) = self.up_link(&member.server) else {
                continue;
            };
            if let Some(store) = link.stores.get(&id) {
                let persisted = store.line.map_or(Epoch::ZERO, |line| line.epoch);
                for epoch in [store.promised, persisted] {
                    if !line.epoch.jump_is_insane(epoch) {
                        named = named.max(epoch);
                    }
                }
            }
            let leads = line.primary.as_ref() == Some(&(member.server.clone(), link.boot));
            if let Some(report) = link.reports.get(&id).filter(|_| leads) {
                serving = has_mark(report, line.epoch);
            }
        }
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        name_epoch(volume, named);
        let reign = &mut volume.reign;
        if reign.since.is_none_or(|(epoch, _)| epoch != line.epoch) {
            reign.since = Some((line.epoch, now));
        }
        if serving && !reign.is_marked(line.epoch) {
            reign.marked = Some(line.epoch);
            reign.overdue = 0;
            reign.declined.clear();
            reign.better = None;
            if reign.ending == Some((line.epoch, EventCause::PromotionOverdue)) {
                reign.ending = None;
            }
            if let Some((primary, _)) = line.primary {
                let epoch = line.epoch;
                self.note(id, EventKind::PrimaryServing { epoch, primary });
            }
        }
    }

    /// Records what is new about the seats: counters and boots of stores, and changed addresses,
    /// which make a new line. Tells whether a transaction was proposed.
    fn record_seats(&mut self, id: VolumeId, out: &mut Actions) -> bool {
        let Some(volume) = self.volumes.get(&id) else {
            return false;
        };
        let mut record = volume.record.clone();
        let mut refused = Vec::new();
        let mut moved = Vec::new();
        for index in 0..record.line.members.len() {
            let server = record.line.members[index].server.clone();
            let Some(known) = self.servers.get(&server) else {
                continue;
            };
            let Some(link) = known.up() else { continue };
            if let Some(store) = link.stores.get(&id) {
                if self.config.mutants.has(Mutant::RestartKeepsEpoch)
                    && let Some((primary, boot)) = &mut record.line.primary
                    && *primary == server
                {
                    *boot = link.boot;
                }
                let member = &mut record.line.members[index];
                if self.config.mutants.has(Mutant::StoreIdentityIgnored) {
                    member.store = Some(store.store);
                }
                let verdict = vote::judge(member, record.seen.get(&server), Some(store));
                if verdict != VoteState::Yes {
                    refused.push((server.clone(), verdict));
                }
                if let Some(seen) = vote::note(member, record.seen.get(&server), store) {
                    record.seen.insert(server.clone(), seen);
                }
            }
            if let Some(stored) = &known.record
                && move_endpoint(&mut record.line.members[index], &stored.value)
            {
                moved.push(server);
            }
        }
        self.tell_refused(id, refused);
        let Some(volume) = self.volumes.get(&id) else {
            return false;
        };
        if record == volume.record {
            return false;
        }
        let purpose = if record.line == volume.record.line {
            Purpose::Seen
        } else {
            record.line.config = record.line.config.next();
            Purpose::Line
        };
        for server in moved {
            let config = record.line.config;
            self.note(id, EventKind::EndpointChanged { server, config });
        }
        self.propose_volume(id, record, purpose, Vec::new(), out);
        true
    }

    fn tell_refused(&mut self, id: VolumeId, refused: Vec<(ServerId, VoteState)>) {
        for (server, vote) in refused {
            let Some(volume) = self.volumes.get_mut(&id) else {
                return;
            };
            if volume.reign.refused.insert(server.clone(), vote) != Some(vote) {
                self.note(id, EventKind::VoteRefused { server, vote });
            }
        }
    }

    /// Whether the seat has a vote, by the record and by its own word.
    pub(super) fn vote_of(&self, volume: &Volume, server: &ServerId) -> VoteState {
        let Some(member) = volume.record.line.member(server) else {
            return VoteState::NoneRecorded;
        };
        let link = self.up_link(server);
        let id = volume.record.line.volume;
        let store = link.and_then(|link| link.stores.get(&id));
        let verdict = vote::judge(member, volume.record.seen.get(server), store);
        let claim = link
            .and_then(|link| link.reports.get(&id))
            .map(|report| report.vote);
        match (verdict, claim) {
            (VoteState::Yes, Some(VoteClaim::HasNot)) => VoteState::NotClaimed,
            (verdict, _) => verdict,
        }
    }

    pub(super) fn reign_view(&self, id: VolumeId) -> Option<ReignView> {
        let volume = self.volumes.get(&id)?;
        let line = &volume.record.line;
        let mut view = ReignView {
            policy: line.policy,
            ack: line.ack,
            epoch: line.epoch,
            primary: line.primary.clone(),
            cause: None,
            lease_until: self.leases.running(self.now, id),
            better: volume.reign.better.clone(),
            failover: self.config.failover,
            seats: Vec::new(),
        };
        for member in &line.members {
            let left_out = volume.reign.declined.get(&member.server);
            view.seats.push(SeatView {
                server: member.server.clone(),
                link: self.seat_link(volume, &member.server),
                recorded_boot: member.boot,
                in_sync: line.is_in_sync(&member.server)
                    || self.config.mutants.has(Mutant::PromotesOutsideInSync),
                left_out_until: left_out.map(|(_, until)| *until),
                leads: self.leads_count(&member.server),
            });
        }
        view.cause = self.cause(volume, &view);
        Some(view)
    }

    fn seat_link(&self, volume: &Volume, server: &ServerId) -> Option<SeatLink> {
        let link = self.up_link(server)?;
        let report = link.reports.get(&volume.record.line.volume);
        Some(SeatLink {
            boot: link.boot,
            vote: self.vote_of(volume, server),
            log: report.and_then(sound_log),
            following: report.and_then(|report| report.following.clone()),
        })
    }

    fn leads_count(&self, server: &ServerId) -> usize {
        let leads = |volume: &&Volume| {
            let primary = volume.record.line.primary.as_ref();
            primary.is_some_and(|(primary, _)| primary == server)
        };
        self.volumes.values().filter(leads).count()
    }

    /// Why the reign in force should end, if it should.
    fn cause(&self, volume: &Volume, view: &ReignView) -> Option<EventCause> {
        let Some((server, boot)) = &view.primary else {
            return Some(EventCause::Bootstrap);
        };
        let reign = &volume.reign;
        let Some(link) = self.up_link(server) else {
            let ending = reign.ending.filter(|(epoch, _)| *epoch == view.epoch);
            return Some(match ending {
                // Both gave up their lease and asked for it: nobody follows them for long.
                Some((_, cause @ (EventCause::PrimaryFault | EventCause::PromotionFailed))) => {
                    cause
                }
                Some(_) | None => EventCause::PrimaryLost,
            });
        };
        // An epoch belongs to one boot: the server came back as an ordinary member.
        if link.boot != *boot {
            return Some(EventCause::PrimaryRestarted);
        }
        if let Some((epoch, cause)) = reign.ending
            && epoch == view.epoch
        {
            return Some(cause);
        }
        if volume.record.loss_accepted == Some(view.epoch) {
            return Some(EventCause::LossAccepted);
        }
        let report = link.reports.get(&volume.record.line.volume)?;
        let acts_by_it = report.line.is_some_and(|line| line.epoch == view.epoch);
        let settled = self.now.since(reign.since?.1) > self.config.lease;
        match report.role {
            ReplicaRole::Failed => Some(EventCause::PrimaryFault),
            ReplicaRole::Fenced if acts_by_it && settled => Some(EventCause::PrimaryFault),
            ReplicaRole::Fenced
            | ReplicaRole::Opening
            | ReplicaRole::Idle
            | ReplicaRole::Candidate
            | ReplicaRole::Primary
            | ReplicaRole::Replica => None,
        }
    }

    /// When a candidate that has not shown its mark is to be given up, if another one could try;
    /// gives it up when that time has come.
    fn reign_deadline(&mut self, id: VolumeId, view: &ReignView) -> Option<Instant> {
        let now = self.now;
        let deadline = self.config.reign_deadline;
        let volume = self.volumes.get_mut(&id)?;
        let reign = &mut volume.reign;
        if view.cause.is_some() || reign.is_marked(view.epoch) {
            return None;
        }
        let due = reign
            .since?
            .1
            .after(deadline * (1 << reign.overdue.min(DOUBLINGS_MAX)));
        if now < due {
            return Some(due);
        }
        if !has_alternative(now, view) {
            return None;
        }
        reign.ending = Some((view.epoch, EventCause::PromotionOverdue));
        reign.overdue += 1;
        // Its lease runs out now that it is not renewed.
        Some(view.lease_until.unwrap_or(now))
    }

    fn mint(&mut self, id: VolumeId, succession: Succession, out: &mut Actions) {
        assert!(
            self.leases.running(self.now, id).is_none(),
            "no epoch is minted during a lease"
        );
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let mut record = volume.record.clone();
        let line = &mut record.line;
        let floor = Epoch::new(record.epoch_floor, 0);
        let above = volume.reign.named.max(line.epoch).max(floor);
        let Some(assignment) = above.assignment().checked_add(1) else {
            return;
        };
        line.epoch = Epoch::new(assignment, 0);
        line.config = line.config.next();
        line.primary = Some((succession.server.clone(), succession.boot));
        line.in_sync.clone_from(&succession.in_sync);
        refresh_opens(&mut record);
        volume.reign.minting = true;
        volume.reign.hindrance = None;
        let event = EventKind::EpochMinted {
            epoch: record.line.epoch,
            primary: succession.server,
            in_sync: succession.in_sync,
            cause: succession.cause,
        };
        self.note(id, event);
        self.propose_volume(id, record, Purpose::Line, Vec::new(), out);
    }

    /// After a transaction of the volume ended, whichever way.
    pub(super) fn minting_over(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.reign.minting = false;
            let epoch = volume.record.line.epoch;
            volume.reign.ending = volume.reign.ending.filter(|(ending, _)| *ending == epoch);
        }
    }

    /// The connected boot of a member, if it has reported.
    pub(super) fn boot_of(&self, server: &ServerId) -> Option<BootId> {
        self.up_link(server).map(|link| link.boot)
    }
}

/// Raises the counters in the line to what was seen; done only where the line changes anyway. The
/// boots in it are those that were called in sync, and move with the in-sync set alone.
pub(super) fn refresh_opens(record: &mut VolumeRecord) {
    for member in &mut record.line.members {
        let seen = record.seen.get(&member.server);
        if let Some(seen) = seen.filter(|seen| member.store == Some(seen.store))
            && seen.open >= member.open
        {
            member.open = seen.open;
            member.opened_by = Some(seen.boot);
        }
    }
}

fn name_epoch(volume: &mut Volume, epoch: Epoch) {
    if !volume.record.line.epoch.jump_is_insane(epoch) {
        volume.reign.named = volume.reign.named.max(epoch);
    }
}

/// Whether the primary of `epoch` reports that its mark is committed.
pub(super) fn has_mark(report: &ReplicaReport, epoch: Epoch) -> bool {
    report.role == ReplicaRole::Primary
        && report.mark == MarkState::Committed
        && report.line.is_some_and(|line| line.epoch == epoch)
}

fn sound_log(report: &ReplicaReport) -> Option<SeatLog> {
    let open = !matches!(report.role, ReplicaRole::Opening | ReplicaRole::Failed);
    let whole = report.image == ImageState::Whole;
    let flushed = report.flushed.filter(|_| open && whole)?;
    Some(SeatLog {
        last_record_epoch: report.last_record_epoch,
        flushed,
    })
}

fn move_endpoint(
    member: &mut moorline_types::Member,
    server: &crate::record::ServerRecord,
) -> bool {
    let same = member.data_addr == server.data_addr
        && member.control_addr == server.control_addr
        && member.nbd_addr == server.nbd_addr;
    if same {
        return false;
    }
    // Where the connected server says that it is goes before a higher number in a line that was
    // taken over: the master that gave that number is lost.
    let version = server
        .endpoint_version
        .max(member.endpoint_version.saturating_add(1));
    member.data_addr.clone_from(&server.data_addr);
    member.control_addr.clone_from(&server.control_addr);
    member.nbd_addr.clone_from(&server.nbd_addr);
    member.endpoint_version = version;
    true
}

/// The least number of copies that an in-sync set may shrink to.
pub(super) fn floor(record: &VolumeRecord) -> usize {
    match record.line.policy {
        Policy::SyncAll => usize::try_from(record.line.min_copies).unwrap_or(usize::MAX),
        Policy::SyncQuorum | Policy::BestEffort => 1,
    }
}

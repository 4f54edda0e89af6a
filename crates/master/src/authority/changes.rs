//! Compare-and-sets that the primary of the reign in force asks for: the in-sync set, a vote.

use std::collections::BTreeSet;

use moorline_types::{ServerId, VolumeId};
use moorline_wire::control::{
    ChangeConfig, ChangeConfigRefusal, ChangeConfigResult, ChangeVote, EventKind, MasterToServer,
    VoteState,
};

use super::{
    Actions, Authority, LinkId, Purpose, Volume,
    reign::{floor, refresh_opens},
};
use crate::record::{Seen, Trust, VolumePhase, VolumeRecord};

/// Requests that may wait for one volume; more are refused, and asked again.
const DEFERRED_MAX: usize = 64;

/// A request that waits for the transaction in flight.
#[derive(Clone, Debug)]
pub(super) struct Deferred {
    link: LinkId,
    server: ServerId,
    request: Request,
}

#[derive(Clone, Debug)]
enum Request {
    Config(ChangeConfig),
    Vote(ChangeVote),
}

impl Request {
    const fn id(&self) -> u64 {
        match self {
            Self::Config(change) => change.request_id,
            Self::Vote(change) => change.request_id,
        }
    }
}

/// What a request comes to.
enum Verdict {
    /// It is so already.
    Already,
    /// This record is to be.
    Change(Box<VolumeRecord>, EventKind),
}

impl Volume {
    /// Whether this very change, or one asked for after it, was refused in the same reign.
    ///
    /// A primary asks again while it has no answer, so a copy of a refused change may still be on
    /// its way. By then it requires no more what that change would record (`JOIN-4`).
    fn was_refused(&self, change: &ChangeConfig) -> bool {
        (self.refused).is_some_and(|(epoch, id)| epoch == change.epoch && change.request_id <= id)
    }

    fn note_refused(&mut self, by: &ServerId, request: &Request) {
        let leads = |(server, _): &(ServerId, _)| server == by;
        if let Request::Config(change) = request
            && self.record.line.primary.as_ref().is_some_and(leads)
            && self.record.line.epoch == change.epoch
        {
            self.refused = self.refused.max(Some((change.epoch, change.request_id)));
        }
    }
}

impl Authority {
    pub(super) fn on_change_config(
        &mut self,
        link: LinkId,
        server: &ServerId,
        change: ChangeConfig,
        out: &mut Actions,
    ) {
        let id = change.volume;
        self.enqueue(id, link, server, Request::Config(change), out);
    }

    pub(super) fn on_change_vote(
        &mut self,
        link: LinkId,
        server: &ServerId,
        change: ChangeVote,
        out: &mut Actions,
    ) {
        let id = change.volume;
        self.enqueue(id, link, server, Request::Vote(change), out);
    }

    fn enqueue(
        &mut self,
        id: VolumeId,
        link: LinkId,
        server: &ServerId,
        request: Request,
        out: &mut Actions,
    ) {
        let request_id = request.id();
        let unsettled = self.is_unsettled(id);
        let Some(volume) = self.volumes.get_mut(&id).filter(|v| v.version.is_some()) else {
            let reason = ChangeConfigRefusal::UnknownVolume;
            return self.answer_refused(id, link, request_id, reason, out);
        };
        if unsettled {
            // No answer is neither yes nor no: the primary asks again.
            return;
        }
        if volume.deferred.len() >= DEFERRED_MAX {
            volume.note_refused(server, &request);
            let reason = ChangeConfigRefusal::OtherVersion;
            return self.answer_refused(id, link, request_id, reason, out);
        }
        volume.deferred.push_back(Deferred {
            link,
            server: server.clone(),
            request,
        });
        self.reconcile(id, out);
    }

    /// Answers the requests that wait, in order, up to the first that needs a transaction; tells
    /// whether one was proposed.
    pub(super) fn next_deferred(&mut self, id: VolumeId, out: &mut Actions) -> bool {
        loop {
            let next = self
                .volumes
                .get_mut(&id)
                .and_then(|v| v.deferred.pop_front());
            let Some(Deferred {
                link,
                server,
                request,
            }) = next
            else {
                return false;
            };
            let Some(volume) = self.volumes.get(&id) else {
                return false;
            };
            let request_id = request.id();
            let verdict = match &request {
                // A copy of what was refused: whoever asked goes by that answer.
                Request::Config(change) if volume.was_refused(change) => {
                    Err(ChangeConfigRefusal::OtherVersion)
                }
                Request::Config(change) => self.judge_config(volume, &server, change),
                Request::Vote(change) => self.judge_vote(volume, &server, change),
            };
            match verdict {
                Ok(Verdict::Already) => self.answer_recorded(id, link, request_id, out),
                Ok(Verdict::Change(record, event)) => {
                    self.note(id, event);
                    let purpose = Purpose::Requested { link, request_id };
                    self.propose_volume(id, *record, purpose, Vec::new(), out);
                    return true;
                }
                Err(reason) => {
                    if let Some(volume) = self.volumes.get_mut(&id) {
                        volume.note_refused(&server, &request);
                    }
                    self.answer_refused(id, link, request_id, reason, out);
                }
            }
        }
    }

    fn check_sender(
        &self,
        volume: &Volume,
        server: &ServerId,
        epoch: moorline_types::Epoch,
    ) -> Result<(), ChangeConfigRefusal> {
        let line = &volume.record.line;
        if volume.record.phase != VolumePhase::Live {
            return Err(ChangeConfigRefusal::Deleting);
        }
        let boot = self.boot_of(server);
        let leads = boot.is_some_and(|boot| line.primary == Some((server.clone(), boot)));
        if line.epoch != epoch || !leads {
            return Err(ChangeConfigRefusal::NotPrimary);
        }
        Ok(())
    }

    fn judge_config(
        &self,
        volume: &Volume,
        server: &ServerId,
        change: &ChangeConfig,
    ) -> Result<Verdict, ChangeConfigRefusal> {
        self.check_sender(volume, server, change.epoch)?;
        let record = &volume.record;
        let line = &record.line;
        let wanted: BTreeSet<ServerId> = change.in_sync.iter().map(|m| m.server.clone()).collect();
        if wanted.len() != change.in_sync.len() || !wanted.iter().all(|s| line.member(s).is_some())
        {
            return Err(ChangeConfigRefusal::NotMembers);
        }
        if !wanted.contains(server) {
            return Err(ChangeConfigRefusal::WithoutPrimary);
        }
        let boots_recorded = change.in_sync.iter().all(|wanted| {
            line.member(&wanted.server)
                .is_some_and(|member| member.boot == Some(wanted.boot))
        });
        let in_force = wanted.iter().eq(line.in_sync.iter()) && boots_recorded;
        // Asked again after an answer that was lost: the same set is the same answer.
        if in_force && change.expected_config <= line.config {
            return Ok(Verdict::Already);
        }
        if change.expected_config != line.config {
            return Err(ChangeConfigRefusal::OtherVersion);
        }
        let grown = wanted.iter().filter(|server| !line.is_in_sync(server));
        for server in grown {
            match self.vote_of(volume, server) {
                // Not connected to the master, and nothing is held against it.
                VoteState::Yes | VoteState::Unknown => {}
                VoteState::NoneRecorded
                | VoteState::OtherStore
                | VoteState::RolledBack
                | VoteState::Copied
                | VoteState::NotClaimed => return Err(ChangeConfigRefusal::NoVote),
            }
        }
        let shrinks = line.in_sync.iter().any(|server| !wanted.contains(server));
        if shrinks && wanted.len() < floor(record) {
            return Err(ChangeConfigRefusal::BelowFloor);
        }
        let mut next = record.clone();
        next.line.config = line.config.next();
        next.line.in_sync = wanted.into_iter().collect();
        for wanted in &change.in_sync {
            let members = &mut next.line.members;
            if let Some(member) = members.iter_mut().find(|m| m.server == wanted.server) {
                member.boot = Some(wanted.boot);
            }
        }
        refresh_opens(&mut next);
        let event = EventKind::InSyncChanged {
            epoch: next.line.epoch,
            config: next.line.config,
            in_sync: next.line.in_sync.clone(),
        };
        Ok(Verdict::Change(Box::new(next), event))
    }

    fn judge_vote(
        &self,
        volume: &Volume,
        server: &ServerId,
        change: &ChangeVote,
    ) -> Result<Verdict, ChangeConfigRefusal> {
        self.check_sender(volume, server, change.epoch)?;
        let record = &volume.record;
        let line = &record.line;
        let seat = line
            .member(&change.server)
            .ok_or(ChangeConfigRefusal::NotMembers)?;
        if seat.store == Some(change.new) && change.expected_config <= line.config {
            return Ok(Verdict::Already);
        }
        if change.expected_config != line.config {
            return Err(ChangeConfigRefusal::OtherVersion);
        }
        let link = self.up_link(&change.server);
        let store = link
            .and_then(|link| link.stores.get(&line.volume))
            .filter(|store| store.store == change.new)
            .ok_or(ChangeConfigRefusal::OtherStore)?;
        // The reign's own store is what the others were rebuilt from.
        if seat.store != change.old || change.server == *server {
            return Err(ChangeConfigRefusal::OtherStore);
        }
        let mut next = record.clone();
        next.line.config = line.config.next();
        next.line.in_sync.retain(|member| *member != change.server);
        if next.line.in_sync.len() < record.line.in_sync.len()
            && next.line.in_sync.len() < floor(record)
        {
            return Err(ChangeConfigRefusal::BelowFloor);
        }
        let members = &mut next.line.members;
        if let Some(member) = members.iter_mut().find(|m| m.server == change.server) {
            member.store = Some(change.new);
            member.open = store.open;
            member.opened_by = Some(store.boot);
            member.boot = None;
        }
        let seen = Seen {
            store: store.store,
            open: store.open,
            boot: store.boot,
            trust: Trust::Trusted,
        };
        next.seen.insert(change.server.clone(), seen);
        refresh_opens(&mut next);
        let event = EventKind::VoteChanged {
            server: change.server.clone(),
            store: change.new,
        };
        Ok(Verdict::Change(Box::new(next), event))
    }

    pub(super) fn answer_recorded(
        &self,
        id: VolumeId,
        link: LinkId,
        request_id: u64,
        out: &mut Actions,
    ) {
        if let Some(volume) = self.volumes.get(&id) {
            let result = ChangeConfigResult::Recorded(volume.record.line.clone());
            self.answer_change(id, link, request_id, result, out);
        }
    }

    pub(super) fn answer_lost(
        &self,
        id: VolumeId,
        link: LinkId,
        request_id: u64,
        out: &mut Actions,
    ) {
        self.answer_refused(id, link, request_id, ChangeConfigRefusal::OtherVersion, out);
    }

    fn answer_refused(
        &self,
        id: VolumeId,
        link: LinkId,
        request_id: u64,
        reason: ChangeConfigRefusal,
        out: &mut Actions,
    ) {
        let line = self.volume(id).map(|record| record.line.clone());
        let result = ChangeConfigResult::Refused { reason, line };
        self.answer_change(id, link, request_id, result, out);
    }

    fn answer_change(
        &self,
        volume: VolumeId,
        link: LinkId,
        request_id: u64,
        result: ChangeConfigResult,
        out: &mut Actions,
    ) {
        // The connection may have ended while the transaction was in flight.
        if !self.links.contains_key(&link) {
            return;
        }
        let message = MasterToServer::ChangeConfigDone {
            request_id,
            volume,
            result,
        };
        self.tell(link, message, out);
    }

    /// Refuses what still waits for a volume that is no longer live.
    pub(super) fn refuse_deferred(&mut self, id: VolumeId, out: &mut Actions) {
        let waiting = self
            .volumes
            .get_mut(&id)
            .map(|volume| std::mem::take(&mut volume.deferred));
        for deferred in waiting.unwrap_or_default() {
            let (link, request_id) = (deferred.link, deferred.request.id());
            let reason = ChangeConfigRefusal::Deleting;
            self.answer_refused(id, link, request_id, reason, out);
        }
    }
}

//! The set of senders of one volume, reconciled with its assignment.
//!
//! Refuses a stale assignment before any sender is touched. Mints the ids of sessions: they ascend
//! with the store's open counter, so they never repeat across restarts; whoever keeps several
//! registries in one opening, one per reign, hands the last number on.

use std::collections::BTreeMap;

use moorline_types::{
    AssignmentLine, ConfigVersion, Epoch, Instant, Member, OpenCount, ReplicaId, ServerId,
    SessionId, VolumeId,
};

use crate::{
    action::Actions,
    event::{Answer, Event, Refusal},
    fence::{EpochFence, Fenced, Raise},
    recovery_log::What,
    sender::{Endpoint, EndpointChange, Sender, SenderConfig, check_endpoint},
    session::{Cause, SessionKind},
    status::SenderStatus,
};

/// Who this registry works for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryIdentity {
    /// The volume.
    pub volume: VolumeId,
    /// The primary itself: it is no recovery target.
    pub own: ServerId,
    /// The open counter of the primary's store.
    pub open: OpenCount,
}

/// All senders of one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registry {
    identity: RegistryIdentity,
    config: SenderConfig,
    fence: EpochFence,
    /// The newest assignment taken in.
    line: Option<AssignmentLine>,
    senders: BTreeMap<ServerId, Sender>,
    session_serial: u64,
}

/// What an assignment changed; each list ascends by server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reconciled {
    /// Senders made.
    pub added: Vec<ServerId>,
    /// Senders stopped and dropped.
    pub removed: Vec<ServerId>,
    /// Sessions begun.
    pub created: Vec<ServerId>,
    /// Sessions, or in_sync, ended in favour of a new session.
    pub superseded: Vec<ServerId>,
    /// What could not be done, and why.
    pub failed: Vec<(ServerId, Refusal)>,
}

/// What became of an assignment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Applied {
    /// The senders follow it.
    Reconciled(Reconciled),
    /// The same line again; nothing changed.
    Unchanged,
    /// Nothing was touched.
    Refused(AssignmentRefused),
}

/// Why an assignment was refused as a whole.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AssignmentRefused {
    /// It is about another volume.
    #[error("the assignment is about volume {got}")]
    OtherVolume {
        /// The volume that it names.
        got: VolumeId,
    },
    /// It names no member at all: no volume has none.
    #[error("the assignment of epoch {epoch}, config version {config} names no member")]
    Empty {
        /// Its epoch.
        epoch: Epoch,
        /// Its config version.
        config: ConfigVersion,
    },
    /// A server has two seats.
    #[error("server {server} is named {times} times")]
    NamedTwice {
        /// The first such server.
        server: ServerId,
        /// How often.
        times: usize,
    },
    /// Two replicas are said to be at one place: one of them would get the other's records.
    #[error("servers {first} and {second} are both said to be at {address}")]
    EndpointShared {
        /// The place.
        address: String,
        /// The lower of the first such pair.
        first: ServerId,
        /// The higher.
        second: ServerId,
    },
    /// An older epoch, or an impossible one.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// The same epoch and an older config version.
    #[error("config version {got} of epoch {epoch} is stale: {have} is known")]
    StaleConfig {
        /// The epoch of both.
        epoch: Epoch,
        /// The known version.
        have: ConfigVersion,
        /// The one that came.
        got: ConfigVersion,
    },
    /// The same epoch and config version with other content: two masters, or damage.
    #[error("two different assignments are both called epoch {epoch}, config version {config}")]
    Conflict {
        /// The epoch of both.
        epoch: Epoch,
        /// The config version of both.
        config: ConfigVersion,
    },
}

impl Registry {
    /// An empty registry at `epoch`.
    #[must_use]
    pub const fn new(identity: RegistryIdentity, epoch: Epoch, config: SenderConfig) -> Self {
        Self {
            identity,
            config,
            fence: EpochFence::new(epoch),
            line: None,
            senders: BTreeMap::new(),
            session_serial: 0,
        }
    }

    /// The epoch that the senders send for.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.fence.current()
    }

    /// The newest assignment taken in.
    #[must_use]
    pub const fn line(&self) -> Option<&AssignmentLine> {
        self.line.as_ref()
    }

    /// The sender of one replica.
    #[must_use]
    pub fn sender(&self, server: &ServerId) -> Option<&Sender> {
        self.senders.get(server)
    }

    /// The sender of one replica, for whoever carries out its session's plan. Told by it are facts
    /// of that session only: see [`handle`](Self::handle).
    pub fn sender_mut(&mut self, server: &ServerId) -> Option<&mut Sender> {
        self.senders.get_mut(server)
    }

    /// All senders, ascending by server.
    pub fn senders(&self) -> impl Iterator<Item = (&ServerId, &Sender)> {
        self.senders.iter()
    }

    /// Snapshots of all senders, ascending by server.
    #[must_use]
    pub fn status(&self) -> Vec<SenderStatus> {
        self.senders.values().map(Sender::status).collect()
    }

    /// The number of the last session, in the order of their making.
    #[must_use]
    pub const fn last_session(&self) -> u64 {
        self.session_serial
    }

    /// Numbers sessions from `last` on: those of an earlier reign of the same opening had the
    /// numbers through it.
    pub fn number_after(&mut self, last: u64) {
        self.session_serial = self.session_serial.max(last);
    }

    /// A session id that was never used.
    #[must_use]
    pub fn fresh_session_id(&mut self) -> SessionId {
        self.session_serial += 1;
        SessionId::new(self.identity.open, self.session_serial)
    }

    /// The first instant at which some sender's deadline comes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.senders
            .values()
            .filter_map(Sender::next_deadline)
            .min()
    }

    /// Tells every sender whose deadline has come.
    pub fn deadline_reached(&mut self, now: Instant, out: &mut Actions) {
        for sender in self.senders.values_mut() {
            if sender
                .next_deadline()
                .is_some_and(|deadline| deadline <= now)
            {
                // A timer has no one to answer to.
                let _answer = sender.handle(now, Event::DeadlineReached, out);
            }
        }
    }

    /// A link to `server` stands: its session goes on, or one begins for `cause`.
    pub fn link_up(
        &mut self,
        now: Instant,
        server: &ServerId,
        cause: Cause,
        out: &mut Actions,
    ) -> Answer {
        let fresh = self.fresh_session_id();
        self.handle(now, server, Event::LinkUp { fresh, cause }, out)
    }

    /// Somebody wants a session for `server`.
    pub fn request_session(
        &mut self,
        now: Instant,
        server: &ServerId,
        (kind, cause): (SessionKind, Cause),
        out: &mut Actions,
    ) -> Answer {
        let fresh = self.fresh_session_id();
        self.handle(
            now,
            server,
            Event::SessionRequested { fresh, kind, cause },
            out,
        )
    }

    /// Takes in one event about one replica. A server without a sender is answered `Stopped`.
    ///
    /// What is decided for all senders at once (epoch, endpoint, end) is refused here: see
    /// [`apply`](Self::apply) and [`raise_epoch`](Self::raise_epoch).
    pub fn handle(
        &mut self,
        now: Instant,
        server: &ServerId,
        event: Event<'_>,
        out: &mut Actions,
    ) -> Answer {
        match event {
            Event::EpochRaised { .. } | Event::EndpointChanged(_) | Event::StopRequested => {
                Answer::Refused(Refusal::NotForOne)
            }
            Event::SessionRequested { .. }
            | Event::SessionReplaced { .. }
            | Event::LinkUp { .. }
            | Event::LinkLost
            | Event::PeerSilent
            | Event::DeadlineReached
            | Event::Session { .. } => self.tell(now, server, event, out),
        }
    }

    fn tell(
        &mut self,
        now: Instant,
        server: &ServerId,
        event: Event<'_>,
        out: &mut Actions,
    ) -> Answer {
        match self.senders.get_mut(server) {
            Some(sender) => sender.handle(now, event, out),
            None => Answer::Refused(Refusal::Stopped),
        }
    }

    /// A promise request raised the epoch: every session and every in_sync of an older one ends.
    /// Nothing new begins before an assignment names this primary again.
    pub fn raise_epoch(&mut self, now: Instant, to: Epoch, out: &mut Actions) -> Raise {
        let raise = self.fence.raise(to);
        if matches!(raise, Raise::Raised { .. }) {
            for sender in self.senders.values_mut() {
                let answer = sender.handle(now, Event::EpochRaised { to }, out);
                assert_eq!(
                    answer,
                    Answer::Done,
                    "senders stand at the registry's epoch"
                );
            }
        }
        raise
    }

    /// Reconciles the senders with an assignment.
    ///
    /// Everything that can refuse the assignment as a whole is looked at before any sender is
    /// added, removed, stopped, moved or superseded.
    pub fn apply(&mut self, now: Instant, line: &AssignmentLine, out: &mut Actions) -> Applied {
        match self.check(line) {
            Ok(Fresh::Same) => return Applied::Unchanged,
            Ok(Fresh::Newer) => {}
            Err(refused) => return Applied::Refused(refused),
        }
        let first = self.line.is_none();
        let new_reign = self
            .line
            .as_ref()
            .is_none_or(|known| known.epoch < line.epoch);
        match self.fence.raise(line.epoch) {
            Raise::Raised { .. } | Raise::Same => {}
            Raise::Refused(_) => unreachable!("checked above"),
        }
        let mut done = Reconciled::default();
        self.remove_absent(now, line, &mut done, out);
        for member in &line.members {
            let server = &member.server;
            if *server == self.identity.own {
                continue;
            }
            let standing = self.sender(server).is_some_and(Sender::has_standing);
            let cause = if self.senders.contains_key(server) {
                let moved = self.move_one(now, member, &mut done, out);
                if new_reign {
                    // A promise request may have raised it before.
                    let to = line.epoch;
                    let _answer = self.tell(now, server, Event::EpochRaised { to }, out);
                }
                (moved || new_reign).then_some(Cause::Reassignment)
            } else {
                self.add_one(now, member, &mut done, out);
                Some(if first {
                    Cause::Bootstrap
                } else {
                    Cause::Assignment
                })
            };
            if standing && !self.sender(server).is_some_and(Sender::has_standing) {
                done.superseded.push(server.clone());
            }
            if let Some(cause) = cause {
                self.begin_one(now, server, cause, &mut done, out);
            }
        }
        self.line = Some(line.clone());
        done.sort();
        self.assert_invariants();
        Applied::Reconciled(done)
    }

    /// Panics when the registry contradicts itself.
    pub fn assert_invariants(&self) {
        let own = &self.identity.own;
        assert!(!self.senders.contains_key(own), "a primary sends to itself");
        for sender in self.senders.values() {
            assert_eq!(
                sender.epoch(),
                self.fence.current(),
                "a sender of another epoch"
            );
            sender.assert_invariants();
        }
    }

    fn check(&self, line: &AssignmentLine) -> Result<Fresh, AssignmentRefused> {
        if line.volume != self.identity.volume {
            return Err(AssignmentRefused::OtherVolume { got: line.volume });
        }
        match self.fence.admit(line.epoch) {
            Ok(_) | Err(Fenced::Ahead { .. }) => {}
            Err(fenced @ (Fenced::Stale { .. } | Fenced::JumpRefused { .. })) => {
                return Err(fenced.into());
            }
        }
        if let Some(known) = self.line.as_ref().filter(|known| known.epoch == line.epoch) {
            let (epoch, have, got) = (line.epoch, known.config, line.config);
            match got.cmp(&have) {
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Less => {
                    return Err(AssignmentRefused::StaleConfig { epoch, have, got });
                }
                std::cmp::Ordering::Equal if known == line => return Ok(Fresh::Same),
                std::cmp::Ordering::Equal => {
                    return Err(AssignmentRefused::Conflict { epoch, config: got });
                }
            }
        }
        check_members(line)?;
        let known = self.line.as_ref();
        if !known.is_some_and(|known| has_same_places(known, line)) {
            check_places(line)?;
        }
        Ok(Fresh::Newer)
    }

    fn remove_absent(
        &mut self,
        now: Instant,
        line: &AssignmentLine,
        done: &mut Reconciled,
        out: &mut Actions,
    ) {
        let own = &self.identity.own;
        // Senders and names both ascend: one walk over the two.
        let named = names(line);
        let mut named = named.into_iter().peekable();
        self.senders.retain(|server, sender| {
            while named.next_if(|name| *name < server).is_some() {}
            if named.peek() == Some(&server) && server != own {
                return true;
            }
            let _answer = sender.handle(now, Event::StopRequested, out);
            done.removed.push(server.clone());
            false
        });
    }

    fn add_one(&mut self, now: Instant, member: &Member, done: &mut Reconciled, out: &mut Actions) {
        let replica = ReplicaId {
            volume: self.identity.volume,
            server: member.server.clone(),
        };
        let sender = Sender::new(replica, endpoint(member), self.fence.current(), self.config);
        sender.emit(now, What::SenderAdded, out);
        self.senders.insert(member.server.clone(), sender);
        done.added.push(member.server.clone());
    }

    /// Follows a changed endpoint; whether it did.
    fn move_one(
        &mut self,
        now: Instant,
        member: &Member,
        done: &mut Reconciled,
        out: &mut Actions,
    ) -> bool {
        let have = self.senders[&member.server].endpoint();
        if is_at(have, member) {
            return false;
        }
        let to = endpoint(member);
        match check_endpoint(have, &to) {
            EndpointChange::Same => false,
            EndpointChange::Moved => {
                let _answer = self.tell(now, &member.server, Event::EndpointChanged(to), out);
                true
            }
            EndpointChange::Refused(refusal) => {
                done.failed.push((member.server.clone(), refusal));
                false
            }
        }
    }

    fn begin_one(
        &mut self,
        now: Instant,
        server: &ServerId,
        cause: Cause,
        done: &mut Reconciled,
        out: &mut Actions,
    ) {
        let what = (SessionKind::CatchUp, cause);
        match self.request_session(now, server, what, out) {
            Answer::Done => done.created.push(server.clone()),
            Answer::Unchanged(_) => {}
            Answer::Refused(refusal) => done.failed.push((server.clone(), refusal)),
        }
    }
}

enum Fresh {
    Same,
    Newer,
}

impl Reconciled {
    fn sort(&mut self) {
        for list in [
            &mut self.added,
            &mut self.removed,
            &mut self.created,
            &mut self.superseded,
        ] {
            list.sort();
            list.dedup();
        }
        self.failed.sort_by(|a, b| a.0.cmp(&b.0));
    }
}

/// The members' servers, ascending. Lines list them so, and then this is one pass.
fn names(line: &AssignmentLine) -> Vec<&ServerId> {
    let mut names: Vec<&ServerId> = line.members.iter().map(|member| &member.server).collect();
    names.sort_unstable();
    names
}

fn check_members(line: &AssignmentLine) -> Result<(), AssignmentRefused> {
    let names = names(line);
    if names.is_empty() {
        return Err(AssignmentRefused::Empty {
            epoch: line.epoch,
            config: line.config,
        });
    }
    let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) else {
        return Ok(());
    };
    let twice = pair[0];
    Err(AssignmentRefused::NamedTwice {
        server: twice.clone(),
        times: names.iter().filter(|name| **name == twice).count(),
    })
}

/// Whether everybody is where the line before said: then nobody needs to be compared with all.
fn has_same_places(known: &AssignmentLine, line: &AssignmentLine) -> bool {
    let stays = |(before, now): (&Member, &Member)| {
        before.server == now.server
            && before.data_addr == now.data_addr
            && before.control_addr == now.control_addr
    };
    known.members.len() == line.members.len() && known.members.iter().zip(&line.members).all(stays)
}

/// Every replica is at a place of its own; a member that is nowhere yet shares nothing.
fn check_places(line: &AssignmentLine) -> Result<(), AssignmentRefused> {
    let control = line
        .members
        .iter()
        .map(|member| (&member.control_addr, &member.server));
    let data = line
        .members
        .iter()
        .map(|member| (&member.data_addr, &member.server));
    let mut places: Vec<(&String, &ServerId)> = data.chain(control).collect();
    places.retain(|(address, _)| !address.is_empty());
    places.sort_unstable();
    let shared = |pair: &&[(&String, &ServerId)]| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1;
    let Some(pair) = places.windows(2).find(shared) else {
        return Ok(());
    };
    Err(AssignmentRefused::EndpointShared {
        address: pair[0].0.clone(),
        first: pair[0].1.clone(),
        second: pair[1].1.clone(),
    })
}

fn is_at(have: &Endpoint, member: &Member) -> bool {
    have.version == member.endpoint_version
        && have.data == member.data_addr
        && have.control == member.control_addr
}

fn endpoint(member: &Member) -> Endpoint {
    Endpoint {
        data: member.data_addr.clone(),
        control: member.control_addr.clone(),
        version: member.endpoint_version,
    }
}

#[cfg(test)]
mod tests;

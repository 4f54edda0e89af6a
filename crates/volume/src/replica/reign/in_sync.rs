//! The in-sync set: recorded by the master, one change at a time, by what streams prove.

use std::time::Duration;

use moorline_engine::{Event as EngineEvent, Fact};
use moorline_types::{AckPoint, AssignmentLine, ConfigVersion, Epoch, Instant, Policy, ServerId};
use moorline_wire::control::{ChangeConfig, ChangeConfigResult, InSyncMember, ServerToMaster};

use super::{PEER_DEADLINE, Reign};
use crate::{
    mutants::Mutant,
    node::Action,
    promotion::Vote,
    replica::{Ctx, Replica, Role, streams::Stream},
};

/// Between two requests to the master for one change of the in-sync set.
const CHANGE_AGAIN: Duration = Duration::from_millis(500);

/// A change of the in-sync set that the master has not answered.
#[derive(Clone, Debug)]
pub(super) struct AskedChange {
    pub(super) request_id: u64,
    pub(super) expected: ConfigVersion,
    pub(super) in_sync: Vec<InSyncMember>,
    pub(super) again: Instant,
}

impl Replica {
    pub(in crate::replica) fn growth_recorded(&mut self, ctx: &mut Ctx<'_>, server: &ServerId) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.growing.remove(server);
        if let Some(stream) = reign.streams.get(server) {
            let stamp = stream.stamp;
            let event = EngineEvent::Session {
                stamp,
                fact: Fact::InSyncRecorded,
            };
            let _answer = reign
                .registry
                .handle(ctx.now, server, event, &mut reign.asked);
        }
    }

    /// Asks the master to record the in-sync set that streams prove, one change at a time.
    pub(in crate::replica) fn change_in_sync(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = self.line.clone() else {
            return;
        };
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.watch_lost(ctx.now, &line, &ctx.me.server);
        if let Some(change) = &mut reign.change {
            if change.again <= ctx.now {
                change.again = ctx.now.after(CHANGE_AGAIN);
                let change = change.clone();
                self.send_change(ctx, change);
            }
            return;
        }
        let wanted = reign.wanted_in_sync(ctx, &line);
        if wanted == line.in_sync || ctx.now < reign.hold_until {
            return;
        }
        let boots = |server: &ServerId| match reign.peers.get(server) {
            Some(seen) => Some(seen.boot),
            None if *server == ctx.me.server => Some(ctx.me.boot),
            None => line.member(server).and_then(|member| member.boot),
        };
        if wanted.iter().any(|server| boots(server).is_none()) {
            // A member of unknown boot is joined or lost before long.
            reign.hold_until = ctx.now.after(CHANGE_AGAIN);
            return;
        }
        let in_sync: Vec<InSyncMember> = wanted
            .iter()
            .filter_map(|server| {
                boots(server).map(|boot| InSyncMember {
                    server: server.clone(),
                    boot,
                })
            })
            .collect();
        reign.changes += 1;
        let change = AskedChange {
            request_id: reign.changes,
            expected: line.config,
            in_sync,
            again: ctx.now.after(CHANGE_AGAIN),
        };
        reign.change = Some(change.clone());
        self.send_change(ctx, change);
    }

    fn send_change(&self, ctx: &mut Ctx<'_>, change: AskedChange) {
        let Some(epoch) = self.leading_epoch() else {
            return;
        };
        ctx.out
            .push(Action::TellMaster(ServerToMaster::ChangeConfig(
                ChangeConfig {
                    request_id: change.request_id,
                    volume: self.volume,
                    epoch,
                    expected_config: change.expected,
                    in_sync: change.in_sync,
                },
            )));
    }

    /// The master answered a change.
    pub(crate) fn on_change_done(
        &mut self,
        ctx: &mut Ctx<'_>,
        request_id: u64,
        result: ChangeConfigResult,
    ) {
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        if reign
            .change
            .as_ref()
            .is_none_or(|change| change.request_id != request_id)
        {
            return;
        }
        match result {
            ChangeConfigResult::Recorded(line) => {
                reign.change = None;
                self.on_assignment(ctx, line);
            }
            ChangeConfigResult::Refused { reason: _, line } => {
                // Decided again by the line in force and by what streams prove then.
                reign.change = None;
                reign.hold_until = ctx.now.after(CHANGE_AGAIN);
                if let Some(line) = line {
                    self.on_assignment(ctx, line);
                }
            }
        }
    }
}

impl Reign {
    /// A dropped peer is required until everybody who remains has persisted the smaller set.
    pub(super) fn forget_outgoing(
        &mut self,
        line: &AssignmentLine,
        own: (Epoch, ConfigVersion),
        me: &ServerId,
    ) {
        if self.outgoing.is_empty() {
            return;
        }
        let epoch = line.epoch;
        let peers = &self.peers;
        self.outgoing.retain(|(_, config)| {
            let wanted = (epoch, *config);
            let persisted = |server: &ServerId| {
                *server == *me
                    || peers
                        .get(server)
                        .is_some_and(|seen| seen.persisted >= wanted)
            };
            own < wanted || !line.in_sync.iter().all(persisted)
        });
    }

    /// Notes since when members of the in-sync set have no joined stream.
    fn watch_lost(&mut self, now: Instant, line: &AssignmentLine, me: &ServerId) {
        let streams = &self.streams;
        let lost = |server: &ServerId| {
            *server != *me
                && line.is_in_sync(server)
                && !streams.get(server).is_some_and(Stream::is_joined)
        };
        self.lost_since.retain(|server, _| lost(server));
        for server in line.in_sync.iter().filter(|server| lost(server)) {
            self.lost_since.entry(server.clone()).or_insert(now);
        }
    }

    fn wanted_in_sync(&self, ctx: &Ctx<'_>, line: &AssignmentLine) -> Vec<ServerId> {
        let overdue = |server: &ServerId| {
            let since = self.lost_since.get(server);
            since.is_some_and(|since| ctx.now.since(*since) >= PEER_DEADLINE)
        };
        let keep = |server: &ServerId| {
            *server == ctx.me.server
                || (line.is_in_sync(server) && !overdue(server))
                || (self.growing.contains(server) && self.may_grow(ctx.now, line, server))
        };
        line.members
            .iter()
            .map(|member| &member.server)
            .filter(|s| keep(s))
            .cloned()
            .collect()
    }

    /// `JOIN-3`: the peer holds everything committed, and its grant to this epoch runs.
    fn may_grow(&self, now: Instant, line: &AssignmentLine, server: &ServerId) -> bool {
        let holds = line.policy != Policy::SyncAll
            || self.holding.holds(now, server)
            || self.mutants.has(Mutant::GrowsWithoutLease);
        let votes = self
            .peers
            .get(server)
            .is_some_and(|seen| seen.vote == Vote::Counts);
        let whole = self
            .streams
            .get(server)
            .is_some_and(|stream| stream.flushed >= self.mark.max(self.committed));
        let whole = whole || self.mutants.has(Mutant::JoinsBelowHead);
        holds && votes && whole && self.remembers(line, server)
    }

    /// `JOIN-3`: at `received`, the peer's *memory lost* bit is clear.
    fn remembers(&self, line: &AssignmentLine, server: &ServerId) -> bool {
        let back_at = self.peers.get(server).and_then(|seen| seen.memory_back_at);
        let stream = self.streams.get(server);
        line.ack == AckPoint::Flushed
            || back_at.is_none_or(|lsn| stream.is_some_and(|stream| stream.flushed >= lsn))
    }
}

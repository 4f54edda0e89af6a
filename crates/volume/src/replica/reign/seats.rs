//! What counts towards a commit: who is required, who is heard, how far the policy holds.

use std::collections::BTreeSet;

use moorline_types::{AssignmentLine, Lsn, Policy, ServerId};

use super::{ANNOUNCE_DELAY, Reign, ReignPhase};
use crate::{
    commit::{CommitRule, Requirement, Seat, Standing},
    journal::Happening,
    mutants::Mutant,
    promotion::Vote,
    replica::{Ctx, Replica, Role},
};

impl Replica {
    /// Applies the commit rule to what is known now.
    pub(in crate::replica) fn advance(&mut self, ctx: &mut Ctx<'_>) {
        let Some(line) = &self.line else { return };
        let own_config = self.store.durable().line_version();
        let log = self.store.log();
        let own = Seat {
            standing: Standing::Voter,
            requirement: Requirement::Required,
            received: log.head(),
            flushed: match ctx.me.mutants.has(Mutant::OwnFlushAssumed) {
                true => log.head(),
                false => log.flushed(),
            },
        };
        let Role::Reign(reign) = &mut self.role else {
            return;
        };
        reign.forget_outgoing(line, own_config, &ctx.me.server);
        let seats = reign.seats(line, &ctx.me.server);
        let mut rule = reign.rule(line);
        if ctx.me.mutants.has(Mutant::PolicyCountIgnored) {
            rule.policy = Policy::BestEffort;
        }
        if ctx.me.mutants.has(Mutant::MarkIgnored) {
            rule.mark = Lsn::ZERO;
        }
        let reach = rule.reach(own, &seats);
        let Some(committed) = reach.committed else {
            return;
        };
        let acknowledgeable = reach.acknowledgeable.unwrap_or(committed);
        if committed > reign.committed {
            assert!(
                committed <= log.flushed(),
                "INV-13: the primary's own flush is required"
            );
            reign.committed = committed;
            self.store.set_committed(committed);
            let behind = reign
                .streams
                .values()
                .any(|stream| stream.told_committed < committed);
            if behind && reign.announce_at.is_none() {
                reign.announce_at = Some(ctx.now.after(ANNOUNCE_DELAY));
            }
        }
        if acknowledgeable > reign.acknowledgeable {
            reign.acknowledgeable = acknowledgeable;
            self.store.set_readable(acknowledgeable);
        }
        if reign.phase == ReignPhase::Opening && reign.committed >= reign.mark {
            reign.phase = ReignPhase::Serving;
            let epoch = reign.id.epoch;
            self.note(ctx, Happening::ServingStarted { epoch });
        }
    }

    /// Whether the policy can be met with the peers whose streams stand.
    pub(in crate::replica) fn policy_can_be_met(&self, ctx: &Ctx<'_>) -> bool {
        let (Some(line), Role::Reign(reign)) = (&self.line, &self.role) else {
            return false;
        };
        let far = |seat: Seat| Seat {
            received: Lsn::MAX,
            flushed: Lsn::MAX,
            ..seat
        };
        let own = Seat {
            standing: Standing::Voter,
            requirement: Requirement::Required,
            received: Lsn::MAX,
            flushed: Lsn::MAX,
        };
        let seats: Vec<Seat> = reign
            .seats(line, &ctx.me.server)
            .into_iter()
            .map(far)
            .collect();
        reign.rule(line).reach(own, &seats).committed.is_some()
    }

    /// The frontiers that clients are told by.
    pub(in crate::replica) fn reach(&self) -> (Lsn, Lsn) {
        match &self.role {
            Role::Reign(reign) => (reign.acknowledgeable, reign.committed),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => (Lsn::ZERO, Lsn::ZERO),
        }
    }
}

impl Reign {
    fn rule(&self, line: &AssignmentLine) -> CommitRule {
        CommitRule {
            policy: line.policy,
            ack: line.ack,
            copies_min: match self.mutants.has(Mutant::MinCopiesIgnored) {
                true => 1,
                false => line.min_copies as usize,
            },
            mark: self.mark,
        }
    }

    /// Everybody who is waited for under `sync_all`: a superset of the recorded in-sync set at
    /// every instant (`INV-16`).
    pub(in crate::replica) fn required(&self, line: &AssignmentLine) -> Vec<ServerId> {
        let mut required: BTreeSet<ServerId> = line.in_sync.iter().cloned().collect();
        required.extend(self.outgoing.iter().map(|(server, _)| server.clone()));
        // Without an answer of the master the larger set may be recorded at any moment (`JOIN-4`).
        let asked = self.change.iter().flat_map(|change| &change.in_sync);
        if self.mutants.has(Mutant::ShrinksBeforeRecorded) && self.change.is_some() {
            required.clear();
        }
        required.extend(asked.map(|member| member.server.clone()));
        // A store without a vote is in no required set: it could neither grant nor count.
        let votes = |server: &ServerId| {
            self.peers
                .get(server)
                .is_some_and(|seen| seen.vote == Vote::Counts)
        };
        let joined = self
            .streams
            .iter()
            .filter(|(server, stream)| stream.is_joined() && votes(server));
        required.extend(joined.map(|(server, _)| server.clone()));
        required.into_iter().collect()
    }

    fn seats(&self, line: &AssignmentLine, own: &ServerId) -> Vec<Seat> {
        let required = match line.policy {
            Policy::SyncAll => self.required(line),
            Policy::BestEffort | Policy::SyncQuorum => Vec::new(),
        };
        let counts = |seat: &Seat| {
            seat.standing == Standing::Voter || !self.mutants.has(Mutant::MajorityOfConnected)
        };
        line.members
            .iter()
            .filter(|member| member.server != *own)
            .map(|member| {
                let requirement = if required.contains(&member.server) {
                    Requirement::Required
                } else {
                    Requirement::Optional
                };
                self.seat(&member.server, requirement)
            })
            .filter(counts)
            .collect()
    }

    fn seat(&self, server: &ServerId, requirement: Requirement) -> Seat {
        let silent = Seat {
            standing: Standing::Silent,
            requirement,
            received: Lsn::ZERO,
            flushed: Lsn::ZERO,
        };
        let (Some(stream), Some(seen)) = (self.streams.get(server), self.peers.get(server)) else {
            return silent;
        };
        let counts = self
            .registry
            .sender(server)
            .is_some_and(|sender| sender.counts_acks(stream.stamp).is_ok());
        let counts = counts || self.mutants.has(Mutant::AckCountsBeforeCut);
        if !counts || seen.vote != Vote::Counts {
            return silent;
        }
        Seat {
            standing: Standing::Voter,
            requirement,
            received: stream.received,
            flushed: stream.flushed,
        }
    }
}

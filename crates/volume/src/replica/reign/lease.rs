//! The right to answer: the master's lease and the members'.

use std::time::Duration;

use moorline_types::{
    AssignmentLine, BootId, ConfigVersion, Epoch, Instant, Policy, ServerId, StoreId,
};
use moorline_wire::{PromiseRequest, VolumeMessage};

use super::{PEER_DEADLINE, Reign};

use crate::{
    lease::{LeaseQuorum, LeaseTiming},
    mutants::Mutant,
    promotion::Vote,
    replica::{Ctx, Me, Replica, Role, lease_term},
};

impl Reign {
    /// From when on a joined peer counts as silent though no record waits for it: where everybody's
    /// lease is needed, nothing is ordered without its, so that no record would ever tell. Only
    /// who granted once is missed; a restarted one has a term to grant again (`LEASE-4`).
    pub(in crate::replica) fn lease_missed_at(
        &self,
        line: &AssignmentLine,
        server: &ServerId,
    ) -> Option<Instant> {
        let stream = self.streams.get(server).filter(|s| s.is_joined())?;
        let until = self.holding.until(server)?;
        let granted_again = stream.since().after(lease_term(line));
        (line.policy == Policy::SyncAll).then(|| until.max(granted_again).after(PEER_DEADLINE))
    }
}

impl Replica {
    /// Whether the lease is live at this very moment.
    pub(in crate::replica) fn lease_is_live(&self, ctx: &Ctx<'_>) -> bool {
        let (Some(line), Role::Reign(reign)) = (&self.line, &self.role) else {
            return false;
        };
        if ctx.me.mutants.has(Mutant::LeaseIgnored) {
            return true;
        }
        let voters: Vec<ServerId> = reign
            .peers
            .iter()
            .filter(|(server, seen)| seen.vote == Vote::Counts && line.member(server).is_some())
            .map(|(server, _)| server.clone())
            .collect();
        let required = match ctx.me.mutants.has(Mutant::GrowsWithoutLease) {
            true => line.in_sync.clone(),
            false => reign.required(line),
        };
        let quorum = LeaseQuorum {
            policy: line.policy,
            seats: line.members.len(),
            in_sync: &required,
            own: &ctx.me.server,
            own_vote: true,
            voters: &voters,
        };
        match line.policy {
            Policy::BestEffort => ctx.now < reign.master_lease_until,
            Policy::SyncQuorum | Policy::SyncAll => reign.holding.is_live(ctx.now, quorum),
        }
    }

    /// The master answered the heartbeat sent at `sent` with its lease for this epoch and boot
    /// (`LEASE-7`).
    pub(crate) fn on_master_lease(
        &mut self,
        me: &Me,
        (epoch, boot): (Epoch, BootId),
        sent: Instant,
        term: Duration,
    ) {
        let timing = LeaseTiming::of_term(term);
        if let Role::Reign(reign) = &mut self.role
            && reign.id.epoch == epoch
            && boot == me.boot
        {
            let until = sent.after(timing.term.saturating_sub(timing.drift_margin));
            reign.master_lease_until = reign.master_lease_until.max(until);
        }
    }

    /// A lease was granted for a request sent at `sent` by this node's clock.
    pub(crate) fn on_lease_granted(
        &mut self,
        ctx: &mut Ctx<'_>,
        server: &ServerId,
        epoch: Epoch,
        store: StoreId,
        sent: Instant,
    ) {
        let recorded = self
            .line
            .as_ref()
            .and_then(|line| line.member(server))
            .and_then(|m| m.store);
        let timing = self.lease;
        if let Role::Reign(reign) = &mut self.role
            && reign.id.epoch == epoch
            && (recorded == Some(store) || ctx.me.mutants.has(Mutant::StoreIdentityIgnored))
        {
            let sent = match ctx.me.mutants.has(Mutant::LeaseFromReceipt) {
                true => ctx.now,
                false => sent,
            };
            reign.holding.granted(server, sent, timing);
            self.join_granted(ctx, server);
            if matches!(&self.role, Role::Reign(reign) if !reign.growing.is_empty()) {
                self.change_in_sync(ctx);
            }
        }
    }

    /// The lease that this replica wants renewed by `server`, if it leads and has a lease to ask.
    pub(crate) fn lease_wanted(&self, server: &ServerId) -> Option<(Epoch, ConfigVersion)> {
        let Role::Reign(reign) = &self.role else {
            return None;
        };
        let line = self.line.as_ref()?;
        let has_lease = line.policy != Policy::BestEffort;
        (has_lease && line.member(server).is_some() && self.store.failed().is_none())
            .then_some((reign.id.epoch, line.config))
    }

    /// How often the lease is renewed.
    pub(crate) fn renewal_interval(&self) -> Duration {
        self.lease.renewal_interval()
    }

    /// A member that has not promised this epoch is asked again, for as long as it reigns: it may
    /// have been away when the epoch was opened (`PROM-14`).
    pub(in crate::replica) fn ask_late_promise(&mut self, ctx: &mut Ctx<'_>, peer: &ServerId) {
        let (Role::Reign(reign), Some(line), Some(link)) =
            (&self.role, &self.line, ctx.links.dialed(peer))
        else {
            return;
        };
        let request = PromiseRequest {
            server: ctx.me.server.clone(),
            boot: ctx.me.boot,
            line: line.clone(),
        };
        let mut header = self.header(0, reign.id.epoch);
        header.config = line.config;
        let body = VolumeMessage::PromiseRequest(Box::new(request));
        self.send(ctx, link, header, body);
    }
}

//! A run: set-up, work under disturbances, healing, the volume read back, rest.

use moorline_types::{AckPoint, Policy};

use super::{Happens, World, clients::Client, hosts::Host};
use crate::{
    checkers::{Rule, Violation, lineage::Memory, linear, single},
    dice::Dice,
    plan::{Enough, MS, OnLoss, SECOND},
    watch::SpotKind,
};

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    SetUp,
    Work,
    Healing,
    ReadBack,
    Rest,
    Over,
}

/// How often it is looked whether a phase is over.
const LOOK: u64 = 20 * MS;

impl World {
    pub(super) fn begin(&mut self) {
        self.start_master();
        for index in 0..self.plan.replicas {
            self.hosts.push(Host::new(index, self.plan.clocks[index]));
            self.start_host(index);
        }
        self.clients = (0..self.plan.clients)
            .map(|_| Client::new(Dice::new(self.dice.bits())))
            .collect();
        self.deadline = SECOND * 60;
        self.after(LOOK, Happens::PhaseDue);
    }

    pub(super) fn phase_due(&mut self) {
        match self.phase {
            Phase::SetUp => self.set_up(),
            Phase::Work => self.work(),
            Phase::Healing => self.healing(),
            Phase::ReadBack => self.reading_back(),
            Phase::Rest => self.resting(),
            Phase::Over => return,
        }
        if self.now > self.deadline && self.phase != Phase::SetUp && !self.can_be_led() {
            *self.counts.notes.entry("waits_for_operator").or_default() += 1;
            self.judge_history();
            self.phase = Phase::Over;
            return;
        }
        if self.now > self.deadline {
            let state = self.describe();
            let reason = format!("phase {:?} does not end: {state}", self.phase);
            self.broken(Violation::new(Rule::Liveness, reason));
        }
        self.after(LOOK, Happens::PhaseDue);
    }

    fn enter(&mut self, phase: Phase, patience: u64) {
        self.line(|| format!("PHASE {phase:?}"));
        self.spot(None, SpotKind::Phase, || format!("{phase:?}"));
        self.phase = phase;
        self.deadline = self.now + patience;
    }

    fn set_up(&mut self) {
        let all_known = self.hosts.iter().all(|host| host.master.is_some());
        if self.volume.is_none() && all_known && self.now > 200 * MS {
            let run = self.master.life;
            match self.asked_for_volume.replace(run) {
                None => self.operator_creates(),
                // The master that was asked is gone.
                Some(asked) if asked != run => self.operator_asks_again(),
                Some(_) => {}
            }
        }
        let Some(host) = self.serving_host() else {
            return;
        };
        if self.exported_blocks(host) != Some(self.plan.blocks) {
            let reason = "the export has another size than the volume".into();
            return self.broken(Violation::new(Rule::Invariant, reason));
        }
        if self.volume.is_none() {
            return;
        }
        self.enter(Phase::Work, SECOND * 120);
        for index in 0..self.plan.faults.len() {
            let (delay, _) = self.plan.faults[index];
            self.after(delay, Happens::Fault { index });
        }
        for client in 0..self.clients.len() {
            self.after(MS, Happens::ClientTurn { client });
        }
    }

    fn work(&mut self) {
        let last_fault = self.plan.faults.iter().map(|(at, _)| *at).max();
        let begun = self.deadline - SECOND * 120;
        let settled = begun + last_fault.map_or(0, |at| at + SECOND * 8);
        let enough = self.counts.ops >= self.plan.ops as u64;
        // What a strike leads to is its recovery: no more requests than that needs.
        let master_struck = self.plan.master_strike.is_some() && self.master.struck;
        let struck = self.strikes.is_struck() || master_struck;
        let struck = struck && self.master.is_up() && self.hosts.iter().all(Host::is_up);
        // Under disturbances that stop the volume the requests do not all get their turn.
        if struck || (enough && self.now > settled) || self.now > settled + SECOND * 20 {
            self.heal();
            let patience = u64::try_from(Self::patience().as_nanos()).unwrap_or(u64::MAX);
            self.enter(Phase::Healing, patience);
            for client in &mut self.clients {
                client.done_since_healing = 0;
            }
            if self.plan.enough == Enough::Rests {
                self.wake_clients();
            }
        }
    }

    /// Clients that rested ask again.
    fn wake_clients(&mut self) {
        for client in 0..self.clients.len() {
            if self.is_idle(client) {
                self.after(MS, Happens::ClientTurn { client });
            }
        }
    }

    /// Whether enough replicas may vote. Without them a volume rightly waits for an operator.
    pub(super) fn can_be_led(&self) -> bool {
        if self.plan.on_loss == OnLoss::Stop && self.memory_may_be_gone() {
            return false;
        }
        // A replaced store cannot say what the one before knew: an operator overrules.
        if self.plan.policy != Policy::SyncQuorum
            && self.is_master_unsettled()
            && self.hosts.iter().any(|host| host.replaced)
        {
            return false;
        }
        let sound = |host: &Host| {
            let replica = host
                .node
                .as_ref()
                .zip(self.volume)
                .and_then(|(node, volume)| node.volume(volume));
            !host.replaced && replica.is_some_and(|r| !r.store().durable().needs_rebuild)
        };
        let in_sync = |index: &usize| self.is_recorded_in_sync(*index);
        let mut recorded = (0..self.hosts.len()).filter(in_sync);
        // A candidate whose memory is gone needs the word of the whole set.
        let may_lead = match self.plan.ack {
            AckPoint::Flushed => recorded.any(|index| sound(&self.hosts[index])),
            AckPoint::Received => recorded.all(|index| sound(&self.hosts[index])),
        };
        let sound = self.hosts.iter().filter(|host| sound(host)).count();
        let majority = self.plan.replicas / 2 + 1;
        match self.plan.policy {
            Policy::BestEffort => sound > 0,
            Policy::SyncQuorum => sound >= majority,
            Policy::SyncAll => may_lead && sound >= self.plan.min_copies,
        }
    }

    fn healing(&mut self) {
        if self
            .clients
            .iter()
            .all(|client| client.done_since_healing > 0)
        {
            self.enter(Phase::ReadBack, SECOND * 60);
            self.clients[0].reads_back_from = Some(0);
        }
    }

    fn reading_back(&mut self) {
        let idle = (0..self.clients.len()).all(|client| self.is_idle(client));
        if self.clients[0].reads_back_from.is_some() {
            if self.is_idle(0) {
                self.after(1_000, Happens::ClientTurn { client: 0 });
            }
        } else if idle {
            self.judge_history();
            self.enter(Phase::Rest, SECOND * 60);
        }
    }

    /// At `received` memory counts: whether a primary said that acknowledged writes may be gone.
    /// Until one does none may be, however many members lost their memory (`PROM-12`).
    pub(super) fn memory_may_be_gone(&self) -> bool {
        self.counts.notes.contains_key("volatile_tail_lost")
    }

    /// What clients were told, against the rules.
    fn judge_history(&mut self) {
        let shared = self.plan.shared_sectors();
        let memory = match self.memory_may_be_gone() {
            true => Memory::Lost,
            false => Memory::Kept,
        };
        let verdict = self.lineage.check(&self.history, shared, memory);
        self.check(verdict);
        if memory == Memory::Lost {
            *self.counts.notes.entry("memory_lost").or_default() += 1;
            return;
        }
        let tolerated = self.plan.replicas - (self.plan.replicas / 2 + 1);
        if self.plan.ack == AckPoint::Received && self.memories_lost > tolerated {
            *self.counts.notes.entry("memory_made_good").or_default() += 1;
        }
        let shared = self.plan.shared_sectors();
        let verdict = linear::check(&self.history, shared);
        self.check(verdict);
        let verdict = single::check(&self.history, shared, self.plan.sectors());
        self.check(verdict);
    }

    /// Where every replica stands, for people.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let replica = host
                .node
                .as_ref()
                .zip(self.volume)
                .and_then(|(node, volume)| node.volume(volume));
            let state = replica.map(|replica| {
                let store = replica.store();
                (
                    store.frontiers(),
                    store.durable().promised_epoch(),
                    store.durable().needs_rebuild,
                    store.fill(),
                )
            });
            text.push_str(&format!(
                "\n  s{} replaced {} export {:?} {state:?}",
                index + 1,
                host.replaced,
                host.export
            ));
        }
        if let Some(excess) = self.excess() {
            text.push_str(&format!("\n  {excess}"));
        }
        text
    }
}

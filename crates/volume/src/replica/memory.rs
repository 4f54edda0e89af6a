//! What a replica remembers of losses: given-up ranges, and whether its memory is intact.
//!
//! Both lie in the superblocks. A range is durable there before this replica cuts into it
//! (`CUT-6`, `INV-27`) and goes with every promise; once this log holds all that its primary held,
//! what no mark of it announces is forgotten, and memory counts as intact again (`PROM-12`).

use moorline_engine::{excused, last_common};
use moorline_types::{EpochStart, GivenUp, Lsn};
use moorline_wal::{Record, RecordKind};

use super::{Ctx, Replica, Then};
use crate::{
    losses::{self, GivenUpFull},
    mutants::Mutant,
};

/// What a primary's log was when it began the session: who holds as much has lost nothing.
#[derive(Clone, Debug)]
pub(super) struct JoinPoint {
    pub(super) history: Vec<EpochStart>,
    pub(super) head: Lsn,
}

impl Replica {
    /// Remembers what others gave up. Durable with the tickets that are out now.
    pub(super) fn remember(
        &mut self,
        ctx: &Ctx<'_>,
        given_up: impl IntoIterator<Item = GivenUp>,
    ) -> Result<(), GivenUpFull> {
        let known = &self.store.pending().given_up;
        let merged = losses::merge(known, given_up, self.store.log().history())?;
        if merged != *known && !ctx.me.mutants.has(Mutant::EvidenceNotPersisted) {
            let ticket = self.store.persist(|durable| durable.given_up = merged);
            self.persists.push_back((ticket, Then::Nothing));
        }
        Ok(())
    }

    /// Remembers what an appended mark announces. It is in the log, so nothing waits for it.
    pub(super) fn remember_mark(&mut self, ctx: &Ctx<'_>, record: &Record) {
        if !record.given_up().is_empty() {
            // Without room the mark in the log is all there is, and it says the same.
            let _full = self.remember(ctx, record.given_up().to_vec());
        }
    }

    /// After an open: the superblock may not know yet what the newest marks announce.
    pub(super) fn recall_marks(&mut self) {
        let log = self.store.log();
        let marks = log
            .history()
            .iter()
            .filter_map(|start| log.header(start.first));
        let announced: Vec<GivenUp> = marks
            .filter(|header| header.kind() == RecordKind::EpochMark)
            .flat_map(|header| header.given_up().to_vec())
            .collect();
        let known = &self.store.pending().given_up;
        if let Ok(merged) = losses::merge(known, announced, log.history())
            && merged != *known
        {
            let ticket = self.store.persist(|durable| durable.given_up = merged);
            self.persists.push_back((ticket, Then::Nothing));
        }
    }

    /// Whether all that this replica was told of losses is in both superblocks.
    pub(super) fn losses_are_durable(&self) -> bool {
        self.store.durable().given_up == self.store.pending().given_up
    }

    /// Whether this log holds everything that the primary's held at the join point.
    pub(super) fn holds(&self, join: &JoinPoint) -> bool {
        let log = self.store.log();
        log.head() >= join.head
            && last_common((&join.history, join.head), (log.history(), log.head()))
                == Some(join.head)
    }

    /// This log is the primary's: memory is intact from here on, and what was given up is what the
    /// marks of this log announce.
    pub(super) fn forget_losses(&mut self) {
        let log = self.store.log();
        // What clients were told beyond this log was announced as lost.
        self.acknowledged = self.acknowledged.min(log.head());
        let pending = self.store.pending();
        let mut announced = pending.given_up.clone();
        announced.retain(|given_up| losses::is_announced(given_up, log.history()));
        if pending.memory_lost || announced != pending.given_up {
            let ticket = self.store.persist(|durable| {
                durable.memory_lost = false;
                durable.given_up = announced;
            });
            self.persists.push_back((ticket, Then::Nothing));
        }
    }

    /// Whether the recorded decisions give up everything above `through` that was ever known here
    /// to be committed.
    pub(super) fn gave_up_above(&self, through: Lsn) -> bool {
        let log = self.store.log();
        let known = self.store.committed().max(self.committed_at_open);
        let given_up = &self.store.pending().given_up;
        excused(given_up, (through, known), (log.history(), log.head()))
    }
}

//! Keeps the two superblock copies: one round of writes at a time.
//!
//! ```text
//! idle -> both: first copy -> second copy -> idle     what others rely on, and the checkpoint
//! idle -> one: the older copy -> idle                 a move of the checkpoint alone
//! ```
//!
//! Each write is durable before the next one begins, so at every moment one copy is whole, and
//! every copy that is whole has everything that was ever answered. A round takes all that was
//! asked for before it began.

use moorline_types::{BufferPool, DeviceOp, DeviceOpKind, EpochStart, Lsn, WriteMode};
use moorline_wal::LogAnchor;

use crate::{
    StoreFault, Ticket,
    layout::SUPERBLOCK_OFFSETS,
    mutants::{Mutant, Mutants},
    ops::{OpTable, Purpose},
    superblock::{Durable, EncodedLine, Full, Superblock},
};

/// What one copy says about the log and the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) generation: u64,
    pub(crate) checkpoint: Lsn,
    pub(crate) anchor: LogAnchor,
}

impl Named {
    pub(crate) const fn of(superblock: &Superblock) -> Self {
        Self {
            generation: superblock.generation,
            checkpoint: superblock.checkpoint,
            anchor: superblock.anchor,
        }
    }
}

/// How far a move of the checkpoint goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Spread {
    /// Nothing is wanted.
    None,
    /// To the older copy.
    One,
    /// To both: the log's room is needed soon.
    Both,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Round {
    Idle,
    First {
        copy: usize,
        content: Box<Superblock>,
        tickets: u64,
    },
    Last {
        copy: usize,
        content: Box<Superblock>,
        /// `None` when only the checkpoint moves.
        tickets: Option<u64>,
    },
}

/// What became durable with a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RoundEnd {
    /// The tickets answered by it: every one up to this.
    pub(crate) ticket: Option<Ticket>,
    /// The applied mark in both copies.
    pub(crate) applied: Lsn,
    /// The checkpoint in the newer copy.
    pub(crate) checkpoint: Lsn,
}

/// The two copies and what is to be written to them.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Copies {
    pool: BufferPool,
    /// What the next round writes.
    next: Superblock,
    /// What others rely on, as both copies have it.
    durable: Durable,
    applied: Lsn,
    checkpoint: Lsn,
    on_disk: [Named; 2],
    tickets_given: u64,
    tickets_answered: u64,
    /// Something that belongs in both copies changed since the last such round began.
    both_wanted: bool,
    checkpoint_wanted: Spread,
    round: Round,
    encoded: EncodedLine,
    mutants: Mutants,
}

impl Copies {
    /// Takes over two copies that both hold `current`, but for generation, checkpoint and anchor.
    pub(crate) fn new(
        pool: BufferPool,
        current: Superblock,
        on_disk: [Named; 2],
        mutants: Mutants,
    ) -> Self {
        Self {
            pool,
            durable: current.durable.clone(),
            applied: current.applied,
            checkpoint: current.checkpoint,
            next: current,
            on_disk,
            tickets_given: 0,
            tickets_answered: 0,
            both_wanted: false,
            checkpoint_wanted: Spread::None,
            round: Round::Idle,
            encoded: EncodedLine::default(),
            mutants,
        }
    }

    pub(crate) const fn durable(&self) -> &Durable {
        &self.durable
    }

    pub(crate) const fn pending(&self) -> &Durable {
        &self.next.durable
    }

    pub(crate) const fn superblock(&self) -> &Superblock {
        &self.next
    }

    /// The applied mark in both copies.
    pub(crate) const fn applied(&self) -> Lsn {
        self.applied
    }

    /// The applied mark asked for: the extents may be about to change up to it.
    pub(crate) const fn applied_wanted(&self) -> Lsn {
        self.next.applied
    }

    /// The checkpoint in the newer copy, as of the last round that ended.
    pub(crate) const fn checkpoint(&self) -> Lsn {
        self.checkpoint
    }

    /// What the two copies name: opening may start from either.
    pub(crate) fn anchors(&self) -> [LogAnchor; 2] {
        if self.mutants.has(Mutant::OlderAnchorForgotten) {
            return [self.on_disk[1 - self.older()].anchor; 2];
        }
        self.on_disk.map(|copy| copy.anchor)
    }

    pub(crate) fn persist(&mut self, change: impl FnOnce(&mut Durable)) -> Ticket {
        change(&mut self.next.durable);
        self.both_wanted = true;
        self.tickets_given += 1;
        Ticket(self.tickets_given)
    }

    /// Asks for the applied mark in both copies.
    pub(crate) fn want_applied(&mut self, applied: Lsn, history: Vec<EpochStart>) {
        assert!(applied >= self.next.applied, "the applied mark never falls");
        self.next.applied = applied;
        self.next.history = history;
        self.both_wanted = true;
    }

    /// Asks for a checkpoint, and the anchor that goes with it.
    pub(crate) fn want_checkpoint(&mut self, checkpoint: Lsn, anchor: LogAnchor, spread: Spread) {
        assert!(
            checkpoint >= self.next.checkpoint,
            "the checkpoint never falls"
        );
        assert!(
            checkpoint <= self.applied,
            "the checkpoint follows the applied mark"
        );
        assert!(
            anchor.tail <= checkpoint,
            "the log keeps what the checkpoint lacks"
        );
        self.next.checkpoint = checkpoint;
        // Never back: what an earlier anchor let go may be free already.
        let named = self.next.anchor;
        if anchor.tail >= named.tail && anchor.sequence >= named.sequence {
            self.next.anchor = anchor;
        }
        self.checkpoint_wanted = self.checkpoint_wanted.max(spread);
    }

    /// Notes the committed point; it goes along with the next round.
    pub(crate) fn note_committed(&mut self, committed: Lsn) {
        let known = &mut self.next.durable.committed;
        *known = committed.max(*known);
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.round, Round::Idle)
            && !self.both_wanted
            && self.checkpoint_wanted == Spread::None
    }

    fn older(&self) -> usize {
        usize::from(self.on_disk[1].generation < self.on_disk[0].generation)
    }

    /// Begins a round if one is wanted and none runs.
    pub(crate) fn poll(
        &mut self,
        table: &mut OpTable,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Option<RoundEnd>, StoreFault> {
        if !matches!(self.round, Round::Idle) {
            return Ok(None);
        }
        let copy = self.older();
        if self.skips_persisting() {
            self.both_wanted = false;
            self.durable = self.next.durable.clone();
            return Ok(Some(self.end(Some(self.tickets_given))));
        }
        if self.both_wanted || self.checkpoint_wanted == Spread::Both {
            self.both_wanted = false;
            self.checkpoint_wanted = Spread::None;
            let tickets = self.tickets_given;
            let content = self.write(copy, table, ops)?;
            self.round = if self.mutants.has(Mutant::PromiseInOneSuperblock) {
                Round::Last {
                    copy,
                    content,
                    tickets: Some(tickets),
                }
            } else {
                Round::First {
                    copy,
                    content,
                    tickets,
                }
            };
        } else if self.checkpoint_wanted == Spread::One {
            self.checkpoint_wanted = Spread::None;
            let content = self.write(copy, table, ops)?;
            self.round = Round::Last {
                copy,
                content,
                tickets: None,
            };
        }
        Ok(None)
    }

    /// Whether a planted bug answers without writing.
    fn skips_persisting(&self) -> bool {
        self.mutants.has(Mutant::PromiseNotPersisted)
            && self.tickets_given > self.tickets_answered
            && self.next.applied == self.applied
    }

    fn write(
        &mut self,
        copy: usize,
        table: &mut OpTable,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Box<Superblock>, StoreFault> {
        self.next.generation += 1;
        let content = Box::new(self.next.clone());
        let into = (&self.pool, &mut self.encoded);
        issue_write(&content, copy, into, table, ops).map_err(|Full| StoreFault::SuperblockFull)?;
        Ok(content)
    }

    /// The write in flight is durable.
    pub(crate) fn on_written(
        &mut self,
        table: &mut OpTable,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<Option<RoundEnd>, StoreFault> {
        match std::mem::replace(&mut self.round, Round::Idle) {
            Round::Idle => unreachable!("a write belongs to a round"),
            Round::First {
                copy,
                mut content,
                tickets,
            } => {
                self.on_disk[copy] = Named::of(&content);
                let copy = 1 - copy;
                // The same content as the first copy's, whatever was asked for since.
                self.next.generation += 1;
                content.generation = self.next.generation;
                let into = (&self.pool, &mut self.encoded);
                issue_write(&content, copy, into, table, ops)
                    .map_err(|Full| StoreFault::SuperblockFull)?;
                self.round = Round::Last {
                    copy,
                    content,
                    tickets: Some(tickets),
                };
                Ok(None)
            }
            Round::Last {
                copy,
                content,
                tickets,
            } => {
                self.on_disk[copy] = Named::of(&content);
                self.checkpoint = content.checkpoint;
                if tickets.is_some() {
                    self.applied = content.applied;
                    self.durable = content.durable;
                }
                Ok(Some(self.end(tickets)))
            }
        }
    }

    fn end(&mut self, tickets: Option<u64>) -> RoundEnd {
        let answered = tickets.filter(|&tickets| tickets > self.tickets_answered);
        let mut ticket = None;
        if let Some(tickets) = answered {
            self.tickets_answered = tickets;
            ticket = Some(Ticket(tickets));
        }
        RoundEnd {
            ticket,
            applied: self.applied,
            checkpoint: self.checkpoint(),
        }
    }
}

/// Hands out the durable write of one copy.
pub(crate) fn issue_write(
    content: &Superblock,
    copy: usize,
    (pool, encoded): (&BufferPool, &mut EncodedLine),
    table: &mut OpTable,
    ops: &mut Vec<DeviceOp>,
) -> Result<(), Full> {
    let number = u32::try_from(copy).map_err(|_| Full)?;
    let bytes = content.encode(number, encoded)?;
    let payload = moorline_types::Payload::copy_padded(pool, &bytes);
    table.issue(
        Purpose::Superblock,
        SUPERBLOCK_OFFSETS[copy],
        DeviceOpKind::Write(vec![payload], WriteMode::Durable),
        ops,
    );
    Ok(())
}

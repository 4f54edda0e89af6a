//! Ships a range of records to one replica, then hands over to the live stream at one LSN.
//!
//! ```text
//! catching_up --follow--> following --hand_over--> live --release--> over
//!  (to the frozen target)  (to the moving head)     (holds the pin until the proof is in)
//!                              ^------- rewind ------|
//! ```
//!
//! `hand_over` joins at the head, once everything went out, and whoever orders records ships them
//! from there. `join` joins at once, with records still outstanding, and steps go on shipping
//! whatever there is; `complete` then leaves a [`LiveStream`] that goes on alike.
//!
//! All records go over one stream in LSN order without a gap: what this ships, and behind it, from
//! the hand-over on, what the ordering point ships itself. The pin follows the replica's *durable*
//! frontier and is dropped on every way out, with exactly one [`Released`].
//!
//! Every way out that is not success also ends the session, a port that panics included.

use moorline_engine::{ReleaseCause, SessionStamp};
use moorline_types::{Lsn, ReplicaId};
use moorline_wal::{LogReadError, ReadStart, Record, RetentionPin};

use crate::{
    execution::Execution,
    live::LiveStream,
    plan::BoundPlan,
    ports::{HistoryReader, ReplicaLink},
    shipment::{CatchUpConfig, Pause, Shipment},
    step::{HandOver, RecordsRefused, Released, Rewind, StepOutcome, Waiting},
    turn::Turn,
};

/// One catch-up being carried out.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct CatchUp(Execution<Running>);

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Running {
    /// Dropped with this.
    pin: Option<RetentionPin>,
    shipment: Shipment,
}

impl CatchUp {
    /// Takes over a plan and its pin.
    #[must_use]
    pub fn new(plan: BoundPlan, config: CatchUpConfig) -> Self {
        let (replica, stamp, range) = (plan.replica().clone(), plan.stamp(), plan.range());
        let running = Running {
            pin: plan.into_pin(),
            shipment: Shipment::to_target(range, config),
        };
        Self(Execution::new(replica, stamp, running))
    }

    /// The copy of a catch-up has the copy of its pin bound.
    #[cfg(feature = "simulation")]
    pub fn bind_pin(&mut self, pins: &moorline_wal::PinTable) {
        if let Ok(running) = self.0.running_mut()
            && let Some(pin) = &mut running.pin
        {
            pin.bind(pins);
        }
    }

    /// For which replica it works.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        self.0.replica()
    }

    /// Whose execution it is.
    #[must_use]
    pub const fn stamp(&self) -> SessionStamp {
        self.0.stamp()
    }

    /// The last record handed to the link; `None` when it is over.
    #[must_use]
    pub const fn shipped(&self) -> Option<Lsn> {
        match self.0.running() {
            Ok(running) => Some(running.shipment.shipped()),
            Err(_) => None,
        }
    }

    /// Whether live records follow by themselves.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        match self.0.running() {
            Ok(running) => running.shipment.is_live(),
            Err(_) => false,
        }
    }

    /// Whether it is over and holds nothing.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.0.running().is_err()
    }

    /// Does a bounded piece of work: at most one page is read and shipped.
    ///
    /// The session, the fence and the budget are looked at first. Nothing can change them within
    /// a step, so nothing is read or shipped by an execution that has lost them. `head` is the
    /// primary's last record now.
    pub fn step(
        &mut self,
        turn: &mut Turn<'_>,
        head: Lsn,
        (history, link): (&mut impl HistoryReader, &mut impl ReplicaLink),
    ) -> StepOutcome {
        if let Err(cause) = self.0.running() {
            return StepOutcome::Refused(cause);
        }
        if let Err(cause) = self.0.check(turn) {
            return StepOutcome::Ended(self.0.end(turn, cause));
        }
        // A live session whose acknowledgements do not count yet has a cut outstanding.
        let sender = turn.sender.as_deref();
        if sender.is_some_and(|sender| sender.counts_acks(self.stamp()).is_err()) {
            return StepOutcome::Waiting(Waiting::Cut);
        }
        let (range, bytes_max) = match self.0.running_mut() {
            Err(cause) => return StepOutcome::Refused(cause),
            Ok(running) => match running.shipment.next_read(head) {
                Ok(wanted) => wanted,
                Err(Pause::Waiting(waiting)) => return StepOutcome::Waiting(waiting),
                Err(Pause::AtHead(head)) => return StepOutcome::AtHead { head },
                Err(Pause::NotConverging(lag)) => return StepOutcome::NotConverging(lag),
            },
        };
        let worked = self.0.guarded(turn, |running| {
            Worked::read(history.read(range, bytes_max), &mut running.shipment, link)
        });
        self.worked(turn, worked)
    }

    fn worked(&mut self, turn: &mut Turn<'_>, worked: Worked) -> StepOutcome {
        match worked {
            Worked::Reading => StepOutcome::Waiting(Waiting::Read),
            Worked::Shipped(through) => StepOutcome::Shipped { through },
            Worked::Failed => StepOutcome::Ended(self.0.end(turn, ReleaseCause::ReadFailed)),
        }
    }

    /// A submitted read came back: its records go out at once.
    ///
    /// Authority is looked at first, as by a step: a read outlives the session that asked for it.
    /// When it failed, or the session did, the answer's event is the execution's last.
    ///
    /// # Errors
    ///
    /// [`RecordsRefused`] when nothing was asked for; nothing changed then.
    pub fn records_read(
        &mut self,
        turn: &mut Turn<'_>,
        result: Result<Vec<Record>, LogReadError>,
        link: &mut impl ReplicaLink,
    ) -> Result<StepOutcome, RecordsRefused> {
        let running = self.0.running_mut().map_err(|_| RecordsRefused::Over)?;
        running.shipment.read_ended()?;
        if let Err(cause) = self.0.check(turn) {
            return Ok(StepOutcome::Ended(self.0.end(turn, cause)));
        }
        let worked = self.0.guarded(turn, |running| {
            let read = result.map(ReadStart::Ready);
            Worked::read(read, &mut running.shipment, link)
        });
        Ok(self.worked(turn, worked))
    }

    /// The replica answered: `received` makes room in the window, `flushed` lets the pin follow.
    ///
    /// Older answers than before change nothing.
    pub fn acknowledged(&mut self, received: Lsn, flushed: Lsn) {
        if let Ok(running) = self.0.running_mut()
            && let Some(proven) = running.shipment.acknowledged(received, flushed)
            && let Some(pin) = &mut running.pin
        {
            pin.advance(proven);
        }
    }

    /// The target is proven: ship on towards the moving head.
    ///
    /// `after` is what the session proved or shipped; a replica may hold more than was shipped.
    pub fn follow(&mut self, after: Lsn) {
        if let Ok(running) = self.0.running_mut() {
            running.shipment.follow(after);
        }
    }

    /// Hands over to the live stream, under the ordering point: no record is ordered between
    /// reading `head` and this call, nor before the stream has the next one.
    pub fn hand_over(&mut self, head: Lsn) -> HandOver {
        match self.0.running_mut() {
            Ok(running) => running.shipment.hand_over(head),
            Err(cause) => HandOver::Refused(cause),
        }
    }

    /// Joins the live stream at once, under the ordering point: the replica is bound to every record
    /// above `head`, and steps ship what it lacks below and whatever follows.
    pub fn join(&mut self, head: Lsn) -> HandOver {
        match self.0.running_mut() {
            Ok(running) => running.shipment.join(head),
            Err(cause) => HandOver::Refused(cause),
        }
    }

    /// The proof is in: drops the pin, puts the one release event into the turn's requests and goes
    /// on as a stream without an end. `None` when it is over.
    pub fn complete(&mut self, turn: &mut Turn<'_>) -> Option<LiveStream> {
        let (running, _released) = self.0.complete(turn)?;
        Some(LiveStream::of(running.shipment))
    }

    /// A live record went out behind the hand-over: it takes part in the window no more, but a
    /// later [`rewind`](Self::rewind) knows how far the stream is.
    pub fn live_shipped(&mut self, through: Lsn) {
        if let Ok(running) = self.0.running_mut() {
            running.shipment.live_shipped(through);
        }
    }

    /// The replica lacks the record after `held`: what follows goes out again.
    pub fn rewind(&mut self, held: Lsn) -> Rewind {
        match self.0.running_mut() {
            Ok(running) => running.shipment.rewind(held),
            Err(cause) => Rewind::Refused(cause),
        }
    }

    /// Ends the execution, drops its pin and puts the one release event into the turn's requests.
    /// Answers the first time only.
    ///
    /// A session that is still live ends with it: nobody would work for it any more.
    pub fn release(&mut self, turn: &mut Turn<'_>, cause: ReleaseCause) -> Option<Released> {
        self.0.release(turn, cause)
    }
}

/// What came of reading records.
pub(crate) enum Worked {
    Reading,
    Shipped(Lsn),
    Failed,
}

impl Worked {
    /// Ships what a read brought.
    pub(crate) fn read(
        read: Result<ReadStart, LogReadError>,
        shipment: &mut Shipment,
        link: &mut impl ReplicaLink,
    ) -> Self {
        match read {
            Ok(ReadStart::Pending) => {
                shipment.read_submitted();
                Self::Reading
            }
            Ok(ReadStart::Ready(records)) => match shipment.ship(records, link) {
                Ok(()) => Self::Shipped(shipment.shipped()),
                Err(_) => Self::Failed,
            },
            Err(_) => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests;

//! Ships a range of records to one replica, then hands over to the live stream at one LSN.
//!
//! ```text
//! catching_up --follow--> following --hand_over--> live --release--> over
//!  (to the frozen target)  (to the moving head)     (holds the pin until the proof is in)
//!                              ^------- rewind ------|
//! ```
//!
//! All records go over one stream in LSN order without a gap: what this ships, and behind it, from
//! the hand-over on, what the ordering point ships itself. The pin follows the replica's *durable*
//! frontier and is dropped on every way out, with exactly one [`Released`].
//!
//! Every way out that is not success also ends the session: what the execution finds is told to
//! its sender before the caller hears of it. That holds for a port that panics, too.

use std::collections::VecDeque;

use moorline_engine::{Refusal, ReleaseCause, SessionStamp, Spending};
use moorline_types::{Lsn, LsnRange, ReplicaId};
use moorline_wal::{LogReadError, ReadStart, Record, RetentionPin};

use crate::{
    plan::BoundPlan,
    ports::{HistoryReader, ReplicaLink},
    step::{Halt, HandOver, Lag, RecordsRefused, Released, Rewind, StepOutcome, Waiting},
    turn::Turn,
};

mod unwinding;

/// How much an execution does at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchUpConfig {
    /// The most bytes shipped and not yet received by the replica.
    pub window_bytes: usize,
    /// The most bytes of one read, and of one step.
    pub page_bytes: usize,
    /// After so many rounds towards a moving head without the lag shrinking, say so.
    pub stubborn_rounds_max: u32,
}

impl Default for CatchUpConfig {
    /// 4 MiB in flight fill a 10 Gbit/s link with 3 ms of round trip. Pages of 1 MiB are the
    /// largest log frame. Eight rounds without gain are no accident of one burst of writes.
    fn default() -> Self {
        Self {
            window_bytes: 4 << 20,
            page_bytes: 1 << 20,
            stubborn_rounds_max: 8,
        }
    }
}

/// One catch-up being carried out.
#[derive(Debug)]
pub struct CatchUp {
    replica: ReplicaId,
    stamp: SessionStamp,
    target: Lsn,
    config: CatchUpConfig,
    state: State,
}

#[derive(Debug)]
enum State {
    Running(Running),
    Over(ReleaseCause),
}

#[derive(Debug)]
struct Running {
    /// Dropped with this.
    pin: Option<RetentionPin>,
    stage: Stage,
    /// The last record handed to the link.
    shipped: Lsn,
    /// The replica's durable frontier.
    proven: Lsn,
    read: InFlight,
    /// What is on its way, as (its last record, stored bytes), oldest first.
    window: VecDeque<(Lsn, usize)>,
    window_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InFlight {
    None,
    /// Submitted; its records follow `shipped`.
    Wanted,
    /// Submitted before the stream was wound back: its records are no longer wanted.
    Abandoned,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    CatchingUp,
    Following(Round),
    Live { since: Lsn },
}

/// One round towards a head that moves while it is shipped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Round {
    /// The head when the round began.
    end: Lsn,
    /// The lag when it began; `None` before the first.
    lag: Option<u64>,
    stubborn: u32,
}

impl CatchUp {
    /// Takes over a plan and its pin.
    #[must_use]
    pub fn new(plan: BoundPlan, config: CatchUpConfig) -> Self {
        let (stamp, range) = (plan.stamp(), plan.range());
        Self {
            replica: plan.replica().clone(),
            stamp,
            target: range.through(),
            config,
            state: State::Running(Running {
                pin: plan.into_pin(),
                stage: Stage::CatchingUp,
                shipped: range.after(),
                proven: range.after(),
                read: InFlight::None,
                window: VecDeque::new(),
                window_bytes: 0,
            }),
        }
    }

    /// For which replica it works.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// Whose execution it is.
    #[must_use]
    pub const fn stamp(&self) -> SessionStamp {
        self.stamp
    }

    /// The last record handed to the link; `None` when it is over.
    #[must_use]
    pub const fn shipped(&self) -> Option<Lsn> {
        match &self.state {
            State::Running(running) => Some(running.shipped),
            State::Over(_) => None,
        }
    }

    /// Whether live records follow by themselves.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        match &self.state {
            State::Running(running) => matches!(running.stage, Stage::Live { .. }),
            State::Over(_) => false,
        }
    }

    /// Whether it is over and holds nothing.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
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
        if let State::Over(cause) = self.state {
            return StepOutcome::Refused(cause);
        }
        if let Err(halt) = self.check(turn) {
            return self.end(turn, halt.cause(turn, self.stamp));
        }
        // A live session whose acknowledgements do not count yet has a cut outstanding.
        let sender = turn.sender.as_deref();
        if sender.is_some_and(|sender| sender.counts_acks(self.stamp).is_err()) {
            return StepOutcome::Waiting(Waiting::Cut);
        }
        let (range, bytes_max) = match self.next_read(head) {
            Ok(wanted) => wanted,
            Err(nothing) => return nothing,
        };
        let worked = self.guarded(turn, |running| match history.read(range, bytes_max) {
            Ok(ReadStart::Pending) => {
                running.read = InFlight::Wanted;
                Worked::Reading
            }
            Ok(ReadStart::Ready(records)) => match running.ship(records, link) {
                Ok(()) => Worked::Shipped(running.shipped),
                Err(_) => Worked::Failed,
            },
            Err(_) => Worked::Failed,
        });
        self.worked(turn, worked)
    }

    /// What a step may read now; else what it answers.
    fn next_read(&mut self, head: Lsn) -> Result<(LsnRange, usize), StepOutcome> {
        let config = self.config;
        let running = match &mut self.state {
            State::Over(cause) => return Err(StepOutcome::Refused(*cause)),
            State::Running(running) => running,
        };
        let limit = match running.stage {
            Stage::CatchingUp => self.target.max(running.shipped),
            Stage::Following(_) => head,
            Stage::Live { .. } => return Err(StepOutcome::Waiting(Waiting::Live)),
        };
        if running.read != InFlight::None {
            return Err(StepOutcome::Waiting(Waiting::Read));
        }
        if running.shipped >= limit {
            return Err(match running.stage {
                Stage::CatchingUp => StepOutcome::Waiting(Waiting::Proof),
                Stage::Following(_) | Stage::Live { .. } => StepOutcome::AtHead { head },
            });
        }
        if let Some(lag) = running.next_round(head, &config) {
            return Err(StepOutcome::NotConverging(lag));
        }
        if running.window_bytes >= config.window_bytes {
            return Err(StepOutcome::Waiting(Waiting::Window));
        }
        let room = config.window_bytes - running.window_bytes;
        let range = LsnRange::new(running.shipped, limit).expect("shipped lies below the limit");
        Ok((range, room.min(config.page_bytes)))
    }

    fn worked(&mut self, turn: &mut Turn<'_>, worked: Worked) -> StepOutcome {
        match worked {
            Worked::Reading => StepOutcome::Waiting(Waiting::Read),
            Worked::Shipped(through) => StepOutcome::Shipped { through },
            Worked::Failed => self.end(turn, ReleaseCause::ReadFailed),
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
        let State::Running(running) = &mut self.state else {
            return Err(RecordsRefused::Over);
        };
        match std::mem::replace(&mut running.read, InFlight::None) {
            InFlight::None | InFlight::Abandoned => return Err(RecordsRefused::NoRead),
            InFlight::Wanted => {}
        }
        if let Err(halt) = self.check(turn) {
            return Ok(self.end(turn, halt.cause(turn, self.stamp)));
        }
        let worked = self.guarded(turn, |running| {
            let shipped = result.ok().map(|records| running.ship(records, link));
            match shipped {
                Some(Ok(())) => Worked::Shipped(running.shipped),
                Some(Err(_)) | None => Worked::Failed,
            }
        });
        Ok(self.worked(turn, worked))
    }

    /// The replica answered: `received` makes room in the window, `flushed` lets the pin follow.
    ///
    /// Older answers than before change nothing.
    pub fn acknowledged(&mut self, received: Lsn, flushed: Lsn) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        while let Some(&(through, bytes)) = running.window.front()
            && through <= received
        {
            running.window.pop_front();
            running.window_bytes -= bytes;
        }
        // A replica may hold more than was shipped to it; the pin keeps what is still to be read.
        let proven = flushed.min(running.shipped);
        if proven > running.proven {
            running.proven = proven;
            if let Some(pin) = &mut running.pin {
                pin.advance(proven);
            }
        }
    }

    /// The target is proven: ship on towards the moving head.
    ///
    /// `after` is what the session proved or shipped; a replica may hold more than was shipped.
    pub fn follow(&mut self, after: Lsn) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        if running.stage == Stage::CatchingUp {
            if running.read == InFlight::None {
                running.shipped = running.shipped.max(after);
            }
            running.stage = Stage::Following(Round {
                end: running.shipped,
                lag: None,
                stubborn: 0,
            });
        }
    }

    /// Hands over to the live stream, under the ordering point: no record is ordered between
    /// reading `head` and this call, nor before the stream has the next one.
    pub fn hand_over(&mut self, head: Lsn) -> HandOver {
        let running = match &mut self.state {
            State::Over(cause) => return HandOver::Refused(*cause),
            State::Running(running) => running,
        };
        match running.stage {
            Stage::Live { since } => return HandOver::Already(since),
            Stage::CatchingUp | Stage::Following(_) => {}
        }
        let following = matches!(running.stage, Stage::Following(_));
        if !following || running.shipped != head || running.read == InFlight::Wanted {
            let rounds = match running.stage {
                Stage::Following(round) => round.stubborn,
                Stage::CatchingUp | Stage::Live { .. } => 0,
            };
            return HandOver::Behind(Lag {
                records: head.distance_from(running.shipped),
                rounds,
            });
        }
        running.stage = Stage::Live { since: head };
        HandOver::At(head)
    }

    /// A live record went out behind the hand-over: it takes part in the window no more, but a
    /// later [`rewind`](Self::rewind) knows how far the stream is.
    pub fn live_shipped(&mut self, through: Lsn) {
        if let State::Running(running) = &mut self.state
            && matches!(running.stage, Stage::Live { .. })
        {
            running.shipped = running.shipped.max(through);
        }
    }

    /// The replica lacks the record after `held`: what follows goes out again.
    pub fn rewind(&mut self, held: Lsn) -> Rewind {
        let running = match &mut self.state {
            State::Over(cause) => return Rewind::Refused(*cause),
            State::Running(running) => running,
        };
        if held >= running.shipped {
            return Rewind::Nothing;
        }
        if held < running.proven {
            return Rewind::BelowProven {
                proven: running.proven,
            };
        }
        if running.read == InFlight::Wanted {
            running.read = InFlight::Abandoned;
        }
        while let Some(&(through, bytes)) = running.window.back()
            && through > held
        {
            running.window.pop_back();
            running.window_bytes -= bytes;
        }
        running.shipped = held;
        if let Stage::Live { .. } = running.stage {
            running.stage = Stage::Following(Round {
                end: held,
                lag: None,
                stubborn: 0,
            });
        }
        Rewind::To(held)
    }

    /// Ends the execution, drops its pin and puts the one release event into the turn's requests.
    /// Answers the first time only.
    ///
    /// A session that is still live ends with it: nobody would work for it any more.
    pub fn release(&mut self, turn: &mut Turn<'_>, cause: ReleaseCause) -> Option<Released> {
        match self.state {
            State::Over(_) => None,
            State::Running(_) => {
                // The pin goes with the running state, here.
                self.state = State::Over(cause);
                Some(turn.released(&self.replica, self.stamp, cause))
            }
        }
    }

    fn end(&mut self, turn: &mut Turn<'_>, cause: ReleaseCause) -> StepOutcome {
        let released = self.release(turn, cause);
        StepOutcome::Ended(released.expect("a running execution ends once"))
    }

    fn check(&self, turn: &Turn<'_>) -> Result<(), Halt> {
        let sender = turn.sender.as_deref();
        let sender = sender.ok_or(Halt::Authority(Refusal::Stopped))?;
        if *sender.replica() != self.replica {
            return Err(Halt::OtherReplica);
        }
        sender.admit(self.stamp).map_err(Halt::Authority)?;
        match sender.spending(turn.now) {
            Spending::Within => Ok(()),
            Spending::Exceeded(limit) => Err(Halt::Budget(limit)),
        }
    }
}

/// What came of calling the ports.
enum Worked {
    Reading,
    Shipped(Lsn),
    Failed,
}

impl Running {
    fn ship(
        &mut self,
        records: Vec<Record>,
        link: &mut impl ReplicaLink,
    ) -> Result<(), RecordsRefused> {
        let wanted = self.shipped;
        let first = records.first().map(Record::lsn);
        let mut through = wanted;
        let mut bytes = 0;
        for record in &records {
            // None follows the last number there is.
            if Some(record.lsn()) != through.checked_advance(1) {
                return Err(RecordsRefused::NotContiguous { wanted, got: first });
            }
            through = record.lsn();
            bytes += record.stored_bytes();
        }
        if through == wanted {
            return Err(RecordsRefused::NotContiguous { wanted, got: None });
        }
        self.shipped = through;
        self.window.push_back((through, bytes));
        self.window_bytes += bytes;
        link.ship(records);
        Ok(())
    }

    /// Begins the next round when this one's end is reached; answers when too many did not help.
    fn next_round(&mut self, head: Lsn, config: &CatchUpConfig) -> Option<Lag> {
        let Stage::Following(round) = &mut self.stage else {
            return None;
        };
        if self.shipped < round.end {
            return None;
        }
        let records = head.distance_from(self.shipped);
        let shrank = round.lag.is_none_or(|before| records < before);
        round.stubborn = if shrank { 0 } else { round.stubborn + 1 };
        round.end = head;
        round.lag = Some(records);
        let rounds = round.stubborn;
        (rounds > config.stubborn_rounds_max).then_some(Lag { records, rounds })
    }
}

#[cfg(test)]
mod tests;

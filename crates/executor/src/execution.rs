//! What every execution is: carried out for one session, over once, and then without holds.
//!
//! Every way out that is not success also ends the session: what the execution finds is told to
//! its sender before the caller hears of it. That holds for a port that panics, too: no pin, no
//! live session, one release event.

use moorline_engine::{Refusal, ReleaseCause, SessionStamp, Spending};
use moorline_types::ReplicaId;

use crate::{
    step::{Halt, Released},
    turn::Turn,
};

/// Work for one session; `R` owns all that it holds.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Execution<R> {
    replica: ReplicaId,
    stamp: SessionStamp,
    state: State<R>,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum State<R> {
    Running(R),
    Over(ReleaseCause),
}

impl<R> Execution<R> {
    pub(crate) const fn new(replica: ReplicaId, stamp: SessionStamp, running: R) -> Self {
        Self {
            replica,
            stamp,
            state: State::Running(running),
        }
    }

    pub(crate) const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    pub(crate) const fn stamp(&self) -> SessionStamp {
        self.stamp
    }

    /// What is running, else why it is over.
    pub(crate) const fn running(&self) -> Result<&R, ReleaseCause> {
        match &self.state {
            State::Running(running) => Ok(running),
            State::Over(cause) => Err(*cause),
        }
    }

    /// What is running, else why it is over.
    pub(crate) const fn running_mut(&mut self) -> Result<&mut R, ReleaseCause> {
        match &mut self.state {
            State::Running(running) => Ok(running),
            State::Over(cause) => Err(*cause),
        }
    }

    /// Ends it, drops what it holds and puts the one release event into the turn's requests.
    /// Answers the first time only.
    pub(crate) fn release(&mut self, turn: &mut Turn<'_>, cause: ReleaseCause) -> Option<Released> {
        match self.state {
            State::Over(_) => None,
            State::Running(_) => {
                // What it holds goes with the running state, here.
                self.state = State::Over(cause);
                Some(turn.released(&self.replica, self.stamp, cause))
            }
        }
    }

    /// Ends it as completed, and hands back what it held.
    pub(crate) fn complete(&mut self, turn: &mut Turn<'_>) -> Option<(R, Released)> {
        let cause = ReleaseCause::Completed;
        match std::mem::replace(&mut self.state, State::Over(cause)) {
            State::Running(running) => {
                let released = turn.released(&self.replica, self.stamp, cause);
                Some((running, released))
            }
            over @ State::Over(_) => {
                self.state = over;
                None
            }
        }
    }

    pub(crate) fn end(&mut self, turn: &mut Turn<'_>, cause: ReleaseCause) -> Released {
        let released = self.release(turn, cause);
        released.expect("a running execution ends once")
    }

    /// Whether its session may still be worked for: authority, fence, budget.
    pub(crate) fn check(&self, turn: &Turn<'_>) -> Result<(), ReleaseCause> {
        self.halt(turn).map_err(|halt| halt.cause(turn, self.stamp))
    }

    fn halt(&self, turn: &Turn<'_>) -> Result<(), Halt> {
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

    /// Lets `work` call the ports. When it unwinds, the execution is over already.
    pub(crate) fn guarded<T>(&mut self, turn: &mut Turn<'_>, work: impl FnOnce(&mut R) -> T) -> T {
        let over = State::Over(ReleaseCause::Panicked);
        let State::Running(running) = std::mem::replace(&mut self.state, over) else {
            unreachable!("only a running execution calls ports");
        };
        let mut unwinding = Unwinding {
            replica: &self.replica,
            stamp: self.stamp,
            turn,
            held: Some(running),
        };
        let held = unwinding.held.as_mut().expect("put there above");
        let result = work(held);
        let running = unwinding.held.take().expect("only its drop takes it");
        drop(unwinding);
        self.state = State::Running(running);
        result
    }
}

/// Ends what it holds when it is dropped with it.
struct Unwinding<'a, 'b, R> {
    replica: &'a ReplicaId,
    stamp: SessionStamp,
    turn: &'a mut Turn<'b>,
    held: Option<R>,
}

impl<R> Drop for Unwinding<'_, '_, R> {
    fn drop(&mut self) {
        if let Some(running) = self.held.take() {
            drop(running);
            let cause = ReleaseCause::Panicked;
            let _event = self.turn.released(self.replica, self.stamp, cause);
        }
    }
}

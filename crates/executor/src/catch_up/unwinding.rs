//! A port that panics leaves nothing behind: no pin, no live session, one release event.

use moorline_engine::{ReleaseCause, SessionStamp};
use moorline_types::ReplicaId;

use super::{CatchUp, Running, State};
use crate::turn::Turn;

impl CatchUp {
    /// Lets `work` call the ports. When it unwinds, the execution is over already.
    pub(super) fn guarded<R>(
        &mut self,
        turn: &mut Turn<'_>,
        work: impl FnOnce(&mut Running) -> R,
    ) -> R {
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
struct Unwinding<'a, 'b> {
    replica: &'a ReplicaId,
    stamp: SessionStamp,
    turn: &'a mut Turn<'b>,
    held: Option<Running>,
}

impl Drop for Unwinding<'_, '_> {
    fn drop(&mut self) {
        if let Some(running) = self.held.take() {
            drop(running);
            let cause = ReleaseCause::Panicked;
            let _event = self.turn.released(self.replica, self.stamp, cause);
        }
    }
}

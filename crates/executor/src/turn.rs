//! What an execution may use while it is called: the time, its sender, and where requests go.

use moorline_engine::{
    Action, Actions, Directed, Event, Fact, RecoveryEvent, Registry, ReleaseCause, Sender,
    SessionStamp,
};
use moorline_types::{Instant, ReplicaId, ServerId};

use crate::step::Released;

/// One call's surroundings.
///
/// An execution that ends for any other reason than success tells the sender, so that no session
/// stays live that nobody works for; what the sender asks for then, and the one release event,
/// goes to `out`.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Now.
    pub now: Instant,
    /// The sender whose session is worked for; `None` when its replica is assigned no longer.
    pub sender: Option<&'a mut Sender>,
    /// Requests, carried out in order; see [`Action`].
    pub out: &'a mut Actions,
}

impl<'a> Turn<'a> {
    /// A turn of the execution for `server`.
    #[must_use]
    pub fn of(
        now: Instant,
        registry: &'a mut Registry,
        server: &ServerId,
        out: &'a mut Actions,
    ) -> Self {
        Self {
            now,
            sender: registry.sender_mut(server),
            out,
        }
    }

    /// Tells the session a fact. What it answers is the session's business: a fact that comes too
    /// late changes nothing.
    pub(crate) fn tell(&mut self, stamp: SessionStamp, fact: Fact<'_>) {
        if let Some(sender) = self.sender.as_deref_mut() {
            let event = Event::Session { stamp, fact };
            let _answer = sender.handle(self.now, event, self.out);
        }
    }

    /// Ends the session if it is live, for the reason that its work ends.
    pub(crate) fn end_session(
        &mut self,
        replica: &ReplicaId,
        stamp: SessionStamp,
        cause: ReleaseCause,
    ) {
        let sender = self.sender.as_deref_mut();
        let sender = sender.filter(|sender| sender.replica() == replica);
        let Some(sender) = sender.filter(|sender| sender.admit(stamp).is_ok()) else {
            return;
        };
        let event = match cause {
            ReleaseCause::ReadFailed => of(stamp, Fact::ReadFailed),
            ReleaseCause::Panicked => of(stamp, Fact::ExecutorPanicked),
            // The sender looks at the same budget at the same instant.
            ReleaseCause::BudgetExceeded(_) => Event::DeadlineReached,
            ReleaseCause::Completed
            | ReleaseCause::SessionEnded
            | ReleaseCause::Fenced
            | ReleaseCause::LinkLost
            | ReleaseCause::PinBroken
            | ReleaseCause::Cancelled => of(stamp, Fact::CancelRequested),
        };
        let _answer = sender.handle(self.now, event, self.out);
        if sender.admit(stamp).is_ok() {
            // What it was told means nothing where it stands.
            let event = of(stamp, Fact::CancelRequested);
            let _answer = sender.handle(self.now, event, self.out);
        }
    }

    /// Everything was given back: ends the session if it is live, and says so, in this order.
    pub(crate) fn released(
        &mut self,
        replica: &ReplicaId,
        stamp: SessionStamp,
        cause: ReleaseCause,
    ) -> Released {
        self.end_session(replica, stamp, cause);
        let event = RecoveryEvent::released(self.now, &replica.server, stamp, cause);
        self.out.push(Directed {
            replica: replica.server.clone(),
            action: Action::Emit(event),
        });
        Released { stamp, cause }
    }
}

const fn of(stamp: SessionStamp, fact: Fact<'static>) -> Event<'static> {
    Event::Session { stamp, fact }
}

//! Rebuilds one replica: it joins the live stream first, then a base is laid under it.
//!
//! ```text
//! joining (ships what lies above the base) --hand_over--> laying (the base, in order) --> replaying
//!                                              (the log is let go)          (until the proof is in)
//! ```
//!
//! Nothing of the base is read before the session knows that the replica has joined: whatever is
//! committed later reaches it by the stream, and what lies below is in the base, so no instant is
//! missed between the two. The log is held for the time of the join only; the image is held to the
//! end. The cursor of the base goes strictly forward.
//!
//! Snapshot and tail, delta and full base differ in what their image pin holds and in which extents
//! the base has; they are carried out alike.

use moorline_engine::{Answer, Event, Fact, Phase, RebuildSource, ReleaseCause, SessionStamp};
use moorline_types::{Lsn, ReplicaId};
use moorline_wal::{LogReadError, ReadStart, Record};

use crate::{
    catch_up::Worked,
    execution::Execution,
    plan::{BoundRebuild, ImagePin},
    ports::{BaseExtent, BaseImage, BaseLink, BaseReadError, BaseStart, HistoryReader},
    shipment::{CatchUpConfig, Pause, Shipment},
    step::{
        BaseRefused, HandOver, LaidRefused, RebuildOutcome, RecordsRefused, Released, Rewind,
        Waiting,
    },
    turn::Turn,
};

mod base;

use base::{BaseTransfer, Transferred};

/// How much a rebuild does at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebuildConfig {
    /// For the records that the join ships.
    pub records: CatchUpConfig,
    /// The most bytes of the base sent and not yet durable at the replica.
    pub base_window_bytes: usize,
    /// The most bytes of the base in one read, and in one step; one extent is always read.
    pub base_page_bytes: usize,
    /// The most extents in one read: bounds a step where the base is mostly zeroes.
    pub base_page_extents: u64,
}

impl Default for RebuildConfig {
    /// A base competes with the writers for the source's disk and link: half of what a catch-up may
    /// have in flight.
    fn default() -> Self {
        Self {
            records: CatchUpConfig::default(),
            base_window_bytes: 2 << 20,
            base_page_bytes: 1 << 20,
            base_page_extents: 64,
        }
    }
}

/// Where the source stands when a step begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceAt {
    /// Its last record.
    pub head: Lsn,
    /// Its committed point.
    pub committed: Lsn,
}

/// One rebuild being carried out.
#[derive(Debug)]
pub struct Rebuild {
    source: RebuildSource,
    execution: Execution<Laying>,
}

#[derive(Debug)]
struct Laying {
    /// Dropped with this.
    pin: ImagePin,
    log: LogHold,
    shipment: Shipment,
    base: BaseTransfer,
}

/// Whether the image's pin keeps the log above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LogHold {
    /// Until the replica has received the join point, once there is one.
    Held {
        join_point: Option<Lsn>,
    },
    LetGo,
}

impl Laying {
    /// Lets the log go once the replica has received the join point.
    fn let_log_go(&mut self) {
        let LogHold::Held {
            join_point: Some(join_point),
        } = self.log
        else {
            return;
        };
        if self.shipment.received() >= join_point {
            self.pin.let_log_go();
            self.log = LogHold::LetGo;
        }
    }
}

impl Rebuild {
    /// Takes over a plan and its pin.
    #[must_use]
    pub fn new(plan: BoundRebuild, config: RebuildConfig) -> Self {
        let (source, extents) = (plan.source(), plan.extents());
        let (replica, stamp) = (plan.replica().clone(), plan.stamp());
        let laying = Laying {
            pin: plan.into_pin(),
            log: LogHold::Held { join_point: None },
            shipment: Shipment::to_head(source.base(), config.records),
            base: BaseTransfer::new(source, extents, config),
        };
        Self {
            source,
            execution: Execution::new(replica, stamp, laying),
        }
    }

    /// For which replica it works.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        self.execution.replica()
    }

    /// Whose execution it is.
    #[must_use]
    pub const fn stamp(&self) -> SessionStamp {
        self.execution.stamp()
    }

    /// What the base is made of.
    #[must_use]
    pub const fn source(&self) -> RebuildSource {
        self.source
    }

    /// The last record handed to the link; `None` when it is over.
    #[must_use]
    pub const fn shipped(&self) -> Option<Lsn> {
        match self.execution.running() {
            Ok(laying) => Some(laying.shipment.shipped()),
            Err(_) => None,
        }
    }

    /// Whether live records follow by themselves.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        match self.execution.running() {
            Ok(laying) => laying.shipment.is_live(),
            Err(_) => false,
        }
    }

    /// Whether it is over and holds nothing.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.execution.running().is_err()
    }

    /// Does a bounded piece of work: one page of records, or one of the base.
    ///
    /// The session, the fence and the budget are looked at first, and nothing can change them within
    /// a step. Records go before the base: a replica that had to be wound back is brought to the
    /// live stream again before its base goes on.
    pub fn step(
        &mut self,
        turn: &mut Turn<'_>,
        at: SourceAt,
        (history, image, link): (
            &mut impl HistoryReader,
            &mut impl BaseImage,
            &mut impl BaseLink,
        ),
    ) -> RebuildOutcome {
        if let Err(cause) = self.execution.running() {
            return RebuildOutcome::Refused(cause);
        }
        if let Err(cause) = self.execution.check(turn) {
            return RebuildOutcome::Ended(self.execution.end(turn, cause));
        }
        let laying = match self.execution.running_mut() {
            Ok(laying) => laying,
            Err(cause) => return RebuildOutcome::Refused(cause),
        };
        if laying.shipment.is_live() {
            return self.step_base(turn, at.committed, image, link);
        }
        let (range, bytes_max) = match laying.shipment.next_read(at.head) {
            Ok(wanted) => wanted,
            Err(Pause::Waiting(waiting)) => return RebuildOutcome::Waiting(waiting),
            Err(Pause::AtHead(head)) => return RebuildOutcome::AtHead { head },
            Err(Pause::NotConverging(lag)) => return RebuildOutcome::NotConverging(lag),
        };
        let worked = self.execution.guarded(turn, |laying| {
            Worked::read(history.read(range, bytes_max), &mut laying.shipment, link)
        });
        self.worked(turn, worked)
    }

    fn step_base(
        &mut self,
        turn: &mut Turn<'_>,
        committed: Lsn,
        image: &mut impl BaseImage,
        link: &mut impl BaseLink,
    ) -> RebuildOutcome {
        let laying = match self.execution.running_mut() {
            Ok(laying) => laying,
            Err(cause) => return RebuildOutcome::Refused(cause),
        };
        match phase(turn) {
            Some(Phase::Transferring(_)) => {}
            Some(Phase::Replaying(_)) => return RebuildOutcome::Waiting(Waiting::Proof),
            // The hand-over is done, the session has not been told of it.
            Some(_) | None => return RebuildOutcome::Waiting(Waiting::Live),
        }
        if laying.base.is_laid() {
            turn.tell(self.stamp(), Fact::BaseWhole { committed });
            return RebuildOutcome::BaseWhole { target: committed };
        }
        let wanted = match laying.base.next_read() {
            Ok(wanted) => wanted,
            Err(waiting) => return RebuildOutcome::Waiting(waiting),
        };
        let transferred = self.execution.guarded(turn, |laying| {
            let read = image.read(wanted);
            laying.base.transfer(read, committed, link)
        });
        self.transferred(turn, transferred)
    }

    fn worked(&mut self, turn: &mut Turn<'_>, worked: Worked) -> RebuildOutcome {
        match worked {
            Worked::Reading => RebuildOutcome::Waiting(Waiting::Read),
            Worked::Shipped(through) => RebuildOutcome::Shipped { through },
            Worked::Failed => {
                RebuildOutcome::Ended(self.execution.end(turn, ReleaseCause::ReadFailed))
            }
        }
    }

    fn transferred(
        &mut self,
        turn: &mut Turn<'_>,
        transferred: Result<Transferred, BaseRefused>,
    ) -> RebuildOutcome {
        match transferred {
            Ok(Transferred::Reading) => RebuildOutcome::Waiting(Waiting::Base),
            Ok(Transferred::Sent { extents }) => RebuildOutcome::Sent { extents },
            Err(_) => RebuildOutcome::Ended(self.execution.end(turn, ReleaseCause::ReadFailed)),
        }
    }

    /// A submitted read of the log came back: its records go out at once.
    ///
    /// # Errors
    ///
    /// [`RecordsRefused`] when nothing was asked for; nothing changed then.
    pub fn records_read(
        &mut self,
        turn: &mut Turn<'_>,
        result: Result<Vec<Record>, LogReadError>,
        link: &mut impl BaseLink,
    ) -> Result<RebuildOutcome, RecordsRefused> {
        let laying = self.execution.running_mut();
        let laying = laying.map_err(|_| RecordsRefused::Over)?;
        laying.shipment.read_ended()?;
        if let Err(cause) = self.execution.check(turn) {
            return Ok(RebuildOutcome::Ended(self.execution.end(turn, cause)));
        }
        let worked = self.execution.guarded(turn, |laying| {
            Worked::read(result.map(ReadStart::Ready), &mut laying.shipment, link)
        });
        Ok(self.worked(turn, worked))
    }

    /// A submitted read of the base came back: its extents go out at once. `committed` is the
    /// source's committed point now.
    ///
    /// # Errors
    ///
    /// [`BaseRefused::NoRead`] and [`BaseRefused::Over`], when nothing was asked for; nothing
    /// changed then.
    pub fn base_read(
        &mut self,
        turn: &mut Turn<'_>,
        result: Result<Vec<BaseExtent>, BaseReadError>,
        committed: Lsn,
        link: &mut impl BaseLink,
    ) -> Result<RebuildOutcome, BaseRefused> {
        let laying = self.execution.running_mut();
        laying.map_err(|_| BaseRefused::Over)?.base.read_ended()?;
        if let Err(cause) = self.execution.check(turn) {
            return Ok(RebuildOutcome::Ended(self.execution.end(turn, cause)));
        }
        let transferred = self.execution.guarded(turn, |laying| {
            let read = result.map(BaseStart::Ready);
            laying.base.transfer(read, committed, link)
        });
        Ok(self.transferred(turn, transferred))
    }

    /// The replica answered for its log of this session: `received` makes room in the window, and
    /// lets the source's log go once it reaches the join point. Older answers change nothing.
    pub fn acknowledged(&mut self, received: Lsn, flushed: Lsn) {
        let Ok(laying) = self.execution.running_mut() else {
            return;
        };
        let _moved = laying.shipment.acknowledged(received, flushed);
        laying.let_log_go();
    }

    /// The replica answered that the first `extents` extents of the base are durable. The session
    /// is told; its answer comes back.
    ///
    /// # Errors
    ///
    /// [`LaidRefused`] when so many were never sent, or when it is over; nothing changed then.
    pub fn laid(&mut self, turn: &mut Turn<'_>, extents: u64) -> Result<Answer, LaidRefused> {
        let stamp = self.stamp();
        let replica = self.replica().clone();
        let laying = self.execution.running_mut().map_err(LaidRefused::Over)?;
        // Session ids of two volumes may be equal.
        let sender = turn.sender.as_deref_mut();
        let Some(sender) = sender.filter(|sender| *sender.replica() == replica) else {
            return Err(LaidRefused::OtherReplica);
        };
        laying.base.check_laid(extents)?;
        let fact = Fact::ExtentsLaid { extents };
        let answer = sender.handle(turn.now, Event::Session { stamp, fact }, turn.out);
        if answer == Answer::Done {
            laying.base.laid(extents);
        }
        Ok(answer)
    }

    /// Hands over to the live stream, under the ordering point: no record is ordered between
    /// reading `head` and this call, nor before the stream has the next one.
    pub fn hand_over(&mut self, head: Lsn) -> HandOver {
        let laying = match self.execution.running_mut() {
            Ok(laying) => laying,
            Err(cause) => return HandOver::Refused(cause),
        };
        let said = laying.shipment.hand_over(head);
        if let (HandOver::At(at), LogHold::Held { join_point: None }) = (said, laying.log) {
            let join_point = Some(at);
            laying.log = LogHold::Held { join_point };
            // It may have been received before, and nobody says so again.
            laying.let_log_go();
        }
        said
    }

    /// A live record went out behind the hand-over.
    pub fn live_shipped(&mut self, through: Lsn) {
        if let Ok(laying) = self.execution.running_mut() {
            laying.shipment.live_shipped(through);
        }
    }

    /// The replica lacks the record after `held`: what follows goes out again. The base is not
    /// affected: what was sent of it stays sent.
    pub fn rewind(&mut self, held: Lsn) -> Rewind {
        match self.execution.running_mut() {
            Ok(laying) => laying.shipment.rewind(held),
            Err(cause) => Rewind::Refused(cause),
        }
    }

    /// Ends the execution, drops its pin and puts the one release event into the turn's requests.
    /// Answers the first time only.
    ///
    /// A session that is still live ends with it: nobody would work for it any more.
    pub fn release(&mut self, turn: &mut Turn<'_>, cause: ReleaseCause) -> Option<Released> {
        self.execution.release(turn, cause)
    }
}

fn phase<'a>(turn: &'a Turn<'_>) -> Option<&'a Phase> {
    let session = turn.sender.as_deref()?.live_session()?;
    Some(session.phase())
}

#[cfg(test)]
mod tests;

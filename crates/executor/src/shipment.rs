//! Records on their way to one replica: how far they went, what is on the way, what is proven.
//!
//! ```text
//! to a target --follow--> following --hand_over--> live      (the ordering point ships)
//!                         (the moving head)
//!                              ^------- rewind ------|
//!        any --join--> bound                                 (steps go on shipping, to the head)
//! ```

use std::collections::VecDeque;

use moorline_types::{Lsn, LsnRange};
use moorline_wal::Record;

use crate::{
    ports::ReplicaLink,
    step::{HandOver, Lag, RecordsRefused, Rewind, Waiting},
};

/// How much is shipped at once.
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

/// The records of one execution.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Shipment {
    config: CatchUpConfig,
    stage: Stage,
    /// The last record handed to the link.
    shipped: Lsn,
    /// What the replica said to have received, in memory at least.
    received: Lsn,
    /// The replica's durable frontier, of what was shipped.
    proven: Lsn,
    read: InFlight,
    /// What is on its way, as (its last record, stored bytes), oldest first.
    window: VecDeque<(Lsn, usize)>,
    window_bytes: usize,
}

/// A submitted read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InFlight {
    None,
    /// Its answer follows what went out.
    Wanted,
    /// Submitted before the stream was wound back: its answer is no longer wanted.
    Abandoned,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    ToTarget(Lsn),
    Following(Round),
    /// Whoever orders records ships them.
    Live {
        since: Lsn,
    },
    /// Joined, and steps ship whatever there is.
    Bound {
        since: Lsn,
    },
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

impl Round {
    const fn first(from: Lsn) -> Self {
        Self {
            end: from,
            lag: None,
            stubborn: 0,
        }
    }
}

/// Why nothing is read now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pause {
    Waiting(Waiting),
    AtHead(Lsn),
    NotConverging(Lag),
}

impl Shipment {
    /// From `range`'s start to its end, and no further before [`follow`](Self::follow).
    pub(crate) const fn to_target(range: LsnRange, config: CatchUpConfig) -> Self {
        Self::beginning(range.after(), Stage::ToTarget(range.through()), config)
    }

    /// All there is after `after`, with no end.
    pub(crate) const fn bound(after: Lsn, config: CatchUpConfig) -> Self {
        Self::beginning(after, Stage::Bound { since: after }, config)
    }

    /// From `after` towards the moving head at once.
    pub(crate) const fn to_head(after: Lsn, config: CatchUpConfig) -> Self {
        Self::beginning(after, Stage::Following(Round::first(after)), config)
    }

    const fn beginning(after: Lsn, stage: Stage, config: CatchUpConfig) -> Self {
        Self {
            config,
            stage,
            shipped: after,
            received: after,
            proven: after,
            read: InFlight::None,
            window: VecDeque::new(),
            window_bytes: 0,
        }
    }

    pub(crate) const fn shipped(&self) -> Lsn {
        self.shipped
    }

    pub(crate) const fn received(&self) -> Lsn {
        self.received
    }

    /// Whether whoever orders records ships them.
    pub(crate) const fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live { .. })
    }

    /// Goes on with steps that ship whatever there is.
    pub(crate) const fn into_bound(mut self) -> Self {
        let since = match self.stage {
            Stage::Live { since } | Stage::Bound { since } => since,
            Stage::ToTarget(_) | Stage::Following(_) => self.shipped,
        };
        self.stage = Stage::Bound { since };
        self
    }

    /// What may be read now, and how many bytes of it.
    pub(crate) fn next_read(&mut self, head: Lsn) -> Result<(LsnRange, usize), Pause> {
        let config = self.config;
        let limit = match self.stage {
            Stage::ToTarget(target) => target.max(self.shipped),
            Stage::Following(_) | Stage::Bound { .. } => head,
            Stage::Live { .. } => return Err(Pause::Waiting(Waiting::Live)),
        };
        if self.read != InFlight::None {
            return Err(Pause::Waiting(Waiting::Read));
        }
        if self.shipped >= limit {
            return Err(match self.stage {
                Stage::ToTarget(_) => Pause::Waiting(Waiting::Proof),
                Stage::Bound { .. } => Pause::Waiting(Waiting::Live),
                Stage::Following(_) | Stage::Live { .. } => Pause::AtHead(head),
            });
        }
        if let Some(lag) = self.next_round(head) {
            return Err(Pause::NotConverging(lag));
        }
        if self.window_bytes >= config.window_bytes {
            return Err(Pause::Waiting(Waiting::Window));
        }
        let room = config.window_bytes - self.window_bytes;
        let range = LsnRange::new(self.shipped, limit).expect("shipped lies below the limit");
        Ok((range, room.min(config.page_bytes)))
    }

    /// Begins the next round when this one's end is reached; answers when too many did not help.
    fn next_round(&mut self, head: Lsn) -> Option<Lag> {
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
        (rounds > self.config.stubborn_rounds_max).then_some(Lag { records, rounds })
    }

    pub(crate) const fn read_submitted(&mut self) {
        self.read = InFlight::Wanted;
    }

    /// A submitted read came back.
    pub(crate) fn read_ended(&mut self) -> Result<(), RecordsRefused> {
        match std::mem::replace(&mut self.read, InFlight::None) {
            InFlight::None | InFlight::Abandoned => Err(RecordsRefused::NoRead),
            InFlight::Wanted => Ok(()),
        }
    }

    pub(crate) fn ship(
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

    /// `received` makes room in the window; the answer is how far the durable frontier moved, if
    /// it did.
    pub(crate) fn acknowledged(&mut self, received: Lsn, flushed: Lsn) -> Option<Lsn> {
        self.received = self.received.max(received);
        while let Some(&(through, bytes)) = self.window.front()
            && through <= received
        {
            self.window.pop_front();
            self.window_bytes -= bytes;
        }
        // A replica may hold more than was shipped to it; what is still to be read stays needed.
        let proven = flushed.min(self.shipped);
        if proven <= self.proven {
            return None;
        }
        self.proven = proven;
        Some(proven)
    }

    /// The target is proven: on towards the moving head, from `after` where that is further.
    pub(crate) fn follow(&mut self, after: Lsn) {
        if let Stage::ToTarget(_) = self.stage {
            if self.read == InFlight::None {
                self.shipped = self.shipped.max(after);
            }
            self.stage = Stage::Following(Round::first(self.shipped));
        }
    }

    pub(crate) fn hand_over(&mut self, head: Lsn) -> HandOver {
        let rounds = match self.stage {
            Stage::Live { since } | Stage::Bound { since } => return HandOver::Already(since),
            Stage::ToTarget(_) => None,
            Stage::Following(round) => Some(round.stubborn),
        };
        let in_flight = self.read == InFlight::Wanted;
        if rounds.is_none() || self.shipped != head || in_flight {
            return HandOver::Behind(Lag {
                records: head.distance_from(self.shipped),
                rounds: rounds.unwrap_or(0),
            });
        }
        self.stage = Stage::Live { since: head };
        HandOver::At(head)
    }

    pub(crate) const fn join(&mut self, head: Lsn) -> HandOver {
        if let Stage::Live { since } | Stage::Bound { since } = self.stage {
            return HandOver::Already(since);
        }
        self.stage = Stage::Bound { since: head };
        HandOver::At(head)
    }

    pub(crate) fn live_shipped(&mut self, through: Lsn) {
        if self.is_live() {
            self.shipped = self.shipped.max(through);
        }
    }

    pub(crate) fn rewind(&mut self, held: Lsn) -> Rewind {
        if held >= self.shipped {
            return Rewind::Nothing;
        }
        if held < self.proven {
            return Rewind::BelowProven {
                proven: self.proven,
            };
        }
        if self.read == InFlight::Wanted {
            self.read = InFlight::Abandoned;
        }
        while let Some(&(through, bytes)) = self.window.back()
            && through > held
        {
            self.window.pop_back();
            self.window_bytes -= bytes;
        }
        self.shipped = held;
        if self.is_live() {
            self.stage = Stage::Following(Round::first(held));
        }
        Rewind::To(held)
    }
}

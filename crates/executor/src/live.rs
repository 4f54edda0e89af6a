//! The stream of a replica that is in sync: whatever is in the log goes out, in order.
//!
//! No session is live any more, so there is no authority to look at, no budget and no pin: whoever
//! owns the stream drops it when the replica loses its standing.

use moorline_types::Lsn;
use moorline_wal::{LogReadError, ReadStart, Record};

use crate::{
    catch_up::Worked,
    ports::{HistoryReader, ReplicaLink},
    shipment::{CatchUpConfig, Pause, Shipment},
    step::{RecordsRefused, Rewind, Waiting},
};

/// An endless shipment.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub struct LiveStream(Shipment);

/// What became of one step of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum LiveOutcome {
    /// Records went out; more can follow at once.
    Shipped {
        /// The last record that went out so far.
        through: Lsn,
    },
    /// Nothing to do until something comes back, or is appended.
    Waiting(Waiting),
    /// The records cannot be had: what the replica gets next is decided by its facts.
    Failed,
}

impl LiveStream {
    /// All there is after `after`.
    #[must_use]
    pub const fn new(after: Lsn, config: CatchUpConfig) -> Self {
        Self(Shipment::bound(after, config))
    }

    pub(crate) const fn of(shipment: Shipment) -> Self {
        Self(shipment.into_bound())
    }

    /// The last record handed to the link.
    #[must_use]
    pub const fn shipped(&self) -> Lsn {
        self.0.shipped()
    }

    /// Ships at most one page. `head` is the primary's last record now.
    pub fn step(
        &mut self,
        head: Lsn,
        (history, link): (&mut impl HistoryReader, &mut impl ReplicaLink),
    ) -> LiveOutcome {
        match self.0.next_read(head) {
            Ok((range, bytes_max)) => {
                let read = history.read(range, bytes_max);
                outcome(Worked::read(read, &mut self.0, link))
            }
            Err(Pause::Waiting(waiting)) => LiveOutcome::Waiting(waiting),
            Err(Pause::AtHead(_) | Pause::NotConverging(_)) => {
                unreachable!("a stream without an end arrives nowhere")
            }
        }
    }

    /// A submitted read came back: its records go out at once.
    ///
    /// # Errors
    ///
    /// [`RecordsRefused`] when nothing was asked for; nothing changed then.
    pub fn records_read(
        &mut self,
        result: Result<Vec<Record>, LogReadError>,
        link: &mut impl ReplicaLink,
    ) -> Result<LiveOutcome, RecordsRefused> {
        self.0.read_ended()?;
        let read = result.map(ReadStart::Ready);
        Ok(outcome(Worked::read(read, &mut self.0, link)))
    }

    /// The replica answered: `received` makes room in the window.
    pub fn acknowledged(&mut self, received: Lsn, flushed: Lsn) {
        let _moved = self.0.acknowledged(received, flushed);
    }

    /// The replica lacks the record after `held`: what follows goes out again.
    pub fn rewind(&mut self, held: Lsn) -> Rewind {
        self.0.rewind(held)
    }
}

const fn outcome(worked: Worked) -> LiveOutcome {
    match worked {
        Worked::Reading => LiveOutcome::Waiting(Waiting::Read),
        Worked::Shipped(through) => LiveOutcome::Shipped { through },
        Worked::Failed => LiveOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::{Epoch, LsnRange, VolumeId};

    use super::*;

    struct History;

    impl HistoryReader for History {
        fn read(&mut self, range: LsnRange, _max: usize) -> Result<ReadStart, LogReadError> {
            let numbers = range.after().get() + 1..=range.through().get();
            let record = |n| Record::epoch_mark(VolumeId::new(1), Epoch::new(1, 0), Lsn::new(n));
            Ok(ReadStart::Ready(numbers.take(2).map(record).collect()))
        }
    }

    #[derive(Default)]
    struct Link(Vec<u64>);

    impl ReplicaLink for Link {
        fn ship(&mut self, records: Vec<Record>) {
            self.0
                .extend(records.iter().map(|record| record.lsn().get()));
        }
    }

    #[test]
    fn whatever_is_appended_goes_out_and_again_from_where_it_is_missing() {
        let (mut link, lsn) = (Link::default(), Lsn::new);
        let mut stream = LiveStream::new(lsn(4), CatchUpConfig::default());
        let all = |stream: &mut LiveStream, link: &mut Link, head| {
            while let LiveOutcome::Shipped { .. } = stream.step(lsn(head), (&mut History, link)) {}
        };
        all(&mut stream, &mut link, 7);
        let waits = LiveOutcome::Waiting(Waiting::Live);
        assert_eq!(stream.step(lsn(7), (&mut History, &mut link)), waits);
        stream.acknowledged(lsn(5), lsn(5));
        assert_eq!(stream.rewind(lsn(6)), Rewind::To(lsn(6)));
        let proven = lsn(5);
        assert_eq!(stream.rewind(lsn(4)), Rewind::BelowProven { proven });
        all(&mut stream, &mut link, 8);
        assert_eq!(link.0, [5, 6, 7, 7, 8]);
        assert_eq!(
            stream.records_read(Ok(vec![]), &mut link),
            Err(RecordsRefused::NoRead)
        );
    }
}

//! One order of records explains everything: the prefix rule, atomicity, and what must survive.
//!
//! Every record that any log took is seen when it is appended, with the request that it carries. A
//! reign's *lineage* is the sequence of records that its log holds when it begins to serve: by its
//! epoch history each LSN belongs to one epoch. What is checked follows the run in order:
//!
//! - two logs never hold different records of one (epoch, LSN);
//! - at the beginning of each reign its lineage holds every write whose promise must survive: what
//!   is missing is missing from one LSN on, whole requests at a time (prefix, atomicity);
//! - a read finds records of the lineage only. Once anything showed that the volume is at LSN `c`
//!   (an answered write, a value read, the mark of a reign) no later read finds a block as it was
//!   before `c`: one cut explains all blocks together;
//! - a request that was answered before another one was asked for comes before it;
//! - a rejected request is in no lineage.

use std::collections::BTreeMap;

use moorline_types::{Epoch, EpochStart, Lsn};
use moorline_wal::{Record, RecordHeader, RecordKind};

use super::{Rule, Violation};
use crate::{
    content::{self, OpNo, SECTOR},
    history::{History, Op, Outcome, Tick, What},
};

type Place = (Epoch, Lsn);

/// What identifies a record's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    kind: RecordKind,
    first_block: u64,
    blocks: u64,
    /// Folded block checksums.
    content: u64,
}

/// The log of one reign when it began to serve.
#[derive(Clone, Debug)]
struct Reign {
    at: Tick,
    starts: Vec<EpochStart>,
    mark: Lsn,
}

impl Reign {
    fn holds(&self, (epoch, lsn): Place) -> bool {
        let count = self.starts.partition_point(|start| start.first <= lsn);
        count
            .checked_sub(1)
            .is_some_and(|last| self.starts[last].epoch == epoch)
    }
}

/// Whether acknowledged writes that were only in memory may be gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    /// Enough of it was kept.
    Kept,
    /// More members lost theirs than the policy tolerates.
    Lost,
}

/// All records and reigns of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lineage {
    records: BTreeMap<Place, Seen>,
    /// Where a request's record is.
    of_op: BTreeMap<OpNo, Place>,
    reigns: BTreeMap<Epoch, Reign>,
}

impl Lineage {
    /// A log holds a record.
    pub(crate) fn saw(
        &mut self,
        header: &RecordHeader,
        record: Option<&Record>,
    ) -> Result<(), Violation> {
        let place = (header.epoch(), header.lsn());
        let fold = |sum: u64, crc: &u32| (sum ^ u64::from(*crc)).wrapping_mul(0x0100_0000_01b3);
        let seen = Seen {
            kind: header.kind(),
            first_block: header.range().first().get(),
            blocks: u64::from(header.range().count()),
            content: header.crcs().iter().fold(0, fold),
        };
        if let Some(known) = self.records.get(&place) {
            if *known == seen {
                return Ok(());
            }
            let reason = format!(
                "two records of epoch {} and LSN {}: {known:?} and {seen:?}",
                place.0, place.1
            );
            return Err(Violation::new(Rule::Replicas, reason));
        }
        self.records.insert(place, seen);
        if let Some(op) = record.and_then(|record| self.new_op(record)) {
            self.of_op.insert(op, place);
        }
        Ok(())
    }

    /// The request that a record carries: the one whose marks were in no record before.
    fn new_op(&self, record: &Record) -> Option<OpNo> {
        if record.kind() != RecordKind::Write {
            return None;
        }
        let bytes = record.payload().bytes();
        let marks = bytes.chunks_exact(SECTOR).filter_map(content::peek);
        marks
            .map(|mark| mark.op)
            .find(|op| !self.of_op.contains_key(op))
    }

    /// A reign begins to serve with this log.
    pub(crate) fn serves(&mut self, at: Tick, epoch: Epoch, starts: &[EpochStart]) {
        let starts: Vec<EpochStart> = starts
            .iter()
            .filter(|start| start.epoch <= epoch)
            .copied()
            .collect();
        let mark = starts.last().map_or(Lsn::ZERO, |start| start.first);
        let reign = Reign { at, starts, mark };
        self.reigns.entry(epoch).or_insert(reign);
    }

    /// Where a request was put, for people.
    pub(crate) fn place_of(&self, op: OpNo) -> Option<Place> {
        self.of_op.get(&op).copied()
    }

    /// Judges the sectors `[0, sectors)` of a run that is over.
    pub(crate) fn check(
        &self,
        history: &History,
        sectors: u64,
        memory: Memory,
    ) -> Result<(), Violation> {
        let mut judge = Judge {
            lineage: self,
            history,
            sectors,
            memory,
            now: None,
            versions: BTreeMap::new(),
            cut: Lsn::ZERO,
            asked: BTreeMap::new(),
            promised: Vec::new(),
        };
        let mut moments: Vec<(Tick, Moment)> = Vec::new();
        for (number, op) in history.all() {
            moments.push((op.invoked, Moment::Asked(number)));
            if let Outcome::Done(at) = op.outcome {
                moments.push((at, Moment::Answered(number)));
            }
        }
        let reigns = self.reigns.iter();
        moments.extend(reigns.map(|(epoch, reign)| (reign.at, Moment::Serves(*epoch))));
        moments.sort_by_key(|(at, _)| *at);
        for (_, moment) in moments {
            judge.moment(moment)?;
        }
        judge.rejected()
    }
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    Asked(OpNo),
    Answered(OpNo),
    Serves(Epoch),
}

struct Judge<'a> {
    lineage: &'a Lineage,
    history: &'a History,
    sectors: u64,
    memory: Memory,
    now: Option<(Epoch, &'a Reign)>,
    /// For each sector the records of this lineage that wrote it, ascending.
    versions: BTreeMap<u64, Vec<Lsn>>,
    /// The volume was seen at this record of the lineage.
    cut: Lsn,
    /// The reign and the cut when a request was asked for.
    asked: BTreeMap<OpNo, (Option<Epoch>, Lsn)>,
    /// Writes whose promise outlives everything that is tolerated.
    promised: Vec<OpNo>,
}

impl Judge<'_> {
    fn moment(&mut self, moment: Moment) -> Result<(), Violation> {
        match moment {
            Moment::Asked(number) => {
                let epoch = self.now.map(|(epoch, _)| epoch);
                self.asked.insert(number, (epoch, self.cut));
                Ok(())
            }
            Moment::Serves(epoch) => self.serves(epoch),
            Moment::Answered(number) => {
                let op = self.history.get(number).expect("it was asked for");
                match &op.what {
                    What::Write if op.first < self.sectors => self.written(number, op),
                    What::Read(found) if op.first < self.sectors => self.read(number, op, found),
                    What::Flush => {
                        self.flushed(op);
                        Ok(())
                    }
                    What::Write | What::Read(_) | What::Zero => Ok(()),
                }
            }
        }
    }

    fn serves(&mut self, epoch: Epoch) -> Result<(), Violation> {
        let reign = &self.lineage.reigns[&epoch];
        for op in &self.promised {
            let place = self.lineage.place_of(*op);
            if place.is_some_and(|place| reign.holds(place)) {
                continue;
            }
            let first = self.history.get(*op).map_or(0, |op| op.first);
            let reason = format!(
                "op {} was acknowledged at {place:?} and is not in the log with which epoch {epoch} serves",
                op.0
            );
            return Err(Violation::at(Rule::Durable, first, reason));
        }
        self.versions.clear();
        for (number, place) in &self.lineage.of_op {
            let op = self.history.get(*number).expect("it was asked for");
            if reign.holds(*place) && op.first < self.sectors {
                for sector in op.first..op.first + op.sectors {
                    self.versions.entry(sector).or_default().push(place.1);
                }
            }
        }
        self.versions.values_mut().for_each(|lsns| lsns.sort());
        self.now = Some((epoch, reign));
        self.cut = reign.mark;
        Ok(())
    }

    fn written(&mut self, number: OpNo, op: &Op) -> Result<(), Violation> {
        if self.memory == Memory::Kept || op.forced {
            self.promised.push(number);
        }
        let Some((epoch, lsn)) = self.lineage.place_of(number) else {
            let reason = format!("op {} is acknowledged and no log took it", number.0);
            return Err(Violation::at(Rule::Durable, op.first, reason));
        };
        let (asked_in, cut) = self.asked[&number];
        if asked_in == Some(epoch) && lsn <= cut {
            let reason = format!(
                "op {} is record {lsn} although {cut} was seen before it was asked for",
                number.0
            );
            return Err(Violation::at(Rule::Linearizable, op.first, reason));
        }
        self.reached(epoch, lsn);
        Ok(())
    }

    fn reached(&mut self, epoch: Epoch, lsn: Lsn) {
        if self.now.is_some_and(|(_, reign)| reign.holds((epoch, lsn))) {
            self.cut = self.cut.max(lsn);
        }
    }

    fn read(&mut self, number: OpNo, op: &Op, found: &[OpNo]) -> Result<(), Violation> {
        let Some((now, reign)) = self.now else {
            return Ok(());
        };
        if op.epoch != Some(now) {
            return Ok(());
        }
        let (asked_in, cut) = self.asked[&number];
        for (sector, value) in (op.first..self.sectors).zip(found) {
            let place = self.lineage.place_of(*value);
            let lsn = match place {
                None if *value == OpNo(0) => Lsn::ZERO,
                Some(place) if reign.holds(place) => place.1,
                Some(_) | None => {
                    let reason = format!(
                        "read {} found op {} of {place:?}, which is not in the log of epoch {now}",
                        number.0, value.0
                    );
                    return Err(Violation::at(Rule::Durable, sector, reason));
                }
            };
            let versions = self.versions.get(&sector).map_or(&[][..], Vec::as_slice);
            let newest = versions.partition_point(|version| *version <= cut);
            let least = newest.checked_sub(1).map_or(Lsn::ZERO, |at| versions[at]);
            if asked_in == Some(now) && lsn < least {
                let reason = format!(
                    "read {} found record {lsn} (op {}) although the volume was at {cut}, with record {least} there",
                    number.0, value.0
                );
                return Err(Violation::at(Rule::Prefix, sector, reason));
            }
            self.cut = self.cut.max(lsn);
        }
        Ok(())
    }

    /// At ack point `received` a flush makes what was answered before it durable, as far as the
    /// reign that answers still has it.
    fn flushed(&mut self, flush: &Op) {
        let Some((_, reign)) = self.now else { return };
        if self.memory == Memory::Kept || flush.epoch != self.now.map(|(epoch, _)| epoch) {
            return;
        }
        for (number, op) in self.history.all() {
            let before = matches!(op.outcome, Outcome::Done(at) if at < flush.invoked);
            if before && op.what == What::Write && op.first < self.sectors {
                let place = self.lineage.place_of(number);
                if place.is_some_and(|place| reign.holds(place)) {
                    self.promised.push(number);
                }
            }
        }
        self.promised.sort();
        self.promised.dedup();
    }

    fn rejected(&self) -> Result<(), Violation> {
        let Some((epoch, reign)) = self.now else {
            return Ok(());
        };
        for (number, op) in self.history.all() {
            let place = self.lineage.place_of(number);
            if op.outcome == Outcome::Rejected && place.is_some_and(|place| reign.holds(place)) {
                let reason = format!(
                    "op {} was rejected and is in the log of epoch {epoch} at {place:?}",
                    number.0
                );
                return Err(Violation::at(Rule::Durable, op.first, reason));
            }
        }
        Ok(())
    }
}

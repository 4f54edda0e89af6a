//! Each sector as an atomic register with unique values (Gibbons and Korach, 1997).
//!
//! For each value, `lo` is the earliest response and `hi` the latest invocation over its write and
//! its reads. Its zone is *forward* when `lo < hi`: the value certainly held from `lo` to `hi`.
//! Otherwise it is *backward*: the value held at some moment within `[hi, lo]`. The history is
//! linearizable iff every value read was written and its write invoked before the read's response,
//! no two forward zones overlap, and no backward zone lies inside a forward one.
//!
//! At ack point `flushed` a crash ends nothing: a lost acknowledged write is a stale read here.

use std::collections::BTreeMap;

use super::{Rule, Violation};
use crate::{
    content::OpNo,
    history::{History, Outcome, Tick, What},
};

#[derive(Clone, Copy, Debug)]
struct Zone {
    op: OpNo,
    lo: Tick,
    hi: Tick,
}

/// Checks the sectors `[0, sectors)`.
pub(crate) fn check(history: &History, sectors: u64) -> Result<(), Violation> {
    let mut zones: Vec<BTreeMap<OpNo, Zone>> = Vec::new();
    zones.resize_with(
        usize::try_from(sectors).expect("a small volume"),
        BTreeMap::new,
    );
    for (number, op) in history.all() {
        let What::Read(found) = &op.what else {
            continue;
        };
        let Outcome::Done(answered) = op.outcome else {
            continue;
        };
        for (sector, value) in (op.first..).zip(found) {
            let Some(place) = usize::try_from(sector)
                .ok()
                .and_then(|at| zones.get_mut(at))
            else {
                continue;
            };
            let zone = match place.entry(*value) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(written(history, sector, *value)?)
                }
            };
            let write = history.get(*value).expect("checked when its zone was made");
            if write.invoked > answered {
                let reason = format!(
                    "read {} found op {} before it was asked for",
                    number.0, value.0
                );
                return Err(Violation::at(Rule::Linearizable, sector, reason));
            }
            zone.lo = zone.lo.min(answered);
            zone.hi = zone.hi.max(op.invoked);
        }
    }
    add_unread_writes(history, &mut zones);
    for (sector, zones) in (0..).zip(&zones) {
        check_zones(sector, zones.values().copied())?;
    }
    Ok(())
}

/// The zone of a value by its write alone.
fn written(history: &History, sector: u64, value: OpNo) -> Result<Zone, Violation> {
    let Some(op) = history.get(value) else {
        let reason = format!("op {} was read and never asked for", value.0);
        return Err(Violation::at(Rule::Content, sector, reason));
    };
    let lo = match op.outcome {
        Outcome::Done(answered) => answered,
        Outcome::Unknown => Tick::MAX,
        Outcome::Rejected => {
            let reason = format!("op {} was rejected and is read", value.0);
            return Err(Violation::at(Rule::Linearizable, sector, reason));
        }
    };
    Ok(Zone {
        op: value,
        lo,
        hi: op.invoked,
    })
}

fn add_unread_writes(history: &History, zones: &mut [BTreeMap<OpNo, Zone>]) {
    for (number, op) in history.all() {
        let (What::Write, Outcome::Done(answered)) = (&op.what, op.outcome) else {
            continue;
        };
        for sector in op.first..op.first + op.sectors {
            if let Some(place) = usize::try_from(sector)
                .ok()
                .and_then(|at| zones.get_mut(at))
            {
                place.entry(number).or_insert(Zone {
                    op: number,
                    lo: answered,
                    hi: op.invoked,
                });
            }
        }
    }
}

fn check_zones(sector: u64, zones: impl Iterator<Item = Zone>) -> Result<(), Violation> {
    let (mut forward, backward): (Vec<Zone>, Vec<Zone>) = zones.partition(|zone| zone.lo < zone.hi);
    forward.sort_by_key(|zone| zone.lo);
    for pair in forward.windows(2) {
        if pair[1].lo < pair[0].hi {
            let reason = format!(
                "op {} still held at {} although op {} held from {}: an old value came back",
                pair[0].op.0, pair[0].hi, pair[1].op.0, pair[1].lo
            );
            return Err(Violation::at(Rule::Linearizable, sector, reason));
        }
    }
    for zone in backward {
        let next = forward.partition_point(|other| other.lo < zone.hi);
        let Some(around) = next.checked_sub(1).map(|place| forward[place]) else {
            continue;
        };
        if zone.lo < around.hi {
            let reason = format!(
                "op {} was over within [{}, {}] and is gone: op {} held from {} to {}",
                zone.op.0, zone.hi, zone.lo, around.op.0, around.lo, around.hi
            );
            return Err(Violation::at(Rule::Linearizable, sector, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Op;

    fn write(history: &mut History, invoked: Tick, outcome: Outcome) -> OpNo {
        history.invoke(Op {
            client: 0,
            what: What::Write,
            first: 0,
            sectors: 1,
            forced: false,
            invoked,
            at_ns: 0,
            outcome,
            epoch: None,
        })
    }

    fn read(history: &mut History, invoked: Tick, answered: Tick, found: OpNo) {
        history.invoke(Op {
            client: 1,
            what: What::Read(vec![found]),
            first: 0,
            sectors: 1,
            forced: false,
            invoked,
            at_ns: 0,
            outcome: Outcome::Done(answered),
            epoch: None,
        });
    }

    #[test]
    fn a_history_in_order_is_accepted() {
        let mut history = History::new();
        read(&mut history, 1, 2, OpNo(0));
        let first = write(&mut history, 3, Outcome::Done(4));
        read(&mut history, 5, 6, first);
        let second = write(&mut history, 7, Outcome::Unknown);
        read(&mut history, 8, 9, first);
        read(&mut history, 10, 11, second);
        assert!(check(&history, 1).is_ok());
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_found() {
        let mut history = History::new();
        read(&mut history, 1, 2, OpNo(0));
        write(&mut history, 3, Outcome::Done(4));
        read(&mut history, 5, 6, OpNo(0));
        assert_eq!(check(&history, 1).unwrap_err().rule, Rule::Linearizable);
    }

    #[test]
    fn a_value_that_comes_back_is_found() {
        let mut history = History::new();
        let first = write(&mut history, 1, Outcome::Done(2));
        let second = write(&mut history, 3, Outcome::Unknown);
        read(&mut history, 4, 5, second);
        read(&mut history, 6, 7, first);
        assert_eq!(check(&history, 1).unwrap_err().rule, Rule::Linearizable);
    }

    #[test]
    fn a_rejected_write_is_never_read() {
        let mut history = History::new();
        let refused = write(&mut history, 1, Outcome::Rejected);
        read(&mut history, 2, 3, refused);
        assert_eq!(check(&history, 1).unwrap_err().rule, Rule::Linearizable);
    }
}

//! The range that only one client changes, one request at a time: zeroes are not unique values, so
//! what may be found is kept as a set, sector by sector.

use super::{Rule, Violation};
use crate::{
    content::OpNo,
    history::{History, Op, Outcome, What},
};

/// What a zeroed sector reads as.
const ZEROES: OpNo = OpNo(0);

/// Checks the sectors `[from, end)`, whose changes all come from one client in turn.
pub(crate) fn check(history: &History, from: u64, end: u64) -> Result<(), Violation> {
    for sector in from..end {
        let mut may: Vec<OpNo> = vec![ZEROES];
        for (number, op) in history.all().filter(|(_, op)| op.touches(sector)) {
            check_op(sector, number, op, &mut may)?;
        }
    }
    Ok(())
}

fn check_op(sector: u64, number: OpNo, op: &Op, may: &mut Vec<OpNo>) -> Result<(), Violation> {
    let value = match &op.what {
        What::Write => number,
        What::Zero => ZEROES,
        What::Flush => return Ok(()),
        What::Read(found) => {
            let place = usize::try_from(sector - op.first).expect("it touches the sector");
            let (Outcome::Done(_), Some(found)) = (op.outcome, found.get(place)) else {
                return Ok(());
            };
            if !may.contains(found) {
                let reason = format!(
                    "read {} found op {} where only {:?} can be",
                    number.0, found.0, may
                );
                return Err(Violation::at(Rule::Linearizable, sector, reason));
            }
            return Ok(());
        }
    };
    match op.outcome {
        Outcome::Done(_) => *may = vec![value],
        Outcome::Unknown => may.push(value),
        Outcome::Rejected => {}
    }
    Ok(())
}

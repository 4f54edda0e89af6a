//! Every answer that claims durability had its copies on disks at that very moment.

use moorline_types::{AckPoint, Policy};

use super::{Rule, Violation};
use crate::{
    content::OpNo,
    disk::EverDurable,
    history::{History, Outcome, Tick, What},
};

/// What a volume promises with an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) policy: Policy,
    pub(crate) ack: AckPoint,
    pub(crate) replicas: usize,
    pub(crate) copies_min: usize,
}

impl Promise {
    fn disks(&self) -> usize {
        match self.policy {
            Policy::BestEffort => 1,
            Policy::SyncQuorum => self.replicas / 2 + 1,
            Policy::SyncAll => self.copies_min,
        }
    }
}

/// A write, or a flush with everything before it, is answered now.
pub(crate) fn check<'a>(
    history: &History,
    answered: OpNo,
    promise: Promise,
    disks: impl Iterator<Item = &'a EverDurable> + Clone,
) -> Result<(), Violation> {
    let Some(op) = history.get(answered) else {
        return Ok(());
    };
    match op.what {
        What::Write if promise.ack == AckPoint::Flushed || op.forced => {
            check_one(history, answered, promise, disks)
        }
        What::Flush => check_before(history, op.invoked, promise, disks),
        What::Write | What::Zero | What::Read(_) => Ok(()),
    }
}

/// Everything that was answered before the flush was asked for.
fn check_before<'a>(
    history: &History,
    invoked: Tick,
    promise: Promise,
    disks: impl Iterator<Item = &'a EverDurable> + Clone,
) -> Result<(), Violation> {
    let before = history.all().filter(|(_, op)| {
        op.what == What::Write && matches!(op.outcome, Outcome::Done(at) if at < invoked)
    });
    for (number, _) in before {
        check_one(history, number, promise, disks.clone())?;
    }
    Ok(())
}

fn check_one<'a>(
    history: &History,
    number: OpNo,
    promise: Promise,
    disks: impl Iterator<Item = &'a EverDurable>,
) -> Result<(), Violation> {
    let op = history.get(number).expect("it is in the history");
    let all = u128::MAX >> (128 - op.sectors.clamp(1, 128));
    let copies = disks
        .filter(|disk| disk.sectors_of(number) & all == all)
        .count();
    if copies >= promise.disks() {
        return Ok(());
    }
    let reason = format!(
        "op {} is answered as durable with {copies} of {} copies",
        number.0,
        promise.disks()
    );
    Err(Violation::at(Rule::Copies, op.first, reason))
}

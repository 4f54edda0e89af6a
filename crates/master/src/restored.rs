//! What a master that may be an old copy has to learn first: pure (`MASTER-7`).
//!
//! Members persist the lines that they are told. So a master whose store lost lines, because an old
//! copy of it was put back, can learn the newest ones from them: once so many seats reported that
//! nothing can have been acted on which none of them knows.

use moorline_types::{AssignmentLine, Policy, ServerId};
use moorline_wire::control::{StoreReport, VoteState};

use crate::{record::Seen, vote};

/// What lies between the last line that can be known and the first that is minted after it, in
/// epochs and in configurations: lines that the lost store had and nobody reported are below.
pub const GAP: u64 = 1 << 16;

/// What a connected server says of a volume.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The server.
    pub server: &'a ServerId,
    /// Its store; `None` when it has none.
    pub store: Option<&'a StoreReport>,
    /// The newest line that it persisted, whole, once it came.
    pub line: Option<&'a AssignmentLine>,
}

/// What is known of a volume's newest line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// The newest line that anybody named.
    pub newest: AssignmentLine,
    /// The seats of that line whose own stores reported, ascending.
    pub reported: Vec<ServerId>,
    /// The other seats, ascending.
    pub missing: Vec<ServerId>,
    /// How many seats must report.
    pub need: usize,
    /// Two members have other content under one version: two masters minted it.
    pub conflict: bool,
}

impl Known {
    /// Whether nothing can have been acted on that is not known here.
    #[must_use]
    pub const fn is_enough(&self) -> bool {
        self.reported.len() >= self.need && !self.conflict
    }
}

/// Weighs what the master's own store has, if it knows the volume, against what servers say.
/// `None` when nobody knows a line.
#[must_use]
pub fn weigh<'a>(
    own: Option<&AssignmentLine>,
    seen: impl Fn(&ServerId) -> Option<&'a Seen>,
    told: &[Told<'_>],
) -> Option<Known> {
    let sane = |line: &&AssignmentLine| own.is_none_or(|own| !own.epoch.jump_is_insane(line.epoch));
    let lines = || told.iter().filter_map(|told| told.line).filter(sane);
    // The members' word goes before an old copy's, an older one too: they acted by it, and what a
    // master recorded and told nobody never was.
    let newest = lines().max_by_key(|line| line.version()).or(own)?;
    let mut same = lines().filter(|line| line.version() == newest.version());
    let conflict = same.any(|line| line != newest);
    let (mut reported, mut missing) = (Vec::new(), Vec::new());
    for member in &newest.members {
        let told = told.iter().find(|told| *told.server == member.server);
        let known = told.is_some_and(|told| {
            let intact = vote::judge(member, seen(&member.server), told.store) == VoteState::Yes;
            intact && has_opened_last(member, told.store) && has_said_all(told)
        });
        let list = if known { &mut reported } else { &mut missing };
        list.push(member.server.clone());
    }
    let need = match newest.policy {
        Policy::SyncQuorum => newest.majority(),
        Policy::SyncAll | Policy::BestEffort => newest.members.len(),
    };
    Some(Known {
        newest: newest.clone(),
        reported,
        missing,
        need,
        conflict,
    })
}

/// Whether the store is not older than the newest line knows it to be.
fn has_opened_last(member: &moorline_types::Member, store: Option<&StoreReport>) -> bool {
    let Some(recorded) = member.opening() else {
        return store.is_some();
    };
    store.is_some_and(|store| store.openings.descends_from(recorded))
}

/// Whether the line that the store persisted is here, whole; a store may never have had one.
fn has_said_all(told: &Told<'_>) -> bool {
    let Some(version) = told.store.and_then(|store| store.line) else {
        return told.store.is_some();
    };
    told.line
        .is_some_and(|line| line.version() >= (version.epoch, version.config))
}

#[cfg(test)]
mod tests;

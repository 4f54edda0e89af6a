//! When a reign ends and who follows: pure, over a snapshot of what the master knows.
//!
//! A good choice is made likely here; safety is the promise round's. What this module does owe to
//! safety is that no epoch is minted while the master's own lease runs.

use moorline_types::{AckPoint, BootId, Epoch, Instant, Lsn, Policy, ServerId};
use moorline_wire::control::{EventCause, FollowedPrimary, VoteState};

use crate::config::Failover;

/// One seat as the master knows it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeatView {
    /// The server.
    pub server: ServerId,
    /// Its connection, when it is registered and was heard of in time.
    pub link: Option<SeatLink>,
    /// The boot recorded when the seat was last called in sync.
    pub recorded_boot: Option<BootId>,
    /// Whether it is in the recorded in-sync set.
    pub in_sync: bool,
    /// It declined, and is left out until then.
    pub left_out_until: Option<Instant>,
    /// How many volumes its server leads.
    pub leads: usize,
}

/// What a connected server says of its seat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeatLink {
    /// The server's boot.
    pub boot: BootId,
    /// Whether it has a vote, by the record and by its own word.
    pub vote: VoteState,
    /// Its log, when the replica is open, its image whole and its device sound.
    pub log: Option<SeatLog>,
    /// The primary that it still follows.
    pub following: Option<FollowedPrimary>,
}

/// How far a seat's log goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SeatLog {
    /// The epoch of the last record; decides first.
    pub last_record_epoch: Epoch,
    /// Durable through here.
    pub flushed: Lsn,
}

/// What is decided over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReignView {
    /// How many copies a write needs.
    pub policy: Policy,
    /// What a copy must have done to count.
    pub ack: AckPoint,
    /// The reign in force.
    pub epoch: Epoch,
    /// Who has it.
    pub primary: Option<(ServerId, BootId)>,
    /// Why it should end; `None` while it should not.
    pub cause: Option<EventCause>,
    /// Until when the master's lease runs.
    pub lease_until: Option<Instant>,
    /// Who could do better than the candidate that declined, by its word.
    pub better: Option<ServerId>,
    /// Whether `best_effort` may change its primary.
    pub failover: Failover,
    /// Every seat, ascending.
    pub seats: Vec<SeatView>,
}

/// What is to be done about a reign.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Decision {
    /// Nothing.
    Keep,
    /// A new reign is due and cannot begin yet.
    Wait(Hindrance),
    /// Mint the next epoch.
    Mint(Succession),
}

/// The next reign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Succession {
    /// Who is to lead.
    pub server: ServerId,
    /// The boot that is.
    pub boot: BootId,
    /// The in-sync set that it begins with, ascending.
    pub in_sync: Vec<ServerId>,
    /// Why.
    pub cause: EventCause,
}

/// Why a new reign cannot begin yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hindrance {
    /// The master's store may be an old copy: too few seats have said what they know.
    OldCopy {
        /// Seats that did.
        have: usize,
        /// Seats that must.
        need: usize,
    },
    /// Members have two lines of one version: two masters were at work.
    TwoMasters,
    /// The master's lease runs until then.
    LeaseRuns(Instant),
    /// A majority of members does not say that it has lost the primary.
    StillFollowed,
    /// Fewer seats with a vote are connected than a promotion needs.
    TooFewVoters {
        /// Connected, with a vote.
        have: usize,
        /// Needed.
        need: usize,
    },
    /// No connected replica may lead.
    NoCandidate,
    /// The only ones that may lead declined a moment ago.
    LeftOut(Instant),
    /// Only losing acknowledged writes would help, and nobody agreed to it.
    NeedsConsent,
}

/// Decides.
pub fn decide(now: Instant, view: &ReignView) -> Decision {
    let Some(cause) = view.cause else {
        return Decision::Keep;
    };
    if let Some(until) = view.lease_until {
        return Decision::Wait(Hindrance::LeaseRuns(until));
    }
    if cause == EventCause::PrimaryLost && !is_lost_to_a_majority(view) {
        return Decision::Wait(Hindrance::StillFollowed);
    }
    if let Err(hindrance) = enough_voters(view) {
        return Decision::Wait(hindrance);
    }
    match choose(now, view, cause) {
        // The overdue candidate may still make it; nobody else could try instead.
        Err(Hindrance::NoCandidate | Hindrance::LeftOut(_))
            if cause == EventCause::PromotionOverdue =>
        {
            Decision::Keep
        }
        Err(hindrance) => Decision::Wait(hindrance),
        Ok((server, boot)) => Decision::Mint(Succession {
            in_sync: next_in_sync(view, &server, boot),
            server,
            boot,
            cause,
        }),
    }
}

/// Whether anybody else could take the place of a candidate that takes too long.
#[must_use]
pub fn has_alternative(now: Instant, view: &ReignView) -> bool {
    choose(now, view, EventCause::PromotionOverdue).is_ok()
}

fn is_lost_to_a_majority(view: &ReignView) -> bool {
    let Some((server, boot)) = &view.primary else {
        return true;
    };
    let follows = |seat: &&SeatView| {
        let following = seat.link.as_ref().and_then(|link| link.following.as_ref());
        following.is_some_and(|f| f.epoch == view.epoch && f.server == *server && f.boot == *boot)
    };
    let following = view.seats.iter().filter(follows).count();
    view.seats.len() - following > view.seats.len() / 2
}

fn votes(seat: &SeatView) -> bool {
    seat.link
        .as_ref()
        .is_some_and(|link| link.vote == VoteState::Yes)
}

/// An epoch that cannot get its promises is not worth minting.
fn enough_voters(view: &ReignView) -> Result<(), Hindrance> {
    let need = match view.policy {
        Policy::SyncQuorum => view.seats.len() / 2 + 1,
        Policy::SyncAll | Policy::BestEffort => 1,
    };
    let have = view.seats.iter().filter(|seat| votes(seat)).count();
    if have < need {
        return Err(Hindrance::TooFewVoters { have, need });
    }
    Ok(())
}

fn choose(
    now: Instant,
    view: &ReignView,
    cause: EventCause,
) -> Result<(ServerId, BootId), Hindrance> {
    let incumbent = view.primary.as_ref().map(|(server, _)| server);
    let sound = |seat: &&SeatView| votes(seat) && seat_log(seat).is_some();
    let eligible = |seat: &&SeatView| match view.policy {
        Policy::SyncAll => seat.in_sync,
        Policy::SyncQuorum | Policy::BestEffort => true,
    };
    let mut candidates: Vec<&SeatView> = view.seats.iter().filter(sound).filter(eligible).collect();
    if cause == EventCause::PromotionOverdue {
        candidates.retain(|seat| Some(&seat.server) != incumbent);
    }
    if candidates.is_empty() {
        return Err(Hindrance::NoCandidate);
    }
    let first_reign = cause == EventCause::Bootstrap;
    if view.policy == Policy::BestEffort && !first_reign && view.failover == Failover::Safe {
        candidates.retain(|seat| Some(&seat.server) == incumbent);
        if candidates.is_empty() {
            return Err(Hindrance::NeedsConsent);
        }
    }
    let left_out = |seat: &SeatView| seat.left_out_until.filter(|until| now < *until);
    let earliest = candidates.iter().filter_map(|seat| left_out(seat)).min();
    candidates.retain(|seat| left_out(seat).is_none());
    candidates.sort_by(|a, b| {
        let rank = |seat: &SeatView| {
            let reborn = cause == EventCause::PrimaryRestarted && Some(&seat.server) == incumbent;
            (
                forgot(view, seat),
                // After a restart a member promises nothing for one lease: the others are sooner.
                reborn,
                std::cmp::Reverse(seat_log(seat)),
                Some(&seat.server) != view.better.as_ref(),
                if first_reign { seat.leads } else { 0 },
            )
        };
        rank(a).cmp(&rank(b)).then_with(|| a.server.cmp(&b.server))
    });
    let best = candidates.first().and_then(|seat| {
        let boot = seat.link.as_ref()?.boot;
        Some((seat.server.clone(), boot))
    });
    best.ok_or_else(|| earliest.map_or(Hindrance::NoCandidate, Hindrance::LeftOut))
}

fn seat_log(seat: &SeatView) -> Option<SeatLog> {
    seat.link.as_ref().and_then(|link| link.log)
}

/// Whether the seat may have lost acknowledged writes that were in memory only.
fn forgot(view: &ReignView, seat: &SeatView) -> bool {
    let boot = seat.link.as_ref().map(|link| link.boot);
    view.ack == AckPoint::Received && view.policy == Policy::SyncAll && boot != seat.recorded_boot
}

/// The set drops, in the compare-and-set that mints, whoever is not there: a promotion never waits
/// for the dead. Not so when the candidate itself forgot what was in its memory: then the answers of
/// the whole set are needed, and dropping a member would drop what it alone remembers.
fn next_in_sync(view: &ReignView, candidate: &ServerId, boot: BootId) -> Vec<ServerId> {
    if view.cause == Some(EventCause::Bootstrap) {
        return view.seats.iter().map(|seat| seat.server.clone()).collect();
    }
    let candidate_forgot = view
        .seats
        .iter()
        .any(|seat| seat.server == *candidate && forgot(view, seat));
    debug_assert!(view.seats.iter().any(|seat| {
        seat.server == *candidate && seat.link.as_ref().is_some_and(|link| link.boot == boot)
    }));
    let stays = |seat: &&SeatView| {
        seat.server == *candidate
            || (seat.in_sync && (candidate_forgot || (votes(seat) && seat_log(seat).is_some())))
    };
    view.seats
        .iter()
        .filter(stays)
        .map(|seat| seat.server.clone())
        .collect()
}

#[cfg(test)]
mod tests;

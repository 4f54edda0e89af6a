//! Whether a seat has a vote: wiped, swapped and rolled back stores have none.

use moorline_types::Member;
use moorline_wire::control::{StoreReport, VoteState};

use crate::record::{Seen, Trust};

/// Judges a store that a server reports against what is recorded of its seat.
///
/// The record decides, never the store's own word: a store with another uuid, or one that does not have
/// the opening that was seen last, keeps the seat without a vote.
#[must_use]
pub fn judge(member: &Member, seen: Option<&Seen>, report: Option<&StoreReport>) -> VoteState {
    let Some(recorded) = member.store else {
        return VoteState::NoneRecorded;
    };
    let Some(report) = report else {
        return VoteState::Unknown;
    };
    if report.store != recorded {
        return VoteState::OtherStore;
    }
    let Some(seen) = seen.filter(|seen| seen.store == recorded) else {
        return VoteState::Yes;
    };
    match seen.trust {
        Trust::Revoked(why) => why,
        Trust::Trusted if report.openings.descends_from(seen.opening()) => VoteState::Yes,
        Trust::Trusted if report.open == seen.open => VoteState::Copied,
        Trust::Trusted => VoteState::RolledBack,
    }
}

/// What is to be recorded as seen after this report; `None` when nothing changes.
#[must_use]
pub fn note(member: &Member, seen: Option<&Seen>, report: &StoreReport) -> Option<Seen> {
    if member.store != Some(report.store) {
        return None;
    }
    let fresh = Seen {
        store: report.store,
        open: report.open,
        boot: report.boot,
        trust: Trust::Trusted,
    };
    let Some(seen) = seen.filter(|seen| seen.store == report.store) else {
        return Some(fresh);
    };
    match judge(member, Some(seen), Some(report)) {
        VoteState::Yes => (report.open > seen.open).then_some(fresh),
        why @ (VoteState::RolledBack | VoteState::Copied) => {
            let revoked = Seen {
                trust: Trust::Revoked(why),
                ..*seen
            };
            (revoked != *seen).then_some(revoked)
        }
        VoteState::Unknown
        | VoteState::NoneRecorded
        | VoteState::OtherStore
        | VoteState::NotClaimed => None,
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::{BootId, Epoch, OpenCount, Opening, Openings, StoreId, VolumeId};

    use super::*;

    fn member(store: Option<u128>) -> Member {
        Member {
            server: "s1".parse().unwrap(),
            store: store.map(StoreId::new),
            open: OpenCount::default(),
            opened_by: None,
            boot: None,
            data_addr: String::new(),
            control_addr: String::new(),
            nbd_addr: String::new(),
            endpoint_version: 1,
        }
    }

    /// A store that was opened `open` times, by `boot` at last.
    fn report(store: u128, open: u64, boot: u128) -> StoreReport {
        let mut openings = Openings::default();
        for n in 1..open {
            openings.add(opening(n, 100 + u128::from(n)));
        }
        openings.add(opening(open, boot));
        StoreReport {
            volume: VolumeId::new(1),
            store: StoreId::new(store),
            open: OpenCount::new(open),
            boot: BootId::new(boot),
            openings,
            promised: Epoch::ZERO,
            line: None,
            master: None,
        }
    }

    fn opening(open: u64, boot: u128) -> Opening {
        Opening {
            open: OpenCount::new(open),
            boot: BootId::new(boot),
        }
    }

    fn seen(store: u128, open: u64, boot: u128) -> Seen {
        Seen {
            store: StoreId::new(store),
            open: OpenCount::new(open),
            boot: BootId::new(boot),
            trust: Trust::Trusted,
        }
    }

    #[test]
    fn a_store_votes_only_when_it_is_the_recorded_one_and_never_went_back() {
        use VoteState::{Copied, NoneRecorded, OtherStore, RolledBack, Unknown, Yes};
        for (recorded, last, now, want) in [
            (None, None, Some(report(1, 1, 1)), NoneRecorded),
            (Some(1), Some(seen(1, 5, 9)), None, Unknown),
            (
                Some(1),
                Some(seen(1, 5, 9)),
                Some(report(2, 1, 1)),
                OtherStore,
            ), // wiped or swapped
            (
                Some(1),
                Some(seen(1, 5, 9)),
                Some(report(1, 4, 9)),
                RolledBack,
            ),
            (Some(1), Some(seen(1, 5, 9)), Some(report(1, 5, 8)), Copied), // one count, two boots
            (Some(1), Some(seen(1, 5, 9)), Some(report(1, 5, 9)), Yes),    // it reconnected
            (Some(1), Some(seen(1, 5, 105)), Some(report(1, 6, 8)), Yes),  // it restarted
            // An old copy, opened since as often as the store itself.
            (
                Some(1),
                Some(seen(1, 5, 9)),
                Some(report(1, 6, 8)),
                RolledBack,
            ),
            (Some(1), None, Some(report(1, 1, 1)), Yes),
        ] {
            assert_eq!(judge(&member(recorded), last.as_ref(), now.as_ref()), want);
        }
    }

    #[test]
    fn a_store_that_went_back_once_stays_without_a_vote() {
        let member = member(Some(1));
        let went_back = note(&member, Some(&seen(1, 5, 9)), &report(1, 4, 8)).unwrap();
        assert_eq!(went_back.trust, Trust::Revoked(VoteState::RolledBack));
        let later = report(1, 60, 7);
        assert_eq!(
            judge(&member, Some(&went_back), Some(&later)),
            VoteState::RolledBack
        );
        assert_eq!(note(&member, Some(&went_back), &later), None);
    }

    #[test]
    fn only_what_goes_forward_is_noted() {
        let member = member(Some(1));
        let last = seen(1, 5, 105);
        assert_eq!(note(&member, Some(&last), &report(1, 5, 105)), None);
        assert_eq!(
            note(&member, Some(&last), &report(1, 6, 8)),
            Some(seen(1, 6, 8))
        );
        assert_eq!(note(&member, Some(&last), &report(2, 60, 8)), None);
    }
}

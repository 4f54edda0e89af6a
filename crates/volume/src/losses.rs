//! What promotions gave up: how the ranges add up. Pure; what they excuse is the engine's verdict.
//!
//! A range names the epoch that gave it up and the epoch whose mark announces it. It is announced
//! in a log that has a record of that mark's epoch; where it is not, a store's superblock is the
//! only sign of the loss (`CUT-6`, `PROM-13`).

use moorline_blockvol::GIVEN_UP_MAX;
use moorline_types::{EpochStart, GivenUp, GivenUpWhy, Lsn};

/// Announced ranges kept in a superblock: who was away for longer than so many losses is told
/// that committed data is missing, and an operator looks.
const ANNOUNCED_KEPT: usize = 64;

/// There is no room for one more range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GivenUpFull;

/// Whether a log with this epoch history holds, or held, the mark that announces the range.
pub(crate) fn is_announced(given_up: &GivenUp, history: &[EpochStart]) -> bool {
    let forgotten = history.first().is_some_and(|oldest| {
        // Lines this old were dropped from the history; the log began with the first record.
        oldest.first > Lsn::new(1) && given_up.mark < oldest.epoch
    });
    forgotten || history.iter().any(|start| start.epoch == given_up.mark)
}

/// The ranges for which clients wait for an operator: those that the newest mark carries.
pub(crate) fn standing<'a>(
    given_up: &'a [GivenUp],
    history: &[EpochStart],
) -> impl Iterator<Item = &'a GivenUp> {
    let newest = history.last().map(|start| start.epoch);
    given_up
        .iter()
        .filter(move |range| range.why == GivenUpWhy::VolatileStands && Some(range.mark) == newest)
}

/// Adds `more` to what a store knows. The same range of a later mark takes the place of the earlier
/// one. Above [`ANNOUNCED_KEPT`] the oldest go that this log announces.
///
/// # Errors
///
/// [`GivenUpFull`] when more than a superblock's worth is announced nowhere in this log.
pub(crate) fn merge(
    known: &[GivenUp],
    more: impl IntoIterator<Item = GivenUp>,
    history: &[EpochStart],
) -> Result<Vec<GivenUp>, GivenUpFull> {
    let mut merged = known.to_vec();
    for given_up in more {
        let same = |other: &&mut GivenUp| {
            other.epoch == given_up.epoch
                && other.range == given_up.range
                && other.why.is_volatile() == given_up.why.is_volatile()
        };
        match merged.iter_mut().find(same) {
            Some(other) if other.mark < given_up.mark => *other = given_up,
            Some(_) => {}
            None => merged.push(given_up),
        }
    }
    merged.sort_by_key(|given_up| (given_up.epoch, given_up.range.after(), given_up.why));
    while merged.len() > ANNOUNCED_KEPT {
        let Some(oldest) = oldest_announced(&merged, history) else {
            break;
        };
        merged.remove(oldest);
    }
    if merged.len() > GIVEN_UP_MAX {
        return Err(GivenUpFull);
    }
    Ok(merged)
}

fn oldest_announced(given_up: &[GivenUp], history: &[EpochStart]) -> Option<usize> {
    let newest = history.last().map(|start| start.epoch);
    (0..given_up.len())
        .filter(|&at| is_announced(&given_up[at], history) && Some(given_up[at].mark) != newest)
        .min_by_key(|&at| given_up[at].mark)
}

#[cfg(test)]
mod tests {
    use moorline_types::{Epoch, LsnRange};

    use super::*;

    fn given_up(epoch: u64, mark: u64, after: u64, through: u64, why: GivenUpWhy) -> GivenUp {
        GivenUp {
            epoch: Epoch::new(epoch, 0),
            range: LsnRange::new(Lsn::new(after), Lsn::new(through)).unwrap(),
            why,
            mark: Epoch::new(mark, 0),
        }
    }

    fn history(lines: &[(u64, u64)]) -> Vec<EpochStart> {
        let start = |&(epoch, first): &(u64, u64)| EpochStart {
            epoch: Epoch::new(epoch, 0),
            first: Lsn::new(first),
        };
        lines.iter().map(start).collect()
    }

    #[test]
    fn a_range_is_announced_by_a_log_that_has_its_mark() {
        let lost = given_up(3, 4, 9, 11, GivenUpWhy::Doubtful);
        assert!(!is_announced(&lost, &history(&[(1, 1), (3, 10)])));
        assert!(is_announced(&lost, &history(&[(1, 1), (4, 10), (5, 20)])));
        // The lines before epoch 6 were dropped.
        assert!(is_announced(&lost, &history(&[(6, 30)])));
        assert!(
            !is_announced(&lost, &history(&[(6, 1)])),
            "epoch 6 was the first of this log"
        );
    }

    #[test]
    fn a_later_mark_takes_a_range_over_and_an_earlier_one_does_not() {
        let first = given_up(3, 3, 9, 11, GivenUpWhy::VolatileStands);
        let later = given_up(3, 5, 9, 11, GivenUpWhy::VolatileCleared);
        assert_eq!(merge(&[first], [later], &[]), Ok(vec![later]));
        assert_eq!(merge(&[later], [first], &[]), Ok(vec![later]));
        let other = given_up(4, 5, 9, 11, GivenUpWhy::Doubtful);
        assert_eq!(merge(&[first], [other], &[]), Ok(vec![first, other]));
    }

    #[test]
    fn what_a_log_announces_makes_room_and_what_it_does_not_is_refused() {
        let many = |from: u64, count: u64| {
            (from..from + count).map(|n| given_up(n, n, n, n + 1, GivenUpWhy::Doubtful))
        };
        let told = history(&(1..=100).map(|n| (n, n)).collect::<Vec<_>>());
        let kept = merge(&[], many(1, 100), &told).unwrap();
        assert_eq!(kept.len(), ANNOUNCED_KEPT);
        assert_eq!(kept[0].epoch, Epoch::new(37, 0), "the oldest go");
        let all: Vec<GivenUp> = many(200, 256).collect();
        assert_eq!(merge(&[], all.clone(), &told), Ok(all.clone()));
        let more = many(500, 1);
        assert_eq!(merge(&all, more, &told), Err(GivenUpFull));
    }

    #[test]
    fn only_the_newest_mark_says_what_stands() {
        let lost = given_up(3, 4, 9, 11, GivenUpWhy::VolatileStands);
        let both = history(&[(1, 1), (4, 10)]);
        assert_eq!(standing(&[lost], &both).count(), 1);
        let gone_on = history(&[(1, 1), (4, 10), (5, 11)]);
        assert_eq!(standing(&[lost], &gone_on).count(), 0);
    }
}

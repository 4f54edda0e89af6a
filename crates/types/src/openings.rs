//! Which boot made which opening of a store: how an old copy of it is told from the store itself.

use serde::{Deserialize, Serialize};

use crate::{BootId, OpenCount};

/// One opening of a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// Its number.
    pub open: OpenCount,
    /// The boot that made it.
    pub boot: BootId,
}

/// The openings of a store that somebody may still ask for, ascending by number; the last is the
/// newest.
///
/// A count alone does not tell an old copy: opened often enough, it is as high as the store's own
/// ever was. But the copy's openings were made by other boots. So whoever saw an opening asks
/// whether the store still has that very one ([`Openings::descends_from`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Openings(Vec<Opening>);

impl Openings {
    /// Most openings kept. Past that the middle goes: a judge saw one of the oldest, since which
    /// nothing was recorded, or one of the newest.
    pub const MAX: usize = 64;

    /// The openings of a list, `None` unless they ascend and are at most [`Openings::MAX`].
    #[must_use]
    pub fn from_list(list: Vec<Opening>) -> Option<Self> {
        let ascending = list.windows(2).all(|pair| pair[0].open < pair[1].open);
        (ascending && list.len() <= Self::MAX).then_some(Self(list))
    }

    /// Those of a store that was opened once.
    #[must_use]
    pub fn first(opening: Opening) -> Self {
        Self(vec![opening])
    }

    /// The list, ascending.
    #[must_use]
    pub fn list(&self) -> &[Opening] {
        &self.0
    }

    /// Adds the newest.
    ///
    /// # Panics
    ///
    /// Unless it is newer than every other.
    pub fn add(&mut self, opening: Opening) {
        let newer = self.0.last().is_none_or(|last| last.open < opening.open);
        assert!(newer, "openings ascend");
        if self.0.len() == Self::MAX {
            self.0.remove(Self::MAX / 2);
        }
        self.0.push(opening);
    }

    /// Forgets what is older than an opening that was recorded, if it is one of these: who asks
    /// later asks for that one or a newer one.
    pub fn forget_before(&mut self, recorded: Opening) {
        if self.descends_from(recorded) {
            self.0.retain(|opening| opening.open >= recorded.open);
        }
    }

    /// Whether the store of these openings is the one that made `seen`, then or later, and not an
    /// older copy of it.
    ///
    /// An opening older than all of these was forgotten because a newer one was recorded since.
    #[must_use]
    pub fn descends_from(&self, seen: Opening) -> bool {
        let oldest = self.0.first();
        self.0.contains(&seen) || oldest.is_some_and(|oldest| seen.open < oldest.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(open: u64, boot: u128) -> Opening {
        Opening {
            open: OpenCount::new(open),
            boot: BootId::new(boot),
        }
    }

    fn openings(list: &[(u64, u128)]) -> Openings {
        let list = list.iter().map(|&(open, boot)| opening(open, boot));
        Openings::from_list(list.collect()).unwrap()
    }

    #[test]
    fn an_old_copy_stays_one_however_often_it_is_opened() {
        let store = openings(&[(1, 10), (2, 20), (3, 30)]);
        assert!(store.descends_from(opening(2, 20)));
        assert!(store.descends_from(opening(3, 30)));

        // A copy made after the first opening.
        let mut copy = openings(&[(1, 10)]);
        assert!(!copy.descends_from(opening(3, 30)));
        for open in 2..200 {
            copy.add(opening(open, 1_000 + u128::from(open)));
            copy.forget_before(opening(3, 30));
            assert!(!copy.descends_from(opening(3, 30)), "{open} openings");
        }
    }

    #[test]
    fn the_oldest_and_the_newest_are_kept() {
        let mut store = openings(&[(1, 1)]);
        for open in 2..=500 {
            store.add(opening(open, u128::from(open)));
        }
        assert_eq!(store.list().len(), Openings::MAX);
        for open in (1..=32).chain(470..=500) {
            assert!(
                store.descends_from(opening(open, u128::from(open))),
                "{open}"
            );
        }
    }

    #[test]
    fn what_was_recorded_is_forgotten_before_and_kept_itself() {
        let mut store = openings(&[(1, 10), (2, 20), (3, 30)]);
        store.forget_before(opening(2, 99));
        assert_eq!(store.list().len(), 3, "another's opening");
        store.forget_before(opening(2, 20));
        assert_eq!(store, openings(&[(2, 20), (3, 30)]));
        assert!(store.descends_from(opening(1, 10)));
        assert!(!Openings::default().descends_from(opening(1, 10)));
    }

    #[test]
    fn a_list_that_does_not_ascend_is_none() {
        let of = |list: &[(u64, u128)]| {
            Openings::from_list(list.iter().map(|&(o, b)| opening(o, b)).collect())
        };
        assert_eq!(of(&[]), Some(Openings::default()));
        assert_eq!(of(&[(2, 1), (2, 2)]), None);
        assert_eq!(of(&[(2, 1), (1, 2)]), None);
        let many: Vec<(u64, u128)> = (0..=Openings::MAX as u64).map(|n| (n, 1)).collect();
        assert_eq!(of(&many), None);
    }
}

//! Leases between members: the right to answer reads and acknowledge writes.
//!
//! Two sides, two clocks. The **member** counts a grant from the *receipt* of the request; the
//! **holder** counts it from the *send*, less the drift margin. So the holder's lease is over
//! before any member's grant is, as long as the two clocks' rates differ by less than the margin.
//! Every check compares `now`; a lease is dead *at* its deadline and needs no timer to be.

use std::{collections::BTreeMap, time::Duration};

use moorline_types::{BootId, Epoch, Instant, Policy, ServerId};

use crate::commit::majority;

/// Durations of leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseTiming {
    /// How long a grant binds the member that gave it.
    pub term: Duration,
    /// By how much less the holder believes it: 5 % of the term covers two clocks whose rates
    /// differ by 5 %, a hundred times what quartz does.
    pub drift_margin: Duration,
}

impl LeaseTiming {
    /// The timing for a term, with the drift margin that goes with it.
    #[must_use]
    pub fn of_term(term: Duration) -> Self {
        Self {
            term,
            drift_margin: term / 20,
        }
    }

    /// How often a holder renews: four tries within a term.
    #[must_use]
    pub fn renewal_interval(&self) -> Duration {
        self.term / 4
    }
}

/// Who reigns: one boot of one server in one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reign {
    /// The epoch.
    pub epoch: Epoch,
    /// The primary or candidate.
    pub server: ServerId,
    /// The run of its process.
    pub boot: BootId,
}

/// The member's side: what it granted, and until when it must give no promise.
#[derive(Clone, Debug)]
pub struct Grants {
    term: Duration,
    /// After a restart the member does not know what it granted: silent for one full term.
    silent_until: Instant,
    last: Option<(Reign, Instant)>,
    /// The highest epoch that the master or a candidate showed.
    shown: Epoch,
}

/// Why a member grants no lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantRefusal {
    /// It restarted less than one term ago.
    Silent {
        /// When it speaks again.
        until: Instant,
    },
    /// A higher epoch was shown to it.
    Superseded {
        /// That epoch.
        shown: Epoch,
    },
}

impl Grants {
    /// A member that started at `now`.
    #[must_use]
    pub fn after_start(term: Duration, now: Instant, memory: Memory) -> Self {
        let silent_until = match memory {
            Memory::Lost => now.after(term),
            Memory::NothingToForget => now,
        };
        Self {
            term,
            silent_until,
            last: None,
            shown: Epoch::ZERO,
        }
    }

    /// Takes over the volume's lease term. A silence or grant that runs keeps its end.
    pub fn set_term(&mut self, term: Duration) {
        self.term = term;
    }

    /// Notes that the master or a candidate named `epoch`: nothing lower is granted from here on.
    pub fn show(&mut self, epoch: Epoch) {
        self.shown = self.shown.max(epoch);
    }

    /// The highest epoch that was shown.
    #[must_use]
    pub fn shown(&self) -> Epoch {
        self.shown
    }

    /// Grants a lease to `reign`, whose promise this member gave, counted from `now`.
    ///
    /// # Errors
    ///
    /// While silent, or when a higher epoch was shown.
    pub fn grant(&mut self, now: Instant, reign: Reign) -> Result<(), GrantRefusal> {
        if now < self.silent_until {
            return Err(GrantRefusal::Silent {
                until: self.silent_until,
            });
        }
        if reign.epoch < self.shown {
            return Err(GrantRefusal::Superseded { shown: self.shown });
        }
        let until = match &self.last {
            Some((last, until)) if *last == reign => now.after(self.term).max(*until),
            Some(_) | None => now.after(self.term),
        };
        self.last = Some((reign, until));
        Ok(())
    }

    /// From when on this member may promise `reign`: never before its last grant to another ran
    /// out, and not while silent.
    #[must_use]
    pub fn may_promise_at(&self, reign: &Reign) -> Instant {
        let granted = match &self.last {
            Some((holder, until)) if holder != reign => *until,
            Some(_) | None => Instant::ZERO,
        };
        granted.max(self.silent_until)
    }

    /// The holder of a grant that still runs.
    #[must_use]
    pub fn running(&self, now: Instant) -> Option<&Reign> {
        self.last
            .as_ref()
            .filter(|(_, until)| now < *until)
            .map(|(reign, _)| reign)
    }
}

/// Whether a member may have granted something that it no longer knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// A reopened store: an earlier boot may have granted.
    Lost,
    /// A store formatted in this boot.
    NothingToForget,
}

/// The holder's side: what each member granted, counted from the send.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    until: BTreeMap<ServerId, Instant>,
}

/// The members that a lease is counted over.
#[derive(Clone, Copy, Debug)]
pub struct LeaseQuorum<'a> {
    /// Decides which members are enough.
    pub policy: Policy,
    /// All seats, the holder's included.
    pub seats: usize,
    /// The in-sync set, the holder perhaps included.
    pub in_sync: &'a [ServerId],
    /// The holder.
    pub own: &'a ServerId,
    /// Whether the holder's own seat has a vote.
    pub own_vote: bool,
    /// Members with a vote, the holder not included.
    pub voters: &'a [ServerId],
}

impl Holding {
    /// Notes a grant of `member` for a request sent at `sent` by this holder's clock.
    pub fn granted(&mut self, member: &ServerId, sent: Instant, timing: LeaseTiming) {
        let until = sent.after(timing.term.saturating_sub(timing.drift_margin));
        let entry = self.until.entry(member.clone()).or_default();
        *entry = (*entry).max(until);
    }

    /// Whether `member`'s grant runs at `now`; dead at its deadline.
    #[must_use]
    pub fn holds(&self, now: Instant, member: &ServerId) -> bool {
        self.until.get(member).is_some_and(|&until| now < until)
    }

    /// Until when `member`'s last grant runs or ran; `None` when it never granted.
    #[must_use]
    pub fn until(&self, member: &ServerId) -> Option<Instant> {
        self.until.get(member).copied()
    }

    /// Whether enough members' grants run at `now`.
    #[must_use]
    pub fn is_live(&self, now: Instant, quorum: LeaseQuorum<'_>) -> bool {
        match quorum.policy {
            Policy::BestEffort => true,
            Policy::SyncQuorum => {
                let granted = quorum.voters.iter().filter(|m| self.holds(now, m)).count();
                granted + usize::from(quorum.own_vote) >= majority(quorum.seats)
            }
            Policy::SyncAll => quorum
                .in_sync
                .iter()
                .filter(|member| *member != quorum.own)
                .all(|member| self.holds(now, member)),
        }
    }

    /// Gives all of it up, at a step-down.
    pub fn release(&mut self) {
        self.until.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn server(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    fn reign(epoch: u64, name: &str) -> Reign {
        Reign {
            epoch: Epoch::new(epoch, 0),
            server: server(name),
            boot: BootId::new(1),
        }
    }

    #[test]
    fn the_holder_stops_before_the_member_is_free() {
        let timing = LeaseTiming::of_term(TERM);
        let mut member = Grants::after_start(TERM, at(0), Memory::NothingToForget);
        let mut holder = Holding::default();
        // Sent at 0, received at 0 as well: the worst case for the holder.
        member.grant(at(0), reign(1, "s1")).unwrap();
        holder.granted(&server("s2"), at(0), timing);
        assert!(holder.holds(at(1899), &server("s2")));
        assert!(
            !holder.holds(at(1900), &server("s2")),
            "dead at its deadline"
        );
        assert_eq!(member.may_promise_at(&reign(2, "s2")), at(2000));
    }

    #[test]
    fn a_restarted_member_is_silent_for_one_term() {
        let mut member = Grants::after_start(TERM, at(5), Memory::Lost);
        let refusal = member.grant(at(2004), reign(1, "s1")).unwrap_err();
        assert_eq!(refusal, GrantRefusal::Silent { until: at(2005) });
        assert_eq!(member.may_promise_at(&reign(2, "s2")), at(2005));
        member.grant(at(2005), reign(1, "s1")).unwrap();
    }

    #[test]
    fn nothing_is_renewed_below_a_shown_epoch() {
        let mut member = Grants::after_start(TERM, at(0), Memory::NothingToForget);
        member.grant(at(0), reign(1, "s1")).unwrap();
        member.show(Epoch::new(2, 0));
        let refusal = member.grant(at(1), reign(1, "s1")).unwrap_err();
        assert_eq!(
            refusal,
            GrantRefusal::Superseded {
                shown: Epoch::new(2, 0)
            }
        );
        assert_eq!(
            member.may_promise_at(&reign(2, "s2")),
            at(2000),
            "the old grant runs out"
        );
    }

    #[test]
    fn another_boot_of_the_holder_is_another_holder() {
        let mut member = Grants::after_start(TERM, at(0), Memory::NothingToForget);
        member.grant(at(0), reign(1, "s1")).unwrap();
        let reborn = Reign {
            boot: BootId::new(2),
            ..reign(2, "s1")
        };
        assert_eq!(member.may_promise_at(&reborn), at(2000));
    }

    #[test]
    fn a_quorum_lease_counts_votes_over_all_seats() {
        let timing = LeaseTiming::of_term(TERM);
        let (s1, s2, s3) = (server("s1"), server("s2"), server("s3"));
        let voters = [s2.clone(), s3.clone()];
        let quorum = LeaseQuorum {
            policy: Policy::SyncQuorum,
            seats: 3,
            in_sync: &[],
            own: &s1,
            own_vote: true,
            voters: &voters,
        };
        let mut holding = Holding::default();
        assert!(!holding.is_live(at(0), quorum));
        holding.granted(&s2, at(0), timing);
        assert!(holding.is_live(at(1), quorum));
        assert!(!holding.is_live(
            at(1),
            LeaseQuorum {
                own_vote: false,
                ..quorum
            }
        ));
        let all = LeaseQuorum {
            policy: Policy::SyncAll,
            in_sync: &voters,
            ..quorum
        };
        assert!(
            !holding.is_live(at(1), all),
            "every in-sync member must grant"
        );
        holding.granted(&s3, at(0), timing);
        assert!(holding.is_live(at(1), all));
    }
}

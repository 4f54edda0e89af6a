use super::*;

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const LATER: Instant = Instant::from_nanos(2_000_000_000);

fn sid(n: u32) -> ServerId {
    format!("s{n}").parse().unwrap()
}

/// A seat whose server is connected, with a vote and a log through `(epoch, lsn)`.
fn seat(n: u32, epoch: u64, lsn: u64) -> SeatView {
    SeatView {
        server: sid(n),
        link: Some(SeatLink {
            boot: BootId::new(u128::from(n)),
            vote: VoteState::Yes,
            log: Some(SeatLog {
                last_record_epoch: Epoch::new(epoch, 0),
                flushed: Lsn::new(lsn),
            }),
            following: None,
        }),
        recorded_boot: Some(BootId::new(u128::from(n))),
        in_sync: true,
        left_out_until: None,
        leads: 0,
    }
}

fn gone(n: u32) -> SeatView {
    SeatView {
        link: None,
        ..seat(n, 0, 0)
    }
}

fn voteless(n: u32, epoch: u64, lsn: u64) -> SeatView {
    let mut seat = seat(n, epoch, lsn);
    seat.link.as_mut().unwrap().vote = VoteState::OtherStore;
    seat
}

fn following(mut seat: SeatView) -> SeatView {
    seat.link.as_mut().unwrap().following = Some(FollowedPrimary {
        epoch: Epoch::new(1, 0),
        server: sid(1),
        boot: BootId::new(1),
    });
    seat
}

fn view(policy: Policy, seats: Vec<SeatView>) -> ReignView {
    ReignView {
        policy,
        ack: AckPoint::Flushed,
        epoch: Epoch::new(1, 0),
        primary: Some((sid(1), BootId::new(1))),
        cause: Some(EventCause::PrimaryLost),
        lease_until: None,
        better: None,
        failover: Failover::Safe,
        seats,
    }
}

fn chosen(view: &ReignView) -> Result<(u32, Vec<u32>), Decision> {
    let number = |server: &ServerId| server.as_str()[1..].parse().unwrap();
    match decide(NOW, view) {
        Decision::Mint(next) => Ok((
            number(&next.server),
            next.in_sync.iter().map(number).collect(),
        )),
        other @ (Decision::Keep | Decision::Wait(_)) => Err(other),
    }
}

#[test]
fn the_best_voter_leads() {
    use Policy::{SyncAll, SyncQuorum};
    let out_of_sync = |seat: SeatView| SeatView {
        in_sync: false,
        ..seat
    };
    for (policy, seats, want) in [
        (
            SyncQuorum,
            vec![gone(1), seat(2, 1, 5), seat(3, 1, 6)],
            Ok((3, vec![2, 3])),
        ),
        (
            SyncQuorum,
            vec![gone(1), seat(2, 2, 5), seat(3, 1, 9)],
            Ok((2, vec![2, 3])),
        ), // last record's epoch first
        (
            SyncQuorum,
            vec![gone(1), seat(2, 1, 5), seat(3, 1, 5)],
            Ok((2, vec![2, 3])),
        ), // equal: by id
        (
            SyncAll,
            vec![gone(1), seat(2, 1, 5), out_of_sync(seat(3, 1, 9))],
            Ok((2, vec![2])),
        ),
        (
            SyncAll,
            vec![gone(1), gone(2), seat(3, 1, 9)],
            Ok((3, vec![3])),
        ), // never waits for the dead
        (
            SyncAll,
            vec![gone(1), voteless(2, 1, 9), seat(3, 1, 5)],
            Ok((3, vec![3])),
        ),
        (
            SyncAll,
            vec![gone(1), gone(2), out_of_sync(seat(3, 1, 9))],
            Err(Hindrance::NoCandidate),
        ),
        (
            SyncQuorum,
            vec![gone(1), gone(2), seat(3, 1, 9)],
            Err(Hindrance::TooFewVoters { have: 1, need: 2 }),
        ),
        (
            SyncQuorum,
            vec![gone(1), voteless(2, 1, 9), seat(3, 1, 9)],
            Err(Hindrance::TooFewVoters { have: 1, need: 2 }),
        ),
    ] {
        let want = want.map_err(Decision::Wait);
        assert_eq!(
            chosen(&view(policy, seats.clone())),
            want,
            "{policy} {seats:?}"
        );
    }
}

#[test]
fn no_epoch_is_minted_while_the_lease_runs_whatever_the_cause() {
    for cause in [
        EventCause::Bootstrap,
        EventCause::PrimaryRestarted,
        EventCause::PrimaryLost,
        EventCause::PrimaryFault,
        EventCause::PromotionFailed,
        EventCause::PromotionOverdue,
    ] {
        let view = ReignView {
            cause: Some(cause),
            lease_until: Some(LATER),
            ..view(
                Policy::SyncQuorum,
                vec![seat(1, 1, 1), seat(2, 1, 1), seat(3, 1, 1)],
            )
        };
        assert_eq!(
            chosen(&view),
            Err(Decision::Wait(Hindrance::LeaseRuns(LATER))),
            "{cause:?}"
        );
    }
}

#[test]
fn a_lost_primary_stays_while_a_majority_does_not_deny_it() {
    let still = Err(Decision::Wait(Hindrance::StillFollowed));
    for (seats, want) in [
        (
            vec![gone(1), following(seat(2, 1, 1)), seat(3, 1, 1)],
            Ok(()),
        ), // two of three lost it
        (
            vec![gone(1), following(seat(2, 1, 1)), following(seat(3, 1, 1))],
            still.clone(),
        ),
        (vec![gone(1), following(seat(2, 1, 1))], still), // of two, both must have lost it
        (vec![gone(1), seat(2, 1, 1), seat(3, 1, 1)], Ok(())),
    ] {
        let view = view(Policy::SyncAll, seats);
        assert_eq!(chosen(&view).map(|_| ()), want, "{view:?}");
        // One that gave up by its own word is waited for by nobody.
        let fault = ReignView {
            cause: Some(EventCause::PrimaryFault),
            ..view
        };
        assert!(chosen(&fault).is_ok());
    }
}

#[test]
fn best_effort_moves_only_with_consent() {
    let seats = vec![gone(1), seat(2, 1, 9)];
    let mut lost = view(Policy::BestEffort, seats);
    assert_eq!(chosen(&lost), Err(Decision::Wait(Hindrance::NeedsConsent)));
    lost.failover = Failover::Lossy;
    assert_eq!(chosen(&lost), Ok((2, vec![2])));
    let back = view(Policy::BestEffort, vec![seat(1, 1, 5), seat(2, 1, 9)]);
    assert_eq!(
        chosen(&back),
        Ok((1, vec![1, 2])),
        "its own store has everything"
    );
}

#[test]
fn a_candidate_that_forgot_is_the_last_choice_and_drops_nobody() {
    let forgetful = |n| SeatView {
        recorded_boot: Some(BootId::new(77)),
        ..seat(n, 1, 9)
    };
    let received = |seats| ReignView {
        ack: AckPoint::Received,
        ..view(Policy::SyncAll, seats)
    };
    assert_eq!(
        chosen(&received(vec![gone(1), forgetful(2), seat(3, 1, 5)])),
        Ok((3, vec![2, 3])),
        "one that remembers, though its log is shorter"
    );
    assert_eq!(
        chosen(&received(vec![gone(1), forgetful(2), gone(3)])),
        Ok((2, vec![1, 2, 3])),
        "the others may remember what it forgot"
    );
}

#[test]
fn an_overdue_candidate_gives_way_to_another_only() {
    let overdue = |seats| ReignView {
        cause: Some(EventCause::PromotionOverdue),
        ..view(Policy::SyncQuorum, seats)
    };
    let alone = overdue(vec![seat(1, 1, 9), voteless(2, 1, 1)]);
    assert_eq!(
        chosen(&overdue(vec![seat(1, 1, 9), seat(2, 1, 1)]))
            .unwrap()
            .0,
        2
    );
    assert!(!has_alternative(NOW, &alone));
    let mut two = overdue(vec![seat(1, 1, 9), seat(2, 1, 1), seat(3, 1, 1)]);
    for seat in &mut two.seats[1..] {
        seat.left_out_until = Some(LATER);
    }
    assert_eq!(decide(NOW, &two), Decision::Keep);
}

#[test]
fn who_declined_is_left_out_for_a_while() {
    let mut seats = vec![gone(1), seat(2, 1, 9), seat(3, 1, 1)];
    seats[1].left_out_until = Some(LATER);
    let one = view(Policy::SyncQuorum, seats.clone());
    assert_eq!(chosen(&one).unwrap().0, 3);
    seats[2].left_out_until = Some(LATER);
    let both = view(Policy::SyncQuorum, seats);
    assert_eq!(
        chosen(&both),
        Err(Decision::Wait(Hindrance::LeftOut(LATER)))
    );
    assert!(
        matches!(decide(LATER, &both), Decision::Mint(_)),
        "over at its end"
    );
}

#[test]
fn the_first_reigns_are_spread() {
    let mut first = view(
        Policy::SyncQuorum,
        vec![seat(1, 0, 0), seat(2, 0, 0), seat(3, 0, 0)],
    );
    first.cause = Some(EventCause::Bootstrap);
    first.primary = None;
    first.seats[0].leads = 2;
    first.seats[1].leads = 1;
    assert_eq!(chosen(&first), Ok((3, vec![1, 2, 3])));
}

#[cfg(loom)]
mod models {
    use super::super::*;

    fn holder() -> PinHolder {
        PinHolder::Operation { operation: 1 }
    }

    #[test]
    fn pins_taken_and_dropped_by_several_threads_leave_nothing_behind() {
        loom::model(|| {
            let table = PinTable::new();
            let own = table.retain(Lsn::new(3), holder(), Instant::ZERO).unwrap();
            let other = {
                let table = table.clone();
                loom::thread::spawn(move || {
                    let mut pin = table.retain(Lsn::new(1), holder(), Instant::ZERO).unwrap();
                    pin.advance(Lsn::new(2));
                })
            };
            // Whatever the other thread has done so far, this thread's pin counts.
            assert!(table.lowest().is_some_and(|lsn| lsn <= Lsn::new(3)));
            drop(own);
            other.join().unwrap();
            assert_eq!(
                (table.lowest(), table.live(), table.releases()),
                (None, 0, 2)
            );
        });
    }

    #[test]
    fn a_log_let_go_while_pins_are_broken_is_lost_or_given_back_and_never_both() {
        loom::model(|| {
            let table = PinTable::new();
            let mut pin = table
                .full_base(Lsn::new(1), holder(), Instant::ZERO)
                .unwrap();
            let receiver = loom::thread::spawn(move || {
                pin.let_log_go();
                pin
            });
            let broken = table.break_through(Lsn::new(9)).len();
            let pin = receiver.join().unwrap();
            assert_eq!(table.lowest(), None);
            // Its holder is told of a break exactly when the image is lost with it.
            assert_eq!((table.list().len(), table.live()), (1 - broken, 1));
            drop(pin);
            assert_eq!(table.live(), 0);
        });
    }

    #[test]
    fn operators_who_look_while_pins_come_and_go_see_what_is_held_and_hold_up_nobody() {
        loom::model(|| {
            let table = PinTable::new();
            let own = table.retain(Lsn::new(5), holder(), Instant::ZERO).unwrap();
            let other = {
                let table = table.clone();
                loom::thread::spawn(move || {
                    let pin = table
                        .snapshot(Lsn::new(2), holder(), Instant::ZERO)
                        .unwrap();
                    drop(pin);
                })
            };
            let seen = table.list();
            assert!(seen.iter().any(|pin| pin.lsn == Lsn::new(5)));
            assert!(seen.len() <= 2 && seen.len() <= table.live() + 1);
            other.join().unwrap();
            assert_eq!(table.list().len(), 1);
            drop(own);
        });
    }

    #[test]
    fn a_pin_broken_while_it_is_dropped_is_released_once() {
        loom::model(|| {
            let table = PinTable::new();
            let pin = table
                .snapshot(Lsn::new(1), holder(), Instant::ZERO)
                .unwrap();
            let dropper = loom::thread::spawn(move || drop(pin));
            let broken = table.break_through(Lsn::new(9));
            assert!(broken.len() <= 1);
            dropper.join().unwrap();
            assert_eq!(
                (table.lowest(), table.live(), table.releases()),
                (None, 0, 1)
            );
        });
    }
}

#[cfg(not(loom))]
mod plain {
    use super::super::*;

    fn holder() -> PinHolder {
        PinHolder::Promotion {
            epoch: Epoch::new(2, 0),
        }
    }

    fn lsn(value: u64) -> Lsn {
        Lsn::new(value)
    }

    #[test]
    fn the_lowest_pin_counts_until_it_is_dropped() {
        let table = PinTable::new();
        let low = table.retain(lsn(3), holder(), Instant::ZERO).unwrap();
        let high = table.full_base(lsn(7), holder(), Instant::ZERO).unwrap();
        assert_eq!(table.lowest(), Some(lsn(3)));
        drop(low);
        assert_eq!(table.lowest(), Some(lsn(7)));
        assert_eq!(high.lsn(), lsn(7));
        drop(high);
        assert_eq!((table.lowest(), table.releases()), (None, 2));
    }

    #[test]
    fn an_error_path_and_a_panic_release_too() {
        let table = PinTable::new();
        let fails = || -> Result<(), PinRefused> {
            let _pin = table.retain(lsn(1), holder(), Instant::ZERO)?;
            Err(PinRefused::TooMany { count: 0 })
        };
        assert!(fails().is_err());
        let panicking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _pin = table.retain(lsn(1), holder(), Instant::ZERO).unwrap();
            panic!("as tests do");
        }));
        assert!(panicking.is_err());
        assert_eq!((table.live(), table.releases()), (0, 2));
    }

    #[test]
    fn a_broken_pin_counts_no_more_and_its_holder_is_named() {
        let table = PinTable::new();
        let mut low = table.retain(lsn(3), holder(), Instant::ZERO).unwrap();
        let _high = table.retain(lsn(5), holder(), Instant::ZERO).unwrap();
        let broken = table.break_through(lsn(5));
        assert_eq!(broken.len(), 1);
        assert_eq!((broken[0].lsn, &broken[0].holder), (lsn(3), &holder()));
        assert_eq!(table.lowest(), Some(lsn(5)));
        low.advance(lsn(4));
        assert_eq!(table.lowest(), Some(lsn(5)));
        drop(low);
        assert_eq!(table.list().len(), 1);
    }

    #[test]
    fn an_image_is_held_on_when_its_log_is_let_go() {
        let table = PinTable::new();
        let mut base = table.full_base(lsn(3), holder(), Instant::ZERO).unwrap();
        let mut snapshot = table.snapshot(lsn(4), holder(), Instant::ZERO).unwrap();
        base.let_log_go();
        base.let_log_go();
        assert_eq!((table.lowest(), table.releases()), (Some(lsn(4)), 1));
        // What needs no record cannot lose one.
        assert_eq!(table.break_through(lsn(4)), []);
        assert_eq!((table.list().len(), table.live()), (2, 2));
        // A pin that was broken before holds nothing afterwards either.
        assert_eq!(table.break_through(lsn(9)).len(), 1);
        snapshot.let_log_go();
        assert_eq!((table.list().len(), table.lowest()), (1, None));
        drop((base, snapshot));
        assert_eq!((table.live(), table.releases()), (0, 3));
    }

    #[test]
    fn a_full_table_refuses() {
        let table = PinTable::new();
        let pins: Vec<_> = (0..PINS_MAX)
            .map(|_| table.retain(lsn(1), holder(), Instant::ZERO).unwrap())
            .collect();
        let refused = table.snapshot(lsn(1), holder(), Instant::ZERO);
        assert_eq!(refused.err(), Some(PinRefused::TooMany { count: PINS_MAX }));
        drop(pins);
        assert_eq!(table.live(), 0);
    }
}

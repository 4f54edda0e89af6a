//! Crashes at any operation, with dropped and torn sectors; then the store is opened again.

use std::time::Duration;

use moorline_blockvol::{Mutants, ReadView};

use crate::world::World;

/// One step of a life that a seed decides.
fn step(world: &mut World) {
    match world.rng.below(20) {
        0..=4 => world.append(),
        5..=6 => world.commit_some(),
        7 => world.make_readable(),
        8 => world.start_read(ReadView::Readable),
        9 if world.rng.one_in(2) => world.start_read(ReadView::Newest),
        10 if world.rng.one_in(4) => world.promise(),
        11 if world.rng.one_in(10) => world.cut(),
        12 => world.pass_time(Duration::from_millis(3)),
        13 if world.rng.one_in(20) => world.pass_time(Duration::from_millis(1_100)),
        14..=15 => world.submit(),
        _ => {
            world.complete();
        }
    }
    // A full log stops the writers until the flusher got on.
    if world.store.fill() > 70 {
        world.submit();
        for _ in 0..40 {
            world.commit_all();
            world.complete();
        }
    }
    world.store.assert_invariants();
}

fn live_and_die(seed: u64, mutants: Mutants) {
    println!("seed {seed}");
    let mut world = World::with(seed, mutants);
    for _ in 0..4 {
        let steps = 50 + world.rng.below(1_000);
        for _ in 0..steps {
            step(&mut world);
        }
        if world.rng.one_in(3) {
            world.check_applied_bound();
        }
        world.power_cut();
    }
    world.commit_all();
    world.settle();
    let at = world.store.frontiers();
    assert_eq!(
        at.checkpoint, at.head,
        "at rest everything committed is in the extents"
    );
    world.check_whole();
    world.power_cut();
}

#[test]
fn what_was_said_to_be_durable_is_there_after_any_crash() {
    let seeds = std::env::var("MOORLINE_SEEDS").ok();
    let seeds = seeds.map_or(0..16, |text| {
        let (first, end) = text.split_once("..").expect("MOORLINE_SEEDS=first..end");
        first.parse().unwrap()..end.parse().unwrap()
    });
    seeds.for_each(|seed| live_and_die(seed, Mutants::NONE));
}

/// Each planted bug of the store, and of its log, is found by some seed.
#[cfg(feature = "mutants")]
#[test]
fn planted_bugs_are_found() {
    use moorline_blockvol::Mutant;
    use moorline_wal::{Mutant as LogMutant, Mutants as LogMutants};

    let of_log = |mutant| Mutants::NONE.with_log(LogMutants::NONE.with(mutant));
    let planted = [
        (
            "flush uncommitted",
            Mutants::NONE.with(Mutant::FlushUncommitted),
        ),
        (
            "promise not persisted",
            Mutants::NONE.with(Mutant::PromiseNotPersisted),
        ),
        (
            "promise in one superblock",
            Mutants::NONE.with(Mutant::PromiseInOneSuperblock),
        ),
        ("log: ack before flush", of_log(LogMutant::AckBeforeFlush)),
        ("log: cut ignored", of_log(LogMutant::CutIgnored)),
    ];
    for (name, mutants) in planted {
        let found = (0..200)
            .find(|&seed| std::panic::catch_unwind(|| live_and_die(seed, mutants)).is_err());
        println!("{name}: seed {found:?}");
        assert!(found.is_some(), "{name} was not found");
    }
}

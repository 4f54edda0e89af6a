//! A disk that hangs while its store is opened holds up nobody but itself.

use std::time::Duration;

use moorline_wire::control::ServerToMaster;

use crate::world::{VOLUME, World, blocks};

fn registrations(world: &World, index: usize) -> Vec<usize> {
    let told = world.hosts[index].told_master.iter();
    told.filter_map(|message| match message {
        ServerToMaster::Register(register) => Some(register.stores.len()),
        _ => None,
    })
    .collect()
}

#[test]
fn a_server_registers_without_the_store_of_a_disk_that_hangs_and_the_store_joins_later() {
    let mut world = World::serving(3);
    world.write(blocks(0, 10), 5);
    world.only_disk(2).hangs = true;
    world.restart(2);
    world.run(Duration::from_secs(9));
    assert!(registrations(&world, 2).is_empty());
    world.run(Duration::from_secs(2));
    assert_eq!(registrations(&world, 2), [0]);
    assert!(world.has_noted(2, "store_opening_late"));
    assert_eq!(world.opening_stores(2), 1);
    // The others serve all the while.
    world.write(blocks(20, 1), 6);

    world.unhang(2);
    world.run(Duration::from_secs(4));
    assert_eq!(registrations(&world, 2), [0], "one registration is enough");
    assert_eq!(world.opening_stores(2), 0);
    let report = world.report(2);
    assert_eq!(report.volume, VOLUME);
    assert_eq!(report.head, world.report(0).head, "it caught up");
}

#[test]
fn a_server_whose_stores_open_registers_at_once() {
    let mut world = World::serving(3);
    world.restart(2);
    world.run(Duration::from_millis(100));
    assert_eq!(registrations(&world, 2), [1]);
}

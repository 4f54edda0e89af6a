//! Damaged blocks: fetched from a peer, repaired in place, or reported, and never served.

use std::time::Duration;

use moorline_types::BLOCK_SIZE;
use moorline_volume::client::{ByteRange, ClientError, ClientReply};
use moorline_wire::{Message, VolumeMessage};

use crate::world::{World, blocks};

/// Three servers; blocks 0 to 9 hold 5s, in everybody's extents.
fn at_rest(servers: usize) -> World {
    let mut world = World::serving(servers);
    world.write(blocks(0, 10), 5);
    world.run(Duration::from_secs(1));
    let frontiers = world.hosts[0]
        .node
        .volumes()
        .next()
        .unwrap()
        .store()
        .frontiers();
    assert_eq!(frontiers.checkpoint, frontiers.head);
    world
}

const FIVES: [u8; BLOCK_SIZE] = [5; BLOCK_SIZE];

#[test]
fn a_damaged_block_is_fetched_from_a_peer_and_repaired_in_place() {
    let mut world = at_rest(3);
    world.rot(0, 4);
    assert_eq!(world.read(blocks(3, 3)), [5; 3 * BLOCK_SIZE]);
    assert_eq!(world.count_noted(0, "damaged_block"), 1);
    assert_eq!(world.count_noted(0, "block_repaired"), 1);
    let damage = world.report(0).damage;
    assert_eq!((damage.found, damage.repaired, damage.lost), (1, 1, 0));
    assert_eq!(world.read(blocks(4, 1)), FIVES);
    assert_eq!(world.count_noted(0, "damaged_block"), 1, "it is good now");
}

#[test]
fn many_damaged_blocks_of_many_reads_are_all_repaired() {
    let mut world = at_rest(3);
    (0..10).for_each(|block| world.rot(0, block));
    let reads: Vec<_> = (0..5).map(|n| world.read(blocks(n, 5))).collect();
    assert!(reads.iter().all(|bytes| *bytes == [5; 5 * BLOCK_SIZE]));
    assert_eq!(world.report(0).damage.repaired, 9, "block 9 was not read");
}

#[test]
fn a_peer_with_the_same_damage_is_passed_over_for_the_next() {
    let mut world = at_rest(3);
    world.rot(0, 4);
    world.rot(1, 4);
    assert_eq!(world.read(blocks(4, 1)), FIVES);
    assert_eq!(world.count_noted(1, "damaged_block"), 1);
    assert_eq!(world.count_noted(0, "block_repaired"), 1);
}

#[test]
fn a_silent_peer_is_passed_over_for_the_next() {
    let mut world = at_rest(3);
    world.rot(0, 4);
    world.loses = |(from, _), message| {
        let fetched = |body: &VolumeMessage| matches!(body, VolumeMessage::FetchedBlock(_));
        from == 1 && matches!(message, Message::Volume(_, body) if fetched(body))
    };
    assert_eq!(
        world.read_within(blocks(4, 1), Duration::from_millis(900)),
        None
    );
    assert_eq!(world.read(blocks(4, 1)), FIVES);
}

#[test]
fn a_block_that_nobody_has_fails_that_read_alone() {
    let mut world = at_rest(3);
    (0..3).for_each(|index| world.rot(index, 4));
    let reply = world.read_within(blocks(0, 10), Duration::from_secs(2));
    assert_eq!(reply, Some(ClientReply::Failed(ClientError::Damaged)));
    assert_eq!(world.report(0).damage.lost, 1);
    assert_eq!(world.read(blocks(5, 5)), [5; 5 * BLOCK_SIZE]);
    // A whole new version needs no old one.
    world.write(blocks(4, 1), 6);
    assert_eq!(world.read(blocks(4, 1)), [6; BLOCK_SIZE]);
}

#[test]
fn a_volume_of_one_replica_reports_damage_at_once() {
    let mut world = at_rest(1);
    world.rot(0, 4);
    let reply = world.read_within(blocks(4, 1), Duration::from_millis(10));
    assert_eq!(reply, Some(ClientReply::Failed(ClientError::Damaged)));
}

#[test]
fn a_ragged_write_waits_for_the_repair_of_its_edge() {
    let mut world = at_rest(3);
    world.rot(0, 4);
    let inside = ByteRange {
        offset: 4 * 4096 + 100,
        length: 8,
    };
    world.write(inside, 9);
    let mut want = FIVES;
    want[100..108].fill(9);
    assert_eq!(world.read(blocks(4, 1)), want);
    assert_eq!(world.count_noted(0, "block_repaired"), 1);
}

#[test]
fn a_ragged_write_over_a_lost_block_fails_and_changes_nothing() {
    let mut world = at_rest(3);
    (0..3).for_each(|index| world.rot(index, 4));
    let inside = ByteRange {
        offset: 4 * 4096 + 100,
        length: 8,
    };
    let request = world.ask_write(inside, 9);
    world.run(Duration::from_secs(2));
    assert_eq!(
        world.replies[&request].1,
        ClientReply::Failed(ClientError::Damaged)
    );
    world.write(blocks(4, 1), 6);
    assert_eq!(world.read(blocks(4, 1)), [6; BLOCK_SIZE]);
}

#[test]
fn a_write_that_overtakes_the_fetch_is_what_is_read() {
    let mut world = at_rest(3);
    world.rot(0, 4);
    world.loses = |_, message| {
        let fetch = |body: &VolumeMessage| matches!(body, VolumeMessage::FetchedBlock(_));
        matches!(message, Message::Volume(_, body) if fetch(body))
    };
    assert_eq!(
        world.read_within(blocks(4, 1), Duration::from_millis(100)),
        None
    );
    world.loses = |_, _| false;
    world.write(blocks(4, 1), 6);
    assert_eq!(world.read(blocks(4, 1)), [6; BLOCK_SIZE]);
    world.run(Duration::from_secs(6));
    assert_eq!(world.read(blocks(4, 1)), [6; BLOCK_SIZE]);
}

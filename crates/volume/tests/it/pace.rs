//! A flusher that cannot keep up slows its writers early and smoothly, and never locks them out.

use std::time::Duration;

use moorline_types::Instant;
use moorline_volume::client::ClientReply;
use moorline_wire::control::LogHolder;

use crate::world::{LOG_BYTES, World, blocks};

/// Bytes of one write.
const WRITE: u64 = 64 << 10;

/// What a closed loop of writers saw.
struct Seen {
    bytes: u64,
    slowest: Duration,
    fill_max: u8,
}

/// Keeps `depth` writes under way for so long.
fn write_for(world: &mut World, depth: usize, time: Duration) -> Seen {
    let end = world.now.after(time);
    let (mut open, mut at): (Vec<(_, Instant)>, u64) = (Vec::new(), 0);
    let mut seen = Seen {
        bytes: 0,
        slowest: Duration::ZERO,
        fill_max: 0,
    };
    while world.now < end {
        while open.len() < depth {
            // Each block once: nothing is merged, the device has to carry all of it.
            at = (at + 16) % 4096;
            let asked = (world.ask_write(blocks(at, 16), 7), world.now);
            open.push(asked);
        }
        world.run(Duration::from_millis(1));
        let replies = &world.replies;
        open.retain(|(request, since)| match replies.get(request) {
            Some((answered, reply)) => {
                assert_eq!(*reply, ClientReply::Done);
                seen.bytes += WRITE;
                seen.slowest = seen.slowest.max(answered.since(*since));
                false
            }
            None => true,
        });
        let store = world.hosts[0].node.volumes().next().unwrap().store();
        seen.fill_max = seen.fill_max.max(store.fill());
    }
    seen
}

#[test]
fn a_slow_flusher_slows_the_writers_and_never_stops_them() {
    let mut world = World::serving(1);
    world.only_disk(0).extent_rate = 8 << 20;
    let _warm = write_for(&mut world, 4, Duration::from_secs(3));
    let seen = write_for(&mut world, 4, Duration::from_secs(5));
    let rate = seen.bytes / 5;
    // As fast as the device carries it, give or take what passes cost.
    assert!((5 << 20..10 << 20).contains(&rate), "{rate} bytes/s");
    assert!(seen.fill_max <= 90, "{} %", seen.fill_max);
    // Four writers share the pace: none is locked out until a pass ends.
    assert!(
        seen.slowest <= Duration::from_millis(400),
        "{:?}",
        seen.slowest
    );
    let slow = world.report(0).writes_slowed.expect("it says so");
    assert!(slow.bytes_per_s > 0);
    assert_eq!(slow.log_held_by, LogHolder::Flusher);
}

#[test]
fn a_flusher_that_keeps_up_slows_nobody() {
    let mut world = World::serving(1);
    let seen = write_for(&mut world, 4, Duration::from_secs(2));
    // The whole log, many times over.
    assert!(seen.bytes > 4 * LOG_BYTES);
    assert!(seen.fill_max < 70, "{} %", seen.fill_max);
    assert!(
        seen.slowest <= Duration::from_millis(2),
        "{:?}",
        seen.slowest
    );
    assert_eq!(world.report(0).writes_slowed, None);
}

#[test]
fn a_flusher_that_hangs_stops_the_writers_below_the_rest_and_says_so() {
    let mut world = World::serving(1);
    // Less than a block in the time that it takes for an operation to be overdue.
    world.only_disk(0).extent_rate = 100;
    let _seen = write_for(&mut world, 4, Duration::from_secs(4));
    let store = world.hosts[0].node.volumes().next().unwrap().store();
    assert!((71..=90).contains(&store.fill()), "{} %", store.fill());
    let slow = world.report(0).writes_slowed.expect("it says so");
    assert_eq!(slow.log_held_by, LogHolder::Flusher);
}

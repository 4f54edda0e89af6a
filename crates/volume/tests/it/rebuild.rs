//! A replica that only a rebuild brings back knows it, whatever happened when it was told.

use std::time::Duration;

use moorline_wire::{ImageState, Message, VolumeMessage, control::PeerState};

use crate::world::{LOG_BYTES, World, blocks};

/// Records do not reach the third server, and it never hears that it is given up.
fn cuts_the_third_off((_, to): (usize, usize), message: &Message) -> bool {
    let Message::Volume(_, body) = message else {
        return false;
    };
    to == 2
        && matches!(
            body,
            VolumeMessage::Records(_) | VolumeMessage::StreamEnded(_)
        )
}

/// The third server's replica is beyond what the primary's log has, and was not told.
fn given_up_in_silence() -> World {
    let mut world = World::serving(3);
    world.loses = cuts_the_third_off;
    let state = |world: &World| {
        let peers = world.report(0).peers;
        let third = peers.iter().find(|peer| peer.server.as_str() == "s3");
        third.unwrap().state
    };
    let mut at = 0;
    for _ in 0..LOG_BYTES * 8 / (256 << 10) {
        world.write(blocks(at, 64), 7);
        at = (at + 64) % 4096;
        world.run(Duration::from_millis(50));
        if state(&world) == PeerState::NeedsRebuild {
            break;
        }
    }
    assert_eq!(state(&world), PeerState::NeedsRebuild);
    assert_eq!(world.report(2).image, ImageState::Whole, "nobody told it");
    world.loses = |_, _| false;
    world
}

#[test]
fn a_replica_that_was_given_up_is_told_again_after_its_restart() {
    let mut world = given_up_in_silence();
    world.restart(2);
    world.run(Duration::from_secs(3));
    assert_eq!(world.report(2).image, ImageState::NeedsRebuild);
    let store = world.hosts[2].node.volumes().next().unwrap().store();
    assert!(store.durable().needs_rebuild, "and keeps it");
}

use moorline_types::{AckPoint, Epoch, Policy};
use moorline_wire::control::*;

use super::world::*;

fn accept(world: &mut World) -> ClientResponse {
    let name = "demo".to_owned();
    world.ask(ClientRequest::AcceptLoss { name }).unwrap()
}

/// A volume whose primary opened its epoch and serves nobody.
fn a_loss_stands() -> (World, moorline_types::VolumeId) {
    let mut world = World::new(3);
    let answer = world.ask(ClientRequest::CreateVolume(CreateVolume {
        ack: AckPoint::Received,
        ..demo(Policy::SyncQuorum, 3)
    }));
    assert!(matches!(answer, Some(ClientResponse::Created(_))));
    world.heartbeats();
    let id = world.status().id;
    let (leader, _) = world.leader(id);
    world.report(leader, id).serving = Serving::No;
    world.heartbeats();
    (world, id)
}

#[test]
fn an_accepted_loss_is_told_with_the_next_epoch() {
    let (mut world, id) = a_loss_stands();
    let reason = world.status().reason.unwrap();
    assert!(reason.contains("accept-loss"), "{reason}");
    let through = Epoch::new(1, 0);
    let name = "demo".to_owned();
    assert_eq!(
        accept(&mut world),
        ClientResponse::LossAccepted { name, through }
    );
    world.inbox.clear();
    world.pass(ms(2_500));
    assert_eq!(world.leader(id).1, 2);
    let record = world
        .master
        .as_ref()
        .unwrap()
        .authority()
        .volume(id)
        .unwrap();
    assert_eq!(record.loss_accepted, Some(through));
    assert_eq!(world.accepted.get(&id), Some(&Some(through)));
    world.heartbeats();
    assert!(world.status().serving);
    let Some(ClientResponse::Events(rows)) = world.ask(ClientRequest::Events {
        name: "demo".into(),
        after: 0,
    }) else {
        panic!("no events");
    };
    let is_it = |row: &EventRow| row.event == EventKind::LossAccepted { through };
    assert!(rows.iter().any(is_it));
}

#[test]
fn an_accepted_loss_outlives_the_master() {
    let (mut world, id) = a_loss_stands();
    accept(&mut world);
    world.restart_master();
    world.pass(ms(2_500));
    assert_eq!(world.leader(id).1, 2);
    assert_eq!(world.accepted.get(&id), Some(&Some(Epoch::new(1, 0))));
}

#[test]
fn where_no_loss_stands_nothing_is_accepted() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let ClientResponse::Failed(error) = accept(&mut world) else {
        panic!("it was done");
    };
    assert_eq!(error.exit_code(), 1);
    assert_eq!(world.leader(id), (1, 1));
}

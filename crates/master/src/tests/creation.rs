use moorline_types::{Epoch, Policy, VolumeId};
use moorline_wire::{Message, control::*};

use super::world::*;
use crate::{
    Master,
    record::{Key, Value, VolumePhase},
};

fn failed(answer: Option<ClientResponse>) -> ClientError {
    match answer {
        Some(ClientResponse::Failed(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

fn stored_volumes(world: &World) -> Vec<VolumePhase> {
    let values = world.store.durable().values();
    values
        .filter_map(|stored| match &stored.value {
            Value::Volume(record) => Some(record.phase),
            _ => None,
        })
        .collect()
}

#[test]
fn a_volume_is_made_on_the_least_loaded_servers_and_served() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let line = world.line(id);
    assert_eq!(line.epoch, Epoch::new(1, 0));
    assert_eq!(line.in_sync, [sid(1), sid(2), sid(3)]);
    for member in &line.members {
        let held = &world.servers[&member.server].stores[&id].report;
        assert_eq!(member.store, Some(held.store));
        assert_eq!(member.boot, Some(held.boot));
    }
    let mut second = demo(Policy::SyncAll, 1);
    second.name = "second".into();
    let _created = world.ask(ClientRequest::CreateVolume(second));
    world.heartbeats();
    let Some(ClientResponse::Volumes(all)) = world.ask(ClientRequest::ListVolumes) else {
        panic!("a list is answered with one");
    };
    let primaries: Vec<_> = all
        .iter()
        .map(|v| (v.name.as_str(), v.primary.clone()))
        .collect();
    assert_eq!(primaries[0], ("demo", Some(sid(1))));
    assert_eq!(primaries[1].0, "second");
}

#[test]
fn what_requests_meet_without_a_quorum_is_the_volumes_own() {
    use moorline_types::NoQuorum;
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    assert_eq!(world.line(id).no_quorum, NoQuorum::Wait);
    let mut failing = demo(Policy::SyncQuorum, 3);
    failing.name = "failing".into();
    failing.no_quorum = Some(NoQuorum::Error(30));
    let Some(ClientResponse::Created(made)) =
        world.ask(ClientRequest::CreateVolume(failing.clone()))
    else {
        panic!("it can be made");
    };
    assert_eq!(world.line(made.id).no_quorum, NoQuorum::Error(30));
    failing.no_quorum = None;
    let other = failed(world.ask(ClientRequest::CreateVolume(failing)));
    assert!(matches!(other, ClientError::Exists { .. }), "{other:?}");
}

#[test]
fn a_request_that_cannot_be_met_is_refused_with_its_exit_code() {
    let mut world = World::new(2);
    let base = demo(Policy::SyncQuorum, 2);
    let with = |change: fn(&mut CreateVolume)| {
        let mut request = base.clone();
        change(&mut request);
        ClientRequest::CreateVolume(request)
    };
    for (request, code) in [
        (with(|r| r.name = "a b".into()), 2),
        (with(|r| r.name = "x".repeat(64)), 2),
        (with(|r| r.size_bytes = 4097), 2),
        (with(|r| r.size_bytes = 0), 2),
        (with(|r| r.log_bytes = 4096), 2),
        (with(|r| r.replicas = 0), 2),
        (with(|r| r.replicas = 8), 2),
        (with(|r| r.min_copies = Some(3)), 2),
        (with(|r| r.replicas = 3), 1), // two servers
        (
            ClientRequest::VolumeStatus {
                name: "none".into(),
            },
            3,
        ),
        (
            ClientRequest::DeleteVolume {
                name: "none".into(),
            },
            3,
        ),
        (
            ClientRequest::Events {
                name: "none".into(),
                after: 0,
            },
            3,
        ),
    ] {
        let error = failed(world.ask(request.clone()));
        assert_eq!(error.exit_code(), code, "{request:?}: {error}");
    }
    assert!(stored_volumes(&world).is_empty());
}

#[test]
fn making_the_same_volume_twice_is_making_it_once() {
    let mut world = World::new(2);
    let id = world.serve(Policy::SyncAll, 2);
    let again = world.create(Policy::SyncAll, 2);
    assert!(matches!(again, Some(ClientResponse::Created(summary)) if summary.id == id));
    let other = failed(world.create(Policy::SyncQuorum, 2));
    assert_eq!(
        other,
        ClientError::Exists {
            name: "demo".into()
        }
    );
}

#[test]
fn two_replicas_take_sync_all_unless_told_otherwise() {
    let mut world = World::new(3);
    for (name, replicas, want) in [
        ("a", 1, Policy::SyncQuorum),
        ("b", 2, Policy::SyncAll),
        ("c", 3, Policy::SyncQuorum),
    ] {
        let mut request = demo(Policy::BestEffort, replicas);
        request.name = name.into();
        request.policy = None;
        match world.ask(ClientRequest::CreateVolume(request)) {
            Some(ClientResponse::Created(summary)) => assert_eq!(summary.policy, want),
            other => panic!("not made: {other:?}"),
        }
    }
}

/// A master that crashes at any transaction of a creation, before it or after it, leaves after its
/// restart either the whole volume or nothing of it.
#[test]
fn a_crash_at_each_step_of_a_creation_leaves_all_or_nothing() {
    for steps in 0..6 {
        for kept in 0..2 {
            let mut world = World::new(3);
            world.hold_commits = Hold::Yes;
            let _pending = world.create(Policy::SyncQuorum, 3);
            for _ in 0..steps {
                if !world.held.is_empty() {
                    world.commit_one();
                }
                world.deliver();
            }
            world.crash_master(kept);
            world.restart_master();
            world.pass(ms(5_000));
            let left = stored_volumes(&world);
            let stores: usize = world.servers.values().map(|sim| sim.stores.len()).sum();
            match left.as_slice() {
                [] => assert_eq!(stores, 0, "steps {steps} kept {kept}"),
                [VolumePhase::Live] => {
                    assert_eq!(stores, 3, "steps {steps} kept {kept}");
                    assert!(world.status().serving);
                }
                other => panic!("steps {steps} kept {kept}: {other:?}"),
            }
            // The name is free, or the volume is there: asking again succeeds either way.
            let again = world.create(Policy::SyncQuorum, 3);
            assert!(
                matches!(again, Some(ClientResponse::Created(_))),
                "steps {steps} kept {kept}: {again:?}"
            );
        }
    }
}

#[test]
fn a_store_that_cannot_be_made_takes_the_others_with_it() {
    let mut world = World::new(2);
    world.hold_commits = Hold::Yes;
    let conn = world.open(moorline_wire::hello::Identity::Client);
    world.event(crate::ServiceEvent::ConnMessage {
        conn,
        message: Message::ClientRequest {
            id: 7,
            request: Box::new(ClientRequest::CreateVolume(demo(Policy::SyncAll, 2))),
        },
    });
    world.commit_one();
    let volume = world
        .master
        .as_ref()
        .unwrap()
        .authority()
        .volume_id("demo")
        .unwrap();
    // Server 1 makes its store; server 2 has no room.
    let refuser = world.servers[&sid(2)].conn.unwrap();
    world.inbox.retain(|(to, _)| *to != refuser);
    let reason = CreateStoreError::NoRoom { need: 2, have: 1 };
    world.say(
        2,
        ServerToMaster::CreateFailed {
            volume,
            reason: reason.clone(),
        },
    );
    world.deliver();
    world.hold_commits = Hold::No;
    world.commit_all();
    world.deliver();
    let error = failed(world.answer_on(conn));
    assert_eq!(
        error,
        ClientError::CreateFailed {
            server: sid(2),
            reason
        }
    );
    assert!(world.servers.values().all(|sim| sim.stores.is_empty()));
    assert!(stored_volumes(&world).is_empty());
    assert!(
        !world
            .store
            .durable()
            .keys()
            .any(|key| matches!(key, Key::Event(..) | Key::Name(_)))
    );
}

#[test]
fn a_server_lost_while_stores_are_made_ends_the_creation_and_is_cleaned_up_later() {
    let mut world = World::new(2);
    world.hold_commits = Hold::Yes;
    let _pending = world.create(Policy::SyncAll, 2);
    world.commit_one();
    // Server 1 makes its store; server 2 goes away before it is told to.
    let lost = world.servers[&sid(2)].conn.unwrap();
    world.inbox.retain(|(to, _)| *to != lost);
    world.deliver();
    world.disconnect(2);
    world.hold_commits = Hold::No;
    world.commit_all();
    world.deliver();
    assert!(matches!(
        stored_volumes(&world)[..],
        [VolumePhase::RollingBack { .. }]
    ));
    world.connect(2);
    assert!(stored_volumes(&world).is_empty());
    assert!(world.servers.values().all(|sim| sim.stores.is_empty()));
}

#[test]
fn deleting_frees_the_name_at_once_and_the_stores_when_their_servers_come() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.report(1, id).clients = 1;
    world.heartbeats();
    let delete = || ClientRequest::DeleteVolume {
        name: "demo".into(),
    };
    let error = failed(world.ask(delete()));
    assert_eq!(error.exit_code(), 5);
    world.report(1, id).clients = 0;
    world.heartbeats();
    world.disconnect(3);
    let answer = world.ask(delete());
    assert_eq!(
        answer,
        Some(ClientResponse::Deleted {
            name: "demo".into()
        })
    );
    assert!(matches!(
        stored_volumes(&world)[..],
        [VolumePhase::Deleting { .. }]
    ));
    assert!(matches!(
        failed(world.ask(delete())),
        ClientError::NotFound { .. }
    ));
    world.restart_master();
    assert!(stored_volumes(&world).is_empty());
    assert!(world.servers.values().all(|sim| sim.stores.is_empty()));
}

#[test]
fn what_happened_is_kept_across_restarts_and_bounded() {
    let mut world = World::new(1);
    let id = world.serve(Policy::SyncQuorum, 1);
    for n in 0..600_u32 {
        let event = ReportedEvent {
            volume: id,
            epoch: Epoch::new(1, 0),
            name: "progress".into(),
            peer: None,
            detail: format!("{n} {}", "é".repeat(600)),
        };
        world.say(1, ServerToMaster::Event(event));
    }
    let epoch = world.line(id).epoch;
    let reason = PrimaryFaultReason::DeviceFailed;
    world.held_leases.clear();
    world.say(
        1,
        ServerToMaster::PrimaryFault {
            volume: id,
            epoch,
            reason,
        },
    );
    world.pass(ms(5_000));
    let rows = |world: &mut World, after| {
        let name = "demo".to_owned();
        match world.ask(ClientRequest::Events { name, after }) {
            Some(ClientResponse::Events(rows)) => rows,
            other => panic!("no events: {other:?}"),
        }
    };
    let before = rows(&mut world, 0);
    assert_eq!(before.len(), 256);
    assert!(before.windows(2).all(|w| w[0].seq < w[1].seq));
    let kept = world
        .store
        .durable()
        .keys()
        .filter(|key| matches!(key, Key::Event(..)))
        .count();
    assert!(kept <= 256, "{kept}");
    world.restart_master();
    let minted = rows(&mut world, 0).into_iter().any(|row| {
        matches!(
            row.event,
            EventKind::EpochMinted {
                cause: EventCause::PrimaryFault,
                ..
            }
        )
    });
    assert!(minted);
    assert!(rows(&mut world, before[255].seq + 10_000).is_empty());
}

#[test]
fn after_its_store_failed_the_master_says_nothing_more() {
    let mut world = World::new(1);
    world.hold_commits = Hold::Yes;
    let conn = world.open(moorline_wire::hello::Identity::Client);
    world.event(crate::ServiceEvent::ConnMessage {
        conn,
        message: Message::ClientRequest {
            id: 7,
            request: Box::new(ClientRequest::CreateVolume(demo(Policy::SyncQuorum, 1))),
        },
    });
    let txn = world.held.remove(0).id;
    world.event(crate::ServiceEvent::CommitDone {
        txn,
        result: Err(crate::store::CommitError::Failed),
    });
    assert_eq!(failed(world.answer_on(conn)), ClientError::MasterFailed);
    assert_eq!(world.stopped, Some(crate::StopReason::StoreFailed));
    assert_eq!(world.master.as_ref().and_then(Master::next_deadline), None);
    let unknown = VolumeId::new(1);
    world.say(1, ServerToMaster::DeletedStore { volume: unknown });
    assert!(world.held.is_empty() && world.inbox.is_empty());
}

use moorline_types::{BootId, ClusterId};
use moorline_wire::{Message, control::*};

use super::world::*;
use crate::{ConnId, ServiceEvent};

fn refusal(world: &World, conn: ConnId) -> Option<RegisterRefusal> {
    world.inbox.iter().find_map(|(to, message)| match message {
        Message::MasterToServer(message) if *to == conn => match &**message {
            MasterToServer::Refused(reason) => Some(reason.clone()),
            _ => None,
        },
        _ => None,
    })
}

/// Registers as server 2, changed by `change`, on a connection of its own.
fn try_register(world: &mut World, change: impl FnOnce(&mut Register)) -> Option<RegisterRefusal> {
    let mut register = world.register(2);
    change(&mut register);
    let mut peer = world.identity(2);
    if let moorline_wire::hello::Identity::Server { boot, server, .. } = &mut peer {
        *boot = register.boot;
        server.clone_from(&register.server);
    }
    let conn = world.open(peer);
    world.inbox.clear();
    world.say_on(conn, ServerToMaster::Register(register));
    let refusal = refusal(world, conn);
    assert_eq!(refusal.is_some(), world.closed.contains(&conn));
    refusal
}

#[test]
fn a_server_that_cannot_join_is_told_why() {
    let mut world = World::new(2);
    let boot = world.servers[&sid(2)].boot;
    let other = ClusterId::new(99);
    let ours = world.master.as_ref().unwrap().authority().meta().cluster;
    let refused = try_register(&mut world, |r| r.boot = BootId::new(5));
    assert_eq!(refused, Some(RegisterRefusal::DuplicateServer { boot }));
    world.disconnect(2);
    let refused = try_register(&mut world, |r| r.cluster = Some(other));
    let theirs = other;
    assert_eq!(
        refused,
        Some(RegisterRefusal::WrongCluster { ours, theirs })
    );
    let refused = try_register(&mut world, |r| r.data_addr = "h:10".into());
    assert_eq!(
        refused,
        Some(RegisterRefusal::DuplicateAddress {
            address: "h:10".into(),
            by: sid(1)
        })
    );
    let refused = try_register(&mut world, |r| r.control_addr = String::new());
    assert_eq!(
        refused,
        Some(RegisterRefusal::BadAddress {
            address: String::new()
        })
    );
    assert_eq!(try_register(&mut world, |r| r.cluster = Some(ours)), None);
}

#[test]
fn a_server_is_who_it_proved_to_be_and_registers_once() {
    let mut world = World::new(2);
    let conn = world.open(world.identity(1));
    let register = world.register(2);
    world.say_on(conn, ServerToMaster::Register(register));
    assert_eq!(
        refusal(&world, conn),
        Some(RegisterRefusal::WrongIdentity {
            authenticated: sid(1)
        })
    );
    let conn = world.open(world.identity(1));
    world.say_on(
        conn,
        ServerToMaster::Heartbeat(Heartbeat {
            stores_opening: 0,
            seq: 1,
            sent_ns: 0,
            volumes: Vec::new(),
        }),
    );
    assert_eq!(refusal(&world, conn), Some(RegisterRefusal::OutOfOrder));
    let conn = world.servers[&sid(1)].conn.unwrap();
    let register = world.register(1);
    world.say_on(conn, ServerToMaster::Register(register));
    assert_eq!(refusal(&world, conn), Some(RegisterRefusal::OutOfOrder));
}

#[test]
fn the_same_boot_may_come_again_before_its_old_connection_ended() {
    let mut world = World::new(1);
    let old = world.servers[&sid(1)].conn.unwrap();
    world.connect(1);
    assert!(world.closed.contains(&old));
    // The end of the old connection, noticed late, takes nothing from the new one.
    world.event(ServiceEvent::ConnClosed { conn: old });
    let Some(ClientResponse::Cluster(status)) = world.ask(ClientRequest::Status) else {
        panic!("a status is answered with one");
    };
    assert_eq!(status.servers[0].state, ServerState::Up);
}

#[test]
fn a_silent_server_is_lost_after_a_second_and_a_half() {
    let mut world = World::new(1);
    let conn = world.servers[&sid(1)].conn.unwrap();
    assert_eq!(
        world.master.as_ref().unwrap().next_deadline(),
        Some(world.now.after(ms(1_500)))
    );
    world.now = world.now.after(ms(1_499));
    world.tick();
    assert!(!world.closed.contains(&conn));
    world.now = world.now.after(ms(1));
    world.tick();
    assert!(world.closed.contains(&conn));
    assert_eq!(
        world.master.as_ref().unwrap().next_deadline(),
        None,
        "an idle master sleeps"
    );
}

#[test]
fn nobody_is_welcomed_before_the_record_is_durable() {
    let mut world = World::new(0);
    world.hold_commits = Hold::Yes;
    world.servers.insert(
        sid(1),
        Sim {
            boot: BootId::new(1),
            cluster: None,
            conn: None,
            stores: std::collections::BTreeMap::new(),
            port: 10,
        },
    );
    world.connect(1);
    assert!(world.inbox.is_empty());
    let conn = world.open(world.identity(1));
    let register = world.register(1);
    world.say_on(conn, ServerToMaster::Register(register));
    world.servers.get_mut(&sid(1)).unwrap().conn = Some(conn);
    assert_eq!(world.held.len(), 1, "one transaction per server");
    world.commit_one();
    let told = world.inbox.iter().filter(|(to, _)| *to == conn).count();
    assert_eq!(told, 1, "{:?}", world.inbox);
}

#[test]
fn a_changed_address_is_a_new_line_of_the_same_epoch() {
    let mut world = World::new(3);
    let id = world.serve(moorline_types::Policy::SyncQuorum, 3);
    let before = world.line(id);
    world.disconnect(2);
    world.servers.get_mut(&sid(2)).unwrap().port = 70;
    world.connect(2);
    let after = world.line(id);
    assert_eq!(after.epoch, before.epoch);
    assert_eq!(after.config, before.config.next());
    let member = after.member(&sid(2)).unwrap();
    assert_eq!(
        (member.data_addr.as_str(), member.endpoint_version),
        ("h:70", 2)
    );
    assert_eq!(after.in_sync, before.in_sync);
    world.disconnect(2);
    world.connect(2);
    assert_eq!(world.line(id), after, "the same again is nothing new");
}

#[test]
fn a_restarted_master_is_the_same_cluster_and_another_start() {
    let mut world = World::new(1);
    let before = world.master.as_ref().unwrap().authority().meta().clone();
    world.restart_master();
    let after = world.master.as_ref().unwrap().authority().meta();
    assert_eq!(after.cluster, before.cluster);
    assert_eq!(after.start, before.start + 1);
}

#[test]
fn a_second_process_over_the_same_store_stops() {
    let mut world = World::new(0);
    world.crash_master(0);
    world.hold_commits = Hold::Yes;
    world.start_master();
    let txn = world.held.remove(0);
    // The other one was faster.
    world.store.begin(txn.clone());
    drop(world.store.finish());
    world.held.push(txn);
    world.commit_one();
    assert_eq!(world.stopped, Some(crate::StopReason::Superseded));
}

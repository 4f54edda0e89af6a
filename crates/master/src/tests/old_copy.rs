use moorline_types::{ClusterId, MasterRun, Policy, VolumeId};
use moorline_wire::control::*;

use super::world::*;
use crate::{record::Home, store::memory::MemoryStore};

fn events(world: &mut World) -> Vec<EventKind> {
    let name = "demo".to_owned();
    match world.ask(ClientRequest::Events { name, after: 0 }) {
        Some(ClientResponse::Events(rows)) => rows.into_iter().map(|row| row.event).collect(),
        other => panic!("no events: {other:?}"),
    }
}

fn why_restored(world: &mut World) -> Option<RestoredWhy> {
    events(world)
        .into_iter()
        .rev()
        .find_map(|event| match event {
            EventKind::MasterRestored { why } => Some(why),
            _ => None,
        })
}

fn taken_over(world: &mut World) -> bool {
    let is_it = |event: &EventKind| matches!(event, EventKind::LineTakenOver { .. });
    events(world).iter().any(is_it)
}

fn fail_over(world: &mut World, id: VolumeId) -> u32 {
    let (leader, _) = world.leader(id);
    world.kill(leader);
    for sim in world.servers.values_mut() {
        if let Some(store) = sim.stores.get_mut(&id) {
            store.report.following = None;
        }
    }
    world.pass(ms(2_500));
    world.heartbeats();
    leader
}

/// A served volume, a backup of the master, and two reigns that the backup does not know.
fn went_on_after_a_backup(policy: Policy) -> (World, VolumeId, MemoryStore) {
    let mut world = World::new(3);
    let id = world.serve(policy, 3);
    let copy = world.backup();
    for _ in 0..2 {
        let dead = fail_over(&mut world, id);
        world.boot(dead);
        world.heartbeats();
    }
    assert!(world.leader(id).1 >= 3, "{:?}", world.leader(id));
    (world, id, copy)
}

#[test]
fn a_restart_over_the_same_file_is_no_restoration() {
    let mut world = World::new(3);
    world.home = Some(Home {
        device: 1,
        inode: 2,
    });
    world.restart_master();
    let id = world.serve(Policy::SyncAll, 3);
    world.restart_master();
    world.heartbeats();
    assert_eq!(why_restored(&mut world), None);
    fail_over(&mut world, id);
    assert_eq!(world.leader(id).1, 2);
    assert!(world.status().serving);
}

#[test]
fn a_restored_master_promotes_nobody_until_a_majority_reported_and_goes_on_above() {
    let (mut world, id, copy) = went_on_after_a_backup(Policy::SyncQuorum);
    let line = world.line(id);
    world.restore(copy);
    world.come_back(&[3]);
    world.pass(ms(5_000));
    let status = world.status();
    assert_eq!(status.health, Health::Unavailable);
    let reason = status.reason.unwrap();
    assert!(reason.contains("1 of 2 replicas"), "{reason}");
    assert!(reason.contains("restored from a backup"), "{reason}");
    assert!(!taken_over(&mut world));
    world.come_back(&[2]);
    assert!(taken_over(&mut world));
    let now = world.line(id);
    assert_eq!((now.epoch, &now.primary), (line.epoch, &line.primary));
    assert!(now.config > line.config);
    assert_eq!(now.in_sync, line.in_sync);
    world.come_back(&[1]);
    world.heartbeats();
    assert!(world.status().serving, "the reign goes on");
    fail_over(&mut world, id);
    let (_, epoch) = world.leader(id);
    assert!(epoch > line.epoch.assignment() + 1_000, "{epoch}");
    assert!(world.status().serving);
    world.restart_master();
    world.heartbeats();
    assert!(world.status().serving, "what was settled stays so");
}

#[test]
fn a_member_that_was_dropped_is_not_promoted_by_an_old_copy() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    let copy = world.backup();
    world.kill(3);
    let config = world.line(id).config;
    let result = world.change(1, id, config, &[1, 2]);
    assert!(matches!(result, ChangeConfigResult::Recorded(_)));
    // The others go, and with them all who know what 3 lacks.
    for n in [1, 2] {
        world.kill(n);
    }
    world.restore(copy);
    world.boot(3);
    world.pass(ms(10_000));
    assert_eq!(
        world.leader(id).1,
        1,
        "3 is in the old set and lacks writes"
    );
    world.boot(2);
    world.pass(ms(5_000));
    assert_eq!(world.leader(id).1, 1, "every seat must speak");
    world.boot(1);
    world.pass(ms(5_000));
    let line = world.line(id);
    assert!(line.epoch.assignment() > 1);
    assert!(!line.is_in_sync(&sid(3)), "{:?}", line.in_sync);
    assert_ne!(world.leader(id).0, 3);
}

#[test]
fn an_operator_overrules_with_consent_only() {
    let (mut world, _, copy) = went_on_after_a_backup(Policy::SyncAll);
    let named = |consent| ClientRequest::Overrule {
        name: "demo".into(),
        consent,
    };
    let current = world.ask(named(LossConsent::Given));
    let Some(ClientResponse::Failed(error)) = current else {
        panic!("{current:?}");
    };
    assert_eq!(error.exit_code(), 1, "{error}");
    world.restore(copy);
    world.come_back(&[2, 3]);
    let refused = world.ask(named(LossConsent::No));
    let Some(ClientResponse::Failed(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("missing: s1"), "{error}");
    let done = world.ask(named(LossConsent::Given));
    let Some(ClientResponse::Overruled { missing, .. }) = done else {
        panic!("{done:?}");
    };
    assert_eq!(missing, [sid(1)]);
    let overruled = |event: &EventKind| matches!(event, EventKind::LineTakenOver { overruled, .. } if *overruled);
    assert!(events(&mut world).iter().any(overruled));
    world.pass(ms(5_000));
    world.come_back(&[1]);
    world.pass(ms(5_000));
    assert!(world.status().serving, "{:?}", world.status());
}

#[test]
fn an_unmarked_copy_is_found_out_by_a_newer_line() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let copy = world.store.clone();
    let dead = fail_over(&mut world, id);
    world.boot(dead);
    let line = world.line(id);
    world.restore(copy);
    world.come_back(&[1, 2, 3]);
    let why = why_restored(&mut world);
    assert!(
        matches!(why, Some(RestoredWhy::NewerLine { .. })),
        "{why:?}"
    );
    // It had hung up on everybody: they come back and say all that they know.
    world.come_back(&[1, 2, 3]);
    world.come_back(&[1, 2, 3]);
    assert_eq!(world.line(id).epoch, line.epoch);
    world.heartbeats();
    assert!(world.status().serving);
}

#[test]
fn an_unmarked_copy_is_found_out_by_a_run_that_it_does_not_know() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let copy = world.store.clone();
    world.restart_master();
    world.restart_master();
    world.restore(copy);
    world.come_back(&[1]);
    let why = why_restored(&mut world);
    assert_eq!(why, Some(RestoredWhy::UnknownRun { server: sid(1) }));
    world.come_back(&[1, 2, 3]);
    world.come_back(&[1, 2, 3]);
    assert!(taken_over(&mut world));
    assert_eq!(world.leader(id), (1, 1));
    let instance = world.master.as_ref().unwrap().authority().meta().run();
    assert_eq!(world.report(1, id).master, Some(instance));
    world.restart_master();
    world.heartbeats();
    assert!(world.status().serving, "found out once, not at every start");
}

#[test]
fn a_file_that_lies_elsewhere_is_an_old_copy() {
    let mut world = World::new(3);
    let home = |inode| Some(Home { device: 1, inode });
    world.home = home(2);
    world.restart_master();
    world.serve(Policy::SyncQuorum, 3);
    world.home = home(3);
    world.restart_master();
    assert_eq!(why_restored(&mut world), Some(RestoredWhy::Elsewhere));
    world.heartbeats();
    world.heartbeats();
    assert!(world.status().serving, "everybody spoke: it goes on");
}

#[test]
fn an_unsettled_volume_has_no_lease_and_no_changes() {
    let (mut world, id, copy) = went_on_after_a_backup(Policy::SyncAll);
    let (leader, _) = world.leader(id);
    let config = world.line(id).config;
    let set: Vec<u32> = vec![leader];
    world.restore(copy);
    world.come_back(&[leader]);
    let epoch = world.report(leader, id).promised;
    let change = ChangeConfig {
        request_id: 900,
        volume: id,
        epoch,
        expected_config: config,
        in_sync: set
            .iter()
            .map(|n| InSyncMember {
                server: sid(*n),
                boot: world.servers[&sid(*n)].boot,
            })
            .collect(),
    };
    world.inbox.clear();
    world.say(leader, ServerToMaster::ChangeConfig(change));
    assert_eq!(world.done(leader), None, "no answer is neither yes nor no");
    world.held_leases.clear();
    world.heartbeat(leader);
    assert!(world.held_leases.is_empty());
}

#[test]
fn a_volume_that_went_live_after_the_backup_is_not_undone() {
    let mut world = World::new(3);
    world.hold_commits = Hold::Yes;
    let conn = world.open(moorline_wire::hello::Identity::Client);
    world.event(crate::ServiceEvent::ConnMessage {
        conn,
        message: moorline_wire::Message::ClientRequest {
            id: 7,
            request: Box::new(ClientRequest::CreateVolume(demo(Policy::SyncQuorum, 3))),
        },
    });
    world.commit_one();
    let intent = world.store.clone();
    world.hold_commits = Hold::No;
    world.deliver();
    world.commit_all();
    world.deliver();
    world.heartbeats();
    world.heartbeats();
    let status = world.status();
    assert!(status.serving, "{status:?}");
    // The intent alone is put back, as a copy.
    world.home = Some(Home {
        device: 1,
        inode: 1,
    });
    let mut copy = intent;
    let (key, mut stored) = copy
        .durable()
        .iter()
        .find(|(key, _)| **key == crate::record::Key::Meta)
        .map(|(key, stored)| (key.clone(), stored.clone()))
        .unwrap();
    if let crate::record::Value::Meta(meta) = &mut stored.value {
        meta.copied_at_unix_ms = Some(5);
    }
    copy.put((key, stored));
    world.restore(copy);
    world.come_back(&[1, 2, 3]);
    world.come_back(&[1, 2, 3]);
    for n in 1..=3 {
        assert_eq!(
            world.servers[&sid(n)].stores.len(),
            1,
            "no store is deleted"
        );
    }
    assert!(world.status().serving);
}

#[test]
fn without_its_directory_a_master_takes_over_what_the_members_know() {
    let (mut world, id, _) = went_on_after_a_backup(Policy::SyncQuorum);
    let line = world.line(id);
    let cluster = world.master.as_ref().unwrap().authority().meta().cluster;
    world.adopts = Some(cluster);
    world.restore(MemoryStore::new());
    // The first that comes names a run that an empty store knows nothing of.
    world.come_back(&[1]);
    world.come_back(&[1]);
    let Some(ClientResponse::Cluster(status)) = world.ask(ClientRequest::Status) else {
        panic!("no status");
    };
    assert_eq!(status.cluster, cluster);
    let unknown = &status.unknown_volumes[0];
    assert_eq!((unknown.name.as_str(), unknown.need), ("demo", Some(2)));
    assert_eq!(unknown.reported, [sid(1)]);
    let taken = world.create(Policy::SyncQuorum, 1);
    let exists = |error: &ClientError| matches!(error, ClientError::Exists { .. });
    assert!(
        matches!(&taken, Some(ClientResponse::Failed(e)) if exists(e)),
        "{taken:?}"
    );
    world.come_back(&[2, 3]);
    world.pass(ms(3_000));
    assert_eq!(world.line(id).epoch, line.epoch);
    assert!(world.status().serving);
    fail_over(&mut world, id);
    assert!(world.leader(id).1 > line.epoch.assignment() + 1_000);
    assert!(world.status().serving);
}

#[test]
fn a_new_master_turns_the_servers_of_another_cluster_away() {
    let (mut world, id, _) = went_on_after_a_backup(Policy::SyncQuorum);
    let cluster = world.servers[&sid(1)].cluster.unwrap();
    world.restore(MemoryStore::new());
    let conn = world.open(world.identity(1));
    let register = world.register(1);
    world.say_on(conn, ServerToMaster::Register(register));
    let refusal = world.inbox.iter().find_map(|(to, message)| match message {
        moorline_wire::Message::MasterToServer(message) if *to == conn => match &**message {
            MasterToServer::Refused(refusal) => Some(refusal.to_string()),
            _ => None,
        },
        _ => None,
    });
    let refusal = refusal.unwrap();
    assert!(
        refusal.contains(&format!("--adopt-cluster {cluster}")),
        "{refusal}"
    );
    assert!(world.closed.contains(&conn));
    world.pass(ms(5_000));
    let known = world.master.as_ref().unwrap().authority().volume(id);
    assert!(known.is_none());
}

#[test]
fn a_directory_of_another_cluster_is_not_adopted() {
    let mut world = World::new(1);
    world.adopts = Some(ClusterId::new(4711));
    let facts = crate::StartFacts {
        now: world.now,
        unix_ms: 0,
        seed: 9,
        home: None,
        adopts: world.adopts,
    };
    let loaded = world.store.durable().clone();
    let error = crate::Master::start(world.config, facts, loaded, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("--adopt-cluster"), "{error}");
}

#[test]
fn a_deleted_volume_is_not_found_again() {
    let (mut world, _, copy) = went_on_after_a_backup(Policy::SyncQuorum);
    world.restore(copy);
    world.come_back(&[1, 2, 3]);
    world.come_back(&[1, 2, 3]);
    let name = "demo".to_owned();
    let gone = world.ask(ClientRequest::DeleteVolume { name });
    assert!(
        matches!(gone, Some(ClientResponse::Deleted { .. })),
        "{gone:?}"
    );
    world.pass(ms(2_000));
    assert_eq!(
        world.ask(ClientRequest::ListVolumes),
        Some(ClientResponse::Volumes(Vec::new()))
    );
}

#[test]
fn two_masters_find_each_other_out() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    // A copy begins another instance; the first one hears of that run, and is the old copy then.
    let first = world.store.clone();
    let copy = world.backup();
    world.restore(copy);
    world.come_back(&[1, 2, 3]);
    world.come_back(&[1, 2, 3]);
    let second: MasterRun = world.report(1, id).master.unwrap();
    world.restore(first);
    world.come_back(&[1]);
    assert!(matches!(
        why_restored(&mut world),
        Some(RestoredWhy::UnknownRun { .. })
    ));
    let third = world.master.as_ref().unwrap().authority().meta().run();
    assert_ne!(third.instance, second.instance);
}

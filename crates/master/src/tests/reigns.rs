use moorline_types::{ConfigVersion, Epoch, Lsn, Openings, Policy, StoreId, VolumeId};
use moorline_wire::control::*;

use super::world::*;
use crate::record::{Trust, Value};

fn events(world: &mut World) -> Vec<EventKind> {
    let name = "demo".to_owned();
    match world.ask(ClientRequest::Events { name, after: 0 }) {
        Some(ClientResponse::Events(rows)) => rows.into_iter().map(|row| row.event).collect(),
        other => panic!("no events: {other:?}"),
    }
}

fn last_cause(world: &mut World) -> Option<EventCause> {
    events(world)
        .into_iter()
        .rev()
        .find_map(|event| match event {
            EventKind::EpochMinted { cause, .. } => Some(cause),
            _ => None,
        })
}

/// The members lose their primary: their leases to it ran out.
fn unfollow(world: &mut World, id: VolumeId) {
    for sim in world.servers.values_mut() {
        if let Some(store) = sim.stores.get_mut(&id) {
            store.report.following = None;
        }
    }
}

fn refused(result: ChangeConfigResult) -> ChangeConfigRefusal {
    match result {
        ChangeConfigResult::Refused { reason, .. } => reason,
        ChangeConfigResult::Recorded(line) => panic!("recorded: {line:?}"),
    }
}

#[test]
fn a_lost_primary_is_followed_by_another_once_its_lease_is_over() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    assert_eq!(world.leader(id), (1, 1));
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(2_000));
    assert_eq!(world.leader(id), (1, 1), "its lease may still run");
    world.pass(ms(200));
    assert_eq!(world.leader(id).1, 2);
    assert_eq!(last_cause(&mut world), Some(EventCause::PrimaryLost));
    world.heartbeats();
    assert!(world.status().serving);
}

#[test]
fn nobody_follows_while_a_majority_does_not_say_that_it_lost_the_primary() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.disconnect(1); // from the master only
    world.pass(ms(10_000));
    assert_eq!(world.leader(id), (1, 1));
    let reason = world.status().reason.unwrap();
    assert!(reason.contains("still follow"), "{reason}");
    world.connect(1); // the same boot: its reign goes on
    world.pass(ms(1_000));
    assert_eq!(world.leader(id), (1, 1));
    assert!(world.status().serving);
}

#[test]
fn a_primary_that_restarted_never_keeps_its_epoch() {
    for policy in [Policy::SyncQuorum, Policy::SyncAll, Policy::BestEffort] {
        for servers in [1, 3] {
            let mut world = World::new(servers);
            let id = world.serve(policy, servers);
            let boot = world.line(id).primary.unwrap().1;
            world.kill(1);
            world.boot(1); // well within its lease
            world.pass(ms(500));
            assert_eq!(world.leader(id), (1, 1), "{policy} {servers}");
            assert!(!world.status().serving);
            world.pass(ms(3_000));
            let line = world.line(id);
            assert_eq!(line.epoch, Epoch::new(2, 0), "{policy} {servers}");
            assert_ne!(line.primary.unwrap().1, boot);
            assert_eq!(last_cause(&mut world), Some(EventCause::PrimaryRestarted));
        }
    }
}

#[test]
fn the_best_log_leads() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.report(2, id).flushed = Some(Lsn::new(50));
    world.report(2, id).last_record_epoch = Epoch::new(1, 0);
    world.report(3, id).flushed = Some(Lsn::new(60));
    world.report(3, id).last_record_epoch = Epoch::ZERO;
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(3_000));
    assert_eq!(
        world.leader(id),
        (2, 2),
        "the last record's epoch decides before its place"
    );
}

#[test]
fn a_primary_that_gives_up_is_followed_at_once_and_by_another() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let epoch = world.line(id).epoch;
    let reason = PrimaryFaultReason::DeviceFailed;
    world.report(1, id).flushed = Some(Lsn::new(99));
    world.heartbeats();
    // It gives up its lease with these words.
    world.held_leases.clear();
    world.say(
        1,
        ServerToMaster::PrimaryFault {
            volume: id,
            epoch,
            reason,
        },
    );
    world.deliver();
    let (leader, epoch) = world.leader(id);
    assert!(leader != 1 && epoch == 2, "{leader} {epoch}");
    // Its words about a reign that is over change nothing.
    let old = Epoch::new(1, 0);
    world.say(
        1,
        ServerToMaster::PrimaryFault {
            volume: id,
            epoch: old,
            reason,
        },
    );
    world.deliver();
    assert_eq!(world.leader(id), (leader, 2));
}

#[test]
fn candidates_that_decline_are_tried_in_turn_with_pauses() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let mut leaders = Vec::new();
    for _ in 0..6 {
        let (leader, _) = world.leader(id);
        leaders.push(leader);
        let epoch = world.line(id).epoch;
        for n in 1..=3 {
            let report = world.report(n, id);
            (report.mark, report.serving) = (MarkState::Pending, Serving::No);
        }
        world.held_leases.clear();
        let decline = ServerToMaster::PromotionFailed {
            volume: id,
            epoch,
            reason: PromotionFailure::CannotFetch,
            better: None,
        };
        world.say(leader, decline);
        world.deliver();
    }
    assert_eq!(leaders[..3], [1, 2, 3]);
    assert_eq!(
        world.leader(id),
        (3, 3),
        "all three are left out for a while"
    );
    world.pass(ms(1_500));
    assert!(world.leader(id).1 > 3);
}

#[test]
fn the_one_that_could_do_better_is_next() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let epoch = world.line(id).epoch;
    world.held_leases.clear();
    let decline = ServerToMaster::PromotionFailed {
        volume: id,
        epoch,
        reason: PromotionFailure::Superseded {
            epoch: Epoch::new(7, 2),
        },
        better: Some(sid(3)),
    };
    world.say(1, decline);
    world.deliver();
    assert_eq!(
        world.leader(id),
        (3, 8),
        "and above every epoch that was named"
    );
}

#[test]
fn a_candidate_that_takes_too_long_gives_way_if_another_could_try() {
    for servers in [1, 3] {
        let mut world = World::new(servers);
        let created = world.create(Policy::SyncQuorum, servers);
        assert!(matches!(created, Some(ClientResponse::Created(_))));
        world.heartbeats();
        let id = world.status().id;
        let report = world.report(1, id);
        report.role = ReplicaRole::Candidate;
        (report.mark, report.serving) = (MarkState::Pending, Serving::No);
        world.pass(ms(5_500));
        assert_eq!(world.leader(id), (1, 1));
        world.pass(ms(4_000));
        match servers {
            1 => assert_eq!(world.leader(id), (1, 1), "nobody else could"),
            _ => assert_eq!(world.leader(id), (2, 2)),
        }
    }
}

#[test]
fn sync_all_mints_without_the_dead_and_only_from_the_set() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    let config = world.line(id).config;
    let result = world.change(1, id, config, &[1, 2]);
    assert!(
        matches!(result, ChangeConfigResult::Recorded(_)),
        "{result:?}"
    );
    world.report(3, id).flushed = Some(Lsn::new(99)); // further, and not in sync
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(3_000));
    let line = world.line(id);
    assert_eq!(line.primary.clone().unwrap().0, sid(2));
    assert_eq!(line.in_sync, [sid(2)]);
    // The last of the set dies: nobody else may lead, however far it is.
    world.kill(2);
    unfollow(&mut world, id);
    world.boot(1);
    world.pass(ms(9_000));
    assert_eq!(world.line(id), line);
    world.boot(2);
    world.pass(ms(3_000));
    assert_eq!(world.line(id).primary.unwrap().0, sid(2));
}

#[test]
fn without_consent_best_effort_waits_for_its_own_store() {
    let mut world = World::new(2);
    let id = world.serve(Policy::BestEffort, 2);
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(10_000));
    assert_eq!(world.leader(id), (1, 1));
    assert!(world.status().reason.unwrap().contains("lossy"));
    world.boot(1);
    world.pass(ms(3_000));
    assert_eq!(world.leader(id), (1, 2));
    let mut world = World::lossy(2);
    let id = world.serve(Policy::BestEffort, 2);
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(3_000));
    assert_eq!(world.leader(id), (2, 2));
}

#[test]
fn too_few_voters_mint_nothing() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.kill(1);
    world.kill(2);
    unfollow(&mut world, id);
    world.pass(ms(10_000));
    assert_eq!(world.leader(id), (1, 1));
    world.boot(2);
    world.pass(ms(1_000));
    assert_eq!(world.leader(id).1, 2);
}

#[test]
fn a_restarted_master_waits_one_lease_before_it_mints() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.crash_master(0);
    world.servers.get_mut(&sid(1)).unwrap().conn = None;
    world.start_master();
    unfollow(&mut world, id);
    world.connect(2);
    world.connect(3);
    world.pass(ms(2_000));
    assert_eq!(
        world.leader(id),
        (1, 1),
        "the run before may have granted a lease just now"
    );
    world.pass(ms(700));
    assert_eq!(world.leader(id).1, 2);
}

#[test]
fn a_restarted_master_leaves_a_living_primary_alone() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    let before = world.line(id);
    world.restart_master();
    world.pass(ms(6_000));
    assert_eq!(world.line(id), before);
    assert!(world.status().serving);
}

#[test]
fn no_lease_is_granted_while_a_successor_is_recorded() {
    let mut world = World::new(1);
    let id = world.serve(Policy::SyncQuorum, 1);
    let epoch = world.line(id).epoch;
    let reason = PrimaryFaultReason::ShuttingDown;
    world.hold_commits = Hold::Yes;
    world.held_leases.clear();
    world.say(
        1,
        ServerToMaster::PrimaryFault {
            volume: id,
            epoch,
            reason,
        },
    );
    world.pass(ms(1_500));
    assert_eq!(world.held.len(), 1, "the next epoch, once");
    assert!(world.held_leases.is_empty());
    world.hold_commits = Hold::No;
    world.commit_all();
    world.deliver();
    world.heartbeats();
    assert_eq!(world.held_leases[&id].0, Epoch::new(2, 0));
}

#[test]
fn an_old_primary_that_returns_while_its_successor_is_recorded_gets_no_lease() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.disconnect(1);
    unfollow(&mut world, id);
    world.hold_commits = Hold::Yes;
    world.pass(ms(3_000));
    assert_eq!(world.held.len(), 1);
    world.held_leases.clear();
    world.connect(1); // the same boot, with nothing new to record
    world.heartbeat(1);
    assert!(world.held_leases.is_empty());
    world.hold_commits = Hold::No;
    world.commit_all();
    world.deliver();
    assert_eq!(world.leader(id).1, 2);
}

#[test]
fn a_master_put_back_from_a_copy_lets_the_primary_be() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    let copy = world.store.clone();
    let config = world.line(id).config;
    let result = world.change(1, id, config, &[1, 2]);
    assert!(matches!(result, ChangeConfigResult::Recorded(_)));
    world.store = copy;
    world.restart_master();
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(9_000));
    assert_eq!(
        world.leader(id),
        (1, 1),
        "server 3 would be thought in sync"
    );
    assert!(world.status().reason.unwrap().contains("may be old"));
}

#[test]
fn the_in_sync_set_changes_by_compare_and_set_only() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    let first = world.line(id).config;
    let old = first;
    for (who, expected, set, want) in [
        (2, first, &[1, 2][..], ChangeConfigRefusal::NotPrimary),
        (1, first.next(), &[1, 2], ChangeConfigRefusal::OtherVersion),
        (
            1,
            ConfigVersion::ZERO,
            &[1, 2],
            ChangeConfigRefusal::OtherVersion,
        ),
        (1, first, &[2, 3], ChangeConfigRefusal::WithoutPrimary),
        (1, first, &[1, 1, 2], ChangeConfigRefusal::NotMembers),
        (1, first, &[1], ChangeConfigRefusal::BelowFloor), // two copies at least
    ] {
        assert_eq!(
            refused(world.change(who, id, expected, set)),
            want,
            "{who} {set:?}"
        );
    }
    assert_eq!(world.line(id).config, first);
    let shrunk = world.change(1, id, first, &[1, 2]);
    let ChangeConfigResult::Recorded(line) = shrunk else {
        panic!("not recorded: {shrunk:?}");
    };
    assert_eq!((line.config, line.in_sync.len()), (first.next(), 2));
    // Its answer was lost: the same again is answered the same and changes nothing.
    let again = world.change(1, id, old, &[1, 2]);
    assert_eq!(again, ChangeConfigResult::Recorded(line.clone()));
    let grown = world.change(1, id, line.config, &[1, 2, 3]);
    assert!(matches!(grown, ChangeConfigResult::Recorded(_)));
    // Below the floor it may grow, though not to enough.
    assert_eq!(world.line(id).in_sync.len(), 3);
}

#[test]
fn a_request_waits_for_the_transaction_in_flight_and_is_judged_after_it() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    world.hold_commits = Hold::Yes;
    let config = world.line(id).config;
    world.inbox.clear();
    for set in [&[1, 2][..], &[1, 3]] {
        let epoch = world.line(id).epoch;
        let in_sync = set.iter().map(|m| InSyncMember {
            server: sid(*m),
            boot: world.servers[&sid(*m)].boot,
        });
        world.requests += 1;
        let change = ChangeConfig {
            request_id: world.requests,
            volume: id,
            epoch,
            expected_config: config,
            in_sync: in_sync.collect(),
        };
        world.say(1, ServerToMaster::ChangeConfig(change));
    }
    assert_eq!(world.held.len(), 1);
    world.commit_one();
    assert!(world.held.is_empty());
    assert_eq!(
        refused(world.done(1).unwrap()),
        ChangeConfigRefusal::OtherVersion
    );
    assert_eq!(world.line(id).in_sync, [sid(1), sid(2)]);
}

#[test]
fn a_copy_of_a_refused_change_is_refused_though_it_would_fit_by_then() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    let first = world.line(id).config;
    let late = (id, first.next());
    let early = world.change_as(20, 1, late, &[1, 2]);
    assert_eq!(refused(early), ChangeConfigRefusal::OtherVersion);
    let other = world.change_as(21, 1, (id, first), &[1, 3]);
    assert!(matches!(other, ChangeConfigResult::Recorded(_)));
    // Whoever asked gave it up at the refusal, and requires server 2 no more.
    let copy = world.change_as(20, 1, late, &[1, 2]);
    assert_eq!(refused(copy), ChangeConfigRefusal::OtherVersion);
    assert_eq!(world.line(id).in_sync, [sid(1), sid(3)]);
    let next = world.change_as(22, 1, late, &[1, 2, 3]);
    assert!(matches!(next, ChangeConfigResult::Recorded(_)));
}

#[test]
fn a_lost_compare_and_set_takes_over_what_is_there() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncAll, 3);
    // Somebody else changes the record behind the master's back.
    let mut other = world
        .store
        .durable()
        .values()
        .find_map(|stored| match &stored.value {
            Value::Volume(record) => Some((stored.version, record.clone())),
            _ => None,
        })
        .unwrap();
    other.1.line.config = other.1.line.config.next();
    other.1.line.in_sync = vec![sid(1), sid(3)];
    let theirs = other.1.line.clone();
    world.store.begin(crate::store::Txn {
        id: crate::store::TxnId::new(0),
        changes: vec![crate::store::Change {
            key: crate::record::Key::Volume(id),
            expected: crate::store::Expected::Version(other.0),
            value: Some(Value::Volume(other.1)),
        }],
    });
    world.store.finish().unwrap().1.unwrap();
    let config = world.line(id).config;
    let result = world.change(1, id, config, &[1, 2]);
    let ChangeConfigResult::Refused { reason, line } = result else {
        panic!("recorded over another's change");
    };
    assert_eq!(
        (reason, line),
        (ChangeConfigRefusal::OtherVersion, Some(theirs.clone()))
    );
    let result = world.change(1, id, theirs.config, &[1, 2, 3]);
    assert!(matches!(result, ChangeConfigResult::Recorded(_)));
}

#[test]
fn a_wiped_store_has_no_vote_until_it_is_recorded() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.kill(2);
    world.wipe(2);
    world.boot(2);
    world.heartbeats();
    let status = world.status();
    assert_eq!(status.replicas[1].vote, VoteState::OtherStore);
    assert_eq!(status.replicas[0].vote, VoteState::Yes);
    let seen = EventKind::VoteRefused {
        server: sid(2),
        vote: VoteState::OtherStore,
    };
    assert_eq!(
        events(&mut world)
            .iter()
            .filter(|event| **event == seen)
            .count(),
        1
    );
    // It is not chosen, and does not count towards enough.
    world.kill(1);
    unfollow(&mut world, id);
    world.pass(ms(10_000));
    assert_eq!(world.leader(id), (1, 1));
    world.boot(1);
    world.pass(ms(3_000));
    assert_ne!(world.leader(id).0, 2);
    // It may not be called in sync either.
    let (leader, _) = world.leader(id);
    let config = world.line(id).config;
    world.heartbeats();
    assert!(!world.line(id).in_sync.contains(&sid(2)));
    let result = world.change(leader, id, config, &[1, 2, 3]);
    assert_eq!(refused(result), ChangeConfigRefusal::NoVote);
    vote_returns(&mut world, id, leader, config);
}

fn vote_returns(world: &mut World, id: VolumeId, leader: u32, config: ConfigVersion) {
    let old = world.line(id).member(&sid(2)).unwrap().store;
    let new = world.report(2, id).store;
    let epoch = world.line(id).epoch;
    for (old, new, want) in [
        (
            Some(StoreId::new(1)),
            new,
            Some(ChangeConfigRefusal::OtherStore),
        ),
        (old, StoreId::new(1), Some(ChangeConfigRefusal::OtherStore)), // not there
        (old, new, None),
        (old, new, None), // asked again
    ] {
        world.inbox.clear();
        world.say(
            leader,
            ServerToMaster::ChangeVote(ChangeVote {
                request_id: 9,
                volume: id,
                epoch,
                expected_config: config,
                server: sid(2),
                old,
                new,
            }),
        );
        let result = world.done(leader).unwrap();
        match want {
            Some(want) => assert_eq!(refused(result), want),
            None => assert!(
                matches!(result, ChangeConfigResult::Recorded(_)),
                "{result:?}"
            ),
        }
    }
    assert_eq!(world.line(id).config, config.next());
    assert_eq!(world.status().replicas[1].vote, VoteState::Yes);
}

#[test]
fn a_rolled_back_or_copied_store_has_no_vote_for_ever() {
    for back in [2, 0] {
        let mut world = World::new(3);
        let id = world.serve(Policy::SyncQuorum, 3);
        for _ in 0..2 {
            world.kill(3);
            world.boot(3);
        }
        world.heartbeats();
        assert_eq!(world.status().replicas[2].vote, VoteState::Yes);
        world.kill(3);
        // Opened once more from an older copy: its counter is below, or at, the last one seen.
        let report = world.report(3, id);
        let mut openings = report.openings.list().to_vec();
        openings.truncate(openings.len() - 1 - back / 2);
        report.open = openings.last().unwrap().open;
        report.openings = Openings::from_list(openings).unwrap();
        world.boot(3);
        let want = if back == 0 {
            VoteState::Copied
        } else {
            VoteState::RolledBack
        };
        assert_eq!(world.status().replicas[2].vote, want);
        for _ in 0..5 {
            world.kill(3);
            world.boot(3);
        }
        assert_eq!(world.status().replicas[2].vote, want);
        world.restart_master();
        assert_eq!(world.status().replicas[2].vote, want);
        let record = world
            .master
            .as_ref()
            .unwrap()
            .authority()
            .volume(id)
            .unwrap();
        assert_eq!(record.seen[&sid(3)].trust, Trust::Revoked(want));
    }
}

#[cfg(feature = "mutants")]
#[test]
fn the_planted_bug_gives_a_wiped_store_its_vote() {
    let config = crate::MasterConfig {
        log_bytes_min: 1 << 20,
        mutants: crate::Mutants::NONE.with(crate::Mutant::StoreIdentityIgnored),
        ..crate::MasterConfig::default()
    };
    let mut world = World::with_config(3, config);
    let id = world.serve(Policy::SyncQuorum, 3);
    world.kill(2);
    world.wipe(2);
    world.boot(2);
    world.heartbeats();
    assert_eq!(world.status().replicas[1].vote, VoteState::Yes);
    assert_eq!(
        world.line(id).member(&sid(2)).unwrap().store,
        Some(world.report(2, id).store)
    );
}

#[test]
fn status_says_what_is_served_and_how_well() {
    let mut world = World::new(3);
    let id = world.serve(Policy::SyncQuorum, 3);
    for n in [2, 3] {
        let peer = PeerReport {
            server: sid(n),
            state: PeerState::InSync,
            received: Lsn::new(1),
            flushed: Lsn::new(1),
            lag_records: 0,
            lag_bytes: 0,
            session: None,
        };
        world.report(1, id).peers.push(peer);
    }
    world.heartbeats();
    let status = world.status();
    assert_eq!(status.health, Health::Ok);
    assert_eq!(status.nbd_uri.as_deref(), Some("nbd://h:10809/demo"));
    let json = serde_json::to_value(&status).unwrap();
    for field in [
        "name",
        "size",
        "policy",
        "ack",
        "epoch",
        "config_version",
        "primary",
        "in_sync_set",
        "committed_lsn",
        "replicas",
    ] {
        assert!(json.get(field).is_some(), "{field}");
    }
    for field in [
        "server_id",
        "state",
        "vote",
        "store_uuid",
        "head_lsn",
        "flushed_lsn",
        "applied_lsn",
        "checkpoint_lsn",
        "tail_lsn",
        "lag_records",
        "lag_bytes",
        "session",
        "pins",
    ] {
        assert!(json["replicas"][0].get(field).is_some(), "{field}");
    }
    assert_eq!(json["epoch"], 1);
    assert_eq!(json["policy"], "sync_quorum");
    world.kill(3);
    assert_eq!(world.status().health, Health::Degraded);
    world.kill(2);
    world.kill(1);
    assert_eq!(world.status().health, Health::Unavailable);
}

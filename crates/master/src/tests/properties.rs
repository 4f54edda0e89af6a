//! Any order of events: what the world checks of everything told must hold.

use moorline_types::{Epoch, Lsn, Policy, VolumeId};
use moorline_wire::control::*;
use proptest::prelude::*;

use super::world::*;

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Kill(u32),
    Boot(u32),
    Cut(u32),
    Connect(u32),
    Wipe(u32),
    Heartbeat(u32),
    Unfollow,
    Fault(u32),
    Decline(u32),
    Stall(u32),
    Write(u32, u64),
    Change(u32, Vec<u32>, u64),
    HoldCommits,
    CommitOne,
    CommitAll,
    CrashMaster(usize),
    Delete,
    Create(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let server = 1..=3_u32;
    prop_oneof![
        6 => (1..60_u64).prop_map(|n| Step::Pass(n * 50)),
        1 => server.clone().prop_map(Step::Kill),
        2 => server.clone().prop_map(Step::Boot),
        1 => server.clone().prop_map(Step::Cut),
        2 => server.clone().prop_map(Step::Connect),
        1 => server.clone().prop_map(Step::Wipe),
        3 => server.clone().prop_map(Step::Heartbeat),
        2 => Just(Step::Unfollow),
        1 => server.clone().prop_map(Step::Fault),
        2 => server.clone().prop_map(Step::Decline),
        1 => server.clone().prop_map(Step::Stall),
        2 => (server.clone(), 1..50_u64).prop_map(|(n, lsn)| Step::Write(n, lsn)),
        3 => (server.clone(), proptest::collection::vec(server, 1..4), 0..2_u64)
            .prop_map(|(n, set, off)| Step::Change(n, set, off)),
        1 => Just(Step::HoldCommits),
        2 => Just(Step::CommitOne),
        2 => Just(Step::CommitAll),
        1 => (0..3_usize).prop_map(Step::CrashMaster),
        1 => Just(Step::Delete),
        1 => (1..=3_u32).prop_map(Step::Create),
    ]
}

fn lead(world: &World, n: u32, id: VolumeId) -> Option<Epoch> {
    let line = &world.master.as_ref()?.authority().volume(id)?.line;
    let (server, boot) = line.primary.as_ref()?;
    let leads = *server == sid(n) && *boot == world.servers[&sid(n)].boot;
    leads.then_some(line.epoch)
}

fn run(world: &mut World, policy: Policy, step: &Step) {
    let id = world
        .master
        .as_ref()
        .and_then(|m| m.authority().volume_id("demo"));
    let held =
        |world: &World, n: u32| id.filter(|id| world.servers[&sid(n)].stores.contains_key(id));
    match step {
        Step::Pass(n) => world.pass(ms(*n)),
        Step::Kill(n) | Step::Cut(n) => world.disconnect(*n),
        Step::Boot(n) => {
            world.disconnect(*n);
            world.boot(*n);
        }
        Step::Connect(n) => {
            if world.servers[&sid(*n)].conn.is_none() {
                world.connect(*n);
            }
        }
        Step::Wipe(n) => {
            world.disconnect(*n);
            world.wipe(*n);
            world.boot(*n);
        }
        Step::Heartbeat(n) => world.heartbeat(*n),
        Step::Unfollow => {
            for store in world
                .servers
                .values_mut()
                .flat_map(|sim| sim.stores.values_mut())
            {
                store.report.following = None;
            }
        }
        Step::Fault(n) | Step::Decline(n) => {
            let Some((id, epoch)) = id.and_then(|id| Some((id, lead(world, *n, id)?))) else {
                return;
            };
            // With these words it gives its lease up, if the master hears them.
            if world.servers[&sid(*n)].conn.is_some() {
                world.held_leases.remove(&id);
            }
            let message = match step {
                Step::Fault(_) => ServerToMaster::PrimaryFault {
                    volume: id,
                    epoch,
                    reason: PrimaryFaultReason::Fenced,
                },
                _ => ServerToMaster::PromotionFailed {
                    volume: id,
                    epoch,
                    reason: PromotionFailure::TimedOut,
                    better: None,
                },
            };
            world.say(*n, message);
            world.deliver();
        }
        Step::Stall(n) => {
            if let Some(id) = held(world, *n) {
                let report = world.report(*n, id);
                report.role = ReplicaRole::Candidate;
                (report.mark, report.serving) = (MarkState::Pending, Serving::No);
            }
        }
        Step::Write(n, lsn) => {
            if let Some(id) = held(world, *n) {
                let report = world.report(*n, id);
                report.head = report.head.max(Lsn::new(*lsn));
                report.flushed = Some(report.head);
            }
        }
        Step::Change(n, set, off) => {
            let known = id.filter(|id| {
                world
                    .master
                    .as_ref()
                    .is_some_and(|m| m.authority().volume(*id).is_some())
            });
            if let Some(id) = known {
                let version = world.line(id).config.get() + off;
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
                    expected_config: moorline_types::ConfigVersion::new(version),
                    in_sync: in_sync.collect(),
                };
                world.say(*n, ServerToMaster::ChangeConfig(change));
                world.deliver();
            }
        }
        Step::HoldCommits => world.hold_commits = Hold::Yes,
        Step::CommitOne => {
            if !world.held.is_empty() {
                world.commit_one();
                world.deliver();
            }
        }
        Step::CommitAll => {
            world.hold_commits = Hold::No;
            world.commit_all();
            world.deliver();
        }
        Step::CrashMaster(kept) => {
            world.crash_master(*kept);
            world.hold_commits = Hold::No;
            world.start_master();
        }
        Step::Delete => {
            let _answer = world.ask(ClientRequest::DeleteVolume {
                name: "demo".into(),
            });
        }
        Step::Create(replicas) => {
            let _answer = world.create(policy, *replicas);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The world asserts: never two lines of one version, epochs only rise, nothing told before it
    /// is durable, no epoch while a lease may run. And once all faults end, it is served again.
    #[test]
    fn whatever_happens_the_lines_are_sound_and_service_returns(
        steps in proptest::collection::vec(step(), 1..60),
        policy in prop_oneof![Just(Policy::SyncQuorum), Just(Policy::SyncAll), Just(Policy::BestEffort)],
    ) {
        let mut world = World::lossy(3);
        let wiped = steps.iter().any(|step| matches!(step, Step::Wipe(_)));
        world.serve(policy, 3);
        for step in &steps {
            run(&mut world, policy, step);
        }
        world.hold_commits = Hold::No;
        world.commit_all();
        world.deliver();
        for n in 1..=3 {
            world.disconnect(n);
            world.boot(n);
        }
        world.pass(ms(45_000));
        let id = world.master.as_ref().unwrap().authority().volume_id("demo");
        if id.is_some() && !wiped {
            prop_assert!(world.status().serving, "{:?}", world.status());
        }
    }
}

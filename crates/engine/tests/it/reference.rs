//! Random events, several replicas: the engine and the model answer alike after every one.

use moorline_engine::{
    Action, Actions, Answer, Applied, Bucket, CatchUpBudget, Cause, Checkpoint, Event,
    Fact as EngineFact, HandshakeFailure, Image, PinKind, PinRefusal, PinRefusedReason,
    PrimaryFacts, Raise, RebuildFacts, Registry, RegistryIdentity, ReplicaFacts, SenderConfig,
    SessionKind, SessionLimits, SessionStamp, What,
};
use moorline_types::{
    AckPoint, AssignmentLine, BlockCount, ConfigVersion, Epoch, EpochStart, Instant, Lsn, Member,
    NoQuorum, OpenCount, Policy, ServerId, SessionId, VolumeId,
};
use proptest::prelude::*;

use crate::model::{COMMITTED, EXTENTS, Fact, HEAD, HEAD_NOW, Model, Said, TAIL};

const HISTORY: [EpochStart; 1] = [EpochStart {
    epoch: Epoch::new(1, 0),
    first: Lsn::new(1),
}];
const OPEN: OpenCount = OpenCount::new(7);
const SERVERS: [u64; 3] = [2, 3, 4];

/// Whom no session ever was.
const NOBODY: SessionStamp = SessionStamp {
    session: SessionId::new(OPEN, 0),
    epoch: Epoch::ZERO,
};

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Assigned {
        epoch: u64,
        config: u64,
    },
    Raised(u64),
    LinkUp(u64),
    LinkLost(u64),
    Silent(u64),
    Request(u64, SessionKind),
    Told {
        server: u64,
        stale: Stale,
        fact: Fact,
    },
}

/// In whose name a fact is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stale {
    No,
    OtherSession,
    OlderEpoch,
    NewerEpoch,
}

fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        4 => (0..25u64, 0..25u64).prop_map(|(head, lag)| Fact::Answered {
            head,
            flushed: head.saturating_sub(lag / 3),
        }),
        2 => Just(Fact::Offered),
        1 => Just(Fact::NotMember),
        4 => Just(Fact::Bound),
        1 => Just(Fact::PinRefused),
        1 => Just(Fact::PinBroken),
        3 => prop_oneof![Just(Fact::Cut(HEAD)), Just(Fact::Cut(HEAD - 1))],
        8 => (0..HEAD_NOW + 2).prop_map(Fact::Acked),
        4 => prop_oneof![10..HEAD_NOW, 0..HEAD_NOW].prop_map(Fact::Joined),
        4 => Just(Fact::Recorded),
        4 => (1..EXTENTS + 2).prop_map(Fact::Laid),
        3 => (0..HEAD).prop_map(Fact::Whole),
        1 => Just(Fact::ReadFailed),
        1 => Just(Fact::Panicked),
        1 => Just(Fact::Cancelled),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let server = || prop::sample::select(&SERVERS[..]);
    let stale = prop_oneof![
        20 => Just(Stale::No),
        1 => Just(Stale::OtherSession),
        1 => Just(Stale::OlderEpoch),
        1 => Just(Stale::NewerEpoch),
    ];
    prop_oneof![
        2 => (1..5u64, 1..4u64).prop_map(|(epoch, config)| Step::Assigned { epoch, config }),
        1 => (1..6u64).prop_map(Step::Raised),
        6 => server().prop_map(Step::LinkUp),
        1 => server().prop_map(Step::LinkLost),
        1 => server().prop_map(Step::Silent),
        1 => server().prop_map(|server| Step::Request(server, SessionKind::CatchUp)),
        4 => server().prop_map(|server| Step::Request(server, SessionKind::Rebuild)),
        60 => (server(), stale, fact())
            .prop_map(|(server, stale, fact)| Step::Told { server, stale, fact }),
    ]
}

/// What happens to one replica.
fn step_of(server: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::LinkUp(server)),
        1 => Just(Step::LinkLost(server)),
        1 => Just(Step::Silent(server)),
        4 => Just(Step::Request(server, SessionKind::Rebuild)),
        40 => fact().prop_map(move |fact| Step::Told { server, stale: Stale::No, fact }),
    ]
}

/// What the assignment of (epoch, config) says: always the same, with members that come, go and
/// move, forwards and backwards.
fn members(epoch: u64, config: u64) -> Vec<(u64, u64)> {
    let salt = epoch * 5 + config * 3;
    let named = SERVERS
        .iter()
        .filter(|server| !(salt + *server).is_multiple_of(7));
    named.map(|server| (*server, (salt + server) % 4)).collect()
}

pub(crate) fn server_id(n: u64) -> ServerId {
    format!("s{n}").parse().expect("a server id")
}

pub(crate) fn line(epoch: u64, config: u64) -> AssignmentLine {
    let member = |(n, version): (u64, u64)| Member {
        server: server_id(n),
        store: None,
        open: OpenCount::new(1),
        opened_by: None,
        boot: None,
        data_addr: format!("10.0.{n}.{version}:1"),
        control_addr: String::new(),
        nbd_addr: String::new(),
        endpoint_version: version,
    };
    AssignmentLine {
        volume: VolumeId::new(1),
        name: "demo".into(),
        size_blocks: BlockCount::new(1),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 1,
        epoch: Epoch::new(epoch, 0),
        config: ConfigVersion::new(config),
        primary: None,
        members: members(epoch, config).into_iter().map(member).collect(),
        in_sync: Vec::new(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2_000,
    }
}

/// The engine's words for the model's.
pub(crate) fn engine_fact(fact: Fact) -> EngineFact<'static> {
    let lsn = Lsn::new;
    match fact {
        Fact::Answered { head, flushed } => EngineFact::HandshakeAnswered {
            primary: PrimaryFacts {
                history: &HISTORY,
                head: lsn(HEAD),
                committed: lsn(COMMITTED),
                tail: lsn(TAIL),
                checkpoint: lsn(TAIL),
                lowest_pin: None,
                given_up: &[],
            },
            replica: ReplicaFacts {
                history: if head == 0 { &[] } else { &HISTORY },
                head: lsn(head),
                flushed: Some(lsn(flushed)),
                applied: Lsn::ZERO,
                checkpoint: Lsn::ZERO,
                tail: Lsn::ZERO,
                committed: Lsn::ZERO,
                image: Image::Whole,
                given_up: &[],
            },
        },
        Fact::Offered => EngineFact::RebuildOffered(RebuildFacts {
            checkpoint: Checkpoint::Trusted(lsn(TAIL)),
            tail: lsn(TAIL),
            head: lsn(HEAD),
            committed: lsn(COMMITTED),
            trusted_common: None,
            source_map_from: Lsn::ZERO,
            replica_map_from: Lsn::ZERO,
            image_extents: EXTENTS,
            delta_extents: 0,
        }),
        Fact::NotMember => EngineFact::HandshakeRefused(HandshakeFailure::NotMember),
        Fact::Bound => EngineFact::PlanBound,
        Fact::PinRefused => EngineFact::PinRefused(PinRefusal {
            pin: PinKind::History,
            lsn: lsn(TAIL),
            reason: PinRefusedReason::Reclaimed,
        }),
        Fact::PinBroken => EngineFact::PinBroken {
            pin: PinKind::History,
            lsn: lsn(TAIL),
        },
        Fact::Cut(through) => EngineFact::TruncationRecorded {
            through: lsn(through),
        },
        Fact::Acked(flushed) => EngineFact::Acknowledged {
            flushed: lsn(flushed),
            head: lsn(HEAD_NOW),
        },
        Fact::Joined(at) => EngineFact::Joined {
            join_point: lsn(at),
        },
        Fact::Recorded => EngineFact::InSyncRecorded,
        Fact::Laid(extents) => EngineFact::ExtentsLaid { extents },
        Fact::Whole(target) => EngineFact::BaseWhole {
            committed: lsn(target),
        },
        Fact::ReadFailed => EngineFact::ReadFailed,
        Fact::Panicked => EngineFact::ExecutorPanicked,
        Fact::Cancelled => EngineFact::CancelRequested,
    }
}

/// The engine, driven by steps.
struct Engine {
    registry: Registry,
    out: Actions,
    started: usize,
    released: usize,
}

impl Engine {
    fn new() -> Self {
        let identity = RegistryIdentity {
            volume: VolumeId::new(1),
            own: server_id(1),
            open: OPEN,
        };
        // Time is another test's business.
        let config = SenderConfig {
            limits: SessionLimits {
                handshake_max: None,
                truncation_max: None,
                joining_max: None,
                budget: CatchUpBudget::UNLIMITED,
            },
            ..SenderConfig::default()
        };
        Self {
            registry: Registry::new(identity, Epoch::new(1, 0), config),
            out: Actions::new(),
            started: 0,
            released: 0,
        }
    }

    fn latest(&self, server: u64) -> Option<SessionStamp> {
        let session = self.registry.sender(&server_id(server))?.session()?;
        Some(session.stamp())
    }

    fn take(&mut self, step: Step, stamp: SessionStamp) -> Said {
        let (now, before) = (Instant::ZERO, self.registry.clone());
        let (registry, out) = (&mut self.registry, &mut self.out);
        let event = |server: u64, event, registry: &mut Registry, out: &mut Actions| {
            said(registry.handle(now, &server_id(server), event, out))
        };
        let answer = match step {
            Step::Assigned { epoch, config } => {
                match registry.apply(now, &line(epoch, config), out) {
                    Applied::Reconciled(_) => Said::Done,
                    Applied::Unchanged => Said::Unchanged,
                    Applied::Refused(_) => Said::Refused,
                }
            }
            Step::Raised(to) => match registry.raise_epoch(now, Epoch::new(to, 0), out) {
                Raise::Raised { .. } => Said::Done,
                Raise::Same => Said::Unchanged,
                Raise::Refused(_) => Said::Refused,
            },
            Step::LinkUp(server) => {
                said(registry.link_up(now, &server_id(server), Cause::Reconnect, out))
            }
            Step::LinkLost(server) => event(server, Event::LinkLost, registry, out),
            Step::Silent(server) => event(server, Event::PeerSilent, registry, out),
            Step::Request(server, kind) => {
                let what = (kind, Cause::Operator);
                said(registry.request_session(now, &server_id(server), what, out))
            }
            Step::Told { server, fact, .. } => {
                let fact = engine_fact(fact);
                event(server, Event::Session { stamp, fact }, registry, out)
            }
        };
        self.registry.assert_invariants();
        if answer != Said::Done {
            let senders = |registry: &Registry| -> Vec<_> {
                registry
                    .senders()
                    .map(|(_, sender)| sender.clone())
                    .collect()
            };
            assert_eq!(
                senders(&before),
                senders(&self.registry),
                "{step:?} changed something"
            );
        }
        self.count();
        answer
    }

    fn count(&mut self) {
        for directed in self.out.drain(..) {
            match directed.action {
                Action::Emit(event) if matches!(event.what, What::SessionCreated { .. }) => {
                    self.started += 1;
                }
                Action::Release { .. } => self.released += 1,
                Action::Connect { .. }
                | Action::SendHandshake { .. }
                | Action::BindPlan(_)
                | Action::SendTruncate { .. }
                | Action::StartShipping { .. }
                | Action::Join { .. }
                | Action::RequestGrowth { .. }
                | Action::JoinForRebuild { .. }
                | Action::StartBase { .. }
                | Action::RaiseCommitted { .. }
                | Action::TellNeedsRebuild { .. }
                | Action::StopVolume(_)
                | Action::Transitioned { .. }
                | Action::Moved { .. }
                | Action::Emit(_) => {}
            }
        }
    }

    fn buckets(&self) -> Vec<Option<Bucket>> {
        let bucket = |server: &u64| Some(self.registry.sender(&server_id(*server))?.bucket());
        SERVERS.iter().map(bucket).collect()
    }

    fn live(&self) -> usize {
        let senders = self.registry.senders();
        senders
            .filter(|(_, sender)| sender.live_session().is_some())
            .count()
    }
}

const fn said(answer: Answer) -> Said {
    match answer {
        Answer::Done => Said::Done,
        Answer::Unchanged(_) => Said::Unchanged,
        Answer::Refused(_) => Said::Refused,
    }
}

/// The stamp that a step names, as the model numbers it.
fn named(model: &Model, step: Step) -> (u64, u64) {
    let Step::Told { server, stale, .. } = step else {
        return (0, 0);
    };
    let (id, epoch) = model.latest(server).unwrap_or((0, model.epoch));
    match stale {
        Stale::No => (id, epoch),
        Stale::OtherSession => (id + 100_000, epoch),
        Stale::OlderEpoch => (id, epoch - 1),
        Stale::NewerEpoch => (id, epoch + 1),
    }
}

fn model_take(model: &mut Model, step: Step, stamp: (u64, u64)) -> Said {
    match step {
        Step::Assigned { epoch, config } => model.assigned(epoch, config, &members(epoch, config)),
        Step::Raised(to) => model.raised(to),
        Step::LinkUp(server) => model.link_up(server),
        Step::LinkLost(server) => model.link_lost(server),
        Step::Silent(server) => model.silent(server),
        Step::Request(server, kind) => model.request(server, kind),
        Step::Told { server, fact, .. } => model.told(server, stamp, fact),
    }
}

/// All that can be seen of both sides, after each step.
fn agree(engine: &Engine, model: &Model) {
    let buckets: Vec<_> = SERVERS.iter().map(|server| model.bucket(*server)).collect();
    assert_eq!(engine.buckets(), buckets);
    assert_eq!(engine.started, model.started, "recoveries begun");
    assert_eq!(engine.registry.epoch(), Epoch::new(model.epoch, 0));
    for server in SERVERS {
        let counts = engine.latest(server).is_some_and(|stamp| {
            let sender = engine.registry.sender(&server_id(server));
            sender.is_some_and(|sender| sender.counts_acks(stamp).is_ok())
        });
        assert_eq!(
            counts,
            model.counts(server),
            "s{server}: acknowledgements count"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_engine_answers_like_the_model(steps in prop::collection::vec(step(), 1..250)) {
        let (mut engine, mut model) = (Engine::new(), Model::new(1));
        for step in std::iter::once(Step::Assigned { epoch: 1, config: 1 }).chain(steps) {
            let (id, epoch) = named(&model, step);
            let stamp = SessionStamp {
                session: SessionId::new(OPEN, id),
                epoch: Epoch::new(epoch, 0),
            };
            let want = model_take(&mut model, step, (id, epoch));
            prop_assert_eq!(engine.take(step, stamp), want, "{:?} {:?}", step, engine.buckets());
            agree(&engine, &model);
        }
        // Every attempt that began ends once, or lives.
        prop_assert_eq!(engine.started, engine.released + engine.live());
    }

    #[test]
    fn what_happens_twice_happened_once(steps in prop::collection::vec(step(), 1..120)) {
        let (mut once, mut twice) = (Engine::new(), Engine::new());
        for step in std::iter::once(Step::Assigned { epoch: 1, config: 1 }).chain(steps) {
            let stamp = |engine: &Engine| match step {
                Step::Told { server, stale: Stale::No, .. } => engine.latest(server),
                Step::Told { .. } | Step::Assigned { .. } | Step::Raised(_) | Step::LinkUp(_)
                | Step::LinkLost(_) | Step::Silent(_) | Step::Request(..) => None,
            };
            let (one, two) = (stamp(&once).unwrap_or(NOBODY), stamp(&twice).unwrap_or(NOBODY));
            let said = once.take(step, one);
            prop_assert_eq!(twice.take(step, two), said);
            prop_assert_ne!(twice.take(step, two), Said::Done, "{:?} was taken twice", step);
            prop_assert_eq!(once.buckets(), twice.buckets());
            prop_assert_eq!(once.started, twice.started);
        }
    }

    #[test]
    fn what_was_taken_in_once_changes_nothing_however_late_it_comes_again(
        steps in prop::collection::vec((step(), any::<prop::sample::Index>()), 1..150),
    ) {
        let mut engine = Engine::new();
        let mut taken = Vec::new();
        let first = (Step::Assigned { epoch: 1, config: 1 }, steps[0].1);
        for (step, again) in std::iter::once(first).chain(steps) {
            let stamp = match step {
                Step::Told { server, .. } => engine.latest(server),
                Step::Assigned { .. } | Step::Raised(_) | Step::LinkUp(_) | Step::LinkLost(_)
                | Step::Silent(_) | Step::Request(..) => None,
            };
            let stamp = stamp.unwrap_or(NOBODY);
            if engine.take(step, stamp) == Said::Done && matches!(step, Step::Told { .. }) {
                taken.push((step, stamp));
            }
            if !taken.is_empty() {
                let (step, stamp) = taken[again.index(taken.len())];
                let started = engine.started;
                // That nothing changed then is checked by the engine's driver.
                prop_assert_ne!(engine.take(step, stamp), Said::Done, "{:?} counted twice", step);
                prop_assert_eq!(engine.started, started);
            }
        }
    }

    #[test]
    fn what_happens_to_different_replicas_commutes(
        one in prop::collection::vec(step_of(2), 1..80),
        other in prop::collection::vec(step_of(3), 1..80),
        mixed in prop::collection::vec(any::<bool>(), 160),
    ) {
        let run = |order: &[bool]| {
            let mut engine = Engine::new();
            let _first = engine.take(Step::Assigned { epoch: 1, config: 1 }, NOBODY);
            let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
            for turn in order.iter().chain(std::iter::repeat_n(&true, 160)) {
                let next = if *turn { one.next().or_else(|| other.next()) } else {
                    other.next().or_else(|| one.next())
                };
                let Some(&step) = next else { break };
                let stamp = match step {
                    Step::Told { server, .. } => engine.latest(server),
                    Step::Assigned { .. } | Step::Raised(_) | Step::LinkUp(_) | Step::LinkLost(_)
                    | Step::Silent(_) | Step::Request(..) => None,
                };
                let _any = engine.take(step, stamp.unwrap_or(NOBODY));
            }
            // Ids are given out in the order of asking; nothing else may differ.
            let status = engine.registry.status().into_iter().map(|sender| {
                let session = sender.session.map(|it| (it.kind, it.cause, it.phase, it.ended, it.progress));
                (sender.replica, sender.bucket, sender.degraded, sender.needs_rebuild, session)
            });
            (status.collect::<Vec<_>>(), engine.started, engine.released)
        };
        prop_assert_eq!(run(&[]), run(&mixed));
    }

    #[test]
    fn acknowledgements_in_any_order_prove_the_same(
        acks in prop::collection::vec(0..HEAD, 1..20).prop_shuffle(),
    ) {
        let run = |acks: &[u64]| {
            let mut engine = Engine::new();
            let fact = |fact| Step::Told { server: 2, stale: Stale::No, fact };
            let mut steps = vec![Step::Assigned { epoch: 1, config: 1 }, Step::LinkUp(2)];
            steps.push(fact(Fact::Answered { head: 6, flushed: 6 }));
            steps.push(fact(Fact::Bound));
            steps.extend(acks.iter().map(|ack| fact(Fact::Acked(*ack))));
            for step in steps {
                let stamp = engine.latest(2);
                let _any = engine.take(step, stamp.unwrap_or(NOBODY));
            }
            (engine.registry.status(), engine.started)
        };
        let mut sorted = acks.clone();
        sorted.sort_unstable();
        prop_assert_eq!(run(&acks), run(&sorted));
    }
}

#[test]
fn the_events_of_these_runs_reach_every_bucket() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 250);
    let mut reached = std::collections::BTreeMap::new();
    for _ in 0..200 {
        let run = steps.new_tree(&mut runner).unwrap().current();
        let mut engine = Engine::new();
        for step in std::iter::once(Step::Assigned {
            epoch: 1,
            config: 1,
        })
        .chain(run)
        {
            let stamp = match step {
                Step::Told { server, .. } => engine.latest(server),
                Step::Assigned { .. }
                | Step::Raised(_)
                | Step::LinkUp(_)
                | Step::LinkLost(_)
                | Step::Silent(_)
                | Step::Request(..) => None,
            };
            let _any = engine.take(step, stamp.unwrap_or(NOBODY));
            for bucket in engine.buckets() {
                *reached.entry(bucket).or_insert(0u32) += 1;
            }
        }
    }
    use Bucket as B;
    for bucket in [
        None,
        Some(B::Disconnected),
        Some(B::Connecting),
        Some(B::CatchingUp),
        Some(B::Rebuilding),
        Some(B::Joining),
        Some(B::InSync),
        Some(B::Degraded),
        Some(B::NeedsRebuild),
    ] {
        let times = reached.get(&bucket).copied().unwrap_or(0);
        assert!(
            times > 100,
            "{bucket:?} was seen {times} times: {reached:?}"
        );
    }
}

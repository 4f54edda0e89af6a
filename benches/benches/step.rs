//! What does the engine take to digest one event of a busy volume?
//!
//! An acknowledgement is the event that comes with every batch of every peer: authority, fence,
//! budget and progress are looked at. The deadline is what every turn asks for.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use criterion::{Criterion, criterion_group, criterion_main};
use moorline_benches::{EPOCH, NOW, VOLUME};
use moorline_engine::{
    Actions, Answer, Cause, Event, Fact, Image, PrimaryFacts, Registry, RegistryIdentity,
    ReplicaFacts, SenderConfig, SessionStamp,
};
use moorline_types::{
    AckPoint, AssignmentLine, BlockCount, ConfigVersion, EpochStart, Lsn, Member, NoQuorum,
    OpenCount, Policy, ServerId,
};

const HISTORY: [EpochStart; 1] = [EpochStart {
    epoch: EPOCH,
    first: Lsn::new(1),
}];

/// No bench gets there.
const HEAD: Lsn = Lsn::new(1 << 60);

fn server(n: usize) -> ServerId {
    format!("s{n}").parse().expect("a server id")
}

fn three_members() -> AssignmentLine {
    let member = |n| Member {
        server: server(n),
        store: None,
        open: OpenCount::new(1),
        opened_by: None,
        boot: None,
        data_addr: format!("10.0.0.1:{n}"),
        control_addr: String::new(),
        nbd_addr: String::new(),
        endpoint_version: 1,
    };
    AssignmentLine {
        volume: VOLUME,
        name: "demo".into(),
        size_blocks: BlockCount::new(1),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 1,
        epoch: EPOCH,
        config: ConfigVersion::new(1),
        primary: None,
        members: (0..3).map(member).collect(),
        in_sync: Vec::new(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2_000,
    }
}

/// A registry with one peer that is being caught up to a far target.
fn busy(peer: &ServerId) -> (Registry, SessionStamp) {
    let identity = RegistryIdentity {
        volume: VOLUME,
        own: server(0),
        open: OpenCount::new(1),
    };
    let mut out = Actions::new();
    let mut registry = Registry::new(identity, EPOCH, SenderConfig::default());
    let _applied = registry.apply(NOW, &three_members(), &mut out);
    let _up = registry.link_up(NOW, peer, Cause::Reconnect, &mut out);
    let session = registry.sender(peer).and_then(|sender| sender.session());
    let stamp = session.expect("a session began").stamp();
    let primary = PrimaryFacts {
        history: &HISTORY,
        head: HEAD,
        committed: HEAD,
        tail: Lsn::ZERO,
        checkpoint: Lsn::ZERO,
        lowest_pin: None,
        given_up: &[],
    };
    let replica = ReplicaFacts {
        history: &HISTORY,
        head: Lsn::new(1),
        flushed: Some(Lsn::new(1)),
        applied: Lsn::ZERO,
        checkpoint: Lsn::ZERO,
        tail: Lsn::ZERO,
        committed: Lsn::ZERO,
        image: Image::Whole,
        given_up: &[],
    };
    for fact in [
        Fact::HandshakeAnswered { primary, replica },
        Fact::PlanBound,
    ] {
        let said = registry.handle(NOW, peer, Event::Session { stamp, fact }, &mut out);
        assert_eq!(said, Answer::Done);
    }
    (registry, stamp)
}

fn step(c: &mut Criterion) {
    let peer = server(1);
    let (mut registry, stamp) = busy(&peer);
    let mut out = Actions::with_capacity(16);
    let mut flushed = Lsn::new(1);
    let mut group = c.benchmark_group("engine");
    group.bench_function("an acknowledgement that is news", |b| {
        b.iter(|| {
            out.clear();
            flushed = flushed.next();
            let fact = Fact::Acknowledged {
                flushed,
                head: HEAD,
            };
            let event = Event::Session { stamp, fact };
            registry.handle(NOW, &peer, event, &mut out)
        });
    });
    group.bench_function("the next deadline", |b| b.iter(|| registry.next_deadline()));
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);

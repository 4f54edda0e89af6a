//! How much does one bounded step of a catch-up cost for each record that it ships?
//!
//! A peer that lacks 4,096 writes of 4 KiB is brought to the head out of the log's memory: the
//! session, the pin and every step, with a link and a disk that cost nothing.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moorline_benches::{EPOCH, MemoryLog, NOW, Sink, VOLUME, one_block, write_record};
use moorline_engine::{
    Action, Actions, Cause, Endpoint, Event, Fact, Image, PrimaryFacts, ReplicaFacts, Sender,
    SenderConfig, SessionStamp,
};
use moorline_executor::{BoundPlan, CatchUp, CatchUpConfig, StepOutcome, Turn};
use moorline_types::{BufferPool, EpochStart, Lsn, OpenCount, ReplicaId, SessionId};
use moorline_wal::PinHolder;

const RECORDS: u64 = 4_096;

/// The peer holds nothing but the first record.
const HELD: Lsn = Lsn::new(1);

fn tell(sender: &mut Sender, stamp: SessionStamp, fact: Fact<'_>, out: &mut Actions) {
    let _answer = sender.handle(NOW, Event::Session { stamp, fact }, out);
}

/// Both sides' facts, as a handshake tells them.
fn answered<'a>(ours: &'a MemoryLog, history: &'a [EpochStart]) -> Fact<'a> {
    let none = Lsn::ZERO;
    let primary = PrimaryFacts {
        history: ours.log.history(),
        lowest_pin: None,
        given_up: &[],
        head: ours.log.head(),
        committed: ours.log.flushed(),
        tail: none,
        checkpoint: none,
    };
    let replica = ReplicaFacts {
        history,
        given_up: &[],
        image: Image::Whole,
        head: HELD,
        flushed: Some(HELD),
        committed: none,
        tail: none,
        checkpoint: none,
        applied: none,
    };
    Fact::HandshakeAnswered { primary, replica }
}

/// A session from its handshake to the last record of its target; says how many steps it took.
fn caught_up(ours: &mut MemoryLog, replica: &ReplicaId) -> u64 {
    let endpoint = Endpoint {
        data: String::new(),
        control: String::new(),
        version: 1,
    };
    let mut out = Actions::new();
    let mut sender = Sender::new(replica.clone(), endpoint, EPOCH, SenderConfig::default());
    let fresh = SessionId::new(OpenCount::new(1), 1);
    let cause = Cause::Bootstrap;
    let _taken = sender.handle(NOW, Event::LinkUp { fresh, cause }, &mut out);
    let history = [EpochStart {
        epoch: EPOCH,
        first: Lsn::new(1),
    }];
    let mut execution = None;
    while execution.is_none() {
        for asked in std::mem::take(&mut out) {
            if let Action::SendHandshake { stamp, .. } = asked.action {
                tell(&mut sender, stamp, answered(ours, &history), &mut out);
            } else if let Action::BindPlan(plan) = asked.action {
                let holder = PinHolder::CatchUp {
                    server: replica.server.clone(),
                    session: plan.stamp.session,
                };
                let pin = |above| ours.log.pin(above, holder, NOW);
                let mut turn = Turn {
                    now: NOW,
                    sender: Some(&mut sender),
                    out: &mut out,
                };
                let bound = BoundPlan::bind(&mut turn, &plan, pin).expect("the log holds it all");
                execution = Some(CatchUp::new(bound, CatchUpConfig::default()));
            }
        }
    }
    let mut execution = execution.expect("the loop ends with one");
    let (stamp, head) = (execution.stamp(), ours.log.head());
    let (mut sink, mut steps) = (Sink::default(), 0);
    while sink.through < head {
        out.clear();
        let mut turn = Turn {
            now: NOW,
            sender: Some(&mut sender),
            out: &mut out,
        };
        let stepped = execution.step(&mut turn, head, (&mut *ours, &mut sink));
        assert!(!matches!(stepped, StepOutcome::Refused(_)), "{stepped:?}");
        let flushed = sink.through;
        execution.acknowledged(flushed, flushed);
        tell(
            &mut sender,
            stamp,
            Fact::Acknowledged { flushed, head },
            &mut out,
        );
        steps += 1;
    }
    steps
}

fn catch_up(c: &mut Criterion) {
    let payload = one_block(&BufferPool::new());
    let mut ours = MemoryLog::new();
    for _ in 0..RECORDS / 64 {
        let head = ours.log.head().get();
        ours.commit((1..=64).map(|n| write_record(Lsn::new(head + n), &payload)));
    }
    let replica = ReplicaId {
        volume: VOLUME,
        server: "s2".parse().expect("a server id"),
    };
    let mut group = c.benchmark_group("catch-up");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("4,096 writes of 4 KiB out of memory", |b| {
        b.iter(|| caught_up(&mut ours, &replica));
    });
    group.finish();
}

criterion_group!(benches, catch_up);
criterion_main!(benches);

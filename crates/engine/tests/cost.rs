//! What handling an event costs: no allocation in the steady state, and one pass over a registry.
//!
//! A binary of its own, because the counting allocator counts for all of it.
#![expect(unsafe_code, reason = "an allocator is counted by being one")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use moorline_engine::{
    Action, Actions, Answer, Applied, Bucket, CatchUpBudget, Cause, Event, Fact, Image, Known,
    PrimaryFacts, Registry, RegistryIdentity, ReplicaFacts, SenderConfig, SessionLimits,
    SessionStamp,
};
use moorline_types::{
    AckPoint, AssignmentLine, BlockCount, ConfigVersion, Epoch, EpochStart, Instant, Lsn, Member,
    NoQuorum, OpenCount, Policy, ServerId, VolumeId,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of this very call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: what is given back here came from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `work` allocates on this thread.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const HISTORY: [EpochStart; 1] = [EpochStart {
    epoch: Epoch::new(1, 0),
    first: Lsn::new(1),
}];
const HEAD: Lsn = Lsn::new(1_000_000);

fn server(n: usize) -> ServerId {
    format!("s{n:05}").parse().expect("a server id")
}

fn line(config: u64, members: usize) -> AssignmentLine {
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
        volume: VolumeId::new(1),
        name: "demo".into(),
        size_blocks: BlockCount::new(1),
        policy: Policy::SyncQuorum,
        ack: AckPoint::Flushed,
        min_copies: 1,
        epoch: Epoch::new(1, 0),
        config: ConfigVersion::new(config),
        primary: None,
        members: (0..=members).map(member).collect(),
        in_sync: Vec::new(),
        no_quorum: NoQuorum::Wait,
        lease_ms: 2_000,
    }
}

/// A registry of so many replicas, each with a session that waits for its link.
fn registry(members: usize) -> Registry {
    let identity = RegistryIdentity {
        volume: VolumeId::new(1),
        own: server(0),
        open: OpenCount::new(1),
    };
    let config = SenderConfig {
        limits: SessionLimits {
            budget: CatchUpBudget {
                stall_max: Some(Duration::from_secs(10)),
                ..CatchUpBudget::UNLIMITED
            },
            ..SessionLimits::default()
        },
        ..SenderConfig::default()
    };
    let mut registry = Registry::new(identity, Epoch::new(1, 0), config);
    let applied = registry.apply(Instant::ZERO, &line(1, members), &mut Actions::new());
    assert!(matches!(applied, Applied::Reconciled(done) if done.created.len() == members));
    registry
}

/// The replica's session, catching up from record 1 to a far target.
fn catching_up(registry: &mut Registry, peer: &ServerId) -> SessionStamp {
    let mut out = Actions::new();
    let up = registry.link_up(Instant::ZERO, peer, Cause::Reconnect, &mut out);
    assert_eq!(up, Answer::Done);
    let stamp = registry.sender(peer).and_then(|sender| sender.session());
    let stamp = stamp.map(|session| session.stamp()).expect("begun");
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
        let said = registry.handle(
            Instant::ZERO,
            peer,
            Event::Session { stamp, fact },
            &mut out,
        );
        assert_eq!(said, Answer::Done);
    }
    stamp
}

fn acknowledge(
    registry: &mut Registry,
    (peer, stamp): (&ServerId, SessionStamp),
    n: u64,
    out: &mut Actions,
) -> Answer {
    let flushed = Lsn::new(n);
    let fact = Fact::Acknowledged {
        flushed,
        head: HEAD,
    };
    let event = Event::Session { stamp, fact };
    registry.handle(Instant::ZERO, peer, event, out)
}

#[test]
fn an_event_in_the_steady_state_allocates_nothing() {
    let (mut registry, peer) = (registry(3), server(1));
    let stamp = catching_up(&mut registry, &peer);
    let mut out = Actions::with_capacity(16);
    let first = allocations(|| {
        for n in 2..10_002 {
            out.clear();
            let said = acknowledge(&mut registry, (&peer, stamp), n, &mut out);
            assert_eq!(said, Answer::Done);
            assert!(matches!(out[0].action, Action::Emit(_)), "progress is told");
        }
    });
    assert_eq!(first, 0, "10,000 acknowledgements");
    let idle = allocations(|| {
        for _ in 0..1_000 {
            let said = acknowledge(&mut registry, (&peer, stamp), 2, &mut out);
            assert_eq!(said, Answer::Unchanged(Known::StaleProgress));
            registry.deadline_reached(Instant::ZERO, &mut out);
            assert!(registry.next_deadline().is_some());
            let said = registry.handle(Instant::ZERO, &peer, Event::DeadlineReached, &mut out);
            assert_eq!(said, Answer::Unchanged(Known::StaleTimer));
        }
    });
    assert_eq!(idle, 0, "duplicates and timers");
    assert_eq!(
        registry.sender(&peer).map(|sender| sender.bucket()),
        Some(Bucket::CatchingUp)
    );
}

#[test]
fn an_unchanged_assignment_of_ten_thousand_touches_no_session_and_copies_only_the_line() {
    const MANY: usize = 10_000;
    let mut registry = registry(MANY);
    let mut out = Actions::new();
    let same = line(1, MANY);
    let again = allocations(|| {
        assert_eq!(
            registry.apply(Instant::ZERO, &same, &mut out),
            Applied::Unchanged
        );
    });
    assert!(
        again <= 1,
        "{again} allocations for the same line: the names, once"
    );
    // The next config version with the same members: the line is kept, nothing else is made.
    let next = line(2, MANY);
    let copy = allocations(|| drop(next.clone()));
    let applied = allocations(|| {
        let applied = registry.apply(Instant::ZERO, &next, &mut out);
        assert!(matches!(applied, Applied::Reconciled(done) if done == Default::default()));
    });
    assert!(
        applied <= copy + 8,
        "{applied} allocations, where a copy of the line takes {copy}"
    );
    assert!(out.is_empty(), "no session was touched");
}

/// The figures of `docs/performance.md`, and a bound that only a change of the order fails.
#[test]
fn costs_stay_far_below_what_would_be_noticed() {
    let (mut one, peer) = (registry(3), server(1));
    let stamp = catching_up(&mut one, &peer);
    let mut out = Actions::with_capacity(16);
    let mut n = 1;
    let ack = median(|| {
        for _ in 0..1_000 {
            n += 1;
            out.clear();
            let _done = acknowledge(&mut one, (&peer, stamp), n, &mut out);
        }
    });
    let mut many = registry(10_000);
    let mut config = 1;
    let lines: Vec<AssignmentLine> = (2..30).map(|config| line(config, 10_000)).collect();
    let reconcile = median(|| {
        let _applied = many.apply(Instant::ZERO, &lines[config - 1], &mut out);
        config += 1;
    });
    let status = median(|| drop(many.status()));
    println!("acknowledgement: {} ns", ack.as_nanos() / 1_000);
    println!(
        "10,000 replicas, same members: {} us",
        reconcile.as_micros()
    );
    println!("10,000 replicas, status: {} us", status.as_micros());
    // Far above what it takes on any machine.
    assert!(reconcile < Duration::from_secs(2), "{reconcile:?}");
}

/// The median of 25 runs by the wall clock.
#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test measures time"
)]
fn median(mut work: impl FnMut()) -> Duration {
    let mut took: Vec<Duration> = (0..25)
        .map(|_| {
            let began = std::time::Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

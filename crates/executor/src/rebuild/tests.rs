#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one answer")]

use moorline_engine::{
    Action, Actions, Bucket, Cause, Checkpoint, Endpoint, Known, Plan, PlanKind, RebuildFacts,
    ReplicaFacts, Sender, SenderConfig, SessionKind, What,
};
use moorline_engine::{Image, PrimaryFacts};
use moorline_types::{
    BlockIndex, BlockRange, BufferPool, Epoch, EpochStart, Instant, LsnRange, OpenCount, Payload,
    SessionId, VolumeId,
};
use moorline_wal::{PinHolder, PinRefused, PinTable};

use super::*;
use crate::{
    BindRefused,
    ports::{BaseBlock, BaseWanted, ReplicaLink},
};

mod paths;
mod symmetry;

const VOLUME: VolumeId = VolumeId::new(1);
const EPOCH: Epoch = Epoch::new(1, 0);
const HISTORY: [EpochStart; 1] = [EpochStart {
    epoch: EPOCH,
    first: Lsn::new(1),
}];
/// Blocks of an extent.
const EXTENT: u64 = 4;

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

fn at(secs: u64) -> Instant {
    Instant::from_nanos(secs * 1_000_000_000)
}

fn record(n: u64) -> Record {
    Record::epoch_mark(VOLUME, EPOCH, lsn(n))
}

/// What the base is made of, in these tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Snapshot,
    Delta,
    Full,
}

const ALL: [From; 3] = [From::Snapshot, From::Delta, From::Full];

impl From {
    /// A primary with tail and checkpoint 50, committed 60, head 70, six extents.
    fn facts(self) -> RebuildFacts {
        let facts = RebuildFacts {
            checkpoint: Checkpoint::None,
            tail: lsn(50),
            head: lsn(70),
            committed: lsn(60),
            trusted_common: None,
            source_map_from: lsn(5),
            replica_map_from: lsn(5),
            image_extents: 6,
            delta_extents: 0,
        };
        match self {
            Self::Snapshot => RebuildFacts {
                checkpoint: Checkpoint::Trusted(lsn(50)),
                ..facts
            },
            Self::Delta => RebuildFacts {
                trusted_common: Some(lsn(5)),
                delta_extents: 3,
                ..facts
            },
            Self::Full => facts,
        }
    }

    fn base(self) -> u64 {
        match self {
            Self::Snapshot => 50,
            Self::Delta | Self::Full => 60,
        }
    }

    fn extents(self) -> u64 {
        match self {
            Self::Snapshot | Self::Full => 6,
            Self::Delta => 3,
        }
    }
}

/// How a fake port answers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Answers {
    #[default]
    AtOnce,
    Later,
    Fails,
    Misplaced,
    Panics,
}

#[derive(Default)]
struct FakeHistory {
    answers: Answers,
    asked: Vec<(LsnRange, usize)>,
}

impl HistoryReader for FakeHistory {
    fn read(&mut self, range: LsnRange, bytes_max: usize) -> Result<ReadStart, LogReadError> {
        self.asked.push((range, bytes_max));
        match self.answers {
            Answers::AtOnce => Ok(ReadStart::Ready(read(range, bytes_max))),
            Answers::Later => Ok(ReadStart::Pending),
            Answers::Fails => Err(gone()),
            Answers::Misplaced => Ok(ReadStart::Ready(vec![record(range.after().get() + 2)])),
            Answers::Panics => std::panic::resume_unwind(Box::new("planted")),
        }
    }
}

fn gone() -> LogReadError {
    LogReadError::Reclaimed {
        after: lsn(0),
        tail: lsn(1),
    }
}

fn read(range: LsnRange, bytes_max: usize) -> Vec<Record> {
    let fit = (bytes_max / record(1).stored_bytes()).max(1);
    let numbers = range.after().get() + 1..=range.through().get();
    numbers.take(fit).map(record).collect()
}

#[derive(Default)]
struct FakeImage {
    answers: Answers,
    asked: Vec<BaseWanted>,
    as_of: u64,
}

impl BaseImage for FakeImage {
    fn read(&mut self, wanted: BaseWanted) -> Result<BaseStart, BaseReadError> {
        self.asked.push(wanted);
        match self.answers {
            Answers::AtOnce => Ok(BaseStart::Ready(extents(wanted, self.as_of))),
            Answers::Later => Ok(BaseStart::Pending),
            Answers::Fails => Err(BaseReadError::Gone),
            Answers::Misplaced => {
                let first = wanted.first.saturating_sub(1);
                let before = BaseWanted { first, ..wanted };
                let mut extents = extents(before, self.as_of);
                extents.truncate(1);
                extents.push(extents[0].clone());
                Ok(BaseStart::Ready(extents))
            }
            Answers::Panics => std::panic::resume_unwind(Box::new("planted")),
        }
    }
}

/// Extent `n` of a whole image, with its second block and nothing else.
fn extent(n: u64, as_of: u64) -> BaseExtent {
    let first = BlockIndex::new(n * EXTENT);
    BaseExtent {
        range: BlockRange::new(first, 4).unwrap(),
        as_of: lsn(as_of),
        blocks: vec![BaseBlock {
            block: first.advance(1),
            lsn: lsn(n),
            payload: Payload::copy_padded(&BufferPool::new(), &[1]),
        }],
    }
}

/// As many extents as fit, at least one; a delta has every second one.
fn extents(wanted: BaseWanted, as_of: u64) -> Vec<BaseExtent> {
    let stride = match wanted.source {
        RebuildSource::Delta { .. } => 2,
        _ => 1,
    };
    let fit = (wanted.bytes_max / 4096).max(1) as u64;
    let count = wanted.extents_max.min(fit);
    let numbers = wanted.first..wanted.first + count;
    numbers.map(|n| extent(n * stride, as_of)).collect()
}

#[derive(Default)]
struct FakeLink {
    panics: bool,
    records: Vec<u64>,
    /// First block of each extent.
    base: Vec<u64>,
}

impl ReplicaLink for FakeLink {
    fn ship(&mut self, records: Vec<Record>) {
        if self.panics {
            std::panic::resume_unwind(Box::new("planted"));
        }
        let numbers = records.iter().map(|record| record.lsn().get());
        self.records.extend(numbers);
    }
}

impl BaseLink for FakeLink {
    fn lay(&mut self, first: u64, extents: Vec<BaseExtent>) {
        if self.panics {
            std::panic::resume_unwind(Box::new("planted"));
        }
        assert_eq!(first, self.base.len() as u64, "the cursor is dense");
        let blocks = extents.iter().map(|extent| extent.range.first().get());
        self.base.extend(blocks);
    }
}

/// A sender whose replica needs a rebuild, and whose session waits for the pins of its plan.
fn planned(from: From) -> (Sender, Actions, Plan) {
    let replica = ReplicaId {
        volume: VOLUME,
        server: "s2".parse().unwrap(),
    };
    let endpoint = Endpoint {
        data: String::new(),
        control: String::new(),
        version: 1,
    };
    let mut sender = Sender::new(replica, endpoint, EPOCH, SenderConfig::default());
    let mut out = Actions::new();
    let mut tell = |event: Event<'_>| {
        assert_eq!(sender.handle(at(0), event, &mut out), Answer::Done);
        sender.session().map(|session| session.stamp())
    };
    let fresh = |serial| SessionId::new(OpenCount::new(1), serial);
    let cause = Cause::Bootstrap;
    let stamp = tell(Event::LinkUp {
        fresh: fresh(1),
        cause,
    });
    // Incomplete: only a rebuild helps.
    let fact = Fact::HandshakeAnswered {
        primary: PrimaryFacts {
            history: &HISTORY,
            head: lsn(70),
            committed: lsn(60),
            tail: lsn(50),
            checkpoint: lsn(50),
            lowest_pin: None,
            given_up: &[],
        },
        replica: ReplicaFacts {
            history: &HISTORY,
            head: lsn(9),
            flushed: None,
            applied: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            tail: Lsn::ZERO,
            committed: Lsn::ZERO,
            image: Image::Incomplete,
            given_up: &[],
        },
    };
    let stamp = stamp.unwrap();
    tell(Event::Session { stamp, fact });
    let kind = SessionKind::Rebuild;
    tell(Event::SessionRequested {
        fresh: fresh(2),
        kind,
        cause,
    });
    let stamp = tell(Event::LinkUp {
        fresh: fresh(3),
        cause,
    });
    let stamp = stamp.unwrap();
    let fact = Fact::RebuildOffered(from.facts());
    tell(Event::Session { stamp, fact });
    let mut plans = out.iter().filter_map(|directed| match &directed.action {
        Action::BindPlan(plan) => Some(plan.clone()),
        _ => None,
    });
    let plan = plans.next().unwrap();
    (sender, out, plan)
}

fn holder() -> PinHolder {
    PinHolder::Rebuild {
        server: "s2".parse().unwrap(),
        session: SessionId::new(OpenCount::new(1), 2),
    }
}

fn hold(pins: &PinTable, need: moorline_engine::PinNeed) -> Result<ImagePin, PinRefused> {
    let (at, since) = (need.lsn, at(0));
    match need.kind {
        moorline_engine::PinKind::Snapshot => {
            pins.snapshot(at, holder(), since).map(ImagePin::Snapshot)
        }
        _ => pins.full_base(at, holder(), since).map(ImagePin::Base),
    }
}

fn bind(
    sender: &mut Sender,
    out: &mut Actions,
    plan: &Plan,
    pin: impl FnOnce(moorline_engine::PinNeed) -> Result<ImagePin, PinRefused>,
) -> Result<BoundRebuild, BindRefused> {
    let mut turn = Turn {
        now: at(0),
        sender: Some(sender),
        out,
    };
    BoundRebuild::bind(&mut turn, plan, pin)
}

/// A rebuild that is bound and carried out over fake ports.
struct Stage {
    sender: Sender,
    out: Actions,
    pins: PinTable,
    rebuild: Rebuild,
    history: FakeHistory,
    image: FakeImage,
    link: FakeLink,
    source: SourceAt,
}

impl Stage {
    fn new(from: From) -> Self {
        let (mut sender, mut out, plan) = planned(from);
        let pins = PinTable::new();
        let bound = bind(&mut sender, &mut out, &plan, |need| hold(&pins, need)).unwrap();
        let page = 4 * record(1).stored_bytes();
        let config = RebuildConfig {
            records: CatchUpConfig {
                window_bytes: 2 * page,
                page_bytes: page,
                stubborn_rounds_max: 3,
            },
            base_window_bytes: 4 * 4096,
            base_page_bytes: 2 * 4096,
            base_page_extents: 64,
        };
        Self {
            sender,
            out,
            pins,
            rebuild: Rebuild::new(bound, config),
            history: FakeHistory::default(),
            image: FakeImage {
                as_of: 60,
                ..FakeImage::default()
            },
            link: FakeLink::default(),
            source: SourceAt {
                head: lsn(70),
                committed: lsn(60),
            },
        }
    }

    fn step(&mut self) -> RebuildOutcome {
        self.step_at(0)
    }

    fn step_at(&mut self, secs: u64) -> RebuildOutcome {
        let ports = (&mut self.history, &mut self.image, &mut self.link);
        let mut turn = Turn {
            now: at(secs),
            sender: Some(&mut self.sender),
            out: &mut self.out,
        };
        self.rebuild.step(&mut turn, self.source, ports)
    }

    fn turn(&mut self) -> (&mut Rebuild, Turn<'_>, &mut FakeLink) {
        let turn = Turn {
            now: at(0),
            sender: Some(&mut self.sender),
            out: &mut self.out,
        };
        (&mut self.rebuild, turn, &mut self.link)
    }

    fn fact(&mut self, fact: Fact<'_>) -> Answer {
        let stamp = self.rebuild.stamp();
        let event = Event::Session { stamp, fact };
        self.sender.handle(at(0), event, &mut self.out)
    }

    /// The replica has received and flushed the records of this session through `n`.
    fn acks(&mut self, n: u64) -> Answer {
        self.rebuild.acknowledged(lsn(n), lsn(n));
        self.fact(Fact::Acknowledged {
            flushed: lsn(n),
            head: self.source.head,
        })
    }

    fn lays(&mut self, extents: u64) -> Result<Answer, LaidRefused> {
        let (rebuild, mut turn, _) = self.turn();
        rebuild.laid(&mut turn, extents)
    }

    fn release(&mut self, cause: ReleaseCause) -> Option<Released> {
        let (rebuild, mut turn, _) = self.turn();
        rebuild.release(&mut turn, cause)
    }

    /// Ships what the join ships and joins.
    fn joined(from: From) -> Self {
        let mut stage = Self::new(from);
        loop {
            match stage.step() {
                RebuildOutcome::Shipped { through } => {
                    let _answer = stage.acks(through.get());
                }
                RebuildOutcome::AtHead { head } => {
                    assert_eq!(stage.rebuild.hand_over(head), HandOver::At(head));
                    let join_point = head;
                    assert_eq!(stage.fact(Fact::Joined { join_point }), Answer::Done);
                    return stage;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Lays the base, as far as it goes.
    fn lay(&mut self) {
        while let RebuildOutcome::Sent { extents } = self.step() {
            assert_eq!(self.lays(extents), Ok(Answer::Done));
        }
    }

    fn events(&self) -> Vec<&'static str> {
        let events = self.out.iter().filter_map(|asked| match &asked.action {
            Action::Emit(event) => Some(event.what.name()),
            _ => None,
        });
        events.collect()
    }

    fn releases(&self) -> Vec<ReleaseCause> {
        let causes = self.out.iter().filter_map(|asked| match &asked.action {
            Action::Emit(event) => match event.what {
                What::ResourcesReleased(cause) => Some(cause),
                _ => None,
            },
            _ => None,
        });
        causes.collect()
    }
}

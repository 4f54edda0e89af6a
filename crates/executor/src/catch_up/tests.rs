#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one answer")]

use moorline_engine::{
    Action, Actions, Answer, Bucket, BudgetLimit, Cause, Endpoint, Event, Fact, Image, Plan,
    PlanKind, PrimaryFacts, ReplicaFacts, Sender, SenderConfig, What,
};
use moorline_types::{Epoch, EpochStart, Instant, OpenCount, ReplicaId, SessionId, VolumeId};
use moorline_wal::{PinHolder, PinRefused, PinTable};

use super::*;
use crate::{BindRefused, Lag};
use moorline_types::LsnRange;

const VOLUME: VolumeId = VolumeId::new(1);
const EPOCH: Epoch = Epoch::new(1, 0);
const HISTORY: [EpochStart; 1] = [EpochStart {
    epoch: EPOCH,
    first: Lsn::new(1),
}];
/// All records of these tests are of one size.
fn record_bytes() -> usize {
    record(1).stored_bytes()
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

fn at(secs: u64) -> Instant {
    Instant::from_nanos(secs * 1_000_000_000)
}

fn record(n: u64) -> Record {
    Record::epoch_mark(VOLUME, EPOCH, lsn(n))
}

/// How the fake history answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    AtOnce,
    Later,
    Fails,
    Misplaced,
    Panics,
}

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
            Answers::Panics => std::panic::resume_unwind(Box::new("planted")),
            Answers::Misplaced => Ok(ReadStart::Ready(vec![record(range.after().get() + 2)])),
        }
    }
}

fn gone() -> LogReadError {
    LogReadError::Reclaimed {
        after: lsn(0),
        tail: lsn(1),
    }
}

/// As many records as fit, at least one.
fn read(range: LsnRange, bytes_max: usize) -> Vec<Record> {
    let fit = (bytes_max / record_bytes()).max(1);
    let numbers = range.after().get() + 1..=range.through().get();
    numbers.take(fit).map(record).collect()
}

/// What was shipped, and whether shipping works.
#[derive(Default)]
struct FakeLink(Vec<u64>, Shipping);

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Shipping {
    #[default]
    Works,
    Panics,
}

impl ReplicaLink for FakeLink {
    fn ship(&mut self, records: Vec<Record>) {
        if self.1 == Shipping::Panics {
            std::panic::resume_unwind(Box::new("planted"));
        }
        self.0
            .extend(records.iter().map(|record| record.lsn().get()));
    }
}

/// A catch-up over (40, 60] as the engine plans it, with a fake history and link.
struct Stage {
    sender: Sender,
    out: Actions,
    pins: PinTable,
    catch_up: CatchUp,
    history: FakeHistory,
    link: FakeLink,
    head: u64,
}

impl Stage {
    fn new() -> Self {
        let page = 4 * record_bytes();
        Self::with(CatchUpConfig {
            window_bytes: 2 * page,
            page_bytes: page,
            stubborn_rounds_max: 3,
        })
    }

    fn with(config: CatchUpConfig) -> Self {
        let (mut sender, mut out, plan) = planned();
        let pins = PinTable::new();
        let bound = bind(&mut sender, &mut out, &plan, |after| pin(&pins, after)).unwrap();
        Self::carrying_out(bound, config, (sender, out), pins)
    }

    fn carrying_out(
        bound: BoundPlan,
        config: CatchUpConfig,
        (sender, out): (Sender, Actions),
        pins: PinTable,
    ) -> Self {
        Self {
            sender,
            out,
            pins,
            catch_up: CatchUp::new(bound, config),
            history: FakeHistory {
                answers: Answers::AtOnce,
                asked: Vec::new(),
            },
            link: FakeLink::default(),
            head: 70,
        }
    }

    fn fact(&mut self, fact: Fact<'_>) {
        let stamp = self.catch_up.stamp();
        let event = Event::Session { stamp, fact };
        let answer = self.sender.handle(at(0), event, &mut self.out);
        assert_eq!(answer, Answer::Done);
    }

    fn step(&mut self) -> StepOutcome {
        self.step_at(0)
    }

    fn step_at(&mut self, secs: u64) -> StepOutcome {
        let ports = (&mut self.history, &mut self.link);
        let mut turn = Turn {
            now: at(secs),
            sender: Some(&mut self.sender),
            out: &mut self.out,
        };
        self.catch_up.step(&mut turn, lsn(self.head), ports)
    }

    fn read_back(
        &mut self,
        result: Result<Vec<Record>, LogReadError>,
    ) -> Result<StepOutcome, RecordsRefused> {
        let mut turn = Turn {
            now: at(0),
            sender: Some(&mut self.sender),
            out: &mut self.out,
        };
        self.catch_up
            .records_read(&mut turn, result, &mut self.link)
    }

    fn release(&mut self, cause: ReleaseCause) -> Option<Released> {
        let mut turn = Turn {
            now: at(0),
            sender: Some(&mut self.sender),
            out: &mut self.out,
        };
        self.catch_up.release(&mut turn, cause)
    }

    /// The causes of the release events so far.
    fn releases(&self) -> Vec<ReleaseCause> {
        let causes = self
            .out
            .iter()
            .filter_map(|directed| match &directed.action {
                Action::Emit(event) => match event.what {
                    What::ResourcesReleased(cause) => Some(cause),
                    _ => None,
                },
                _ => None,
            });
        causes.collect()
    }

    /// The replica holds everything through `n`, durably.
    fn replica_acks(&mut self, n: u64) {
        self.catch_up.acknowledged(lsn(n), lsn(n));
        self.fact(Fact::Acknowledged {
            flushed: lsn(n),
            head: lsn(self.head),
        });
    }

    fn pinned(&self) -> Vec<u64> {
        self.pins.list().iter().map(|pin| pin.lsn.get()).collect()
    }

    /// Ships to the target, proven, and follows.
    fn following() -> Self {
        let mut stage = Self::new();
        for n in [44, 48, 52, 56, 60] {
            assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(n) });
            stage.replica_acks(n);
        }
        stage.catch_up.follow(lsn(60));
        stage
    }

    /// Followed to the head and handed over.
    fn live() -> Self {
        let mut stage = Self::following();
        while let StepOutcome::Shipped { through } = stage.step() {
            stage.catch_up.acknowledged(through, through);
        }
        assert_eq!(stage.catch_up.hand_over(lsn(70)), HandOver::At(lsn(70)));
        stage
    }
}

fn bind(
    sender: &mut Sender,
    out: &mut Actions,
    plan: &Plan,
    pin: impl FnOnce(Lsn) -> Result<RetentionPin, PinRefused>,
) -> Result<BoundPlan, BindRefused> {
    let mut turn = Turn {
        now: at(0),
        sender: Some(sender),
        out,
    };
    BoundPlan::bind(&mut turn, plan, pin)
}

fn pin(pins: &PinTable, after: Lsn) -> Result<RetentionPin, PinRefused> {
    let holder = PinHolder::CatchUp {
        server: "s2".parse().unwrap(),
        session: SessionId::new(OpenCount::new(1), 1),
    };
    pins.retain(after, holder, at(0))
}

/// A sender whose session waits for the pins of its plan.
fn planned() -> (Sender, Actions, Plan) {
    let (sender, out, plan) = handshaken(40, 40);
    (sender, out, plan.unwrap())
}

/// A sender whose replica answered that it holds records 1 through `head`, durably through
/// `flushed`; the primary (committed 60, head 70) may want a plan bound.
fn handshaken(flushed: u64, head: u64) -> (Sender, Actions, Option<Plan>) {
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
    let up = Event::LinkUp {
        fresh: SessionId::new(OpenCount::new(1), 1),
        cause: Cause::Bootstrap,
    };
    assert_eq!(sender.handle(at(0), up, &mut out), Answer::Done);
    let fact = Fact::HandshakeAnswered {
        primary: PrimaryFacts {
            history: &HISTORY,
            head: lsn(70),
            committed: lsn(60),
            tail: lsn(10),
            checkpoint: lsn(10),
            lowest_pin: None,
            given_up: &[],
        },
        replica: ReplicaFacts {
            history: &HISTORY,
            head: lsn(head),
            flushed: Some(lsn(flushed)),
            applied: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            tail: Lsn::ZERO,
            committed: Lsn::ZERO,
            image: Image::Whole,
            given_up: &[],
        },
    };
    let stamp = sender.session().unwrap().stamp();
    let event = Event::Session { stamp, fact };
    assert_eq!(sender.handle(at(0), event, &mut out), Answer::Done);
    let mut plans = out.iter().filter_map(|directed| match &directed.action {
        Action::BindPlan(plan) => Some(plan.clone()),
        _ => None,
    });
    let plan = plans.next();
    (sender, out, plan)
}

#[test]
fn a_catch_up_ships_the_range_once_in_order_and_never_past_the_target() {
    let mut stage = Stage::following();
    assert_eq!(stage.link.0, (41..=60).collect::<Vec<_>>());
    assert!(
        stage
            .history
            .asked
            .iter()
            .all(|(range, _)| range.through() == lsn(60))
    );
    assert_eq!(stage.pinned(), [60], "the pin followed what is durable");
    // Then towards the head, and over to the live stream at exactly one record.
    assert_eq!(
        stage.catch_up.hand_over(lsn(70)),
        HandOver::Behind(Lag {
            records: 10,
            rounds: 0
        })
    );
    while let StepOutcome::Shipped { through } = stage.step() {
        stage.catch_up.acknowledged(through, through);
    }
    assert_eq!(stage.step(), StepOutcome::AtHead { head: lsn(70) });
    assert_eq!(stage.catch_up.hand_over(lsn(70)), HandOver::At(lsn(70)));
    assert_eq!(
        stage.catch_up.hand_over(lsn(71)),
        HandOver::Already(lsn(70))
    );
    assert_eq!(stage.link.0, (41..=70).collect::<Vec<_>>());
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Live));
}

#[test]
fn a_step_is_bounded_by_the_page_and_the_window() {
    let mut stage = Stage::new();
    let page = 4 * record_bytes();
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(44) });
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(48) });
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Window));
    assert_eq!(stage.history.asked.len(), 2, "a full window reads nothing");
    // Received makes room; it proves nothing, so the pin stays.
    stage.catch_up.acknowledged(lsn(43), lsn(40));
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Window));
    stage.catch_up.acknowledged(lsn(44), lsn(40));
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(52) });
    assert_eq!(stage.pinned(), [40]);
    assert!(stage.history.asked.iter().all(|&(_, bytes)| bytes <= page));
    stage.catch_up.acknowledged(lsn(52), lsn(48));
    assert_eq!(stage.pinned(), [48]);
    stage.catch_up.acknowledged(lsn(41), lsn(41));
    assert_eq!(stage.pinned(), [48], "an older answer changes nothing");
}

#[test]
fn reads_that_come_back_later_ship_the_same() {
    let mut stage = Stage::new();
    stage.history.answers = Answers::Later;
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Read));
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Read));
    assert_eq!(stage.history.asked.len(), 1);
    let (range, bytes) = stage.history.asked[0];
    let records = Ok(read(range, bytes));
    let shipped = stage.read_back(records);
    assert_eq!(shipped, Ok(StepOutcome::Shipped { through: lsn(44) }));
    // Nobody asked for a second answer.
    let again = stage.read_back(Ok(vec![record(45)]));
    assert_eq!(again, Err(RecordsRefused::NoRead));
    assert_eq!(stage.link.0, [41, 42, 43, 44]);
}

#[test]
fn every_way_out_drops_the_pin_and_says_so_once() {
    type Out = (&'static str, fn(&mut Stage) -> StepOutcome, ReleaseCause);
    let ways: &[Out] = &[
        (
            "the session ends",
            |stage| {
                let lost = stage.sender.handle(at(0), Event::LinkLost, &mut stage.out);
                assert_eq!(lost, Answer::Done);
                stage.step()
            },
            ReleaseCause::LinkLost,
        ),
        (
            "the epoch moves on",
            |stage| {
                let to = Epoch::new(2, 0);
                let raised = stage
                    .sender
                    .handle(at(0), Event::EpochRaised { to }, &mut stage.out);
                assert_eq!(raised, Answer::Done);
                stage.step()
            },
            ReleaseCause::Fenced,
        ),
        (
            "the budget runs out",
            |stage| stage.step_at(11),
            ReleaseCause::BudgetExceeded(BudgetLimit::Stall),
        ),
        (
            "a read fails at once",
            |stage| {
                stage.history.answers = Answers::Fails;
                stage.step()
            },
            ReleaseCause::ReadFailed,
        ),
        (
            "a read fails later",
            |stage| {
                stage.history.answers = Answers::Later;
                assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Read));
                let result = Err(gone());
                let said = stage.read_back(result);
                said.unwrap()
            },
            ReleaseCause::ReadFailed,
        ),
        (
            "a read outlives its session",
            |stage| {
                stage.history.answers = Answers::Later;
                assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Read));
                let lost = stage.sender.handle(at(0), Event::LinkLost, &mut stage.out);
                assert_eq!(lost, Answer::Done);
                let result = Ok(vec![record(41)]);
                let said = stage.read_back(result);
                said.unwrap()
            },
            ReleaseCause::LinkLost,
        ),
        (
            "the history answers with other records",
            |stage| {
                stage.history.answers = Answers::Misplaced;
                stage.step()
            },
            ReleaseCause::ReadFailed,
        ),
    ];
    for (name, way, cause) in ways {
        let mut stage = Stage::new();
        assert_eq!(stage.pins.live(), 1);
        let stamp = stage.catch_up.stamp();
        let released = Released {
            stamp,
            cause: *cause,
        };
        assert_eq!(way(&mut stage), StepOutcome::Ended(released), "{name}");
        assert_eq!(stage.pins.live(), 0, "{name}");
        assert!(stage.sender.live_session().is_none(), "{name}");
        assert_eq!(stage.releases(), [*cause], "{name}");
        assert!(stage.link.0.is_empty(), "{name}: nothing was shipped");
        assert_over(&mut stage, *cause);
    }
}

/// What is over stays over, silently.
fn assert_over(stage: &mut Stage, cause: ReleaseCause) {
    assert!(stage.catch_up.is_over());
    assert_eq!(stage.step(), StepOutcome::Refused(cause));
    assert_eq!(stage.catch_up.hand_over(lsn(70)), HandOver::Refused(cause));
    assert_eq!(stage.catch_up.rewind(lsn(40)), Rewind::Refused(cause));
    let late = stage.read_back(Ok(vec![record(41)]));
    assert_eq!(late, Err(RecordsRefused::Over));
    stage.catch_up.acknowledged(lsn(50), lsn(50));
    assert_eq!(stage.release(ReleaseCause::Cancelled), None);
}

#[test]
fn cancel_twice_is_cancel_once_in_every_stage() {
    let stages: [fn() -> Stage; 3] = [Stage::new, Stage::following, Stage::live];
    for make in stages {
        for cause in [ReleaseCause::Cancelled, ReleaseCause::Completed] {
            let mut stage = make();
            assert_eq!(stage.pins.live(), 1);
            let released = stage.release(cause).unwrap();
            assert_eq!(released.cause, cause);
            assert_eq!(stage.releases(), [cause]);
            assert!(stage.sender.live_session().is_none());
            assert_eq!(stage.pins.live(), 0);
            assert_over(&mut stage, cause);
        }
    }
    // Dropping it without a word leaves nothing behind either.
    let stage = Stage::live();
    let pins = stage.pins.clone();
    drop(stage);
    assert_eq!(pins.live(), 0);
}

#[test]
fn a_panic_while_it_runs_releases_the_pin() {
    let stage = Stage::following();
    let pins = stage.pins.clone();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = stage;
        std::panic::resume_unwind(Box::new("planted"));
    }));
    assert!(unwound.is_err());
    assert_eq!(pins.live(), 0);
}

#[test]
fn the_pin_lives_until_the_join_is_proven() {
    let mut stage = Stage::live();
    assert_eq!(stage.pinned(), [70]);
    stage.catch_up.live_shipped(lsn(75));
    stage.catch_up.acknowledged(lsn(75), lsn(73));
    assert_eq!(stage.pinned(), [73]);
    stage.catch_up.acknowledged(lsn(90), lsn(90));
    assert_eq!(stage.pinned(), [75], "never past what was shipped");
}

#[test]
fn a_replica_that_lacks_a_record_gets_it_again() {
    let mut stage = Stage::new();
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(44) });
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(48) });
    assert_eq!(stage.catch_up.rewind(lsn(48)), Rewind::Nothing);
    assert_eq!(stage.catch_up.rewind(lsn(42)), Rewind::To(lsn(42)));
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(46) });
    assert_eq!(
        stage.link.0,
        [41, 42, 43, 44, 45, 46, 47, 48, 43, 44, 45, 46]
    );
    // A read under way is for the old place: its records are not shipped.
    stage.history.answers = Answers::Later;
    stage.catch_up.acknowledged(lsn(46), lsn(44));
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Read));
    assert_eq!(stage.catch_up.rewind(lsn(45)), Rewind::To(lsn(45)));
    let late = stage.read_back(Ok(vec![record(47)]));
    assert_eq!(late, Err(RecordsRefused::NoRead));
    stage.history.answers = Answers::AtOnce;
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(49) });
    // What it called durable it cannot lack.
    let proven = lsn(44);
    assert_eq!(
        stage.catch_up.rewind(lsn(43)),
        Rewind::BelowProven { proven }
    );

    let mut stage = Stage::live();
    stage.catch_up.live_shipped(lsn(72));
    assert_eq!(stage.catch_up.rewind(lsn(71)), Rewind::To(lsn(71)));
    assert!(!stage.catch_up.is_live(), "it has to be handed over again");
    stage.head = 72;
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(72) });
    assert_eq!(stage.catch_up.hand_over(lsn(72)), HandOver::At(lsn(72)));
}

#[test]
fn a_head_that_runs_away_is_told_and_not_chased_for_ever() {
    let mut stage = Stage::following();
    let mut rounds = 0;
    // The writers order four records for each four shipped: the lag never shrinks.
    let lag = loop {
        rounds += 1;
        assert!(rounds < 100, "it loops");
        match stage.step() {
            StepOutcome::Shipped { through } => {
                stage.catch_up.acknowledged(through, through);
                stage.head += 4;
            }
            StepOutcome::NotConverging(lag) => break lag,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((lag.rounds, lag.records), (4, 10));
    // Slowed writers: it converges after all.
    while let StepOutcome::Shipped { through } | StepOutcome::AtHead { head: through } =
        stage.step()
    {
        stage.catch_up.acknowledged(through, through);
        if through == lsn(stage.head) {
            break;
        }
    }
    let head = lsn(stage.head);
    assert_eq!(stage.catch_up.hand_over(head), HandOver::At(head));
}

#[test]
fn nothing_is_shipped_before_a_cut_is_recorded() {
    let mut stage = Stage::new();
    // The same session, but still waiting for its pins: a cut may have to come first.
    let (waiting, _, _) = planned();
    let caught_up = std::mem::replace(&mut stage.sender, waiting);
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Cut));
    assert!(stage.history.asked.is_empty());
    stage.sender = caught_up;
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(44) });
}

#[test]
fn a_refused_pin_is_named_and_nothing_is_held() {
    use moorline_engine::{PinKind, PinRefusedReason};
    for (refused, reason) in [
        (
            PinRefused::Reclaimed {
                after: lsn(40),
                tail: lsn(41),
            },
            PinRefusedReason::Reclaimed,
        ),
        (
            PinRefused::AboveHead {
                after: lsn(40),
                head: lsn(39),
            },
            PinRefusedReason::AboveHead,
        ),
        (PinRefused::TooMany { count: 9 }, PinRefusedReason::TooMany),
    ] {
        let (mut sender, mut out, plan) = planned();
        let said = bind(&mut sender, &mut out, &plan, |_| Err(refused));
        let Err(BindRefused::Pin(refusal)) = said else {
            panic!("it was bound, or refused otherwise");
        };
        assert_eq!((refusal.pin, refusal.lsn), (PinKind::History, lsn(40)));
        assert_eq!(refusal.reason, reason);
        // The session ended with it and may be tried again.
        assert!(sender.admit(plan.stamp).is_err());
        assert_eq!(sender.bucket(), Bucket::Disconnected);
    }
}

#[test]
fn only_the_plan_that_a_session_waits_for_is_bound_and_only_once() {
    let no_pin = |_| -> Result<RetentionPin, PinRefused> { panic!("nothing is pinned") };
    let refused = |sender: &Sender, plan: &Plan| {
        let (mut told, mut out) = (sender.clone(), Actions::new());
        let refused = bind(&mut told, &mut out, plan, no_pin);
        assert_eq!(told, *sender, "a refusal changed it");
        refused.unwrap_err().to_string()
    };
    let (sender, _, plan) = planned();
    // Of another volume, with the same ids.
    let mut foreign = plan.clone();
    foreign.replica.volume = VolumeId::new(2);
    let text = refused(&sender, &foreign);
    assert!(text.starts_with("the plan is for"), "{text}");
    let mut other = plan.clone();
    other.stamp.session = SessionId::new(OpenCount::new(1), 9);
    assert_eq!(
        refused(&sender, &other),
        "session 1-9 was named, but the latest is 1-1"
    );
    let mut longer = plan.clone();
    longer.kind = PlanKind::CatchUp {
        truncate: None,
        range: LsnRange::new(lsn(40), lsn(61)).unwrap(),
    };
    let text = "the session does not wait for this plan: it is handshake";
    assert_eq!(refused(&sender, &longer), text);
    let mut none = plan.clone();
    none.kind = PlanKind::ZeroGap { after: lsn(60) };
    assert_eq!(refused(&sender, &none), "the plan is no catch-up");
    // A pin at another place would hold too little.
    let pins = PinTable::new();
    let (mut told, mut out) = (sender.clone(), Actions::new());
    let wrong = bind(&mut told, &mut out, &plan, |_| pin(&pins, lsn(41)));
    let text = "a History pin at 41 was handed in, not a History pin at 40";
    assert_eq!(wrong.unwrap_err().to_string(), text);
    assert_eq!((told, pins.live()), (sender, 0));
    // Twice.
    let stage = Stage::new();
    let text = "the session does not wait for this plan: it is catching_up";
    assert_eq!(refused(&stage.sender, &plan), text);
    let early = BoundPlan::zero_gap(&stage.sender, plan.stamp, lsn(60));
    assert_eq!(early.unwrap_err().to_string(), text);
}

#[test]
fn a_replica_that_joins_at_once_is_shipped_what_it_lacks_and_whatever_follows() {
    let mut stage = Stage::new();
    for n in [44, 48, 52, 56, 60] {
        assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(n) });
        stage.replica_acks(n);
    }
    stage.catch_up.follow(lsn(60));
    assert_eq!(stage.catch_up.join(lsn(70)), HandOver::At(lsn(70)));
    assert_eq!(stage.catch_up.join(lsn(71)), HandOver::Already(lsn(70)));
    let join_point = lsn(70);
    stage.fact(Fact::Joined { join_point });
    stage.head = 72;
    for n in [64, 68, 72] {
        assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(n) });
        stage.replica_acks(n);
    }
    assert_eq!(stage.step(), StepOutcome::Waiting(Waiting::Live));
    assert_eq!(
        stage.catch_up.rewind(lsn(71)),
        Rewind::BelowProven { proven: lsn(72) }
    );
    assert_eq!(stage.pinned(), [72], "the pin lives until the proof is in");
    stage.fact(Fact::InSyncRecorded);
    let mut turn = Turn {
        now: at(0),
        sender: Some(&mut stage.sender),
        out: &mut stage.out,
    };
    let mut live = stage.catch_up.complete(&mut turn).unwrap();
    assert!(stage.catch_up.complete(&mut turn).is_none());
    assert_eq!(stage.releases(), [ReleaseCause::Completed]);
    assert_eq!((stage.pins.live(), live.shipped()), (0, lsn(72)));
    let ports = (&mut stage.history, &mut stage.link);
    let _shipped = live.step(lsn(73), ports);
    assert_eq!(stage.link.0.last(), Some(&73));
}

#[test]
fn a_zero_gap_asks_for_no_pin_and_ships_only_what_the_join_needs() {
    let (sender, out, _) = handshaken(68, 68);
    let stamp = sender.session().unwrap().stamp();
    assert!(BoundPlan::zero_gap(&sender, stamp, lsn(67)).is_err());
    let bound = BoundPlan::zero_gap(&sender, stamp, lsn(68)).unwrap();
    assert!(bound.range().is_empty());
    let mut stage = Stage::new();
    (stage.sender, stage.out) = (sender, out);
    stage.catch_up = CatchUp::new(bound, CatchUpConfig::default());
    stage.catch_up.follow(lsn(68));
    assert_eq!(stage.step(), StepOutcome::Shipped { through: lsn(70) });
    assert_eq!(stage.catch_up.hand_over(lsn(70)), HandOver::At(lsn(70)));
    assert_eq!(stage.link.0, [69, 70]);
}

#[test]
fn a_zero_gap_that_is_bound_twice_joins_once() {
    let (mut sender, mut out, _) = handshaken(68, 68);
    let stamp = sender.session().unwrap().stamp();
    let bound = |sender: &Sender| BoundPlan::zero_gap(sender, stamp, lsn(68));
    let plans = [bound(&sender).unwrap(), bound(&sender).unwrap()];
    let [mut first, mut second] = plans.map(|plan| CatchUp::new(plan, CatchUpConfig::default()));
    let mut tell = |sender: &mut Sender, head| {
        let join_point = lsn(head);
        let fact = Fact::Joined { join_point };
        sender.handle(at(0), Event::Session { stamp, fact }, &mut out)
    };
    assert_eq!(first.join(lsn(70)), HandOver::At(lsn(70)));
    assert_eq!(tell(&mut sender, 70), Answer::Done);
    // The other one finds its session joined, at whatever head it comes.
    let joined = sender.clone();
    assert_eq!(second.join(lsn(72)), HandOver::At(lsn(72)));
    assert_ne!(tell(&mut sender, 72), Answer::Done);
    assert_eq!(sender, joined, "the join point stays");
    assert!(bound(&sender).is_err(), "no third");
    drop(second);
    assert_eq!(sender, joined, "nothing hung on it");
    assert!(!first.is_over());
}

mod symmetry;

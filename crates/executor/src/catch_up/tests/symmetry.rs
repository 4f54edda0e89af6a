//! Whatever fails, at whatever step: no pin, no live session, one release event with its cause.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// What the replica lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Gap,
    GapAndCut,
    Nothing,
}

/// When the driver carries out a request to release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Driver {
    /// At once.
    Prompt,
    /// Never, so that the execution itself finds that its session is over.
    Lazy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    LinkLost,
    PeerSilent,
    EpochRaised,
    Moved,
    Stopped,
    Superseded,
    CancelledSession,
    CancelledExecution,
    PinBroken,
    ReadFails,
    WrongRecords,
    ReadFailsLater,
    ReadPanics,
    LinkPanics,
    Overdue,
    OverBudgetInStep,
}

const FAILURES: [Failure; 16] = [
    Failure::LinkLost,
    Failure::PeerSilent,
    Failure::EpochRaised,
    Failure::Moved,
    Failure::Stopped,
    Failure::Superseded,
    Failure::CancelledSession,
    Failure::CancelledExecution,
    Failure::PinBroken,
    Failure::ReadFails,
    Failure::WrongRecords,
    Failure::ReadFailsLater,
    Failure::ReadPanics,
    Failure::LinkPanics,
    Failure::Overdue,
    Failure::OverBudgetInStep,
];

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Step,
    Read,
    CutRecorded,
    Ack(u64),
    Join,
    Record,
}

struct Run {
    stage: Stage,
    driver: Driver,
    next: Next,
    /// Actions looked at.
    seen: usize,
    late: Result<(), ()>,
    secs: u64,
}

impl Run {
    fn new(path: Path, answers: Answers, driver: Driver) -> Self {
        let page = 4 * record_bytes();
        let config = CatchUpConfig {
            window_bytes: 2 * page,
            page_bytes: page,
            stubborn_rounds_max: 3,
        };
        let (flushed, head) = match path {
            Path::Gap => (40, 40),
            Path::GapAndCut => (40, 80),
            Path::Nothing => (68, 68),
        };
        let (mut sender, mut out, plan) = handshaken(flushed, head);
        let pins = PinTable::new();
        let mut stage = if let Some(plan) = plan {
            let hold = |after| pin(&pins, after);
            let bound = bind(&mut sender, &mut out, &plan, hold).unwrap();
            Stage::carrying_out(bound, config, (sender, out), pins)
        } else {
            let stamp = sender.session().unwrap().stamp();
            let bound = BoundPlan::zero_gap(&sender, stamp, lsn(flushed)).unwrap();
            let mut stage = Stage::carrying_out(bound, config, (sender, out), pins);
            stage.catch_up.follow(lsn(flushed));
            stage
        };
        stage.history.answers = answers;
        let seen = stage.out.len();
        let (next, late, secs) = (Next::Step, Ok(()), 0);
        Self {
            stage,
            driver,
            next,
            seen,
            late,
            secs,
        }
    }

    /// Tells the session, whatever it answers.
    fn tell(&mut self, fact: Fact<'_>) {
        let stamp = self.stage.catch_up.stamp();
        self.event(Event::Session { stamp, fact });
    }

    fn event(&mut self, event: Event<'_>) {
        let (now, stage) = (at(self.secs), &mut self.stage);
        let _any = stage.sender.handle(now, event, &mut stage.out);
    }

    /// One thing happens; the driver follows.
    fn happen(&mut self) {
        let stage = &mut self.stage;
        match self.next {
            Next::Step => {
                let secs = self.secs;
                let said = catch_unwind(AssertUnwindSafe(|| stage.step_at(secs)));
                self.next = said.map_or(Next::Step, |said| after_step(said, self.stage.head));
            }
            Next::Read => {
                let result = match self.late {
                    Ok(()) => stage
                        .history
                        .asked
                        .last()
                        .map(|&(range, max)| read(range, max)),
                    Err(()) => None,
                };
                let result = result.ok_or_else(gone);
                let said = catch_unwind(AssertUnwindSafe(|| stage.read_back(result)));
                let said = said.unwrap_or(Err(RecordsRefused::Over));
                self.next = said.map_or(Next::Step, |said| after_step(said, self.stage.head));
            }
            Next::CutRecorded => {
                self.tell(Fact::TruncationRecorded { through: lsn(70) });
                self.next = Next::Step;
            }
            Next::Ack(n) => {
                stage.catch_up.acknowledged(lsn(n), lsn(n));
                self.tell(Fact::Acknowledged {
                    flushed: lsn(n),
                    head: lsn(70),
                });
                if n == 60 {
                    self.stage.catch_up.follow(lsn(60));
                }
                let live = self.stage.catch_up.is_live();
                self.next = if live { Next::Record } else { Next::Step };
            }
            Next::Join => {
                if let HandOver::At(join_point) = stage.catch_up.hand_over(lsn(70)) {
                    self.tell(Fact::Joined { join_point });
                }
                self.next = Next::Ack(70);
            }
            Next::Record => {
                self.tell(Fact::InSyncRecorded);
                self.next = Next::Step;
            }
        }
        self.drive();
    }

    fn drive(&mut self) {
        while let Some(directed) = self.stage.out.get(self.seen) {
            self.seen += 1;
            if let Action::Release { stamp, cause } = directed.action
                && stamp == self.stage.catch_up.stamp()
                && self.driver == Driver::Prompt
            {
                let _first = self.stage.release(cause);
            }
        }
    }

    fn inject(&mut self, failure: Failure) {
        match failure {
            Failure::LinkLost => self.event(Event::LinkLost),
            Failure::PeerSilent => self.event(Event::PeerSilent),
            Failure::EpochRaised => self.event(Event::EpochRaised {
                to: Epoch::new(2, 0),
            }),
            Failure::Moved => self.event(Event::EndpointChanged(Endpoint {
                data: "elsewhere".into(),
                control: String::new(),
                version: 2,
            })),
            Failure::Stopped => self.event(Event::StopRequested),
            Failure::Superseded => self.event(Event::SessionReplaced {
                fresh: SessionId::new(OpenCount::new(1), 2),
                kind: moorline_engine::SessionKind::CatchUp,
                cause: Cause::Operator,
            }),
            Failure::CancelledSession => self.tell(Fact::CancelRequested),
            Failure::CancelledExecution => {
                let _released = self.stage.release(ReleaseCause::Cancelled);
            }
            Failure::PinBroken => {
                for pin in self.stage.pins.break_through(Lsn::MAX) {
                    let kind = moorline_engine::PinKind::History;
                    self.tell(Fact::PinBroken {
                        pin: kind,
                        lsn: pin.lsn,
                    });
                }
            }
            Failure::ReadFails => self.stage.history.answers = Answers::Fails,
            Failure::WrongRecords => self.stage.history.answers = Answers::Misplaced,
            Failure::ReadFailsLater => self.late = Err(()),
            Failure::ReadPanics => self.stage.history.answers = Answers::Panics,
            Failure::LinkPanics => self.stage.link.1 = Shipping::Panics,
            Failure::Overdue => {
                self.secs = 100;
                self.event(Event::DeadlineReached);
            }
            Failure::OverBudgetInStep => self.secs = 100,
        }
        self.drive();
    }

    /// Goes on until it is over; how many things happened.
    fn finish(&mut self) -> usize {
        let mut happened = 0;
        while !self.stage.catch_up.is_over() {
            assert!(happened < 100, "it loops");
            self.happen();
            happened += 1;
        }
        happened
    }
}

fn after_step(said: StepOutcome, head: u64) -> Next {
    match said {
        StepOutcome::Shipped { through } => Next::Ack(through.get()),
        StepOutcome::Waiting(Waiting::Cut) => Next::CutRecorded,
        StepOutcome::Waiting(Waiting::Read) => Next::Read,
        StepOutcome::AtHead { .. } => Next::Join,
        StepOutcome::Waiting(Waiting::Window | Waiting::Proof | Waiting::Live) => Next::Ack(head),
        StepOutcome::Waiting(Waiting::Base | Waiting::Laid)
        | StepOutcome::NotConverging(_)
        | StepOutcome::Ended(_)
        | StepOutcome::Refused(_) => Next::Step,
    }
}

/// The causes that a failure may be told as: by where it strikes.
fn causes(failure: Failure) -> &'static [ReleaseCause] {
    use ReleaseCause as R;
    const STALL: R = R::BudgetExceeded(BudgetLimit::Stall);
    match failure {
        Failure::LinkLost => &[R::LinkLost],
        Failure::EpochRaised => &[R::Fenced],
        Failure::PeerSilent | Failure::Moved | Failure::Stopped | Failure::Superseded => {
            &[R::SessionEnded]
        }
        Failure::CancelledSession | Failure::CancelledExecution => &[R::Cancelled],
        Failure::PinBroken => &[R::PinBroken],
        Failure::ReadFails | Failure::WrongRecords | Failure::ReadFailsLater => &[R::ReadFailed],
        Failure::ReadPanics | Failure::LinkPanics => &[R::Panicked],
        // A join, or a cut, that takes too long is no matter of the budget.
        Failure::Overdue => &[STALL, R::SessionEnded],
        Failure::OverBudgetInStep => &[STALL],
    }
}

fn all_runs() -> Vec<(Path, Answers, Driver)> {
    let mut runs = Vec::new();
    for path in [Path::Gap, Path::GapAndCut, Path::Nothing] {
        for answers in [Answers::AtOnce, Answers::Later] {
            for driver in [Driver::Prompt, Driver::Lazy] {
                runs.push((path, answers, driver));
            }
        }
    }
    runs
}

#[test]
fn a_failure_of_any_kind_at_any_step_leaves_nothing_behind() {
    for (path, answers, driver) in all_runs() {
        let mut clean = Run::new(path, answers, driver);
        let steps = clean.finish();
        assert_eq!(clean.stage.releases(), [ReleaseCause::Completed]);
        for failure in FAILURES {
            let mut struck = 0;
            for k in 0..=steps {
                let mut run = Run::new(path, answers, driver);
                for _ in 0..k {
                    run.happen();
                }
                run.inject(failure);
                run.finish();
                let name = format!("{path:?} {driver:?}: {failure:?} before step {k} of {steps}");
                let stage = &run.stage;
                assert_eq!(stage.pins.live(), 0, "{name}: a pin is held");
                let stamp = stage.catch_up.stamp();
                assert!(
                    stage.sender.admit(stamp).is_err(),
                    "{name}: the session is live"
                );
                let [cause] = stage.releases()[..] else {
                    panic!("{name}: {:?} were told", stage.releases());
                };
                if cause == ReleaseCause::Completed {
                    continue;
                }
                struck += 1;
                assert!(
                    causes(failure).contains(&cause),
                    "{name}: told as {cause:?}"
                );
                // Cancelled between the last proof and its release: nothing is left to undo.
                let in_sync = stage.sender.bucket() == moorline_engine::Bucket::InSync;
                assert!(!in_sync || failure == Failure::CancelledExecution, "{name}");
            }
            // Without a gap there is no pin to break, and without waiting no late read.
            let idle = matches!(
                (path, answers, failure),
                (
                    Path::Nothing,
                    _,
                    Failure::PinBroken | Failure::OverBudgetInStep
                ) | (_, Answers::AtOnce, Failure::ReadFailsLater)
            );
            assert_eq!(
                struck > 0,
                !idle,
                "{path:?} {failure:?} struck {struck} times"
            );
        }
    }
}

#[test]
fn what_is_dropped_at_any_step_holds_nothing() {
    for (path, answers, driver) in all_runs() {
        let steps = Run::new(path, answers, driver).finish();
        for k in 0..=steps {
            let mut run = Run::new(path, answers, driver);
            for _ in 0..k {
                run.happen();
            }
            let pins = run.stage.pins.clone();
            drop(run);
            assert_eq!(pins.live(), 0, "{path:?}: dropped before step {k}");
        }
    }
}

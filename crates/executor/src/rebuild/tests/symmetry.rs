//! Whatever fails, at whatever step of whatever source: no pin, no live session, one release event
//! with its cause, and the replica still known to need a rebuild.

use std::panic::{AssertUnwindSafe, catch_unwind};

use moorline_engine::BudgetLimit;

use super::*;

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
    ReadPanics,
    BaseFails,
    WrongBase,
    BasePanics,
    /// A submitted read, of records or of the base, comes back failed.
    AnswerFails,
    LinkPanics,
    /// By the session's own timer.
    Overdue,
    /// Found by the next step.
    OverBudgetInStep,
}

const FAILURES: [Failure; 19] = [
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
    Failure::ReadPanics,
    Failure::BaseFails,
    Failure::WrongBase,
    Failure::BasePanics,
    Failure::AnswerFails,
    Failure::LinkPanics,
    Failure::Overdue,
    Failure::OverBudgetInStep,
];

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Step,
    ReadBack,
    BaseBack,
    Ack(u64),
    Join,
    Laid(u64),
}

struct Run {
    stage: Stage,
    driver: Driver,
    next: Next,
    /// Actions looked at.
    seen: usize,
    late: Result<(), ()>,
    secs: u64,
    /// What the ordering point has when the base is whole.
    grows_to: u64,
}

impl Run {
    fn new(from: From, answers: Answers, driver: Driver) -> Self {
        let mut stage = Stage::new(from);
        (stage.history.answers, stage.image.answers) = (answers, answers);
        let seen = stage.out.len();
        Self {
            stage,
            driver,
            next: Next::Step,
            seen,
            late: Ok(()),
            secs: 0,
            grows_to: 72,
        }
    }

    fn event(&mut self, event: Event<'_>) {
        let (now, stage) = (at(self.secs), &mut self.stage);
        let _any = stage.sender.handle(now, event, &mut stage.out);
    }

    /// Tells the session, whatever it answers.
    fn tell(&mut self, fact: Fact<'_>) {
        let stamp = self.stage.rebuild.stamp();
        self.event(Event::Session { stamp, fact });
    }

    /// One thing happens; the driver follows.
    fn happen(&mut self) {
        self.next = match self.next {
            Next::Step => {
                let (secs, stage) = (self.secs, &mut self.stage);
                let said = catch_unwind(AssertUnwindSafe(|| stage.step_at(secs)));
                said.map_or(Next::Step, |said| self.after(said))
            }
            Next::ReadBack => {
                let &(range, max) = self.stage.history.asked.last().unwrap();
                let result = self.late.map(|()| read(range, max)).map_err(|()| gone());
                let (rebuild, mut turn, link) = self.stage.turn();
                let said = AssertUnwindSafe(|| rebuild.records_read(&mut turn, result, link));
                let said = catch_unwind(said).ok().and_then(Result::ok);
                said.map_or(Next::Step, |said| self.after(said))
            }
            Next::BaseBack => {
                let &wanted = self.stage.image.asked.last().unwrap();
                let gone = |()| BaseReadError::Gone;
                let as_of = self.stage.image.as_of;
                let result = self.late.map(|()| extents(wanted, as_of)).map_err(gone);
                let (rebuild, mut turn, link) = self.stage.turn();
                let base = || rebuild.base_read(&mut turn, result, lsn(as_of), link);
                let said = catch_unwind(AssertUnwindSafe(base)).ok();
                let said = said.and_then(Result::ok);
                said.map_or(Next::Step, |said| self.after(said))
            }
            Next::Ack(n) => {
                self.stage.rebuild.acknowledged(lsn(n), lsn(n));
                let (flushed, head) = (lsn(n), lsn(n));
                self.tell(Fact::Acknowledged { flushed, head });
                Next::Step
            }
            Next::Join => {
                if let HandOver::At(join_point) = self.stage.rebuild.hand_over(lsn(70)) {
                    self.tell(Fact::Joined { join_point });
                    // The base goes on while the source does.
                    let (head, committed) = (lsn(self.grows_to), lsn(self.grows_to));
                    self.stage.source = SourceAt { head, committed };
                    self.stage.rebuild.live_shipped(head);
                }
                Next::Step
            }
            Next::Laid(extents) => {
                let _any = self.stage.lays(extents);
                Next::Step
            }
        };
        self.drive();
    }

    fn after(&self, said: RebuildOutcome) -> Next {
        match said {
            RebuildOutcome::Shipped { through } => Next::Ack(through.get()),
            RebuildOutcome::Sent { extents } => Next::Laid(extents),
            RebuildOutcome::AtHead { .. } => Next::Join,
            RebuildOutcome::Waiting(Waiting::Read) => Next::ReadBack,
            RebuildOutcome::Waiting(Waiting::Base) => Next::BaseBack,
            RebuildOutcome::BaseWhole { .. } | RebuildOutcome::Waiting(Waiting::Proof) => {
                Next::Ack(self.grows_to)
            }
            RebuildOutcome::Waiting(
                Waiting::Window | Waiting::Live | Waiting::Laid | Waiting::Cut,
            )
            | RebuildOutcome::NotConverging(_)
            | RebuildOutcome::Ended(_)
            | RebuildOutcome::Refused(_) => Next::Step,
        }
    }

    fn drive(&mut self) {
        while let Some(asked) = self.stage.out.get(self.seen) {
            self.seen += 1;
            if let Action::Release { stamp, cause } = asked.action
                && stamp == self.stage.rebuild.stamp()
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
                fresh: SessionId::new(OpenCount::new(1), 9),
                kind: SessionKind::Rebuild,
                cause: Cause::Operator,
            }),
            Failure::CancelledSession => self.tell(Fact::CancelRequested),
            Failure::CancelledExecution => {
                let _released = self.stage.release(ReleaseCause::Cancelled);
            }
            Failure::PinBroken => {
                for pin in self.stage.pins.break_through(Lsn::MAX) {
                    let kind = moorline_engine::PinKind::FullBase;
                    self.tell(Fact::PinBroken {
                        pin: kind,
                        lsn: pin.lsn,
                    });
                }
            }
            Failure::ReadFails => self.stage.history.answers = Answers::Fails,
            Failure::WrongRecords => self.stage.history.answers = Answers::Misplaced,
            Failure::ReadPanics => self.stage.history.answers = Answers::Panics,
            Failure::BaseFails => self.stage.image.answers = Answers::Fails,
            Failure::WrongBase => self.stage.image.answers = Answers::Misplaced,
            Failure::BasePanics => self.stage.image.answers = Answers::Panics,
            Failure::AnswerFails => self.late = Err(()),
            Failure::LinkPanics => self.stage.link.panics = true,
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
        while !self.stage.rebuild.is_over() {
            assert!(happened < 200, "it loops");
            self.happen();
            happened += 1;
        }
        happened
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
        Failure::ReadFails
        | Failure::WrongRecords
        | Failure::BaseFails
        | Failure::WrongBase
        | Failure::AnswerFails => &[R::ReadFailed],
        Failure::ReadPanics | Failure::BasePanics | Failure::LinkPanics => &[R::Panicked],
        // A join that takes too long is no matter of the budget.
        Failure::Overdue => &[STALL, R::SessionEnded],
        Failure::OverBudgetInStep => &[STALL],
    }
}

fn all_runs() -> Vec<(From, Answers, Driver)> {
    let mut runs = Vec::new();
    for from in ALL {
        for answers in [Answers::AtOnce, Answers::Later] {
            for driver in [Driver::Prompt, Driver::Lazy] {
                runs.push((from, answers, driver));
            }
        }
    }
    runs
}

#[test]
fn a_failure_of_any_kind_at_any_step_leaves_nothing_behind() {
    for (from, answers, driver) in all_runs() {
        let mut clean = Run::new(from, answers, driver);
        let steps = clean.finish();
        assert_eq!(clean.stage.releases(), [ReleaseCause::Completed]);
        assert_eq!(clean.stage.sender.needs_rebuild(), None);
        for failure in FAILURES {
            let mut struck = 0;
            for k in 0..=steps {
                let mut run = Run::new(from, answers, driver);
                for _ in 0..k {
                    run.happen();
                }
                run.inject(failure);
                run.finish();
                let name = format!("{from:?} {driver:?}: {failure:?} before step {k} of {steps}");
                let stage = &run.stage;
                assert_eq!(stage.pins.live(), 0, "{name}: a pin is held");
                let stamp = stage.rebuild.stamp();
                assert!(stage.sender.admit(stamp).is_err(), "{name}: it is live");
                let [cause] = stage.releases()[..] else {
                    panic!("{name}: {:?} were told", stage.releases());
                };
                let proven = stage.sender.needs_rebuild().is_none();
                if cause == ReleaseCause::Completed {
                    assert!(proven, "{name}: completed without proof");
                    continue;
                }
                struck += 1;
                assert!(
                    causes(failure).contains(&cause),
                    "{name}: told as {cause:?}"
                );
                // Cancelled between the last proof and its release: nothing is left to undo.
                assert!(!proven || failure == Failure::CancelledExecution, "{name}");
            }
            // Where nothing is submitted, no answer can fail.
            let idle = answers == Answers::AtOnce && failure == Failure::AnswerFails;
            assert_eq!(
                struck > 0,
                !idle,
                "{from:?} {failure:?} struck {struck} times"
            );
        }
    }
}

#[test]
fn what_is_dropped_at_any_step_holds_nothing() {
    for (from, answers, driver) in all_runs() {
        let steps = Run::new(from, answers, driver).finish();
        for k in 0..=steps {
            let mut run = Run::new(from, answers, driver);
            for _ in 0..k {
                run.happen();
            }
            let pins = run.stage.pins.clone();
            drop(run);
            assert_eq!(pins.live(), 0, "{from:?}: dropped before step {k}");
        }
    }
}

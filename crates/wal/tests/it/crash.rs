//! Any sequence of appends, completions, cuts, reclaims, reads and crashes: what was reported is
//! there, and what was cut stays away.

use std::time::Duration;

use moorline_types::{EpochStart, Instant, Lsn, LsnRange};
use moorline_wal::{
    AppendError, Log, LogAnchor, LogConfig, LogEvent, LogFindings, LogOpening, Mutants, ReadId,
    ReadStart, Record,
};
use proptest::prelude::*;

use crate::{
    device::{Device, Random},
    rig::{config, device, epoch, frames_in, lsn, open, record},
};

const RING: u64 = 48 * 4096;

#[derive(Clone, Debug)]
enum Step {
    Append {
        blocks: u32,
    },
    Submit,
    Complete {
        pick: usize,
    },
    CompleteAll,
    Cut {
        back: u64,
    },
    /// Writes an anchor into the older superblock.
    Anchor {
        back: u64,
    },
    Reclaim,
    Release {
        back: u64,
    },
    Read {
        back: u64,
        count: u64,
    },
    Pin {
        back: u64,
    },
    Unpin,
    Wait {
        ms: u64,
    },
    Crash {
        seed: u64,
        opening_steps: Vec<usize>,
    },
    Kill {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..4u32).prop_map(|blocks| Step::Append { blocks }),
        1 => (4..14u32).prop_map(|blocks| Step::Append { blocks }),
        8 => Just(Step::Submit),
        10 => any::<usize>().prop_map(|pick| Step::Complete { pick }),
        3 => Just(Step::CompleteAll),
        2 => (0..6u64).prop_map(|back| Step::Cut { back }),
        4 => (0..6u64).prop_map(|back| Step::Anchor { back }),
        3 => Just(Step::Reclaim),
        2 => (0..6u64).prop_map(|back| Step::Release { back }),
        2 => (0..9u64, 1..9u64).prop_map(|(back, count)| Step::Read { back, count }),
        1 => (0..9u64).prop_map(|back| Step::Pin { back }),
        1 => Just(Step::Unpin),
        2 => (1..20u64).prop_map(|ms| Step::Wait { ms }),
        2 => (any::<u64>(), prop::collection::vec(0..8usize, 0..3))
            .prop_map(|(seed, opening_steps)| Step::Crash { seed, opening_steps }),
        1 => any::<u64>().prop_map(|seed| Step::Kill { seed }),
    ]
}

#[derive(Clone, Debug, Default)]
struct Superblock {
    anchor: LogAnchor,
    history: Vec<EpochStart>,
}

/// The log, its device, and what it has promised.
struct World {
    device: Device,
    log: Log,
    mutants: Mutants,
    now: Instant,
    opens: u64,
    /// The newer one first. Opening uses the newer one, or the older one if that is lost.
    superblocks: [Superblock; 2],
    epoch: u64,
    stamp: u64,
    /// What was appended and not cut: place `n` holds LSN `n + 1`.
    expected: Vec<Record>,
    /// What a cut that is not recorded yet has dropped: that LSN's records before the cut.
    uncut: Vec<Vec<Record>>,
    /// Reported durable.
    promised: Lsn,
    highest_sequence: u64,
    pin: Option<moorline_wal::RetentionPin>,
    reads: Vec<(ReadId, Vec<Record>)>,
}

impl World {
    fn new(mutants: Mutants) -> Self {
        let mut device = device(RING);
        let config = config(1, RING, mutants);
        let (log, _) = open(&mut device, config, LogAnchor::default(), &[], 0).unwrap();
        Self {
            device,
            log,
            mutants,
            now: Instant::ZERO,
            opens: 1,
            superblocks: [Superblock::default(), Superblock::default()],
            epoch: 1,
            stamp: 0,
            expected: Vec::new(),
            uncut: Vec::new(),
            promised: Lsn::ZERO,
            highest_sequence: 0,
            pin: None,
            reads: Vec::new(),
        }
    }

    fn back(&self, back: u64) -> Lsn {
        lsn(self.log.head().get().saturating_sub(back)).max(self.log.tail())
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append { blocks } => self.append(blocks),
            Step::Submit => self.submit(),
            Step::Complete { pick } => self.complete(pick),
            Step::CompleteAll => self.complete_all(),
            Step::Cut { back } => self.cut(back),
            Step::Anchor { back } => self.anchor(back),
            Step::Reclaim => {
                self.log
                    .reclaim([self.superblocks[0].anchor, self.superblocks[1].anchor]);
            }
            Step::Release { back } => self.log.release_memory(self.back(back)),
            Step::Read { back, count } => self.read(back, count),
            Step::Pin { back } => {
                let holder = moorline_wal::PinHolder::Operation { operation: 1 };
                self.pin = Some(self.log.pin(self.back(back), holder, self.now).unwrap());
            }
            Step::Unpin => self.pin = None,
            Step::Wait { ms } => {
                self.now = self.now.after(Duration::from_millis(ms));
                let (mut ops, mut events) = (Vec::new(), Vec::new());
                self.log.on_deadline(self.now, &mut ops, &mut events);
                assert!(events.is_empty());
                self.send(ops);
            }
            Step::Crash {
                seed,
                opening_steps,
            } => {
                let mut random = Random(seed);
                self.device.crash(&mut random);
                for steps in opening_steps {
                    self.open_and_crash(steps, &mut random);
                }
                self.reopen();
            }
            Step::Kill { seed } => {
                self.device.kill(&mut Random(seed));
                self.reopen();
            }
        }
        self.log.assert_invariants();
        if let Some(pin) = &self.pin {
            assert!(
                self.log.tail() <= pin.lsn(),
                "a pin holds the records above it"
            );
        }
    }

    fn append(&mut self, blocks: u32) {
        self.stamp += 1;
        let next = self.log.head().get() + 1;
        let record = record(next, self.epoch, blocks, self.stamp);
        match self.log.append(record.clone()) {
            Ok(()) => self.expected.push(record),
            Err(AppendError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn send(&mut self, mut ops: Vec<moorline_types::DeviceOp>) {
        for frame in frames_in(&ops) {
            assert!(
                frame.sequence > self.highest_sequence,
                "a sequence is used once"
            );
            self.highest_sequence = frame.sequence;
        }
        self.device.submit(&mut ops);
    }

    fn submit(&mut self) {
        let mut ops = Vec::new();
        self.log.submit(self.now, &mut ops);
        self.send(ops);
    }

    fn complete(&mut self, pick: usize) {
        if self.device.in_flight() == 0 {
            return;
        }
        let done = self.device.complete(pick % self.device.in_flight());
        let (mut ops, mut events) = (Vec::new(), Vec::new());
        self.log.on_done(self.now, done, &mut ops, &mut events);
        self.send(ops);
        for event in events {
            self.hear(event);
        }
    }

    fn complete_all(&mut self) {
        self.submit();
        while self.device.in_flight() > 0 {
            self.complete(0);
            self.submit();
        }
    }

    fn hear(&mut self, event: LogEvent) {
        match event {
            LogEvent::Flushed { through } => {
                assert!(through > self.promised, "the frontier rises");
                self.promised = through;
            }
            LogEvent::CutRecorded { .. } => {
                self.uncut.remove(0);
            }
            LogEvent::RecordsRead { read, result } => {
                let place = self.reads.iter().position(|(id, _)| *id == read).unwrap();
                let (_, want) = self.reads.remove(place);
                assert_eq!(result.unwrap(), want);
            }
            LogEvent::Failed { error, .. } => panic!("{error}"),
        }
    }

    fn cut(&mut self, back: u64) {
        // A store never cuts below what it has applied, and its anchors lie below that.
        let through = self.back(back).max(self.superblocks[0].anchor.tail);
        self.log.cut(through).unwrap();
        self.uncut.push(self.expected.clone());
        self.expected.truncate(through.get() as usize);
        self.promised = self.promised.min(through);
        self.epoch += 1;
        if self.pin.as_ref().is_some_and(|pin| pin.lsn() > through) {
            self.pin = None;
        }
    }

    fn anchor(&mut self, back: u64) {
        let anchor = self.log.anchor_at(self.back(back));
        let newer = self.superblocks[0].anchor;
        if anchor.tail >= newer.tail && anchor.sequence >= newer.sequence {
            let history = self.log.history().to_vec();
            self.superblocks.swap(0, 1);
            self.superblocks[0] = Superblock { anchor, history };
        }
    }

    fn read(&mut self, back: u64, count: u64) {
        let after = self.back(back);
        let through = lsn(after.get() + count).min(self.log.head());
        let range = LsnRange::new(after, through).unwrap();
        let want = self.expected[after.get() as usize..through.get() as usize].to_vec();
        self.stamp += 1;
        let id = ReadId(self.stamp);
        let mut ops = Vec::new();
        match self
            .log
            .read(self.now, id, range, usize::MAX, &mut ops)
            .unwrap()
        {
            ReadStart::Ready(records) => assert_eq!(records, want),
            ReadStart::Pending => self.reads.push((id, want)),
        }
        self.send(ops);
    }

    /// Now and then the newer copy is lost. A store that opens writes both copies before anything
    /// is written to the ring.
    fn read_superblocks(&mut self) {
        let read = usize::from(self.opens.is_multiple_of(3));
        let content = self.superblocks[read].clone();
        self.superblocks = [content.clone(), content];
    }

    /// Opens, loses power after some completions, and leaves it at that.
    fn open_and_crash(&mut self, steps: usize, random: &mut Random) {
        self.opens += 1;
        self.read_superblocks();
        let config = config(self.opens, RING, self.mutants);
        let mut ops = Vec::new();
        let Superblock { anchor, history } = self.superblocks[0].clone();
        let mut opening = LogOpening::new(config, anchor, history, Lsn::ZERO, &mut ops).unwrap();
        self.send(ops);
        for _ in 0..steps {
            let done = self.device.complete(random.below(self.device.in_flight()));
            let mut ops = Vec::new();
            let result = opening.on_done(done, &mut ops);
            self.send(ops);
            if let Some(result) = result {
                result.unwrap();
                break;
            }
        }
        self.device.crash(random);
    }

    fn reopen(&mut self) {
        // The pin's table goes with the log.
        self.pin = None;
        self.reads.clear();
        self.read_superblocks();
        let Superblock { anchor, history } = self.superblocks[0].clone();
        self.opens += 1;
        let config = config(self.opens, RING, self.mutants);
        let mut twin = self.device.image();
        let (first, found) = open(&mut twin, config.clone(), anchor, &history, 0).unwrap();
        let (again, twice) = open(&mut twin, config.clone(), anchor, &history, 0).unwrap();
        assert_eq!(first.head(), again.head(), "opening is idempotent");
        assert_eq!(
            twice.torn, None,
            "the first opening wrote over the torn end"
        );
        let (log, findings) = self.open_now(config);
        assert_eq!(findings, found);
        self.check_opened(&log, &findings);
        self.log = log;
        self.now = Instant::ZERO;
        self.epoch += 1;
    }

    fn open_now(&mut self, config: LogConfig) -> (Log, LogFindings) {
        let mut ops = Vec::new();
        let Superblock { anchor, history } = self.superblocks[0].clone();
        let mut opening = LogOpening::new(config, anchor, history, Lsn::ZERO, &mut ops).unwrap();
        loop {
            self.send(std::mem::take(&mut ops));
            let done = self.device.complete(0);
            if let Some(result) = opening.on_done(done, &mut ops) {
                return result.unwrap();
            }
        }
    }

    fn check_opened(&mut self, log: &Log, findings: &LogFindings) {
        assert_eq!(findings.damaged, None, "a crash is no damage");
        assert_eq!((log.head(), log.flushed()), (findings.head, findings.head));
        assert!(
            log.head() >= self.promised,
            "{} was promised, {}",
            self.promised,
            log.head()
        );
        let found: Vec<_> = (log.tail().get() + 1..=log.head().get())
            .map(|at| log.header(lsn(at)).unwrap().clone())
            .collect();
        let is_prefix = |records: &Vec<Record>| {
            let there = records.len() as u64 >= log.head().get();
            there
                && found
                    .iter()
                    .all(|header| records[header.lsn().get() as usize - 1].header() == header)
        };
        let histories = std::iter::once(&self.expected).chain(&self.uncut);
        let history = histories
            .into_iter()
            .find(|records| is_prefix(records))
            .cloned();
        self.expected = history.expect("only what was appended, and nothing that was cut");
        self.expected.truncate(log.head().get() as usize);
        self.uncut.clear();
        self.promised = log.head();
        assert_eq!(
            log.last_record_epoch(),
            self.expected.last().map_or(epoch(0), Record::epoch)
        );
    }
}

/// Runs the steps, then crashes once more and reads everything.
fn run(steps: Vec<Step>, mutants: Mutants) {
    let mut world = World::new(mutants);
    for step in steps {
        world.run(step);
    }
    world.run(Step::Crash {
        seed: 1,
        opening_steps: Vec::new(),
    });
    let (tail, head) = (world.log.tail(), world.log.head());
    world.read(head.distance_from(tail), u64::from(u32::MAX));
    world.complete_all();
    assert!(world.reads.is_empty());
    for at in tail.get() + 1..=head.get() {
        let header = world.log.header(lsn(at)).unwrap();
        assert_eq!(header.lsn(), lsn(at));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_reported_is_there_and_what_was_cut_stays_away(
        steps in prop::collection::vec(step(), 1..150)
    ) {
        run(steps, Mutants::NONE);
    }
}

#[cfg(feature = "mutants")]
#[test]
fn each_planted_bug_is_found() {
    use moorline_wal::Mutant;
    use proptest::test_runner::TestRunner;

    for mutant in [
        Mutant::IgnorePins,
        Mutant::AckBeforeFlush,
        Mutant::CutIgnored,
    ] {
        let config = ProptestConfig {
            cases: 400,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let mut runner = TestRunner::new(config);
        let outcome = runner.run(&prop::collection::vec(step(), 1..150), |steps| {
            run(steps, Mutants::NONE.with(mutant));
            Ok(())
        });
        assert!(outcome.is_err(), "{mutant:?} was not found");
    }
}

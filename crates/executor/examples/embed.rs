//! Engine, log and executor embedded over storage and transport of one's own: both in memory.
//!
//! A replica that lacks records is caught up, joined to the live stream and proven in sync.

use std::error::Error;

use moorline_engine::*;
use moorline_executor::*;
use moorline_types::{BufferPool, DeviceDone, DeviceOp, DeviceOpKind, DeviceOutcome, OpenCount};
use moorline_types::{Epoch, Instant, Lsn, LsnRange, ReplicaId, SessionId, StoreId, VolumeId};
use moorline_wal::{Log, LogAnchor, LogConfig, LogOpening, LogReadError, LogRegion};
use moorline_wal::{PinHolder, ReadId, ReadStart, Record};

const VOLUME: VolumeId = VolumeId::new(1);
const EPOCH: Epoch = Epoch::new(1, 0);
const OPEN: OpenCount = OpenCount::new(1);
const RING_BYTES: usize = 4 << 20;
const NOW: Instant = Instant::ZERO;

type Done<T> = Result<T, Box<dyn Error>>;

/// A log on a disk in memory that completes at once whatever it is asked.
struct Store {
    disk: Vec<u8>,
    log: Log,
}

impl Store {
    fn format(store: StoreId) -> Done<Self> {
        let bytes = RING_BYTES as u64;
        let region = LogRegion { offset: 0, bytes };
        let config = LogConfig::new(VOLUME, store, OPEN, region, BufferPool::new());
        let (mut disk, mut ops) = (vec![0; RING_BYTES], Vec::new());
        let start = LogAnchor::default();
        let mut opening = LogOpening::new(config, start, vec![], Lsn::ZERO, &mut ops)?;
        loop {
            if let Some(opened) = opening.on_done(act(&mut disk, ops.remove(0))?, &mut ops) {
                return Ok(Self {
                    disk,
                    log: opened?.0,
                });
            }
        }
    }

    fn append(&mut self, records: Vec<Record>) -> Done<Lsn> {
        let (mut ops, mut events) = (Vec::new(), Vec::new());
        for record in records {
            self.log.append(record)?;
        }
        self.log.submit(NOW, &mut ops);
        while !ops.is_empty() {
            let done = act(&mut self.disk, ops.remove(0))?;
            self.log.on_done(NOW, done, &mut ops, &mut events);
            self.log.submit(NOW, &mut ops);
        }
        Ok(self.log.flushed())
    }
}

fn act(disk: &mut [u8], op: DeviceOp) -> Done<DeviceDone> {
    let at = usize::try_from(op.offset)?;
    let outcome = match op.kind {
        DeviceOpKind::Read(mut page) => {
            let to = page.as_mut_slice();
            to.copy_from_slice(&disk[at..at + to.len()]);
            DeviceOutcome::Read(page)
        }
        DeviceOpKind::Write(parts, _) => {
            let bytes = parts.iter().flat_map(|part| part.as_slice());
            let _put = disk[at..]
                .iter_mut()
                .zip(bytes)
                .map(|(to, from)| *to = *from)
                .count();
            DeviceOutcome::Written
        }
        DeviceOpKind::Flush => DeviceOutcome::Flushed,
        DeviceOpKind::Discard { .. } => DeviceOutcome::Discarded,
    };
    let (id, result) = (op.id, Ok(outcome));
    Ok(DeviceDone { id, result })
}

impl HistoryReader for Store {
    /// Records that left memory would come back as an event, for `CatchUp::records_read`.
    fn read(&mut self, range: LsnRange, bytes_max: usize) -> Result<ReadStart, LogReadError> {
        self.log
            .read(NOW, ReadId(1), range, bytes_max, &mut Vec::new())
    }
}

struct Wire(Vec<Record>);

impl ReplicaLink for Wire {
    fn ship(&mut self, records: Vec<Record>) {
        self.0.extend(records);
    }
}

/// The facts that both sides tell in a handshake. Nothing is checkpointed in this example.
#[rustfmt::skip]
fn answered<'a>(ours: &'a Log, theirs: &'a Log) -> Fact<'a> {
    let none = Lsn::ZERO;
    let primary = PrimaryFacts {
        history: ours.history(), given_up: &[],
        head: ours.head(), committed: ours.flushed(), tail: none, checkpoint: none, lowest_pin: None,
    };
    let replica = ReplicaFacts {
        history: theirs.history(), given_up: &[], image: Image::Whole,
        head: theirs.head(), flushed: Some(theirs.flushed()), committed: none,
        tail: none, checkpoint: none, applied: none,
    };
    Fact::HandshakeAnswered { primary, replica }
}

fn tell(sender: &mut Sender, stamp: SessionStamp, fact: Fact<'_>, out: &mut Actions) {
    // A refusal changes nothing: an acknowledgement that comes too late, for example.
    let _answer = sender.handle(NOW, Event::Session { stamp, fact }, out);
}

fn turn<'a>(sender: &'a mut Sender, out: &'a mut Actions) -> Turn<'a> {
    let (now, sender) = (NOW, Some(sender));
    Turn { now, sender, out }
}

fn main() -> Done<()> {
    let mut ours = Store::format(StoreId::new(1))?;
    let mut theirs = Store::format(StoreId::new(2))?;
    let mark = |n| Record::epoch_mark(VOLUME, EPOCH, Lsn::new(n));
    ours.append((1..=1_000).map(mark).collect())?;
    theirs.append((1..=30).map(mark).collect())?;
    let (volume, server) = (VOLUME, "s2".parse()?);
    let replica = ReplicaId { volume, server };
    let (data, control, version) = ("s2:7401".into(), "s2:7402".into(), 1);
    #[rustfmt::skip]
    let endpoint = Endpoint { data, control, version };
    let mut sender = Sender::new(replica.clone(), endpoint, EPOCH, SenderConfig::default());
    let (mut out, mut wire, mut execution) = (Actions::new(), Wire(Vec::new()), None::<CatchUp>);
    let (fresh, cause) = (SessionId::new(OPEN, 1), Cause::Bootstrap);
    let _taken = sender.handle(NOW, Event::LinkUp { fresh, cause }, &mut out);

    while sender.bucket() != Bucket::InSync || !out.is_empty() {
        // What the engine asks for comes first, in order.
        for asked in std::mem::take(&mut out) {
            match (asked.action, &mut execution) {
                (Action::Emit(event), _) => println!("{event}"),
                (Action::SendHandshake { stamp, .. }, _) => {
                    tell(
                        &mut sender,
                        stamp,
                        answered(&ours.log, &theirs.log),
                        &mut out,
                    );
                }
                (Action::BindPlan(plan), _) => {
                    let (server, session) = (replica.server.clone(), plan.stamp.session);
                    let holder = PinHolder::CatchUp { server, session };
                    let pin = |above| ours.log.pin(above, holder, NOW);
                    let bound = BoundPlan::bind(&mut turn(&mut sender, &mut out), &plan, pin)?;
                    execution = Some(CatchUp::new(bound, CatchUpConfig::default()));
                }
                (Action::Join { after, .. }, Some(execution)) => execution.follow(after),
                (Action::RequestGrowth { stamp, .. }, _) => {
                    tell(&mut sender, stamp, Fact::InSyncRecorded, &mut out);
                }
                (Action::Release { cause, .. }, Some(execution)) => {
                    let mut turn = turn(&mut sender, &mut out);
                    let _first = execution.release(&mut turn, cause);
                }
                (_, _) => {}
            }
        }
        // Then a bounded step, and what arrives at the replica comes back as an answer.
        let Some(execution) = execution.as_mut().filter(|it| !it.is_over()) else {
            continue;
        };
        let (stamp, head) = (execution.stamp(), ours.log.head());
        let mut turn = turn(&mut sender, &mut out);
        let stepped = execution.step(&mut turn, head, (&mut ours, &mut wire));
        if let StepOutcome::AtHead { head } = stepped
            && let HandOver::At(join_point) = execution.hand_over(head)
        {
            tell(&mut sender, stamp, Fact::Joined { join_point }, &mut out);
        }
        let flushed = theirs.append(std::mem::take(&mut wire.0))?;
        execution.acknowledged(flushed, flushed);
        tell(
            &mut sender,
            stamp,
            Fact::Acknowledged { flushed, head },
            &mut out,
        );
    }
    assert_eq!(theirs.log.head(), ours.log.head());
    assert!(ours.log.pins().is_empty(), "every pin was released");
    Ok(())
}

//! A replica rebuilt over storage and transport of one's own, while the writers go on.
//!
//! What it held before is worth nothing, and looks newer than what the source has: all of it has to
//! give way, while no record of the live stream may be overwritten by the base.

use std::{collections::BTreeMap, error::Error};

use moorline_engine::*;
use moorline_executor::*;
use moorline_types::{BlockIndex, BlockRange, BufferPool, Payload, ServerId};
use moorline_types::{Epoch, Instant, Lsn, LsnRange, OpenCount, ReplicaId, SessionId, VolumeId};
use moorline_wal::{LogReadError, PinHolder, PinTable, ReadStart, Record, block_crcs};

const VOLUME: VolumeId = VolumeId::new(1);
const EPOCH: Epoch = Epoch::new(1, 0);
const OPEN: OpenCount = OpenCount::new(1);
const NOW: Instant = Instant::ZERO;
/// The volume: 16 extents of 4 blocks.
const EXTENTS: u64 = 16;
const EXTENT_BLOCKS: u32 = 4;

type Done<T> = Result<T, Box<dyn Error>>;
/// Blocks, each with the record that wrote it.
type Image = BTreeMap<BlockIndex, (Lsn, Payload)>;

/// A source that keeps its whole log and reads any image of the past from it.
#[derive(Default)]
struct Source(Vec<Record>);

impl Source {
    fn head(&self) -> Lsn {
        Lsn::new(self.0.len() as u64)
    }

    /// Commits lag two records behind.
    fn committed(&self) -> Lsn {
        Lsn::new((self.0.len() as u64).saturating_sub(2))
    }

    /// One block of its own content, at a place that jumps about. Blocks of the last two extents
    /// are never written.
    fn write(&mut self) -> Record {
        let lsn = self.head().next();
        let block = BlockIndex::new(lsn.get() * 7 % ((EXTENTS - 2) * 4));
        let range = BlockRange::new(block, 1).expect("inside the volume");
        let payload = Payload::copy_padded(&BufferPool::new(), &lsn.get().to_le_bytes());
        let crcs = block_crcs(VOLUME, range, &payload);
        let record = Record::write(VOLUME, EPOCH, lsn, range, payload, crcs);
        self.0.push(record.clone());
        record
    }

    fn image(&self, through: Lsn) -> Image {
        let written = self.0.iter().filter(|record| record.lsn() <= through);
        let block = |record: &Record| (record.range().first(), content(record));
        written.map(block).collect()
    }
}

fn content(record: &Record) -> (Lsn, Payload) {
    (record.lsn(), record.payload().clone())
}

impl HistoryReader for Source {
    fn read(&mut self, range: LsnRange, _max: usize) -> Result<ReadStart, LogReadError> {
        let records = self.0.iter().filter(|record| range.contains(record.lsn()));
        Ok(ReadStart::Ready(records.take(5).cloned().collect()))
    }
}

/// The source's committed view, extent by extent.
struct View(Lsn, Image);

impl BaseImage for View {
    fn read(&mut self, wanted: BaseWanted) -> Result<BaseStart, BaseReadError> {
        let extent = |number: u64| {
            let first = BlockIndex::new(number * u64::from(EXTENT_BLOCKS));
            let range = BlockRange::new(first, EXTENT_BLOCKS).expect("inside the volume");
            let written = self.1.range(range.first()..range.end());
            let block = |(&block, (lsn, payload)): (&BlockIndex, &(Lsn, Payload))| BaseBlock {
                block,
                lsn: *lsn,
                payload: payload.clone(),
            };
            let blocks = written.map(block).collect();
            let as_of = self.0;
            #[rustfmt::skip]
            let extent = BaseExtent { range, as_of, blocks };
            extent
        };
        let numbers = wanted.first..wanted.first + wanted.extents_max.min(3);
        Ok(BaseStart::Ready(numbers.map(extent).collect()))
    }
}

/// The replica: its image, and its log of this session.
struct Replica {
    image: Image,
    log: Vec<Record>,
    laid: u64,
}

impl ReplicaLink for Replica {
    fn ship(&mut self, records: Vec<Record>) {
        self.log.extend(records);
    }
}

impl BaseLink for Replica {
    fn lay(&mut self, first: u64, extents: Vec<BaseExtent>) {
        assert_eq!(first, self.laid);
        self.laid += extents.len() as u64;
        for extent in extents {
            // Whatever was there before goes, zeroes included.
            self.image.retain(|block, _| !extent.range.contains(*block));
            let block = |it: BaseBlock| (it.block, (it.lsn, it.payload));
            self.image.extend(extent.blocks.into_iter().map(block));
        }
    }
}

impl Replica {
    /// Its log of this session over its image: only what is newer than a block wins over it.
    fn read(&self) -> Image {
        let mut image = self.image.clone();
        for record in &self.log {
            let old = image.get(&record.range().first());
            if old.is_none_or(|(lsn, _)| *lsn < record.lsn()) {
                image.insert(record.range().first(), content(record));
            }
        }
        image
    }
}

fn tell(sender: &mut Sender, stamp: SessionStamp, fact: Fact<'_>, out: &mut Actions) {
    let _answer = sender.handle(NOW, Event::Session { stamp, fact }, out);
}

/// What both sides say when they meet: the replica's image is not whole. There is no checkpoint.
#[rustfmt::skip]
fn facts(source: &Source, kind: SessionKind) -> Fact<'static> {
    let (none, head, committed) = (Lsn::ZERO, source.head(), source.committed());
    if kind == SessionKind::Rebuild {
        return Fact::RebuildOffered(RebuildFacts {
            checkpoint: Checkpoint::None, tail: none, head, committed, trusted_common: None,
            source_map_from: none, replica_map_from: none, image_extents: EXTENTS, delta_extents: 0,
        });
    }
    let primary = PrimaryFacts {
        history: &[], given_up: &[], head, committed, tail: none, checkpoint: none, lowest_pin: None,
    };
    let replica = ReplicaFacts {
        history: &[], given_up: &[], image: moorline_engine::Image::Incomplete,
        head: none, flushed: None, committed: none, tail: none, checkpoint: none, applied: none,
    };
    Fact::HandshakeAnswered { primary, replica }
}

fn main() -> Done<()> {
    let (mut source, pins) = (Source::default(), PinTable::new());
    let _written = (0..100).map(|_| source.write()).count();
    let ghost = (Lsn::MAX, Payload::copy_padded(&BufferPool::new(), &[0xdd]));
    let blocks = (0..EXTENTS * 4).map(BlockIndex::new);
    let image = blocks.map(|block| (block, ghost.clone())).collect();
    let mut replica = Replica {
        image,
        log: Vec::new(),
        laid: 0,
    };

    let (volume, server): (_, ServerId) = (VOLUME, "s2".parse()?);
    let (data, control, version) = ("s2:7401".into(), "s2:7402".into(), 1);
    #[rustfmt::skip]
    let endpoint = Endpoint { data, control, version };
    let id = ReplicaId { volume, server };
    let mut sender = Sender::new(id.clone(), endpoint, EPOCH, SenderConfig::default());
    let (mut out, mut rebuild, mut serial) = (Actions::new(), None::<Rebuild>, 1);
    let (fresh, cause) = (SessionId::new(OPEN, serial), Cause::Bootstrap);
    let _begun = sender.handle(NOW, Event::LinkUp { fresh, cause }, &mut out);
    loop {
        for asked in std::mem::take(&mut out) {
            let (now, told) = (NOW, Some(&mut sender));
            match (asked.action, &mut rebuild) {
                (Action::Emit(event), _) => println!("{event}"),
                (Action::SendHandshake { stamp, kind, .. }, _) => {
                    tell(&mut sender, stamp, facts(&source, kind), &mut out);
                }
                (Action::TellNeedsRebuild { .. }, _) => {
                    // An operator would ask for it, or a policy.
                    for kind in [SessionKind::Rebuild, SessionKind::CatchUp] {
                        serial += 1;
                        let fresh = SessionId::new(OPEN, serial);
                        let event = match kind {
                            SessionKind::Rebuild => Event::SessionRequested { fresh, kind, cause },
                            SessionKind::CatchUp => Event::LinkUp { fresh, cause },
                        };
                        let _begun = sender.handle(NOW, event, &mut out);
                    }
                }
                (Action::BindPlan(plan), _) => {
                    let (server, session) = (id.server.clone(), plan.stamp.session);
                    let holder = PinHolder::Rebuild { server, session };
                    let hold = |need: PinNeed| pins.full_base(need.lsn, holder, NOW);
                    let (sender, out) = (told, &mut out);
                    let bound =
                        BoundRebuild::bind(&mut Turn { now, sender, out }, &plan, |need| {
                            hold(need).map(ImagePin::Base)
                        })?;
                    rebuild = Some(Rebuild::new(bound, RebuildConfig::default()));
                }
                (Action::Release { cause, .. }, Some(rebuild)) => {
                    let (sender, out) = (told, &mut out);
                    let _first = rebuild.release(&mut Turn { now, sender, out }, cause);
                }
                (_, _) => {}
            }
        }
        let Some(rebuild) = rebuild.as_mut() else {
            continue;
        };
        if rebuild.is_over() && out.is_empty() {
            break;
        }
        let (stamp, head, committed) = (rebuild.stamp(), source.head(), source.committed());
        let (mut view, at) = (
            View(committed, source.image(committed)),
            SourceAt { head, committed },
        );
        let (now, told) = (NOW, Some(&mut sender));
        let mut turn = Turn {
            now,
            sender: told,
            out: &mut out,
        };
        let stepped = rebuild.step(&mut turn, at, (&mut source, &mut view, &mut replica));
        if let RebuildOutcome::Sent { extents } = stepped {
            let _answer = rebuild.laid(&mut turn, extents)?;
        }
        if let RebuildOutcome::AtHead { head } = stepped
            && let HandOver::At(join_point) = rebuild.hand_over(head)
        {
            tell(&mut sender, stamp, Fact::Joined { join_point }, &mut out);
        }
        if rebuild.is_live() {
            // The writers go on: the ordering point puts every record on the stream itself.
            let record = source.write();
            replica.log.push(record);
            rebuild.live_shipped(source.head());
        }
        let flushed = replica.log.last().map_or(Lsn::ZERO, Record::lsn);
        rebuild.acknowledged(flushed, flushed);
        let head = source.head();
        tell(
            &mut sender,
            stamp,
            Fact::Acknowledged { flushed, head },
            &mut out,
        );
    }
    assert_eq!(replica.read(), source.image(source.head()));
    assert_eq!((pins.live(), sender.needs_rebuild()), (0, None));
    Ok(())
}

//! A running store: faults, damage, repair, status, bounds, digests.

use std::io;
use std::time::Duration;

use moorline_blockvol::{
    BlockState, BlockVersion, FaultKind, Layout, ReadFault, ReadOutcome, ReadToken, ReadView,
    RepairError, Segment, StoreEvent, StoreFault, ZeroKind,
    inspect::{DigestThrough, Inspection, ReadAt, inspect},
};
use moorline_types::{
    BlockCount, BlockIndex, BlockRange, DeviceError, DeviceOp, DeviceOpKind, Instant, Lsn, OpOwner,
    Payload,
};
use moorline_wal::RecordKind;

use crate::{
    disk::Disk,
    world::{BLOCKS, LOG_BYTES, World, content, options, try_open},
};

fn layout() -> Layout {
    Layout::new(BlockCount::new(BLOCKS), LOG_BYTES).unwrap()
}

fn block_at(block: u64) -> u64 {
    layout().extents_offset() + block * 4096
}

/// A world whose blocks 0 to 9 were written, and are in the extents.
fn at_rest(seed: u64) -> World {
    let mut world = World::new(seed);
    world.append_this(RecordKind::Write, 0, 10);
    world.submit();
    world.settle();
    world.commit_all();
    world.settle();
    assert_eq!(world.store.frontiers().checkpoint, Lsn::new(1));
    world
}

/// Asks and drives until the answer is there.
fn read(world: &mut World, first: u64, count: u32) -> Result<Vec<Segment>, ReadFault> {
    let range = BlockRange::new(BlockIndex::new(first), count).unwrap();
    let token = ReadToken::new(9_000_000);
    let mut ops = Vec::new();
    let outcome = world.store.read(token, range, ReadView::Readable, &mut ops);
    world.disk.submit(&mut ops);
    if let ReadOutcome::Ready(result) = outcome {
        return result;
    }
    let mut events = Vec::new();
    loop {
        let done = world.disk.complete(&mut world.rng).unwrap();
        world.store.on_done(world.now, done, &mut ops, &mut events);
        world.disk.submit(&mut ops);
        for event in events.drain(..) {
            if let StoreEvent::ReadDone { token: of, result } = event
                && of == token
            {
                return result;
            }
        }
    }
}

#[test]
fn a_damaged_block_is_named_repaired_and_read_again() {
    let mut world = at_rest(1);
    world.disk.flip(block_at(4) + 77);
    let Err(ReadFault::Damaged { block, lsn, crc }) = read(&mut world, 0, 10) else {
        panic!("the damage is seen")
    };
    let version = BlockVersion { lsn, crc };
    assert_eq!((block.get(), lsn.get()), (4, 1));
    assert_eq!(world.store.block_lsn(block), Some(lsn));
    assert!(read(&mut world, 5, 5).is_ok(), "other blocks are fine");

    let pool = world.store.pool().clone();
    let wrong = Payload::copy_padded(&pool, &[1; 4096]);
    let mut ops = Vec::new();
    let refused = world.store.repair(block, version, wrong, &mut ops);
    assert_eq!(refused, Err(RepairError::WrongContent { block }));
    let right = Payload::copy_padded(&pool, &content(1, block));
    let other = BlockVersion {
        lsn: Lsn::new(9),
        ..version
    };
    let stale = world.store.repair(block, other, right.clone(), &mut ops);
    assert_eq!(stale, Err(RepairError::Superseded { block }));
    world.store.repair(block, version, right, &mut ops).unwrap();
    world.disk.submit(&mut ops);
    world.check_whole();
    world.settle();
    world.power_cut();
    world.check_whole();
}

#[test]
fn a_repair_waits_for_reads_of_its_block_and_gives_way_to_a_newer_version() {
    let mut world = at_rest(11);
    world.disk.flip(block_at(4) + 77);
    let Err(ReadFault::Damaged { block, lsn, crc }) = read(&mut world, 4, 1) else {
        panic!("the damage is seen")
    };
    let version = BlockVersion { lsn, crc };
    let mut ops = Vec::new();
    // Another read of the block is on the device.
    let one = BlockRange::new(block, 1).unwrap();
    let token = ReadToken::new(7_000_000);
    let outcome = (world.store).read(token, one, ReadView::Readable, &mut ops);
    assert_eq!(outcome, ReadOutcome::Pending);
    world.disk.submit(&mut ops);
    let right = Payload::copy_padded(world.store.pool(), &content(1, block));
    let repair = |world: &mut World, ops: &mut Vec<DeviceOp>| {
        world.store.repair(block, version, right.clone(), ops)
    };
    repair(&mut world, &mut ops).unwrap();
    repair(&mut world, &mut ops).unwrap();
    assert!(ops.is_empty(), "a block that is read is not written");
    assert!(read(&mut world, 4, 1).is_ok(), "reads have the content");
    world.settle();
    world.check_whole();

    // A newer version comes while the repair waits.
    world.disk.flip(block_at(4) + 78);
    assert!(read(&mut world, 4, 1).is_err());
    let outcome = (world.store).read(token, one, ReadView::Readable, &mut ops);
    assert_eq!(outcome, ReadOutcome::Pending);
    repair(&mut world, &mut ops).unwrap();
    world.disk.submit(&mut ops);
    world.append_this(RecordKind::Write, 4, 1);
    world.submit();
    world.settle();
    world.commit_all();
    world.settle();
    world.check_whole();
    world.events.clear();
    // Its map page is not in memory: taken, and dropped when the page is there.
    repair(&mut world, &mut ops).unwrap();
    world.disk.submit(&mut ops);
    world.settle();
    world.check_whole();
    let repaired = |event: &StoreEvent| matches!(event, StoreEvent::Repaired { .. });
    assert!(!world.events.iter().any(repaired));
}

#[test]
fn a_read_error_is_the_reads_alone() {
    let mut world = at_rest(2);
    world.disk.fail = Some(|op: &DeviceOp| matches!(op.kind, DeviceOpKind::Read(_)));
    assert!(matches!(
        read(&mut world, 0, 10),
        Err(ReadFault::Device { .. })
    ));
    assert_eq!(world.store.failed(), None);
    world.disk.fail = None;
    assert!(read(&mut world, 0, 10).is_ok());
}

#[test]
fn a_rotten_map_page_is_never_guessed() {
    let mut world = at_rest(3);
    // Two versions of page 0, then the newer slot rots while nobody looks.
    world.append_this(RecordKind::Write, 0, 1);
    world.submit();
    world.settle();
    world.commit_all();
    world.settle();
    for slot in 0..2 {
        let mut disk = world.disk.copy_after_power_cut(&mut world.rng);
        disk.flip(layout().map_offset() + slot * 4096 + 100);
        let options = options(&disk);
        let opened = try_open(&mut disk, &mut world.rng, options, u64::MAX);
        world.store = opened.unwrap().unwrap().0;
        world.disk = disk;
        // The checkpoint has record 2 or the first pass after the open writes it again; either
        // way no answer is wrong, and blocks that no record covers are not guessed.
        match read(&mut world, 5, 1) {
            Err(ReadFault::MapDamaged { block }) => assert_eq!(block.get(), 5),
            answer => panic!("{answer:?}"),
        }
        assert!(read(&mut world, 336, 5).is_ok(), "the next page is fine");
        let whole = world.disk.copy_after_power_cut(&mut world.rng);
        world.disk = whole;
        // Flipped back for the other slot.
        world.disk.flip(layout().map_offset() + slot * 4096 + 100);
    }
}

/// Makes the next operation that `fail` names fail, and says what the store makes of it.
fn fault_of(fail: fn(&DeviceOp) -> bool) -> (World, StoreFault) {
    let mut world = at_rest(4);
    world.append_this(RecordKind::Write, 20, 3);
    world.submit();
    world.settle();
    world.commit_all();
    world.disk.fail = Some(fail);
    world.promise();
    let mut events = Vec::new();
    let mut ops = Vec::new();
    for _ in 0..2 {
        // The second time the records have waited long enough for the flusher.
        world.store.on_deadline(world.now, &mut ops, &mut events);
        world.store.submit(world.now, &mut ops, &mut events);
        world.disk.submit(&mut ops);
        while let Some(done) = world.disk.complete(&mut world.rng) {
            world.store.on_done(world.now, done, &mut ops, &mut events);
            world.store.submit(world.now, &mut ops, &mut events);
            world.disk.submit(&mut ops);
        }
        world.now = world.now.after(Duration::from_secs(2));
    }
    let told: Vec<StoreFault> = events
        .iter()
        .filter_map(|event| {
            let StoreEvent::Failed { fault } = event else {
                return None;
            };
            Some(*fault)
        })
        .collect();
    assert_eq!(told.len(), 1, "a fault is told once");
    assert_eq!(world.store.failed(), Some(told[0]));
    (world, told[0])
}

#[test]
fn the_first_failed_write_or_flush_is_sticky_and_reads_go_on() {
    type Fail = fn(&DeviceOp) -> bool;
    let cases: [(Fail, OpOwner, FaultKind); 4] = [
        (
            |op| op.id.owner() == OpOwner::Superblock,
            OpOwner::Superblock,
            FaultKind::Write,
        ),
        (
            |op| op.id.owner() == OpOwner::Extents && matches!(op.kind, DeviceOpKind::Write(..)),
            OpOwner::Extents,
            FaultKind::Write,
        ),
        (
            |op| op.id.owner() == OpOwner::BlockMap && matches!(op.kind, DeviceOpKind::Write(..)),
            OpOwner::BlockMap,
            FaultKind::Write,
        ),
        (
            |op| op.id.owner() == OpOwner::Extents && matches!(op.kind, DeviceOpKind::Flush),
            OpOwner::Extents,
            FaultKind::Flush,
        ),
    ];
    for (fail, want_owner, want_kind) in cases {
        let (mut world, fault) = fault_of(fail);
        let StoreFault::Operation { owner, kind, error } = fault else {
            panic!("{fault:?}")
        };
        assert_eq!((owner, kind), (want_owner, want_kind));
        assert_eq!(error, DeviceError::Errno { errno: 5 });
        // The device recovers; the store does not believe it.
        world.disk.fail = None;
        let before = world.store.frontiers();
        let mut ops = Vec::new();
        let mut events = Vec::new();
        let ticket = world.store.persist(|durable| durable.incomplete = true);
        world.store.submit(world.now, &mut ops, &mut events);
        assert!(ops.is_empty(), "nothing more is written: {ops:?}");
        assert!(events.is_empty(), "{ticket:?} is not answered: {events:?}");
        assert_eq!(world.store.frontiers(), before);
        assert!(world.store.cut(before.head).is_err());
        world.check_whole();
    }
}

#[test]
fn a_failed_log_freezes_the_durable_frontier() {
    let mut world = at_rest(4);
    world.disk.fail = Some(|op: &DeviceOp| op.id.owner() == OpOwner::Log);
    world.append_this(RecordKind::Write, 20, 3);
    let mut events = Vec::new();
    let mut ops = Vec::new();
    world.store.submit(world.now, &mut ops, &mut events);
    world.disk.submit(&mut ops);
    while let Some(done) = world.disk.complete(&mut world.rng) {
        world.store.on_done(world.now, done, &mut ops, &mut events);
        world.store.submit(world.now, &mut ops, &mut events);
        world.disk.submit(&mut ops);
    }
    assert!(matches!(
        events[..],
        [StoreEvent::Failed {
            fault: StoreFault::Log { .. }
        }]
    ));
    let at = world.store.frontiers();
    assert_eq!((at.head, at.flushed), (Lsn::new(2), Lsn::new(1)));
    world.disk.fail = None;
    world.check_whole();
}

#[test]
fn an_operation_without_an_answer_is_a_fault_at_its_deadline() {
    let mut world = at_rest(5);
    world.promise();
    world.submit();
    let deadline = world.store.next_deadline().unwrap();
    assert_eq!(deadline.since(world.now), Duration::from_secs(5));
    let mut ops = Vec::new();
    let mut events = Vec::new();
    let early = Instant::from_nanos(deadline.as_nanos() - 1);
    world.store.on_deadline(early, &mut ops, &mut events);
    assert!(world.store.failed().is_none());
    world.store.on_deadline(deadline, &mut ops, &mut events);
    let Some(StoreFault::Operation { owner, error, .. }) = world.store.failed() else {
        panic!("it is overdue")
    };
    assert_eq!((owner, error), (OpOwner::Superblock, DeviceError::Overdue));
    // The late completion changes nothing.
    events.clear();
    let done = world.disk.complete(&mut world.rng).unwrap();
    world.store.on_done(deadline, done, &mut ops, &mut events);
    assert!(events.is_empty() && ops.is_empty());
}

#[test]
fn status_tells_holes_zeroes_and_data_apart_and_outlives_the_flusher() {
    let mut world = World::new(6);
    world.append_this(RecordKind::Write, 0, 4);
    world.append_this(RecordKind::WriteZeroes, 4, 2);
    world.append_this(RecordKind::Trim, 1, 1);
    world.submit();
    world.settle();
    world.commit_all();
    let zero = BlockState::Zero;
    let want = [
        (0, 1, BlockState::Data),
        (1, 1, zero(ZeroKind::Hole)),
        (2, 2, BlockState::Data),
        (4, 2, zero(ZeroKind::Written)),
        (6, 4, zero(ZeroKind::Hole)),
    ];
    for _ in ["in memory", "in the map"] {
        let range = BlockRange::new(BlockIndex::new(0), 10).unwrap();
        let mut ops = Vec::new();
        let outcome = world.store.block_status(ReadToken::new(1), range, &mut ops);
        world.disk.submit(&mut ops);
        let runs = match outcome {
            ReadOutcome::Ready(result) => result.unwrap(),
            ReadOutcome::Pending => {
                let mut events = Vec::new();
                let done = world.disk.complete(&mut world.rng).unwrap();
                world.store.on_done(world.now, done, &mut ops, &mut events);
                match events.pop() {
                    Some(StoreEvent::StatusDone { result, .. }) => result.unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        };
        let found: Vec<_> = runs
            .iter()
            .map(|run| (run.range.first().get(), run.range.count(), run.state))
            .collect();
        assert_eq!(found, want);
        world.settle();
    }
}

#[test]
fn requests_outside_the_volume_are_refused() {
    let mut world = at_rest(7);
    assert!(matches!(
        read(&mut world, BLOCKS - 1, 2),
        Err(ReadFault::OutOfRange { .. })
    ));
}

#[test]
fn a_cut_below_the_applied_mark_is_refused_with_the_numbers() {
    let mut world = at_rest(8);
    world.append_this(RecordKind::Write, 0, 1);
    world.submit();
    world.settle();
    let error = world.store.cut(Lsn::ZERO).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot cut to 0: the extents may hold records up to 1"
    );
    assert!(world.store.cut(Lsn::new(3)).is_err());
    world.store.cut(Lsn::new(1)).unwrap();
}

#[test]
fn the_log_keeps_what_a_returning_peer_needs_while_there_is_room() {
    let mut world = World::new(9);
    for n in 0..2_000 {
        world.append_this(RecordKind::Write, n % 50, 1);
        world.submit();
        world.drain();
        world.commit_all();
    }
    world.settle();
    let at = world.store.frontiers();
    assert_eq!((at.head, at.checkpoint), (Lsn::new(2_000), Lsn::new(2_000)));
    assert!(world.store.fill() <= 55, "{} % in use", world.store.fill());
    let kept = at.head.distance_from(at.tail);
    assert!(kept > 100, "only {kept} records are kept");
}

impl ReadAt for Disk {
    fn size(&self) -> io::Result<u64> {
        Ok(Self::size(self))
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.durable_bytes(offset, into.len()));
        Ok(())
    }
}

fn digest(world: &mut World) -> (Inspection, String) {
    let disk = world.disk.copy_after_power_cut(&mut world.rng);
    let found = inspect(&disk, DigestThrough::Committed).unwrap();
    let store = found.store.as_ref().expect("a superblock is valid");
    let digest = store.digest.as_ref().expect("it was asked for");
    let hash = digest.sha256.clone().expect("nothing is damaged");
    (found.clone(), hash)
}

#[test]
fn replicas_with_one_content_have_one_digest_wherever_their_checkpoints_are() {
    let mut hashes = Vec::new();
    for flushed_often in [true, false] {
        // The same seed makes the same records; only the flusher's rhythm differs.
        let mut world = World::new(10);
        for n in 0..60_u64 {
            let kind = match n % 9 {
                7 => RecordKind::Trim,
                8 => RecordKind::WriteZeroes,
                _ => RecordKind::Write,
            };
            world.append_this(kind, n * 13 % 400, 1 + n % 5);
            world.submit();
            world.drain();
            world.commit_all();
            if flushed_often {
                world.settle();
            }
        }
        // Persisted, so that the offline look knows the committed point.
        world.promise();
        world.submit();
        world.drain();
        let (found, hash) = digest(&mut world);
        let store = found.store.unwrap();
        assert_eq!(store.digest.unwrap().through, Lsn::new(60));
        if !flushed_often {
            assert!(
                store.checkpoint_lsn < Lsn::new(60),
                "the digest has to apply records"
            );
        }
        hashes.push(hash);
    }
    assert_eq!(hashes[0], hashes[1]);

    let mut world = at_rest(10);
    let (found, other) = digest(&mut world);
    assert_ne!(hashes[0], other);
    let text = found.to_string();
    assert!(text.contains("digest"), "{text}");
    world.disk.flip(block_at(3));
    let damaged = inspect(&world.disk, DigestThrough::Committed).unwrap();
    let digest = damaged.store.unwrap().digest.unwrap();
    assert_eq!((digest.sha256, digest.damaged_blocks), (None, vec![3]));
}

#[test]
fn what_a_cut_left_in_the_log_takes_no_room_at_rest() {
    let mut world = World::new(10);
    world.append_this(RecordKind::Write, 0, 1);
    world.drain();
    world.commit_all();
    world.settle();
    // Nobody commits these.
    let mut head = Lsn::ZERO;
    while world.store.frontiers().head > head {
        head = world.store.frontiers().head;
        world.append_this(RecordKind::Write, head.get() % 50, 20);
        world.submit();
        world.drain();
    }
    assert!(world.store.fill() > 80, "{} % in use", world.store.fill());
    world.cut_to(Lsn::new(1));
    world.settle();
    assert!(world.store.fill() < 50, "{} % in use", world.store.fill());
    // What is written next has room, and the log opens with it.
    world.append_this(RecordKind::Write, 0, 20);
    world.drain();
    world.commit_all();
    world.settle();
    assert_eq!(world.store.frontiers().head, Lsn::new(2));
    world.power_cut();
    world.check_whole();
}

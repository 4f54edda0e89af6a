//! The open log: frontiers, room, cuts, reads, failures.

use std::time::Duration;

use moorline_types::{
    DeviceDone, DeviceError, DeviceOp, DeviceOpKind, Lsn, LsnRange, OpId, OpOwner, WriteMode,
};
use moorline_wal::{
    AppendError, CutError, FrameKind, LogReadError, Mutants, PinHolder, PinRefused, ReadId,
    ReadStart, RecordAt,
};

use crate::rig::{OFFSET, Rig, VOLUME, config, device, epoch, frames_in, frames_on, lsn, record};

const RING: u64 = 64 * 4096;

fn holder() -> PinHolder {
    PinHolder::Promotion { epoch: epoch(1) }
}

fn is_flush(op: &DeviceOp) -> bool {
    matches!(op.kind, DeviceOpKind::Flush)
}

#[test]
fn the_frontier_waits_for_the_frame_that_is_missing() {
    let mut rig = Rig::fresh(RING);
    for _ in 0..3 {
        rig.append(&[1]);
        rig.submit();
    }
    // The third and the second frame are written and flushed first.
    rig.complete(2);
    rig.complete(1);
    rig.submit();
    assert_eq!(rig.device.flushes_in_flight(), 1);
    rig.complete(1);
    rig.submit();
    assert_eq!((rig.log.flushed(), rig.reports()), (Lsn::ZERO, vec![]));
    rig.complete(0);
    rig.submit();
    rig.complete(0);
    assert_eq!(rig.reports(), ["flushed 3"]);
}

#[test]
fn a_flush_covers_what_was_written_before_it_was_asked_for() {
    let mut rig = Rig::fresh(RING);
    rig.append(&[1]);
    rig.submit();
    rig.append(&[1]);
    rig.submit();
    rig.complete(0);
    rig.submit();
    // The second write completes while the flush is in flight: it needs another one.
    rig.complete(0);
    rig.submit();
    assert_eq!(
        (rig.device.in_flight(), rig.device.flushes_in_flight()),
        (1, 1)
    );
    rig.complete(0);
    assert_eq!(rig.reports(), ["flushed 1"]);
    rig.submit();
    rig.complete(0);
    assert_eq!(rig.reports(), ["flushed 2"]);
}

#[test]
fn durable_writes_need_no_flush() {
    let mut config = config(1, RING, Mutants::NONE);
    config.write_mode = WriteMode::Durable;
    let mut rig = Rig::over(device(RING), config);
    rig.append(&[1]);
    rig.log.submit(rig.now, &mut rig.ops);
    assert!(!rig.ops.iter().any(is_flush));
    rig.device.submit(&mut rig.ops);
    rig.complete(0);
    assert_eq!(rig.reports(), ["flushed 1"]);
    rig.submit();
    assert_eq!(rig.device.in_flight(), 0);
}

#[test]
fn one_frame_takes_all_that_is_queued_and_copies_no_payload() {
    let mut rig = Rig::fresh(RING);
    rig.append(&[2, 0, 3]);
    let RecordAt::Memory(third) = rig.log.record(lsn(3)).unwrap() else {
        panic!("a queued record is in memory");
    };
    rig.log.submit(rig.now, &mut rig.ops);
    let [op] = &rig.ops[..] else {
        panic!("one write")
    };
    let DeviceOpKind::Write(parts, WriteMode::Cached) = &op.kind else {
        panic!("{op:?}")
    };
    assert_eq!(
        parts.iter().map(|part| part.blocks()).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(
        parts[2].as_slice().as_ptr(),
        third.payload().as_slice().as_ptr()
    );
    assert!(op.offset >= OFFSET);
}

#[test]
fn frames_are_split_at_their_limit_and_held_at_the_most_in_flight() {
    let ring = 64 << 20;
    let mut rig = Rig::fresh(ring);
    // 200 blocks each: one fits into 1 MiB together with its header, two do not; 400 go alone.
    rig.append(&[200, 200, 400, 1, 1, 200, 200, 1]);
    rig.log.submit(rig.now, &mut rig.ops);
    let counts: Vec<_> = frames_in(&rig.ops).iter().map(|frame| frame.kind).collect();
    let records = |first, count| FrameKind::Records {
        first: lsn(first),
        count,
    };
    assert_eq!(
        counts,
        [records(1, 1), records(2, 1), records(3, 1), records(4, 3)]
    );
    rig.device.submit(&mut rig.ops);
    rig.settle();
    assert_eq!(rig.log.flushed(), lsn(8));
}

#[test]
fn an_idle_log_marks_its_last_flush_once_and_within_ten_milliseconds() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1]);
    let deadline = rig.log.next_deadline().unwrap();
    assert!(deadline.since(rig.now) < Duration::from_millis(10));
    rig.idle();
    let frames = frames_on(&rig.device);
    let [.., records, mark] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert_eq!(
        (mark.kind, mark.durable_through),
        (FrameKind::Mark, records.sequence)
    );
    assert_eq!(rig.log.next_deadline(), None);
    assert!(rig.log.is_quiet());
}

#[test]
fn a_failed_write_or_flush_freezes_the_frontier_for_good() {
    for completions in 0..2 {
        let mut rig = Rig::fresh(RING);
        rig.frame(&[1]);
        rig.append(&[1]);
        rig.submit();
        rig.append(&[1]);
        rig.submit();
        for _ in 0..completions {
            rig.complete(0);
        }
        rig.submit();
        rig.reports();
        rig.device.fault = Some(DeviceError::Errno { errno: 5 });
        rig.complete(rig.device.in_flight() - 1);
        let operation = ["FrameWrite", "Flush"][completions];
        assert_eq!(
            rig.reports(),
            [format!("failed {operation} Errno {{ errno: 5 }}")]
        );
        // What completes later proves nothing; nothing is asked for any more.
        rig.settle();
        rig.idle();
        assert_eq!((rig.reports(), rig.log.flushed()), (vec![], lsn(1)));
        let refused = DeviceError::Errno { errno: 5 };
        assert_eq!(rig.log.failed(), Some(refused));
        let next = record(4, 1, 1, 4);
        assert_eq!(rig.log.append(next), Err(AppendError::Poisoned(refused)));
        assert_eq!(rig.log.cut(lsn(1)), Err(CutError::Poisoned(refused)));
        assert_eq!(rig.read(0, 3).len(), 3);
    }
}

#[test]
fn an_overdue_operation_poisons_and_its_late_completion_is_ignored() {
    let mut rig = Rig::fresh(RING);
    rig.append(&[1]);
    rig.submit();
    let deadline = rig.log.next_deadline().unwrap();
    assert_eq!(deadline.since(rig.now), Duration::from_secs(5));
    rig.now = deadline.before(Duration::from_nanos(1));
    rig.log.on_deadline(rig.now, &mut rig.ops, &mut rig.events);
    assert_eq!(rig.log.failed(), None);
    rig.now = deadline;
    rig.log.on_deadline(rig.now, &mut rig.ops, &mut rig.events);
    assert_eq!(rig.reports(), ["failed FrameWrite Overdue"]);
    rig.settle();
    assert_eq!(
        (rig.log.flushed(), rig.log.next_deadline()),
        (Lsn::ZERO, None)
    );
}

#[test]
fn completions_of_nobody_are_dropped() {
    let mut rig = Rig::fresh(RING);
    rig.append(&[1]);
    rig.submit();
    for id in [
        OpId::new(OpOwner::Log, 1 << 40),
        OpId::new(OpOwner::Extents, 3),
    ] {
        let done = DeviceDone {
            id,
            result: Err(DeviceError::Full),
        };
        rig.log
            .on_done(rig.now, done, &mut rig.ops, &mut rig.events);
    }
    rig.settle();
    assert_eq!(rig.reports(), ["flushed 1"]);
}

#[test]
fn what_does_not_follow_is_not_appended() {
    let mut rig = Rig::fresh(RING);
    rig.log.append(record(1, 3, 1, 1)).unwrap();
    let (head, have) = (lsn(1), lsn(3));
    assert_eq!(
        rig.log.append(record(3, 3, 1, 1)),
        Err(AppendError::NotNext { head, have })
    );
    let (last, have) = (epoch(3), epoch(2));
    assert_eq!(
        rig.log.append(record(2, 2, 1, 1)),
        Err(AppendError::EpochWentBack { last, have })
    );
    let refused = rig.log.append(record(2, 3, 40, 1));
    assert!(
        matches!(refused, Err(AppendError::TooLarge { .. })),
        "{refused:?}"
    );
    assert_eq!(rig.log.head(), lsn(1));
}

#[test]
fn a_full_ring_refuses_records_and_still_takes_cuts_and_marks() {
    let mut rig = Rig::fresh(RING);
    let refused = loop {
        let next = rig.log.head().get() + 1;
        match rig.log.append(record(next, 1, 3, next)) {
            Ok(()) => rig.settle(),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    let head = rig.log.head();
    assert!(
        rig.log.fill() >= 90 && rig.log.flushed() == head,
        "fill {}",
        rig.log.fill()
    );
    rig.log.cut(head.previous().unwrap()).unwrap();
    rig.settle();
    rig.idle();
    assert_eq!(
        frames_on(&rig.device).last().map(|frame| frame.kind),
        Some(FrameKind::Mark)
    );
    // What is reclaimed is free again, and the ring goes round.
    let head = rig.log.head();
    let anchor = rig.reclaim(head);
    assert_eq!(
        (anchor.tail, rig.log.used_bytes(), rig.log.fill()),
        (head, 0, 0)
    );
    for _ in 0..50 {
        rig.frame(&[3, 0, 5]);
        let head = rig.log.head();
        rig.reclaim(lsn(head.get() - 2));
        rig.log.release_memory(head);
        assert_eq!(rig.read(head.get() - 2, head.get()).len(), 2);
    }
}

/// All that is in the log may be waiting for this very record to be committed, and only then can
/// anything be reclaimed.
#[test]
fn a_full_ring_still_takes_the_record_that_opens_an_epoch() {
    let mut rig = Rig::fresh(RING);
    loop {
        let next = rig.log.head().get() + 1;
        if rig.log.append(record(next, 1, 0, next)).is_err() {
            break;
        }
        rig.settle();
    }
    let mark = rig.log.head().next();
    let opens = moorline_wal::Record::epoch_mark(VOLUME, epoch(2), mark);
    rig.log.append(opens).expect("room is kept for it");
    rig.settle();
    assert_eq!(rig.log.flushed(), mark);
    rig.log.cut(mark.previous().unwrap()).unwrap();
    rig.settle();
    rig.idle();
    assert_eq!(
        frames_on(&rig.device).last().map(|frame| frame.kind),
        Some(FrameKind::Mark)
    );
}

#[test]
fn a_queue_that_finds_no_room_waits_for_reclaim() {
    let mut rig = Rig::fresh(RING);
    // 26 blocks each: the third goes neither behind the second nor before the first.
    rig.frame(&[25]);
    rig.frame(&[25]);
    let next = rig.log.head().get() + 1;
    let full = rig.log.append(record(next, 1, 9, next));
    assert!(matches!(full, Err(AppendError::Full { .. })), "{full:?}");
    rig.append(&[5]);
    rig.settle();
    rig.reclaim(lsn(1));
    rig.append(&[20]);
    rig.settle();
    assert_eq!(rig.log.flushed(), lsn(4));
    rig.log.release_memory(lsn(4));
    assert_eq!(rig.read(1, 4).len(), 3);
}

#[test]
fn a_cut_drops_records_at_once_and_is_recorded_when_durable() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 1, 1]);
    rig.append(&[1]);
    rig.submit();
    rig.append(&[1]);
    rig.reports();
    rig.log.cut(lsn(2)).unwrap();
    assert_eq!((rig.log.head(), rig.log.flushed()), (lsn(2), lsn(2)));
    assert!(rig.log.record(lsn(3)).is_none());
    rig.log.append(record(3, 2, 1, 33)).unwrap();
    // Record 4's frame becomes durable: that says nothing about the new record 3.
    rig.complete(0);
    rig.submit();
    rig.complete(0);
    assert_eq!((rig.reports(), rig.log.flushed()), (vec![], lsn(2)));
    rig.settle();
    let reports = rig.reports();
    assert!(reports == ["cut 2", "flushed 3"], "{reports:?}");
    // Record 5 was never in a frame, and none was made for it.
    let records = frames_on(&rig.device)
        .iter()
        .filter_map(|frame| frame.last())
        .collect::<Vec<_>>();
    assert_eq!(records, [lsn(3), lsn(4), lsn(3)]);
}

#[test]
fn a_cut_stays_between_tail_and_head() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 1, 1]);
    rig.reclaim(lsn(1));
    let (tail, head) = (lsn(1), lsn(3));
    let through = Lsn::ZERO;
    assert_eq!(
        rig.log.cut(through),
        Err(CutError::BelowTail { through, tail })
    );
    let through = lsn(4);
    assert_eq!(
        rig.log.cut(through),
        Err(CutError::AboveHead { through, head })
    );
    rig.log.cut(lsn(1)).unwrap();
    rig.settle();
    assert_eq!(rig.log.head(), lsn(1));
}

#[test]
fn released_records_are_read_back_verified() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 0, 2]);
    rig.frame(&[1]);
    let in_memory = rig.read(0, 4);
    rig.log.release_memory(lsn(3));
    assert!(matches!(rig.log.record(lsn(3)), Some(RecordAt::Ring)));
    assert!(matches!(rig.log.record(lsn(4)), Some(RecordAt::Memory(_))));
    assert_eq!(rig.log.header(lsn(3)), Some(in_memory[2].header()));
    assert_eq!(rig.read(0, 4), in_memory);
    assert_eq!(rig.read(2, 3), in_memory[2..3]);

    let frame = frames_on(&rig.device)[1];
    let last_byte = (OFFSET + frame.position + frame.total_bytes() - 1) as usize;
    rig.device.durable[last_byte] ^= 1;
    let whole = LsnRange::new(Lsn::ZERO, lsn(4)).unwrap();
    let start = rig
        .log
        .read(rig.now, ReadId(7), whole, usize::MAX, &mut rig.ops)
        .unwrap();
    assert!(matches!(start, ReadStart::Pending));
    rig.device.submit(&mut rig.ops);
    rig.settle();
    let events = format!("{:?}", rig.events.last().unwrap());
    assert!(events.contains("Corrupt { lsn: Lsn(3)"), "{events}");
    assert_eq!(rig.log.failed(), None, "a bad record is no failed device");
}

#[test]
fn a_read_says_what_is_not_there_and_stops_at_its_limit() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 1, 1, 1]);
    rig.reclaim(lsn(1));
    let mut read = |after, through, bytes_max| {
        let range = LsnRange::new(lsn(after), lsn(through)).unwrap();
        match rig
            .log
            .read(rig.now, ReadId(1), range, bytes_max, &mut rig.ops)
        {
            Ok(ReadStart::Ready(records)) => Ok(records.len()),
            Ok(ReadStart::Pending) => panic!("everything is in memory"),
            Err(error) => Err(error),
        }
    };
    let (after, tail) = (Lsn::ZERO, lsn(1));
    assert_eq!(read(0, 3, 0), Err(LogReadError::Reclaimed { after, tail }));
    let (through, head) = (lsn(5), lsn(4));
    assert_eq!(
        read(1, 5, 0),
        Err(LogReadError::AboveHead { through, head })
    );
    assert_eq!(read(1, 4, 0), Ok(1));
    assert_eq!(read(1, 4, 2 * (4096 + 52)), Ok(2));
    assert_eq!(read(1, 4, usize::MAX), Ok(3));
    assert_eq!(read(4, 4, usize::MAX), Ok(0));
}

#[test]
fn a_long_read_leaves_room_in_the_devices_queue() {
    let mut rig = Rig::fresh(4 << 20);
    for _ in 0..20 {
        rig.frame(&[3]);
    }
    rig.log.release_memory(lsn(20));
    let range = LsnRange::new(Lsn::ZERO, lsn(20)).unwrap();
    let start = rig
        .log
        .read(rig.now, ReadId(1), range, usize::MAX, &mut rig.ops)
        .unwrap();
    assert!(matches!(start, ReadStart::Pending));
    rig.device.submit(&mut rig.ops);
    while rig.device.in_flight() > 0 {
        assert!(rig.device.in_flight() <= 4);
        rig.complete(rig.device.in_flight() - 1);
    }
    assert_eq!(rig.reports().pop().unwrap(), "read 1 Ok(20)");
}

#[test]
fn pins_and_reads_in_flight_hold_the_ring() {
    let mut rig = Rig::fresh(RING);
    for _ in 0..4 {
        rig.frame(&[1]);
    }
    rig.log.release_memory(lsn(4));
    let pin = rig.log.pin(lsn(2), holder(), rig.now).unwrap();
    assert_eq!(rig.log.anchor_at(lsn(4)).tail, lsn(2));
    let range = LsnRange::new(lsn(1), lsn(2)).unwrap();
    let start = rig
        .log
        .read(rig.now, ReadId(1), range, usize::MAX, &mut rig.ops)
        .unwrap();
    assert!(matches!(start, ReadStart::Pending));
    assert_eq!(rig.reclaim(lsn(4)).tail, lsn(1), "the read holds record 2");
    rig.device.submit(&mut rig.ops);
    rig.settle();
    assert_eq!(rig.reclaim(lsn(4)).tail, lsn(2), "the pin holds record 3");
    let (after, tail) = (lsn(1), lsn(2));
    let refused = rig.log.pin(lsn(1), holder(), rig.now).err();
    assert_eq!(refused, Some(PinRefused::Reclaimed { after, tail }));
    drop(pin);
    assert_eq!(
        (rig.reclaim(lsn(4)).tail, rig.log.pins().len()),
        (lsn(4), 0)
    );
}

#[test]
fn an_anchor_never_passes_the_flushed_frontier_and_keeps_the_frame_of_the_next_record() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 1, 1]);
    rig.append(&[1]);
    rig.submit();
    let frames = frames_on(&rig.device);
    let second = rig.log.anchor_at(lsn(2));
    assert_eq!((second.tail, second.position), (lsn(2), frames[1].position));
    assert_eq!(
        (second.sequence, second.previous_crc),
        (frames[0].sequence, frames[0].crc)
    );
    let all = rig.log.anchor_at(lsn(4));
    let end = frames[1].position + frames[1].total_bytes();
    assert_eq!(
        (all.tail, all.position, all.sequence),
        (lsn(3), end, frames[1].sequence)
    );
    assert_eq!(rig.log.bytes_after(lsn(3)), 8192);
    rig.reclaim(lsn(2));
    assert_eq!(rig.log.header(lsn(2)), None);
    assert_eq!(rig.read(2, 4).len(), 2);
    assert_eq!(rig.log.tail(), lsn(2));
}

#[test]
fn reclaim_frees_no_frame_that_a_persisted_anchor_names() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 1]);
    // Named before the cut and the marks behind it are durable.
    let early = rig.log.anchor_at(lsn(1));
    rig.log.cut(lsn(1)).unwrap();
    rig.settle();
    rig.idle();
    let late = rig.log.anchor_at(lsn(1));
    assert!(late.sequence > early.sequence && late.tail == early.tail);
    let used = rig.log.used_bytes();
    assert_eq!(rig.log.reclaim([late, early]), early);
    assert!(rig.log.used_bytes() > 0 && rig.log.used_bytes() < used);
    assert_eq!(rig.log.reclaim([late, late]), late);
    assert_eq!(rig.log.used_bytes(), 0);
}

//! Opening: every combination of bad frames, and what must never happen at one.

use moorline_types::{BLOCK_SIZE, DeviceError, Lsn, LsnRange, OpenCount};
use moorline_wal::{
    AppendError, CutError, FrameHeader, FrameKind, LogAnchor, LogConfig, LogDamage, LogFindings,
    LogOpenError, LogRegion, LogScan, Mutants, Record, block_crcs,
};

use crate::{
    device::{Device, Random},
    rig::{OFFSET, Rig, VOLUME, config, device, epoch, frames_on, lsn, open, range, record},
};

const RING: u64 = 64 * 4096;

fn reopen(device: &mut Device, opens: u64, floor: u64) -> (moorline_wal::Log, LogFindings) {
    let config = config(opens, RING, Mutants::NONE);
    open(device, config, LogAnchor::default(), &[], floor).unwrap()
}

fn doubtful(after: u64, through: u64) -> Option<LsnRange> {
    LsnRange::new(lsn(after), lsn(through))
}

/// The opening's mark, A (record 1), B (2); then C (3) and D (4, 5) submitted together; then E (6)
/// when all of them were durable; with an idle mark at the end or not.
fn six_frames(end: End) -> (Device, Vec<FrameHeader>) {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[2]);
    rig.frame(&[1]);
    rig.append(&[1]);
    rig.submit();
    rig.append(&[1, 1]);
    rig.settle();
    rig.frame(&[2]);
    if end == End::Marked {
        rig.idle();
    }
    let frames = frames_on(&rig.device);
    assert_eq!(frames.len(), if end == End::Marked { 7 } else { 6 });
    (rig.device, frames)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Marked,
    Unmarked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    /// The first sector is garbage.
    Garbage,
    /// The first sector is right, a later one of the header block is not.
    TornHeader,
    /// The header is right, the last block of the payload is not.
    Payload,
    /// Never written.
    Zero,
}

const DAMAGES: [Damage; 4] = [
    Damage::Garbage,
    Damage::TornHeader,
    Damage::Payload,
    Damage::Zero,
];

fn damage(device: &mut Device, frame: &FrameHeader, how: Damage) {
    let start = (OFFSET + frame.position) as usize;
    let end = start + frame.total_bytes() as usize;
    match how {
        Damage::Garbage => device.durable[start..start + 512].fill(0xa5),
        Damage::TornHeader => device.durable[start + 1024] ^= 1,
        Damage::Payload => device.durable[end - 1] ^= 1,
        Damage::Zero => device.durable[start..end].fill(0),
    }
}

/// What the rules say, computed from the frames as they were written.
fn expected(frames: &[FrameHeader], bad: &[(usize, Damage)]) -> (u64, bool, Option<u64>) {
    let first_bad = bad
        .iter()
        .map(|(place, _)| *place)
        .min()
        .unwrap_or(frames.len());
    let last_of = |place: usize| frames[place].last().map(Lsn::get);
    let head = (0..first_bad).filter_map(last_of).max().unwrap_or(0);
    let chain_end = if first_bad == 0 {
        0
    } else {
        frames[first_bad - 1].sequence
    };
    let readable = |place: &usize| {
        let header_is_bad = |(bad, how): &(usize, Damage)| {
            // A mark has no payload: its last byte is in its header block.
            let whole = *how == Damage::Payload && frames[*place].payload_bytes > 0;
            bad == place && !whole
        };
        !bad.iter().any(header_is_bad)
    };
    let behind: Vec<usize> = (first_bad..frames.len()).filter(readable).collect();
    let damaged = behind
        .iter()
        .any(|place| frames[*place].durable_through > chain_end);
    let known = behind.into_iter().filter_map(last_of).max();
    (head, damaged, known)
}

#[test]
fn every_pair_of_bad_frames_is_judged_by_the_marks_above_it() {
    let mut judged = [0; 2];
    for end in [End::Marked, End::Unmarked] {
        let count = six_frames(end).1.len();
        for first in 0..count {
            for second in first..count {
                for (how_first, how_second) in DAMAGES
                    .iter()
                    .flat_map(|a| DAMAGES.iter().map(|b| (*a, *b)))
                {
                    let (mut device, frames) = six_frames(end);
                    let bad = [(first, how_first), (second, how_second)];
                    let bad = if first == second { &bad[..1] } else { &bad[..] };
                    for &(place, how) in bad {
                        damage(&mut device, &frames[place], how);
                    }
                    let case = format!("{end:?} {bad:?}");
                    let (head, damaged, known) = expected(&frames, bad);
                    check_verdict(&mut device, &case, (head, damaged, known));
                    judged[usize::from(damaged)] += 1;
                }
            }
        }
    }
    assert!(
        judged[0] > 50 && judged[1] > 50,
        "both verdicts are met: {judged:?}"
    );
}

fn check_verdict(device: &mut Device, case: &str, want: (u64, bool, Option<u64>)) {
    let (head, damaged, known) = want;
    let before = device.durable.clone();
    let (mut log, findings) = reopen(device, 2, 0);
    assert_eq!(findings.head, lsn(head), "{case}");
    assert_eq!(findings.damaged.is_some(), damaged, "{case}");
    assert_eq!(log.head(), lsn(head), "{case}");
    if let Some(found) = findings.damaged {
        assert_eq!(
            (found.after, found.known_through),
            (lsn(head), known.map(lsn)),
            "{case}"
        );
        assert_eq!(findings.torn, None, "{case}");
        assert!(
            device.durable == before,
            "damage is not written over: {case}"
        );
        let next = record(head + 1, 9, 1, 1);
        assert_eq!(
            log.append(next),
            Err(AppendError::Damaged { after: lsn(head) }),
            "{case}"
        );
        assert_eq!(
            log.cut(lsn(head)),
            Err(CutError::Damaged { after: lsn(head) }),
            "{case}"
        );
        assert_eq!(reopen(device, 3, 0).1, findings, "{case}");
        return;
    }
    if let Some(known) = known.filter(|known| *known > head) {
        let through = findings.torn.expect(case).through();
        assert!(through >= lsn(known), "{case}: doubtful through {through}");
    }
    // The torn place is written over; nothing behind it ever comes back.
    let (_, again) = reopen(device, 3, 0);
    assert_eq!(
        (again.head, again.torn, again.damaged),
        (lsn(head), None, None),
        "{case}"
    );
}

#[test]
fn the_verdicts_in_words() {
    let case = |end: End, bad: &[(usize, Damage)]| {
        let (mut device, frames) = six_frames(end);
        for &(place, how) in bad {
            damage(&mut device, &frames[place], how);
        }
        let (_, found) = reopen(&mut device, 2, 0);
        let damaged = found
            .damaged
            .map(|damage| (damage.after, damage.known_through));
        (found.head.get(), found.torn, damaged)
    };
    use Damage::{Garbage, Payload, TornHeader};
    use End::{Marked, Unmarked};
    // Whole.
    assert_eq!(case(Marked, &[]), (6, None, None));
    assert_eq!(case(Unmarked, &[]), (6, None, None));
    // The last frame, nothing above it: torn, its LSN is doubtful where it can be told.
    assert_eq!(case(Unmarked, &[(5, Payload)]), (5, doubtful(5, 6), None));
    assert_eq!(
        case(Unmarked, &[(5, TornHeader)]),
        (5, doubtful(5, 6), None)
    );
    // No trace of it is left: then there is nothing to doubt.
    assert_eq!(case(Unmarked, &[(5, Garbage)]), (5, None, None));
    // The last frame below the idle mark: damage, no LSN above it is readable.
    assert_eq!(
        case(Marked, &[(5, Garbage)]),
        (5, None, Some((lsn(5), None)))
    );
    // C and D were in flight together: D does not mark C. E marks both.
    assert_eq!(
        case(Unmarked, &[(3, Payload), (5, Garbage)]),
        (2, doubtful(2, 5), None)
    );
    assert_eq!(
        case(Unmarked, &[(3, Garbage)]),
        (2, None, Some((lsn(2), Some(lsn(6)))))
    );
    // D's header is readable and its payload is not: E behind it marks it.
    assert_eq!(
        case(Unmarked, &[(4, Payload)]),
        (3, None, Some((lsn(3), Some(lsn(6)))))
    );
    // The very first frame after the anchor.
    assert_eq!(
        case(Unmarked, &[(0, Garbage)]),
        (0, None, Some((lsn(0), Some(lsn(6)))))
    );
}

#[test]
fn a_chain_that_ends_below_what_the_store_relied_on_is_damaged() {
    let (mut device, frames) = six_frames(End::Unmarked);
    damage(&mut device, &frames[5], Damage::Payload);
    let position = frames[5].position;
    let mut twin = device.image();
    let (_, found) = reopen(&mut device, 2, 6);
    let damage = LogDamage {
        after: lsn(5),
        position,
        known_through: Some(lsn(6)),
    };
    assert_eq!(found.damaged, Some(damage));
    let (_, found) = reopen(&mut twin, 2, 5);
    assert_eq!((found.damaged, found.torn), (None, doubtful(5, 6)));
}

#[test]
fn a_fresh_ring_opens_empty_and_a_marked_end_is_not_written_to() {
    let mut device = device(RING);
    let (log, found) = reopen(&mut device, 1, 0);
    assert_eq!(
        (log.head(), log.tail(), found.frames),
        (Lsn::ZERO, Lsn::ZERO, 0)
    );
    let before = device.durable.clone();
    for opens in 2..6 {
        let (_, found) = reopen(&mut device, opens, 0);
        assert_eq!((found.frames, found.torn), (1, None));
    }
    assert!(device.durable == before, "idle reopening uses up no room");
}

#[test]
fn the_next_append_goes_over_the_torn_place_and_a_second_crash_there_is_handled() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let (mut device, frames) = six_frames(End::Unmarked);
        // C is torn and D lies whole behind it; E, which would mark both, never came.
        damage(&mut device, &frames[3], Damage::Payload);
        damage(&mut device, &frames[5], Damage::Garbage);
        let (mut log, found) = reopen(&mut device, 2, 0);
        assert_eq!(found.torn, doubtful(2, 5));
        let mut ops = Vec::new();
        log.append(record(3, 2, 1, 77)).unwrap();
        log.submit(moorline_types::Instant::ZERO, &mut ops);
        let written = crate::rig::frames_in(&ops);
        assert_eq!(written.len(), 1);
        assert!(written[0].sequence > frames[5].sequence + 4);
        device.submit(&mut ops);
        device.crash(&mut random);
        let (log, found) = reopen(&mut device, 3, 0);
        assert_eq!(found.damaged, None, "seed {seed}");
        match log.head().get() {
            2 => {}
            3 => assert_eq!(
                log.epoch_of(lsn(3)),
                Some(epoch(2)),
                "the new record, not C's"
            ),
            head => panic!("seed {seed}: head {head}"),
        }
    }
}

#[test]
fn a_cut_is_replayed_with_its_epochs() {
    let mut rig = Rig::fresh(RING);
    rig.frame(&[1, 1, 1]);
    rig.log.append(record(4, 2, 1, 1)).unwrap();
    rig.settle();
    rig.log.cut(lsn(2)).unwrap();
    rig.log.append(record(3, 5, 1, 1)).unwrap();
    rig.settle();
    let (log, found) = reopen(&mut rig.device, 2, 0);
    assert_eq!((found.head, found.cuts_replayed), (lsn(3), 1));
    let epochs: Vec<_> = (1..=4).map(|at| log.epoch_of(lsn(at))).collect();
    let want = [Some(epoch(1)), Some(epoch(1)), Some(epoch(5)), None];
    assert_eq!(epochs, want);
    assert_eq!(log.last_record_epoch(), epoch(5));
}

#[test]
fn a_guests_copy_of_a_frame_counts_for_nothing() {
    let mut rig = Rig::fresh(RING);
    let (_, frames) = six_frames(End::Marked);
    // A mark with a huge sequence, forged for the place where the payload's block will lie.
    let position = rig.frames_end() + BLOCK_SIZE as u64;
    let mut block = rig.block_of(&frames[0]);
    block[32..40].copy_from_slice(&(1u64 << 61).to_le_bytes());
    block[40..48].copy_from_slice(&(1u64 << 60).to_le_bytes());
    block[48..56].copy_from_slice(&position.to_le_bytes());
    let crc = crc32fast::hash(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    let forged = FrameHeader::decode(&block).unwrap();
    assert_eq!(
        (forged.verify(&block), forged.kind),
        (Ok(()), FrameKind::Mark)
    );

    let pool = moorline_types::BufferPool::new();
    let payload = moorline_types::Payload::copy_padded(&pool, &block);
    let crcs = block_crcs(VOLUME, range(0, 1), &payload);
    rig.log
        .append(Record::write(
            VOLUME,
            epoch(1),
            lsn(1),
            range(0, 1),
            payload,
            crcs,
        ))
        .unwrap();
    rig.settle();
    rig.frame(&[1]);
    let (_, found) = reopen(&mut rig.device, 2, 0);
    assert_eq!(
        (found.head, found.damaged, found.torn),
        (lsn(2), None, None)
    );
}

#[test]
fn the_offline_scan_finds_what_opening_finds_and_where_payloads_lie() {
    let (mut device, frames) = six_frames(End::Unmarked);
    damage(&mut device, &frames[5], Damage::Payload);
    let config = config(2, RING, Mutants::NONE);
    let mut scan = LogScan::new(&config, LogAnchor::default(), Vec::new(), Lsn::ZERO);
    for piece in device.durable[OFFSET as usize..].chunks(3 * BLOCK_SIZE) {
        scan.feed(piece);
    }
    let contents = scan.finish().unwrap();
    for (header, position) in &contents.records {
        let start = (OFFSET + position) as usize;
        let bytes = device.durable[start..start + header.payload_bytes()].to_vec();
        let payload = moorline_types::Payload::copy_padded(&config.pool, &bytes);
        assert_eq!(header.verify(&payload), Ok(()));
    }
    assert_eq!(contents.records.len(), 5);
    assert_eq!(contents.findings, reopen(&mut device, 2, 0).1);
}

#[test]
fn frames_of_another_store_or_volume_are_none() {
    let (device, _) = six_frames(End::Unmarked);
    let mut other = config(2, RING, Mutants::NONE);
    other.store = moorline_types::StoreId::new(1);
    let (log, found) = open(&mut device.image(), other, LogAnchor::default(), &[], 0).unwrap();
    assert_eq!(
        (log.head(), found.frames, found.damaged),
        (Lsn::ZERO, 0, None)
    );
    let mut other = config(2, RING, Mutants::NONE);
    other.volume = moorline_types::VolumeId::new(1);
    let (_, found) = open(&mut device.image(), other, LogAnchor::default(), &[], 0).unwrap();
    assert_eq!(found.head, Lsn::ZERO);
}

#[test]
fn what_cannot_be_a_log_is_refused_before_anything_is_read() {
    let region = |bytes: u64| LogRegion { offset: 0, bytes };
    for (bytes, position, want) in [
        (
            4096,
            0,
            LogOpenError::BadRegion {
                bytes: 4096,
                bytes_min: 131_072,
            },
        ),
        (
            RING + 1,
            0,
            LogOpenError::BadRegion {
                bytes: RING + 1,
                bytes_min: 131_072,
            },
        ),
        (
            RING,
            RING + 4096,
            LogOpenError::BadAnchor {
                position: RING + 4096,
                bytes: RING,
            },
        ),
        (
            RING,
            5,
            LogOpenError::BadAnchor {
                position: 5,
                bytes: RING,
            },
        ),
    ] {
        let pool = moorline_types::BufferPool::new();
        let (store, open_count) = (moorline_types::StoreId::new(1), OpenCount::new(1));
        let config = LogConfig::new(VOLUME, store, open_count, region(bytes), pool);
        let anchor = LogAnchor {
            position,
            ..LogAnchor::default()
        };
        let mut device = device(RING);
        assert_eq!(open(&mut device, config, anchor, &[], 0).err(), Some(want));
    }
}

#[test]
fn a_device_that_fails_while_opening_fails_the_opening() {
    let mut device = device(RING);
    device.fault = Some(DeviceError::Errno { errno: 5 });
    let config = config(1, RING, Mutants::NONE);
    let failed = open(&mut device, config, LogAnchor::default(), &[], 0).err();
    assert_eq!(
        failed,
        Some(LogOpenError::Device(DeviceError::Errno { errno: 5 }))
    );
}

impl Rig {
    fn frames_end(&self) -> u64 {
        let last = frames_on(&self.device).pop().unwrap();
        last.position + last.total_bytes()
    }

    fn block_of(&self, frame: &FrameHeader) -> Vec<u8> {
        let start = (OFFSET + frame.position) as usize;
        self.device.durable[start..start + BLOCK_SIZE].to_vec()
    }
}

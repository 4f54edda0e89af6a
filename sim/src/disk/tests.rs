//! What a disk keeps, and how it fails.

use moorline_types::{BufferPool, OpId, OpOwner};

use super::{
    flaws::{Failing, Honesty, How, OpClass, StrayKind, Straying},
    *,
};

fn write(disk: &mut SimDisk, block: u64, fill: u8, mode: WriteMode) -> u64 {
    let payload = Payload::copy_padded(&BufferPool::new(), &[fill; BLOCK_SIZE]);
    disk.submit(DeviceOp {
        id: OpId::new(OpOwner::Log, 1),
        offset: block * BLOCK,
        kind: DeviceOpKind::Write(vec![payload], mode),
    })
}

fn flush(disk: &mut SimDisk) -> u64 {
    disk.submit(DeviceOp {
        id: OpId::new(OpOwner::Log, 2),
        offset: 0,
        kind: DeviceOpKind::Flush,
    })
}

fn first_byte(disk: &SimDisk, block: u64) -> u8 {
    let mut page = [0; BLOCK_SIZE];
    disk.read(block * BLOCK, &mut page);
    page[0]
}

#[test]
fn a_flush_covers_what_completed_before_it_was_submitted_and_nothing_else() {
    let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(1));
    let early = write(&mut disk, 1, 1, WriteMode::Cached);
    disk.complete(early, &mut dice).expect("in flight");
    let late = write(&mut disk, 2, 2, WriteMode::Cached);
    let barrier = flush(&mut disk);
    disk.complete(late, &mut dice).expect("in flight");
    disk.complete(barrier, &mut dice).expect("in flight");
    assert!(disk.durable.contains_key(&1));
    assert!(!disk.durable.contains_key(&2));
    assert_eq!(first_byte(&disk, 2), 2, "visible nevertheless");
}

#[test]
fn an_older_cached_write_never_replaces_a_durable_one() {
    let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(1));
    for (fill, mode) in [(1, WriteMode::Cached), (2, WriteMode::Durable)] {
        let token = write(&mut disk, 1, fill, mode);
        disk.complete(token, &mut dice).expect("in flight");
    }
    let barrier = flush(&mut disk);
    disk.complete(barrier, &mut dice).expect("in flight");
    disk.power_cut(&mut dice);
    assert_eq!(first_byte(&disk, 1), 2);
}

#[test]
fn a_power_cut_keeps_every_flushed_byte() {
    for seed in 0..50 {
        let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(seed));
        let token = write(&mut disk, 1, 1, WriteMode::Durable);
        disk.complete(token, &mut dice).expect("in flight");
        write(&mut disk, 3, 9, WriteMode::Durable);
        disk.power_cut(&mut dice);
        assert_eq!(first_byte(&disk, 1), 1);
    }
}

fn failing(what: OpClass, how: How, left: Option<u32>) -> Failing {
    Failing {
        what: Some(what),
        how,
        from: 0,
        left,
    }
}

#[test]
fn a_transient_error_ends_by_itself_and_a_lasting_one_when_the_disk_is_mended() {
    let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(1));
    let mut fails = |disk: &mut SimDisk| {
        let token = write(disk, 1, 1, WriteMode::Durable);
        let done = disk.complete(token, &mut dice).expect("in flight");
        done.result.is_err()
    };
    disk.flaws
        .failing
        .push(failing(OpClass::Write, How::Error, Some(2)));
    assert_eq!([0; 3].map(|_| fails(&mut disk)), [true, true, false]);
    disk.flaws
        .failing
        .push(failing(OpClass::Write, How::Full, None));
    assert_eq!([0; 3].map(|_| fails(&mut disk)), [true; 3]);
    disk.flaws.mend();
    assert!(!fails(&mut disk));
}

#[test]
fn a_failed_flush_forgets_what_it_should_have_covered() {
    let mut dropped = 0;
    for seed in 0..20 {
        let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(seed));
        let token = write(&mut disk, 1, 1, WriteMode::Cached);
        disk.complete(token, &mut dice).expect("in flight");
        disk.flaws
            .failing
            .push(failing(OpClass::Flush, How::Error, Some(1)));
        for _ in 0..2 {
            let barrier = flush(&mut disk);
            disk.complete(barrier, &mut dice).expect("in flight");
        }
        disk.power_cut(&mut dice);
        dropped += u32::from(first_byte(&disk, 1) == 0);
    }
    assert!((1..20).contains(&dropped), "{dropped}");
}

#[test]
fn a_lost_write_is_nowhere_and_a_misdirected_one_elsewhere() {
    for (kind, elsewhere) in [(StrayKind::Lost, 0), (StrayKind::Misdirected, 7)] {
        let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(1));
        disk.flaws.straying = Some(Straying {
            kind,
            from: 0,
            to: 1 << 20,
            left: 1,
        });
        let token = write(&mut disk, 1, 7, WriteMode::Durable);
        let done = disk.complete(token, &mut dice).expect("in flight");
        assert!(done.result.is_ok());
        assert_eq!(first_byte(&disk, 1), 0);
        assert_eq!(first_byte(&disk, 4), elsewhere);
    }
}

#[test]
fn a_lying_flush_keeps_nothing() {
    let (mut disk, mut dice) = (SimDisk::new(1 << 20), Dice::new(1));
    disk.flaws.honesty = Honesty::Lying;
    let token = write(&mut disk, 1, 1, WriteMode::Durable);
    disk.complete(token, &mut dice).expect("in flight");
    let barrier = flush(&mut disk);
    disk.complete(barrier, &mut dice).expect("in flight");
    assert!(disk.durable.is_empty());
}

//! The power-cut disk on a real kernel: FUSE, loop devices, O_DIRECT and io_uring.
//!
//! These need root, /dev/fuse, losetup, and fio for the last; without them they fail and say what is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod direct;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use direct::{Block, open_direct};
use moorline_rig::{
    Budget, CutMode, CutTally, IoFault, Power, PowerDisk, PowerStrip, Spec, SyncFault,
};

const BLOCK_BYTES: u64 = 4096;
const SIZE_BYTES: u64 = 64 << 20;

fn spec(seed: u64) -> Spec {
    Spec::new(SIZE_BYTES)
        .seed(seed)
        .daemon(env!("CARGO_BIN_EXE_moorline-rig"))
}

fn disk(seed: u64) -> (PowerDisk, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    // The disk first: it is dropped before the directory that it lies in.
    (
        PowerDisk::create(dir.path(), &spec(seed)).unwrap_or_else(|error| panic!("{error}")),
        dir,
    )
}

fn write(file: &File, block: u64, fill: u8) -> io::Result<()> {
    file.write_all_at(Block::filled(fill).bytes(), block * BLOCK_BYTES)
}

fn read(file: &File, block: u64) -> io::Result<Block> {
    let mut out = Block::filled(0xEE);
    file.read_exact_at(out.bytes_mut(), block * BLOCK_BYTES)?;
    Ok(out)
}

fn holds(file: &File, block: u64, fill: u8) -> bool {
    read(file, block)
        .unwrap()
        .bytes()
        .iter()
        .all(|byte| *byte == fill)
}

fn is_eio(result: io::Result<()>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()))
}

#[test]
fn synced_writes_survive_a_cut_and_unsynced_ones_do_not() {
    let (disk, _dir) = disk(1);
    let file = open_direct(disk.device_path());
    write(&file, 0, 1).unwrap();
    write(&file, 1, 1).unwrap();
    file.sync_data().unwrap();
    write(&file, 1, 2).unwrap();
    write(&file, 2, 2).unwrap();
    assert!(
        holds(&file, 1, 2),
        "an unsynced write is read back while there is power"
    );
    let report = disk.cut(CutMode::Drop).unwrap().unwrap();
    // At least: the kernel may write to a device of its own accord.
    assert!(report.tally.writes_dropped >= 2);
    disk.power_on().unwrap();
    let file = open_direct(disk.device_path());
    assert!(holds(&file, 0, 1) && holds(&file, 1, 1) && holds(&file, 2, 0));
}

#[test]
fn every_kind_of_damage_happens_on_the_device() {
    let (disk, _dir) = disk(2);
    let mut sum = CutTally::default();
    for _ in 0..12 {
        let file = open_direct(disk.device_path());
        for block in 0..32 {
            write(&file, block, 0xAA).unwrap();
        }
        file.sync_all().unwrap();
        for block in 0..32 {
            write(&file, block, 0x55).unwrap();
        }
        let tally = disk.cut(CutMode::Tear).unwrap().unwrap().tally;
        disk.power_on().unwrap();
        let file = open_direct(disk.device_path());
        let (mut old, mut new) = (0, 0);
        for block in 0..32 {
            for sector in read(&file, block).unwrap().bytes().chunks(512) {
                old += u64::from(sector.iter().all(|byte| *byte == 0xAA));
                new += u64::from(sector.iter().all(|byte| *byte == 0x55));
            }
        }
        // A half written sector of which no byte is new looks old.
        assert_eq!(new, tally.sectors_new);
        assert!((tally.sectors_old..=tally.sectors_old + tally.sectors_half).contains(&old));
        sum.writes_kept += tally.writes_kept;
        sum.writes_dropped += tally.writes_dropped;
        sum.writes_torn += tally.writes_torn;
        sum.sectors_half += tally.sectors_half;
        sum.sectors_garbage += tally.sectors_garbage;
    }
    assert!(
        sum.writes_kept > 20 && sum.writes_dropped > 20 && sum.writes_torn > 20,
        "{sum:?}"
    );
    assert!(sum.sectors_half > 0 && sum.sectors_garbage > 0, "{sum:?}");
}

#[test]
fn an_opener_from_before_the_cut_gets_eio_for_ever() {
    let (disk, _dir) = disk(3);
    let old = open_direct(disk.device_path());
    write(&old, 0, 1).unwrap();
    old.sync_data().unwrap();
    let buffered = File::open(disk.device_path()).unwrap();
    assert!(holds(&buffered, 0, 1));
    disk.cut(CutMode::Drop).unwrap();
    assert!(matches!(disk.status().unwrap().power, Power::Off));
    for _ in 0..2 {
        assert!(is_eio(write(&old, 0, 2)));
        assert!(is_eio(read(&old, 0).map(drop)));
        assert!(
            is_eio(read(&buffered, 0).map(drop)),
            "the page cache of the device outlived the cut"
        );
        disk.power_on().unwrap();
    }
    let new = open_direct(disk.device_path());
    assert!(holds(&new, 0, 1));
    write(&new, 0, 3).unwrap();
    assert!(
        is_eio(old.sync_data()),
        "a sync of the old session reached the new one"
    );
    disk.cut(CutMode::Drop).unwrap();
    disk.power_on().unwrap();
    assert!(holds(&open_direct(disk.device_path()), 0, 1));
}

#[test]
fn unsynced_buffered_writes_are_lost_too() {
    let (disk, _dir) = disk(4);
    let buffered = File::options()
        .read(true)
        .write(true)
        .open(disk.device_path())
        .unwrap();
    write(&buffered, 0, 1).unwrap();
    buffered.sync_all().unwrap();
    write(&buffered, 0, 2).unwrap();
    disk.cut(CutMode::Drop).unwrap();
    disk.power_on().unwrap();
    let again = File::open(disk.device_path()).unwrap();
    assert!(holds(&again, 0, 1), "the new device read an old page");
}

#[test]
fn a_lying_sync_loses_what_it_promised() {
    let (disk, _dir) = disk(5);
    disk.set_sync_fault(SyncFault::Lie, Budget::Forever)
        .unwrap();
    let file = open_direct(disk.device_path());
    write(&file, 0, 1).unwrap();
    file.sync_all().unwrap();
    let status = disk.status().unwrap();
    assert!(status.counters.syncs_lied >= 1 && status.unsynced_writes == 1);
    disk.cut(CutMode::Drop).unwrap();
    disk.power_on().unwrap();
    assert!(holds(&open_direct(disk.device_path()), 0, 0));
}

#[test]
fn a_write_with_o_dsync_to_the_file_survives_and_takes_no_other_along() {
    let (disk, _dir) = disk(12);
    let plain = File::options().write(true).open(disk.file_path()).unwrap();
    let durable = File::options()
        .write(true)
        .custom_flags(rustix::fs::OFlags::DSYNC.bits().cast_signed())
        .open(disk.file_path())
        .unwrap();
    write(&plain, 0, 1).unwrap();
    write(&plain, 1, 1).unwrap();
    write(&durable, 1, 2).unwrap();
    disk.cut(CutMode::Drop).unwrap();
    disk.power_on().unwrap();
    let file = open_direct(disk.device_path());
    assert!(holds(&file, 0, 0) && holds(&file, 1, 2));
}

#[test]
fn failing_syncs_reads_and_writes_fail_with_eio_as_often_as_told() {
    let (disk, _dir) = disk(6);
    let file = open_direct(disk.device_path());
    write(&file, 0, 1).unwrap();
    disk.set_sync_fault(SyncFault::FailAndDrop, Budget::Times(1))
        .unwrap();
    assert!(is_eio(file.sync_data()));
    assert!(holds(&file, 0, 0), "the write outlived the failed sync");
    file.sync_data().unwrap();
    disk.set_write_fault(IoFault::Fail, Budget::Times(1))
        .unwrap();
    assert!(is_eio(write(&file, 0, 1)));
    write(&file, 0, 2).unwrap();
    disk.set_read_fault(IoFault::Fail, Budget::Times(1))
        .unwrap();
    assert!(is_eio(read(&file, 0).map(drop)));
    assert!(holds(&file, 0, 2));
}

#[test]
fn a_hung_disk_answers_after_resume_and_fails_on_a_cut() {
    let (disk, _dir) = disk(7);
    let parked = |count: usize| {
        while disk.status().unwrap().parked < count {
            thread::yield_now();
        }
    };
    let file = Arc::new(open_direct(disk.device_path()));
    let writer = |fill: u8| {
        let file = Arc::clone(&file);
        thread::spawn(move || write(&file, 0, fill))
    };
    disk.hang().unwrap();
    let waiting = writer(1);
    parked(1);
    assert!(!waiting.is_finished());
    disk.resume().unwrap();
    waiting.join().unwrap().unwrap();
    assert!(holds(&file, 0, 1));
    disk.hang().unwrap();
    let waiting = writer(2);
    parked(1);
    disk.cut(CutMode::Keep).unwrap();
    assert!(is_eio(waiting.join().unwrap()));
    disk.power_on().unwrap();
    assert!(holds(&open_direct(disk.device_path()), 0, 1));
}

#[test]
fn discards_read_as_zeros_and_are_lost_like_writes() {
    let (disk, _dir) = disk(8);
    let file = open_direct(disk.device_path());
    write(&file, 0, 1).unwrap();
    file.sync_data().unwrap();
    let discard = || {
        let status = Command::new("blkdiscard")
            .args(["--offset=0", "--length=4096"])
            .arg(disk.device_path())
            .status();
        assert!(status.unwrap().success());
    };
    discard();
    assert!(holds(&file, 0, 0));
    disk.cut(CutMode::Drop).unwrap();
    disk.power_on().unwrap();
    let file = open_direct(disk.device_path());
    assert!(holds(&file, 0, 1));
    discard();
    file.sync_data().unwrap();
    disk.cut(CutMode::Drop).unwrap();
    disk.power_on().unwrap();
    assert!(holds(&open_direct(disk.device_path()), 0, 0));
}

#[test]
fn a_strip_loses_power_as_one_and_its_disks_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let strip = PowerStrip::create(dir.path(), 3, &spec(9)).unwrap();
    let open = || -> Vec<File> {
        strip
            .disks()
            .iter()
            .map(|disk| open_direct(disk.device_path()))
            .collect()
    };
    let files = open();
    for (file, fill) in files.iter().zip(1..) {
        write(file, 0, fill).unwrap();
        file.sync_data().unwrap();
    }
    strip.disks()[1].cut(CutMode::Tear).unwrap();
    assert!(holds(&files[0], 0, 1) && holds(&files[2], 0, 3));
    assert!(is_eio(write(&files[1], 0, 9)));
    // The one that is off already has nothing to report.
    assert_eq!(strip.cut(CutMode::Tear).unwrap().len(), 2);
    strip.power_on().unwrap();
    assert!(
        open()
            .iter()
            .zip(1..)
            .all(|(file, fill)| holds(file, 0, fill))
    );
}

#[test]
fn nothing_is_left_behind_even_when_the_daemon_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let left = || {
        let loops = Command::new("losetup")
            .args(["--list", "--output=BACK-FILE"])
            .output();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let text = String::from_utf8(loops.unwrap().stdout).unwrap() + &mounts;
        text.lines()
            .filter(|line| line.contains(dir.path().to_str().unwrap()))
            .count()
    };
    let disk = PowerDisk::create(dir.path(), &spec(10)).unwrap();
    assert_eq!(left(), 2, "one loop device and one mount");
    drop(disk);
    assert_eq!(left(), 0);

    // A daemon that dies without clearing up, and another that takes its place.
    let places = [
        ("--mount", "mnt"),
        ("--image", "image0"),
        ("--control", "control"),
    ];
    let mut process = Command::new(env!("CARGO_BIN_EXE_moorline-rig"));
    process
        .args(["serve", "--size", "64MiB"])
        .stdout(Stdio::piped());
    for (option, name) in places {
        process.arg(option).arg(dir.path().join(name));
    }
    let mut daemon = process.spawn().unwrap();
    let mut ready = String::new();
    let mut stdout = io::BufReader::new(daemon.stdout.take().unwrap());
    io::BufRead::read_line(&mut stdout, &mut ready).unwrap();
    assert!(ready.contains("\"reply\":\"status\""), "{ready}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(left(), 2);
    let disk = PowerDisk::create(dir.path(), &spec(10)).unwrap();
    write(&open_direct(disk.device_path()), 0, 1).unwrap();
    drop(disk);
    assert_eq!(left(), 0);
}

/// Writers that sync each of their writes, beside io_uring load, until the power goes.
#[test]
fn every_block_whose_flush_completed_is_intact_after_cuts_under_load() {
    const WRITERS: u64 = 4;
    const BLOCKS: u64 = 64;
    let (disk, _dir) = disk(11);
    for round in 1..=8u8 {
        let mut load = fio_in_second_half(disk.device_path());
        let durable: Arc<Vec<AtomicU64>> =
            Arc::new((0..WRITERS * BLOCKS).map(|_| AtomicU64::new(0)).collect());
        let flushed = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (durable, flushed) = (Arc::clone(&durable), Arc::clone(&flushed));
                let file = open_direct(disk.device_path());
                // Ends with the block whose last write was never answered.
                thread::spawn(move || {
                    let mut version = 0;
                    loop {
                        version += 1;
                        let block = writer * BLOCKS + version * 7 % BLOCKS;
                        let stamped = Block::stamped(round, block, version);
                        let written = file.write_all_at(stamped.bytes(), block * BLOCK_BYTES);
                        if written.and_then(|()| file.sync_data()).is_err() {
                            return block;
                        }
                        durable[usize::try_from(block).unwrap()].store(version, Ordering::Release);
                        flushed.fetch_add(1, Ordering::Release);
                    }
                })
            })
            .collect();
        while flushed.load(Ordering::Acquire) < 2000 {
            assert!(
                writers.iter().all(|writer| !writer.is_finished()),
                "a writer failed early"
            );
            thread::yield_now();
        }
        disk.cut(CutMode::Tear).unwrap();
        let unanswered: Vec<u64> = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect();
        assert!(
            !load.wait().unwrap().success(),
            "fio did not notice the cut"
        );
        disk.power_on().unwrap();
        let file = open_direct(disk.device_path());
        for (block, durable) in (0..).zip(durable.iter()) {
            let version = durable.load(Ordering::Acquire);
            // A block with an unanswered overwrite may hold anything.
            if version > 0 && !unanswered.contains(&block) {
                let intact = read(&file, block).unwrap().bytes()
                    == Block::stamped(round, block, version).bytes();
                assert!(
                    intact,
                    "round {round}: block {block} lost version {version}"
                );
            }
        }
    }
}

/// A load of unsynced and synced io_uring writes on the second half of `device`, until it fails.
fn fio_in_second_half(device: &Path) -> std::process::Child {
    Command::new("fio")
        .args([
            "--name=load",
            "--ioengine=io_uring",
            "--direct=1",
            "--rw=randwrite",
            "--bs=4k",
        ])
        .args([
            "--iodepth=32",
            "--fsync=64",
            "--time_based",
            "--runtime=600",
        ])
        .arg(format!("--offset={}", SIZE_BYTES / 2))
        .arg(format!("--size={}", SIZE_BYTES / 2))
        .arg(format!("--filename={}", device.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fio is installed")
}

//! What is found when a store is opened, and formatting.

use moorline_blockvol::{
    CopyFault, Existing, Expect, FormatError, Formatting, OpenError, SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSETS, Superblock,
};
use moorline_types::{ClusterId, DeviceOp, VolumeId};

use crate::{
    disk::{Disk, Rng},
    world::{World, format_params, formatted, options, try_open},
};

fn open_error(disk: &mut Disk, expect: Option<Expect>) -> OpenError {
    let mut options = options(disk);
    options.expect = expect;
    let opened = try_open(disk, &mut Rng::new(1), options, u64::MAX);
    opened
        .unwrap()
        .map(|_| ())
        .expect_err("this cannot be opened")
}

fn right() -> Expect {
    Expect {
        cluster: Some(ClusterId::new(5)),
        volume: Some(crate::world::VOLUME),
        server: "s1".parse().unwrap(),
    }
}

#[test]
fn each_opening_raises_the_counter_in_both_copies_before_anything_is_said() {
    let mut rng = Rng::new(3);
    let mut disk = formatted(&mut rng);
    for open in 1..4 {
        let mut options = options(&disk);
        options.expect = Some(right());
        let opened = try_open(&mut disk, &mut rng, options, u64::MAX);
        let (store, report) = opened.unwrap().unwrap();
        assert_eq!(store.open_count().get(), open);
        assert_eq!(report.repaired, None);
        disk = disk.copy_after_power_cut(&mut rng);
        for (copy, offset) in (0..).zip(SUPERBLOCK_OFFSETS) {
            let bytes = disk.durable_bytes(offset, SUPERBLOCK_BYTES);
            assert_eq!(Superblock::decode(copy, &bytes).unwrap().open.get(), open);
        }
    }
}

#[test]
fn a_store_of_another_cluster_server_or_volume_is_refused_by_name() {
    let mut disk = formatted(&mut Rng::new(1));
    let cluster = ClusterId::new(6);
    let wrong = Expect {
        cluster: Some(cluster),
        ..right()
    };
    assert!(matches!(
        open_error(&mut disk, Some(wrong)),
        OpenError::OtherCluster { expected, .. } if expected == cluster
    ));
    let wrong = Expect {
        server: "s2".parse().unwrap(),
        ..right()
    };
    let error = open_error(&mut disk, Some(wrong));
    assert_eq!(
        error.to_string(),
        "the store belongs to server s1, not s2; start that server on it"
    );
    let wrong = Expect {
        volume: Some(VolumeId::new(8)),
        ..right()
    };
    assert!(matches!(
        open_error(&mut disk, Some(wrong)),
        OpenError::OtherVolume { name, .. } if name == "demo"
    ));
    // Nothing was changed by the attempts.
    let options = options(&disk);
    let opened = try_open(&mut disk, &mut Rng::new(1), options, u64::MAX);
    assert_eq!(opened.unwrap().unwrap().0.open_count().get(), 1);
}

#[test]
fn a_shrunk_device_is_refused_with_both_sizes() {
    let mut disk = formatted(&mut Rng::new(1));
    disk.shrink(10 << 20);
    assert!(matches!(
        open_error(&mut disk, None),
        OpenError::DeviceTooSmall { need, have } if have == 10 << 20 && need > have
    ));
    disk.shrink(4096);
    assert!(matches!(
        open_error(&mut disk, None),
        OpenError::DeviceTooSmall { .. }
    ));
}

#[test]
fn one_bad_superblock_is_repaired_and_two_are_refused() {
    for (copy, offset) in SUPERBLOCK_OFFSETS.into_iter().enumerate() {
        let mut rng = Rng::new(7);
        let mut disk = formatted(&mut rng);
        disk.flip(offset + 100);
        let options = options(&disk);
        let opened = try_open(&mut disk, &mut rng, options, u64::MAX);
        let (_, report) = opened.unwrap().unwrap();
        let repaired = report.repaired.unwrap();
        assert_eq!(repaired.copy, copy);
        assert_eq!(repaired.fault, CopyFault::BadChecksum);
        let bytes = disk.durable_bytes(offset, SUPERBLOCK_BYTES);
        let copy = u32::from(copy == 1);
        assert!(
            Superblock::decode(copy, &bytes).is_ok(),
            "it was written again"
        );
    }
    let mut disk = formatted(&mut Rng::new(7));
    disk.flip(SUPERBLOCK_OFFSETS[0] + 100);
    disk.flip(SUPERBLOCK_OFFSETS[1] + 100);
    assert_eq!(
        open_error(&mut disk, None),
        OpenError::BothSuperblocksBad {
            first: CopyFault::BadChecksum,
            second: CopyFault::BadChecksum
        }
    );
}

#[test]
fn a_copy_written_over_the_other_one_counts_as_damaged() {
    let mut rng = Rng::new(7);
    let mut disk = formatted(&mut rng);
    let first = disk.durable_bytes(SUPERBLOCK_OFFSETS[0], SUPERBLOCK_BYTES);
    disk.overwrite(SUPERBLOCK_OFFSETS[1], &first);
    let options = options(&disk);
    let opened = try_open(&mut disk, &mut rng, options, u64::MAX);
    let (_, report) = opened.unwrap().unwrap();
    assert_eq!(
        report.repaired.unwrap().fault,
        CopyFault::BadField { field: "copy" }
    );
}

/// Changes bytes of a copy and makes its checksum right again.
fn patch(disk: &mut Disk, copy: usize, at: usize, bytes: &[u8]) {
    let offset = SUPERBLOCK_OFFSETS[copy];
    let mut area = disk.durable_bytes(offset, SUPERBLOCK_BYTES);
    area[at..at + bytes.len()].copy_from_slice(bytes);
    let length = u32::from_le_bytes(area[16..20].try_into().unwrap()) as usize;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&area[..12]);
    hasher.update(&[0; 4]);
    hasher.update(&area[16..length]);
    area[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    disk.overwrite(offset, &area);
}

#[test]
fn a_newer_version_or_feature_is_refused_even_if_the_other_copy_is_fine() {
    let mut disk = formatted(&mut Rng::new(7));
    patch(&mut disk, 1, 8, &9_u32.to_le_bytes());
    assert_eq!(
        open_error(&mut disk, None),
        OpenError::UnknownVersion { found: 9, known: 2 }
    );
    let mut disk = formatted(&mut Rng::new(7));
    patch(&mut disk, 0, 24, &4_u64.to_le_bytes());
    assert_eq!(
        open_error(&mut disk, None),
        OpenError::UnknownFeatures { bits: 4 }
    );
}

#[test]
fn copies_of_two_stores_and_devices_without_one_are_refused() {
    let mut disk = formatted(&mut Rng::new(7));
    patch(&mut disk, 1, 72, &3_u128.to_le_bytes());
    assert!(matches!(
        open_error(&mut disk, None),
        OpenError::TwoStores { .. }
    ));
    assert_eq!(
        open_error(&mut Disk::new(24 << 20), None),
        OpenError::NotAStore
    );
    let mut other = Disk::new(24 << 20);
    other.overwrite(0, &[0xee; 4096]);
    assert_eq!(open_error(&mut other, None), OpenError::NotAStore);
}

#[test]
fn a_device_that_fails_while_opening_says_so() {
    let mut disk = formatted(&mut Rng::new(7));
    disk.fail = Some(|op: &DeviceOp| op.offset == 0 && op.kind.length() < 128 << 10);
    assert!(matches!(
        open_error(&mut disk, None),
        OpenError::Device { .. } | OpenError::Log(_)
    ));
}

fn format_error(
    disk: &mut Disk,
    change: impl FnOnce(&mut moorline_blockvol::FormatParams),
) -> Option<FormatError> {
    let mut rng = Rng::new(2);
    let mut params = format_params(disk.size());
    change(&mut params);
    let mut ops = Vec::new();
    let mut formatting = match Formatting::new(params, &mut ops) {
        Ok(formatting) => formatting,
        Err(error) => return Some(error),
    };
    loop {
        disk.submit(&mut ops);
        let done = disk
            .complete(&mut rng)
            .expect("formatting waits for the disk");
        if let Some(result) = formatting.on_done(done, &mut ops) {
            disk.power_cut(&mut rng);
            return result.err();
        }
    }
}

#[test]
fn a_store_is_not_formatted_over_unless_told() {
    let mut disk = formatted(&mut Rng::new(2));
    assert!(matches!(
        format_error(&mut disk, |_| ()),
        Some(FormatError::AlreadyFormatted { .. })
    ));
    assert_eq!(
        format_error(&mut disk, |params| params.existing = Existing::Overwrite),
        None
    );
    let mut foreign = Disk::new(24 << 20);
    foreign.overwrite(0, &[0xee; 4096]);
    assert!(matches!(
        format_error(&mut foreign, |_| ()),
        Some(FormatError::LooksFormatted { .. })
    ));
    let mut small = Disk::new(8 << 20);
    assert!(matches!(
        format_error(&mut small, |_| ()),
        Some(FormatError::DeviceTooSmall { .. })
    ));
    let mut odd = Disk::new(24 << 20);
    assert!(matches!(
        format_error(&mut odd, |params| params.log_bytes = 5_000),
        Some(FormatError::BadSize { .. })
    ));
}

#[test]
fn a_format_cut_off_anywhere_leaves_no_store_or_a_whole_one() {
    for steps in 0..40 {
        let mut rng = Rng::new(steps);
        let mut disk = formatted(&mut rng);
        let mut ops = Vec::new();
        let mut params = format_params(disk.size());
        params.existing = Existing::Overwrite;
        params.identity.store = moorline_types::StoreId::new(100);
        let mut formatting = Formatting::new(params, &mut ops).unwrap();
        for _ in 0..steps {
            disk.submit(&mut ops);
            let Some(done) = disk.complete(&mut rng) else {
                break;
            };
            let _ = formatting.on_done(done, &mut ops);
        }
        disk.submit(&mut ops);
        disk.power_cut(&mut rng);
        let options = options(&disk);
        match try_open(&mut disk, &mut rng, options, u64::MAX).unwrap() {
            Ok((store, _)) => assert_eq!(store.frontiers().head.get(), 0),
            Err(
                OpenError::NotAStore
                | OpenError::BothSuperblocksBad { .. }
                | OpenError::TwoStores { .. },
            ) => {}
            Err(error) => panic!("after {steps} steps: {error}"),
        }
    }
}

#[test]
fn an_orderly_shutdown_is_remembered_once() {
    let mut world = World::new(11);
    for _ in 0..50 {
        world.append();
        world.submit();
    }
    world.settle();
    world.commit_all();
    world.store.shutdown();
    world.settle();
    let shut = world
        .events
        .iter()
        .filter(|event| matches!(event, moorline_blockvol::StoreEvent::ShutDown));
    assert_eq!(shut.count(), 1);
    let at = world.store.frontiers();
    assert_eq!(at.checkpoint, at.head);
    for clean in [true, false] {
        world.disk.power_cut(&mut world.rng);
        let options = options(&world.disk);
        let opened = try_open(&mut world.disk, &mut world.rng, options, u64::MAX);
        let (_, report) = opened.unwrap().unwrap();
        assert_eq!(report.previous_clean, clean);
        assert!(report.previous_boot.is_some());
    }
}

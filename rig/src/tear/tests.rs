use super::*;
use crate::overlay::Overlay;

const WRITES: u64 = 24;
const WRITE_BYTES: u64 = 4096;

/// A disk of old bytes (0xAA) with one unsynced write of a distinct fill to each 4 KiB block.
fn writes() -> Vec<Pending> {
    let mut overlay = Overlay::new();
    for block in 0..WRITES {
        let fill = u8::try_from(block + 1).unwrap();
        let payload = Payload::Bytes(vec![fill; to_usize(WRITE_BYTES)].into());
        overlay.write(block * WRITE_BYTES, payload, Durability::Volatile);
    }
    overlay.take()
}

fn cut(seed: u64, mode: CutMode, writes: Vec<Pending>) -> (Vec<u8>, CutTally) {
    let (edits, tally) = judge(
        CutId {
            seed,
            disk: 0,
            cut: 0,
        },
        mode,
        writes,
    );
    let mut image = vec![0xAA; to_usize(WRITES * WRITE_BYTES)];
    for edit in edits {
        let at = to_usize(edit.offset);
        edit.slice
            .copy_to(0, &mut image[at..at + to_usize(edit.slice.len_bytes())]);
    }
    (image, tally)
}

#[test]
fn the_same_seed_gives_the_same_image_and_another_seed_another() {
    assert_eq!(
        cut(7, CutMode::Tear, writes()),
        cut(7, CutMode::Tear, writes())
    );
    let images: std::collections::BTreeSet<_> = (0..32)
        .map(|seed| cut(seed, CutMode::Tear, writes()).0)
        .collect();
    assert!(
        images.len() > 16,
        "only {} images from 32 seeds",
        images.len()
    );
}

#[test]
fn drop_leaves_the_old_bytes_and_keep_the_new_ones() {
    let (dropped, tally) = cut(1, CutMode::Drop, writes());
    assert!(dropped.iter().all(|byte| *byte == 0xAA));
    assert_eq!(
        (tally.writes_dropped, tally.writes_kept, tally.writes_torn),
        (WRITES, 0, 0)
    );
    let (kept, tally) = cut(1, CutMode::Keep, writes());
    assert!(
        kept.chunks(4096)
            .zip(1..)
            .all(|(block, fill)| block.iter().all(|byte| *byte == fill))
    );
    assert_eq!(
        (tally.writes_dropped, tally.writes_kept, tally.writes_torn),
        (0, WRITES, 0)
    );
}

#[test]
fn every_kind_of_damage_shows_up_over_seeds_and_none_is_the_rule() {
    let mut sum = CutTally::default();
    for seed in 0..200 {
        let (_, tally) = cut(seed, CutMode::Tear, writes());
        assert_eq!(
            tally.writes_kept + tally.writes_dropped + tally.writes_torn,
            WRITES
        );
        let sectors = tally.sectors_new + tally.sectors_old + tally.sectors_half;
        assert_eq!(
            sectors + tally.sectors_garbage,
            WRITES * WRITE_BYTES / SECTOR_BYTES
        );
        sum.writes_kept += tally.writes_kept;
        sum.writes_dropped += tally.writes_dropped;
        sum.writes_torn += tally.writes_torn;
        sum.sectors_half += tally.sectors_half;
        sum.sectors_garbage += tally.sectors_garbage;
    }
    let share = |part: u64| part * 100 / (200 * WRITES);
    assert!((20..60).contains(&share(sum.writes_kept)), "{sum:?}");
    assert!((20..60).contains(&share(sum.writes_dropped)), "{sum:?}");
    assert!((10..40).contains(&share(sum.writes_torn)), "{sum:?}");
    assert!(
        sum.sectors_half > 100 && sum.sectors_garbage > 100,
        "{sum:?}"
    );
}

#[test]
fn sectors_mode_never_damages_a_sector() {
    for seed in 0..100 {
        let (image, tally) = cut(seed, CutMode::Sectors, writes());
        assert_eq!((tally.sectors_half, tally.sectors_garbage), (0, 0));
        for (number, sector) in (0u64..).zip(image.chunks(to_usize(SECTOR_BYTES))) {
            let fill = u8::try_from(number * SECTOR_BYTES / WRITE_BYTES + 1).unwrap();
            let (new, old) = (
                sector.iter().all(|b| *b == fill),
                sector.iter().all(|b| *b == 0xAA),
            );
            assert!(
                new || old,
                "sector {number} of seed {seed} is neither old nor new"
            );
        }
    }
}

#[test]
fn a_durable_write_survives_whole_over_an_older_volatile_one() {
    for seed in 0..100 {
        let mut overlay = Overlay::new();
        let payload = |fill: u8| Payload::Bytes(vec![fill; 4096].into());
        overlay.write(0, payload(1), Durability::Volatile);
        overlay.write(0, payload(2), Durability::Durable);
        let (image, _) = cut(seed, CutMode::Tear, overlay.take());
        assert!(
            image[..4096].iter().all(|byte| *byte == 2),
            "lost with seed {seed}"
        );
    }
}

#[test]
fn bytes_around_an_unaligned_write_are_never_touched() {
    for seed in 0..200 {
        let mut overlay = Overlay::new();
        overlay.write(
            700,
            Payload::Bytes(vec![1; 1000].into()),
            Durability::Volatile,
        );
        let (image, _) = cut(seed, CutMode::Tear, overlay.take());
        assert!(
            image[..700]
                .iter()
                .chain(&image[1700..])
                .all(|byte| *byte == 0xAA)
        );
    }
}

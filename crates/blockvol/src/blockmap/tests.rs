use super::*;

const STORE: StoreId = StoreId::new(4);
const PAGE: PageNo = PageNo(3);

fn entry(lsn: u64) -> Entry {
    Entry {
        state: EntryState::Data,
        lsn: Lsn::new(lsn),
        crc: 0xabcd_0000 + u32::try_from(lsn).unwrap(),
    }
}

fn block(n: u64) -> BlockIndex {
    BlockIndex::new(PAGE.0 * ENTRIES_PER_PAGE + n)
}

fn decode(trust: PageTrust, slots: &[u8]) -> Page {
    Page::decode(STORE, PAGE, trust, slots)
}

/// Writes versions with `lsns` one after the other into one area of two slots.
fn written(lsns: &[u64]) -> Vec<u8> {
    let mut slots = vec![0; 2 * BLOCK_SIZE];
    let mut page = decode(PageTrust::Settled, &slots);
    for &lsn in lsns {
        page.set(block(lsn), entry(lsn));
        let (slot, bytes) = page.write_next(STORE, PAGE);
        let at = usize::try_from(slot).unwrap() * BLOCK_SIZE;
        slots[at..at + BLOCK_SIZE].copy_from_slice(&bytes);
    }
    slots
}

#[test]
fn entries_and_states_come_back() {
    for state in [
        EntryState::Hole,
        EntryState::Data,
        EntryState::Zero,
        EntryState::Trimmed,
        EntryState::Unknown,
    ] {
        let entry = Entry {
            state,
            lsn: Lsn::new((1 << LSN_BITS) - 1),
            crc: u32::MAX,
        };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), Some(entry));
    }
}

#[test]
fn the_newer_slot_counts_and_the_older_is_written_next() {
    for count in 1..6_u64 {
        let lsns: Vec<u64> = (1..=count).collect();
        let page = decode(PageTrust::Settled, &written(&lsns));
        for lsn in lsns {
            assert_eq!(page.entry(block(lsn)), entry(lsn));
        }
        assert_eq!(page.entry(block(300)), Entry::HOLE);
        assert_eq!((page.generation, page.next_slot), (count, count % 2));
    }
}

#[test]
fn a_torn_write_never_takes_the_neighbours() {
    // Version 3 is torn: any of its eight sectors may be old.
    let old = written(&[1, 2]);
    let new = written(&[1, 2, 3]);
    for kept in 0..256_u32 {
        let mut slots = old.clone();
        for sector in (0..8).filter(|sector| kept & 1 << sector != 0) {
            let at = sector * 512;
            slots[at..at + 512].copy_from_slice(&new[at..at + 512]);
        }
        let page = decode(PageTrust::Suspect, &slots);
        for lsn in [1, 2] {
            assert_eq!(page.entry(block(lsn)), entry(lsn), "sectors {kept:08b}");
        }
        // Record 3 is applied again: over the torn slot, with a generation that wins.
        let mut page = page;
        page.set(block(3), entry(3));
        let (slot, bytes) = page.write_next(STORE, PAGE);
        let at = usize::try_from(slot).unwrap() * BLOCK_SIZE;
        slots[at..at + BLOCK_SIZE].copy_from_slice(&bytes);
        let again = decode(PageTrust::Settled, &slots);
        for lsn in [1, 2, 3] {
            assert_eq!(again.entry(block(lsn)), entry(lsn), "sectors {kept:08b}");
        }
    }
}

#[test]
fn a_bad_slot_of_a_settled_page_makes_its_entries_unknown_until_they_are_written() {
    for slot in 0..2 {
        let mut slots = written(&[1, 2, 3]);
        slots[slot * BLOCK_SIZE + 99] ^= 4;
        let mut page = decode(PageTrust::Settled, &slots);
        assert_eq!(page.entry(block(1)).state, EntryState::Unknown);
        page.set(block(1), entry(9));
        let (next, bytes) = page.write_next(STORE, PAGE);
        let at = usize::try_from(next).unwrap() * BLOCK_SIZE;
        slots[at..at + BLOCK_SIZE].copy_from_slice(&bytes);
        let page = decode(PageTrust::Settled, &slots);
        assert_eq!(page.entry(block(1)), entry(9));
        assert_eq!(page.entry(block(2)).state, EntryState::Unknown);
    }
}

#[test]
fn pages_of_another_place_or_store_do_not_count() {
    let slots = written(&[1, 2]);
    let elsewhere = Page::decode(STORE, PageNo(4), PageTrust::Settled, &slots);
    assert_eq!(elsewhere.entry(block(1)).state, EntryState::Unknown);
    let foreign = Page::decode(StoreId::new(5), PAGE, PageTrust::Settled, &slots);
    assert_eq!(foreign.entry(block(1)).state, EntryState::Unknown);
}

#[test]
fn the_pages_used_longest_ago_go_first_and_held_ones_stay() {
    let mut map = BlockMap::new(STORE, 2);
    let blank = vec![0; 2 * BLOCK_SIZE];
    for page in (0..5).map(PageNo) {
        assert!(map.begin_load(page));
        assert!(!map.begin_load(page), "it is loaded once");
        map.loaded(page, &blank);
    }
    assert!(map.touch(PageNo(0)));
    let _written = map.change(PageNo(1), |_| ());
    map.shrink(|page| page == PageNo(2));
    let there = |map: &mut BlockMap| (0..8).filter(|&n| map.touch(PageNo(n))).collect::<Vec<_>>();
    assert_eq!(
        there(&mut map),
        [1, 2],
        "one is being written, one is wanted"
    );
    assert_eq!(map.pages_in_memory(), 2);
    map.release(PageNo(1));
    assert!(map.begin_load(PageNo(7)));
    map.loaded(PageNo(7), &blank);
    map.shrink(|_| false);
    assert_eq!(there(&mut map), [2, 7]);
}

//! The block map: per block, the checksum of its content and the record that changed it last.
//!
//! A page of 336 entries has two slots on the device and is written to them in turn, each time
//! with a higher generation. So a torn write of one slot never takes the entries of neighbours
//! that were not being changed: the other slot has them. Pages are loaded on demand and kept
//! within a bound.
//!
//! A slot that is neither blank nor valid is only innocent where a pass of the flusher was cut
//! off by a crash; those pages are named when the store is opened ([`BlockMap::suspect`]) and
//! their changed entries are applied again. Anywhere else the newest entries may be the lost
//! ones, so all entries of the page become [`EntryState::Unknown`]: never guessed, never served.

use std::collections::{BTreeMap, BTreeSet};

use moorline_types::{BLOCK_SIZE, BlockIndex, Lsn, StoreId};

use crate::{
    BlockVersion,
    codec::{Decoder, Encoder},
    layout::{ENTRIES_PER_PAGE, PageNo},
};

/// Starts every written slot.
pub(crate) const PAGE_MAGIC: [u8; 4] = *b"MMAP";
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 12;
const CRC_AT: usize = 4;
/// LSNs have 56 bits in an entry: 2^56 records are more than any device lives to see.
const LSN_BITS: u32 = 56;

const ENTRIES: usize = (BLOCK_SIZE - HEADER_BYTES) / ENTRY_BYTES;

const _: () = assert!(ENTRIES as u64 == ENTRIES_PER_PAGE);
const _: () = assert!(HEADER_BYTES + ENTRIES * ENTRY_BYTES == BLOCK_SIZE);

/// What is known of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryState {
    /// Never written.
    Hole,
    /// Has content with the entry's checksum.
    Data,
    /// Zeroes were written.
    Zero,
    /// Was trimmed.
    Trimmed,
    /// Lost with a damaged page.
    Unknown,
}

impl EntryState {
    const fn code(self) -> u8 {
        match self {
            Self::Hole => 0,
            Self::Data => 1,
            Self::Zero => 2,
            Self::Trimmed => 3,
            Self::Unknown => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Hole),
            1 => Some(Self::Data),
            2 => Some(Self::Zero),
            3 => Some(Self::Trimmed),
            4 => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// One block's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// What the block is.
    pub(crate) state: EntryState,
    /// The record that changed it last; zero for a hole.
    pub(crate) lsn: Lsn,
    /// Checksum over volume, block and content; zero without content.
    pub(crate) crc: u32,
}

impl Entry {
    const HOLE: Self = Self {
        state: EntryState::Hole,
        lsn: Lsn::ZERO,
        crc: 0,
    };

    const UNKNOWN: Self = Self {
        state: EntryState::Unknown,
        ..Self::HOLE
    };

    /// Whether the block has content, of this version.
    pub(crate) fn is_version(self, version: BlockVersion) -> bool {
        self.state == EntryState::Data && (self.lsn, self.crc) == (version.lsn, version.crc)
    }

    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        assert!(
            self.lsn.get() >> LSN_BITS == 0,
            "LSNs of map entries ran out"
        );
        let word = u64::from(self.state.code()) << LSN_BITS | self.lsn.get();
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        bytes[8..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Decoder::new(bytes);
        let word = fields.u64()?;
        let crc = fields.u32()?;
        let code = u8::try_from(word >> LSN_BITS).ok()?;
        Some(Self {
            state: EntryState::from_code(code)?,
            lsn: Lsn::new(word & ((1 << LSN_BITS) - 1)),
            crc,
        })
    }
}

/// The entries of one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entries(Box<[u8]>);

impl Entries {
    fn all(entry: Entry) -> Self {
        Self(entry.to_bytes().repeat(ENTRIES).into())
    }

    fn at(index: u64) -> usize {
        assert!(index < ENTRIES_PER_PAGE, "the entry lies in the page");
        usize::try_from(index).expect("a page is small") * ENTRY_BYTES
    }

    pub(crate) fn get(&self, index: u64) -> Entry {
        let at = Self::at(index);
        Entry::from_bytes(&self.0[at..at + ENTRY_BYTES]).unwrap_or(Entry::UNKNOWN)
    }

    fn set(&mut self, index: u64, entry: Entry) {
        let at = Self::at(index);
        self.0[at..at + ENTRY_BYTES].copy_from_slice(&entry.to_bytes());
    }
}

/// What one slot holds.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Slot {
    Blank,
    Valid { generation: u64, entries: Entries },
    Bad,
}

fn decode_slot(store: StoreId, page: PageNo, bytes: &[u8]) -> Slot {
    if bytes.iter().all(|&byte| byte == 0) {
        return Slot::Blank;
    }
    let mut fields = Decoder::new(bytes);
    let mut head = || {
        let magic = fields.bytes(4)?;
        let crc = fields.u32()?;
        let owner = (StoreId::new(fields.u128()?), PageNo(fields.u64()?));
        let generation = fields.u64()?;
        Some((magic, crc, owner, generation))
    };
    match head() {
        Some((magic, crc, owner, generation))
            if magic == PAGE_MAGIC && owner == (store, page) && crc == slot_crc(bytes) =>
        {
            Slot::Valid {
                generation,
                entries: Entries(bytes[HEADER_BYTES..].into()),
            }
        }
        Some(_) | None => Slot::Bad,
    }
}

/// The checksum of a slot: all of it, its own four bytes taken as zero.
fn slot_crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[CRC_AT + 4..]);
    hasher.finalize()
}

fn encode_slot(store: StoreId, page: PageNo, generation: u64, entries: &Entries) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(&PAGE_MAGIC);
    out.u32(0);
    out.u128(store.get());
    out.u64(page.0);
    out.u64(generation);
    out.0.resize(HEADER_BYTES, 0);
    out.bytes(&entries.0);
    let crc = slot_crc(&out.0);
    out.0[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    out.0
}

/// How much a page's slots are trusted when one of them is bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageTrust {
    /// Both must be blank or valid.
    Settled,
    /// A crash may have torn the newer one, whose changes are applied again.
    Suspect,
}

/// A page as its two slots have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    /// The highest generation written; zero when none was.
    generation: u64,
    /// Which slot the next write goes to.
    next_slot: u64,
    entries: Entries,
}

impl Page {
    /// Decides from both slots of `page`, `bytes` holding the first and then the second.
    pub(crate) fn decode(store: StoreId, page: PageNo, trust: PageTrust, bytes: &[u8]) -> Self {
        let first = decode_slot(store, page, &bytes[..BLOCK_SIZE]);
        let second = decode_slot(store, page, &bytes[BLOCK_SIZE..]);
        let from = |generation, entries, next_slot| Self {
            generation,
            next_slot,
            entries,
        };
        match (first, second) {
            (Slot::Blank, Slot::Blank) => from(0, Entries::all(Entry::HOLE), 0),
            (
                Slot::Valid {
                    generation: a,
                    entries,
                },
                Slot::Valid {
                    generation: b,
                    entries: other,
                },
            ) => match a.cmp(&b) {
                std::cmp::Ordering::Greater => from(a, entries, 1),
                std::cmp::Ordering::Less => from(b, other, 0),
                // Never written so: an old device was copied over half of this one.
                std::cmp::Ordering::Equal => from(a + 1, Entries::all(Entry::UNKNOWN), 0),
            },
            (
                Slot::Valid {
                    generation,
                    entries,
                },
                Slot::Blank,
            ) => from(generation, entries, 1),
            (
                Slot::Blank,
                Slot::Valid {
                    generation,
                    entries,
                },
            ) => from(generation, entries, 0),
            (
                Slot::Bad,
                Slot::Valid {
                    generation,
                    entries,
                },
            ) => Self::with_one_bad(trust, generation, entries, 0),
            (
                Slot::Valid {
                    generation,
                    entries,
                },
                Slot::Bad,
            ) => Self::with_one_bad(trust, generation, entries, 1),
            (Slot::Bad, Slot::Blank) => Self::with_one_bad(trust, 0, Entries::all(Entry::HOLE), 0),
            (Slot::Blank, Slot::Bad) => Self::with_one_bad(trust, 0, Entries::all(Entry::HOLE), 1),
            // A generation above any that a slot can have had, so that the next write wins.
            (Slot::Bad, Slot::Bad) => from(1 << 62, Entries::all(Entry::UNKNOWN), 0),
        }
    }

    fn with_one_bad(trust: PageTrust, generation: u64, entries: Entries, bad: u64) -> Self {
        match trust {
            PageTrust::Suspect => Self {
                generation,
                next_slot: bad,
                entries,
            },
            // The bad slot may have had the next generation; two above is newer in any case.
            PageTrust::Settled => Self {
                generation: generation + 2,
                next_slot: bad,
                entries: Entries::all(Entry::UNKNOWN),
            },
        }
    }

    /// The entry of `block`, which lies in this page.
    pub(crate) fn entry(&self, block: BlockIndex) -> Entry {
        self.entries.get(block.get() % ENTRIES_PER_PAGE)
    }

    pub(crate) fn set(&mut self, block: BlockIndex, entry: Entry) {
        self.entries.set(block.get() % ENTRIES_PER_PAGE, entry);
    }

    /// The bytes of the next write, and the slot that they go to.
    pub(crate) fn write_next(&mut self, store: StoreId, page: PageNo) -> (u64, Vec<u8>) {
        self.generation += 1;
        let slot = self.next_slot;
        self.next_slot = 1 - slot;
        (
            slot,
            encode_slot(store, page, self.generation, &self.entries),
        )
    }
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Cached {
    page: Page,
    used: u64,
    /// The flusher changes or writes it; it must not be loaded again meanwhile.
    held: bool,
}

/// The pages in memory.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct BlockMap {
    store: StoreId,
    pages: BTreeMap<PageNo, Cached>,
    /// (last use, page), so that the page used longest ago comes first.
    by_use: BTreeSet<(u64, PageNo)>,
    loading: BTreeSet<PageNo>,
    suspects: BTreeSet<PageNo>,
    uses: u64,
    pages_max: usize,
}

impl BlockMap {
    pub(crate) fn new(store: StoreId, pages_max: usize) -> Self {
        Self {
            store,
            pages: BTreeMap::new(),
            by_use: BTreeSet::new(),
            loading: BTreeSet::new(),
            suspects: BTreeSet::new(),
            uses: 0,
            pages_max,
        }
    }

    /// Names a page that a crash may have torn; its changes are applied again.
    pub(crate) fn suspect(&mut self, page: PageNo) {
        self.suspects.insert(page);
    }

    /// Whether `page` is in memory; notes its use.
    pub(crate) fn touch(&mut self, page: PageNo) -> bool {
        let Some(cached) = self.pages.get_mut(&page) else {
            return false;
        };
        self.uses += 1;
        self.by_use.remove(&(cached.used, page));
        cached.used = self.uses;
        self.by_use.insert((cached.used, page));
        true
    }

    /// The entry of `block`, if its page is in memory.
    pub(crate) fn entry(&self, block: BlockIndex) -> Option<Entry> {
        let cached = self.pages.get(&PageNo::of(block))?;
        Some(cached.page.entry(block))
    }

    /// Notes that `page` is being loaded; false when it already was.
    pub(crate) fn begin_load(&mut self, page: PageNo) -> bool {
        assert!(
            !self.pages.contains_key(&page),
            "only absent pages are loaded"
        );
        self.loading.insert(page)
    }

    /// Takes a loaded page in.
    pub(crate) fn loaded(&mut self, page: PageNo, bytes: &[u8]) {
        assert!(self.loading.remove(&page), "the load was asked for");
        let trust = if self.suspects.contains(&page) {
            PageTrust::Suspect
        } else {
            PageTrust::Settled
        };
        let decoded = Page::decode(self.store, page, trust, bytes);
        self.uses += 1;
        self.by_use.insert((self.uses, page));
        self.pages.insert(
            page,
            Cached {
                page: decoded,
                used: self.uses,
                held: false,
            },
        );
    }

    /// Notes that a load came to nothing.
    pub(crate) fn load_failed(&mut self, page: PageNo) {
        self.loading.remove(&page);
    }

    /// Changes a page that is in memory and gives the bytes to write and their slot. The page
    /// stays in memory until [`BlockMap::release`].
    pub(crate) fn change(
        &mut self,
        page: PageNo,
        change: impl FnOnce(&mut Page),
    ) -> (u64, Vec<u8>) {
        let cached = self.pages.get_mut(&page).expect("the page was loaded");
        assert!(!cached.held, "a page is written once in a pass");
        cached.held = true;
        change(&mut cached.page);
        // From here on both slots are valid once the pass is durable.
        self.suspects.remove(&page);
        cached.page.write_next(self.store, page)
    }

    /// Lets go of a page that the flusher wrote.
    pub(crate) fn release(&mut self, page: PageNo) {
        if let Some(cached) = self.pages.get_mut(&page) {
            cached.held = false;
        }
    }

    /// Forgets the pages used longest ago until the bound holds; pages that are being written and
    /// those that `wanted` names stay.
    pub(crate) fn shrink(&mut self, wanted: impl Fn(PageNo) -> bool) {
        let excess = self.pages.len().saturating_sub(self.pages_max);
        if excess == 0 {
            return;
        }
        let oldest = self.by_use.iter().copied();
        let victims: Vec<_> = oldest
            .filter(|(_, page)| !self.pages[page].held && !wanted(*page))
            .take(excess)
            .collect();
        for (used, page) in victims {
            self.by_use.remove(&(used, page));
            self.pages.remove(&page);
        }
    }

    #[cfg(test)]
    pub(crate) fn pages_in_memory(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests;

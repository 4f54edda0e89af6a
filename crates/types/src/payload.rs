//! Aligned, pooled, shared bytes.
//!
//! A [`PageBuf`] is written by one owner (a socket read, a device read), then frozen into a
//! [`Payload`], which is shared without copying by the log, every peer's stream and the read index.
//! Both start at a 4 KiB boundary in memory and hold whole blocks, as O_DIRECT wants them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::BLOCK_SIZE;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_SIZE]);

/// Bytes kept by a pool, of all sizes together, before it gives memory back to the allocator.
///
/// A store lets go of its records by the pass of its flusher, tens of MiB at once. What is not kept
/// then comes back from the kernel page by page, zeroed, with a fault for each: a tenth of the time
/// that a busy server has.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Size classes are powers of two pages: 1, 2, 4, ... up to 32 MiB.
const CLASS_COUNT: usize = 14;

/// A source of [`PageBuf`]s that keeps and reuses their memory.
///
/// Cloning shares the pool. Buffers return to it when the last holder lets go, from any thread.
#[derive(Clone)]
pub struct BufferPool(Arc<Mutex<Kept>>);

/// Memory that waits to be used again.
#[derive(Default)]
struct Kept {
    /// Class `n` holds buffers of `1 << n` pages.
    classes: [Vec<Vec<Page>>; CLASS_COUNT],
    bytes: usize,
}

impl Kept {
    fn take(&mut self, class: usize) -> Option<Vec<Page>> {
        let store = self.classes[class].pop()?;
        self.bytes -= class_bytes(class);
        Some(store)
    }

    /// Keeps `store`; returns what there is no room for. Sizes that are not asked for any more make
    /// room for those that are: the size that holds most gives way.
    fn put(&mut self, class: usize, store: Vec<Page>) -> Vec<Vec<Page>> {
        self.classes[class].push(store);
        self.bytes += class_bytes(class);
        let mut surplus = Vec::new();
        while self.bytes > KEPT_BYTES_MAX {
            let held = |class: &usize| self.classes[*class].len() * class_bytes(*class);
            let fullest = (0..CLASS_COUNT).max_by_key(held);
            surplus.extend(fullest.and_then(|class| self.take(class)));
        }
        surplus
    }
}

const fn class_bytes(class: usize) -> usize {
    BLOCK_SIZE << class
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

impl BufferPool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Kept::default())))
    }

    /// A buffer of `pages` 4 KiB pages with unspecified content (zero, or of an earlier use).
    ///
    /// For callers that overwrite all of it; see [`BufferPool::zeroed`].
    #[must_use]
    pub fn dirty(&self, pages: usize) -> PageBuf {
        let class = class_of(pages);
        let kept = class.and_then(|class| self.0.lock().take(class));
        let mut store = match (kept, class) {
            (Some(store), _) => store,
            (None, Some(class)) => zeroed_pages(1 << class),
            (None, None) => zeroed_pages(pages),
        };
        // Full capacity is kept in the vector; `pages` says how much of it is in use.
        if store.len() < pages {
            store.resize(pages, Page([0; BLOCK_SIZE]));
        }
        PageBuf {
            store,
            pages,
            pool: Some(self.clone()),
        }
    }

    /// A buffer of `pages` 4 KiB pages, all zero.
    #[must_use]
    pub fn zeroed(&self, pages: usize) -> PageBuf {
        let mut buffer = self.dirty(pages);
        buffer.as_mut_slice().fill(0);
        buffer
    }

    fn give_back(&self, store: Vec<Page>) {
        let Some(class) = class_of(store.len()) else {
            return;
        };
        if store.len() != 1 << class {
            return;
        }
        // Freed after the lock was given up.
        let _surplus = self.0.lock().put(class, store);
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BufferPool")
    }
}

fn class_of(pages: usize) -> Option<usize> {
    let class = pages.max(1).next_power_of_two().trailing_zeros() as usize;
    (class < CLASS_COUNT).then_some(class)
}

fn zeroed_pages(count: usize) -> Vec<Page> {
    Page::new_vec_zeroed(count).expect("out of memory")
}

/// A page-aligned buffer that one owner may write.
pub struct PageBuf {
    store: Vec<Page>,
    pages: usize,
    pool: Option<BufferPool>,
}

impl PageBuf {
    /// A buffer of `pages` zeroed 4 KiB pages that belongs to no pool.
    #[must_use]
    pub fn zeroed(pages: usize) -> Self {
        Self {
            store: zeroed_pages(pages),
            pages,
            pool: None,
        }
    }

    /// How many pages it holds.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.store[..self.pages].as_bytes()
    }

    /// The bytes, for writing.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.store[..self.pages].as_mut_bytes()
    }

    /// Ends writing; the bytes can be shared from here on.
    #[must_use]
    pub fn freeze(self) -> Payload {
        Payload(Bytes::from_owner(self))
    }
}

/// Copies the bytes, into memory of the same pool.
#[cfg(feature = "simulation")]
impl Clone for PageBuf {
    fn clone(&self) -> Self {
        let mut copy = match &self.pool {
            Some(pool) => pool.dirty(self.pages),
            None => Self::zeroed(self.pages),
        };
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl AsRef<[u8]> for PageBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.store));
        }
    }
}

impl fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBuf({} pages)", self.pages)
    }
}

/// Whole 4 KiB blocks of shared bytes, aligned in memory; cloning copies nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Payload(Bytes);

impl Payload {
    /// No blocks.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Bytes::new())
    }

    /// A payload over `bytes` as they lie; `None` unless aligned and whole blocks.
    #[must_use]
    pub fn from_aligned(bytes: Bytes) -> Option<Self> {
        let aligned = bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(BLOCK_SIZE);
        (aligned && bytes.len().is_multiple_of(BLOCK_SIZE)).then_some(Self(bytes))
    }

    /// A payload with a copy of `bytes`, padded with zeroes to whole blocks.
    #[must_use]
    pub fn copy_padded(pool: &BufferPool, bytes: &[u8]) -> Self {
        let mut buffer = pool.dirty(bytes.len().div_ceil(BLOCK_SIZE));
        let (head, rest) = buffer.as_mut_slice().split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        rest.fill(0);
        buffer.freeze()
    }

    /// Length in bytes, a multiple of 4096.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.0.len() / BLOCK_SIZE
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The shared bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Block number `index` of this payload.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    #[must_use]
    pub fn block(&self, index: usize) -> &[u8] {
        &self.0[index * BLOCK_SIZE..(index + 1) * BLOCK_SIZE]
    }

    /// The blocks `[first, first + count)`, shared.
    ///
    /// # Panics
    ///
    /// If they are not all there.
    #[must_use]
    pub fn slice_blocks(&self, first: usize, count: usize) -> Self {
        Self(
            self.0
                .slice(first * BLOCK_SIZE..(first + count) * BLOCK_SIZE),
        )
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} blocks)", self.blocks())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_a_payload_is_still_aligned() {
        let mut buffer = BufferPool::new().zeroed(3);
        buffer.as_mut_slice()[BLOCK_SIZE] = 7;
        let payload = buffer.freeze();
        let slice = payload.slice_blocks(1, 2);
        assert_eq!(slice.block(0)[0], 7);
        assert!(Payload::from_aligned(slice.bytes()).is_some());
        assert!(Payload::from_aligned(slice.bytes().slice(1..)).is_none());
    }

    #[test]
    fn a_dropped_payload_returns_its_memory_to_the_pool() {
        let pool = BufferPool::new();
        let first = pool.dirty(3).freeze();
        let address = first.as_slice().as_ptr();
        let second = first.clone();
        drop(first);
        drop(second);
        let again = pool.zeroed(4);
        assert_eq!(again.as_slice().as_ptr(), address);
        assert_eq!(again.pages(), 4);
    }

    #[test]
    fn bytes_are_padded_to_whole_blocks() {
        let payload = Payload::copy_padded(&BufferPool::new(), &[1; 5]);
        assert_eq!(payload.len(), BLOCK_SIZE);
        assert_eq!(&payload.as_slice()[..6], [1, 1, 1, 1, 1, 0]);
    }
}

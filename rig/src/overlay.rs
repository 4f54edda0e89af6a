//! Writes that the disk acknowledged and nobody synced yet.
//!
//! The overlay owns two views of the same bytes: a log of the writes in the order they came, from which a
//! power cut decides what each of them left behind, and an index of the newest byte at each address, from
//! which reads and syncs are served. It does no I/O: it answers with [`Edit`]s for whoever holds the image.

use std::collections::{BTreeMap, VecDeque};

use crate::payload::{Edit, Payload, Slice, to_usize};

/// Whether a write may still be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the disk's cache: a cut may drop or tear it.
    Volatile,
    /// Written with `O_SYNC` or `O_DSYNC`: a cut leaves it whole. It stays in the log all the same, so that
    /// an older volatile write to the same place cannot come out on top of it.
    Durable,
}

/// One write in the log.
#[derive(Debug, Clone)]
pub struct Pending {
    /// First byte written.
    pub offset: u64,
    /// What was written.
    pub payload: Payload,
    /// Whether a cut may touch it.
    pub durability: Durability,
    seq: u64,
}

/// The newest bytes of one address range, and the write that they came from.
#[derive(Debug, Clone)]
struct Extent {
    slice: Slice,
    seq: u64,
}

/// The unsynced writes of one disk.
#[derive(Debug, Default)]
pub struct Overlay {
    log: VecDeque<Pending>,
    // By first byte; extents never overlap.
    index: BTreeMap<u64, Extent>,
    next_seq: u64,
    held_bytes: u64,
}

impl Overlay {
    /// An overlay that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of writes not yet synced.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.log.len()
    }

    /// Memory that unsynced writes hold, in bytes; overwritten bytes count, zeros do not.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Adds a write; from now on reads see it.
    pub fn write(&mut self, offset: u64, payload: Payload, durability: Durability) {
        let len_bytes = payload.len_bytes();
        if len_bytes == 0 {
            return;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.held_bytes += payload.held_bytes();
        self.carve(offset, offset + len_bytes);
        self.index.insert(
            offset,
            Extent {
                slice: Slice::whole(payload.clone()),
                seq,
            },
        );
        self.log.push_back(Pending {
            offset,
            payload,
            durability,
            seq,
        });
    }

    /// Fills `out` with the bytes at `offset`: the newest unsynced ones, and from `base` what the overlay does not hold.
    ///
    /// # Errors
    /// What `base` returns; `out` is then partly filled.
    pub fn read<E>(
        &self,
        offset: u64,
        out: &mut [u8],
        mut base: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = offset + out.len() as u64;
        let before = self.index.range(..offset).next_back();
        let mut cursor = offset;
        for (&at, extent) in before.into_iter().chain(self.index.range(offset..end)) {
            let extent_end = at + extent.slice.len_bytes();
            if extent_end <= cursor {
                continue;
            }
            if at > cursor {
                base(
                    cursor,
                    &mut out[to_usize(cursor - offset)..to_usize(at - offset)],
                )?;
                cursor = at;
            }
            let stop = extent_end.min(end);
            let into = &mut out[to_usize(cursor - offset)..to_usize(stop - offset)];
            extent.slice.copy_to(cursor - at, into);
            cursor = stop;
        }
        if cursor < end {
            base(cursor, &mut out[to_usize(cursor - offset)..])?;
        }
        Ok(())
    }

    /// Empties the overlay: the edits that make every write durable, in address order, each byte once.
    #[must_use = "the edits are the only copy of the data"]
    pub fn sync(&mut self) -> Vec<Edit> {
        self.log.clear();
        self.held_bytes = 0;
        std::mem::take(&mut self.index)
            .into_iter()
            .map(|(offset, extent)| Edit {
                offset,
                slice: extent.slice,
            })
            .collect()
    }

    /// Makes the oldest write durable, as a full cache does on its own.
    #[must_use = "the edit is the only copy of the data"]
    pub fn destage_oldest(&mut self) -> Option<Edit> {
        let oldest = self.log.pop_front()?;
        self.held_bytes -= oldest.payload.held_bytes();
        let end = oldest.offset + oldest.payload.len_bytes();
        // What is left of it in the index may begin anywhere inside it, and belongs to nothing else.
        let stale: Vec<u64> = self
            .index
            .range(oldest.offset..end)
            .filter(|(_, extent)| extent.seq == oldest.seq)
            .map(|(&at, _)| at)
            .collect();
        for at in stale {
            self.index.remove(&at);
        }
        Some(Edit {
            offset: oldest.offset,
            slice: Slice::whole(oldest.payload),
        })
    }

    /// Empties the overlay: the writes in the order they came, for a power cut to judge.
    #[must_use = "the writes are the only copy of the data"]
    pub fn take(&mut self) -> Vec<Pending> {
        self.index.clear();
        self.held_bytes = 0;
        std::mem::take(&mut self.log).into()
    }

    /// Takes `[start, end)` out of the index, keeping what lies around it.
    fn carve(&mut self, start: u64, end: u64) {
        let reaches_in = self
            .index
            .range(..start)
            .next_back()
            .filter(|(at, extent)| *at + extent.slice.len_bytes() > start)
            .map(|(&at, extent)| (at, extent.clone()));
        if let Some((at, extent)) = reaches_in {
            let head = extent.slice.part(0, start - at);
            self.index.insert(
                at,
                Extent {
                    slice: head,
                    seq: extent.seq,
                },
            );
            self.keep_tail(at, &extent, end);
        }
        while let Some((&at, _)) = self.index.range(start..end).next() {
            let extent = self.index.remove(&at).expect("the key was just found");
            self.keep_tail(at, &extent, end);
        }
    }

    /// Puts back the part of `extent` that lies at or after `end`.
    fn keep_tail(&mut self, at: u64, extent: &Extent, end: u64) {
        let extent_end = at + extent.slice.len_bytes();
        if extent_end > end {
            let tail = extent.slice.part(end - at, extent_end - end);
            self.index.insert(
                end,
                Extent {
                    slice: tail,
                    seq: extent.seq,
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 64;

    fn bytes(fill: u8, len: usize) -> Payload {
        Payload::Bytes(vec![fill; len].into())
    }

    fn apply(image: &mut [u8], edit: &Edit) {
        let at = to_usize(edit.offset);
        edit.slice
            .copy_to(0, &mut image[at..at + to_usize(edit.slice.len_bytes())]);
    }

    fn read(overlay: &Overlay, image: &[u8], offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0xEE; len];
        overlay
            .read(offset, &mut out, |at, gap| {
                gap.copy_from_slice(&image[to_usize(at)..to_usize(at) + gap.len()]);
                Ok::<(), ()>(())
            })
            .unwrap();
        out
    }

    #[test]
    fn an_overwrite_in_the_middle_keeps_both_ends_of_the_older_write() {
        let mut overlay = Overlay::new();
        overlay.write(0, bytes(1, 12), Durability::Volatile);
        overlay.write(4, bytes(2, 4), Durability::Volatile);
        assert_eq!(
            read(&overlay, &[9; SIZE], 0, 14),
            [1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 9, 9]
        );
    }

    #[test]
    fn sync_leaves_nothing_behind_and_writes_each_byte_once() {
        let mut overlay = Overlay::new();
        overlay.write(0, bytes(1, 8), Durability::Volatile);
        overlay.write(4, bytes(2, 8), Durability::Volatile);
        let edits = overlay.sync();
        assert_eq!(
            edits.iter().map(|edit| edit.slice.len_bytes()).sum::<u64>(),
            12
        );
        assert_eq!((overlay.writes(), overlay.held_bytes()), (0, 0));
    }

    #[test]
    fn destaging_frees_the_oldest_write_only() {
        let mut overlay = Overlay::new();
        overlay.write(0, bytes(1, 8), Durability::Volatile);
        overlay.write(4, bytes(2, 8), Durability::Volatile);
        let mut image = vec![0; SIZE];
        apply(&mut image, &overlay.destage_oldest().unwrap());
        assert_eq!(overlay.held_bytes(), 8);
        assert_eq!(image[..8], [1; 8]);
        assert_eq!(
            read(&overlay, &image, 0, 13),
            [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 0]
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write { offset: u64, len: usize, fill: u8 },
        Zero { offset: u64, len: usize },
        Sync,
        Destage,
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = || (0..SIZE as u64).prop_flat_map(|at| (Just(at), 0..=SIZE - to_usize(at)));
        prop_oneof![
            6 => (span(), any::<u8>()).prop_map(|((offset, len), fill)| Step::Write { offset, len, fill }),
            2 => span().prop_map(|(offset, len)| Step::Zero { offset, len }),
            1 => Just(Step::Sync),
            2 => Just(Step::Destage),
        ]
    }

    proptest! {
        #[test]
        fn reads_agree_with_a_plain_array(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut overlay, mut image, mut model) = (Overlay::new(), vec![0; SIZE], vec![0; SIZE]);
            for step in steps {
                match step {
                    Step::Write { offset, len, fill } => {
                        model[to_usize(offset)..to_usize(offset) + len].fill(fill);
                        overlay.write(offset, bytes(fill, len), Durability::Volatile);
                    }
                    Step::Zero { offset, len } => {
                        model[to_usize(offset)..to_usize(offset) + len].fill(0);
                        overlay.write(offset, Payload::Zeros(len as u64), Durability::Volatile);
                    }
                    Step::Sync => {
                        for edit in overlay.sync() { apply(&mut image, &edit); }
                        prop_assert_eq!(&image, &model);
                    }
                    Step::Destage => {
                        if let Some(edit) = overlay.destage_oldest() { apply(&mut image, &edit); }
                    }
                }
                prop_assert_eq!(&read(&overlay, &image, 0, SIZE), &model);
                prop_assert_eq!(&read(&overlay, &image, 7, 20), &model[7..27]);
            }
        }
    }
}

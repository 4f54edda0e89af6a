//! Where frames lie in the ring, and what is free.
//!
//! Frames follow one another and are never split over the end: one that does not fit into the rest
//! begins at 0, and the rest is waste until the lap is reclaimed.

use moorline_types::BLOCK_SIZE;

/// Smallest ring: room for the reserve and for some records.
pub(crate) const RING_BYTES_MIN: u64 = 32 * BLOCK_SIZE as u64;

/// The ring's size and the place where the next frame is tried first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ring {
    /// In bytes, whole blocks.
    pub(crate) bytes: u64,
    /// One past the last frame; may be the ring's end.
    pub(crate) write: u64,
}

impl Ring {
    /// Bytes that only marks and cuts may use, so that they find room when records do not; of one
    /// half of them, records that open an epoch as well.
    pub(crate) fn reserve(&self) -> u64 {
        let block = BLOCK_SIZE as u64;
        (self.bytes / 32).clamp(4 * block, 64 * block) / block * block
    }

    /// Largest frame that is taken: any two of them and the reserve fit.
    pub(crate) fn frame_bytes_max(&self) -> u64 {
        (self.bytes - self.reserve()) / 2
    }

    /// Bytes in use when the first retained frame begins at `tail`; `None`: no frame is retained.
    pub(crate) fn used(&self, tail: Option<u64>) -> u64 {
        match tail {
            None => 0,
            Some(tail) if self.write > tail => self.write - tail,
            Some(tail) => self.bytes - tail + self.write,
        }
    }

    /// Where a frame of `length` bytes goes, if `keep_free` bytes are left then; `None`: nowhere.
    pub(crate) fn place(&self, tail: Option<u64>, length: u64, keep_free: u64) -> Option<u64> {
        let fits_behind = self.write + length <= self.bytes;
        let Some(tail) = tail else {
            // Nothing is retained, but opening still looks at `write` first: a frame at 0 must
            // not run into it.
            return match fits_behind {
                true => Some(self.write),
                false => (length <= self.write).then_some(0),
            };
        };
        let wrapped = self.write <= tail;
        let (position, used) = match (wrapped, fits_behind) {
            (true, _) if self.write + length <= tail => {
                (self.write, self.used(Some(tail)) + length)
            }
            (true, _) => return None,
            (false, true) => (self.write, self.used(Some(tail)) + length),
            (false, false) if length <= tail => (0, self.bytes - tail + length),
            (false, false) => return None,
        };
        (used + keep_free <= self.bytes).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(write: u64) -> Ring {
        Ring { bytes: 100, write }
    }

    #[test]
    fn frames_go_behind_one_another_and_then_to_the_start() {
        for (write, tail, length, keep, want) in [
            (0, None, 100, 0, Some(0)),
            (60, None, 40, 0, Some(60)),
            (60, None, 41, 0, Some(0)),
            (60, None, 61, 0, None), // would run into the place where opening looks first
            (60, Some(20), 40, 20, Some(60)),
            (60, Some(20), 40, 21, None),
            (90, Some(20), 20, 0, Some(0)), // up to the tail, not over it
            (90, Some(20), 21, 0, None),
            (100, Some(0), 4, 0, None), // full to the last byte
            (10, Some(20), 10, 0, Some(10)),
            (10, Some(20), 11, 0, None),
            (20, Some(20), 1, 0, None), // full: the end has met the tail
        ] {
            let found = ring(write).place(tail, length, keep);
            assert_eq!(
                found, want,
                "write {write} tail {tail:?} length {length} keep {keep}"
            );
        }
    }

    #[test]
    fn waste_at_the_end_counts_as_used() {
        assert_eq!(ring(60).used(None), 0);
        assert_eq!(ring(60).used(Some(20)), 40);
        assert_eq!(ring(10).used(Some(20)), 90);
        assert_eq!(ring(20).used(Some(20)), 100);
    }
}

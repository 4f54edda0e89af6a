//! Room in the ring: anchors, reclaim, fill.

use moorline_types::{BLOCK_SIZE, Lsn};

use super::{ChainLink, Log, LogAnchor, commit::Opens};
use crate::mutants::Mutant;

impl Log {
    /// The anchor that keeps every record above `through`: what the store puts in its superblocks
    /// *before* it calls [`Log::reclaim`]. Held back by pins and by reads in flight, and never
    /// above the flushed frontier: look at its `tail`.
    #[must_use]
    pub fn anchor_at(&self, through: Lsn) -> LogAnchor {
        self.find_anchor(through, u64::MAX).0
    }

    /// Forgets the records, and frees the ring, below what *both* superblocks durably name:
    /// `persisted` is their two anchors. Opening from either one still finds everything.
    ///
    /// Held back by pins and by reads in flight; the answer is the anchor that was reached.
    pub fn reclaim(&mut self, persisted: [LogAnchor; 2]) -> LogAnchor {
        let [one, other] = persisted;
        let sequence = one.sequence.min(other.sequence);
        let (anchor, frames) = self.find_anchor(one.tail.min(other.tail), sequence);
        let records = anchor.tail.distance_from(self.tail());
        self.slots
            .drain(..usize::try_from(records).expect("slots are in memory"));
        self.history.reclaim(anchor.tail);
        self.memory_floor = self.memory_floor.max(anchor.tail);
        self.released = self.released.max(anchor.tail);
        self.frames.drain(..frames);
        self.durable_frames -= frames;
        self.before = ChainLink {
            sequence: anchor.sequence,
            crc: anchor.previous_crc,
        };
        self.assert_invariants();
        anchor
    }

    /// The anchor, and how many frames lie before it, none of them above `sequence_max`.
    fn find_anchor(&self, through: Lsn, sequence_max: u64) -> (LogAnchor, usize) {
        let pinned = match self.config.mutants.has(Mutant::IgnorePins) {
            true => None,
            false => self.pins.lowest(),
        };
        let read = self.reads.values().map(|read| read.after).min();
        let limits = [Some(through), Some(self.flushed), pinned, read];
        let tail = limits
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(through)
            .max(self.tail());
        let mut before = self.before;
        let mut frames = 0;
        // From the front: whatever a cut cuts lies before it and goes with it.
        for frame in self.frames.range(..self.durable_frames) {
            let one_more = self.config.mutants.has(Mutant::RetentionOffByOne);
            let needed = match one_more {
                true => frame.last > tail.next(),
                false => frame.last > tail,
            };
            if needed || frame.link.sequence > sequence_max {
                break;
            }
            before = frame.link;
            frames += 1;
        }
        let next = self.frames.get(frames);
        let anchor = LogAnchor {
            tail,
            position: next.map_or(self.ring.write, |frame| frame.position),
            sequence: before.sequence,
            previous_crc: before.crc,
        };
        (anchor, frames)
    }

    /// Bytes of the ring in use, waste at its end and queued records included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.ring.used(self.first_position()) + self.queued_bytes()
    }

    /// Size of the ring in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.ring.bytes
    }

    /// Bytes of the ring in use, in percent, rounded up; at most 100.
    #[must_use]
    pub fn fill(&self) -> u8 {
        let percent = (self.used_bytes() * 100).div_ceil(self.ring.bytes).min(100);
        u8::try_from(percent).expect("at most 100")
    }

    /// Ring bytes from the frame of the first record above `after` to the end of the log.
    #[must_use]
    pub fn bytes_after(&self, after: Lsn) -> u64 {
        // Ascending but for a moment after a cut, when this is a good guess.
        let first = self.frames.partition_point(|frame| frame.last <= after);
        let ring = self
            .frames
            .get(first)
            .map_or(0, |frame| self.ring.used(Some(frame.position)));
        ring + self.queued_bytes()
    }

    /// Bytes that one more record may take, its frame header included.
    pub(super) fn free_bytes(&self, opens: Opens) -> u64 {
        let kept = self.used_bytes() + self.kept_free(opens);
        self.ring.bytes.saturating_sub(kept)
    }

    /// Bytes that records leave to cuts and marks, and most records to those that open an epoch.
    pub(super) fn kept_free(&self, opens: Opens) -> u64 {
        if self.config.mutants.has(Mutant::ReserveIgnored) {
            return 0;
        }
        match opens {
            Opens::Nothing => self.ring.reserve(),
            Opens::AnEpoch => self.ring.reserve() / 2,
        }
    }

    /// What the queue will take, about: record bytes, and one header block.
    pub(super) fn queued_bytes(&self) -> u64 {
        match self.queued_bytes {
            0 => 0,
            bytes => bytes + BLOCK_SIZE as u64,
        }
    }

    fn first_position(&self) -> Option<u64> {
        self.frames.front().map(|frame| frame.position)
    }
}

//! What is to be made of the frames found: the chain, its end, and the replay. Pure.
//!
//! | at the chain's first break | verdict |
//! |---|---|
//! | nothing of this log behind it | clean end |
//! | a bad frame, or whole frames behind it; no mark reaches above the chain | torn end: dropped |
//! | a readable frame behind it marks something above the chain as flushed | damage: kept |
//! | the chain ends below what this store relied on | damage: kept |
//!
//! Only frames on the chain, or behind its break with a sequence above the chain's last, count.
//! A mark is the sequence number of a frame that was flushed together with all before it, so one
//! above the chain's last says that the frame right behind the break was.

use std::collections::BTreeMap;

use moorline_types::{EpochStart, Lsn, LsnRange};

use super::{
    LogDamage, LogFindings,
    scan::{Found, FoundFrame, PayloadState},
};
use crate::{
    error::LogOpenError,
    frame::{FrameHeader, FrameKind, SEQUENCE_END},
    history::RetainedHistory,
    log::LogAnchor,
    mutants::{Mutant, Mutants},
    record::RecordHeader,
};

/// What opening knows besides the ring.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) anchor: LogAnchor,
    pub(crate) history: Vec<EpochStart>,
    pub(crate) durable_floor: Lsn,
    pub(crate) mutants: Mutants,
}

/// The log as it is to be from here on.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Recovered {
    /// Headers of the unbroken chain, in order.
    pub(crate) frames: Vec<FrameHeader>,
    /// The retained records, dense, and where their payloads lie in the ring.
    pub(crate) records: Vec<(RecordHeader, u64)>,
    pub(crate) history: RetainedHistory,
    pub(crate) findings: LogFindings,
    /// The highest sequence number of a readable frame, or the anchor's.
    pub(crate) highest_sequence: u64,
    /// Whether the last frame already says that everything before it is flushed.
    pub(crate) end: ChainEnd,
}

/// How the chain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChainEnd {
    /// With a mark that covers all before it, and nothing behind: nothing needs to be written.
    Marked,
    /// Cleanly, but the last flush is not marked.
    Unmarked,
    /// With a torn place that must be written over before the log is used.
    Torn,
    /// With damage that must not be written over.
    Damaged,
}

/// Decides.
pub(crate) fn decide(known: Known, found: Found) -> Result<Recovered, LogOpenError> {
    let anchor = known.anchor;
    let highest = found.frames.iter().map(|frame| frame.header.sequence).max();
    let highest = highest.unwrap_or(0).max(anchor.sequence);
    // Half of the numbers are kept for new frames.
    if highest >= SEQUENCE_END / 2 {
        return Err(LogOpenError::SequencesRanOut { highest });
    }
    let (chain, mut behind) = walk(known.mutants, anchor, found.frames);
    let last = chain.last().map(|frame| frame.header);
    let last_sequence = last.map_or(anchor.sequence, |header| header.sequence);
    let last_crc = last.map_or(anchor.previous_crc, |header| header.crc);
    let extents = Extents::of(&chain);
    let counts =
        |header: &FrameHeader| header.sequence > last_sequence && !extents.contain(header.position);
    behind.retain(|frame| counts(&frame.header));
    let mut torn = found.torn;
    torn.retain(counts);

    let position = last.map_or(anchor.position, |header| {
        header.position + header.total_bytes()
    });
    let frames: Vec<FrameHeader> = chain.iter().map(|frame| frame.header).collect();
    let replayed = replay(&known, chain)?;
    let head = replayed.history.head();
    let known_through = behind.iter().filter_map(|frame| frame.header.last()).max();
    let marked = behind
        .iter()
        .any(|frame| frame.header.durable_through > last_sequence);
    let marked = marked && !known.mutants.has(Mutant::DamageTakenForTornEnd);
    let damaged = (marked || head < known.durable_floor).then_some(LogDamage {
        after: head,
        position,
        known_through,
    });
    let torn_end = !behind.is_empty() || !torn.is_empty();
    let end = match (&damaged, torn_end) {
        (Some(_), _) => ChainEnd::Damaged,
        (None, true) => ChainEnd::Torn,
        (None, false) if ends_marked(&frames) => ChainEnd::Marked,
        (None, false) => ChainEnd::Unmarked,
    };
    let doubtful = match end {
        ChainEnd::Torn => doubtful(head, last_crc, &behind, &torn),
        ChainEnd::Marked | ChainEnd::Unmarked | ChainEnd::Damaged => None,
    };
    Ok(Recovered {
        findings: LogFindings {
            head,
            torn: doubtful,
            damaged,
            cuts_replayed: replayed.cuts,
            frames: frames.len() as u64,
            bytes: frames.iter().map(FrameHeader::total_bytes).sum(),
        },
        frames,
        records: replayed.records,
        history: replayed.history,
        highest_sequence: highest,
        end,
    })
}

/// The bytes of the chain's frames. What looks like a frame inside them is a guest's data.
struct Extents(BTreeMap<u64, u64>);

impl Extents {
    fn of(chain: &[FoundFrame]) -> Self {
        let extent = |frame: &FoundFrame| {
            let position = frame.header.position;
            (position, position + frame.header.total_bytes())
        };
        Self(chain.iter().map(extent).collect())
    }

    fn contain(&self, position: u64) -> bool {
        self.0
            .range(..=position)
            .next_back()
            .is_some_and(|(_, end)| position < *end)
    }
}

/// Follows the chain from the anchor; the rest is what is not on it.
fn walk(
    mutants: Mutants,
    anchor: LogAnchor,
    frames: Vec<FoundFrame>,
) -> (Vec<FoundFrame>, Vec<FoundFrame>) {
    let mut at: BTreeMap<u64, FoundFrame> = frames
        .into_iter()
        .map(|frame| (frame.header.position, frame))
        .collect();
    let mut chain: Vec<FoundFrame> = Vec::new();
    let (mut position, mut sequence, mut crc) =
        (anchor.position, anchor.sequence, anchor.previous_crc);
    loop {
        let follows = |frame: &&FoundFrame| {
            (frame.payload == PayloadState::Whole || mutants.has(Mutant::PayloadNotVerified))
                && (frame.header.previous_crc == crc || mutants.has(Mutant::ChainNotVerified))
                && frame.header.sequence > sequence
        };
        // One that did not fit into the rest of the ring begins at 0.
        let place = [position, 0]
            .into_iter()
            .find(|place| at.get(place).is_some_and(|f| follows(&f)));
        let Some(frame) = place.and_then(|place| at.remove(&place)) else {
            return (chain, at.into_values().collect());
        };
        position = frame.header.position + frame.header.total_bytes();
        (sequence, crc) = (frame.header.sequence, frame.header.crc);
        chain.push(frame);
    }
}

fn ends_marked(frames: &[FrameHeader]) -> bool {
    let Some((last, before)) = frames.split_last() else {
        return false;
    };
    let covered = before
        .last()
        .is_none_or(|frame| frame.sequence <= last.durable_through);
    last.kind == FrameKind::Mark && covered
}

/// The LSNs that a torn end may have held.
fn doubtful(
    head: Lsn,
    last_crc: u32,
    behind: &[FoundFrame],
    torn: &[FrameHeader],
) -> Option<LsnRange> {
    let readable = behind.iter().filter_map(|frame| frame.header.last()).max();
    // A torn header is a hint only, and taken only where it fits.
    let next = head.checked_advance(1)?;
    let hinted = torn.iter().filter_map(|header| match header.kind {
        FrameKind::Records { first, .. } if first == next => header.last(),
        FrameKind::Records { .. } | FrameKind::Cut { .. } | FrameKind::Mark => None,
    });
    let first_is_readable = behind
        .iter()
        .any(|frame| frame.header.previous_crc == last_crc);
    let at_least = (!first_is_readable).then_some(next);
    let through = readable.into_iter().chain(hinted).chain(at_least).max()?;
    LsnRange::new(head, through).filter(|range| !range.is_empty())
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Replayed {
    records: Vec<(RecordHeader, u64)>,
    history: RetainedHistory,
    cuts: u64,
}

/// Applies the chain's records and cuts in order.
fn replay(known: &Known, chain: Vec<FoundFrame>) -> Result<Replayed, LogOpenError> {
    let tail = known.anchor.tail;
    let mut out = Replayed {
        records: Vec::new(),
        history: RetainedHistory::new(known.history.clone(), tail),
        cuts: 0,
    };
    for frame in chain {
        let sequence = frame.header.sequence;
        match frame.header.kind {
            FrameKind::Mark => {}
            FrameKind::Cut { through } => {
                if through < tail {
                    let (want, have) = (tail, through);
                    return Err(LogOpenError::Inconsistent {
                        sequence,
                        want,
                        have,
                    });
                }
                out.cuts += 1;
                if !known.mutants.has(Mutant::CutIgnored) {
                    out.cut(through.min(out.history.head()));
                }
            }
            FrameKind::Records { first, .. } => {
                let next = out.history.head().next();
                if first < next && known.mutants.has(Mutant::CutIgnored) {
                    out.cut(first.previous().expect("records begin at 1").max(tail));
                }
                // Only the first retained frame may begin below: with records at or below the tail.
                let next = out.history.head().next();
                let joins = match out.records.is_empty() && out.cuts == 0 {
                    true => first <= next,
                    false => first == next,
                };
                if !joins {
                    return Err(LogOpenError::Inconsistent {
                        sequence,
                        want: next,
                        have: first,
                    });
                }
                out.push(frame)?;
            }
        }
    }
    Ok(out)
}

impl Replayed {
    fn push(&mut self, frame: FoundFrame) -> Result<(), LogOpenError> {
        let mut position = frame.header.position + frame.header.header_bytes() as u64;
        for record in frame.records {
            let payload_at = position;
            position += record.payload_bytes() as u64;
            if record.lsn() <= self.history.tail() {
                continue;
            }
            if record.epoch() < self.history.last_epoch() {
                return Err(LogOpenError::Inconsistent {
                    sequence: frame.header.sequence,
                    want: self.history.head().next(),
                    have: record.lsn(),
                });
            }
            self.history.push(record.lsn(), record.epoch());
            self.records.push((record, payload_at));
        }
        Ok(())
    }

    fn cut(&mut self, through: Lsn) {
        self.history.cut(through);
        let keep = through.distance_from(self.history.tail());
        self.records
            .truncate(usize::try_from(keep).expect("records are in memory"));
    }
}

//! How a changing request becomes one record, a read-modify-write, or a chain of both.

use std::collections::VecDeque;

use moorline_types::{BLOCK_SIZE, BlockIndex, BlockRange, BufferPool, PageBuf};

use super::{ChangeKind, covering};
use crate::client::{ByteRange, ClientOp, Durability, ZeroMode, ZeroSpeed};

/// Longest range that is zeroed by a read-modify-write in one piece; longer ragged ones are split
/// into edges and whole blocks.
const RAGGED_BYTES_MAX: u32 = 1 << 20;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What to do with a request.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) enum Plan {
    /// It changes nothing.
    Nothing,
    /// It asked to be fast or not at all, and would not be fast.
    NotFast,
    /// Do these one after the other, then answer.
    Parts(VecDeque<ClientOp>),
    /// Whole blocks: one record.
    Whole {
        range: BlockRange,
        change: ChangeKind,
        durability: Durability,
    },
    /// Ragged edges: the buffer covers the blocks and lacks what lies around `bytes`.
    Ragged {
        bytes: ByteRange,
        buffer: PageBuf,
        durability: Durability,
    },
}

impl ChangeKind {
    /// The request that this change came from, to be looked at again.
    pub(super) fn into_op(self, range: BlockRange, durability: Durability) -> ClientOp {
        let bytes = whole_bytes(range);
        match self {
            Self::Write(payload) => {
                let mut buffer = PageBuf::zeroed(payload.blocks());
                buffer.as_mut_slice().copy_from_slice(payload.as_slice());
                ClientOp::Write {
                    range: bytes,
                    buffer,
                    durability,
                }
            }
            Self::Hole => ClientOp::Trim {
                range: bytes,
                durability,
            },
            Self::Zero => ClientOp::WriteZeroes {
                range: bytes,
                mode: ZeroMode::Allocated,
                speed: ZeroSpeed::AnyWay,
                durability,
            },
        }
    }
}

/// Decides what to do with a changing request whose range fits the volume.
///
/// # Panics
///
/// On requests that change nothing by nature (reads, flushes).
pub(super) fn plan(op: ClientOp, pool: &BufferPool) -> Plan {
    match op {
        ClientOp::Write {
            range,
            buffer,
            durability,
        } => plan_write(range, buffer, durability),
        ClientOp::Trim { range, durability } => plan_trim(range, durability),
        ClientOp::WriteZeroes {
            range,
            mode,
            speed,
            durability,
        } => plan_zeroes(range, mode, speed, durability, pool),
        ClientOp::Read(_) | ClientOp::Flush | ClientOp::BlockStatus(_) => {
            unreachable!("only changes are planned")
        }
    }
}

fn plan_write(range: ByteRange, buffer: PageBuf, durability: Durability) -> Plan {
    if range.length == 0 {
        return Plan::Nothing;
    }
    if is_whole(range) {
        let change = ChangeKind::Write(buffer.freeze());
        return Plan::Whole {
            range: covering(range),
            change,
            durability,
        };
    }
    Plan::Ragged {
        bytes: range,
        buffer,
        durability,
    }
}

fn plan_trim(range: ByteRange, durability: Durability) -> Plan {
    match inside(range) {
        Some(blocks) => Plan::Whole {
            range: blocks,
            change: ChangeKind::Hole,
            durability,
        },
        None => Plan::Nothing,
    }
}

fn plan_zeroes(
    range: ByteRange,
    mode: ZeroMode,
    speed: ZeroSpeed,
    durability: Durability,
    pool: &BufferPool,
) -> Plan {
    if range.length == 0 {
        return Plan::Nothing;
    }
    if is_whole(range) {
        let change = match mode {
            ZeroMode::HoleAllowed => ChangeKind::Hole,
            ZeroMode::Allocated => ChangeKind::Zero,
        };
        return Plan::Whole {
            range: covering(range),
            change,
            durability,
        };
    }
    if speed == ZeroSpeed::FastOnly {
        return Plan::NotFast;
    }
    if range.length <= RAGGED_BYTES_MAX {
        let blocks = covering(range).count() as usize;
        return Plan::Ragged {
            bytes: range,
            buffer: pool.zeroed(blocks),
            durability,
        };
    }
    Plan::Parts(split(range, mode, durability))
}

/// The ragged head, the whole blocks, the ragged tail: those that are not empty.
fn split(range: ByteRange, mode: ZeroMode, durability: Durability) -> VecDeque<ClientOp> {
    let end = range.offset + u64::from(range.length);
    let whole_from = range.offset.next_multiple_of(BLOCK);
    let whole_to = end / BLOCK * BLOCK;
    [
        (range.offset, whole_from),
        (whole_from, whole_to),
        (whole_to, end),
    ]
    .into_iter()
    .filter(|(from, to)| from < to)
    .map(|(from, to)| {
        let length = u32::try_from(to - from).expect("a part is no longer than its whole");
        ClientOp::WriteZeroes {
            range: ByteRange {
                offset: from,
                length,
            },
            mode,
            speed: ZeroSpeed::AnyWay,
            durability,
        }
    })
    .collect()
}

fn is_whole(range: ByteRange) -> bool {
    range.offset.is_multiple_of(BLOCK) && u64::from(range.length).is_multiple_of(BLOCK)
}

/// The whole blocks inside the range, if there is one.
fn inside(range: ByteRange) -> Option<BlockRange> {
    let first = range.offset.div_ceil(BLOCK);
    let end = (range.offset + u64::from(range.length)) / BLOCK;
    let count = u32::try_from(end.checked_sub(first)?).ok()?;
    (count > 0)
        .then(|| BlockRange::new(BlockIndex::new(first), count))
        .flatten()
}

fn whole_bytes(range: BlockRange) -> ByteRange {
    let length = u32::try_from(range.bytes()).expect("a request is shorter than 4 GiB");
    ByteRange {
        offset: range.first().byte_offset(),
        length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(offset: u64, length: u32) -> ByteRange {
        ByteRange { offset, length }
    }

    #[test]
    fn a_trim_takes_only_whole_blocks() {
        for (offset, length, want) in [
            (0, 4096, Some((0, 1))),
            (1, 4096, None),
            (1, 8191, Some((1, 1))),
            (4095, 4098, Some((1, 1))),
            (0, 4095, None),
        ] {
            let found = inside(bytes(offset, length)).map(|r| (r.first().get(), r.count()));
            assert_eq!(found, want, "{offset}+{length}");
        }
    }

    #[test]
    fn a_long_ragged_zeroing_is_three_parts_without_gaps() {
        let range = bytes(100, (2 << 20) + 7);
        let parts = split(range, ZeroMode::HoleAllowed, Durability::AckPoint);
        let mut at = range.offset;
        for part in &parts {
            let ClientOp::WriteZeroes { range: part, .. } = part else {
                panic!("{part:?}")
            };
            assert_eq!(part.offset, at);
            at += u64::from(part.length);
        }
        assert_eq!(
            (parts.len(), at),
            (3, range.offset + u64::from(range.length))
        );
    }

    #[test]
    fn fast_zeroing_of_ragged_ranges_is_refused() {
        let pool = BufferPool::new();
        let op = |range| ClientOp::WriteZeroes {
            range,
            mode: ZeroMode::HoleAllowed,
            speed: ZeroSpeed::FastOnly,
            durability: Durability::AckPoint,
        };
        assert!(matches!(plan(op(bytes(1, 4096)), &pool), Plan::NotFast));
        assert!(matches!(
            plan(op(bytes(4096, 8192)), &pool),
            Plan::Whole { .. }
        ));
    }
}

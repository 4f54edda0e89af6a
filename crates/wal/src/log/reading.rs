//! Reading records back: from memory, or from the ring, every block verified.

use moorline_types::{
    BLOCK_SIZE, DeviceError, DeviceOp, DeviceOpKind, DeviceOutcome, Instant, Lsn, LsnRange, Payload,
};

use super::{Asked, Log, LogEvent, ReadId, ReadStart, Slot};
use crate::{
    error::LogReadError,
    record::{Record, RecordHeader},
};

/// Most bytes of one device read.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// Pieces of one read in flight: frames must not wait behind all of a catch-up.
const PIECES_IN_FLIGHT_MAX: usize = 4;

/// A read that waits for the device. While it does, reclaim keeps everything above `after`.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct PendingRead {
    id: ReadId,
    pub(super) after: Lsn,
    parts: Vec<Part>,
    pieces: Vec<Option<Payload>>,
    /// Pieces not asked for yet, the last one first.
    waiting: Vec<(usize, Piece)>,
    outstanding: usize,
    failed: Option<DeviceError>,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Part {
    Ready(Record),
    Ring {
        header: RecordHeader,
        /// Of the payload, in bytes from the start of the ring.
        position: u64,
        piece: usize,
        /// Where the payload begins in the piece, in blocks.
        block: usize,
    },
}

/// A run of payloads that one operation reads.
#[derive(Clone, Copy, Debug)]
struct Piece {
    position: u64,
    bytes: u64,
}

impl Log {
    /// Reads records from `range`, in order, until `bytes_max` stored bytes or its end; at least
    /// one. The piece of the ring is held until the read ended.
    ///
    /// # Errors
    ///
    /// [`LogReadError::Reclaimed`] or [`LogReadError::AboveHead`]; the rest comes as an event.
    pub fn read(
        &mut self,
        now: Instant,
        read: ReadId,
        range: LsnRange,
        bytes_max: usize,
        ops: &mut Vec<DeviceOp>,
    ) -> Result<ReadStart, LogReadError> {
        let (after, through) = (range.after(), range.through());
        let (tail, head) = (self.tail(), self.head());
        if after < tail {
            return Err(LogReadError::Reclaimed { after, tail });
        }
        if through > head {
            return Err(LogReadError::AboveHead { through, head });
        }
        let (parts, pieces) = self.plan(range, bytes_max);
        let pending = PendingRead {
            id: read,
            after,
            parts,
            pieces: vec![None; pieces.len()],
            waiting: pieces.into_iter().enumerate().rev().collect(),
            outstanding: 0,
            failed: None,
        };
        if pending.waiting.is_empty() {
            return pending.assemble().map(ReadStart::Ready);
        }
        let number = self.next_read;
        self.next_read += 1;
        self.reads.insert(number, pending);
        self.read_on(now, number, ops);
        Ok(ReadStart::Pending)
    }

    /// Asks for the next pieces of a read, if it still goes on.
    pub(super) fn read_on(&mut self, now: Instant, number: u64, ops: &mut Vec<DeviceOp>) {
        while let Some(read) = self.reads.get_mut(&number)
            && read.outstanding < PIECES_IN_FLIGHT_MAX
            && let Some((place, piece)) = read.waiting.pop()
        {
            read.outstanding += 1;
            let pages = usize::try_from(piece.bytes).expect("pieces are bounded") / BLOCK_SIZE;
            let buffer = self.config.pool.dirty(pages);
            let offset = self.config.region.offset + piece.position;
            let asked = Asked::Read {
                read: number,
                piece: place,
            };
            self.ask(now, asked, offset, DeviceOpKind::Read(buffer), ops);
        }
    }

    /// Which records are wanted, where each one is, and what must be read for that.
    fn plan(&self, range: LsnRange, bytes_max: usize) -> (Vec<Part>, Vec<Piece>) {
        let mut parts = Vec::new();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut taken = 0;
        let start = self.place_of(range.after().next()).unwrap_or(0);
        let count = usize::try_from(range.count()).expect("slots are in memory");
        for slot in self.slots.range(start..start + count) {
            let header = slot.header();
            let bytes = header.encoded_bytes() + header.payload_bytes();
            if !parts.is_empty() && taken + bytes > bytes_max {
                break;
            }
            taken += bytes;
            parts.push(match slot {
                Slot::Queued(record) | Slot::Memory(record, _) => Part::Ready(record.clone()),
                Slot::Ring(header, _) if header.payload_bytes() == 0 => {
                    let record = header.clone().with_payload(Payload::empty());
                    Part::Ready(record.expect("no payload has no bad block"))
                }
                Slot::Ring(header, position) => {
                    let (piece, block) = add_to_pieces(&mut pieces, header, *position);
                    let (header, position) = (header.clone(), *position);
                    Part::Ring {
                        header,
                        position,
                        piece,
                        block,
                    }
                }
            });
        }
        (parts, pieces)
    }

    pub(super) fn on_read(
        &mut self,
        number: u64,
        piece: usize,
        result: Result<DeviceOutcome, DeviceError>,
        events: &mut Vec<LogEvent>,
    ) {
        // Gone when another piece was overdue.
        let Some(read) = self.reads.get_mut(&number) else {
            return;
        };
        match result {
            Ok(DeviceOutcome::Read(buffer)) => read.pieces[piece] = Some(buffer.freeze()),
            Ok(outcome) => panic!("the device answered {outcome:?} to a read"),
            Err(error) => {
                read.failed = Some(error);
                read.waiting.clear();
            }
        }
        read.outstanding -= 1;
        if read.outstanding == 0 && read.waiting.is_empty() {
            let read = self.reads.remove(&number).expect("it was just seen");
            events.push(LogEvent::RecordsRead {
                read: read.id,
                result: read.assemble(),
            });
        }
    }

    /// Ends a read without waiting for its other pieces. Their completions find nothing.
    pub(super) fn fail_read(
        &mut self,
        number: u64,
        error: DeviceError,
        events: &mut Vec<LogEvent>,
    ) {
        if let Some(read) = self.reads.remove(&number) {
            let result = Err(LogReadError::Device(error));
            events.push(LogEvent::RecordsRead {
                read: read.id,
                result,
            });
        }
    }
}

impl PendingRead {
    fn assemble(self) -> Result<Vec<Record>, LogReadError> {
        if let Some(error) = self.failed {
            return Err(LogReadError::Device(error));
        }
        let mut records = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            records.push(match part {
                Part::Ready(record) => record,
                Part::Ring {
                    header,
                    position,
                    piece,
                    block,
                } => {
                    let lsn = header.lsn();
                    let bytes = self.pieces[piece].as_ref().expect("every piece was read");
                    let payload = bytes.slice_blocks(block, header.crcs().len());
                    let corrupt = |source| LogReadError::Corrupt {
                        lsn,
                        position,
                        source,
                    };
                    header.with_payload(payload).map_err(corrupt)?
                }
            });
        }
        Ok(records)
    }
}

/// Adds a payload to the last piece if it lies right behind it, else as a new piece.
fn add_to_pieces(pieces: &mut Vec<Piece>, header: &RecordHeader, position: u64) -> (usize, usize) {
    let bytes = header.payload_bytes() as u64;
    let place = pieces.len();
    if let Some(last) = pieces.last_mut()
        && last.position + last.bytes == position
        && last.bytes + bytes <= PIECE_BYTES_MAX
    {
        let block = usize::try_from(last.bytes).expect("pieces are bounded") / BLOCK_SIZE;
        last.bytes += bytes;
        return (place - 1, block);
    }
    pieces.push(Piece { position, bytes });
    (place, 0)
}

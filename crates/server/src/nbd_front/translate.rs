//! NBD's words to the node's and back.

use moorline_nbd::{
    AnswerMismatch, Command, Extent, ExtentState, Holes, NbdError, Outgoing, Persist, ReadSegment,
    Responder, Span, ZeroSpeed as NbdZeroSpeed,
};
use moorline_volume::client::{
    Allocation, ByteRange, ClientError, ClientOp, ClientReply, Durability, ReadPiece, ZeroMode,
    ZeroSpeed,
};

/// What the node is to do for a command; `None` when there is nothing to do.
pub(super) fn op(command: Command) -> Option<ClientOp> {
    Some(match command {
        Command::Read(span) => ClientOp::Read(range(span)),
        Command::Write {
            span,
            persist,
            payload,
        } => ClientOp::Write {
            range: range(span),
            buffer: payload.into_buffer(),
            durability: durability(persist),
        },
        Command::Flush => ClientOp::Flush,
        Command::Trim { span, persist } => ClientOp::Trim {
            range: range(span),
            durability: durability(persist),
        },
        Command::WriteZeroes {
            span,
            persist,
            holes,
            speed,
        } => ClientOp::WriteZeroes {
            range: range(span),
            mode: match holes {
                Holes::Allowed => ZeroMode::HoleAllowed,
                Holes::Forbidden => ZeroMode::Allocated,
            },
            speed: match speed {
                NbdZeroSpeed::Any => ZeroSpeed::AnyWay,
                NbdZeroSpeed::FasterThanWrite => ZeroSpeed::FastOnly,
            },
            durability: durability(persist),
        },
        Command::BlockStatus { span, .. } => ClientOp::BlockStatus(range(span)),
        // A hint, and there is no cache to be filled.
        Command::Cache(_) => return None,
    })
}

/// Puts the node's answer into NBD's words.
pub(super) fn answer(
    responder: Responder,
    reply: ClientReply,
    out: &mut Outgoing,
) -> Result<(), AnswerMismatch> {
    match reply {
        ClientReply::Done => responder.done(out),
        ClientReply::Read(pieces) => {
            let segments: Vec<ReadSegment> = pieces
                .into_iter()
                .map(|piece| match piece {
                    ReadPiece::Data(bytes) => ReadSegment::Data(bytes),
                    ReadPiece::Zeroes(length) => ReadSegment::Zeroes(length),
                })
                .collect();
            responder.read(&segments, out)
        }
        ClientReply::Status(runs) => {
            let extents = runs.into_iter().map(|run| Extent {
                length_bytes: run.length,
                state: match run.state {
                    Allocation::Data => ExtentState::Data,
                    Allocation::Zero => ExtentState::Zero,
                    Allocation::Hole => ExtentState::Hole,
                },
            });
            responder.extents(extents, out)
        }
        ClientReply::Failed(error) => {
            responder.fail(nbd_error(error), &error.to_string(), out);
            Ok(())
        }
    }
}

/// The nearest that NBD has. "Shutdown" makes clients connect anew, and so find the new primary.
const fn nbd_error(error: ClientError) -> NbdError {
    match error {
        ClientError::NotPrimary | ClientError::Unknown => NbdError::Shutdown,
        ClientError::NoQuorum | ClientError::Damaged | ClientError::Device => NbdError::Io,
        ClientError::NotFast => NbdError::NotSup,
        ClientError::OutOfRange => NbdError::Inval,
    }
}

fn range(span: Span) -> ByteRange {
    ByteRange {
        offset: span.offset(),
        length: span.length(),
    }
}

fn durability(persist: Persist) -> Durability {
    match persist {
        Persist::ByPolicy => Durability::AckPoint,
        Persist::BeforeAnswer => Durability::Forced,
    }
}

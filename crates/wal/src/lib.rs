//! The log of one replica: records, frames, ring, group commit, opening, retained history.
//!
//! Sans-IO: the log asks for device operations and is told what came of them; it reads no clock
//! and owns no thread. A store formats the ring with zeroes, opens it with [`LogOpening`], and
//! then drives a [`Log`]:
//!
//! ```text
//! append(record)*  submit(now, ops)      one submit per batch of events: that is the group commit
//! on_done(now, done, ops, events)        completions in, Flushed / CutRecorded / RecordsRead out
//! next_deadline() on_deadline(now, ..)   the idle mark, and operations that are overdue
//! anchor_at(lsn) .. reclaim([a, b])      persist anchors in both superblocks, then free
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `record.rs` | [`Record`], [`RecordHeader`], [`block_crc`]: one record's bytes |
//! | `frame.rs` | [`FrameHeader`]: one group commit's bytes |
//! | `ring.rs` | where frames lie, and what is free |
//! | `log.rs`, `log/` | [`Log`]: append, submit, cut, read, reclaim |
//! | `recover.rs`, `recover/` | [`LogOpening`]: the decision table of damaged tails |
//! | `history.rs` | [`RetainedHistory`], [`last_common`] |
//! | `pin.rs` | [`PinTable`] and the release guards |
//! | `reclaim.rs` | [`reclaim_horizon`], pure |
//! | `mutants.rs` | bugs that a simulator can plant |

#![forbid(unsafe_code)]

mod error;
mod fields;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod history;
mod log;
mod mutants;
mod pin;
mod reclaim;
mod record;
mod recover;
mod ring;
mod sync;

pub use error::{
    AppendError, CutError, FrameError, LogOpenError, LogReadError, PinRefused, RecordError,
};
pub use frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
pub use history::{Gap, LogOutline, RetainedHistory, last_common};
pub use log::{
    Log, LogAnchor, LogConfig, LogEvent, LogOperation, LogRegion, ReadId, ReadStart, RecordAt,
};
pub use mutants::{Mutant, Mutants};
pub use pin::{
    FullBasePin, PINS_MAX, PinHolder, PinInfo, PinKind, PinTable, RetentionPin, SnapshotPin,
};
pub use reclaim::{PeerNeed, ReclaimHorizon, ReclaimInputs, ReclaimLimit, reclaim_horizon};
pub use record::{
    RECORD_BLOCKS_MAX, RECORD_HEADER_BYTES, Record, RecordHeader, RecordKind, block_crc,
    block_crcs, decode_records,
};
pub use recover::{LogContents, LogDamage, LogFindings, LogOpening, LogScan};

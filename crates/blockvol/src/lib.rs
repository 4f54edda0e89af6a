//! One replica's store on a block device: superblocks, block map, extents, flusher, opening; and
//! the devices that act.
//!
//! All but `device` is sans-IO: it asks for device operations and is told what came of them.
//!
//! ```text
//! Formatting::new -> on_done*                         once per device
//! StoreOpening::new -> on_done* -> Store              once per start; raises the open counter
//! append  set_committed  persist  read  cut ..        as the volume's rules say
//! submit(now, ops, events)                            once per batch of events
//! on_done(now, done, ops, events)                     completions in, events out
//! next_deadline  on_deadline                          idle marks, passes, overdue operations
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `layout.rs` | where things lie on the device |
//! | `superblock.rs` `copies.rs` | [`Superblock`], [`Durable`]: its bytes · the two copies, written in rounds |
//! | `blockmap.rs` | per block {checksum, LSN}, in two-slot pages loaded on demand |
//! | `extents.rs` `reads.rs` | checked contents · reads from memory, map and extents |
//! | `index.rs` | which record wrote each block last |
//! | `flusher.rs` `checkpoint.rs` | committed records into the extents · where the log's tail goes |
//! | `opening.rs` `format.rs` | [`StoreOpening`] · [`Formatting`] |
//! | `store.rs` | [`Store`]: all of it behind one face |
//! | `inspect.rs` | an offline, read-only look at a store |
//! | `device.rs` | the only part that acts: io_uring, or blocking calls |
//! | `mutants.rs` | bugs that a simulator can plant |

mod blockmap;
mod checkpoint;
mod codec;
mod copies;
pub mod device;
mod error;
mod event;
mod extents;
mod flusher;
mod format;
mod index;
pub mod inspect;
mod layout;
mod mutants;
mod opening;
mod ops;
mod reads;
mod store;
mod superblock;

pub use error::{
    AppendError, CopyFault, CutError, FaultKind, FormatError, OpenError, ReadFault, RepairError,
    StoreFault,
};
pub use event::{
    BlockState, BlockVersion, ReadOutcome, ReadToken, ReadView, Segment, StatusRun, StoreEvent,
    Ticket, ZeroKind,
};
pub use flusher::FlusherConfig;
pub use format::{DeviceContent, Existing, FormatParams, Formatting};
pub use layout::{LOG_OFFSET, Layout, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS};
pub use mutants::{Mutant, Mutants};
pub use opening::{CopyRepaired, Expect, ImageTrust, OpenReport, StoreOpening, StoreOptions};
pub use store::{Frontiers, Store};
pub use superblock::{
    Durable, FORMAT_VERSION, GIVEN_UP_MAX, PromiseRecord, SUPERBLOCK_MAGIC, StoreIdentity,
    Superblock,
};

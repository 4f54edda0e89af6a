//! One replica of one volume, and one server's whole head; no I/O.
//!
//! [`Node`] is what a server and the simulator run: feed it every [`Event`], then call
//! [`Node::submit`] once per batch, then carry out the [`Action`]s in order.
//!
//! | file | holds |
//! |---|---|
//! | `node.rs`, `node/` | [`Node`]: routing, connections, stores, leases between servers, the master |
//! | `replica.rs`, `replica/` | the role machine of one replica: following, standing, reigning |
//! | `promotion.rs` | pure: what a promise round came to |
//! | `commit.rs` | pure: how far the policy holds |
//! | `lease.rs` | who may promise, grant and hold what, by which clock |
//! | `desk.rs`, `desk/` | clients' requests: ordering, read-modify-write, answers |
//! | `pace.rs` | pure: how fast writers may fill the log |
//! | `client.rs` | what a disk's client asks and hears |
//! | `journal.rs` | what happened, for logs, metrics and tests |
//! | `mutants.rs` | bugs that a simulator can plant |

#![forbid(unsafe_code)]

pub mod client;
pub mod commit;
mod desk;
pub mod journal;
pub mod lease;
mod locks;
mod losses;
mod mutants;
mod node;
mod pace;
pub mod promotion;
mod replica;

pub use mutants::{Mutant, Mutants};
pub use node::{
    Action, DeviceCreation, DeviceKey, Event, ExportState, LinkDirection, LinkId, Node, NodeConfig,
    NodeReport,
};
pub use replica::{OnVolatileLoss, Replica};

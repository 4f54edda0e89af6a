//! What background tasks tell the driver: connections made, the master's words, files made.
//!
//! Everything on the path of a write stays in the driver's own task. What is rare, or has to wait for
//! a name to resolve or a file system to answer, runs beside it and ends here.

use moorline_types::{ClusterId, ServerId, VolumeId};
use moorline_volume::{DeviceCreation, LinkDirection, NodeReport};
use moorline_wire::control::MasterToServer;
use tokio::sync::{mpsc, oneshot};

use crate::{nbd_front::Visitor, stores::Created, transport::Connected};

/// One thing told.
#[derive(Debug)]
pub(crate) enum News {
    /// A connection to another server stands.
    Linked {
        /// It.
        connected: Box<Connected>,
        /// Who opened it.
        direction: LinkDirection,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Whom it was for.
        server: ServerId,
    },
    /// Somebody connected to an NBD listener.
    Visited(Visitor),
    /// The master was reached and both sides are authenticated.
    MasterUp {
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The connection to the master ended.
    MasterDown,
    /// The master said something.
    MasterSaid(Box<MasterToServer>),
    /// A store's file was made, or was not.
    DeviceMade {
        /// The volume.
        volume: VolumeId,
        /// The file, or why there is none.
        outcome: Result<Created, DeviceCreation>,
    },
    /// Somebody wants to see the node's figures.
    Scraped(oneshot::Sender<NodeReport>),
    /// The operator wants a stop.
    StopRequested,
}

/// The tasks' end.
pub(crate) type Teller = mpsc::UnboundedSender<News>;

/// The driver's end. Unbounded, because each teller is bounded by itself: handshakes and connections
/// have limits, and the master is trusted.
pub(crate) type Inbox = mpsc::UnboundedReceiver<News>;

/// Both ends.
pub(crate) fn inbox() -> (Teller, Inbox) {
    mpsc::unbounded_channel()
}

//! Everything that a node may ask of its driver: requests, imperative.

use moorline_types::{DeviceOp, ServerId, VolumeId};
use moorline_wire::{Message, control::ServerToMaster};

use super::event::{DeviceKey, LinkId};
use crate::{
    client::{ClientId, ClientReply, RequestId},
    journal::NodeEvent,
};

/// Whether clients may attach to a volume here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportState {
    /// This server is the primary and serves.
    Serving {
        /// Size in bytes.
        bytes: u64,
    },
    /// Another server is, or none yet: attached clients are disconnected, new ones are told.
    Elsewhere {
        /// The primary's NBD address, if one is known.
        primary: Option<(ServerId, String)>,
    },
    /// This server leads and serves nobody: acknowledged writes that were only in memory may be
    /// lost, and an operator has not decided to go on (`PROM-10`). As `Elsewhere` for clients.
    VolatileLoss,
    /// The volume was deleted.
    Gone,
}

/// One request.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub enum Action {
    /// Submit to a store's device. In order of appearance.
    Device {
        /// Which device.
        device: DeviceKey,
        /// The operation; it owns its buffers until it completes.
        op: DeviceOp,
    },
    /// Make, lock and open the device of a new store; answered with `DeviceCreated`.
    CreateDevice {
        /// The volume it is for.
        volume: VolumeId,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Close a device and remove what held it. No operation is in flight on it.
    RemoveDevice {
        /// Which device.
        device: DeviceKey,
    },
    /// Connect to a server; answered with `LinkUp` (dialed) or `DialFailed`.
    Dial {
        /// Whom.
        server: ServerId,
        /// Its data address.
        address: String,
    },
    /// End a connection; answered with `LinkDown`.
    HangUp {
        /// Which.
        link: LinkId,
    },
    /// Send on a connection. Order on one connection is kept.
    Send {
        /// Which connection.
        link: LinkId,
        /// What, its payload included.
        message: Message,
    },
    /// Tell the master; dropped while there is no connection to it.
    TellMaster(ServerToMaster),
    /// Answer a client. Everything the answer claims already holds.
    Reply {
        /// The connection.
        client: ClientId,
        /// Its request.
        request: RequestId,
        /// The answer.
        reply: ClientReply,
    },
    /// Open or close a volume to clients.
    SetExport {
        /// Which volume.
        volume: VolumeId,
        /// Its name, which clients ask for.
        name: String,
        /// What to tell them.
        state: ExportState,
    },
    /// Hand one event to logs, metrics and watchers.
    Note(NodeEvent),
    /// Every store came to rest: the process may end.
    Stopped,
}

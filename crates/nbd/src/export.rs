//! The back end, as far as the handshake needs it: which exports there are.

use crate::handshake::ReplyStyle;
use crate::protocol::transmission_flag as flag;

/// One disk as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// The canonical name; at most 4096 bytes. Clients may have used another, such as the empty name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// Whether it can be written.
    pub access: Access,
    /// Whether a client may spread its requests over several connections.
    pub multi_conn: MultiConn,
}

/// Whether an export can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads; changes are answered with EPERM.
    ReadOnly,
}

/// Whether connections to one export see one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MultiConn {
    /// A FLUSH or FUA answered on one connection holds for what was answered on all.
    Shared,
    /// Connections may not rely on one another.
    Separate,
}

impl Export {
    /// The flags that say what a client may ask of this export.
    pub(crate) fn transmission_flags(&self, replies: ReplyStyle) -> u16 {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        flags |= match self.access {
            Access::ReadWrite => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
            Access::ReadOnly => flag::READ_ONLY,
        };
        flags |= match self.multi_conn {
            MultiConn::Shared => flag::CAN_MULTI_CONN,
            MultiConn::Separate => 0,
        };
        flags
            | match replies {
                ReplyStyle::Structured => flag::SEND_DF,
                ReplyStyle::Simple => 0,
            }
    }
}

/// Knows the exports of a server. Asked during handshakes; answers at once.
pub trait Exports {
    /// The export that a client means by `name`; the empty name means the default one, if any.
    fn find(&self, name: &str) -> Lookup;

    /// What LIST shows, in order.
    fn list(&self) -> Vec<ListedExport>;
}

/// One line of an answer to LIST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedExport {
    /// The canonical name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// What became of a search for an export. Messages are for people, and reach them through clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// Here it is.
    Found(Export),
    /// It exists, and another server serves it; the message names that server.
    Elsewhere {
        /// Where to go instead.
        message: String,
    },
    /// There is no such export.
    Unknown,
    /// It is here and this client may not have it, or not now.
    Refused {
        /// Why.
        message: String,
    },
    /// The server takes no new clients.
    ShuttingDown,
}

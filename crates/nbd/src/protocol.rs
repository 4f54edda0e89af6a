//! The numbers of the NBD protocol. All of them travel in network byte order.

/// Bytes of a request's header in the transmission phase.
pub const REQUEST_HEADER_BYTES: usize = 28;

/// The smallest unit that a client may address, in bytes. Less than a block is read-modify-write.
pub const MINIMUM_BLOCK_BYTES: u32 = 1;

/// The alignment, in bytes, at which a write needs no read first.
pub const PREFERRED_BLOCK_BYTES: u32 = 4096;

/// The longest read or write, in bytes: 32 MiB, what every client may count on.
pub const MAXIMUM_BLOCK_BYTES: u32 = 32 << 20;

/// The longest string in the protocol, in bytes: names, descriptions, messages, queries.
pub(crate) const STRING_BYTES_MAX: usize = 4096;

/// Bytes of reserved zeroes that follow an answer to EXPORT_NAME, unless both sides waive them.
pub(crate) const EXPORT_NAME_PADDING: [u8; 124] = [0; 124];

/// The one metadata context of this server.
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";

/// The id under which `base:allocation` is selected; any number would do.
pub(crate) const BASE_ALLOCATION_ID: u32 = 1;

pub(crate) mod magic {
    /// "NBDMAGIC".
    pub(crate) const SERVER: u64 = 0x4e42_444d_4147_4943;
    /// "IHAVEOPT".
    pub(crate) const OPTION: u64 = 0x4948_4156_454f_5054;
    pub(crate) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    pub(crate) const REQUEST: u32 = 0x2560_9513;
    pub(crate) const SIMPLE_REPLY: u32 = 0x6744_6698;
    pub(crate) const STRUCTURED_REPLY: u32 = 0x668e_33ef;
}

/// Handshake flags of the server (16 bits) and of the client (32 bits): the same two bits.
pub(crate) mod handshake_flag {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
    pub(crate) const CLIENT_FIXED_NEWSTYLE: u32 = 1 << 0;
    pub(crate) const CLIENT_NO_ZEROES: u32 = 1 << 1;
}

pub(crate) mod transmission_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

pub(crate) mod option_code {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

pub(crate) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR + 1;
    pub(crate) const ERR_POLICY: u32 = ERROR + 2;
    pub(crate) const ERR_INVALID: u32 = ERROR + 3;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR + 6;
    pub(crate) const ERR_SHUTDOWN: u32 = ERROR + 7;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR + 9;
}

pub(crate) mod info_type {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

pub(crate) mod command_code {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

pub(crate) mod reply_flag {
    pub(crate) const DONE: u16 = 1 << 0;
}

pub(crate) mod reply_type {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    const ERROR_BIT: u16 = 1 << 15;
    pub(crate) const ERROR: u16 = ERROR_BIT + 1;
    pub(crate) const ERROR_OFFSET: u16 = ERROR_BIT + 2;
}

pub(crate) mod extent_flag {
    pub(crate) const HOLE: u32 = 1 << 0;
    pub(crate) const ZERO: u32 = 1 << 1;
}

// The block sizes that are advertised keep the protocol's rules for them.
const _: () = assert!(MINIMUM_BLOCK_BYTES.is_power_of_two() && MINIMUM_BLOCK_BYTES <= 1 << 16);
const _: () = assert!(PREFERRED_BLOCK_BYTES.is_power_of_two() && PREFERRED_BLOCK_BYTES >= 512);
const _: () = assert!(MAXIMUM_BLOCK_BYTES.is_multiple_of(MINIMUM_BLOCK_BYTES));
// A payload buffer holds whole blocks, and a write of preferred alignment fills them.
const _: () = assert!(PREFERRED_BLOCK_BYTES as usize == moorline_types::BLOCK_SIZE);

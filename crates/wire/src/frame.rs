//! The fixed part of every frame, and the limits that are checked before anything is allocated.
//!
//! ```text
//!  0        4        6     7      8            12            16          20             24
//!  | magic  | version| kind| flags| header_len | payload_len | header_crc| preamble_crc | header | payload
//! ```
//!
//! Little-endian. `header_crc` covers the header, `preamble_crc` the 20 bytes before it; the payload
//! of records is covered by the block checksums inside the header.

use moorline_types::BLOCK_SIZE;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32},
};

use crate::error::DecodeError;

/// "MLWR" as bytes.
pub const MAGIC: [u8; 4] = *b"MLWR";

/// The version of the frames' layout; other versions are refused.
pub const FRAME_VERSION: u16 = 1;

/// Bytes of a preamble.
pub const PREAMBLE_BYTES: usize = 24;

const CHECKED_BYTES: usize = 20;

/// What may be announced by a peer. Checked before anything is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a header.
    pub header_max: u32,
    /// Bytes of a payload.
    pub payload_max: u32,
}

impl Limits {
    /// For a peer that has not proven who it is.
    pub const HELLO: Self = Self {
        header_max: 4 << 10,
        payload_max: 0,
    };

    /// For a member of the cluster: one record of the largest NBD request and then some.
    pub const MEMBER: Self = Self {
        header_max: 1 << 20,
        payload_max: 33 << 20,
    };
}

// A payload is announced in 32 bits and read into whole pages.
const _: () = assert!((Limits::MEMBER.payload_max as usize).is_multiple_of(BLOCK_SIZE));

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a frame carries.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $value,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            const fn from_wire(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// A step of the authentication.
    Hello = 1,
    /// Records; has a payload.
    Records = 2,
    /// Frontiers.
    Ack = 3,
    /// The committed point.
    Commit = 4,
    /// Records that were asked for; has a payload.
    Fetched = 5,
    /// A block that was asked for; has a payload of one block or none.
    FetchedBlock = 6,
    /// A request of leases.
    LeaseRequest = 8,
    /// An answer about leases.
    LeaseGrant = 9,
    /// Server to master, JSON.
    ServerToMaster = 16,
    /// Master to server, JSON.
    MasterToServer = 17,
    /// Command to master, JSON.
    ClientRequest = 18,
    /// Master to command, JSON.
    ClientResponse = 19,
    /// A candidate asks for a promise.
    PromiseRequest = 32,
    /// A promise.
    Promise = 33,
    /// No promise.
    PromiseRefused = 34,
    /// A primary's history.
    Handshake = 35,
    /// A replica's facts.
    HandshakeAck = 36,
    /// A cut is ordered.
    Truncate = 37,
    /// A cut is durable.
    TruncationRecorded = 38,
    /// A gap was met.
    NeedRecords = 39,
    /// A stream ended.
    StreamEnded = 40,
    /// Records are asked for.
    Fetch = 41,
    /// A block is asked for.
    FetchBlock = 42,
    /// Something was refused.
    Refused = 43,
}

impl Kind {
    /// The longest payload of this kind, in bytes, under `limits`.
    #[must_use]
    pub fn payload_max(self, limits: Limits) -> u32 {
        const ONE_BLOCK: u32 = 4096;
        match self {
            Self::Records | Self::Fetched => limits.payload_max,
            Self::FetchedBlock => limits.payload_max.min(ONE_BLOCK),
            Self::Hello
            | Self::Ack
            | Self::Commit
            | Self::LeaseRequest
            | Self::LeaseGrant
            | Self::ServerToMaster
            | Self::MasterToServer
            | Self::ClientRequest
            | Self::ClientResponse
            | Self::PromiseRequest
            | Self::Promise
            | Self::PromiseRefused
            | Self::Handshake
            | Self::HandshakeAck
            | Self::Truncate
            | Self::TruncationRecorded
            | Self::NeedRecords
            | Self::StreamEnded
            | Self::Fetch
            | Self::FetchBlock
            | Self::Refused => 0,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawPreamble {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    flags: u8,
    header_bytes: U32,
    payload_bytes: U32,
    header_crc: U32,
    preamble_crc: U32,
}

const _: () = assert!(size_of::<RawPreamble>() == PREAMBLE_BYTES);

/// The fixed part of a frame, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preamble {
    /// What the frame carries.
    pub kind: Kind,
    /// Bytes of the header.
    pub header_bytes: u32,
    /// Bytes of the payload, a multiple of 4096.
    pub payload_bytes: u32,
    /// Checksum of the header.
    pub header_crc: u32,
}

impl Preamble {
    /// The bytes of it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PREAMBLE_BYTES] {
        let mut raw = RawPreamble {
            magic: MAGIC,
            version: U16::new(FRAME_VERSION),
            kind: self.kind as u8,
            flags: 0,
            header_bytes: U32::new(self.header_bytes),
            payload_bytes: U32::new(self.payload_bytes),
            header_crc: U32::new(self.header_crc),
            preamble_crc: U32::new(0),
        };
        raw.preamble_crc = U32::new(crc32fast::hash(&raw.as_bytes()[..CHECKED_BYTES]));
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads and checks a preamble.
    ///
    /// # Errors
    ///
    /// When it is damaged, of another version, or announces more than `limits` allow.
    pub fn from_bytes(bytes: &[u8; PREAMBLE_BYTES], limits: Limits) -> Result<Self, DecodeError> {
        let raw = RawPreamble::read_from_bytes(bytes).expect("the sizes are equal");
        if raw.magic != MAGIC {
            return Err(DecodeError::BadMagic { found: raw.magic });
        }
        // Before the checksum: a later version may place it elsewhere.
        if raw.version.get() != FRAME_VERSION {
            return Err(DecodeError::Version {
                theirs: raw.version.get(),
                ours: FRAME_VERSION,
            });
        }
        if raw.preamble_crc.get() != crc32fast::hash(&bytes[..CHECKED_BYTES]) {
            return Err(DecodeError::PreambleDamaged);
        }
        let kind = Kind::from_wire(raw.kind).ok_or(DecodeError::UnknownKind { kind: raw.kind })?;
        if raw.flags != 0 {
            return Err(DecodeError::UnknownFlags { flags: raw.flags });
        }
        let preamble = Self {
            kind,
            header_bytes: raw.header_bytes.get(),
            payload_bytes: raw.payload_bytes.get(),
            header_crc: raw.header_crc.get(),
        };
        preamble.check(limits)?;
        Ok(preamble)
    }

    fn check(&self, limits: Limits) -> Result<(), DecodeError> {
        if self.header_bytes > limits.header_max {
            return Err(DecodeError::HeaderTooLong {
                bytes: self.header_bytes,
                max: limits.header_max,
            });
        }
        let max = self.kind.payload_max(limits);
        if self.payload_bytes > max {
            return Err(DecodeError::PayloadTooLong {
                kind: self.kind,
                bytes: self.payload_bytes,
                max,
            });
        }
        if !(self.payload_bytes as usize).is_multiple_of(BLOCK_SIZE) {
            return Err(DecodeError::PayloadNotBlocks {
                bytes: self.payload_bytes,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preamble(kind: Kind, header_bytes: u32, payload_bytes: u32) -> Preamble {
        Preamble {
            kind,
            header_bytes,
            payload_bytes,
            header_crc: 7,
        }
    }

    #[test]
    fn a_preamble_comes_back_for_every_kind() {
        for &kind in Kind::ALL {
            let sent = preamble(kind, 100, 0);
            let got = Preamble::from_bytes(&sent.to_bytes(), Limits::MEMBER).unwrap();
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = preamble(Kind::Records, 100, 8192).to_bytes();
        for bit in 0..PREAMBLE_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Preamble::from_bytes(&bytes, Limits::MEMBER).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn what_is_announced_is_limited_by_kind_and_by_who_speaks() {
        let check = |kind, header, payload, limits| {
            Preamble::from_bytes(&preamble(kind, header, payload).to_bytes(), limits).is_ok()
        };
        let member = Limits::MEMBER;
        for (kind, header, payload, limits, want) in [
            (Kind::Records, 1 << 20, 33 << 20, member, true), // the largest there is
            (Kind::Records, (1 << 20) + 1, 0, member, false),
            (Kind::Records, 1, (33 << 20) + 4096, member, false),
            (Kind::Records, 1, 4095, member, false),
            (Kind::Records, 1, 4096, Limits::HELLO, false), // a stranger sends no payload
            (Kind::Hello, 4097, 0, Limits::HELLO, false),
            (Kind::Ack, 1, 4096, member, false),
            (Kind::FetchedBlock, 1, 4096, member, true),
            (Kind::FetchedBlock, 1, 8192, member, false),
        ] {
            assert_eq!(
                check(kind, header, payload, limits),
                want,
                "{kind:?} {header} {payload}"
            );
        }
    }
}

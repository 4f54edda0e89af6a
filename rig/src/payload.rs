//! Bytes on their way to the disk, shared and cut into pieces without copying.

use std::sync::Arc;

/// The bytes of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Bytes handed in by a writer.
    Bytes(Arc<[u8]>),
    /// That many zero bytes, from a discard or a zeroing request; they take no memory.
    Zeros(u64),
}

impl Payload {
    /// Length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len_bytes) => *len_bytes,
        }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(_) => 0,
        }
    }
}

/// A piece of a payload: `len_bytes` bytes of it that begin at `start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    payload: Payload,
    start: u64,
    len_bytes: u64,
}

impl Slice {
    /// The whole of `payload`.
    #[must_use]
    pub fn whole(payload: Payload) -> Self {
        let len_bytes = payload.len_bytes();
        Self {
            payload,
            start: 0,
            len_bytes,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The part of this piece that begins `skip_bytes` into it and is `len_bytes` long.
    ///
    /// # Panics
    /// If that part reaches beyond the piece.
    #[must_use]
    pub fn part(&self, skip_bytes: u64, len_bytes: u64) -> Self {
        assert!(
            skip_bytes + len_bytes <= self.len_bytes,
            "a part lies inside its piece"
        );
        Self {
            payload: self.payload.clone(),
            start: self.start + skip_bytes,
            len_bytes,
        }
    }

    /// The bytes, or `None` when they are all zero and held nowhere.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.payload {
            Payload::Bytes(bytes) => {
                Some(&bytes[to_usize(self.start)..to_usize(self.start + self.len_bytes)])
            }
            Payload::Zeros(_) => None,
        }
    }

    /// Copies the bytes that begin `skip_bytes` into the piece to `out`, filling it.
    ///
    /// # Panics
    /// If `out` wants more than the piece has.
    pub fn copy_to(&self, skip_bytes: u64, out: &mut [u8]) {
        match self.part(skip_bytes, out.len() as u64).bytes() {
            Some(bytes) => out.copy_from_slice(bytes),
            None => out.fill(0),
        }
    }
}

/// One change to the durable image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// First byte of the image that changes.
    pub offset: u64,
    /// What is there afterwards.
    pub slice: Slice,
}

/// A length or index of bytes in memory.
///
/// # Panics
/// On a machine whose addresses are narrower than 64 bits, if `n` does not fit.
#[must_use]
pub fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("lengths of bytes in memory fit the address width")
}

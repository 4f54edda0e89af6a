//! Bytes on their way to the client: small headers copied, data shared.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Bytes of headers kept in one piece: four simple replies, or two chunk headers.
const INLINE_BYTES: usize = 64;

/// What remains to be sent on one connection, in order.
///
/// It is a [`Buf`]: `chunks_vectored` fills the slices of a vectored write, `advance` takes away
/// what was written. Nothing bounds it but the caller, which stops to read from a client that does
/// not take its replies.
#[derive(Default, Debug)]
pub struct Outgoing {
    parts: VecDeque<Part>,
    bytes: usize,
}

#[derive(Debug)]
enum Part {
    /// Bytes `start..end` of a small array.
    Inline {
        bytes: [u8; INLINE_BYTES],
        start: usize,
        end: usize,
    },
    Shared(Bytes),
}

impl Part {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { bytes, start, end } => &bytes[*start..*end],
            Self::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Inline { start, .. } => *start += count,
            Self::Shared(bytes) => bytes.advance(count),
        }
    }
}

impl Outgoing {
    /// Nothing to send.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes are to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a copy of a few bytes.
    pub(crate) fn copy(&mut self, mut source: &[u8]) {
        self.bytes += source.len();
        while !source.is_empty() {
            let fresh = match self.parts.back_mut() {
                Some(Part::Inline { bytes, end, .. }) if *end < INLINE_BYTES => {
                    let count = source.len().min(INLINE_BYTES - *end);
                    bytes[*end..*end + count].copy_from_slice(&source[..count]);
                    *end += count;
                    source = &source[count..];
                    continue;
                }
                Some(Part::Inline { .. } | Part::Shared(_)) | None => Part::Inline {
                    bytes: [0; INLINE_BYTES],
                    start: 0,
                    end: 0,
                },
            };
            self.parts.push_back(fresh);
        }
    }

    /// Appends `data` without copying it.
    pub(crate) fn share(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.bytes += data.len();
        self.parts.push_back(Part::Shared(data));
    }

    /// Appends `count` zero bytes from one shared run of them.
    pub(crate) fn zeroes(&mut self, mut count: usize) {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        while count > 0 {
            let run = count.min(ZEROES.len());
            self.share(Bytes::from_static(&ZEROES[..run]));
            count -= run;
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], Part::as_slice)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "more was sent than there is");
        self.bytes -= count;
        while count > 0 {
            let front = self.parts.front_mut().expect("the count of bytes is exact");
            let length = front.as_slice().len();
            if count < length {
                front.advance(count);
                return;
            }
            count -= length;
            self.parts.pop_front();
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part.as_slice());
            filled += 1;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_however_they_are_taken() {
        for step in 1..50 {
            let mut out = Outgoing::new();
            out.copy(&[1; 60]);
            out.copy(&[2; 16]);
            out.share(Bytes::from_static(&[3; 100]));
            out.zeroes(5);
            out.copy(&[4; 3]);
            let mut seen = Vec::new();
            while out.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = out.chunks_vectored(&mut slices);
                let all: Vec<u8> = slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
                let taken = step.min(all.len());
                seen.extend_from_slice(&all[..taken]);
                out.advance(taken);
            }
            let want = [
                vec![1; 60],
                vec![2; 16],
                vec![3; 100],
                vec![0; 5],
                vec![4; 3],
            ]
            .concat();
            assert_eq!(seen, want, "step {step}");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn data_is_shared_and_headers_are_gathered() {
        let mut out = Outgoing::new();
        for _ in 0..4 {
            out.copy(&[7; 16]);
        }
        let data = Bytes::from(vec![9; 4096]);
        out.share(data.clone());
        assert_eq!(out.parts.len(), 2);
        assert_eq!(out.parts[1].as_slice().as_ptr(), data.as_ptr());
    }
}

//! Collects a header of fixed length from input that comes in pieces.

/// The first bytes of an `N` byte header.
#[derive(Clone, Debug)]
pub(crate) struct Gather<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Gather<N> {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; N],
            have: 0,
        }
    }

    /// How many bytes are still to come.
    pub(crate) const fn missing(&self) -> usize {
        N - self.have
    }

    /// Takes what it lacks from the front of `input`; gives the header once it is whole, and starts
    /// again.
    pub(crate) fn take(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let count = self.missing().min(input.len());
        let (taken, rest) = input.split_at(count);
        self.bytes[self.have..self.have + count].copy_from_slice(taken);
        self.have += count;
        *input = rest;
        if self.have < N {
            return None;
        }
        self.have = 0;
        Some(self.bytes)
    }
}

/// Takes up to `left` bytes from the front of `input`; what is left to skip after that.
pub(crate) fn skip(input: &mut &[u8], left: u32) -> u32 {
    let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    *input = &input[count..];
    left - u32::try_from(count).expect("count is at most left")
}

//! A write's bytes on their way from the socket to the log.

use std::ops::Range;

use moorline_types::{BLOCK_SIZE, PageBuf};

use crate::request::Span;

/// The payload of one write, where it lies in the whole blocks that it touches.
///
/// The buffer starts at the first touched block, so the bytes of an aligned write fill it and it can
/// go to the log as it is. Of an unaligned write the first or the last block, or both, are partly
/// zero: the caller completes them in place with what the volume holds (read-modify-write).
#[derive(Debug)]
pub struct WritePayload {
    buffer: PageBuf,
    written: Range<usize>,
}

impl WritePayload {
    /// Prepares `buffer` for the bytes of `span`.
    pub(crate) fn new(mut buffer: PageBuf, span: Span) -> Self {
        assert_eq!(
            buffer.pages(),
            span.pages(),
            "the buffer holds the blocks of the write"
        );
        let length = usize::try_from(span.length()).expect("checked against the limit");
        let start = usize::try_from(span.offset() % BLOCK_SIZE as u64).expect("less than a block");
        let written = start..start + length;
        // A pooled buffer holds another write's bytes: no path may bring them to a disk.
        let all = buffer.as_mut_slice();
        all[..written.start].fill(0);
        all[written.end..].fill(0);
        Self { buffer, written }
    }

    /// The client's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.as_slice()[self.written.clone()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut_slice()[self.written.clone()]
    }

    /// Where in the buffer the client's bytes lie.
    #[must_use]
    pub fn written(&self) -> Range<usize> {
        self.written.clone()
    }

    /// Whether the client's bytes fill all blocks, so that nothing has to be read first.
    #[must_use]
    pub fn is_whole_blocks(&self) -> bool {
        self.written == (0..self.buffer.as_slice().len())
    }

    /// The buffer: whole blocks, with the client's bytes at [`WritePayload::written`].
    #[must_use]
    pub fn into_buffer(self) -> PageBuf {
        self.buffer
    }
}

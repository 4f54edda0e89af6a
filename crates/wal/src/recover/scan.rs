//! One pass over the ring that finds every readable frame.
//!
//! The ring is read once, front to back. Each block that begins like a frame of this store at
//! this very place, with a sequence above the anchor's, opens an assembly, which takes the blocks
//! that follow until the frame is whole or a block does not match. Assemblies may overlap: an old
//! frame's front may be alive where newer frames were written over its rest.

use moorline_types::{BLOCK_SIZE, StoreId, VolumeId};

use crate::{
    frame::{FRAME_HEADER_BYTES, FrameHeader},
    record::{RecordHeader, block_crc, decode_headers},
};

/// A frame whose header blocks are right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FoundFrame {
    /// Its header.
    pub(crate) header: FrameHeader,
    /// Its records' headers.
    pub(crate) records: Vec<RecordHeader>,
    /// Whether its payload is right too.
    pub(crate) payload: PayloadState,
}

/// What became of a frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PayloadState {
    /// Every block matches.
    Whole,
    /// Some block does not, or is missing.
    Bad,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Assembly {
    Header {
        header: FrameHeader,
        blocks: Vec<u8>,
    },
    Payload {
        frame: FoundFrame,
        record: usize,
        block: u32,
    },
}

/// Everything found in one pass.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Found {
    /// Frames with right header blocks, in order of their end.
    pub(crate) frames: Vec<FoundFrame>,
    /// Beginnings of frames whose header blocks are bad: nothing in them is to be relied on.
    pub(crate) torn: Vec<FrameHeader>,
}

/// The pass.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct RingScan {
    volume: VolumeId,
    store: StoreId,
    above: u64,
    position: u64,
    active: Vec<Assembly>,
    found: Found,
}

impl RingScan {
    /// A pass that looks for frames with sequence numbers above `above`.
    pub(crate) fn new(volume: VolumeId, store: StoreId, above: u64) -> Self {
        Self {
            volume,
            store,
            above,
            position: 0,
            active: Vec::new(),
            found: Found::default(),
        }
    }

    /// Takes the next bytes of the ring, whole blocks.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(BLOCK_SIZE));
        for block in bytes.chunks_exact(BLOCK_SIZE) {
            for assembly in std::mem::take(&mut self.active) {
                self.advance(assembly, block);
            }
            if let Some(header) = self.begins(block) {
                let blocks = Vec::with_capacity(header.header_bytes());
                self.advance(Assembly::Header { header, blocks }, block);
            }
            self.position += BLOCK_SIZE as u64;
        }
    }

    /// Ends the pass.
    pub(crate) fn finish(mut self) -> Found {
        for assembly in std::mem::take(&mut self.active) {
            match assembly {
                Assembly::Header { header, .. } => self.found.torn.push(header),
                Assembly::Payload { frame, .. } => self.found.frames.push(frame),
            }
        }
        self.found
    }

    fn begins(&self, block: &[u8]) -> Option<FrameHeader> {
        let header = FrameHeader::decode(&block[..FRAME_HEADER_BYTES]).ok()?;
        let ours = header.store == self.store
            && header.position == self.position
            && header.sequence > self.above;
        ours.then_some(header)
    }

    fn advance(&mut self, assembly: Assembly, content: &[u8]) {
        match assembly {
            Assembly::Header { header, mut blocks } => {
                blocks.extend_from_slice(content);
                if blocks.len() < header.header_bytes() {
                    self.active.push(Assembly::Header { header, blocks });
                    return;
                }
                match read_records(self.volume, &header, &blocks) {
                    None => self.found.torn.push(header),
                    Some(records) => {
                        let payload = PayloadState::Bad;
                        let frame = FoundFrame {
                            header,
                            records,
                            payload,
                        };
                        self.expect_payload(frame, 0, 0);
                    }
                }
            }
            Assembly::Payload {
                frame,
                record,
                block,
            } => {
                let header = &frame.records[record];
                let index = header.range().first().advance(u64::from(block));
                if block_crc(self.volume, index, content) == header.crcs()[block as usize] {
                    self.expect_payload(frame, record, block + 1);
                } else {
                    self.found.frames.push(frame);
                }
            }
        }
    }

    /// Waits for the next block of payload at or after block `block` of record `record`.
    fn expect_payload(&mut self, mut frame: FoundFrame, mut record: usize, mut block: u32) {
        while let Some(header) = frame.records.get(record) {
            if (block as usize) < header.crcs().len() {
                self.active.push(Assembly::Payload {
                    frame,
                    record,
                    block,
                });
                return;
            }
            record += 1;
            block = 0;
        }
        frame.payload = PayloadState::Whole;
        self.found.frames.push(frame);
    }
}

/// The record headers of a frame; `None` unless the header blocks are right in every respect.
fn read_records(
    volume: VolumeId,
    header: &FrameHeader,
    blocks: &[u8],
) -> Option<Vec<RecordHeader>> {
    use crate::frame::FrameKind::{Cut, Mark, Records};
    header.verify(blocks).ok()?;
    let end = FRAME_HEADER_BYTES + header.record_bytes as usize;
    let records = decode_headers(volume, &blocks[FRAME_HEADER_BYTES..end]).ok()?;
    let payload: usize = records.iter().map(RecordHeader::payload_bytes).sum();
    let dense = match header.kind {
        Records { first, count } => {
            records.len() == count as usize
                && (first.get()..)
                    .zip(&records)
                    .all(|(lsn, record)| record.lsn().get() == lsn)
        }
        Cut { .. } | Mark => records.is_empty(),
    };
    (dense && payload == header.payload_bytes as usize).then_some(records)
}

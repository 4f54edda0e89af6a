//! The digest of the logical image.

use std::collections::BTreeSet;

use moorline_types::{BLOCK_SIZE, BlockIndex, Lsn};
use moorline_wal::{LogContents, RecordKind, block_crc};
use sha2::{Digest, Sha256};

use super::{DigestThrough, DigestView, InspectError, ReadAt, read};
use crate::{
    Superblock,
    blockmap::{EntryState, Page, PageTrust},
    flusher::pages_of,
    index::RangeIndex,
    layout::{ENTRIES_PER_PAGE, LOG_OFFSET, MAP_PAGE_BYTES, PageNo},
};

/// Damaged blocks listed.
const DAMAGED_MAX: usize = 100;

/// The record after which the image is wanted, if a digest is.
///
/// Never below the applied mark: the extents hold a mixture below it.
pub(super) fn wanted(
    through: DigestThrough,
    superblock: &Superblock,
    contents: &LogContents,
) -> Option<Lsn> {
    let lsn = match through {
        DigestThrough::None => return None,
        DigestThrough::Committed => superblock.committed_known(),
        DigestThrough::Record(lsn) => lsn.max(superblock.applied),
    };
    Some(lsn.min(contents.findings.head).max(superblock.checkpoint))
}

/// Where the newest content of a block is.
enum Source {
    Zero,
    /// In the device at this byte, with this checksum.
    Bytes {
        offset: u64,
        crc: u32,
    },
    Lost,
}

struct Image<'a> {
    device: &'a dyn ReadAt,
    superblock: &'a Superblock,
    contents: &'a LogContents,
    /// Records above the checkpoint.
    index: RangeIndex,
    /// The LSN of the first retained record.
    first: Lsn,
}

/// Hashes the image after record `through`: the volume's size, then number and content of each
/// block that is not all zero.
pub(super) fn digest(
    device: &dyn ReadAt,
    superblock: &Superblock,
    contents: &LogContents,
    through: Lsn,
) -> Result<DigestView, InspectError> {
    let mut index = RangeIndex::default();
    let mut suspects = BTreeSet::new();
    let checkpoint = superblock.checkpoint;
    for (record, _) in &contents.records {
        if record.lsn() > checkpoint && record.lsn() <= through {
            index.insert(record.range(), record.lsn());
        }
        if record.lsn() > checkpoint && record.lsn() <= superblock.applied {
            suspects.extend(pages_of(record.range()));
        }
    }
    let first = contents
        .records
        .first()
        .map_or(Lsn::MAX, |(record, _)| record.lsn());
    let image = Image {
        device,
        superblock,
        contents,
        index,
        first,
    };
    let size_blocks = superblock.layout.size_blocks.get();
    let mut hasher = Sha256::new();
    hasher.update(size_blocks.to_le_bytes());
    let mut view = DigestView {
        sha256: None,
        through,
        data_blocks: 0,
        damaged_blocks: Vec::new(),
    };
    for page in (0..superblock.layout.map_pages()).map(PageNo) {
        let trust = if suspects.contains(&page) {
            PageTrust::Suspect
        } else {
            PageTrust::Settled
        };
        let bytes = read(device, superblock.layout.page_offset(page), MAP_PAGE_BYTES)?;
        let page_content = Page::decode(superblock.identity.store, page, trust, &bytes);
        let from = page.first_block().get();
        for block in from..(from + ENTRIES_PER_PAGE).min(size_blocks) {
            image.hash_block(
                BlockIndex::new(block),
                &page_content,
                &mut hasher,
                &mut view,
            )?;
        }
    }
    if view.damaged_blocks.is_empty() {
        let bytes = hasher.finalize();
        view.sha256 = Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    Ok(view)
}

impl Image<'_> {
    fn hash_block(
        &self,
        block: BlockIndex,
        page: &Page,
        hasher: &mut Sha256,
        view: &mut DigestView,
    ) -> Result<(), InspectError> {
        let content = match self.source(block, page) {
            Source::Zero => return Ok(()),
            Source::Lost => None,
            Source::Bytes { offset, crc } => {
                let bytes = read(self.device, offset, BLOCK_SIZE as u64)?;
                let volume = self.superblock.identity.volume;
                (block_crc(volume, block, &bytes) == crc).then_some(bytes)
            }
        };
        match content {
            Some(bytes) if bytes.iter().all(|&byte| byte == 0) => {}
            Some(bytes) => {
                view.data_blocks += 1;
                hasher.update(block.get().to_le_bytes());
                hasher.update(bytes);
            }
            None if view.damaged_blocks.len() < DAMAGED_MAX => {
                view.damaged_blocks.push(block.get());
            }
            None => {}
        }
        Ok(())
    }

    fn source(&self, block: BlockIndex, page: &Page) -> Source {
        let run = self.index.next_run(block.get());
        if let Some(run) = run.filter(|run| run.first == block.get())
            && let Some(lsn) = run.lsn
        {
            return self.in_log(block, lsn);
        }
        let entry = page.entry(block);
        match entry.state {
            EntryState::Hole | EntryState::Zero | EntryState::Trimmed => Source::Zero,
            EntryState::Data => Source::Bytes {
                offset: self.superblock.layout.block_offset(block),
                crc: entry.crc,
            },
            EntryState::Unknown => Source::Lost,
        }
    }

    fn in_log(&self, block: BlockIndex, lsn: Lsn) -> Source {
        let place = usize::try_from(lsn.distance_from(self.first)).unwrap_or(usize::MAX);
        let Some((record, position)) = self.contents.records.get(place) else {
            return Source::Lost;
        };
        match record.kind() {
            RecordKind::Write => {
                let number = block.get() - record.range().first().get();
                let crc = usize::try_from(number)
                    .ok()
                    .and_then(|number| record.crcs().get(number));
                let offset = LOG_OFFSET + position + number * BLOCK_SIZE as u64;
                crc.map_or(Source::Lost, |&crc| Source::Bytes { offset, crc })
            }
            RecordKind::Trim | RecordKind::WriteZeroes | RecordKind::EpochMark => Source::Zero,
        }
    }
}

//! The base on its way: a cursor that goes strictly forward, and what is not durable yet.

use std::collections::VecDeque;

use moorline_engine::RebuildSource;
use moorline_types::{BlockIndex, Lsn};

use super::RebuildConfig;
use crate::{
    ports::{BaseExtent, BaseLink, BaseReadError, BaseStart, BaseWanted},
    shipment::InFlight,
    step::{BaseRefused, LaidRefused, Waiting},
};

/// The extents of one base.
#[derive(Debug)]
pub(super) struct BaseTransfer {
    source: RebuildSource,
    config: RebuildConfig,
    /// Extents to lay.
    total: u64,
    /// Extents handed to the link, from the first on.
    sent: u64,
    /// Extents durable at the replica, from the first on.
    laid: u64,
    /// Where the next extent may begin.
    next_block: BlockIndex,
    read: InFlight,
    /// What is on its way, as (extents through it, bytes), oldest first.
    window: VecDeque<(u64, usize)>,
    window_bytes: usize,
}

/// What came of reading a piece of the base.
pub(super) enum Transferred {
    Reading,
    Sent { extents: u64 },
}

impl BaseTransfer {
    pub(super) const fn new(source: RebuildSource, total: u64, config: RebuildConfig) -> Self {
        Self {
            source,
            config,
            total,
            sent: 0,
            laid: 0,
            next_block: BlockIndex::new(0),
            read: InFlight::None,
            window: VecDeque::new(),
            window_bytes: 0,
        }
    }

    /// Whether every extent is durable at the replica.
    pub(super) const fn is_laid(&self) -> bool {
        self.laid == self.total
    }

    pub(super) fn next_read(&self) -> Result<BaseWanted, Waiting> {
        if self.read != InFlight::None {
            return Err(Waiting::Base);
        }
        if self.sent == self.total || self.window_bytes >= self.config.base_window_bytes {
            return Err(Waiting::Laid);
        }
        let room = self.config.base_window_bytes - self.window_bytes;
        Ok(BaseWanted {
            source: self.source,
            first: self.sent,
            extents_max: self.extents_max(),
            bytes_max: room.min(self.config.base_page_bytes),
        })
    }

    fn extents_max(&self) -> u64 {
        let left = self.total - self.sent;
        left.min(self.config.base_page_extents).max(1)
    }

    /// A submitted read came back.
    pub(super) fn read_ended(&mut self) -> Result<(), BaseRefused> {
        match std::mem::replace(&mut self.read, InFlight::None) {
            InFlight::None | InFlight::Abandoned => Err(BaseRefused::NoRead),
            InFlight::Wanted => Ok(()),
        }
    }

    /// Sends what a read brought, if that can be what was asked for.
    pub(super) fn transfer(
        &mut self,
        read: Result<BaseStart, BaseReadError>,
        committed: Lsn,
        link: &mut impl BaseLink,
    ) -> Result<Transferred, BaseRefused> {
        let extents = match read? {
            BaseStart::Pending => {
                self.read = InFlight::Wanted;
                return Ok(Transferred::Reading);
            }
            BaseStart::Ready(extents) => extents,
        };
        let count = extents.len() as u64;
        let wanted = self.extents_max();
        if count == 0 || count > wanted {
            return Err(BaseRefused::Count { wanted, got: count });
        }
        let mut next = self.next_block;
        for extent in &extents {
            next = self.check(extent, next, committed)?;
        }
        let bytes = extents.iter().map(BaseExtent::bytes).sum();
        let first = self.sent;
        self.next_block = next;
        self.sent += count;
        self.window.push_back((self.sent, bytes));
        self.window_bytes += bytes;
        link.lay(first, extents);
        Ok(Transferred::Sent { extents: self.sent })
    }

    /// Whether an extent may follow where the base goes on at `next`; where it goes on after it.
    fn check(
        &self,
        extent: &BaseExtent,
        next: BlockIndex,
        committed: Lsn,
    ) -> Result<BlockIndex, BaseRefused> {
        let (first, as_of) = (extent.range.first(), extent.as_of);
        if first < next || extent.range.is_empty() {
            return Err(BaseRefused::Misplaced { next, got: first });
        }
        // History is history: an image of another time never stands in for the one that is wanted.
        let base = self.source.base();
        if as_of < base || as_of > committed {
            return Err(BaseRefused::OtherTime {
                base,
                committed,
                as_of,
            });
        }
        let mut from = first;
        for block in &extent.blocks {
            let (got, lsn) = (block.block, block.lsn);
            if got < from || !extent.range.contains(got) {
                return Err(BaseRefused::Misplaced { next: from, got });
            }
            if lsn > as_of {
                return Err(BaseRefused::FromTheFuture {
                    block: got,
                    lsn,
                    as_of,
                });
            }
            if block.payload.blocks() != 1 {
                return Err(BaseRefused::NotOneBlock { block: got });
            }
            from = got.advance(1);
        }
        Ok(extent.range.end())
    }

    /// Whether so many extents can be durable.
    pub(super) const fn check_laid(&self, extents: u64) -> Result<(), LaidRefused> {
        if extents > self.sent {
            let sent = self.sent;
            return Err(LaidRefused::NotSent { extents, sent });
        }
        Ok(())
    }

    /// The first `extents` extents are durable: room in the window.
    pub(super) fn laid(&mut self, extents: u64) {
        assert!(
            extents >= self.laid && extents <= self.sent,
            "strictly forward"
        );
        self.laid = extents;
        while let Some(&(through, bytes)) = self.window.front()
            && through <= extents
        {
            self.window.pop_front();
            self.window_bytes -= bytes;
        }
    }
}

//! A member's answers to a candidate that lacks records.

use moorline_types::LsnRange;
use moorline_wal::{LogReadError, ReadStart, Record};
use moorline_wire::{Fetch, FetchOutcome, Fetched, RefusedReason, VolumeHeader, VolumeMessage};

use super::{
    Ctx, Replica,
    lines::is_promise_of,
    streams::{ReadFor, pack},
};
use crate::{
    lease::Reign as ReignId,
    node::{LinkId, Peer},
};

/// The most that one answer to a fetch carries, whatever was asked for.
const FETCH_BYTES_MAX: usize = 4 << 20;

impl Replica {
    /// A candidate of the promised epoch asks for records.
    pub(super) fn on_fetch(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        fetch: Fetch,
    ) {
        // Only a log that nobody else may change is the one that its promise described.
        let owner = ReignId {
            epoch: header.epoch,
            server: from.server.clone(),
            boot: from.boot,
        };
        if !is_promise_of(self.store.pending().promised.as_ref(), &owner) {
            let config = self.store.durable().line_version().1;
            let epoch = self.store.pending().promised_epoch();
            let reason = match header.epoch.cmp(&epoch) {
                std::cmp::Ordering::Less => RefusedReason::Stale {
                    epoch,
                    config,
                    line: self.line.clone().map(Box::new),
                },
                std::cmp::Ordering::Equal => RefusedReason::Conflict { epoch },
                std::cmp::Ordering::Greater => RefusedReason::Ahead { epoch, config },
            };
            self.refuse(ctx, link, header, reason);
            return;
        }
        let bytes_max = usize::try_from(fetch.bytes_max)
            .unwrap_or(FETCH_BYTES_MAX)
            .min(FETCH_BYTES_MAX);
        let reply = self.header(header.session, header.epoch);
        let purpose = ReadFor::Fetch {
            link,
            header: reply,
            range: fetch.range,
        };
        let (id, start) = self.read_log(ctx.now, fetch.range, bytes_max, purpose);
        let result = match start {
            Ok(ReadStart::Pending) => return,
            Ok(ReadStart::Ready(records)) => Ok(records),
            Err(error) => Err(error),
        };
        self.reads.remove(&id);
        self.answer_fetch(ctx, link, reply, fetch.range, result);
    }

    pub(super) fn answer_fetch(
        &self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        header: VolumeHeader,
        range: LsnRange,
        result: Result<Vec<Record>, LogReadError>,
    ) {
        let (outcome, records) = match result {
            Ok(records) => (FetchOutcome::Records, records),
            Err(LogReadError::Reclaimed { .. } | LogReadError::AboveHead { .. }) => {
                (FetchOutcome::NotRetained, Vec::new())
            }
            Err(_) => (FetchOutcome::Damaged, Vec::new()),
        };
        let (headers, payload) = pack(&records);
        let count = u32::try_from(records.len()).expect("a batch is bounded");
        let fetched = Fetched {
            range,
            outcome,
            count,
            headers,
            payload,
        };
        self.send(ctx, link, header, VolumeMessage::Fetched(fetched));
    }
}

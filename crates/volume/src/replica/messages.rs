//! Peers' messages about one volume, each to the part that decides about it.

use moorline_types::ServerId;
use moorline_wire::{RefusedReason, VolumeHeader, VolumeMessage};

use super::{Ctx, Replica, Stopping};
use crate::node::{LinkDirection, LinkId, Peer};

impl Replica {
    /// One message of `from` about this volume.
    pub(crate) fn on_message(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        body: VolumeMessage,
    ) {
        if self.stopping != Stopping::No {
            // A refusal is never refused: two servers that stop would go on for ever.
            if !matches!(body, VolumeMessage::Refused(_)) {
                self.refuse(ctx, link, header, RefusedReason::WrongRole);
            }
            return;
        }
        if !self.is_member(&from.server) && !matches!(body, VolumeMessage::Refused(_)) {
            self.refuse(ctx, link, header, RefusedReason::NotMember);
            return;
        }
        match body {
            VolumeMessage::PromiseRequest(request) => {
                self.on_promise_request(ctx, link, from, header, &request);
            }
            VolumeMessage::Promise(facts) => {
                self.on_late_promise(ctx, from, header);
                self.on_promise(ctx, from, header, *facts);
            }
            VolumeMessage::PromiseRefused(refused) => {
                self.on_promise_refused(ctx, from, header, refused);
            }
            VolumeMessage::Handshake(handshake) => {
                self.on_handshake(ctx, link, from, header, &handshake);
            }
            VolumeMessage::HandshakeAck(facts) => self.on_handshake_ack(ctx, from, header, &facts),
            VolumeMessage::Truncate(truncate) => {
                self.on_truncate(ctx, link, from, header, truncate);
            }
            VolumeMessage::TruncationRecorded(recorded) => {
                self.on_truncation_recorded(ctx, from, header, recorded);
            }
            VolumeMessage::Records(records) => self.on_records(ctx, link, from, header, records),
            VolumeMessage::Commit(commit) => self.on_commit(ctx, link, from, header, commit),
            VolumeMessage::Ack(ack) => self.on_ack(ctx, from, header, ack),
            VolumeMessage::NeedRecords(need) => self.on_need_records(from, header, need),
            VolumeMessage::StreamEnded(ended) => {
                self.on_stream_ended(ctx, link, from, header, ended);
            }
            VolumeMessage::Fetch(fetch) => self.on_fetch(ctx, link, from, header, fetch),
            VolumeMessage::Fetched(fetched) => self.on_fetched(ctx, from, header, fetched),
            VolumeMessage::FetchBlock(fetch) => {
                self.on_fetch_block(ctx, link, from, header, fetch);
            }
            VolumeMessage::FetchedBlock(fetched) => {
                self.on_fetched_block(ctx, from, header, fetched);
            }
            VolumeMessage::Refused(refused) => self.on_refused(ctx, from, header, &refused),
        }
    }

    /// Before the first line is known nobody can be told apart: the promise rules decide then.
    fn is_member(&self, server: &ServerId) -> bool {
        self.line
            .as_ref()
            .is_none_or(|line| line.member(server).is_some())
    }

    pub(crate) fn on_link_up(&mut self, ctx: &mut Ctx<'_>, peer: &Peer) {
        if peer.direction == LinkDirection::Dialed {
            self.candidate_link_up(ctx, &peer.server);
            self.reign_link_up(ctx, &peer.server);
            self.urge_lease();
        }
    }

    pub(crate) fn on_link_down(&mut self, ctx: &mut Ctx<'_>, link: LinkId, peer: &Peer) {
        self.owed.retain(|owed| *owed != link);
        self.forget_reads_for(link);
        self.mending.forget_link(link);
        self.follower_link_down(link);
        if peer.direction == LinkDirection::Dialed {
            self.reign_link_down(ctx, link, &peer.server);
        }
    }
}
